/* Versions and their history, the swap that publishes one, blame, and the ring of records. */
#define _POSIX_C_SOURCE 200809L

#include "port.h"
#include "ring.h"
#include "scene.h"

#include <pthread.h>

/* ---- versions by hand, without transactions ------------------------------------------------- */

static theus_record *
new_record(const scene *scene, uint64_t key_id)
{
    theus_record *record;
    fake_atom *key = fake_new(key_id);
    void *atoms[] = {key};
    REQUIRE(theus_record_new(scene->store, atoms, 1, 1, &record) == THEUS_OK);
    CHECK(record->refs == 1 && record->version == 0 && record->process == NULL);
    record->sets = record->path_count = record->segment_count = record->depth[0] = 1;
    record->segments[0] = (theus_segment){key, 0};
    fake_release(key);
    return record;
}

/* Publishes `text` after the current version. */
static uint64_t
publish(const scene *scene, const char *text, bool recorded)
{
    theus_version *current = theus_store_pin(scene->store), *next;
    theus_value root = value_of(scene->heap, text);
    theus_record *record = recorded ? new_record(scene, current->number + 1) : NULL;
    REQUIRE(theus_version_new(NULL, 0, theus_value_container(root), current->signals, record, &next)
            == THEUS_OK);
    CHECK(theus_store_publish(scene->store, current, next, 0) == THEUS_SWAPPED);
    uint64_t number = next->number;
    CHECK(number == current->number + 1);
    CHECK(record == NULL || record->version == number);
    theus_record_release(record);
    theus_version_release(next);
    theus_version_release(current);
    theus_value_release(scene->heap, root);
    return number;
}

static theus_store_facts
facts_of(const scene *scene)
{
    theus_store_facts facts;
    theus_store_read_facts(scene->store, &facts);
    return facts;
}

static theus_ring_facts
ring_of(const scene *scene)
{
    theus_ring_facts facts;
    theus_ring_read_facts(theus_store_ring(scene->store), &facts);
    return facts;
}

static void
test_publish(void)
{
    scene scene;
    scene_open(&scene, "{1:1}");
    theus_version *first = theus_store_pin(scene.store), *won, *lost;
    CHECK(first->number == 0 && first->record == NULL);
    REQUIRE(theus_version_new(NULL, 0, first->root, first->signals, NULL, &won) == THEUS_OK);
    REQUIRE(theus_version_new(NULL, 0, first->root, first->signals, NULL, &lost) == THEUS_OK);
    CHECK(theus_store_publish(scene.store, first, won, 0) == THEUS_SWAPPED);
    CHECK(theus_store_publish(scene.store, first, lost, 0) == THEUS_SWAP_LOST);
    CHECK(won->number == 1 && facts_of(&scene).version == 1);
    theus_version *current = theus_store_pin(scene.store);
    CHECK(current == won);
    CHECK(theus_store_publish(scene.store, won, lost, 0) == THEUS_SWAPPED && lost->number == 2);
    CHECK(theus_store_heap(scene.store) == scene.heap);
    theus_version_release(current);
    theus_version_release(first);
    theus_version_release(won);
    theus_version_release(lost);
    scene_close(&scene);
}

/* A lost publish leaves no trace in the ring either. */
static void
test_publish_lost_is_not_recorded(void)
{
    scene scene;
    scene_open(&scene, "{}");
    theus_version *first = theus_store_pin(scene.store), *late;
    publish(&scene, "{1:1}", true);
    theus_record *record = new_record(&scene, 9);
    REQUIRE(theus_version_new(NULL, 0, first->root, first->signals, record, &late) == THEUS_OK);
    CHECK(theus_store_publish(scene.store, first, late, 0) == THEUS_SWAP_LOST);
    CHECK(record->version == 0 && late->number == 0);
    CHECK(ring_of(&scene).written == 1);
    theus_record_release(record);
    theus_version_release(late);
    theus_version_release(first);
    scene_close(&scene);
}

