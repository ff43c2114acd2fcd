/* add(), append(), merge(): recorded now, applied at commit to what is there then. */
#include "txn_paths.h"

#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "freeze.h"
#include "guard.h"
#include "records.h"
#include "value_py.h"

/* The path of an operation, a tuple. New reference. */
static PyObject *
path_of(const theus_application *what)
{
    theus_segment path[THEUS_PATH_ROOM];
    uint32_t length = theus_cell_path(what->cell, path, THEUS_PATH_ROOM - 1);
    length = length < THEUS_PATH_ROOM ? length : THEUS_PATH_ROOM - 1;
    path[length] = (theus_segment){what->key, what->index};
    return txn_path_tuple(path, length + 1);
}

/* Raises MergeError: `value` does not fit `found`. An exception that is set is its cause. Returns -1. */
static int
misfit(const module_state *st, const theus_application *what, const char *rule, PyObject *found, PyObject *value)
{
    PyObject *cause = PyErr_GetRaisedException(), *path = path_of(what);
    PyObject *error = path == NULL ? NULL : PyObject_CallFunction(st->MergeError, "OsOO", path, rule, found, value);
    if (error != NULL) {
        PyException_SetCause(error, Py_XNewRef(cause));
        PyErr_SetObject(st->MergeError, error);
        Py_DECREF(error);
    }
    Py_XDECREF(path);
    Py_XDECREF(cause);
    return -1;
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
        PyObject *found = handle_wrap(heap, what->old), *value = handle_wrap(heap, what->operand);
        if (found != NULL && value != NULL) {
            misfit(heap->st, what, "append", found, value);
        }
        Py_XDECREF(found);
        Py_XDECREF(value);
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

/* An exception of the addition, or of a resolver, says nothing of where it was; and it may come when the body has long
 * returned. */
static void
name_place(const module_state *st, const theus_application *what, PyObject *before, PyObject *after)
{
    if (what->kind == THEUS_ADD && PyErr_ExceptionMatches(PyExc_TypeError)) {
        misfit(st, what, "sum", before, after);
        return;
    }
    PyObject *error = PyErr_GetRaisedException(), *path = path_of(what), *named = NULL;
    if (path != NULL && Py_IS_TYPE(error, (PyTypeObject *)st->MergeError)) {
        named = PyObject_CallMethod(error, "at", "(O)", path);
        if (named != NULL) {
            PyException_SetCause(named, PyException_GetCause(error));
            Py_SETREF(error, Py_NewRef(named));
        }
    }
    else if (path != NULL) {
        PyObject *paths = PyImport_ImportModule("theus.paths");
        PyObject *place = paths == NULL ? NULL : PyObject_CallMethod(paths, "format_path", "(O)", path);
        PyObject *note = place == NULL ? NULL : PyUnicode_FromFormat("theus: in a %s at %U",
                                                                     what->kind == THEUS_ADD ? "sum" : "merge", place);
        named = note == NULL ? NULL : PyObject_CallMethod(error, "add_note", "O", note);
        Py_XDECREF(note);
        Py_XDECREF(place);
        Py_XDECREF(paths);
    }
    if (named == NULL) {
        PyErr_Clear(); /* the error itself is what matters */
    }
    Py_XDECREF(named);
    Py_XDECREF(path);
    PyErr_SetRaisedException(error);
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
                name_place(heap->st, what, before, after);
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

int
txn_defer(TxnObject *self, theus_deferred_kind kind, PyObject *path, PyObject *operand, PyObject *resolver)
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
            result = txn_defer(self, kind, path, args[1], kind == THEUS_MERGE ? args[2] : NULL);
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
