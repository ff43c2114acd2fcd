/* Tickets: the gate, the order, the lease, the queue, and the bound on attempts against whoever may. */
#define _POSIX_C_SOURCE 200809L

#include "chain.h"
#include "nap.h"
#include "scene.h"

#include <sys/wait.h>
#include <unistd.h>

/* ---- short forms --------------------------------------------------------------------- */

/* Longer than any machine stands still. */
#define LONG_LEASE_NS (600 * THEUS_LEASE_NS)

/* What a transaction that reads and rewrites `path` leaves behind. */
static theus_footprint
footprint_at(const scene *scene, const char *path)
{
    session *tx = session_open(scene, THEUS_SERIALIZABLE);
    (void)get(tx, path);
    set(tx, path, "1");
    theus_footprint footprint;
    REQUIRE(theus_txn_footprint(&tx->txn, NULL, &footprint) == THEUS_OK);
    session_close(tx);
    return footprint;
}

/* A ticket whose attempt has begun. */
static theus_ticket *
take_for(const scene *scene, const theus_footprint *footprint, uint64_t lease_ns)
{
    theus_ticket *ticket;
    REQUIRE(theus_ticket_new(theus_store_turns(scene->store), footprint, lease_ns, 0, &ticket) == THEUS_OK);
    theus_turns_begin(theus_store_turns(scene->store), ticket->number);
    return ticket;
}

static theus_ticket *
take(const scene *scene, const char *path)
{
    theus_footprint footprint = footprint_at(scene, path);
    return take_for(scene, &footprint, LONG_LEASE_NS);
}

static void
give_back(const scene *scene, theus_ticket *ticket)
{
    theus_ticket_free(theus_store_turns(scene->store), ticket);
}

static theus_turn_facts
facts_of(const scene *scene)
{
    theus_turn_facts facts;
    theus_turns_read_facts(theus_store_turns(scene->store), &facts);
    return facts;
}

/* What becomes of a blind write at `path`, led by ticket `number`. */
static theus_outcome
try_set(const scene *scene, const char *path, uint64_t number)
{
    session *tx = session_open(scene, THEUS_SERIALIZABLE);
    tx->txn.turn = number;
    set(tx, path, "5");
    theus_outcome outcome = session_commit(tx);
    session_close(tx);
    return outcome;
}

typedef struct {
    theus_waiter waiter;
    int woken;
} counted_waiter;

static void
count_wake(theus_waiter *waiter)
{
    ((counted_waiter *)waiter)->woken++;
}

static theus_turn
await(const scene *scene, counted_waiter *waiter, uint64_t number, bool gate, const theus_footprint *footprint,
      uint64_t thread)
{
    uint64_t until_ns;
    *waiter = (counted_waiter){.waiter.wake = count_wake};
    return theus_turns_wait(theus_store_turns(scene->store), &waiter->waiter, number, gate, footprint, thread,
                            &until_ns);
}

static const char *const DATA = "{1:{1:1 2:2 3:3 4:4} 2:{1:1}}";

/* ---- the gate ------------------------------------------------------------------------------ */

static void
test_gate(void)
{
    scene scene;
    scene_open(&scene, DATA);
    CHECK(try_set(&scene, "1.1", 0) == THEUS_COMMITTED);
    theus_ticket *ticket = take(&scene, "1.1");
    CHECK(try_set(&scene, "1.1", 0) == THEUS_HELD_UP);
    CHECK(try_set(&scene, "1", 0) == THEUS_HELD_UP); /* what is above it, too */
    CHECK(try_set(&scene, "2.1", 0) == THEUS_COMMITTED); /* the others pass */
    CHECK(try_set(&scene, "1.2", 0) == THEUS_COMMITTED);
    CHECK(try_set(&scene, "1.1", ticket->number) == THEUS_COMMITTED); /* and the holder */
    give_back(&scene, ticket);
    CHECK(try_set(&scene, "1.1", 0) == THEUS_COMMITTED);
    CHECK(facts_of(&scene).tickets == 1 && facts_of(&scene).tickets_held == 0);
    scene_close(&scene);
}

