/* What the draft_*.c files share and nobody else needs. */
#ifndef THEUS_DRAFT_PARTS_H
#define THEUS_DRAFT_PARTS_H

#include "draft.h"
#include "engine_type.h"
#include "errors.h"
#include "value_py.h"

static inline DraftObject *
draft_of(PyObject *object)
{
    return (DraftObject *)object;
}

static inline module_state *
draft_state(const DraftObject *self)
{
    return self->txn->heap->st;
}

/* ---- the door ----------------------------------------------------------------------- */

/* Everything but the common case of draft_enter(): refusals, and operations that were deferred on
 * the cell. */
int draft_enter_slowly(TxnObject *txn, theus_cell *cell, theus_status status);

static inline int
draft_enter_cell(TxnObject *txn, theus_cell *cell)
{
    theus_status status = theus_txn_enter(&txn->txn);
    if (status == THEUS_OK && !cell->dead && cell->deferred == NULL) {
        return 0;
    }
    return draft_enter_slowly(txn, cell, status);
}

/* Every operation on a draft stands between these two. What the body deferred on the cell has been
 * applied then, so that it sees its own additions. -1 with TransactionError set if the draft may
 * not be used now. Python code that runs in between (equality of keys, finalizers in a collection)
 * may come back through the same door and change the cell; it cannot end the transaction. */
static inline int
draft_enter(DraftObject *self)
{
    return draft_enter_cell(self->txn, self->cell);
}

static inline void
draft_leave(DraftObject *self)
{
    theus_txn_leave(&self->txn->txn);
}

/* The same for an operation on one key of a map: what is deferred on other keys stays so. */
static inline int
draft_enter_key(TxnObject *txn, theus_cell *cell, uint64_t hash)
{
    theus_status status = theus_txn_enter(&txn->txn);
    if (status == THEUS_OK && !cell->dead
        && (cell->deferred == NULL || !theus_cell_defers(cell, hash))) {
        return 0;
    }
    return draft_enter_slowly(txn, cell, status);
}

/* To read the key set or the length: refuses where that is not declared. */
static inline int draft_enter_open(DraftObject *self);

/* To change the container as a whole: refuses in a read-only transaction, whatever there is to
 * write, and where the contract does not let all of it be written. */
static inline int draft_enter_write(DraftObject *self);
/* The same for changes of one sort. */
int draft_enter_change(DraftObject *self, uint8_t rights);

/* To change entries, each of which the caller holds against the scope with draft_check_store(). */
int draft_enter_entry(DraftObject *self);

/* Sets the exception for a failed core call on a cell; the transaction is still entered. Returns
 * -1. */
int draft_fail(TxnObject *txn, theus_cell *cell, theus_status status);

static inline int
draft_checked(DraftObject *self, theus_status status)
{
    return status == THEUS_OK ? 0 : draft_fail(self->txn, self->cell, status);
}

static inline int
draft_enter_write(DraftObject *self)
{
    return draft_enter_change(self, RIGHTS_WRITE);
}

/* ---- the guard: only with a scope ---------------------------------------------------- */

/* May this be a root with fields that processes do not see? Then each key is to be asked about. */
static inline bool
draft_hides(const DraftObject *self)
{
    return self->scope != NULL && self->scope->level == 1 && !self->scope->admin && self->txn->engine->hides
           && self->cell->now->kind == THEUS_MAP;
}

/* Is it such a field of a root? `root` is the scope of that. */
bool draft_root_hides(const ScopeObject *root, PyObject *key);

static inline bool
draft_hides_key(const DraftObject *self, PyObject *key)
{
    return draft_root_hides(self->scope, key);
}

/* Refuses to read what is true of the container as a whole. Entered. Returns -1. */
int draft_refuse_parts(DraftObject *self);

/* guard_check_write(). Entered. */
int draft_check_store(DraftObject *self, uint64_t hash, PyObject *key, theus_value value);

/* May one learn that there is no such key? 0, or -1 with the refusal set. Not entered. */
int draft_check_absent(DraftObject *self, PyObject *key);

/* draft_at() under a scope, */
PyObject *draft_guarded_at(DraftObject *self, uint32_t pos, theus_value value);
/* and where the key at `pos` is known. It must be of a type whose equality runs no foreign code. */
PyObject *draft_guarded_by(DraftObject *self, PyObject *key, uint32_t pos, theus_value value);

static inline int
draft_enter_open(DraftObject *self)
{
    if (draft_enter(self) < 0) {
        return -1;
    }
    if (self->scope != NULL && !self->scope->open) {
        draft_refuse_parts(self);
        draft_leave(self);
        return -1;
    }
    return 0;
}

/* ---- reading: the caller has entered ------------------------------------------------ */

/* What the body sees of the value that was read at `pos`. New reference. */
static inline PyObject *
draft_at(DraftObject *self, uint32_t pos, theus_value value)
{
    if (self->scope != NULL) {
        return draft_guarded_at(self, pos, value);
    }
    return theus_value_kind(value) == THEUS_ATOM
               ? Py_NewRef((PyObject *)theus_value_atom(value))
               : draft_value(draft_state(self), self->txn, self->cell, pos, value, NULL);
}

/* 1 and *pos, *value; 0 = absent; -1. Logs what it found. */
static inline int
draft_lookup(DraftObject *self, uint64_t hash, PyObject *key, uint32_t *pos, theus_value *value)
{
    theus_find found = theus_cell_lookup(self->cell, NULL, hash, key, pos, value);
    return found >= 0 ? (int)found : draft_fail(self->txn, self->cell, self->txn->txn.find_status);
}

