/* The ring where it keeps what is unread, schedule by schedule: no record is lost, none is told twice, a place that was
 * reserved is filled or given back, and nobody who waits for room is forgotten (that would be a deadlock here).
 *
 * Waiting is the embedder's: a listener on a bell, and a limit (binding/engine_wait.c). Here that is a few lines
 * over the same two calls, theus_txn_reserve() and theus_bell_add(). */
#include "switch.h" /* here, too: locks of the test's own */

#include "schedule.h"

#include "../scene.h"
#include "bell.h"
#include "ring.h"

enum { LIMIT_NS = 50000000 };

static scene stage;
static theus_bell room;    /* rung when a place may have become free, */
static theus_bell commits; /* and when there may be something to read */
static pthread_mutex_t ears;
static pthread_cond_t heard; /* nothing in it: who waits knows that himself (schedule.c) */
static theus_reader reader;
static uint64_t seen, lost; /* by it */
static int made[SIM_THREADS], late[SIM_THREADS];
static int writing; /* threads that may still commit; guarded by ears */

/* ---- waiting --------------------------------------------------------------------------------- */

static void
ring_bell(theus_bell *bell)
{
    theus_listener *it = theus_bell_awaited(bell) ? theus_bell_take(bell) : NULL;
    while (it != NULL) {
        theus_listener *next = it->next;
        pthread_mutex_lock(&ears);
        ++*(int *)it->who;
        pthread_cond_broadcast(&heard);
        pthread_mutex_unlock(&ears);
        theus_free(it);
        it = next;
    }
}

static bool
same_listener(void *arg, void *who)
{
    return arg == who;
}

/* Waits until ready(arg); false: not before `until_ns` (0: no limit), or there was no memory to wait with. */
static bool
wait_for(theus_bell *bell, bool (*ready)(void *arg), void *arg, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    for (;;) {
        int called = 0;
        if (theus_bell_add(bell, &called) != THEUS_OK) {
            CHECK(sim_memory_fails());
            return ready(arg);
        }
        bool there = ready(arg), over = false;
        pthread_mutex_lock(&ears);
        while (!there && called == 0 && !over) {
            if (until_ns == 0) {
                pthread_cond_wait(&heard, &ears);
            }
            else {
                pthread_cond_timedwait(&heard, &ears, &until);
                over = theus_clock_tick_ns() >= until_ns;
            }
        }
        bool waits = theus_bell_remove(bell, same_listener, &called) != NULL;
        while (!waits && called == 0) { /* it has been taken: the call is on its way, and writes here */
            pthread_cond_wait(&heard, &ears);
        }
        pthread_mutex_unlock(&ears);
        if (there || over) {
            return there;
        }
    }
}

/* ---- those who write --------------------------------------------------------------------------- */

typedef struct {
    theus_txn txn;
    theus_status status;
} writer;

static bool
has_room(void *arg)
{
    writer *writer = arg;
    writer->status = theus_txn_reserve(&writer->txn);
    return writer->status != THEUS_FULL;
}

/* Reads key 1 and overwrites it, so that it conflicts with whoever does the same; waits for its place before that. */
static void
write_once(int thread, uint64_t number, bool waits, uint64_t limit_ns)
{
    writer me;
    theus_version *result = NULL;
    theus_conflict why = {0};
    theus_value there;
    uint32_t pos;
    fake_atom *key = fake_new(1), *value = fake_new(number);
    theus_txn_begin_newest(&me.txn, stage.store, THEUS_SERIALIZABLE, false);
    me.status = THEUS_NOMEM;
    if (theus_cell_lookup(me.txn.root, NULL, key->hash, key, &pos, &there) == THEUS_FOUND) {
        me.status = theus_cell_store(me.txn.root, NULL, key->hash, key, theus_value_of_atom(value));
    }
    fake_release(key);
    fake_release(value);
    if (me.status == THEUS_OK && waits && !has_room(&me)) {
        (void)wait_for(&room, has_room, &me, limit_ns == 0 ? 0 : theus_clock_tick_ns() + limit_ns);
        late[thread] += me.status == THEUS_FULL;
    }
    if (me.status != THEUS_OK) {
        CHECK(me.status == THEUS_FULL || sim_memory_fails());
        theus_txn_abort(&me.txn);
    }
    else {
        theus_outcome outcome = theus_txn_commit(&me.txn, NULL, &result, &why, &me.status);
        CHECK(outcome == THEUS_COMMITTED || outcome == THEUS_CONFLICTED || me.status == THEUS_FULL
              || sim_memory_fails());
        CHECK(me.status != THEUS_FULL || !waits); /* what was reserved cannot be taken away */
        made[thread] += outcome == THEUS_COMMITTED;
        theus_conflict_fini(&why);
        theus_version_release(result);
    }
    ring_bell(&commits);
    ring_bell(&room); /* who did not commit gave a place back */
}

