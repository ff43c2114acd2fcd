/* Scopes: a contract compiled to a path set that is walked downwards.
 *
 *     inputs "domain.users", "domain.log_*"; outputs "domain.users.*.age"
 *
 *     root --domain--> . --users--> here: READ --(any)--> here: READ --age--> here: READ, WRITE
 *                      \--log_x--> here: READ
 *
 * A scope is what is declared at and below one place. `here` are the rights on the place and on
 * all that is below it, `below` the rights that begin deeper. Stepping to a key costs a dict
 * lookup; a place at which nothing is declared has no scope. The walk never goes back, so a draft
 * keeps the scope of its place as a cursor and steps it at each access.
 *
 * Each path says what is left of it: a *rest*. A scope is the set of the rests that are alive
 * there, and equal sets are one object, so that the scopes of a contract are finite also below
 * "**". They are made when they are first asked for, and live as long as their root.
 *
 * A process that a body runs is held to the contract of that body, too: its guard is a scope
 * *within* the other one, which steps both (scope_within.c).
 *
 * `granted` is what the contract says of the place, where append, update and delete are one right.
 * Zones (zones.h) tell them apart: the *ceiling* of a root and its fields cuts the rights down to what
 * their names and the rules of the engine allow, and `here` is what is left. Writes are held against `granted`
 * when the question is whether they are declared, and against `here` at the access; what zones say
 * about a whole commit is zones_check()'s business. So the first two levels below the state are never given away
 * as "everything may be done here": each field has to be looked at by name.
 *
 * The scope of an admin scope (`admin`) has other ceilings, belongs to one transaction, and ends:
 * scope_revoke() leaves nothing declared in any part of it, so a draft kept from there is of no use.
 *
 * Threads: constant but for what is filled in when it is first asked for, that is the same whoever
 * asks; and for scope_revoke(), which only happens inside the transaction. Comparing a key with a declared one may run Python code. */
#ifndef THEUS_SCOPE_H
#define THEUS_SCOPE_H

#include "module_state.h"

#include <stdatomic.h>

enum {
    RIGHT_READ = 1,
    RIGHT_APPEND = 2,
    RIGHT_UPDATE = 4,
    RIGHT_DELETE = 8,
    RIGHTS_WRITE = RIGHT_APPEND | RIGHT_UPDATE | RIGHT_DELETE,
    RIGHTS_ALL = RIGHT_READ | RIGHTS_WRITE,
};

typedef struct ScopeObject {
    PyObject_HEAD
    struct ScopeObject *root; /* owned, except by the root itself */
    PyObject *owner;          /* root: makes the refusals, see guard.c; or NULL */
    PyObject *known;          /* root: dict, (here, rests) -> scope */
    PyObject *rests;          /* tuple of (rights, what is left of the path), never empty ones */
    PyObject *children;       /* dict: declared key -> scope, or itself while not asked for */
    _Atomic(PyObject *) others; /* owned: the scope of all keys that no path names, None: none has one,
                               * NULL: not asked for yet */
    struct ScopeObject *inner; /* owned: what this one is within `outer`; else both are NULL */
    struct ScopeObject *outer; /* owned */
    struct ScopeObject *within; /* root; owned: the last that scope_within() made of it, or NULL */
    PyObject *rules;  /* root: owned dict of zones.h, or NULL */
    PyObject *fields; /* borrowed from the rules: those of the fields of this root, or NULL */
    uint8_t granted;  /* by the contract */
    uint8_t here;     /* of these, what the zone lets be done */
    uint8_t below;    /* by the contract, deeper */
    uint8_t ceiling;
    uint8_t level;    /* 0: the state, 1: a root, 2: a field and all below it */
    bool hidden;      /* a field that reads as None */
    bool admin;
    bool ended;       /* root: revoked */
    bool frozen; /* of a process that may not write, whatever is declared */
    bool open;   /* each key may be asked for, so the key set is no secret */
    bool full;   /* all that is below may be read, though perhaps not replaced */
    bool globs;  /* a key must be compared with patterns */
} ScopeObject;

enum { SCOPE_FIELD = 2 }; /* level of fields, and of all below them */

/* Does the contract declare it for writing? */
static inline bool
scope_declares_write(const ScopeObject *scope)
{
    return (scope->granted & RIGHTS_WRITE) == RIGHTS_WRITE;
}

/* And do the zones allow these? */
static inline bool
scope_lets(const ScopeObject *scope, uint8_t rights)
{
    return (scope->here & rights) == rights;
}

/* May everything be done here? Then a draft needs no cursor. */
static inline bool
scope_is_free(const ScopeObject *scope)
{
    return (scope->here & RIGHTS_ALL) == RIGHTS_ALL && !scope->frozen && scope->level == SCOPE_FIELD && !scope->admin;
}

/* The scope below `key`: 1 and *child (borrowed, lives as long as `scope`), 0 = nothing is declared
 * there, or -1. */
int scope_step(ScopeObject *scope, PyObject *key, ScopeObject **child);

/* The same for a list index. */
int scope_step_index(ScopeObject *scope, Py_ssize_t index, ScopeObject **child);

/* The scope at the end of `path` from the position `from` on. */
int scope_walk(ScopeObject *scope, PyObject *path, Py_ssize_t from, ScopeObject **end);

/* What both let be done, `inner` being that of a process that the body of `outer` runs. Both are
 * roots, and so is the result. New reference. */
ScopeObject *scope_within(ScopeObject *inner, ScopeObject *outer);

/* Of the contracts of which `root` is made, the one that refuses this: whose owner says so. Borrowed;
 * NULL with an exception. */
ScopeObject *scope_that_refuses(ScopeObject *root, PyObject *path, bool write);

/* A root with these paths (pattern.h); `owner` and `rules` may be NULL. New reference. */
ScopeObject *scope_make_root(module_state *st, uint8_t granted, PyObject *rests, PyObject *owner, PyObject *rules,
                             bool frozen, bool admin);

/* The scope that a root knows by this name: 1 and *out (borrowed, lives as long as the root), 0 or -1. */
int scope_recall(ScopeObject *root, PyObject *name, ScopeObject **out);
/* From now on it knows `made` by that name, or the one that another thread has made meanwhile. Steals `made`; NULL is
 * -1. 1 and *out, or -1. */
int scope_remember(ScopeObject *root, PyObject *name, ScopeObject *made, ScopeObject **out);

/* scope_step() and scope_step_index() of a scope within another one: called by those. */
int scope_step_both(ScopeObject *self, PyObject *key, ScopeObject **child);
int scope_step_both_index(ScopeObject *self, Py_ssize_t index, ScopeObject **child);

/* The same contract under other rules (NULL: none). New reference. */
ScopeObject *scope_in(ScopeObject *root, PyObject *rules, bool admin);
/* Where there is no contract. New reference. */
ScopeObject *scope_of_everything(module_state *st, PyObject *rules, bool admin);

/* Ends an admin scope. The transaction that uses it has been entered. */
void scope_revoke(ScopeObject *root);

/* What the same contract lets be read, and nothing written: the scope of a snapshot. New reference. */
ScopeObject *scope_for_snapshot(ScopeObject *root);

int add_scope_types(PyObject *module, module_state *st);

#endif
