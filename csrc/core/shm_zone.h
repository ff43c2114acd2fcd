/* The shared memory of one engine: its arenas, its quotas, and every block that is born or dies in them.
 *
 *     zone ──▶ arenas of 64 MiB, with 4096 slots each ──▶ blocks
 *          ├─▶ an arena of its own for each block above 32 MiB
 *          └─▶ the same once more for blocks of which ranges are lent (shm_loans.h): those arenas are not sealed; and for
 *              each kind of memory (shm_memory.h)
 *
 *  - A block is a slot and a range of the data file. It is born claimed, filled with zeroes where that was asked for,
 *    and published; from then on whoever has its name (arena, slot, generation) may lease it. It dies when it is
 *    retired and nobody leases it any more; then slot and range are free for the next one, with their pages, which are
 *    warm.
 *  - Every birth goes through block_born(), every death through block_died(). They keep the totals: births - deaths =
 *    blocks = taken slots, per zone, per size class, per quota, per participant and per process
 *    (theus_zone_check).
 *  - A retired block that others still lease lingers: its owner looks at those whenever it allocates, because a
 *    borrower cannot tell it. The leases of dead borrowers end before an arena is added, when a quota runs short, and in
 *    theus_zone_tidy().
 *  - Pages are backed before anybody can touch them, and only after a look at the room that the system and its cgroup
 *    have left, and at what its limits let this process map: to be out of memory is an answer here, not a signal.
 *  - Where addresses are short, new arenas are smaller: half as large, and so on, down to 2 MiB with 128 slots. What cannot be mapped
 *    to look at a block (to borrow, to publish, to copy) is refused as an allocation is.
 *  - Arenas without a block stay mapped, up to 256 MiB of them, for ten seconds: fresh pages cost ten times what warm
 *    ones do. No thread watches the time: whoever allocates or gives back next does.
 *
 * All functions may be called by any thread; they take theus_shm_lock() themselves. A zone owns nothing in a forked child:
 * it is empty there, and begins anew with arenas of the child's own. */
#ifndef THEUS_SHM_ZONE_H
#define THEUS_SHM_ZONE_H

#include "shm_arena.h"
#include "shm_quota.h"

enum {
    THEUS_ZONE_QUOTAS = 64,
    THEUS_SIZE_CLASSES = 42, /* class c: more than 2^(c+5) bytes, at most 2^(c+6); the last: everything above */
};

typedef struct {
    uint64_t blocks, bytes; /* that live; bytes: extents */
} theus_tally;

/* A limit on the bytes of all blocks whose label begins with `prefix`. */
typedef struct {
    uint64_t soft, hard; /* 0: none */
    uint64_t used, peak;
    uint64_t blocks;     /* that it counts */
    uint32_t parent;     /* the quota of the longest shorter prefix; quota 0, of the whole zone, is its own */
    uint32_t length;
    char prefix[THEUS_LABEL_MAX + 1];
} theus_quota;

/* What a user holds: a lease of this process. Plain data; the owner of the struct gives it back once. */
typedef struct {
    theus_arena *arena;
    uint32_t slot, generation;
    uint64_t offset, size;
} theus_block;

typedef enum {
    THEUS_ROOM_QUOTA,   /* a quota is used up: `quota` of the refusal */
    THEUS_ROOM_PROCESS, /* the quota of the process is */
    THEUS_ROOM_ADDRESS, /* the process may map no more (RLIMIT_AS) */
    THEUS_ROOM_SYSTEM,  /* the system has no more */
} theus_room;

/* Why there was no room; the numbers of that moment. */
typedef struct {
    theus_room why;
    uint32_t quota;
    uint64_t used, limit; /* of the quota, or the address space; of the system: 0, and the bytes that it has left */
    theus_memory memory;  /* of the kind of memory that was asked last */
    uint64_t mapping;     /* bytes that were to be mapped, if that is what was refused */
} theus_refusal;

/* limit: bytes, 0: none. session: at most THEUS_SESSION_MAX bytes are kept. */
THEUS_MUST_CHECK theus_status theus_zone_new(const char *session, uint64_t limit, theus_zone **out);

/* How its arenas are found by others; anonymous unless this is said, before its first block. */
void theus_zone_choose(theus_zone *zone, theus_backend backend);

/* Retires every block, gives back what nobody uses and forgets the rest, which goes with its last user. */
void theus_zone_free(theus_zone *zone);

enum {
    THEUS_ZEROED = 1,  /* else it has what lay there before */
    THEUS_LENDING = 2, /* ranges of it can be lent; it takes whole pages */
};

/* A new block of `size` bytes, `how` a sum of the above, in the first kind of memory of the set that has room, and a lease of it.
 * NO_ROOM fills in the refusal. What theus_arena_create() says if none of them can be had at all. May take milliseconds. */
THEUS_MUST_CHECK theus_status theus_zone_alloc_in(theus_zone *zone, theus_placement set, const char *label, uint32_t length,
                                                  uint64_t size, unsigned how, theus_block *block, theus_refusal *refusal);

/* The same in ordinary memory. */
THEUS_MUST_CHECK static inline theus_status
theus_zone_alloc(theus_zone *zone, const char *label, uint32_t length, uint64_t size, unsigned how, theus_block *block,
                 theus_refusal *refusal)
{
    return theus_zone_alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_SHARED), label, length, size, how, block, refusal);
}

/* Retires every block: nobody can lease one from now on. `shut`: and from now on no arena without a block is kept. */
void theus_zone_retire_all(theus_zone *zone, bool shut);

