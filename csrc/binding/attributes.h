/* Keys as attributes, for types whose instances are mappings: what the type has comes first, so
 * no key can hide a method; then keys; names such as __array__ are never keys. */
#ifndef THEUS_ATTRIBUTES_H
#define THEUS_ATTRIBUTES_H

#include "pyapi.h"

/* Names come from the interpreter, and then they are text; or from who calls __getattribute__ or __setattr__ by hand:
 * -1 with TypeError. */
static inline int
attribute_check_name(PyObject *name)
{
    if (PyUnicode_Check(name)) {
        return 0;
    }
    PyErr_Format(PyExc_TypeError, "attribute name must be string, not '%.200s'", Py_TYPE(name)->tp_name);
    return -1;
}

/* {name: descriptor} of everything that instances of `type` have. New reference. */
PyObject *attributes_of_type(PyTypeObject *type);

/* What `object` has by way of its type, with `own` from above: 1 and a new reference in *value;
 * 0 if the name is free to be a key; -1 with an exception set. */
int attribute_own(PyObject *own, PyObject *object, PyObject *name, PyObject **value);

/* AttributeError, with name and obj set: from these the interpreter works out "Did you mean
 * ...?" if the error is shown, so hasattr() does not pay for it. */
void attribute_missing(PyObject *object, PyObject *name);

#endif
