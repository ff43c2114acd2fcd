/* update(): dicts merged at any depth, DELETE, heavy, signals. */
#include "txn_paths.h"

#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "freeze.h"
#include "guard.h"
#include "outgoing.h"
#include "value_py.h"
#include "zones.h"

static int merge_into(TxnObject *self, theus_cell *cell, PyObject *data, const freeze_path *at);

/* Does a dict say DELETE anywhere inside? Only exact dicts are looked into: what freeze copies. */
static int
says_delete(const module_state *st, PyObject *data)
{
    PyObject *key, *value;
    Py_ssize_t i = 0;
    if (nesting_enter(" in a dict of updates") < 0) {
        return -1;
    }
    int says = 0;
    Py_BEGIN_CRITICAL_SECTION(data);
    while (says == 0 && PyDict_Next(data, &i, &key, &value)) {
        Py_INCREF(value);
        says = value == st->DELETE ? 1 : PyDict_CheckExact(value) ? says_delete(st, value) : 0;
        Py_DECREF(value);
    }
    Py_END_CRITICAL_SECTION();
    nesting_leave();
    return says;
}

/* One entry of an update: a dict merges into a map that is there, DELETE removes, anything else replaces. */
static int
merge_entry(TxnObject *self, theus_cell *cell, PyObject *key, PyObject *value, const freeze_path *up)
{
    const module_state *st = self->heap->st;
    freeze_path at = freeze_path_key(up, key);
    if (value == st->DELETE) {
        int removed = txn_cell_delete(self, cell, key);
        return removed < 0 ? -1 : 0;
    }
    bool is_map = PyDict_CheckExact(value) || Py_TYPE(value) == st->FrozenDict_type;
    if (is_map) {
        uint64_t hash;
        uint32_t pos;
        theus_value there;
        theus_cell *child;
        int found = txn_cell_find(self, cell, key, false, &hash, &pos, &there);
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
    return txn_cell_set(self, cell, NULL, &at, key, value);
}

typedef int (*merge_step)(TxnObject *self, theus_cell *cell, PyObject *key, PyObject *value, const freeze_path *up);

/* One step for each entry of `data`, in order. */
static int
merge_each(TxnObject *self, theus_cell *cell, PyObject *data, const freeze_path *up, merge_step step)
{
    PyObject *key, *value;
    Py_ssize_t first = 0;
    int result = 0;
    bool single;
    Py_BEGIN_CRITICAL_SECTION(data);
    single = PyDict_CheckExact(data) && PyDict_GET_SIZE(data) == 1 && PyDict_Next(data, &first, &key, &value);
    if (single) {
        Py_INCREF(key);
        Py_INCREF(value);
    }
    Py_END_CRITICAL_SECTION();
    if (single) {
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
        }
        else {
            result = step(self, cell, PyTuple_GET_ITEM(item, 0), PyTuple_GET_ITEM(item, 1), up);
        }
    }
    Py_DECREF(items);
    return result;
}

static int
merge_into(TxnObject *self, theus_cell *cell, PyObject *data, const freeze_path *at)
{
    if (nesting_enter(" in an update") < 0) {
        return -1;
    }
    int result = merge_each(self, cell, data, at, merge_entry);
    nesting_leave();
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
    int found = first == NULL ? -1 : txn_cell_find(self, self->txn.root, first, false, &hash, &pos, &value);
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
    (void)cell;
    (void)top;
    return outgoing_attach(self, THEUS_SIGNALS, topic, payload);
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
    if (nesting_enter(" in signal=") < 0) { /* a list that holds itself, for one */
        return -1;
    }
    int result = 0;
    for (Py_ssize_t i = 0; result == 0 && i < PySequence_Size(signal); i++) {
        PyObject *one = PySequence_GetItem(signal, i);
        result = one == NULL ? -1 : send_signals(self, one);
        Py_XDECREF(one);
    }
    nesting_leave();
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

/* A process that may not write may not signal either. */
static int
refuse_frozen(TxnObject *self)
{
    if (!self->guard->frozen) {
        return 0;
    }
    PyObject *path = PyTuple_New(0);
    if (path != NULL) {
        guard_refuse_path(self, self->guard, path, true);
        Py_DECREF(path);
    }
    return -1;
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
    /* Where a merge ends is not known before it was done, so under a guard the operations are looked at then. */
    int result = self->guard == NULL ? 0 : refuse_frozen(self);
    if (result == 0) {
        result = txn_update(self, data, heavy, signal);
    }
    if (result == 0 && self->guard != NULL) {
        result = guard_check_operations(self, self->guard, true);
    }
    if (result == 0 && self->guard != NULL) {
        result = zones_check(self, self->admin_scope != NULL);
    }
    txn_leave(self);
    return result < 0 ? NULL : Py_NewRef(Py_None);
}
