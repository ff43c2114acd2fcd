/* The store of one engine: its current version, the bounded history behind it,
 * the ring of commit records, the counters.
 *
 *   store.current --> version 7 --> root map { "domain": ..., "global": ... }
 *   history:  7  6  5  4 ...        (newest first; count, bytes and age bound it)
 *   ring:     record of 7, 6, 5 ... (fixed number of slots; overwrites the oldest)
 *
 * Invariant: `current` changes only in theus_store_publish(), which the commit
 * calls; a version, once published, never changes. Whoever holds a count of a
 * version may read its root without any lock.
 *
 * store.lock (rank STORE) guards current, history and counters; ring.lock (rank
 * RING) the slots. Neither is held while anything is released. */
#ifndef THEUS_STORE_H
#define THEUS_STORE_H

#include "attach.h"
#include "container.h"
#include "turn.h"

typedef struct theus_store theus_store;

/* One step of a path: a key of a map or set, or (key == NULL) an index of a list. */
typedef struct {
    void *key; /* borrowed, unless the holder says otherwise */
    uint32_t index;
} theus_segment;

/* ---- commit records ---------------------------------------------------------- */

enum { THEUS_RECORD_PATHS = 8 };

/* What one commit did. Immutable, counted. */
struct theus_record {
    _Atomic(uint32_t) refs;
    bool rebased;      /* the version had moved, the footprint had not */
    uint64_t version;  /* the version it made */
    uint64_t sequence; /* how many were pushed into the ring before it */
    uint64_t time_ns;  /* wall clock, coarse; a second late, at most, in noticing that it was set */
    uint64_t thread;
    void *process;     /* atom naming the process, or NULL; kept by `cells` */
    uint32_t sets;
    uint32_t deletes;
    uint32_t reads;
    uint32_t path_count; /* paths kept: at most THEUS_RECORD_PATHS of sets + deletes */
    uint32_t segment_count;
    uint16_t depth[THEUS_RECORD_PATHS];
    theus_container *attached[THEUS_ATTACHMENTS]; /* counted, sealed; NULL: nothing of that kind. See attach.h */
    theus_record *next_queued; /* guarded by store.lock */
    theus_heap *heap;
    theus_atoms *cells; /* keeps every key below alive; the record stands in it, behind them */
    theus_segment segments[]; /* the paths, one after the other */
};

void theus_record_retain(theus_record *record);
void theus_record_release(theus_record *record); /* NULL allowed; may run foreign code */

/* ---- versions ------------------------------------------------------------------ */

typedef struct {
    _Atomic(uint32_t) refs;
    uint64_t number;
    uint64_t tick_ns;          /* monotonic, coarse: for history by age */
    theus_container *root;     /* sealed map: root name -> value */
    theus_container *signals;  /* sealed map: topic -> last payload */
    theus_record *record;      /* the commit that made it; NULL for a first version */
} theus_version;

/* Takes counts of its own of root, signals and record (record may be NULL). In the memory of the version that the
 * history of `store` has let go last, if store is not NULL and that is to be had. */
THEUS_MUST_CHECK theus_status theus_version_new(theus_store *store, uint64_t number, theus_container *root,
                                                theus_container *signals, theus_record *record,
                                                theus_version **out);
void theus_version_retain(theus_version *version);
void theus_version_release(theus_version *version); /* NULL allowed; may run foreign code */

/* Follows a path. FOUND with the value there (borrowed from the version), or ABSENT. */
THEUS_MUST_CHECK theus_find theus_path_find(theus_container *root, void *ctx, const theus_segment *path,
                                            uint32_t length, theus_value *value);

/* ---- the store ------------------------------------------------------------------- */

/* What becomes of a record for which the ring has no room: see ring.h. */
typedef enum { THEUS_RING_OVERWRITE, THEUS_RING_DROP_NEW, THEUS_RING_BLOCK, THEUS_RING_STRICT } theus_ring_mode;

typedef struct {
    theus_ring_mode ring_mode;
    uint32_t ring_capacity; /* slots, rounded up to a power of two; at least 1 */
    uint32_t history_count; /* versions kept, the current one included; at least 1 */
    uint64_t history_bytes; /* 0 = no limit */
    uint64_t history_age_ns; /* 0 = no limit */
} theus_store_limits;

