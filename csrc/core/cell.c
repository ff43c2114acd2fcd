/* Cells: what a transaction reads and writes, container by container.
 *
 * A position in `base` and the same position in `now` name the same entry, because edits
 * never compact and cells seal in place. The exception is a *reshaped* cell (a list after insert, sort, pop;
 * anything after clear): its positions mean nothing in base any more, so it counts as one write of the whole,
 * and asks at commit that the whole be unchanged.
 *
 * Foreign code runs only inside theus_container_find (key equality) and settle. Whoever holds a
 * position across one of them compares cell->stamp, which every change of now moves. */
#include "cell.h"

#include <assert.h>
#include <string.h>

/* ---- life ------------------------------------------------------------------------ */

/* Every field but txn. Not memset: for this size gcc makes it a `rep stos`, whose start alone takes as long as the rest of
 * theus_cell_new(). */
static void
cell_blank(theus_cell *cell)
{
    cell->next = cell->home = cell->parent = NULL;
    cell->base = cell->first = cell->now = cell->current = NULL;
    cell->home_pos = cell->pos = cell->depth = 0;
    cell->children = cell->few_children;
    cell->child_count = 0;
    cell->child_room = THEUS_CELL_CHILDREN;
    for (uint32_t i = 0; i < THEUS_CELL_CHILDREN; i++) {
        cell->few_children[i] = NULL;
    }
    cell->stamp = 0;
    cell->stale = cell->stale_below = false;
    cell->touched = cell->touched_below = false;
    cell->deferred_below = cell->settling = false;
    cell->reshaped = cell->restored = false;
    cell->read_shape = cell->read_all = cell->dead = false;
    theus_numbers_init(&cell->reads);
    theus_numbers_init(&cell->writes);
    cell->absent_count = 0;
    cell->absent = NULL;
    cell->deferred = NULL;
    cell->last_key = NULL;
    cell->last_number = 0;
}

theus_status
theus_cell_new(theus_txn *txn, theus_container *base, theus_container *now, theus_cell **out)
{
    theus_cell *cell;
    if (txn->cell_count < THEUS_TXN_CELLS) {
        cell = &txn->cells[txn->cell_count];
    }
    else {
        cell = theus_alloc(sizeof(*cell));
        if (cell == NULL) {
            return THEUS_NOMEM;
        }
    }
    cell_blank(cell);
    cell->txn = txn;
    cell->base = base;
    cell->first = now;
    if (base == NULL) {
        theus_container_retain(now);
    }
    theus_container_retain(now);
    cell->now = now;
    if (txn->last_cell != NULL) {
        txn->last_cell->next = cell;
    }
    txn->last_cell = cell;
    txn->cell_count++;
    *out = cell;
    return THEUS_OK;
}

/* May run foreign code. */
void
theus_cell_forget_last(theus_cell *cell)
{
    void *key = cell->last_key;
    if (key != NULL) {
        cell->last_key = NULL;
        theus_heap_ops(cell->now->heap)->release(key);
    }
}

static void
children_free(theus_cell *cell, theus_cell **table)
{
    if (table != cell->few_children) {
        theus_free(table);
    }
}

void
theus_cell_fini(theus_cell *cell)
{
    const theus_value_ops *ops = theus_heap_ops(theus_store_heap(cell->txn->store));
    theus_cell_forget_last(cell);
    while (cell->absent != NULL) {
        theus_absence *absence = cell->absent;
        cell->absent = absence->next;
        ops->release(absence->key);
        theus_free(absence);
    }
    theus_numbers_fini(&cell->reads);
    theus_numbers_fini(&cell->writes);
    children_free(cell, cell->children);
    cell->children = NULL;
    theus_container_release(cell->now);
    if (cell->base == NULL) {
        theus_container_release(cell->first);
    }
    cell->now = cell->first = cell->base = NULL;
}

/* ---- children: an open hash from position to cell ---------------------------------- */

static uint32_t
child_slot(const theus_cell *cell, uint32_t pos)
{
    return (pos * 2654435769u) & (cell->child_room - 1); /* Fibonacci hashing spreads runs */
}

theus_cell *
theus_cell_child_at(const theus_cell *cell, uint32_t pos)
{
    if (cell->child_count == 0) {
        return NULL;
    }
    for (uint32_t i = child_slot(cell, pos);; i = (i + 1) & (cell->child_room - 1)) {
        theus_cell *child = cell->children[i];
        if (child == NULL || child->pos == pos) {
            return child;
        }
    }
}