/* Held up, a transaction is open, and nothing has happened to it. */
static void
test_again(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_ticket *ticket = take(&scene, "1.1");
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1.1", "7");
    CHECK(session_commit(tx) == THEUS_HELD_UP);
    CHECK(scene_is(&scene, DATA));
    set(tx, "1.2", "8");
    CHECK(session_commit(tx) == THEUS_HELD_UP && tx->txn.held_up == 2);
    give_back(&scene, ticket);
    session_done(tx);
    CHECK(scene_is(&scene, "{1:{1:7 2:8 3:3 4:4} 2:{1:1}}"));
    scene_close(&scene);
}

/* A ticket that is granted between the gate and the publication stops it. */
static void
test_no_commit_slips_past(void)
{
    scene scene;
    scene_open(&scene, DATA);
    uint64_t grants;
    CHECK(!theus_turns_are_out(theus_store_turns(scene.store), &grants));
    theus_ticket *ticket = take(&scene, "1.1");
    theus_version *current = theus_store_pin(scene.store), *next;
    REQUIRE(theus_version_new(NULL, 0, current->root, current->signals, NULL, &next) == THEUS_OK);
    CHECK(theus_store_publish(scene.store, current, next, grants) == THEUS_SWAP_LOST);
    CHECK(theus_turns_are_out(theus_store_turns(scene.store), &grants));
    CHECK(theus_store_publish(scene.store, current, next, grants) == THEUS_SWAPPED);
    theus_version_release(next);
    theus_version_release(current);
    give_back(&scene, ticket);
    scene_close(&scene);
}

/* ---- the order ---------------------------------------------------------------------------------- */

static void
test_order(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_footprint one = footprint_at(&scene, "1.1");
    theus_ticket *first = take(&scene, "1.1"), *beside = take(&scene, "2.1"), *second = take(&scene, "1.1"),
                 *third = take(&scene, "1.1");
    counted_waiter w1, w2, w3, w4, gate;
    CHECK(await(&scene, &w1, first->number, false, &one, 0) == THEUS_TURN_CAME);
    CHECK(await(&scene, &w2, beside->number, false, &one, 0) == THEUS_TURN_CAME); /* they do not meet */
    CHECK(await(&scene, &gate, 0, true, &one, 0) == THEUS_TURN_AWAITED);
    CHECK(await(&scene, &w4, third->number, false, &one, 0) == THEUS_TURN_AWAITED);
    CHECK(await(&scene, &w3, second->number, false, &one, 0) == THEUS_TURN_AWAITED);
    CHECK(facts_of(&scene).queue_depth == 3 && facts_of(&scene).waits == 3);
    CHECK(try_set(&scene, "1.1", second->number) == THEUS_HELD_UP);
    give_back(&scene, beside);
    CHECK(w3.woken == 0 && w4.woken == 0 && gate.woken == 0);
    give_back(&scene, first);
    CHECK(w3.woken == 1 && w4.woken == 0);
    CHECK(gate.woken == 1); /* to count that it was held up, and be held up again */
    CHECK(await(&scene, &gate, 0, true, &one, 0) == THEUS_TURN_AWAITED);
    give_back(&scene, third); /* given up while it waits */
    CHECK(theus_turns_leave(theus_store_turns(scene.store), &w4.waiter) && w4.woken == 0);
    CHECK(try_set(&scene, "1.1", second->number) == THEUS_COMMITTED);
    give_back(&scene, second);
    CHECK(gate.woken == 1 && facts_of(&scene).queue_depth == 0);
    CHECK(!theus_turns_leave(theus_store_turns(scene.store), &gate.waiter)); /* it was woken */
    scene_close(&scene);
}

/* Turns that do not meet may come together, but only so many: what they hold up is to stay a small part of the whole. */
static void
test_few_at_once(void)
{
    scene scene;
    scene_open(&scene, DATA);
    static const char *const paths[] = {"1.1", "1.2", "2.1"};
    theus_ticket *tickets[3];
    counted_waiter waiter;
    theus_footprint none = {0};
    for (int i = 0; i < 3; i++) {
        tickets[i] = take(&scene, paths[i]);
    }
    CHECK(await(&scene, &waiter, tickets[1]->number, false, &none, 0) == THEUS_TURN_CAME);
    CHECK(await(&scene, &waiter, tickets[2]->number, false, &none, 0) == THEUS_TURN_AWAITED);
    give_back(&scene, tickets[1]);
    CHECK(waiter.woken == 1);
    CHECK(await(&scene, &waiter, tickets[2]->number, false, &none, 0) == THEUS_TURN_CAME);
    give_back(&scene, tickets[0]);
    give_back(&scene, tickets[2]);
    scene_close(&scene);
}

