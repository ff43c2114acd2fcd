/* The iterator over any container: frozen ones, and those that are being written. */
#ifndef THEUS_ITERATOR_H
#define THEUS_ITERATOR_H

#include "handle.h"

typedef enum {
    ITERATE_KEYS,   /* of maps */
    ITERATE_VALUES, /* of maps and lists; the elements of sets */
    ITERATE_ITEMS,  /* of maps: (key, value) */
} iterate_what;

/* `owner` is what keeps heap and container alive. While a container is an edit, it may change
 * between two steps: then the next step raises RuntimeError, as dict's does, if a key came or
 * went. */
PyObject *iterator_new(HeapObject *heap, PyObject *owner, const theus_container *container,
                       iterate_what what, bool reversed);

#endif
