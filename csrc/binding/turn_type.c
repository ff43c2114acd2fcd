/* Threads and tasks that wait for their turn.
 *
 * Whoever waits is a Waiter with a callable, which is called once by the thread that ends the wait, with no lock held.
 * A thread passes the release() of a lock and acquires it: that detaches it from the interpreter, and Ctrl-C gets
 * through. A task passes what finishes a future through call_soon_threadsafe(). Nobody polls. */
#include "turn_type.h"

#include "body.h"
#include "errors.h"
#include "waiting.h"

#include <stddef.h>

/* ---- one who waits -------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    EngineObject *engine; /* owned */
    PyObject *wake;       /* owned */
    theus_waiter waiter;  /* while it is in the line, the line owns a reference to this object */
} WaiterObject;

/* Runs in the thread that ends the wait, perhaps in the midst of an exception of its own. */
static void
waiter_woken(theus_waiter *waiter)
{
    WaiterObject *self = (WaiterObject *)((char *)waiter - offsetof(WaiterObject, waiter));
    PyObject *error = PyErr_GetRaisedException();
    if (waiting_call(self->wake) < 0) {
        waiting_defer(self->wake);
    }
    Py_DECREF(self);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}

static WaiterObject *
waiter_new(EngineObject *engine, PyObject *wake)
{
    WaiterObject *self = PyObject_GC_New(WaiterObject, engine->heap->st->Waiter_type);
    if (self == NULL) {
        return NULL;
    }
    self->engine = (EngineObject *)Py_NewRef((PyObject *)engine);
    self->wake = Py_NewRef(wake);
    self->waiter.wake = waiter_woken;
    self->waiter.state = THEUS_WAITER_OUT;
    PyObject_GC_Track(self);
    return self;
}

static theus_turn
waiter_wait(WaiterObject *self, uint64_t number, bool gate, const theus_footprint *footprint, uint64_t thread,
            uint64_t *until_ns)
{
    Py_INCREF(self); /* the line's */
    theus_turn turn = theus_turns_wait(theus_store_turns(self->engine->store), &self->waiter, number, gate, footprint,
                                       thread, until_ns);
    if (turn != THEUS_TURN_AWAITED) {
        Py_DECREF(self);
    }
    return turn;
}

/* After AWAITED, once. */
static void
waiter_leave(WaiterObject *self)
{
    if (theus_turns_leave(theus_store_turns(self->engine->store), &self->waiter)) {
        Py_DECREF(self);
    }
}

static int
waiter_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((WaiterObject *)op)->engine);
    Py_VISIT(((WaiterObject *)op)->wake);
    return 0;
}

