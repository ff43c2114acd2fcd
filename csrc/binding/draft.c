/* Drafts of every kind: making them, entering their transaction, what the guard lets through.
 *
 * Reading a nested container makes a new draft each time, so dead ones are kept for reuse: as
 * memory only, on a list of the module. Their content as a whole is in draft_content.c. */
#include "draft.h"

#include "draft_parts.h"
#include "guard.h"
#include "records.h"
#include "zones.h"

#include <stddef.h>

/* ---- life --------------------------------------------------------------------------- */

static PyTypeObject *
type_of_kind(const module_state *st, theus_kind kind)
{
    switch (kind) {
    case THEUS_MAP:
        return st->DraftDict_type;
    case THEUS_LIST:
        return st->DraftList_type;
    case THEUS_SET:
        return st->DraftSet_type;
    case THEUS_ATOM:
        break;
    }
    Py_UNREACHABLE();
}

PyObject *
draft_wrap(module_state *st, TxnObject *txn, theus_cell *cell, ScopeObject *scope)
{
    RecordClass *record = cell->now->mark == 0 ? NULL : record_class_of(st, cell->now);
    PyTypeObject *type =
        record != NULL ? record->draft_type : type_of_kind(st, (theus_kind)cell->now->kind);
    DraftObject *self;
    if (st->free_draft_count > 0) {
        self = st->free_drafts[--st->free_draft_count];
        PyObject_Init((PyObject *)self, type);
    }
    else {
        self = PyObject_GC_New(DraftObject, type);
        if (self == NULL) {
            return NULL;
        }
    }
    self->txn = (TxnObject *)Py_NewRef((PyObject *)txn);
    self->cell = cell;
    self->scope = (ScopeObject *)Py_XNewRef((PyObject *)scope);
    self->weakrefs = NULL;
    self->record = (RecordClass *)Py_XNewRef((PyObject *)record);
    self->last_key = NULL;
    self->last = NULL;
    self->last_atom = 0;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

void
draft_dealloc(PyObject *op)
{
    DraftObject *self = draft_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_CLEAR_WEAKREFS(op, self->weakrefs);
    TxnObject *txn = self->txn;
    ScopeObject *scope = self->scope;
    DraftObject *last = self->last;
    PyObject *last_key = self->last_key;
    module_state *st = draft_state(self);
    if (self->record != NULL) {
        Py_DECREF((PyObject *)self->record);
        Py_SET_TYPE(op, st->DraftDict_type); /* for the free list: that of the record may go before the memory does */
    }
    if (st->recycles && st->free_draft_count < FREE_DRAFTS) {
        st->free_drafts[st->free_draft_count++] = self;
    }
    else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
    if (last != NULL) {
        Py_DECREF(last_key);
        Py_DECREF((PyObject *)last);
    }
    Py_XDECREF((PyObject *)scope);
    Py_DECREF(
        (PyObject *)txn); /* last: it keeps the module, and so `st`, alive; may end a transaction */
}

void
draft_drop_free_list(module_state *st)
{
    while (st->free_draft_count > 0) {
        PyObject_GC_Del(st->free_drafts[--st->free_draft_count]);
    }
}

int
draft_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(draft_of(op)->txn);
    Py_VISIT(draft_of(op)->scope);
    Py_VISIT((PyObject *)draft_of(op)->record);
    Py_VISIT(draft_of(op)->last);
    return 0;
}

PyMemberDef draft_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(DraftObject, weakrefs), READONLY, NULL},
    {0},
};

/* ---- refusals ----------------------------------------------------------------------- */

PyObject *
draft_path_tuple(TxnObject *Py_UNUSED(txn), theus_cell *cell)
{
    theus_segment path[THEUS_PATH_ROOM];
    uint32_t length = theus_cell_path(cell, path, THEUS_PATH_ROOM);
    return txn_path_tuple(path, length < THEUS_PATH_ROOM ? length : THEUS_PATH_ROOM);
}

static int
refuse_at(TxnObject *txn, theus_cell *cell, const char *message)
{
    PyObject *type = txn->heap->st->TransactionError;
    PyObject *path = draft_path_tuple(txn, cell);
    PyObject *error = path == NULL ? NULL : PyObject_CallFunction(type, "sO", message, path);
    if (error != NULL) {
        PyErr_SetObject(type, error);
        Py_DECREF(error);
    }
    Py_XDECREF(path);
    return -1;
}

