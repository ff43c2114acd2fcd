/* A descriptor for what a class does not have although its base has it. */
#ifndef THEUS_ABSENT_H
#define THEUS_ABSENT_H

#include "module_state.h"

/* Adds ABSENT to the module. */
int add_absent(PyObject *module, module_state *st);

#endif
