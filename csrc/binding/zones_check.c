/* Holding the operations of a transaction against the zones: what the commit asks, and what an admin scope leaves. */
#include "zones.h"

#include "engine_type.h"
#include "errors.h"
#include "handle.h"
#include "operations.h"
#include "txn_paths.h"
#include "value_py.h"

/* One field and what is asked about it. */
typedef struct {
    TxnObject *txn;
    PyObject *root; /* borrowed; NULL: while the changes of the root map are walked */
    PyObject *fields;
    uint8_t above; /* the rights of the root */
    bool admin;
    bool lifting; /* keep what is there instead of asking whether it is allowed */
} question;

static uint8_t
rights_in(const question *of, uint8_t rights)
{
    return of->admin ? zones_as_admin(rights) : rights;
}

static int
refuse(const question *of, PyObject *name, uint8_t rights)
{
    PyObject *path = name == NULL ? PyTuple_Pack(1, of->root) : PyTuple_Pack(2, of->root, name);
    if (path != NULL) {
        zones_refuse(of->txn, path, rights);
        Py_DECREF(path);
    }
    return -1;
}

/* txn->lifted[(root, field)]: 1 and *value (new reference), 0 or -1. */
static int
lifted_value(const question *of, PyObject *name, PyObject **value)
{
    *value = NULL;
    if (of->txn->lifted == NULL) {
        return 0;
    }
    PyObject *place = PyTuple_Pack(2, of->root, name);
    int found = place == NULL ? -1 : PyDict_GetItemRef(of->txn->lifted, place, value);
    Py_XDECREF(place);
    return found;
}

static int
keep_lifted(const question *of, PyObject *name, theus_value value)
{
    TxnObject *txn = of->txn;
    if (txn->lifted == NULL && (txn->lifted = PyDict_New()) == NULL) {
        return -1;
    }
    PyObject *place = PyTuple_Pack(2, of->root, name);
    PyObject *kept = value == THEUS_NONE ? Py_NewRef(txn->heap->st->MISSING) : handle_wrap(txn->heap, value);
    int result = place == NULL || kept == NULL ? -1 : PyDict_SetItem(txn->lifted, place, kept);
    Py_XDECREF(place);
    Py_XDECREF(kept);
    return result;
}

/* May a field that was made in, or changed from, `old` hold `value`? 1, 0 or -1. */
static int
field_allows(const question *of, uint8_t rights, theus_value old, theus_value value)
{
    uint8_t above = rights_in(of, of->above);
    if (old == THEUS_NONE && value != THEUS_NONE) {
        return (rights & (RIGHT_APPEND | RIGHT_UPDATE)) != 0 && (above & RIGHT_APPEND) != 0;
    }
    return zones_allow(of->txn->heap, rights & above, old, value);
}

/* The same, where an admin scope may have left something there. */
static int
field_allows_since(const question *of, PyObject *name, uint8_t rights, theus_value old, theus_value value)
{
    PyObject *kept;
    int allowed = field_allows(of, rights, old, value);
    int found = allowed != 0 ? 0 : lifted_value(of, name, &kept);
    if (found <= 0) {
        return allowed != 0 ? allowed : found;
    }
    module_state *st = of->txn->heap->st;
    theus_value before = kept == st->MISSING                      ? THEUS_NONE
                         : handle_kind(st, kept) == THEUS_ATOM ? theus_value_of_atom(kept)
                                                                : theus_value_of_container(handle_of(kept)->node);
    allowed = field_allows(of, rights, before, value);
    Py_DECREF(kept);
    return allowed;
}

/* A field changed from `old` to `value`; 0 or -1. */
static int
ask_field(const question *of, PyObject *name, theus_value old, theus_value value)
{
    uint8_t rights;
    if (zones_of_field(of->fields, name, &rights) < 0) {
        return -1;
    }
    if ((rights & of->above) == RIGHTS_ALL) {
        return 0;
    }
    if (of->lifting) {
        if ((rights & RIGHT_READ) == 0) {
            of->txn->engine->hides = true;
        }
        return keep_lifted(of, name, value);
    }
    rights = rights_in(of, rights);
    int allowed = field_allows_since(of, name, rights, old, value);
    return allowed == 0 ? refuse(of, name, rights & of->above) : allowed < 0 ? -1 : 0;
}

/* A theus_change_fn over the fields of one root. */
static int
ask_changed_field(void *arg, theus_change_kind Py_UNUSED(change), void *key, uint32_t Py_UNUSED(pos_a), theus_value a,
                  uint32_t Py_UNUSED(pos_b), theus_value b)
{
    return ask_field(arg, (PyObject *)key, a, b);
}