/* Who is held up again and again stands in line. */
static void
test_stands_in_line(void)
{
    scene scene;
    scene_open(&scene, DATA);
    session *tx = session_open(&scene, THEUS_SERIALIZABLE);
    set(tx, "1.1", "9");
    theus_ticket *ticket = take(&scene, "1.1");
    for (int i = 1; i < THEUS_TURN_FAILURES; i++) {
        CHECK(session_commit(tx) == THEUS_HELD_UP && tx->txn.ticket == NULL);
    }
    CHECK(session_commit(tx) == THEUS_HELD_UP && tx->txn.ticket != NULL);
    theus_ticket *younger = take(&scene, "1.1");
    give_back(&scene, ticket);
    session_done(tx); /* though a younger one is there, and the ticket goes with the transaction */
    give_back(&scene, younger);
    CHECK(facts_of(&scene).tickets_held == 0);
    scene_close(&scene);
}

/* A thread must not wait for a task that it runs itself, directly or through others. */
static void
test_own_task(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_turns *turns = theus_store_turns(scene.store);
    theus_footprint one = footprint_at(&scene, "1.1"), two = footprint_at(&scene, "2.1"), both = one;
    theus_footprint_add(&both, &two);
    theus_ticket *task, *bridge;
    REQUIRE(theus_ticket_new(turns, &one, LONG_LEASE_NS, 77, &task) == THEUS_OK);
    theus_turns_begin(turns, task->number);
    counted_waiter waiter;
    CHECK(await(&scene, &waiter, 0, true, &one, 77) == THEUS_TURN_BLOCKED);
    CHECK(await(&scene, &waiter, 0, true, &two, 77) == THEUS_TURN_CAME);
    CHECK(await(&scene, &waiter, 0, true, &one, 78) == THEUS_TURN_AWAITED); /* another thread may */
    CHECK(theus_turns_leave(turns, &waiter.waiter));
    CHECK(await(&scene, &waiter, 0, true, &one, 0) == THEUS_TURN_AWAITED); /* a task, too */
    CHECK(theus_turns_leave(turns, &waiter.waiter));
    REQUIRE(theus_ticket_new(turns, &both, LONG_LEASE_NS, 0, &bridge) == THEUS_OK);
    theus_turns_begin(turns, bridge->number);
    CHECK(await(&scene, &waiter, 0, true, &two, 77) == THEUS_TURN_BLOCKED);
    give_back(&scene, bridge);
    give_back(&scene, task);
    scene_close(&scene);
}

/* ---- the lease ------------------------------------------------------------------------------------- */

static void
test_lease(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_footprint one = footprint_at(&scene, "1.1"), two = footprint_at(&scene, "2.1"), both = one;
    theus_footprint_add(&both, &two);
    theus_ticket *dead = take_for(&scene, &one, 1000000); /* whose holder never comes back */
    theus_ticket *stuck = take_for(&scene, &both, LONG_LEASE_NS); /* in line behind it, and stuck as well */
    CHECK(try_set(&scene, "2.1", 0) == THEUS_HELD_UP);
    theus_sleep_ns(40000000);
    CHECK(try_set(&scene, "2.1", 0) == THEUS_HELD_UP); /* the first is gone: now the lease of the second runs */
    CHECK(dead->number == 0 && stuck->number != 0 && facts_of(&scene).leases_expired == 1);
    CHECK(stuck->expires_ns > theus_clock_tick_ns());
    stuck->expires_ns = 1; /* as if we had waited */
    CHECK(try_set(&scene, "2.1", 0) == THEUS_COMMITTED);
    CHECK(facts_of(&scene).leases_expired == 2 && facts_of(&scene).tickets_held == 0);
    counted_waiter waiter;
    CHECK(await(&scene, &waiter, 2, false, &both, 0) == THEUS_TURN_CAME); /* it works on, like anybody */
    CHECK(try_set(&scene, "2.1", 2) == THEUS_COMMITTED);
    give_back(&scene, dead);
    give_back(&scene, stuck);
    scene_close(&scene);
}

