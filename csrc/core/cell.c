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
#include <stdlib.h>
#include <string.h>

enum { ABSENCES_MAX = 4096 }; /* more become one read of the key set */

/* ---- numbers ----------------------------------------------------------------- */

void
theus_numbers_init(theus_numbers *numbers)
{
    numbers->count = 0;
    numbers->room = sizeof(numbers->few) / sizeof(numbers->few[0]);
    numbers->items = numbers->few;
}

void
theus_numbers_fini(theus_numbers *numbers)
{
    if (numbers->items != numbers->few) {
        theus_free(numbers->items);
    }
    theus_numbers_init(numbers);
}

static int
number_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool
numbers_ascend(const theus_numbers *numbers)
{
    for (uint32_t i = 1; i < numbers->count; i++) {
        if (numbers->items[i - 1] >= numbers->items[i]) {
            return false;
        }
    }
    return true;
}

void
theus_numbers_sort(theus_numbers *numbers)
{
    if (numbers_ascend(numbers)) {
        return; /* as iterating logs them */
    }
    qsort(numbers->items, numbers->count, sizeof(uint32_t), number_order);
    uint32_t kept = 1;
    for (uint32_t i = 1; i < numbers->count; i++) {
        if (numbers->items[i] != numbers->items[kept - 1]) {
            numbers->items[kept++] = numbers->items[i];
        }
    }
    numbers->count = kept;
}

static theus_status
numbers_grow(theus_numbers *numbers, uint32_t room)
{
    uint32_t *items = theus_alloc(room * sizeof(uint32_t));
    if (items == NULL) {
        return THEUS_NOMEM;
    }
    memcpy(items, numbers->items, numbers->count * sizeof(uint32_t));
    if (numbers->items != numbers->few) {
        theus_free(numbers->items);
    }
    numbers->items = items;
    numbers->room = room;
    return THEUS_OK;
}

/* Repeats are squeezed out when the array is full, so a loop over a few keys stays small. */
theus_status
theus_numbers_make_room(theus_numbers *numbers)
{
    theus_numbers_sort(numbers);
    return numbers->count > numbers->room / 2 ? numbers_grow(numbers, numbers->room * 2) : THEUS_OK;
}

theus_status
theus_numbers_copy(theus_numbers *to, const theus_numbers *from)
{
    theus_numbers_init(to);
    if (from->count > to->room && numbers_grow(to, from->count) != THEUS_OK) {
        return THEUS_NOMEM;
    }
    memcpy(to->items, from->items, from->count * sizeof(uint32_t));
    to->count = from->count;
    return THEUS_OK;
}

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
    if (base != NULL) {
        theus_container_retain(base);
        cell->base = base;
    }
    theus_container_retain(now);
    cell->first = now;
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
static void
cell_forget_last(theus_cell *cell)
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
    cell_forget_last(cell);
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
    theus_container_release(cell->first);
    theus_container_release(cell->base);
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
static void
children_move(theus_cell *cell, theus_cell **table, uint32_t room)
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
        children_move(parent, table, room);
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
static void
child_detach(theus_cell *cell, uint32_t pos)
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

static void
cell_touched(theus_cell *cell)
{
    cell->touched = true;
    for (theus_cell *up = cell->parent; up != NULL && !up->touched_below; up = up->parent) {
        up->touched_below = true;
    }
}

static void
cell_changed(theus_cell *cell)
{
    cell->stamp++;
    cell->stale = true;
    for (theus_cell *up = cell->parent; up != NULL && !up->stale_below; up = up->parent) {
        up->stale_below = true;
    }
    cell_touched(cell);
}

/* Are reads of this cell logged entry by entry? In a reshaped one they cannot be, so the first read there counts as
 * a read of all: the write of the whole would ask for as much, but it is gone when the cell is
 * detached or a savepoint undone, and the read is not. */
static bool
cell_logs_reads(theus_cell *cell)
{
    const theus_txn *txn = cell->txn;
    if (cell->base == NULL || cell->read_all || txn->read_only
        || txn->isolation != THEUS_SERIALIZABLE) {
        return false;
    }
    cell->read_all = cell->reshaped;
    return !cell->reshaped;
}

