/* What other files do with the state of a future; promise.c says how it works. */
#ifndef THEUS_PROMISE_H
#define THEUS_PROMISE_H

#include "module_state.h"

/* 1: it runs now. 0: it was cancelled, or is over. -1 with an exception set: it is no Promise. */
int promise_begin(const module_state *st, PyObject *promise);

#endif