static void
test_close(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_footprint one = footprint_at(&scene, "1.1");
    theus_ticket *ticket = take(&scene, "1.1");
    counted_waiter waiter, late;
    CHECK(await(&scene, &waiter, 0, true, &one, 0) == THEUS_TURN_AWAITED);
    theus_turns_close(theus_store_turns(scene.store));
    CHECK(waiter.woken == 1);
    CHECK(await(&scene, &late, 0, true, &one, 0) == THEUS_TURN_CLOSED);
    give_back(&scene, ticket);
    scene_close(&scene);
}

/* A child begins with an empty line; what it inherited can still be given back. */
static void
test_fork(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_footprint one = footprint_at(&scene, "1.1");
    theus_ticket *ticket = take(&scene, "1.1");
    counted_waiter waiter;
    CHECK(await(&scene, &waiter, 0, true, &one, 0) == THEUS_TURN_AWAITED);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        CHECK(try_set(&scene, "1.1", 0) == THEUS_COMMITTED);
        CHECK(facts_of(&scene).tickets_held == 0 && facts_of(&scene).queue_depth == 0);
        theus_ticket *own = take(&scene, "1.1");
        CHECK(theus_turns_leave(theus_store_turns(scene.store), &waiter.waiter));
        give_back(&scene, ticket);
        CHECK(facts_of(&scene).tickets_held == 1);
        give_back(&scene, own);
        _exit(check_result());
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(try_set(&scene, "1.1", 0) == THEUS_HELD_UP); /* here it stands as before */
    give_back(&scene, ticket);
    CHECK(waiter.woken == 1);
    scene_close(&scene);
}

static void
test_nomem(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_footprint one = footprint_at(&scene, "1.1");
    theus_ticket *ticket = take(&scene, "1.1"), *none = NULL;
    theus_alloc_fail_at(1);
    CHECK(theus_ticket_new(theus_store_turns(scene.store), &one, 1, 0, &none) == THEUS_NOMEM && none == NULL);
    theus_alloc_fail_at(-1);
    CHECK(facts_of(&scene).tickets_held == 1);

    theus_outcome outcome = THEUS_COMMIT_FAILED;
    for (long n = 1; outcome == THEUS_COMMIT_FAILED; n++) { /* the last one is the ticket to stand in line with */
        session *tx = session_open(&scene, THEUS_SERIALIZABLE);
        set(tx, "1.1", "9");
        for (int i = 1; i < THEUS_TURN_FAILURES; i++) {
            CHECK(session_commit(tx) == THEUS_HELD_UP);
        }
        theus_alloc_fail_at(n);
        outcome = session_commit(tx);
        theus_alloc_fail_at(-1);
        CHECK(outcome == THEUS_HELD_UP || tx->status == THEUS_NOMEM);
        CHECK((tx->txn.ticket != NULL) == (outcome == THEUS_HELD_UP));
        session_close(tx);
    }

    theus_chain chain;
    theus_chain_init(&chain, theus_store_turns(scene.store), 0, 0);
    theus_alloc_fail_at(1);
    CHECK(theus_chain_failed(&chain, &one, 0, THEUS_TURN_PASSED, 0, 1000) == THEUS_NOMEM);
    theus_alloc_fail_at(-1);
    CHECK(chain.ticket == NULL);
    theus_chain_end(&chain, false, NULL);
    give_back(&scene, ticket);
    scene_close(&scene);
}

/* ---- the bound -------------------------------------------------------------------------------------- */

typedef struct {
    const scene *scene;
    uint32_t attempt;
    const char *(*victim)(uint32_t attempt); /* what an attempt reads */
} adversary;

static const char *
always_the_same(uint32_t attempt)
{
    (void)attempt;
    return "1.1";
}

