/* theus._theus.ArrayView: an array of numbers over a buffer, for interpreters in which NumPy cannot load. */
#ifndef THEUS_ARRAY_VIEW_H
#define THEUS_ARRAY_VIEW_H

#include "module_state.h"

/* The bytes that an array covers, from its first element: it needs those from *low to just before *high; both 0 if it has
 * no elements. False if the sum overflows: no array does. */
bool array_extent(int ndim, const Py_ssize_t *shape, const Py_ssize_t *strides, Py_ssize_t itemsize, int64_t *low,
                  int64_t *high);

#endif
