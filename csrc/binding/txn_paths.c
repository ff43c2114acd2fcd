/* A transaction by path: walking down its cells, and every operation that starts with a path.
 *
 * Fetching a container on the way logs nothing; what is read or written in the last one is logged there. */
#include "txn_paths.h"

#include "attributes.h"
#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "freeze.h"
#include "guard.h"
#include "records.h"
#include "value_py.h"

/* ---- paths ---------------------------------------------------------------------------- */

/* theus.paths.parse_path, kept in the state from now on. Borrowed from there. */
static PyObject *
import_parse_path(module_state *st)
{
    PyObject *paths = PyImport_ImportModule("theus.paths"), *nothing = NULL;
    PyObject *parse = paths == NULL ? NULL : PyObject_GetAttrString(paths, "parse_path");
    Py_XDECREF(paths);
    if (parse != NULL
        && !__atomic_compare_exchange_n(&st->parse_path, &nothing, parse, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_ACQUIRE)) {
        Py_DECREF(parse); /* another thread was faster */
        parse = nothing;
    }
    return parse;
}

PyObject *
txn_path_argument(module_state *st, PyObject *path)
{
    if (PyTuple_CheckExact(path)) {
        return Py_NewRef(path);
    }
    if (!PyUnicode_Check(path)) {
        PyErr_Format(PyExc_TypeError, "a path is a tuple or a str such as 'domain.users', not %R", path);
        return NULL;
    }
    PyObject *parse = __atomic_load_n(&st->parse_path, __ATOMIC_ACQUIRE);
    if (parse == NULL && (parse = import_parse_path(st)) == NULL) {
        return NULL;
    }
    return PyObject_CallOneArg(parse, path);
}

/* PathError(path, message); returns -1. */
int
txn_path_error(module_state *st, PyObject *path, const char *message)
{
    PyObject *error = PyObject_CallFunction(st->PathError, "Os", path, message);
    if (error != NULL) {
        PyErr_SetObject(st->PathError, error);
        Py_DECREF(error);
    }
    return -1;
}

/* ---- one step ---------------------------------------------------------------------------- */

/* The position of `key` in a cell: 1 found, 0 not there, -1 failed. What is found or missed is logged if `log`. */
int
txn_cell_find(TxnObject *self, theus_cell *cell, PyObject *key, bool log, uint64_t *hash, uint32_t *pos,
          theus_value *value)
{
    if (cell->now->kind == THEUS_LIST) {
        if (!PyLong_CheckExact(key)) {
            return 0;
        }
        Py_ssize_t index = PyLong_AsSsize_t(key);
        if (index == -1 && PyErr_Occurred()) {
            if (!PyErr_ExceptionMatches(PyExc_OverflowError)) {
                return -1;
            }
            PyErr_Clear();
            index = PY_SSIZE_T_MAX;
        }
        theus_status status = cell->deferred == NULL ? THEUS_OK : theus_cell_settle(cell, NULL);
        if (status != THEUS_OK) {
            return txn_fail(self, status);
        }
        Py_ssize_t count = (Py_ssize_t)cell->now->count;
        if (index < 0) {
            index += count;
            theus_cell_read_shape(cell);
        }
        if (index < 0 || index >= count) {
            theus_cell_read_shape(cell);
            return 0;
        }
        *pos = (uint32_t)index;
        if (!log) {
            *value = theus_container_value_at(cell->now, *pos);
            return 1;
        }
        status = theus_cell_read(cell, *pos, value);
        return status == THEUS_OK ? 1 : txn_fail(self, status);
    }
    if (key_hash(key, hash) < 0) {
        return -1;
    }
    theus_find found = log ? theus_cell_lookup(cell, NULL, *hash, key, pos, value)
                           : theus_cell_probe(cell, NULL, *hash, key, pos, value);
    return found == THEUS_FIND_FAILED ? errors_find_failed(self->heap->st) : found == THEUS_FOUND;
}

