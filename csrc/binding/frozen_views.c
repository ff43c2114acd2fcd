/* keys(), values() and items() of a FrozenDict, with the behaviour of dict's views. */
#include "frozen_views.h"

#include "container_py.h"
#include "repr.h"

typedef struct {
    PyObject_HEAD
    HandleObject *map; /* owned */
} ViewObject;

static HandleObject *
map_of(PyObject *op)
{
    return ((ViewObject *)op)->map;
}

static PyTypeObject *
view_type(const module_state *st, iterate_what what)
{
    return what == ITERATE_KEYS     ? st->FrozenKeys_type
           : what == ITERATE_VALUES ? st->FrozenValues_type
                                    : st->FrozenItems_type;
}

static iterate_what
view_what(PyObject *op)
{
    const module_state *st = map_of(op)->heap->st;
    return Py_IS_TYPE(op, st->FrozenKeys_type)     ? ITERATE_KEYS
           : Py_IS_TYPE(op, st->FrozenValues_type) ? ITERATE_VALUES
                                                   : ITERATE_ITEMS;
}

PyObject *
view_new(HandleObject *map, iterate_what what)
{
    ViewObject *self = PyObject_GC_New(ViewObject, view_type(map->heap->st, what));
    if (self != NULL) {
        self->map = (HandleObject *)Py_NewRef((PyObject *)map);
        PyObject_GC_Track(self);
    }
    return (PyObject *)self;
}

static int
view_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(map_of(op));
    return 0;
}

static void
view_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject_GC_UnTrack(op);
    Py_DECREF((PyObject *)map_of(op));
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

/* ---- all three ----------------------------------------------------------------- */

static Py_ssize_t
view_length(PyObject *op)
{
    return map_of(op)->node->count;
}

static PyObject *
view_walk(PyObject *op, bool reversed)
{
    HandleObject *map = map_of(op);
    return iterator_new(map->heap, (PyObject *)map, map->node, view_what(op), reversed);
}

static PyObject *
view_iter(PyObject *op)
{
    return view_walk(op, false);
}

static PyObject *
view_reversed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return view_walk(op, true);
}

static PyObject *
view_repr(PyObject *op)
{
    static const char *const names[] = {
        [ITERATE_KEYS] = "FrozenKeys",
        [ITERATE_VALUES] = "FrozenValues",
        [ITERATE_ITEMS] = "FrozenItems",
    };
    iterate_what what = view_what(op);
    int inside = Py_ReprEnter(op);
    if (inside != 0) {
        return inside < 0 ? NULL : PyUnicode_FromFormat("%s(...)", names[what]);
    }
    PyObject *result = container_repr_part(names[what], map_of(op)->heap, map_of(op)->node, what);
    Py_ReprLeave(op);
    return result;
}

static PyObject *
view_get_mapping(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)map_of(op));
}

static PyGetSetDef view_getset[] = {
    {"mapping", view_get_mapping, NULL, PyDoc_STR("The FrozenDict that this shows."), NULL},
    {0},
};

/* ---- keys and items as sets ---------------------------------------------------- */

static int
keys_contains(PyObject *op, PyObject *key)
{
    uint32_t pos;
    return container_find(map_of(op)->heap, map_of(op)->node, key, &pos, NULL);
}

static int
items_contains(PyObject *op, PyObject *item)
{
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
        return 0;
    }
    HandleObject *map = map_of(op);
    uint32_t pos;
    theus_value value;
    int found = container_find(map->heap, map->node, PyTuple_GET_ITEM(item, 0), &pos, &value);
    if (found <= 0) {
        return found;
    }
    PyObject *wrapped = handle_wrap(map->heap, value);
    if (wrapped == NULL) {
        return -1;
    }
    int equal = PyObject_RichCompareBool(wrapped, PyTuple_GET_ITEM(item, 1), Py_EQ);
    Py_DECREF(wrapped);
    return equal;
}

/* The operand on either side may be the view, the other any iterable; the result is a set, as
 * for dict's views. */
static PyObject *
view_combine(PyObject *a, PyObject *b, binaryfunc operation)
{
    PyObject *result = NULL, *left = PySet_New(a), *right = NULL;
    if (left != NULL) {
        right = PySet_New(b);
    }
    if (right != NULL) {
        result = operation(left, right);
    }
    Py_XDECREF(left);
    Py_XDECREF(right);
    return result;
}

static PyObject *
view_and(PyObject *a, PyObject *b)
{
    return view_combine(a, b, PyNumber_And);
}

static PyObject *
view_or(PyObject *a, PyObject *b)
{
    return view_combine(a, b, PyNumber_Or);
}

static PyObject *
view_xor(PyObject *a, PyObject *b)
{
    return view_combine(a, b, PyNumber_Xor);
}

static PyObject *
view_subtract(PyObject *a, PyObject *b)
{
    return view_combine(a, b, PyNumber_Subtract);
}

