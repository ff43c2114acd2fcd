/* keys(), values() and items() of a FrozenDict. */
#ifndef THEUS_FROZEN_VIEWS_H
#define THEUS_FROZEN_VIEWS_H

#include "iterator.h"

PyObject *view_new(HandleObject *map, iterate_what what);

#endif
