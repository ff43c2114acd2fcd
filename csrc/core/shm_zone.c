/* See shm_zone.h. Where blocks begin and end is in shm_births.c; what reports about a zone, in shm_figures.c. */
#include "shm_sweep.h"
#include "shm_zone_parts.h"

#include <assert.h>
#include <string.h>

enum {
    ARENA_BYTES = 64 << 20,
    ARENA_SLOTS = 4096,
    ARENA_LEAST = 2 << 20,        /* and ARENA_SLOTS * ARENA_LEAST / ARENA_BYTES slots, where addresses are short */
    LARGE_FROM = ARENA_BYTES / 2, /* larger extents get an arena of their own */
    LARGE_SLOTS = 64,
    BACK_STEP = 1 << 20,
    KEEP_BYTES = 256 << 20,  /* of pages in arenas without a block */
    KEEP_SECONDS = 10,
};

/* ---- life --------------------------------------------------------------------------------- */

theus_status
theus_zone_new(const char *session, uint64_t limit, theus_zone **out)
{
    theus_zone *zone = theus_alloc(sizeof(theus_zone));
    if (zone == NULL) {
        return THEUS_NOMEM;
    }
    memset(zone, 0, sizeof(*zone));
    strncpy(zone->session, session, THEUS_SESSION_MAX);
    zone->epoch = theus_process_epoch();
    zone->quotas[0].hard = limit;
    zone->quota_count = 1;
    zone->decay_ns = KEEP_SECONDS * UINT64_C(1000000000);
    *out = zone;
    return THEUS_OK;
}

void
theus_zone_choose(theus_zone *zone, theus_backend backend)
{
    zone->backend = backend;
}

void
zone_lock(theus_zone *zone)
{
    theus_shm_lock();
    if (zone->epoch == theus_process_epoch()) {
        return;
    }
    zone->epoch = theus_process_epoch();
    zone->swept = false;
    memset(&zone->totals, 0, sizeof(zone->totals));
    for (uint32_t i = 0; i < zone->quota_count; i++) {
        zone->quotas[i].used = zone->quotas[i].peak = zone->quotas[i].blocks = 0;
    }
}

void
zone_destroy_outdated(theus_arena *list)
{
    while (list != NULL) {
        theus_arena *next = list->next_outdated;
        theus_arena_destroy(list);
        list = next;
    }
}

/* Gives back one reference, and puts the arena on the list of those to be destroyed if it was the last. */
static void
let_go_locked(theus_arena *arena, theus_arena **outdated)
{
    theus_arena *dead = theus_arena_drop_locked(arena);
    if (dead != NULL) {
        dead->next_outdated = *outdated;
        *outdated = dead;
    }
}

theus_arena *
zone_arena_after_locked(const theus_zone *zone, const theus_arena *arena)
{
    theus_arena *it = arena == NULL ? theus_arenas_first_locked() : arena->next;
    while (it != NULL && it->zone != zone) {
        it = it->next;
    }
    return it;
}

/* Of `bytes` bytes that are not quite 2^64. */
static uint64_t
whole_pages(uint64_t bytes, uint64_t page)
{
    return (bytes + page - 1) / page * page;
}

/* ---- giving back -------------------------------------------------------------------------------------- */

/* Recycles what lingered until its last borrower let go. */
static void
sweep_locked(theus_arena *arena)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < arena->lingering_count; i++) {
        uint32_t index = arena->lingering[i];
        uint64_t word = atomic_load(&arena->slots.slots[index].word);
        if (!block_died_locked(arena, index, theus_slot_generation_of(word))) {
            arena->lingering[kept++] = index;
        }
    }
    arena->lingering_count = kept;
}

/* Takes idle arenas off the list, those first that have been idle longest, until at most `keep` bytes of them are left, and none
 * that has been idle for too long. */