/* ---- history ---------------------------------------------------------------------------------- */

static theus_status
status_at(const scene *scene, uint64_t number)
{
    theus_version *version;
    theus_status status = theus_store_at(scene->store, number, &version);
    if (status == THEUS_OK) {
        CHECK(version->number == number);
        theus_version_release(version);
    }
    return status;
}

static void
test_history_by_count(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.ring_capacity = 1, .history_count = 3});
    CHECK(status_at(&scene, 0) == THEUS_OK && status_at(&scene, 1) == THEUS_FUTURE);
    char text[32];
    for (int i = 1; i <= 10; i++) {
        snprintf(text, sizeof(text), "{1:%d}", i);
        publish(&scene, text, false);
        theus_store_facts facts = facts_of(&scene);
        CHECK(facts.history_count == (i < 2 ? 2 : 3));
        CHECK(facts.oldest == (uint64_t)(i < 2 ? 0 : i - 2));
    }
    CHECK(status_at(&scene, 7) == THEUS_GONE && status_at(&scene, 8) == THEUS_OK);
    CHECK(status_at(&scene, 11) == THEUS_FUTURE && status_at(&scene, UINT64_MAX) == THEUS_FUTURE);
    scene_close(&scene);
}

/* Limits of 0 mean the least there can be: one version, one slot. */
static void
test_least_limits(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){0});
    publish(&scene, "{1:1}", true);
    publish(&scene, "{1:2}", true);
    theus_store_facts facts = facts_of(&scene);
    CHECK(facts.version == 2 && facts.oldest == 2 && facts.history_count == 1);
    theus_ring_facts ring = ring_of(&scene);
    CHECK(ring.capacity == 1 && ring.written == 2 && ring.lost == 1);
    CHECK(status_at(&scene, 1) == THEUS_GONE);
    scene_close(&scene);
}

/* A pinned version lives on outside the history, whole. */
static void
test_pinned_outlives_history(void)
{
    scene scene;
    scene_open_with(&scene, "{1:{2:3}}", &(theus_store_limits){.history_count = 1});
    theus_version *pinned = theus_store_pin(scene.store);
    publish(&scene, "{1:4}", false);
    publish(&scene, "{1:5}", false);
    CHECK(status_at(&scene, 0) == THEUS_GONE);
    char shown[64];
    value_show(theus_value_of_container(pinned->root), shown, sizeof(shown));
    CHECK(strcmp(shown, "{1:{2:3}}") == 0);
    theus_version_release(pinned);
    CHECK(scene_is(&scene, "{1:5}"));
    scene_close(&scene);
}

static void
test_limits_can_change(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.history_count = 2});
    for (int i = 0; i < 5; i++) {
        publish(&scene, "{1:1}", false);
    }
    /* Wider: nothing that is there is lost, and more is kept from now on. */
    theus_store_limits wide = {.history_count = 100};
    CHECK(theus_store_limit_history(scene.store, &wide) == THEUS_OK);
    CHECK(status_at(&scene, 3) == THEUS_GONE && status_at(&scene, 4) == THEUS_OK);
    for (int i = 0; i < 120; i++) {
        publish(&scene, "{1:1}", false);
    }
    theus_store_facts facts = facts_of(&scene);
    CHECK(facts.version == 125 && facts.history_count == 100 && facts.oldest == 26);
    for (uint64_t number = 26; number <= 125; number++) {
        CHECK(status_at(&scene, number) == THEUS_OK);
    }
    /* Narrower: pruned at once. 0 means 1. */
    theus_store_limits narrow = {.history_count = 0};
    CHECK(theus_store_limit_history(scene.store, &narrow) == THEUS_OK);
    facts = facts_of(&scene);
    CHECK(facts.history_count == 1 && facts.oldest == 125 && status_at(&scene, 125) == THEUS_OK);
    /* Out of memory: nothing has changed. */
    theus_alloc_fail_at(1);
    CHECK(theus_store_limit_history(scene.store, &wide) == THEUS_NOMEM);
    theus_alloc_fail_at(-1);
    publish(&scene, "{1:1}", false);
    CHECK(facts_of(&scene).history_count == 1);
    scene_close(&scene);
}