static const char *
always_another(uint32_t attempt)
{
    static const char *const paths[] = {"1.1", "1.2", "1.3", "1.4", "2.1", "2.5", "2.3", "2.4"};
    return paths[attempt % 8];
}

/* Between each attempt's read and its commit somebody else writes what it read, if the gate lets him. */
static uint32_t
attempts_against(const scene *scene, const char *(*victim)(uint32_t attempt), theus_ticket **older)
{
    theus_chain chain;
    theus_chain_init(&chain, theus_store_turns(scene->store), 0, 0);
    REQUIRE(theus_chain_line_up(&chain) == THEUS_OK);
    for (uint32_t attempt = 0;; attempt++) {
        if (theus_chain_is_in_line(&chain)) {
            counted_waiter waiter;
            theus_turn turn = await(scene, &waiter, theus_chain_number(&chain), false, &chain.footprint, 0);
            if (turn == THEUS_TURN_AWAITED) {
                /* The older ticket's run commits what this one is about to read, and ends. */
                REQUIRE(older != NULL && *older != NULL);
                CHECK(try_set(scene, victim(attempt), (*older)->number) == THEUS_COMMITTED);
                give_back(scene, *older);
                *older = NULL;
                CHECK(waiter.woken == 1);
            }
        }
        theus_chain_begin(&chain);
        session *tx = session_open(scene, THEUS_SERIALIZABLE);
        tx->txn.turn = theus_chain_number(&chain);
        (void)get(tx, victim(attempt));
        set(tx, "2.8", "1");
        if (older != NULL && *older != NULL) { /* may do what it likes: it did not say that it would */
            CHECK(try_set(scene, victim(attempt), (*older)->number) == THEUS_COMMITTED);
        }
        (void)try_set(scene, victim(attempt), 0);
        theus_outcome outcome = session_commit(tx);
        REQUIRE(outcome == THEUS_CONFLICTED || outcome == THEUS_COMMITTED);
        if (outcome == THEUS_CONFLICTED) {
            REQUIRE(theus_chain_failed(&chain, &tx->why.footprint, tx->why.expected, tx->why.found, 0, 1000)
                    == THEUS_OK);
        }
        session_close(tx);
        if (outcome == THEUS_COMMITTED) {
            theus_chain_end(&chain, true, NULL);
            return attempt + 1;
        }
    }
}

static void
test_bound(void)
{
    scene scene;
    scene_open(&scene, DATA);
    CHECK(attempts_against(&scene, always_the_same, NULL) == THEUS_TURN_FAILURES + 1);
    CHECK(attempts_against(&scene, always_another, NULL) == THEUS_TURN_FAILURES + 2);
    theus_ticket *older = take(&scene, "2.9"); /* and then writes elsewhere */
    CHECK(attempts_against(&scene, always_another, &older) <= THEUS_TURN_FAILURES + 2);
    CHECK(facts_of(&scene).tries_max == THEUS_TURN_FAILURES + 2);
    CHECK(facts_of(&scene).tries[THEUS_TURN_FAILURES] == 1);
    CHECK(facts_of(&scene).tickets_held == 0);
    scene_close(&scene);
}

