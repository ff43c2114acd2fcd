/* A transaction by path: walking down its cells, and every operation that starts with a path.
 *
 * Fetching a container on the way logs nothing; what is read or written in the last one is logged there. */
#include "txn_paths.h"

#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "freeze.h"
#include "value_py.h"

/* ---- paths ---------------------------------------------------------------------------- */

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
    if (st->parse_path == NULL) {
        PyObject *paths = PyImport_ImportModule("theus.paths");
        if (paths == NULL) {
            return NULL;
        }
        st->parse_path = PyObject_GetAttrString(paths, "parse_path");
        Py_DECREF(paths);
        if (st->parse_path == NULL) {
            return NULL;
        }
    }
    return PyObject_CallOneArg(st->parse_path, path);
}

/* PathError(path, message); returns -1. */
static int
path_error(module_state *st, PyObject *path, const char *message)
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
static int
cell_find(TxnObject *self, theus_cell *cell, PyObject *key, bool log, uint64_t *hash, uint32_t *pos,
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
    int found = cell_find(self, cell, key, false, &hash, &pos, &value);
    if (found == 1 && theus_value_kind(value) != THEUS_ATOM) {
        theus_status status = theus_cell_enter(cell, pos, child);
        return status == THEUS_OK ? 1 : txn_fail(self, status);
    }
    if (found >= 0) {
        found = cell_find(self, cell, key, true, &hash, &pos, &value);
    }
    return found < 0 ? -1 : 0;
}

