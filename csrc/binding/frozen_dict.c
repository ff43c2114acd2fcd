/* FrozenDict: the persistent mapping. */
#include "attributes.h"
#include "compare.h"
#include "container_py.h"
#include "frozen_views.h"
#include "mutation.h"
#include "repr.h"

/* ---- making -------------------------------------------------------------------- */

/* Fills `edit` from the arguments of dict(...). Steals it. */
static PyObject *
fill_and_seal(HeapObject *heap, theus_container *edit, PyObject *source, PyObject *kwargs)
{
    if ((source != NULL && map_update(heap, edit, source, NULL) < 0)
        || (kwargs != NULL && map_update(heap, edit, kwargs, NULL) < 0)) {
        theus_container_release(edit);
        return NULL;
    }
    return handle_seal(heap, edit);
}

static PyObject *
dict_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *source = NULL;
    if (!PyArg_UnpackTuple(args, "FrozenDict", 0, 1, &source)) {
        return NULL;
    }
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) == 0) {
        kwargs = NULL;
    }
    if (source != NULL && kwargs == NULL) {
        if (Py_IS_TYPE(source, type)) {
            return Py_NewRef(source);
        }
        if (PyDict_CheckExact(source)) {
            return freeze_object(module_state_of_type(type), source);
        }
    }
    HeapObject *heap = heap_new(module_state_of_type(type));
    if (heap == NULL) {
        return NULL;
    }
    theus_container *edit = container_new(heap, THEUS_MAP);
    PyObject *result = edit == NULL ? NULL : fill_and_seal(heap, edit, source, kwargs);
    Py_DECREF((PyObject *)heap);
    return result;
}

static PyObject *
dict_fromkeys(PyObject *type, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError,
                            "fromkeys() takes keys and at most one value, not %zd arguments",
                            count);
    }
    PyObject *dict = PyObject_CallMethod((PyObject *)&PyDict_Type, "fromkeys", "OO", args[0],
                                         count == 2 ? args[1] : Py_None);
    if (dict == NULL) {
        return NULL;
    }
    PyObject *result = freeze_object(module_state_of_type((PyTypeObject *)type), dict);
    Py_DECREF(dict);
    return result;
}

/* ---- reading ------------------------------------------------------------------- */

static Py_ssize_t
dict_length(PyObject *op)
{
    return handle_of(op)->node->count;
}

static int
dict_contains(PyObject *op, PyObject *key)
{
    uint32_t pos;
    return container_find(handle_of(op)->heap, handle_of(op)->node, key, &pos, NULL);
}

static PyObject *
dict_subscript(PyObject *op, PyObject *key)
{
    HandleObject *self = handle_of(op);
    uint32_t pos;
    theus_value value;
    int found = container_find(self->heap, self->node, key, &pos, &value);
    if (found > 0) {
        return handle_wrap(self->heap, value);
    }
    if (found == 0) {
        errors_key(key);
    }
    return NULL;
}

static PyObject *
dict_get(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError,
                            "get() takes a key and at most one default, not %zd arguments", count);
    }
    HandleObject *self = handle_of(op);
    uint32_t pos;
    theus_value value;
    int found = container_find(self->heap, self->node, args[0], &pos, &value);
    if (found > 0) {
        return handle_wrap(self->heap, value);
    }
    return found < 0 ? NULL : Py_NewRef(count == 2 ? args[1] : Py_None);
}

static PyObject *
dict_iter(PyObject *op)
{
    return iterator_new(handle_of(op)->heap, op, handle_of(op)->node, ITERATE_KEYS, false);
}

static PyObject *
dict_reversed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return iterator_new(handle_of(op)->heap, op, handle_of(op)->node, ITERATE_KEYS, true);
}

static PyObject *
dict_keys(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return view_new(handle_of(op), ITERATE_KEYS);
}

static PyObject *
dict_values(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return view_new(handle_of(op), ITERATE_VALUES);
}

static PyObject *
dict_items(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return view_new(handle_of(op), ITERATE_ITEMS);
}

