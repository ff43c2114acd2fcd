/* Transaction: one core transaction and what Python hangs on it.
 *
 *     idle --begin--> open --commit / rollback--> ended
 *
 * begin pins the engine's current version. A transaction that begins where the same thread and task already runs one on
 * this engine *joins* it: it becomes a savepoint of the outer one. */
#ifndef THEUS_TXN_TYPE_H
#define THEUS_TXN_TYPE_H

#include "heap_type.h"
#include "home.h"
#include "scope.h"

#include "../core/txn.h"

typedef struct EngineObject EngineObject;

typedef struct {
    ScopeObject *scope; /* owned */
    ScopeObject *bound; /* owned: joined_bound */
    PyObject *refused;  /* owned */
    uint32_t body;
} txn_guard;

struct TxnObject {
    PyObject_HEAD
    HeapObject *heap;           /* of the engine, which keeps it for its life */
    EngineObject *engine;       /* owned */
    PyObject *process;          /* str or NULL: named in the commit record */
    PyObject *callbacks;        /* list of on_commit callables, or NULL. Only for who has entered, or ended it */
    PyObject *weakrefs;
    struct TxnObject *outer;    /* owned: the transaction this one has joined, or NULL */
    _Atomic(uint64_t) savepoint; /* while joined: which one of outer, as theus_txn_savepoint() names it; else 0 */
    _Atomic(uint32_t) guests;   /* runs that have joined this transaction and are running */
    _Atomic(bool) claimed;      /* somebody has begun it or joins with it: the one to write what follows */
    Py_ssize_t callback_mark;   /* callbacks that outer had when this savepoint began */
    struct TxnObject *next, *previous; /* see active.h; borrowed */
    uint64_t thread;            /* who began it */
    PyObject *context;          /* owned: the contextvars context it began in. Tells tasks apart, so no later one may
                                 * have its address */
    PyObject *homes;            /* owned: a tuple, the home where it began first, see home.h */
    uint64_t started_ns;
    uint64_t timeout_ms;
    _Atomic(uint64_t) version;  /* pinned, then made */
    ScopeObject *guard;         /* owned: what the body that runs may do, see guard.h; NULL: everything */
    ScopeObject *bound;         /* owned: what may be committed; NULL: everything */
    ScopeObject *joined_bound;  /* owned: what the innermost run that has joined may leave behind; NULL: everything */
    PyObject *refused;          /* owned: (scope, path) of the first write that the body was refused, or NULL */
    PyObject *lifted;           /* owned dict: (root, field) -> what an admin scope left there, see zones.h; or NULL */
    PyObject *admissions;       /* owned list: the records of its admin scopes, see admin.h; or NULL */
    ScopeObject *admin_scope;   /* owned: of the admin scope that is open, or NULL; */
    ScopeObject *before_admin;  /* owned: what its context had before; NULL: everything */
    txn_guard kept;             /* of a savepoint: what outer had when it began */
    uint32_t bodies;            /* contexts that were opened for a body so far */
    uint32_t body;              /* the one of the innermost body, numbered from 1; 0: none, see context.h */
    theus_isolation isolation;
    bool read_only;
    bool detached;              /* begins for itself, inside whatever it is */
    _Atomic(uint64_t) leader;   /* ticket that leads it (core/turn.h), or 0; others read it through the list */
    bool heads;                 /* of the run that holds that ticket: which has no use for it when this one has ended */
    uint64_t run;               /* its run's number, once somebody has asked; 0. The same in all attempts of one run */
    uint64_t patience_ns;       /* theus_clock_tick_ns() at which it waits at the gate no longer; 0: its deadline */
    bool measured;              /* what follows is set: by a commit that was held up, or led by a ticket, or failed */
    uint64_t found;             /* the version that it was held against */
    theus_footprint footprint;
    theus_txn txn;
};

/* An idle transaction. New reference. */
TxnObject *txn_new(EngineObject *engine, theus_isolation isolation, bool read_only, uint64_t timeout_ms,
                   PyObject *process);

/* Opens it on `pinned`, or on the current version if that is NULL. It never joins. `is_async`: other tasks run in this thread
 * before it ends. */
int txn_begin(TxnObject *self, theus_version *pinned, bool is_async);

/* What a commit does when a ticket is in its way. */
typedef enum {
    TXN_GATE_WAIT,   /* the thread sleeps */
    TXN_GATE_REFUSE, /* ConflictError, "System Busy" */
    TXN_GATE_RETURN, /* back to the caller, with the transaction open: for tasks */
} txn_gate;

