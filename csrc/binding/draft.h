/* DraftDict, DraftList, DraftSet: what a transaction hands out for its containers.
 *
 *     tx.domain  -->  DraftDict --+--> TxnObject ==> theus_txn
 *     tx.domain  -->  DraftDict --+                     |
 *                        |   a new handle each time     v
 *                        +--------------------------> cell  (see txn.h)
 *
 * A draft is a transaction, a cell, and a scope: what its contract lets be done there (guard.h).
 * Without one everything may be done, and nothing is asked. It has no content of its own: two drafts of one cell are
 * the same container. The cell stays with its container wherever insert, sort and pop move it, and
 * goes on by itself after the container was removed. A draft keeps its transaction alive; the cell
 * is good while that one is open, so every operation enters the transaction first.
 *
 * Behaviour is that of dict, list and set, with one difference: storing copies. What is stored
 * never is the draft itself but its content at that moment; `a["x"] = b["x"]` makes two
 * containers. Results of operators and slices are builtins that hold what reading gives: atoms,
 * and live drafts of nested containers. copy(), to_dict(), to_list(), to_set(), pickle and the
 * copy module give builtins that are independent at any depth. */
#ifndef THEUS_DRAFT_H
#define THEUS_DRAFT_H

#include "freeze.h"
#include "txn_type.h"

typedef struct DraftObject {
    PyObject_HEAD TxnObject *txn; /* owned; constant */
    theus_cell *cell;             /* of that transaction; constant. Dangling once it has ended */
    ScopeObject *scope;           /* owned; constant. NULL: everything may be done */
    PyObject *weakrefs;
    RecordClass *record;          /* owned; of drafts of records (records.h), else NULL */
    PyObject *last_key;           /* owned: a str. What was read last below a map, if that was a container, */
    struct DraftObject *last;     /* owned: its draft; both NULL, or neither. */
    uint32_t last_stamp;          /* It stands for the entry as long as cell->stamp is this one */
    uint64_t last_atom;           /* cell->last_number of the last find that it was shown; 0: none */
} DraftObject;

/* tp_getattro of drafts of records; tells their types, of which each class has its own. */
PyObject *record_draft_getattro(PyObject *self, PyObject *name);

static inline bool
draft_check(const module_state *st, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == st->DraftDict_type || type == st->DraftList_type || type == st->DraftSet_type
           || type->tp_getattro == record_draft_getattro;
}

static inline bool
draft_view_check(const module_state *st, PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return type == st->DraftKeys_type || type == st->DraftValues_type || type == st->DraftItems_type;
}

/* A draft of a cell of txn->txn. The caller has entered the transaction. New reference. */
PyObject *draft_wrap(module_state *st, TxnObject *txn, theus_cell *cell, ScopeObject *scope);

/* What the body sees of the value that was read at (cell, pos): the atom, or a draft of the child
 * cell. `scope` is that of the place (NULL: everything may be done there): a value that it does not
 * let be read is refused. The caller has entered the transaction. New reference. */
PyObject *draft_value(module_state *st, TxnObject *txn, theus_cell *cell, uint32_t pos,
                      theus_value value, ScopeObject *scope);

/* __name__: never a key, because Python probes for such names and each probe would be logged as a
 * read of an absent key. */
bool draft_is_dunder(PyObject *name);

/* ---- content, from outside: these enter the draft's transaction themselves ---------- */

/* The frozen container with the content of now, to be kept: written records in it are validated first (records.h). New
 * reference. */
PyObject *draft_frozen(PyObject *draft);
/* The same for a keys(), values() or items() view of one: that view of the frozen content. */
PyObject *draft_view_frozen(PyObject *view);

/* _theus.frozen_content: the same of a draft, and any other object itself. */
PyObject *module_frozen_content(PyObject *module, PyObject *object);

/* The same to be looked at, by ==, repr and the like: not validated. New reference. */
PyObject *draft_peek(PyObject *draft);

/* The independent builtin with the content of now. New reference. */
PyObject *draft_thaw(PyObject *draft);

/* The content as a value of `heap`, copied if the draft is of another engine. The caller owns it. */
int draft_freeze(HeapObject *heap, PyObject *draft, theus_value *out);

/* freeze_value() for an object that is about to be stored at (or, with `at`, below) a cell: a
 * refusal names the whole path. Call it outside the transaction or inside, but never between a
 * lookup and the use of its position. */
int draft_freeze_value(module_state *st, TxnObject *txn, theus_cell *cell, PyObject *object,
                       const freeze_path *at, theus_value *out);

/* The path of a cell for messages: keys and indexes. The caller has entered. New reference. */
PyObject *draft_path_tuple(TxnObject *txn, theus_cell *cell);

/* ---- one step of a map cell: these enter the transaction themselves ----------------- */

/* map[key] = object, as far as the scope of the map lets (NULL: everything). Of a record the class is not asked: see
 * records.h. Reads nothing. Storing a draft where it already stands, as `tx.xs += [1]` ends, changes nothing. */
int draft_map_store(module_state *st, TxnObject *txn, theus_cell *cell, ScopeObject *scope,
                    PyObject *key, PyObject *object);
/* Removes the key: 1, 0 if it was not there, or -1. */
int draft_map_discard(DraftObject *self, PyObject *key);

/* Frees the memory that is kept for reuse. */
void draft_drop_free_list(module_state *st);

int add_draft_types(PyObject *module, module_state *st);

#endif
