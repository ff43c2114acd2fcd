/* DraftDict: a map of the state as a dict that can be written.
 *
 * Attribute access is a convenience on top: d.x reads d["x"] where the type has no attribute of
 * that name. Names with two underscores on both sides are never keys, because Python probes for
 * them and each probe would be logged as a read of an absent key. */
#include "attributes.h"
#include "draft_parts.h"

/* ---- items -------------------------------------------------------------------------- */

static PyObject *
dict_subscript(PyObject *self, PyObject *key)
{
    PyObject *value;
    if (draft_map_get(draft_of(self), key, &value) == 0) {
        draft_key_error(key);
    }
    return value;
}

/* Removes `key`: 1 (and the value in *value, unless that is NULL), 0 if it was not there, or -1. */
static int
dict_remove(DraftObject *self, PyObject *key, PyObject **value)
{
    uint64_t hash;
    uint32_t pos;
    theus_value found;
    theus_cell *child = NULL;
    PyObject *taken = NULL;
    if (key_hash(key, &hash) < 0 || draft_enter_entry(self) < 0) {
        return -1;
    }
    int result = self->scope == NULL ? 0 : draft_check_store(self, hash, key, THEUS_NONE);
    if (result == 0) {
        result = draft_lookup(self, hash, key, &pos, &found);
    }
    if (result == 1) {
        /* A nested container gets its cell before it goes, and lives on in that. */
        theus_status status = THEUS_OK;
        if (value != NULL && theus_value_kind(found) == THEUS_ATOM) {
            taken = Py_NewRef((PyObject *)theus_value_atom(found));
        }
        else if (value != NULL) {
            status = theus_cell_enter(self->cell, pos, &child);
        }
        if (status == THEUS_OK) {
            status = theus_cell_remove(self->cell, hash, pos);
        }
        result = draft_checked(self, status) < 0 ? -1 : 1;
        if (result == 1 && child != NULL) {
            taken = draft_wrap(draft_state(self), self->txn, child, NULL);
            result = taken == NULL ? -1 : 1;
        }
        if (result < 0) {
            Py_CLEAR(taken);
        }
    }
    draft_leave(self);
    if (value != NULL) {
        *value = taken;
    }
    return result;
}

static int
dict_ass_subscript(PyObject *op, PyObject *key, PyObject *value)
{
    DraftObject *self = draft_of(op);
    if (value != NULL) {
        return draft_map_store(draft_state(self), self->txn, self->cell, self->scope, key, value);
    }
    int removed = dict_remove(self, key, NULL);
    return removed == 0 ? draft_key_error(key) : removed < 0 ? -1 : 0;
}

static int
dict_contains(PyObject *op, PyObject *key)
{
    DraftObject *self = draft_of(op);
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    if (self->scope != NULL) { /* may it be known that something is there? As if it were read */
        PyObject *found;
        int known = draft_map_get(self, key, &found);
        Py_XDECREF(found);
        return known == 1 && draft_hides(self) && draft_hides_key(self, key) ? 0 : known;
    }
    if (key_hash(key, &hash) < 0 || draft_enter_key(self->txn, self->cell, hash) < 0) {
        return -1;
    }
    int result = draft_lookup(self, hash, key, &pos, &value);
    draft_leave(self);
    return result;
}

/* ---- attributes --------------------------------------------------------------------- */

bool
draft_is_dunder(PyObject *name)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    return length > 4 && PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_'
           && PyUnicode_READ_CHAR(name, length - 1) == '_'
           && PyUnicode_READ_CHAR(name, length - 2) == '_';
}

/* 1 if `name` belongs to the type, 0 if it is free to be a key, or -1. No exception may be set. */
static int
is_type_name(PyObject *self, PyObject *name)
{
    if (attribute_check_name(name) < 0) {
        return -1;
    }
    return type_lookup(Py_TYPE(self), name) != NULL || draft_is_dunder(name);
}

static int
no_attribute(PyObject *name)
{
    PyErr_Format(PyExc_AttributeError,
                 "there is no key %R here, and DraftDict has no attribute of that name", name);
    return -1;
}

static PyObject *
dict_getattro(PyObject *self, PyObject *name)
{
    int known = is_type_name(self, name);
    if (known != 0) {
        return known < 0 ? NULL : PyObject_GenericGetAttr(self, name);
    }
    PyObject *value;
    if (draft_map_get(draft_of(self), name, &value) == 0) {
        no_attribute(name);
    }
    return value;
}

