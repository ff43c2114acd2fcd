/* Drafts as a whole: what needs the content of a draft (==, repr, copies) asks the core for the sealed container, at the
 * cost of what has changed, and lets the code for frozen containers do the work. */
#include "draft.h"

#include "draft_parts.h"
#include "records.h"
#include "repr.h"
#include "txn_paths.h"

/* ---- the content -------------------------------------------------------------------- */

/* Takes what is not shown out of the content of a root (stolen), whose scope is `root`; of a record, where a field
 * cannot be missing, it becomes None. NULL with an exception set. */
static theus_container *
without_hidden(const DraftObject *self, const ScopeObject *root, theus_container *content)
{
    theus_container *edit = NULL;
    theus_cursor cursor;
    uint32_t pos;
    uint64_t hash;
    void *key;
    theus_status status = theus_edit_begin(content, &edit);
    theus_cursor_init(&cursor, content, false);
    while (status == THEUS_OK && theus_cursor_next(&cursor, &pos, &key, NULL)) {
        if (!draft_root_hides(root, (PyObject *)key)) {
            continue;
        }
        if (content->mark != 0) {
            status = theus_container_put(edit, pos, theus_value_of_atom(Py_None));
        }
        else if (key_hash((PyObject *)key, &hash) == 0) {
            status = theus_container_remove(edit, hash, pos);
        }
        else {
            status = THEUS_FOREIGN;
        }
    }
    if (status == THEUS_OK) {
        status = theus_edit_seal(edit);
    }
    theus_container_release(content);
    if (status != THEUS_OK) {
        theus_container_release(edit);
        draft_fail(self->txn, self->cell, status);
        return NULL;
    }
    return edit;
}

/* draft_hides() of the state itself: may some of its roots have such fields? */
static bool
hides_in_roots(const DraftObject *self)
{
    return self->scope != NULL && self->scope->level == 0 && !self->scope->admin && self->txn->engine->hides;
}

/* The same for the content of the state (stolen), root by root. */
static theus_container *
without_hidden_of_roots(const DraftObject *self, theus_container *content)
{
    theus_container *edit = NULL;
    theus_cursor cursor;
    uint32_t pos;
    void *key;
    theus_value value;
    theus_status status = theus_edit_begin(content, &edit);
    theus_cursor_init(&cursor, content, false);
    while (status == THEUS_OK && theus_cursor_next(&cursor, &pos, &key, &value)) {
        ScopeObject *root;
        if (theus_value_kind(value) != THEUS_MAP) {
            continue;
        }
        theus_container *shown = NULL;
        if (scope_step(self->scope, (PyObject *)key, &root) == 1) {
            theus_container_retain(theus_value_container(value));
            shown = without_hidden(self, root, theus_value_container(value));
        }
        if (shown == NULL) { /* with an exception: all of the state may be read here, so its roots, too */
            theus_container_release(content);
            theus_container_release(edit);
            return NULL;
        }
        status = theus_container_put(edit, pos, theus_value_of_container(shown));
        theus_container_release(shown);
    }
    if (status == THEUS_OK) {
        status = theus_edit_seal(edit);
    }
    theus_container_release(content);
    if (status != THEUS_OK) {
        theus_container_release(edit);
        draft_fail(self->txn, self->cell, status);
        return NULL;
    }
    return edit;
}

/* The sealed content, counted; as it is, or as a commit would take it. NULL with an exception set. */
static theus_container *
draft_content(DraftObject *self, bool admitted)
{
    theus_container *content = NULL;
    if (draft_enter(self) < 0) {
        return NULL;
    }
    if (self->scope != NULL && !self->scope->full) {
        draft_refuse_parts(self);
        draft_leave(self);
        return NULL;
    }
    theus_status status = admitted ? theus_cell_admitted(self->cell, NULL, &content)
                                   : theus_cell_freeze(self->cell, &content);
    if (draft_checked(self, status) < 0) {
        content = NULL;
    }
    if (content != NULL && draft_hides(self)) {
        content = without_hidden(self, self->scope, content);
    }
    else if (content != NULL && hides_in_roots(self)) {
        content = without_hidden_of_roots(self, content);
    }
    draft_leave(self);
    return content;
}

PyObject *
draft_frozen(PyObject *op)
{
    theus_container *content = draft_content(draft_of(op), true);
    return content == NULL ? NULL : handle_new(draft_of(op)->txn->heap, content);
}

PyObject *
draft_peek(PyObject *op)
{
    theus_container *content = draft_content(draft_of(op), false);
    return content == NULL ? NULL : handle_new(draft_of(op)->txn->heap, content);
}

PyObject *
draft_thaw(PyObject *op)
{
    HeapObject *heap = draft_of(op)->txn->heap;
    theus_container *content = draft_content(draft_of(op), false);
    if (content == NULL) {
        return NULL;
    }
    PyObject *builtin = thaw_value(heap, theus_value_of_container(content));
    freeze_drop(heap, theus_value_of_container(content));
    return builtin;
}

int
draft_freeze(HeapObject *heap, PyObject *op, theus_value *out)
{
    theus_container *content = draft_content(draft_of(op), true);
    if (content == NULL) {
        return -1;
    }
    if (draft_of(op)->txn->heap != heap) {
        theus_container *copy;
        int copied = freeze_copy(heap, content, &copy);
        theus_container_release(content);
        if (copied < 0) {
            return -1;
        }
        content = copy;
    }
    *out = theus_value_of_container(content);
    return 0;
}

