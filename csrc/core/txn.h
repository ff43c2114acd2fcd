/* Transactions: a private, mutable picture of one version.
 *
 * A transaction pins a version. Each container that its body touches gets a *cell*:
 *
 *     txn --> root cell --> cell of "domain" --> cell of "accounts"
 *             base: what the pinned version holds there (sealed)
 *             now:  what the body sees: base itself until the first write, then an edit
 *
 * Reads and writes are logged in the cell they happen in, by position in base:
 *     values   positions whose value was read
 *     absent   keys that were looked for and not there
 *     shape    len(), iteration, a negative index: the key set or the length
 *     all      to_dict(), ==, repr, sort: everything below
 *     writes   positions that were set, inserted or removed
 * Fetching a nested container logs only that one of its kind is there: that is what keeps a.b.c and a.b.d apart.
 *
 * A cell stays with its container wherever insert, sort or pop move it; `home` is the place in
 * the pinned version where the container was found, and validation asks there.
 *
 * Commit (commit.c): fold the cells into a new root; is the pinned version still current? publish.
 * Else check every log against the newest version, walking down from the root and skipping every container that is
 * still the same one; replay the writes on it; try again.
 *
 * Threads: one user at a time. theus_txn_enter() is the door of every operation and says BUSY to a
 * second thread, ENDED after the end, FORKED in a child process. Foreign code (key equality) may re-enter
 * from the same thread; positions found before it ran are checked by cell->stamp. */
#ifndef THEUS_TXN_H
#define THEUS_TXN_H

#include "store.h"

typedef struct theus_txn theus_txn;
typedef struct theus_cell theus_cell;

typedef enum {
    THEUS_SERIALIZABLE, /* every read is validated */
    THEUS_SNAPSHOT,     /* only written paths are: write skew is possible */
} theus_isolation;

/* A growing array of numbers with room for a few in place. */
typedef struct {
    uint32_t count;
    uint32_t room;
    uint32_t *items; /* few, or heap memory */
    uint32_t few[4];
} theus_numbers;

typedef struct theus_absence theus_absence;   /* keys looked for in vain */
typedef struct theus_deferral theus_deferral; /* add, append, merge */

enum { THEUS_CELL_DEPTH = 2000 };  /* cells above one another: folding and building walk down by recursion */
enum { THEUS_CELL_CHILDREN = 4 }; /* slots of the first table; a power of two */

struct theus_cell { /* cell_blank() in cell.c sets each field */
    theus_txn *txn;
    theus_cell *next;        /* in the transaction's list, parents first */
    theus_container *base;   /* borrowed from the pinned version; NULL when the body made this container */
    theus_container *first;  /* content when the body entered it: base, or counted where there is none */
    theus_container *now;    /* counted */
    theus_cell *home;        /* cell in whose base this container was found */
    uint32_t home_pos;
    uint32_t pos;            /* where it is in parent->now */
    theus_cell *parent;      /* NULL for the root and for what was removed */
    uint32_t depth;          /* cells it was entered through */
    theus_cell **children;   /* open hash by pos, see cell.c: few_children, or heap memory */
    uint32_t child_count;
    uint32_t child_room;
    theus_cell *few_children[THEUS_CELL_CHILDREN];
    uint32_t stamp;          /* changes with every change of now */
    bool stale;              /* now is newer than what parent->now holds */
    bool stale_below;        /* so is that of a cell below */
    bool touched;            /* has writes of its own; touched_below: a cell below has */
    bool touched_below;
    bool deferred_below;     /* deferred operations here or below */
    bool settling;           /* they are being applied */
    bool reshaped;           /* positions no longer those of base: one write of the whole */
    bool restored;           /* a write may have put a container of base back in its place */
    bool read_shape;
    bool read_all;
    bool dead;               /* born in a savepoint that was rolled back */
    theus_numbers reads;     /* positions in base */
    theus_numbers writes;    /* positions in now (and base); may repeat */
    uint32_t absent_count;
    theus_absence *absent;
    theus_deferral *deferred;
    void *last_key;          /* retained: the key of the atom that the last lookup found, or NULL; */
    uint32_t last_pos;       /* where, */
    uint32_t last_stamp;     /* as long as stamp is this one, */
    theus_value last_value;  /* and what: borrowed from now. The read of it is logged */
    uint64_t last_number;    /* of this find: none has the same in this cell */
    theus_container *current; /* commit only: the same place in the newest version; borrowed */
};

enum { THEUS_TXN_CELLS = 4 };

typedef enum { THEUS_TXN_IDLE, THEUS_TXN_OPEN, THEUS_TXN_COMMITTED, THEUS_TXN_ABORTED } theus_txn_state;

typedef struct theus_savepoint theus_savepoint;

