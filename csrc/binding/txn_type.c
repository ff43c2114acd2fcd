/* The Transaction type: its life, its place in the engine, its commit. Paths are in txn_paths.c. */
#include "txn_type.h"

#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "state_type.h"
#include "txn_paths.h"
#include "value_py.h"

#include <stddef.h>

/* ---- who runs here ---------------------------------------------------------------- */

/* Each asyncio task runs in a contextvars context of its own, so thread and context together name
 * the task. A thread that never set a variable has no context yet: one is made, so that it
 * keeps the same identity when a body sets its first. */
static void *
running_context(void)
{
    PyThreadState *tstate = PyThreadState_Get();
    if (tstate->context == NULL) {
        PyObject *copy = PyContext_CopyCurrent();
        if (copy == NULL) {
            PyErr_Clear(); /* no memory: then tasks of this thread look alike, and join */
        }
        Py_XDECREF(copy);
    }
    return tstate->context; /* borrowed */
}

TxnObject *
txn_current(EngineObject *engine)
{
    if (engine->active == NULL) {
        return NULL;
    }
    uint64_t thread = theus_thread_id();
    void *context = running_context();
    uint64_t epoch = theus_process_epoch();
    for (TxnObject *it = engine->active; it != NULL; it = it->next) {
        if (it->thread == thread && it->context == (PyObject *)context && it->txn.epoch == epoch) {
            return it;
        }
    }
    return NULL;
}

/* The home of a context is a tuple (address of the context, home of the context it was copied from or None),
 * kept in a ContextVar: asyncio tasks and asyncio.to_thread inherit the variable, so a child finds its parent's
 * home there until it gets one of its own. New reference. */
static PyObject *
home_of(module_state *st, void *context)
{
    PyObject *home;
    if (PyContextVar_Get(st->home, Py_None, &home) < 0) {
        return NULL;
    }
    if (home != Py_None && PyLong_AsVoidPtr(PyTuple_GET_ITEM(home, 0)) == context) {
        return home;
    }
    PyObject *address = PyLong_FromVoidPtr(context);
    PyObject *own = address == NULL ? NULL : PyTuple_Pack(2, address, home);
    PyObject *token = own == NULL ? NULL : PyContextVar_Set(st->home, own);
    Py_DECREF(home);
    Py_XDECREF(address);
    if (token == NULL) {
        Py_CLEAR(own);
    }
    Py_XDECREF(token);
    return own;
}

int
txn_refuse_child(EngineObject *engine)
{
    if (engine->active == NULL) {
        return 0;
    }
    PyObject *home;
    uint64_t epoch = theus_process_epoch();
    if (PyContextVar_Get(engine->heap->st->home, Py_None, &home) < 0) {
        return -1;
    }
    int result = 0;
    for (PyObject *it = home; it != Py_None && result == 0; it = PyTuple_GET_ITEM(it, 1)) {
        for (TxnObject *txn = engine->active; txn != NULL && result == 0; txn = txn->next) {
            if (txn->home == it && txn->txn.epoch == epoch) {
                PyErr_SetString(engine->heap->st->TransactionError,
                                "this run was started by a child task or thread of a body whose transaction on the "
                                "same engine is still open: call it in the body itself, start it after the body, or "
                                "give it a transaction of its own with detached=True");
                result = -1;
            }
        }
    }
    Py_DECREF(home);
    return result;
}

static void
active_add(TxnObject *self)
{
    EngineObject *engine = self->engine;
    self->previous = NULL;
    self->next = engine->active;
    if (self->next != NULL) {
        self->next->previous = self;
    }
    engine->active = self;
}

static void
active_remove(TxnObject *self)
{
    if (self->previous != NULL) {
        self->previous->next = self->next;
    } else if (self->engine->active == self) {
        self->engine->active = self->next;
    }
    if (self->next != NULL) {
        self->next->previous = self->previous;
    }
    self->next = self->previous = NULL;
}

