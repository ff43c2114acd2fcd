/* What limits a zone: its quotas, that of the process, and the room that the system has. A quota's parent is that of the longest
 * shorter prefix, so a block counts for its own quota and all those above it, up to quota 0, of the zone. Every block counts for
 * the process (shm_process.h). Each limit is decided by theus_quota_decide(). */
#include "shm_zone_parts.h"

#include <assert.h>
#include <string.h>

enum { SPARE_ROOM = 16 << 20 }; /* that we leave to everybody else, of what the system has or lets us map */

void
zone_charge_locked(theus_zone *zone, uint32_t quota, uint64_t extent)
{
    for (;; quota = zone->quotas[quota].parent) {
        theus_quota *it = &zone->quotas[quota];
        it->used += extent;
        it->blocks++;
        it->peak = it->used > it->peak ? it->used : it->peak;
        if (quota == 0) {
            return;
        }
    }
}

void
zone_uncharge_locked(theus_zone *zone, uint32_t quota, uint64_t extent)
{
    for (;; quota = zone->quotas[quota].parent) {
        assert(zone->quotas[quota].used >= extent);
        zone->quotas[quota].used -= extent;
        zone->quotas[quota].blocks--;
        if (quota == 0) {
            return;
        }
    }
}

uint32_t
zone_quota_of(const theus_zone *zone, const char *label, uint32_t length, uint32_t below)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < zone->quota_count; i++) {
        const theus_quota *it = &zone->quotas[i];
        if (it->length <= length && it->length < below && it->length > zone->quotas[best].length
            && memcmp(it->prefix, label, it->length) == 0) {
            best = i;
        }
    }
    return best;
}

/* There is another prefix: whom does each block count for, those included that are being allocated at this moment? */
static void
recount_locked(theus_zone *zone)
{
    for (uint32_t i = 0; i < zone->quota_count; i++) {
        theus_quota *it = &zone->quotas[i];
        it->used = it->blocks = 0;
        it->parent = zone_quota_of(zone, it->prefix, it->length, it->length);
    }
    for (theus_arena *it = zone_arena_after_locked(zone, NULL); it != NULL; it = zone_arena_after_locked(zone, it)) {
        for (uint32_t i = 0; i < it->slots.capacity; i++) {
            theus_tenant *tenant = &it->tenants[i];
            if (tenant->extent > 0) {
                theus_slot *slot = &it->slots.slots[i];
                slot->tag = tenant->quota = zone_quota_of(zone, slot->label, theus_slot_label_length(slot), UINT32_MAX);
                zone_charge_locked(zone, tenant->quota, tenant->extent);
            }
        }
    }
}

theus_status
theus_zone_limit(theus_zone *zone, const char *prefix, uint32_t length, uint64_t soft, uint64_t hard)
{
    assert(length <= THEUS_LABEL_MAX);
    theus_status status = THEUS_OK;
    zone_lock(zone);
    uint32_t i = zone_quota_of(zone, prefix, length, UINT32_MAX);
    if (zone->quotas[i].length == length) {
        zone->quotas[i].soft = soft;
        zone->quotas[i].hard = hard;
    }
    else if (zone->quota_count == THEUS_ZONE_QUOTAS) {
        status = THEUS_FULL;
    }
    else {
        theus_quota *made = &zone->quotas[zone->quota_count++];
        *made = (theus_quota){.soft = soft, .hard = hard, .length = length};
        memcpy(made->prefix, prefix, length);
        recount_locked(zone);
    }
    theus_shm_unlock();
    return status;
}

theus_admission
zone_decide_locked(const theus_zone *zone, uint32_t quota, uint64_t extent, theus_refusal *refusal)
{
    theus_admission answer = THEUS_ADMIT;
    for (;; quota = zone->quotas[quota].parent) {
        const theus_quota *it = &zone->quotas[quota];
        theus_admission here = theus_quota_decide(it->used, extent, it->soft, it->hard);
        if (here == THEUS_REJECT) {
            *refusal = (theus_refusal){.why = THEUS_ROOM_QUOTA, .quota = quota, .used = it->used, .limit = it->hard};
            return here;
        }
        answer = here == THEUS_ADMIT_TIDY ? here : answer;
        if (quota == 0) {
            return answer;
        }
    }
}

