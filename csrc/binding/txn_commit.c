/* The commit of a transaction object: what it waits for, what it raises, whom it tells. */
#include "active.h"
#include "admin.h"

#include "engine_type.h"
#include "errors.h"
#include "guard.h"
#include "turn_type.h"

/* All callbacks run, whatever one of them raises; the first error is what the caller gets. */
static int
run_callbacks(TxnObject *self)
{
    PyObject *callbacks = self->callbacks, *error = NULL;
    self->callbacks = NULL;
    txn_step_down(self);
    for (Py_ssize_t i = 0; callbacks != NULL && i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *done = PyObject_CallNoArgs(PyList_GET_ITEM(callbacks, i));
        Py_XDECREF(done);
        if (done == NULL) {
            PyObject *raised = PyErr_GetRaisedException();
            if (error == NULL) {
                error = raised;
            }
            else {
                Py_DECREF(raised);
            }
        }
    }
    Py_XDECREF(callbacks);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
        return -1;
    }
    return 0;
}

int
txn_raise_late(module_state *st, uint64_t limit_ns, uint64_t started_ns)
{
    PyObject *error = PyObject_CallFunction(st->WriteTimeoutError, "KK", (unsigned long long)(limit_ns / 1000000),
                                            (unsigned long long)((theus_clock_tick_ns() - started_ns) / 1000000));
    if (error != NULL) {
        PyErr_SetObject(st->WriteTimeoutError, error);
        Py_DECREF(error);
    }
    return -1;
}

/* Holds what was written against the contract of the process, and against the zones. */
static int
check_bound(TxnObject *self)
{
    return guard_raise_refused(self) < 0 ? -1 : guard_check_commit(self);
}

int
txn_raise_timeout(TxnObject *self)
{
    return txn_raise_late(self->heap->st, self->timeout_ms * 1000000, self->started_ns);
}

static int
raise_busy(TxnObject *self)
{
    theus_store_facts facts;
    theus_store_read_facts(self->engine->store, &facts);
    PyObject *error = PyObject_CallFunction(self->heap->st->ConflictError, "OKKOs", Py_None,
                                            (unsigned long long)self->version, (unsigned long long)facts.version,
                                            Py_None, "busy");
    if (error != NULL) {
        PyErr_SetObject(self->heap->st->ConflictError, error);
        Py_DECREF(error);
    }
    return -1;
}

static void
keep_footprint(TxnObject *self, const theus_conflict *why)
{
    self->measured = why->measured;
    if (why->measured) {
        self->footprint = why->footprint;
        self->found = why->found;
    }
}

uint64_t
txn_end_ns(const TxnObject *self)
{
    uint64_t end_ns = self->txn.deadline_ns;
    return self->patience_ns != 0 && (end_ns == 0 || self->patience_ns < end_ns) ? self->patience_ns : end_ns;
}

/* A ticket is in the way. The caller is inside the transaction, and stays so while it sleeps, so that no other thread
 * comes in. 1 = commit again; 2 = back to the caller; -1 = exception set, and it is to be aborted. */
static int
held_up(TxnObject *self, const theus_conflict *why, txn_gate gate)
{
    uint64_t end_ns = txn_end_ns(self);
    int woken = end_ns == 0 || theus_clock_tick_ns() < end_ns;
    if (gate == TXN_GATE_REFUSE) {
        return raise_busy(self);
    }
    if (woken && gate == TXN_GATE_RETURN) {
        keep_footprint(self, why);
        return 2;
    }
    if (woken) {
        woken = turn_sleep(self->engine, self->txn.turn, true, &why->footprint, end_ns);
    }
    return woken == 0 ? txn_raise_late(self->heap->st, end_ns - self->started_ns, self->started_ns) : woken;
}

/* Asked where nothing is published: where something is, the core looks at the clock that it reads anyway. */
static bool
is_late(const TxnObject *self)
{
    return self->txn.deadline_ns != 0 && theus_clock_tick_ns() > self->txn.deadline_ns;
}

