/* Opening and closing admin scopes, and who may. */
#include "admin.h"

#include "active.h"
#include "context.h"
#include "errors.h"
#include "guard.h"
#include "outgoing.h"
#include "zones.h"

enum { ADMISSIONS_MAX = 1024 }; /* records that an engine keeps */

/* ---- who may ------------------------------------------------------------------------- */

PyObject *
engine_allow_admin(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    EngineObject *self = (EngineObject *)op;
    int result;
    if (errors_check_count("allow_admin_function", count, 2, 2) < 0) {
        return NULL;
    }
    if (!PyUnicode_Check(args[1])) {
        return PyErr_Format(PyExc_TypeError, "allow_admin_function() takes a function and the name for the record, a str, "
                            "not %R", args[1]);
    }
    TxnObject *current = txn_current(self);
    if (current != NULL) {
        Py_DECREF(current);
        PyErr_SetString(self->heap->st->TransactionError,
                        "allow_admin() inside a transaction: a body cannot let itself or others in; call it where the "
                        "engine is made");
        return NULL;
    }
    Py_BEGIN_CRITICAL_SECTION(op);
    if (self->admins == NULL) {
        self->admins = PyDict_New();
    }
    /* By identity: an object that claims to equal an allowed one is not that one. */
    PyObject *identity = self->admins == NULL ? NULL : PyLong_FromVoidPtr(args[0]);
    PyObject *allowance = identity == NULL ? NULL : PyTuple_Pack(2, args[0], args[1]);
    result = allowance == NULL ? -1 : PyDict_SetItem(self->admins, identity, allowance);
    Py_XDECREF(allowance);
    Py_XDECREF(identity);
    Py_END_CRITICAL_SECTION();
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

int
admin_allows(EngineObject *engine, PyObject *function, PyObject **name)
{
    int found = 0;
    *name = NULL;
    Py_BEGIN_CRITICAL_SECTION(engine);
    if (engine->admins != NULL) {
        PyObject *identity = PyLong_FromVoidPtr(function), *allowance = NULL;
        found = identity == NULL ? -1 : PyDict_GetItemRef(engine->admins, identity, &allowance);
        if (allowance != NULL) {
            *name = Py_NewRef(PyTuple_GET_ITEM(allowance, 1));
        }
        Py_XDECREF(allowance);
        Py_XDECREF(identity);
    }
    Py_END_CRITICAL_SECTION();
    return found;
}

/* ---- records ------------------------------------------------------------------------- */

static int
append_bounded(PyObject **list, PyObject *item)
{
    if (*list == NULL && (*list = PyList_New(0)) == NULL) {
        return -1;
    }
    if (PyList_GET_SIZE(*list) >= ADMISSIONS_MAX && PyList_SetSlice(*list, 0, 1, NULL) < 0) {
        return -1;
    }
    return PyList_Append(*list, item);
}

static int
record(TxnObject *txn, PyObject *process, PyObject *reason)
{
    EngineObject *engine = txn->engine;
    PyObject *entry = Py_BuildValue("[dOOKO]", (double)theus_clock_wall_ns() / 1e9, process, reason,
                                    (unsigned long long)txn->version, Py_None);
    if (entry == NULL) {
        return -1;
    }
    PyObject *name = PyUnicode_InternFromString("admin");
    int result = name == NULL ? -1 : outgoing_attach(txn, THEUS_NOTES, name, reason);
    Py_XDECREF(name);
    if (result == 0) {
        result = append_bounded(&txn->admissions, entry);
    }
    if (result == 0) {
        Py_BEGIN_CRITICAL_SECTION(engine);
        result = append_bounded(&engine->admissions, entry);
        Py_END_CRITICAL_SECTION();
    }
    Py_DECREF(entry);
    return result;
}

void
admin_note_committed(TxnObject *txn)
{
    for (Py_ssize_t i = 0; txn->admissions != NULL && i < PyList_GET_SIZE(txn->admissions); i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(txn->version);
        if (number == NULL) {
            PyErr_Clear(); /* the version stands all the same */
            return;
        }
        PyList_SetItem(PyList_GET_ITEM(txn->admissions, i), ADMISSION_COMMITTED, number);
    }
}

PyObject *
engine_admissions(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    EngineObject *self = (EngineObject *)op;
    PyObject *copies = PyList_New(0);
    Py_BEGIN_CRITICAL_SECTION(op);
    for (Py_ssize_t i = 0; copies != NULL && self->admissions != NULL && i < PyList_GET_SIZE(self->admissions); i++) {
        PyObject *copy = PyList_AsTuple(PyList_GET_ITEM(self->admissions, i));
        if (copy == NULL || PyList_Append(copies, copy) < 0) {
            Py_CLEAR(copies);
        }
        Py_XDECREF(copy);
    }
    Py_END_CRITICAL_SECTION();
    return copies;
}

/* ---- scopes -------------------------------------------------------------------------- */

static int
refuse(module_state *st, PyObject *plan)
{
    PyObject *process = PyObject_GetAttrString(plan, "name");
    if (process == NULL) {
        return -1;
    }
    PyObject *path = PyTuple_New(0);
    PyObject *text = PyUnicode_FromFormat("process %R is not allowed to open an admin scope; who owns the engine may "
                                          "allow it: engine.allow_admin(%S)", process, process);
    PyObject *declared = PyTuple_New(0);
    PyObject *error = path == NULL || text == NULL || declared == NULL
                          ? NULL
                          : PyObject_CallFunctionObjArgs(st->ContractViolationError, text, path, process, declared, NULL);
    if (error != NULL) {
        PyErr_SetObject(st->ContractViolationError, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(declared);
    Py_XDECREF(text);
    Py_XDECREF(path);
    Py_DECREF(process);
    return -1;
}

/* Entered. */
static int
begin(ContextObject *context, PyObject *reason)
{
    TxnObject *txn = context->txn;
    ScopeObject *before = context->scope, *scope;
    if (txn->admin_scope != NULL) {
        PyErr_SetString(txn->heap->st->TransactionError, "an admin scope is open already: they do not nest");
        return -1;
    }
    /* What was done before it is not what it excuses. */
    if (zones_check(txn, false) < 0 || record(txn, context->admin, reason) < 0) {
        return -1;
    }
    scope = before == NULL ? scope_of_everything(txn->heap->st, txn->engine->rules, true) : scope_in(before, txn->engine->rules, true);
    if (scope == NULL) {
        return -1;
    }
    txn->before_admin = (ScopeObject *)Py_XNewRef((PyObject *)before);
    txn->admin_scope = scope;
    context_use_scope(context, scope);
    return 0;
}

PyObject *
module_open_admin(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    module_state *st = module_state_of(module);
    if (errors_check_count("open_admin", count, 2, 2) < 0) {
        return NULL;
    }
    if (!Py_IS_TYPE(args[0], st->Context_type)) {
        return PyErr_Format(PyExc_TypeError, "an admin scope is opened on the context of a process, not on %R", args[0]);
    }
    if (!PyUnicode_Check(args[1]) || PyUnicode_GET_LENGTH(args[1]) == 0) {
        return PyErr_Format(PyExc_ValueError, "an admin scope needs a reason=, a text for its record, not %R", args[1]);
    }
    ContextObject *context = (ContextObject *)args[0];
    TxnObject *txn = context->txn;
    int result = context->admin != NULL ? txn_enter(txn) : refuse(st, context->plan);
    if (result == 0) {
        int runs = context_runs(context);
        result = runs == 1 ? begin(context, args[1])
                 : runs == 0 ? txn_error(txn, "an admin scope is opened by the process itself, while it runs and none runs inside it")
                             : -1;
        txn_leave(txn);
    }
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* What was refused in the scope is told as the contract itself refuses it: the scope is no more. */
static void
keep_refused(TxnObject *txn, ScopeObject *scope, ScopeObject *before)
{
    if (txn->refused == NULL || before == NULL || PyTuple_GET_ITEM(txn->refused, 0) != (PyObject *)scope) {
        return;
    }
    PyObject *kept = PyTuple_Pack(2, before, PyTuple_GET_ITEM(txn->refused, 1));
    if (kept == NULL) {
        PyErr_Clear(); /* refused it stays, in other words */
        return;
    }
    Py_SETREF(txn->refused, kept);
}

void
admin_end(ContextObject *context)
{
    TxnObject *txn = context->txn;
    ScopeObject *scope = txn->admin_scope, *before = txn->before_admin;
    if (scope == NULL || context->scope != scope) {
        return;
    }
    txn->admin_scope = txn->before_admin = NULL;
    keep_refused(txn, scope, before);
    scope_revoke(scope);
    context_use_scope(context, before);
    Py_DECREF((PyObject *)scope);
    Py_XDECREF((PyObject *)before);
}

PyObject *
module_close_admin(PyObject *module, PyObject *op)
{
    const module_state *st = module_state_of(module);
    if (!Py_IS_TYPE(op, st->Context_type)) {
        return PyErr_Format(PyExc_TypeError, "close_admin() takes the context that open_admin() was given, not %R", op);
    }
    ContextObject *context = (ContextObject *)op;
    TxnObject *txn = context->txn;
    if (txn_enter(txn) < 0) {
        PyErr_Clear(); /* it has ended, and all its drafts with it */
        Py_RETURN_NONE;
    }
    int result = 0;
    if (txn->admin_scope != NULL && context->scope == txn->admin_scope) {
        result = zones_check(txn, true);
        if (result == 0) {
            result = zones_lift(txn);
        }
        PyObject *error = PyErr_GetRaisedException();
        admin_end(context);
        if (error != NULL) {
            PyErr_SetRaisedException(error);
        }
    }
    txn_leave(txn);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}
