/* What is drawn in delta.h. */
#include "delta.h"

#include "errors.h"
#include "records.h"

#include <math.h>

enum { CANNOT_TELL = 1 }; /* beside 0 and -1 with an exception set */

typedef struct {
    HeapObject *heap;
    const theus_container *old, *new;
    PyObject *changes; /* borrowed */
    Py_ssize_t *left;  /* changes that may still be told, at all levels together */
} delta;

static int tell_all(const delta *outer, const theus_container *old, const theus_container *new, PyObject *changes);

/* Can one be told by its changes from the other? */
static bool
are_versions(const theus_container *old, const theus_container *new)
{
    return old->kind == new->kind && old->heap == new->heap && !record_is(old) && !record_is(new);
}

static bool
are_nested_versions(theus_value old, theus_value new)
{
    return old != THEUS_NONE && theus_value_kind(old) != THEUS_ATOM && theus_value_kind(new) != THEUS_ATOM
           && are_versions(theus_value_container(old), theus_value_container(new));
}

/* Does what is read from its encoding equal it? Not NaN, nor what is equal to itself alone; of a class of somebody's, nobody
 * knows without asking. */
static bool
is_plain_key(PyObject *key)
{
    if (PyFloat_CheckExact(key)) {
        return !isnan(PyFloat_AS_DOUBLE(key));
    }
    return PyUnicode_CheckExact(key) || PyLong_CheckExact(key) || PyBool_Check(key) || PyBytes_CheckExact(key)
           || key == Py_None;
}

/* The same of a tuple of them, too. */
static bool
is_found_again(PyObject *key)
{
    if (!PyTuple_CheckExact(key)) {
        return is_plain_key(key);
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(key); i++) {
        if (!is_plain_key(PyTuple_GET_ITEM(key, i))) {
            return false;
        }
    }
    return true;
}

/* (key,) or (key, value). New reference. */
static PyObject *
plain_change(const delta *self, PyObject *key, theus_value new)
{
    if (new == THEUS_NONE) {
        return PyTuple_Pack(1, key);
    }
    PyObject *value = self->new->kind == THEUS_SET ? Py_NewRef(Py_None) : handle_wrap(self->heap, new);
    PyObject *change = value == NULL ? NULL : PyTuple_Pack(2, key, value);
    Py_XDECREF(value);
    return change;
}

/* (key, None, [...]), or (key, value) if that cannot be told. New reference. */
static PyObject *
nested_change(const delta *self, PyObject *key, theus_value old, theus_value new)
{
    PyObject *inner = PyList_New(0), *change = NULL;
    int result = inner == NULL ? -1 : tell_all(self, theus_value_container(old), theus_value_container(new), inner);
    if (result == 0) {
        change = PyTuple_Pack(3, key, Py_None, inner);
    }
    else if (result == CANNOT_TELL) {
        change = plain_change(self, key, new);
    }
    Py_XDECREF(inner);
    return change;
}

/* A theus_place_fn. */
static int
tell(void *arg, uint32_t pos, void *key_old, theus_value old, void *key_new, theus_value new)
{
    const delta *self = arg;
    bool list = self->new->kind == THEUS_LIST;
    if (--*self->left < 0 || (list && new == THEUS_NONE)) {
        return CANNOT_TELL;
    }
    if (!list && key_new != NULL && key_new != key_old && pos < self->old->span) {
        return CANNOT_TELL; /* it has come to stand among those that were there */
    }
    if (!list && key_old != NULL && !is_found_again(key_old)) {
        return CANNOT_TELL; /* where it stands could be said here, but not there */
    }
    PyObject *key = list ? PyLong_FromUnsignedLong(pos) : Py_NewRef(key_new != NULL ? key_new : key_old);
    PyObject *change = NULL;
    int result = -1;
    if (key != NULL) {
        change = are_nested_versions(old, new) ? nested_change(self, key, old, new) : plain_change(self, key, new);
    }
    if (change != NULL) {
        result = PyList_Append(self->changes, change);
    }
    Py_XDECREF(key);
    Py_XDECREF(change);
    return result;
}

static int
tell_all(const delta *outer, const theus_container *old, const theus_container *new, PyObject *changes)
{
    delta self = {outer->heap, old, new, changes, outer->left};
    if (nesting_enter(" in container_changes()") < 0) {
        return -1;
    }
    int result = theus_container_places(old, new, tell, &self);
    nesting_leave();
    return result;
}

PyObject *
module_container_changes(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const module_state *st = module_state_of(module);
    if (errors_check_count("container_changes", count, 3, 3) < 0) {
        return NULL;
    }
    Py_ssize_t limit = PyNumber_AsSsize_t(args[2], PyExc_OverflowError);
    if (limit == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (handle_kind(st, args[0]) == THEUS_ATOM || handle_kind(st, args[1]) == THEUS_ATOM
        || !are_versions(handle_of(args[0])->node, handle_of(args[1])->node)) {
        Py_RETURN_NONE;
    }
    HandleObject *new = handle_of(args[1]);
    PyObject *changes = PyList_New(0);
    delta self = {.heap = new->heap, .left = &limit};
    int result = changes == NULL ? -1 : tell_all(&self, handle_of(args[0])->node, new->node, changes);
    if (result != 0) {
        Py_CLEAR(changes);
    }
    return result == CANNOT_TELL ? Py_NewRef(Py_None) : changes;
}
