/* The slot table of an arena: who has which slot, and who looks at it. Lock-free; for threads and processes alike.
 *
 *                      claim                publish              retire
 *          FREE g  ───────────▶ CLAIMED g+1 ───────▶ LIVE g+1 ───────▶ RETIRED g+1
 *            ▲      one CAS          │       claimer          claimer       │
 *            └───────────────────────┴──────────────────────────────────────┘
 *                        recycle, once nobody leases it: one CAS (to WORN when g is the last)
 *
 * 1. A slot belongs to whoever did the compare-and-swap FREE -> CLAIMED on its word, and to nobody else. The hints (a bit
 *    per slot: probably free) only say where to look. A wrong hint costs time, never a slot: a bit that is set for a taken
 *    slot is cleared by who stumbles over it, one that is missing is found by the scan that comes before "there is none".
 *    So a process may keep the slot that it recycled last for itself, without a hint (`kept`): two atomic instructions are saved
 *    where one slot is taken and given back again and again.
 * 2. A generation is given once per slot. So whatever names (slot, generation) names one tenant for ever, and is stale for ever
 *    after it; a slot whose generations are used up is not given again.
 * 3. A lease is a bit per participant: idempotent, so that a dead participant's leases end with one `and`, however often it is
 *    done. How many users a participant has itself is its own affair (shm_arena.h).
 * 4. Whoever leases sets its bit and looks at the word afterwards; whoever recycles has retired the word and looks at the bits
 *    afterwards. Both are sequentially consistent, so one of them sees the other: no slot is recycled under a lease that holds.
 *
 * A SIGKILL between two steps leaves
 *    hint taken, word not yet swapped    a free slot without a hint      the scan finds it
 *    CLAIMED, not published              a slot that nobody can name     theus_slots_reap() recycles it
 *    LIVE or RETIRED                     its tenant                      theus_slots_reap() retires it; free after its last lease
 *    recycled, hint not given, or kept   a free slot without a hint      the scan finds it
 *    lease bit set                       a lease                         theus_slots_reap() clears it
 * Only one may reap a participant at a time, and only a dead one: the arena sees to that with the participant's door. A reaper
 * that dies is followed by another one; each step may be done twice.
 *
 * Nobody waits here, and there is nothing to back off from: a step that fails has failed because another one's succeeded, and
 * the next look is at another bit.
 *
 * There is no list that a death or a recycled head could break (a tagged stack of free slots is the usual design: after a
 * death its repair needs intents, an order of looking, and still leaves duplicates). A bit is right or wrong, and setting it twice is
 * setting it. */
#ifndef THEUS_SHM_SLOTS_H
#define THEUS_SHM_SLOTS_H

#include "port.h"
#include "shm_layout.h"

typedef struct {
    theus_slot *slots;
    _Atomic(uint64_t) *hints;
    uint32_t capacity;
    _Atomic(uint32_t) cursor; /* of this process: the group of 64 where a hint was found last */
    _Atomic(uint32_t) kept;   /* of this process: 1 + a slot that is free and has no hint, probably; 0: none */
} theus_slots;

/* A table over memory that is laid out as shm_layout.h says. init: it is new, all zeroes; every slot is free. */
void theus_slots_open(theus_slots *table, void *control, uint32_t capacity);
void theus_slots_init(theus_slots *table);

static inline theus_slot_state
theus_slot_state_of(uint64_t word)
{
    return (theus_slot_state)(word >> 24 & 0xff);
}

static inline uint32_t
theus_slot_generation_of(uint64_t word)
{
    return (uint32_t)(word >> 32);
}

static inline uint32_t
theus_slot_claimer_of(uint64_t word)
{
    return (uint32_t)(word >> 16 & 0xff);
}

static inline uint64_t
theus_slot_word(uint32_t generation, theus_slot_state state, uint32_t claimer)
{
    return (uint64_t)generation << 32 | (uint64_t)state << 24 | (uint64_t)claimer << 16;
}

/* A free slot, now CLAIMED by participant `who`, who fills in the record and publishes it or recycles it. False: all are
 * taken. */
THEUS_MUST_CHECK bool theus_slot_claim(theus_slots *table, uint32_t who, uint32_t *index, uint32_t *generation);

/* By the claimer. Everything written to the record before is seen by whoever leases the slot. */
void theus_slot_publish(theus_slots *table, uint32_t index);

/* By the claimer, or for it when it is dead. False: it was not LIVE in that generation. */
bool theus_slot_retire(theus_slots *table, uint32_t index, uint32_t generation);

/* Gives the slot back, if it is CLAIMED or RETIRED in that generation and without leases. True for exactly one caller. */
bool theus_slot_recycle(theus_slots *table, uint32_t index, uint32_t generation);

typedef enum {
    THEUS_LEASED,
    THEUS_LEASE_STALE, /* there was such a tenant, or will be; there is none now */
    THEUS_LEASE_BAD,   /* no slot has such a number, or no tenant such a generation */
} theus_lease;

/* Sets the lease of participant `who`, if the slot is LIVE in that generation. Not for a slot that `who` leases already, and a
 * participant asks for one lease at a time: a refusal takes the bit back. */
THEUS_MUST_CHECK theus_lease theus_slot_lease(theus_slots *table, uint32_t index, uint32_t generation, uint32_t who);

/* True: the slot is retired and that was the last lease, so it may be recycled. (Whoever retired it looks again later, for the
 * case that nobody lives to be told.) */
bool theus_slot_unlease(theus_slots *table, uint32_t index, uint32_t who);

static inline bool
theus_slot_is_leased(const theus_slots *table, uint32_t index)
{
    return atomic_load(&table->slots[index].leases) != 0;
}

/* Ends everything that the dead participant `who` had: its leases, its claims. Its LIVE slots are retired. How many leases. */
uint32_t theus_slots_reap(theus_slots *table, uint32_t who);

/* Slots that are not FREE, as they are counted one after the other. */
uint32_t theus_slots_taken(const theus_slots *table);

#ifdef THEUS_TESTING
/* Called wherever a death leaves something half done, here and in the files above, with the name of the place: a test may kill
 * the process there. */
extern void (*theus_shm_at_step)(const char *step);
#define THEUS_SHM_STEP(name) (theus_shm_at_step != NULL ? theus_shm_at_step(name) : (void)0)
#else
#define THEUS_SHM_STEP(name) ((void)0)
#endif

#endif
