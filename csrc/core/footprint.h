/* Footprints: what a transaction relies on and what it changes, in a size that can be compared while others wait.
 *
 * A path p, such as a.b.c, has two stripes, each one bit of a hundred or so: HERE(p) for everything at and below p, BELOW(p)
 * for p as a place on the way.
 *
 *                           relies on                                changes
 *     reads the value a.b.c HERE(a.b.c), BELOW of (), a, a.b         nothing
 *     reads all of a.b      HERE(a.b), BELOW of (), a, a.b           nothing
 *     writes a.b.c          the same as reading it, in a snapshot;   HERE of (), a, a.b, a.b.c; BELOW(a.b.c)
 *                           else that a.b is there
 *
 * Lemma. If a commit makes another transaction fail (validate.c, check_cell), what it changes meets what that one relies on.
 * Proof. The failing log names a place p: a value, an absence, a key set, a content, the place of a container. It changed
 * because the commit wrote some w. If w is p or lies below p: p is HERE, w tests HERE of itself and all above. If w
 * is above p: p's owner relies on BELOW(w), which w tests. A container whose positions moved counts as a write of the
 * whole, on both sides. Paths longer than THEUS_FOOTPRINT_DEPTH count as their beginnings, on both sides.
 *
 * The converse does not hold: two paths may share a stripe. Then somebody waits who need not have. But stripes lie by depth:
 * the root has one, and paths of one, two, three, and more steps have a quarter each. Else a value that shares a stripe with
 * a place above others would hold up everything below that place. */
#ifndef THEUS_FOOTPRINT_H
#define THEUS_FOOTPRINT_H

#include <stdbool.h>
#include <stdint.h>

#include "status.h"

enum { THEUS_STRIPE_WORDS = 8, THEUS_FOOTPRINT_DEPTH = 30 };

typedef struct {
    uint64_t here[THEUS_STRIPE_WORDS];
    uint64_t below[THEUS_STRIPE_WORDS];
} theus_stripes;

typedef struct {
    theus_stripes relies;
    theus_stripes changes;
} theus_footprint;

bool theus_stripes_meet(const theus_stripes *a, const theus_stripes *b);
void theus_stripes_add(theus_stripes *to, const theus_stripes *more);
/* Can one of two transactions make the other fail? */
bool theus_footprints_meet(const theus_footprint *a, const theus_footprint *b);
void theus_footprint_add(theus_footprint *to, const theus_footprint *more);
void theus_footprint_fill(theus_footprint *footprint); /* everything */

struct theus_txn;

/* Of an open transaction, from its logs. Hashes keys, so it may run foreign code: FOREIGN if that fails. */
THEUS_MUST_CHECK theus_status theus_txn_footprint(struct theus_txn *txn, void *ctx, theus_footprint *out);

#endif
