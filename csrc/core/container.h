/* Persistent containers: ordered map, list, ordered set.
 *
 *   container (header, counted)
 *     |-- entries: a radix trie of positions 0, 1, 2 ... (vector.c)
 *     |       leaf slots hold values, and for maps the keys beside them;
 *     |       a deleted entry leaves a hole until the next compaction
 *     `-- index: hash -> position (index.c); lists have none
 *
 * Insertion order is the order of positions. Storing under an existing key copies
 * one path of the entry trie and leaves the index alone; only a new key or a
 * deletion touches the index. (Measured against one trie of boxes with sequence
 * numbers: see the essay in vector.c.)
 *
 * A container is either *sealed* (immutable for ever, shareable between threads)
 * or an *edit*: a private copy with one writer, whose changed nodes are its own.
 * theus_edit_begin() makes an edit in O(1), theus_edit_seal() ends it in O(1).
 *
 * Positions are stable while an edit lasts: nothing compacts before the seal. So
 * a position found in the sealed base names the same entry in the edit.
 *
 * Threads: sealed containers may be read by any thread that holds a count. An
 * edit is used by one thread at a time. Counts are atomic. All functions that
 * change structure take heap.lock for themselves and release what fell out after
 * unlocking; so any function here that stores, removes or releases may run
 * foreign code as its last act, never in the middle.
 *
 * Ownership: functions that store a value or a key take their own reference to an
 * atom, and their own count of a container. Values and keys that come back are
 * borrowed from the container. */
#ifndef THEUS_CONTAINER_H
#define THEUS_CONTAINER_H

#include "heap.h"

typedef struct theus_container theus_container;

/* All fields but refs and place are constant once sealed. Read them; only the files of the
 * containers write them. */
struct theus_container {
    _Atomic(uint32_t) refs;
    uint8_t kind;   /* theus_kind, not THEUS_ATOM */
    uint8_t shift;  /* bits above the leaf in the entry trie */
    uint8_t mark;   /* the embedder's, see theus_container_mark() */
    uint32_t count; /* live entries: len() */
    uint32_t span;  /* positions in use; holes included; next append goes here */
    uint64_t edit;  /* token of the edit that may write; 0 = sealed */
    union {
        /* Changes with every insertion and deletion (even one that failed), and only then;
         * equal shapes of one heap mean equal keys at equal positions. */
        uint64_t shape;
        struct theus_container *next; /* once refs is 0: link of a list of dead headers */
    };
    struct theus_node *entries; /* NULL while nothing was ever stored */
    void *index;                /* the same; NULL for lists */
    theus_heap *heap;
    uint32_t place; /* in the heap's roster of containers; guarded by its lock */
    /* The same in every later state of one container: drawn by theus_container_new(), handed on
     * by theus_edit_begin(). Tells an edited container from one that took its place. */
    uint32_t line;
    /* From gap_start to below gap_end there are only holes: the longest such run that is known.
     * Cursors leap over it, so popping entries at one end costs the same all the way. */
    uint32_t gap_start;
    uint32_t gap_end;
};

static inline theus_value
theus_value_of_container(theus_container *container)
{
    return (theus_value)container | container->kind;
}

/* ---- counts -------------------------------------------------------------- */

void theus_container_retain(theus_container *container);
void theus_container_release(theus_container *container); /* NULL is allowed */

/* Retain or release a value of either sort; THEUS_NONE is allowed. */
void theus_value_retain(theus_heap *heap, theus_value value);
void theus_value_release(theus_heap *heap, theus_value value);

/* ---- making and editing --------------------------------------------------- */

/* An empty container, already an edit. */
THEUS_MUST_CHECK theus_status theus_container_new(theus_heap *heap, theus_kind kind,
                                                  theus_container **out);

/* A private writable copy of `base` (sealed) in O(1). */
THEUS_MUST_CHECK theus_status theus_edit_begin(theus_container *base, theus_container **out);

/* Bits with which the embedder tells containers of one kind apart: 0 in a new one, handed on by every edit. The core
 * knows one of them: what is written in such a container is shown to theus_txn.admit before it is committed. */
enum { THEUS_MARK_ADMIT = 1 };
void theus_container_mark(theus_container *edit, uint8_t mark);

/* Ends the edit: from now on the container is immutable and may be shared. Compacts first
 * when more than half of its positions are holes; that may fail, and then nothing
 * has changed and the container is still an edit. Sealing a sealed one does nothing. */
THEUS_MUST_CHECK theus_status theus_edit_seal(theus_container *edit);

/* ---- reading ---------------------------------------------------------------- */

typedef enum {
    THEUS_ABSENT = 0,
    THEUS_FOUND = 1,
    THEUS_FIND_FAILED = -1, /* equal() failed */
} theus_find;

/* Where `key` with this (full, embedder's) hash stands in a map or set. Same rules as dict:
 * identity first, then equal(), asked only for entries whose mixed hash is the same. If an edit
 * changes while equal() runs, the search starts again, as dict's does. On FOUND,
 * *pos is its position and *value (if not NULL; for a set: the element) the value there. */
THEUS_MUST_CHECK theus_find theus_container_find(const theus_container *container, void *ctx,
                                                 uint64_t hash, void *key, uint32_t *pos,
                                                 theus_value *value);

/* The value at a position below span; THEUS_NONE for a hole. For sets: the element. */
theus_value theus_container_value_at(const theus_container *container, uint32_t pos);
/* The key at a position; NULL for a hole. Maps and sets. */
void *theus_container_key_at(const theus_container *container, uint32_t pos);
/* Both; *key is NULL for a list. */
theus_value theus_container_entry_at(const theus_container *container, uint32_t pos, void **key);

