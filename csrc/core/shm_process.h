/* What one process has of shared memory, whatever zones and engines it has: the list of its arenas, two locks, totals,
 * forks.
 *
 *     first ──▶ arena (owned, of zone A) ──▶ arena (borrowed) ──▶ arena (owned, of zone B) ──▶ ...
 *
 *  - theus_shm_lock() guards that list and everything in an arena that is not constant. It is held for some instructions at
 *    a time and around no slow call, so it does not matter that engines share it.
 *  - The list has every arena whose files are open. Both to open and to close them happens between theus_hold_forks() and
 *    theus_let_forks(), a lock that fork() takes, too: so a child finds there whatever it inherited, and closes what it does not
 *    look at.
 *
 *  - The totals count every block that this process owns, also when its zone is gone and some view still looks at it: births -
 *    deaths = blocks, and `used` = what all slots of owned arenas take, at any moment; theus_process_read() walks the tables. A block that only others look at when
 *    its arena is closed has died here; it is their memory from then on. The limits on their bytes are decided in shm_quota.c.
 *
 * Fork. A child owns nothing: in it, before fork() returns there, owned arenas become borrowed ones, mapped read-only at
 * the same address. What it inherits views of, it also holds leases on, under a number of its own, which the parent takes
 * for it before it forks: there is no moment at which the parent could recycle a block under a view of the child. The
 * descriptions that hold the parent's locks and can write its data are closed in it. A child that executes another program
 * drops its number with the descriptor. What nobody in the child looks at is unmapped there. Its totals begin anew; the
 * limits stay. */
#ifndef THEUS_SHM_PROCESS_H
#define THEUS_SHM_PROCESS_H

#include "port.h"

typedef struct theus_arena theus_arena;

/* Of all zones of this process. */
typedef struct {
    uint64_t soft, hard; /* of `used`; 0: none */
    uint64_t used, peak; /* bytes: extents of blocks, those included that are about to be born */
    uint64_t births, deaths, bytes_born, bytes_dead;
    bool limited;        /* somebody has said what the limits are */
} theus_process_totals;

void theus_shm_lock(void);
void theus_shm_unlock(void);

/* Between these no fork happens: for descriptors and mappings that no child is to inherit. Before theus_shm_lock(). */
void theus_hold_forks(void);
void theus_let_forks(void);

/* The list, linked by `next`. */
theus_arena *theus_arenas_first_locked(void);

theus_process_totals *theus_process_totals_locked(void);

/* Blocks that this process looks at, its own and others': its leases. */
uint64_t theus_arenas_held(void);

/* Takes the names of this process's own arenas away, as whoever finds them after its death would: at a clean exit. */
void theus_arenas_hide(void);

/* ---- for shm_arena.c ----------------------------------------------------------------------------------- */

/* Sees to it, once, that forks and the exit are noticed. Before the first arena; NOMEM. */
THEUS_MUST_CHECK theus_status theus_shm_watch(void);

/* Puts it on the list, at its end: blocks go to the first arena that has room, so those made last are the first to become empty. */
void theus_arena_enlist(theus_arena *arena);

/* Takes it off. What blocks it has left, all of them others', are this process's no longer. */
void theus_arena_delist(theus_arena *arena);

#endif
