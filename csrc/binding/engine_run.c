/* Functions as transactions: run() with its retries. */
#include "active.h"
#include "body.h"
#include "engine_type.h"
#include "errors.h"
#include "turn_type.h"

#include "../core/conflict.h"

enum { YIELD_NS = 20000 }; /* a timer sleeps longer than this anyway: give the turn away instead */

/* ---- run ------------------------------------------------------------------------- */

typedef struct {
    PyObject *fn;
    int64_t retries; /* -1: no limit */
    uint64_t deadline_ns; /* after the start; 0: none */
    theus_isolation isolation;
    bool detached;
    PyObject *process; /* borrowed; str or NULL */
} run_options;

static int
parse_options(EngineObject *self, PyObject *const *values, PyObject *names, run_options *out)
{
    out->retries = -1;
    out->deadline_ns = self->timeout_ms * 1000000;
    out->isolation = THEUS_SERIALIZABLE;
    out->detached = false;
    out->process = NULL;
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i), *value = values[i];
        if (PyUnicode_CompareWithASCIIString(name, "retries") == 0) {
            if (value != Py_None) {
                int overflow = 0;
                bool whole = PyLong_Check(value) && !PyBool_Check(value);
                out->retries = whole ? PyLong_AsLongLongAndOverflow(value, &overflow) : -1;
                if (overflow > 0) {
                    out->retries = INT64_MAX;
                }
                else if (out->retries < 0) {
                    PyErr_Format(whole ? PyExc_ValueError : PyExc_TypeError,
                                 "retries must be an int, 0 or more, or None, not %R", value);
                    return -1;
                }
            }
        }
        else if (PyUnicode_CompareWithASCIIString(name, "deadline") == 0) {
            if (value != Py_None) {
                double seconds = PyBool_Check(value) ? -1.0 : PyFloat_AsDouble(value);
                if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
                    PyErr_Clear(); /* as -1.0 it is refused below */
                }
                if (PyBool_Check(value) || (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_TypeError))) {
                    PyErr_Format(PyExc_TypeError, "deadline must be a number of seconds, or None, not %R", value);
                    return -1;
                }
                if (!(seconds >= 0.0) || seconds > 9.0e9) {
                    if (!PyErr_Occurred()) {
                        PyErr_Format(PyExc_ValueError,
                                     "deadline must be between 0 and 9e9 seconds, or None, not %R", value);
                    }
                    return -1;
                }
                out->deadline_ns = (uint64_t)(seconds * 1e9) + 1;
            }
        }
        else if (PyUnicode_CompareWithASCIIString(name, "isolation") == 0) {
            if (engine_parse_isolation(value, &out->isolation) < 0) {
                return -1;
            }
        }
        else if (PyUnicode_CompareWithASCIIString(name, "detached") == 0) {
            if (engine_parse_flag(value, "detached", &out->detached) < 0) {
                return -1;
            }
        }
        else if (PyUnicode_CompareWithASCIIString(name, "process") == 0) {
            if (value != Py_None && !PyUnicode_Check(value)) {
                PyErr_Format(PyExc_TypeError, "process= names a process: a str, not %R", value);
                return -1;
            }
            out->process = value == Py_None ? NULL : value;
        }
        else {
            PyErr_Format(PyExc_TypeError,
                         "run() got an unexpected keyword argument %R; it takes retries, deadline, isolation, "
                         "detached and process, and passes only positional arguments on", name);
            return -1;
        }
    }
    return 0;
}

/* Runs inside runs: each takes 2 to 4 KiB of the thread's C stack, which Python's own limit does not count. */
enum { DEEPEST_RUN = 500 };

