/* ArrayView: its elements, read, written and compared; views of parts of it. */
#include "array_view.h"

/* ---- items and views ------------------------------------------------------------------------------- */

/* One view in the making: what is left of the axes after an index. */
typedef struct {
    char *data;
    int ndim;
    Py_ssize_t shape[THEUS_DIMS_MAX], strides[THEUS_DIMS_MAX];
} selection;

/* Applies one index to axis `axis` of self. */
static int
select_axis(const ArrayView *self, int axis, PyObject *index, selection *selection)
{
    Py_ssize_t length = self->dims[axis], stride = strides_of(self)[axis];
    if (PySlice_Check(index)) {
        Py_ssize_t start, stop, step;
        if (PySlice_Unpack(index, &start, &stop, &step) < 0) {
            return -1;
        }
        Py_ssize_t count = PySlice_AdjustIndices(length, &start, &stop, step);
        if (count > 0) {
            selection->data += start * stride;
        }
        selection->shape[selection->ndim] = count;
        /* Of one element, or none, the stride means nothing, and step * stride might overflow. */
        selection->strides[selection->ndim++] = count > 1 ? step * stride : stride;
        return 0;
    }
    if (!PyIndex_Check(index)) {
        PyErr_Format(PyExc_TypeError, "an index is an int, a slice or ..., not %.100R", index);
        return -1;
    }
    Py_ssize_t at = PyNumber_AsSsize_t(index, PyExc_IndexError);
    if (at == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (at < -length || at >= length) {
        PyErr_Format(PyExc_IndexError, "index %zd is not on axis %d, which has %zd elements", at, axis, length);
        return -1;
    }
    selection->data += (at < 0 ? at + length : at) * stride;
    return 0;
}

static void
keep_axis(const ArrayView *self, int axis, selection *selection)
{
    selection->shape[selection->ndim] = self->dims[axis];
    selection->strides[selection->ndim++] = strides_of(self)[axis];
}

static int
select_all(const ArrayView *self, PyObject *key, selection *selection)
{
    Py_ssize_t parts = PyTuple_Check(key) ? PyTuple_GET_SIZE(key) : 1, given = parts;
    bool rest = false;
    for (Py_ssize_t i = 0; i < parts; i++) {
        given -= (PyTuple_Check(key) ? PyTuple_GET_ITEM(key, i) : key) == Py_Ellipsis;
    }
    if (given > self->ndim || parts - given > 1) {
        PyErr_Format(PyExc_IndexError, "%.100R is too much for an array of %d axes", key, self->ndim);
        return -1;
    }
    int axis = 0;
    selection->data = self->data;
    selection->ndim = 0;
    for (Py_ssize_t i = 0; i < parts; i++) {
        PyObject *index = PyTuple_Check(key) ? PyTuple_GET_ITEM(key, i) : key;
        if (index == Py_Ellipsis) {
            for (Py_ssize_t left = self->ndim - given; left > 0; left--) {
                keep_axis(self, axis++, selection);
            }
            rest = true;
        }
        else if (select_axis(self, axis++, index, selection) < 0) {
            return -1;
        }
    }
    for (; !rest && axis < self->ndim; axis++) {
        keep_axis(self, axis, selection);
    }
    return 0;
}

/* The number, if no axis is left, else a view. */
static PyObject *
selected(const ArrayView *self, const selection *selection)
{
    if (selection->ndim == 0) {
        return array_item_load(self->format, selection->data);
    }
    return (PyObject *)array_view_new(Py_TYPE(self), self->memory, self->format, selection->data, selection->ndim,
                                      selection->shape, selection->strides);
}

PyObject *
array_view_subscript(PyObject *op, PyObject *key)
{
    selection selection;
    return select_all(view_of(op), key, &selection) < 0 ? NULL : selected(view_of(op), &selection);
}

int
array_view_assign(PyObject *op, PyObject *key, PyObject *value)
{
    ArrayView *self = view_of(op);
    selection selection;
    if (value == NULL) {
        PyErr_SetString(PyExc_TypeError, "elements of an array cannot be deleted");
        return -1;
    }
    if (self->readonly) {
        PyErr_SetString(PyExc_ValueError, "this array is read-only; cow() gives one that can be written");
        return -1;
    }
    if (select_all(self, key, &selection) < 0) {
        return -1;
    }
    if (selection.ndim > 0) {
        PyErr_SetString(PyExc_TypeError, "only single elements are assigned; theus.kernels.copy() writes to views");
        return -1;
    }
    return array_item_store(self->format, selection.data, value);
}

Py_ssize_t
array_view_length(PyObject *op)
{
    if (view_of(op)->ndim == 0) {
        PyErr_SetString(PyExc_TypeError, "an array without axes has no length");
        return -1;
    }
    return view_of(op)->dims[0];
}

/* Element `at` of the first axis: what iteration asks for. */
PyObject *
array_view_item(PyObject *op, Py_ssize_t at)
{
    const ArrayView *self = view_of(op);
    if (self->ndim == 0) {
        PyErr_SetString(PyExc_TypeError, "an array without axes has no elements to go through; view[()] is its number");
        return NULL;
    }
    if (at < 0 || at >= self->dims[0]) {
        PyErr_Format(PyExc_IndexError, "index %zd is not on axis 0, which has %zd elements", at, self->dims[0]);
        return NULL;
    }
    selection selection = {.data = self->data + at * strides_of(self)[0], .ndim = 0};
    for (int axis = 1; axis < self->ndim; axis++) {
        keep_axis(self, axis, &selection);
    }
    return selected(self, &selection);
}

/* ---- as lists, and compared --------------------------------------------------------------------------------- */

static PyObject *
list_from(const ArrayView *self, int axis, const char *data)
{
    if (axis == self->ndim) {
        return array_item_load(self->format, data);
    }
    PyObject *list = PyList_New(self->dims[axis]);
    for (Py_ssize_t i = 0; list != NULL && i < self->dims[axis]; i++) {
        PyObject *item = list_from(self, axis + 1, data + i * strides_of(self)[axis]);
        if (item == NULL) {
            Py_CLEAR(list);
        }
        else {
            PyList_SET_ITEM(list, i, item);
        }
    }
    return list;
}

PyObject *
array_view_tolist(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return list_from(view_of(op), 0, view_of(op)->data);
}

PyObject *
array_view_compare(PyObject *op, PyObject *other, int how)
{
    if ((how != Py_EQ && how != Py_NE) || !PyObject_CheckBuffer(other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *left = PyMemoryView_FromObject(op), *right = PyMemoryView_FromObject(other), *result = NULL;
    const array_format *format = NULL;
    if (left == NULL || right == NULL) {
        goto done;
    }
    const Py_buffer *b = PyMemoryView_GET_BUFFER(right);
    const ArrayView *self = view_of(op);
    format = b->suboffsets == NULL ? array_format_find(b->format == NULL ? "B" : b->format) : NULL;
    if (format == NULL) { /* of a kind that Python knows, or nobody does */
        result = PyObject_RichCompare(left, right, how);
        goto done;
    }
    bool equal = b->ndim == self->ndim;
    for (int i = 0; i < self->ndim; i++) {
        equal = equal && b->shape[i] == self->dims[i];
    }
    if (equal) {
        PyObject *mine = list_from(self, 0, self->data), *theirs = NULL;
        ArrayView *twin = array_view_new(Py_TYPE(op), right, format, b->buf, b->ndim, b->shape, b->strides);
        if (twin != NULL) {
            theirs = list_from(twin, 0, twin->data);
        }
        result = mine == NULL || theirs == NULL ? NULL : PyObject_RichCompare(mine, theirs, how);
        Py_XDECREF(mine);
        Py_XDECREF(theirs);
        Py_XDECREF(twin);
    }
    else {
        result = PyBool_FromLong(how == Py_NE);
    }
done:
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}
