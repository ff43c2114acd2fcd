/* Tickets, the gate, the lease and the queue, schedule by schedule: everybody gets through, within the
 * bound that turn.h proves, and nobody waits for ever (a wait that nobody ends is a deadlock
 * here, and a failure).
 *
 * A chain takes its ticket after its first failure already: it is told that very many commits
 * came before its own. */
#include "switch.h" /* here, too: locks of the test's own */

#include "schedule.h"

#include "../nap.h"
#include "../scene.h"
#include "chain.h"

static scene stage;
static theus_ticket *held; /* by one who does nothing with it */
static int counted[SIM_THREADS];
static uint64_t led_by[2 * SIM_THREADS]; /* by version: the ticket of its commit, or 0 */
static bool closed;

static theus_turns *
turns(void)
{
    return theus_store_turns(stage.store);
}

/* ---- waiting ------------------------------------------------------------------------------- */

static void
nap_until(nap *sleeper, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    pthread_mutex_lock(&sleeper->lock);
    while (!sleeper->woken && theus_clock_tick_ns() < until_ns) {
        pthread_cond_timedwait(&sleeper->changed, &sleeper->lock, &until);
    }
    bool woken = sleeper->woken;
    pthread_mutex_unlock(&sleeper->lock);
    if (!woken
        && !theus_turns_leave(turns(),
                              &sleeper->waiter)) { /* somebody is about to wake us, in our memory */
        pthread_mutex_lock(&sleeper->lock);
        while (!sleeper->woken) {
            pthread_cond_wait(&sleeper->changed, &sleeper->lock);
        }
        pthread_mutex_unlock(&sleeper->lock);
    }
}

/* Waits once. False: the line is closed. */
static bool
block(uint64_t number, bool gate, const theus_footprint *footprint)
{
    nap sleeper = {.waiter.wake = wake_nap};
    uint64_t until_ns;
    pthread_mutex_init(&sleeper.lock, NULL);
    theus_turn turn = theus_turns_wait(turns(), &sleeper.waiter, number, gate, footprint,
                                       theus_thread_id(), &until_ns);
    CHECK(turn != THEUS_TURN_BLOCKED);
    if (turn == THEUS_TURN_AWAITED) {
        nap_until(&sleeper, until_ns);
    }
    pthread_mutex_destroy(&sleeper.lock);
    return turn != THEUS_TURN_CLOSED;
}

/* ---- one run, as an engine does it --------------------------------------------------------- */

typedef enum { DONE, AGAIN, GIVEN_UP } progress;

enum { BLIND = 100 }; /* instead of a key to read beside key 1: added to one that is overwritten, and nothing else */

/* Adds one to key 1; reads another key before that. */
static theus_status
count_up(theus_txn *txn, uint64_t also)
{
    uint32_t pos;
    theus_value value;
    fake_atom *other = fake_new(also), *key = fake_new(1);
    theus_find found = theus_cell_lookup(txn->root, NULL, other->hash, other, &pos, &value);
    if (found == THEUS_FOUND) {
        found = theus_cell_lookup(txn->root, NULL, key->hash, key, &pos, &value);
    }
    theus_status status = THEUS_NOMEM;
    if (found == THEUS_FOUND) {
        fake_atom *next = fake_new(((fake_atom *)theus_value_atom(value))->id + 1);
        theus_value number = theus_value_of_atom(next);
        status = theus_cell_store(txn->root, NULL, key->hash, key, number);
        fake_release(next);
    }
    fake_release(other);
    fake_release(key);
    return status;
}

/* Overwrites a key, whatever is there. */
static theus_status
overwrite(theus_txn *txn, uint64_t id)
{
    fake_atom *key = fake_new(id), *number = fake_new(9);
    theus_status status = theus_cell_store(txn->root, NULL, key->hash, key, theus_value_of_atom(number));
    fake_release(key);
    fake_release(number);
    return status;
}

static progress
attempt(theus_chain *chain, uint64_t also)
{
    theus_txn txn;
    theus_conflict why = {0};
    theus_chain_begin(chain);
    theus_version *version = theus_store_pin(stage.store), *made = NULL;
    theus_status status;
    theus_outcome outcome;
    theus_txn_begin(&txn, stage.store, version, THEUS_SERIALIZABLE, false);
    theus_version_release(version);
    txn.turn = theus_chain_number(chain);
    status = also > BLIND ? overwrite(&txn, also - BLIND) : count_up(&txn, also);
    if (status != THEUS_OK) {
        CHECK(sim_memory_fails());
        theus_txn_abort(&txn);
        return GIVEN_UP;
    }
    while ((outcome = theus_txn_commit(&txn, NULL, &made, &why, &status)) == THEUS_HELD_UP) {
        if (!block(txn.turn, true, &why.footprint)) {
            theus_txn_abort(&txn);
            return GIVEN_UP;
        }
    }
    CHECK(outcome != THEUS_COMMIT_FAILED || sim_memory_fails());
    progress result = outcome == THEUS_COMMITTED ? DONE : GIVEN_UP;
    if (outcome == THEUS_CONFLICTED) {
        status = theus_chain_failed(chain, &why.footprint, 0, THEUS_TURN_PASSED, 0, 1000);
        result = status == THEUS_OK ? AGAIN : GIVEN_UP;
    }
    if (result == DONE) {
        led_by[made->number] = theus_chain_number(chain);
    }
    theus_conflict_fini(&why);
    theus_version_release(made);
    return result;
}

