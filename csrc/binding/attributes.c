/* Keys as attributes: the order of the search, and its end. */
#include "attributes.h"

#include <string.h>

PyObject *
attributes_of_type(PyTypeObject *type)
{
    PyObject *own = PyDict_New();
    for (Py_ssize_t i = PyTuple_GET_SIZE(type->tp_mro); own != NULL && i-- > 0;) {
        PyObject *base = PyTuple_GET_ITEM(type->tp_mro, i); /* borrowed from type */
        PyObject *names = PyObject_GetAttrString(base, "__dict__");
        if (names == NULL || PyDict_Update(own, names) < 0) {
            Py_CLEAR(own);
        }
        Py_XDECREF(names);
    }
    return own;
}

static bool
is_protocol_name(PyObject *name)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(name);
    return length > 4 && PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_'
           && PyUnicode_READ_CHAR(name, length - 1) == '_'
           && PyUnicode_READ_CHAR(name, length - 2) == '_';
}

/* Methods are what is asked for most, and binding one here saves PyObject_GenericGetAttr() its
 * second look-up. */
int
attribute_own(PyObject *own, PyObject *object, PyObject *name, PyObject **value)
{
    PyObject *descriptor;
    if (attribute_check_name(name) < 0) {
        return -1;
    }
    int found = PyDict_GetItemRef(own, name, &descriptor);
    if (found < 0) {
        return -1;
    }
    if (found) {
        descrgetfunc bind = Py_TYPE(descriptor)->tp_descr_get;
        if (bind == NULL) {
            *value = descriptor;
            return 1;
        }
        *value = bind(descriptor, object, (PyObject *)Py_TYPE(object));
        Py_DECREF(descriptor);
        return *value == NULL ? -1 : 1;
    }
    if (!is_protocol_name(name)) {
        return 0;
    }
    *value = PyObject_GenericGetAttr(object, name); /* raises: the type has no such name */
    return *value == NULL ? -1 : 1;
}

void
attribute_missing(PyObject *object, PyObject *name)
{
    const char *type = Py_TYPE(object)->tp_name;
    const char *dot = strrchr(type, '.');
    PyObject *message = PyUnicode_FromFormat("this %s has no key and no attribute %R",
                                             dot != NULL ? dot + 1 : type, name);
    PyObject *args = message == NULL ? NULL : PyTuple_Pack(1, message);
    PyObject *kwargs = Py_BuildValue("{sOsO}", "name", name, "obj", object);
    PyObject *error = NULL;
    if (args != NULL && kwargs != NULL) {
        error = PyObject_Call(PyExc_AttributeError, args, kwargs);
    }
    if (error != NULL) {
        PyErr_SetObject(PyExc_AttributeError, error);
    }
    Py_XDECREF(error);
    Py_XDECREF(message);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
}
