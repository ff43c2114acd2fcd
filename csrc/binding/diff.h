/* The difference of two versions as Python sees it. */
#ifndef THEUS_DIFF_H
#define THEUS_DIFF_H

#include "handle.h"

/* list of Change(path, old, new) from a to b, nested containers of the same kind taken apart. New reference. */
PyObject *diff_containers(HeapObject *heap_a, theus_container *a, HeapObject *heap_b, theus_container *b);

#endif
