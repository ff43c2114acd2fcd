/* The Transaction type: with blocks and methods. Its life is in txn_life.c and txn_commit.c, paths are in txn_paths.c. */
#include "txn_type.h"

#include "active.h"
#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "guard.h"
#include "zones.h"
#include "operations.h"
#include "outgoing.h"
#include "state_type.h"
#include "turn_type.h"
#include "txn_paths.h"

#include <stddef.h>

/* ---- with ------------------------------------------------------------------------------------ */

/* Makes self a savepoint of `outer`. */
static PyObject *
txn_join(TxnObject *self, TxnObject *outer)
{
    theus_savepoint *savepoint;
    if (txn_enter(outer) < 0) {
        return NULL;
    }
    Py_INCREF(outer); /* a resolver that runs here may drop the last other reference, */
    theus_status status = theus_txn_save(&outer->txn, &savepoint);
    if (status == THEUS_OK) {
        self->callback_mark = outer->callbacks == NULL ? 0 : PyList_GET_SIZE(outer->callbacks);
        if (self->outer == NULL) {
            self->outer = (TxnObject *)Py_NewRef((PyObject *)outer);
        }
        self->savepoint = theus_txn_savepoint(&outer->txn);
        txn_guard_fini(&self->kept);
        self->kept = txn_keep_guard(outer);
    }
    txn_leave(outer);
    if (status != THEUS_OK) {
        txn_fail(outer, status);
        Py_DECREF(outer);
        return NULL;
    }
    return (PyObject *)outer;
}

/* Ends a savepoint: keeps or undoes what was done since. */
static int
txn_unjoin(TxnObject *self, uint64_t savepoint, bool keep)
{
    TxnObject *outer = self->outer;
    int result = txn_enter(outer);
    if (result == 0) {
        bool inside = outer->txn.depth > 1;
        if (inside || theus_txn_savepoint(&outer->txn) != savepoint) {
            /* What is open stays so; and the guard stays, which may be that of a process inside it. */
            if (theus_txn_is_saved(&outer->txn, savepoint)) {
                atomic_store(&self->savepoint, savepoint);
            }
            else {
                atomic_store(&self->claimed, false); /* a run that it was begun in has let it go */
            }
            txn_leave(outer);
            return txn_error(self, inside ? "a savepoint cannot end inside an operation of its transaction"
                                          : "savepoints end in the reverse order of their beginning: "
                                            "end the inner one first");
        }
        if (keep && (result = txn_check_joined(outer)) == 0) {
            theus_savepoint_release(outer->txn.savepoint);
        }
        else {
            PyObject *error = result < 0 ? PyErr_GetRaisedException() : NULL;
            theus_savepoint_rollback(outer->txn.savepoint);
            if (outer->callbacks != NULL
                && PyList_SetSlice(outer->callbacks, self->callback_mark, PY_SSIZE_T_MAX, NULL) < 0) {
                result = -1;
            }
            if (error != NULL) {
                PyErr_SetRaisedException(error);
            }
        }
        txn_restore_guard(outer, &self->kept);
        txn_leave(outer);
    }
    atomic_store(&self->claimed, false);
    return result;
}

/* Why a transaction that is claimed cannot begin. */
static PyObject *
refuse_claimed(TxnObject *self)
{
    bool joins = self->savepoint != 0;
    txn_error(self, joins ? "this savepoint is open already: ask the transaction for another one"
                    : self->txn.state == THEUS_TXN_OPEN
                        ? "the transaction is open already: use `with tx.savepoint():` inside it"
                    : self->txn.state == THEUS_TXN_IDLE
                        ? "the transaction is just being begun elsewhere: give each thread one of its own"
                        : "the transaction has ended: begin another one");
    return NULL;
}

