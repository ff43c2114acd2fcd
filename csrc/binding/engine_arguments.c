/* What an engine's methods accept: times, versions, sizes, isolation levels. */
#include "engine_type.h"

/* More than a century counts as none, and cannot overflow in ns. */
int
engine_parse_milliseconds(PyObject *argument, const char *name, uint64_t *out)
{
    const long long century_ms = 100LL * 366 * 24 * 3600 * 1000;
    if (!PyLong_Check(argument) || PyBool_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "%s is an int, in milliseconds, not %R", name, argument);
        return -1;
    }
    int overflow;
    long long wanted = PyLong_AsLongLongAndOverflow(argument, &overflow);
    if (wanted == -1 && !overflow && PyErr_Occurred()) {
        return -1;
    }
    if (overflow < 0 || (!overflow && wanted < 0)) {
        PyErr_Format(PyExc_ValueError, "%s must be 0 (no limit) or more, not %R", name, argument);
        return -1;
    }
    *out = overflow > 0 || wanted > century_ms ? 0 : (uint64_t)wanted;
    return 0;
}

int
engine_parse_timeout(PyObject *argument, uint64_t *out)
{
    return engine_parse_milliseconds(argument, "write_timeout_ms", out);
}

/* Larger numbers than the core can count are as good as its largest. */
int
engine_parse_version(PyObject *argument, uint64_t *out)
{
    if (!PyLong_Check(argument) || PyBool_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "a version is an int, not %R", argument);
        return -1;
    }
    int overflow;
    long long number = PyLong_AsLongLongAndOverflow(argument, &overflow);
    if (number == -1 && !overflow && PyErr_Occurred()) {
        return -1;
    }
    if (overflow < 0 || (!overflow && number < 0)) {
        PyErr_Format(PyExc_ValueError, "versions are counted from 0; there is no %R", argument);
        return -1;
    }
    *out = overflow > 0 ? UINT64_MAX : (uint64_t)number;
    return 0;
}

int
engine_parse_size(PyObject *argument, const char *name, uint32_t *out)
{
    const long long most = 1LL << 24;
    if (!PyLong_Check(argument) || PyBool_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "%s= is an int, not %R", name, argument);
        return -1;
    }
    int overflow;
    long long wanted = PyLong_AsLongLongAndOverflow(argument, &overflow);
    if (overflow != 0 || wanted < 1 || wanted > most) {
        PyErr_Format(PyExc_ValueError, "%s= must be between 1 and %lld, not %R", name, most, argument);
        return -1;
    }
    *out = (uint32_t)wanted;
    return 0;
}

int
engine_parse_flag(PyObject *argument, const char *name, bool *out)
{
    if (!PyBool_Check(argument)) {
        PyErr_Format(PyExc_TypeError, "%s must be True or False, not %R", name, argument);
        return -1;
    }
    *out = argument == Py_True;
    return 0;
}

int
engine_parse_isolation(PyObject *argument, theus_isolation *out)
{
    if (PyUnicode_Check(argument)) {
        if (PyUnicode_CompareWithASCIIString(argument, "serializable") == 0) {
            *out = THEUS_SERIALIZABLE;
            return 0;
        }
        if (PyUnicode_CompareWithASCIIString(argument, "snapshot") == 0) {
            *out = THEUS_SNAPSHOT;
            return 0;
        }
    }
    PyErr_Format(PyExc_ValueError, "isolation must be 'serializable' or 'snapshot', not %R", argument);
    return -1;
}
