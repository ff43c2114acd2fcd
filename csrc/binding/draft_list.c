/* DraftList: a list of the state as a list that can be written.
 *
 * Indexes are positions. Reading one by a non-negative index depends on that element alone; a
 * negative index, a slice, len() and the end of a loop depend on the length too. What moves
 * positions (insert, pop, sort, slices) makes the whole list one write. */
#include "draft_parts.h"

/* ---- items -------------------------------------------------------------------------- */

static int
index_error(DraftObject *self, const char *doing)
{
    theus_cell_read_shape(self->cell); /* that it is so short is what the body has learned */
    PyErr_Format(PyExc_IndexError, "%s: the list has %lu element%s", doing,
                 (unsigned long)self->cell->now->count, self->cell->now->count == 1 ? "" : "s");
    return -1;
}

/* Under a scope the length is told only if it may be read: it shows where an index ends, too. */
static int
check_index(DraftObject *self, Py_ssize_t index)
{
    ScopeObject *below;
    if (self->scope->open) {
        return 0;
    }
    int known = index < 0 ? 0 : scope_step_index(self->scope, index, &below);
    return known == 1 ? 0 : known < 0 ? -1 : draft_refuse_parts(self);
}

/* The position of a Python index, entered: 0 and *pos, or -1 with IndexError set. */
static int
position_of(DraftObject *self, Py_ssize_t index, const char *doing, uint32_t *pos)
{
    theus_cell *cell = self->cell;
    if (self->scope != NULL && check_index(self, index) < 0) {
        return -1;
    }
    if (index < 0) {
        theus_cell_read_shape(cell);
        index += cell->now->count;
    }
    if (index < 0 || index >= (Py_ssize_t)cell->now->count) {
        return index_error(self, doing);
    }
    *pos = (uint32_t)index;
    return 0;
}

static PyObject *
list_item(PyObject *op, Py_ssize_t index)
{
    DraftObject *self = draft_of(op);
    uint32_t pos;
    theus_value value;
    PyObject *result = NULL;
    if (draft_enter(self) < 0) {
        return NULL;
    }
    if (position_of(self, index, "list index out of range", &pos) == 0
        && draft_checked(self, theus_cell_read(self->cell, pos, &value)) == 0) {
        result = draft_at(self, pos, value);
    }
    draft_leave(self);
    return result;
}

static int
list_delete(DraftObject *self, Py_ssize_t index)
{
    uint32_t pos;
    if (draft_enter_change(self, RIGHT_DELETE) < 0) {
        return -1;
    }
    int result = position_of(self, index, "list assignment index out of range", &pos);
    if (result == 0) {
        result = draft_checked(self, theus_cell_splice(self->cell, pos, 1, NULL, 0));
    }
    draft_leave(self);
    return result;
}

/* Storing a draft where it already stands, as `xs[0] += [1]` ends, changes nothing. */
static bool
stands_at(DraftObject *self, uint32_t pos, PyObject *object)
{
    return draft_check(draft_state(self), object) && draft_of(object)->txn == self->txn
           && theus_cell_child_at(self->cell, pos) == draft_of(object)->cell;
}

static int
check_store_at(DraftObject *self, Py_ssize_t index, theus_value value)
{
    uint32_t pos;
    if (position_of(self, index, "list assignment index out of range", &pos) < 0) {
        return -1;
    }
    PyObject *key = PyLong_FromUnsignedLong(pos);
    int result = key == NULL ? -1 : draft_check_store(self, 0, key, value);
    Py_XDECREF(key);
    return result;
}

static int
list_store(DraftObject *self, Py_ssize_t index, PyObject *object)
{
    theus_value value;
    uint32_t pos;
    if (draft_enter_entry(self) < 0) {
        return -1;
    }
    int result = position_of(self, index, "list assignment index out of range", &pos);
    bool stands = result == 0 && stands_at(self, pos, object);
    draft_leave(self);
    if (result < 0 || stands) {
        return result;
    }
    freeze_path at = freeze_path_index(NULL, pos);
    if (draft_freeze_value(draft_state(self), self->txn, self->cell, object, &at, &value) < 0) {
        return -1;
    }
    /* Freezing may have run Python code that changed the list: the index is looked at again. */
    result = draft_enter_entry(self);
    if (result == 0) {
        if (self->scope != NULL) {
            result = check_store_at(self, index, value);
        }
        if (result == 0) {
            result = position_of(self, index, "list assignment index out of range", &pos);
        }
        if (result == 0) {
            result = draft_checked(self, theus_cell_put(self->cell, pos, value));
        }
        draft_leave(self);
    }
    freeze_drop(self->txn->heap, value);
    return result;
}

