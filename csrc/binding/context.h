/* theus._theus.Context: what a process gets as its first argument. */
#ifndef THEUS_CONTEXT_H
#define THEUS_CONTEXT_H

#include "scope.h"

/* _theus.open_context and _theus.close_context: the beginning and the end of a body. */
PyObject *module_open_context(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_close_context(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* For admin scopes (admin.c). The context belongs to its transaction; what is got is borrowed. */
TxnObject *context_transaction(PyObject *context);
PyObject *context_plan(PyObject *context);
ScopeObject *context_scope(PyObject *context);
/* From now on it shows its roots under `scope` (NULL: everything). The transaction has been entered. */
void context_use_scope(PyObject *context, ScopeObject *scope);

int add_context_type(PyObject *module, module_state *st);

#endif