int
draft_fail(TxnObject *txn, theus_cell *cell, theus_status status)
{
    if (status == THEUS_READ_ONLY) {
        return refuse_at(
            txn, cell, "this transaction is read-only: begin one without read_only=True to write");
    }
    return txn_fail(txn, status);
}

int
draft_enter_slowly(TxnObject *txn, theus_cell *cell, theus_status status)
{
    if (status != THEUS_OK) {
        return txn_fail(txn, status);
    }
    int result = 0;
    if (cell->dead) {
        PyErr_SetString(
            txn->heap->st->TransactionError,
            "this draft was read inside a savepoint that was rolled back: read it again from "
            "the transaction");
        result = -1;
    }
    else {
        status = theus_cell_settle(cell, NULL);
        result = status == THEUS_OK ? 0 : draft_fail(txn, cell, status);
    }
    if (result < 0) {
        theus_txn_leave(&txn->txn);
    }
    return result;
}

/* ---- the guard ---------------------------------------------------------------------- */

int
draft_refuse_parts(DraftObject *self)
{
    return guard_refuse_read(self->txn, self->scope, self->cell, NULL);
}

int
draft_check_store(DraftObject *self, uint64_t hash, PyObject *key, theus_value value)
{
    return guard_check_write(self->txn, self->cell, self->scope, hash, key, value);
}

bool
draft_root_hides(const ScopeObject *root, PyObject *key)
{
    uint8_t rights;
    if (zones_of_field(root->fields, key, &rights) < 0) {
        PyErr_Clear(); /* a str has no hash only where there is no memory */
        return true;
    }
    return (rights & RIGHT_READ) == 0;
}

/* How many fields of a root are not shown. */
static Py_ssize_t
count_hidden(const DraftObject *self)
{
    theus_cursor cursor;
    void *key;
    Py_ssize_t count = 0;
    theus_cursor_init(&cursor, self->cell->now, false);
    while (theus_cursor_next(&cursor, NULL, &key, NULL)) {
        count += draft_hides_key(self, (PyObject *)key);
    }
    return count;
}

/* The scope of the entry at `pos`: 0 and *below, or -1. Comparing the key with declared ones may
 * run Python code that changes the container; then the position means nothing any more. */
static int
scope_at(DraftObject *self, uint32_t pos, ScopeObject **below)
{
    theus_cell *cell = self->cell;
    if (cell->now->kind == THEUS_LIST) {
        int known = scope_step_index(self->scope, pos, below);
        if (known == 0) {
            PyObject *index = PyLong_FromUnsignedLong(pos);
            known = index == NULL ? -1 : guard_refuse_read(self->txn, self->scope, cell, index);
            Py_XDECREF(index);
        }
        return known < 0 ? -1 : 0;
    }
    uint32_t stamp = cell->stamp;
    PyObject *key = Py_NewRef((PyObject *)theus_container_key_at(cell->now, pos));
    int known = scope_step(self->scope, key, below);
    if (known == 0) {
        known = guard_refuse_read(self->txn, self->scope, cell, key);
    }
    else if (known == 1 && stamp != cell->stamp) {
        PyErr_SetString(PyExc_RuntimeError, "changed by a key while it was compared");
        known = -1;
    }
    Py_DECREF(key);
    return known < 0 ? -1 : 0;
}

int
draft_check_absent(DraftObject *self, PyObject *key)
{
    ScopeObject *below;
    int known = scope_step(self->scope, key, &below);
    if (known == 0 && draft_enter(self) == 0) {
        known = guard_refuse_read(self->txn, self->scope, self->cell, key);
        draft_leave(self);
    }
    return known == 1 ? 0 : -1;
}

PyObject *
draft_guarded_by(DraftObject *self, PyObject *key, uint32_t pos, theus_value value)
{
    ScopeObject *below;
    int known = scope_step(self->scope, key, &below);
    if (known <= 0) {
        if (known == 0) {
            guard_refuse_read(self->txn, self->scope, self->cell, key);
        }
        return NULL;
    }
    if (theus_value_kind(value) == THEUS_ATOM && scope_lets(below, RIGHT_READ)) {
        return Py_NewRef((PyObject *)theus_value_atom(value)); /* what draft_value() does, for most */
    }
    return draft_value(draft_state(self), self->txn, self->cell, pos, value, below);
}

