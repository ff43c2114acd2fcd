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
    if (!PyExceptionClass_Check(exception)) { /* nor None, which would leave 3.11 looking: theus/pools/thread.py */
        PyErr_Format(PyExc_TypeError, "an interrupt is an exception class, not %R", exception);
        return NULL;
    }
    return PyBool_FromLong(PyThreadState_SetAsyncExc(thread, exception) > 0);
}
