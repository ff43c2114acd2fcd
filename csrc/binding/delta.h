/* From one version of a container to a later one, as changes that can be done again elsewhere: what a worker that has the
 * first is sent of the second.
 *
 *     (key,)               of a map or set: it goes
 *     (key, value)         it is put there: in its place if it is there, else at the end. Of a list: index and value;
 *                          of a set: element and None
 *     (key, None, [...])   the container that stands there changes by these
 *
 * Done in their order they give equal content in the same order. They are told by position, so they can be told only where
 * entries have kept theirs: not across a compaction, or when a list was cut or moved; and records have no such changes.
 * Whoever does them finds the entry by its key, of which it has a copy: so what goes or changes has a key that equals each
 * of its copies (text, a number that is not NaN, bytes, a tuple of these). */
#ifndef THEUS_DELTA_H
#define THEUS_DELTA_H

#include "handle.h"

/* _theus.container_changes(old, new, limit): a list, or None if they cannot be told, or are more than `limit`. */
PyObject *module_container_changes(PyObject *module, PyObject *const *args, Py_ssize_t count);

#endif