/* ---- refusals ------------------------------------------------------------------------ */

static int
txn_error(TxnObject *self, const char *message)
{
    PyErr_SetString(self->heap->st->TransactionError, message);
    return -1;
}

int
txn_fail(TxnObject *self, theus_status status)
{
    switch (status) {
    case THEUS_ENDED:
        return txn_error(self, self->txn.state == THEUS_TXN_IDLE
                                   ? "the transaction has not begun: use it in a with block"
                                   : "the transaction has ended: begin another one");
    case THEUS_BUSY:
        return txn_error(self, "the transaction is in use by another thread at this moment: "
                               "give each thread a transaction of its own");
    case THEUS_FORKED:
        return txn_error(self, "the transaction belongs to the parent process: "
                               "begin another one in this process");
    case THEUS_READ_ONLY:
        return txn_error(self, "the transaction is read-only: begin one without read_only=True to write");
    default:
        return errors_fail(self->heap->st, status);
    }
}

int
txn_enter(TxnObject *self)
{
    theus_status status = theus_txn_enter(&self->txn);
    return status == THEUS_OK ? 0 : txn_fail(self, status);
}

PyObject *
txn_path_tuple(const theus_segment *path, uint32_t length)
{
    /* The keys first: a tuple that is made may run the collector, and that a finalizer that removes them. */
    for (uint32_t i = 0; i < length; i++) {
        Py_XINCREF((PyObject *)path[i].key);
    }
    PyObject *tuple = PyTuple_New(length);
    for (uint32_t i = 0; i < length; i++) {
        PyObject *part = tuple != NULL && path[i].key == NULL ? PyLong_FromUnsignedLong(path[i].index)
                                                              : (PyObject *)path[i].key;
        if (tuple == NULL) {
            Py_XDECREF(part);
        } else {
            PyTuple_SET_ITEM(tuple, i, part);
        }
        if (part == NULL) {
            Py_CLEAR(tuple); /* with the keys it has; the others are given back one by one */
        }
    }
    return tuple;
}

/* The commit that changed the path, as the loser should see it; None if the history does not tell. */
static PyObject *
winner_of(EngineObject *engine, const theus_conflict *why)
{
    theus_version *version = NULL;
    theus_status status = theus_store_blame(engine->store, NULL, why->path, why->length,
                                            why->expected, why->found, &version);
    if (status != THEUS_OK) {
        return errors_raise(engine->heap->st, status);
    }
    PyObject *winner = record_wrap(engine->heap->st, version == NULL ? NULL : version->record);
    theus_version_release(version);
    return winner;
}

int
txn_raise_conflict(EngineObject *engine, const theus_conflict *why, uint32_t attempts)
{
    module_state *st = engine->heap->st;
    PyObject *path = txn_path_tuple(why->path, why->length);
    PyObject *winner = path == NULL ? NULL : winner_of(engine, why);
    if (winner != NULL) {
        PyObject *error = PyObject_CallFunction(
            st->ConflictError, "OKKOsI", path, (unsigned long long)why->expected,
            (unsigned long long)why->found, winner, why->what, attempts);
        if (error != NULL) {
            PyErr_SetObject(st->ConflictError, error);
            Py_DECREF(error);
        }
    }
    Py_XDECREF(path);
    Py_XDECREF(winner);
    return -1;
}

/* ---- life -------------------------------------------------------------------------------- */

