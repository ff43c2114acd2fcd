/* The audit ring: the last N commit records of one engine.
 *
 * One producer at a time (theus_store_publish, under store.lock), any number of readers with cursors of
 * their own. Mode overwrite: the oldest record goes, and the loss is exact, since sequence numbers have no gaps:
 * a reader at `sequence` who finds the oldest kept one at `first` has lost first - sequence. A slot is a counted
 * pointer; a reader holds ring.lock for one retain, a writer for one swap. */
#ifndef THEUS_RING_H
#define THEUS_RING_H

#include "store.h"

typedef struct {
    theus_mutex lock; /* rank RING */
    uint32_t capacity; /* power of two; constant */
    _Atomic(theus_record *) spare; /* overwritten, empty, nobody's: memory for the next one; or NULL */
    /* guarded by lock: */
    uint64_t written;  /* sequence of the next record */
    theus_record **slots;
} theus_ring;

/* For a record that nobody else has seen yet: no locked instruction. */
static inline void
theus_record_retain_private(theus_record *record)
{
    uint32_t refs = atomic_load_explicit(&record->refs, memory_order_relaxed);
    atomic_store_explicit(&record->refs, refs + 1, memory_order_relaxed);
}

THEUS_MUST_CHECK theus_status theus_ring_init(theus_ring *ring, uint32_t capacity, bool serial);
void theus_ring_fini(theus_ring *ring); /* may run foreign code */

/* Gives up a count of a record that was overwritten; the last one makes it the spare. May run foreign code. */
void theus_ring_retire(theus_ring *ring, theus_record *record); /* NULL is allowed */
theus_record *theus_ring_take_spare(theus_ring *ring);          /* or NULL; the caller owns its cells */

/* Takes a count of record, which nobody else has seen yet. Returns the record that was overwritten, for the caller to release after
 * its locks, or NULL. */
theus_record *theus_ring_push(theus_ring *ring, theus_record *record);
theus_record *theus_ring_next(theus_ring *ring, uint64_t *sequence, uint64_t *lost);
void theus_ring_read_facts(theus_ring *ring, uint32_t *capacity, uint64_t *written, uint64_t *lost);

#endif
