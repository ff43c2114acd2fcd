/* The beginning and the end of a body: the guard that stands while it runs. */
#include "context.h"

#include "admin.h"
#include "engine_type.h"
#include "errors.h"
#include "guard.h"

enum { OPEN_TXN, OPEN_PLAN, OPEN_SCOPE, OPEN_BOUND, OPEN_ARGS, OPEN_KWARGS, OPEN_COUNT };

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

PyObject *
module_open_context(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *st = module_state_of(module);
    if (errors_check_count("open_context", count, OPEN_COUNT, OPEN_COUNT) < 0) {
        return NULL;
    }
    if (!Py_IS_TYPE(args[OPEN_TXN], st->Transaction_type) || !is_scope(st, args[OPEN_SCOPE])
        || !is_scope(st, args[OPEN_BOUND]) || !PyTuple_Check(args[OPEN_ARGS])
        || !PyDict_Check(args[OPEN_KWARGS])) {
        PyErr_SetString(PyExc_TypeError, "open_context() takes a transaction, a plan, two scopes or "
                                         "None, a tuple and a dict");
        return NULL;
    }
    TxnObject *txn = (TxnObject *)args[OPEN_TXN];
    if (txn_enter(txn) < 0) {
        return NULL;
    }
    ScopeObject *scope = NULL;
    int result = narrowed(args[OPEN_SCOPE], txn->guard, &scope);
    if (result == 0 && scope == NULL) {
        result = uncontracted(txn->engine, &scope);
    }
    ContextObject *self
        = result < 0 ? NULL : context_new(txn, args[OPEN_PLAN], scope, args[OPEN_ARGS], args[OPEN_KWARGS]);
    if (self != NULL) {
        self->around = (ScopeObject *)Py_XNewRef((PyObject *)txn->guard);
        Py_XSETREF(txn->guard, (ScopeObject *)Py_XNewRef((PyObject *)scope));
        ScopeObject **bound = txn->txn.savepoint == NULL ? &txn->bound : &txn->joined_bound;
        if (args[OPEN_BOUND] != Py_None) {
            self->bound = (ScopeObject *)Py_NewRef(args[OPEN_BOUND]);
            if (*bound == NULL) {
                *bound = (ScopeObject *)Py_NewRef(args[OPEN_BOUND]);
            }
        }
    }
    Py_XDECREF((PyObject *)scope);
    txn_leave(txn);
    return (PyObject *)self;
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
    ContextObject *self = (ContextObject *)args[0];
    PyObject *error = args[1] == Py_None ? NULL : args[1];
    if (txn_enter(self->txn) < 0) {
        if (error == NULL) {
            return NULL;
        }
        PyErr_Clear(); /* it has ended, and its guard with it; the body's own error is the one to show */
        Py_RETURN_NONE;
    }
    int result = end_body(self, error);
    txn_leave(self->txn);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}
