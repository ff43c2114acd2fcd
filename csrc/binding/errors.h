/* Status codes and refusals as Python exceptions. The classes live in theus/errors.py. */
#ifndef THEUS_ERRORS_H
#define THEUS_ERRORS_H

#include "module_state.h"

#include "../core/status.h"

/* Finds the exception classes. Called once, by exec. */
int errors_import(module_state *st);

/* Sets the exception for a status that is not THEUS_OK and returns NULL. FOREIGN keeps the
 * exception that the callback left. */
PyObject *errors_raise(const module_state *st, theus_status status);

/* The same for functions that return int: -1. */
static inline int
errors_fail(const module_state *st, theus_status status)
{
    errors_raise(st, status);
    return -1;
}

/* After theus_container_find() said THEUS_FIND_FAILED: makes sure that an exception is set. */
int errors_find_failed(const module_state *st);

/* FrozenError: `object` cannot be changed; `instead` says what to write. Returns -1. */
int errors_frozen(const module_state *st, PyObject *object, const char *instead);

/* KeyError whose only argument is `key`, also if that is a tuple. Returns -1. */
int errors_key(PyObject *key);

/* UnfreezableError at `path` (a tuple) about the type of `value`, with the way out. Returns -1. */
int errors_unfreezable(const module_state *st, PyObject *path, PyObject *value, const char *advice);

/* How many positional arguments a fast call got: 0, or -1 with TypeError set. */
int errors_check_count(const char *name, Py_ssize_t count, Py_ssize_t least, Py_ssize_t most);

#endif