static int
ask_root(question *of, PyObject *root, theus_value old, theus_value value)
{
    of->root = root;
    if (zones_of_root(of->txn->engine->rules, root, &of->above, &of->fields) < 0) {
        return -1;
    }
    if (old == THEUS_NONE) { /* made anew: its initial values */
        int hides = value == THEUS_NONE ? 0 : zones_root_hides(of->txn->engine->rules, root, value);
        if (hides == 1) {
            of->txn->engine->hides = true;
        }
        return hides < 0 ? -1 : 0;
    }
    if (theus_value_kind(old) != THEUS_MAP) {
        uint8_t rights = rights_in(of, of->above);
        int allowed = of->lifting ? 1 : zones_allow(of->txn->heap, rights, old, value);
        return allowed == 0 ? refuse(of, NULL, rights) : allowed < 0 ? -1 : 0;
    }
    if (value == THEUS_NONE || theus_value_kind(value) != THEUS_MAP) {
        theus_cursor cursor; /* all of its fields are gone */
        theus_value field;
        void *name;
        int result = 0;
        uint8_t rights = rights_in(of, of->above);
        if (!of->lifting && (rights & (value == THEUS_NONE ? RIGHT_DELETE : RIGHT_UPDATE)) == 0) {
            return refuse(of, NULL, rights);
        }
        theus_cursor_init(&cursor, theus_value_container(old), false);
        while (result == 0 && theus_cursor_next(&cursor, NULL, &name, &field)) {
            result = ask_field(of, (PyObject *)name, field, THEUS_NONE);
        }
        return result;
    }
    theus_status status = THEUS_OK;
    int result = theus_container_diff(theus_value_container(old), theus_value_container(value), NULL, ask_changed_field,
                                      of, &status);
    return result < 0 && !PyErr_Occurred() ? errors_fail(of->txn->heap->st, status) : result;
}

/* What the transaction would put at a path: counted, THEUS_NONE if nothing. *cell is what holds it (NULL: nothing does).
 * 0 or -1. */
static int
content_at(TxnObject *txn, PyObject *path, theus_cell **cell, theus_value *out)
{
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    *out = THEUS_NONE;
    *cell = NULL;
    int found = txn_walk(txn, path, cell);
    if (found == 1) {
        found = txn_cell_find(txn, *cell, txn_path_last(path), false, &hash, &pos, &value);
    }
    if (found <= 0) {
        return found;
    }
    if (theus_value_kind(value) == THEUS_ATOM) {
        theus_value_retain(txn->heap->core, value);
        *out = value;
        return 0;
    }
    theus_cell *child;
    theus_container *content = NULL;
    theus_status status = theus_cell_enter(*cell, pos, &child);
    if (status == THEUS_OK) {
        status = theus_cell_freeze(child, &content);
    }
    if (status != THEUS_OK) {
        return txn_fail(txn, status);
    }
    *out = theus_value_of_container(content);
    return 0;
}

/* What was there may be why an operation is allowed: another commit that changes that is a conflict. */
static int
rely_on(TxnObject *txn, theus_cell *cell, PyObject *key)
{
    uint64_t hash;
    if (cell == NULL || cell->now->kind != THEUS_MAP) {
        return 0;
    }
    if (key_hash(key, &hash) < 0) {
        return -1;
    }
    theus_status status = theus_cell_rely(cell, NULL, hash, key);
    return status == THEUS_OK ? 0 : txn_fail(txn, status);
}

/* What stands at a path of the pinned version, or THEUS_NONE. 0 or -1. */
static int
pinned_at(TxnObject *txn, const noted_operation *one, uint32_t length, theus_value *old)
{
    theus_find found = theus_path_find(txn->txn.pinned->root, NULL, one->path, length, old);
    if (found != THEUS_FOUND) {
        *old = THEUS_NONE;
    }
    return found == THEUS_FIND_FAILED ? errors_find_failed(txn->heap->st) : 0;
}

/* A part of a field changed from `old` to `value`; 0 or -1. */
static int
ask_part(const question *of, PyObject *path, uint8_t rights, theus_value old, theus_value value)
{
    int allowed = zones_allow(of->txn->heap, rights, old, value);
    return allowed == 0 ? zones_refuse(of->txn, path, rights) : allowed < 0 ? -1 : 0;
}