static void
test_history_by_bytes(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.history_count = 1000});
    theus_heap_stats before, after;
    theus_heap_read_stats(scene.heap, &before);
    publish(&scene, "{1:[1 2 3 4 5 6 7 8]}", false);
    theus_heap_read_stats(scene.heap, &after);
    uint64_t bound = before.bytes + 4 * (after.bytes - before.bytes);
    theus_store_limits limits = {.history_count = 1000, .history_bytes = bound};
    CHECK(theus_store_limit_history(scene.store, &limits) == THEUS_OK);
    for (int i = 0; i < 50; i++) {
        publish(&scene, "{1:[1 2 3 4 5 6 7 8]}", false);
        theus_heap_read_stats(scene.heap, &after);
        CHECK(after.bytes <= bound);
    }
    uint32_t count = facts_of(&scene).history_count;
    CHECK(count >= 2 && count <= 5);
    /* A bound that not even the current version keeps: it alone stays. */
    limits.history_bytes = 1;
    CHECK(theus_store_limit_history(scene.store, &limits) == THEUS_OK);
    CHECK(facts_of(&scene).history_count == 1);
    scene_close(&scene);
}

/* Version n is as old as version n + 1: it is what it stopped being current for that counts. */
static void
test_history_by_age(void)
{
    scene scene;
    enum { AGE_NS = 250 * 1000 * 1000, MORE_NS = AGE_NS + 20 * 1000 * 1000 };
    scene_open_with(&scene, "{}",
                    &(theus_store_limits){.history_count = 1000, .history_age_ns = AGE_NS});
    theus_sleep_ns(MORE_NS);
    publish(&scene, "{1:1}", false); /* version 0 has just been superseded, however old it is */
    CHECK(status_at(&scene, 0) == THEUS_OK);
    theus_sleep_ns(MORE_NS);
    publish(&scene, "{1:2}", false);
    CHECK(status_at(&scene, 0) == THEUS_GONE && status_at(&scene, 1) == THEUS_OK);
    scene_close(&scene);
}

/* What falls out of the history may run a body that publishes: no lock is held. */
static scene *reentered;

static void
publish_when_freed(fake_atom *atom)
{
    (void)atom;
    scene *scene = reentered;
    reentered = NULL;
    if (scene != NULL) {
        publish(scene, "{7:7}", true);
    }
}

static void
test_release_may_publish(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.ring_capacity = 1, .history_count = 1});
    theus_version *current = theus_store_pin(scene.store), *next;
    theus_container *root = new_edit(scene.heap, THEUS_MAP);
    fake_atom *key = fake_new(1), *value = fake_new(1);
    value->on_free = publish_when_freed;
    REQUIRE(theus_container_insert(root, 1, key, theus_value_of_atom(value), NULL) == THEUS_OK);
    fake_release(key);
    fake_release(value);
    REQUIRE(theus_version_new(NULL, 0, sealed(root), current->signals, NULL, &next) == THEUS_OK);
    theus_container_release(root);
    CHECK(theus_store_publish(scene.store, current, next, 0) == THEUS_SWAPPED);
    theus_version_release(next);
    theus_version_release(current);
    reentered = &scene;
    publish(&scene, "{2:2}", true); /* drops version 1 and with it the last of the value */
    CHECK(reentered == NULL && facts_of(&scene).version == 3 && scene_is(&scene, "{7:7}"));
    scene_close(&scene);
}

/* ---- paths and blame ---------------------------------------------------------------------------- */

