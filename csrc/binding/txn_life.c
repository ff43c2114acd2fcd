/* A transaction object from making to end: who runs it, what it refuses, its memory. Its commit: txn_commit.c. */
#include "active.h"
#include "admin.h"

#include "engine_type.h"
#include "errors.h"
#include "guard.h"
#include "records.h"
#include "state_type.h"
#include "turn_type.h"

/* ---- refusals ------------------------------------------------------------------------ */

int
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
                                   : "the transaction has ended, and its drafts with it: begin another one, "
                                     "or read what was committed in engine.state");
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
        }
        else {
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
    PyObject *winner = record_wrap(engine->heap, version == NULL ? NULL : version->record);
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
    }
    else {
        self = PyObject_GC_New(TxnObject, st->Transaction_type);
        if (self == NULL) {
            return NULL;
        }
    }
    self->heap = engine->heap;
    self->engine = (EngineObject *)Py_NewRef((PyObject *)engine);
    self->process = Py_XNewRef(process);
    self->callbacks = NULL;
    self->weakrefs = NULL;
    self->homes = NULL;
    self->context = NULL;
    self->guests = 0;
    self->outer = NULL;
    self->guard = self->bound = self->joined_bound = NULL;
    self->refused = NULL;
    self->lifted = self->admissions = NULL;
    self->admin_scope = self->before_admin = NULL;
    self->bodies = self->body = 0;
    self->kept = (txn_guard){NULL, NULL, NULL, 0};
    self->savepoint = 0;
    self->next = self->previous = NULL;
    self->timeout_ms = timeout_ms;
    self->version = 0;
    self->isolation = isolation;
    self->read_only = read_only;
    self->detached = false;
    atomic_init(&self->leader, 0);
    self->heads = false;
    self->run = 0;
    self->patience_ns = 0;
    self->measured = false;
    atomic_init(&self->claimed, false);
    atomic_init(&self->txn.abandoned, false);
    atomic_init(&self->txn.state, THEUS_TXN_IDLE);
    self->txn.root = NULL;
    self->txn.retired = NULL;
    self->txn.epoch = theus_process_epoch();
    object_allow_try_ref((PyObject *)self);
    PyObject_GC_Track(self);
    return self;
}

int
txn_begin(TxnObject *self, theus_version *pinned, bool is_async)
{
    PyThreadState *thread = running_thread();
    PyObject *homes = home_begin(self->heap->st, thread, is_async);
    if (homes == NULL) {
        return -1;
    }
    if (self->leader == 0 && turn_is_out(self->engine)) {
        uint64_t leader;
        if (active_leader(self->engine, &leader) < 0) {
            Py_DECREF(homes);
            return -1;
        }
        self->leader = leader;
    }
    atomic_store_explicit(&self->claimed, true, memory_order_relaxed);
    Py_XSETREF(self->homes, homes);
    if (pinned == NULL) {
        theus_txn_begin_newest(&self->txn, self->engine->store, self->isolation, self->read_only);
    }
    else {
        theus_txn_begin(&self->txn, self->engine->store, pinned, self->isolation, self->read_only);
    }
    atomic_store_explicit(&self->version, self->txn.pinned->number, memory_order_relaxed);
    self->txn.turn = self->leader;
    self->txn.process = self->process;
    self->txn.apply = txn_apply_deferred;
    self->txn.admit = record_admit;
    self->txn.embedder = self->heap;
    self->thread = theus_thread_id();
    Py_XSETREF(self->context, Py_XNewRef(thread->context));
    self->started_ns = theus_clock_tick_ns();
    self->txn.deadline_ns = self->timeout_ms == 0 ? 0 : self->started_ns + self->timeout_ms * 1000000;
    active_add(&self->engine->active, self);
    return 0;
}

txn_guard
txn_keep_guard(TxnObject *self)
{
    txn_guard kept = {(ScopeObject *)Py_XNewRef((PyObject *)self->guard), self->joined_bound, self->refused, self->body};
    self->joined_bound = NULL;
    self->refused = NULL;
    return kept;
}

void
txn_restore_guard(TxnObject *self, txn_guard *kept)
{
    txn_guard mine = *kept;
    *kept = (txn_guard){NULL, NULL, NULL, 0};
    self->body = mine.body;
    /* A refusal by the contract of what has joined is that one's: it has failed by it. One by the guard that stood before
     * stays, for the body around it, whose code it was. */
    bool theirs = self->joined_bound != NULL && self->refused != NULL
                  && (mine.scope == NULL || PyTuple_GET_ITEM(self->refused, 0) != (PyObject *)mine.scope->root);
    Py_XSETREF(self->guard, mine.scope);
    Py_XSETREF(self->joined_bound, mine.bound);
    if (mine.refused != NULL || theirs) {
        Py_XSETREF(self->refused, mine.refused);
    }
}

void
txn_guard_fini(txn_guard *kept)
{
    Py_CLEAR(kept->scope);
    Py_CLEAR(kept->bound);
    Py_CLEAR(kept->refused);
}

