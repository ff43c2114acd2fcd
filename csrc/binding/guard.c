/* Refusing, and holding writes against a scope. */
#include "guard.h"

#include "draft.h"
#include "errors.h"
#include "operations.h"
#include "txn_paths.h"
#include "value_py.h"
#include "zones.h"

/* ---- refusals ----------------------------------------------------------------------- */

/* What the zone of a place leaves of the rights that the contract gives there: 1 and *rights if that is why it is
 * refused, 0 if it is not declared, or -1. */
static int
refused_by_zone(ScopeObject *root, PyObject *path, bool write, uint8_t *rights)
{
    ScopeObject *place;
    int known = scope_walk(root, path, 0, &place);
    if (known <= 0) {
        return known;
    }
    uint8_t wanted = write ? RIGHTS_WRITE : RIGHT_READ;
    *rights = place->ceiling;
    return (place->granted & wanted) == wanted && (place->here & wanted) != wanted;
}

PyObject *
guard_refusal(TxnObject *txn, ScopeObject *scope, PyObject *path, bool write)
{
    PyObject *kind = txn->heap->st->ContractViolationError;
    uint8_t rights;
    if (scope->root->ended) {
        return PyObject_CallFunction(kind, "sO", "this was read in an admin scope that has ended: read it again from ctx",
                                     path);
    }
    int by_zone = refused_by_zone(scope->root, path, write, &rights);
    ScopeObject *refuser = by_zone < 0 ? NULL : scope_that_refuses(scope->root, path, write);
    if (refuser == NULL) {
        return NULL;
    }
    PyObject *owner = refuser->owner, *error;
    if (by_zone == 1) {
        return zones_refusal(txn, path, rights, write, owner);
    }
    if (owner == NULL) {
        return PyObject_CallFunction(kind, "sO", write ? "Illegal Write" : "Illegal Read", path);
    }
    error = PyObject_CallMethod(owner, write ? "no_write" : "no_read", "(O)", path);
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        Py_SETREF(error, PyObject_CallFunction(kind, "sO", "refused by a guard", path));
    }
    return error;
}

static void
set_refusal(TxnObject *txn, ScopeObject *scope, PyObject *path, bool write)
{
    PyObject *error = guard_refusal(txn, scope, path, write);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
}

int
guard_refuse_path(TxnObject *txn, ScopeObject *scope, PyObject *path, bool write)
{
    /* The first one; but what a body is refused through its own context comes before what a guard inside it refuses. */
    bool outer = txn->guard == NULL || scope->root != txn->guard->root;
    if (write && (txn->refused == NULL || outer)) {
        PyObject *refused = PyTuple_Pack(2, scope->root, path);
        if (refused == NULL) {
            return -1;
        }
        Py_XSETREF(txn->refused, refused);
    }
    set_refusal(txn, scope, path, write);
    return -1;
}

static int
refuse_at(TxnObject *txn, ScopeObject *scope, theus_cell *cell, PyObject *key, bool write)
{
    PyObject *path = draft_path_tuple(txn, cell);
    if (path != NULL && key != NULL) {
        PyObject *last = PyTuple_Pack(1, key);
        Py_SETREF(path, last == NULL ? NULL : PySequence_Concat(path, last));
        Py_XDECREF(last);
    }
    if (path != NULL) {
        guard_refuse_path(txn, scope, path, write);
        Py_DECREF(path);
    }
    return -1;
}

int
guard_refuse_read(TxnObject *txn, ScopeObject *scope, theus_cell *cell, PyObject *key)
{
    return refuse_at(txn, scope, cell, key, false);
}

int
guard_refuse_write(TxnObject *txn, ScopeObject *scope, theus_cell *cell, PyObject *key)
{
    return refuse_at(txn, scope, cell, key, true);
}

int
guard_raise_refused(TxnObject *txn)
{
    PyObject *refused = txn->refused;
    if (refused == NULL) {
        return 0;
    }
    txn->refused = NULL;
    set_refusal(txn, (ScopeObject *)PyTuple_GET_ITEM(refused, 0), PyTuple_GET_ITEM(refused, 1), true);
    Py_DECREF(refused);
    return -1;
}

/* ---- one write ---------------------------------------------------------------------- */

