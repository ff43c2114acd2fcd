/* Rebuilding tuples and named tuples with other parts. */
#include "tuples.h"

int
tuple_replace(PyObject *tuple, Py_ssize_t index, PyObject *part, PyObject **parts)
{
    if (part == PyTuple_GET_ITEM(tuple, index)) {
        Py_DECREF(part);
        return 0;
    }
    if (*parts == NULL) {
        *parts = PyList_New(0);
        if (*parts == NULL || PyList_SetSlice(*parts, 0, 0, tuple) < 0) {
            Py_DECREF(part);
            return -1;
        }
    }
    return PyList_SetItem(*parts, index, part);
}

PyObject *
tuple_finish(PyObject *tuple, PyObject *parts)
{
    if (parts == NULL) {
        return Py_NewRef(tuple);
    }
    PyTypeObject *type = Py_TYPE(tuple);
    PyObject *made = PyList_AsTuple(parts);
    Py_DECREF(parts);
    if (made == NULL || type == &PyTuple_Type) {
        return made;
    }
    /* Not through the class: a named tuple's __new__ wants its fields one by one, and may be
     * the user's. */
    PyObject *args = PyTuple_Pack(1, made);
    Py_DECREF(made);
    if (args == NULL) {
        return NULL;
    }
    made = PyTuple_Type.tp_new(type, args, NULL);
    Py_DECREF(args);
    return made;
}

bool
tuple_can_rebuild(PyTypeObject *type)
{
    return type == &PyTuple_Type
           || (PyObject_HasAttrString((PyObject *)type, "_fields")
               && PyObject_HasAttrString((PyObject *)type, "_make"));
}