static void
trim_locked(theus_zone *zone, uint64_t keep, theus_arena **outdated)
{
    uint64_t now = theus_clock_tick_ns();
    for (;;) {
        uint64_t idle = 0;
        theus_arena *oldest = NULL;
        for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
            if (arena_is_idle(it)) {
                idle += it->backed;
                oldest = oldest == NULL || it->idle_since_ns <= oldest->idle_since_ns ? it : oldest;
            }
        }
        if (oldest == NULL || (keep > 0 && idle <= keep && now - oldest->idle_since_ns < zone->decay_ns)) {
            return;
        }
        oldest->zone = NULL;
        let_go_locked(oldest, outdated);
    }
}

void
zone_trim_idle_locked(theus_zone *zone, theus_arena **outdated)
{
    trim_locked(zone, zone->shut ? 0 : KEEP_BYTES, outdated);
}

void
theus_zone_decay(theus_zone *zone, uint64_t ns)
{
    theus_arena *outdated = NULL;
    zone_lock(zone);
    zone->decay_ns = ns;
    zone_trim_idle_locked(zone, &outdated);
    theus_shm_unlock();
    zone_destroy_outdated(outdated);
}

/* Recycles what nobody but dead borrowers looks at. False: there was nothing of that kind. */
static bool
recover_locked(theus_zone *zone)
{
    bool any = false;
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        uint32_t before = it->lingering_count;
        theus_arena_reap_locked(it);
        sweep_locked(it);
        any = any || it->lingering_count < before;
    }
    return any;
}

uint64_t
theus_zones_recover(void)
{
    uint64_t leases = 0;
    theus_shm_lock();
    for (theus_arena *it = theus_arenas_first_locked(); it != NULL; it = it->next) {
        if (theus_arena_is_owned(it)) {
            leases += theus_arena_reap_all_locked(it);
            sweep_locked(it);
        }
    }
    theus_shm_unlock();
    return leases;
}

/* Everything that can be had without taking anything from anybody. */
static void
tidy_locked(theus_zone *zone, theus_arena **outdated)
{
    (void)recover_locked(zone);
    trim_locked(zone, 0, outdated);
}

static uint64_t
backed_of(const theus_arena *list)
{
    uint64_t bytes = 0;
    for (; list != NULL; list = list->next_outdated) {
        bytes += list->backed;
    }
    return bytes;
}

uint64_t
theus_zone_tidy(theus_zone *zone)
{
    theus_arena *outdated = NULL;
    zone_lock(zone);
    tidy_locked(zone, &outdated);
    theus_shm_unlock();
    uint64_t bytes = backed_of(outdated);
    zone_destroy_outdated(outdated);
    return bytes;
}

/* The same for every zone of this process. */
static void
tidy_all_locked(theus_arena **outdated)
{
    for (theus_arena *it = theus_arenas_first_locked(); it != NULL; it = it->next) {
        if (it->zone == NULL) {
            continue;
        }
        theus_arena_reap_locked(it);
        sweep_locked(it);
        if (arena_is_idle(it)) {
            it->zone = NULL;
            let_go_locked(it, outdated);
        }
    }
}

bool
zone_tidy_process(void)
{
    theus_arena *outdated = NULL;
    theus_shm_lock();
    tidy_all_locked(&outdated);
    theus_shm_unlock();
    uint64_t bytes = backed_of(outdated);
    zone_destroy_outdated(outdated);
    return theus_arenas_forget() > 0 || bytes > 0;
}

static void
retire_all_locked(theus_zone *zone)
{
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        for (uint32_t i = 0, left = it->held_slots; i < it->slots.capacity && left > 0; i++) {
            if (it->held[i] > 0) {
                (void)theus_slot_retire(&it->slots, i, theus_slot_generation_of(atomic_load(&it->slots.slots[i].word)));
                left--;
            }
        }
    }
}

void
theus_zone_retire_all(theus_zone *zone, bool shut)
{
    zone_lock(zone);
    zone->shut = zone->shut || shut;
    retire_all_locked(zone);
    theus_shm_unlock();
}

void
theus_zone_free(theus_zone *zone)
{
    theus_arena *outdated = NULL;
    zone_lock(zone);
    retire_all_locked(zone);
    for (theus_arena *it; (it = zone_arena_after_locked(zone, NULL)) != NULL;) {
        it->zone = NULL;
        let_go_locked(it, &outdated);
    }
    theus_shm_unlock();
    zone_destroy_outdated(outdated);
    theus_free(zone);
}

