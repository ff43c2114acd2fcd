/* FrozenDictMutation: a private edit of a map with dict's methods.
 *
 * Comparing keys can run Python code that writes to this very edit. So no position is used
 * after any call that can run Python: look up, then act at once. Making an object can run the
 * collector, which counts.
 *
 * Threads that share one are kept apart by its critical section, which lasts until Python code runs that
 * waits: what can happen between is what that code can do anyway. Functions named *_held run in it. */
#include "mutation.h"

#include "compare.h"
#include "container_py.h"
#include "iterator.h"
#include "repr.h"

typedef struct {
    PyObject_HEAD
    HeapObject *heap;      /* owned */
    theus_container *edit; /* one count; sealed once finished */
} MutationObject;

static MutationObject *
mutation_of(PyObject *op)
{
    return (MutationObject *)op;
}

PyObject *
mutation_new(HeapObject *heap, theus_container *base)
{
    theus_container *edit = container_edit(heap, base);
    if (edit == NULL) {
        return NULL;
    }
    MutationObject *self = PyObject_GC_New(MutationObject, heap->st->FrozenDictMutation_type);
    if (self == NULL) {
        theus_container_release(edit);
        return NULL;
    }
    self->heap = (HeapObject *)Py_NewRef((PyObject *)heap);
    self->edit = edit;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int
mutation_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(mutation_of(op)->heap);
    return 0;
}

static void
mutation_dealloc(PyObject *op)
{
    MutationObject *self = mutation_of(op);
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    THEUS_TRASHCAN_BEGIN(op, mutation_dealloc)
    theus_container_release(self->edit);
    Py_DECREF((PyObject *)self->heap);
    PyObject_GC_Del(op);
    Py_DECREF(type);
    THEUS_TRASHCAN_END
}

/* ---- one thread at a time ------------------------------------------------------------------ */

/* name(op ...) is name_held(op ...) in the critical section of op. */
#define HOLDING(type, name, parameters, ...)   \
    static type name parameters                \
    {                                          \
        type result;                           \
        Py_BEGIN_CRITICAL_SECTION(op);         \
        result = name##_held(op, __VA_ARGS__); \
        Py_END_CRITICAL_SECTION();             \
        return result;                         \
    }
#define HOLDING_NOARGS(name) HOLDING(PyObject *, name, (PyObject * op, PyObject *ignored), ignored)
#define HOLDING_FASTCALL(name) \
    HOLDING(PyObject *, name, (PyObject * op, PyObject *const *args, Py_ssize_t count), args, count)

/* ---- reading ---------------------------------------------------------------------------- */

static Py_ssize_t
mutation_length(PyObject *op)
{
    Py_ssize_t length;
    Py_BEGIN_CRITICAL_SECTION(op);
    length = mutation_of(op)->edit->count;
    Py_END_CRITICAL_SECTION();
    return length;
}

static int
mutation_contains_held(PyObject *op, PyObject *key)
{
    uint32_t pos;
    return container_find(mutation_of(op)->heap, mutation_of(op)->edit, key, &pos, NULL);
}

HOLDING(int, mutation_contains, (PyObject * op, PyObject *key), key)

/* The value of a key, as a new reference in *value: 1; or 0, or -1. */
static int
mutation_lookup(MutationObject *self, PyObject *key, PyObject **value)
{
    uint32_t pos;
    theus_value found_value;
    int found = container_find(self->heap, self->edit, key, &pos, &found_value);
    if (found <= 0) {
        *value = NULL;
        return found;
    }
    *value = handle_wrap(self->heap, found_value);
    return *value == NULL ? -1 : 1;
}

static PyObject *
mutation_subscript_held(PyObject *op, PyObject *key)
{
    PyObject *value;
    if (mutation_lookup(mutation_of(op), key, &value) == 0) {
        errors_key(key);
    }
    return value;
}

HOLDING(PyObject *, mutation_subscript, (PyObject * op, PyObject *key), key)

static PyObject *
mutation_get_held(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError,
                            "get() takes a key and at most one default, not %zd arguments", count);
    }
    PyObject *value;
    int found = mutation_lookup(mutation_of(op), args[0], &value);
    return found == 0 ? Py_NewRef(count == 2 ? args[1] : Py_None) : value;
}