/* ---- the process -------------------------------------------------------------------------------- */

void
process_charge_locked(uint64_t extent)
{
    theus_process_totals *totals = theus_process_totals_locked();
    totals->used += extent;
    totals->peak = totals->used > totals->peak ? totals->used : totals->peak;
}

void
process_uncharge_locked(uint64_t extent)
{
    theus_process_totals *totals = theus_process_totals_locked();
    assert(totals->used >= extent);
    totals->used -= extent;
}

theus_admission
process_decide_locked(uint64_t extent, theus_refusal *refusal)
{
    const theus_process_totals *totals = theus_process_totals_locked();
    theus_admission answer = theus_quota_decide(totals->used, extent, totals->soft, totals->hard);
    if (answer == THEUS_REJECT) {
        *refusal = (theus_refusal){.why = THEUS_ROOM_PROCESS, .used = totals->used, .limit = totals->hard};
    }
    return answer;
}

void
theus_process_limit(uint64_t soft, uint64_t hard, bool first)
{
    theus_shm_lock();
    theus_process_totals *totals = theus_process_totals_locked();
    if (!first || !totals->limited) {
        totals->soft = soft;
        totals->hard = hard;
        totals->limited = true;
    }
    theus_shm_unlock();
}

/* ---- the system ----------------------------------------------------------------------------------- */

void
zone_refuse(theus_backend backend, theus_memory memory, theus_refusal *refusal)
{
    uint64_t room = theus_files_room(backend, memory), limit = memory == THEUS_MEMORY_PINNED ? theus_pin_limit() : UINT64_MAX;
    *refusal = (theus_refusal){.why = THEUS_ROOM_SYSTEM, .limit = limit < room ? limit : room, .memory = memory};
}

theus_status
zone_check_room(const theus_zone *zone, theus_memory memory, uint64_t bytes, theus_refusal *refusal)
{
    uint64_t room = theus_files_room(zone->backend, memory);
    uint64_t spare = memory == THEUS_MEMORY_HUGE ? 0 : SPARE_ROOM; /* those are set aside for us, or for nobody */
    if (theus_room_decide(room, spare, bytes) != THEUS_REJECT) {
        return THEUS_OK;
    }
    zone_refuse(zone->backend, memory, refusal);
    return THEUS_NO_ROOM;
}

/* ---- the address space ------------------------------------------------------------------------------ */

static bool
can_map(theus_address_figures now, const theus_arena_kind *kind, uint64_t times)
{
    uint64_t control = theus_shm_control_size(kind->capacity, kind->lends), asked;
    bool fits = !__builtin_mul_overflow(kind->data_size, times, &asked) && !__builtin_add_overflow(asked, control + SPARE_ROOM, &asked);
    return now.limit == 0 || (fits && theus_quota_decide(now.used, asked, 0, now.limit) != THEUS_REJECT);
}

bool
zone_fit_addresses(theus_arena_kind *kind, uint64_t least, theus_address_figures now)
{
    while (kind->data_size > least && !can_map(now, kind, 2)) {
        uint64_t half = kind->data_size / 2, size = half > least ? half : least;
        kind->capacity = (uint32_t)(kind->capacity * size / kind->data_size);
        kind->data_size = size;
    }
    return can_map(now, kind, 1);
}

theus_status
zone_check_address(theus_arena_kind *kind, uint64_t least, theus_refusal *refusal)
{
    theus_address_figures now = theus_address_read();
    if (zone_fit_addresses(kind, least, now)) {
        return THEUS_OK;
    }
    *refusal = (theus_refusal){.why = THEUS_ROOM_ADDRESS, .used = now.used, .limit = now.limit};
    return THEUS_NO_ROOM;
}

void
zone_refuse_mapping(theus_backend backend, theus_memory memory, uint64_t bytes, theus_refusal *refusal)
{
    if (refusal == NULL) {
        return;
    }
    theus_address_figures now = theus_address_read();
    if (theus_quota_decide(now.used, bytes, 0, now.limit) == THEUS_REJECT) {
        *refusal = (theus_refusal){.why = THEUS_ROOM_ADDRESS, .used = now.used, .limit = now.limit, .memory = memory};
    }
    else {
        zone_refuse(backend, memory, refusal);
    }
    refusal->mapping = bytes;
}