/* The cell one step down: 1 with *child set, 0 when no container is there (logged), -1 failed. */
static int
cell_descend(TxnObject *self, theus_cell *cell, PyObject *key, theus_cell **child)
{
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    int found = txn_cell_find(self, cell, key, false, &hash, &pos, &value);
    if (found == 1 && theus_value_kind(value) != THEUS_ATOM) {
        theus_status status = theus_cell_enter(cell, pos, child);
        return status == THEUS_OK ? 1 : txn_fail(self, status);
    }
    if (found >= 0) {
        found = txn_cell_find(self, cell, key, true, &hash, &pos, &value);
    }
    return found < 0 ? -1 : 0;
}

/* The cell that holds the last part of a path: 1, 0 (a part on the way is missing), -1. */
int
txn_walk(TxnObject *self, PyObject *path, theus_cell **out)
{
    theus_cell *cell = self->txn.root;
    Py_ssize_t length = PyTuple_GET_SIZE(path);
    if (length == 0) {
        return txn_path_error(self->heap->st, path, "the empty path names no value: name a root");
    }
    for (Py_ssize_t i = 0; i + 1 < length; i++) {
        int found = cell_descend(self, cell, PyTuple_GET_ITEM(path, i), &cell);
        if (found <= 0) {
            return found;
        }
    }
    *out = cell;
    return 1;
}

PyObject *
txn_path_last(PyObject *path)
{
    return PyTuple_GET_ITEM(path, PyTuple_GET_SIZE(path) - 1);
}

/* ---- reading --------------------------------------------------------------------- */

/* What is at `key` of a cell, under the scope of that place; NULL without an exception when nothing is. */
static PyObject *
cell_get(TxnObject *self, theus_cell *cell, PyObject *key, ScopeObject *scope)
{
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    int found = txn_cell_find(self, cell, key, true, &hash, &pos, &value);
    return found == 1 ? draft_value(self->heap->st, self, cell, pos, value, scope) : NULL;
}

PyObject *
txn_method_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TxnObject *self = (TxnObject *)op;
    theus_cell *cell;
    ScopeObject *scope;
    if (errors_check_count("get", count, 1, 2) < 0) {
        return NULL;
    }
    PyObject *path = txn_path_argument(self->heap->st, args[0]);
    if (path == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    if (txn_enter(self) == 0) {
        int found = guard_enter_path(self, path, &scope) < 0 ? -1 : txn_walk(self, path, &cell);
        if (found == 1) {
            result = cell_get(self, cell, txn_path_last(path), scope);
        }
        if (result == NULL && !PyErr_Occurred()) {
            result = Py_NewRef(count == 2 ? args[1] : Py_None);
        }
        txn_leave(self);
    }
    Py_DECREF(path);
    return result;
}

/* A root as an item or attribute; NULL without an exception when there is none. */
static PyObject *
root_get(TxnObject *self, PyObject *name)
{
    ScopeObject *scope = NULL;
    if (txn_enter(self) < 0) {
        return NULL;
    }
    int result = 0;
    if (self->guard != NULL) {
        PyObject *path = PyTuple_Pack(1, name);
        result = path == NULL ? -1 : guard_enter_path(self, path, &scope);
        Py_XDECREF(path);
    }
    PyObject *value = result < 0 ? NULL : cell_get(self, self->txn.root, name, scope);
    txn_leave(self);
    return value;
}

PyObject *
txn_subscript(PyObject *op, PyObject *key)
{
    PyObject *result = root_get((TxnObject *)op, key);
    if (result == NULL && !PyErr_Occurred()) {
        PyObject *path = PyTuple_Pack(1, key);
        if (path != NULL) {
            txn_path_error(((TxnObject *)op)->heap->st, path, "there is no such root");
            Py_DECREF(path);
        }
    }
    return result;
}