/* Walks live entries in order, forwards or backwards. Init at `pos` 0 or span. The
 * cursor borrows the container; if that is an edit, no change may happen between two steps. */
typedef struct {
    const theus_container *container;
    uint32_t pos;     /* next position to look at (forwards), one past it (backwards) */
    const void *leaf; /* cache: leaf that holds leaf_base .. leaf_base + width */
    uint32_t leaf_base;
} theus_cursor;

void theus_cursor_init(theus_cursor *cursor, const theus_container *container, bool from_end);
/* false at the end. key is NULL for lists. Any out pointer may be NULL. */
bool theus_cursor_next(theus_cursor *cursor, uint32_t *pos, void **key, theus_value *value);
bool theus_cursor_prev(theus_cursor *cursor, uint32_t *pos, void **key, theus_value *value);

/* The position of the index-th live entry: index itself when there are no holes
 * (always so for lists). O(span) otherwise. index < count. */
uint32_t theus_container_nth(const theus_container *container, uint32_t index);

/* ---- writing: `edit` must be an edit, and the writer its only user -------- */

/* Replaces the value at a live position of a map or list. Storing the same value word
 * again changes nothing. The key object that is there stays, as in dict. */
THEUS_MUST_CHECK theus_status theus_container_put(theus_container *edit, uint32_t pos,
                                                  theus_value value);

/* A sealed copy of `base` (sealed) with another value at a live position of a map or list: what
 * theus_edit_begin(), theus_container_put() and theus_edit_seal() do, at half the price. Runs nothing
 * foreign: all that it leaves out stands in `base` still. */
THEUS_MUST_CHECK theus_status theus_container_with(theus_container *base, uint32_t pos,
                                                   theus_value value, theus_container **out);

/* The same, and it stays an edit. */
THEUS_MUST_CHECK theus_status theus_edit_begin_with(theus_container *base, uint32_t pos,
                                                    theus_value value, theus_container **out);

/* Appends an entry whose key the caller has just looked up and not found. For a map: key
 * and value; for a set: value is ignored (pass THEUS_NONE). *pos (may be NULL): its position. */
THEUS_MUST_CHECK theus_status theus_container_insert(theus_container *edit, uint64_t hash,
                                                     void *key, theus_value value, uint32_t *pos);

/* Removes the entry at a live position of a map or set (leaves a hole). `hash` is that
 * of its key. */
THEUS_MUST_CHECK theus_status theus_container_remove(theus_container *edit, uint64_t hash,
                                                     uint32_t pos);

/* Lists: replaces `drop` values from position `start` on by `count` new ones. Append at the end
 * and truncation at the end cost O(log n) per value; anything else O(n). */
THEUS_MUST_CHECK theus_status theus_list_splice(theus_container *edit, uint32_t start,
                                                uint32_t drop, const theus_value *values,
                                                uint32_t count);

/* Lists: the value that was at order[i] goes to i. `order` is a permutation of 0 .. count-1. */
THEUS_MUST_CHECK theus_status theus_list_permute(theus_container *edit, const uint32_t *order);

/* Drops all entries of a map, list or set; positions begin at 0 again. Never fails. */
THEUS_MUST_CHECK theus_status theus_container_clear(theus_container *edit);

/* ---- comparing two versions: O(changes) where they share structure --------- */

typedef enum {
    THEUS_ADDED,         /* only in b */
    THEUS_REMOVED,       /* only in a */
    THEUS_CHANGED_VALUE, /* in both, with different value words */
} theus_change_kind;

/* pos_a / pos_b: positions in a and b, where the entry is there. Return 0 to go on, 1 to stop
 * early, -1 on failure. Nested containers are not descended into: the callback does. */
typedef int (*theus_change_fn)(void *arg, theus_change_kind kind, void *key, uint32_t pos_a,
                               theus_value a, uint32_t pos_b, theus_value b);

/* Entries in which two containers of the same kind differ by value word (no equality of values is
 * asked; only of keys, for maps and sets whose positions differ). Lists: by position. Order of the
 * report: changed and removed by position in a, then added by position in b. The two may belong to
 * different heaps; then it costs O(n). Sealed containers, or edits that no callback changes.
 * Result: 0, 1 (stopped), or -1 with *status set to FOREIGN. Allocates nothing. */
THEUS_MUST_CHECK int theus_container_diff(const theus_container *a, const theus_container *b,
                                          void *ctx, theus_change_fn report, void *arg,
                                          theus_status *status);

/* One position; NULL and THEUS_NONE where nothing stands. Of lists the keys mean nothing. Return 0 to go on. */
typedef int (*theus_place_fn)(void *arg, uint32_t pos, void *key_a, theus_value a, void *key_b, theus_value b);

/* The positions, in rising order, at which two sealed containers of one kind and one heap do not hold the same words. Unlike
 * a difference it tells of keys that have moved, and of compaction as if all had. Returns what `place` returned at last; asks
 * nothing of keys or values. */
THEUS_MUST_CHECK int theus_container_places(const theus_container *a, const theus_container *b, theus_place_fn place,
                                            void *arg);

#ifdef THEUS_TESTING
/* Checks every invariant of the structure; returns NULL or what is broken. */
const char *theus_container_check(const theus_container *container, void *ctx);
const char *theus_heap_check(theus_heap *heap);
#endif

#endif
