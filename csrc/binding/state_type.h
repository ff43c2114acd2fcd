/* State, and the records that people read: CommitRecord, Change, MetaLogEntry. */
#ifndef THEUS_STATE_TYPE_H
#define THEUS_STATE_TYPE_H

#include "engine_type.h"

/* A State over `version` (its count is stolen, also on failure). `engine` may be NULL. New reference. */
PyObject *state_new(HeapObject *heap, EngineObject *engine, theus_version *version);

/* The version and the heap of a State, borrowed from it; NULL, without an exception, for anything else. */
theus_version *state_version(const module_state *st, PyObject *state, HeapObject **heap);

/* A commit record as Python sees it; None for NULL. New reference. */
PyObject *record_wrap(HeapObject *heap, const theus_record *record);

/* First data of a state: root map from `data` plus `heavy` under its own root. Sealed, owned. */
int state_root_from(HeapObject *heap, PyObject *data, PyObject *heavy, theus_container **out);


#endif
