/* Functions as transactions: run() with its retries, and compare_and_swap(). */
#include "active.h"
#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "turn_type.h"
#include "txn_paths.h"

#include "../core/conflict.h"

enum { YIELD_NS = 20000 }; /* a timer sleeps longer than this anyway: give the turn away instead */

/* ---- results ----------------------------------------------------------------------------- */

/* The parts of a result with drafts replaced, or `result` itself if it held none. Both are new references; steals nothing. */
static PyObject *
freeze_parts(TxnObject *self, PyObject *result)
{
    /* Of a dict a copy: freezing a draft may run a resolver that changes the dict meanwhile. */
    PyObject *copy = PyDict_CheckExact(result) ? PyDict_Copy(result) : NULL;
    PyObject *parts = PyDict_CheckExact(result) ? (copy == NULL ? NULL : PyDict_Values(copy))
                                                : PySequence_List(result);
    bool changed = false;
    for (Py_ssize_t i = 0; parts != NULL && i < PyList_GET_SIZE(parts); i++) {
        PyObject *part = PyList_GET_ITEM(parts, i); /* borrowed: parts is ours alone */
        PyObject *frozen = txn_freeze_result(self, Py_NewRef(part));
        changed = changed || frozen != part;
        if (frozen == NULL || PyList_SetItem(parts, i, frozen) < 0) {
            Py_CLEAR(parts);
        }
    }
    if (parts == NULL || !changed) {
        Py_XDECREF(copy);
        Py_XDECREF(parts);
        return parts == NULL ? NULL : Py_NewRef(result);
    }
    PyObject *made = NULL;
    if (PyTuple_CheckExact(result)) {
        made = PyList_AsTuple(parts);
    }
    else if (PyTuple_Check(result)) {
        made = PyObject_CallMethod(result, "_make", "O", parts);
    }
    else if (PyList_CheckExact(result)) {
        return parts;
    }
    else {
        PyObject *keys = PyDict_Keys(copy);
        made = keys == NULL ? NULL : PyDict_New();
        for (Py_ssize_t i = 0; made != NULL && i < PyList_GET_SIZE(parts); i++) {
            if (PyDict_SetItem(made, PyList_GET_ITEM(keys, i), PyList_GET_ITEM(parts, i)) < 0) {
                Py_CLEAR(made);
            }
        }
        Py_XDECREF(keys);
        Py_DECREF(copy);
    }
    Py_DECREF(parts);
    return made;
}

/* Any other subclass may be made in a way of its own. */
static bool
is_named_tuple(PyObject *object)
{
    return PyTuple_Check(object) && PyObject_HasAttrString((PyObject *)Py_TYPE(object), "_make");
}

/* Drafts die with their transaction; what a body returns must not. Looks into exact lists and dicts, and into tuples,
 * named ones too, and copies those that held one: others may hold them too. */
