/* What the core may do with an atom that is a PyObject: count, compare, hash. */
#ifndef THEUS_VALUE_PY_H
#define THEUS_VALUE_PY_H

#include "pyapi.h"

#include "../core/value.h"

/* retain and release are Py_INCREF and Py_DECREF. equal and hash take no context (pass NULL),
 * may run any Python code, and on failure leave the exception set. */
extern const theus_value_ops theus_py_value_ops;

/* The hash of a key as the core wants it. -1 with an exception set. */
static inline int
key_hash(PyObject *key, uint64_t *hash)
{
    Py_hash_t found = object_hash(key);
    *hash = (uint64_t)found;
    return found == -1 ? -1 : 0;
}

#endif