/* 1 if every element of `a` is in `b`. */
static int
all_contained(PyObject *a, PyObject *b)
{
    PyObject *iterator = PyObject_GetIter(a), *element;
    if (iterator == NULL) {
        return -1;
    }
    int contained = 1;
    while (contained == 1 && (element = PyIter_Next(iterator)) != NULL) {
        contained = PySequence_Contains(b, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : contained;
}

static bool
is_set_like(const module_state *st, PyObject *object)
{
    return PyAnySet_Check(object) || PyDictViewSet_Check(object)
           || Py_IS_TYPE(object, st->FrozenKeys_type) || Py_IS_TYPE(object, st->FrozenItems_type)
           || Py_IS_TYPE(object, st->FrozenSet_type);
}

static PyObject *
view_richcompare(PyObject *op, PyObject *other, int how)
{
    if (!is_set_like(map_of(op)->heap->st, other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    Py_ssize_t ours = view_length(op), theirs = PyObject_Size(other);
    if (theirs < 0) {
        return NULL;
    }
    int result = 0;
    switch (how) {
    case Py_EQ:
    case Py_NE:
        result = ours == theirs ? all_contained(op, other) : 0;
        if (how == Py_NE && result >= 0) {
            result = !result;
        }
        break;
    case Py_LT:
    case Py_LE:
        result = ours < theirs || (how == Py_LE && ours == theirs) ? all_contained(op, other) : 0;
        break;
    case Py_GT:
    case Py_GE:
        result = ours > theirs || (how == Py_GE && ours == theirs) ? all_contained(other, op) : 0;
        break;
    }
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
view_isdisjoint(PyObject *op, PyObject *other)
{
    PyObject *iterator = PyObject_GetIter(other), *element;
    if (iterator == NULL) {
        return NULL;
    }
    int met = 0;
    while (met == 0 && (element = PyIter_Next(iterator)) != NULL) {
        met = PySequence_Contains(op, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return met < 0 || PyErr_Occurred() ? NULL : PyBool_FromLong(!met);
}

/* ---- types --------------------------------------------------------------------- */

#define REVERSED                                 \
    {"__reversed__", view_reversed, METH_NOARGS, \
     PyDoc_STR("An iterator from the last to the first.")}

static PyMethodDef values_methods[] = {
    REVERSED,
    {0},
};

static PyMethodDef set_like_methods[] = {
    REVERSED,
    {"isdisjoint", view_isdisjoint, METH_O,
     PyDoc_STR("Whether the two have no element in common.")},
    {0},
};

#define VIEW_SLOTS                                                                           \
    {Py_tp_traverse, view_traverse}, {Py_tp_dealloc, view_dealloc}, {Py_tp_iter, view_iter}, \
        {Py_tp_repr, view_repr}, {Py_tp_getset, view_getset}, {Py_mp_length, view_length},   \
    {                                                                                        \
        Py_sq_length, view_length                                                            \
    }

#define SET_SLOTS                                                                              \
    {Py_tp_methods, set_like_methods}, {Py_tp_richcompare, view_richcompare},                  \
        {Py_tp_hash, PyObject_HashNotImplemented}, {Py_nb_and, view_and}, {Py_nb_or, view_or}, \
        {Py_nb_xor, view_xor},                                                                 \
    {                                                                                          \
        Py_nb_subtract, view_subtract                                                          \
    }

static PyType_Slot keys_slots[] = {
    VIEW_SLOTS,
    SET_SLOTS,
    {Py_tp_doc, "The keys of a FrozenDict, in insertion order, as a set."},
    {Py_sq_contains, keys_contains},
    {0, NULL},
};

static PyType_Slot items_slots[] = {
    VIEW_SLOTS,
    SET_SLOTS,
    {Py_tp_doc, "The (key, value) pairs of a FrozenDict, in insertion order, as a set."},
    {Py_sq_contains, items_contains},
    {0, NULL},
};

static PyType_Slot values_slots[] = {
    VIEW_SLOTS,
    {Py_tp_doc, "The values of a FrozenDict, in insertion order."},
    {Py_tp_methods, values_methods},
    {0, NULL},
};

#define VIEW_SPEC(variable, type_name, type_slots)                                  \
    static PyType_Spec variable = {                                                 \
        .name = "theus._theus." type_name,                                          \
        .basicsize = sizeof(ViewObject),                                            \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE \
                 | Py_TPFLAGS_DISALLOW_INSTANTIATION,                               \
        .slots = type_slots,                                                        \
    }

VIEW_SPEC(keys_spec, "FrozenKeys", keys_slots);
VIEW_SPEC(values_spec, "FrozenValues", values_slots);
VIEW_SPEC(items_spec, "FrozenItems", items_slots);

int
add_frozen_view_types(PyObject *module, module_state *st)
{
    if (module_add_type(module, &keys_spec, &st->FrozenKeys_type) < 0
        || module_add_type(module, &values_spec, &st->FrozenValues_type) < 0
        || module_add_type(module, &items_spec, &st->FrozenItems_type) < 0
        || module_register_abc(st, st->FrozenKeys_type, "KeysView") < 0
        || module_register_abc(st, st->FrozenValues_type, "ValuesView") < 0) {
        return -1;
    }
    return module_register_abc(st, st->FrozenItems_type, "ItemsView");
}
