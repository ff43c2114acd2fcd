/* FrozenSet: the persistent set, in insertion order. */
#include "compare.h"
#include "container_py.h"
#include "iterator.h"
#include "repr.h"

/* ---- making -------------------------------------------------------------------- */

/* Seals `edit`, or throws it away if the last step failed. Steals it. */
static PyObject *
seal_unless(HeapObject *heap, theus_container *edit, bool failed)
{
    if (edit == NULL) {
        return NULL;
    }
    if (failed) {
        theus_container_release(edit);
        return NULL;
    }
    return handle_seal(heap, edit);
}

static PyObject *
set_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *source = NULL;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "FrozenSet() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "FrozenSet", 0, 1, &source)) {
        return NULL;
    }
    if (source != NULL && Py_IS_TYPE(source, type)) {
        return Py_NewRef(source);
    }
    if (source != NULL && PySet_CheckExact(source)) {
        return freeze_object(module_state_of_type(type), source);
    }
    HeapObject *heap = heap_new(module_state_of_type(type));
    if (heap == NULL) {
        return NULL;
    }
    theus_container *edit = container_new(heap, THEUS_SET);
    PyObject *result = seal_unless(
        heap, edit, edit != NULL && source != NULL && set_update(heap, edit, source) < 0);
    Py_DECREF((PyObject *)heap);
    return result;
}

/* ---- reading ------------------------------------------------------------------- */

static Py_ssize_t
set_length(PyObject *op)
{
    return handle_of(op)->node->count;
}

static int
set_contains(PyObject *op, PyObject *element)
{
    uint32_t pos;
    return container_find(handle_of(op)->heap, handle_of(op)->node, element, &pos, NULL);
}

static PyObject *
set_iter(PyObject *op)
{
    return iterator_new(handle_of(op)->heap, op, handle_of(op)->node, ITERATE_VALUES, false);
}

static PyObject *
set_reversed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return iterator_new(handle_of(op)->heap, op, handle_of(op)->node, ITERATE_VALUES, true);
}

/* ---- set algebra --------------------------------------------------------------- */

static bool
has_hash_lookup(const module_state *st, PyObject *object)
{
    return PyAnySet_Check(object) || Py_IS_TYPE(object, st->FrozenSet_type) || PyDict_Check(object)
           || PyDictViewSet_Check(object);
}

/* `other` itself if it answers `in` by hash, else a set of its elements. New reference. */
static PyObject *
as_set(const module_state *st, PyObject *other)
{
    return has_hash_lookup(st, other) ? Py_NewRef(other) : PySet_New(other);
}

/* Ends a step: with the set it began with, if it comes to the same. Steals `edit`. */
static PyObject *
seal_or_same(HandleObject *self, theus_container *edit, bool failed)
{
    if (edit != NULL && !failed && edit->count == self->node->count) {
        theus_container_release(edit);
        return Py_NewRef((PyObject *)self);
    }
    return seal_unless(self->heap, edit, failed);
}

static PyObject *
set_joined(HandleObject *self, PyObject *other)
{
    theus_container *edit = container_edit(self->heap, self->node);
    return seal_or_same(self, edit, edit != NULL && set_update(self->heap, edit, other) < 0);
}

static PyObject *
set_common(HandleObject *self, PyObject *other)
{
    HeapObject *heap = self->heap;
    PyObject *against = as_set(heap->st, other);
    if (against == NULL) {
        return NULL;
    }
    theus_container *edit = container_new(heap, THEUS_SET);
    theus_cursor cursor;
    theus_value value;
    bool failed = false;
    theus_cursor_init(&cursor, self->node, false);
    while (edit != NULL && !failed && theus_cursor_next(&cursor, NULL, NULL, &value)) {
        PyObject *element = (PyObject *)theus_value_atom(value); /* borrowed from self */
        int in = PySequence_Contains(against, element);
        failed = in < 0 || (in && set_add(heap, edit, element) < 0);
    }
    Py_DECREF(against);
    return seal_or_same(self, edit, failed);
}

