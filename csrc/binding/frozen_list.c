/* FrozenList: the persistent vector. */
#include "compare.h"
#include "container_py.h"
#include "iterator.h"
#include "repr.h"

/* ---- making -------------------------------------------------------------------- */

/* Appends the parts of `source` to `edit` and seals it. Steals `edit`, which may be NULL. */
static PyObject *
extend_and_seal(HeapObject *heap, theus_container *edit, PyObject *source)
{
    if (edit == NULL) {
        return NULL;
    }
    if (list_extend(heap, edit, source, NULL) < 0) {
        theus_container_release(edit);
        return NULL;
    }
    return handle_seal(heap, edit);
}

static PyObject *
list_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *source = NULL;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "FrozenList() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_UnpackTuple(args, "FrozenList", 0, 1, &source)) {
        return NULL;
    }
    if (source != NULL && Py_IS_TYPE(source, type)) {
        return Py_NewRef(source);
    }
    HeapObject *heap = heap_new(module_state_of_type(type));
    if (heap == NULL) {
        return NULL;
    }
    theus_container *edit = container_new(heap, THEUS_LIST);
    PyObject *result = NULL;
    if (source != NULL) {
        result = extend_and_seal(heap, edit, source);
    }
    else if (edit != NULL) {
        result = handle_seal(heap, edit);
    }
    Py_DECREF((PyObject *)heap);
    return result;
}

/* ---- reading ------------------------------------------------------------------- */

static Py_ssize_t
list_length(PyObject *op)
{
    return handle_of(op)->node->count;
}

/* sq_item: the index is not negative unless the caller was out of range. */
static PyObject *
list_item(PyObject *op, Py_ssize_t index)
{
    HandleObject *self = handle_of(op);
    if (index < 0 || index >= (Py_ssize_t)self->node->count) {
        return PyErr_Format(PyExc_IndexError, "index %zd is out of range for a FrozenList of %lu",
                            index, (unsigned long)self->node->count);
    }
    return handle_wrap(self->heap, theus_container_value_at(self->node, (uint32_t)index));
}

/* `count` values from `start` on, `step` apart, as a new list of the same heap. */
static PyObject *
list_slice(HandleObject *self, Py_ssize_t start, Py_ssize_t step, Py_ssize_t count)
{
    if (start == 0 && step == 1 && count == (Py_ssize_t)self->node->count) {
        return Py_NewRef((PyObject *)self);
    }
    theus_container *edit;
    theus_status status = THEUS_OK;
    if (start == 0 && step == 1) {
        edit = container_edit(self->heap, self->node);
        if (edit != NULL) {
            status =
                theus_list_splice(edit, (uint32_t)count, edit->count - (uint32_t)count, NULL, 0);
        }
    }
    else {
        theus_value values[32];
        uint32_t filled = 0;
        edit = container_new(self->heap, THEUS_LIST);
        for (Py_ssize_t i = 0; edit != NULL && status == THEUS_OK && i < count; i++) {
            values[filled++] = theus_container_value_at(self->node, (uint32_t)(start + i * step));
            if (filled == Py_ARRAY_LENGTH(values) || i + 1 == count) {
                status = theus_list_splice(edit, edit->count, 0, values, filled);
                filled = 0;
            }
        }
    }
    if (status != THEUS_OK) {
        theus_container_release(edit);
        return errors_raise(self->heap->st, status);
    }
    return edit == NULL ? NULL : handle_seal(self->heap, edit);
}

static PyObject *
list_subscript(PyObject *op, PyObject *index)
{
    HandleObject *self = handle_of(op);
    Py_ssize_t length = self->node->count;
    if (PyIndex_Check(index)) {
        Py_ssize_t i = PyNumber_AsSsize_t(index, PyExc_IndexError);
        if (i == -1 && PyErr_Occurred()) {
            return NULL;
        }
        return list_item(op, i < 0 ? i + length : i);
    }
    if (PySlice_Check(index)) {
        Py_ssize_t start, stop, step;
        if (PySlice_Unpack(index, &start, &stop, &step) < 0) {
            return NULL;
        }
        Py_ssize_t count = PySlice_AdjustIndices(length, &start, &stop, step);
        return list_slice(self, start, step, count);
    }
    return PyErr_Format(PyExc_TypeError,
                        "the index of a FrozenList is an int or a slice, not a %.200s",
                        Py_TYPE(index)->tp_name);
}