static void
test_path_find(void)
{
    scene scene;
    scene_open(&scene, "{1:{2:[7 8 {3:9}]} 4:5 6:(1 2)}");
    theus_version *version = theus_store_pin(scene.store);
    fake_atom *keys[10];
    for (uint64_t i = 0; i < 10; i++) {
        keys[i] = fake_new(i);
    }
    theus_value value;
#define FIND(length, ...) \
    theus_path_find(version->root, NULL, (theus_segment[]){__VA_ARGS__}, length, &value)
    CHECK(FIND(0, {NULL, 0}) == THEUS_FOUND && value == theus_value_of_container(version->root));
    CHECK(FIND(1, {keys[4], 0}) == THEUS_FOUND && theus_value_kind(value) == THEUS_ATOM);
    CHECK(FIND(4, {keys[1], 0}, {keys[2], 0}, {NULL, 2}, {keys[3], 0}) == THEUS_FOUND);
    CHECK(((fake_atom *)theus_value_atom(value))->id == 9);
    CHECK(FIND(3, {keys[1], 0}, {keys[2], 0}, {NULL, 3}) == THEUS_ABSENT);    /* beyond the end */
    CHECK(FIND(2, {keys[4], 0}, {keys[1], 0}) == THEUS_ABSENT);               /* below an atom */
    CHECK(FIND(3, {keys[1], 0}, {keys[2], 0}, {keys[0], 0}) == THEUS_ABSENT); /* key of a list */
    CHECK(FIND(2, {keys[1], 0}, {NULL, 0}) == THEUS_ABSENT);                  /* index of a map */
    CHECK(FIND(2, {keys[6], 0}, {keys[2], 0}) == THEUS_FOUND);
    CHECK(FIND(1, {keys[9], 0}) == THEUS_ABSENT);
    fakes.fail_hash = 1;
    CHECK(FIND(1, {keys[4], 0}) == THEUS_FIND_FAILED);
    fakes.fail_hash = 0;
    fakes.fail_equal = 1;
    CHECK(FIND(1, {keys[4], 0}) == THEUS_FIND_FAILED);
    fakes.fail_equal = 0;
#undef FIND
    for (int i = 0; i < 10; i++) {
        fake_release(keys[i]);
    }
    theus_version_release(version);
    scene_close(&scene);
}

/* The version that changed {id.id...} in (after, upto], or -1. */
static int64_t
blame(const scene *scene, uint64_t key, uint64_t after, uint64_t upto, theus_status expected)
{
    theus_version *version;
    fake_atom *atom = fake_new(key);
    theus_segment path = {atom, 0};
    CHECK(theus_store_blame(scene->store, NULL, &path, 1, after, upto, &version) == expected);
    int64_t number = version == NULL ? -1 : (int64_t)version->number;
    theus_version_release(version);
    fake_release(atom);
    return number;
}

static void
test_blame(void)
{
    scene scene;
    scene_open_with(&scene, "{1:0 2:0}", &(theus_store_limits){.history_count = 5});
    commit_set(&scene, "1", "1");  /* 1 */
    commit_set(&scene, "2", "1");  /* 2 */
    commit_set(&scene, "3", "1");  /* 3: appears */
    commit_set(&scene, "1", NULL); /* 4: goes */
    CHECK(blame(&scene, 1, 0, 4, THEUS_OK) == 4);
    CHECK(blame(&scene, 1, 0, 3, THEUS_OK) == 1);
    CHECK(blame(&scene, 2, 0, 4, THEUS_OK) == 2);
    CHECK(blame(&scene, 2, 2, 4, THEUS_OK) == -1); /* not since */
    CHECK(blame(&scene, 3, 0, 4, THEUS_OK) == 3);
    CHECK(blame(&scene, 9, 0, 4, THEUS_OK) == -1);
    CHECK(blame(&scene, 1, 4, 4, THEUS_OK) == -1);
    CHECK(blame(&scene, 1, 0, 5, THEUS_FUTURE) == -1);
    commit_set(&scene, "2", "5");                  /* 5: version 0 has gone */
    CHECK(blame(&scene, 1, 0, 3, THEUS_OK) == -1); /* the history does not tell any more */
    fakes.fail_hash = 1;
    CHECK(blame(&scene, 1, 1, 5, THEUS_FOREIGN) == -1);
    fakes.fail_hash = 0;
    scene_close(&scene);
}

