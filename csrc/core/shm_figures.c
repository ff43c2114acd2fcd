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

/* The next arena that the zone owns, or, if that is NULL, this process. */
static theus_arena *
owned_after_locked(const theus_zone *zone, const theus_arena *arena)
{
    if (zone != NULL) {
        return zone_arena_after_locked(zone, arena);
    }
    theus_arena *it = arena == NULL ? theus_arenas_first_locked() : arena->next;
    while (it != NULL && !theus_arena_is_owned(it)) {
        it = it->next;
    }
    return it;
}

static bool
is_taken(theus_slot_state state)
{
    return state != THEUS_SLOT_FREE && state != THEUS_SLOT_WORN;
}

uint64_t
theus_zone_list(theus_zone *zone, theus_block_figures *list, uint64_t places)
{
    uint64_t count = 0;
    if (zone != NULL) {
        zone_lock(zone);
    }
    else {
        theus_shm_lock();
    }
    for (theus_arena *it = owned_after_locked(zone, NULL); it != NULL; it = owned_after_locked(zone, it)) {
        for (uint32_t i = 0, left = it->blocks; i < it->slots.capacity && left > 0; i++) {
            const theus_slot *slot = &it->slots.slots[i];
            uint64_t word = atomic_load(&slot->word);
            theus_slot_state state = theus_slot_state_of(word);
            left -= is_taken(state);
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

/* Adds up, for each participant of one arena, the blocks that it looks at. */
static void
look_at_arena(const theus_arena *arena, theus_tally *tallies)
{
    for (uint32_t i = 0, left = arena->blocks; i < arena->slots.capacity && left > 0; i++) {
        const theus_slot *slot = &arena->slots.slots[i];
        left -= is_taken(theus_slot_state_of(atomic_load(&slot->word)));
        for (uint64_t leases = atomic_load(&slot->leases); leases != 0; leases &= leases - 1) {
            theus_tally *tally = &tallies[__builtin_ctzll(leases)];
            tally->blocks++;
            tally->bytes += arena->tenants[i].extent;
        }
    }
}

uint64_t
theus_zone_lookers(theus_zone *zone, theus_looker *list, uint64_t places)
{
    uint64_t count = 0;
    zone_lock(zone);
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        theus_tally tallies[THEUS_PARTICIPANTS] = {{0}};
        look_at_arena(it, tallies);
        for (uint32_t i = 0; i < THEUS_PARTICIPANTS; i++) {
            if (tallies[i].blocks == 0) {
                continue;
            }
            if (count < places) {
                uint32_t pid = atomic_load(&theus_arena_participant(it, i)->pid);
                list[count] = (theus_looker){pid, tallies[i].blocks, tallies[i].bytes};
            }
            count++;
        }
    }
    theus_shm_unlock();
    return count;
}

/* The blocks of an arena that were born, and what all slots take: so both agree with the totals at any moment, whoever allocates. */
static theus_tally
walk_arena(const theus_arena *arena)
{
    theus_tally found = {0};
    for (uint32_t i = 0; i < arena->slots.capacity; i++) {
        if (is_taken(theus_slot_state_of(atomic_load(&arena->slots.slots[i].word)))) {
            found.blocks += arena->tenants[i].born;
            found.bytes += arena->tenants[i].extent;
        }
    }
    return found;
}

static void
read_process_locked(theus_process_figures *figures)
{
    *figures = (theus_process_figures){.totals = *theus_process_totals_locked()};
    for (theus_arena *it = owned_after_locked(NULL, NULL); it != NULL; it = owned_after_locked(NULL, it)) {
        theus_tally found = walk_arena(it);
        figures->arenas++;
        figures->blocks += found.blocks;
        figures->bytes += found.bytes;
    }
}

void
theus_process_read(theus_process_figures *figures)
{
    theus_shm_lock();
    read_process_locked(figures);
    theus_shm_unlock();
}

#ifdef THEUS_TESTING

static const char *
check_process(void)
{
    theus_process_figures found;
    read_process_locked(&found);
    const theus_process_totals *totals = &found.totals;
    return totals->used != found.bytes                           ? "the process counts another sum than its blocks have"
           : totals->births - totals->deaths != found.blocks     ? "births - deaths of the process is not the slots taken"
           : totals->bytes_born - totals->bytes_dead != found.bytes ? "bytes born - bytes dead of the process is not what they take"
                                                                 : NULL;
}

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
            quotas[quota].blocks++;
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
        broken = quotas[i].used != zone->quotas[i].used       ? "a quota counts another sum than its blocks have"
                 : quotas[i].blocks != zone->quotas[i].blocks ? "a quota counts another number of blocks"
                                                              : NULL;
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
    broken = broken == NULL ? check_process() : broken;
    theus_shm_unlock();
    return broken;
}

#endif
