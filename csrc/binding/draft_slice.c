/* Slices of a DraftList. */
#include "draft_parts.h"

typedef struct {
    Py_ssize_t start, stop, step;
    Py_ssize_t count; /* how many elements it names in a list of the length of now */
} slice_range;

/* The parts of a slice object; may run its __index__. */
static int
range_unpack(PyObject *slice, slice_range *range)
{
    return PySlice_Unpack(slice, &range->start, &range->stop, &range->step);
}

/* Fits the range to the list; entered. */
static void
range_adjust(DraftObject *self, slice_range *range)
{
    theus_cell_read_shape(self->cell);
    range->count = PySlice_AdjustIndices((Py_ssize_t)self->cell->now->count, &range->start,
                                         &range->stop, range->step);
}

static uint32_t
range_at(const slice_range *range, Py_ssize_t i)
{
    return (uint32_t)(range->start + i * range->step);
}

static int
changed_meanwhile(void)
{
    PyErr_SetString(PyExc_RuntimeError, "list changed size while a slice of it was in use");
    return -1;
}

PyObject *
draft_slice_get(DraftObject *self, PyObject *slice)
{
    slice_range range;
    if (range_unpack(slice, &range) < 0 || draft_enter_open(self) < 0) {
        return NULL;
    }
    range_adjust(self, &range);
    PyObject *result = PyList_New(range.count);
    for (Py_ssize_t i = 0; result != NULL && i < range.count; i++) {
        uint32_t pos = range_at(&range, i);
        theus_value value;
        PyObject *element = NULL;
        if (pos >= self->cell->now->count) { /* a finalizer has shortened it */
            changed_meanwhile();
        }
        else if (draft_checked(self, theus_cell_read(self->cell, pos, &value)) == 0) {
            element = draft_at(self, pos, value);
        }
        if (element == NULL) {
            Py_CLEAR(result);
        }
        else {
            PyList_SET_ITEM(result, i, element);
        }
    }
    draft_leave(self);
    return result;
}

/* ---- writing: entered --------------------------------------------------------------- */

/* Overwrites element by element: nothing moves, so the rest of the list stays untouched in the
 * log. */
static int
put_values(DraftObject *self, const slice_range *range, const draft_values *values)
{
    for (Py_ssize_t i = 0; i < range->count; i++) {
        uint32_t pos = range_at(range, i);
        if (pos
            >= self->cell->now->count) { /* the finalizer of a replaced value has shortened it */
            return changed_meanwhile();
        }
        if (draft_checked(self, theus_cell_put(self->cell, pos, values->items[i])) < 0) {
            return -1;
        }
    }
    return 0;
}

/* Removes every step-th element: the doomed go to the end in one permutation, so that drafts of
 * the others follow their containers, and then they are cut off. */
static int
remove_spread(DraftObject *self, const slice_range *range)
{
    uint32_t count = self->cell->now->count;
    uint32_t *order = PyMem_Malloc((size_t)count * sizeof(*order));
    if (order == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t doomed = 0, step = range->step > 0 ? range->step : -range->step;
    uint32_t lowest = range_at(range, range->step > 0 ? 0 : range->count - 1);
    uint32_t kept = 0, gone = count - (uint32_t)range->count;
    for (uint32_t pos = 0; pos < count; pos++) {
        bool is_doomed = doomed < range->count && pos == lowest + (uint32_t)(doomed * step);
        doomed += is_doomed;
        order[is_doomed ? gone++ : kept++] = pos;
    }
    int result = draft_checked(self, theus_cell_permute(self->cell, order));
    PyMem_Free(order);
    if (result == 0) {
        result = draft_checked(self, theus_cell_splice(self->cell, kept, count - kept, NULL, 0));
    }
    return result;
}

static int
slice_write(DraftObject *self, slice_range *range, const draft_values *values)
{
    Py_ssize_t given = values == NULL ? 0 : (Py_ssize_t)values->count;
    range_adjust(self, range);
    if (values != NULL && given == range->count) {
        return put_values(self, range, values);
    }
    if (range->step == 1) {
        return draft_checked(
            self, theus_cell_splice(self->cell, (uint32_t)range->start, (uint32_t)range->count,
                                    values == NULL ? NULL : values->items, (uint32_t)given));
    }
    if (values != NULL) {
        PyErr_Format(PyExc_ValueError,
                     "attempt to assign sequence of size %zd to extended slice of size %zd", given,
                     range->count);
        return -1;
    }
    return range->count == 0 ? 0 : remove_spread(self, range);
}

int
draft_slice_set(DraftObject *self, PyObject *slice, PyObject *iterable)
{
    draft_values values = {0};
    slice_range range;
    if (draft_enter_write(self) < 0) {
        return -1;
    }
    draft_leave(self);
    if (range_unpack(slice, &range) < 0) {
        return -1;
    }
    int result = 0;
    if (iterable != NULL) {
        result = draft_values_gather(self, iterable, range.start > 0 ? range.start : 0, &values);
    }
    if (result == 0) {
        result = draft_enter_write(self);
        if (result == 0) {
            result = slice_write(self, &range, iterable == NULL ? NULL : &values);
            draft_leave(self);
        }
    }
    draft_values_free(&values);
    return result;
}
