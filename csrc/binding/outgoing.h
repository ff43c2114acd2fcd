/* What a body sends with its commit, as Python sees it: ctx.outbox, ctx.signal, tx.outbox; and the messages of an engine on
 * their way out. core/attach.h says what becomes of them. */
#ifndef THEUS_OUTGOING_H
#define THEUS_OUTGOING_H

#include "engine_type.h"

/* Attaches a pair, frozen. Signals are held against txn->guard: the path of one is ("signal", name); who may not write may
 * send nothing. The caller has entered. 0 or -1. */
int outgoing_attach(TxnObject *txn, theus_attachment kind, PyObject *name, PyObject *value);

/* The senders that belong to a transaction. New references. */
PyObject *outgoing_outbox(TxnObject *txn);
PyObject *outgoing_signal(TxnObject *txn);

/* A list of attachments (NULL: none) as a tuple of pairs. New reference. */
PyObject *outgoing_pairs(HeapObject *heap, const theus_container *list);

/* Engine.take_outbox() */
PyObject *engine_take_outbox(PyObject *engine, PyObject *pending);

#endif
