/* Runs across their attempts: when they take a ticket, and what the queue learns of them. */
#include "chain.h"

enum { LEASE_BODIES = 100 };

bool
theus_chain_was_late(const theus_chain *chain)
{
    return chain->ticket != NULL && chain->ticket->number == 0;
}

static theus_status
chain_take(theus_chain *chain, const theus_footprint *footprint, uint64_t body_ns)
{
    uint64_t lease_ns = body_ns > THEUS_LEASE_NS / LEASE_BODIES ? body_ns * LEASE_BODIES : THEUS_LEASE_NS;
    if (theus_chain_was_late(chain)) {
        lease_ns = chain->ticket->lease_ns;
    }
    theus_ticket_free(chain->turns, chain->ticket);
    chain->ticket = NULL;
    return theus_ticket_new(chain->turns, footprint, lease_ns, chain->task_thread, &chain->ticket);
}

theus_status
theus_chain_line_up(theus_chain *chain)
{
    theus_turns *turns = chain->turns;
    if (chain->under != 0 || !theus_turn_queue_is_on(&turns->queue)) {
        return THEUS_OK;
    }
    theus_footprint guess;
    uint64_t body_ns;
    bool empty = atomic_load_explicit(&turns->held, memory_order_relaxed) == 0;
    return theus_turn_queue_asks_for(&turns->queue, &chain->body, empty, &guess, &body_ns)
               ? chain_take(chain, &guess, body_ns)
               : THEUS_OK;
}

theus_status
theus_chain_failed(theus_chain *chain, const theus_footprint *footprint, uint64_t pinned, uint64_t found,
                   uint32_t held_up, uint64_t body_ns)
{
    if (chain->failures++ == 0) {
        chain->footprint = *footprint;
    }
    else {
        theus_footprint_add(&chain->footprint, footprint);
    }
    chain->passed += found - pinned;
    if (!theus_chain_was_late(chain)) {
        theus_turn_queue_note_failure(&chain->turns->queue, &chain->body, footprint, found, body_ns);
    }
    if (chain->under != 0) {
        if (theus_turns_has(chain->turns, chain->under)) {
            return THEUS_OK; /* it passes already */
        }
        chain->under = 0; /* the body that started it has ended, or is late: from now on it is a run like any other */
    }
    if (theus_chain_is_in_line(chain)) {
        theus_ticket_fill(chain->turns, chain->ticket);
        return THEUS_OK;
    }
    bool due = chain->failures + held_up >= THEUS_TURN_FAILURES || chain->passed >= THEUS_TURN_PASSED
               || theus_turn_queue_is_on(&chain->turns->queue);
    return due ? chain_take(chain, &chain->footprint, body_ns) : THEUS_OK;
}

void
theus_chain_end_contended(theus_chain *chain, bool committed, const theus_footprint *done)
{
    theus_turns *turns = chain->turns;
    theus_ticket *ticket = chain->ticket;
    if (ticket != NULL) {
        theus_turns_drop(turns, ticket->number);
        if (done != NULL && theus_turn_queue_is_on(&turns->queue)) {
            theus_past_turn turn = {.ticket = ticket->taken, .youngest = ticket->youngest, .done = *done};
            theus_turn_queue_note_turn(&turns->queue, &chain->body, &turn);
        }
        theus_ticket_free(turns, ticket);
        chain->ticket = NULL;
    }
    if (committed && chain->failures > 0) {
        uint32_t tries = chain->failures + 1, most = atomic_load_explicit(&turns->tries_max, memory_order_relaxed);
        atomic_fetch_add_explicit(&turns->tries[tries < THEUS_TURN_TRIES ? tries - 1 : THEUS_TURN_TRIES - 1], 1,
                                  memory_order_relaxed);
        while (tries > most
               && !atomic_compare_exchange_weak_explicit(&turns->tries_max, &most, tries, memory_order_relaxed,
                                                         memory_order_relaxed)) {
            /* somebody else has just needed more than before: most is what it needed */
        }
    }
}