static void
waiter_dealloc(PyObject *op)
{
    WaiterObject *self = (WaiterObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF(self->wake);
    Py_DECREF(self->engine);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyType_Slot waiter_slots[] = {
    {Py_tp_dealloc, waiter_dealloc}, {Py_tp_traverse, waiter_traverse}, {0, NULL},
};

static PyType_Spec waiter_spec = {
    .name = "theus._theus._Waiter",
    .basicsize = sizeof(WaiterObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = waiter_slots,
};

/* ---- threads ------------------------------------------------------------------------------ */

/* -1 with an exception for an answer that forbids to wait. */
static int
refuse_wait(EngineObject *engine, theus_turn turn)
{
    module_state *st = engine->heap->st;
    if (turn == THEUS_TURN_CLOSED) {
        PyErr_SetNone(st->ClosedError);
    }
    else {
        PyErr_SetString(st->TransactionError,
                        "this call would wait for a task of the event loop that runs in this very thread, which has "
                        "priority where this transaction writes: await the asynchronous form (run_async, execute, "
                        "async with engine.transaction()), or make the call in another thread");
    }
    return -1;
}

int
turn_sleep(EngineObject *engine, uint64_t number, bool gate, const theus_footprint *footprint, uint64_t end_ns)
{
    PyObject *lock = waiting_new_lock();
    PyObject *release = lock == NULL ? NULL : PyObject_GetAttrString(lock, "release");
    WaiterObject *waiter = release == NULL ? NULL : waiter_new(engine, release);
    int result = -1;
    if (waiter != NULL) {
        uint64_t until_ns;
        theus_turn turn = waiter_wait(waiter, number, gate, footprint, theus_thread_id(), &until_ns);
        if (turn == THEUS_TURN_CAME) {
            result = 1;
        }
        else if (turn == THEUS_TURN_AWAITED) {
            uint64_t now_ns = theus_clock_tick_ns();
            if (end_ns != 0 && end_ns < until_ns) {
                until_ns = end_ns;
            }
            result = until_ns <= now_ns ? 0 : waiting_acquire(lock, until_ns - now_ns);
            waiter_leave(waiter);
            if (result == 0) {
                result = end_ns == 0 || theus_clock_tick_ns() < end_ns;
            }
        }
        else {
            refuse_wait(engine, turn);
        }
    }
    Py_XDECREF((PyObject *)waiter);
    Py_XDECREF(release);
    Py_XDECREF(lock);
    return result;
}

int
turn_line_up(EngineObject *engine, const theus_chain *chain, uint64_t end_ns)
{
    int result = 1;
    uint64_t number;
    while (result == 1 && (number = theus_chain_number(chain)) != 0
           && !theus_turns_has_come(chain->turns, number)) {
        result = turn_sleep(engine, number, false, &chain->footprint, end_ns);
    }
    return result;
}

/* ---- tasks ----------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    EngineObject *engine;  /* owned */
    WaiterObject *waiter;  /* owned; NULL: does not wait */
    uint64_t run;          /* see TxnObject.run */
    theus_chain chain;
} TurnObject;

static PyObject *
turn_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"engine", "fn", "args", "process", NULL};
    module_state *st = module_state_of_type(type);
    PyObject *engine, *fn = NULL, *arguments = NULL, *process = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|OO!O:Turn", names, st->Engine_type, &engine, &fn,
                                     &PyTuple_Type, &arguments, &process)) {
        return NULL;
    }
    uint64_t leader = 0;
    if (active_leader((EngineObject *)engine, &leader) < 0) {
        return NULL;
    }
    TurnObject *self = (TurnObject *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->engine = (EngineObject *)Py_NewRef(engine);
    theus_chain_init(&self->chain, theus_store_turns(self->engine->store), leader, theus_thread_id());
    if (fn != NULL) {
        self->chain.body
            = body_known_as(fn, arguments == NULL ? NULL : &PyTuple_GET_ITEM(arguments, 0),
                            arguments == NULL ? 0 : PyTuple_GET_SIZE(arguments), process == Py_None ? NULL : process);
    }
    return (PyObject *)self;
}

static int
turn_parse_txn(TurnObject *self, PyObject *argument, TxnObject **out)
{
    if (!Py_IS_TYPE(argument, self->engine->heap->st->Transaction_type)
        || ((TxnObject *)argument)->engine != self->engine) {
        PyErr_Format(PyExc_TypeError, "a Turn leads transactions of its own engine, not %R", argument);
        return -1;
    }
    *out = (TxnObject *)argument;
    return 0;
}

static PyObject *
turn_line_up_method(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TurnObject *self = (TurnObject *)op;
    theus_status status = theus_chain_line_up(&self->chain);
    if (status != THEUS_OK) {
        return errors_raise(self->engine->heap->st, status);
    }
    Py_RETURN_NONE;
}

/* Seconds as nanoseconds; -1 with TypeError. */
static int
parse_seconds(PyObject *argument, uint64_t *out)
{
    double seconds = PyFloat_AsDouble(argument);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    *out = !(seconds > 0.0) ? 0 : seconds < 9.0e9 ? (uint64_t)(seconds * 1e9) : (uint64_t)9e18;
    return 0;
}