/* `first` becomes the current version (the store takes its own count). */
THEUS_MUST_CHECK theus_status theus_store_new(theus_heap *heap, theus_version *first,
                                              const theus_store_limits *limits, theus_store **out);
void theus_store_free(theus_store *store); /* may run foreign code */

theus_heap *theus_store_heap(theus_store *store);
struct theus_ring *theus_store_ring(theus_store *store);
theus_turns *theus_store_turns(theus_store *store);

/* Is it this one, at this moment? Without the lock, so for a first guess. The caller holds a count of it. */
bool theus_store_is_current(theus_store *store, const theus_version *version);

/* The current version, retained. Never fails, never waits for more than a short region. */
theus_version *theus_store_pin(theus_store *store);

/* Version `number`, retained: OK, GONE (older than the history) or FUTURE. */
THEUS_MUST_CHECK theus_status theus_store_at(theus_store *store, uint64_t number, theus_version **out);

/* Changes the limits (those of the ring excepted) and prunes at once. NOMEM: nothing changed. */
THEUS_MUST_CHECK theus_status theus_store_limit_history(theus_store *store, const theus_store_limits *limits);

/* The newest version in (after, upto] whose value at `path` differs from the one before it,
 * retained, or NULL when the history does not tell. Walks the history: for people, not for hot paths. */
THEUS_MUST_CHECK theus_status theus_store_blame(theus_store *store, void *ctx, const theus_segment *path,
                                                uint32_t length, uint64_t after, uint64_t upto,
                                                theus_version **out);

/* ---- records: made before, published with a version ------------------------------------ */

/* A record with one count and room for `segments`, that keeps `atoms` alive; all else is 0. In the memory of the
 * one that the ring has let go last, if that is large enough. Until it is published it is its maker's alone. */
THEUS_MUST_CHECK theus_status theus_record_new(theus_store *store, void *const *atoms, uint32_t count,
                                               uint32_t segments, theus_record **out);

/* The oldest record whose messages nobody has taken yet, retained, or NULL. */
theus_record *theus_store_queued(theus_store *store);
/* The messages of all versions up to this one have been taken. May run foreign code. */
void theus_store_unqueue(theus_store *store, uint64_t upto);

/* ---- publishing: the one place where current changes ------------------------------- */

typedef enum { THEUS_SWAPPED, THEUS_SWAP_LOST } theus_swap;

/* Makes `next` current if `expected` still is, and no ticket has been granted since theus_turns_are_out() read `grants`
 * (turn.h says why). Numbers next and its record (expected + 1), dates the record, puts it into the ring (in its modes
 * block and strict: into the place that was reserved), into the queue if it has messages, and the version into the history. What falls out is released after
 * the locks. */
THEUS_MUST_CHECK theus_swap theus_store_publish(theus_store *store, theus_version *expected,
                                                theus_version *next, uint64_t grants);

/* ---- counters and records, for people ---------------------------------------------- */

#define THEUS_COUNTER_LIST(X) X(commits) X(rebases) X(conflicts) X(retries) X(noops) X(reads)

typedef struct {
#define THEUS_COUNTER_FIELD(name) _Atomic(uint64_t) name;
    THEUS_COUNTER_LIST(THEUS_COUNTER_FIELD)
#undef THEUS_COUNTER_FIELD
} theus_counters;

theus_counters *theus_store_counters(theus_store *store);

typedef struct {
    uint64_t version;
    uint64_t oldest;         /* oldest version still in the history */
    uint32_t history_count;
} theus_store_facts;

void theus_store_read_facts(theus_store *store, theus_store_facts *out);

/* The oldest record with sequence >= *sequence (the first commit has 0), retained, or NULL at
 * the end. *sequence is moved to the one after it; *lost grows by what was not kept in between. One slot per call,
 * so a reader holds ring.lock for the time of one retain. */
theus_record *theus_store_next_record(theus_store *store, uint64_t *sequence, uint64_t *lost);

#endif