/* A body that is long beside the others takes its ticket after its first failure. */
static void
test_long_body(void)
{
    scene scene;
    scene_open(&scene, DATA);
    theus_chain chain;
    theus_chain_init(&chain, theus_store_turns(scene.store), 0, 0);
    theus_footprint one = footprint_at(&scene, "1.1");
    REQUIRE(theus_chain_failed(&chain, &one, 10, 10 + THEUS_TURN_PASSED - 1, 0, 1000) == THEUS_OK);
    CHECK(!theus_chain_is_in_line(&chain) && theus_chain_number(&chain) == 0);
    REQUIRE(theus_chain_failed(&chain, &one, 80, 81, 0, 20000000) == THEUS_OK);
    CHECK(theus_chain_is_in_line(&chain) && chain.ticket->lease_ns == 2 * THEUS_LEASE_NS);
    theus_chain_end(&chain, false, NULL);
    theus_ticket *outer = NULL;
    REQUIRE(theus_ticket_new(theus_store_turns(scene.store), &one, LONG_LEASE_NS, 0, &outer) == THEUS_OK);
    uint64_t number = outer->number;
    theus_chain_init(&chain, theus_store_turns(scene.store), number, 0);
    REQUIRE(theus_chain_failed(&chain, &one, 10, 1000, 9, 1000) == THEUS_OK);
    CHECK(theus_chain_number(&chain) == number && chain.ticket == NULL); /* inside a holder's body it passes on that ticket */
    theus_turns_drop(theus_store_turns(scene.store), number);
    CHECK(facts_of(&scene).tickets_held == 0);
    REQUIRE(theus_chain_failed(&chain, &one, 10, 1000, 9, 1000) == THEUS_OK);
    CHECK(theus_chain_is_in_line(&chain) && theus_chain_number(&chain) != number); /* that is over: one of its own */
    theus_chain_end(&chain, false, NULL);
    theus_turns_drop(theus_store_turns(scene.store), number); /* once more */
    theus_ticket_free(theus_store_turns(scene.store), outer);
    CHECK(facts_of(&scene).tickets_held == 0);
    scene_close(&scene);
}

/* ---- the queue ----------------------------------------------------------------------------------------- */

static void
fail_often(const scene *scene, uint64_t body_ns, int times)
{
    theus_footprint one = footprint_at(scene, "1.1");
    for (int i = 0; i < times; i++) {
        theus_chain chain;
        theus_chain_init(&chain, theus_store_turns(scene->store), 0, 0);
        REQUIRE(theus_chain_failed(&chain, &one, 1, 2, 0, body_ns) == THEUS_OK);
        theus_chain_end(&chain, true, NULL);
    }
}

static void
test_queue(void)
{
    scene scene;
    scene_open(&scene, DATA);
    fail_often(&scene, THEUS_HAND_ON_NS / 2, 400);
    CHECK(!facts_of(&scene).queueing); /* handing on would cost more than it saves */
    fail_often(&scene, THEUS_LEASE_NS, 400); /* so long that the queue does not end while we stand still */
    CHECK(facts_of(&scene).queueing);

    theus_chain first, second, nested;
    theus_chain_init(&first, theus_store_turns(scene.store), 0, 0);
    theus_chain_init(&second, theus_store_turns(scene.store), 0, 0);
    REQUIRE(theus_chain_line_up(&first) == THEUS_OK && theus_chain_line_up(&second) == THEUS_OK);
    theus_chain_init(&nested, theus_store_turns(scene.store), first.ticket->number, 0);
    REQUIRE(theus_chain_line_up(&nested) == THEUS_OK);
    CHECK(nested.ticket == NULL && theus_chain_number(&nested) == first.ticket->number);
    counted_waiter waiter;
    CHECK(await(&scene, &waiter, first.ticket->number, false, &first.footprint, 0) == THEUS_TURN_CAME);
    CHECK(try_set(&scene, "1.1", 0) == THEUS_COMMITTED); /* before it begins everybody passes */
    theus_chain_begin(&first);
    CHECK(await(&scene, &waiter, second.ticket->number, false, &first.footprint, 0) == THEUS_TURN_AWAITED);
    CHECK(try_set(&scene, "2.1", 0) == THEUS_COMMITTED); /* nobody has fought for this */
    CHECK(try_set(&scene, "1.1", 0) == THEUS_HELD_UP);
    theus_footprint done = footprint_at(&scene, "1.1");
    theus_chain_end(&first, true, &done);
    CHECK(waiter.woken == 1);
    theus_chain_end(&second, true, &done);

    uint32_t tries = attempts_against(&scene, always_the_same, NULL); /* in line or not */
    CHECK(tries <= 2);
    tries = attempts_against(&scene, always_another, NULL);
    CHECK(tries <= 3);
    scene_close(&scene);
}

/* ---- threads ----------------------------------------------------------------------------------------------- */

enum { THREADS = 8, ROUNDS = 250 };

static scene shared;