HOLDING_FASTCALL(mutation_get)

static PyObject *
mutation_iterate(PyObject *op, bool reversed)
{
    PyObject *iterator;
    Py_BEGIN_CRITICAL_SECTION(op);
    iterator = iterator_new(mutation_of(op)->heap, op, mutation_of(op)->edit, ITERATE_KEYS, reversed);
    Py_END_CRITICAL_SECTION();
    return iterator;
}

static PyObject *
mutation_iter(PyObject *op)
{
    return mutation_iterate(op, false);
}

static PyObject *
mutation_reversed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return mutation_iterate(op, true);
}

/* KeysView(self) and its sisters from collections.abc: a mutation is not the place to be fast
 * at this. */
static PyObject *
mutation_view(PyObject *op, const char *name)
{
    return PyObject_CallMethod(mutation_of(op)->heap->st->abc, name, "O", op);
}

static PyObject *
mutation_keys(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return mutation_view(op, "KeysView");
}

static PyObject *
mutation_values(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return mutation_view(op, "ValuesView");
}

static PyObject *
mutation_items(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return mutation_view(op, "ItemsView");
}

/* The content as it is now, as a FrozenDict. Entry by entry: only what is sealed can be shared. */
static PyObject *
mutation_snapshot_held(PyObject *op)
{
    MutationObject *self = mutation_of(op);
    if (self->edit->edit == 0) {
        return handle_wrap_container(self->heap, self->edit);
    }
    theus_container *copy = container_new(self->heap, THEUS_MAP);
    if (copy == NULL || map_update(self->heap, copy, op, NULL) < 0) {
        theus_container_release(copy);
        return NULL;
    }
    return handle_seal(self->heap, copy);
}

static PyObject *
mutation_snapshot(PyObject *op)
{
    PyObject *snapshot;
    Py_BEGIN_CRITICAL_SECTION(op);
    snapshot = mutation_snapshot_held(op);
    Py_END_CRITICAL_SECTION();
    return snapshot;
}

static PyObject *
mutation_richcompare(PyObject *op, PyObject *other, int how)
{
    const module_state *st = mutation_of(op)->heap->st;
    bool mutation = Py_IS_TYPE(other, Py_TYPE(op));
    if ((how != Py_EQ && how != Py_NE)
        || (!mutation && !PyDict_Check(other) && !Py_IS_TYPE(other, st->FrozenDict_type))) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = NULL, *left = mutation_snapshot(op);
    PyObject *right = mutation ? mutation_snapshot(other) : Py_NewRef(other);
    if (left != NULL && right != NULL) {
        result = PyObject_RichCompare(left, right, how);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static PyObject *
mutation_repr(PyObject *op)
{
    PyObject *snapshot = mutation_snapshot(op);
    if (snapshot == NULL) {
        return NULL;
    }
    int inside = Py_ReprEnter(op);
    PyObject *result = NULL;
    if (inside > 0) {
        result = PyUnicode_FromString("FrozenDictMutation(...)");
    }
    else if (inside == 0) {
        result = container_repr("FrozenDictMutation", handle_of(snapshot)->heap, handle_of(snapshot)->node);
        Py_ReprLeave(op);
    }
    Py_DECREF(snapshot);
    return result;
}

/* ---- writing ------------------------------------------------------------------------------ */

/* 0 while the edit may be written. */
static int
mutation_check(MutationObject *self)
{
    if (self->edit->edit != 0) {
        return 0;
    }
    return errors_frozen(self->heap->st, (PyObject *)self,
                         "finish() has ended it; go on with mutate() of the result");
}

static int
mutation_store(MutationObject *self, PyObject *key, PyObject *object)
{
    theus_value value;
    freeze_path here = freeze_path_key(NULL, key);
    if (mutation_check(self) < 0 || freeze_value(self->heap, object, &here, &value) < 0) {
        return -1;
    }
    int result = map_store(self->heap, self->edit, key, value);
    freeze_drop(self->heap, value);
    return result;
}

/* 1, 0 if the key was not there, or -1. */
static int
mutation_remove(MutationObject *self, PyObject *key)
{
    return mutation_check(self) < 0 ? -1 : container_discard(self->heap, self->edit, key);
}

static int
mutation_ass_subscript_held(PyObject *op, PyObject *key, PyObject *value)
{
    if (value != NULL) {
        return mutation_store(mutation_of(op), key, value);
    }
    int removed = mutation_remove(mutation_of(op), key);
    return removed == 0 ? errors_key(key) : removed < 0 ? -1 : 0;
}

HOLDING(int, mutation_ass_subscript, (PyObject * op, PyObject *key, PyObject *value), key, value)

static PyObject *
mutation_set(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set() takes a key and a value, not %zd arguments",
                            count);
    }
    return mutation_ass_subscript(op, args[0], args[1]) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *
mutation_pop_held(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError,
                            "pop() takes a key and at most one default, not %zd arguments", count);
    }
    PyObject *value;
    if (mutation_check(mutation_of(op)) < 0) {
        return NULL;
    }
    int found = mutation_lookup(mutation_of(op), args[0], &value);
    if (found == 0 && count == 2) {
        return Py_NewRef(args[1]);
    }
    if (found == 0) {
        errors_key(args[0]);
    }
    else if (found > 0 && mutation_remove(mutation_of(op), args[0]) < 0) {
        Py_CLEAR(value);
    }
    return value;
}

