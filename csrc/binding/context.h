/* theus._theus.Context: what a process gets as its first argument.
 *
 * The roots of its transaction by name, under the scope of its contract (context.c), what is no root (context_type.c),
 * and the body that it is made for (context_life.c).
 *
 * A context stands for a function only if it was made here to be passed to that function, and while the function runs:
 * what a function may do that others may not (an admin scope) is asked of `admin`, `number` and `coroutine`, never of the
 * plan, which is a Python object that any body can change, or hand in as its own.
 *
 * Invariant: `admin` is set in no context but the one that run_body() or start_body() has passed to a function that the
 * engine allows; and it is of use only while that function is the innermost body of the transaction (context_runs()). */
#ifndef THEUS_CONTEXT_H
#define THEUS_CONTEXT_H

#include "draft.h"
#include "scope.h"

typedef struct {
    PyObject_HEAD
    TxnObject *txn;       /* owned; constant, as all above `local`, */
    PyObject *plan;       /* owned */
    ScopeObject *scope;   /* owned; but for this one, for the time of an admin scope. NULL: everything */
    ScopeObject *around;  /* owned: the guard that it found; NULL: none */
    ScopeObject *bound;   /* owned: what may be done when the body has returned; NULL: as before it */
    PyObject *args;       /* owned: what the caller passed */
    PyObject *kwargs;     /* owned */
    bool closed;          /* once only: a body that closes its context fails its run. Written entered */
    PyObject *admin;      /* owned: the name under which its function may open admin scopes, or NULL; constant, like */
    uint32_t number;      /* of the body in its transaction; 0: made by hand, for no function */
    PyObject *coroutine;  /* owned: weak reference to what the function gave; NULL: it is no coroutine function, or no admin */
    PyObject *local;      /* owned: dict, once it was asked for */
    PyObject *helpers;    /* owned: dict of log, now, random, as they were asked for; or NULL */
    PyObject *last_name;  /* owned: name of the root that was read last, or NULL */
    DraftObject *last;    /* owned: its draft */
    uint32_t last_stamp;  /* of the root cell then */
    PyObject *weakrefs;
} ContextObject;

static inline module_state *
context_state(const ContextObject *self)
{
    return self->txn->heap->st;
}

static inline bool
context_is_read_only(const ContextObject *self)
{
    return self->scope != NULL && self->scope->frozen;
}

/* ---- roots: context.c ---------------------------------------------------------------- */

/* The root: 1 and *value (new reference), 0 if there is none, or -1. */
int context_read_root(ContextObject *self, PyObject *name, PyObject **value);
/* AttributeError: there is no such root. */
void context_no_root(ContextObject *self, PyObject *name);
/* Refuses a write to a root (NULL: to no place in particular). Returns -1. */
int context_refuse_write(ContextObject *self, PyObject *root);

PyObject *context_getattro(PyObject *self, PyObject *name);
int context_setattro(PyObject *self, PyObject *name, PyObject *value);
PyObject *context_subscript(PyObject *self, PyObject *name);
int context_ass_subscript(PyObject *self, PyObject *name, PyObject *value);
int context_contains(PyObject *self, PyObject *name);

/* From now on it shows its roots under `scope` (NULL: everything), for admin scopes. The transaction has been
 * entered. */
void context_use_scope(ContextObject *self, ScopeObject *scope);

/* ---- bodies: context_life.c ----------------------------------------------------------- */

/* Is the function that it was made for the innermost body, and running? Entered. 1, 0 or -1. */
int context_runs(const ContextObject *self);

/* _theus.run_body and _theus.start_body: one call of a function with a context of its own; _theus.open_context: a
 * context by hand; _theus.close_context: the end of a body. */
PyObject *module_run_body(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_start_body(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_open_context(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *module_close_context(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* ---- the type: context_type.c --------------------------------------------------------- */

/* All arguments are borrowed. New reference. */
ContextObject *context_new(TxnObject *txn, PyObject *plan, ScopeObject *scope, PyObject *args, PyObject *kwargs);

int add_context_type(PyObject *module, module_state *st);

#endif
