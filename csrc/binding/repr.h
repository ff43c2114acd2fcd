/* The text of containers: as Python would write them, but short. */
#ifndef THEUS_REPR_H
#define THEUS_REPR_H

#include "iterator.h"

/* tp_repr of the frozen types: FrozenDict({'a': 1, 'b': [1, 2, ... 98 more]}). Containers
 * inside are written as the builtins they were made from. */
PyObject *handle_repr(PyObject *self);

/* "Name(...)" around the text of a container, for other types over one; or around only the keys
 * or the values of a map, as a list. New reference. */
PyObject *container_repr(const char *name, HeapObject *heap, const theus_container *container);
PyObject *container_repr_part(const char *name, HeapObject *heap, const theus_container *container,
                              iterate_what what);

#endif
