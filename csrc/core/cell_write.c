/* Writing through cells: log first, change then, detach the children whose place goes, release last. */
#include "cell.h"

#include <assert.h>
#include <string.h>

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
    theus_cell_mark_touched(cell);
}

/* Who names a position of a list counts on its length; that stays true when the write is undone. */
static void
position_named(theus_cell *cell)
{
    if (cell->now->kind == THEUS_LIST) {
        cell->read_shape = true;
    }
}

/* The first write since `now` was sealed: makes it an edit and stores, in one step. Nothing falls out of that, because what
 * stood there stands in the sealed one still, until the end. */
static theus_status
cell_overwrite_sealed(theus_cell *cell, uint32_t pos, theus_value value)
{
    theus_container *sealed = cell->now, *edit;
    theus_status status = theus_edit_begin_with(sealed, pos, value, &edit);
    if (status == THEUS_OK) {
        cell->now = edit;
        theus_cell_detach_child(cell, pos);
        write_log(cell, pos);
        theus_cell_mark_changed(cell);
        theus_container_release(sealed);
    }
    return status;
}

/* Overwrites a live position, at which `old` stands. */
static theus_status
cell_overwrite(theus_cell *cell, uint32_t pos, theus_value old, theus_value value)
{
    position_named(cell);
    theus_status status = write_reserve(cell);
    if (theus_value_kind(value) != THEUS_ATOM && cell->base != NULL && theus_cell_base_holds(cell, pos, value)) {
        cell->restored = true;
    }
    if (status == THEUS_OK && old == value && theus_cell_child_at(cell, pos) == NULL) {
        write_again(cell, pos);
        return THEUS_OK;
    }
    if (status != THEUS_OK) {
        return status;
    }
    if (cell->now->edit == 0 && old != value) {
        return cell_overwrite_sealed(cell, pos, value);
    }
    status = theus_cell_make_writable(cell);
    if (status != THEUS_OK) {
        return status;
    }
    theus_heap *heap = cell->now->heap;
    theus_value_retain(heap, old);
    status = theus_container_put(cell->now, pos, value);
    if (status == THEUS_OK) {
        theus_cell_detach_child(cell, pos);
        write_log(cell, pos);
        theus_cell_mark_changed(cell);
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
        status = theus_cell_make_writable(cell);
    }
    if (status == THEUS_OK) {
        status = theus_container_insert(cell->now, hash, key, value, NULL);
    }
    if (status == THEUS_OK) {
        write_log(cell, pos);
        theus_cell_mark_changed(cell);
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
        return cell_overwrite(cell, pos, old, cell->now->kind == THEUS_SET ? old : value);
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
    theus_status status = theus_cell_settled(cell, NULL);
    if (status != THEUS_OK) {
        return status;
    }
    /* Settling may have run a body that emptied the place. */
    theus_value old = pos < cell->now->span ? theus_container_value_at(cell->now, pos) : THEUS_NONE;
    return old != THEUS_NONE ? cell_overwrite(cell, pos, old, value) : THEUS_CHANGED;
}

theus_status
theus_cell_remove(theus_cell *cell, uint64_t hash, uint32_t pos)
{
    theus_status status = write_reserve(cell);
    if (status == THEUS_OK) {
        status = theus_cell_make_writable(cell);
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
        status = theus_cell_log_absence(cell, hash, key);
        if (status != THEUS_OK) {
            return status;
        }
    }
    theus_heap_ops(heap)->retain(key);
    theus_value_retain(heap, value);
    status = theus_container_remove(cell->now, hash, pos);
    if (status == THEUS_OK) {
        theus_cell_detach_child(cell, pos);
        write_log(cell, pos);
        theus_cell_mark_changed(cell);
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

/* The table that theus_cell_move_children() fills after a reshape; NULL where there are no children. */
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
        status = theus_cell_make_writable(cell);
        if (status == THEUS_OK) {
            status = theus_list_splice(cell->now, start, 0, values, count);
        }
        if (status == THEUS_OK) {
            cell_reshape(cell);
            theus_cell_mark_changed(cell);
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
        theus_cell_move_children(cell, table, cell->child_room);
    }
    cell_reshape(cell);
    theus_cell_mark_changed(cell);
    theus_container_release(old);
    return THEUS_OK;
}

theus_status
theus_cell_permute(theus_cell *cell, const uint32_t *order)
{
    theus_status status = theus_cell_make_writable(cell);
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
            theus_cell_move_children(cell, table, cell->child_room);
        }
        cell_reshape(cell);
        theus_cell_mark_changed(cell);
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
    theus_status status = theus_cell_settled(cell, NULL);
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
    theus_cell_mark_changed(cell);
    theus_container_release(old);
    return THEUS_OK;
}