/* ---- allocation ------------------------------------------------------------------------------------------ */

typedef struct {
    const char *label;
    uint32_t length;
    uint64_t size, extent;
    bool lending;
    theus_memory memory;
} request;

/* A claimed slot with its range, both ours alone until it is published or given back. The arena has a reference for it. */
typedef struct {
    theus_arena *arena;
    uint32_t slot, generation;
    uint64_t offset;
    uint64_t dirty; /* bytes from the start of the range that may not be zero */
} place;

static void
write_record(theus_slot *slot, const request *wanted, uint64_t offset, uint32_t quota)
{
    slot->offset = offset;
    slot->size = wanted->size;
    slot->extent = wanted->extent;
    slot->tag = quota;
    slot->site = 0;
    slot->tick_ns = theus_clock_tick_ns();
    slot->label_length = wanted->length;
    atomic_store_explicit(&slot->published, 0, memory_order_relaxed);
    memcpy(slot->label, wanted->label, wanted->length);
    slot->label[wanted->length] = '\0';
}

/* Do the quotas admit a block to come? False: they refuse, also after tidying up, if `tidy`. */
static bool
admit_locked(theus_zone *zone, uint32_t quota, uint64_t extent, bool tidy, theus_refusal *refusal, theus_arena **outdated)
{
    if (tidy && zone_decide_locked(zone, quota, extent, refusal) != THEUS_ADMIT) {
        tidy_locked(zone, outdated);
    }
    if (tidy && process_decide_locked(extent, refusal) != THEUS_ADMIT) {
        tidy_all_locked(outdated);
    }
    return zone_decide_locked(zone, quota, extent, refusal) != THEUS_REJECT && process_decide_locked(extent, refusal) != THEUS_REJECT;
}

static bool
place_in_locked(theus_arena *arena, const request *wanted, uint32_t quota, place *at)
{
    bool large = wanted->extent > LARGE_FROM;
    if (wanted->memory != arena->memory || wanted->lending != (arena->loan_count > 0)
        || large != (arena->slots.capacity == LARGE_SLOTS) || arena->blocks == arena->slots.capacity
        || !theus_runs_take(arena->runs, wanted->extent, &at->offset)) {
        return false;
    }
    if (!theus_slot_claim(&arena->slots, arena->self, &at->slot, &at->generation)) { /* the rest of them are worn */
        theus_runs_give(arena->runs, at->offset, wanted->extent);
        return false;
    }
    theus_tenant *tenant = &arena->tenants[at->slot];
    if (tenant->extent > 0) { /* somebody has written to the table: the slot that was given is not free. It is lost */
        theus_runs_give(arena->runs, at->offset, wanted->extent);
        return false;
    }
    *tenant = (theus_tenant){at->offset, wanted->extent, wanted->size, quota, false};
    uint64_t end = at->offset + wanted->extent;
    at->arena = arena;
    at->dirty = arena->dirty <= at->offset ? 0 : arena->dirty < end ? arena->dirty - at->offset : wanted->extent;
    arena->blocks++;
    arena->refs++;
    write_record(&arena->slots.slots[at->slot], wanted, at->offset, quota);
    THEUS_SHM_STEP("place taken");
    return true;
}

static bool
place_in_zone_locked(const theus_zone *zone, const request *wanted, uint32_t quota, place *at)
{
    theus_arena *it = zone_arena_after_locked(zone, NULL);
    while (it != NULL && !place_in_locked(it, wanted, quota, at)) {
        it = zone_arena_after_locked(zone, it);
    }
    return it != NULL;
}

/* Finds a place that the quotas admit and charges them, in one region: whatever counts the slots finds what was charged. NO_ROOM: a
 * quota refuses. OK without an arena in *at: all are full. */