typedef enum { THEUS_ADD, THEUS_APPEND, THEUS_MERGE } theus_deferred_kind;

/* A deferred operation that is about to be applied; all of it borrowed. */
typedef struct {
    theus_deferred_kind kind;
    theus_cell *cell;     /* at `key` of it, or at `index` if that is NULL */
    void *key;
    uint32_t index;
    theus_value old;      /* what stands there: THEUS_NONE where nothing does */
    theus_value operand;
    void *resolver;
} theus_application;

/* Computes the new value. *out gets it with a count that the core takes over. 0, or -1 = failed. */
typedef int (*theus_apply_fn)(void *ctx, const theus_application *what, theus_value *out);

/* Asked before a container with THEUS_MARK_ADMIT is committed in which, or below which, something was written. `made` (sealed) is
 * what it would become on top of the newest version; *out gets, with a count, what shall stand in its place:
 * often `made` itself. May run foreign code; asked again whenever the newest version is another one by then. Those inside are
 * asked before the one around them. 0, or -1 = refused: the commit fails. */
typedef int (*theus_admit_fn)(void *ctx, theus_cell *cell, theus_container *made, theus_container **out);

struct theus_txn { /* txn_blank() in txn.c sets each field */
    theus_store *store;
    theus_version *pinned;     /* counted */
    theus_isolation isolation;
    bool read_only;
    _Atomic(uint8_t) state;    /* theus_txn_state */
    bool committing;           /* the gate has it: for its body it has ended */
    bool sparse;               /* some container may be mostly holes: the commit compacts it */
    _Atomic(uint64_t) user;    /* thread inside an operation, or 0 */
    uint32_t depth;            /* nested entries of that thread */
    uint64_t epoch;            /* theus_process_epoch() of its birth */
    theus_cell *root;
    theus_cell *last_cell;
    uint32_t cell_count;
    theus_status find_status;  /* why the last lookup or probe failed; FOREIGN: the callback left its own error */
    uint64_t deadline_ns;      /* theus_clock_tick_ns() after which no version of it is published any more; 0: none */
    _Atomic(bool) abandoned;   /* set from any thread: no version of it is published any more */
    uint64_t turn;             /* number of the ticket that leads it (turn.h), or 0 */
    uint32_t held_up;          /* times that the commit was */
    bool by_task;              /* what runs it can wait without a thread: an asyncio task */
    theus_ticket *ticket;      /* owned: taken at the gate, after it was held up too often; or NULL */
    bool strict;               /* commit only if the pinned version is still current */
    bool reserved;             /* has a place in the ring that its commit will fill, or the end gives back */
    bool pledged;              /* validate also when the writes come to nothing: for compare-and-swap */
    bool asks;                 /* a container that must be admitted may have been written */
    theus_admit_fn admit;      /* set by the embedder if it marks containers */
    theus_apply_fn apply;      /* set by the embedder if it defers anything */
    void *embedder;            /* context of both */
    theus_deferral *retired;   /* deferrals that were settled or undone; freed at the end */
    void *process;             /* atom, borrowed from the embedder for the transaction's life; or NULL */
    theus_container *attached[THEUS_ATTACHMENTS]; /* lists; NULL: nothing of that kind. See attach.h */
    theus_savepoint *savepoint; /* innermost open one */
    uint64_t saves;            /* savepoints opened so far */
    theus_cell cells[THEUS_TXN_CELLS];
};

/* ---- life --------------------------------------------------------------------- */

/* Begins on `pinned` (a count of its own is taken) in memory that the caller owns. */
void theus_txn_begin(theus_txn *txn, theus_store *store, theus_version *pinned, theus_isolation isolation,
                     bool read_only);
/* The same on the current version. */
void theus_txn_begin_newest(theus_txn *txn, theus_store *store, theus_isolation isolation, bool read_only);

/* Reserves a place for the commit record where the ring's mode asks for one (block, strict) and it has none yet.
 * FULL or UNREAD: not now; the transaction goes on. The commit does this by itself, and fails then. */
THEUS_MUST_CHECK theus_status theus_txn_reserve(theus_txn *txn);

/* Ends without a trace. False, and nothing has happened, if it has ended, or if an operation or the commit of it is
 * what runs the caller, or is running in another thread. Frees the cells: no draft may touch one again.
 * May run foreign code. */
bool theus_txn_abort(theus_txn *txn);

THEUS_MUST_CHECK theus_status theus_txn_enter(theus_txn *txn);
void theus_txn_leave(theus_txn *txn);

/* For a cycle collector: the atoms that the cells keep (keys looked for last or in vain, deferred operands).
 * Everything else is in the heap. */
int theus_txn_visit(theus_txn *txn, int (*visit)(void *atom, void *arg), void *arg);

/* ---- reading (logs what it reads) ------------------------------------------------- */

