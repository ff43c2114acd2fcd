/* What stands below the commits, schedule by schedule: pins against pruning, readers of the
 * ring against its writer (its other modes: sim_ring.c), messages and signals, the bell, branches of one container, and the
 * door of a transaction. */
#include "switch.h" /* here, too: locks of the test's own */

#include "schedule.h"

#include "../scene.h"
#include "bell.h"
#include "ring.h"

static scene stage;

static void
open_stage(const char *text, uint32_t ring, uint32_t history)
{
    theus_store_limits limits = {.ring_capacity = ring, .history_count = history};
    scene_open_with(&stage, text, &limits);
}

static void
close_stage(void)
{
    scene_close(&stage);
}

/* Commits {1:number}, whatever is there. False: no memory. */
static bool
write_number(uint64_t number)
{
    theus_version *version = theus_store_pin(stage.store), *made;
    theus_txn txn;
    theus_conflict why;
    theus_status status;
    theus_txn_begin(&txn, stage.store, version, THEUS_SERIALIZABLE, false);
    theus_version_release(version);
    fake_atom *key = fake_new(1), *value = fake_new(number);
    status = theus_cell_store(txn.root, NULL, key->hash, key, theus_value_of_atom(value));
    fake_release(key);
    fake_release(value);
    if (status != THEUS_OK) {
        theus_txn_abort(&txn);
    }
    else {
        theus_outcome outcome = theus_txn_commit(&txn, NULL, &made, &why, &status);
        REQUIRE((outcome == THEUS_COMMITTED) == (status == THEUS_OK)); /* blind: never a conflict */
        theus_version_release(made);
    }
    REQUIRE(status == THEUS_OK || (status == THEUS_NOMEM && sim_memory_fails()));
    return status == THEUS_OK;
}

/* ---- a version that somebody holds stays whole, whatever falls out of the history ---------- */

static void
open_pins(const void *about)
{
    (void)about;
    open_stage("{1:0 2:{1:5}}", 2, 2);
}

/* Version n holds n at key 1, as long as nobody's memory has failed. */
static void
look_at(theus_version *version)
{
    int64_t found = get_id(version->root, 1);
    CHECK(found == (int64_t)version->number || sim_memory_fails());
    CHECK(found <= (int64_t)version->number);
}

static void
pins_body(int thread)
{
    if (thread == 0) {
        for (uint64_t n = 1; n <= 3 && write_number(n); n++) {
        }
    }
    else if (thread == 1) {
        theus_version *first = theus_store_pin(stage.store), *old = NULL;
        theus_status status = theus_store_at(stage.store, first->number, &old);
        look_at(first);
        CHECK(status == THEUS_OK || status == THEUS_GONE);
        CHECK(status != THEUS_OK || old == first);
        theus_version_release(old);
        CHECK(theus_store_at(stage.store, 4, &old) == THEUS_FUTURE);
        look_at(first);
        theus_version_release(first);
    }
    else {
        theus_store_limits limits = {.history_count = 3};
        theus_status status = theus_store_limit_history(stage.store, &limits);
        CHECK(status == THEUS_OK || sim_memory_fails());
        limits.history_count = 1;
        status = theus_store_limit_history(stage.store, &limits);
        CHECK(status == THEUS_OK || sim_memory_fails());
    }
}

/* ---- the ring: who reads slowly loses, and is told how much -------------------------------- */

static uint64_t seen, lost, sequence;

static void
open_ring(const void *about)
{
    (void)about;
    open_stage("{1:0}", 1, 2);
    seen = lost = sequence = 0;
}

static void
read_ring(void)
{
    theus_record *record;
    uint64_t before = sequence;
    while ((record = theus_store_next_record(stage.store, &sequence, &lost)) != NULL) {
        seen++;
        CHECK(sequence > before
              && record->version == sequence); /* the first one, 0, made version 1 */
        CHECK(record->sets == 1 && record->path_count == 1 && record->segment_count == 1);
        CHECK(((fake_atom *)record->segments[0].key)->id == 1);
        theus_record_release(record);
        before = sequence;
    }
}

static void
ring_body(int thread)
{
    if (thread == 1) {
        read_ring();
        read_ring();
        return;
    }
    for (uint64_t n = 1; n <= 3 && write_number(n); n++) {
    }
}

static void
close_ring(void)
{
    read_ring();
    theus_ring_facts facts;
    theus_ring_read_facts(theus_store_ring(stage.store), &facts);
    CHECK(seen + lost == facts.written && facts.written == scene_version(&stage));
    CHECK(facts.lost == (facts.written > 1 ? facts.written - 1 : 0));
    close_stage();
}

/* ---- messages: each is handed over once, by version, if its commit came about --------------- */

static uint64_t sent, taken, newest_taken;

static void
open_messages(const void *about)
{
    (void)about;
    open_stage("{1:0}", 1, 1);
    sent = taken = newest_taken = 0;
}