/* Takes out of `edit`, a copy of self, what is in `against`: for a set that is larger than self. */
static int
discard_present(HandleObject *self, theus_container *edit, PyObject *against)
{
    theus_cursor cursor;
    theus_value value;
    int in = 0;
    theus_cursor_init(&cursor, self->node, false);
    while (in >= 0 && theus_cursor_next(&cursor, NULL, NULL, &value)) {
        PyObject *element = (PyObject *)theus_value_atom(value); /* borrowed from self */
        in = PySequence_Contains(against, element);
        if (in > 0) {
            in = container_discard(self->heap, edit, element);
        }
    }
    return in < 0 ? -1 : 0;
}

static int
discard_all(HeapObject *heap, theus_container *edit, PyObject *elements)
{
    PyObject *iterator = PyObject_GetIter(elements), *element;
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    while (result >= 0 && (element = PyIter_Next(iterator)) != NULL) {
        result = container_discard(heap, edit, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

static PyObject *
set_without(HandleObject *self, PyObject *other)
{
    bool larger = false;
    if (has_hash_lookup(self->heap->st, other)) {
        Py_ssize_t size = PyObject_Size(other);
        if (size < 0) {
            return NULL;
        }
        larger = size > (Py_ssize_t)self->node->count;
    }
    theus_container *edit = container_edit(self->heap, self->node);
    int result = 0;
    if (edit != NULL) {
        result = larger ? discard_present(self, edit, other) : discard_all(self->heap, edit, other);
    }
    return seal_or_same(self, edit, result < 0);
}

/* Elements of exactly one of the two: ours first. */
static PyObject *
set_either(HandleObject *self, PyObject *other)
{
    HeapObject *heap = self->heap;
    PyObject *against = as_set(heap->st, other);
    if (against == NULL) {
        return NULL;
    }
    PyObject *result = NULL, *rest = set_without(self, against);
    PyObject *iterator = rest == NULL ? NULL : PyObject_GetIter(against), *element;
    theus_container *edit = iterator == NULL ? NULL : container_edit(heap, handle_of(rest)->node);
    bool failed = edit == NULL;
    while (!failed && (element = PyIter_Next(iterator)) != NULL) {
        int ours = set_contains((PyObject *)self, element);
        failed = ours < 0 || (ours == 0 && set_add(heap, edit, element) < 0);
        Py_DECREF(element);
    }
    result = seal_unless(heap, edit, failed || PyErr_Occurred() != NULL);
    Py_XDECREF(iterator);
    Py_XDECREF(rest);
    Py_DECREF(against);
    return result;
}

static PyObject *
fold(PyObject *op, PyObject *const *args, Py_ssize_t count,
     PyObject *(*step)(HandleObject *self, PyObject *other))
{
    PyObject *result = Py_NewRef(op);
    for (Py_ssize_t i = 0; result != NULL && i < count; i++) {
        Py_SETREF(result, step(handle_of(result), args[i]));
    }
    return result;
}

static PyObject *
set_union(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return fold(op, args, count, set_joined);
}

static PyObject *
set_intersection(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return fold(op, args, count, set_common);
}

static PyObject *
set_difference(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    return fold(op, args, count, set_without);
}

static PyObject *
set_symmetric_difference(PyObject *op, PyObject *other)
{
    return set_either(handle_of(op), other);
}

/* Operators want a set on both sides, as for set. The result lives in the heap of the side that
 * is ours; what comes from the left comes first. */
static PyObject *
set_operate(PyObject *a, PyObject *b, PyObject *(*step)(HandleObject *self, PyObject *other))
{
    module_state *st = binary_state(a, b);
    if (st == NULL) {
        return NULL;
    }
    bool left = Py_IS_TYPE(a, st->FrozenSet_type);
    PyObject *other = left ? b : a;
    if (!Py_IS_TYPE(other, st->FrozenSet_type) && !PyAnySet_Check(other)
        && !PyDictViewSet_Check(other) && !Py_IS_TYPE(other, st->FrozenKeys_type)
        && !Py_IS_TYPE(other, st->FrozenItems_type)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (left) {
        return step(handle_of(a), b);
    }
    HeapObject *heap = handle_of(b)->heap;
    theus_container *edit = container_new(heap, THEUS_SET);
    PyObject *first = seal_unless(heap, edit, edit != NULL && set_update(heap, edit, a) < 0);
    if (first == NULL) {
        return NULL;
    }
    PyObject *result = step(handle_of(first), b);
    Py_DECREF(first);
    return result;
}

static PyObject *
set_or(PyObject *a, PyObject *b)
{
    return set_operate(a, b, set_joined);
}

static PyObject *
set_and(PyObject *a, PyObject *b)
{
    return set_operate(a, b, set_common);
}

static PyObject *
set_subtract(PyObject *a, PyObject *b)
{
    return set_operate(a, b, set_without);
}

static PyObject *
set_xor(PyObject *a, PyObject *b)
{
    return set_operate(a, b, set_either);
}

/* ---- comparing ----------------------------------------------------------------- */

/* 1 if every element of the container is in `other`, a set-like object. */
static int
is_subset(const theus_container *container, PyObject *other)
{
    theus_cursor cursor;
    theus_value value;
    int in = 1;
    theus_cursor_init(&cursor, container, false);
    while (in == 1 && theus_cursor_next(&cursor, NULL, NULL, &value)) {
        in = PySequence_Contains(other, (PyObject *)theus_value_atom(value));
    }
    return in;
}

/* 1 if every element of `other` is in the container. */
static int
is_superset(HandleObject *self, PyObject *other)
{
    PyObject *iterator = PyObject_GetIter(other), *element;
    if (iterator == NULL) {
        return -1;
    }
    int in = 1;
    while (in == 1 && (element = PyIter_Next(iterator)) != NULL) {
        in = set_contains((PyObject *)self, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return PyErr_Occurred() ? -1 : in;
}

static PyObject *
set_issubset(PyObject *op, PyObject *other)
{
    PyObject *against = as_set(handle_of(op)->heap->st, other);
    if (against == NULL) {
        return NULL;
    }
    int result = is_subset(handle_of(op)->node, against);
    Py_DECREF(against);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
set_issuperset(PyObject *op, PyObject *other)
{
    int result = is_superset(handle_of(op), other);
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static PyObject *
set_isdisjoint(PyObject *op, PyObject *other)
{
    PyObject *iterator = PyObject_GetIter(other), *element;
    if (iterator == NULL) {
        return NULL;
    }
    int met = 0;
    while (met == 0 && (element = PyIter_Next(iterator)) != NULL) {
        met = set_contains(op, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return met < 0 || PyErr_Occurred() ? NULL : PyBool_FromLong(!met);
}

static PyObject *
set_richcompare(PyObject *op, PyObject *other, int how)
{
    HandleObject *self = handle_of(op);
    bool frozen = Py_IS_TYPE(other, Py_TYPE(op));
    if (!frozen && !PyAnySet_Check(other) && !PyDictViewSet_Check(other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    Py_ssize_t ours = set_length(op), theirs = PyObject_Size(other);
    if (theirs < 0) {
        return NULL;
    }
    int result = 0;
    switch (how) {
    case Py_EQ:
    case Py_NE:
        result = frozen           ? containers_equal(self->heap, self->node, handle_of(other)->heap,
                                                     handle_of(other)->node)
                 : ours == theirs ? is_subset(self->node, other)
                                  : 0;
        if (how == Py_NE && result >= 0) {
            result = !result;
        }
        break;
    case Py_LT:
    case Py_LE:
        result =
            ours < theirs || (how == Py_LE && ours == theirs) ? is_subset(self->node, other) : 0;
        break;
    case Py_GT:
    case Py_GE:
        result = ours > theirs || (how == Py_GE && ours == theirs) ? is_superset(self, other) : 0;
        break;
    }
    return result < 0 ? NULL : PyBool_FromLong(result);
}

/* ---- changed copies ------------------------------------------------------------ */

static PyObject *
set_with(PyObject *op, PyObject *element)
{
    HandleObject *self = handle_of(op);
    int in = set_contains(op, element);
    if (in != 0) {
        return in < 0 ? NULL : Py_NewRef(op);
    }
    theus_container *edit = container_edit(self->heap, self->node);
    return seal_unless(self->heap, edit, edit != NULL && set_add(self->heap, edit, element) < 0);
}

static PyObject *
set_discard(PyObject *op, PyObject *element)
{
    HandleObject *self = handle_of(op);
    int in = set_contains(op, element);
    if (in <= 0) {
        return in < 0 ? NULL : Py_NewRef(op);
    }
    theus_container *edit = container_edit(self->heap, self->node);
    return seal_unless(self->heap, edit,
                       edit != NULL && container_discard(self->heap, edit, element) < 0);
}

static PyObject *
set_to_set(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return thaw_object(handle_of(op)->heap->st, op);
}

/* ---- the type ------------------------------------------------------------------ */

static PyMethodDef set_methods[] = {
    {"add", set_with, METH_O, PyDoc_STR("add($self, element, /)\n--\n\nA copy with this element.")},
    {"discard", set_discard, METH_O,
     PyDoc_STR("discard($self, element, /)\n--\n\nA copy without this element, which need not be "
               "there.")},
    {"union", THEUS_FASTCALL(set_union), METH_FASTCALL,
     PyDoc_STR("union($self, /, *others)\n--\n\nElements of this set or of any other.")},
    {"intersection", THEUS_FASTCALL(set_intersection), METH_FASTCALL,
     PyDoc_STR("intersection($self, /, *others)\n--\n\nElements of this set and of all others.")},
    {"difference", THEUS_FASTCALL(set_difference), METH_FASTCALL,
     PyDoc_STR("difference($self, /, *others)\n--\n\nElements of this set and of no other.")},
    {"symmetric_difference", set_symmetric_difference, METH_O,
     PyDoc_STR("symmetric_difference($self, other, /)\n--\n\nElements of exactly one of the two.")},
    {"issubset", set_issubset, METH_O,
     PyDoc_STR("issubset($self, other, /)\n--\n\nWhether the other has all elements of this set.")},
    {"issuperset", set_issuperset, METH_O,
     PyDoc_STR(
         "issuperset($self, other, /)\n--\n\nWhether this set has all elements of the other.")},
    {"isdisjoint", set_isdisjoint, METH_O,
     PyDoc_STR("isdisjoint($self, other, /)\n--\n\nWhether the two have no element in common.")},
    {"to_set", set_to_set, METH_NOARGS,
     PyDoc_STR("to_set($self, /)\n--\n\nA set with the same elements.")},
    {"copy", handle_copy, METH_NOARGS,
     PyDoc_STR("copy($self, /)\n--\n\nItself: it cannot change.")},
    {"__copy__", handle_copy, METH_NOARGS, NULL},
    {"__deepcopy__", handle_copy, METH_O, NULL},
    {"__reduce__", handle_reduce, METH_NOARGS, NULL},
    {"__reversed__", set_reversed, METH_NOARGS,
     PyDoc_STR("An iterator over the elements, last first.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("FrozenSet[T], for annotations.")},
    {0},
};

PyDoc_STRVAR(
    set_doc,
    "FrozenSet(source=(), /)\n--\n\n"
    "An immutable set whose changed copies share what did not change.\n\n"
    "It keeps insertion order, and equals and hashes like a frozenset of the same elements.");

static PyType_Slot set_slots[] = {
    {Py_tp_doc, (void *)set_doc},
    {Py_tp_new, set_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_members, handle_members},
    {Py_tp_methods, set_methods},
    {Py_tp_repr, handle_repr},
    {Py_tp_hash, handle_hash},
    {Py_tp_richcompare, set_richcompare},
    {Py_tp_iter, set_iter},
    {Py_sq_length, set_length},
    {Py_sq_contains, set_contains},
    {Py_nb_or, set_or},
    {Py_nb_and, set_and},
    {Py_nb_subtract, set_subtract},
    {Py_nb_xor, set_xor},
    {0, NULL},
};

static PyType_Spec set_spec = {
    .name = "theus.FrozenSet",
    .basicsize = sizeof(HandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = set_slots,
};

int
add_frozen_set_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &set_spec, &st->FrozenSet_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->FrozenSet_type, "Set");
}