/* ---- the ring -------------------------------------------------------------------------------------- */

/* Reads one record; the version in it, or 0 at the end. */
static uint64_t
next_version(const scene *scene, uint64_t *sequence, uint64_t *lost)
{
    theus_record *record = theus_store_next_record(scene->store, sequence, lost);
    uint64_t version = record == NULL ? 0 : record->version;
    if (record != NULL) {
        CHECK(((fake_atom *)record->segments[0].key)->id == version);
    }
    theus_record_release(record);
    return version;
}

static void
test_ring(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.ring_capacity = 3, .history_count = 1});
    CHECK(ring_of(&scene).capacity == 4);
    uint64_t early = 0, early_lost = 0, late = 0, late_lost = 0, now = 0, now_lost = 0;
    CHECK(next_version(&scene, &early, &early_lost) == 0 && early == 0);
    for (uint64_t i = 1; i <= 4; i++) {
        publish(&scene, "{}", true);
        CHECK(next_version(&scene, &now, &now_lost) == i
              && next_version(&scene, &now, &now_lost) == 0);
    }
    CHECK(next_version(&scene, &early, &early_lost) == 1 && early_lost == 0);
    for (int i = 5; i <= 11; i++) {
        publish(&scene, "{}", true);
    }
    /* 8 to 11 are kept. Each reader has lost exactly what it had not read. */
    CHECK(next_version(&scene, &early, &early_lost) == 8 && early_lost == 6);
    CHECK(next_version(&scene, &late, &late_lost) == 8 && late_lost == 7);
    CHECK(next_version(&scene, &now, &now_lost) == 8 && now_lost == 3);
    for (uint64_t i = 9; i <= 11; i++) {
        CHECK(next_version(&scene, &early, &early_lost) == i && early_lost == 6);
    }
    CHECK(next_version(&scene, &early, &early_lost) == 0 && early == 11);
    CHECK(ring_of(&scene).written == 11 && ring_of(&scene).lost == 7);
    uint64_t beyond = 1000, none = 0; /* a cursor from elsewhere: nothing yet, nothing lost */
    CHECK(next_version(&scene, &beyond, &none) == 0 && beyond == 1000 && none == 0);
    scene_close(&scene);
}

/* A record that a reader holds outlives its slot, keys and all. */
static void
test_record_outlives_slot(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.ring_capacity = 1, .history_count = 1});
    publish(&scene, "{}", true);
    uint64_t sequence = 0, lost = 0;
    theus_record *held = theus_store_next_record(scene.store, &sequence, &lost);
    publish(&scene, "{}", true);
    publish(&scene, "{}", true);
    CHECK(held->version == 1 && ((fake_atom *)held->segments[0].key)->id == 1);
    CHECK(((fake_atom *)theus_atoms_at(held->cells, 0))->id == 1);
    theus_record_release(held);
    scene_close(&scene);
}

/* The date of a record comes from the tick of its version and what the wall clock said not long ago. */
static void
test_record_time(void)
{
    scene scene;
    scene_open_with(&scene, "{}", &(theus_store_limits){.ring_capacity = 4, .history_count = 4});
    const uint64_t second = 1000000000, ahead[] = {0, 5 * second, 0, 2 * second};
    for (size_t i = 0; i < 4; i++) {
        theus_version *current = theus_store_pin(scene.store), *next;
        theus_record *record = new_record(&scene, 1);
        REQUIRE(theus_version_new(NULL, 0, current->root, current->signals, record, &next) == THEUS_OK);
        next->tick_ns += ahead[i]; /* as if so much time had gone by */
        uint64_t before = theus_clock_wall_ns();
        CHECK(theus_store_publish(scene.store, current, next, 0) == THEUS_SWAPPED);
        uint64_t after = theus_clock_wall_ns();
        CHECK(record->time_ns + second / 10 >= before && record->time_ns <= after + second / 10);
        theus_record_release(record);
        theus_version_release(next);
        theus_version_release(current);
    }
    scene_close(&scene);
}