static int
dict_setattro(PyObject *self, PyObject *name, PyObject *value)
{
    int known = is_type_name(self, name);
    if (known != 0) {
        if (known > 0) {
            PyErr_Format(PyExc_AttributeError,
                         "%R is an attribute of DraftDict; the key of that name is d[%R]", name,
                         name);
        }
        return -1;
    }
    if (value != NULL) {
        return dict_ass_subscript(self, name, value);
    }
    int removed = dict_remove(draft_of(self), name, NULL);
    return removed == 0 ? no_attribute(name) : removed < 0 ? -1 : 0;
}

/* ---- methods ------------------------------------------------------------------------ */

static PyObject *
dict_get(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *value;
    if (errors_check_count("get", count, 1, 2) < 0) {
        return NULL;
    }
    if (draft_map_get(draft_of(self), args[0], &value) == 0) {
        return Py_NewRef(count == 2 ? args[1] : Py_None);
    }
    return value;
}

/* Refuses early where no entry at all may be written, even if there turns out to be none to write. */
static int
check_entries(DraftObject *self)
{
    if (draft_enter_entry(self) < 0) {
        return -1;
    }
    draft_leave(self);
    return 0;
}

static PyObject *
dict_setdefault(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    DraftObject *self = draft_of(op);
    PyObject *value;
    if (errors_check_count("setdefault", count, 1, 2) < 0) {
        return NULL;
    }
    if ((self->txn->read_only || self->scope != NULL) && check_entries(self) < 0) {
        return NULL;
    }
    if (draft_map_get(self, args[0], &value) != 0) {
        return value;
    }
    if (dict_ass_subscript(op, args[0], count == 2 ? args[1] : Py_None) < 0) {
        return NULL;
    }
    return dict_subscript(op, args[0]);
}

static PyObject *
dict_pop(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *value;
    if (errors_check_count("pop", count, 1, 2) < 0) {
        return NULL;
    }
    int removed = dict_remove(draft_of(self), args[0], &value);
    if (removed < 0) {
        return NULL;
    }
    if (removed == 0) {
        if (count == 2) {
            return Py_NewRef(args[1]);
        }
        draft_key_error(args[0]);
    }
    return value;
}

/* The last key: a new reference, or NULL without an exception if there is none. The caller has
 * entered. */
static PyObject *
dict_last_key(DraftObject *self)
{
    theus_cursor cursor;
    void *key = NULL;
    theus_cell_read_shape(self->cell);
    theus_cursor_init(&cursor, self->cell->now, true);
    while (theus_cursor_prev(&cursor, NULL, &key, NULL)) {
        if (!draft_hides(self) || !draft_hides_key(self, (PyObject *)key)) {
            return Py_NewRef((PyObject *)key);
        }
    }
    return NULL;
}

static PyObject *
dict_popitem(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DraftObject *self = draft_of(op);
    PyObject *value = NULL, *key;
    int removed;
    do {
        if (check_entries(self) < 0 || draft_enter_open(self) < 0) {
            return NULL;
        }
        key = dict_last_key(self);
        draft_leave(self);
        if (key == NULL) {
            PyErr_SetString(PyExc_KeyError, "popitem(): dictionary is empty");
            return NULL;
        }
        removed = dict_remove(self, key, &value);
        if (removed != 1) {
            Py_DECREF(key); /* its __eq__ or __hash__ has removed it: the next one then */
        }
    } while (removed == 0);
    return removed < 0 ? NULL : Py_BuildValue("(NN)", key, value);
}

static PyObject *
dict_update(PyObject *op, PyObject *args, PyObject *kwargs)
{
    DraftObject *self = draft_of(op);
    PyObject *source = NULL;
    if (!PyArg_UnpackTuple(args, "update", 0, 1, &source)) {
        return NULL;
    }
    if (check_entries(self) < 0) {
        return NULL;
    }
    if (source != NULL && draft_map_update(self, source) < 0) {
        return NULL;
    }
    if (kwargs != NULL && draft_map_update(self, kwargs) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
dict_keys(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_view(draft_of(self), DRAFT_KEYS);
}

static PyObject *
dict_values(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_view(draft_of(self), DRAFT_VALUES);
}

static PyObject *
dict_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_view(draft_of(self), DRAFT_ITEMS);
}

static PyObject *
dict_iter(PyObject *self)
{
    return draft_iterate(draft_of(self), DRAFT_KEYS, false);
}

static PyObject *
dict_reversed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_iterate(draft_of(self), DRAFT_KEYS, true);
}

