/* DraftSet: a set of the state as a set that can be written. It keeps the order of insertion.
 *
 * In-place operations work element by element, so that the log holds what really came and went.
 * Operations that make a new set are those of the builtin, on a copy. */
#include "draft_parts.h"

/* ---- single elements ---------------------------------------------------------------- */

/* Hashes an element to look for. A set stands for the frozenset with its elements, as in Python:
 * then *looked_for is that. New reference in *looked_for. */
static int
element_hash(PyObject *element, uint64_t *hash, PyObject **looked_for)
{
    if (key_hash(element, hash) == 0) {
        *looked_for = Py_NewRef(element);
        return 0;
    }
    if (!PySet_Check(element) || !PyErr_ExceptionMatches(PyExc_TypeError)) {
        return -1;
    }
    PyErr_Clear();
    *looked_for = PyFrozenSet_New(element);
    if (*looked_for == NULL) {
        return -1;
    }
    if (key_hash(*looked_for, hash) < 0) {
        Py_CLEAR(*looked_for);
        return -1;
    }
    return 0;
}

static int
set_contains(PyObject *op, PyObject *element)
{
    DraftObject *self = draft_of(op);
    PyObject *looked_for;
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    if (element_hash(element, &hash, &looked_for) < 0) {
        return -1;
    }
    int result = draft_enter(self);
    if (result == 0) {
        result = draft_lookup(self, hash, looked_for, &pos, &value);
        if (result == 1 && self->scope != NULL) { /* as if it were read */
            PyObject *element_there = draft_at(self, pos, value);
            result = element_there == NULL ? -1 : 1;
            Py_XDECREF(element_there);
        }
        draft_leave(self);
    }
    if (result == 0 && self->scope != NULL && draft_check_absent(self, looked_for) < 0) {
        result = -1;
    }
    Py_DECREF(looked_for);
    return result;
}

static int
add_element(DraftObject *self, PyObject *element)
{
    uint64_t hash;
    if (key_hash(element, &hash) < 0 || draft_enter(self) < 0) {
        return -1;
    }
    int result = self->scope == NULL ? 0 : draft_check_store(self, hash, element, theus_value_of_atom(element));
    if (result == 0) {
        result
            = draft_checked(self, theus_cell_store(self->cell, NULL, hash, element, THEUS_NONE));
    }
    draft_leave(self);
    return result;
}

/* 1 = removed, 0 = was not there, or -1. */
static int
remove_element(DraftObject *self, PyObject *element)
{
    PyObject *looked_for;
    uint64_t hash;
    uint32_t pos;
    theus_value value;
    if (element_hash(element, &hash, &looked_for) < 0) {
        return -1;
    }
    int result = draft_enter_entry(self);
    if (result == 0) {
        result = self->scope == NULL ? 0 : draft_check_store(self, hash, looked_for, THEUS_NONE);
        if (result == 0) {
            result = draft_lookup(self, hash, looked_for, &pos, &value);
        }
        if (result == 1 && draft_checked(self, theus_cell_remove(self->cell, hash, pos)) < 0) {
            result = -1;
        }
        draft_leave(self);
    }
    Py_DECREF(looked_for);
    return result;
}