static void
child_place(theus_cell *cell, theus_cell *child)
{
    uint32_t i = child_slot(cell, child->pos);
    while (cell->children[i] != NULL) {
        i = (i + 1) & (cell->child_room - 1);
    }
    cell->children[i] = child;
    cell->child_count++;
}

/* Moves the children that `keep` leaves a position into a table of `room` slots. */
void
theus_cell_move_children(theus_cell *cell, theus_cell **table, uint32_t room)
{
    theus_cell **old = cell->children;
    uint32_t old_room = cell->child_room;
    memset(table, 0, room * sizeof(*table));
    cell->children = table;
    cell->child_room = room;
    cell->child_count = 0;
    for (uint32_t i = 0; i < old_room; i++) {
        if (old[i] != NULL && old[i]->parent == cell) {
            child_place(cell, old[i]);
        }
    }
    children_free(cell, old);
}

theus_status
theus_cell_adopt(theus_cell *parent, uint32_t pos, theus_cell *child)
{
    if ((parent->child_count + 1) * 4 > parent->child_room * 3) {
        uint32_t room = parent->child_room * 2;
        theus_cell **table = theus_alloc(room * sizeof(*table));
        if (table == NULL) {
            return THEUS_NOMEM;
        }
        theus_cell_move_children(parent, table, room);
    }
    child->parent = parent;
    child->pos = pos;
    child_place(parent, child);
    return THEUS_OK;
}

void
theus_cell_forget_children(theus_cell *cell)
{
    for (uint32_t i = 0; i < cell->child_room; i++) {
        if (cell->children[i] != NULL) {
            cell->children[i]->parent = NULL;
            cell->children[i] = NULL;
        }
    }
    cell->child_count = 0;
}

/* The child at pos, if there is one, lives on by itself. */
void
theus_cell_detach_child(theus_cell *cell, uint32_t pos)
{
    theus_cell *child = theus_cell_child_at(cell, pos);
    if (child == NULL) {
        return;
    }
    uint32_t mask = cell->child_room - 1;
    uint32_t hole = child_slot(cell, pos);
    while (cell->children[hole] != child) {
        hole = (hole + 1) & mask;
    }
    child->parent = NULL;
    cell->children[hole] = NULL;
    cell->child_count--;
    /* Close the gap: whoever probed past it must move back. */
    for (uint32_t i = (hole + 1) & mask; cell->children[i] != NULL; i = (i + 1) & mask) {
        theus_cell *moved = cell->children[i];
        cell->children[i] = NULL;
        cell->child_count--;
        child_place(cell, moved);
    }
}

/* ---- marks ---------------------------------------------------------------------------- */

/* Above a marked cell every cell has the mark for "below": so the walk up ends at the first that has it. */

void
theus_cell_mark_touched(theus_cell *cell)
{
    cell->touched = true;
    theus_cell_note_mark(cell);
    for (theus_cell *up = cell->parent; up != NULL && !up->touched_below; up = up->parent) {
        up->touched_below = true;
        theus_cell_note_mark(up);
    }
}

void
theus_cell_mark_changed(theus_cell *cell)
{
    cell->stamp++;
    cell->stale = true;
    for (theus_cell *up = cell->parent; up != NULL && !up->stale_below; up = up->parent) {
        up->stale_below = true;
    }
    theus_cell_mark_touched(cell);
}

/* Are reads of this cell logged entry by entry? In a reshaped one they cannot be, so the first read there counts as
 * a read of all: the write of the whole would ask for as much, but it is gone when the cell is
 * detached or a savepoint undone, and the read is not. */
bool
theus_cell_logs_reads(theus_cell *cell)
{
    const theus_txn *txn = cell->txn;
    if (cell->base == NULL || cell->read_all || txn->read_only
        || txn->isolation != THEUS_SERIALIZABLE) {
        return false;
    }
    cell->read_all = cell->reshaped;
    return !cell->reshaped;
}

theus_status
theus_cell_make_writable(theus_cell *cell)
{
    if (cell->txn->read_only) {
        return THEUS_READ_ONLY;
    }
    if (cell->now->edit != 0) {
        return THEUS_OK;
    }
    theus_container *edit;
    theus_status status = theus_edit_begin(cell->now, &edit);
    if (status != THEUS_OK) {
        return status;
    }
    theus_container *old = cell->now;
    cell->now = edit;
    cell->stamp++;
    theus_container_release(old);
    return THEUS_OK;
}