PyObject *
draft_guarded_at(DraftObject *self, uint32_t pos, theus_value value)
{
    ScopeObject *below = self->scope; /* the same below, where nothing more is declared there */
    if ((below->below != 0 || below->level < SCOPE_FIELD) && scope_at(self, pos, &below) < 0) {
        return NULL;
    }
    return draft_value(draft_state(self), self->txn, self->cell, pos, value, below);
}

/* ---- entering to write -------------------------------------------------------------- */

int
draft_enter_entry(DraftObject *self)
{
    if (draft_enter(self) < 0) {
        return -1;
    }
    int refused = 0;
    if (self->txn->txn.read_only) {
        refused = draft_fail(self->txn, self->cell, THEUS_READ_ONLY);
    }
    else if (self->scope != NULL && self->scope->frozen) {
        refused = guard_refuse_write(self->txn, self->scope, self->cell, NULL);
    }
    if (refused < 0) {
        draft_leave(self);
    }
    return refused;
}

int
draft_enter_change(DraftObject *self, uint8_t rights)
{
    if (draft_enter_entry(self) < 0) {
        return -1;
    }
    if (self->scope != NULL && !scope_lets(self->scope, rights)) {
        guard_refuse_write(self->txn, self->scope, self->cell, NULL);
        draft_leave(self);
        return -1;
    }
    return 0;
}

int
draft_key_error(PyObject *key)
{
    PyObject *args = PyTuple_Pack(1, key);
    if (args != NULL) {
        PyErr_SetObject(PyExc_KeyError, args);
        Py_DECREF(args);
    }
    return -1;
}

/* ---- reading ------------------------------------------------------------------------ */

/* The key or index of an entry, for a refusal. */
static PyObject *
refuse_entry(TxnObject *txn, ScopeObject *scope, theus_cell *cell, uint32_t pos)
{
    PyObject *key = cell->now->kind == THEUS_LIST
                        ? PyLong_FromUnsignedLong(pos)
                        : Py_NewRef((PyObject *)theus_container_key_at(cell->now, pos));
    if (key != NULL) {
        guard_refuse_read(txn, scope, cell, key);
        Py_DECREF(key);
    }
    return NULL;
}

PyObject *
draft_value(module_state *st, TxnObject *txn, theus_cell *cell, uint32_t pos, theus_value value,
            ScopeObject *scope)
{
    bool readable = scope == NULL || (scope->here & RIGHT_READ) != 0;
    if (scope != NULL && scope->hidden) {
        Py_RETURN_NONE;
    }
    if (theus_value_kind(value) == THEUS_ATOM) {
        /* What is declared below it is not there: it has no below. */
        return readable ? Py_NewRef((PyObject *)theus_value_atom(value))
                        : refuse_entry(txn, scope, cell, pos);
    }
    theus_cell *child;
    theus_status status = theus_cell_enter(cell, pos, &child);
    if (status != THEUS_OK) {
        draft_fail(txn, cell, status);
        return NULL;
    }
    if (scope != NULL && scope_is_free(scope)) {
        scope = NULL;
    }
    return draft_wrap(st, txn, child, scope);
}

Py_ssize_t
draft_length(PyObject *op)
{
    DraftObject *self = draft_of(op);
    if (draft_enter_open(self) < 0) {
        return -1;
    }
    theus_cell_read_shape(self->cell);
    Py_ssize_t count = (Py_ssize_t)self->cell->now->count;
    if (draft_hides(self)) {
        count -= count_hidden(self);
    }
    draft_leave(self);
    return count;
}

int
add_draft_types(PyObject *module, module_state *st)
{
    if (add_draft_iterator_type(module, st) < 0 || add_draft_view_types(module, st) < 0
        || add_draft_dict_type(module, st) < 0 || add_draft_list_type(module, st) < 0
        || add_draft_set_type(module, st) < 0) {
        return -1;
    }
    return 0;
}
