/* Interrupts for threads that run Python code. */
#ifndef THEUS_INTERRUPT_H
#define THEUS_INTERRUPT_H

#include "pyapi.h"

/* A function of the module. */
PyObject *module_interrupt_thread(PyObject *module, PyObject *args);

#endif