/* Is all that `value` (sealed) holds declared for writing? 1, 0 or -1. */
static int
holds_only_declared(ScopeObject *scope, theus_value value)
{
    if (scope_declares_write(scope)) {
        return 1;
    }
    if ((scope->below & RIGHTS_WRITE) != RIGHTS_WRITE || theus_value_kind(value) != THEUS_MAP) {
        return 0;
    }
    if (nesting_enter(" in a value that a guard looks into") < 0) {
        return -1;
    }
    theus_cursor cursor;
    theus_value part;
    void *key;
    int result = 1;
    theus_cursor_init(&cursor, theus_value_container(value), false);
    while (result == 1 && theus_cursor_next(&cursor, NULL, &key, &part)) {
        ScopeObject *below;
        result = scope_step(scope, (PyObject *)key, &below);
        if (result == 1) {
            result = holds_only_declared(below, part);
        }
    }
    nesting_leave();
    return result;
}

/* May `value` be put at `key`, which is declared, with what rights the zone leaves? 1, 0 or -1. */
static int
zone_lets(TxnObject *txn, theus_cell *cell, const ScopeObject *scope, const ScopeObject *below, uint64_t hash,
          PyObject *key, theus_value value)
{
    uint8_t rights = below->here & RIGHTS_ALL, above = scope->ceiling;
    bool is_field = scope->level + 1 == SCOPE_FIELD;
    if (value == THEUS_NONE) {
        return (rights & RIGHT_DELETE) != 0;
    }
    theus_value old = THEUS_NONE;
    if (cell->now->kind == THEUS_LIST) {
        return (rights & RIGHT_UPDATE) != 0;
    }
    if (cell->base != NULL) {
        uint32_t pos;
        theus_container *base = cell->base;
        theus_container_retain(base);
        theus_find found = theus_container_find(base, NULL, hash, key, &pos, &old);
        int allowed = found == THEUS_FIND_FAILED ? -1
                      : found == THEUS_FOUND     ? zones_allow(txn->heap, rights, old, value)
                                                 : 0;
        theus_container_release(base);
        if (found != THEUS_ABSENT) {
            return allowed;
        }
    }
    return (rights & RIGHT_APPEND) != 0 || (is_field && (rights & RIGHT_UPDATE) != 0 && (above & RIGHT_APPEND) != 0);
}

/* May `value` be put at `key` because it makes the way to what is declared below? 1, 0 or -1. */
static int
makes_way(theus_cell *cell, ScopeObject *scope, uint64_t hash, PyObject *key, theus_value value)
{
    if (value == THEUS_NONE || cell->now->kind != THEUS_MAP) {
        return 0;
    }
    if (cell->base != NULL) {
        uint32_t pos;
        theus_container *base = cell->base;
        theus_container_retain(base);
        theus_find found = theus_container_find(base, NULL, hash, key, &pos, NULL);
        theus_container_release(base);
        if (found != THEUS_ABSENT) {
            return found == THEUS_FOUND ? 0 : -1;
        }
    }
    return holds_only_declared(scope, value);
}

int
guard_check_write(TxnObject *txn, theus_cell *cell, ScopeObject *scope, uint64_t hash,
                  PyObject *key, theus_value value)
{
    ScopeObject *below;
    int known = scope_step(scope, key, &below);
    if (known == 1) {
        known = scope_lets(below, RIGHTS_WRITE)     ? 1
                : scope_declares_write(below) ? zone_lets(txn, cell, scope, below, hash, key, value)
                                              : makes_way(cell, below, hash, key, value);
    }
    return known == 1 ? 0 : known < 0 ? -1 : guard_refuse_write(txn, scope, cell, key);
}

/* ---- paths -------------------------------------------------------------------------- */

int
guard_check_path(TxnObject *txn, PyObject *path, uint8_t rights)
{
    ScopeObject *scope;
    if (txn->guard == NULL) {
        return 0;
    }
    int known = scope_walk(txn->guard, path, 0, &scope);
    if (known == 1 && scope_declares_write(scope) && scope_lets(scope, rights)) {
        return 0;
    }
    return known < 0 ? -1 : guard_refuse_path(txn, txn->guard, path, true);
}

