/* The modes of the ring: who is refused, what is kept, and that every loss is counted exactly. */
#define _POSIX_C_SOURCE 200809L

#include "ring.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

static void
ring_open(scene *scene, theus_ring_mode mode, uint32_t capacity)
{
    scene_open_with(scene, "{}",
                    &(theus_store_limits){.ring_mode = mode, .ring_capacity = capacity,
                                          .history_count = 4096}); /* sessions open at a number */
}

static theus_ring *
ring_of(const scene *scene)
{
    return theus_store_ring(scene->store);
}

/* One commit: OK, or why it was refused. */
static theus_status
commit(const scene *scene, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    session *session = session_open(scene, THEUS_SERIALIZABLE);
    set(session, "1", text);
    theus_outcome outcome = session_commit(session);
    theus_status status = session->status;
    CHECK(outcome == (status == THEUS_OK ? THEUS_COMMITTED : THEUS_COMMIT_FAILED));
    session_close(session);
    return status;
}

/* The sequence of the next record, or -1. */
static int64_t
read_next(const scene *scene, theus_reader *reader)
{
    uint64_t lost;
    theus_record *record = theus_ring_read(ring_of(scene), reader, &lost);
    CHECK(lost == reader->lost); /* each reader has one thread here */
    int64_t sequence = record == NULL ? -1 : (int64_t)record->sequence;
    theus_record_release(record);
    return sequence;
}

static uint64_t
lost_in_ring(const scene *scene)
{
    theus_ring_facts facts;
    theus_ring_read_facts(ring_of(scene), &facts);
    return facts.lost;
}

/* ---- each mode by itself ----------------------------------------------------------------------- */

static void
test_drop_new(void)
{
    scene scene;
    theus_reader reader;
    ring_open(&scene, THEUS_RING_DROP_NEW, 2);
    for (uint64_t i = 0; i < 5; i++) { /* nobody has to read: the first two stay */
        CHECK(commit(&scene, i) == THEUS_OK);
    }
    CHECK(scene_version(&scene) == 5 && lost_in_ring(&scene) == 3);
    theus_ring_attach(ring_of(&scene), &reader, THEUS_RING_UNREAD);
    CHECK(read_next(&scene, &reader) == 0 && reader.lost == 0);
    CHECK(commit(&scene, 5) == THEUS_OK); /* into the place that was read */
    CHECK(read_next(&scene, &reader) == 1 && reader.lost == 0);
    CHECK(read_next(&scene, &reader) == 5 && reader.lost == 3);
    CHECK(read_next(&scene, &reader) == -1 && reader.lost == 3);
    for (uint64_t i = 6; i < 10; i++) {
        CHECK(commit(&scene, i) == THEUS_OK);
    }
    CHECK(read_next(&scene, &reader) == 6 && read_next(&scene, &reader) == 7 && reader.lost == 3);
    CHECK(read_next(&scene, &reader) == -1 && reader.lost == 5); /* 8 and 9, known as soon as all is read */
    theus_ring_detach(ring_of(&scene), &reader);
    scene_close(&scene);
}

static void
test_refusals(void)
{
    for (theus_ring_mode mode = THEUS_RING_BLOCK; mode <= THEUS_RING_STRICT; mode++) {
        scene scene;
        theus_reader one, two;
        ring_open(&scene, mode, 2);
        CHECK(commit(&scene, 1) == THEUS_UNREAD && scene_version(&scene) == 0);
        theus_ring_attach(ring_of(&scene), &one, THEUS_RING_UNREAD);
        CHECK(commit(&scene, 1) == THEUS_OK && commit(&scene, 2) == THEUS_OK);
        CHECK(commit(&scene, 3) == THEUS_FULL && scene_version(&scene) == 2);
        theus_ring_attach(ring_of(&scene), &two, THEUS_RING_UNREAD);
        CHECK(read_next(&scene, &one) == 0 && commit(&scene, 3) == THEUS_FULL); /* two has not read it */
        CHECK(read_next(&scene, &two) == 0 && commit(&scene, 3) == THEUS_OK);
        CHECK(commit(&scene, 4) == THEUS_FULL);
        CHECK(read_next(&scene, &one) == 1 && read_next(&scene, &one) == 2 && read_next(&scene, &one) == -1);
        theus_ring_detach(ring_of(&scene), &two); /* no longer waited for */
        CHECK(commit(&scene, 4) == THEUS_OK && read_next(&scene, &one) == 3);
        CHECK(one.lost == 0 && lost_in_ring(&scene) == 0);
        theus_ring_detach(ring_of(&scene), &one);
        theus_ring_detach(ring_of(&scene), &one); /* twice is nothing */
        CHECK(commit(&scene, 5) == THEUS_UNREAD);
        scene_close(&scene);
    }
}

