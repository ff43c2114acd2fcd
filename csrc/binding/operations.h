/* What a transaction has written, as a list that no Python code can change while it is read. */
#ifndef THEUS_OPERATIONS_H
#define THEUS_OPERATIONS_H

#include "txn_type.h"

/* What is sent counts as an operation, too: at ("signal", topic) and ("outbox", topic). */
enum { OPERATION_SIGNAL = THEUS_OP_MERGE + 1, OPERATION_MESSAGE };

typedef struct noted_operation {
    struct noted_operation *next;
    int kind; /* theus_op_kind, or one of the above */
    uint32_t length;
    theus_segment path[]; /* keys retained */
} noted_operation;

/* The operations so far, oldest cell first; with `recent` those since the innermost savepoint, with `idle`
 * also writes that have changed nothing. The transaction has been entered. 0 and *first (NULL: none; free it), or -1. */
int operations_note(TxnObject *txn, bool recent, bool idle, noted_operation **first);
/* Those so far for which `wanted` (which runs no Python code) is true. */
int operations_note_some(TxnObject *txn, bool (*wanted)(void *arg, const theus_segment *path, uint32_t length),
                         void *arg, noted_operation **first);
void operations_free(noted_operation *first);

/* Transaction.operations() */
PyObject *txn_method_operations(PyObject *txn, PyObject *const *args, Py_ssize_t count);

#endif