static theus_status
cell_writable(theus_cell *cell)
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

static theus_status
fold_child(theus_cell *cell, theus_cell *child)
{
    theus_status status = theus_cell_fold(child);
    if (status != THEUS_OK || child->parent != cell) {
        return status; /* what fell out below may have run a body that detached it */
    }
    status = cell_writable(cell);
    if (status == THEUS_OK) {
        child->stale = false;
        status = theus_container_put(cell->now, child->pos, theus_value_of_container(child->now));
        if (status != THEUS_OK) {
            child->stale = true;
        }
    }
    return status;
}

/* One walk over the children; sets stale_below again if it may have missed one. */
static theus_status
fold_children(theus_cell *cell)
{
    theus_status status = cell_writable(cell);
    theus_cell **table = cell->children;
    uint32_t stamp = ++cell->stamp;
    for (uint32_t i = 0; i < cell->child_room && status == THEUS_OK; i++) {
        theus_cell *child = cell->children[i];
        if (child == NULL || !(child->stale || child->stale_below)) {
            continue;
        }
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

/* ---- reading ------------------------------------------------------------------------------ */

static theus_status
log_absence(theus_cell *cell, uint64_t hash, void *key)
{
    enum { LOOK_BACK = 16 }; /* for repeats of the same key object, as loops make them */
    uint32_t seen = 0;
    for (theus_absence *it = cell->absent; it != NULL && seen < LOOK_BACK; it = it->next, seen++) {
        if (it->key == key) {
            return THEUS_OK;
        }
    }
    if (cell->txn->isolation == THEUS_SERIALIZABLE) {
        /* The key set as a whole stands for all of them. A snapshot does not validate it, and logs only keys that
         * came and went, of which there are no more than writes. */
        if (cell->absent_count == ABSENCES_MAX) {
            cell->read_shape = true;
        }
        if (cell->read_shape) {
            return THEUS_OK;
        }
    }
    theus_absence *absence = theus_alloc(sizeof(*absence));
    if (absence == NULL) {
        return THEUS_NOMEM;
    }
    absence->next = cell->absent;
    absence->hash = hash;
    theus_heap_ops(cell->now->heap)->retain(key);
    absence->key = key;
    cell->absent = absence;
    cell->absent_count++;
    return THEUS_OK;
}

static bool
base_holds(const theus_cell *cell, uint32_t pos, theus_value value)
{
    return pos < cell->base->span && theus_container_value_at(cell->base, pos) == value;
}

/* Is `value`, which now has at pos, still the one that base has there? Then reading it reads the pinned version. */
static bool
is_from_base(const theus_cell *cell, uint32_t pos, theus_value value)
{
    return cell->now == cell->base || base_holds(cell, pos, value);
}

/* The failure of a find, for who wants more than "failed". */
static theus_find
find_failed(theus_cell *cell, theus_status why)
{
    cell->txn->find_status = why;
    return THEUS_FIND_FAILED;
}

/* Keeps what was found for the next one who asks: `d[k] += 1` looks up the same key twice. Atoms only: folding puts
 * containers in their places under one stamp. */
static void
cell_remember(theus_cell *cell, void *key, uint32_t pos, theus_value value)
{
    /* (If there is one already, a body that ran meanwhile has looked something up.) */
    if (cell->last_key == NULL && theus_value_kind(value) == THEUS_ATOM) {
        theus_heap_ops(cell->now->heap)->retain(key);
        cell->last_key = key;
        cell->last_pos = pos;
        cell->last_stamp = cell->stamp;
        cell->last_value = value;
    }
}

/* Without regard to what is deferred. */
static theus_find
cell_find(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos, theus_value *value)
{
    if (key == cell->last_key && cell->stamp == cell->last_stamp) {
        *pos = cell->last_pos;
        if (value != NULL) {
            *value = cell->last_value;
        }
        return THEUS_FOUND;
    }
    cell_forget_last(cell);
    for (;;) {
        uint32_t stamp = cell->stamp;
        theus_container *now = cell->now;
        theus_container_retain(now); /* equality may run a body that replaces it */
        theus_find found = theus_container_find(now, ctx, hash, key, pos, value);
        theus_container_release(now);
        if (found == THEUS_FIND_FAILED) {
            return find_failed(cell, THEUS_FOREIGN);
        }
        if (stamp == cell->stamp) {
            return found;
        }
    }
}

/* The same, logged. */
static theus_find
cell_find_logged(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos,
                 theus_value *value)
{
    uint32_t stamp;
    theus_find found, before;
    do {
        found = cell_find(cell, ctx, hash, key, pos, value);
        before = THEUS_ABSENT;
        stamp = cell->stamp;
        if (found == THEUS_ABSENT && cell->now != cell->base && cell_logs_reads(cell)) {
            /* Gone by our own hand? Then the pinned version was not asked. */
            uint32_t base_pos;
            before = theus_container_find(cell->base, ctx, hash, key, &base_pos, NULL);
        }
    } while (stamp != cell->stamp);
    if (before == THEUS_FIND_FAILED) {
        return find_failed(cell, THEUS_FOREIGN);
    }
    if (found == THEUS_FIND_FAILED || before == THEUS_FOUND || !cell_logs_reads(cell)) {
        return found;
    }
    theus_status status = THEUS_OK;
    if (found == THEUS_FOUND) {
        cell_remember(cell, key, *pos, *value);
    }
    if (found == THEUS_ABSENT) {
        status = log_absence(cell, hash, key);
    }
    else if (is_from_base(cell, *pos, *value)) {
        status = theus_numbers_push(&cell->reads, *pos);
    }
    return status == THEUS_OK ? found : find_failed(cell, status);
}

static theus_status
settled(theus_cell *cell, void *ctx)
{
    return cell->deferred == NULL ? THEUS_OK : theus_cell_settle(cell, ctx);
}

static theus_status
settled_at(theus_cell *cell, void *ctx, uint64_t hash)
{
    return theus_cell_defers(cell, hash) ? theus_cell_settle(cell, ctx) : THEUS_OK;
}

theus_find
theus_cell_probe(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos,
                 theus_value *value)
{
    theus_status status = settled_at(cell, ctx, hash);
    return status == THEUS_OK ? cell_find(cell, ctx, hash, key, pos, value)
                              : find_failed(cell, status);
}

theus_find
theus_cell_lookup(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos,
                  theus_value *value)
{
    theus_status status = settled_at(cell, ctx, hash);
    return status == THEUS_OK ? cell_find_logged(cell, ctx, hash, key, pos, value)
                              : find_failed(cell, status);
}

theus_status
theus_cell_read(theus_cell *cell, uint32_t pos, theus_value *value)
{
    theus_status status = settled(cell, NULL);
    if (status != THEUS_OK) {
        return status;
    }
    /* Settling may have run a body that shortened it. */
    *value = pos < cell->now->span ? theus_container_value_at(cell->now, pos) : THEUS_NONE;
    if (*value != THEUS_NONE && cell_logs_reads(cell) && is_from_base(cell, pos, *value)) {
        return theus_numbers_push(&cell->reads, pos);
    }
    return THEUS_OK;
}

void
theus_cell_read_shape(theus_cell *cell)
{
    cell->read_shape = true;
}

void
theus_cell_read_all(theus_cell *cell)
{
    cell->read_all = true;
}

/* Is it the container that base has there? One that the body has put back counts as its own: what others
 * do to the one in base is no longer below it. */
static bool
is_known(const theus_cell *cell, uint32_t pos, theus_value value)
{
    if (cell->base == NULL || cell->reshaped || !is_from_base(cell, pos, value)) {
        return false;
    }
    for (uint32_t i = 0; cell->restored && i < cell->writes.count; i++) {
        if (cell->writes.items[i] == pos) {
            return false;
        }
    }
    return true;
}

theus_status
theus_cell_enter(theus_cell *cell, uint32_t pos, theus_cell **out)
{
    theus_cell *child = theus_cell_child_at(cell, pos);
    if (child != NULL) {
        *out = child;
        return THEUS_OK;
    }
    theus_value value = theus_container_value_at(cell->now, pos);
    if (value == THEUS_NONE || theus_value_kind(value) == THEUS_ATOM) {
        return THEUS_BAD_PATH;
    }
    if (cell->depth >= THEUS_CELL_DEPTH) {
        return THEUS_TOO_DEEP;
    }
    /* Who goes in has seen that a container of this kind is here. (In a reshaped cell this is a read of all, as what is
     * read below will have no log of its own.) */
    bool known = is_known(cell, pos, value);
    if (cell_logs_reads(cell) && known && theus_numbers_push(&cell->reads, pos) != THEUS_OK) {
        return THEUS_NOMEM;
    }
    theus_container *content = theus_value_container(value);
    theus_status status = theus_cell_new(cell->txn, known ? content : NULL, content, &child);
    if (status != THEUS_OK) {
        return status;
    }
    if (known) {
        child->home = cell;
        child->home_pos = pos;
    }
    child->depth = cell->depth + 1;
    status = theus_cell_adopt(cell, pos, child);
    if (status != THEUS_OK) {
        return status; /* the cell stays in the list, unused, until the end */
    }
    *out = child;
    return THEUS_OK;
}

theus_status
theus_cell_freeze(theus_cell *cell, theus_container **out)
{
    theus_status status = THEUS_OK;
    for (theus_cell *it = cell->txn->root; it != NULL && status == THEUS_OK; it = it->next) {
        if (it->deferred == NULL) {
            continue;
        }
        for (const theus_cell *up = it; up != NULL; up = up->parent) {
            if (up == cell) {
                status = theus_cell_settle(it, NULL);
                break;
            }
        }
    }
    if (status == THEUS_OK) {
        status = theus_cell_content(cell, out);
    }
    if (status == THEUS_OK) {
        cell->read_all = true;
    }
    return status;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* Order of a write: room in the log, the change, the log, the marks. So a write that fails for lack of memory has
 * not happened, and has not been logged either (a logged place is stored again on top of what others
 * commit). What the change lets fall is held until the end, for releasing it may run foreign code. */

static theus_status
write_reserve(theus_cell *cell)
{
    return cell->base == NULL || cell->reshaped ? THEUS_OK : theus_numbers_reserve(&cell->writes);
}

static void
write_log(theus_cell *cell, uint32_t pos)
{
    if (cell->base != NULL && !cell->reshaped) {
        theus_numbers_add(&cell->writes, pos);
    }
}

/* Storing what is there already is a write too: whoever changes the place meanwhile comes before us, and
 * must not have the last word. */
static void
write_again(theus_cell *cell, uint32_t pos)
{
    write_log(cell, pos);
    cell_touched(cell);
}

/* Who names a position of a list counts on its length; that stays true when the write is undone. */
static void
position_named(theus_cell *cell)
{
    if (cell->now->kind == THEUS_LIST) {
        cell->read_shape = true;
    }
}

/* Overwrites a live position. */
static theus_status
cell_overwrite(theus_cell *cell, uint32_t pos, theus_value value)
{
    position_named(cell);
    theus_value old = theus_container_value_at(cell->now, pos);
    theus_status status = write_reserve(cell);
    if (theus_value_kind(value) != THEUS_ATOM && cell->base != NULL && base_holds(cell, pos, value)) {
        cell->restored = true;
    }
    if (status == THEUS_OK && old == value && theus_cell_child_at(cell, pos) == NULL) {
        write_again(cell, pos);
        return THEUS_OK;
    }
    if (status == THEUS_OK) {
        status = cell_writable(cell);
    }
    if (status != THEUS_OK) {
        return status;
    }
    theus_heap *heap = cell->now->heap;
    theus_value_retain(heap, old);
    status = theus_container_put(cell->now, pos, value);
    if (status == THEUS_OK) {
        child_detach(cell, pos);
        write_log(cell, pos);
        cell_changed(cell);
    }
    theus_value_release(heap, old);
    return status;
}

/* Appends an entry whose key has just been looked for and not found. */
static theus_status
cell_insert(theus_cell *cell, uint64_t hash, void *key, theus_value value)
{
    theus_status status = write_reserve(cell);
    uint32_t pos = cell->now->span;
    if (status == THEUS_OK) {
        status = cell_writable(cell);
    }
    if (status == THEUS_OK) {
        status = theus_container_insert(cell->now, hash, key, value, NULL);
    }
    if (status == THEUS_OK) {
        write_log(cell, pos);
        cell_changed(cell);
    }
    return status;
}

theus_status
theus_cell_store(theus_cell *cell, void *ctx, uint64_t hash, void *key, theus_value value)
{
    uint32_t pos;
    theus_value old;
    if (cell->txn->read_only) {
        return THEUS_READ_ONLY;
    }
    switch (theus_cell_probe(cell, ctx, hash, key, &pos, &old)) {
    case THEUS_ABSENT:
        return cell_insert(cell, hash, key, value);
    case THEUS_FOUND:
        return cell_overwrite(cell, pos, cell->now->kind == THEUS_SET ? old : value);
    default:
        return cell->txn->find_status;
    }
}

theus_status
theus_cell_put(theus_cell *cell, uint32_t pos, theus_value value)
{
    if (cell->txn->read_only) {
        return THEUS_READ_ONLY;
    }
    theus_status status = settled(cell, NULL);
    if (status != THEUS_OK) {
        return status;
    }
    /* Settling may have run a body that emptied the place. */
    bool live = pos < cell->now->span && theus_container_value_at(cell->now, pos) != THEUS_NONE;
    return live ? cell_overwrite(cell, pos, value) : THEUS_CHANGED;
}

theus_status
theus_cell_remove(theus_cell *cell, uint64_t hash, uint32_t pos)
{
    theus_status status = write_reserve(cell);
    if (status == THEUS_OK) {
        status = cell_writable(cell);
    }
    if (status != THEUS_OK) {
        return status;
    }
    theus_heap *heap = cell->now->heap;
    void *key = theus_container_key_at(cell->now, pos);
    theus_value value = theus_container_value_at(cell->now, pos);
    if (cell->base != NULL && !cell->reshaped
        && (pos >= cell->base->span || theus_container_value_at(cell->base, pos) == THEUS_NONE)) {
        /* It came and goes inside the transaction; but the body has said that it should not be there. */
        status = log_absence(cell, hash, key);
        if (status != THEUS_OK) {
            return status;
        }
    }
    theus_heap_ops(heap)->retain(key);
    theus_value_retain(heap, value);
    status = theus_container_remove(cell->now, hash, pos);
    if (status == THEUS_OK) {
        child_detach(cell, pos);
        write_log(cell, pos);
        cell_changed(cell);
        if (cell->now->span - cell->now->count > cell->now->span / 2) {
            cell->txn->sparse = true;
        }
    }
    theus_heap_ops(heap)->release(key);
    theus_value_release(heap, value);
    return status;
}

/* From now on the cell is one write of the whole; what it had logged for single positions of base stays true as reads,
 * and its writes are part of the whole. */
static void
cell_reshape(theus_cell *cell)
{
    cell->reshaped = true;
    cell->writes.count = 0;
}

/* The table that children_move() fills after a reshape; NULL where there are no children. */
static theus_status
children_table(const theus_cell *cell, theus_cell ***out)
{
    *out = NULL;
    if (cell->child_count == 0) {
        return THEUS_OK;
    }
    *out = theus_alloc(cell->child_room * sizeof(**out));
    return *out == NULL ? THEUS_NOMEM : THEUS_OK;
}

theus_status
theus_cell_splice(theus_cell *cell, uint32_t start, uint32_t drop, const theus_value *values,
                  uint32_t count)
{
    if (cell->txn->read_only) {
        return THEUS_READ_ONLY;
    }
    theus_status status = THEUS_OK;
    if (drop == 0 && count == 0) {
        return status;
    }
    if (drop == 0 && start == cell->now->count) { /* append: nothing moves, nothing falls out */
        status = cell_writable(cell);
        if (status == THEUS_OK) {
            status = theus_list_splice(cell->now, start, 0, values, count);
        }
        if (status == THEUS_OK) {
            cell_reshape(cell);
            cell_changed(cell);
        }
        return status;
    }
    position_named(cell);
    /* The old content stays alive beside the new one until the children stand where they belong:
     * releasing it may run foreign code, and that must not see one without the other. */
    theus_cell **table;
    status = children_table(cell, &table);
    if (status != THEUS_OK) {
        return status;
    }
    theus_container *old = cell->now;
    theus_container *edit;
    theus_seal_in_place(old);
    status = theus_edit_begin(old, &edit);
    if (status == THEUS_OK) {
        status = theus_list_splice(edit, start, drop, values, count);
        if (status != THEUS_OK) {
            theus_container_release(edit);
        }
    }
    if (status != THEUS_OK) {
        theus_free(table);
        return status;
    }
    cell->now = edit;
    for (uint32_t i = 0; i < cell->child_room; i++) {
        theus_cell *child = cell->children[i];
        if (child == NULL || child->pos < start) {
            continue;
        }
        if (child->pos < start + drop) {
            child->parent = NULL;
        }
        else {
            child->pos = child->pos - drop + count;
        }
    }
    if (table != NULL) {
        children_move(cell, table, cell->child_room);
    }
    cell_reshape(cell);
    cell_changed(cell);
    theus_container_release(old);
    return THEUS_OK;
}

theus_status
theus_cell_permute(theus_cell *cell, const uint32_t *order)
{
    theus_status status = cell_writable(cell);
    position_named(cell);
    theus_cell **table = NULL;
    theus_cell **movers = NULL; /* children in the order of their new positions */
    uint32_t *places = NULL;
    uint32_t count = cell->child_count, found = 0;
    if (status == THEUS_OK) {
        status = children_table(cell, &table);
    }
    if (status == THEUS_OK && count != 0) {
        movers = theus_alloc(count * sizeof(*movers));
        places = theus_alloc(count * sizeof(*places));
        status = movers == NULL || places == NULL ? THEUS_NOMEM : THEUS_OK;
    }
    if (status == THEUS_OK) {
        status = theus_list_permute(cell->now, order);
    }
    if (status != THEUS_OK) {
        theus_free(table);
    }
    else {
        for (uint32_t i = 0; found < count; i++) {
            theus_cell *child = theus_cell_child_at(cell, order[i]);
            if (child != NULL) {
                movers[found] = child;
                places[found++] = i;
            }
        }
        for (uint32_t i = 0; i < found; i++) {
            movers[i]->pos = places[i];
        }
        if (table != NULL) {
            children_move(cell, table, cell->child_room);
        }
        cell_reshape(cell);
        cell_changed(cell);
    }
    theus_free(movers);
    theus_free(places);
    return status;
}

theus_status
theus_cell_clear(theus_cell *cell)
{
    if (cell->txn->read_only) {
        return THEUS_READ_ONLY;
    }
    theus_status status = settled(cell, NULL);
    if (status != THEUS_OK) {
        return status;
    }
    if (cell->now->count == 0) {
        theus_cell_read_shape(cell); /* nothing to do, as long as it is empty */
        return THEUS_OK;
    }
    theus_container *empty;
    status = theus_container_new(cell->now->heap, (theus_kind)cell->now->kind, &empty);
    if (status != THEUS_OK) {
        return status;
    }
    empty->line = cell->now->line; /* emptied, not replaced */
    theus_container *old = cell->now;
    theus_cell_forget_children(cell);
    cell->now = empty;
    cell_reshape(cell);
    cell_changed(cell);
    theus_container_release(old);
    return THEUS_OK;
}