/* What reads, changes nothing or is rolled back needs no reader. */
static void
test_only_commits_need_room(void)
{
    scene scene;
    ring_open(&scene, THEUS_RING_STRICT, 1);
    session *session = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(session, "1") == ABSENT && session_commit(session) == THEUS_UNCHANGED);
    session_close(session);
    session = session_open(&scene, THEUS_SERIALIZABLE);
    set(session, "1", "1");
    session_close(session);
    scene_close(&scene);
}

/* A place that was reserved is kept for its commit, and comes back from one that fails. */
static void
test_reservations(void)
{
    scene scene;
    theus_reader reader;
    ring_open(&scene, THEUS_RING_BLOCK, 2);
    theus_ring_attach(ring_of(&scene), &reader, THEUS_RING_UNREAD);
    session *one = session_open(&scene, THEUS_SERIALIZABLE), *two = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(get(one, "1") == ABSENT && get(two, "1") == ABSENT);
    set(one, "1", "1");
    set(two, "1", "2");
    CHECK(theus_txn_reserve(&one->txn) == THEUS_OK && theus_txn_reserve(&one->txn) == THEUS_OK);
    CHECK(theus_txn_reserve(&two->txn) == THEUS_OK);
    CHECK(commit(&scene, 3) == THEUS_FULL);
    CHECK(session_commit(one) == THEUS_COMMITTED);
    CHECK(commit(&scene, 3) == THEUS_FULL);
    CHECK(session_commit(two) == THEUS_CONFLICTED); /* gives its place back */
    CHECK(commit(&scene, 3) == THEUS_OK && commit(&scene, 4) == THEUS_FULL);
    session_close(one);
    session_close(two);
    CHECK(read_next(&scene, &reader) == 0);
    one = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(theus_txn_reserve(&one->txn) == THEUS_OK && commit(&scene, 4) == THEUS_FULL);
    session_close(one); /* so does one that is rolled back */
    CHECK(commit(&scene, 4) == THEUS_OK);
    theus_ring_detach(ring_of(&scene), &reader);
    scene_close(&scene);
}

/* A reader that attaches cannot begin where a reserved place will overtake it. */
static void
test_late_reader_and_reservation(void)
{
    scene scene;
    theus_reader first, late;
    ring_open(&scene, THEUS_RING_BLOCK, 2);
    theus_ring_attach(ring_of(&scene), &first, THEUS_RING_UNREAD);
    CHECK(commit(&scene, 0) == THEUS_OK && commit(&scene, 1) == THEUS_OK);
    CHECK(read_next(&scene, &first) == 0 && read_next(&scene, &first) == 1);
    session *session = session_open(&scene, THEUS_SERIALIZABLE);
    set(session, "1", "7");
    CHECK(theus_txn_reserve(&session->txn) == THEUS_OK);
    theus_ring_attach(ring_of(&scene), &late, 0);
    CHECK(read_next(&scene, &late) == 1 && late.lost == 1); /* 0 stands there still, but is promised away */
    session_done(session);
    CHECK(read_next(&scene, &late) == 2 && late.lost == 1);
    theus_ring_detach(ring_of(&scene), &first);
    theus_ring_detach(ring_of(&scene), &late);
    scene_close(&scene);
}

