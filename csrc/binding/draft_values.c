/* Values on their way into a list: frozen one by one before the transaction is entered. */
#include "draft_parts.h"

#include <string.h>

static int
values_reserve(draft_values *values, uint32_t room)
{
    if (room <= values->room) {
        return 0;
    }
    theus_value *items = PyMem_Realloc(values->items, room * sizeof(*items));
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    values->items = items;
    values->room = room;
    return 0;
}

static int
values_add(DraftObject *self, PyObject *object, Py_ssize_t first, draft_values *values)
{
    if (values->count == values->room) {
        if (values->room >= (uint32_t)INT32_MAX / 2) {
            return errors_fail(draft_state(self), THEUS_TOO_BIG);
        }
        if (values_reserve(values, values->room == 0 ? 16 : values->room * 2) < 0) {
            return -1;
        }
    }
    freeze_path at = freeze_path_index(NULL, first + values->count);
    if (draft_freeze_value(draft_state(self), self->txn, self->cell, object, &at,
                           &values->items[values->count])
        < 0) {
        return -1;
    }
    values->count++;
    return 0;
}

/* The values of a sealed list of this heap, each with a count of its own. */
static int
gather_from_list(DraftObject *self, const theus_container *list, draft_values *values)
{
    theus_cursor cursor;
    theus_value value;
    if (values_reserve(values, list->count) < 0) {
        return -1;
    }
    theus_cursor_init(&cursor, list, false);
    while (theus_cursor_next(&cursor, NULL, NULL, &value)) {
        theus_value_retain(self->txn->heap->core, value);
        values->items[values->count++] = value;
    }
    return 0;
}

int
draft_values_gather(DraftObject *self, PyObject *iterable, Py_ssize_t first, draft_values *values)
{
    const module_state *st = draft_state(self);
    *values = (draft_values){.heap = self->txn->heap};
    if (Py_IS_TYPE(iterable, st->DraftList_type)) {
        PyObject *content = draft_frozen(iterable);
        int result = content == NULL ? -1 : draft_values_gather(self, content, first, values);
        Py_XDECREF(content);
        return result;
    }
    if (Py_IS_TYPE(iterable, st->FrozenList_type) && handle_of(iterable)->heap == self->txn->heap) {
        return gather_from_list(self, handle_of(iterable)->node, values);
    }
    PyObject *iterator = PyObject_GetIter(iterable), *item;
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    while (result == 0 && (item = PyIter_Next(iterator)) != NULL) {
        result = values_add(self, item, first, values);
        Py_DECREF(item);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

void
draft_values_free(draft_values *values)
{
    PyObject *error = PyErr_Occurred() ? PyErr_GetRaisedException() : NULL;
    for (uint32_t i = 0; i < values->count; i++) {
        freeze_drop(values->heap, values->items[i]);
    }
    PyMem_Free(values->items);
    values->items = NULL;
    values->count = values->room = 0;
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
}
