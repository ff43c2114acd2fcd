/* theus._theus.ArrayView: an array of numbers over a buffer, for interpreters in which NumPy cannot load.
 *
 * A view never changes: what it shows of its memory is fixed when it is made, and checked there. It holds a memoryview of
 * all of the memory, which keeps the exporter; that of a shared array is a SharedBlock, so the lease lasts as long as the
 * last view. Views of a view share the memoryview. */
#ifndef THEUS_ARRAY_VIEW_H
#define THEUS_ARRAY_VIEW_H

#include "array_format.h"
#include "module_state.h"

typedef struct {
    PyObject_VAR_HEAD /* two numbers for each axis */
    PyObject *memory; /* memoryview, contiguous */
    const array_format *format;
    char *data;       /* the first element */
    int ndim;
    bool readonly;
    PyObject *weakrefs;
    Py_ssize_t dims[1]; /* shape, then strides */
} ArrayView;

static inline ArrayView *
view_of(PyObject *op)
{
    return (ArrayView *)op;
}

static inline const Py_ssize_t *
strides_of(const ArrayView *self)
{
    return self->dims + self->ndim;
}

/* A view of that memory, without a check: `shape` and
 * `strides` have `ndim` numbers, and what they reach lies in it. */
ArrayView *array_view_new(PyTypeObject *type, PyObject *memory, const array_format *format, char *data, int ndim,
                          const Py_ssize_t *shape, const Py_ssize_t *strides);

/* The bytes that an array covers, from its first element: it needs those from *low to just before *high; both 0 if it has
 * no elements. False if the sum overflows: no array does. */
bool array_extent(int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides, Py_ssize_t itemsize, int64_t *low,
                  int64_t *high);

/* The slots of the type that look at elements (array_items.c). */
PyObject *array_view_subscript(PyObject *op, PyObject *key);
int array_view_assign(PyObject *op, PyObject *key, PyObject *value);
Py_ssize_t array_view_length(PyObject *op);
PyObject *array_view_item(PyObject *op, Py_ssize_t at);
PyObject *array_view_tolist(PyObject *op, PyObject *ignored);
PyObject *array_view_compare(PyObject *op, PyObject *other, int how);

#endif
