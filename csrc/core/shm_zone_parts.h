/* What the files behind shm_zone.h share. */
#ifndef THEUS_SHM_ZONE_PARTS_H
#define THEUS_SHM_ZONE_PARTS_H

#include "port_memory.h"
#include "shm_zone.h"

typedef struct {
    uint64_t births, deaths, bytes_born, bytes_dead;
    uint64_t asked; /* of those that live */
    theus_tally classes[THEUS_SIZE_CLASSES];
} zone_totals;

struct theus_zone {
    char session[THEUS_SESSION_MAX + 1]; /* constant */
    theus_backend backend;               /* constant after theus_zone_choose() */
    /* guarded by theus_shm_lock(): */
    bool swept;     /* what dead owners left was looked for once, in this process */
    bool shut;      /* theus_zone_shut() */
    uint64_t decay_ns;
    uint64_t epoch; /* theus_process_epoch() that the rest is about */
    zone_totals totals;
    uint32_t quota_count;
    theus_quota quotas[THEUS_ZONE_QUOTAS];
};

/* Takes theus_shm_lock(). In a forked child, the first time, forgets what was the parent's. */
void zone_lock(theus_zone *zone);

/* The next arena that the zone owns, after `arena` in the list of the process (NULL: the first), or NULL. */
theus_arena *zone_arena_after_locked(const theus_zone *zone, const theus_arena *arena);

static inline bool
arena_is_idle(const theus_arena *arena)
{
    return arena->blocks == 0;
}

/* One of its arenas has no block any more: takes those off the list that it does not keep, and puts them before *outdated. */
void zone_trim_idle_locked(theus_zone *zone, theus_arena **outdated);

/* Destroys such a list, after the unlock. */
void zone_destroy_outdated(theus_arena *list);

/* The one place where a block comes to life: its slot is claimed and its tenant written down, its quota was charged when room was
 * asked for. */
void block_born_locked(theus_zone *zone, theus_arena *arena, uint32_t index, uint32_t generation);

/* That part of it which is in the totals. */
void block_counted_locked(theus_zone *zone, theus_arena *arena, theus_tenant *tenant);

/* The slot of this tenant is free again, and its range. */
void tenant_left_locked(theus_arena *arena, uint32_t index);

/* The one place where a block ends: it is retired, and nobody leases it any more; else nothing happens, and false. */
bool block_died_locked(theus_arena *arena, uint32_t index, uint32_t generation);

/* The quota that a label counts for: that of its longest prefix of less than `below` bytes. */
uint32_t zone_quota_of(const theus_zone *zone, const char *label, uint32_t length, uint32_t below);

/* Does every quota of the chain admit it? If not, the refusal says which one does not. */
theus_admission zone_decide_locked(const theus_zone *zone, uint32_t quota, uint64_t extent, theus_refusal *refusal);

/* Does the quota of the process admit it? */
theus_admission process_decide_locked(uint64_t extent, theus_refusal *refusal);
void process_charge_locked(uint64_t extent);
void process_uncharge_locked(uint64_t extent);

/* Has the system room for so much more of that memory? NO_ROOM. */
THEUS_MUST_CHECK theus_status zone_check_room(const theus_zone *zone, theus_memory memory, uint64_t bytes, theus_refusal *refusal);

/* How large an arena a process can map that stands with its addresses as `now`, and go on with something left: `kind`, or with half
 * of its data, and so on, but not below `least` bytes. The first of those that it can map twice, because what is published is mapped
 * once more; or else the last one, once. False: not even that. Nothing but its arguments decides, and `kind` has as many slots for
 * its data as before. */
bool zone_fit_addresses(theus_arena_kind *kind, uint64_t least, theus_address_figures now);

/* The same, as its addresses are. NO_ROOM. */
THEUS_MUST_CHECK theus_status zone_check_address(theus_arena_kind *kind, uint64_t least, theus_refusal *refusal);

/* It was asked, and had none: the refusal says what it has, as of now. */
void zone_refuse(theus_backend backend, theus_memory memory, theus_refusal *refusal);

/* So many bytes were to be mapped, perhaps with new pages, and the system refused: says why, if anybody asks. */
void zone_refuse_mapping(theus_backend backend, theus_memory memory, uint64_t bytes, theus_refusal *refusal);

/* Gives back what nobody needs in this process: idle arenas of all its zones, and what is mapped of others' memory that nobody here looks
 * at. False: there was nothing of that kind; an arena that was made for nothing, because its pages could not be had, is none. Without
 * any lock. */
bool zone_tidy_process(void);

/* To a quota and all above it; one block. */
void zone_charge_locked(theus_zone *zone, uint32_t quota, uint64_t extent);
void zone_uncharge_locked(theus_zone *zone, uint32_t quota, uint64_t extent);

#endif
