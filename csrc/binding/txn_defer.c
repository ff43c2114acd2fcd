/* add(), append(), merge(): recorded now, applied at commit to what is there then. */
#include "txn_paths.h"

#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "freeze.h"
#include "guard.h"
#include "records.h"
#include "value_py.h"

/* The place of an operation, for messages. New reference. */
static PyObject *
place_of(const theus_application *what)
{
    theus_segment path[THEUS_PATH_ROOM];
    uint32_t length = theus_cell_path(what->cell, path, THEUS_PATH_ROOM - 1);
    length = length < THEUS_PATH_ROOM ? length : THEUS_PATH_ROOM - 1;
    path[length] = (theus_segment){what->key, what->index};
    PyObject *keys = txn_path_tuple(path, length + 1);
    PyObject *paths = keys == NULL ? NULL : PyImport_ImportModule("theus.paths");
    PyObject *text = paths == NULL ? NULL : PyObject_CallMethod(paths, "format_path", "(O)", keys);
    Py_XDECREF(paths);
    Py_XDECREF(keys);
    return text;
}

static int
append_value(HeapObject *heap, const theus_application *what, theus_value *out)
{
    theus_container *edit;
    theus_status status;
    if (what->old == THEUS_NONE) {
        status = theus_container_new(heap->core, THEUS_LIST, &edit);
    }
    else if (theus_value_kind(what->old) == THEUS_LIST) {
        status = theus_edit_begin(theus_value_container(what->old), &edit);
    }
    else {
        PyObject *found = handle_wrap(heap, what->old);
        PyObject *place = found == NULL ? NULL : place_of(what);
        if (place != NULL) {
            PyErr_Format(PyExc_TypeError, "append() needs a list at its path, and at %U there is %R: append to a list, or "
                         "set() one first", place, found);
        }
        Py_XDECREF(place);
        Py_XDECREF(found);
        return -1;
    }
    if (status == THEUS_OK) {
        status = theus_list_splice(edit, edit->count, 0, &what->operand, 1);
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

/* An exception of the addition, or of a resolver of the user's, says nothing of where it was; and it may come when the
 * body has long returned. A TypeError of the addition is ours to word. */
static void
name_place(const theus_application *what, PyObject *before, PyObject *after)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *place = place_of(what);
    if (place != NULL && what->kind == THEUS_ADD && PyErr_GivenExceptionMatches(error, PyExc_TypeError)) {
        PyErr_Format(PyExc_TypeError, "add() cannot add %R to what is at %U, which is %R: %S", after, place, before, error);
        Py_DECREF(error);
    }
    else {
        PyObject *note = place == NULL ? NULL : PyUnicode_FromFormat("theus: in a %s at %U",
                                                                     what->kind == THEUS_ADD ? "sum" : "merge", place);
        PyObject *done = note == NULL ? NULL : PyObject_CallMethod(error, "add_note", "O", note);
        if (done == NULL) {
            PyErr_Clear(); /* the error itself is what matters */
        }
        Py_XDECREF(done);
        Py_XDECREF(note);
        PyErr_SetRaisedException(error);
    }
    Py_XDECREF(place);
}

int
txn_apply_deferred(void *ctx, const theus_application *what, theus_value *out)
{
    HeapObject *heap = ctx;
    if (what->kind == THEUS_APPEND) {
        return append_value(heap, what, out);
    }
    PyObject *after = handle_wrap(heap, what->operand);
    if (after != NULL && what->old != THEUS_NONE) {
        PyObject *before = handle_wrap(heap, what->old);
        PyObject *made = NULL;
        if (before != NULL) {
            made = what->kind == THEUS_ADD
                       ? PyNumber_Add(before, after)
                       : PyObject_CallFunctionObjArgs((PyObject *)what->resolver, before, after, NULL);
            if (made == NULL) {
                name_place(what, before, after);
            }
            Py_DECREF(before);
        }
        Py_SETREF(after, made);
    }
    int result = after == NULL ? -1 : freeze_value(heap, after, NULL, out);
    Py_XDECREF(after);
    return result;
}

/* The cell that the body has entered at `key`, or NULL: 1, or -1 failed. Not theus_cell_probe(): that would settle
 * what is deferred already. Equality may run a body that replaces or changes what is searched: then again. */
static int
entered_at(TxnObject *self, theus_cell *cell, uint64_t hash, PyObject *key, theus_cell **child)
{
    for (;;) {
        uint32_t pos, stamp = cell->stamp;
        theus_container *now = cell->now;
        theus_container_retain(now);
        theus_find there = theus_container_find(now, NULL, hash, key, &pos, NULL);
        theus_container_release(now);
        if (there == THEUS_FIND_FAILED) {
            return errors_find_failed(self->heap->st);
        }
        if (stamp == cell->stamp) {
            *child = there == THEUS_FOUND ? theus_cell_child_at(cell, pos) : NULL;
            return 1;
        }
    }
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
    int found = txn_walk(self, path, &cell);
    int result = found < 0 ? -1 : 0;
    if (found == 0) {
        result = txn_path_error(self->heap->st, path, "a part on the way is missing or holds no container");
    }
    else if (found == 1) {
        PyObject *key = txn_path_last(path);
        theus_status status = THEUS_OK;
        if (record_is(cell->now) && record_draft_may_defer(self, cell, key) < 0) {
            found = -1;
        }
        else if (cell->now->kind == THEUS_LIST) {
            found = txn_cell_find(self, cell, key, false, &hash, &pos, &there);
        }
        else if (cell->now->kind == THEUS_SET) {
            found = txn_path_error(self->heap->st, path, "an element of a set has no value");
        }
        else if (key_hash(key, &hash) < 0) {
            found = -1;
        }
        else if (kind == THEUS_APPEND && cell->child_count != 0) {
            found = entered_at(self, cell, hash, key, &child);
        }
        if (found == 0) {
            found = txn_path_error(self->heap->st, path, "the list has no such index");
        }
        if (found < 0) {
            result = -1;
        }
        else if (child != NULL && child->now->kind == THEUS_LIST) {
            /* The body holds a draft of that very list: it must see the append. */
            status = theus_cell_splice(child, child->now->count, 0, &frozen, 1);
        }
        else {
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
        result = guard_check_path(self, path, kind == THEUS_APPEND ? RIGHT_APPEND : RIGHT_UPDATE);
        if (result == 0) {
            result = defer(self, kind, path, args[1], kind == THEUS_MERGE ? args[2] : NULL);
        }
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