/* Looks a key up in a map or set and logs it: the value (for a nested container only
 * that one is there), or its absence. */
THEUS_MUST_CHECK theus_find theus_cell_lookup(theus_cell *cell, void *ctx, uint64_t hash, void *key,
                                              uint32_t *pos, theus_value *value);
/* The same without logging: for writes that do not depend on it. */
THEUS_MUST_CHECK theus_find theus_cell_probe(theus_cell *cell, void *ctx, uint64_t hash, void *key,
                                             uint32_t *pos, theus_value *value);
/* Logs what base has under a key of a map or set, to any depth, or that it has nothing: for conclusions about the
 * change from the one to what the body has put there. */
THEUS_MUST_CHECK theus_status theus_cell_rely(theus_cell *cell, void *ctx, uint64_t hash, void *key);
/* The value at a position below now->span, logged. THEUS_NONE for a hole. */
THEUS_MUST_CHECK theus_status theus_cell_read(theus_cell *cell, uint32_t pos, theus_value *value);
void theus_cell_read_shape(theus_cell *cell);
void theus_cell_read_all(theus_cell *cell);

/* The cell of the container at `pos` (which holds one). Borrowed: lives as long as the transaction. */
THEUS_MUST_CHECK theus_status theus_cell_enter(theus_cell *cell, uint32_t pos, theus_cell **child);

/* The sealed content of a cell with everything below it, retained. Logs read_all. The cell goes on. */
THEUS_MUST_CHECK theus_status theus_cell_freeze(theus_cell *cell, theus_container **out);

/* The same as the commit would store it: marked containers that were written are shown to `admit` first. For content that
 * is about to be stored elsewhere, where no cell tells any more that it was written. FOREIGN: refused. */
THEUS_MUST_CHECK theus_status theus_cell_admitted(theus_cell *cell, void *ctx, theus_container **out);

/* ---- writing ------------------------------------------------------------------------ */
/* All of these: READ_ONLY in a read-only transaction; a child cell at a place that is overwritten or removed
 * is detached and works on by itself; values are taken with a count of their own. */

/* Map: sets key to value. Set: adds key (value ignored). Reads nothing. */
THEUS_MUST_CHECK theus_status theus_cell_store(theus_cell *cell, void *ctx, uint64_t hash, void *key,
                                               theus_value value);
/* Map or list: overwrites a live position. */
THEUS_MUST_CHECK theus_status theus_cell_put(theus_cell *cell, uint32_t pos, theus_value value);
/* Map or set: removes a live position; `hash` is that of its key. The caller has looked the key up (and so logged it). */
THEUS_MUST_CHECK theus_status theus_cell_remove(theus_cell *cell, uint64_t hash, uint32_t pos);
/* Lists: see theus_list_splice and theus_list_permute. */
THEUS_MUST_CHECK theus_status theus_cell_splice(theus_cell *cell, uint32_t start, uint32_t drop,
                                                const theus_value *values, uint32_t count);
THEUS_MUST_CHECK theus_status theus_cell_permute(theus_cell *cell, const uint32_t *order);
/* Any kind: empties it; one write of the whole. */
THEUS_MUST_CHECK theus_status theus_cell_clear(theus_cell *cell);

/* Adds a pair to what the commit carries: all of it or nothing. READ_ONLY, but for notes. */
THEUS_MUST_CHECK theus_status theus_txn_attach(theus_txn *txn, theus_attachment kind, void *name,
                                               theus_value value);
uint32_t theus_txn_attached(const theus_txn *txn, theus_attachment kind); /* pairs so far */

/* Does it send anything, and so make a version even if it writes nothing? */
static inline bool
theus_txn_sends(const theus_txn *txn)
{
    return txn->attached[THEUS_SIGNALS] != NULL || txn->attached[THEUS_MESSAGES] != NULL;
}

/* ---- deferred operations ----------------------------------------------------------- */

/* Records an operation on `key` of a map cell (NULL key: on list position `index`), to be applied
 * to whatever the newest version holds there at commit. Reads nothing. */
THEUS_MUST_CHECK theus_status theus_cell_defer(theus_cell *cell, theus_deferred_kind kind, uint64_t hash, void *key,
                                               uint32_t index, theus_value operand, void *resolver);

/* Turns the deferred operations of this cell into ordinary reads and writes. An operation that could see one of
 * them does so first: one on the same key, or one on the whole. */
THEUS_MUST_CHECK theus_status theus_cell_settle(theus_cell *cell, void *ctx);

/* May an operation be deferred on a key with this hash? Operations on other keys leave it deferred. */
bool theus_cell_defers(const theus_cell *cell, uint64_t hash);

/* The child cell at `pos` if the body has entered it, else NULL. */
theus_cell *theus_cell_child_at(const theus_cell *cell, uint32_t pos);

