/* Functions of the module for what no signal handler may come into. */
#ifndef THEUS_STEPS_H
#define THEUS_STEPS_H

#include "module_state.h"

PyObject *module_bracket(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_apart(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_on_error(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_drop_first(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