/* Commits: 1 = committed or nothing to do, callbacks have run; 0 = conflict, *why is set and the caller
 * frees it; -1 = exception set; 2 = held up, to be called again. But for 2 the transaction has ended. */
int txn_commit(TxnObject *self, theus_conflict *why, txn_gate gate);

/* It has ended, and code of the user runs next in this thread: the ticket of its run leaves the line. */
void txn_step_down(TxnObject *self);

/* The number of the run that it is an attempt of. Entered. */
uint64_t txn_run(TxnObject *self);

/* theus_clock_tick_ns() until which it waits at the gate; 0: for ever. */
uint64_t txn_end_ns(const TxnObject *self);

/* Where the mode of the ring asks for a place for the commit record: reserves it, in mode block after waiting: 1. -1 with
 * RingFullError or what else ended the wait; the transaction is open still. The caller has entered, if others may use it. In
 * engine_wait.c. */
int txn_reserve(TxnObject *self);
/* The same without waiting: 1, it has a place or needs none; 0, it would have to wait; -1. */
int txn_try_reserve(TxnObject *self);

/* WriteTimeoutError; returns -1. */
int txn_raise_timeout(TxnObject *self);

/* Ends it without a trace. Never fails, keeps the current exception. */
void txn_abort(TxnObject *self);

/* The same from any thread, while the body goes on: it is refused everything from then on. What it runs finds the
 * transaction still, and so cannot slip out into one of its own. If somebody is inside, all that it does is that nothing
 * is committed any more: ask the body's caller to fail, too. */
void txn_abandon(TxnObject *self);
/* _theus.abandon() */
PyObject *module_abandon(PyObject *module, PyObject *transaction);

/* Door of every operation: -1 with TransactionError set if it may not be used now. */
int txn_enter(TxnObject *self);
static inline void
txn_leave(TxnObject *self)
{
    theus_txn_leave(&self->txn);
}

/* Raises the TransactionError for a status of an operation on `self`. Returns -1. */
int txn_fail(TxnObject *self, theus_status status);

/* A path of the core as a tuple of keys and indexes. New reference. */
PyObject *txn_path_tuple(const theus_segment *path, uint32_t length);

/* ConflictError for a conflict of this engine; returns -1. */
int txn_raise_conflict(EngineObject *engine, const theus_conflict *why, uint32_t attempts);

/* The value of a path argument as an owned tuple: a tuple as it is, a str parsed. */
PyObject *txn_path_argument(module_state *st, PyObject *path);

/* update(): merges data into the root (dicts deeply, DELETE removes), heavy below "heavy", signals.
 * The caller has entered the transaction. */
int txn_update(TxnObject *self, PyObject *data, PyObject *heavy, PyObject *signal);

/* Sets `value` at a path whose parents exist (a missing root is made). Both of these as far as `scope` (NULL:
 * everything) lets; the caller has entered. */
int txn_set_path(TxnObject *self, ScopeObject *scope, PyObject *path, PyObject *value);
int txn_delete_path(TxnObject *self, ScopeObject *scope, PyObject *path);

/* The version that it reads, as a State. New reference. */
PyObject *txn_snapshot(TxnObject *self);

/* Drafts inside a result become frozen views of their final content. Steals `result`. New reference. */
PyObject *txn_freeze_result(TxnObject *self, PyObject *result);

/* theus_apply_fn over Python values. */
int txn_apply_deferred(void *ctx, const theus_application *what, theus_value *out);

/* ---- between txn_life.c and txn_type.c ---- */

/* TransactionError with this message; -1. */
int txn_error(TxnObject *self, const char *message);
/* Around a run that joins: the guard of the body around it, which goes on after it. Entered. */
txn_guard txn_keep_guard(TxnObject *self);
void txn_restore_guard(TxnObject *self, txn_guard *kept);
void txn_guard_fini(txn_guard *kept); /* if it was not given back */
/* Holds what a run that has joined wrote against its contract, before its savepoint is let go. Entered. 0 or -1. */
int txn_check_joined(TxnObject *self);
/* txn_commit() for callers that do not retry: 0; 1 = held up; -1 with ConflictError or another exception. */
int txn_commit_or_raise(TxnObject *self, txn_gate gate);
/* Raises WriteTimeoutError: `limit_ns` were given, it took the time since started_ns. Returns -1. */
int txn_raise_late(module_state *st, uint64_t limit_ns, uint64_t started_ns);
int txn_traverse(PyObject *self, visitproc visit, void *arg);
int txn_clear(PyObject *self);
void txn_dealloc(PyObject *self);

void txn_drop_free_list(module_state *st);

#endif