HOLDING_FASTCALL(mutation_pop)

static PyObject *
mutation_popitem_held(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MutationObject *self = mutation_of(op);
    theus_cursor cursor;
    void *key;
    theus_value value;
    if (mutation_check(self) < 0) {
        return NULL;
    }
    theus_cursor_init(&cursor, self->edit, true);
    if (!theus_cursor_prev(&cursor, NULL, &key, &value)) {
        PyErr_SetString(PyExc_KeyError, "popitem(): the mutation is empty");
        return NULL;
    }
    PyObject *last = Py_NewRef((PyObject *)key);
    PyObject *wrapped = handle_wrap(self->heap, value);
    PyObject *pair = wrapped == NULL ? NULL : PyTuple_Pack(2, last, wrapped);
    if (pair != NULL && mutation_remove(self, last) < 0) {
        Py_CLEAR(pair);
    }
    Py_DECREF(last);
    Py_XDECREF(wrapped);
    return pair;
}

HOLDING_NOARGS(mutation_popitem)

static PyObject *
mutation_setdefault_held(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        return PyErr_Format(PyExc_TypeError,
                            "setdefault() takes a key and at most one default, not %zd arguments",
                            count);
    }
    PyObject *value;
    int found = mutation_lookup(mutation_of(op), args[0], &value);
    if (found != 0) {
        return value;
    }
    MutationObject *self = mutation_of(op);
    theus_value fresh;
    freeze_path here = freeze_path_key(NULL, args[0]);
    if (mutation_check(self) < 0
        || freeze_value(self->heap, count == 2 ? args[1] : Py_None, &here, &fresh) < 0) {
        return NULL;
    }
    if (map_store(self->heap, self->edit, args[0], fresh) == 0) {
        value = handle_wrap(self->heap, fresh);
    }
    freeze_drop(self->heap, fresh);
    return value;
}

HOLDING_FASTCALL(mutation_setdefault)

static PyObject *
mutation_update_held(PyObject *op, PyObject *args, PyObject *kwargs)
{
    MutationObject *self = mutation_of(op);
    PyObject *source = NULL;
    if (!PyArg_UnpackTuple(args, "update", 0, 1, &source) || mutation_check(self) < 0) {
        return NULL;
    }
    if ((source != NULL && map_update(self->heap, self->edit, source, NULL) < 0)
        || (kwargs != NULL && map_update(self->heap, self->edit, kwargs, NULL) < 0)) {
        return NULL;
    }
    Py_RETURN_NONE;
}

HOLDING(PyObject *, mutation_update, (PyObject * op, PyObject *args, PyObject *kwargs), args, kwargs)

static PyObject *
mutation_clear_all_held(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MutationObject *self = mutation_of(op);
    if (mutation_check(self) < 0) {
        return NULL;
    }
    theus_status status = theus_container_clear(self->edit);
    if (status != THEUS_OK) {
        return errors_raise(self->heap->st, status);
    }
    Py_RETURN_NONE;
}

