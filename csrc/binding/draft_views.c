/* keys(), values() and items() of a DraftDict: the draft itself, under three names. */
#include "draft_parts.h"

typedef struct {
    PyObject_HEAD DraftObject *draft; /* owned; constant */
} DraftView;

static DraftObject *
view_draft(PyObject *view)
{
    return ((DraftView *)view)->draft;
}

static draft_what
view_what(PyObject *view)
{
    const module_state *st = draft_state(view_draft(view));
    return Py_IS_TYPE(view, st->DraftKeys_type)     ? DRAFT_KEYS
           : Py_IS_TYPE(view, st->DraftValues_type) ? DRAFT_VALUES
                                                    : DRAFT_ITEMS;
}

PyObject *
draft_view(DraftObject *draft, draft_what what)
{
    const module_state *st = draft_state(draft);
    PyTypeObject *type = what == DRAFT_KEYS     ? st->DraftKeys_type
                         : what == DRAFT_VALUES ? st->DraftValues_type
                                                : st->DraftItems_type;
    DraftView *self = PyObject_GC_New(DraftView, type);
    if (self == NULL) {
        return NULL;
    }
    self->draft = (DraftObject *)Py_NewRef((PyObject *)draft);
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

PyObject *
draft_view_frozen(PyObject *view)
{
    static const char *const names[] = {
        [DRAFT_KEYS] = "keys", [DRAFT_VALUES] = "values", [DRAFT_ITEMS] = "items"};
    PyObject *content = draft_frozen((PyObject *)view_draft(view));
    PyObject *frozen = content == NULL ? NULL : PyObject_CallMethod(content, names[view_what(view)], NULL);
    Py_XDECREF(content);
    return frozen;
}

/* ---- what all three can ------------------------------------------------------------- */

static Py_ssize_t
view_length(PyObject *self)
{
    return draft_length((PyObject *)view_draft(self));
}

static PyObject *
view_iter(PyObject *self)
{
    return draft_iterate(view_draft(self), view_what(self), false);
}

static PyObject *
view_reversed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_iterate(view_draft(self), view_what(self), true);
}

static PyObject *
view_mapping(PyObject *self, void *Py_UNUSED(closure))
{
    return PyDictProxy_New((PyObject *)view_draft(self));
}

static PyObject *
view_repr(PyObject *self)
{
    static const char *const names[] = {
        [DRAFT_KEYS] = "DraftKeys", [DRAFT_VALUES] = "DraftValues", [DRAFT_ITEMS] = "DraftItems"};
    PyObject *list = PySequence_List(self);
    if (list == NULL) {
        return NULL;
    }
    PyObject *text = PyUnicode_FromFormat("%s(%R)", names[view_what(self)], list);
    Py_DECREF(list);
    return text;
}

static int
view_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(view_draft(op));
    return 0;
}

static void
view_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    DraftObject *draft = view_draft(op);
    PyObject_GC_UnTrack(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
    Py_DECREF((PyObject *)draft);
}

/* ---- keys and items are sets too ---------------------------------------------------- */

static int
keys_contains(PyObject *self, PyObject *key)
{
    return PySequence_Contains((PyObject *)view_draft(self), key);
}

static int
items_contains(PyObject *self, PyObject *item)
{
    PyObject *value;
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
        return 0;
    }
    int result = draft_map_get(view_draft(self), PyTuple_GET_ITEM(item, 0), &value);
    if (result == 1) {
        result = PyObject_RichCompareBool(value, PyTuple_GET_ITEM(item, 1), Py_EQ);
        Py_DECREF(value);
    }
    return result;
}

