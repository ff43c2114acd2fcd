/* theus._theus.ABSENT: as a class attribute it hides the one of that name that the class inherits. Whoever asks gets
 * AttributeError, and with it the default that he has for classes that never had one.
 *
 * It is C because NumPy asks at each ufunc, and a property in Python would cost more than small sums do: the error has no text,
 * which would be made for nobody. */
#include "absent.h"

static PyObject *
absent_get(PyObject *Py_UNUSED(op), PyObject *Py_UNUSED(object), PyObject *Py_UNUSED(type))
{
    PyErr_SetNone(PyExc_AttributeError);
    return NULL;
}

static PyType_Slot absent_slots[] = {
    {Py_tp_doc, "Hides an attribute that a class would inherit: whoever asks for it gets AttributeError."},
    {Py_tp_descr_get, absent_get},
    {0, NULL},
};

static PyType_Spec absent_spec = {
    .name = "theus._theus.Absent",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = absent_slots,
};

int
add_absent(PyObject *module, module_state *st)
{
    (void)st;
    PyObject *type = PyType_FromModuleAndSpec(module, &absent_spec, NULL);
    PyObject *one = type == NULL ? NULL : PyType_GenericAlloc((PyTypeObject *)type, 0);
    int result = one == NULL ? -1 : PyModule_AddObjectRef(module, "ABSENT", one);
    Py_XDECREF(one);
    Py_XDECREF(type);
    return result;
}