HOLDING_NOARGS(mutation_clear_all)

/* ---- the end -------------------------------------------------------------------------------- */

static PyObject *
mutation_finish_held(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    MutationObject *self = mutation_of(op);
    theus_status status = theus_edit_seal(self->edit);
    if (status != THEUS_OK) {
        return errors_raise(self->heap->st, status);
    }
    return handle_wrap_container(self->heap, self->edit);
}

HOLDING_NOARGS(mutation_finish)

static PyObject *
mutation_enter(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(op);
}

static PyObject *
mutation_exit(PyObject *op, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(count))
{
    PyObject *finished = mutation_finish(op, NULL);
    if (finished == NULL) {
        return NULL;
    }
    Py_DECREF(finished);
    Py_RETURN_NONE;
}

static PyMethodDef mutation_methods[] = {
    {"set", THEUS_FASTCALL(mutation_set), METH_FASTCALL,
     PyDoc_STR("set($self, key, value, /)\n--\n\nThe same as self[key] = value.")},
    {"get", THEUS_FASTCALL(mutation_get), METH_FASTCALL,
     PyDoc_STR("get($self, key, default=None, /)\n--\n\nThe value of a key, or the default.")},
    {"pop", THEUS_FASTCALL(mutation_pop), METH_FASTCALL,
     PyDoc_STR("Removes a key and returns its value, or the default if there is one.")},
    {"popitem", mutation_popitem, METH_NOARGS,
     PyDoc_STR("popitem($self, /)\n--\n\nRemoves the newest entry and returns (key, value).")},
    {"setdefault", THEUS_FASTCALL(mutation_setdefault), METH_FASTCALL,
     PyDoc_STR("setdefault($self, key, default=None, /)\n--\n\nThe value of a key, stored if it "
               "was not there.")},
    {"update", THEUS_FASTCALL(mutation_update), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR("Stores the entries of a mapping, of an iterable of pairs, and of the keywords.")},
    {"clear", mutation_clear_all, METH_NOARGS,
     PyDoc_STR("clear($self, /)\n--\n\nRemoves everything.")},
    {"keys", mutation_keys, METH_NOARGS,
     PyDoc_STR("keys($self, /)\n--\n\nThe keys, as a set-like view.")},
    {"values", mutation_values, METH_NOARGS,
     PyDoc_STR("values($self, /)\n--\n\nThe values, as a view.")},
    {"items", mutation_items, METH_NOARGS,
     PyDoc_STR("items($self, /)\n--\n\nThe (key, value) pairs, as a view.")},
    {"finish", mutation_finish, METH_NOARGS,
     PyDoc_STR("finish($self, /)\n--\n\nEnds the mutation, in O(1), and gives the FrozenDict; "
               "again if asked again.")},
    {"__enter__", mutation_enter, METH_NOARGS, NULL},
    {"__exit__", THEUS_FASTCALL(mutation_exit), METH_FASTCALL, NULL},
    {"__reversed__", mutation_reversed, METH_NOARGS,
     PyDoc_STR("An iterator over the keys, last first.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("FrozenDictMutation[K, V], for annotations.")},
    {0},
};

static PyType_Slot mutation_slots[] = {
    {Py_tp_doc,
     "A private writable copy of a FrozenDict; finish() or leaving the with block ends it."},
    {Py_tp_dealloc, mutation_dealloc},
    {Py_tp_traverse, mutation_traverse},
    {Py_tp_methods, mutation_methods},
    {Py_tp_repr, mutation_repr},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_richcompare, mutation_richcompare},
    {Py_tp_iter, mutation_iter},
    {Py_mp_length, mutation_length},
    {Py_mp_subscript, mutation_subscript},
    {Py_mp_ass_subscript, mutation_ass_subscript},
    {Py_sq_contains, mutation_contains},
    {0, NULL},
};

static PyType_Spec mutation_spec = {
    .name = "theus.FrozenDictMutation",
    .basicsize = sizeof(MutationObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_MAPPING
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = mutation_slots,
};

int
add_mutation_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &mutation_spec, &st->FrozenDictMutation_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->FrozenDictMutation_type, "MutableMapping");
}