/* The transaction that a block is about: self, or the one that it joins. The caller has claimed self. */
static PyObject *
txn_begin_block(TxnObject *self, bool is_async)
{
    if (self->outer != NULL) {
        return txn_join(self, self->outer);
    }
    if (engine_check_open(self->engine) < 0) {
        return NULL;
    }
    TxnObject *outer = self->detached ? NULL : txn_current(self->engine);
    if (outer != NULL) {
        PyObject *joined = txn_join(self, outer);
        Py_DECREF(outer);
        return joined;
    }
    if (!self->detached && txn_refuse_child(self->engine) < 0) {
        return NULL;
    }
    return txn_begin(self, NULL, is_async) < 0 ? NULL : Py_NewRef((PyObject *)self);
}

static PyObject *
txn_claim_block(TxnObject *self, bool is_async)
{
    if (atomic_exchange(&self->claimed, true)) {
        return refuse_claimed(self);
    }
    PyObject *entered = txn_begin_block(self, is_async);
    if (entered == NULL) {
        atomic_store(&self->claimed, false);
    }
    return entered;
}

static PyObject *
txn_enter_block(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return txn_claim_block((TxnObject *)op, false);
}

/* Ends the block; `failed` when an exception left it. 1: the commit was held up. */
static int
txn_end_block(TxnObject *self, bool failed, txn_gate gate)
{
    uint64_t savepoint = atomic_exchange(&self->savepoint, 0); /* whoever gets it ends it, once */
    if (savepoint != 0) {
        return txn_unjoin(self, savepoint, !failed);
    }
    if (self->outer != NULL) {
        return 0;
    }
    if (self->txn.state != THEUS_TXN_OPEN) {
        return 0; /* the body ended it with commit() or rollback() */
    }
    theus_status status = theus_txn_enter(&self->txn);
    if (status != THEUS_OK) {
        active_remove(&self->engine->active, self); /* another thread is inside: what begins here later must not join it */
        return failed ? 0 : txn_fail(self, status);
    }
    bool inside = self->txn.depth > 1;
    txn_leave(self);
    if (inside) {
        return txn_error(self, "a transaction cannot end inside one of its own operations");
    }
    if (failed) {
        txn_abort(self);
        return 0;
    }
    int result = txn_commit_or_raise(self, gate);
    if (result < 0) {
        active_remove(&self->engine->active, self); /* as above: the other thread may have come just now */
    }
    return result;
}

static PyObject *
txn_exit_block(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("__exit__", count, 3, 3) < 0) {
        return NULL;
    }
    if (txn_end_block((TxnObject *)op, args[0] != Py_None, TXN_GATE_WAIT) < 0) {
        return NULL;
    }
    Py_RETURN_FALSE;
}

/* async with: the awaitables are ready when they are made, but for a commit that is held up. */
static PyObject *
txn_enter_async(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    PyObject *entered = txn_claim_block((TxnObject *)op, true);
    return entered == NULL ? NULL : ready_new(((TxnObject *)op)->heap->st, entered);
}

static PyObject *
txn_exit_async(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TxnObject *self = (TxnObject *)op;
    if (errors_check_count("__aexit__", count, 3, 3) < 0) {
        return NULL;
    }
    self->txn.by_task = true;
    int held_up = txn_end_block(self, args[0] != Py_None, TXN_GATE_RETURN);
    if (held_up < 0) {
        return NULL;
    }
    return held_up ? turn_commit_later(self) : ready_new(self->heap->st, Py_NewRef(Py_False));
}

/* ---- methods --------------------------------------------------------------------- */

/* commit() and rollback() by hand: only by whoever began the transaction, and not from below. */
static int
refuse_end(TxnObject *self, bool commits)
{
    if (self->outer != NULL) {
        return txn_error(self, "this is a savepoint: leave its block to end it");
    }
    if (txn_enter(self) < 0) {
        return -1;
    }
    bool inside = self->txn.depth > 1, joined = self->txn.savepoint != NULL;
    txn_leave(self);
    if (inside) {
        return txn_error(self, "a transaction cannot end inside one of its own operations");
    }
    if (commits && joined) {
        return txn_error(self, "a savepoint of this transaction is open: leave its block first");
    }
    if (self->process != NULL || self->guests != 0) {
        return txn_error(self, "a process or a nested run ends by returning or raising: whoever began the "
                               "transaction ends it");
    }
    return 0;
}