/* Sends a number, overwrites what stands at key 1 with it, and so conflicts with whoever does the same. */
static void
send_one(uint64_t number)
{
    session *tx = session_open(&stage, THEUS_SERIALIZABLE);
    fake_atom *key = fake_new(1), *value = fake_new(number);
    theus_value there;
    uint32_t pos;
    theus_status status = theus_txn_attach(&tx->txn, THEUS_MESSAGES, key, theus_value_of_atom(value));
    if (status == THEUS_OK
        && theus_cell_lookup(tx->txn.root, NULL, key->hash, key, &pos, &there) == THEUS_FOUND) {
        status = theus_cell_store(tx->txn.root, NULL, key->hash, key, theus_value_of_atom(value));
    }
    if (status == THEUS_OK && session_commit(tx) == THEUS_COMMITTED) {
        sent++;
    }
    CHECK(status == THEUS_OK || sim_memory_fails());
    fake_release(key);
    fake_release(value);
    session_close(tx);
}

static void
take_messages(void)
{
    theus_record *record;
    while ((record = theus_store_queued(stage.store)) != NULL) {
        CHECK(record->version > newest_taken && record->attached[THEUS_MESSAGES]->count == 2);
        newest_taken = record->version;
        taken++;
        theus_store_unqueue(stage.store, newest_taken);
        theus_record_release(record);
    }
}

static void
messages_body(int thread)
{
    if (thread == 2) {
        take_messages();
        take_messages();
        return;
    }
    send_one((uint64_t)thread);
    send_one((uint64_t)thread);
}

static void
close_messages(void)
{
    take_messages();
    CHECK(taken == sent && newest_taken == scene_version(&stage));
    close_stage();
}

/* ---- signals: each topic keeps the last one that was committed; what a savepoint takes back was never sent -- */

static uint64_t last_payload[SIM_THREADS]; /* by topic */

static void
open_signals(const void *about)
{
    (void)about;
    open_stage("{1:0}", 2, 2);
    memset(last_payload, 0, sizeof(last_payload));
}

static int64_t
payload_of(const theus_version *version, uint64_t topic)
{
    return get_id(version->signals, topic);
}

static theus_status
attach(session *tx, theus_attachment kind, uint64_t name, uint64_t number)
{
    fake_atom *key = fake_new(name), *value = fake_new(number);
    theus_status status = theus_txn_attach(&tx->txn, kind, key, theus_value_of_atom(value));
    fake_release(key);
    fake_release(value);
    return status;
}

/* Topic 0 is everybody's, the other one this thread's own. Nothing is read or written, so nobody is in anybody's way. */
static void
signal_once(int thread, uint64_t number)
{
    session *tx = session_open(&stage, THEUS_SERIALIZABLE);
    theus_savepoint *savepoint;
    uint64_t own = (uint64_t)thread + 1;
    theus_status status = attach(tx, THEUS_SIGNALS, 0, number);
    if (status == THEUS_OK) {
        status = attach(tx, THEUS_SIGNALS, own, number);
    }
    if (status == THEUS_OK && (status = theus_txn_save(&tx->txn, &savepoint)) == THEUS_OK) {
        status = attach(tx, THEUS_SIGNALS, own, number + 1);
        if (status == THEUS_OK) {
            status = attach(tx, THEUS_MESSAGES, 0, number);
        }
        theus_savepoint_rollback(savepoint);
    }
    if (status == THEUS_OK && session_commit(tx) == THEUS_COMMITTED) {
        const theus_version *made = tx->made;
        CHECK(payload_of(made, 0) == (int64_t)number && payload_of(made, own) == (int64_t)number);
        CHECK(made->record->attached[THEUS_SIGNALS]->count == 4 && made->record->attached[THEUS_MESSAGES] == NULL);
        last_payload[own] = number;
    }
    CHECK(last_payload[own] == number || sim_memory_fails());
    session_close(tx);
}

static void
signals_body(int thread)
{
    signal_once(thread, 10 * (uint64_t)thread + 10);
    signal_once(thread, 10 * (uint64_t)thread + 12);
}

static void
close_signals(void)
{
    theus_version *newest = theus_store_pin(stage.store);
    for (uint64_t topic = 1; topic < SIM_THREADS; topic++) {
        CHECK(last_payload[topic] == 0 || payload_of(newest, topic) == (int64_t)last_payload[topic]);
    }
    theus_version_release(newest);
    CHECK(theus_store_queued(stage.store) == NULL);
    close_stage();
}

/* ---- the bell: nobody sleeps through it ---------------------------------------------------- */

static theus_bell bell;
static pthread_mutex_t ears;
static pthread_cond_t heard;
static int calls;

static void
open_bell(const void *about)
{
    (void)about;
    open_stage("{1:0}", 1, 2);
    REQUIRE(theus_bell_init(&bell, false) == THEUS_OK);
    pthread_mutex_init(&ears, NULL);
    calls = 0;
}

