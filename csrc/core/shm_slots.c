/* See shm_slots.h. */
#include "shm_slots.h"

#include <assert.h>

enum { GROUP = 64 };

#ifdef THEUS_TESTING
void (*theus_shm_at_step)(const char *step);
#endif

void
theus_slots_open(theus_slots *table, void *control, uint32_t capacity)
{
    assert(capacity % GROUP == 0 && capacity > 0 && capacity <= THEUS_SHM_SLOTS_MOST);
    table->hints = (_Atomic(uint64_t) *)((char *)control + theus_shm_hints_at());
    table->slots = (theus_slot *)((char *)control + theus_shm_slots_at(capacity));
    table->capacity = capacity;
    atomic_init(&table->cursor, 0);
    atomic_init(&table->kept, 0);
}

void
theus_slots_init(theus_slots *table)
{
    for (uint32_t group = 0; group < table->capacity / GROUP; group++) {
        atomic_init(&table->hints[group], UINT64_MAX);
    }
}

/* ---- claiming ----------------------------------------------------------------------- */

static void
give_hint(theus_slots *table, uint32_t index)
{
    atomic_fetch_or(&table->hints[index / GROUP], (uint64_t)1 << index % GROUP);
}

/* A free slot: for our next claim, or for everybody. Plain loads and stores do: of two threads that keep one at the same time, one
 * leaves a free slot without a hint. */
static void
keep_or_hint(theus_slots *table, uint32_t index)
{
    if (atomic_load_explicit(&table->kept, memory_order_relaxed) == 0) {
        atomic_store_explicit(&table->kept, index + 1, memory_order_relaxed);
    }
    else {
        give_hint(table, index);
    }
}

/* The one step that gives a slot to somebody. */
static bool
try_claim(theus_slots *table, uint32_t index, uint32_t who, uint32_t *generation)
{
    _Atomic(uint64_t) *word = &table->slots[index].word;
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    if (theus_slot_state_of(seen) != THEUS_SLOT_FREE) {
        return false;
    }
    uint32_t next = theus_slot_generation_of(seen) + 1;
    if (!atomic_compare_exchange_strong(word, &seen, theus_slot_word(next, THEUS_SLOT_CLAIMED, who))) {
        return false;
    }
    *generation = next;
    return true;
}

/* Takes the hint of one slot of the group, and then the slot. Who finds the slot taken leaves the hint cleared: whoever frees it
 * sets the bit after its word, so that a free slot has its hint whatever we did before. */
static bool
claim_by_hint(theus_slots *table, uint32_t group, uint32_t who, uint32_t *index, uint32_t *generation)
{
    uint64_t hints;
    while ((hints = atomic_load_explicit(&table->hints[group], memory_order_relaxed)) != 0) {
        uint64_t bit = hints & (~hints + 1); /* the lowest: used last, most likely, and so in the cache */
        if ((atomic_fetch_and(&table->hints[group], ~bit) & bit) == 0) {
            continue; /* another one took it meanwhile */
        }
        THEUS_SHM_STEP("hint taken");
        *index = group * GROUP + (uint32_t)__builtin_ctzll(bit);
        if (try_claim(table, *index, who, generation)) {
            THEUS_SHM_STEP("claimed");
            return true;
        }
    }
    return false;
}

/* No hint is left. What is free nevertheless lost its hint with somebody who died, or is between two steps of a living one. */
static bool
claim_by_scan(theus_slots *table, uint32_t who, uint32_t *index, uint32_t *generation)
{
    bool found = false;
    for (uint32_t i = 0; i < table->capacity; i++) {
        uint64_t seen = atomic_load_explicit(&table->slots[i].word, memory_order_relaxed);
        if (theus_slot_state_of(seen) != THEUS_SLOT_FREE) {
            continue;
        }
        if (!found && try_claim(table, i, who, generation)) {
            THEUS_SHM_STEP("claimed by scan");
            *index = i;
            found = true;
        }
        else {
            give_hint(table, i); /* right, or cleared by the next one who looks */
        }
    }
    return found;
}

bool
theus_slot_claim(theus_slots *table, uint32_t who, uint32_t *index, uint32_t *generation)
{
    uint32_t kept = atomic_load_explicit(&table->kept, memory_order_relaxed);
    if (kept != 0) {
        atomic_store_explicit(&table->kept, 0, memory_order_relaxed);
        if (try_claim(table, kept - 1, who, generation)) {
            THEUS_SHM_STEP("claimed");
            *index = kept - 1;
            return true;
        }
    }
    uint32_t groups = table->capacity / GROUP;
    uint32_t start = atomic_load_explicit(&table->cursor, memory_order_relaxed);
    for (uint32_t i = 0; i < groups; i++) {
        uint32_t group = start + i < groups ? start + i : start + i - groups;
        if (claim_by_hint(table, group, who, index, generation)) {
            if (i > 0) {
                atomic_store_explicit(&table->cursor, group, memory_order_relaxed);
            }
            return true;
        }
    }
    return claim_by_scan(table, who, index, generation);
}

