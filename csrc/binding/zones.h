/* Zones: what may become of a field, whoever writes it.
 *
 *     domain.log_events   its name says LOG:       may be read and appended to
 *     domain.limits       a rule says CONSTANT:    may be read
 *     shop.*              the policy of a namespace: entries may come and change, none may go
 *
 * A *field* is an entry of a root, named by a text. Its rights are those of a rule that the engine has
 * for it, else those of the zone that its prefix names, else all; and of these only those that the
 * root has. Nothing deeper is ever interpreted: domain.users["log_an"] is a user. Rights mean
 *
 *     READ     through a context: by processes with a contract and without, and in engine.edit(). A field without it reads
 *              as None, and iteration leaves it out. Transactions of run() and with blocks, and states, are of whoever
 *              holds the engine, and show it
 *     APPEND   an entry is added: a key, an element of a set, one at the end of a list
 *     UPDATE   an entry gets another value, whatever that is
 *     DELETE   an entry is removed
 *
 * at any depth below the field, and for the field itself as an entry of its root, with one addition: who may
 * update a field may also make it. A root that is made anew may hold what it likes: these are its
 * initial values.
 *
 * Invariant: between two versions next to each other a field changes only as its rights allow, or by
 * an admin scope. zones_check() keeps it: txn_commit(), the only way to publish, asks it about every
 * operation below a field that has not all rights. What a guard refuses at the access (the ceilings of
 * scope.h) is for the error to stand at the line that is wrong. What has all rights costs a look at the
 * first letters of its name.
 *
 * An admin scope (admin.h) lifts the rights of all fields but constants while it is open. At its end zones_lift()
 * keeps what these fields hold then: what the commit compares with is not the pinned version for them but that.
 *
 * Threads: the rules of an engine are constant after __init__. Everything that takes a transaction
 * wants it entered. */
#ifndef THEUS_ZONES_H
#define THEUS_ZONES_H

#include "scope.h"
#include "txn_type.h"

/* The rights that the name of a field gives: RIGHTS_ALL for most. Runs no Python code. Asked at each access to a root and
 * for each operation of a commit, so most names are told by their first letter. */
uint8_t zones_of_prefix(PyObject *name);

static inline uint8_t
zones_of_name(PyObject *name)
{
    if (!PyUnicode_Check(name) || PyUnicode_GET_LENGTH(name) == 0) {
        return RIGHTS_ALL;
    }
    switch (PyUnicode_READ_CHAR(name, 0)) {
    case 'c':
    case 'h':
    case 'i':
    case 'l':
    case 'm':
    case 's':
        return zones_of_prefix(name);
    default:
        return RIGHTS_ALL;
    }
}

/* `rules` are NULL, or a dict: root -> (rights, dict: field -> rights). */

/* The rights of a root; *fields is borrowed, NULL if no field of it has a rule. 0 or -1. */
int zones_of_root(PyObject *rules, PyObject *root, uint8_t *rights, PyObject **fields);
/* The rights of a field, not yet cut down to those of its root. 0 or -1. */
int zones_of_field(PyObject *fields, PyObject *name, uint8_t *rights);
/* What an admin scope makes of rights: all, except where only reading was allowed. */
static inline uint8_t
zones_as_admin(uint8_t rights)
{
    return rights == RIGHT_READ ? RIGHT_READ : RIGHTS_ALL;
}

/* A dict as above, of ints between 0 and RIGHTS_ALL. New reference to a copy, or NULL with TypeError or ValueError. */
PyObject *zones_parse_rules(PyObject *given);

/* Does a version hold a field that processes may not read? Of an engine that never had one, nobody needs to
 * look for them. 1, 0 or -1. */
int zones_hide(PyObject *rules, theus_container *root);
/* The same of one root and its content. */
int zones_root_hides(PyObject *rules, PyObject *root, theus_value content);

/* ---- zones_check.c ------------------------------------------------------------------- */

/* Are all operations so far allowed? `admin`: inside an admin scope. 0, or -1 with ContractViolationError. */
int zones_check(TxnObject *txn, bool admin);
/* The same of operations that are known already (operations.h). */
struct noted_operation;
int zones_check_noted(TxnObject *txn, const struct noted_operation *first);
/* At the end of an admin scope: keeps what was written in it from being held against the transaction. 0 or -1. */
int zones_lift(TxnObject *txn);

/* May an entry that holds `old` (THEUS_NONE: there is none) be given `value` (THEUS_NONE: be removed) with these
 * rights? 1, 0 or -1. Compares values, which may run Python code. */
int zones_allow(HeapObject *heap, uint8_t rights, theus_value old, theus_value value);

/* The ContractViolationError that what lies at `path` has only these rights. `owner` has made the contract (scope.h), or is
 * NULL. New reference, or NULL with an exception. */
PyObject *zones_refusal(TxnObject *txn, PyObject *path, uint8_t rights, bool write, PyObject *owner);
/* Raises it, for a write. Returns -1. */
int zones_refuse(TxnObject *txn, PyObject *path, uint8_t rights);

#endif
