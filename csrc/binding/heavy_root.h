/* ctx.heavy: the root "heavy" as a process sees it, with alloc() and put(). */
#ifndef THEUS_HEAVY_ROOT_H
#define THEUS_HEAVY_ROOT_H

#include "module_state.h"

/* What `context`, a Context, shows for `root`, what its root "heavy" holds. New reference. */
PyObject *heavy_root_new(module_state *st, PyObject *context, PyObject *root);

int add_heavy_root_type(PyObject *module, module_state *st);

#endif
