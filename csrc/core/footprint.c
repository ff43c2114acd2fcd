/* From the logs of a transaction to stripes. */
#include "footprint.h"

#include <string.h>

#include "cell.h"

/* ---- sets of stripes ------------------------------------------------------------- */

bool
theus_stripes_meet(const theus_stripes *a, const theus_stripes *b)
{
    uint64_t common = 0;
    for (int i = 0; i < THEUS_STRIPE_WORDS; i++) {
        common |= (a->here[i] & b->here[i]) | (a->below[i] & b->below[i]);
    }
    return common != 0;
}

void
theus_stripes_add(theus_stripes *to, const theus_stripes *more)
{
    for (int i = 0; i < THEUS_STRIPE_WORDS; i++) {
        to->here[i] |= more->here[i];
        to->below[i] |= more->below[i];
    }
}

bool
theus_footprints_meet(const theus_footprint *a, const theus_footprint *b)
{
    return theus_stripes_meet(&a->relies, &b->changes) || theus_stripes_meet(&a->changes, &b->relies);
}

void
theus_footprint_add(theus_footprint *to, const theus_footprint *more)
{
    theus_stripes_add(&to->relies, &more->relies);
    theus_stripes_add(&to->changes, &more->changes);
}

void
theus_footprint_fill(theus_footprint *footprint)
{
    memset(footprint, 0xff, sizeof(*footprint));
}

/* ---- paths ------------------------------------------------------------------------ */

enum { QUARTER = 64 * THEUS_STRIPE_WORDS / 4 };

/* A path that is looked at from its beginning: its hash, and how many steps it has. */
typedef struct {
    uint64_t hash;
    uint32_t depth;
} path_mark;

static const path_mark ROOT = {0x243F6A8885A308D3u, 0};

/* The path that goes one step on. */
static path_mark
path_step(path_mark path, uint64_t step)
{
    uint64_t x = (path.hash ^ step) * 0x9E3779B97F4A7C15u + 1;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (path_mark){x ^ (x >> 31), path.depth + 1};
}

/* The root shares the first quarter with paths of one step, and has its first bit alone. */
static void
mark(uint64_t *stripes, uint32_t depth, uint32_t hash)
{
    uint32_t quarter = depth < 2 ? 0 : depth < 4 ? depth - 1 : 3;
    uint32_t bit = depth == 0 ? 0 : depth == 1 ? 1 + hash % (QUARTER - 1) : quarter * QUARTER + hash % QUARTER;
    stripes[bit / 64] |= (uint64_t)1 << bit % 64;
}

/* HERE and BELOW take different bits of the hash, so that paths which share one stripe need not share the other. */
static void
mark_here(theus_stripes *stripes, path_mark path)
{
    mark(stripes->here, path.depth, (uint32_t)(path.hash >> 8));
}

static void
mark_below(theus_stripes *stripes, path_mark path)
{
    mark(stripes->below, path.depth, (uint32_t)(path.hash >> 40));
}

static theus_status
step_hash(theus_heap *heap, void *ctx, const theus_segment *segment, uint64_t *hash)
{
    if (segment->key == NULL) {
        *hash = segment->index;
        return THEUS_OK;
    }
    return theus_heap_ops(heap)->hash(ctx, segment->key, hash) < 0 ? THEUS_FOREIGN : THEUS_OK;
}

/* ---- what is relied on ---------------------------------------------------------------- */

typedef struct {
    theus_txn *txn;
    void *ctx;
    theus_heap *heap;
    theus_footprint *out;
    path_mark path;  /* of the cell that is looked at, */
    bool too_deep;   /* or of its beginning */
} footprint_walk;

static theus_segment
segment_at(const theus_container *container, uint32_t pos)
{
    theus_segment segment = {NULL, pos};
    if (container->kind != THEUS_LIST) {
        segment.key = theus_container_key_at(container, pos);
        segment.index = 0;
    }
    return segment;
}

/* Goes to the pinned place of a cell and relies on every step of the way. */
static theus_status
walk_to(footprint_walk *walk, const theus_cell *cell)
{
    theus_segment way[THEUS_FOOTPRINT_DEPTH];
    uint32_t depth = 0;
    for (const theus_cell *it = cell; it->home != NULL; it = it->home) {
        depth++;
    }
    walk->too_deep = depth >= THEUS_FOOTPRINT_DEPTH;
    uint32_t i = depth;
    for (const theus_cell *it = cell; it->home != NULL; it = it->home) {
        if (--i < THEUS_FOOTPRINT_DEPTH) {
            way[i] = segment_at(it->home->base, it->home_pos);
        }
    }
    walk->path = ROOT;
    mark_below(&walk->out->relies, ROOT);
    for (i = 0; i < depth && i < THEUS_FOOTPRINT_DEPTH; i++) {
        uint64_t hash;
        theus_status status = step_hash(walk->heap, walk->ctx, &way[i], &hash);
        if (status != THEUS_OK) {
            return status;
        }
        walk->path = path_step(walk->path, hash);
        mark_below(&walk->out->relies, walk->path);
    }
    return THEUS_OK;
}

