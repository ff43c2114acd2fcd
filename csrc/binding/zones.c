/* What names and rules say about fields, and holding a transaction's operations against that. */
#include "zones.h"

#include "engine_type.h"
#include "errors.h"
#include "handle.h"
#include "operations.h"
#include "txn_paths.h"
#include "value_py.h"

/* ---- names --------------------------------------------------------------------------- */

enum { RIGHTS_RU = RIGHT_READ | RIGHT_UPDATE, RIGHTS_RA = RIGHT_READ | RIGHT_APPEND };

/* theus/zones.py has the same table for people, and zones_of_name() the first letters. */
static const struct {
    const char *prefix;
    uint8_t rights;
} named_zones[] = {
    {"const_", RIGHT_READ}, {"log_", RIGHTS_RA},   {"meta_", RIGHTS_RU}, {"internal_", 0},
    {"heavy_", RIGHTS_RU},  {"sig_", RIGHTS_RA},   {"cmd_", RIGHTS_RA},
};

static bool
begins_with(PyObject *name, const char *prefix)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    for (Py_ssize_t i = 0; prefix[i] != '\0'; i++) {
        if (i == length || PyUnicode_READ_CHAR(name, i) != (Py_UCS4)prefix[i]) {
            return false;
        }
    }
    return true;
}

uint8_t
zones_of_prefix(PyObject *name)
{
    for (size_t i = 0; i < Py_ARRAY_LENGTH(named_zones); i++) {
        if (begins_with(name, named_zones[i].prefix)) {
            return named_zones[i].rights;
        }
    }
    return RIGHTS_ALL;
}

/* ---- rules --------------------------------------------------------------------------- */

/* What a dict that never changes has under a name: 1 and *value (borrowed from it), 0 or -1. */
static int
look_up(PyObject *dict, PyObject *name, PyObject **value)
{
    *value = NULL;
    if (dict == NULL || name == NULL || !PyUnicode_CheckExact(name)) {
        return 0;
    }
    int found = PyDict_GetItemRef(dict, name, value);
    Py_XDECREF(*value);
    return found;
}

int
zones_of_root(PyObject *rules, PyObject *root, uint8_t *rights, PyObject **fields)
{
    PyObject *rule;
    int found = look_up(rules, root, &rule);
    *rights = found == 1 ? (uint8_t)PyLong_AsLong(PyTuple_GET_ITEM(rule, 0)) : RIGHTS_ALL;
    *fields = found == 1 ? PyTuple_GET_ITEM(rule, 1) : NULL;
    return found < 0 ? -1 : 0;
}

int
zones_of_field(PyObject *fields, PyObject *name, uint8_t *rights)
{
    PyObject *rule;
    int found = look_up(fields, name, &rule);
    *rights = found == 1     ? (uint8_t)PyLong_AsLong(rule)
              : name == NULL ? RIGHTS_ALL
                             : zones_of_name(name);
    return found < 0 ? -1 : 0;
}

static int
parse_rights(PyObject *given, PyObject **out)
{
    long rights = PyLong_Check(given) ? PyLong_AsLong(given) : -1;
    if (rights < 0 || rights > RIGHTS_ALL) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "rights are a sum of READ 1, APPEND 2, UPDATE 4 and DELETE 8, not %R", given);
        return -1;
    }
    *out = PyLong_FromLong(rights);
    return *out == NULL ? -1 : 0;
}

static PyObject *
parse_fields(PyObject *given)
{
    PyObject *fields = PyDict_New(), *name, *rights, *parsed;
    Py_ssize_t i = 0;
    while (fields != NULL && PyDict_Next(given, &i, &name, &rights)) {
        if (!PyUnicode_CheckExact(name)) {
            PyErr_Format(PyExc_TypeError, "a field with a rule is named by a str, not by %R", name);
            Py_CLEAR(fields);
        }
        else if (parse_rights(rights, &parsed) < 0) {
            Py_CLEAR(fields);
        }
        else {
            if (PyDict_SetItem(fields, name, parsed) < 0) {
                Py_CLEAR(fields);
            }
            Py_DECREF(parsed);
        }
    }
    return fields;
}

PyObject *
zones_parse_rules(PyObject *given)
{
    PyObject *rules = PyDict_Check(given) ? PyDict_New() : NULL, *root, *rule;
    Py_ssize_t i = 0;
    if (rules == NULL && !PyErr_Occurred()) {
        return PyErr_Format(PyExc_TypeError, "rules are a dict of roots, not %R", given);
    }
    while (rules != NULL && PyDict_Next(given, &i, &root, &rule)) {
        PyObject *rights = NULL, *fields = NULL, *pair = NULL;
        if (!PyUnicode_CheckExact(root) || !PyTuple_CheckExact(rule) || PyTuple_GET_SIZE(rule) != 2
            || !PyDict_Check(PyTuple_GET_ITEM(rule, 1))) {
            PyErr_Format(PyExc_TypeError, "a rule is a root and (rights, {field: rights}), not %R: %R", root, rule);
        }
        else if (parse_rights(PyTuple_GET_ITEM(rule, 0), &rights) == 0) {
            fields = parse_fields(PyTuple_GET_ITEM(rule, 1));
            pair = fields == NULL ? NULL : PyTuple_Pack(2, rights, fields);
        }
        if (pair == NULL || PyDict_SetItem(rules, root, pair) < 0) {
            Py_CLEAR(rules);
        }
        Py_XDECREF(rights);
        Py_XDECREF(fields);
        Py_XDECREF(pair);
    }
    return rules;
}

