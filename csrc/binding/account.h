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

/* _theus.rehearse(engine, roots, version, run, isolation, process, hides): an open transaction for such a body, on a version that is
 * made of `roots` and in no store: the engine lends its heap and its rules about fields, and stays as it is. It is an attempt
 * of the run that has this number in the engine that asks, and `hides` is what that one says of itself. It ends as a with
 * block does that an exception leaves. In rehearsal.c. */
PyObject *module_rehearse(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