static PyObject *
list_iter(PyObject *op)
{
    return iterator_new(handle_of(op)->heap, op, handle_of(op)->node, ITERATE_VALUES, false);
}

static PyObject *
list_reversed(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return iterator_new(handle_of(op)->heap, op, handle_of(op)->node, ITERATE_VALUES, true);
}

/* ---- searching ----------------------------------------------------------------- */

/* How many values in start .. stop equal `wanted`; ends at the first with its index in *where,
 * unless that is NULL. -1 with an exception set. */
static Py_ssize_t
list_search(HandleObject *self, PyObject *wanted, Py_ssize_t start, Py_ssize_t stop,
            Py_ssize_t *where)
{
    Py_ssize_t matches = 0;
    for (Py_ssize_t i = start; i < stop; i++) {
        PyObject *value =
            handle_wrap(self->heap, theus_container_value_at(self->node, (uint32_t)i));
        if (value == NULL) {
            return -1;
        }
        int equal = PyObject_RichCompareBool(value, wanted, Py_EQ);
        Py_DECREF(value);
        if (equal < 0) {
            return -1;
        }
        matches += equal;
        if (equal && where != NULL) {
            *where = i;
            break;
        }
    }
    return matches;
}

static int
list_contains(PyObject *op, PyObject *value)
{
    Py_ssize_t where;
    return (int)list_search(handle_of(op), value, 0, list_length(op), &where);
}

static PyObject *
list_count(PyObject *op, PyObject *value)
{
    Py_ssize_t matches = list_search(handle_of(op), value, 0, list_length(op), NULL);
    return matches < 0 ? NULL : PyLong_FromSsize_t(matches);
}

static PyObject *
list_index(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t length = list_length(op), bounds[2] = {0, length}, where = -1;
    if (count < 1 || count > 3) {
        return PyErr_Format(PyExc_TypeError,
                            "index() takes a value, a start and a stop, not %zd arguments", count);
    }
    for (Py_ssize_t i = 1; i < count; i++) {
        Py_ssize_t bound = PyNumber_AsSsize_t(args[i], NULL);
        if (bound == -1 && PyErr_Occurred()) {
            return NULL;
        }
        if (bound < 0) {
            bound = Py_MAX(bound + length, 0);
        }
        bounds[i - 1] = Py_MIN(bound, length);
    }
    Py_ssize_t found = list_search(handle_of(op), args[0], bounds[0], bounds[1], &where);
    if (found == 0) {
        PyErr_Format(PyExc_ValueError, "%R is not in the FrozenList", args[0]);
    }
    return found <= 0 ? NULL : PyLong_FromSsize_t(where);
}

/* ---- comparing ----------------------------------------------------------------- */

/* The first place where the two differ decides, as for list. */
static PyObject *
list_order(PyObject *op, PyObject *other, int how)
{
    Py_ssize_t ours = list_length(op);
    for (Py_ssize_t i = 0; i < ours && i < PySequence_Fast_GET_SIZE(other); i++) {
        PyObject *left = list_item(op, i);
        if (left == NULL) {
            return NULL;
        }
        PyObject *right = Py_NewRef(PySequence_Fast_GET_ITEM(other, i));
        int equal = PyObject_RichCompareBool(left, right, Py_EQ);
        PyObject *result = equal == 0 ? PyObject_RichCompare(left, right, how) : NULL;
        Py_DECREF(left);
        Py_DECREF(right);
        if (equal != 1) {
            return result;
        }
    }
    Py_RETURN_RICHCOMPARE(ours, PySequence_Fast_GET_SIZE(other), how);
}

