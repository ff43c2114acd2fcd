/* Interrupts for threads that run Python code: what a pool can do about a task that takes too long. */
#include "interrupt.h"

PyObject *
module_interrupt_thread(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long thread;
    PyObject *exception;
    if (!PyArg_ParseTuple(args, "kO:interrupt_thread", &thread, &exception)) {
        return NULL;
    }
    if (exception != Py_None && !PyExceptionClass_Check(exception)) {
        PyErr_Format(PyExc_TypeError, "an interrupt is an exception class or None, not %R", exception);
        return NULL;
    }
    return PyBool_FromLong(PyThreadState_SetAsyncExc(thread, exception == Py_None ? NULL : exception) > 0);
}
