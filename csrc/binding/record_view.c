/* Views of records: what reading a frozen container or a state gives for an instance. The type is made once for each
 * class; see records.h. */
#include "records.h"

#include "attributes.h"
#include "container_py.h"
#include "errors.h"

PyObject *
record_view_getattro(PyObject *op, PyObject *name)
{
    HandleObject *self = handle_of(op);
    uint32_t pos;
    theus_value value;
    if (attribute_check_name(name) < 0) {
        return NULL;
    }
    if (record_name_is_special(name)) {
        int own = record_type_answers(op, name);
        if (own != 0) {
            return own < 0 ? NULL : PyObject_GenericGetAttr(op, name);
        }
    }
    int found = container_find(self->heap, self->node, name, &pos, &value);
    if (found > 0) {
        return handle_wrap(self->heap, value);
    }
    return found < 0 ? NULL : record_class_getattr(self->record, op, name);
}

static int
view_setattro(PyObject *op, PyObject *Py_UNUSED(name), PyObject *Py_UNUSED(value))
{
    return handle_refuse_write(op, "assign in a transaction, or change the instance that to_object() gives");
}

/* ---- as an object ------------------------------------------------------------------------ */

PyObject *
record_to_object(PyObject *op)
{
    return record_view_check(op) ? record_thaw(handle_of(op)->heap, handle_of(op)->node) : draft_thaw(op);
}

PyObject *
record_method_to_object(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return record_to_object(op);
}

PyObject *
record_method_reduce(PyObject *op, PyObject *protocol)
{
    PyObject *object = record_to_object(op);
    PyObject *reduced = object == NULL ? NULL : PyObject_CallMethod(object, "__reduce_ex__", "O", protocol);
    Py_XDECREF(object);
    return reduced;
}

static PyObject *
view_get_part(PyObject *op, void *name)
{
    HandleObject *self = handle_of(op);
    return record_part(self->record, (const char *)name, record_values(self->heap, self->node, false),
                       record_given(self->record, self->node));
}

static PyObject *
view_get_class(PyObject *op, void *Py_UNUSED(closure))
{
    return Py_NewRef((PyObject *)handle_of(op)->record->cls);
}

static PyObject *
view_dir(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    HandleObject *self = handle_of(op);
    return record_dir(self->record, record_values(self->heap, self->node, false));
}

/* ---- where the class says nothing ---------------------------------------------------------- */

static PyObject *
view_repr(PyObject *op)
{
    return PyUnicode_FromFormat("<record of %R>", handle_of(op)->record->cls);
}

/* As for instances without an __eq__: is it the same one? */
static PyObject *
view_richcompare(PyObject *op, PyObject *other, int how)
{
    if (!record_view_check(other) || (how != Py_EQ && how != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return PyBool_FromLong((handle_of(op)->node == handle_of(other)->node) == (how == Py_EQ));
}

static Py_hash_t
view_hash(PyObject *op)
{
    return (Py_hash_t)((uintptr_t)handle_of(op)->node >> 4); /* never -1 */
}

static PyMethodDef view_methods[] = {
    {"to_object", record_method_to_object, METH_NOARGS,
     PyDoc_STR("to_object($self, /)\n--\n\n"
               "An instance of the class with this content, independent at any depth.")},
    {"__copy__", record_method_to_object, METH_NOARGS, PyDoc_STR("As to_object().")},
    {"__deepcopy__", record_method_to_object, METH_O, PyDoc_STR("As to_object().")},
    {"__reduce_ex__", record_method_reduce, METH_O, PyDoc_STR("Pickles as the instance.")},
    {"__dir__", view_dir, METH_NOARGS, PyDoc_STR("Names of the class, and of what the record holds.")},
    {0},
};

static PyGetSetDef view_getset[] = {
    {"__class__", view_get_class, NULL, PyDoc_STR("The class of the instance that was stored."), NULL},
    {"__dict__", view_get_part, NULL, PyDoc_STR("A new dict of the attributes."), "__dict__"},
    {"__pydantic_extra__", view_get_part, NULL, NULL, "__pydantic_extra__"},
    {"__pydantic_private__", view_get_part, NULL, NULL, "__pydantic_private__"},
    {"__pydantic_fields_set__", view_get_part, NULL, NULL, "__pydantic_fields_set__"},
    {0},
};

PyDoc_STRVAR(view_doc, "A read-only view of an instance in a state. `__class__` is the class of the instance.");

static PyType_Slot view_slots[] = {
    {Py_tp_doc, (void *)view_doc},
    {Py_tp_new, record_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_members, handle_members},
    {Py_tp_methods, view_methods},
    {Py_tp_getset, view_getset},
    {Py_tp_getattro, record_view_getattro},
    {Py_tp_setattro, view_setattro},
    {Py_tp_repr, view_repr},
    {Py_tp_richcompare, view_richcompare},
    {Py_tp_hash, view_hash},
    {0, NULL},
};

static PyType_Spec view_spec = {
    .name = "theus._theus.Record",
    .basicsize = sizeof(HandleObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = view_slots,
};

PyTypeObject *
record_view_type_new(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &view_spec, NULL);
}
