/* Commit records and the ring that keeps the last of them. */
#include "ring.h"

#include <string.h>

void
theus_record_retain(theus_record *record)
{
    atomic_fetch_add_explicit(&record->refs, 1, memory_order_relaxed);
}

void
theus_record_release(theus_record *record)
{
    if (record != NULL
        && atomic_fetch_sub_explicit(&record->refs, 1, memory_order_acq_rel) == 1) {
        theus_atoms_free(record->heap, record->cells);
    }
}

/* A full ring loses a record with each commit, and each commit needs one: so in the steady state the memory goes
 * round, and neither the allocator nor the heap's lists (nor its lock) have a part in it. */
void
theus_ring_retire(theus_ring *ring, theus_record *record)
{
    if (record == NULL) {
        return;
    }
    /* If ours is the only count there is nobody to get another one from: no locked instruction then. */
    if (atomic_load_explicit(&record->refs, memory_order_acquire) != 1
        && atomic_fetch_sub_explicit(&record->refs, 1, memory_order_acq_rel) != 1) {
        return;
    }
    theus_atoms_drain(record->heap, record->cells);
    record = atomic_exchange_explicit(&ring->spare, record, memory_order_acq_rel);
    if (record != NULL) {
        theus_atoms_free(record->heap, record->cells);
    }
}

theus_record *
theus_ring_take_spare(theus_ring *ring)
{
    return atomic_exchange_explicit(&ring->spare, NULL, memory_order_acquire);
}

theus_status
theus_ring_init(theus_ring *ring, uint32_t capacity, bool serial)
{
    ring->slots = theus_alloc(capacity * sizeof(*ring->slots));
    if (ring->slots == NULL) {
        return THEUS_NOMEM;
    }
    if (theus_mutex_init(&ring->lock, THEUS_RANK_RING, serial) != THEUS_OK) {
        theus_free(ring->slots);
        return THEUS_NOMEM;
    }
    memset(ring->slots, 0, capacity * sizeof(*ring->slots));
    ring->capacity = capacity;
    atomic_init(&ring->spare, NULL);
    ring->written = 0;
    return THEUS_OK;
}

void
theus_ring_fini(theus_ring *ring)
{
    for (uint32_t i = 0; i < ring->capacity; i++) {
        theus_record_release(ring->slots[i]);
    }
    theus_record *spare = theus_ring_take_spare(ring);
    if (spare != NULL) {
        theus_atoms_free(spare->heap, spare->cells);
    }
    theus_free(ring->slots);
    theus_mutex_fini(&ring->lock);
}

theus_record *
theus_ring_push(theus_ring *ring, theus_record *record)
{
    theus_record_retain_private(record);
    theus_mutex_lock(&ring->lock);
    theus_record **slot = &ring->slots[ring->written & (ring->capacity - 1)];
    theus_record *overwritten = *slot;
    *slot = record;
    ring->written++;
    theus_mutex_unlock(&ring->lock);
    return overwritten;
}

static uint64_t
first_kept(const theus_ring *ring)
{
    return ring->written > ring->capacity ? ring->written - ring->capacity : 0;
}

theus_record *
theus_ring_next(theus_ring *ring, uint64_t *sequence, uint64_t *lost)
{
    theus_record *record = NULL;
    theus_mutex_lock(&ring->lock);
    uint64_t first = first_kept(ring);
    if (*sequence < first) {
        *lost += first - *sequence;
        *sequence = first;
    }
    if (*sequence < ring->written) {
        record = ring->slots[*sequence & (ring->capacity - 1)];
        theus_record_retain(record);
        (*sequence)++;
    }
    theus_mutex_unlock(&ring->lock);
    return record;
}

void
theus_ring_read_facts(theus_ring *ring, uint32_t *capacity, uint64_t *written, uint64_t *lost)
{
    theus_mutex_lock(&ring->lock);
    *capacity = ring->capacity;
    *written = ring->written;
    *lost = first_kept(ring);
    theus_mutex_unlock(&ring->lock);
}