/* ---- threads -------------------------------------------------------------------------------------------- */

enum { WRITERS = 3, READERS = 3, COMMITS = 400 };

static scene shared;
static pthread_barrier_t start;
static _Atomic(int) writing;

static void *
write_versions(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&start);
    for (int i = 0; i < COMMITS;) {
        theus_version *current = theus_store_pin(shared.store), *next;
        theus_record *record = new_record(&shared, current->number + 1);
        REQUIRE(theus_version_new(NULL, 0, current->root, current->signals, record, &next) == THEUS_OK);
        i += theus_store_publish(shared.store, current, next, 0) == THEUS_SWAPPED;
        theus_record_release(record);
        theus_version_release(next);
        theus_version_release(current);
    }
    atomic_fetch_sub(&writing, 1);
    return NULL;
}

/* Sees every record once and in order, or counts it as lost. */
static void *
read_records(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&start);
    uint64_t sequence = 0, lost = 0, seen = 0, last = 0;
    bool last_round = false;
    for (;;) {
        uint64_t version = next_version(&shared, &sequence, &lost);
        if (version != 0) {
            CHECK(version > last && version == sequence);
            last = version;
            seen++;
        }
        else if (last_round) {
            break;
        }
        else {
            last_round = atomic_load(&writing) == 0;
        }
        theus_version *newest = theus_store_pin(shared.store), *older;
        if (newest->number > 2
            && theus_store_at(shared.store, newest->number - 2, &older) == THEUS_OK) {
            CHECK(older->number == newest->number - 2 && older->record->version == older->number);
            theus_version_release(older);
        }
        theus_version_release(newest);
    }
    CHECK(seen + lost == (uint64_t)WRITERS * COMMITS);
    return NULL;
}

static void
test_threads(void)
{
    scene_open(&shared, "{}");
    pthread_t threads[WRITERS + READERS];
    pthread_barrier_init(&start, NULL, WRITERS + READERS);
    writing = WRITERS;
    for (int i = 0; i < WRITERS + READERS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, i < WRITERS ? write_versions : read_records, NULL)
                == 0);
    }
    for (int i = 0; i < WRITERS + READERS; i++) {
        pthread_join(threads[i], NULL);
    }
    pthread_barrier_destroy(&start);
    CHECK(facts_of(&shared).version == (uint64_t)WRITERS * COMMITS);
    scene_close(&shared);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static void
test_nomem(void)
{
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    theus_container *root = sealed(new_edit(heap, THEUS_MAP));
    theus_store_limits limits = {.ring_capacity = 4, .history_count = 4};
    for (long n = 1;; n++) {
        theus_version *first = NULL;
        theus_store *store = NULL;
        theus_alloc_fail_at(n);
        theus_status status = theus_version_new(NULL, 0, root, root, NULL, &first);
        if (status == THEUS_OK) {
            status = theus_store_new(heap, first, &limits, &store);
            theus_version_release(first);
        }
        theus_alloc_fail_at(-1);
        CHECK(status == THEUS_OK || status == THEUS_NOMEM);
        if (status == THEUS_OK) {
            CHECK(n == 5); /* version, store, history, ring: one allocation each */
            theus_store_free(store);
            break;
        }
    }
    theus_container_release(root);
    theus_heap_free(heap);
    CHECK(theus_alloc_live() == 0);
}

int
main(void)
{
    test_publish();
    test_publish_lost_is_not_recorded();
    test_history_by_count();
    test_least_limits();
    test_pinned_outlives_history();
    test_limits_can_change();
    test_history_by_bytes();
    test_history_by_age();
    test_release_may_publish();
    test_path_find();
    test_blame();
    test_ring();
    test_record_outlives_slot();
    test_record_time();
    test_threads();
    test_nomem();
    return check_result();
}