static void
ring_bell(void)
{
    theus_listener *it = theus_bell_awaited(&bell) ? theus_bell_take(&bell) : NULL;
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

/* Thread 0 makes a version and rings; the others wait for it. If one is not called, all wait: a
 * deadlock. */
static void
bell_body(int thread)
{
    if (thread == 0) {
        (void)write_number(1);
        ring_bell();
        return;
    }
    int called = 0;
    if (theus_bell_add(&bell, &called) != THEUS_OK) {
        CHECK(sim_memory_fails());
        return;
    }
    pthread_mutex_lock(&ears);
    while (called == 0 && scene_version(&stage) == 0 && !sim_memory_fails()) {
        pthread_cond_wait(&heard, &ears);
    }
    bool waits = theus_bell_remove(&bell, same_listener, &called) != NULL;
    while (!waits && called == 0) { /* it has been taken: the call is on its way, and writes here */
        pthread_cond_wait(&heard, &ears);
    }
    pthread_mutex_unlock(&ears);
}

static void
close_bell(void)
{
    CHECK(bell.first == NULL);
    theus_bell_fini(&bell);
    pthread_mutex_destroy(&ears);
    close_stage();
}

/* ---- branches: two edits of one sealed map, whose nodes they borrow from one another ------- */

static theus_container *base;

static void
open_branches(const void *about)
{
    (void)about;
    open_stage("{1:0}", 1, 1);
    theus_container *edit = new_edit(stage.heap, THEUS_MAP);
    for (uint64_t key = 0; key < 40; key++) {
        REQUIRE(set_id(edit, key, key) == THEUS_OK);
    }
    base = sealed(edit);
}

static void
branches_body(int thread)
{
    uint64_t mine = 100 * ((uint64_t)thread + 1);
    theus_container *edit, *again;
    theus_container_retain(base);
    if (theus_edit_begin(base, &edit) == THEUS_OK) {
        bool done = set_id(edit, 3, mine) == THEUS_OK && set_id(edit, 50 + mine, mine) == THEUS_OK
                    && remove_id(edit, 7) == 1 && theus_edit_seal(edit) == THEUS_OK;
        CHECK(done || sim_memory_fails());
        if (done) {
            CHECK(get_id(edit, 3) == (int64_t)mine && get_id(edit, 7) == -1
                  && get_id(edit, 39) == 39);
            if (theus_edit_begin(edit, &again) == THEUS_OK) { /* a version after it, */
                done = set_id(again, 4, mine) == THEUS_OK && theus_edit_seal(again) == THEUS_OK;
                theus_container_release(edit); /* which inherits from it */
                edit = again;
                CHECK(!done
                      || (get_id(edit, 3) == (int64_t)mine && get_id(edit, 4) == (int64_t)mine));
            }
        }
        theus_container_release(edit);
    }
    CHECK(get_id(base, 3) == 3 && get_id(base, 7) == 7);
    theus_container_release(base);
}

static void
close_branches(void)
{
    check_sound(base);
    CHECK(get_id(base, 3) == 3 && get_id(base, 39) == 39 && get_id(base, 150) == -1);
    theus_container_release(base);
    close_stage();
}

/* ---- the door: one user at a time ---------------------------------------------------------- */

static theus_txn shared;
static int inside;

static void
open_door(const void *about)
{
    (void)about;
    open_stage("{1:0}", 1, 1);
    theus_version *version = theus_store_pin(stage.store);
    theus_txn_begin(&shared, stage.store, version, THEUS_SERIALIZABLE, false);
    theus_version_release(version);
    inside = 0;
}

static void
door_body(int thread)
{
    (void)thread;
    for (int i = 0; i < 3; i++) {
        theus_status status = theus_txn_enter(&shared);
        CHECK(status == THEUS_OK || status == THEUS_BUSY);
        if (status == THEUS_OK) {
            CHECK(inside++ == 0);
            CHECK(theus_txn_enter(&shared) == THEUS_OK); /* a callback comes back */
            sim_point("inside");
            theus_txn_leave(&shared);
            CHECK(--inside == 0);
            theus_txn_leave(&shared);
        }
    }
}

static void
close_door(void)
{
    theus_txn_abort(&shared);
    CHECK(theus_txn_enter(&shared) == THEUS_ENDED);
    close_stage();
}

static const sim_scene scenes[] = {
    {"pins and pruning", 3, 1, NULL, open_pins, pins_body, close_stage},
    {"readers of the ring", 2, 2, NULL, open_ring, ring_body, close_ring},
    {"two who send and one who takes", 3, 1, NULL, open_messages, messages_body, close_messages},
    {"signals of two", 2, 1, NULL, open_signals, signals_body, close_signals},
    {"the bell", 3, 2, NULL, open_bell, bell_body, close_bell},
    {"branches of one map", 2, 2, NULL, open_branches, branches_body, close_branches},
    {"the door of a transaction", 3, 2, NULL, open_door, door_body, close_door},
};

int
main(int argc, char **argv)
{
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    return check_result();
}