/* ---- fields that are not shown --------------------------------------------------------- */

static int
root_hides(PyObject *rules, PyObject *root, theus_value content)
{
    uint8_t above, rights;
    PyObject *fields;
    theus_cursor cursor;
    void *name;
    if (theus_value_kind(content) != THEUS_MAP) {
        return 0;
    }
    if (zones_of_root(rules, root, &above, &fields) < 0) {
        return -1;
    }
    theus_cursor_init(&cursor, theus_value_container(content), false);
    while (theus_cursor_next(&cursor, NULL, &name, NULL)) {
        if (zones_of_field(fields, (PyObject *)name, &rights) < 0) {
            return -1;
        }
        if ((rights & RIGHT_READ) == 0) {
            return 1;
        }
    }
    return 0;
}

int
zones_hide(PyObject *rules, theus_container *root)
{
    theus_cursor cursor;
    theus_value content;
    void *name;
    int hides = 0;
    theus_cursor_init(&cursor, root, false);
    while (hides == 0 && theus_cursor_next(&cursor, NULL, &name, &content)) {
        hides = root_hides(rules, (PyObject *)name, content);
    }
    return hides;
}

/* ---- refusing ------------------------------------------------------------------------- */

PyObject *
zones_refusal(TxnObject *txn, PyObject *path, uint8_t rights, PyObject *owner)
{
    PyObject *name = owner == NULL ? NULL : PyObject_GetAttrString(owner, "name");
    if (name == NULL) {
        PyErr_Clear();
        name = Py_NewRef(txn->process == NULL ? Py_None : txn->process);
    }
    PyObject *zones = PyImport_ImportModule("theus.zones"); /* for the words; loaded when somebody is refused */
    PyObject *error
        = zones == NULL ? NULL : PyObject_CallMethod(zones, "refusal", "OiO", path, (int)rights, name);
    if (error != NULL && !PyExceptionInstance_Check(error)) {
        Py_SETREF(error, PyObject_CallFunction(txn->heap->st->ContractViolationError, "sO", "refused by a zone", path));
    }
    Py_XDECREF(zones);
    Py_DECREF(name);
    return error;
}

int
zones_refuse(TxnObject *txn, PyObject *path, uint8_t rights)
{
    PyObject *error = zones_refusal(txn, path, rights, NULL);
    if (error != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_DECREF(error);
    }
    return -1;
}

/* ---- one value in the place of another ------------------------------------------------- */

typedef struct {
    HeapObject *heap;
    uint8_t rights;
    theus_kind kind;
} comparison;

/* A theus_change_fn: goes on while the rights allow what changed. */
static int
allow_change(void *arg, theus_change_kind change, void *Py_UNUSED(key), uint32_t Py_UNUSED(pos_a), theus_value a,
             uint32_t Py_UNUSED(pos_b), theus_value b)
{
    const comparison *of = arg;
    if (change == THEUS_CHANGED_VALUE && of->kind == THEUS_SET) {
        return 0; /* another object of the same element */
    }
    int allowed = change == THEUS_ADDED     ? (of->rights & RIGHT_APPEND) != 0
                  : change == THEUS_REMOVED ? (of->rights & RIGHT_DELETE) != 0
                                            : zones_allow(of->heap, of->rights, a, b);
    return allowed < 0 ? -1 : !allowed;
}

int
zones_allow(HeapObject *heap, uint8_t rights, theus_value old, theus_value value)
{
    if (old == value) {
        return 1;
    }
    if (old == THEUS_NONE || value == THEUS_NONE) {
        return (rights & (old == THEUS_NONE ? RIGHT_APPEND : RIGHT_DELETE)) != 0;
    }
    theus_kind kind = theus_value_kind(old);
    if ((rights & RIGHT_UPDATE) != 0 || kind != theus_value_kind(value)) {
        return (rights & RIGHT_UPDATE) != 0;
    }
    if (kind == THEUS_ATOM) {
        PyObject *before = theus_value_atom(old), *after = theus_value_atom(value);
        return Py_TYPE(before) != Py_TYPE(after) ? 0 : PyObject_RichCompareBool(before, after, Py_EQ);
    }
    if (nesting_enter(" in a value that a zone looks into") < 0) {
        return -1;
    }
    comparison of = {heap, rights, kind};
    theus_status status = THEUS_OK;
    int stopped = theus_container_diff(theus_value_container(old), theus_value_container(value), NULL, allow_change,
                                       &of, &status);
    nesting_leave();
    return stopped < 0 ? (PyErr_Occurred() ? -1 : errors_fail(heap->st, status)) : !stopped;
}

/* ---- what a transaction has done ------------------------------------------------------- */

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
        int hides = value == THEUS_NONE ? 0 : root_hides(of->txn->engine->rules, root, value);
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
