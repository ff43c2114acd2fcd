/* What the parts of a commit share: commit.c asks validate.c and candidate.c, and nobody else does. */
#ifndef THEUS_COMMIT_RUN_H
#define THEUS_COMMIT_RUN_H

#include "cell.h"

/* One round of one commit. */
typedef struct {
    theus_txn *txn;
    void *ctx;
    theus_version *newest; /* counted */
    theus_conflict *why;
} commit_run;

typedef enum { HOLDS, BROKEN, FAILED } verdict; /* FAILED: foreign code, its error is set */

/* validate.c */

/* Is every log still true of run->newest? BROKEN: run->why says which is not. Parents go first, and each
 * cell's `current` is what its container has become there. */
verdict theus_commit_validate(commit_run *run);

/* Fills run->why with the place of `cell`, or of `last` in it, and `what` was relied on. Returns BROKEN. */
verdict theus_commit_broken(commit_run *run, const theus_cell *cell, const char *what,
                            const theus_segment *last);

/* candidate.c */

/* What the cell's container becomes on top of `there`, its content in the newest version (NULL for one
 * that the body made). Sealed and retained. */
theus_status theus_commit_build(commit_run *run, theus_cell *cell, theus_container *there,
                                theus_container **out);

/* The newest signals with those of the body on top. Retained. */
theus_status theus_commit_build_signals(commit_run *run, theus_container **out);

#endif
