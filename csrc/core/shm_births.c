/* Where blocks begin and end: each of them passes block_born_locked() and block_died_locked(), which keep the totals
 * (shm_zone.h). */
#include "shm_zone_parts.h"

#include <assert.h>

static uint32_t
size_class(uint64_t extent)
{
    uint32_t bits = extent <= 64 ? 0 : 58 - (uint32_t)__builtin_clzll(extent - 1);
    return bits < THEUS_SIZE_CLASSES ? bits : THEUS_SIZE_CLASSES - 1;
}

/* The counter has one writer at a time, which holds the lock; those who read it in other processes do not. */
static void
count_up(_Atomic(uint64_t) *counter, uint64_t by)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + by, memory_order_relaxed);
}

void
tenant_left_locked(theus_arena *arena, uint32_t index)
{
    theus_tenant *tenant = &arena->tenants[index];
    theus_runs_give(arena->runs, tenant->offset, tenant->extent);
    if (--arena->blocks == 0) {
        arena->idle_since_ns = theus_clock_tick_ns();
    }
    process_uncharge_locked(tenant->extent);
    if (arena->zone != NULL) {
        zone_uncharge_locked(arena->zone, tenant->quota, tenant->extent);
    }
    *tenant = (theus_tenant){0};
}

void
block_counted_locked(theus_zone *zone, theus_arena *arena, theus_tenant *tenant)
{
    tenant->born = true;
    theus_participant *owner = theus_arena_participant(arena, THEUS_SHM_OWNER);
    theus_process_totals *process = theus_process_totals_locked();
    theus_tally *class = &zone->totals.classes[size_class(tenant->extent)];
    process->births++;
    process->bytes_born += tenant->extent;
    zone->totals.births++;
    zone->totals.bytes_born += tenant->extent;
    zone->totals.asked += tenant->size;
    class->blocks++;
    class->bytes += tenant->extent;
    count_up(&owner->births, 1);
    count_up(&owner->bytes_born, tenant->extent);
}

void
block_born_locked(theus_zone *zone, theus_arena *arena, uint32_t index, uint32_t generation)
{
    theus_tenant *tenant = &arena->tenants[index];
    uint64_t end = tenant->offset + tenant->extent;
    arena->dirty = end > arena->dirty ? end : arena->dirty;
    block_counted_locked(zone, arena, tenant);
    THEUS_SHM_STEP("birth counted");
    theus_slot_publish(&arena->slots, index);
    theus_lease lease = theus_slot_lease(&arena->slots, index, generation, arena->self);
    assert(lease == THEUS_LEASED);
    (void)lease;
    arena->held[index] = 1; /* with the reference that the place had */
    arena->held_slots++;
}

bool
block_died_locked(theus_arena *arena, uint32_t index, uint32_t generation)
{
    if (!theus_slot_recycle(&arena->slots, index, generation)) {
        return false;
    }
    uint64_t extent = arena->tenants[index].extent, size = arena->tenants[index].size;
    tenant_left_locked(arena, index);
    theus_participant *owner = theus_arena_participant(arena, THEUS_SHM_OWNER);
    count_up(&owner->deaths, 1);
    count_up(&owner->bytes_dead, extent);
    theus_process_totals *process = theus_process_totals_locked();
    process->deaths++;
    process->bytes_dead += extent;
    theus_zone *zone = arena->zone;
    if (zone != NULL) {
        theus_tally *class = &zone->totals.classes[size_class(extent)];
        zone->totals.deaths++;
        zone->totals.bytes_dead += extent;
        zone->totals.asked -= size;
        class->blocks--;
        class->bytes -= extent;
    }
    return true;
}