/* The entries of `from` at these positions. A container that was only fetched is a place on the way: what was read
 * inside it, its own cell tells. */
static theus_status
rely_on(footprint_walk *walk, const theus_container *from, uint32_t pos, bool whole)
{
    theus_segment segment = segment_at(from, pos);
    uint64_t hash;
    theus_status status = step_hash(walk->heap, walk->ctx, &segment, &hash);
    if (status != THEUS_OK) {
        return status;
    }
    path_mark path = path_step(walk->path, hash);
    theus_value value = theus_container_value_at(from, pos);
    if (whole || value == THEUS_NONE || theus_value_kind(value) == THEUS_ATOM) {
        mark_here(&walk->out->relies, path);
    }
    else {
        mark_below(&walk->out->relies, path);
    }
    return THEUS_OK;
}

static theus_status
rely_on_cell(footprint_walk *walk, const theus_cell *cell)
{
    bool wrote = cell->writes.count != 0 || cell->deferred != NULL;
    bool moved = cell->base->kind == THEUS_LIST && wrote; /* items are places only while none is moved */
    bool snapshot = walk->txn->isolation == THEUS_SNAPSHOT;
    bool whole = cell->read_all || cell->read_shape || cell->reshaped || moved;
    if (!(whole || wrote || cell->reads.count != 0 || cell->absent != NULL)) {
        return THEUS_OK;
    }
    theus_status status = walk_to(walk, cell);
    if (status != THEUS_OK) {
        return status;
    }
    if (whole || walk->too_deep) {
        mark_here(&walk->out->relies, walk->path);
        return THEUS_OK; /* whoever writes below tests it */
    }
    for (uint32_t i = 0; i < cell->reads.count && status == THEUS_OK; i++) {
        status = rely_on(walk, cell->base, cell->reads.items[i], false);
    }
    for (const theus_absence *it = cell->absent; it != NULL; it = it->next) {
        mark_here(&walk->out->relies, path_step(walk->path, it->hash));
    }
    for (uint32_t i = 0; snapshot && i < cell->writes.count && status == THEUS_OK; i++) {
        uint32_t pos = cell->writes.items[i];
        bool in_base = pos < cell->base->span && theus_container_value_at(cell->base, pos) != THEUS_NONE;
        if (in_base || theus_container_value_at(cell->now, pos) != THEUS_NONE) {
            status = rely_on(walk, in_base ? cell->base : cell->now, pos, true);
        }
    }
    return status;
}

/* ---- what is changed -------------------------------------------------------------------- */

typedef struct {
    footprint_walk walk;
    theus_status status;
} change_walk;

/* Marks a path and all above it. *end: where it ends. */
static theus_status
change_way(change_walk *changes, const theus_segment *path, uint32_t length, path_mark *end)
{
    path_mark here = ROOT;
    mark_here(&changes->walk.out->changes, here);
    for (uint32_t i = 0; i < length && i < THEUS_FOOTPRINT_DEPTH; i++) {
        uint64_t hash;
        theus_status status = step_hash(changes->walk.heap, changes->walk.ctx, &path[i], &hash);
        if (status != THEUS_OK) {
            return status;
        }
        here = path_step(here, hash);
        mark_here(&changes->walk.out->changes, here);
    }
    *end = here;
    return THEUS_OK;
}

static int
change_path(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    (void)kind;
    change_walk *changes = arg;
    path_mark end;
    changes->status = change_way(changes, path, length, &end);
    if (changes->status == THEUS_OK && length <= THEUS_FOOTPRINT_DEPTH) {
        mark_below(&changes->walk.out->changes, end);
    }
    return changes->status == THEUS_OK ? 0 : -1;
}

/* A container is made anew by every write, also by those that came to nothing and are no operation. Who overwrote it in a
 * snapshot sees that. */
static theus_status
change_cell(change_walk *changes, const theus_cell *cell)
{
    theus_segment path[THEUS_FOOTPRINT_DEPTH];
    path_mark end;
    bool wrote = cell->reshaped || cell->writes.count != 0 || cell->deferred != NULL;
    if (!wrote || !theus_cell_is_told(cell)) {
        return THEUS_OK;
    }
    uint32_t length = theus_cell_path(cell, path, THEUS_FOOTPRINT_DEPTH);
    return change_way(changes, path, length, &end);
}

theus_status
theus_txn_footprint(theus_txn *txn, void *ctx, theus_footprint *out)
{
    memset(out, 0, sizeof(*out));
    change_walk changes = {.walk = {.txn = txn, .ctx = ctx, .heap = theus_store_heap(txn->store), .out = out},
                           .status = THEUS_OK};
    if (theus_txn_operations(txn, change_path, &changes) != 0) {
        return changes.status;
    }
    theus_status status = THEUS_OK;
    for (theus_cell *cell = txn->root; cell != NULL && status == THEUS_OK; cell = cell->next) {
        status = change_cell(&changes, cell);
        if (status == THEUS_OK && cell->base != NULL) {
            status = rely_on_cell(&changes.walk, cell);
        }
    }
    return status;
}