int
guard_enter_path(TxnObject *txn, PyObject *path, ScopeObject **scope)
{
    *scope = NULL;
    if (txn->guard == NULL) {
        return 0;
    }
    int known = scope_walk(txn->guard, path, 0, scope);
    if (known == 0) {
        return guard_refuse_path(txn, txn->guard, path, false);
    }
    if (known == 1 && scope_is_free(*scope)) {
        *scope = NULL;
    }
    return known < 0 ? -1 : 0;
}

/* ---- all writes --------------------------------------------------------------------- */

/* What an operation put there, if it is a map that makes the way to declared places: 1, 0 or -1. */
static int
operation_makes_way(TxnObject *txn, ScopeObject *scope, const noted_operation *one)
{
    theus_value value;
    theus_cell *cell, *child;
    uint64_t hash;
    uint32_t pos;
    if (one->kind != THEUS_OP_SET || (scope->below & RIGHTS_WRITE) != RIGHTS_WRITE) {
        return 0;
    }
    theus_find before
        = theus_path_find(txn->txn.pinned->root, NULL, one->path, one->length, &value);
    if (before != THEUS_ABSENT) {
        return before == THEUS_FOUND ? 0 : errors_find_failed(txn->heap->st);
    }
    PyObject *path = txn_path_tuple(one->path, one->length);
    int result = path == NULL ? -1 : txn_walk(txn, path, &cell);
    if (result == 1) {
        result = txn_cell_find(txn, cell, txn_path_last(path), false, &hash, &pos, &value);
    }
    if (result == 1 && theus_value_kind(value) == THEUS_MAP) {
        theus_container *content = NULL;
        theus_status status = theus_cell_enter(cell, pos, &child);
        if (status == THEUS_OK) {
            status = theus_cell_freeze(child, &content);
        }
        result = status == THEUS_OK ? holds_only_declared(scope, theus_value_of_container(content))
                                    : txn_fail(txn, status);
        theus_container_release(content);
    }
    else if (result == 1) {
        result = 0;
    }
    Py_XDECREF(path);
    return result;
}

/* Is one operation declared? 1, 0 or -1. */
static int
operation_is_declared(TxnObject *txn, ScopeObject *scope, const noted_operation *one)
{
    if (one->kind == OPERATION_MESSAGE) {
        return !scope->frozen; /* no path is declared for those: whoever may write may send */
    }
    for (uint32_t i = 0; i < one->length && !scope_declares_write(scope); i++) {
        PyObject *key = (PyObject *)one->path[i].key;
        int known = key != NULL ? scope_step(scope, key, &scope)
                                : scope_step_index(scope, one->path[i].index, &scope);
        if (known <= 0) {
            return known;
        }
    }
    return scope_declares_write(scope) ? 1 : operation_makes_way(txn, scope, one);
}

/* Are these declared in `scope`? 1, 0 with the refusal set, or -1. */
static int
are_declared(TxnObject *txn, ScopeObject *scope, const noted_operation *first)
{
    /* Comparing keys may run a body that would write more: for it the transaction has ended. */
    bool committing = txn->txn.committing;
    txn->txn.committing = true;
    int declared = 1;
    for (const noted_operation *one = first; one != NULL && declared == 1; one = one->next) {
        declared = operation_is_declared(txn, scope, one);
        if (declared == 0) {
            PyObject *path = txn_path_tuple(one->path, one->length);
            if (path != NULL) {
                guard_refuse_path(txn, scope, path, true);
                Py_DECREF(path);
            }
        }
    }
    txn->txn.committing = committing;
    return declared;
}

int
guard_check_operations(TxnObject *txn, ScopeObject *scope, bool recent)
{
    noted_operation *first;
    if (operations_note(txn, recent, false, &first) < 0) {
        return -1;
    }
    int declared = are_declared(txn, scope, first);
    operations_free(first);
    return declared == 1 ? 0 : -1;
}

int
guard_check_commit(TxnObject *txn)
{
    noted_operation *first;
    if (txn->bound == NULL) {
        return zones_check(txn, false);
    }
    if (operations_note(txn, false, false, &first) < 0) {
        return -1;
    }
    int result = are_declared(txn, txn->bound, first) == 1 ? zones_check_noted(txn, first) : -1;
    operations_free(first);
    return result;
}
