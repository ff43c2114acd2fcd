/* The queue: whom it asks to line up, what it learns of each turn, when it ends. */
#include "chain.h"
#include "check.h"

static const theus_body HOT = {1, 11}, COLD = {2, 22};
enum { SHORT_NS = 1000, LONG_NS = 60000, AGES_NS = 1000000000 }; /* ages: a queue of such bodies does not end while a machine stands still */

static theus_footprint
footprint_at(int stripe)
{
    theus_footprint footprint = {0};
    footprint.relies.here[0] = footprint.changes.here[0] = (uint64_t)1 << stripe;
    return footprint;
}

static bool
asks_for(theus_turn_queue *queue, theus_body body)
{
    theus_footprint footprint;
    uint64_t body_ns;
    return theus_turn_queue_asks_for(queue, &body, false, &footprint, &body_ns);
}

static void
fail(theus_turn_queue *queue, theus_body body, int stripe, uint64_t body_ns, int times)
{
    theus_footprint footprint = footprint_at(stripe);
    for (int i = 0; i < times; i++) {
        theus_turn_queue_note_failure(queue, &body, &footprint, 1, body_ns);
    }
}

/* A turn with this ticket, during which the tickets up to `youngest` were taken. */
static void
turn(theus_turn_queue *queue, theus_body body, int stripe, uint64_t ticket, uint64_t youngest)
{
    theus_past_turn past = {.ticket = ticket, .youngest = youngest, .done = footprint_at(stripe)};
    theus_turn_queue_note_turn(queue, &body, &past);
}

static void
open_queue(theus_turn_queue *queue)
{
    REQUIRE(theus_turn_queue_init(queue, false) == THEUS_OK);
    fail(queue, HOT, 1, LONG_NS, 400);
    REQUIRE(theus_turn_queue_is_on(queue));
}

static void
test_begins_when_trying_is_waste(void)
{
    theus_turn_queue queue;
    theus_footprint footprint = footprint_at(1);
    REQUIRE(theus_turn_queue_init(&queue, false) == THEUS_OK);
    fail(&queue, HOT, 1, SHORT_NS, 400);
    CHECK(!theus_turn_queue_is_on(&queue)); /* handing on would cost more */
    for (uint64_t version = 1; version < 4000; version += 10) { /* ten succeed for each that fails */
        theus_turn_queue_note_failure(&queue, &HOT, &footprint, version, LONG_NS);
    }
    CHECK(!theus_turn_queue_is_on(&queue));
    fail(&queue, HOT, 1, LONG_NS, 400);
    CHECK(theus_turn_queue_is_on(&queue));
    theus_turn_queue_fini(&queue);
}

static void
test_asks_who_fights(void)
{
    theus_turn_queue queue;
    open_queue(&queue);
    CHECK(asks_for(&queue, HOT) && !asks_for(&queue, COLD));
    theus_footprint guess, one = footprint_at(1), two = footprint_at(2);
    uint64_t body_ns;
    CHECK(theus_turn_queue_asks_for(&queue, &HOT, false, &guess, &body_ns) && body_ns == LONG_NS);
    CHECK(memcmp(&guess, &one, sizeof(one)) == 0);
    fail(&queue, HOT, 2, LONG_NS, 1); /* elsewhere, this time */
    CHECK(theus_turn_queue_asks_for(&queue, &HOT, false, &guess, &body_ns));
    theus_footprint_add(&one, &two);
    CHECK(memcmp(&guess, &one, sizeof(one)) == 0);
    theus_body sister = {HOT.kind, 33};
    CHECK(asks_for(&queue, sister)); /* not seen yet, but of a kind that fights */
    theus_turn_queue_fini(&queue);
}

static void
test_learns_from_turns(void)
{
    theus_turn_queue queue;
    open_queue(&queue);
    theus_body quiet = {HOT.kind, 33};
    turn(&queue, HOT, 1, 1, 3);
    turn(&queue, quiet, 2, 2, 4); /* beside the first, and apart */
    CHECK(!asks_for(&queue, quiet) && asks_for(&queue, HOT));
    turn(&queue, HOT, 1, 3, 5); /* its ticket was taken when the first left */
    CHECK(asks_for(&queue, HOT) && queue.calm == 0);
    fail(&queue, quiet, 2, LONG_NS, 1);
    CHECK(asks_for(&queue, quiet));
    turn(&queue, quiet, 2, 6, 6); /* alone: it may be early */
    CHECK(asks_for(&queue, quiet));
    for (uint64_t ticket = 7; asks_for(&queue, quiet) && ticket < 40; ticket++) {
        turn(&queue, quiet, 2, ticket, ticket);
    }
    CHECK(!asks_for(&queue, quiet) && theus_turn_queue_is_on(&queue));
    turn(&queue, quiet, 1, 50, 51);
    turn(&queue, HOT, 1, 51, 52);
    CHECK(!asks_for(&queue, quiet) && asks_for(&queue, HOT)); /* the second of two is the one that is seen to meet */
    theus_turn_queue_fini(&queue);
}

