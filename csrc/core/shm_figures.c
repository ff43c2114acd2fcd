/* What a zone reports, and the walk that compares its totals with what is there. */
#include "shm_loans.h"
#include "shm_zone_parts.h"

#include <string.h>

void
theus_zone_read(theus_zone *zone, theus_zone_figures *figures)
{
    memset(figures, 0, sizeof(*figures));
    zone_lock(zone);
    const zone_totals *totals = &zone->totals;
    figures->births = totals->births;
    figures->deaths = totals->deaths;
    figures->bytes_born = totals->bytes_born;
    figures->bytes_dead = totals->bytes_dead;
    figures->asked = totals->asked;
    figures->quotas = zone->quota_count;
    memcpy(figures->classes, totals->classes, sizeof(figures->classes));
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        uint64_t largest = theus_runs_largest(it->runs);
        theus_memory_tally *tally = &figures->memory[it->memory];
        tally->arenas++;
        tally->blocks += it->blocks;
        tally->bytes += it->data_size - it->runs->free_bytes;
        tally->backed += it->backed;
        tally->idle += arena_is_idle(it) ? it->backed : 0;
        figures->arenas++;
        figures->mapped += it->data_size;
        figures->backed += it->backed;
        figures->idle += arena_is_idle(it) ? it->backed : 0;
        figures->lingering += it->lingering_count;
        figures->free_bytes += it->runs->free_bytes;
        figures->largest_free = largest > figures->largest_free ? largest : figures->largest_free;
    }
    theus_shm_unlock();
}

bool
theus_zone_read_quota(theus_zone *zone, uint32_t i, theus_quota *quota)
{
    zone_lock(zone);
    bool there = i < zone->quota_count;
    if (there) {
        *quota = zone->quotas[i];
    }
    theus_shm_unlock();
    return there;
}

static void
describe(const theus_slot *slot, uint64_t word, theus_block_figures *out)
{
    out->generation = theus_slot_generation_of(word);
    out->state = theus_slot_state_of(word);
    out->leases = (uint32_t)__builtin_popcountll(atomic_load(&slot->leases));
    out->size = slot->size;
    out->extent = slot->extent;
    out->tick_ns = slot->tick_ns;
    out->site = slot->site;
    out->published = atomic_load(&slot->published) != 0;
    out->length = theus_slot_label_length(slot);
    memcpy(out->label, slot->label, sizeof(out->label));
}

uint64_t
theus_zone_list(theus_zone *zone, theus_block_figures *list, uint64_t places)
{
    uint64_t count = 0;
    zone_lock(zone);
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        for (uint32_t i = 0, left = it->blocks; i < it->slots.capacity && left > 0; i++) {
            const theus_slot *slot = &it->slots.slots[i];
            uint64_t word = atomic_load(&slot->word);
            theus_slot_state state = theus_slot_state_of(word);
            left -= state != THEUS_SLOT_FREE && state != THEUS_SLOT_WORN;
            if (state != THEUS_SLOT_LIVE && state != THEUS_SLOT_RETIRED) {
                continue;
            }
            if (count < places) {
                describe(slot, word, &list[count]);
                list[count].slot = i;
                list[count].lends = it->loan_count > 0;
                list[count].lent = theus_loans_out_locked(it, i, list[count].generation);
                list[count].memory = it->memory;
                list[count].data = it->data + it->tenants[i].offset;
            }
            count++;
        }
    }
    theus_shm_unlock();
    return count;
}

#ifdef THEUS_TESTING

static const char *
check_arena(const theus_zone *zone, const theus_arena *arena, uint64_t *blocks, uint64_t *bytes, theus_quota *quotas)
{
    uint64_t held_slots = 0, taken = 0, extents = 0;
    const char *broken = theus_runs_check(arena->runs);
    for (uint32_t i = 0; i < arena->slots.capacity && broken == NULL; i++) {
        theus_slot *slot = &arena->slots.slots[i];
        theus_slot_state state = theus_slot_state_of(atomic_load(&slot->word));
        held_slots += arena->held[i] > 0;
        if (state == THEUS_SLOT_FREE || state == THEUS_SLOT_WORN) {
            broken = arena->held[i] > 0 ? "somebody holds a free slot" : NULL;
            continue;
        }
        taken++;
        const theus_tenant *tenant = &arena->tenants[i];
        extents += tenant->extent;
        for (uint32_t quota = tenant->quota;; quota = zone->quotas[quota].parent) {
            quotas[quota].used += tenant->extent;
            if (quota == 0) {
                break;
            }
        }
        if (arena->held[i] > 0 && (atomic_load(&slot->leases) >> arena->self & 1) == 0) {
            return "a slot is held without a lease";
        }
    }
    const theus_participant *owner = theus_arena_participant(arena, THEUS_SHM_OWNER);
    if (broken == NULL && atomic_load(&owner->births) - atomic_load(&owner->deaths) != taken) {
        broken = "births - deaths of the owner is not the slots taken";
    }
    *blocks += taken;
    *bytes += extents;
    return broken != NULL                                                    ? broken
           : taken != arena->blocks                                          ? "blocks are not the slots taken"
           : held_slots != arena->held_slots                                 ? "held_slots is not the slots held"
           : arena->runs->free_bytes + extents != arena->data_size           ? "blocks and free ranges are not the data"
           : arena->backed > arena->data_size || arena->dirty > arena->backed ? "more is dirty than there is"
                                                                             : NULL;
}

const char *
theus_zone_check(theus_zone *zone)
{
    uint64_t blocks = 0, bytes = 0, class_blocks = 0, class_bytes = 0;
    theus_quota quotas[THEUS_ZONE_QUOTAS] = {{0}};
    const char *broken = NULL;
    zone_lock(zone);
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL && broken == NULL;
         it = zone_arena_after_locked(zone, it)) {
        broken = check_arena(zone, it, &blocks, &bytes, quotas);
    }
    for (uint32_t i = 0; i < zone->quota_count && broken == NULL; i++) {
        broken = quotas[i].used != zone->quotas[i].used ? "a quota counts another sum than its blocks have" : NULL;
    }
    for (uint32_t i = 0; i < THEUS_SIZE_CLASSES; i++) {
        class_blocks += zone->totals.classes[i].blocks;
        class_bytes += zone->totals.classes[i].bytes;
    }
    if (broken == NULL && (zone->totals.births - zone->totals.deaths != blocks || class_blocks != blocks)) {
        broken = "births - deaths is not the blocks there are";
    }
    if (broken == NULL && (zone->totals.bytes_born - zone->totals.bytes_dead != bytes || class_bytes != bytes)) {
        broken = "bytes born - bytes dead is not the bytes of the blocks";
    }
    theus_shm_unlock();
    return broken;
}

#endif
