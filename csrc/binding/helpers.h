/* ctx.log, ctx.now, ctx.random: made by theus.helpers when they are asked for. */
#ifndef THEUS_HELPERS_H
#define THEUS_HELPERS_H

#include "txn_type.h"

/* The helper of that name for a process (its plan) in a transaction that has been entered. *kept is a dict, or NULL at
 * first: what was made is there, and given again. What a run may depend on is noted in the commit record. New reference. */
PyObject *helper_get(TxnObject *txn, PyObject *plan, PyObject **kept, const char *name);

#endif