PyObject *
txn_freeze_result(TxnObject *self, PyObject *result)
{
    PyObject *frozen;
    if (draft_check(self->heap->st, result)) {
        frozen = draft_frozen(result);
    }
    else if (draft_view_check(self->heap->st, result)) {
        frozen = draft_view_frozen(result);
    }
    else if (PyTuple_CheckExact(result) || PyList_CheckExact(result) || PyDict_CheckExact(result)
             || is_named_tuple(result)) {
        int inside = Py_ReprEnter(result); /* the interpreter's list of containers being walked */
        if (inside > 0) {
            return result; /* it holds itself */
        }
        frozen = NULL;
        if (inside == 0) {
            if (nesting_enter(" in a result") == 0) {
                frozen = freeze_parts(self, result);
                nesting_leave();
            }
            Py_ReprLeave(result);
        }
    }
    else {
        return result;
    }
    Py_DECREF(result);
    return frozen;
}

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
                out->retries = PyLong_Check(value) ? PyLong_AsLongLongAndOverflow(value, &overflow) : -1;
                if (overflow > 0) {
                    out->retries = INT64_MAX;
                }
                else if (out->retries < 0) {
                    PyErr_Format(PyLong_Check(value) ? PyExc_ValueError : PyExc_TypeError,
                                 "retries must be an int, 0 or more, or None, not %R", value);
                    return -1;
                }
            }
        }
        else if (PyUnicode_CompareWithASCIIString(name, "deadline") == 0) {
            if (value != Py_None) {
                double seconds = PyFloat_AsDouble(value);
                if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_TypeError)) {
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
            int detached = PyObject_IsTrue(value);
            if (detached < 0) {
                return -1;
            }
            out->detached = detached;
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

/* fn(tx, *args). args[0] is fn itself, whose place the transaction takes. */
static PyObject *
call_body(PyObject *fn, TxnObject *txn, PyObject *const *args, Py_ssize_t count)
{
    enum { FEW = 8 };
    PyObject *few[FEW + 1];
    PyObject **stack = few;
    if (count > FEW) {
        stack = PyMem_Malloc((size_t)(count + 1) * sizeof(PyObject *));
        if (stack == NULL) {
            return PyErr_NoMemory();
        }
    }
    stack[0] = NULL;
    stack[1] = (PyObject *)txn;
    for (Py_ssize_t i = 1; i < count; i++) {
        stack[i + 1] = args[i];
    }
    PyObject *result
        = PyObject_Vectorcall(fn, stack + 1, (size_t)count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (stack != few) {
        PyMem_Free(stack);
    }
    return result;
}

/* Refused before its first step, so it must not complain that nobody awaited it. */
static void
close_coroutine(PyObject *coroutine)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *closed = PyObject_CallMethod(coroutine, "close", NULL);
    Py_XDECREF(closed);
    Py_DECREF(coroutine);
    PyErr_SetRaisedException(error); /* in place of whatever close() raised */
}

/* Whether a generator is a call of `fn`, rather than something that it made. */
static bool
is_call_of(PyObject *generator, PyObject *fn)
{
    const char *name = PyGen_CheckExact(generator) ? "gi_code" : "ag_code";
    PyObject *code = PyObject_GetAttrString(generator, name);
    PyObject *own = code == NULL ? NULL : PyObject_GetAttrString(fn, "__code__");
    bool same = own != NULL && own == code;
    PyErr_Clear(); /* not every callable has code */
    Py_XDECREF(own);
    Py_XDECREF(code);
    return same;
}

/* The result, or NULL: not a line of a coroutine function or a generator function has run. */
static PyObject *
refuse_what_has_not_run(PyObject *fn, PyObject *result)
{
    if (result == NULL) {
        return NULL;
    }
    if (PyCoro_CheckExact(result)) {
        PyErr_Format(PyExc_TypeError, "%R is a coroutine function: await engine.run_async() runs those", fn);
        close_coroutine(result);
        return NULL;
    }
    if ((PyGen_CheckExact(result) || PyAsyncGen_CheckExact(result)) && is_call_of(result, fn)) {
        PyErr_Format(PyExc_TypeError, "%R is a generator function, which would run after its transaction: "
                     "return a list instead of yielding", fn);
        Py_DECREF(result);
        return NULL;
    }
    return result;
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
    txn_guard kept = {NULL, NULL, NULL};
    if (status == THEUS_OK) {
        kept = txn_keep_guard(outer);
    }
    txn_leave(outer);
    if (status != THEUS_OK) {
        txn_fail(outer, status);
        return NULL;
    }
    outer->guests++;
    PyObject *result = refuse_what_has_not_run(args[0], call_body(args[0], outer, args, count));
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
    PyObject *result
        = refuse_what_has_not_run(self->args[0], call_body(self->args[0], txn, self->args, self->count));
    if (result != NULL && txn->txn.state == THEUS_TXN_OPEN) {
        result = txn_freeze_result(txn, result);
    }
    if (result == NULL) {
        txn_abort(txn);
    }
    return result;
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
    if (txn_begin(txn, NULL) < 0) {
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

/* In a queue, a run waits before its first attempt. 0, or -1 with an exception. */
static int
run_line_up(run *self)
{
    EngineObject *engine = self->engine;
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

/* ---- compare_and_swap ----------------------------------------------------------------------------- */

enum { SWAP_EXPECTED, SWAP_DATA, SWAP_HEAVY, SWAP_SIGNAL, SWAP_REQUESTER, SWAP_ARGUMENTS };

/* The arguments in the order of the signature, borrowed; NULL where one was not given. By hand, because
 * PyArg_ParseTupleAndKeywords costs as much as the commit. */
static int
parse_swap(PyObject *const *args, Py_ssize_t count, PyObject *names, PyObject *slots[SWAP_ARGUMENTS])
{
    static const char *const known[] = {"expected_version", "data", "heavy", "signal", "requester"};
    if (errors_check_count("compare_and_swap", count, 0, SWAP_ARGUMENTS) < 0) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < SWAP_ARGUMENTS; i++) {
        slots[i] = i < count ? args[i] : NULL;
    }
    for (Py_ssize_t i = 0; names != NULL && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int at = 0;
        while (at < SWAP_ARGUMENTS && PyUnicode_CompareWithASCIIString(name, known[at]) != 0) {
            at++;
        }
        if (at == SWAP_ARGUMENTS || slots[at] != NULL) {
            PyErr_Format(PyExc_TypeError, "compare_and_swap() got %s %R",
                         at == SWAP_ARGUMENTS ? "an unexpected keyword argument"
                                              : "multiple values for argument", name);
            return -1;
        }
        slots[at] = args[count + i];
    }
    if (slots[SWAP_EXPECTED] == NULL) {
        PyErr_SetString(PyExc_TypeError, "compare_and_swap() needs the expected version");
        return -1;
    }
    return 0;
}

/* The history cannot answer for `expected`. A version that has left it is a conflict, as any that
 * others have gone on from: a loop that retries conflicts has only to read again. One that never
 * was is a mistake of the caller. */
static void
refuse_version(EngineObject *self, PyObject *asked, uint64_t expected)
{
    module_state *st = self->heap->st;
    theus_store_facts facts;
    theus_store_read_facts(self->store, &facts);
    unsigned long long newest = facts.version;
    PyObject *kind, *error;
    if (expected <= newest) {
        const char *reason = self->strict_cas ? "strict" : "forgotten";
        kind = st->ConflictError;
        error = PyObject_CallFunction(kind, "OOKOs", Py_None, asked, newest, Py_None, reason);
    }
    else {
        kind = st->VersionError;
        error = PyObject_CallFunction(kind, "OKK", asked, (unsigned long long)facts.oldest, newest);
    }
    if (error != NULL) {
        PyErr_SetObject(kind, error);
        Py_DECREF(error);
    }
}

/* A snapshot transaction that began at the expected version: its commit asks exactly whether the
 * places it writes have changed since. */
PyObject *
engine_compare_and_swap(PyObject *op, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    EngineObject *self = (EngineObject *)op;
    PyObject *slots[SWAP_ARGUMENTS];
    uint64_t expected;
    if (engine_check_open(self) < 0 || parse_swap(args, count, names, slots) < 0
        || engine_parse_version(slots[SWAP_EXPECTED], &expected) < 0) {
        return NULL;
    }
    theus_version *pinned;
    theus_status status = theus_store_at(self->store, expected, &pinned);
    if (status != THEUS_OK) {
        refuse_version(self, slots[SWAP_EXPECTED], expected);
        return NULL;
    }
    PyObject *requester = slots[SWAP_REQUESTER];
    PyObject *process = requester != NULL && PyUnicode_Check(requester) ? requester : NULL;
    TxnObject *txn = txn_new(self, THEUS_SNAPSHOT, false, 0, process);
    PyObject *result = NULL;
    if (txn != NULL && txn_begin(txn, pinned) == 0) {
        txn->txn.strict = self->strict_cas;
        txn->txn.pledged = true;
        theus_conflict why;
        int done = txn_enter(txn);
        if (done == 0) {
            done = txn_update(txn, slots[SWAP_DATA], slots[SWAP_HEAVY], slots[SWAP_SIGNAL]);
            txn_leave(txn);
        }
        if (done < 0) {
            txn_abort(txn);
        }
        else {
            done = txn_commit(txn, &why, TXN_GATE_REFUSE);
            if (done == 0) {
                txn_raise_conflict(self, &why, 1);
                theus_conflict_fini(&why);
            }
            else if (done == 1) {
                result = PyLong_FromUnsignedLongLong(txn->version);
            }
        }
    }
    theus_version_release(pinned);
    Py_XDECREF(txn);
    return result;
}