TxnObject *
txn_new(EngineObject *engine, theus_isolation isolation, bool read_only, uint64_t timeout_ms,
        PyObject *process)
{
    module_state *st = engine->heap->st;
    TxnObject *self;
    if (st->free_txn_count > 0) {
        self = st->free_txns[--st->free_txn_count];
        PyObject_Init((PyObject *)self, st->Transaction_type);
    } else {
        self = PyObject_GC_New(TxnObject, st->Transaction_type);
        if (self == NULL) {
            return NULL;
        }
    }
    self->heap = (HeapObject *)Py_NewRef((PyObject *)engine->heap);
    self->engine = (EngineObject *)Py_NewRef((PyObject *)engine);
    self->process = Py_XNewRef(process);
    self->callbacks = NULL;
    self->weakrefs = NULL;
    self->home = NULL;
    self->context = NULL;
    self->guests = 0;
    self->outer = NULL;
    self->savepoint = 0;
    self->next = self->previous = NULL;
    self->timeout_ms = timeout_ms;
    self->version = 0;
    self->isolation = isolation;
    self->read_only = read_only;
    self->detached = false;
    self->txn.state = THEUS_TXN_IDLE;
    self->txn.root = NULL;
    self->txn.retired = NULL;
    self->txn.epoch = theus_process_epoch();
    PyObject_GC_Track(self);
    return self;
}

int
txn_begin(TxnObject *self, theus_version *pinned)
{
    void *context = running_context();
    PyObject *home = home_of(self->heap->st, context);
    if (home == NULL) {
        return -1;
    }
    Py_XSETREF(self->home, home);
    theus_version *version = pinned;
    if (version == NULL) {
        version = theus_store_pin(self->engine->store);
    }
    theus_txn_begin(&self->txn, self->engine->store, version, self->isolation, self->read_only);
    self->version = version->number;
    if (pinned == NULL) {
        theus_version_release(version);
    }
    self->txn.process = self->process;
    self->txn.apply = txn_apply_deferred;
    self->txn.apply_ctx = self->heap;
    self->thread = theus_thread_id();
    Py_XSETREF(self->context, Py_XNewRef((PyObject *)context));
    self->started_ns = theus_clock_tick_ns();
    self->txn.deadline_ns = self->timeout_ms == 0 ? 0 : self->started_ns + self->timeout_ms * 1000000;
    active_add(self);
    return 0;
}