/* Compares what lies at the first `length` parts of the path of an operation. 0 or -1. */
static int
ask_content(question *of, const noted_operation *one, uint32_t length, uint8_t rights)
{
    TxnObject *txn = of->txn;
    theus_value old, value = THEUS_NONE;
    theus_cell *cell;
    PyObject *path = txn_path_tuple(one->path, length);
    int result = path == NULL ? -1 : content_at(txn, path, &cell, &value);
    if (result == 0) {
        result = pinned_at(txn, one, length, &old);
    }
    if (result == 0) {
        result = length == 1   ? ask_root(of, PyTuple_GET_ITEM(path, 0), old, value)
                 : length == 2 ? ask_field(of, PyTuple_GET_ITEM(path, 1), old, value)
                               : ask_part(of, path, rights, old, value);
    }
    if (result == 0) {
        result = rely_on(txn, cell, txn_path_last(path));
    }
    theus_value_release(txn->heap->core, value);
    Py_XDECREF(path);
    return result;
}

/* The right without which an operation is refused, whatever is there; 0: that depends. */
static uint8_t
needed_right(int kind)
{
    switch (kind) {
    case THEUS_OP_ADD:
    case THEUS_OP_MERGE:
        return RIGHT_UPDATE;
    case THEUS_OP_APPEND:
        return RIGHT_APPEND;
    case THEUS_OP_DELETE:
        return RIGHT_DELETE;
    case THEUS_OP_SET:
        break;
    }
    return 0;
}

static int
ask_operation(question *of, const noted_operation *one)
{
    TxnObject *txn = of->txn;
    uint8_t rights;
    if (one->length <= 1) {
        return ask_content(of, one, 1, 0);
    }
    PyObject *name = (PyObject *)one->path[1].key;
    of->root = (PyObject *)one->path[0].key;
    if (zones_of_root(txn->engine->rules, of->root, &of->above, &of->fields) < 0
        || zones_of_field(of->fields, name, &rights) < 0) {
        return -1;
    }
    if (name != NULL && (of->lifting || txn->lifted != NULL)) {
        return ask_content(of, one, 2, 0);
    }
    rights = rights_in(of, rights) & rights_in(of, of->above);
    uint8_t needed = needed_right(one->kind);
    bool allowed = (rights & needed) != 0;
    if (needed == 0 && (rights & RIGHT_UPDATE) != 0) {
        theus_value old = THEUS_NONE; /* any value may be put there, if one may be put there at all */
        if ((rights & RIGHT_APPEND) == 0 && pinned_at(txn, one, one->length, &old) < 0) {
            return -1;
        }
        bool made = one->length == 2 && (rights_in(of, of->above) & RIGHT_APPEND) != 0;
        allowed = old != THEUS_NONE || (rights & RIGHT_APPEND) != 0 || made;
    }
    else if (needed == 0) {
        return ask_content(of, one, one->length, rights);
    }
    if (allowed || of->lifting) {
        return 0;
    }
    PyObject *path = txn_path_tuple(one->path, one->length);
    if (path != NULL) {
        zones_refuse(txn, path, rights);
        Py_DECREF(path);
    }
    return -1;
}

/* Is an operation one that zones have something to say about? Runs no Python code. */
static bool
is_concerned(void *rules, const theus_segment *path, uint32_t length)
{
    uint8_t above, rights;
    PyObject *fields;
    if (length <= 1) {
        return true;
    }
    if (zones_of_root(rules, (PyObject *)path[0].key, &above, &fields) < 0
        || zones_of_field(fields, (PyObject *)path[1].key, &rights) < 0) {
        PyErr_Clear(); /* asked again when an error can be raised */
        return true;
    }
    return (above & rights) != RIGHTS_ALL;
}

static int
ask_each(question *of, const noted_operation *first)
{
    TxnObject *txn = of->txn;
    /* Comparing may run a body that would write more: for it the transaction has ended. */
    bool committing = txn->txn.committing;
    txn->txn.committing = true;
    int result = 0;
    for (const noted_operation *one = first; one != NULL && result == 0; one = one->next) {
        if (one->kind < OPERATION_SIGNAL && is_concerned(txn->engine->rules, one->path, one->length)) {
            result = ask_operation(of, one);
        }
    }
    txn->txn.committing = committing;
    return result;
}

static int
ask_all(question *of)
{
    noted_operation *first;
    PyObject *rules = of->txn->engine->rules;
    if (!theus_txn_writes_to(&of->txn->txn, is_concerned, rules)) {
        return 0; /* by far the usual case */
    }
    if (operations_note_some(of->txn, is_concerned, rules, &first) < 0) {
        return -1;
    }
    int result = ask_each(of, first);
    operations_free(first);
    return result;
}

int
zones_check(TxnObject *txn, bool admin)
{
    question of = {.txn = txn, .admin = admin};
    return ask_all(&of);
}

int
zones_check_noted(TxnObject *txn, const noted_operation *first)
{
    question of = {.txn = txn};
    return ask_each(&of, first);
}

int
zones_lift(TxnObject *txn)
{
    question of = {.txn = txn, .admin = true, .lifting = true};
    return ask_all(&of);
}
