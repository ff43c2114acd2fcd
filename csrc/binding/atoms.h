/* Which Python objects a heap may hold by reference. */
#ifndef THEUS_ATOMS_H
#define THEUS_ATOMS_H

#include "module_state.h"

typedef enum {
    ATOM_FAILED = -1, /* an exception is set */
    ATOM_REFUSED = 0,
    ATOM_ACCEPTED = 1,
    ATOM_PUBLISHED = 3, /* what its _published() gives is held: shared arrays */
    ATOM_AS_DICT = 2, /* copied as a dict: OrderedDict, defaultdict, Counter, mappingproxy */
} atom_verdict;

/* What to do with an object that is no exact dict, list, tuple, set or frozenset and no frozen
 * container. */
atom_verdict atom_judge(module_state *st, PyObject *object);

/* One sentence on how to store a refused object. Never fails. */
const char *atom_advice(module_state *st, PyObject *object);

#endif