static theus_status
find_place(theus_zone *zone, const request *wanted, bool tidy, place *at, theus_refusal *refusal)
{
    theus_arena *outdated = NULL;
    at->arena = NULL;
    zone_lock(zone);
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        sweep_locked(it);
    }
    uint32_t quota = zone_quota_of(zone, wanted->label, wanted->length, UINT32_MAX);
    bool admitted = admit_locked(zone, quota, wanted->extent, tidy, refusal, &outdated);
    if (admitted
        && (place_in_zone_locked(zone, wanted, quota, at) || (recover_locked(zone) && place_in_zone_locked(zone, wanted, quota, at)))) {
        zone_charge_locked(zone, quota, wanted->extent);
        process_charge_locked(wanted->extent);
    }
    zone_trim_idle_locked(zone, &outdated); /* not before: the oldest one may be just what is needed */
    theus_shm_unlock();
    zone_destroy_outdated(outdated);
    return admitted ? THEUS_OK : THEUS_NO_ROOM;
}

static void
give_place_back(theus_zone *zone, place *at)
{
    theus_arena *arena = at->arena, *outdated = NULL;
    zone_lock(zone);
    if (theus_slot_recycle(&arena->slots, at->slot, at->generation)) {
        tenant_left_locked(arena, at->slot);
    }
    else { /* somebody holds a stale or forged name to it at this moment, or died when he did: it was born, and lingers */
        block_counted_locked(zone, arena, &arena->tenants[at->slot]);
        arena->lingering[arena->lingering_count++] = at->slot;
    }
    let_go_locked(arena, &outdated);
    theus_shm_unlock();
    zone_destroy_outdated(outdated);
}

/* Before the first named arena of a process: removes what owners have left that were killed. */
static void
sweep_once(theus_zone *zone)
{
    zone_lock(zone);
    bool due = zone->backend == THEUS_NAMED && !zone->swept;
    zone->swept = true;
    theus_shm_unlock();
    if (due) {
        (void)theus_sweep(theus_files_folder(), true, NULL, NULL); /* who cannot clean up can still work */
    }
}

/* A smaller one has slots in whole groups, unlike a large block's, and whole pages of any kind of memory. */
static_assert(ARENA_SLOTS * (ARENA_LEAST >> 10) / (ARENA_BYTES >> 10) == 128, "a small arena is not taken for a large block's");

/* One more arena, in which what is wanted fits. */
static theus_status
grow(theus_zone *zone, const request *wanted, theus_refusal *refusal)
{
    bool large = wanted->extent > LARGE_FROM;
    uint64_t least = whole_pages(wanted->extent, large ? theus_memory_page(wanted->memory, THEUS_SHM_PAGE) : (uint64_t)ARENA_LEAST);
    theus_arena_kind kind = {
        .backend = zone->backend,
        .memory = wanted->memory,
        .data_size = large ? least : (uint64_t)ARENA_BYTES,
        .capacity = large ? LARGE_SLOTS : ARENA_SLOTS,
        .lends = wanted->lending,
    };
    sweep_once(zone);
    theus_status status = zone_check_address(&kind, least, refusal);
    if (status == THEUS_OK) {
        status = zone_check_room(zone, wanted->memory, wanted->extent, refusal);
    }
    if (status != THEUS_OK) {
        return status;
    }
    status = theus_arena_create(zone, &kind, zone->session);
    if (status != THEUS_OK) { /* another thread was faster, perhaps */
        zone_refuse_mapping(zone->backend, wanted->memory, kind.data_size, refusal);
    }
    return status == THEUS_NO_FILES ? THEUS_NO_ROOM : status; /* to give arenas back gives descriptors back, too */
}

