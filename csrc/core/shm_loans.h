/* Loans: ranges of a block that others than its owner may write, each range one of them.
 *
 *     owner                                                a worker, of any process
 *
 *     offer(block, from, size) ── name, in a token ──▶     take(name): a writable mapping of these pages alone
 *     look: is it taken, by whom, has he finished?         end(finished): the mapping can only read any more; then the range
 *                                                          is the owner's again
 *
 * What becomes of a loan stands in the control file, for all to see: shm_lendings.h, which says who gets it and when it is over. Here
 * are the ranges, the mappings and the deaths:
 *
 * 1. Loans of one block that are OFFERED or TAKEN do not overlap. Only its owner offers, under theus_shm_lock(), and compares with
 *    its own book (`lent`), where nobody else can write.
 * 2. The taker leases the block before he takes the loan, and gives his right to write away before he says that it is over: what
 *    is over is not written to.
 * 3. A dead taker's byte lock is free until his loans are broken: by the owner, who finds it free when he looks, or by the next one with that
 *    number, before he locks it. So no loan of a dead one looks taken, a kill -9 ends it at once, and no lie about a process id can.
 * 4. Who publishes a block finds no loan of it OFFERED or TAKEN, and none is offered afterwards: both happen under the lock.
 *
 * Who can break it. The data of an arena that lends are not sealed against writers, or no worker could write: any participant can
 * open the file himself and write where he likes, and the pages at both ends of a range are shared with its neighbours. The word
 * of a loan lies in the control file, where everybody can write. So loans keep those apart who want to be kept apart; and a
 * state never holds such a block, but a copy of it in an arena that does not lend (theus/heavy.py).
 *
 * Fork. A loan is its taker's. In his child the mapping can only read, and the loan ends with the parent. */
#ifndef THEUS_SHM_LOANS_H
#define THEUS_SHM_LOANS_H

#include "shm_zone.h"

/* Names a loan, with the block that it is of. */
typedef struct {
    uint32_t number, generation; /* of its record in the arena */
} theus_loan_name;

typedef struct {
    theus_loan_state state; /* NONE: its record is in use for another loan; it is over */
    uint64_t from, size;    /* bytes of the block; both 0 with NONE */
    uint32_t pid;           /* of the taker, as he says; 0: nobody's, or not TAKEN */
} theus_loan_facts;

/* ---- by the owner ------------------------------------------------------------------------- */

typedef enum {
    THEUS_LENDS,
    THEUS_LENDS_NOT,     /* it is another's, or of an arena that does not lend, or it was published or freed */
    THEUS_LENDS_OVERLAP, /* with *other, which is not over */
    THEUS_LENDS_FULL,    /* so many are not over */
} theus_lending;

/* Offers a range of at least one byte of the block to whoever takes it first. */
THEUS_MUST_CHECK theus_lending theus_loan_offer(const theus_block *block, uint64_t from, uint64_t size, theus_loan_name *loan,
                                                theus_loan_facts *other);

/* What has become of it. Finds out that its taker is dead. */
theus_loan_facts theus_loan_look(const theus_block *block, theus_loan_name loan);

/* Nobody can take it from now on. False: somebody has. */
bool theus_loan_recall(const theus_block *block, theus_loan_name loan);

/* The same for all of the block that nobody has taken. How many. */
uint32_t theus_loans_recall(const theus_block *block);

/* Nobody looks at it again: its record may be used for another loan when it is over. Once for each that was offered. */
void theus_loan_forget(const theus_block *block, theus_loan_name loan);

/* Fills in at most `places` of the block's loans that are OFFERED or TAKEN, and says how many there are. */
uint32_t theus_loans_list(const theus_block *block, theus_loan_facts *list, uint32_t places);

/* ---- by a worker ------------------------------------------------------------------------------ */

struct theus_loan {
    theus_block block;     /* our lease */
    theus_loan_name name;
    uint64_t from, size;   /* bytes of the block */
    char *data;            /* where they are mapped */
    void *base;            /* the mapping: whole pages, */
    uint64_t mapped, at;   /* so many bytes from here on in the data file */
    /* guarded by theus_shm_lock(): */
    bool mine;             /* TAKEN, by this process; not in a child of it */
    struct theus_loan *next;
};

/* Takes the loan of that name: as theus_block_lease(), and OVER: it was taken already, or is over. If it fails, nobody has taken it. */
THEUS_MUST_CHECK theus_status theus_loan_take(const theus_arena_name *arena, uint32_t slot, uint32_t tenant, theus_loan_name name,
                                              theus_loan **out, theus_refusal *refusal);

/* The range can only be read any more, and its owner knows whether the taker has `finished`. Only the first time. */
void theus_loan_end(theus_loan *loan, bool finished);

/* Unmaps it; one that has not ended breaks. */
void theus_loan_free(theus_loan *loan);

/* ---- for the arena ---------------------------------------------------------------------------- */

/* By the owner: how many ranges of the block somebody may still write, or will. */
uint32_t theus_loans_out_locked(theus_arena *arena, uint32_t slot, uint32_t tenant);

/* In a forked child, when data_fd cannot write: what the parent had taken can only be read. */
void theus_loans_in_child(theus_arena *arena);

#endif