/* ---- the one who reads ------------------------------------------------------------------------- */

static void
read_all(void)
{
    theus_record *record;
    while ((record = theus_ring_read(theus_store_ring(stage.store), &reader, &lost)) != NULL) {
        CHECK(record->version == seen + lost + 1); /* each commit is a version: none twice, none left out */
        seen++;
        theus_record_release(record);
        ring_bell(&room);
    }
}

static bool
is_over(void *arg)
{
    (void)arg;
    read_all();
    pthread_mutex_lock(&ears);
    bool over = writing == 0;
    pthread_mutex_unlock(&ears);
    return over;
}

/* ---- scenes -------------------------------------------------------------------------------------- */

static const theus_ring_mode drop_new = THEUS_RING_DROP_NEW, block = THEUS_RING_BLOCK, strict = THEUS_RING_STRICT;

static void
open_ring(const void *about)
{
    theus_store_limits limits = {
        .ring_mode = *(const theus_ring_mode *)about, .ring_capacity = 1, .history_count = 2};
    scene_open_with(&stage, "{1:0}", &limits);
    REQUIRE(theus_bell_init(&room, false) == THEUS_OK && theus_bell_init(&commits, false) == THEUS_OK);
    pthread_mutex_init(&ears, NULL);
    theus_ring_attach(theus_store_ring(stage.store), &reader, 0);
    seen = lost = 0;
    memset(made, 0, sizeof(made));
    memset(late, 0, sizeof(late));
    writing = 2;
}

static void
close_ring(void)
{
    theus_ring *ring = theus_store_ring(stage.store);
    theus_ring_facts facts;
    read_all();
    theus_ring_read_facts(ring, &facts);
    CHECK((uint64_t)(made[0] + made[1] + made[2]) == scene_version(&stage));
    CHECK(facts.written == scene_version(&stage) && facts.lost == lost && seen + lost == facts.written);
    CHECK(ring->mode == THEUS_RING_DROP_NEW || lost == 0);
    CHECK(ring->reserved == 0); /* each place was filled, or given back */
    theus_ring_detach(ring, &reader);
    CHECK(room.first == NULL && commits.first == NULL);
    theus_bell_fini(&room);
    theus_bell_fini(&commits);
    pthread_mutex_destroy(&ears);
    scene_close(&stage);
}

/* Commits are refused before the reader would lose something; or not kept, and he is told. */
static void
refused_body(int thread)
{
    if (thread == 2) {
        read_all();
        read_all();
        return;
    }
    write_once(thread, 10 * (uint64_t)thread + 1, false, 0);
    write_once(thread, 10 * (uint64_t)thread + 2, false, 0);
}

/* One reads as long as somebody may write, so nobody has to give up, and there is no limit. */
static void
patient_body(int thread)
{
    if (thread == 2) {
        while (!wait_for(&commits, is_over, NULL, 0)) { /* no memory, once */
        }
        return;
    }
    write_once(thread, (uint64_t)thread + 1, true, 0);
    pthread_mutex_lock(&ears);
    writing--;
    pthread_mutex_unlock(&ears);
    ring_bell(&commits);
}

/* Nobody reads: there is room for one, and the other one's patience ends, after its limit and not before. */
static void
impatient_body(int thread)
{
    uint64_t began = theus_clock_tick_ns();
    write_once(thread, 10 * (uint64_t)thread + 1, true, LIMIT_NS);
    CHECK(late[thread] == 0 || theus_clock_tick_ns() >= began + LIMIT_NS || sim_memory_fails());
}

static void
close_impatient(void)
{
    CHECK(made[0] + made[1] == 1 || sim_memory_fails());
    close_ring();
}

static const sim_scene scenes[] = {
    {"drop_new and its reader", 3, 1, &drop_new, open_ring, refused_body, close_ring},
    {"strict and its reader", 3, 1, &strict, open_ring, refused_body, close_ring},
    {"block: two wait for one place", 3, 1, &block, open_ring, patient_body, close_ring},
    {"block: one gives up", 2, 2, &block, open_ring, impatient_body, close_impatient},
};

int
main(int argc, char **argv)
{
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    return check_result();
}
