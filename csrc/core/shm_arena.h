/* An arena as one process has it mapped: as its owner, who made it, or as one of those who borrow from it. The list of
 * all of them, and what becomes of it in a forked child, are in shm_process.h.
 *
 * One lock of the process, theus_shm_lock(), guards everything in an arena that is not constant.
 *
 *  - References. `refs` counts who needs the mapping: one for each slot with a user in this process (`held`), one for
 *    its zone while it is owned, one for the list while it is borrowed, so that the next array of a known arena costs
 *    no system call. Who takes the last one away unmaps it, after the lock.
 *  - Participants. Whoever has an arena mapped holds the byte lock of its number on the control file, through a
 *    description that no other process shares. So a number that is locked belongs to somebody alive, and one that is not to nobody.
 *    Each number has a door, a lock as well: behind it one at a time clears away what a dead holder left, and who joins takes the
 *    number there, afterwards. So nobody looks alive through somebody else's lock: neither a dead one while he is buried, nor
 *    one whose number has a new holder. Whoever finds a number neither free nor taken, but its door closed, waits.
 *  - Writers. The owner's mapping was made before the seal, and is the only one that can write, for ever. What it has
 *    published it looks at through a second mapping, which cannot. (An arena that lends is not sealed: shm_loans.h.) */
#ifndef THEUS_SHM_ARENA_H
#define THEUS_SHM_ARENA_H

#include "shm_files.h"
#include "shm_lendings.h"
#include "shm_process.h"
#include "shm_runs.h"
#include "shm_slots.h"

typedef struct theus_zone theus_zone;
typedef struct theus_loan theus_loan;

/* What an owner knows of a block in its slot. The same stands in the record, for others; but all of them can write there, so
 * an owner does not ask it. */
typedef struct {
    uint64_t offset, extent, size; /* extent 0: the slot is free */
    uint32_t quota;                /* that it counts for */
    bool born;                     /* it is in the totals */
} theus_tenant;

/* What an owner knows of a range that it lends, as of a tenant. */
typedef struct {
    theus_range range;
    uint32_t generation; /* of the loan; 0: there was none in this record */
    bool watched;        /* somebody will ask what has become of it */
} theus_lent;

struct theus_arena {
    theus_backend backend;    /* these do not change, but for a fork: */
    theus_memory memory;
    theus_arena_name name;    /* a copy of our own: others can write to the header */
    theus_shm_header *header;
    uint64_t control_size;
    char *data;
    uint64_t data_size;
    _Atomic(char *) shown;    /* the data once more, read-only; owned: NULL until it is asked for; borrowed: `data` is that */
    uint32_t self;            /* our participant number; NOBODY: a child that got none */
    int control_fd;           /* its description holds our lock */
    int data_fd;
    /* guarded by theus_shm_lock(): */
    struct theus_arena *next; /* in the list of the process */
    struct theus_arena *next_outdated; /* without references: in the list of somebody who is about to destroy it */
    uint32_t refs;
    theus_slots slots;
    theus_tenant *tenants;    /* owned: per slot */
    uint32_t *held;           /* per slot: its users in this process; above 0, our lease stands */
    uint32_t held_slots;      /* slots with a user */
    theus_zone *zone;         /* owned: whose it is; NULL: borrowed, or the zone is gone */
    theus_runs *runs;         /* owned, else NULL: where blocks may go */
    uint32_t loan_count;      /* constant; 0: it does not lend */
    theus_loan_record *loans; /* constant: in the control file */
    theus_lent *lent;         /* owned, and it lends: per loan; shm_loans.c */
    theus_loan *taken;        /* of this process: a list */
    uint64_t backed;          /* owned: bytes from the start that have their pages */
    uint64_t dirty;           /* owned: bytes from the start that may not be zero */
    uint32_t *lingering;      /* owned: retired slots that are still leased, by others */
    uint32_t lingering_count;
    uint32_t blocks;          /* owned: slots taken */
    uint64_t idle_since_ns;   /* owned: since when there is none */
    int child_fd;             /* while a fork is under way: the child's description */
    uint32_t child;           /* and its number, or NOBODY */
};

/* What an arena is made of. */
typedef struct {
    theus_backend backend;
    theus_memory memory;
    uint64_t data_size; /* whole pages of that memory */
    uint32_t capacity;  /* slots */
    bool lends;
} theus_arena_kind;

/* One more arena, with one reference, for `zone`. NO_ROOM, NOMEM, REFUSED, UNSUPPORTED, NO_FOLDER. */
THEUS_MUST_CHECK theus_status theus_arena_create(theus_zone *zone, const theus_arena_kind *kind, const char *session);

static inline bool
theus_arena_is_owned(const theus_arena *arena)
{
    return arena->runs != NULL;
}

/* Where the data are mapped without the right to write. NO_ROOM: so much of them, data_size bytes, cannot be mapped. */
THEUS_MUST_CHECK theus_status theus_arena_show(theus_arena *arena, char **data);

static inline void
theus_arena_name_of(const theus_arena *arena, theus_arena_name *name)
{
    *name = arena->name;
}

/* The arena of that name, with one more reference: known to this process, or opened now. STALE: it is gone; BAD_TOKEN: what is
 * there is no arena of this version of theus; CROWDED; NOMEM, REFUSED, UNSUPPORTED, NO_FILES; NO_ROOM, and how many bytes were to be
 * mapped in *wanted. */
THEUS_MUST_CHECK theus_status theus_arena_attach(const theus_arena_name *name, theus_arena **out, uint64_t *wanted);

/* Unmaps every borrowed arena that nobody here looks at: they are kept for the next array of theirs. How many. */
uint32_t theus_arenas_forget(void);

/* Gives a reference back. The result is what the caller passes to theus_arena_destroy() after the lock: the arena, or NULL. */
THEUS_MUST_CHECK theus_arena *theus_arena_drop_locked(theus_arena *arena);
void theus_arena_destroy(theus_arena *arena); /* NULL: nothing to do. Not under the lock */

/* By the owner: clears away what dead participants left, if they keep a lingering slot or a lent range from being free. */
void theus_arena_reap_locked(theus_arena *arena);

/* By the owner: clears away what participant `number` left, if it is dead. How many leases. */
uint32_t theus_arena_bury_locked(theus_arena *arena, uint32_t number);

/* By the owner: clears away what any dead participant left; one system call for each that is there. How many leases. */
uint32_t theus_arena_reap_all_locked(theus_arena *arena);

static inline theus_participant *
theus_arena_participant(const theus_arena *arena, uint32_t number)
{
    return (theus_participant *)((char *)arena->header + THEUS_SHM_PAGE) + number;
}

/* ---- for shm_process.c ------------------------------------------------------------------------------- */

static inline theus_files_kind
theus_arena_files(const theus_arena *arena)
{
    return (theus_files_kind){.backend = arena->backend, .memory = arena->memory, .lends = arena->loan_count > 0};
}

/* A number of our own, locked through `fd`; NOBODY: all are taken. */
uint32_t theus_arena_join(theus_arena *arena, int fd);

/* Unmaps it and frees what belongs to it; it is on no list any more. */
void theus_arena_close(theus_arena *arena);

#endif
