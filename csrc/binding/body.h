/* Bodies: the functions that run in transactions. */
#ifndef THEUS_BODY_H
#define THEUS_BODY_H

#include "txn_type.h"

#include "../core/turn_queue.h"

/* fn(tx, *args), args[0] being fn itself. NULL too where not a line of it has run: coroutine functions and generator
 * functions are refused. */
PyObject *body_call(TxnObject *txn, PyObject *const *args, Py_ssize_t count);

/* What fn(tx, *args) is to the queue, of a process of this name (or NULL). Runs no code of the user. Of a
 * function the kind is its code, since functions are often made anew for each run; to the exact body what it was made
 * with counts as well: cells, defaults, the arguments of a partial, the object of a method. Numbers, strings, and tuples
 * and dicts of them are compared by value, all else by identity. */
theus_body body_known_as(PyObject *fn, PyObject *const *args, Py_ssize_t count, PyObject *process);

#endif
