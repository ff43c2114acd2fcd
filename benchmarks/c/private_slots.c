/* The slot table as one thread alone would have it: the same source, in which every atomic word is an ordinary one and every
 * atomic step two ordinary ones. What the real one takes longer is what it costs one thread that others may share its slots. */
#include <stdatomic.h> /* the real one, before its names are ours */

#undef atomic_compare_exchange_strong
#undef atomic_fetch_and
#undef atomic_fetch_or
#undef atomic_init
#undef atomic_load
#undef atomic_load_explicit
#undef atomic_store_explicit
#define _Atomic(type) type
#define atomic_init(at, value) ((void)(*(at) = (value)))
#define atomic_load(at) (*(at))
#define atomic_load_explicit(at, order) (*(at))
#define atomic_store_explicit(at, value, order) ((void)(*(at) = (value)))
#define atomic_fetch_or(at, bits) (*(at) |= (bits))
#define atomic_fetch_and(at, bits) before_and((at), (bits))
#define atomic_compare_exchange_strong(at, seen, value) (*(at) == *(seen) ? (*(at) = (value), true) : (*(seen) = *(at), false))

#define theus_slots_open private_slots_open
#define theus_slots_init private_slots_init
#define theus_slot_claim private_slot_claim
#define theus_slot_publish private_slot_publish
#define theus_slot_retire private_slot_retire
#define theus_slot_recycle private_slot_recycle
#define theus_slot_lease private_slot_lease
#define theus_slot_unlease private_slot_unlease
#define theus_slots_reap private_slots_reap
#define theus_slots_taken private_slots_taken

#include <stdint.h>

static inline uint64_t
before_and(uint64_t *at, uint64_t bits)
{
    uint64_t before = *at;
    *at = before & bits;
    return before;
}

#include "shm_slots.c"