/* Sees to it that the pages of the place are there. What two threads back at the same time is backed once. */
static theus_status
back_place(const theus_zone *zone, const place *at, uint64_t extent, theus_refusal *refusal)
{
    theus_arena *arena = at->arena;
    uint64_t end = at->offset + extent;
    theus_shm_lock();
    uint64_t from = arena->backed;
    theus_shm_unlock();
    if (end <= from) {
        return THEUS_OK;
    }
    uint64_t step = theus_memory_page(arena->memory, BACK_STEP), to = (end + step - 1) / step * step;
    to = to < arena->data_size ? to : arena->data_size;
    theus_status status = zone_check_room(zone, arena->memory, to - from, refusal);
    if (status != THEUS_OK) {
        return status;
    }
    status = theus_shm_back(arena->data_fd, from, to - from);
    if (status == THEUS_OK && arena->memory == THEUS_MEMORY_PINNED) {
        status = theus_shm_pin(arena->data + from, to - from);
    }
    if (status != THEUS_OK) {
        zone_refuse(zone->backend, arena->memory, refusal);
        return status;
    }
    THEUS_SHM_STEP("backed");
    theus_shm_lock();
    arena->backed = to > arena->backed ? to : arena->backed;
    theus_shm_unlock();
    return THEUS_OK;
}

/* A place with its pages. */
static theus_status
take_place(theus_zone *zone, const request *wanted, place *at, theus_refusal *refusal)
{
    for (bool first = true;; first = false) { /* not to tidy an arena away that was made for this block */
        theus_status status = find_place(zone, wanted, first, at, refusal);
        if (status != THEUS_OK) {
            return status;
        }
        if (at->arena == NULL) {
            status = grow(zone, wanted, refusal);
        }
        else if ((status = back_place(zone, at, wanted->extent, refusal)) == THEUS_OK) {
            return THEUS_OK;
        }
        else {
            give_place_back(zone, at);
        }
        /* There is no room. Once more, as long as this process has something to give back. */
        if (status != THEUS_OK && (status != THEUS_NO_ROOM || !zone_tidy_process())) {
            return status;
        }
    }
}

/* A place in the first kind of memory of the set where there is one. If there is none at all: why not, by the last one that could
 * be had in principle, so that "there are no such pages" does not hide "there is no room". */
static theus_status
take_place_in(theus_zone *zone, theus_placement set, request *wanted, place *at, theus_refusal *refusal)
{
    theus_status answer = THEUS_UNSUPPORTED;
    for (theus_memory kind = theus_placement_next(set, 0); kind < THEUS_MEMORY_BLOCKS; kind = theus_placement_next(set, kind + 1)) {
        theus_refusal why = {.why = THEUS_ROOM_SYSTEM};
        wanted->memory = kind;
        theus_status status = take_place(zone, wanted, at, &why);
        if (status == THEUS_OK) {
            return status;
        }
        if (status == THEUS_NO_ROOM || answer != THEUS_NO_ROOM) {
            answer = status;
            *refusal = why;
        }
        if (status == THEUS_NOMEM || (status == THEUS_NO_ROOM && why.why != THEUS_ROOM_SYSTEM)) {
            return status; /* another kind would not help */
        }
    }
    return answer;
}

theus_status
theus_zone_alloc_in(theus_zone *zone, theus_placement set, const char *label, uint32_t length, uint64_t size, unsigned how,
                    theus_block *block, theus_refusal *refusal)
{
    assert(length <= THEUS_LABEL_MAX);
    request wanted = {
        .label = label,
        .length = length,
        .size = size,
        .extent = theus_runs_extent(size),
        .lending = (how & THEUS_LENDING) != 0,
    };
    if (wanted.lending) { /* a worker maps pages: none is to be another block's, too */
        wanted.extent = whole_pages(wanted.extent, THEUS_SHM_PAGE);
    }
    *refusal = (theus_refusal){.why = THEUS_ROOM_SYSTEM};
    if (wanted.extent == 0) {
        zone_refuse(zone->backend, THEUS_MEMORY_SHARED, refusal);
        return THEUS_NO_ROOM;
    }
    place at;
    theus_status status = take_place_in(zone, set, &wanted, &at, refusal);
    if (status != THEUS_OK) {
        return status;
    }
    if ((how & THEUS_ZEROED) != 0 && at.dirty > 0) {
        memset(at.arena->data + at.offset, 0, at.dirty);
    }
    zone_lock(zone);
    block_born_locked(zone, at.arena, at.slot, at.generation);
    theus_shm_unlock();
    *block = (theus_block){at.arena, at.slot, at.generation, at.offset, size};
    return THEUS_OK;
}
