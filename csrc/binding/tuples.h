/* Tuples are atoms, but their parts may be containers: then freezing and thawing rebuild them. */
#ifndef THEUS_TUPLES_H
#define THEUS_TUPLES_H

#include "pyapi.h"

/* Step one, per part: if `part` (stolen, also on failure) is not what the tuple has at `index`,
 * notes it in *parts, a list that is made at the first difference. -1 with an exception set. */
int tuple_replace(PyObject *tuple, Py_ssize_t index, PyObject *part, PyObject **parts);

/* Step two: the tuple itself if nothing differed (`parts` is NULL), else a new one of the same
 * type. Steals `parts`. New reference, or NULL with an exception set. */
PyObject *tuple_finish(PyObject *tuple, PyObject *parts);

/* Whether step two can make a tuple of this type: tuple itself and named tuples. */
bool tuple_can_rebuild(PyTypeObject *type);

#endif