void
txn_abort(TxnObject *self)
{
    if (self->txn.state != THEUS_TXN_OPEN) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    active_remove(self);
    theus_txn_abort(&self->txn);
    Py_CLEAR(self->callbacks);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

/* All callbacks run, whatever one of them raises; the first error is what the caller gets. */
static int
run_callbacks(TxnObject *self)
{
    PyObject *callbacks = self->callbacks, *error = NULL;
    self->callbacks = NULL;
    for (Py_ssize_t i = 0; callbacks != NULL && i < PyList_GET_SIZE(callbacks); i++) {
        PyObject *done = PyObject_CallNoArgs(PyList_GET_ITEM(callbacks, i));
        Py_XDECREF(done);
        if (done == NULL) {
            PyObject *raised = PyErr_GetRaisedException();
            if (error == NULL) {
                error = raised;
            } else {
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

static int
raise_timeout(TxnObject *self)
{
    uint64_t elapsed_ms = (theus_clock_tick_ns() - self->started_ns) / 1000000;
    PyObject *error = PyObject_CallFunction(self->heap->st->WriteTimeoutError, "KK",
                                            (unsigned long long)self->timeout_ms,
                                            (unsigned long long)elapsed_ms);
    if (error != NULL) {
        PyErr_SetObject(self->heap->st->WriteTimeoutError, error);
        Py_DECREF(error);
    }
    return -1;
}

int
txn_commit(TxnObject *self, theus_conflict *why)
{
    theus_version *made;
    theus_status status;
    why->cells = NULL;
    bool writes = self->txn.root->touched || self->txn.root->touched_below || self->txn.signals != NULL;
    if (writes && self->txn.deadline_ns != 0 && theus_clock_tick_ns() > self->txn.deadline_ns) {
        txn_abort(self);
        return raise_timeout(self);
    }
    /* Entered for its whole length: key equality may run a body that tries to end it a second time. */
    if (txn_enter(self) < 0) {
        return -1;
    }
    theus_outcome outcome = theus_txn_commit(&self->txn, NULL, &made, why, &status);
    txn_leave(self);
    active_remove(self);
    switch (outcome) {
    case THEUS_COMMITTED:
        self->version = made->number;
        theus_version_release(made);
        break;
    case THEUS_UNCHANGED:
        break;
    case THEUS_CONFLICTED:
        Py_CLEAR(self->callbacks);
        engine_note_conflict(self->engine, why);
        return 0;
    case THEUS_COMMIT_FAILED:
        Py_CLEAR(self->callbacks);
        return status == THEUS_LATE ? raise_timeout(self) : txn_fail(self, status);
    }
    return self->callbacks != NULL && run_callbacks(self) < 0 ? -1 : 1;
}

static int
txn_commit_or_raise(TxnObject *self)
{
    theus_conflict why;
    int done = txn_commit(self, &why);
    if (done == 0) {
        txn_raise_conflict(self->engine, &why, 1);
        theus_conflict_fini(&why);
        return -1;
    }
    return done < 0 ? -1 : 0;
}

static int
txn_traverse(PyObject *op, visitproc visit, void *arg)
{
    TxnObject *self = (TxnObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->heap);
    Py_VISIT(self->engine);
    Py_VISIT(self->process);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->outer);
    Py_VISIT(self->home);
    Py_VISIT(self->context);
    return theus_txn_visit(&self->txn, (int (*)(void *, void *))visit, arg);
}

static int
txn_clear(PyObject *op)
{
    TxnObject *self = (TxnObject *)op;
    txn_abort(self);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->context);
    return 0;
}

static void
txn_dealloc(PyObject *op)
{
    TxnObject *self = (TxnObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    module_state *st = self->heap->st;
    PyObject_GC_UnTrack(op);
    if (self->weakrefs != NULL) {
        PyObject_ClearWeakRefs(op);
    }
    txn_abort(self);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->process);
    Py_CLEAR(self->home);
    Py_CLEAR(self->context);
    HeapObject *heap = self->heap;
    EngineObject *engine = self->engine;
    if (st->recycles && st->free_txn_count < FREE_TXNS) {
        st->free_txns[st->free_txn_count++] = self;
    } else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(engine);
    Py_DECREF(heap);
    Py_DECREF(type);
}

void
txn_drop_free_list(module_state *st)
{
    while (st->free_txn_count > 0) {
        PyObject_GC_Del(st->free_txns[--st->free_txn_count]);
    }
}

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
    if (status == THEUS_OK && (self->savepoint != 0 || self->txn.state != THEUS_TXN_IDLE)) {
        theus_savepoint_release(savepoint); /* or begin this very transaction */
        status = THEUS_CHANGED;
    }
    txn_leave(outer);
    if (status != THEUS_OK) {
        txn_fail(outer, status);
        Py_DECREF(outer);
        return NULL;
    }
    self->savepoint = theus_txn_savepoint(&outer->txn);
    self->callback_mark = outer->callbacks == NULL ? 0 : PyList_GET_SIZE(outer->callbacks);
    Py_XSETREF(self->outer, (TxnObject *)Py_NewRef((PyObject *)outer));
    return (PyObject *)outer;
}

/* Ends a savepoint: keeps or undoes what was done since. */
static int
txn_unjoin(TxnObject *self, bool keep)
{
    TxnObject *outer = self->outer;
    uint64_t savepoint = self->savepoint;
    self->savepoint = 0;
    if (txn_enter(outer) < 0) {
        return -1;
    }
    int result = 0;
    if (outer->txn.depth > 1) {
        result = txn_error(self, "a savepoint cannot end inside an operation of its transaction");
    } else if (theus_txn_savepoint(&outer->txn) != savepoint) {
        result = txn_error(self, "savepoints end in the reverse order of their beginning: "
                                 "end the inner one first");
    } else if (keep) {
        theus_savepoint_release(outer->txn.savepoint);
    } else {
        theus_savepoint_rollback(outer->txn.savepoint);
        if (outer->callbacks != NULL) {
            result = PyList_SetSlice(outer->callbacks, self->callback_mark, PY_SSIZE_T_MAX, NULL);
        }
    }
    txn_leave(outer);
    return result;
}

static PyObject *
txn_enter_block(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *self = (TxnObject *)op;
    if (self->savepoint != 0) {
        txn_error(self, "this savepoint is open already: ask the transaction for another one");
        return NULL;
    }
    if (self->outer != NULL) {
        return txn_join(self, self->outer);
    }
    if (self->txn.state != THEUS_TXN_IDLE) {
        txn_error(self, self->txn.state == THEUS_TXN_OPEN
                            ? "the transaction is open already: use `with tx.savepoint():` inside it"
                            : "the transaction has ended: begin another one");
        return NULL;
    }
    if (engine_check_open(self->engine) < 0) {
        return NULL;
    }
    TxnObject *outer = self->detached ? NULL : txn_current(self->engine);
    if (outer != NULL) {
        return txn_join(self, outer);
    }
    if (!self->detached && txn_refuse_child(self->engine) < 0) {
        return NULL;
    }
    return txn_begin(self, NULL) < 0 ? NULL : Py_NewRef(op);
}

/* Ends the block; `failed` when an exception left it. */
static int
txn_end_block(TxnObject *self, bool failed)
{
    if (self->savepoint != 0) {
        return txn_unjoin(self, !failed);
    }
    if (self->outer != NULL) {
        return 0;
    }
    if (self->txn.state != THEUS_TXN_OPEN) {
        return 0; /* the body ended it with commit() or rollback() */
    }
    theus_status status = theus_txn_enter(&self->txn);
    if (status != THEUS_OK) {
        active_remove(self); /* in use by another thread: what begins here later must not join it */
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
    return txn_commit_or_raise(self);
}

static PyObject *
txn_exit_block(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("__exit__", count, 3, 3) < 0) {
        return NULL;
    }
    if (txn_end_block((TxnObject *)op, args[0] != Py_None) < 0) {
        return NULL;
    }
    Py_RETURN_FALSE;
}

/* async with: nothing here waits, so the awaitables are ready when they are made. */
static PyObject *
txn_enter_async(PyObject *op, PyObject *ignored)
{
    PyObject *entered = txn_enter_block(op, ignored);
    return entered == NULL ? NULL : ready_new(((TxnObject *)op)->heap->st, entered);
}

static PyObject *
txn_exit_async(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    PyObject *done = txn_exit_block(op, args, count);
    return done == NULL ? NULL : ready_new(((TxnObject *)op)->heap->st, done);
}

/* ---- methods --------------------------------------------------------------------- */

/* commit() and rollback() by hand: only by whoever began the transaction, and not from below. */
static int
refuse_end(TxnObject *self)
{
    if (self->outer != NULL) {
        return txn_error(self, "this is a savepoint: leave its block to end it");
    }
    if (txn_enter(self) < 0) {
        return -1;
    }
    bool inside = self->txn.depth > 1;
    txn_leave(self);
    if (inside) {
        return txn_error(self, "a transaction cannot end inside one of its own operations");
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
    if (refuse_end(self) < 0) {
        return NULL;
    }
    if (self->txn.savepoint != NULL) {
        txn_error(self, "a savepoint of this transaction is open: leave its block first");
        return NULL;
    }
    if (txn_commit_or_raise(self) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
txn_method_rollback(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TxnObject *self = (TxnObject *)op;
    if (self->txn.state == THEUS_TXN_OPEN && refuse_end(self) < 0) {
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
    txn_leave(self);
    if (self->callbacks == NULL && (self->callbacks = PyList_New(0)) == NULL) {
        return NULL;
    }
    if (PyList_Append(self->callbacks, callback) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Operations are noted first and made into Python objects when all are known: making one may run the collector, and
 * that a finalizer that writes to the transaction whose cells are being walked. */
typedef struct noted_operation {
    struct noted_operation *next;
    theus_op_kind kind;
    uint32_t length;
    theus_segment path[]; /* keys retained */
} noted_operation;

typedef struct {
    noted_operation *first;
    noted_operation **end;
} noted_operations;

static int
note_operation(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    noted_operations *noted = arg;
    noted_operation *one = PyMem_Malloc(sizeof(*one) + length * sizeof(*path));
    if (one == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    one->next = NULL;
    one->kind = kind;
    one->length = length;
    for (uint32_t i = 0; i < length; i++) {
        one->path[i] = path[i];
        Py_XINCREF((PyObject *)path[i].key);
    }
    *noted->end = one;
    noted->end = &one->next;
    return 0;
}

static PyObject *
operation_entry(const noted_operation *one)
{
    static const char *const names[] = {"set", "delete", "add", "append", "merge"};
    PyObject *where = txn_path_tuple(one->path, one->length);
    return where == NULL ? NULL : Py_BuildValue("(sN)", names[one->kind], where);
}

/* A list of what was noted if `wanted`, else NULL. Frees the notes. */
static PyObject *
operations_list(noted_operations *noted, bool wanted)
{
    PyObject *list = wanted ? PyList_New(0) : NULL;
    for (noted_operation *one = noted->first, *next; one != NULL; one = next) {
        PyObject *entry = list == NULL ? NULL : operation_entry(one);
        if (list != NULL && (entry == NULL || PyList_Append(list, entry) < 0)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(entry);
        for (uint32_t i = 0; i < one->length; i++) {
            Py_XDECREF((PyObject *)one->path[i].key);
        }
        next = one->next;
        PyMem_Free(one);
    }
    return list;
}

static PyObject *
txn_method_operations(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TxnObject *self = (TxnObject *)op;
    theus_status status = THEUS_OK;
    if (errors_check_count("operations", count, 0, 1) < 0) {
        return NULL;
    }
    int recent = count == 0 ? 0 : PyObject_IsTrue(args[0]);
    if (recent < 0 || txn_enter(self) < 0) {
        return NULL;
    }
    noted_operations noted = {NULL, &noted.first};
    int result = recent ? theus_txn_recent_operations(&self->txn, NULL, note_operation, &noted, &status)
                        : theus_txn_operations(&self->txn, note_operation, &noted);
    if (result != 0 && !PyErr_Occurred()) {
        txn_fail(self, status);
    }
    txn_leave(self);
    return operations_list(&noted, result == 0);
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

static PyObject *
get_state(PyObject *op, void *Py_UNUSED(closure))
{
    TxnObject *self = (TxnObject *)op;
    if (txn_enter(self) < 0) {
        return NULL;
    }
    theus_version *version = self->txn.pinned;
    theus_version_retain(version);
    txn_leave(self);
    return state_new(self->heap, self->engine, version);
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
    const theus_txn *txn = &((TxnObject *)op)->txn;
    return PyBool_FromLong(txn->state == THEUS_TXN_OPEN
                           && (txn->root->touched || txn->root->touched_below || txn->signals != NULL));
}

static PyGetSetDef txn_getset[] = {
    {"state", get_state, NULL, PyDoc_STR("The snapshot that the transaction reads, as a State."), NULL},
    {"version", get_version, NULL,
     PyDoc_STR("The version it began on; after a commit, the version that it made."), NULL},
    {"isolation", get_isolation, NULL, PyDoc_STR("'serializable' or 'snapshot'."), NULL},
    {"read_only", get_read_only, NULL, PyDoc_STR("True if it refuses writes."), NULL},
    {"active", get_active, NULL, PyDoc_STR("True from its beginning to its end."), NULL},
    {"written", get_written, NULL,
     PyDoc_STR("False as long as nothing was written; True may mean a write without effect."), NULL},
    {"write_timeout_ms", get_timeout, NULL,
     PyDoc_STR("Milliseconds after which a commit of writes is refused; 0 = never."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef txn_methods[] = {
    {"__enter__", txn_enter_block, METH_NOARGS,
     PyDoc_STR("Begins. Inside another transaction of this task on this engine: a savepoint of that one.")},
    {"__exit__", THEUS_FASTCALL(txn_exit_block), METH_FASTCALL,
     PyDoc_STR("Commits, or rolls back if an exception leaves the block. Raises ConflictError.")},
    {"__aenter__", txn_enter_async, METH_NOARGS, PyDoc_STR("As __enter__; never waits.")},
    {"__aexit__", THEUS_FASTCALL(txn_exit_async), METH_FASTCALL, PyDoc_STR("As __exit__; never waits.")},
    {"commit", txn_method_commit, METH_NOARGS,
     PyDoc_STR("Commits now. Raises ConflictError if another commit changed what this one depends on.")},
    {"rollback", txn_method_rollback, METH_NOARGS, PyDoc_STR("Ends without a trace; harmless after the end.")},
    {"savepoint", txn_method_savepoint, METH_NOARGS,
     PyDoc_STR("A block whose writes are undone if an exception leaves it. Reads stay logged.")},
    {"on_commit", txn_method_on_commit, METH_O,
     PyDoc_STR("Calls a function after the commit, never after a rollback. All callbacks run; the first\n"
               "exception of one then propagates, and the commit stands.")},
    {"operations", THEUS_FASTCALL(txn_method_operations), METH_FASTCALL,
     PyDoc_STR("operations(recent=False): what was written so far, [(kind, path), ...], each path once. With\n"
               "recent only what was written since the innermost open savepoint.")},
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
    } else if (PyObject_TypeCheck(engine, st->Engine_type)) {
        Py_INCREF(engine);
    } else {
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
    .name = "theus._theus.Transaction",
    .basicsize = sizeof(TxnObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = txn_slots,
};

/* ---- Ready: an awaitable that has its result ------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *value;
} ReadyObject;

PyObject *
ready_new(module_state *st, PyObject *value)
{
    ReadyObject *self = PyObject_GC_New(ReadyObject, st->Ready_type);
    if (self == NULL) {
        Py_DECREF(value);
        return NULL;
    }
    self->value = value;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static PyObject *
ready_next(PyObject *op)
{
    ReadyObject *self = (ReadyObject *)op;
    PyObject *value = self->value;
    self->value = NULL;
    if (value == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this was awaited before");
        return NULL;
    }
    /* StopIteration by hand: a tuple as value would be taken for its arguments. */
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    Py_DECREF(value);
    if (stop != NULL) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static int
ready_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ReadyObject *)op)->value);
    return 0;
}

static int
ready_clear(PyObject *op)
{
    Py_CLEAR(((ReadyObject *)op)->value);
    return 0;
}

static void
ready_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    ready_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot ready_slots[] = {
    {Py_tp_dealloc, ready_dealloc}, {Py_tp_traverse, ready_traverse}, {Py_tp_clear, ready_clear},
    {Py_am_await, PyObject_SelfIter}, {Py_tp_iter, PyObject_SelfIter}, {Py_tp_iternext, ready_next},
    {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "theus._theus._Ready",
    .basicsize = sizeof(ReadyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = ready_slots,
};

int
add_txn_type(PyObject *module, module_state *st)
{
    st->home = PyContextVar_New("theus.home", NULL);
    if (st->home == NULL) {
        return -1;
    }
    st->Ready_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &ready_spec, NULL);
    if (st->Ready_type == NULL) {
        return -1;
    }
    return module_add_type(module, &txn_spec, &st->Transaction_type);
}