/* Whether all elements of `small` are in `big`: 1, 0 or -1. */
static int
is_subset(PyObject *small, PyObject *big)
{
    PyObject *iterator = PyObject_GetIter(small), *element;
    if (iterator == NULL) {
        return -1;
    }
    int result = 1;
    while (result == 1 && (element = PyIter_Next(iterator)) != NULL) {
        result = PySequence_Contains(big, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return result == 1 && PyErr_Occurred() ? -1 : result;
}

static PyObject *
view_compare(PyObject *self, PyObject *other, int op)
{
    PyObject *set = PyObject_GetAttrString(draft_state(view_draft(self))->abc, "Set");
    if (set == NULL) {
        return NULL;
    }
    int like = PyAnySet_Check(other) ? 1 : PyObject_IsInstance(other, set);
    Py_DECREF(set);
    if (like <= 0) {
        return like < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    }
    Py_ssize_t ours = view_length(self);
    Py_ssize_t theirs = ours < 0 ? -1 : PyObject_Size(other);
    if (theirs < 0) {
        return NULL;
    }
    int result = 0;
    switch (op) {
    case Py_EQ:
    case Py_NE:
        result = ours == theirs ? is_subset(self, other) : 0;
        if (op == Py_NE && result >= 0) {
            result = !result;
        }
        break;
    case Py_LT:
    case Py_LE:
        result = (op == Py_LT ? ours < theirs : ours <= theirs) ? is_subset(self, other) : 0;
        break;
    case Py_GT:
    case Py_GE:
        result = (op == Py_GT ? ours > theirs : ours >= theirs) ? is_subset(other, self) : 0;
        break;
    }
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* set(left).method(right): as for dict's views, both sides may be any iterable. */
static PyObject *
set_operation(PyObject *left, PyObject *right, const char *method)
{
    PyObject *result = PySet_New(left);
    if (result == NULL) {
        return NULL;
    }
    PyObject *done = PyObject_CallMethod(result, method, "O", right);
    if (done == NULL) {
        Py_DECREF(result);
        return NULL;
    }
    Py_DECREF(done);
    return result;
}

static PyObject *
view_and(PyObject *left, PyObject *right)
{
    return set_operation(left, right, "intersection_update");
}

static PyObject *
view_or(PyObject *left, PyObject *right)
{
    return set_operation(left, right, "update");
}

static PyObject *
view_sub(PyObject *left, PyObject *right)
{
    return set_operation(left, right, "difference_update");
}

static PyObject *
view_xor(PyObject *left, PyObject *right)
{
    return set_operation(left, right, "symmetric_difference_update");
}

static PyObject *
view_isdisjoint(PyObject *self, PyObject *other)
{
    PyObject *iterator = PyObject_GetIter(other), *element;
    if (iterator == NULL) {
        return NULL;
    }
    int shared = 0;
    while (shared == 0 && (element = PyIter_Next(iterator)) != NULL) {
        shared = PySequence_Contains(self, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return shared < 0 || PyErr_Occurred() ? NULL : PyBool_FromLong(!shared);
}

/* ---- types -------------------------------------------------------------------------- */

static PyMethodDef view_methods[] = {
    {"__reversed__", view_reversed, METH_NOARGS, PyDoc_STR("Newest first.")},
    {0},
};

static PyMethodDef set_view_methods[] = {
    {"__reversed__", view_reversed, METH_NOARGS, PyDoc_STR("Newest first.")},
    {"isdisjoint", view_isdisjoint, METH_O,
     PyDoc_STR("isdisjoint($self, other, /)\n--\n\nWhether nothing in other is here.")},
    {0},
};

static PyGetSetDef view_getset[] = {
    {"mapping", view_mapping, NULL, PyDoc_STR("A read-only proxy of the draft behind this view."),
     NULL},
    {0},
};

#define VIEW_SLOTS                                                                           \
    {Py_tp_dealloc, view_dealloc}, {Py_tp_traverse, view_traverse}, {Py_tp_repr, view_repr}, \
        {Py_tp_iter, view_iter}, {Py_tp_getset, view_getset},                                \
    {                                                                                        \
        Py_sq_length, view_length                                                            \
    }

#define SET_VIEW_SLOTS                                                                 \
    {Py_tp_hash, PyObject_HashNotImplemented}, {Py_tp_richcompare, view_compare},      \
        {Py_tp_methods, set_view_methods}, {Py_nb_and, view_and}, {Py_nb_or, view_or}, \
        {Py_nb_subtract, view_sub},                                                    \
    {                                                                                  \
        Py_nb_xor, view_xor                                                            \
    }

#define VIEW_FLAGS                                                      \
    (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE \
     | Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Slot keys_slots[] = {
    VIEW_SLOTS, SET_VIEW_SLOTS, {Py_sq_contains, keys_contains}, {0, NULL}};
static PyType_Slot items_slots[] = {
    VIEW_SLOTS, SET_VIEW_SLOTS, {Py_sq_contains, items_contains}, {0, NULL}};
static PyType_Slot values_slots[] = {VIEW_SLOTS, {Py_tp_methods, view_methods}, {0, NULL}};

static PyType_Spec keys_spec = {
    .name = "theus._theus.DraftKeys",
    .basicsize = sizeof(DraftView),
    .flags = VIEW_FLAGS,
    .slots = keys_slots,
};
static PyType_Spec values_spec = {
    .name = "theus._theus.DraftValues",
    .basicsize = sizeof(DraftView),
    .flags = VIEW_FLAGS,
    .slots = values_slots,
};
static PyType_Spec items_spec = {
    .name = "theus._theus.DraftItems",
    .basicsize = sizeof(DraftView),
    .flags = VIEW_FLAGS,
    .slots = items_slots,
};

int
add_draft_view_types(PyObject *module, module_state *st)
{
    if (module_add_type(module, &keys_spec, &st->DraftKeys_type) < 0
        || module_add_type(module, &values_spec, &st->DraftValues_type) < 0
        || module_add_type(module, &items_spec, &st->DraftItems_type) < 0
        || module_register_abc(st, st->DraftKeys_type, "KeysView") < 0
        || module_register_abc(st, st->DraftValues_type, "ValuesView") < 0
        || module_register_abc(st, st->DraftItems_type, "ItemsView") < 0) {
        return -1;
    }
    return 0;
}