/* Puts the new content of a child in its place. A sealed `now` is replaced by another sealed one, in one step: nothing
 * falls out of that, since what stood there before stands in the old one still. */
static theus_status
fold_in(theus_cell *cell, const theus_cell *child)
{
    theus_value value = theus_value_of_container(child->now);
    if (cell->now->edit != 0) {
        return theus_container_put(cell->now, child->pos, value);
    }
    theus_container *old = cell->now, *made;
    theus_status status = theus_container_with(old, child->pos, value, &made);
    if (status == THEUS_OK) {
        assert(cell->now == old);
        cell->now = made;
        theus_container_release(old);
    }
    return status;
}

static theus_status
fold_child(theus_cell *cell, theus_cell *child)
{
    theus_status status = theus_cell_fold(child);
    if (status != THEUS_OK || child->parent != cell) {
        return status; /* what fell out below may have run a body that detached it */
    }
    child->stale = false;
    status = fold_in(cell, child);
    if (status != THEUS_OK) {
        child->stale = true;
    }
    return status;
}

static bool
needs_folding(const theus_cell *child)
{
    return child != NULL && (child->stale || child->stale_below);
}

/* One walk over the children; sets stale_below again if it may have missed one. Two children or more share one edit. */
static theus_status
fold_children(theus_cell *cell)
{
    theus_status status = THEUS_OK;
    uint32_t first = cell->child_room, due = 0;
    for (uint32_t i = cell->child_room; i-- > 0;) {
        if (needs_folding(cell->children[i])) {
            first = i;
            due++;
        }
    }
    if (due > 1) {
        status = theus_cell_make_writable(cell); /* may run a body that moves the children */
        first = 0;
    }
    theus_cell **table = cell->children;
    uint32_t stamp = ++cell->stamp;
    for (uint32_t i = first; i < cell->child_room && due > 0 && status == THEUS_OK; i++) {
        theus_cell *child = table[i];
        if (!needs_folding(child)) {
            continue;
        }
        due--;
        status = fold_child(cell, child);
        if (cell->children != table || cell->stamp != stamp) {
            cell->stale_below = true;
            break;
        }
    }
    return status;
}

/* The content that falls out of a parent may be the last of its kind, and releasing it may run a body that
 * writes here again. So every mark goes before its work is done, and comes back with such a write. */
theus_status
theus_cell_fold(theus_cell *cell)
{
    theus_status status = THEUS_OK;
    while (cell->stale_below && status == THEUS_OK) {
        cell->stale_below = false;
        cell->stale = true;
        status = fold_children(cell);
        if (status != THEUS_OK) {
            cell->stale_below = true;
        }
    }
    if (status == THEUS_OK) {
        theus_seal_in_place(cell->now);
    }
    return status;
}

/* A sealed copy of what the cell and those below hold, without the holes. The cells keep their positions. */
static theus_status
cell_compacted(const theus_cell *cell, theus_container **out)
{
    theus_container *edit;
    theus_status status = theus_edit_begin(cell->now, &edit);
    for (uint32_t i = 0; i < cell->child_room && status == THEUS_OK; i++) {
        const theus_cell *child = cell->children[i];
        theus_container *content;
        if (child == NULL || !(child->touched || child->touched_below)) {
            continue;
        }
        status = cell_compacted(child, &content);
        if (status == THEUS_OK) {
            status = theus_container_put(edit, child->pos, theus_value_of_container(content));
            theus_container_release(content);
        }
    }
    if (status == THEUS_OK) {
        status = theus_edit_seal(edit);
    }
    if (status != THEUS_OK) {
        theus_container_release(edit);
        return status;
    }
    *out = edit;
    return THEUS_OK;
}

theus_status
theus_cell_content(theus_cell *cell, theus_container **out)
{
    theus_status status = theus_cell_fold(cell);
    if (status != THEUS_OK) {
        return status;
    }
    if (cell->txn->sparse && (cell->touched || cell->touched_below)) {
        return cell_compacted(cell, out);
    }
    theus_container_retain(cell->now);
    *out = cell->now;
    return THEUS_OK;
}
