/* What has to be whole although a signal handler may raise in the main thread between any two instructions of Python.
 *
 * The interpreter runs handlers before and after calls, at jumps back, and where something waits; not inside a function of
 * C that does not ask for it. So what is done by one call of C is done or not begun. With these
 *
 *     bracket(enter, leave, fn, *args)    whoever is in leaves, also by an exception
 *     apart(lock, fn, *args)              whoever holds that lets others have it meanwhile
 *     on_error(alarm, fn, *args)          somebody hears of it when fn raises
 *     drop_first(deque, item)             looks at the first one and takes it off, or leaves it
 *
 * code of Python keeps a lock, and other threads rely on it, if `enter`, `leave` and `alarm` are of C as well: methods of
 * locks, of files, of our own types. A `with` does not do: from Python 3.14 on __enter__ is a call like any other, and a
 * handler may raise when it has the lock and before the block begins. The first two are what bracket and onException are in
 * Haskell's Control.Exception, without its masks: what is interrupted has to be a row of steps that others can go on from. */
#include "steps.h"

#include "errors.h"

/* What the whole gives: `result`, or the exception `error` if that is NULL; both are stolen, and so is `left`, which is NULL
 * if leaving has failed. */
static PyObject *
outcome(PyObject *result, PyObject *error, PyObject *left)
{
    if (error != NULL) {
        PyErr_Clear(); /* the first one counts */
        PyErr_SetRaisedException(error);
    }
    else if (left == NULL) {
        Py_CLEAR(result);
    }
    Py_XDECREF(left);
    return result;
}

PyObject *
module_bracket(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("bracket", count, 3, PY_SSIZE_T_MAX) < 0) {
        return NULL;
    }
    PyObject *entered = PyObject_CallNoArgs(args[0]);
    if (entered == NULL) {
        return NULL;
    }
    bool refused = entered == Py_False;
    Py_DECREF(entered);
    if (refused) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    PyObject *result = PyObject_Vectorcall(args[2], args + 3, (size_t)(count - 3), NULL);
    PyObject *error = result == NULL ? PyErr_GetRaisedException() : NULL;
    return outcome(result, error, PyObject_CallNoArgs(args[1]));
}

PyObject *
module_apart(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("apart", count, 2, PY_SSIZE_T_MAX) < 0) {
        return NULL;
    }
    PyObject *saved = PyObject_CallMethod(args[0], "_release_save", NULL); /* as threading.Condition does */
    if (saved == NULL) {
        return NULL;
    }
    PyObject *result = PyObject_Vectorcall(args[1], args + 2, (size_t)(count - 2), NULL);
    PyObject *error = result == NULL ? PyErr_GetRaisedException() : NULL;
    PyObject *taken = PyObject_CallMethod(args[0], "_acquire_restore", "(O)", saved);
    Py_DECREF(saved);
    return outcome(result, error, taken);
}

PyObject *
module_on_error(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("on_error", count, 2, PY_SSIZE_T_MAX) < 0) {
        return NULL;
    }
    PyObject *result = PyObject_Vectorcall(args[1], args + 2, (size_t)(count - 2), NULL);
    if (result == NULL) {
        PyObject *error = PyErr_GetRaisedException();
        PyObject *told = PyObject_CallNoArgs(args[0]);
        PyErr_Clear(); /* closed: nobody is left to be told */
        Py_XDECREF(told);
        PyErr_SetRaisedException(error);
    }
    return result;
}

PyObject *
module_drop_first(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (errors_check_count("drop_first", count, 2, 2) < 0) {
        return NULL;
    }
    Py_ssize_t length = PySequence_Size(args[0]);
    PyObject *first = length > 0 ? PySequence_GetItem(args[0], 0) : NULL;
    bool same = first == args[1];
    Py_XDECREF(first);
    if (length < 0 || (length > 0 && first == NULL)) {
        return NULL;
    }
    if (same) {
        PyObject *dropped = PyObject_CallMethodNoArgs(args[0], module_state_of(module)->name_popleft);
        if (dropped == NULL) {
            return NULL;
        }
        Py_DECREF(dropped);
    }
    return PyBool_FromLong(same);
}