static PyObject *
set_add(PyObject *self, PyObject *element)
{
    if (add_element(draft_of(self), element) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
set_discard(PyObject *self, PyObject *element)
{
    if (remove_element(draft_of(self), element) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
set_remove(PyObject *self, PyObject *element)
{
    int removed = remove_element(draft_of(self), element);
    if (removed == 0) {
        draft_key_error(element);
    }
    if (removed != 1) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* The newest element: a new reference, or NULL without an exception if there is none. Entered. */
static PyObject *
last_element(DraftObject *self)
{
    theus_cursor cursor;
    theus_value element;
    theus_cell_read_shape(self->cell);
    theus_cursor_init(&cursor, self->cell->now, true);
    return theus_cursor_prev(&cursor, NULL, NULL, &element)
               ? Py_NewRef((PyObject *)theus_value_atom(element))
               : NULL;
}

/* Refuses early, even if there turns out to be no element to change. */
static int
check_writable(DraftObject *self)
{
    if (draft_enter_entry(self) < 0) {
        return -1;
    }
    draft_leave(self);
    return 0;
}

static PyObject *
set_pop(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    DraftObject *self = draft_of(op);
    for (;;) {
        if (check_writable(self) < 0 || draft_enter_open(self) < 0) {
            return NULL;
        }
        PyObject *element = last_element(self);
        draft_leave(self);
        if (element == NULL) {
            PyErr_SetString(PyExc_KeyError, "pop from an empty set");
            return NULL;
        }
        int removed = remove_element(self, element);
        if (removed == 1) {
            return element;
        }
        Py_DECREF(element); /* its __eq__ or __hash__ has removed it: the next one then */
        if (removed < 0) {
            return NULL;
        }
    }
}

static PyObject *
set_iter(PyObject *self)
{
    return draft_iterate(draft_of(self), DRAFT_KEYS, false);
}

/* ---- in place, many elements -------------------------------------------------------- */

/* What to walk when `other` is the operand: a DraftSet as it stands now, for it may be the one
 * that is changed. New reference. */
static PyObject *
operand(const module_state *st, PyObject *other)
{
    return Py_IS_TYPE(other, st->DraftSet_type) ? draft_peek(other) : Py_NewRef(other);
}

static int
for_each(DraftObject *self, PyObject *other, int (*step)(DraftObject *self, PyObject *element))
{
    PyObject *source = operand(draft_state(self), other);
    PyObject *iterator = source == NULL ? NULL : PyObject_GetIter(source), *element;
    Py_XDECREF(source);
    if (iterator == NULL) {
        return -1;
    }
    int result = 0;
    while (result >= 0 && (element = PyIter_Next(iterator)) != NULL) {
        result = step(self, element);
        Py_DECREF(element);
    }
    Py_DECREF(iterator);
    return result < 0 || PyErr_Occurred() ? -1 : 0;
}

static int
toggle_element(DraftObject *self, PyObject *element)
{
    int removed = remove_element(self, element);
    return removed == 0 ? add_element(self, element) : removed < 0 ? -1 : 0;
}

static int
update_with(DraftObject *self, PyObject *other)
{
    return check_writable(self) < 0 ? -1 : for_each(self, other, add_element);
}

static int
subtract(DraftObject *self, PyObject *other)
{
    return check_writable(self) < 0 ? -1 : for_each(self, other, remove_element);
}

/* Each element of the operand counts once, in its own order. */
static int
toggle(DraftObject *self, PyObject *other)
{
    PyObject *source = check_writable(self) < 0 ? NULL : operand(draft_state(self), other);
    PyObject *once = NULL;
    if (source != NULL) {
        once = PyObject_CallMethod((PyObject *)&PyDict_Type, "fromkeys", "O", source);
        Py_DECREF(source);
    }
    int result = once == NULL ? -1 : for_each(self, once, toggle_element);
    Py_XDECREF(once);
    return result;
}

/* Removes what is not in all of the operands. */
static int
keep_common(DraftObject *self, PyObject *const *others, Py_ssize_t count)
{
    int result = -1;
    PyObject *all = check_writable(self) < 0 ? NULL : draft_thaw((PyObject *)self);
    PyObject *doomed = all == NULL ? NULL : PySet_New(all);
    result = doomed == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; result == 0 && i < count; i++) {
        PyObject *done = PyObject_CallMethod(all, "intersection_update", "O", others[i]);
        result = done == NULL ? -1 : 0;
        Py_XDECREF(done);
    }
    if (result == 0) {
        PyObject *done = PyObject_CallMethod(doomed, "difference_update", "O", all);
        result = done == NULL ? -1 : for_each(self, doomed, remove_element);
        Py_XDECREF(done);
    }
    Py_XDECREF(all);
    Py_XDECREF(doomed);
    return result;
}

static PyObject *
set_update(PyObject *self, PyObject *const *others, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (update_with(draft_of(self), others[i]) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
set_difference_update(PyObject *self, PyObject *const *others, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        if (subtract(draft_of(self), others[i]) < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *
set_intersection_update(PyObject *self, PyObject *const *others, Py_ssize_t count)
{
    if (keep_common(draft_of(self), others, count) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
set_symmetric_difference_update(PyObject *self, PyObject *other)
{
    if (toggle(draft_of(self), other) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* ---- new sets: the builtin's methods on a copy -------------------------------------- */

static PyObject *
on_copy(PyObject *self, const char *name, PyObject *const *others, Py_ssize_t count)
{
    PyObject *result = NULL;
    PyObject *copy = draft_thaw(self);
    PyObject *method = copy == NULL ? NULL : PyObject_GetAttrString(copy, name);
    if (method != NULL) {
        result = PyObject_Vectorcall(method, others, (size_t)count, NULL);
    }
    Py_XDECREF(copy);
    Py_XDECREF(method);
    return result;
}

#define ON_COPY(name)                                                                      \
    static PyObject *set_##name(PyObject *self, PyObject *const *others, Py_ssize_t count) \
    {                                                                                      \
        return on_copy(self, #name, others, count);                                        \
    }

ON_COPY(union)
ON_COPY(intersection)
ON_COPY(difference)
ON_COPY(symmetric_difference)
ON_COPY(issubset)
ON_COPY(issuperset)
ON_COPY(isdisjoint)

/* ---- operators: only with sets ------------------------------------------------------ */

static bool
is_set(const module_state *st, PyObject *object)
{
    return PyAnySet_Check(object) || Py_IS_TYPE(object, st->DraftSet_type)
           || Py_IS_TYPE(object, st->FrozenSet_type);
}

/* The builtin behind an operand. New reference. */
static PyObject *
builtin_of(module_state *st, PyObject *object)
{
    return Py_IS_TYPE(object, st->DraftSet_type) ? draft_thaw(object) : thaw_object(st, object);
}

static PyObject *
operate(PyObject *left, PyObject *right, binaryfunc operator)
{
    module_state *st = draft_operand_state(left, right);
    if (!is_set(st, left) || !is_set(st, right)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = NULL;
    PyObject *a = builtin_of(st, left), *b = a == NULL ? NULL : builtin_of(st, right);
    if (b != NULL) {
        result = operator(a, b);
    }
    Py_XDECREF(a);
    Py_XDECREF(b);
    return result;
}

static PyObject *
set_or(PyObject *left, PyObject *right)
{
    return operate(left, right, PyNumber_Or);
}

static PyObject *
set_and(PyObject *left, PyObject *right)
{
    return operate(left, right, PyNumber_And);
}

static PyObject *
set_sub(PyObject *left, PyObject *right)
{
    return operate(left, right, PyNumber_Subtract);
}

static PyObject *
set_xor(PyObject *left, PyObject *right)
{
    return operate(left, right, PyNumber_Xor);
}

static PyObject *
operate_in_place(PyObject *self, PyObject *other, int (*change)(DraftObject *, PyObject *))
{
    if (!is_set(draft_state(draft_of(self)), other)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return change(draft_of(self), other) < 0 ? NULL : Py_NewRef(self);
}

static PyObject *
set_inplace_or(PyObject *self, PyObject *other)
{
    return operate_in_place(self, other, update_with);
}

static PyObject *
set_inplace_sub(PyObject *self, PyObject *other)
{
    return operate_in_place(self, other, subtract);
}

static PyObject *
set_inplace_xor(PyObject *self, PyObject *other)
{
    return operate_in_place(self, other, toggle);
}

static int
intersect(DraftObject *self, PyObject *other)
{
    return keep_common(self, &other, 1);
}

static PyObject *
set_inplace_and(PyObject *self, PyObject *other)
{
    return operate_in_place(self, other, intersect);
}

/* ---- the type ----------------------------------------------------------------------- */

static PyMethodDef set_methods[] = {
    {"add", set_add, METH_O,
     PyDoc_STR("add($self, value, /)\n--\n\nAdds an element if it is not there.")},
    {"discard", set_discard, METH_O,
     PyDoc_STR("discard($self, value, /)\n--\n\nRemoves an element if it is there.")},
    {"remove", set_remove, METH_O,
     PyDoc_STR("remove($self, value, /)\n--\n\nRemoves an element; KeyError if it is not there.")},
    {"pop", set_pop, METH_NOARGS,
     PyDoc_STR("pop($self, /)\n--\n\nRemoves the newest element and returns it.")},
    {"update", THEUS_FASTCALL(set_update), METH_FASTCALL,
     PyDoc_STR("update($self, /, *others)\n--\n\nAdds all elements of the others.")},
    {"difference_update", THEUS_FASTCALL(set_difference_update), METH_FASTCALL,
     PyDoc_STR("difference_update($self, /, *others)\n--\n\nRemoves all elements of the others.")},
    {"intersection_update", THEUS_FASTCALL(set_intersection_update), METH_FASTCALL,
     PyDoc_STR(
         "intersection_update($self, /, *others)\n--\n\nKeeps what is in all of the others.")},
    {"symmetric_difference_update", set_symmetric_difference_update, METH_O,
     PyDoc_STR("symmetric_difference_update($self, other, /)\n--\n\n"
               "Removes what is in both, adds what is only in the other.")},
    {"union", THEUS_FASTCALL(set_union), METH_FASTCALL,
     PyDoc_STR("union($self, /, *others)\n--\n\nA new set.")},
    {"intersection", THEUS_FASTCALL(set_intersection), METH_FASTCALL,
     PyDoc_STR("intersection($self, /, *others)\n--\n\nA new set.")},
    {"difference", THEUS_FASTCALL(set_difference), METH_FASTCALL,
     PyDoc_STR("difference($self, /, *others)\n--\n\nA new set.")},
    {"symmetric_difference", THEUS_FASTCALL(set_symmetric_difference), METH_FASTCALL,
     PyDoc_STR("symmetric_difference($self, other, /)\n--\n\nA new set.")},
    {"issubset", THEUS_FASTCALL(set_issubset), METH_FASTCALL,
     PyDoc_STR("issubset($self, other, /)\n--\n\nWhether other has every element of this set.")},
    {"issuperset", THEUS_FASTCALL(set_issuperset), METH_FASTCALL,
     PyDoc_STR("issuperset($self, other, /)\n--\n\nWhether this set has every element of other.")},
    {"isdisjoint", THEUS_FASTCALL(set_isdisjoint), METH_FASTCALL,
     PyDoc_STR("isdisjoint($self, other, /)\n--\n\nWhether the two have no element in common.")},
    DRAFT_SHARED_METHODS("to_set"),
    {0},
};

PyDoc_STRVAR(
    set_doc,
    "A set of the state, as its transaction sees and changes it.\n\n"
    "Behaves as a set, and keeps the order of insertion. Usable until the transaction ends;\n"
    "freeze() gives what stays.");

static PyType_Slot set_slots[] = {
    {Py_tp_doc, (void *)set_doc},
    {Py_tp_dealloc, draft_dealloc},
    {Py_tp_traverse, draft_traverse},
    {Py_tp_repr, draft_repr},
    {Py_tp_richcompare, draft_compare},
    {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_iter, set_iter},
    {Py_sq_length, draft_length},
    {Py_sq_contains, set_contains},
    {Py_nb_or, set_or},
    {Py_nb_and, set_and},
    {Py_nb_subtract, set_sub},
    {Py_nb_xor, set_xor},
    {Py_nb_inplace_or, set_inplace_or},
    {Py_nb_inplace_and, set_inplace_and},
    {Py_nb_inplace_subtract, set_inplace_sub},
    {Py_nb_inplace_xor, set_inplace_xor},
    {Py_tp_methods, set_methods},
    {Py_tp_members, draft_members},
    {0, NULL},
};

static PyType_Spec set_spec = {
    .name = "theus._theus.DraftSet",
    .basicsize = sizeof(DraftObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = set_slots,
};

int
add_draft_set_type(PyObject *module, module_state *st)
{
    if (module_add_type(module, &set_spec, &st->DraftSet_type) < 0) {
        return -1;
    }
    return module_register_abc(st, st->DraftSet_type, "MutableSet");
}