PyObject *
txn_getattro(PyObject *op, PyObject *name)
{
    if (attribute_check_name(name) < 0) {
        return NULL;
    }
    PyObject *own = type_lookup(Py_TYPE(op), name);
    if (own != NULL) {
        /* The interpreter has a way of its own with method objects: tx.get(path) takes 20 ns less. */
        return Py_IS_TYPE(own, &PyMethodDescr_Type) ? PyMethod_New(own, op) : PyObject_GenericGetAttr(op, name);
    }
    TxnObject *self = (TxnObject *)op;
    if (self->txn.state != THEUS_TXN_OPEN && PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) > 1
        && PyUnicode_READ_CHAR(name, 0) == '_') {
        return PyObject_GenericGetAttr(op, name); /* copy, pickle and the like ask for __names__ */
    }
    PyObject *result = root_get(self, name);
    if (result == NULL && !PyErr_Occurred()) {
        PyErr_Format(PyExc_AttributeError, "the transaction has no method and the state no root named %R",
                     name);
    }
    return result;
}

int
txn_contains(PyObject *op, PyObject *key)
{
    PyObject *value = root_get((TxnObject *)op, key);
    int found = value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
    Py_XDECREF(value);
    return found;
}

/* ---- writing --------------------------------------------------------------------- */

static int
place_error(module_state *st, const freeze_path *place, const char *message)
{
    PyObject *path = freeze_path_tuple(place);
    int result = path == NULL ? -1 : txn_path_error(st, path, message);
    Py_XDECREF(path);
    return result;
}

int
txn_cell_set(TxnObject *self, theus_cell *cell, ScopeObject *scope, const freeze_path *place, PyObject *key,
             PyObject *value)
{
    module_state *st = self->heap->st;
    if (record_is(cell->now)) {
        return record_draft_set(self, cell, scope, key, value);
    }
    if (cell->now->kind == THEUS_MAP) {
        return draft_map_store(st, self, cell, scope, key, value);
    }
    if (cell->now->kind == THEUS_SET) {
        return place_error(st, place, "an element of a set has no value: use add() on the set");
    }
    theus_value frozen, old;
    uint64_t hash;
    uint32_t pos;
    freeze_path at = freeze_path_key(NULL, key);
    if (draft_freeze_value(st, self, cell, value, &at, &frozen) < 0) {
        return -1;
    }
    int found = scope != NULL && guard_check_write(self, cell, scope, 0, key, frozen) < 0
                    ? -1
                    : txn_cell_find(self, cell, key, false, &hash, &pos, &old);
    if (found == 1) {
        theus_status status = theus_cell_put(cell, pos, frozen);
        found = status == THEUS_OK ? 1 : txn_fail(self, status);
    }
    else if (found == 0) {
        found = place_error(st, place, PyIndex_Check(key)
                            ? "the list has no such index; append() makes it longer"
                            : "a list is asked by index: a path has it in brackets, as in log[0]");
    }
    freeze_drop(self->heap, frozen);
    return found < 0 ? -1 : 0;
}

/* A missing root is made, as an empty map: 1, or 0 if something else is there. */
static int
make_root(TxnObject *self, ScopeObject *scope, PyObject *root)
{
    uint64_t hash;
    uint32_t pos;
    theus_value there;
    int found = txn_cell_find(self, self->txn.root, root, true, &hash, &pos, &there);
    if (found != 0) {
        return found < 0 ? -1 : 0;
    }
    PyObject *empty = PyDict_New();
    int made = empty == NULL ? -1 : draft_map_store(self->heap->st, self, self->txn.root, scope, root, empty);
    Py_XDECREF(empty);
    return made < 0 ? -1 : 1;
}

/* The scope of the container in which a path that is to be written ends: 0, *scope; NULL for everything. -1 if nothing
 * there is declared. */
static int
container_scope(TxnObject *self, PyObject *path, ScopeObject **scope)
{
    ScopeObject *top = *scope;
    if (top == NULL || PyTuple_GET_SIZE(path) == 0) {
        return 0;
    }
    int known = 1;
    for (Py_ssize_t i = 0; known == 1 && i < PyTuple_GET_SIZE(path) - 1; i++) {
        known = scope_step(*scope, PyTuple_GET_ITEM(path, i), scope);
    }
    if (known == 0) {
        return guard_refuse_path(self, top, path, true);
    }
    if (known == 1 && scope_is_free(*scope)) {
        *scope = NULL;
    }
    return known < 0 ? -1 : 0;
}