int
txn_check_joined(TxnObject *self)
{
    PyObject *refused = Py_XNewRef(self->refused);
    int result = 0;
    if (self->joined_bound != NULL) {
        result = guard_raise_refused(self); /* by a guard that was made by hand: the body of a process is done with its own */
        if (result == 0) {
            result = guard_check_operations(self, self->joined_bound, true);
        }
    }
    if (result < 0) {
        Py_XSETREF(self->refused, Py_XNewRef(refused)); /* for txn_restore_guard() to judge */
    }
    Py_XDECREF(refused);
    return result;
}

void
txn_step_down(TxnObject *self)
{
    if (self->heads) {
        self->heads = false;
        theus_turns_drop(theus_store_turns(self->engine->store), self->leader);
    }
}

/* Keeps the current exception. */
static void
end_without_trace(TxnObject *self)
{
    PyObject *error = PyErr_GetRaisedException();
    bool reserved = self->txn.reserved;
    if (theus_txn_abort(&self->txn)) {
        Py_CLEAR(self->callbacks);
        if (reserved) {
            waiting_ring_quietly(&self->engine->room, (PyObject *)Py_TYPE(self)); /* its place is free */
        }
        txn_step_down(self);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

void
txn_abort(TxnObject *self)
{
    bool open = self->txn.state == THEUS_TXN_OPEN;
    if (open || atomic_load_explicit(&self->txn.abandoned, memory_order_relaxed)) {
        active_remove(&self->engine->active, self);
        atomic_store_explicit(&self->txn.abandoned, false, memory_order_relaxed);
    }
    if (open) {
        end_without_trace(self);
    }
}

void
txn_abandon(TxnObject *self)
{
    if (self->txn.state == THEUS_TXN_OPEN) {
        atomic_store_explicit(&self->txn.abandoned, true, memory_order_relaxed);
        end_without_trace(self);
        if (self->txn.state == THEUS_TXN_OPEN) { /* somebody is inside: waiting for a place in the ring, perhaps */
            atomic_thread_fence(memory_order_seq_cst);
            waiting_ring_quietly(&self->engine->room, (PyObject *)Py_TYPE(self));
        }
    }
}

PyObject *
module_abandon(PyObject *module, PyObject *transaction)
{
    if (!Py_IS_TYPE(transaction, module_state_of(module)->Transaction_type)) {
        PyErr_Format(PyExc_TypeError, "abandon() takes a transaction, not %R", transaction);
        return NULL;
    }
    txn_abandon((TxnObject *)transaction);
    Py_RETURN_NONE;
}

uint64_t
txn_run(TxnObject *self)
{
    if (self->run == 0) {
        self->run = atomic_fetch_add_explicit(&self->engine->runs, 1, memory_order_relaxed) + 1;
    }
    return self->run;
}

int
txn_traverse(PyObject *op, visitproc visit, void *arg)
{
    TxnObject *self = (TxnObject *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->engine);
    Py_VISIT(self->process);
    Py_VISIT(self->callbacks);
    Py_VISIT(self->outer);
    Py_VISIT(self->homes);
    Py_VISIT(self->context);
    Py_VISIT(self->guard);
    Py_VISIT(self->bound);
    Py_VISIT(self->joined_bound);
    Py_VISIT(self->refused);
    Py_VISIT(self->lifted);
    Py_VISIT(self->admissions);
    Py_VISIT(self->admin_scope);
    Py_VISIT(self->before_admin);
    Py_VISIT(self->kept.scope);
    Py_VISIT(self->kept.bound);
    Py_VISIT(self->kept.refused);
    return theus_txn_visit(&self->txn, (int (*)(void *, void *))visit, arg);
}

int
txn_clear(PyObject *op)
{
    TxnObject *self = (TxnObject *)op;
    txn_abort(self);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->context);
    Py_CLEAR(self->guard);
    Py_CLEAR(self->bound);
    Py_CLEAR(self->joined_bound);
    Py_CLEAR(self->refused);
    Py_CLEAR(self->lifted);
    Py_CLEAR(self->admissions);
    Py_CLEAR(self->admin_scope);
    Py_CLEAR(self->before_admin);
    txn_guard_fini(&self->kept);
    return 0;
}

void
txn_dealloc(PyObject *op)
{
    TxnObject *self = (TxnObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    module_state *st = self->heap->st;
    PyObject_GC_UnTrack(op);
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    txn_abort(self);
    Py_CLEAR(self->callbacks);
    Py_CLEAR(self->outer);
    Py_CLEAR(self->process);
    Py_CLEAR(self->homes);
    Py_CLEAR(self->context);
    Py_CLEAR(self->guard);
    Py_CLEAR(self->bound);
    Py_CLEAR(self->joined_bound);
    Py_CLEAR(self->refused);
    Py_CLEAR(self->lifted);
    Py_CLEAR(self->admissions);
    Py_CLEAR(self->admin_scope);
    Py_CLEAR(self->before_admin);
    txn_guard_fini(&self->kept);
    EngineObject *engine = self->engine;
    if (st->recycles && st->free_txn_count < FREE_TXNS) {
        st->free_txns[st->free_txn_count++] = self;
    }
    else {
        PyObject_GC_Del(op);
    }
    Py_DECREF(engine);
    Py_DECREF(type);
}

void
txn_drop_free_list(module_state *st)
{
    while (st->free_txn_count > 0) {
        PyObject_GC_Del(st->free_txns[--st->free_txn_count]);
    }
}