/* The refusal of a value names its path below the value; puts the path of the cell before it. */
static void
name_whole_path(module_state *st, TxnObject *txn, theus_cell *cell)
{
    if (!PyErr_ExceptionMatches(st->UnfreezableError) || theus_txn_enter(&txn->txn) != THEUS_OK) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    PyObject *above = draft_path_tuple(txn, cell);
    PyObject *path = PyObject_GetAttrString(error, "path");
    PyObject *type = PyObject_GetAttrString(error, "value_type");
    PyObject *advice = PyObject_GetAttrString(error, "advice");
    theus_txn_leave(&txn->txn);
    PyObject *whole = above != NULL && path != NULL ? PySequence_Concat(above, path) : NULL;
    PyObject *named = NULL;
    if (whole != NULL && type != NULL && advice != NULL) {
        named = PyObject_CallFunctionObjArgs(st->UnfreezableError, whole, type, advice, NULL);
    }
    if (named != NULL) {
        PyErr_SetObject(st->UnfreezableError, named);
    }
    Py_XDECREF(above);
    Py_XDECREF(path);
    Py_XDECREF(type);
    Py_XDECREF(advice);
    Py_XDECREF(whole);
    Py_XDECREF(named);
    Py_DECREF(error);
}

int
draft_freeze_value(module_state *st, TxnObject *txn, theus_cell *cell, PyObject *object,
                   const freeze_path *at, theus_value *out)
{
    if (freeze_value(txn->heap, object, at, out) == 0) {
        return 0;
    }
    name_whole_path(st, txn, cell);
    return -1;
}

/* ---- shared methods ----------------------------------------------------------------- */

/* What a draft says that may not be read now: a text like any other, because loggers and debuggers
 * ask for it at any time. */
static PyObject *
repr_of_refused(const char *name)
{
    PyObject *error = PyErr_GetRaisedException();
    PyObject *text = PyUnicode_FromFormat("<%s: %S>", name, error);
    Py_DECREF(error);
    return text;
}

PyObject *
draft_repr(PyObject *op)
{
    const module_state *st = draft_state(draft_of(op));
    const char *name = Py_IS_TYPE(op, st->DraftDict_type)   ? "DraftDict"
                       : Py_IS_TYPE(op, st->DraftList_type) ? "DraftList"
                                                            : "DraftSet";
    theus_container *content = draft_content(draft_of(op), false);
    if (content == NULL) {
        bool refused = PyErr_ExceptionMatches(st->TransactionError)
                       || PyErr_ExceptionMatches(st->ContractViolationError);
        return refused ? repr_of_refused(name) : NULL;
    }
    PyObject *text = container_repr(name, draft_of(op)->txn->heap, content);
    freeze_drop(draft_of(op)->txn->heap, theus_value_of_container(content));
    return text;
}

typedef enum { NO_MATCH, MATCH, MATCH_BUILTIN } draft_match;

/* Whether `other` is of the kind of `self`, so that the two can be equal; or needs a builtin on
 * our side. */
static draft_match
match_other(module_state *st, PyObject *self, PyObject *other)
{
    PyTypeObject *ours = Py_TYPE(self), *theirs = Py_TYPE(other);
    if (ours == theirs) {
        return MATCH;
    }
    if (ours == st->DraftDict_type) {
        return PyDict_Check(other) || theirs == st->FrozenDict_type ? MATCH : NO_MATCH;
    }
    if (ours == st->DraftList_type) {
        return PyList_Check(other) || theirs == st->FrozenList_type ? MATCH : NO_MATCH;
    }
    if (PyAnySet_Check(other) || theirs == st->FrozenSet_type) {
        return MATCH;
    }
    return PyDictViewSet_Check(other) || theirs == st->DraftKeys_type
                   || theirs == st->DraftItems_type || theirs == st->FrozenKeys_type
                   || theirs == st->FrozenItems_type
               ? MATCH_BUILTIN
               : NO_MATCH;
}

PyObject *
draft_compare(PyObject *self, PyObject *other, int op)
{
    module_state *st = draft_state(draft_of(self));
    draft_match match = match_other(st, self, other);
    if (match == NO_MATCH) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = NULL, *right = NULL;
    PyObject *left = match == MATCH ? draft_peek(self) : draft_thaw(self);
    if (left != NULL) {
        right = draft_check(st, other) ? draft_peek(other) : Py_NewRef(other);
    }
    if (right != NULL) {
        result = match == MATCH ? Py_TYPE(left)->tp_richcompare(left, right, op)
                                : PyObject_RichCompare(left, right, op);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

PyObject *
draft_method_thaw(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_thaw(self);
}

PyObject *
draft_method_freeze(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_frozen(self);
}

PyObject *
draft_method_reduce(PyObject *self, PyObject *Py_UNUSED(protocol))
{
    PyObject *builtin = draft_thaw(self);
    if (builtin == NULL) {
        return NULL;
    }
    return Py_BuildValue("O(N)", (PyObject *)Py_TYPE(builtin), builtin);
}

/* Each operation is one on a root, or below. -1. */
static int
refuse_clear_of_state(DraftObject *self)
{
    PyObject *path = PyTuple_New(0);
    if (path != NULL) {
        txn_path_error(self->txn->heap->st, path, "the state as a whole cannot be cleared: remove its roots by name");
        Py_DECREF(path);
    }
    return -1;
}

PyObject *
draft_method_clear(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DraftObject *self = draft_of(op);
    if (draft_enter_change(self, RIGHT_DELETE) < 0) {
        return NULL;
    }
    int result = self->cell == self->txn->txn.root ? refuse_clear_of_state(self)
                                                   : draft_checked(self, theus_cell_clear(self->cell));
    draft_leave(self);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *
module_frozen_content(PyObject *module, PyObject *object)
{
    const module_state *st = module_state_of(module);
    return draft_check(st, object)        ? draft_frozen(object)
           : draft_view_check(st, object) ? draft_view_frozen(object)
                                          : Py_NewRef(object);
}