static PyObject *
list_richcompare(PyObject *op, PyObject *other, int how)
{
    HandleObject *self = handle_of(op);
    bool frozen = Py_IS_TYPE(other, Py_TYPE(op));
    if (!frozen && !PyList_Check(other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    if (how == Py_EQ || how == Py_NE) {
        int equal = frozen ? containers_equal(self->heap, self->node, handle_of(other)->heap,
                                              handle_of(other)->node)
                           : list_equals_list(self->heap, self->node, other);
        return equal < 0 ? NULL : PyBool_FromLong(equal == (how == Py_EQ));
    }
    PyObject *parts = sequence_parts(other, "a FrozenList compares with lists");
    if (parts == NULL) {
        return NULL;
    }
    PyObject *result = list_order(op, parts, how);
    Py_DECREF(parts);
    return result;
}

/* ---- changed copies ------------------------------------------------------------ */

static PyObject *
list_set(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    HandleObject *self = handle_of(op);
    Py_ssize_t length = self->node->count;
    if (count != 2) {
        return PyErr_Format(PyExc_TypeError, "set() takes an index and a value, not %zd arguments",
                            count);
    }
    Py_ssize_t index = PyNumber_AsSsize_t(args[0], PyExc_IndexError);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    Py_ssize_t place = index < 0 ? index + length : index;
    if (place < 0 || place >= length) {
        return PyErr_Format(PyExc_IndexError, "index %zd is out of range for a FrozenList of %zd",
                            index, length);
    }
    theus_value value;
    freeze_path here = freeze_path_index(NULL, place);
    if (freeze_value(self->heap, args[1], &here, &value) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    theus_container *edit = container_edit(self->heap, self->node);
    if (edit != NULL) {
        theus_status status = theus_container_put(edit, (uint32_t)place, value);
        if (status == THEUS_OK) {
            result = handle_seal(self->heap, edit);
        }
        else {
            theus_container_release(edit);
            errors_raise(self->heap->st, status);
        }
    }
    freeze_drop(self->heap, value);
    return result;
}

static PyObject *
list_append(PyObject *op, PyObject *object)
{
    HandleObject *self = handle_of(op);
    theus_value value;
    freeze_path here = freeze_path_index(NULL, self->node->count);
    if (freeze_value(self->heap, object, &here, &value) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    theus_container *edit = container_edit(self->heap, self->node);
    if (edit != NULL) {
        if (list_append_values(self->heap, edit, &value, 1) == 0) {
            result = handle_seal(self->heap, edit);
        }
        else {
            theus_container_release(edit);
        }
    }
    freeze_drop(self->heap, value);
    return result;
}

/* list + iterable is more than list does, but a FrozenList should meet tuples and generators
 * too. A str is refused: it would fall apart into letters. */
static PyObject *
list_add(PyObject *a, PyObject *b)
{
    module_state *st = binary_state(a, b);
    if (st == NULL) {
        return NULL;
    }
    bool left = Py_IS_TYPE(a, st->FrozenList_type);
    PyObject *other = left ? b : a;
    if (PyUnicode_Check(other) || PyBytes_Check(other) || Py_TYPE(other)->tp_iter == NULL
        || !(PySequence_Check(other) || PyIter_Check(other))) {   /* no sets and dicts, of whatever kind */
        Py_RETURN_NOTIMPLEMENTED;
    }
    HandleObject *self = handle_of(left ? a : b);
    if (left) {
        return extend_and_seal(self->heap, container_edit(self->heap, self->node), b);
    }
    theus_container *edit = container_new(self->heap, THEUS_LIST);
    if (edit != NULL && list_extend(self->heap, edit, a, NULL) < 0) {
        theus_container_release(edit);
        return NULL;
    }
    return extend_and_seal(self->heap, edit, b);
}

static PyObject *
list_repeat(PyObject *op, Py_ssize_t times)
{
    HandleObject *self = handle_of(op);
    if (times == 1) {
        return Py_NewRef(op);
    }
    if (times > 0 && self->node->count > UINT32_MAX / (size_t)times) {
        return errors_raise(self->heap->st, THEUS_TOO_BIG);
    }
    theus_container *edit = container_new(self->heap, THEUS_LIST);
    for (Py_ssize_t i = 0; edit != NULL && i < times; i++) {
        if (list_extend(self->heap, edit, op, NULL) < 0) {
            theus_container_release(edit);
            edit = NULL;
        }
    }
    return edit == NULL ? NULL : handle_seal(self->heap, edit);
}

static int
list_ass_subscript(PyObject *op, PyObject *Py_UNUSED(index), PyObject *Py_UNUSED(value))
{
    return handle_refuse_write(
        op, "make a changed copy with set(), append() or +, or write in a transaction");
}

static PyObject *
list_to_list(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return thaw_object(handle_of(op)->heap->st, op);
}

/* ---- the type ------------------------------------------------------------------ */

static PyMethodDef list_methods[] = {
    {"index", THEUS_FASTCALL(list_index), METH_FASTCALL,
     PyDoc_STR("index($self, value, start=0, stop=sys.maxsize, /)\n--\n\n"
               "The first index of a value. ValueError if it is not there.")},
    {"count", list_count, METH_O,
     PyDoc_STR("count($self, value, /)\n--\n\nHow often a value occurs.")},
    {"set", THEUS_FASTCALL(list_set), METH_FASTCALL,
     PyDoc_STR("set($self, index, value, /)\n--\n\nA copy with this item replaced. The value is "
               "frozen.")},
    {"append", list_append, METH_O,
     PyDoc_STR("append($self, value, /)\n--\n\nA copy with one more item. The value is frozen.")},
    {"to_list", list_to_list, METH_NOARGS,
     PyDoc_STR(
         "to_list($self, /)\n--\n\nThe same as lists, dicts and sets, independent at any depth.")},
    {"copy", handle_copy, METH_NOARGS,
     PyDoc_STR("copy($self, /)\n--\n\nItself: it cannot change.")},
    {"__copy__", handle_copy, METH_NOARGS, NULL},
    {"__deepcopy__", handle_copy, METH_O, NULL},
    {"__reduce__", handle_reduce, METH_NOARGS, NULL},
    {"__reversed__", list_reversed, METH_NOARGS,
     PyDoc_STR("An iterator over the items, last first.")},
    {"__class_getitem__", Py_GenericAlias, METH_O | METH_CLASS,
     PyDoc_STR("FrozenList[T], for annotations.")},
    {0},
};

PyDoc_STRVAR(list_doc, "FrozenList(source=(), /)\n--\n\n"
                       "An immutable list whose changed copies share what did not change.\n\n"
                       "Items are frozen when they are stored. It equals a list with the same "
                       "items, orders as a list\n"
                       "does, and is hashable if its items are.");

static PyType_Slot list_slots[] = {
    {Py_tp_doc, (void *)list_doc},
    {Py_tp_new, list_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_members, handle_members},
    {Py_tp_methods, list_methods},
    {Py_tp_repr, handle_repr},
    {Py_tp_hash, handle_hash},
    {Py_tp_richcompare, list_richcompare},
    {Py_tp_iter, list_iter},
    {Py_mp_length, list_length},
    {Py_mp_subscript, list_subscript},
    {Py_mp_ass_subscript, list_ass_subscript},
    {Py_sq_length, list_length},
    {Py_sq_item, list_item},
    {Py_sq_contains, list_contains},
    {Py_sq_repeat, list_repeat},
    {Py_nb_add, list_add},
    {0, NULL},
};

static PyType_Spec list_spec = {
    .name = "theus.FrozenList",
    .basicsize = sizeof(HandleObject),
    .flags =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_SEQUENCE,
    .slots = list_slots,
};

int
add_frozen_list_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &list_spec, &st->FrozenList_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->FrozenList_type, "Sequence");
}
