/* States made by hand: from data, from another one with changes, without their engine. */
#include "state_object.h"

#include "errors.h"
#include "freeze.h"
#include "txn_paths.h"

int
state_root_from(HeapObject *heap, PyObject *data, PyObject *heavy, theus_container **out)
{
    PyObject *roots = PyDict_New();
    PyObject *name = state_heavy_name();
    theus_value value = THEUS_NONE;
    int result = roots == NULL || name == NULL ? -1 : 0;
    const char *what = "data";
    for (int i = 0; result == 0 && i < 2; i++, what = "heavy") {
        PyObject *given = i == 0 ? data : heavy;
        if (given == NULL || given == Py_None) {
            continue;
        }
        if (!PyMapping_Check(given) || !PyObject_HasAttrString(given, "keys")) {
            PyErr_Format(PyExc_TypeError, "%s= must be a dict of roots, not %R", what, given);
            result = -1;
        }
        else {
            result = i == 0 ? PyDict_Update(roots, given) : PyDict_SetItem(roots, name, given);
        }
    }
    PyObject *key, *ignored;
    Py_ssize_t at = 0;
    while (result == 0 && PyDict_Next(roots, &at, &key, &ignored)) {
        if (!PyUnicode_Check(key)) {
            PyErr_Format(PyExc_TypeError, "a root is named by a str, not by %R", key);
            result = -1;
        }
    }
    if (result == 0) {
        result = freeze_value(heap, roots, NULL, &value);
    }
    Py_XDECREF(roots);
    Py_XDECREF(name);
    if (result == 0) {
        *out = theus_value_container(value);
    }
    return result;
}

PyObject *
state_type_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "heavy", "signal", "version", "meta_capacity", NULL};
    module_state *st = module_state_of_type(type);
    PyObject *data = NULL, *heavy = NULL, *signal = NULL;
    PyObject *named = NULL;
    uint64_t number = 1;
    Py_ssize_t capacity = 1000;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOOOn:State", names, &data, &heavy, &signal,
                                     &named, &capacity)
        || (named != NULL && engine_parse_version(named, &number) < 0)) {
        return NULL;
    }
    if (capacity < 0) {
        PyErr_Format(PyExc_ValueError, "meta_capacity must be 0 (off) or more, not %zd", capacity);
        return NULL;
    }
    HeapObject *heap = heap_new(st);
    theus_container *root = NULL;
    theus_value signals = THEUS_NONE;
    theus_version *version = NULL;
    PyObject *self = NULL;
    PyObject *latch = heap == NULL ? NULL : PyDict_New();
    if (latch == NULL || (signal != NULL && signal != Py_None && PyDict_Update(latch, signal) < 0)
        || state_root_from(heap, data, heavy, &root) < 0
        || freeze_value(heap, latch, NULL, &signals) < 0) {
        goto done;
    }
    theus_status status = theus_version_new(NULL, number, root, theus_value_container(signals), NULL, &version);
    if (status != THEUS_OK) {
        errors_raise(st, status);
        goto done;
    }
    self = state_new(heap, NULL, version);
    if (self != NULL) {
        state_of(self)->meta_capacity = capacity;
    }
done:
    Py_XDECREF(latch);
    theus_container_release(root);
    if (signals != THEUS_NONE) {
        freeze_drop(heap, signals);
    }
    Py_XDECREF((PyObject *)heap);
    return self;
}

/* update() runs a transaction on a store of its own that holds only this version. */
PyObject *
state_update(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "heavy", "signal", NULL};
    StateObject *self = state_of(op);
    PyObject *data = NULL, *heavy = NULL, *signal = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOO:update", names, &data, &heavy, &signal)) {
        return NULL;
    }
    EngineObject *engine = engine_over(self->heap, self->version);
    TxnObject *txn = engine == NULL ? NULL : txn_new(engine, THEUS_SERIALIZABLE, false, 0, NULL);
    PyObject *made = NULL;
    theus_conflict why;
    if (txn == NULL || txn_begin(txn, NULL, false) < 0 || txn_enter(txn) < 0) {
        goto done;
    }
    int result = txn_update(txn, data, heavy, signal);
    txn_leave(txn);
    if (result < 0) {
        txn_abort(txn);
        goto done;
    }
    if (txn_commit(txn, &why, TXN_GATE_REFUSE) == 1) { /* nobody else knows this store: no conflict is possible */
        theus_version *version = theus_store_pin(engine->store);
        made = state_new(self->heap, self->engine, version);
    }
    if (made != NULL) {
        bool logs = self->meta_capacity != 0;
        state_of(made)->meta = state_meta(self, logs); /* shared from now on */
        state_of(made)->meta_capacity = self->meta_capacity;
        if (logs && state_of(made)->meta == NULL) {
            Py_CLEAR(made);
        }
    }
done:
    Py_XDECREF((PyObject *)txn);
    Py_XDECREF((PyObject *)engine);
    return made;
}

PyObject *
state_restrict_view(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    StateObject *self = state_of(op);
    theus_version_retain(self->version);
    return state_new(self->heap, NULL, self->version);
}
