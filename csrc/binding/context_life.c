/* The beginning and the end of a body: the guard that stands while it runs. */
#include "context.h"

#include "admin.h"
#include "engine_type.h"
#include "errors.h"
#include "guard.h"

enum { OPEN_TXN, OPEN_PLAN, OPEN_SCOPE, OPEN_BOUND, OPEN_ARGS, OPEN_KWARGS, OPEN_COUNT };
enum { BODY_FUNCTION = OPEN_COUNT, BODY_COUNT };

static bool
is_scope(const module_state *st, PyObject *object)
{
    return object == Py_None || Py_IS_TYPE(object, st->Scope_type);
}

/* What `scope` (or None, or NULL) lets be done within `around`: 0 and *out (new reference; NULL:
 * everything), or -1. */
static int
narrowed(PyObject *scope, ScopeObject *around, ScopeObject **out)
{
    ScopeObject *own = scope == Py_None ? NULL : (ScopeObject *)scope;
    if (own == NULL || around == NULL) {
        *out = (ScopeObject *)Py_XNewRef((PyObject *)(own != NULL ? own : around));
        return 0;
    }
    *out = scope_within(own, around);
    return *out == NULL ? -1 : 0;
}

/* What a context without a contract may do, where none stands around it: everything, but for what processes are not
 * shown. Only in an engine that has such fields: 0 and *out (new reference; NULL: everything), or -1. */
static int
uncontracted(EngineObject *engine, ScopeObject **out)
{
    *out = NULL;
    if (!engine->hides) {
        return 0;
    }
    Py_BEGIN_CRITICAL_SECTION(engine);
    if (engine->everything == NULL) {
        engine->everything = (PyObject *)scope_of_everything(engine->heap->st, engine->rules, false);
    }
    *out = (ScopeObject *)Py_XNewRef(engine->everything);
    Py_END_CRITICAL_SECTION();
    return *out == NULL ? -1 : 0;
}

/* The plan, scopes and arguments are checked. New reference. */
static ContextObject *
open_context(TxnObject *txn, PyObject *const *what)
{
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    ScopeObject *scope = NULL;
    int result = narrowed(what[OPEN_SCOPE], txn->guard, &scope);
    if (result == 0 && scope == NULL) {
        result = uncontracted(txn->engine, &scope);
    }
    ContextObject *self
        = result < 0 ? NULL : context_new(txn, what[OPEN_PLAN], scope, what[OPEN_ARGS], what[OPEN_KWARGS]);
    if (self != NULL) {
        self->around = (ScopeObject *)Py_XNewRef((PyObject *)txn->guard);
        Py_XSETREF(txn->guard, (ScopeObject *)Py_XNewRef((PyObject *)scope));
        ScopeObject **bound = txn->txn.savepoint == NULL ? &txn->bound : &txn->joined_bound;
        if (what[OPEN_BOUND] != Py_None) {
            self->bound = (ScopeObject *)Py_NewRef(what[OPEN_BOUND]);
            if (*bound == NULL) {
                *bound = (ScopeObject *)Py_NewRef(what[OPEN_BOUND]);
            }
        }
    }
    Py_XDECREF((PyObject *)scope);
    txn_leave(txn);
    return self;
}

static int
check_opening(module_state *st, const char *name, PyObject *const *args, Py_ssize_t count, Py_ssize_t wanted)
{
    if (errors_check_count(name, count, wanted, wanted) < 0) {
        return -1;
    }
    if (Py_IS_TYPE(args[OPEN_TXN], st->Transaction_type) && is_scope(st, args[OPEN_SCOPE])
        && is_scope(st, args[OPEN_BOUND]) && PyTuple_Check(args[OPEN_ARGS]) && PyDict_Check(args[OPEN_KWARGS])) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "%s() takes a transaction, a plan, two scopes or None, a tuple and a dict", name);
    return -1;
}

PyObject *
module_open_context(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    return check_opening(module_state_of(module), "open_context", args, count, OPEN_COUNT) < 0
               ? NULL
               : (PyObject *)open_context((TxnObject *)args[OPEN_TXN], args);
}

/* The end of a body that has returned, or raised `error`. Entered. 0 or -1. */
static int
end_body(ContextObject *self, PyObject *error)
{
    TxnObject *txn = self->txn;
    bool closed = self->closed;
    self->closed = true;
    admin_end(self);
    if (error != NULL) {
        Py_CLEAR(txn->refused); /* the run fails in any case */
        return 0;
    }
    if (closed) {
        return txn_error(txn, "the context of a process is closed by the engine, when its body has returned");
    }
    ScopeObject *after;
    if (narrowed((PyObject *)self->bound, self->around, &after) < 0) {
        return -1;
    }
    Py_XSETREF(txn->guard, after);
    return guard_raise_refused(txn);
}