/* ---- slots and methods that the three types share ----------------------------------- */

void draft_dealloc(PyObject *self);

/* For binary operators, of which one side is a draft: only drafts have this tp_dealloc. */
static inline module_state *
draft_operand_state(PyObject *left, PyObject *right)
{
    bool first = Py_TYPE(left)->tp_dealloc == draft_dealloc;
    return module_state_of_type(Py_TYPE(first ? left : right));
}

int draft_traverse(PyObject *self, visitproc visit, void *arg);
Py_ssize_t draft_length(PyObject *self);
PyObject *draft_repr(PyObject *self);
PyObject *draft_compare(PyObject *self, PyObject *other, int op);
PyObject *draft_method_thaw(PyObject *self,
                            PyObject *ignored); /* copy, to_*, __copy__, __deepcopy__ */
PyObject *draft_method_reduce(PyObject *self, PyObject *ignored);
PyObject *draft_method_freeze(PyObject *self, PyObject *ignored);
PyObject *draft_method_clear(PyObject *self, PyObject *ignored);

extern PyMemberDef draft_members[];

#define DRAFT_SHARED_METHODS(TO_BUILTIN)                                                         \
    {"copy", draft_method_thaw, METH_NOARGS,                                                     \
     PyDoc_STR("copy($self, /)\n--\n\nThe content as a builtin, independent at any depth.")},    \
        {TO_BUILTIN, draft_method_thaw, METH_NOARGS,                                             \
         PyDoc_STR(TO_BUILTIN                                                                    \
                   "($self, /)\n--\n\nThe content as a builtin, independent at any depth.")},    \
        {"freeze", draft_method_freeze, METH_NOARGS,                                             \
         PyDoc_STR("freeze($self, /)\n--\n\nThe content as an immutable view that outlives the " \
                   "transaction.")},                                                             \
        {"clear", draft_method_clear, METH_NOARGS,                                               \
         PyDoc_STR("clear($self, /)\n--\n\nRemoves everything.")},                               \
        {"__copy__", draft_method_thaw, METH_NOARGS, PyDoc_STR("As copy().")},                   \
        {"__deepcopy__", draft_method_thaw, METH_O, PyDoc_STR("As copy().")},                    \
        {"__reduce_ex__", draft_method_reduce, METH_O, PyDoc_STR("Pickles as the builtin.")},    \
    {                                                                                            \
        "__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS, NULL                          \
    }

/* KeyError(key), also where key is a tuple. Returns -1. */
int draft_key_error(PyObject *key);

/* ---- draft_map.c: maps by key, for DraftDict and its views -------------------------- */

/* The value under `key`: 1 and *value (new reference), 0, or -1. Enters. */
int draft_map_get(DraftObject *self, PyObject *key, PyObject **value);

/* dict.update(): `source` is a mapping or an iterable of pairs. What came before a failure stays
 * stored, as in a dict. Enters for each entry. */
int draft_map_update(DraftObject *self, PyObject *source);

/* ---- draft_iter.c ------------------------------------------------------------------- */

typedef enum {
    DRAFT_KEYS,     /* of maps; the elements of sets */
    DRAFT_VALUES,   /* of maps */
    DRAFT_ITEMS,    /* of maps */
    DRAFT_ELEMENTS, /* of lists: by index, so it follows growth and shrinking */
} draft_what;

/* Enters. New reference. */
PyObject *draft_iterate(DraftObject *self, draft_what what, bool reversed);

/* ---- draft_views.c ------------------------------------------------------------------ */

/* A live view of a map; `what` is one of keys, values, items. New reference. */
PyObject *draft_view(DraftObject *self, draft_what what);

/* ---- draft_values.c: values on their way into a list -------------------------------- */

typedef struct {
    HeapObject *heap; /* borrowed */
    theus_value *items;
    uint32_t count, room;
} draft_values;

/* Freezes what an iterable gives; `first` is the index that the first value will have, for
 * messages. On failure what came before it is in `values` and the exception is set, so that
 * list.extend() can keep it; the caller frees `values` in any case. */
int draft_values_gather(DraftObject *self, PyObject *iterable, Py_ssize_t first,
                        draft_values *values);
void draft_values_free(draft_values *values); /* keeps the current exception */

/* ---- parts of the list type --------------------------------------------------------- */

/* draft_slice.c */
PyObject *draft_slice_get(DraftObject *self, PyObject *slice);
int draft_slice_set(DraftObject *self, PyObject *slice, PyObject *iterable); /* NULL: delete */

/* draft_search.c */
int draft_list_contains(PyObject *self, PyObject *object);
PyObject *draft_list_count(PyObject *self, PyObject *object);
PyObject *draft_list_index(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *draft_list_remove(PyObject *self, PyObject *object);

/* draft_sort.c */
PyObject *draft_method_sort(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *draft_method_reverse(PyObject *self, PyObject *ignored);

/* add_* of each file, in the order of draft.c */
int add_draft_dict_type(PyObject *module, module_state *st);
int add_draft_list_type(PyObject *module, module_state *st);
int add_draft_set_type(PyObject *module, module_state *st);
int add_draft_view_types(PyObject *module, module_state *st);
int add_draft_iterator_type(PyObject *module, module_state *st);

#endif
