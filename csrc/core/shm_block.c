/* Blocks of shm_zone.h, as their users see them: to lease, to look at, to give back. */
#include "shm_loans.h"
#include "shm_zone_parts.h"

#include <assert.h>

/* The first user of a slot in this process: takes the lease. */
static theus_status
lease_first_locked(theus_arena *arena, uint32_t index, uint32_t generation)
{
    if (arena->self == THEUS_SHM_NOBODY) {
        return THEUS_CROWDED;
    }
    switch (theus_slot_lease(&arena->slots, index, generation, arena->self)) {
    case THEUS_LEASE_BAD:
        return THEUS_BAD_TOKEN;
    case THEUS_LEASE_STALE:
        return THEUS_STALE;
    case THEUS_LEASED:
        break;
    }
    return THEUS_OK;
}

/* Where the block of a slot that we lease is: by our own book if it is ours, else by its record, which is looked at once: somebody
 * may write there at any time. False: no block can be there. */
static bool
read_place(const theus_arena *arena, uint32_t index, theus_block *block)
{
    if (theus_arena_is_owned(arena)) {
        block->offset = arena->tenants[index].offset;
        block->size = arena->tenants[index].size;
        return true;
    }
    const volatile theus_slot *record = &arena->slots.slots[index];
    block->offset = record->offset;
    block->size = record->size;
    return block->size <= arena->data_size && block->offset <= arena->data_size - block->size;
}

static theus_status
lease_locked(theus_arena *arena, uint32_t index, uint32_t generation, theus_block *block)
{
    if (index >= arena->slots.capacity) {
        return THEUS_BAD_TOKEN;
    }
    *block = (theus_block){.arena = arena, .slot = index, .generation = generation};
    if (arena->held[index] == 0) {
        theus_status status = lease_first_locked(arena, index, generation);
        if (status == THEUS_OK && !read_place(arena, index, block)) {
            (void)theus_slot_unlease(&arena->slots, index, arena->self);
            return THEUS_BAD_TOKEN;
        }
        if (status == THEUS_OK) {
            arena->held[index] = 1;
            arena->held_slots++;
            arena->refs++;
        }
        return status;
    }
    /* Our lease stands: the slot keeps its tenant, who may be another one than is asked for, or retired. */
    uint64_t word = atomic_load(&arena->slots.slots[index].word);
    uint32_t tenant = theus_slot_generation_of(word);
    if (tenant != generation || theus_slot_state_of(word) != THEUS_SLOT_LIVE) {
        return generation == 0 || generation > tenant ? THEUS_BAD_TOKEN : THEUS_STALE;
    }
    if (!read_place(arena, index, block)) {
        return THEUS_BAD_TOKEN;
    }
    arena->held[index]++;
    return THEUS_OK;
}

theus_status
theus_block_lease(const theus_arena_name *name, uint32_t slot, uint32_t generation, theus_block *block, theus_refusal *refusal)
{
    theus_arena *arena;
    theus_status status;
    uint64_t wanted;
    do {
        status = theus_arena_attach(name, &arena, &wanted);
    } while (status == THEUS_NO_ROOM && zone_tidy_process());
    if (status == THEUS_NO_ROOM) {
        zone_refuse_mapping(name->control_fd == THEUS_BY_NAME ? THEUS_NAMED : THEUS_ANONYMOUS, THEUS_MEMORY_SHARED, wanted, refusal);
    }
    if (status != THEUS_OK) {
        return status;
    }
    theus_shm_lock();
    status = lease_locked(arena, slot, generation, block);
    theus_arena *unused = theus_arena_drop_locked(arena); /* the lease has its own reference */
    theus_shm_unlock();
    theus_arena_destroy(unused);
    return status;
}