/* Begins by the number that is newest at this moment, which may be gone by the time it is asked for. */
static session *
open_newest(void)
{
    session *tx = calloc(1, sizeof(*tx));
    REQUIRE(tx != NULL);
    theus_version *version = theus_store_pin(shared.store);
    theus_txn_begin(&tx->txn, shared.store, version, THEUS_SERIALIZABLE, false);
    theus_version_release(version);
    tx->txn.apply = fake_apply;
    tx->txn.embedder = shared.heap;
    return tx;
}

static void
block(uint64_t number, bool gate, const theus_footprint *footprint)
{
    nap sleeper = {.waiter.wake = wake_nap,
                   .lock = PTHREAD_MUTEX_INITIALIZER,
                   .changed = PTHREAD_COND_INITIALIZER};
    uint64_t until_ns;
    theus_turn turn = theus_turns_wait(theus_store_turns(shared.store), &sleeper.waiter, number, gate, footprint,
                                       theus_thread_id(), &until_ns);
    REQUIRE(turn == THEUS_TURN_CAME || turn == THEUS_TURN_AWAITED);
    pthread_mutex_lock(&sleeper.lock);
    while (turn == THEUS_TURN_AWAITED && !sleeper.woken) {
        pthread_cond_wait(&sleeper.changed, &sleeper.lock); /* no lease ends here: everybody gives back */
    }
    pthread_mutex_unlock(&sleeper.lock);
    pthread_cond_destroy(&sleeper.changed);
    pthread_mutex_destroy(&sleeper.lock);
}

static void *
count_up(void *arg)
{
    (void)arg;
    theus_turns *turns = theus_store_turns(shared.store);
    for (int i = 0; i < ROUNDS; i++) {
        theus_chain chain;
        theus_outcome outcome;
        theus_chain_init(&chain, turns, 0, 0);
        REQUIRE(theus_chain_line_up(&chain) == THEUS_OK);
        do {
            if (theus_chain_is_in_line(&chain)) {
                block(theus_chain_number(&chain), false, &chain.footprint);
            }
            theus_chain_begin(&chain);
            session *tx = open_newest();
            tx->txn.turn = theus_chain_number(&chain);
            int64_t now = get(tx, "1");
            if (i % 16 == 0) {
                theus_yield(); /* now and then a body is long */
            }
            char shown[24];
            snprintf(shown, sizeof(shown), "%lld", (long long)now + 1);
            set(tx, "1", shown);
            while ((outcome = session_commit(tx)) == THEUS_HELD_UP) {
                block(tx->txn.turn, true, &tx->why.footprint);
            }
            REQUIRE(outcome != THEUS_COMMIT_FAILED);
            if (outcome == THEUS_CONFLICTED) {
                REQUIRE(theus_chain_failed(&chain, &tx->why.footprint, tx->why.expected, tx->why.found,
                                           tx->txn.held_up, 60000)
                        == THEUS_OK);
            }
            session_close(tx);
        } while (outcome != THEUS_COMMITTED);
        theus_chain_end(&chain, true, NULL);
    }
    return NULL;
}

static theus_turn_facts
contend(void)
{
    theus_store_limits limits = {.ring_capacity = 16, .history_count = 4};
    scene_open_with(&shared, "{1:0}", &limits);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, count_up, NULL) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
    }
    session *tx = open_newest();
    CHECK(get(tx, "1") == THREADS * ROUNDS);
    session_close(tx);
    theus_turn_facts facts = facts_of(&shared);
    scene_close(&shared);
    return facts;
}

static void
test_threads(void)
{
    theus_turn_facts facts = contend();
    for (int i = 0; i < 4 && facts.leases_expired != 0; i++) {
        facts = contend(); /* a thread was kept from the processor for a second: nothing is promised then */
    }
    CHECK(facts.tries_max <= THEUS_TURN_FAILURES + 2 && facts.leases_expired == 0);
    CHECK(facts.tickets_held == 0 && facts.queue_depth == 0);
}

int
main(void)
{
    test_gate();
    test_again();
    test_no_commit_slips_past();
    test_order();
    test_few_at_once();
    test_stands_in_line();
    test_own_task();
    test_lease();
    test_close();
    test_fork();
    test_nomem();
    test_bound();
    test_long_body();
    test_queue();
    test_threads();
    return check_result();
}
