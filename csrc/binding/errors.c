/* The one place where a status becomes an exception. */
#include "errors.h"

#include <errno.h>
#include <string.h>

int
errors_import(module_state *st)
{
    PyObject *errors = PyImport_ImportModule("theus.errors");
    if (errors == NULL) {
        return -1;
    }
#define IMPORT_ERROR(type, name)                                      \
    if ((st->name = PyObject_GetAttrString(errors, #name)) == NULL) { \
        Py_DECREF(errors);                                            \
        return -1;                                                    \
    }
    THEUS_ERROR_FIELDS(IMPORT_ERROR)
#undef IMPORT_ERROR
    Py_DECREF(errors);
    return 0;
}

PyObject *
errors_raise(const module_state *st, theus_status status)
{
    PyObject *type = st->ContextError;
    switch (status) {
    case THEUS_OK:
        PyErr_SetString(PyExc_SystemError, "theus: success was reported as a failure");
        return NULL;
    case THEUS_NOMEM:
        return PyErr_NoMemory();
    case THEUS_FOREIGN:
        if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_SystemError, "theus: a callback failed without an exception");
        }
        return NULL;
    case THEUS_CHANGED:
        type = PyExc_RuntimeError;
        break;
    case THEUS_TOO_BIG:
        type = PyExc_OverflowError;
        break;
    case THEUS_TOO_DEEP:
        type = PyExc_RecursionError;
        break;
    case THEUS_ENDED:
    case THEUS_BUSY:
    case THEUS_FORKED:
    case THEUS_READ_ONLY:
        type = st->TransactionError;
        break;
    case THEUS_NO_ROOM:
        type = PyExc_MemoryError;
        break;
    case THEUS_NO_FILES: {
        PyObject *error = PyObject_CallFunction(PyExc_OSError, "is", EMFILE, theus_status_text(status));
        if (error != NULL) {
            PyErr_SetObject((PyObject *)Py_TYPE(error), error);
            Py_DECREF(error);
        }
        return NULL;
    }
    case THEUS_BAD_TOKEN:
        type = st->BadTokenError;
        break;
    case THEUS_STALE:
    case THEUS_OVER:
        type = st->StaleArrayError;
        break;
    case THEUS_BORROWED:
        type = st->BorrowedArrayError;
        break;
    case THEUS_LENT: /* theus.shm_array says more */
        type = PyExc_BufferError;
        break;
    case THEUS_UNSUPPORTED:
        type = PyExc_NotImplementedError;
        break;
    case THEUS_REFUSED:
    case THEUS_CROWDED:
    case THEUS_NO_FOLDER:
        type = PyExc_OSError;
        break;
    case THEUS_FULL:
    case THEUS_UNREAD:
    case THEUS_GONE:
    case THEUS_FUTURE:
    case THEUS_BAD_PATH:
    case THEUS_LATE:
        break;
    }
    PyErr_SetString(type, theus_status_text(status));
    return NULL;
}

int
errors_find_failed(const module_state *st)
{
    return PyErr_Occurred() ? -1 : errors_fail(st, THEUS_CHANGED);
}

int
errors_frozen(const module_state *st, PyObject *object, const char *instead)
{
    const char *name = Py_TYPE(object)->tp_name;
    const char *dot = strrchr(name, '.');
    PyErr_Format(st->FrozenError, "this %s is immutable: %s", dot != NULL ? dot + 1 : name,
                 instead);
    return -1;
}

int
errors_key(PyObject *key)
{
    PyObject *args = PyTuple_Pack(1, key);
    if (args != NULL) {
        PyErr_SetObject(PyExc_KeyError, args);
        Py_DECREF(args);
    }
    return -1;
}

int
errors_unfreezable(const module_state *st, PyObject *path, PyObject *value, const char *advice)
{
    PyObject *error = PyObject_CallFunction(st->UnfreezableError, "OOs", path,
                                            (PyObject *)Py_TYPE(value), advice);
    if (error != NULL) {
        PyErr_SetObject(st->UnfreezableError, error);
        Py_DECREF(error);
    }
    return -1;
}

int
errors_check_count(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most)
{
    if (count >= least && count <= most) {
        return 0;
    }
    bool few = count < least;
    Py_ssize_t wanted = few ? least : most;
    PyErr_Format(PyExc_TypeError, "%s() takes %s %zd argument%s, not %zd", name,
                 least == most ? "exactly"
                 : few         ? "at least"
                               : "at most",
                 wanted, wanted == 1 ? "" : "s", count);
    return -1;
}