/* 0 or -1. With an `error`, which is the one to show: 0. No exception is set then. */
static int
close_context(ContextObject *self, PyObject *error)
{
    if (txn_enter(self->txn) < 0) {
        if (error == NULL) {
            return -1;
        }
        PyErr_Clear(); /* it has ended, and its guard with it */
        return 0;
    }
    int result = end_body(self, error);
    txn_leave(self->txn);
    return result;
}

PyObject *
module_close_context(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *st = module_state_of(module);
    if (errors_check_count("close_context", count, 2, 2) < 0) {
        return NULL;
    }
    if (!Py_IS_TYPE(args[0], st->Context_type) || !(args[1] == Py_None || PyExceptionInstance_Check(args[1]))) {
        PyErr_SetString(PyExc_TypeError, "close_context() takes what open_context() gave, and an exception or None");
        return NULL;
    }
    return close_context((ContextObject *)args[0], args[1] == Py_None ? NULL : args[1]) < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- calls ---------------------------------------------------------------------------- */

/* function(context, *args, **kwargs). New reference. */
static PyObject *
call_with(PyObject *function, ContextObject *self)
{
    enum { FEW = 6 };
    PyObject *few[FEW + 2];
    PyObject **stack = few;
    Py_ssize_t count = PyTuple_GET_SIZE(self->args);
    if (count > FEW) {
        stack = PyMem_Malloc((size_t)(count + 2) * sizeof(PyObject *));
        if (stack == NULL) {
            return PyErr_NoMemory();
        }
    }
    stack[0] = NULL;
    stack[1] = (PyObject *)self;
    for (Py_ssize_t i = 0; i < count; i++) {
        stack[i + 2] = PyTuple_GET_ITEM(self->args, i); /* self owns the tuple */
    }
    size_t passed = (size_t)(count + 1) | PY_VECTORCALL_ARGUMENTS_OFFSET;
    PyObject *result = PyDict_GET_SIZE(self->kwargs) == 0
                           ? PyObject_Vectorcall(function, stack + 1, passed, NULL)
                           : PyObject_VectorcallDict(function, stack + 1, passed, self->kwargs);
    if (stack != few) {
        PyMem_Free(stack);
    }
    return result;
}

/* A context for this one call of the function. New reference. */
static ContextObject *
open_body(PyObject *module, const char *name, PyObject *const *args, Py_ssize_t count)
{
    if (check_opening(module_state_of(module), name, args, count, BODY_COUNT) < 0) {
        return NULL;
    }
    TxnObject *txn = (TxnObject *)args[OPEN_TXN];
    PyObject *admin;
    ContextObject *self = admin_allows(txn->engine, args[BODY_FUNCTION], &admin) < 0 ? NULL : open_context(txn, args);
    if (self == NULL) {
        Py_XDECREF(admin);
        return NULL;
    }
    self->admin = admin;
    self->number = txn->body = ++txn->bodies;
    return self;
}

PyObject *
module_run_body(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    ContextObject *self = open_body(module, "run_body", args, count);
    if (self == NULL) {
        return NULL;
    }
    PyObject *result = call_with(args[BODY_FUNCTION], self);
    PyObject *error = result == NULL ? PyErr_GetRaisedException() : NULL;
    if (close_context(self, error) < 0) {
        Py_CLEAR(result);
    }
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    Py_DECREF(self);
    return result;
}

/* Only of interest where an admin scope may be opened, so nobody else pays for it. 0 or -1. */
static int
remember_coroutine(ContextObject *self, PyObject *coroutine)
{
    if (self->admin == NULL) {
        return 0;
    }
    if (!PyCoro_CheckExact(coroutine)) {
        Py_CLEAR(self->admin); /* nobody can say when it runs */
        return 0;
    }
    self->coroutine = PyWeakref_NewRef(coroutine, NULL);
    return self->coroutine == NULL ? -1 : 0;
}

PyObject *
module_start_body(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    ContextObject *self = open_body(module, "start_body", args, count);
    if (self == NULL) {
        return NULL;
    }
    PyObject *awaitable = call_with(args[BODY_FUNCTION], self), *both = NULL;
    if (awaitable != NULL && remember_coroutine(self, awaitable) == 0) {
        both = PyTuple_Pack(2, self, awaitable);
    }
    if (both == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        (void)close_context(self, error);
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(awaitable);
    Py_DECREF(self);
    return both;
}

int
context_runs(const ContextObject *self)
{
    if (self->closed || self->number == 0 || self->number != self->txn->body) {
        return 0;
    }
    if (self->coroutine == NULL) {
        return 1;
    }
    /* Suspended, it is its caller who has this context. */
    PyObject *coroutine = NULL;
    int result = PyWeakref_GetRef(self->coroutine, &coroutine);
    PyObject *running = result == 1 ? PyObject_GetAttrString(coroutine, "cr_running") : NULL;
    if (result == 1) {
        result = running == NULL ? -1 : running == Py_True;
    }
    Py_XDECREF(running);
    Py_XDECREF(coroutine);
    return result;
}