static int
index_of(PyObject *item, Py_ssize_t *index)
{
    *index = PyNumber_AsSsize_t(item, PyExc_IndexError);
    return *index == -1 && PyErr_Occurred() ? -1 : 0;
}

static int
type_error(PyObject *item)
{
    PyErr_Format(PyExc_TypeError, "list indices must be integers or slices, not %s",
                 Py_TYPE(item)->tp_name);
    return -1;
}

static PyObject *
list_subscript(PyObject *self, PyObject *item)
{
    Py_ssize_t index;
    if (PyIndex_Check(item)) {
        return index_of(item, &index) < 0 ? NULL : list_item(self, index);
    }
    if (PySlice_Check(item)) {
        return draft_slice_get(draft_of(self), item);
    }
    type_error(item);
    return NULL;
}

static int
list_ass_subscript(PyObject *op, PyObject *item, PyObject *value)
{
    DraftObject *self = draft_of(op);
    Py_ssize_t index;
    if (PyIndex_Check(item)) {
        if (index_of(item, &index) < 0) {
            return -1;
        }
        return value == NULL ? list_delete(self, index) : list_store(self, index, value);
    }
    return PySlice_Check(item) ? draft_slice_set(self, item, value) : type_error(item);
}

/* ---- growing and shrinking ---------------------------------------------------------- */

/* Where insert(index) puts a value; entered. */
static uint32_t
insert_position(const DraftObject *self, Py_ssize_t index)
{
    Py_ssize_t count = (Py_ssize_t)self->cell->now->count;
    if (index < 0) {
        index = index + count < 0 ? 0 : index + count;
    }
    return (uint32_t)(index < count ? index : count);
}

/* Anywhere but at the end, what comes after it gets another place. */
static uint8_t
insert_rights(Py_ssize_t index)
{
    return index == PY_SSIZE_T_MAX ? RIGHT_APPEND : RIGHT_APPEND | RIGHT_UPDATE;
}

/* Freezes an object that will be put before `index`. */
static int
freeze_for_insert(DraftObject *self, Py_ssize_t index, PyObject *object, theus_value *value)
{
    freeze_path at = freeze_path_index(NULL, 0);
    if (!freeze_is_plain(object)) {
        if (draft_enter_change(self, insert_rights(index)) < 0) {
            return -1;
        }
        at.index = insert_position(self, index);
        draft_leave(self);
    }
    return draft_freeze_value(draft_state(self), self->txn, self->cell, object, &at, value);
}