static PyObject *
dict_richcompare(PyObject *op, PyObject *other, int how)
{
    HandleObject *self = handle_of(op);
    int equal;
    if (how != Py_EQ && how != Py_NE) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (Py_IS_TYPE(other, Py_TYPE(op))) {
        equal = containers_equal(self->heap, self->node, handle_of(other)->heap,
                                 handle_of(other)->node);
    }
    else if (PyDict_Check(other)) {
        equal = map_equals_dict(self->heap, self->node, other);
    }
    else {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return equal < 0 ? NULL : PyBool_FromLong(equal == (how == Py_EQ));
}

/* ---- keys as attributes -------------------------------------------------------- */

static PyObject *
dict_getattro(PyObject *op, PyObject *name)
{
    HandleObject *self = handle_of(op);
    PyObject *own;
    int found = attribute_own(self->heap->st->frozen_dict_names, op, name, &own);
    if (found != 0) {
        return found < 0 ? NULL : own;
    }
    uint32_t pos;
    theus_value value;
    found = container_find(self->heap, self->node, name, &pos, &value);
    if (found > 0) {
        return handle_wrap(self->heap, value);
    }
    if (found == 0) {
        attribute_missing(op, name);
    }
    return NULL;
}

#define WAYS_TO_CHANGE \
    "make a changed copy with set(), delete(), update() or mutate(), or write in a transaction"

static int
dict_setattro(PyObject *op, PyObject *Py_UNUSED(name), PyObject *Py_UNUSED(value))
{
    return handle_refuse_write(op, WAYS_TO_CHANGE);
}

static int
dict_ass_subscript(PyObject *op, PyObject *Py_UNUSED(key), PyObject *Py_UNUSED(value))
{
    return handle_refuse_write(op, WAYS_TO_CHANGE);
}

static PyObject *
dict_dir(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    HandleObject *self = handle_of(op);
    PyObject *names = PySet_New(self->heap->st->frozen_dict_names);
    theus_cursor cursor;
    void *key;
    theus_cursor_init(&cursor, self->node, false);
    while (names != NULL && theus_cursor_next(&cursor, NULL, &key, NULL)) {
        PyObject *name = (PyObject *)key; /* borrowed from the container */
        if (PyUnicode_Check(name) && PyUnicode_IsIdentifier(name) == 1
            && PySet_Add(names, name) < 0) {
            Py_CLEAR(names);
        }
    }
    if (names == NULL) {
        return NULL;
    }
    PyObject *list = PySequence_List(names);
    Py_DECREF(names);
    return list;
}

/* ---- changed copies ------------------------------------------------------------ */

static PyObject *
dict_set(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set() takes a key and a value, not %zd arguments",
                            count);
    }
    HandleObject *self = handle_of(op);
    HeapObject *heap = self->heap;
    uint64_t hash;
    uint32_t pos;
    theus_value value, old;
    freeze_path here = freeze_path_key(NULL, args[0]);
    if (key_hash(args[0], &hash) < 0 || freeze_value(heap, args[1], &here, &value) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    int found = container_find_hashed(heap, self->node, args[0], hash, &pos, &old);
    if (found > 0 && old == value) {
        result = Py_NewRef(op);
    }
    else if (found > 0) {
        theus_container *changed;
        theus_status status = theus_container_with(self->node, pos, value, &changed);
        result = status == THEUS_OK ? handle_new(heap, changed) : errors_raise(heap->st, status);
    }
    else if (found == 0) {
        theus_container *edit = container_edit(heap, self->node);
        if (edit != NULL) {
            theus_status status = theus_container_insert(edit, hash, args[0], value, NULL);
            if (status == THEUS_OK) {
                result = handle_seal(heap, edit);
            }
            else {
                theus_container_release(edit);
                errors_raise(heap->st, status);
            }
        }
    }
    freeze_drop(heap, value);
    return result;
}

static PyObject *
dict_delete(PyObject *op, PyObject *key)
{
    HandleObject *self = handle_of(op);
    theus_container *edit = container_edit(self->heap, self->node);
    if (edit == NULL) {
        return NULL;
    }
    int removed = container_discard(self->heap, edit, key);
    if (removed == 1) {
        return handle_seal(self->heap, edit);
    }
    theus_container_release(edit);
    if (removed == 0) {
        errors_key(key);
    }
    return NULL;
}

static PyObject *
dict_update(PyObject *op, PyObject *args, PyObject *kwargs)
{
    HandleObject *self = handle_of(op);
    PyObject *source = NULL;
    if (!PyArg_UnpackTuple(args, "update", 0, 1, &source)) {
        return NULL;
    }
    if (source == NULL && kwargs == NULL) {
        return Py_NewRef(op);
    }
    theus_container *edit = container_edit(self->heap, self->node);
    return edit == NULL ? NULL : fill_and_seal(self->heap, edit, source, kwargs);
}

static PyObject *
dict_mutate(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return mutation_new(handle_of(op)->heap, handle_of(op)->node);
}

static int
is_mapping(module_state *st, PyObject *object)
{
    if (PyDict_Check(object) || Py_IS_TYPE(object, st->FrozenDict_type)) {
        return 1;
    }
    PyObject *mapping = PyObject_GetAttrString(st->abc, "Mapping");
    if (mapping == NULL) {
        return -1;
    }
    int yes = PyObject_IsInstance(object, mapping);
    Py_DECREF(mapping);
    return yes;
}

/* One side is a FrozenDict; the result is one of its heap, the right side wins. */
static PyObject *
dict_or(PyObject *a, PyObject *b)
{
    module_state *st = binary_state(a, b);
    if (st == NULL) {
        return NULL;
    }
    bool left = Py_IS_TYPE(a, st->FrozenDict_type);
    int other = is_mapping(st, left ? b : a);
    if (other <= 0) {
        return other < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    }
    HandleObject *self = handle_of(left ? a : b);
    theus_container *edit =
        left ? container_edit(self->heap, self->node) : container_new(self->heap, THEUS_MAP);
    if (edit != NULL && !left && map_update(self->heap, edit, a, NULL) < 0) {
        theus_container_release(edit);
        return NULL;
    }
    return edit == NULL ? NULL : fill_and_seal(self->heap, edit, b, NULL);
}

