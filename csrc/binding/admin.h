/* Admin scopes: for the time of a with block, a process is bound by its contract and not by the zones.
 *
 *     open_admin(context, reason)          the operations so far are held against the zones; the context
 *         was it made for a call of a       shows its roots under a scope of its own (scope.h, `admin`)
 *         function that the engine
 *         allows, which runs? (context.h)
 *     close_admin(context)                 the operations are held against what an admin may do; what they left is kept
 *                                          (zones_lift); the scope is revoked, and the context as it was
 *
 * Who holds the engine decides who may: Engine.allow_admin(function). That also says the name for the
 * record: a plan, which any body can make, could say another. A scope is recorded when it opens, whatever becomes
 * of the run, as [time, process, reason, version that it read, version that its run committed or None]; and the commit record
 * of that version has a note ("admin", reason).
 *
 * Invariant: while no admin scope is open, no draft that was read in one can be used for anything, and what zones
 * forbid is only in the transaction if it was written in one. */
#ifndef THEUS_ADMIN_H
#define THEUS_ADMIN_H

#include "context.h"
#include "engine_type.h"

enum { ADMISSION_TIME, ADMISSION_PROCESS, ADMISSION_REASON, ADMISSION_VERSION, ADMISSION_COMMITTED, ADMISSION_COUNT };

/* May processes that run this very function open admin scopes? 1 and *name (new reference), 0 or -1. */
int admin_allows(EngineObject *engine, PyObject *function, PyObject **name);

/* Says in the records of a transaction's admin scopes which version it has made. */
void admin_note_committed(TxnObject *txn);

PyObject *module_open_admin(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_close_admin(PyObject *module, PyObject *context);
/* Takes the rights back, if the context has some: for a body that has left its scope open. Entered. */
void admin_end(ContextObject *context);

/* Methods of Engine. */
PyObject *engine_allow_admin(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *engine_admissions(PyObject *self, PyObject *ignored);

#endif