/* Many bodies fight: those that are remembered are those that fight. */
static void
test_forgets_the_peaceful(void)
{
    theus_turn_queue queue;
    open_queue(&queue);
    for (uint64_t i = 0; i < 100; i++) {
        theus_body once = {100 + i, 100 + i};
        turn(&queue, once, 2, i + 1, i + 1);
        CHECK(!asks_for(&queue, once));
        if (i % 8 == 0) {
            fail(&queue, HOT, 1, LONG_NS, 1);
        }
        if (!theus_turn_queue_is_on(&queue)) {
            open_queue(&queue);
        }
    }
    CHECK(asks_for(&queue, HOT));
    for (uint64_t i = 0; i < 100; i++) { /* more than fit */
        fail(&queue, (theus_body){100 + i, 100 + i}, 2, LONG_NS, 1);
        CHECK(asks_for(&queue, (theus_body){100 + i, 100 + i}));
    }
    theus_turn_queue_fini(&queue);
}

static void
test_ends(void)
{
    theus_turn_queue queue;
    theus_footprint footprint;
    uint64_t body_ns;
    open_queue(&queue);
    uint64_t ticket = 0;
    while (theus_turn_queue_is_on(&queue) && ticket < 1000) {
        ticket++;
        turn(&queue, HOT, 1, ticket, ticket); /* nobody needed it */
    }
    CHECK(ticket > 8 && ticket < 100);
    CHECK(!asks_for(&queue, HOT)); /* forgotten */
    fail(&queue, HOT, 1, AGES_NS, 400);
    REQUIRE(theus_turn_queue_is_on(&queue));
    CHECK(theus_turn_queue_asks_for(&queue, &HOT, true, &footprint, &body_ns));
    queue.last_turn_ns = queue.body_ns = 0; /* as if that were long ago */
    CHECK(asks_for(&queue, HOT)); /* somebody is in line */
    CHECK(!theus_turn_queue_asks_for(&queue, &HOT, true, &footprint, &body_ns)); /* nobody comes any more */
    CHECK(!theus_turn_queue_is_on(&queue));
    theus_turn_queue_fini(&queue);
}

/* Through chains: a wrong guess costs one attempt, and a right one none. */
static void
test_chains(void)
{
    theus_turns turns;
    theus_chain chain;
    theus_footprint one = footprint_at(1), two = footprint_at(2);
    REQUIRE(theus_turns_init(&turns, false) == THEUS_OK);
    fail(&turns.queue, HOT, 1, AGES_NS, 400);

    theus_chain_init(&chain, &turns, 0, 0);
    chain.body = COLD;
    REQUIRE(theus_chain_line_up(&chain) == THEUS_OK && chain.ticket == NULL);
    REQUIRE(theus_chain_failed(&chain, &two, 1, 2, 0, AGES_NS) == THEUS_OK);
    CHECK(theus_chain_is_in_line(&chain)); /* at the first failure */
    CHECK(memcmp(&chain.ticket->footprint, &two, sizeof(two)) == 0);
    theus_chain_end(&chain, true, &two);

    theus_chain_init(&chain, &turns, 0, 0);
    chain.body = COLD;
    REQUIRE(theus_chain_line_up(&chain) == THEUS_OK);
    CHECK(theus_chain_is_in_line(&chain)); /* from then on before the first */
    REQUIRE(theus_chain_failed(&chain, &one, 1, 2, 0, AGES_NS) == THEUS_OK);
    CHECK(theus_footprints_meet(&chain.ticket->footprint, &one)); /* it was taken for too little: now for everything */
    theus_chain_end(&chain, true, &one);

    theus_chain_init(&chain, &turns, 0, 0); /* one without a ticket, or that committed nothing, teaches nothing */
    theus_chain_end(&chain, true, NULL);
    CHECK(turns.queue.turns == 2);
    theus_turns_fini(&turns);
}

int
main(void)
{
    test_begins_when_trying_is_waste();
    test_asks_who_fights();
    test_learns_from_turns();
    test_forgets_the_peaceful();
    test_ends();
    test_chains();
    return check_result();
}
