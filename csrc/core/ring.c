/* Commit records and the ring that keeps the last of them. */
#include "ring.h"

#include <assert.h>
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
        theus_detach(record->attached);
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
    theus_detach(record->attached);
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
theus_ring_init(theus_ring *ring, uint32_t capacity, theus_ring_mode mode, bool serial)
{
    memset(ring, 0, sizeof(*ring));
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
    ring->mode = mode;
    ring->epoch = theus_process_epoch();
    atomic_init(&ring->spare, NULL);
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

/* ---- room --------------------------------------------------------------------------------------- */

static uint64_t
first_kept_locked(const theus_ring *ring)
{
    return ring->written > ring->capacity ? ring->written - ring->capacity : 0;
}

/* A forked child begins without readers and reservations. */
static void
check_process_locked(theus_ring *ring)
{
    uint64_t epoch = theus_process_epoch();
    if (ring->epoch != epoch) {
        ring->epoch = epoch;
        ring->readers = NULL;
        ring->reserved = 0;
    }
}

static void
move_tail_locked(theus_ring *ring)
{
    if (ring->readers == NULL) {
        return; /* what the last one had not read stays unread */
    }
    uint64_t least = ring->readers->position;
    for (const theus_reader *it = ring->readers->next; it != NULL; it = it->next) {
        least = it->position < least ? it->position : least;
    }
    ring->tail = least;
}

static bool
has_room_locked(theus_ring *ring)
{
    if (ring->written + ring->reserved - ring->tail >= ring->capacity) {
        move_tail_locked(ring); /* readers only move their own position */
    }
    return ring->written + ring->reserved - ring->tail < ring->capacity;
}

theus_status
theus_ring_reserve(theus_ring *ring)
{
    theus_status status = THEUS_OK;
    theus_mutex_lock(&ring->lock);
    check_process_locked(ring);
    if (ring->readers == NULL) {
        status = THEUS_UNREAD;
    }
    else if (!has_room_locked(ring)) {
        status = THEUS_FULL;
    }
    else {
        ring->reserved++;
    }
    theus_mutex_unlock(&ring->lock);
    return status;
}

void
theus_ring_unreserve(theus_ring *ring, uint64_t epoch)
{
    theus_mutex_lock(&ring->lock);
    check_process_locked(ring);
    if (ring->epoch == epoch) {
        assert(ring->reserved > 0);
        ring->reserved--;
    }
    theus_mutex_unlock(&ring->lock);
}

theus_record *
theus_ring_push(theus_ring *ring, theus_record *record)
{
    theus_record_retain_private(record);
    theus_mutex_lock(&ring->lock);
    record->sequence = ring->sequence++;
    theus_record *left = record;
    bool keep = true;
    if (ring->mode == THEUS_RING_DROP_NEW) {
        check_process_locked(ring);
        keep = has_room_locked(ring);
    }
    if (keep) {
        theus_record **slot = &ring->slots[ring->written & (ring->capacity - 1)];
        left = *slot;
        *slot = record;
        ring->written++;
    }
    if (ring->reserved > 0) { /* none: a commit in whose midst the process was forked */
        ring->reserved--;
    }
    theus_mutex_unlock(&ring->lock);
    return left;
}

/* ---- readers --------------------------------------------------------------------------------------- */

static theus_record *
record_at_locked(const theus_ring *ring, uint64_t position)
{
    return ring->slots[position & (ring->capacity - 1)];
}

/* The position of the first kept record with this number or a later one. */
static uint64_t
find_locked(const theus_ring *ring, uint64_t sequence)
{
    uint64_t low = first_kept_locked(ring), high = ring->written;
    if (ring->sequence == ring->written) { /* none was dropped: numbers are positions */
        return sequence < low ? low : sequence < high ? sequence : high;
    }
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (record_at_locked(ring, middle)->sequence < sequence) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    return low;
}

/* Reads at *position and moves on. *sequence is what was due, and then what is due next; *lost grows by what lies
 * between. */
static theus_record *
take_locked(const theus_ring *ring, uint64_t *position, uint64_t *sequence, uint64_t *lost)
{
    theus_record *record = NULL;
    uint64_t first = first_kept_locked(ring), due = ring->sequence;
    *position = *position < first ? first : *position;
    if (*position < ring->written) {
        record = record_at_locked(ring, *position);
        theus_record_retain(record);
        due = record->sequence;
        (*position)++;
    }
    if (*sequence < due) {
        *lost += due - *sequence;
        *sequence = due;
    }
    *sequence += record != NULL;
    return record;
}

void
theus_ring_attach(theus_ring *ring, theus_reader *reader, int64_t since)
{
    theus_mutex_lock(&ring->lock);
    check_process_locked(ring);
    uint64_t first = first_kept_locked(ring), ahead = ring->written + ring->reserved;
    if (ahead > ring->capacity && ahead - ring->capacity > first) {
        first = ahead - ring->capacity; /* what lies before will be overwritten by those who have reserved */
    }
    move_tail_locked(ring);
    uint64_t position = since >= 0                            ? find_locked(ring, (uint64_t)since)
                        : ring->mode == THEUS_RING_OVERWRITE ? first
                                                             : ring->tail;
    position = position < first ? first : position;
    uint64_t sequence = position < ring->written ? record_at_locked(ring, position)->sequence : ring->sequence;
    if (since >= 0 && (uint64_t)since < sequence) {
        sequence = (uint64_t)since; /* and what lies between is lost */
    }
    *reader = (theus_reader){ring->readers, position, sequence, 0, ring->epoch};
    if (ring->readers == NULL || position < ring->tail) {
        ring->tail = position;
    }
    ring->readers = reader;
    theus_mutex_unlock(&ring->lock);
}

void
theus_ring_detach(theus_ring *ring, theus_reader *reader)
{
    theus_mutex_lock(&ring->lock);
    check_process_locked(ring);
    theus_reader **link = &ring->readers;
    while (*link != NULL && *link != reader) {
        link = &(*link)->next;
    }
    if (*link != NULL) {
        move_tail_locked(ring);
        *link = reader->next;
    }
    theus_mutex_unlock(&ring->lock);
}

theus_record *
theus_ring_read(theus_ring *ring, theus_reader *reader, uint64_t *lost)
{
    theus_mutex_lock(&ring->lock);
    theus_record *record = take_locked(ring, &reader->position, &reader->sequence, &reader->lost);
    *lost = reader->lost;
    theus_mutex_unlock(&ring->lock);
    return record;
}

theus_record *
theus_ring_next(theus_ring *ring, uint64_t *sequence, uint64_t *lost)
{
    theus_mutex_lock(&ring->lock);
    uint64_t position = find_locked(ring, *sequence);
    theus_record *record = take_locked(ring, &position, sequence, lost);
    theus_mutex_unlock(&ring->lock);
    return record;
}

void
theus_ring_read_facts(theus_ring *ring, theus_ring_facts *out)
{
    theus_mutex_lock(&ring->lock);
    check_process_locked(ring);
    out->capacity = ring->capacity;
    out->written = ring->sequence;
    out->lost = ring->mode == THEUS_RING_OVERWRITE ? first_kept_locked(ring) : ring->sequence - ring->written;
    out->readers = 0;
    for (const theus_reader *it = ring->readers; it != NULL; it = it->next) {
        out->readers++;
    }
    theus_mutex_unlock(&ring->lock);
}