static PyObject *
turn_lead(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TurnObject *self = (TurnObject *)op;
    TxnObject *txn;
    uint64_t patience_ns;
    if (errors_check_count("lead", count, 2, 2) < 0 || turn_parse_txn(self, args[0], &txn) < 0
        || parse_seconds(args[1], &patience_ns) < 0) {
        return NULL;
    }
    txn->run = self->run;
    txn->leader = theus_chain_number(&self->chain);
    txn->heads = theus_chain_is_in_line(&self->chain);
    theus_chain_begin(&self->chain);
    txn->patience_ns = theus_clock_tick_ns() + patience_ns;
    Py_RETURN_NONE;
}

static PyObject *
turn_wait(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TurnObject *self = (TurnObject *)op;
    TxnObject *txn = NULL;
    if (errors_check_count("wait", count, 1, 2) < 0
        || (count == 2 && turn_parse_txn(self, args[1], &txn) < 0)) {
        return NULL;
    }
    if (self->waiter != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this Turn waits already");
        return NULL;
    }
    if (txn != NULL && !txn->measured) {
        Py_RETURN_NONE; /* it was not a ticket that held up its commit */
    }
    WaiterObject *waiter = waiter_new(self->engine, args[0]);
    if (waiter == NULL) {
        return NULL;
    }
    uint64_t until_ns;
    theus_turn turn = waiter_wait(waiter, txn != NULL ? txn->txn.turn : theus_chain_number(&self->chain), txn != NULL,
                                  txn != NULL ? &txn->footprint : &self->chain.footprint, 0, &until_ns);
    if (turn == THEUS_TURN_AWAITED) {
        self->waiter = waiter;
        uint64_t now_ns = theus_clock_tick_ns(), end_ns = txn == NULL ? 0 : txn_end_ns(txn);
        if (end_ns != 0 && end_ns < until_ns) {
            until_ns = end_ns;
        }
        return PyFloat_FromDouble(until_ns > now_ns ? (double)(until_ns - now_ns) * 1e-9 : 0.0);
    }
    Py_DECREF(waiter);
    if (turn == THEUS_TURN_CAME) {
        Py_RETURN_NONE;
    }
    refuse_wait(self->engine, turn);
    return NULL;
}

static PyObject *
turn_leave(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    TurnObject *self = (TurnObject *)op;
    WaiterObject *waiter = self->waiter;
    self->waiter = NULL;
    if (waiter != NULL) {
        waiter_leave(waiter);
        Py_DECREF(waiter);
    }
    Py_RETURN_NONE;
}

static PyObject *
turn_commit(PyObject *op, PyObject *argument)
{
    TurnObject *self = (TurnObject *)op;
    TxnObject *txn;
    if (turn_parse_txn(self, argument, &txn) < 0) {
        return NULL;
    }
    int done = txn_commit_or_raise(txn, TXN_GATE_RETURN);
    return done < 0 ? NULL : PyBool_FromLong(done == 0);
}

static PyObject *
turn_abort(PyObject *op, PyObject *argument)
{
    TxnObject *txn;
    if (turn_parse_txn((TurnObject *)op, argument, &txn) < 0) {
        return NULL;
    }
    txn_abort(txn);
    Py_RETURN_NONE;
}

static PyObject *
turn_failed(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TurnObject *self = (TurnObject *)op;
    TxnObject *txn;
    uint64_t body_ns;
    if (errors_check_count("failed", count, 2, 2) < 0 || turn_parse_txn(self, args[0], &txn) < 0
        || parse_seconds(args[1], &body_ns) < 0) {
        return NULL;
    }
    self->run = txn->run;
    if (!txn->measured) {
        Py_RETURN_NONE; /* it was no conflict of this transaction's own commit */
    }
    txn->measured = false;
    theus_status status = theus_chain_failed(&self->chain, &txn->footprint, txn->version, txn->found,
                                             txn->txn.held_up, body_ns);
    if (status != THEUS_OK) {
        return errors_raise(self->engine->heap->st, status);
    }
    Py_RETURN_NONE;
}

