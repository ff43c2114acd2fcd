/* _theus.account() and _theus.repeat(): what the body of one transaction has seen and done, as plain values that another
 * transaction repeats. core/account.h says what that is worth.
 *
 *     (entries, signals, messages, notes)
 *
 *     entry:  (kind, path)             a sight, a deletion, a write that changed nothing
 *             (kind, path, value)      a write, add, append
 *             (kind, path, value, resolver)
 *     the others: pairs of a name and a value
 *
 * repeat() holds nothing against the guard: who made the account has done that, at the line; and what the account writes is held
 * against the bound when the transaction commits, as everything is (guard.h). */
#ifndef THEUS_BINDING_ACCOUNT_H
#define THEUS_BINDING_ACCOUNT_H

#include "module_state.h"

PyObject *module_account(PyObject *module, PyObject *transaction);
PyObject *module_repeat(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_set_run(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
