/* Equality and hashing of containers, of this module and of Python. */
#ifndef THEUS_COMPARE_H
#define THEUS_COMPARE_H

#include "handle.h"

/* 1, 0, or -1 with an exception set. Two versions of one history cost O(changes). */
int containers_equal(HeapObject *heap_a, const theus_container *a, HeapObject *heap_b,
                     const theus_container *b);

/* Against an exact or derived builtin. */
int map_equals_dict(HeapObject *heap, const theus_container *map, PyObject *dict);
int list_equals_list(HeapObject *heap, const theus_container *list, PyObject *other);
int set_equals_set(HeapObject *heap, const theus_container *set, PyObject *other);

/* The hash that goes with this equality; -1 with an exception set (a part may be unhashable). */
Py_hash_t container_hash(HeapObject *heap, const theus_container *container);

/* tp_hash of the three frozen types: container_hash, remembered in the handle. */
Py_hash_t handle_hash(PyObject *self);

#endif
