/* Roots by name.
 *
 * A root is read at nearly every access to the state, so the context keeps the draft of the last
 * one. It stands for the root as long as nothing was written in the root map since. (Not without a
 * GIL: a body may hand its context to threads.) */
#include "context.h"

#include "attributes.h"
#include "errors.h"
#include "guard.h"
#include "txn_paths.h"

/* Old programs have other names for two roots. New reference, or NULL with an exception. */
static PyObject *
root_name(module_state *st, PyObject *name)
{
    PyObject *known = NULL;
    if (PyUnicode_Check(name) && PyDict_GetItemRef(st->root_aliases, name, &known) < 0) {
        return NULL;
    }
    return known != NULL ? known : Py_NewRef(name);
}

/* The root that comes with methods of its own: heavy_root.h. */
static bool
is_heavy(PyObject *name)
{
    return PyUnicode_CompareWithASCIIString(name, "heavy") == 0;
}

static void
remember_root(ContextObject *self, PyObject *name, PyObject *draft)
{
    if (is_heavy(name)) {
        return; /* as an attribute it is more than its draft */
    }
    Py_XSETREF(self->last_name, Py_NewRef(name));
    Py_XSETREF(self->last, (DraftObject *)Py_NewRef(draft));
    self->last_stamp = self->txn->txn.root->stamp;
}

/* The scope of a root, entered: 0 and *below (NULL: everything may be done), or -1. */
static int
root_scope(ContextObject *self, PyObject *root, ScopeObject **below)
{
    *below = NULL;
    if (self->scope == NULL) {
        return 0;
    }
    int known = scope_step(self->scope, root, below);
    if (known == 0) {
        return guard_refuse_read(self->txn, self->scope, self->txn->txn.root, root);
    }
    return known < 0 ? -1 : 0;
}

int
context_read_root(ContextObject *self, PyObject *name, PyObject **value)
{
    TxnObject *txn = self->txn;
    module_state *st = context_state(self);
    PyObject *root = root_name(st, name);
    ScopeObject *below;
    uint64_t hash;
    uint32_t pos;
    theus_value found;
    *value = NULL;
    if (root == NULL || txn_enter(txn) < 0) {
        Py_XDECREF(root);
        return -1;
    }
    int result = root_scope(self, root, &below);
    if (result == 0) {
        result = txn_cell_find(txn, txn->txn.root, root, true, &hash, &pos, &found);
    }
    if (result == 1) {
        *value = draft_value(st, txn, txn->txn.root, pos, found, below);
        if (*value == NULL) {
            result = -1;
        }
        else if (THEUS_HAVE_GIL && PyUnicode_CheckExact(name) && draft_check(st, *value)) {
            remember_root(self, name, *value);
        }
    }
    txn_leave(txn);
    Py_DECREF(root);
    return result;
}

/* Is the name more likely meant as a method of the transaction than as a root? No exception may be
 * set. */
static bool
is_of_transaction(ContextObject *self, PyObject *name)
{
    return !context_is_read_only(self) && type_lookup(context_state(self)->Transaction_type, name) != NULL;
}

void
context_no_root(ContextObject *self, PyObject *name)
{
    if (is_of_transaction(self, name)) {
        PyErr_Format(PyExc_AttributeError, "a context has no %U(): use ctx.transaction.%U()", name,
                     name);
        return;
    }
    PyObject *root = root_name(context_state(self), name);
    if (root != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "the state has no root %R yet; give it to TheusEngine(context={...}), or "
                     "assign it first: ctx.%U = {}",
                     root, name);
        Py_DECREF(root);
    }
}

PyObject *
context_getattro(PyObject *op, PyObject *name)
{
    ContextObject *self = (ContextObject *)op;
    PyObject *value;
    if (THEUS_HAVE_GIL && name == self->last_name && self->txn->txn.state == THEUS_TXN_OPEN
        && self->last_stamp == self->txn->txn.root->stamp && !self->last->cell->dead) {
        return Py_NewRef((PyObject *)self->last);
    }
    if (attribute_check_name(name) < 0) {
        return NULL;
    }
    if (type_lookup(Py_TYPE(op), name) != NULL) {
        return PyObject_GenericGetAttr(op, name);
    }
    if (draft_is_dunder(name)) {
        return PyErr_Format(PyExc_AttributeError, "a context has no attribute %R", name);
    }
    int found = context_read_root(self, name, &value);
    if (found < 0 && PyErr_ExceptionMatches(context_state(self)->ContractViolationError)) {
        PyObject *error = PyErr_GetRaisedException();
        if (is_of_transaction(self, name)) {
            Py_DECREF(error);
            found = 0;
        }
        else {
            PyErr_SetRaisedException(error);
        }
    }
    if (found == 0) {
        context_no_root(self, name);
    }
    return value;
}

PyObject *
context_subscript(PyObject *op, PyObject *name)
{
    PyObject *value;
    if (context_read_root((ContextObject *)op, name, &value) == 0) {
        PyObject *path = PyTuple_Pack(1, name);
        if (path != NULL) {
            txn_path_error(context_state((ContextObject *)op), path, "there is no such root");
            Py_DECREF(path);
        }
    }
    return value;
}

int
context_contains(PyObject *op, PyObject *name)
{
    PyObject *value;
    int result = context_read_root((ContextObject *)op, name, &value);
    Py_XDECREF(value);
    return result;
}

int
context_refuse_write(ContextObject *self, PyObject *root)
{
    if (txn_enter(self->txn) == 0) {
        guard_refuse_write(self->txn, self->scope, self->txn->txn.root, root);
        txn_leave(self->txn);
    }
    return -1;
}

int
context_ass_subscript(PyObject *op, PyObject *name, PyObject *value)
{
    ContextObject *self = (ContextObject *)op;
    PyObject *root = root_name(context_state(self), name);
    if (root == NULL) {
        return -1;
    }
    if (context_is_read_only(self)) {
        context_refuse_write(self, root);
        Py_DECREF(root);
        return -1;
    }
    PyObject *path = PyTuple_Pack(1, root);
    Py_DECREF(root);
    int result = path == NULL ? -1 : txn_enter(self->txn);
    if (result == 0) {
        result = value == NULL ? txn_delete_path(self->txn, self->scope, path)
                               : txn_set_path(self->txn, self->scope, path, value);
        txn_leave(self->txn);
    }
    Py_XDECREF(path);
    return result < 0 ? -1 : 0;
}

int
context_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    if (attribute_check_name(name) < 0) {
        return -1;
    }
    int alias = PyDict_Contains(context_state((ContextObject *)op)->root_aliases, name);
    if (alias < 0) {
        return -1;
    }
    if (alias == 0 && !is_heavy(name) && !context_is_read_only((ContextObject *)op)
        && type_lookup(Py_TYPE(op), name) != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "ctx.%U cannot be assigned; a root of that name is ctx[%R]", name, name);
        return -1;
    }
    return context_ass_subscript(op, name, value);
}

void
context_use_scope(ContextObject *self, ScopeObject *scope)
{
    ScopeObject *before = self->scope;
    self->scope = (ScopeObject *)Py_XNewRef((PyObject *)scope);
    Py_XSETREF(self->txn->guard, (ScopeObject *)Py_XNewRef((PyObject *)scope));
    Py_CLEAR(self->last_name);
    Py_CLEAR(self->last);
    Py_XDECREF((PyObject *)before);
}