static PyObject *
turn_end(PyObject *op, PyObject *argument)
{
    TurnObject *self = (TurnObject *)op;
    TxnObject *done = NULL;
    if (argument != Py_None && turn_parse_txn(self, argument, &done) < 0) {
        return NULL;
    }
    theus_chain_end(&self->chain, done != NULL, done != NULL && done->measured ? &done->footprint : NULL);
    Py_RETURN_NONE;
}

static PyObject *
get_in_line(PyObject *op, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(theus_chain_is_in_line(&((TurnObject *)op)->chain));
}

static PyObject *
get_must_wait(PyObject *op, void *Py_UNUSED(closure))
{
    theus_chain *chain = &((TurnObject *)op)->chain;
    return PyBool_FromLong(theus_chain_is_in_line(chain)
                           && !theus_turns_has_come(chain->turns, theus_chain_number(chain)));
}

static int
turn_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((TurnObject *)op)->engine);
    Py_VISIT(((TurnObject *)op)->waiter);
    return 0;
}

static void
turn_dealloc(PyObject *op)
{
    TurnObject *self = (TurnObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_XDECREF(turn_leave(op, NULL));
    theus_chain_end(&self->chain, false, NULL);
    Py_DECREF(self->engine);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef turn_methods[] = {
    {"line_up", turn_line_up_method, METH_NOARGS,
     PyDoc_STR("Before the first attempt: takes a ticket if the engine is queueing, and has seen such runs fight.")},
    {"lead", THEUS_FASTCALL(turn_lead), METH_FASTCALL,
     PyDoc_STR("lead(tx, seconds): the transaction, which has not begun yet, belongs to this run, and waits at the\n"
               "gate for so long at most.")},
    {"wait", THEUS_FASTCALL(turn_wait), METH_FASTCALL,
     PyDoc_STR("wait(wake, tx=None): None if nothing is in the way of the next attempt (of the commit of tx, which\n"
               "was held up). Else wake() will be called, once, from any thread; look again after so many seconds\n"
               "in any case. Then call leave().")},
    {"leave", turn_leave, METH_NOARGS, PyDoc_STR("Waits no longer.")},
    {"commit", turn_commit, METH_O, PyDoc_STR("Commits: True, or False if it was held up and is still open.")},
    {"abort", turn_abort, METH_O, PyDoc_STR("Ends a transaction that was held up, without a trace.")},
    {"failed", THEUS_FASTCALL(turn_failed), METH_FASTCALL,
     PyDoc_STR("failed(tx, seconds): the commit of tx met a conflict, after a body of so many seconds.")},
    {"end", turn_end, METH_O, PyDoc_STR("The run is over; with the transaction that was committed, or None.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef turn_getset[] = {
    {"in_line", get_in_line, NULL, PyDoc_STR("Has it a ticket?"), NULL},
    {"must_wait", get_must_wait, NULL, PyDoc_STR("Has it a ticket whose turn has not come?"), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot turn_slots[] = {
    {Py_tp_doc, (void *)"Turn(engine, fn=None, args=(), process=None): the contention side of one run of\n"
                        "fn(tx, *args) across its attempts, for coroutine bodies.\n\n"
                        "What Engine.run() does for threads. For one task at a time."},
    {Py_tp_new, turn_new},
    {Py_tp_dealloc, turn_dealloc},
    {Py_tp_traverse, turn_traverse},
    {Py_tp_methods, turn_methods},
    {Py_tp_getset, turn_getset},
    {0, NULL},
};

static PyType_Spec turn_spec = {
    .name = "theus._theus.Turn",
    .basicsize = sizeof(TurnObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = turn_slots,
};

PyObject *
turn_commit_later(TxnObject *txn)
{
    PyObject *turns = PyImport_ImportModule("theus.turns");
    PyObject *later = turns == NULL ? NULL : PyObject_CallMethod(turns, "commit", "OO", txn->engine, txn);
    Py_XDECREF(turns);
    return later;
}

int
add_turn_types(PyObject *module, module_state *st)
{
    st->Waiter_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &waiter_spec, NULL);
    return st->Waiter_type == NULL ? -1 : module_add_type(module, &turn_spec, &st->Turn_type);
}
