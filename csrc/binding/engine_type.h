/* theus._theus.Engine: a heap, a store, and who is working on it. */
#ifndef THEUS_ENGINE_TYPE_H
#define THEUS_ENGINE_TYPE_H

#include "active.h"
#include "waiting.h"

#include "../core/ring.h"

enum { ENGINE_DEFAULT_HISTORY = 128 }; /* versions that are kept, the current one included */

struct EngineObject {
    PyObject_HEAD
    HeapObject *heap;        /* owned */
    _Atomic(theus_store *) store; /* owned; of __init__, before that of __new__ */
    theus_store *outdated;   /* owned: that of __new__, once there is a later one, if other threads may be reading it */
    PyObject *conflicts;     /* dict: path tuple -> number of conflicts there; bounded */
    PyObject *rules;         /* dict of zones.h, or NULL. Set by __init__ */
    PyObject *admins;        /* dict: id of a function that may open admin scopes -> (function, name); or NULL */
    PyObject *admissions;    /* list: records of admin scopes, oldest first; bounded; or NULL */
    PyObject *everything;    /* owned scope: of contexts without a contract, where fields are not shown; or NULL so far */
    _Atomic(bool) hides;     /* some version may hold fields that processes may not read */
    PyObject *weakrefs;
    active_txns active;
    _Atomic(uint64_t) timeout_ms; /* of runs; transactions name their own */
    bool reserves;                /* ring mode block or strict. Set by __init__ */
    uint64_t ring_timeout_ms;     /* ring mode block: how long a commit waits for room; 0: no limit. Set by __init__ */
    _Atomic(uint64_t) body_ns;    /* running mean of measured bodies: the scale of back-off */
    theus_bell commits;        /* rings after each commit, and when the engine closes */
    theus_bell room;           /* rings when the ring may have room again, and when the engine closes */
    _Atomic(uint64_t) runs;    /* numbers given out: see txn_run() */
    _Atomic(bool) strict_cas;
    _Atomic(bool) initialised; /* by one __init__, now or before */
    _Atomic(bool) closed;
};

/* -1 with ClosedError set if the engine was closed. */
int engine_check_open(EngineObject *self);

/* An engine over one version of an existing heap, for State.update(). New reference. */
EngineObject *engine_over(HeapObject *heap, theus_version *version);

/* engine_arguments.c */

/* 'serializable' or 'snapshot'; -1 with ValueError for anything else. */
int engine_parse_isolation(PyObject *argument, theus_isolation *out);

/* True or False, and nothing that is only as good as one. 0 and *out, or -1. */
int engine_parse_flag(PyObject *argument, const char *name, bool *out);

/* A time in milliseconds: 0 (none) or more; -1 with TypeError or ValueError that names `name`. */
int engine_parse_milliseconds(PyObject *argument, const char *name, uint64_t *out);

/* That of write_timeout_ms. */
int engine_parse_timeout(PyObject *argument, uint64_t *out);

/* The number of a version or of a record, from 0 on; -1 with TypeError or ValueError. */
int engine_parse_version(PyObject *argument, uint64_t *out);

/* A number of slots, 1 to 2**24; -1 with TypeError or ValueError that names `name`. */
int engine_parse_size(PyObject *argument, const char *name, uint32_t *out);

/* engine_facts.c: methods records, counters and history_limit */
PyObject *engine_records(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *engine_counters(PyObject *self, PyObject *ignored);
PyObject *engine_history_limit(PyObject *self, PyObject *args, PyObject *kwargs);
/* Counts a conflict at its path. Keeps the current exception. */
void engine_note_conflict(EngineObject *self, const theus_conflict *why);

/* engine_run.c, engine_swap.c: methods run and compare_and_swap */
PyObject *engine_run(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *engine_compare_and_swap(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);

/* engine_wait.c: methods listen and unlisten; the mode of the ring */
PyObject *engine_listen(PyObject *self, PyObject *const *args, Py_ssize_t count);
PyObject *engine_unlisten(PyObject *self, PyObject *const *args, Py_ssize_t count);
const char *engine_ring_mode_name(EngineObject *self);
/* -1 with TypeError or ValueError. */
int engine_parse_ring_mode(PyObject *argument, theus_ring_mode *out);

/* cursor_type.c: method attach */
PyObject *engine_attach(PyObject *self, PyObject *since);

#endif