/* ---- from claimed to free ---------------------------------------------------------------- */

void
theus_slot_publish(theus_slots *table, uint32_t index)
{
    _Atomic(uint64_t) *word = &table->slots[index].word;
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    assert(theus_slot_state_of(seen) == THEUS_SLOT_CLAIMED);
    /* Releasing is enough: whoever sees LIVE sees the record, and whoever does not yet see it gets no lease. */
    atomic_store_explicit(word, theus_slot_word(theus_slot_generation_of(seen), THEUS_SLOT_LIVE, theus_slot_claimer_of(seen)),
                          memory_order_release);
    THEUS_SHM_STEP("published");
}

bool
theus_slot_retire(theus_slots *table, uint32_t index, uint32_t generation)
{
    _Atomic(uint64_t) *word = &table->slots[index].word;
    uint64_t seen = atomic_load(word);
    if (theus_slot_state_of(seen) != THEUS_SLOT_LIVE || theus_slot_generation_of(seen) != generation) {
        return false;
    }
    bool done = atomic_compare_exchange_strong(
        word, &seen, theus_slot_word(generation, THEUS_SLOT_RETIRED, theus_slot_claimer_of(seen)));
    THEUS_SHM_STEP("retired");
    return done;
}

bool
theus_slot_recycle(theus_slots *table, uint32_t index, uint32_t generation)
{
    theus_slot *slot = &table->slots[index];
    uint64_t seen = atomic_load(&slot->word);
    theus_slot_state state = theus_slot_state_of(seen);
    if (theus_slot_generation_of(seen) != generation || (state != THEUS_SLOT_CLAIMED && state != THEUS_SLOT_RETIRED)
        || atomic_load(&slot->leases) != 0) {
        return false;
    }
    bool worn = generation == UINT32_MAX;
    uint64_t after = theus_slot_word(generation, worn ? THEUS_SLOT_WORN : THEUS_SLOT_FREE, 0);
    if (!atomic_compare_exchange_strong(&slot->word, &seen, after)) {
        return false;
    }
    THEUS_SHM_STEP("recycled");
    if (!worn) {
        keep_or_hint(table, index);
    }
    return true;
}

/* ---- leases ---------------------------------------------------------------------------------- */

theus_lease
theus_slot_lease(theus_slots *table, uint32_t index, uint32_t generation, uint32_t who)
{
    if (index >= table->capacity || generation == 0) {
        return THEUS_LEASE_BAD;
    }
    theus_slot *slot = &table->slots[index];
    atomic_fetch_or(&slot->leases, (uint64_t)1 << who);
    THEUS_SHM_STEP("lease set");
    uint64_t seen = atomic_load(&slot->word);
    if (theus_slot_state_of(seen) == THEUS_SLOT_LIVE && theus_slot_generation_of(seen) == generation) {
        return THEUS_LEASED;
    }
    atomic_fetch_and(&slot->leases, ~((uint64_t)1 << who));
    return theus_slot_generation_of(seen) < generation ? THEUS_LEASE_BAD : THEUS_LEASE_STALE;
}

bool
theus_slot_unlease(theus_slots *table, uint32_t index, uint32_t who)
{
    theus_slot *slot = &table->slots[index];
    uint64_t mine = (uint64_t)1 << who;
    uint64_t left = atomic_fetch_and(&slot->leases, ~mine) & ~mine;
    THEUS_SHM_STEP("lease ended");
    return left == 0 && theus_slot_state_of(atomic_load(&slot->word)) == THEUS_SLOT_RETIRED;
}

/* ---- deaths -------------------------------------------------------------------------------------- */

uint32_t
theus_slots_reap(theus_slots *table, uint32_t who)
{
    uint32_t leases = 0;
    for (uint32_t i = 0; i < table->capacity; i++) {
        theus_slot *slot = &table->slots[i];
        if (atomic_load_explicit(&slot->leases, memory_order_relaxed) >> who & 1) {
            (void)theus_slot_unlease(table, i, who);
            leases++;
        }
        uint64_t seen = atomic_load(&slot->word);
        theus_slot_state state = theus_slot_state_of(seen);
        if (state == THEUS_SLOT_FREE || state == THEUS_SLOT_WORN || theus_slot_claimer_of(seen) != who) {
            continue;
        }
        uint32_t generation = theus_slot_generation_of(seen);
        (void)theus_slot_retire(table, i, generation);
        THEUS_SHM_STEP("reaping");
        (void)theus_slot_recycle(table, i, generation);
    }
    return leases;
}

uint32_t
theus_slots_taken(const theus_slots *table)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < table->capacity; i++) {
        uint64_t word = atomic_load_explicit(&table->slots[i].word, memory_order_relaxed);
        theus_slot_state state = theus_slot_state_of(word);
        taken += state != THEUS_SLOT_FREE && state != THEUS_SLOT_WORN;
    }
    return taken;
}
