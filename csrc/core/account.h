/* The account of a transaction: what it has seen and done, for somebody who repeats it in another one.
 *
 *     worker:   reads and writes a copy of what it was given ──▶ account
 *     engine:   repeats the account in a transaction on the version that the copy was made of
 *
 * Invariant: a transaction in which the account was repeated, on a version that holds the same values in the places that the first
 * one could reach, is validated and committed as the first one would have been. So a sight is told for every log that
 * validate.c looks at, at the place in the pinned version where it looks; the writes are those of theus_txn_operations() and
 * theus_txn_idle_writes(). A container whose positions moved is told as one write of the whole, and seen whole: validation
 * asks as much of it.
 *
 * Paths of more than THEUS_ACCOUNT_DEPTH steps are told as their beginnings: seen, or written, whole. */
#ifndef THEUS_ACCOUNT_H
#define THEUS_ACCOUNT_H

#include "txn.h"

enum { THEUS_ACCOUNT_DEPTH = THEUS_PATH_ROOM - 1 };

typedef enum {
    THEUS_SAW_VALUE,   /* of an atom; of a container that one of its kind is there */
    THEUS_SAW_NOTHING, /* the key was looked for in vain */
    THEUS_SAW_KEYS,    /* the key set, or the length */
    THEUS_SAW_ALL,     /* everything there and below */
} theus_sight;

/* Returns 0, or anything else to stop. Segments are borrowed for the call. */
typedef int (*theus_sight_fn)(void *arg, theus_sight what, const theus_segment *path, uint32_t length);
typedef int (*theus_deferral_fn)(void *arg, theus_deferred_kind kind, const theus_segment *path, uint32_t length,
                                 theus_value operand, void *resolver);

/* Turns the deferred operations that could not be told one by one into ordinary writes. Before the others here; runs
 * foreign code (resolvers). */
THEUS_MUST_CHECK theus_status theus_txn_settle_untold(theus_txn *txn);

/* All that was seen, in whatever order, perhaps twice. Returns 0, or the first other result of fn. */
THEUS_MUST_CHECK int theus_txn_sights(theus_txn *txn, theus_sight_fn fn, void *arg);

/* The deferred operations, those on one container in the order in which they were made. Operand and resolver are borrowed
 * for the call. fn runs nothing foreign. */
THEUS_MUST_CHECK int theus_txn_deferrals(theus_txn *txn, theus_deferral_fn fn, void *arg);

#endif
