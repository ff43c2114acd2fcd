/* Looking through a draft of a list: `in`, count, index, remove. What was passed on the way is read, and at the end the
 * length, too: that there was no more is what the body has learned. */
#include "draft_parts.h"

/* Equal to a plain atom is only what compares by value, never a container: those need not be
 * looked into. */
static int
element_equals(DraftObject *self, uint32_t pos, theus_value value, PyObject *object)
{
    if (theus_value_kind(value) != THEUS_ATOM && freeze_is_plain(object)) {
        return 0;
    }
    PyObject *element = draft_at(self, pos, value);
    if (element == NULL) {
        return -1;
    }
    int equal = PyObject_RichCompareBool(element, object, Py_EQ);
    Py_DECREF(element);
    return equal;
}

/* The first index from start to stop at which `object` stands: 1 and *index, 0, or -1. Entered.
 * With `all`, counts how often it stands there instead. Comparing runs Python code that may change
 * the list, so each step asks for the length again, as list's does. */
static int
list_search(DraftObject *self, PyObject *object, Py_ssize_t start, Py_ssize_t stop, bool all,
            Py_ssize_t *index)
{
    Py_ssize_t found = 0;
    if (self->scope != NULL && !self->scope->open) {
        return draft_refuse_parts(self);
    }
    for (Py_ssize_t i = start; i < stop && i < (Py_ssize_t)self->cell->now->count; i++) {
        theus_value value;
        if (draft_checked(self, theus_cell_read(self->cell, (uint32_t)i, &value)) < 0) {
            return -1;
        }
        int equal = element_equals(self, (uint32_t)i, value, object);
        if (equal < 0) {
            return -1;
        }
        if (equal && !all) {
            *index = i;
            return 1;
        }
        found += equal;
    }
    theus_cell_read_shape(self->cell);
    *index = found;
    return found > 0;
}

int
draft_list_contains(PyObject *op, PyObject *object)
{
    DraftObject *self = draft_of(op);
    Py_ssize_t index;
    if (draft_enter(self) < 0) {
        return -1;
    }
    int found = list_search(self, object, 0, PY_SSIZE_T_MAX, false, &index);
    draft_leave(self);
    return found;
}

PyObject *
draft_list_count(PyObject *op, PyObject *object)
{
    DraftObject *self = draft_of(op);
    Py_ssize_t count;
    if (draft_enter(self) < 0) {
        return NULL;
    }
    int found = list_search(self, object, 0, PY_SSIZE_T_MAX, true, &count);
    draft_leave(self);
    return found < 0 ? NULL : PyLong_FromSsize_t(count);
}

/* A bound of index(): clipped to what fits, as slices are. */
static int
bound_of(PyObject *item, Py_ssize_t *bound)
{
    if (!PyIndex_Check(item)) {
        PyErr_Format(PyExc_TypeError, "index() takes integers as bounds, not %s",
                     Py_TYPE(item)->tp_name);
        return -1;
    }
    *bound = PyNumber_AsSsize_t(item, NULL);
    return *bound == -1 && PyErr_Occurred() ? -1 : 0;
}

PyObject *
draft_list_index(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    DraftObject *self = draft_of(op);
    Py_ssize_t start = 0, stop = PY_SSIZE_T_MAX, index;
    if (errors_check_count("index", count, 1, 3) < 0 || (count > 1 && bound_of(args[1], &start) < 0)
        || (count > 2 && bound_of(args[2], &stop) < 0) || draft_enter(self) < 0) {
        return NULL;
    }
    Py_ssize_t length = (Py_ssize_t)self->cell->now->count;
    if (start < 0 || stop < 0) {
        theus_cell_read_shape(self->cell);
        start = start >= 0 ? start : start + length > 0 ? start + length : 0;
        stop = stop >= 0 ? stop : stop + length > 0 ? stop + length : 0;
    }
    int found = list_search(self, args[0], start, stop, false, &index);
    draft_leave(self);
    if (found == 0) {
        PyErr_Format(PyExc_ValueError, "%R is not in list", args[0]);
    }
    return found == 1 ? PyLong_FromSsize_t(index) : NULL;
}

PyObject *
draft_list_remove(PyObject *op, PyObject *object)
{
    DraftObject *self = draft_of(op);
    Py_ssize_t index;
    if (draft_enter_change(self, RIGHT_DELETE) < 0) {
        return NULL;
    }
    int found = list_search(self, object, 0, PY_SSIZE_T_MAX, false, &index);
    if (found == 1 && index < (Py_ssize_t)self->cell->now->count
        && draft_checked(self, theus_cell_splice(self->cell, (uint32_t)index, 1, NULL, 0)) < 0) {
        found = -1;
    }
    draft_leave(self);
    if (found == 0) {
        PyErr_Format(PyExc_ValueError, "list.remove(x): %R is not in list", object);
    }
    if (found != 1) {
        return NULL;
    }
    Py_RETURN_NONE;
}
