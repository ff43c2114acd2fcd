/* theus._theus.Context: what a process gets as its first argument. */
#ifndef THEUS_CONTEXT_H
#define THEUS_CONTEXT_H

#include "module_state.h"

/* _theus.open_context and _theus.close_context: the beginning and the end of a body. */
PyObject *module_open_context(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_close_context(PyObject *module, PyObject *const *args, Py_ssize_t count);

int add_context_type(PyObject *module, module_state *st);

#endif