/* A run inside a body of the same thread and task is a savepoint of that transaction. */
static PyObject *
run_joined(TxnObject *outer, PyObject *const *args, Py_ssize_t count)
{
    theus_savepoint *savepoint;
    if (outer->guests >= DEEPEST_RUN) {
        return PyErr_Format(PyExc_RecursionError, "%d runs stand inside one another already: bodies that run one another "
                            "for ever, or a loop that should not be a recursion", DEEPEST_RUN);
    }
    if (txn_enter(outer) < 0) {
        return NULL;
    }
    theus_status status = theus_txn_save(&outer->txn, &savepoint);
    Py_ssize_t mark = outer->callbacks == NULL ? 0 : PyList_GET_SIZE(outer->callbacks);
    txn_guard kept = {NULL, NULL, NULL, 0};
    if (status == THEUS_OK) {
        kept = txn_keep_guard(outer);
    }
    txn_leave(outer);
    if (status != THEUS_OK) {
        txn_fail(outer, status);
        return NULL;
    }
    outer->guests++;
    PyObject *result = body_call(outer, args, count);
    outer->guests--;
    PyObject *error = result == NULL ? PyErr_GetRaisedException() : NULL;
    if (outer->txn.state == THEUS_TXN_OPEN && txn_enter(outer) == 0) {
        while (outer->txn.savepoint != savepoint) {
            theus_savepoint_release(outer->txn.savepoint); /* one that the body began and left open */
        }
        if (result != NULL && txn_check_joined(outer) < 0) {
            Py_CLEAR(result);
            error = PyErr_GetRaisedException();
        }
        txn_restore_guard(outer, &kept);
        if (result != NULL) {
            theus_savepoint_release(savepoint);
        }
        else {
            theus_savepoint_rollback(savepoint);
            if (outer->callbacks != NULL
                && PyList_SetSlice(outer->callbacks, mark, PY_SSIZE_T_MAX, NULL) < 0) {
                PyErr_Clear(); /* the body's own error is the one to show */
            }
        }
        txn_leave(outer);
    }
    txn_guard_fini(&kept);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return result;
}

/* Gives others the processor for a while. -1 when a signal handler raised. */
static int
back_off(uint64_t wait_ns)
{
    Py_BEGIN_ALLOW_THREADS
    if (wait_ns < YIELD_NS) {
        theus_yield();
    }
    else {
        theus_sleep_ns(wait_ns);
    }
    Py_END_ALLOW_THREADS
    return PyErr_CheckSignals();
}

/* One logical run across its attempts. */
typedef struct {
    EngineObject *engine;
    const run_options *options;
    PyObject *const *args;
    Py_ssize_t count;
    uint64_t start_ns; /* of the first attempt; 0 before */
    uint64_t number;   /* see TxnObject.run */
    bool measured;     /* it was committed with a ticket, and chain.footprint is that of the last attempt */
    theus_chain chain;
} run;

static uint64_t
run_end_ns(const run *self)
{
    return self->options->deadline_ns == 0 ? 0 : self->start_ns + self->options->deadline_ns;
}

/* The body, once, and its result with drafts made safe. NULL: it raised, and the transaction has ended. */
static PyObject *
run_body(run *self, TxnObject *txn)
{
    PyObject *result = body_call(txn, self->args, self->count);
    if (result != NULL && txn->txn.state == THEUS_TXN_OPEN) {
        result = txn_freeze_result(txn, result);
    }
    if (result == NULL) {
        txn_abort(txn);
    }
    return result;
}

/* Only where somebody is to know it again: those who meet nobody do not pay for it. */
static void
run_name_body(run *self)
{
    self->chain.body = body_known_as(self->args[0], self->args + 1, self->count - 1, self->options->process);
}

/* Tells the chain. 0, or -1 with MemoryError. */
static int
run_failed(run *self, const theus_conflict *why, const TxnObject *txn, uint64_t try_ns)
{
    EngineObject *engine = self->engine;
    uint64_t mean_ns = engine->body_ns, took_ns = mean_ns; /* two threads at once: one of the two samples counts */
    uint32_t held_up = txn->txn.held_up;
    if (held_up == 0 && !theus_chain_was_late(&self->chain)) {
        took_ns = try_ns != 0 ? theus_clock_fine_ns() - try_ns : theus_clock_tick_ns() - txn->started_ns;
        engine->body_ns = mean_ns == 0 ? took_ns : (mean_ns * 7 + took_ns) / 8;
    }
    if (self->chain.failures == 0) {
        run_name_body(self);
    }
    theus_status status
        = theus_chain_failed(&self->chain, &why->footprint, why->expected, why->found, held_up, took_ns);
    return status == THEUS_OK ? 0 : errors_fail(engine->heap->st, status);
}

/* One attempt. 1 = done, *result is set; 0 = conflict, and the chain knows of it; -1 = exception set. */
static int
run_attempt(run *self, theus_conflict *why, PyObject **result)
{
    EngineObject *engine = self->engine;
    uint64_t try_ns = self->chain.failures == 0 ? 0 : theus_clock_fine_ns(); /* the first one is timed coarsely */
    TxnObject *txn = txn_new(engine, self->options->isolation, false, engine->timeout_ms, self->options->process);
    if (txn == NULL) {
        return -1;
    }
    txn->leader = theus_chain_number(&self->chain);
    txn->heads = theus_chain_is_in_line(&self->chain);
    txn->run = self->number;
    theus_chain_begin(&self->chain);
    if (txn_begin(txn, NULL, false) < 0) {
        Py_DECREF(txn);
        return -1;
    }
    if (self->start_ns == 0) {
        self->start_ns = txn->started_ns;
    }
    txn->patience_ns = run_end_ns(self);
    why->measured = false;
    *result = run_body(self, txn);
    int done = -1;
    if (*result != NULL) {
        /* A body that ended its transaction itself has decided. */
        done = txn->txn.state == THEUS_TXN_OPEN ? txn_commit(txn, why, TXN_GATE_WAIT) : 1;
        if (done != 1) {
            Py_CLEAR(*result);
        }
        if (done < 0) {
            txn_abort(txn); /* refused while another thread is inside: later runs here must not join it */
        }
    }
    self->number = txn->run;
    if (done == 0 && run_failed(self, why, txn, try_ns) < 0) {
        theus_conflict_fini(why);
        done = -1;
    }
    Py_DECREF(txn);
    return done;
}