/* ---- savepoints ------------------------------------------------------------------------ */

/* Opens a savepoint inside the innermost one. Cost: the number of cells. */
THEUS_MUST_CHECK theus_status theus_txn_save(theus_txn *txn, theus_savepoint **out);
/* Keeps what was done since; frees the savepoint, which must be the innermost. */
void theus_savepoint_release(theus_savepoint *savepoint);
/* Names the innermost open savepoint, for those who may hold on to one that is gone: never twice the same number in
 * a transaction. 0: none is open. */
uint64_t theus_txn_savepoint(const theus_txn *txn);
bool theus_txn_is_saved(const theus_txn *txn, uint64_t number); /* is that one open, innermost or not? */
/* Pairs that were attached before the innermost open one; 0 if none is open. */
uint32_t theus_txn_attached_before(const theus_txn *txn, theus_attachment kind);
/* Undoes every write since, keeps every read (the body may have seen it), frees the savepoint. Containers
 * first touched since then get dead cells. */
void theus_savepoint_rollback(theus_savepoint *savepoint);

/* ---- what was done --------------------------------------------------------------------- */

typedef enum {
    THEUS_OP_SET,
    THEUS_OP_DELETE,
    THEUS_OP_ADD,
    THEUS_OP_APPEND,
    THEUS_OP_MERGE,
} theus_op_kind;

/* Each path written so far, once: set or delete, and the deferred ones. A container whose positions moved is one
 * SET of the whole. Segments are borrowed for the call. Returns 0, or the first other result of fn. */
typedef int (*theus_op_fn)(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length);
THEUS_MUST_CHECK int theus_txn_operations(theus_txn *txn, theus_op_fn fn, void *arg);

/* Is there a write of which `concerns` wants to hear? It is asked about the beginning of each path: two segments, or all if
 * there are fewer. Looks only at where was written, so it is cheaper than the list, and may say yes where nothing came of
 * the writes. `concerns` runs nothing foreign. */
bool theus_txn_writes_to(theus_txn *txn, bool (*concerns)(void *arg, const theus_segment *path, uint32_t length),
                         void *arg);

/* Is there any such path, a signal or a message? Only then the commit makes a version. */
bool theus_txn_writes(theus_txn *txn);

/* The same for what was written since the innermost savepoint, also inside containers that the transaction itself had made
 * before it. Without a savepoint: all of it. Compares contents, so it may run foreign code. -1 with *status on failure. */
THEUS_MUST_CHECK int theus_txn_recent_operations(theus_txn *txn, void *ctx, theus_op_fn fn, void *arg,
                                                 theus_status *status);

/* What those lists leave out: places that were written (since the innermost savepoint, and not before it) and hold what they
 * held before. Not keys that were inserted and are gone again, nor what lies in containers that the transaction has
 * made. */
THEUS_MUST_CHECK int theus_txn_idle_writes(theus_txn *txn, theus_op_fn fn, void *arg);

/* Path of a cell in the pinned picture; at most `room` segments are stored, the length is returned. */
uint32_t theus_cell_path(const theus_cell *cell, theus_segment *path, uint32_t room);

/* ---- commit ------------------------------------------------------------------------------- */

typedef enum {
    THEUS_COMMITTED,      /* a new version stands */
    THEUS_UNCHANGED,      /* nothing was written: no version, reads not validated */
    THEUS_CONFLICTED,     /* *why says where; the transaction is aborted */
    THEUS_COMMIT_FAILED,  /* *status says why; the transaction is aborted */
    THEUS_HELD_UP,        /* a ticket is in the way: nothing was done, the transaction is open. Wait at the gate with
                           * txn->turn and why->footprint, and commit again */
} theus_outcome;

enum { THEUS_PATH_ROOM = 32 };

/* Where a transaction met a newer version, and what it relied on in all. Keys are retained through `cells`: free with theus_conflict_fini. */
typedef struct {
    uint64_t expected; /* the pinned version */
    uint64_t found;    /* the version it was checked against */
    const char *what;  /* "value", "absence", "keys", "content", "place", "strict" */
    uint32_t length;
    theus_segment path[THEUS_PATH_ROOM];
    theus_heap *heap;
    theus_atoms *cells;
    bool measured;             /* footprint is set: after CONFLICTED and HELD_UP, and where it passed while tickets were out */
    theus_footprint footprint;
} theus_conflict;

void theus_conflict_fini(theus_conflict *conflict);

/* Ends the transaction, unless HELD_UP. On COMMITTED *made is the new version, retained. Runs foreign code (key equality,
 * hashing, deferred operations), never under a lock. */
THEUS_MUST_CHECK theus_outcome theus_txn_commit(theus_txn *txn, void *ctx, theus_version **made,
                                                theus_conflict *why, theus_status *status);

#endif
