/* See shm_lendings.h. */
#include "shm_lendings.h"

#include "shm_slots.h"

/* One step of a loan. False: another one was made meanwhile. */
static bool
step(theus_loan_record *record, uint64_t from, theus_loan_state state, uint32_t taker)
{
    return atomic_compare_exchange_strong(&record->word, &from,
                                          theus_lending_word(theus_lending_generation_of(from), state, taker));
}

void
theus_lending_offer(theus_loan_record *record, const theus_range *range, uint32_t generation)
{
    atomic_store_explicit(&record->from, range->from, memory_order_relaxed);
    atomic_store_explicit(&record->size, range->size, memory_order_relaxed);
    atomic_store_explicit(&record->slot, range->slot, memory_order_relaxed);
    atomic_store_explicit(&record->tenant, range->tenant, memory_order_relaxed);
    THEUS_SHM_STEP("loan described");
    atomic_store(&record->word, theus_lending_word(generation, THEUS_LOAN_OFFERED, 0));
    THEUS_SHM_STEP("loan offered");
}

bool
theus_lending_recall(theus_loan_record *record, uint32_t generation)
{
    return step(record, theus_lending_word(generation, THEUS_LOAN_OFFERED, 0), THEUS_LOAN_RECALLED, 0);
}

theus_status
theus_lending_read(const theus_loan_record *record, uint32_t generation, theus_range *range)
{
    uint64_t word = atomic_load(&record->word);
    if (generation == 0) {
        return THEUS_BAD_TOKEN;
    }
    if (word != theus_lending_word(generation, THEUS_LOAN_OFFERED, 0)) {
        return theus_lending_generation_of(word) < generation ? THEUS_BAD_TOKEN : THEUS_OVER;
    }
    *range = (theus_range){
        .from = atomic_load_explicit(&record->from, memory_order_relaxed),
        .size = atomic_load_explicit(&record->size, memory_order_relaxed),
        .slot = atomic_load_explicit(&record->slot, memory_order_relaxed),
        .tenant = atomic_load_explicit(&record->tenant, memory_order_relaxed),
    };
    THEUS_SHM_STEP("loan read");
    return THEUS_OK;
}

bool
theus_lending_take(theus_loan_record *record, uint32_t generation, uint32_t who)
{
    bool taken = step(record, theus_lending_word(generation, THEUS_LOAN_OFFERED, 0), THEUS_LOAN_TAKEN, who);
    if (taken) {
        THEUS_SHM_STEP("loan taken");
    }
    return taken;
}

void
theus_lending_end(theus_loan_record *record, uint32_t generation, uint32_t who, bool finished)
{
    uint64_t taken = theus_lending_word(generation, THEUS_LOAN_TAKEN, who);
    (void)step(record, taken, finished ? THEUS_LOAN_RETURNED : THEUS_LOAN_BROKEN, 0);
    THEUS_SHM_STEP("loan ended");
}

void
theus_lending_break(theus_loan_record *record, uint64_t seen)
{
    (void)step(record, seen, THEUS_LOAN_BROKEN, 0);
    THEUS_SHM_STEP("loan broken");
}

void
theus_lendings_reap(theus_loan_record *records, uint32_t count, uint32_t who)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t seen = atomic_load(&records[i].word);
        if (theus_lending_state_of(seen) == THEUS_LOAN_TAKEN && theus_lending_taker_of(seen) == who) {
            theus_lending_break(&records[i], seen);
        }
    }
}

uint64_t
theus_lendings_takers(const theus_loan_record *records, uint32_t count)
{
    uint64_t takers = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t seen = atomic_load(&records[i].word);
        if (theus_lending_state_of(seen) == THEUS_LOAN_TAKEN && theus_lending_taker_of(seen) < THEUS_PARTICIPANTS) {
            takers |= (uint64_t)1 << theus_lending_taker_of(seen);
        }
    }
    return takers;
}
