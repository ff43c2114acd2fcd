/* The table of loans in an arena: what has become of each, as all participants see it. Lock-free; for threads and processes alike.
 *
 *                offer               take                    end
 *     (over) g ────────▶ OFFERED g+1 ─────▶ TAKEN g+1 by n ────────▶ RETURNED g+1: n has finished
 *                            │ recall                          └───▶ BROKEN g+1: n gave up, or is dead
 *                            └─────▶ RECALLED g+1
 *
 * 1. Who does the compare-and-swap OFFERED -> TAKEN has the loan, and nobody else ever: a generation is offered once.
 * 2. A record changes only while its last loan is over, and before the next one is OFFERED. So a taker reads it first and takes
 *    afterwards: what he has read is what he gets, or he gets nothing. (He may read while the owner describes the next loan: then
 *    this one was recalled or taken, and his compare-and-swap fails. So the fields are atomic, and relaxed will do: a store of
 *    the next loan follows the end of this one, which cannot follow his taking it and precede his reading.)
 * 3. TAKEN ends through its taker, or after his death through whoever has seen his byte lock free after he read the word, or is behind his
 *    door (shm_arena.h). A reaper that dies is followed by another one; to break a loan twice is to break it once.
 * 4. Who has a lease of the block when he takes has a loan of the block that he looks at: the tenant stands in the record, and a
 *    slot is not recycled under a lease (shm_slots.h).
 *
 * A SIGKILL of a participant leaves OFFERED as it was or TAKEN, which theus_lendings_reap() breaks. One of the owner leaves an
 * arena that offers nothing more: its takers finish what they have, and nobody asks.
 *
 * Which ranges may be offered, who maps what, and what a hostile participant can do: shm_loans.h. */
#ifndef THEUS_SHM_LENDINGS_H
#define THEUS_SHM_LENDINGS_H

#include "port.h"
#include "shm_layout.h"

static inline uint64_t
theus_lending_word(uint32_t generation, theus_loan_state state, uint32_t taker)
{
    return (uint64_t)generation << 32 | (uint64_t)state << 24 | (uint64_t)taker << 16;
}

static inline theus_loan_state
theus_lending_state_of(uint64_t word)
{
    return (theus_loan_state)(word >> 24 & 0xff);
}

static inline uint32_t
theus_lending_generation_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline uint32_t
theus_lending_taker_of(uint64_t word)
{
    return (uint32_t)(word >> 16 & 0xff);
}

/* A range of a block: that of a tenant of a slot. */
typedef struct {
    uint64_t from, size;   /* bytes of the block */
    uint32_t slot, tenant; /* `tenant`: the generation of the slot */
} theus_range;

/* By the owner, in a record whose last loan is over: one of the next generation. */
void theus_lending_offer(theus_loan_record *record, const theus_range *range, uint32_t generation);

/* By the owner. False: it was taken. */
bool theus_lending_recall(theus_loan_record *record, uint32_t generation);

/* The range of a loan that is OFFERED. OVER: it is not any more; BAD_TOKEN: it never was. What stands there is to be checked: others
 * can write to the record. */
THEUS_MUST_CHECK theus_status theus_lending_read(const theus_loan_record *record, uint32_t generation, theus_range *range);

/* By participant `who`, after he has read it. False: another one was first, or it was recalled. */
THEUS_MUST_CHECK bool theus_lending_take(theus_loan_record *record, uint32_t generation, uint32_t who);

/* By its taker, who cannot write there any more. */
void theus_lending_end(theus_loan_record *record, uint32_t generation, uint32_t who, bool finished);

/* Breaks a loan that is TAKEN by somebody dead, as `seen`. Nothing happens if it has changed meanwhile. */
void theus_lending_break(theus_loan_record *record, uint64_t seen);

/* Breaks what the dead participant `who` had taken. By whoever is behind its door (shm_arena.h). */
void theus_lendings_reap(theus_loan_record *records, uint32_t count, uint32_t who);

/* A bit for each participant that has a loan. */
uint64_t theus_lendings_takers(const theus_loan_record *records, uint32_t count);

#endif