/* The n-th attempt reads also[n] (the last one again and again). The attempts that failed. */
static int
run_chain(int thread, const uint64_t *also, int count)
{
    theus_chain chain;
    int failures = 0;
    progress result = AGAIN;
    theus_chain_init(&chain, turns(), 0, 0);
    if (theus_chain_line_up(&chain) != THEUS_OK) {
        result = GIVEN_UP;
    }
    for (; result == AGAIN; failures += result == AGAIN) {
        bool goes_on = true;
        while (goes_on && theus_chain_is_in_line(&chain)
               && !theus_turns_has_come(turns(), theus_chain_number(&chain))) {
            goes_on = block(theus_chain_number(&chain), false, &chain.footprint);
        }
        result =
            goes_on ? attempt(&chain, also[failures < count ? failures : count - 1]) : GIVEN_UP;
    }
    CHECK(result == DONE || sim_memory_fails() || closed);
    counted[thread] += result == DONE;
    theus_chain_end(&chain, result == DONE, NULL);
    return failures;
}

/* ---- scenes -------------------------------------------------------------------------------- */

static void
open_line(const void *about)
{
    theus_store_limits limits = {.ring_capacity = 1, .history_count = 2};
    scene_open_with(&stage, "{1:0 2:0 3:0}", &limits);
    memset(counted, 0, sizeof(counted));
    memset(led_by, 0, sizeof(led_by));
    closed = false;
    held = NULL;
    if (about != NULL) { /* somebody has a ticket for everything, and will not come */
        theus_footprint all;
        theus_footprint_fill(&all);
        REQUIRE(theus_ticket_new(turns(), &all, THEUS_LEASE_NS, 0, &held) == THEUS_OK);
        theus_turns_begin(turns(), held->number);
    }
}

static void
close_line(void)
{
    int total = 0;
    for (int i = 0; i < SIM_THREADS; i++) {
        total += counted[i];
    }
    theus_ticket_free(turns(), held);
    theus_version *newest = theus_store_pin(stage.store);
    CHECK(get_id(newest->root, 1) == total);
    theus_version_release(newest);
    theus_turn_facts facts;
    theus_turns_read_facts(turns(), &facts);
    CHECK(facts.tickets_held == 0 && facts.queue_depth == 0);
    scene_close(&stage);
}

/* Who has a ticket, and relies on what the ticket says, does not fail again. */
static void
same_body(int thread)
{
    const uint64_t also[] = {1};
    CHECK(run_chain(thread, also, 1) <= 1 || sim_memory_fails());
}

static void
twice_body(int thread)
{
    same_body(thread);
    same_body(thread);
}

static int most_failures; /* of the one that goes elsewhere, in all schedules */

/* Who goes elsewhere with a ticket may fail once more, and then has all the engine to itself. */
static void
elsewhere_body(int thread)
{
    const uint64_t also[] = {2, 3, 2}, blind[] = {BLIND + 1 + (uint64_t)thread};
    if (thread != 0) {
        CHECK(run_chain(thread, blind, 1) == 0);
        return;
    }
    int failures = run_chain(thread, also, 3);
    CHECK(failures <= 2 || sim_memory_fails());
    most_failures = failures > most_failures ? failures : most_failures;
}

static void
close_elsewhere(void)
{
    counted[1] = counted[2] = 0; /* those have not counted up */
    close_line();
}

/* The lease of one who does not come ends, and not before its time. */
static void
lease_body(int thread)
{
    uint64_t began = theus_clock_tick_ns();
    same_body(thread);
    CHECK(theus_clock_tick_ns() >= began + THEUS_LEASE_NS || sim_memory_fails());
}

static void
open_queue(const void *about)
{
    open_line(about);
    theus_body body = {0, 0}; /* that of all chains here */
    theus_footprint all;
    theus_footprint_fill(&all);
    for (int i = 0; i < 200; i++) {
        theus_turn_queue_note_failure(&turns()->queue, &body, &all, 0, THEUS_LEASE_NS);
    }
    CHECK(theus_turn_queue_is_on(&turns()->queue));
}

/* One after the other, so nobody fails. */
static void
queue_body(int thread)
{
    const uint64_t also[] = {1};
    CHECK(run_chain(thread, also, 1) == 0);
}

/* In the order of arrival, which is that of the tickets. */
static void
close_queue(void)
{
    for (uint64_t version = 1; version <= scene_version(&stage); version++) {
        CHECK(led_by[version] > led_by[version - 1]);
    }
    close_line();
}

static void
close_body(int thread)
{
    if (thread == 0) {
        closed = true;
        theus_turns_close(turns());
    }
    else {
        same_body(thread);
    }
}

static const sim_scene scenes[] = {
    {"tickets for one key", 2, 2, NULL, open_line, twice_body, close_line},
    {"three tickets for one key", 3, 1, NULL, open_line, same_body, close_line},
    {"tickets, going elsewhere", 3, 1, NULL, open_line, elsewhere_body, close_elsewhere},
    {"a lease ends", 2, 1, "held", open_line, lease_body, close_line},
    {"the queue", 3, 1, NULL, open_queue, queue_body, close_queue},
    {"the line is closed", 3, 1, "held", open_line, close_body, close_line},
};

int
main(int argc, char **argv)
{
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    CHECK(argc > 1 || most_failures == 2); /* else it was explored where nothing happens */
    return check_result();
}
