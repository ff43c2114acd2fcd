/* The open transactions of one engine: which of them this thread and task runs, and who its children are.
 *
 * Invariant: a transaction stands in the list from its beginning until it ends (one that was ended from outside: until its
 * body has), or until its memory goes; it takes
 * itself out first, under the lock. So under the lock whatever stands there can be looked at, and what is
 * looked at (thread, context, home, leader) does not change while it stands there, and its home (home.h) counts it. A reference to it there may be none left:
 * another thread, or a callback of a weak reference, may see it between the last one's end and its own. Then it
 * counts as gone.
 *
 * The lock (rank ACTIVE) is held for pointers and comparisons only; under the GIL it is elided like those of the core. */
#ifndef THEUS_ACTIVE_H
#define THEUS_ACTIVE_H

#include "txn_type.h"

/* Each context has one of a few lists, by its address: threads that work in contexts of their own, as threads do, meet
 * in none, and so share no lock and no cache line. Under a GIL there is one. */
enum { ACTIVE_LISTS = THEUS_HAVE_GIL ? 1 : 16, CACHE_LINE = 64 };

typedef struct {
#if !THEUS_HAVE_GIL
    char apart[CACHE_LINE];
#endif
    theus_mutex lock;
    _Atomic(TxnObject *) first; /* newest first, through next and previous; written under lock */
} active_list;

struct active_txns {
    active_list lists[ACTIVE_LISTS];
};

THEUS_MUST_CHECK theus_status active_init(active_txns *active);
void active_fini(active_txns *active);

/* By txn->context, which does not change between the two. */
void active_add(active_txns *active, TxnObject *txn);
void active_remove(active_txns *active, TxnObject *txn); /* or nothing, if it is not there */

/* Is none open? What other threads begin or end meanwhile may or may not count. */
bool active_is_empty(active_txns *active);

/* The open transaction that this thread and task runs on the engine, or NULL. New reference. */
TxnObject *txn_current(EngineObject *engine);

/* The ticket that leads the body in which the caller runs, itself or as a child task or thread; 0: none does, or there is
 * no such body. 0, or -1 with an exception. */
int active_leader(EngineObject *engine, uint64_t *leader);

/* -1 with TransactionError set in a child task or thread of a body whose transaction on this engine is open: it
 * cannot join, and must not slip out unsaid. To be asked where txn_current() found nothing. */
int txn_refuse_child(EngineObject *engine);

#endif