/* ---- out of theus -------------------------------------------------------------- */

static PyObject *
dict_to_dict(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return thaw_object(handle_of(op)->heap->st, op);
}

static PyMethodDef dict_methods[] = {
    {"keys", dict_keys, METH_NOARGS,
     PyDoc_STR("keys($self, /)\n--\n\nThe keys, as a set-like view.")},
    {"values", dict_values, METH_NOARGS,
     PyDoc_STR("values($self, /)\n--\n\nThe values, as a view.")},
    {"items", dict_items, METH_NOARGS,
     PyDoc_STR("items($self, /)\n--\n\nThe (key, value) pairs, as a set-like view.")},
    {"get", THEUS_FASTCALL(dict_get), METH_FASTCALL,
     PyDoc_STR("get($self, key, default=None, /)\n--\n\nThe value of a key, or the default.")},
    {"set", THEUS_FASTCALL(dict_set), METH_FASTCALL,
     PyDoc_STR("set($self, key, value, /)\n--\n\nA copy with this key set, in O(log n). The value "
               "is frozen.")},
    {"delete", dict_delete, METH_O,
     PyDoc_STR(
         "delete($self, key, /)\n--\n\nA copy without this key. KeyError if it is not there.")},
    {"update", THEUS_FASTCALL(dict_update), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "A copy with the entries of a mapping, of an iterable of pairs, and of the keywords.")},
    {"mutate", dict_mutate, METH_NOARGS,
     PyDoc_STR("mutate($self, /)\n--\n\n"
               "A private writable copy: with m.mutate() as d: d['x'] = 1; new = d.finish()")},
    {"to_dict", dict_to_dict, METH_NOARGS,
     PyDoc_STR(
         "to_dict($self, /)\n--\n\nThe same as dicts, lists and sets, independent at any depth.")},
    {"fromkeys", THEUS_FASTCALL(dict_fromkeys), METH_FASTCALL | METH_CLASS,
     PyDoc_STR("fromkeys($type, keys, value=None, /)\n--\n\nA FrozenDict with these keys, all with "
               "the value.")},
    {"copy", handle_copy, METH_NOARGS,
     PyDoc_STR("copy($self, /)\n--\n\nItself: it cannot change.")},
    {"__copy__", handle_copy, METH_NOARGS, NULL},
    {"__deepcopy__", handle_copy, METH_O, NULL},
    {"__reduce__", handle_reduce, METH_NOARGS, NULL},
    {"__reversed__", dict_reversed, METH_NOARGS,
     PyDoc_STR("An iterator over the keys, last first.")},
    {"__dir__", dict_dir, METH_NOARGS, PyDoc_STR("Methods, and keys that are identifiers.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("FrozenDict[K, V], for annotations.")},
    {0},
};

PyDoc_STRVAR(dict_doc,
             "FrozenDict(source=(), /, **kwargs)\n--\n\n"
             "An immutable dict whose changed copies share what did not change.\n\n"
             "Values are frozen when they are stored: dict becomes FrozenDict, list FrozenList, "
             "set FrozenSet.\n"
             "It keeps insertion order, equals a dict with the same entries, and is hashable if "
             "its values are.\n"
             "Keys that are identifiers can be read as attributes, unless the name is a method.");

static PyType_Slot dict_slots[] = {
    {Py_tp_doc, (void *)dict_doc},
    {Py_tp_new, dict_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_members, handle_members},
    {Py_tp_methods, dict_methods},
    {Py_tp_getattro, dict_getattro},
    {Py_tp_setattro, dict_setattro},
    {Py_tp_repr, handle_repr},
    {Py_tp_hash, handle_hash},
    {Py_tp_richcompare, dict_richcompare},
    {Py_tp_iter, dict_iter},
    {Py_mp_length, dict_length},
    {Py_mp_subscript, dict_subscript},
    {Py_mp_ass_subscript, dict_ass_subscript},
    {Py_sq_contains, dict_contains},
    {Py_nb_or, dict_or},
    {0, NULL},
};

static PyType_Spec dict_spec = {
    .name = "theus.FrozenDict",
    .basicsize = sizeof(HandleObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_MAPPING,
    .slots = dict_slots,
};

int
add_frozen_dict_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &dict_spec, &st->FrozenDict_type) < 0
        || module_register_abc(st, st->FrozenDict_type, "Mapping") < 0) {
        return -1;
    }
    st->frozen_dict_names = attributes_of_type(st->FrozenDict_type);
    return st->frozen_dict_names == NULL ? -1 : 0;
}
