/* DraftList.sort() and reverse(): reorder cells along with their containers.
 *
 * Keys and comparisons are Python code that may do anything, so sorting happens outside the
 * transaction, on the numbers 0 .. n-1 with Python's own list.sort(): that gives its stability,
 * its errors and its treatment of keys. Before the permutation is applied, the list must still
 * hold the very elements that were sorted. */
#include "draft_parts.h"

/* All elements as reading gives them: a list. */
static PyObject *
elements_of(DraftObject *self)
{
    if (draft_enter_change(self, RIGHT_UPDATE) < 0) {
        return NULL;
    }
    theus_cell_read_all(self->cell);
    uint32_t count = self->cell->now->count;
    PyObject *elements = PyList_New(count);
    for (uint32_t pos = 0; elements != NULL && pos < count; pos++) {
        PyObject *element = NULL;
        if (pos < self->cell->now->count) {
            element = draft_at(self, pos, theus_container_value_at(self->cell->now, pos));
        }
        else { /* a finalizer has shortened it */
            PyErr_SetString(PyExc_ValueError, "list modified during sort");
        }
        if (element == NULL) {
            Py_CLEAR(elements);
        }
        else {
            PyList_SET_ITEM(elements, pos, element);
        }
    }
    draft_leave(self);
    return elements;
}

static PyObject *
keys_of(PyObject *elements, PyObject *function)
{
    Py_ssize_t count = PyList_GET_SIZE(elements);
    PyObject *keys = PyList_New(count);
    for (Py_ssize_t i = 0; keys != NULL && i < count; i++) {
        PyObject *key = PyObject_CallOneArg(function, PyList_GET_ITEM(elements, i));
        if (key == NULL) {
            Py_CLEAR(keys);
        }
        else {
            PyList_SET_ITEM(keys, i, key);
        }
    }
    return keys;
}

/* Sorts `numbers` by keys[number]. */
static int
sort_numbers(PyObject *numbers, PyObject *keys, int reverse)
{
    int result = -1;
    PyObject *pick = PyObject_GetAttrString(keys, "__getitem__");
    PyObject *sort = PyObject_GetAttrString(numbers, "sort");
    PyObject *nothing = PyTuple_New(0);
    PyObject *options = Py_BuildValue("{s:O,s:i}", "key", pick, "reverse", reverse);
    if (pick != NULL && sort != NULL && nothing != NULL && options != NULL) {
        PyObject *done = PyObject_Call(sort, nothing, options);
        result = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    Py_XDECREF(pick);
    Py_XDECREF(sort);
    Py_XDECREF(nothing);
    Py_XDECREF(options);
    return result;
}

static PyObject *
numbers_below(Py_ssize_t count)
{
    PyObject *numbers = PyList_New(count);
    for (Py_ssize_t i = 0; numbers != NULL && i < count; i++) {
        PyObject *number = PyLong_FromSsize_t(i);
        if (number == NULL) {
            Py_CLEAR(numbers);
        }
        else {
            PyList_SET_ITEM(numbers, i, number);
        }
    }
    return numbers;
}

/* Does the list still hold these elements, in this order? Entered. */
static bool
holds_elements(DraftObject *self, PyObject *elements)
{
    const theus_cell *cell = self->cell;
    if ((Py_ssize_t)cell->now->count != PyList_GET_SIZE(elements)) {
        return false;
    }
    for (uint32_t pos = 0; pos < cell->now->count; pos++) {
        theus_value value = theus_container_value_at(cell->now, pos);
        PyObject *element = PyList_GET_ITEM(elements, pos);
        bool same = theus_value_kind(value) == THEUS_ATOM
                        ? (PyObject *)theus_value_atom(value) == element
                        : draft_check(draft_state(self), element)
                              && theus_cell_child_at(cell, pos) == draft_of(element)->cell;
        if (!same) {
            return false;
        }
    }
    return true;
}

/* `numbers` is a permutation of 0 .. n-1 of the elements. */
static int
apply_order(DraftObject *self, PyObject *elements, PyObject *numbers)
{
    Py_ssize_t count = PyList_GET_SIZE(numbers);
    uint32_t *order = PyMem_Malloc((size_t)(count > 0 ? count : 1) * sizeof(*order));
    if (order == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    bool moved = false;
    for (Py_ssize_t i = 0; i < count; i++) {
        order[i] = (uint32_t)PyLong_AsUnsignedLong(PyList_GET_ITEM(numbers, i));
        moved = moved || order[i] != (uint32_t)i;
    }
    int result = draft_enter_change(self, RIGHT_UPDATE);
    if (result == 0) {
        if (!holds_elements(self, elements)) {
            PyErr_SetString(PyExc_ValueError, "list modified during sort");
            result = -1;
        }
        else if (moved) {
            result = draft_checked(self, theus_cell_permute(self->cell, order));
        }
        draft_leave(self);
    }
    PyMem_Free(order);
    return result;
}

PyObject *
draft_method_sort(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"key", "reverse", NULL};
    PyObject *key = Py_None;
    int reverse = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$Op:sort", names, &key, &reverse)) {
        return NULL;
    }
    DraftObject *self = draft_of(op);
    /* One operation from end to end: while the key function runs, no other thread may come in. */
    if (draft_enter_change(self, RIGHT_UPDATE) < 0) {
        return NULL;
    }
    PyObject *elements = elements_of(self), *keys = NULL, *numbers = NULL;
    int result = -1;
    if (elements != NULL) {
        keys = key == Py_None ? Py_NewRef(elements) : keys_of(elements, key);
        numbers = keys == NULL ? NULL : numbers_below(PyList_GET_SIZE(elements));
    }
    if (numbers != NULL && sort_numbers(numbers, keys, reverse) == 0) {
        result = apply_order(self, elements, numbers);
    }
    draft_leave(self);
    Py_XDECREF(elements);
    Py_XDECREF(keys);
    Py_XDECREF(numbers);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
draft_method_reverse(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DraftObject *self = draft_of(op);
    if (draft_enter_change(self, RIGHT_UPDATE) < 0) {
        return NULL;
    }
    uint32_t count = self->cell->now->count;
    theus_cell_read_shape(self->cell);
    int result = 0;
    if (count > 1) {
        uint32_t *order = PyMem_Malloc((size_t)count * sizeof(*order));
        if (order == NULL) {
            PyErr_NoMemory();
            result = -1;
        }
        else {
            for (uint32_t i = 0; i < count; i++) {
                order[i] = count - 1 - i;
            }
            result = draft_checked(self, theus_cell_permute(self->cell, order));
            PyMem_Free(order);
        }
    }
    draft_leave(self);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}
