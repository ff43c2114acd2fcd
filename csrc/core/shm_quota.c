/* The quotas of a zone: which of them a block counts for, and what each has left. A quota's parent is that of the longest shorter
 * prefix, so a block counts for its own quota and all those above it, up to quota 0, of the zone. */
#include "shm_zone_parts.h"

#include <assert.h>
#include <string.h>

void
zone_charge_locked(theus_zone *zone, uint32_t quota, uint64_t extent)
{
    for (;; quota = zone->quotas[quota].parent) {
        theus_quota *it = &zone->quotas[quota];
        it->used += extent;
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
        it->used = 0;
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
