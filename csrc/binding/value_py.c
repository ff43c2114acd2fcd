/* Value operations over PyObject. */
#include "value_py.h"

#include <string.h>

static void
value_retain(void *atom)
{
    Py_INCREF((PyObject *)atom);
}

static void
value_release(void *atom)
{
    Py_DECREF((PyObject *)atom);
}

/* Two exact str that were hashed, so both are in their canonical form. */
static int
text_equal(PyObject *a, PyObject *b)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(a);
    if (length != PyUnicode_GET_LENGTH(b) || PyUnicode_KIND(a) != PyUnicode_KIND(b)) {
        return 0;
    }
    return memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)length * (size_t)PyUnicode_KIND(a))
           == 0;
}

static int
value_equal(void *Py_UNUSED(ctx), void *a, void *b)
{
    PyObject *left = (PyObject *)a, *right = (PyObject *)b;
    if (left == right) {
        return 1;
    }
    if (PyUnicode_CheckExact(left) && PyUnicode_CheckExact(right)) {
        return text_equal(left, right);
    }
    /* __eq__ may drop the last other reference to either side. */
    Py_INCREF(left);
    Py_INCREF(right);
    int equal = PyObject_RichCompareBool(left, right, Py_EQ);
    Py_DECREF(left);
    Py_DECREF(right);
    return equal;
}

static int
value_hash(void *Py_UNUSED(ctx), void *atom, uint64_t *hash)
{
    return key_hash((PyObject *)atom, hash);
}

const theus_value_ops theus_py_value_ops = {
    .retain = value_retain,
    .release = value_release,
    .equal = value_equal,
    .hash = value_hash,
    .serial = THEUS_HAVE_GIL,
};