/* Looks for dead borrowers, recycles what lingers, and unmaps every arena without a block. Bytes that were given back. */
uint64_t theus_zone_tidy(theus_zone *zone);

/* Somebody who borrows here has died: in all zones of this process the leases of the dead end, and what lingered only for them
 * is recycled. How many leases. */
uint64_t theus_zones_recover(void);

/* How long an arena without a block is kept for the next one; 10 s if nobody says. */
void theus_zone_decay(theus_zone *zone, uint64_t ns);

/* Sets the limits for a prefix; "" is the zone. Blocks that live already are counted. FULL: there are 64 prefixes. */
THEUS_MUST_CHECK theus_status theus_zone_limit(theus_zone *zone, const char *prefix, uint32_t length, uint64_t soft,
                                               uint64_t hard);

/* Sets the limits for all zones of this process together. `first`: unless that was done already. */
void theus_process_limit(uint64_t soft, uint64_t hard, bool first);

/* ---- blocks, of this process's zones and of others' ------------------------------------------------ */

/* A lease of the block of that name. As theus_arena_attach(), and STALE, BAD_TOKEN. Here and below, NO_ROOM fills in the refusal, if
 * there is one: what was to be mapped cannot be, also after this process has given back what it needs no more. */
THEUS_MUST_CHECK theus_status theus_block_lease(const theus_arena_name *name, uint32_t slot, uint32_t generation,
                                                theus_block *block, theus_refusal *refusal);
void theus_block_release(theus_block *block);

/* By its owner: where it was allocated, by a number of the owner's own. */
void theus_block_set_site(const theus_block *block, uint32_t site);

/* No new lease from now on. BORROWED: it is another process's. */
theus_status theus_block_retire(const theus_block *block);

/* Where the block can be read and not written. If it is ours, it counts as published from now on: its owner has promised not to
 * change it. BORROWED: it is another's, who has not. LENT: ranges of it are. If it fails, nothing has been promised. */
THEUS_MUST_CHECK theus_status theus_block_publish(const theus_block *block, char **data, theus_refusal *refusal);
bool theus_block_is_published(const theus_block *block);

/* Can ranges of it be lent? */
static inline bool
theus_block_lends(const theus_block *block)
{
    return block->arena->loan_count > 0;
}

/* Can be leased by any process: its name is good. A system call if the block is another's, who might be dead. */
bool theus_block_is_live(const theus_block *block);
bool theus_block_is_owned(const theus_block *block);

static inline char *
theus_block_data(const theus_block *block)
{
    return block->arena->data + block->offset;
}

static inline const theus_slot *
theus_block_record(const theus_block *block)
{
    return &block->arena->slots.slots[block->slot];
}

/* A private copy-on-write mapping of the block: *base and *mapped are what to unmap, *data is where the block begins. */
THEUS_MUST_CHECK theus_status theus_block_map_private(const theus_block *block, void **base, uint64_t *mapped, char **data,
                                                      theus_refusal *refusal);

/* ---- figures ------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t arenas, blocks, bytes, backed, idle; /* as below, of one kind of memory; bytes: extents of its blocks */
} theus_memory_tally;

typedef struct {
    uint64_t births, deaths, bytes_born, bytes_dead; /* bytes: extents */
    uint64_t asked;                                   /* bytes of living blocks as they were asked for */
    uint64_t arenas, mapped, backed, idle;            /* bytes, but for arenas: their number */
    uint64_t lingering;                               /* retired blocks that others look at */
    uint64_t free_bytes, largest_free;                /* of what is mapped */
    uint32_t quotas;
    theus_tally classes[THEUS_SIZE_CLASSES];
    theus_memory_tally memory[THEUS_MEMORY_BLOCKS];
} theus_zone_figures;

void theus_zone_read(theus_zone *zone, theus_zone_figures *figures);

/* Quota number i; false: there is none. */
bool theus_zone_read_quota(theus_zone *zone, uint32_t i, theus_quota *quota);

typedef struct {
    uint32_t slot, generation;
    theus_slot_state state;
    uint32_t leases; /* how many processes look at it */
    uint32_t site;   /* 0: not known */
    theus_memory memory;
    bool published;
    bool lends;
    uint32_t lent;   /* ranges that others may write, or will */
    const char *data; /* where it is mapped here */
    uint64_t size, extent, tick_ns;
    uint32_t length;
    char label[THEUS_LABEL_MAX + 1];
} theus_block_figures;

/* Fills in at most `places` of the zone's blocks and says how many there are. NULL: of all blocks that this process owns. */
uint64_t theus_zone_list(theus_zone *zone, theus_block_figures *list, uint64_t places);

typedef struct {
    uint32_t pid; /* as that process sees itself */
    uint64_t blocks, bytes;
} theus_looker;

/* Who looks at the zone's blocks, and at how much: fills in at most `places`, and says how many there are. A process stands there once
 * for each arena. */
uint64_t theus_zone_lookers(theus_zone *zone, theus_looker *list, uint64_t places);

typedef struct {
    theus_process_totals totals;
    uint64_t arenas;
    uint64_t blocks, bytes; /* births - deaths, and `used`, as the slot tables have them */
} theus_process_figures;

void theus_process_read(theus_process_figures *figures);

#ifdef THEUS_TESTING
const char *theus_zone_check(theus_zone *zone); /* NULL, or which total is wrong */
#endif

#endif
