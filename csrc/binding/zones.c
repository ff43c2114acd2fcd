/* What names and rules say about fields. */
#include "zones.h"

#include "errors.h"
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

int
zones_root_hides(PyObject *rules, PyObject *root, theus_value content)
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
        hides = zones_root_hides(rules, (PyObject *)name, content);
    }
    return hides;
}

/* ---- refusing ------------------------------------------------------------------------- */

PyObject *
zones_refusal(TxnObject *txn, PyObject *path, uint8_t rights, bool write, PyObject *owner)
{
    PyObject *name = owner == NULL ? NULL : PyObject_GetAttrString(owner, "name");
    if (name == NULL) {
        PyErr_Clear();
        name = Py_NewRef(txn->process == NULL ? Py_None : txn->process);
    }
    PyObject *zones = PyImport_ImportModule("theus.zones"); /* for the words; loaded when somebody is refused */
    PyObject *error
        = zones == NULL ? NULL : PyObject_CallMethod(zones, "refusal", "OiOO", path, (int)rights, name,
                                                     write ? Py_True : Py_False);
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
    PyObject *error = zones_refusal(txn, path, rights, true, NULL);
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