/* Between two attempts: 1 = go on; 0 = retries or time are used up; -1 = exception set. */
static int
run_wait(run *self)
{
    EngineObject *engine = self->engine;
    const run_options *options = self->options;
    uint32_t failures = self->chain.failures;
    if ((options->retries >= 0 && (int64_t)failures > options->retries)
        || (options->deadline_ns != 0 && theus_clock_tick_ns() >= run_end_ns(self))) {
        return 0;
    }
    atomic_fetch_add_explicit(&theus_store_counters(engine->store)->retries, 1, memory_order_relaxed);
    if (theus_chain_is_in_line(&self->chain)) {
        return turn_line_up(engine, &self->chain, run_end_ns(self));
    }
    return back_off(theus_backoff_ns(engine->body_ns, failures - 1, theus_random())) < 0 ? -1 : 1;
}

/* Where there is a queue for such bodies, a run waits before its first attempt. 0, or -1 with an exception. */
static int
run_line_up(run *self)
{
    EngineObject *engine = self->engine;
    if (!theus_turn_queue_is_on(&self->chain.turns->queue)) {
        return 0;
    }
    run_name_body(self);
    theus_status status = theus_chain_line_up(&self->chain);
    if (status != THEUS_OK) {
        errors_raise(engine->heap->st, status);
        return -1;
    }
    if (!theus_chain_is_in_line(&self->chain)) {
        return 0;
    }
    self->start_ns = theus_clock_tick_ns();
    int came = turn_line_up(engine, &self->chain, run_end_ns(self));
    if (came == 0) {
        txn_raise_late(engine->heap->st, self->options->deadline_ns, self->start_ns);
    }
    return came == 1 ? 0 : -1;
}

static PyObject *
run_attempts(run *self)
{
    PyObject *result = NULL;
    theus_conflict why;
    int done = run_line_up(self);
    while (done == 0 && (done = run_attempt(self, &why, &result)) == 0) {
        int go_on = run_wait(self);
        if (go_on == 0) {
            txn_raise_conflict(self->engine, &why, self->chain.failures);
        }
        theus_conflict_fini(&why);
        done = go_on == 1 ? 0 : -1;
    }
    if (done == 1 && self->chain.ticket != NULL && why.measured) {
        self->measured = true;
        self->chain.footprint = why.footprint;
    }
    return result;
}

PyObject *
engine_run(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    EngineObject *self = (EngineObject *)op;
    run_options options;
    uint64_t leader = 0;
    if (count < 1) {
        PyErr_SetString(PyExc_TypeError, "run() needs a function to call with the transaction");
        return NULL;
    }
    if (!PyCallable_Check(args[0])) {
        return PyErr_Format(PyExc_TypeError, "run() calls a function with the transaction, not %R", args[0]);
    }
    if (engine_check_open(self) < 0 || parse_options(self, args + count, names, &options) < 0) {
        return NULL;
    }
    if (!options.detached) {
        TxnObject *outer = txn_current(self);
        if (outer != NULL) {
            PyObject *result = run_joined(outer, args, count);
            Py_DECREF(outer);
            return result;
        }
        if (txn_refuse_child(self) < 0) {
            return NULL;
        }
    }
    if (turn_is_out(self) && active_leader(self, &leader) < 0) {
        return NULL;
    }
    run one; /* without an initialiser, which would write all of the footprint in it */
    one.engine = self;
    one.options = &options;
    one.args = args;
    one.count = count;
    one.start_ns = one.number = 0;
    one.measured = false;
    theus_chain_init(&one.chain, theus_store_turns(self->store), leader, 0);
    PyObject *result = run_attempts(&one);
    /* On every way out, also for what a signal handler raised. */
    theus_chain_end(&one.chain, result != NULL, one.measured ? &one.chain.footprint : NULL);
    return result;
}