/* The cell that holds the last part of a path: 1, 0 (a part on the way is missing), -1. */
static int
walk(TxnObject *self, PyObject *path, theus_cell **out)
{
    theus_cell *cell = self->txn.root;
    Py_ssize_t length = PyTuple_GET_SIZE(path);
    if (length == 0) {
        return path_error(self->heap->st, path, "the empty path names no value: name a root");
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

static PyObject *
last_of(PyObject *path)
{
    return PyTuple_GET_ITEM(path, PyTuple_GET_SIZE(path) - 1);
}

/* ---- reading --------------------------------------------------------------------- */

/* What is at `key` of a cell; NULL without an exception when nothing is. */
static PyObject *
cell_get(TxnObject *self, theus_cell *cell, PyObject *key)
{
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    int found = cell_find(self, cell, key, true, &hash, &pos, &value);
    return found == 1 ? draft_value(self->heap->st, self, cell, pos, value) : NULL;
}

PyObject *
txn_method_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    TxnObject *self = (TxnObject *)op;
    theus_cell *cell;
    if (errors_check_count("get", count, 1, 2) < 0) {
        return NULL;
    }
    PyObject *path = txn_path_argument(self->heap->st, args[0]);
    if (path == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    if (txn_enter(self) == 0) {
        int found = walk(self, path, &cell);
        if (found == 1) {
            result = cell_get(self, cell, last_of(path));
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
    if (txn_enter(self) < 0) {
        return NULL;
    }
    PyObject *result = cell_get(self, self->txn.root, name);
    txn_leave(self);
    return result;
}

PyObject *
txn_subscript(PyObject *op, PyObject *key)
{
    PyObject *result = root_get((TxnObject *)op, key);
    if (result == NULL && !PyErr_Occurred()) {
        PyObject *path = PyTuple_Pack(1, key);
        if (path != NULL) {
            path_error(((TxnObject *)op)->heap->st, path, "there is no such root");
            Py_DECREF(path);
        }
    }
    return result;
}

PyObject *
txn_getattro(PyObject *op, PyObject *name)
{
    if (type_has(Py_TYPE(op), name)) {
        return PyObject_GenericGetAttr(op, name);
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
    TxnObject *self = (TxnObject *)op;
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    if (txn_enter(self) < 0) {
        return -1;
    }
    int found = cell_find(self, self->txn.root, key, true, &hash, &pos, &value);
    txn_leave(self);
    return found;
}

/* ---- writing --------------------------------------------------------------------- */

static int
place_error(module_state *st, const freeze_path *place, const char *message)
{
    PyObject *path = freeze_path_tuple(place);
    int result = path == NULL ? -1 : path_error(st, path, message);
    Py_XDECREF(path);
    return result;
}

/* Stores `value` at `key` of a cell; `place` is the whole path, for messages. */
static int
cell_set(TxnObject *self, theus_cell *cell, const freeze_path *place, PyObject *key, PyObject *value)
{
    module_state *st = self->heap->st;
    if (cell->now->kind == THEUS_MAP) {
        return draft_map_store(st, self, cell, key, value);
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
    int found = cell_find(self, cell, key, false, &hash, &pos, &old);
    if (found == 1) {
        theus_status status = theus_cell_put(cell, pos, frozen);
        found = status == THEUS_OK ? 1 : txn_fail(self, status);
    } else if (found == 0) {
        found = place_error(st, place, "the list has no such index; append() makes it longer");
    }
    freeze_drop(self->heap, frozen);
    return found < 0 ? -1 : 0;
}

/* A missing root is made, as an empty map: 1, or 0 if something else is there. */
static int
make_root(TxnObject *self, PyObject *root)
{
    uint64_t hash;
    uint32_t pos;
    theus_value there;
    int found = cell_find(self, self->txn.root, root, true, &hash, &pos, &there);
    if (found != 0) {
        return found < 0 ? -1 : 0;
    }
    PyObject *empty = PyDict_New();
    int made = empty == NULL ? -1 : draft_map_store(self->heap->st, self, self->txn.root, root, empty);
    Py_XDECREF(empty);
    return made < 0 ? -1 : 1;
}

int
txn_set_path(TxnObject *self, PyObject *path, PyObject *value)
{
    theus_cell *cell;
    int found = walk(self, path, &cell);
    if (found == 0 && PyTuple_GET_SIZE(path) == 2) {
        found = make_root(self, PyTuple_GET_ITEM(path, 0));
        if (found == 1) {
            found = walk(self, path, &cell);
        }
    }
    if (found == 0) {
        return path_error(self->heap->st, path,
                          "a part on the way is missing or holds no container: set that first");
    }
    freeze_path place = freeze_path_top(path);
    return found < 0 ? -1 : cell_set(self, cell, &place, last_of(path), value);
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
        result = txn_set_path(self, path, args[1]);
        txn_leave(self);
    }
    Py_DECREF(path);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* 1 removed, 0 nothing was there, -1 failed. */
static int
cell_delete(TxnObject *self, theus_cell *cell, PyObject *key)
{
    uint64_t hash = 0;
    uint32_t pos;
    theus_value value;
    int found = cell_find(self, cell, key, true, &hash, &pos, &value);
    if (found != 1) {
        return found;
    }
    theus_status status = cell->now->kind == THEUS_LIST ? theus_cell_splice(cell, pos, 1, NULL, 0)
                                                        : theus_cell_remove(cell, hash, pos);
    return status == THEUS_OK ? 1 : txn_fail(self, status);
}

static int
delete_path(TxnObject *self, PyObject *path)
{
    theus_cell *cell;
    int found = walk(self, path, &cell);
    if (found == 1) {
        found = cell_delete(self, cell, last_of(path));
    }
    return found == 0 ? path_error(self->heap->st, path, "there is nothing to delete") : found;
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
        result = delete_path(self, path);
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
        result = value == NULL ? delete_path(self, path) : txn_set_path(self, path, value);
        txn_leave(self);
    }
    Py_DECREF(path);
    return result < 0 ? -1 : 0;
}

int
txn_setattro(PyObject *op, PyObject *name, PyObject *value)
{
    if (type_has(Py_TYPE(op), name)) {
        PyErr_Format(PyExc_AttributeError,
                     "%R is a method of the transaction: write tx[%R] for a root of that name", name, name);
        return -1;
    }
    return txn_ass_subscript(op, name, value);
}

/* ---- update ---------------------------------------------------------------------- */

static int merge_into(TxnObject *self, theus_cell *cell, PyObject *data, const freeze_path *at);

/* Does a dict say DELETE anywhere inside? Only exact dicts are looked into: what freeze copies. */
static int
says_delete(const module_state *st, PyObject *data)
{
    PyObject *key, *value;
    Py_ssize_t i = 0;
    if (Py_EnterRecursiveCall(" in a dict of updates")) {
        return -1;
    }
    int says = 0;
    while (says == 0 && PyDict_Next(data, &i, &key, &value)) {
        says = value == st->DELETE ? 1 : PyDict_CheckExact(value) ? says_delete(st, value) : 0;
    }
    Py_LeaveRecursiveCall();
    return says;
}

/* One entry of an update: a dict merges into a map that is there, DELETE removes, anything else replaces. */
static int
merge_entry(TxnObject *self, theus_cell *cell, PyObject *key, PyObject *value, const freeze_path *up)
{
    const module_state *st = self->heap->st;
    freeze_path at = freeze_path_key(up, key);
    if (value == st->DELETE) {
        int removed = cell_delete(self, cell, key);
        return removed < 0 ? -1 : 0;
    }
    bool is_map = PyDict_CheckExact(value) || Py_TYPE(value) == st->FrozenDict_type;
    if (is_map) {
        uint64_t hash;
        uint32_t pos;
        theus_value there;
        theus_cell *child;
        int found = cell_find(self, cell, key, false, &hash, &pos, &there);
        if (found < 0) {
            return -1;
        }
        if (found == 1 && theus_value_kind(there) == THEUS_MAP) {
            theus_status status = theus_cell_enter(cell, pos, &child);
            return status == THEUS_OK ? merge_into(self, child, value, &at) : txn_fail(self, status);
        }
        int deletes = PyDict_CheckExact(value) ? says_delete(st, value) : 0;
        if (deletes < 0) {
            return -1;
        }
        if (deletes) { /* nothing to delete in what is new: merge the rest into an empty map */
            PyObject *empty = PyDict_New();
            int made = empty == NULL ? -1 : merge_entry(self, cell, key, empty, up);
            Py_XDECREF(empty);
            return made < 0 ? -1 : merge_entry(self, cell, key, value, up);
        }
    }
    return cell_set(self, cell, &at, key, value);
}

typedef int (*merge_step)(TxnObject *self, theus_cell *cell, PyObject *key, PyObject *value, const freeze_path *up);

/* One step for each entry of `data`, in order. */
static int
merge_each(TxnObject *self, theus_cell *cell, PyObject *data, const freeze_path *up, merge_step step)
{
    PyObject *key, *value;
    Py_ssize_t first = 0;
    int result = 0;
    if (PyDict_CheckExact(data) && PyDict_GET_SIZE(data) == 1 && PyDict_Next(data, &first, &key, &value)) {
        Py_INCREF(key);
        Py_INCREF(value);
        result = step(self, cell, key, value, up);
        Py_DECREF(key);
        Py_DECREF(value);
        return result;
    }
    /* A list of its own: hashing and comparing keys may run code that changes `data`. */
    PyObject *items = PyMapping_Items(data);
    if (items == NULL) {
        return -1;
    }
    for (Py_ssize_t i = 0; result == 0 && i < PyList_GET_SIZE(items); i++) {
        PyObject *item = PyList_GET_ITEM(items, i);
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
            PyErr_Format(PyExc_TypeError, "items() of %R must give pairs", data);
            result = -1;
        } else {
            result = step(self, cell, PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1), up);
        }
    }
    Py_DECREF(items);
    return result;
}

static int
merge_into(TxnObject *self, theus_cell *cell, PyObject *data, const freeze_path *at)
{
    if (Py_EnterRecursiveCall(" in an update")) {
        return -1;
    }
    int result = merge_each(self, cell, data, at, merge_entry);
    Py_LeaveRecursiveCall();
    return result;
}

/* A key of data= that is a tuple is a path: merges below it, making maps on the way. */
static int
merge_path(TxnObject *self, PyObject *path, PyObject *value)
{
    Py_ssize_t length = PyTuple_GET_SIZE(path);
    PyObject *nested = Py_NewRef(value);
    for (Py_ssize_t i = length - 1; i > 0 && nested != NULL; i--) {
        PyObject *outer = PyDict_New();
        if (outer != NULL && PyDict_SetItem(outer, PyTuple_GET_ITEM(path, i), nested) < 0) {
            Py_CLEAR(outer);
        }
        Py_SETREF(nested, outer);
    }
    if (nested == NULL) {
        return -1;
    }
    freeze_path top = freeze_path_top(NULL);
    int result = merge_entry(self, self->txn.root, PyTuple_GET_ITEM(path, 0), nested, &top);
    Py_DECREF(nested);
    return result;
}

/* "domain.x" is one key, and almost always a mistake when there is a root "domain". */
static int
refuse_dotted_root(TxnObject *self, PyObject *key)
{
    Py_ssize_t dot = PyUnicode_FindChar(key, '.', 0, PyUnicode_GET_LENGTH(key), 1);
    if (dot <= 0) {
        return dot == -2 ? -1 : 0;
    }
    PyObject *first = PyUnicode_Substring(key, 0, dot);
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    int found = first == NULL ? -1 : cell_find(self, self->txn.root, first, false, &hash, &pos, &value);
    Py_XDECREF(first);
    if (found == 1) {
        PyObject *dot_sign = PyUnicode_FromString(".");
        PyObject *parts = dot_sign == NULL ? NULL : PyUnicode_Split(key, dot_sign, -1);
        PyObject *path = parts == NULL ? NULL : PyList_AsTuple(parts);
        if (path != NULL) {
            PyErr_Format(self->heap->st->ContextError,
                         "%R as a key of data= would be one key with a dot in it, beside a root of that first name: "
                         "write the tuple %R for the path, or nested dicts", key, path);
        }
        Py_XDECREF(path);
        Py_XDECREF(parts);
        Py_XDECREF(dot_sign);
        return -1;
    }
    return found;
}

static int
merge_root(TxnObject *self, theus_cell *root, PyObject *key, PyObject *value, const freeze_path *top)
{
    if (PyTuple_CheckExact(key) && PyTuple_GET_SIZE(key) > 0) {
        return merge_path(self, key, value);
    }
    if (!PyUnicode_Check(key)) {
        PyErr_Format(PyExc_TypeError, "a root is named by a str, not by %R", key);
        return -1;
    }
    return refuse_dotted_root(self, key) < 0 ? -1 : merge_entry(self, root, key, value, top);
}

static int
merge_roots(TxnObject *self, PyObject *data)
{
    freeze_path top = freeze_path_top(NULL);
    return merge_each(self, self->txn.root, data, &top, merge_root);
}

static int
require_mapping(const module_state *st, PyObject *argument, const char *name)
{
    if (PyDict_Check(argument)
        || (PyMapping_Check(argument) && PyObject_HasAttrString(argument, "items"))) {
        return 0;
    }
    PyErr_Format(st->ContextError, "%s= must be a dict, not %R", name, argument);
    return -1;
}

static int
send_signal(TxnObject *self, theus_cell *cell, PyObject *topic, PyObject *payload, const freeze_path *top)
{
    theus_value frozen;
    uint64_t hash;
    freeze_path at = freeze_path_key(top, topic);
    if (key_hash(topic, &hash) < 0
        || draft_freeze_value(self->heap->st, self, cell, payload, &at, &frozen) < 0) {
        return -1;
    }
    theus_status status = theus_txn_signal(&self->txn, NULL, hash, topic, frozen);
    freeze_drop(self->heap, frozen);
    return status == THEUS_OK ? 0 : txn_fail(self, status);
}

/* One dict of topics, or a list or tuple of them. */
static int
send_signals(TxnObject *self, PyObject *signal)
{
    if (!PyList_Check(signal) && !PyTuple_Check(signal)) {
        freeze_path top = freeze_path_top(NULL);
        return require_mapping(self->heap->st, signal, "signal") < 0
                   ? -1
                   : merge_each(self, self->txn.root, signal, &top, send_signal);
    }
    if (Py_EnterRecursiveCall(" in signal=")) { /* a list that holds itself, for one */
        return -1;
    }
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PySequence_Size(signal); i++) {
        PyObject *one = PySequence_GetItem(signal, i);
        result = one == NULL ? -1 : send_signals(self, one);
        Py_XDECREF(one);
    }
    Py_LeaveRecursiveCall();
    return result;
}

int
txn_update(TxnObject *self, PyObject *data, PyObject *heavy, PyObject *signal)
{
    const module_state *st = self->heap->st;
    if (data != NULL && data != Py_None
        && (require_mapping(st, data, "data") < 0 || merge_roots(self, data) < 0)) {
        return -1;
    }
    if (heavy != NULL && heavy != Py_None) {
        freeze_path top = freeze_path_top(NULL);
        PyObject *name = PyUnicode_InternFromString("heavy");
        int result = name == NULL ? -1 : require_mapping(st, heavy, "heavy");
        if (result == 0) {
            PyObject *plain = PyDict_New(); /* any mapping merges as a dict does */
            result = plain == NULL || PyDict_Update(plain, heavy) < 0
                         ? -1
                         : merge_entry(self, self->txn.root, name, plain, &top);
            Py_XDECREF(plain);
        }
        Py_XDECREF(name);
        if (result < 0) {
            return -1;
        }
    }
    return signal == NULL || signal == Py_None ? 0 : send_signals(self, signal);
}

PyObject *
txn_method_update(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "heavy", "signal", NULL};
    TxnObject *self = (TxnObject *)op;
    PyObject *data = NULL, *heavy = NULL, *signal = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOO:update", names, &data, &heavy, &signal)
        || txn_enter(self) < 0) {
        return NULL;
    }
    int result = txn_update(self, data, heavy, signal);
    txn_leave(self);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

/* ---- deferred operations --------------------------------------------------------- */

static int
append_value(HeapObject *heap, theus_value old, theus_value item, theus_value *out)
{
    theus_container *edit;
    theus_status status;
    if (old == THEUS_NONE) {
        status = theus_container_new(heap->core, THEUS_LIST, &edit);
    } else if (theus_value_kind(old) == THEUS_LIST) {
        status = theus_edit_begin(theus_value_container(old), &edit);
    } else {
        PyErr_SetString(PyExc_TypeError, "append() needs a list at its path; something else is there");
        return -1;
    }
    if (status == THEUS_OK) {
        status = theus_list_splice(edit, edit->count, 0, &item, 1);
        if (status == THEUS_OK) {
            status = theus_edit_seal(edit);
        }
        if (status != THEUS_OK) {
            theus_container_release(edit);
        }
    }
    if (status != THEUS_OK) {
        return errors_fail(heap->st, status);
    }
    *out = theus_value_of_container(edit);
    return 0;
}

int
txn_apply_deferred(void *ctx, theus_deferred_kind kind, theus_value old, theus_value operand,
                   void *resolver, theus_value *out)
{
    HeapObject *heap = ctx;
    if (kind == THEUS_APPEND) {
        return append_value(heap, old, operand, out);
    }
    PyObject *after = handle_wrap(heap, operand);
    if (after != NULL && old != THEUS_NONE) {
        PyObject *before = handle_wrap(heap, old);
        PyObject *made = NULL;
        if (before != NULL) {
            made = kind == THEUS_ADD
                       ? PyNumber_Add(before, after)
                       : PyObject_CallFunctionObjArgs((PyObject *)resolver, before, after, NULL);
            Py_DECREF(before);
        }
        Py_SETREF(after, made);
    }
    int result = after == NULL ? -1 : freeze_value(heap, after, NULL, out);
    Py_XDECREF(after);
    return result;
}

static int
defer(TxnObject *self, theus_deferred_kind kind, PyObject *path, PyObject *operand, PyObject *resolver)
{
    theus_cell *cell, *child = NULL;
    theus_value frozen, there;
    uint64_t hash = 0;
    uint32_t pos = 0;
    freeze_path at = freeze_path_top(path);
    if (draft_freeze_value(self->heap->st, self, self->txn.root, operand, &at, &frozen) < 0) {
        return -1;
    }
    int found = walk(self, path, &cell);
    int result = found < 0 ? -1 : 0;
    if (found == 0) {
        result = path_error(self->heap->st, path, "a part on the way is missing or holds no container");
    } else if (found == 1) {
        PyObject *key = last_of(path);
        theus_status status = THEUS_OK;
        if (cell->now->kind == THEUS_LIST) {
            found = cell_find(self, cell, key, false, &hash, &pos, &there);
        } else if (cell->now->kind == THEUS_SET) {
            found = path_error(self->heap->st, path, "an element of a set has no value");
        } else if (key_hash(key, &hash) < 0) {
            found = -1;
        } else if (kind == THEUS_APPEND && cell->child_count != 0) {
            /* Not theus_cell_probe(): that would settle what is deferred already. */
            theus_find there = theus_container_find(cell->now, NULL, hash, key, &pos, NULL);
            child = there == THEUS_FOUND ? theus_cell_child_at(cell, pos) : NULL;
            found = there == THEUS_FIND_FAILED ? errors_find_failed(self->heap->st) : 1;
        }
        if (found == 0) {
            found = path_error(self->heap->st, path, "the list has no such index");
        }
        if (found < 0) {
            result = -1;
        } else if (child != NULL && child->now->kind == THEUS_LIST) {
            /* The body holds a draft of that very list: it must see the append. */
            status = theus_cell_splice(child, child->now->count, 0, &frozen, 1);
        } else {
            bool by_index = cell->now->kind == THEUS_LIST;
            status = theus_cell_defer(cell, kind, hash, by_index ? NULL : key, pos, frozen, resolver);
        }
        if (status != THEUS_OK) {
            result = txn_fail(self, status);
        }
    }
    freeze_drop(self->heap, frozen);
    return result;
}

static PyObject *
defer_method(PyObject *op, theus_deferred_kind kind, PyObject *const *args)
{
    TxnObject *self = (TxnObject *)op;
    PyObject *path = txn_path_argument(self->heap->st, args[0]);
    if (path == NULL) {
        return NULL;
    }
    int result = txn_enter(self);
    if (result == 0) {
        result = defer(self, kind, path, args[1], kind == THEUS_MERGE ? args[2] : NULL);
        txn_leave(self);
    }
    Py_DECREF(path);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *
txn_method_add(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return errors_check_count("add", count, 2, 2) < 0 ? NULL : defer_method(op, THEUS_ADD, args);
}

PyObject *
txn_method_append(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return errors_check_count("append", count, 2, 2) < 0 ? NULL : defer_method(op, THEUS_APPEND, args);
}

PyObject *
txn_method_merge(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("merge", count, 3, 3) < 0) {
        return NULL;
    }
    if (!PyCallable_Check(args[2])) {
        PyErr_Format(PyExc_TypeError, "merge() needs a resolver(old, value), not %R", args[2]);
        return NULL;
    }
    return defer_method(op, THEUS_MERGE, args);
}
