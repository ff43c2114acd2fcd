/* The guard: what a running process may do with its transaction.
 *
 *     @process(inputs, outputs)
 *         --plan, once-->  guard scope   what the body may read and write
 *                          bound scope   what the run may commit
 *
 * While a body runs, txn->guard is its guard scope. Whatever reads or writes through the
 * transaction starts there: paths walk it, drafts keep the scope of their place. Access is checked
 * in three places: draft_value() and its callers (a value is given out), guard_check_write() (an
 * entry is stored or removed), and draft_enter_write() (a container is changed as a whole).
 *
 * Invariant: a version that a process publishes differs from the pinned one only in places that
 * txn->bound lets it write, and in what the classes of records that it wrote derive from that
 * (records.h). Nobody but the commit enforces that: txn_commit() holds the exact list
 * of operations against the bound when the body can no longer write. What is checked at access is
 * for the error to stand at the line that is wrong, and for reads.
 *
 * A guard only gets narrower. One that is set while another one stands is a scope within that one
 * (scope.h): so a run that a body starts is held to the contract of the body too, reads included, at
 * the line. When the body of a process has returned, its outputs may be written (and what it might
 * read, read), within what was let before it, so that what it returned can be stored. What stood
 * before comes back when the run ends, with its savepoint or its transaction, and no earlier. So it
 * gains a body nothing to open and close contexts of its own accord.
 *
 * What zones say comes to it (zones.h): the scopes know it too, so an access is checked against both at once.
 *
 * txn->bound is set once, by the process that begins the transaction. A process that joins another
 * run is held against its own bound when its savepoint is let go (txn->joined_bound), and with
 * all else against that of the outer one at the commit. A joined run gives the guard back to the
 * body around it: run_joined(), txn_unjoin().
 *
 * A refused write is remembered in txn->refused, and fails the run although the body swallows the
 * exception. */
#ifndef THEUS_GUARD_H
#define THEUS_GUARD_H

#include "scope.h"
#include "txn_type.h"

/* ---- refusals: the transaction has been entered; they return -1 ---------------------- */

/* The exception for one at `path` (a tuple). New reference. */
PyObject *guard_refusal(TxnObject *txn, ScopeObject *scope, PyObject *path, bool write);

/* The place is `key` of the cell, or the cell itself if key is NULL. */
int guard_refuse_read(TxnObject *txn, ScopeObject *scope, theus_cell *cell, PyObject *key);
int guard_refuse_write(TxnObject *txn, ScopeObject *scope, theus_cell *cell, PyObject *key);

int guard_refuse_path(TxnObject *txn, ScopeObject *scope, PyObject *path, bool write);

/* Raises again what txn->refused tells of, if it does, and forgets it. 0 or -1. */
int guard_raise_refused(TxnObject *txn);

/* ---- checks: 0, or -1 with the refusal set; entered ---------------------------------- */

/* May `key` of a map or list, or the element `key` of a set, be set to `value` (of a set: anything; THEUS_NONE:
 * be removed)? `hash` is that of the key in a map.
 *
 * Making the way to a declared place is part of writing there: with the output
 * domain.stats.count a process may put a dict `stats` where the pinned version has nothing, as long
 * as all that it holds is declared. */
int guard_check_write(TxnObject *txn, theus_cell *cell, ScopeObject *scope, uint64_t hash,
                      PyObject *key, theus_value value);

/* Is the place at a path declared for writing as a whole under txn->guard, and do its zones allow this? */
int guard_check_path(TxnObject *txn, PyObject *path, uint8_t rights);

/* The scope of a place that is to be read under txn->guard; *scope is NULL if everything may be
 * done there. */
int guard_enter_path(TxnObject *txn, PyObject *path, ScopeObject **scope);

/* Are all operations (with `recent`: since the innermost savepoint) declared in `scope`? */
int guard_check_operations(TxnObject *txn, ScopeObject *scope, bool recent);

/* Are all operations declared in txn->bound, and allowed by the zones? */
int guard_check_commit(TxnObject *txn);

#endif