/* The last user of a slot in this process is gone. */
static void
end_lease_locked(theus_arena *arena, uint32_t index, uint32_t generation, theus_arena **outdated)
{
    bool owned = theus_arena_is_owned(arena);
    arena->held_slots--;
    if (owned) {
        (void)theus_slot_retire(&arena->slots, index, generation); /* nobody is left who could free it by name */
    }
    bool last = arena->self != THEUS_SHM_NOBODY && theus_slot_unlease(&arena->slots, index, arena->self);
    if (owned && (!last || !block_died_locked(arena, index, generation))) {
        arena->lingering[arena->lingering_count++] = index; /* until its borrowers let go: the zone looks after it */
    }
    theus_zone *zone = owned && arena_is_idle(arena) ? arena->zone : NULL;
    *outdated = theus_arena_drop_locked(arena);
    if (zone != NULL) {
        zone_trim_idle_locked(zone, outdated);
    }
}

void
theus_block_release(theus_block *block)
{
    theus_arena *arena = block->arena, *outdated = NULL;
    theus_shm_lock();
    assert(arena->held[block->slot] > 0);
    if (--arena->held[block->slot] == 0) {
        end_lease_locked(arena, block->slot, block->generation, &outdated);
    }
    theus_shm_unlock();
    zone_destroy_outdated(outdated);
}

void
theus_block_set_site(const theus_block *block, uint32_t site)
{
    block->arena->slots.slots[block->slot].site = site;
}

theus_status
theus_block_retire(const theus_block *block)
{
    theus_shm_lock();
    bool owned = theus_arena_is_owned(block->arena);
    if (owned) {
        (void)theus_slot_retire(&block->arena->slots, block->slot, block->generation);
    }
    theus_shm_unlock();
    return owned ? THEUS_OK : THEUS_BORROWED;
}

/* By the owner. LENT: others may still write to it. */
static theus_status
promise(const theus_block *block)
{
    theus_shm_lock();
    bool out = theus_block_lends(block) && theus_loans_out_locked(block->arena, block->slot, block->generation) > 0;
    if (!out) {
        atomic_store(&block->arena->slots.slots[block->slot].published, 1);
    }
    theus_shm_unlock();
    return out ? THEUS_LENT : THEUS_OK;
}

theus_status
theus_block_publish(const theus_block *block, char **data, theus_refusal *refusal)
{
    char *shown;
    theus_status status;
    if (!theus_block_is_owned(block) && !theus_block_is_published(block)) {
        return THEUS_BORROWED;
    }
    do {
        status = theus_arena_show(block->arena, &shown);
    } while (status == THEUS_NO_ROOM && zone_tidy_process());
    if (status == THEUS_NO_ROOM) {
        zone_refuse_mapping(block->arena->backend, THEUS_MEMORY_SHARED, block->arena->data_size, refusal);
    }
    if (status == THEUS_OK && theus_block_is_owned(block)) {
        status = promise(block);
    }
    if (status == THEUS_OK) {
        *data = shown + block->offset;
    }
    return status;
}

bool
theus_block_is_published(const theus_block *block)
{
    return atomic_load(&block->arena->slots.slots[block->slot].published) != 0;
}

bool
theus_block_is_owned(const theus_block *block)
{
    return block->arena->self == THEUS_SHM_OWNER;
}

bool
theus_block_is_live(const theus_block *block)
{
    const theus_arena *arena = block->arena;
    uint64_t word = atomic_load(&theus_block_record(block)->word);
    return theus_slot_state_of(word) == THEUS_SLOT_LIVE && atomic_load(&arena->header->closed) == 0
           && (theus_block_is_owned(block) || theus_byte_is_locked(arena->control_fd, THEUS_SHM_OWNER));
}

theus_status
theus_block_map_private(const theus_block *block, void **base, uint64_t *mapped, char **data, theus_refusal *refusal)
{
    uint64_t page = theus_memory_page(block->arena->memory, theus_page_size());
    uint64_t before = block->offset % page;
    uint64_t size = (before + (block->size > 0 ? block->size : 1) + page - 1) / page * page;
    theus_status status;
    do {
        status = theus_shm_map(block->arena->data_fd, block->offset - before, size, THEUS_MAP_PRIVATE, base);
    } while (status == THEUS_NO_ROOM && zone_tidy_process());
    if (status == THEUS_NO_ROOM) {
        zone_refuse_mapping(block->arena->backend, THEUS_MEMORY_SHARED, size, refusal);
    }
    if (status == THEUS_OK) {
        *mapped = size;
        *data = (char *)*base + before;
    }
    return status;
}