int
txn_set_path(TxnObject *self, ScopeObject *scope, PyObject *path, PyObject *value)
{
    theus_cell *cell;
    ScopeObject *top = scope;
    if (container_scope(self, path, &scope) < 0) {
        return -1;
    }
    int found = txn_walk(self, path, &cell);
    if (found == 0 && PyTuple_GET_SIZE(path) == 2) {
        found = make_root(self, top, PyTuple_GET_ITEM(path, 0));
        if (found == 1) {
            found = txn_walk(self, path, &cell);
        }
    }
    if (found == 0) {
        return txn_path_error(self->heap->st, path,
                          "a part on the way is missing or holds no container: set that first");
    }
    freeze_path place = freeze_path_top(path);
    return found < 0 ? -1 : txn_cell_set(self, cell, scope, &place, txn_path_last(path), value);
}

PyObject *
txn_method_set(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TxnObject *self = (TxnObject *)op;
    if (errors_check_count("set", count, 2, 2) < 0) {
        return NULL;
    }
    PyObject *path = txn_path_argument(self->heap->st, args[0]);
    if (path == NULL) {
        return NULL;
    }
    int result = txn_enter(self);
    if (result == 0) {
        result = txn_set_path(self, self->guard, path, args[1]);
        txn_leave(self);
    }
    Py_DECREF(path);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* 1 removed, 0 nothing was there, -1 failed. */
int
txn_cell_delete(TxnObject *self, theus_cell *cell, PyObject *key)
{
    uint64_t hash = 0;
    uint32_t pos;
    theus_value value;
    int found = txn_cell_find(self, cell, key, true, &hash, &pos, &value);
    if (found != 1) {
        return found;
    }
    if (record_is(cell->now)) {
        return record_draft_delete(self, cell, key) < 0 ? -1 : 1;
    }
    theus_status status = cell->now->kind == THEUS_LIST ? theus_cell_splice(cell, pos, 1, NULL, 0)
                                                        : theus_cell_remove(cell, hash, pos);
    return status == THEUS_OK ? 1 : txn_fail(self, status);
}

int
txn_delete_path(TxnObject *self, ScopeObject *scope, PyObject *path)
{
    theus_cell *cell;
    if (container_scope(self, path, &scope) < 0) {
        return -1;
    }
    int found = txn_walk(self, path, &cell);
    if (found == 1 && scope != NULL) {
        found = guard_check_write(self, cell, scope, 0, txn_path_last(path), THEUS_NONE) < 0 ? -1 : 1;
    }
    if (found == 1) {
        found = txn_cell_delete(self, cell, txn_path_last(path));
    }
    return found == 0 ? txn_path_error(self->heap->st, path, "there is nothing to delete") : found;
}

PyObject *
txn_method_delete(PyObject *op, PyObject *argument)
{
    TxnObject *self = (TxnObject *)op;
    PyObject *path = txn_path_argument(self->heap->st, argument);
    if (path == NULL) {
        return NULL;
    }
    int result = txn_enter(self);
    if (result == 0) {
        result = txn_delete_path(self, self->guard, path);
        txn_leave(self);
    }
    Py_DECREF(path);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

int
txn_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    TxnObject *self = (TxnObject *)op;
    PyObject *path = PyTuple_Pack(1, key);
    if (path == NULL) {
        return -1;
    }
    int result = txn_enter(self);
    if (result == 0) {
        result = value == NULL ? txn_delete_path(self, self->guard, path)
                               : txn_set_path(self, self->guard, path, value);
        txn_leave(self);
    }
    Py_DECREF(path);
    return result < 0 ? -1 : 0;
}

int
txn_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    if (attribute_check_name(name) < 0) {
        return -1;
    }
    if (type_lookup(Py_TYPE(op), name) != NULL) {
        PyErr_Format(PyExc_AttributeError,
                     "%R is a method of the transaction: write tx[%R] for a root of that name", name, name);
        return -1;
    }
    return txn_ass_subscript(op, name, value);
}