/* ---- operators ---------------------------------------------------------------------- */

static bool
is_dict(const module_state *st, PyObject *object)
{
    return PyDict_Check(object) || Py_IS_TYPE(object, st->DraftDict_type)
           || Py_IS_TYPE(object, st->FrozenDict_type);
}

static PyObject *
dict_or(PyObject *left, PyObject *right)
{
    const module_state *st = draft_operand_state(left, right);
    if (!is_dict(st, left) || !is_dict(st, right)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = PyDict_New();
    if (result != NULL && (PyDict_Update(result, left) < 0 || PyDict_Update(result, right) < 0)) {
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
dict_inplace_or(PyObject *self, PyObject *other)
{
    if (check_entries(draft_of(self)) < 0) {
        return NULL;
    }
    return draft_map_update(draft_of(self), other) < 0 ? NULL : Py_NewRef(self);
}

static PyMethodDef dict_methods[] = {
    {"get", THEUS_FASTCALL(dict_get), METH_FASTCALL,
     PyDoc_STR("get($self, key, default=None, /)\n--\n\nThe value under key, or the default.")},
    {"setdefault", THEUS_FASTCALL(dict_setdefault), METH_FASTCALL,
     PyDoc_STR(
         "setdefault($self, key, default=None, /)\n--\n\n"
         "The value under key; stores the default first if there is none. Of a container that was\n"
         "stored you get the draft, not the object you gave.")},
    {"pop", THEUS_FASTCALL(dict_pop), METH_FASTCALL,
     PyDoc_STR("pop($self, key, default=<unset>, /)\n--\n\n"
               "Removes the key and returns its value. A container comes as a draft that lives on "
               "by itself.")},
    {"popitem", dict_popitem, METH_NOARGS,
     PyDoc_STR(
         "popitem($self, /)\n--\n\nRemoves the newest entry and returns it as (key, value).")},
    {"update", THEUS_FASTCALL(dict_update), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("update($self, source=(), /, **more)\n--\n\n"
               "Stores every entry of a mapping or of an iterable of pairs, then the keywords.")},
    {"keys", dict_keys, METH_NOARGS, PyDoc_STR("keys($self, /)\n--\n\nA live view of the keys.")},
    {"values", dict_values, METH_NOARGS,
     PyDoc_STR("values($self, /)\n--\n\nA live view of the values.")},
    {"items", dict_items, METH_NOARGS,
     PyDoc_STR("items($self, /)\n--\n\nA live view of the pairs (key, value).")},
    {"__reversed__", dict_reversed, METH_NOARGS, PyDoc_STR("The keys, newest first.")},
    DRAFT_SHARED_METHODS("to_dict"),
    {0},
};

PyDoc_STRVAR(
    dict_doc,
    "A map of the state, as its transaction sees and changes it.\n\n"
    "Behaves as a dict that keeps the order of insertion, with one difference: what is stored\n"
    "is copied. d.name reads and writes d['name'] where no method has that name. Usable until\n"
    "the transaction ends; freeze() gives what stays.");

static PyType_Slot dict_slots[] = {
    {Py_tp_doc, (void *)dict_doc},
    {Py_tp_dealloc, draft_dealloc},
    {Py_tp_traverse, draft_traverse},
    {Py_tp_repr, draft_repr},
    {Py_tp_richcompare, draft_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_getattro, dict_getattro},
    {Py_tp_setattro, dict_setattro},
    {Py_tp_iter, dict_iter},
    {Py_mp_length, draft_length},
    {Py_mp_subscript, dict_subscript},
    {Py_mp_ass_subscript, dict_ass_subscript},
    {Py_sq_contains, dict_contains},
    {Py_nb_or, dict_or},
    {Py_nb_inplace_or, dict_inplace_or},
    {Py_tp_methods, dict_methods},
    {Py_tp_members, draft_members},
    {0, NULL},
};

static PyType_Spec dict_spec = {
    .name = "theus._theus.DraftDict",
    .basicsize = sizeof(DraftObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_MAPPING,
    .slots = dict_slots,
};

int
add_draft_dict_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &dict_spec, &st->DraftDict_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->DraftDict_type, "MutableMapping");
}