/* Puts one object before `index` (any Python index), or at the end. */
static PyObject *
list_put_before(DraftObject *self, Py_ssize_t index, PyObject *object)
{
    theus_value value;
    if (freeze_for_insert(self, index, object, &value) < 0) {
        return NULL;
    }
    int result = draft_enter_change(self, insert_rights(index));
    if (result == 0) {
        uint32_t pos = insert_position(self, index);
        result = draft_checked(self, theus_cell_splice(self->cell, pos, 0, &value, 1));
        draft_leave(self);
    }
    freeze_drop(self->txn->heap, value);
    if (result < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
list_append(PyObject *self, PyObject *object)
{
    return list_put_before(draft_of(self), PY_SSIZE_T_MAX, object);
}

static PyObject *
list_insert(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("insert", count, 2, 2) < 0) {
        return NULL;
    }
    Py_ssize_t index = PyNumber_AsSsize_t(args[0], NULL);
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    return list_put_before(draft_of(self), index, args[1]);
}

/* What an iterable gave before it failed stays in the list, as with list.extend(). */
static int
list_extend_with(DraftObject *self, PyObject *iterable)
{
    draft_values values;
    if (draft_enter_change(self, RIGHT_APPEND) < 0) {
        return -1;
    }
    Py_ssize_t first = (Py_ssize_t)self->cell->now->count;
    draft_leave(self);
    int result = draft_values_gather(self, iterable, first, &values);
    PyObject *error = result < 0 ? PyErr_GetRaisedException() : NULL;
    if (values.count > 0 && draft_enter_change(self, RIGHT_APPEND) == 0) {
        theus_cell *cell = self->cell;
        result |= draft_checked(
            self, theus_cell_splice(cell, cell->now->count, 0, values.items, values.count));
        draft_leave(self);
    }
    draft_values_free(&values);
    if (error != NULL) {
        PyErr_SetRaisedException(error);
    }
    return PyErr_Occurred() ? -1 : result;
}

static PyObject *
list_extend_method(PyObject *self, PyObject *iterable)
{
    if (list_extend_with(draft_of(self), iterable) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
list_pop(PyObject *op, PyObject *const *args, Py_ssize_t count)
{
    DraftObject *self = draft_of(op);
    Py_ssize_t index = -1;
    uint32_t pos;
    theus_value value;
    if (errors_check_count("pop", count, 0, 1) < 0 || (count == 1 && index_of(args[0], &index) < 0)
        || draft_enter_change(self, RIGHT_DELETE) < 0) {
        return NULL;
    }
    PyObject *result = NULL;
    theus_cell *child = NULL;
    const char *problem =
        self->cell->now->count == 0 ? "pop from empty list" : "pop index out of range";
    theus_status status = THEUS_OK;
    if (position_of(self, index, problem, &pos) == 0
        && draft_checked(self, theus_cell_read(self->cell, pos, &value)) == 0) {
        /* A nested container gets its cell before it goes, and lives on in that. */
        if (theus_value_kind(value) == THEUS_ATOM) {
            result = Py_NewRef((PyObject *)theus_value_atom(value));
        }
        else {
            status = theus_cell_enter(self->cell, pos, &child);
        }
        if (status == THEUS_OK) {
            status = theus_cell_splice(self->cell, pos, 1, NULL, 0);
        }
        if (draft_checked(self, status) < 0) {
            Py_CLEAR(result);
        }
        else if (child != NULL) {
            result = draft_wrap(draft_state(self), self->txn, child, NULL);
        }
    }
    draft_leave(self);
    return result;
}

/* ---- operators ---------------------------------------------------------------------- */

static bool
is_list(const module_state *st, PyObject *object)
{
    return PyList_Check(object) || Py_IS_TYPE(object, st->DraftList_type)
           || Py_IS_TYPE(object, st->FrozenList_type);
}

static PyObject *
list_add(PyObject *left, PyObject *right)
{
    const module_state *st = draft_operand_state(left, right);
    if (!is_list(st, left) || !is_list(st, right)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = PySequence_List(left);
    if (result != NULL) {
        Py_SETREF(result, PySequence_InPlaceConcat(result, right));
    }
    return result;
}

static PyObject *
list_inplace_add(PyObject *self, PyObject *other)
{
    return list_extend_with(draft_of(self), other) < 0 ? NULL : Py_NewRef(self);
}

static PyObject *
list_repeat(PyObject *self, Py_ssize_t times)
{
    PyObject *once = PySequence_List(self);
    if (once == NULL) {
        return NULL;
    }
    PyObject *result = PySequence_Repeat(once, times);
    Py_DECREF(once);
    return result;
}

static int
repeat_in_place(DraftObject *self, Py_ssize_t times)
{
    draft_values values;
    if (times <= 0) {
        PyObject *done = draft_method_clear((PyObject *)self, NULL);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    if (draft_enter_write(self) < 0) {
        return -1;
    }
    draft_leave(self);
    int result = draft_values_gather(self, (PyObject *)self, 0, &values);
    if (result == 0 && values.count > 0 && times > INT32_MAX / (Py_ssize_t)values.count) {
        PyErr_NoMemory();
        result = -1;
    }
    for (Py_ssize_t i = 1; result == 0 && i < times && values.count > 0; i++) {
        result = draft_enter_write(self);
        if (result == 0) {
            theus_cell *cell = self->cell;
            result = draft_checked(
                self, theus_cell_splice(cell, cell->now->count, 0, values.items, values.count));
            draft_leave(self);
        }
    }
    draft_values_free(&values);
    return result;
}

static PyObject *
list_inplace_repeat(PyObject *self, Py_ssize_t times)
{
    return repeat_in_place(draft_of(self), times) < 0 ? NULL : Py_NewRef(self);
}

static PyObject *
list_iter(PyObject *self)
{
    return draft_iterate(draft_of(self), DRAFT_ELEMENTS, false);
}

static PyObject *
list_reversed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return draft_iterate(draft_of(self), DRAFT_ELEMENTS, true);
}

/* ---- the type ----------------------------------------------------------------------- */

static PyMethodDef list_methods[] = {
    {"append", list_append, METH_O,
     PyDoc_STR("append($self, value, /)\n--\n\nPuts a value at the end.")},
    {"extend", list_extend_method, METH_O,
     PyDoc_STR("extend($self, values, /)\n--\n\nPuts every value of an iterable at the end.")},
    {"insert", THEUS_FASTCALL(list_insert), METH_FASTCALL,
     PyDoc_STR("insert($self, index, value, /)\n--\n\nPuts a value before index.")},
    {"pop", THEUS_FASTCALL(list_pop), METH_FASTCALL,
     PyDoc_STR("pop($self, index=-1, /)\n--\n\n"
               "Removes the element at index and returns it. A container comes as a draft that "
               "lives on by itself.")},
    {"remove", draft_list_remove, METH_O,
     PyDoc_STR("remove($self, value, /)\n--\n\nRemoves the first element that equals value.")},
    {"index", THEUS_FASTCALL(draft_list_index), METH_FASTCALL,
     PyDoc_STR("index($self, value, start=0, stop=sys.maxsize, /)\n--\n\n"
               "The index of the first element that equals value.")},
    {"count", draft_list_count, METH_O,
     PyDoc_STR("count($self, value, /)\n--\n\nHow many elements equal value.")},
    {"sort", THEUS_FASTCALL(draft_method_sort), METH_VARARGS | METH_KEYWORDS,
     PyDoc_STR(
         "sort($self, /, *, key=None, reverse=False)\n--\n\n"
         "Sorts in place, stable. If a key or a comparison fails, the list stays as it was.")},
    {"reverse", draft_method_reverse, METH_NOARGS,
     PyDoc_STR("reverse($self, /)\n--\n\nReverses in place.")},
    {"__reversed__", list_reversed, METH_NOARGS, PyDoc_STR("The elements from the end.")},
    DRAFT_SHARED_METHODS("to_list"),
    {0},
};

PyDoc_STRVAR(list_doc,
             "A list of the state, as its transaction sees and changes it.\n\n"
             "Behaves as a list, with one difference: what is stored is copied. Usable until the\n"
             "transaction ends; freeze() gives what stays.");

static PyType_Slot list_slots[] = {
    {Py_tp_doc, (void *)list_doc},
    {Py_tp_dealloc, draft_dealloc},
    {Py_tp_traverse, draft_traverse},
    {Py_tp_repr, draft_repr},
    {Py_tp_richcompare, draft_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, list_iter},
    {Py_mp_length, draft_length},
    {Py_mp_subscript, list_subscript},
    {Py_mp_ass_subscript, list_ass_subscript},
    {Py_sq_length, draft_length},
    {Py_sq_item, list_item},
    {Py_sq_contains, draft_list_contains},
    {Py_sq_repeat, list_repeat},
    {Py_sq_inplace_repeat, list_inplace_repeat},
    {Py_nb_add, list_add},
    {Py_nb_inplace_add, list_inplace_add},
    {Py_tp_methods, list_methods},
    {Py_tp_members, draft_members},
    {0, NULL},
};

static PyType_Spec list_spec = {
    .name = "theus._theus.DraftList",
    .basicsize = sizeof(DraftObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_SEQUENCE,
    .slots = list_slots,
};

int
add_draft_list_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &list_spec, &st->DraftList_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->DraftList_type, "MutableSequence");
}
