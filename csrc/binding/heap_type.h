/* The Python object that owns a core heap.
 *
 *      FrozenDict --+                      one heap per family of containers:
 *      FrozenList --+--> Heap ==> atoms    only it reports atoms to the collector,
 *      iterator ----+     |                each owned reference exactly once
 *      engine ------+     v
 *                     theus_heap (core): nodes of all versions
 *
 * Handles, views, drafts and states report the Heap and nothing below it. */
#ifndef THEUS_HEAP_TYPE_H
#define THEUS_HEAP_TYPE_H

#include "module_state.h"

#include "../core/container.h"

typedef struct {
    PyObject_HEAD
    theus_heap *core; /* owned; constant */
    PyObject *module; /* owned; keeps `st` valid for as long as the heap lives */
    module_state *st;
    PyObject *engine; /* owned: a weak reference to the engine that it was made for, or NULL; constant once there */
} HeapObject;

/* A heap with nothing in it. New reference. */
HeapObject *heap_new(module_state *st);

#endif