/* A commit that runs out of memory, wherever it does, gives its place back. */
static void
test_out_of_memory(void)
{
    scene scene;
    theus_reader reader;
    ring_open(&scene, THEUS_RING_STRICT, 1);
    theus_ring_attach(ring_of(&scene), &reader, THEUS_RING_UNREAD);
    for (long n = 1;; n++) {
        session *session = session_open(&scene, THEUS_SERIALIZABLE);
        set(session, "1", "1");
        CHECK(n % 2 == 0 || theus_txn_reserve(&session->txn) == THEUS_OK); /* in the commit, or before */
        theus_alloc_fail_at(n);
        theus_outcome outcome = session_commit(session);
        theus_alloc_fail_at(-1);
        CHECK(outcome == THEUS_COMMITTED || session->status == THEUS_NOMEM);
        session_close(session);
        if (outcome == THEUS_COMMITTED) {
            break;
        }
    }
    CHECK(commit(&scene, 2) == THEUS_FULL && read_next(&scene, &reader) == 0 && commit(&scene, 2) == THEUS_OK);
    theus_ring_detach(ring_of(&scene), &reader);
    scene_close(&scene);
}

static void
test_since(void)
{
    scene scene;
    theus_reader reader;
    ring_open(&scene, THEUS_RING_OVERWRITE, 4);
    for (uint64_t i = 0; i < 10; i++) {
        CHECK(commit(&scene, i) == THEUS_OK);
    }
    const struct {
        int64_t since, first;
        uint64_t lost;
    } cases[] = {{THEUS_RING_UNREAD, 6, 0}, {0, 6, 6}, {5, 6, 1}, {6, 6, 0}, {9, 9, 0}, {10, -1, 0}, {99, -1, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        theus_ring_attach(ring_of(&scene), &reader, cases[i].since);
        CHECK(read_next(&scene, &reader) == cases[i].first && reader.lost == cases[i].lost);
        theus_ring_detach(ring_of(&scene), &reader);
    }
    theus_ring_attach(ring_of(&scene), &reader, 99); /* begins with the next one */
    CHECK(commit(&scene, 10) == THEUS_OK && read_next(&scene, &reader) == 10 && reader.lost == 0);
    theus_ring_detach(ring_of(&scene), &reader);
    scene_close(&scene);
}

/* In a child nobody reads, whatever was attached in the parent, and a new reader may begin. */
static void
test_fork(void)
{
    scene scene;
    theus_reader reader, fresh;
    ring_open(&scene, THEUS_RING_STRICT, 1);
    theus_ring_attach(ring_of(&scene), &reader, THEUS_RING_UNREAD);
    session *open = session_open(&scene, THEUS_SERIALIZABLE);
    CHECK(theus_txn_reserve(&open->txn) == THEUS_OK);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        bool well = commit(&scene, 1) == THEUS_UNREAD;
        theus_ring_attach(ring_of(&scene), &fresh, THEUS_RING_UNREAD);
        well = well && commit(&scene, 1) == THEUS_OK && commit(&scene, 2) == THEUS_FULL;
        session_close(open); /* the parent's: gives back nothing here */
        well = well && commit(&scene, 2) == THEUS_FULL && read_next(&scene, &fresh) == 0;
        theus_ring_detach(ring_of(&scene), &reader);
        theus_ring_detach(ring_of(&scene), &fresh);
        _exit(well && check_result() == 0 ? 0 : 1);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    session_close(open);
    CHECK(commit(&scene, 1) == THEUS_OK && read_next(&scene, &reader) == 0);
    theus_ring_detach(ring_of(&scene), &reader);
    scene_close(&scene);
}

/* ---- beside a naive model ------------------------------------------------------------------------- */

enum { MODEL_STEPS = 4000, MODEL_READERS = 3 };

/* The numbers that a reader has still to read. */
typedef struct {
    bool attached;
    int count;
    uint64_t items[MODEL_STEPS];
    uint64_t start, delivered; /* where it began, and how many it got */
    theus_reader reader;
} model_reader;

typedef struct {
    theus_ring_mode mode;
    int capacity;
    uint64_t pushed;
    int kept; /* numbers of the last `capacity` records that were kept */
    uint64_t last[16];
    model_reader readers[MODEL_READERS];
    model_reader orphan; /* what the last reader that left had not read */
} ring_model;

static int
model_attached(const ring_model *model)
{
    int attached = 0;
    for (int i = 0; i < MODEL_READERS; i++) {
        attached += model->readers[i].attached;
    }
    return attached;
}

/* The queue that is longest, of those that count. */
static const model_reader *
model_slowest(const ring_model *model)
{
    const model_reader *slowest = NULL;
    for (int i = 0; i < MODEL_READERS; i++) {
        const model_reader *it = &model->readers[i];
        if (it->attached && (slowest == NULL || it->count > slowest->count)) {
            slowest = it;
        }
    }
    return slowest == NULL ? &model->orphan : slowest;
}

static theus_status
model_commit(ring_model *model)
{
    bool room = model_slowest(model)->count < model->capacity;
    if (model->mode >= THEUS_RING_BLOCK) {
        if (model_attached(model) == 0) {
            return THEUS_UNREAD;
        }
        if (!room) {
            return THEUS_FULL;
        }
    }
    uint64_t number = model->pushed++;
    if (model->mode == THEUS_RING_DROP_NEW && !room) {
        return THEUS_OK;
    }
    if (model->kept == model->capacity) {
        memmove(model->last, model->last + 1, (size_t)(model->kept - 1) * sizeof(uint64_t));
        model->kept--;
    }
    model->last[model->kept++] = number;
    for (int i = 0; i <= MODEL_READERS; i++) {
        model_reader *it = i == MODEL_READERS ? &model->orphan : &model->readers[i];
        bool counts = i == MODEL_READERS ? model_attached(model) == 0 : it->attached;
        if (!counts) {
            continue;
        }
        if (model->mode == THEUS_RING_OVERWRITE && it->count == model->capacity) {
            memmove(it->items, it->items + 1, (size_t)(it->count - 1) * sizeof(uint64_t));
            it->count--;
        }
        it->items[it->count++] = number;
    }
    return THEUS_OK;
}

static void
model_attach(ring_model *model, model_reader *it, int64_t since)
{
    const model_reader *slowest = model_slowest(model);
    it->count = 0;
    if (since < 0 && model->mode != THEUS_RING_OVERWRITE) {
        memcpy(it->items, slowest->items, (size_t)slowest->count * sizeof(uint64_t));
        it->count = slowest->count;
    }
    else {
        for (int i = 0; i < model->kept; i++) {
            if (since < 0 || model->last[i] >= (uint64_t)since) {
                it->items[it->count++] = model->last[i];
            }
        }
    }
    uint64_t oldest = it->count > 0 ? it->items[0] : model->pushed;
    it->start = since >= 0 && (uint64_t)since < oldest ? (uint64_t)since : oldest;
    it->delivered = 0;
    it->attached = true;
}

static void
model_detach(ring_model *model, model_reader *it)
{
    it->attached = false;
    if (model_attached(model) == 0) {
        model->orphan.count = it->count;
        memcpy(model->orphan.items, it->items, (size_t)it->count * sizeof(uint64_t));
    }
}

/* Everything between where it began and where it is was delivered, or is counted as lost. */
static int64_t
model_read(const ring_model *model, model_reader *it, uint64_t *lost)
{
    int64_t number = -1;
    uint64_t next = model->pushed;
    if (it->count > 0) {
        number = (int64_t)it->items[0];
        next = it->items[0] + 1;
        memmove(it->items, it->items + 1, (size_t)--it->count * sizeof(uint64_t));
        it->delivered++;
    }
    *lost = next - it->start - it->delivered;
    return number;
}

static void
test_model(theus_ring_mode mode, int capacity, unsigned long long seed)
{
    static ring_model model;
    scene scene;
    memset(&model, 0, sizeof(model));
    model.mode = mode;
    model.capacity = capacity;
    ring_open(&scene, mode, (uint32_t)capacity);
    for (int step = 0; step < MODEL_STEPS; step++) {
        model_reader *it = &model.readers[check_random(&seed, MODEL_READERS)];
        unsigned what = check_random(&seed, 100);
        if (what < 45) {
            theus_status expected = model_commit(&model);
            CHECK(commit(&scene, (uint64_t)step) == expected);
        }
        else if (what < 93) {
            if (it->attached) {
                uint64_t lost;
                int64_t expected = model_read(&model, it, &lost);
                CHECK(read_next(&scene, &it->reader) == expected && it->reader.lost == lost);
            }
        }
        else if (it->attached) {
            theus_ring_detach(ring_of(&scene), &it->reader);
            model_detach(&model, it);
        }
        else {
            int64_t since = check_random(&seed, 2) == 0
                                ? THEUS_RING_UNREAD
                                : (int64_t)check_random(&seed, (unsigned)model.pushed + 2);
            theus_ring_attach(ring_of(&scene), &it->reader, since);
            model_attach(&model, it, since > (int64_t)model.pushed ? (int64_t)model.pushed : since);
        }
    }
    theus_ring_facts facts;
    theus_ring_read_facts(ring_of(&scene), &facts);
    CHECK(facts.written == model.pushed && facts.readers == (uint32_t)model_attached(&model));
    for (int i = 0; i < MODEL_READERS; i++) {
        theus_ring_detach(ring_of(&scene), &model.readers[i].reader);
    }
    scene_close(&scene);
}

/* ---- with threads ----------------------------------------------------------------------------------- */

enum { WRITERS = 3, READERS = 2, EACH = 2000 };

typedef struct {
    scene scene;
    _Atomic(int) running; /* writers that have not ended */
} crowd;

/* Every one of its commits gets through or, in mode strict, is tried again: who waits, and how, is not the core's. */
static void *
write_many(void *arg)
{
    crowd *crowd = arg;
    for (uint64_t i = 0; i < EACH; i++) {
        theus_status status;
        while ((status = commit(&crowd->scene, i)) != THEUS_OK) {
            CHECK(status == THEUS_FULL);
            theus_yield();
        }
    }
    atomic_fetch_sub(&crowd->running, 1);
    return NULL;
}

typedef struct {
    crowd *crowd;
    theus_reader reader;
    uint64_t delivered;
} crowd_reader;

static void *
read_many(void *arg)
{
    crowd_reader *self = arg;
    int64_t last = -1;
    for (;;) {
        bool last_look = atomic_load(&self->crowd->running) == 0;
        int64_t number = read_next(&self->crowd->scene, &self->reader);
        if (number >= 0) {
            CHECK(number > last);
            last = number;
            self->delivered++;
        }
        else if (last_look) {
            return NULL;
        }
        else {
            theus_yield();
        }
    }
}

static void
test_threads(theus_ring_mode mode)
{
    crowd crowd = {.running = WRITERS};
    crowd_reader readers[READERS];
    pthread_t threads[WRITERS + READERS];
    ring_open(&crowd.scene, mode, 8);
    for (int i = 0; i < READERS; i++) {
        readers[i] = (crowd_reader){.crowd = &crowd};
        theus_ring_attach(ring_of(&crowd.scene), &readers[i].reader, THEUS_RING_UNREAD);
        REQUIRE(pthread_create(&threads[i], NULL, read_many, &readers[i]) == 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        REQUIRE(pthread_create(&threads[READERS + i], NULL, write_many, &crowd) == 0);
    }
    for (int i = 0; i < WRITERS + READERS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(scene_version(&crowd.scene) == WRITERS * EACH);
    for (int i = 0; i < READERS; i++) {
        CHECK(readers[i].delivered + readers[i].reader.lost == WRITERS * EACH);
        CHECK(mode < THEUS_RING_BLOCK || readers[i].reader.lost == 0);
        CHECK(mode != THEUS_RING_DROP_NEW || readers[i].reader.lost == lost_in_ring(&crowd.scene));
        theus_ring_detach(ring_of(&crowd.scene), &readers[i].reader);
    }
    scene_close(&crowd.scene);
}

int
main(void)
{
    test_drop_new();
    test_refusals();
    test_only_commits_need_room();
    test_reservations();
    test_late_reader_and_reservation();
    test_out_of_memory();
    test_since();
    test_fork();
    for (theus_ring_mode mode = THEUS_RING_OVERWRITE; mode <= THEUS_RING_STRICT; mode++) {
        for (int capacity = 1; capacity <= 8; capacity *= 2) {
            test_model(mode, capacity, 77u + (unsigned)capacity);
        }
        test_threads(mode);
    }
    return check_result();
}