static PyObject *
txn_method_commit(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *self = (TxnObject *)op;
    if (refuse_end(self, true) < 0) {
        return NULL;
    }
    int done = txn_commit_or_raise(self, TXN_GATE_WAIT);
    txn_step_down(self); /* the body goes on */
    if (done < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
txn_method_rollback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *self = (TxnObject *)op;
    if (self->txn.state == THEUS_TXN_OPEN && refuse_end(self, false) < 0) {
        return NULL;
    }
    txn_abort(self);
    Py_RETURN_NONE;
}

static PyObject *
txn_method_savepoint(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *self = (TxnObject *)op;
    if (txn_enter(self) < 0) {
        return NULL;
    }
    txn_leave(self);
    TxnObject *savepoint = txn_new(self->engine, self->isolation, self->read_only, self->timeout_ms, NULL);
    if (savepoint != NULL) {
        savepoint->outer = (TxnObject *)Py_NewRef(op);
    }
    return (PyObject *)savepoint;
}

static PyObject *
txn_method_on_commit(PyObject *op, PyObject *callback)
{
    TxnObject *self = (TxnObject *)op;
    if (!PyCallable_Check(callback)) {
        PyErr_Format(PyExc_TypeError, "on_commit() needs a callable without arguments, not %R", callback);
        return NULL;
    }
    if (txn_enter(self) < 0) {
        return NULL;
    }
    if (self->callbacks == NULL) {
        self->callbacks = PyList_New(0);
    }
    int result = self->callbacks == NULL ? -1 : PyList_Append(self->callbacks, callback);
    txn_leave(self);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
txn_repr(PyObject *op)
{
    static const char *const names[] = {"idle", "open", "committed", "rolled back"};
    TxnObject *self = (TxnObject *)op;
    if (self->outer != NULL) {
        return PyUnicode_FromFormat("<theus.Transaction: %s savepoint>",
                                    self->savepoint != 0 ? "open" : "closed");
    }
    return PyUnicode_FromFormat("<theus.Transaction: %s, %s%s, version %llu>", names[self->txn.state],
                                self->isolation == THEUS_SNAPSHOT ? "snapshot" : "serializable",
                                self->read_only ? ", read-only" : "",
                                (unsigned long long)self->version);
}

PyObject *
txn_snapshot(TxnObject *self)
{
    if (txn_enter(self) < 0) {
        return NULL;
    }
    theus_version *version = self->txn.pinned;
    theus_version_retain(version);
    txn_leave(self);
    return state_new(self->heap, self->engine, version);
}

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    TxnObject *self = (TxnObject *)op;
    if (txn_enter(self) < 0) {
        return NULL;
    }
    int result = 0;
    if (self->guard != NULL && (self->guard->here & RIGHT_READ) == 0) {
        result = guard_refuse_read(self, self->guard, self->txn.root, NULL);
    }
    else if (self->guard != NULL && self->engine->hides) {
        PyObject *everything = PyTuple_New(0);
        result = everything == NULL ? -1 : zones_refuse(self, everything, 0);
        Py_XDECREF(everything);
    }
    txn_leave(self);
    return result < 0 ? NULL : txn_snapshot(self);
}

static PyObject *
get_version(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((TxnObject *)op)->version);
}

static PyObject *
get_isolation(PyObject *op, void *Py_UNUSED(closure))
{
    return PyUnicode_FromString(((TxnObject *)op)->isolation == THEUS_SNAPSHOT ? "snapshot"
                                                                              : "serializable");
}

static PyObject *
get_read_only(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((TxnObject *)op)->read_only);
}

static PyObject *
get_active(PyObject *op, void *Py_UNUSED(closure))
{
    TxnObject *self = (TxnObject *)op;
    return PyBool_FromLong(self->txn.state == THEUS_TXN_OPEN
                           && self->txn.epoch == theus_process_epoch());
}

