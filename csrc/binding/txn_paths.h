/* What a transaction offers by path: attributes, items, get, set, delete, update, deferred operations. */
#ifndef THEUS_TXN_PATHS_H
#define THEUS_TXN_PATHS_H

#include "freeze.h"
#include "txn_type.h"

PyObject *txn_getattro(PyObject *self, PyObject *name);
int txn_setattro(PyObject *self, PyObject *name, PyObject *value);
PyObject *txn_subscript(PyObject *self, PyObject *key);
int txn_ass_subscript(PyObject *self, PyObject *key, PyObject *value);
int txn_contains(PyObject *self, PyObject *key);

PyObject *txn_method_get(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *txn_method_set(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *txn_method_delete(PyObject *self, PyObject *path);
PyObject *txn_method_update(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *txn_method_restore(PyObject *self, PyObject *state); /* in txn_restore.c */
PyObject *txn_method_add(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *txn_method_append(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *txn_method_merge(PyObject *self, PyObject *const *args, Py_ssize_t count);

#define TXN_PATH_METHODS                                                                           \
    {"get", THEUS_FASTCALL(txn_method_get), METH_FASTCALL,                                         \
     PyDoc_STR("get(path, default=None): the value there; containers come as drafts.")},           \
    {"set", THEUS_FASTCALL(txn_method_set), METH_FASTCALL,                                         \
     PyDoc_STR("set(path, value): replaces what is there. The parents must exist; a missing root\n" \
               "is made. Raises PathError.")},                                                     \
    {"delete", txn_method_delete, METH_O,                                                          \
     PyDoc_STR("delete(path): removes what is there. Raises PathError if nothing is.")},           \
    {"update", THEUS_FASTCALL(txn_method_update), METH_VARARGS | METH_KEYWORDS,                    \
     PyDoc_STR("update(data=None, heavy=None, signal=None): merges dicts at any depth into the\n"  \
               "state; DELETE as a value removes; other values replace.")},                        \
    {"restore", txn_method_restore, METH_O,                                                        \
     PyDoc_STR("restore(state): the whole content becomes that of a State. What both share stays\n"  \
               "the same; a State of another engine is copied. Any other commit is a conflict.")},    \
    {"add", THEUS_FASTCALL(txn_method_add), METH_FASTCALL,                                         \
     PyDoc_STR("add(path, amount): adds at commit, to whatever is there then. Never conflicts\n"   \
               "with another add.")},                                                              \
    {"append", THEUS_FASTCALL(txn_method_append), METH_FASTCALL,                                   \
     PyDoc_STR("append(path, value): appends at commit to the list that is there then.")},         \
    {"merge", THEUS_FASTCALL(txn_method_merge), METH_FASTCALL,                                     \
     PyDoc_STR("merge(path, value, resolver): stores resolver(old, value) at commit; value itself\n" \
               "where nothing is. The resolver may run several times and must have no effects.")}

/* ---- steps that txn_paths.c, txn_update.c and txn_defer.c share; the transaction has been entered ---- */

/* PathError about `path`; -1. */
int txn_path_error(module_state *st, PyObject *path, const char *message);
/* The position of `key` in a cell: 1 found, 0 not there, -1 failed. What is found or missed is logged if `log`. */
int txn_cell_find(TxnObject *self, theus_cell *cell, PyObject *key, bool log, uint64_t *hash, uint32_t *pos,
                  theus_value *value);
/* The cell that holds the last part of a path: 1, 0 (a part on the way is missing), -1. */
int txn_walk(TxnObject *self, PyObject *path, theus_cell **out);
PyObject *txn_path_last(PyObject *path);
/* Stores `value` at `key` of a cell with this scope (NULL: everything may be done); `place` is the whole path, for
 * messages. */
int txn_cell_set(TxnObject *self, theus_cell *cell, ScopeObject *scope, const freeze_path *place, PyObject *key,
                 PyObject *value);
/* 1 removed, 0 nothing was there, -1 failed. */
int txn_cell_delete(TxnObject *self, theus_cell *cell, PyObject *key);
/* Defers an operation on what is at `path`; the resolver of a merge is borrowed, else NULL. 0 or -1. */
int txn_defer(TxnObject *self, theus_deferred_kind kind, PyObject *path, PyObject *operand, PyObject *resolver);

/* An awaitable that is done. Steals `value`. */
PyObject *ready_new(module_state *st, PyObject *value);
int add_ready_type(PyObject *module, module_state *st);

#endif
