/* Waiting for one's turn (core/turn.h): threads in C, tasks through Turn, of which theus/turns.py makes awaitables. */
#ifndef THEUS_TURN_TYPE_H
#define THEUS_TURN_TYPE_H

#include "engine_type.h"

#include "../core/chain.h"

/* Is any ticket out on this engine? Then a body may be running on one: see active_leader(). */
static inline bool
turn_is_out(EngineObject *engine)
{
    uint64_t grants;
    return theus_turns_are_out(theus_store_turns(engine->store), &grants);
}

/* Sleeps, detached, as long as older tickets than `number` are in the way of its turn, or (gate) of footprint->changes.
 * 1: not any more, or it is worth another look; 0: theus_clock_tick_ns() has passed end_ns (0: no limit); -1: ClosedError,
 * TransactionError (this thread runs the task that it would wait for), or what a signal handler raised. */
int turn_sleep(EngineObject *engine, uint64_t number, bool gate, const theus_footprint *footprint, uint64_t end_ns);

/* Sleeps until it is the chain's turn. 1, 0 and -1 as above. */
int turn_line_up(EngineObject *engine, const theus_chain *chain, uint64_t end_ns);

/* The running loop's awaitable that commits a transaction which was held up. New reference. */
PyObject *turn_commit_later(TxnObject *txn);

#endif
