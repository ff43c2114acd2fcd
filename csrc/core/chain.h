/* Chains: one logical run across its attempts, and when it stands in line (turn.h). */
#ifndef THEUS_CHAIN_H
#define THEUS_CHAIN_H

#include "turn.h"

typedef struct {
    theus_turns *turns;
    theus_ticket *ticket;     /* owned, or NULL */
    uint64_t under;           /* ticket of the body in which the run was started, on which it passes while that lasts; or 0 */
    uint64_t task_thread;     /* as theus_ticket.task_thread */
    uint64_t passed;          /* commits that came before its own */
    uint32_t failures;
    theus_body body;           /* what it runs: to be set before it fails, or lines up in a queue */
    theus_footprint footprint; /* of its attempts so far */
} theus_chain;

static inline void
theus_chain_init(theus_chain *chain, theus_turns *turns, uint64_t under, uint64_t task_thread)
{
    chain->turns = turns;
    chain->ticket = NULL;
    chain->under = under;
    chain->task_thread = task_thread;
    chain->passed = 0;
    chain->failures = 0; /* footprint is set by the first of them */
    chain->body = (theus_body){0, 0};
}

/* Before the first attempt: a ticket, if there is a queue and it asks for such bodies. */
THEUS_MUST_CHECK theus_status theus_chain_line_up(theus_chain *chain);

/* After an attempt that failed: what it relied on, how many commits came before it, how often it was held up at the
 * gate, what it took. A ticket, or a larger one, if it is time. */
THEUS_MUST_CHECK theus_status theus_chain_failed(theus_chain *chain, const theus_footprint *footprint, uint64_t pinned,
                                                 uint64_t found, uint32_t held_up, uint64_t body_ns);
/* The ticket that leads its transactions, or 0. */
static inline uint64_t
theus_chain_number(const theus_chain *chain)
{
    return chain->ticket == NULL ? chain->under : chain->ticket->number;
}

/* Has its lease ended before its attempt did? Then what the attempt took says nothing: it may have waited for somebody
 * who waited for it. */
bool theus_chain_was_late(const theus_chain *chain);
/* Must it wait for its turn before the next attempt? */
static inline bool
theus_chain_is_in_line(const theus_chain *chain)
{
    return chain->ticket != NULL && chain->ticket->number != 0;
}

/* Before each attempt with a ticket, and before it pins. */
static inline void
theus_chain_begin(const theus_chain *chain)
{
    if (theus_chain_is_in_line(chain)) {
        theus_turns_begin(chain->turns, chain->ticket->number);
    }
}

void theus_chain_end_contended(theus_chain *chain, bool committed, const theus_footprint *done);
/* The run is over. `done`: the footprint of the attempt that was committed with a ticket, or NULL. May run foreign code. */
static inline void
theus_chain_end(theus_chain *chain, bool committed, const theus_footprint *done)
{
    if (chain->failures != 0 || chain->ticket != NULL) {
        theus_chain_end_contended(chain, committed, done);
    }
}

#endif
