/* The audit ring: the last commit records of one engine, and those who read them.
 *
 *      tail            written
 *       |  unread         |  reserved  |
 *     --+--+--+--+--+--+--+--+--+--+--+--      position p stands in slot p modulo capacity
 *          ^ reader    ^ reader
 *
 * One producer at a time (theus_store_publish, under store.lock), any number of readers. The mode says what
 * becomes of a record for which there is no room, that is when `capacity` positions are unread or reserved:
 *
 *     overwrite   the oldest goes. Readers hold nobody up, so nobody is asked: a push looks at no reader
 *     drop_new    the new one is not kept
 *     block       the commit is refused before it takes its lock, with FULL; whoever embeds us waits for room and
 *                 tries again, for as long as he likes
 *     strict      the same, and he does not wait
 *
 * Loss is exact. Every record pushed gets the next `sequence`, kept or not, so a reader that finds n + k where
 * n was due has lost k. Positions count what was kept.
 *
 * block and strict keep what some reader has not read yet, so they refuse commits without an attached reader (UNREAD).
 * A commit reserves its position before it begins, and from then on nothing can take it away: reserve counts, push and
 * unreserve give back, and a reader that attaches begins where no reserved position can overtake it. So in
 * those modes: written + reserved - capacity <= tail <= the position of every reader, and no reader loses anything.
 *
 * A reader acknowledges by reading on. Whoever lets one go detaches it; in a forked child all readers and
 * reservations are gone, since the threads that had them are. A slot is a counted pointer; a reader holds ring.lock for one
 * retain, a writer for one swap. */
#ifndef THEUS_RING_H
#define THEUS_RING_H

#include "store.h"

/* A place in the ring, in the reader's own memory. Guarded by ring.lock while it is attached. */
typedef struct theus_reader {
    struct theus_reader *next; /* in ring->readers */
    uint64_t position;         /* of the record it reads next */
    uint64_t sequence;         /* the number that is due there if nothing was lost */
    uint64_t lost;
    uint64_t epoch;            /* theus_process_epoch() when it attached */
} theus_reader;

typedef struct theus_ring {
    theus_mutex lock; /* rank RING */
    uint32_t capacity; /* power of two; constant */
    theus_ring_mode mode; /* constant */
    _Atomic(theus_record *) spare; /* overwritten, empty, nobody's: memory for the next one; or NULL */
    /* guarded by lock: */
    uint64_t written;  /* position of the next record */
    uint64_t sequence; /* number of the next record; sequence - written were not kept */
    uint64_t tail;     /* nobody needs what lies before; may lag behind the readers. Not in mode overwrite */
    uint32_t reserved;
    uint64_t epoch;    /* of the process that readers and reservations belong to */
    theus_reader *readers;
    theus_record **slots;
} theus_ring;

/* For a record that nobody else has seen yet: no locked instruction. */
static inline void
theus_record_retain_private(theus_record *record)
{
    uint32_t refs = atomic_load_explicit(&record->refs, memory_order_relaxed);
    atomic_store_explicit(&record->refs, refs + 1, memory_order_relaxed);
}

THEUS_MUST_CHECK theus_status theus_ring_init(theus_ring *ring, uint32_t capacity, theus_ring_mode mode, bool serial);
void theus_ring_fini(theus_ring *ring); /* no reader may be attached; may run foreign code */

/* Gives up a count of a record that was overwritten; the last one makes it the spare. May run foreign code. */
void theus_ring_retire(theus_ring *ring, theus_record *record); /* NULL is allowed */
theus_record *theus_ring_take_spare(theus_ring *ring);          /* or NULL; the caller owns its cells */

/* ---- writing ---------------------------------------------------------------------------- */

/* Must a commit reserve its place? */
static inline bool
theus_ring_reserves(const theus_ring *ring)
{
    return ring->mode >= THEUS_RING_BLOCK;
}

/* OK: there will be room for one push, until it happens or is given back. FULL; or UNREAD: nobody reads. Does not wait. */
THEUS_MUST_CHECK theus_status theus_ring_reserve(theus_ring *ring);
/* `epoch`: theus_process_epoch() when it was reserved. */
void theus_ring_unreserve(theus_ring *ring, uint64_t epoch);

/* Takes a count of record, which nobody else has seen yet; where theus_ring_reserves(), it is for a reserved place. Returns
 * what has no place in the ring, for the caller to retire after his locks: the record that was overwritten, or `record`
 * itself, or NULL. */
theus_record *theus_ring_push(theus_ring *ring, theus_record *record);

/* ---- reading ------------------------------------------------------------------------------ */

/* The reader begins with record number `since`, or with the next one if there is none yet; or with the oldest that no
 * reader has read (overwrite: that is kept), and then has lost none. */
enum { THEUS_RING_UNREAD = -1 };
void theus_ring_attach(theus_ring *ring, theus_reader *reader, int64_t since);
void theus_ring_detach(theus_ring *ring, theus_reader *reader); /* does nothing if it is not attached here */

/* Its next record, retained, or NULL when it has read all. *lost: how many it has lost until here, in all; exact. */
theus_record *theus_ring_read(theus_ring *ring, theus_reader *reader, uint64_t *lost);

/* The same for people who only look, and hold nobody up: see theus_store_next_record(). */
theus_record *theus_ring_next(theus_ring *ring, uint64_t *sequence, uint64_t *lost);

typedef struct {
    uint32_t capacity;
    uint32_t readers;
    uint64_t written; /* records pushed */
    uint64_t lost;    /* of these, overwritten (overwrite) or not kept (drop_new) */
} theus_ring_facts;

void theus_ring_read_facts(theus_ring *ring, theus_ring_facts *out);

#endif
