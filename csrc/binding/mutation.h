/* FrozenDictMutation: what FrozenDict.mutate() gives. */
#ifndef THEUS_MUTATION_H
#define THEUS_MUTATION_H

#include "heap_type.h"

/* A writable copy of `base` (sealed). New reference. */
PyObject *mutation_new(HeapObject *heap, theus_container *base);

#endif