int
txn_commit(TxnObject *self, theus_conflict *why, txn_gate gate)
{
    theus_version *made;
    theus_status status;
    int rung = 0;
    theus_outcome outcome;
    why->cells = NULL;
    why->found = 0;
    /* Entered for its whole length: key equality may run a body that tries to end it a second time. */
    if (txn_enter(self) < 0) {
        return -1;
    }
    bool writes = self->txn.root->touched || self->txn.root->touched_below || theus_txn_sends(&self->txn);
    bool reserved;
    for (;;) {
        /* In this order: waiting for a place may run anything. */
        bool needs_place = writes && self->engine->reserves && theus_txn_writes(&self->txn);
        if (needs_place && is_late(self)) { /* before it waits for one, again perhaps */
            txn_leave(self);
            txn_abort(self);
            return txn_raise_timeout(self);
        }
        int placed = !needs_place               ? 1
                     : gate == TXN_GATE_RETURN ? txn_try_reserve(self)
                                               : txn_reserve(self);
        if (placed < 0 || ((writes || self->refused != NULL) && check_bound(self) < 0)) {
            txn_leave(self);
            txn_abort(self);
            return -1;
        }
        if (placed == 0) { /* no ticket is in the way, as far as we know */
            self->measured = false;
            txn_leave(self);
            return 2;
        }
        reserved = self->txn.reserved;
        outcome = theus_txn_commit(&self->txn, NULL, &made, why, &status);
        if (outcome != THEUS_HELD_UP) {
            break;
        }
        if (reserved) { /* who is in the way may need the place */
            waiting_ring_quietly(&self->engine->room, (PyObject *)Py_TYPE(self));
        }
        self->leader = self->txn.turn; /* it may just have taken a ticket: a resolver's runs pass on it */
        int again = held_up(self, why, gate);
        if (again == 1) {
            continue;
        }
        txn_leave(self);
        if (again < 0) {
            txn_abort(self);
        }
        return again;
    }
    txn_leave(self);
    active_remove(&self->engine->active, self);
    keep_footprint(self, why);
    if (reserved && outcome != THEUS_COMMITTED) {
        waiting_ring_quietly(&self->engine->room, (PyObject *)Py_TYPE(self));
    }
    if (writes && (outcome == THEUS_CONFLICTED || outcome == THEUS_UNCHANGED) && is_late(self)) {
        theus_conflict_fini(why);
        outcome = THEUS_COMMIT_FAILED;
        status = THEUS_LATE;
    }
    switch (outcome) {
    case THEUS_COMMITTED:
        self->version = made->number;
        if (self->admissions != NULL) {
            admin_note_committed(self);
        }
        theus_version_release(made);
        rung = waiting_ring(&self->engine->commits);
        break;
    case THEUS_UNCHANGED:
        break;
    case THEUS_CONFLICTED:
        Py_CLEAR(self->callbacks);
        engine_note_conflict(self->engine, why);
        return 0;
    case THEUS_HELD_UP: /* seen to above */
    case THEUS_COMMIT_FAILED:
        Py_CLEAR(self->callbacks);
        return status == THEUS_LATE ? txn_raise_timeout(self) : txn_fail(self, status);
    }
    if (rung < 0) { /* a signal handler raised while others were woken: the callbacks run all the same */
        PyObject *error = PyErr_GetRaisedException();
        if (self->callbacks != NULL && run_callbacks(self) < 0) {
            PyErr_Clear();
        }
        PyErr_SetRaisedException(error);
        return -1;
    }
    return self->callbacks != NULL && run_callbacks(self) < 0 ? -1 : 1;
}

int
txn_commit_or_raise(TxnObject *self, txn_gate gate)
{
    theus_conflict why;
    int done = txn_commit(self, &why, gate);
    if (done == 0) {
        txn_raise_conflict(self->engine, &why, 1);
        theus_conflict_fini(&why);
        return -1;
    }
    return done < 0 ? -1 : done == 2;
}