static PyObject *
get_timeout(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((TxnObject *)op)->timeout_ms);
}

static PyObject *
get_written(PyObject *op, void *Py_UNUSED(closure))
{
    theus_txn *txn = &((TxnObject *)op)->txn;
    theus_status status = theus_txn_enter(txn);
    if (status == THEUS_BUSY) {
        txn_fail((TxnObject *)op, status);
        return NULL;
    }
    bool written = status == THEUS_OK
                   && (txn->root->touched || txn->root->touched_below || theus_txn_sends(txn));
    if (status == THEUS_OK) {
        theus_txn_leave(txn);
    }
    return PyBool_FromLong(written);
}

static PyObject *
get_run_id(PyObject *op, void *Py_UNUSED(closure))
{
    TxnObject *self = (TxnObject *)op;
    if (txn_enter(self) < 0) {
        return NULL;
    }
    uint64_t run = txn_run(self);
    txn_leave(self);
    return PyLong_FromUnsignedLongLong(run);
}

static PyObject *
get_outbox(PyObject *op, void *Py_UNUSED(closure))
{
    return outgoing_outbox((TxnObject *)op);
}

static PyGetSetDef txn_getset[] = {
    {"state", get_state, NULL, PyDoc_STR("The snapshot that the transaction reads, as a State."), NULL},
    {"version", get_version, NULL,
     PyDoc_STR("The version it began on; after a commit, the version that it made."), NULL},
    {"isolation", get_isolation, NULL, PyDoc_STR("'serializable' or 'snapshot'."), NULL},
    {"read_only", get_read_only, NULL, PyDoc_STR("True if it refuses writes."), NULL},
    {"active", get_active, NULL, PyDoc_STR("True from its beginning to its end."), NULL},
    {"run_id", get_run_id, NULL,
     PyDoc_STR("A number for the run, in its engine: the same for all of its attempts."), NULL},
    {"outbox", get_outbox, NULL,
     PyDoc_STR("Messages that are handed over after the commit: outbox.add(topic, payload)."), NULL},
    {"written", get_written, NULL,
     PyDoc_STR("False as long as nothing was written; True may mean a write without effect."), NULL},
    {"write_timeout_ms", get_timeout, NULL,
     PyDoc_STR("Milliseconds after which a commit of writes is refused; 0 = never."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *
txn_method_reserve(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *self = (TxnObject *)op;
    if (txn_enter(self) < 0) {
        return NULL;
    }
    int room = theus_txn_writes(&self->txn) ? txn_try_reserve(self) : 1;
    txn_leave(self);
    return room < 0 ? NULL : PyBool_FromLong(room);
}

/* Without this, pickle and copy would make a transaction of an engine of its own, and say nothing. */
static PyObject *
txn_method_reduce(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(ignored))
{
    PyErr_SetString(PyExc_TypeError,
                    "a transaction cannot be pickled or copied; send what was read, such as tx.domain.freeze()");
    return NULL;
}

static PyMethodDef txn_methods[] = {
    {"__reduce__", txn_method_reduce, METH_NOARGS, PyDoc_STR("Raises TypeError.")},
    {"__enter__", txn_enter_block, METH_NOARGS,
     PyDoc_STR("Begins. Inside another transaction of this task on this engine: a savepoint of that one.")},
    {"__exit__", THEUS_FASTCALL(txn_exit_block), METH_FASTCALL,
     PyDoc_STR("Commits, or rolls back if an exception leaves the block. Raises ConflictError.")},
    {"__aenter__", txn_enter_async, METH_NOARGS, PyDoc_STR("As __enter__; never waits.")},
    {"__aexit__", THEUS_FASTCALL(txn_exit_async), METH_FASTCALL, PyDoc_STR("As __exit__; waits, if it must, without the event loop.")},
    {"commit", txn_method_commit, METH_NOARGS,
     PyDoc_STR("Commits now. Raises ConflictError if another commit changed what this one depends on.")},
    {"rollback", txn_method_rollback, METH_NOARGS, PyDoc_STR("Ends without a trace; harmless after the end.")},
    {"savepoint", txn_method_savepoint, METH_NOARGS,
     PyDoc_STR("A block whose writes are undone if an exception leaves it. Reads stay logged.")},
    {"reserve", txn_method_reserve, METH_NOARGS,
     PyDoc_STR("Reserves the place in the ring that the commit record will need: True if it has one, or needs none;\n"
               "False if the ring is full and the commit would wait. RingFullError as the commit would raise it.")},
    {"on_commit", txn_method_on_commit, METH_O,
     PyDoc_STR("Calls a function after the commit, never after a rollback. All callbacks run; the first\n"
               "exception of one then propagates, and the commit stands.")},
    {"operations", THEUS_FASTCALL(txn_method_operations), METH_FASTCALL,
     PyDoc_STR("operations(recent=False, idle=False): what was written so far, [(kind, path), ...], each path\n"
               "once. With recent only what was written since the innermost open savepoint; with idle also\n"
               "where a write has stored what stood there.")},
    TXN_PATH_METHODS,
    {NULL, NULL, 0, NULL},
};

static PyMemberDef txn_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(TxnObject, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* Transaction(engine=None, write_timeout_ms=5000): the constructor of old programs. */
static PyObject *
txn_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"engine", "write_timeout_ms", NULL};
    module_state *st = module_state_of_type(type);
    PyObject *engine = Py_None, *timeout = NULL;
    uint64_t timeout_ms = 5000;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OO:Transaction", names, &engine, &timeout)
        || (timeout != NULL && engine_parse_timeout(timeout, &timeout_ms) < 0)) {
        return NULL;
    }
    if (engine == Py_None) {
        engine = PyObject_CallNoArgs((PyObject *)st->Engine_type);
        if (engine == NULL) {
            return NULL;
        }
    }
    else if (PyObject_TypeCheck(engine, st->Engine_type)) {
        Py_INCREF(engine);
    }
    else {
        PyErr_Format(PyExc_TypeError, "Transaction() needs an engine, not %R", engine);
        return NULL;
    }
    TxnObject *self = txn_new((EngineObject *)engine, THEUS_SERIALIZABLE, false, timeout_ms, NULL);
    Py_DECREF(engine);
    return (PyObject *)self;
}

PyDoc_STRVAR(txn_doc,
"A private, mutable picture of one version of an engine's state.\n\n"
"Made by engine.transaction(), begun by `with`. Roots are attributes and items:\n"
"tx.domain, tx['domain']. Containers come as drafts that behave like dict, list and set\n"
"and record what is read and written. The commit publishes all writes at once or raises\n"
"ConflictError; a failed one leaves no trace. One thread at a time may use it.");

static PyType_Slot txn_slots[] = {
    {Py_tp_doc, (void *)txn_doc},
    {Py_tp_new, txn_type_new},
    {Py_tp_dealloc, txn_dealloc},
    {Py_tp_traverse, txn_traverse},
    {Py_tp_clear, txn_clear},
    {Py_tp_repr, txn_repr},
    {Py_tp_getattro, txn_getattro},
    {Py_tp_setattro, txn_setattro},
    {Py_mp_subscript, txn_subscript},
    {Py_mp_ass_subscript, txn_ass_subscript},
    {Py_sq_contains, txn_contains},
    {Py_tp_methods, txn_methods},
    {Py_tp_getset, txn_getset},
    {Py_tp_members, txn_members},
    {0, NULL},
};

static PyType_Spec txn_spec = {
    .name = "theus.Transaction",
    .basicsize = sizeof(TxnObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = txn_slots,
};

/* ---- making the type ---------------------------------------------------------------- */

int
add_txn_type(PyObject *module, module_state *st)
{
    if (add_ready_type(module, st) < 0) {
        return -1;
    }
    return module_add_type(module, &txn_spec, &st->Transaction_type);
}
