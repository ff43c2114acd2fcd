/* What a body leaves to be applied to whatever stands there at the commit: add, append, merge.
 *
 * Deferred operations of a cell wait in a list of their own until something is read there (they are settled: applied
 * here and now, and what they find is a read like any other) or the commit applies them to the newest version. */
#include "cell.h"

/* ---- deferring ------------------------------------------------------------------------ */

theus_status
theus_cell_defer(theus_cell *cell, theus_deferred_kind kind, uint64_t hash, void *key,
                 uint32_t index, theus_value operand, void *resolver)
{
    if (cell->txn->read_only) {
        return THEUS_READ_ONLY;
    }
    theus_deferral *deferral = theus_alloc(sizeof(*deferral));
    if (deferral == NULL) {
        return THEUS_NOMEM;
    }
    theus_heap *heap = cell->now->heap;
    const theus_value_ops *ops = theus_heap_ops(heap);
    deferral->kind = kind;
    deferral->hash = hash;
    deferral->key = key;
    if (key != NULL) {
        ops->retain(key);
    }
    deferral->index = index;
    deferral->operand = operand;
    theus_value_retain(heap, operand);
    deferral->resolver = resolver;
    if (resolver != NULL) {
        ops->retain(resolver);
    }
    deferral->next = cell->deferred;
    cell->deferred = deferral;
    if (key == NULL) {
        theus_cell_read_shape(cell); /* the body has found that there is such an index */
    }
    for (theus_cell *up = cell; up != NULL; up = up->parent) {
        up->touched_below = true;
        up->deferred_below = true;
        theus_cell_note_mark(up);
    }
    return THEUS_OK;
}

void
theus_cell_retire_deferred(theus_cell *cell, const theus_deferral *last)
{
    while (cell->deferred != NULL && cell->deferred != last) {
        theus_deferral *deferral = cell->deferred;
        cell->deferred = deferral->next;
        deferral->next = cell->txn->retired;
        cell->txn->retired = deferral;
    }
}

theus_deferral *
theus_deferrals_reversed(theus_deferral *list)
{
    theus_deferral *reversed = NULL;
    while (list != NULL) {
        theus_deferral *next = list->next;
        list->next = reversed;
        reversed = list;
        list = next;
    }
    return reversed;
}

/* ---- settling ------------------------------------------------------------------------- */

/* What a deferred operation finds: *old with a count of its own, or THEUS_NONE. A read like any other. */
static theus_status
settle_read(theus_cell *cell, void *ctx, const theus_deferral *deferral, theus_value *old)
{
    uint32_t pos = deferral->index;
    theus_status status = THEUS_OK;
    theus_find found = THEUS_FOUND;
    if (deferral->key != NULL) {
        found = theus_cell_lookup(cell, ctx, deferral->hash, deferral->key, &pos, old);
    }
    else {
        status = pos < cell->now->count ? theus_cell_read(cell, pos, old) : THEUS_BAD_PATH;
    }
    if (found == THEUS_FIND_FAILED) {
        return cell->txn->find_status;
    }
    if (status != THEUS_OK || found == THEUS_ABSENT) {
        *old = THEUS_NONE;
        return status;
    }
    theus_cell *child = theus_cell_child_at(cell, pos);
    if (child == NULL) {
        theus_value_retain(cell->now->heap, *old);
        return THEUS_OK;
    }
    theus_container *content;
    status = theus_cell_freeze(child, &content);
    if (status == THEUS_OK) {
        *old = theus_value_of_container(content);
    }
    return status;
}

int
theus_deferral_apply(theus_cell *cell, const theus_deferral *deferral, theus_value old, theus_value *made)
{
    theus_application what = {deferral->kind, cell, deferral->key, deferral->index,
                              old, deferral->operand, deferral->resolver};
    return cell->txn->apply(cell->txn->embedder, &what, made);
}

static theus_status
settle_one(theus_cell *cell, void *ctx, theus_deferral *deferral)
{
    theus_heap *heap = cell->now->heap;
    theus_value old, made;
    theus_status status = settle_read(cell, ctx, deferral, &old);
    if (status != THEUS_OK) {
        return status;
    }
    if (theus_deferral_apply(cell, deferral, old, &made) < 0) {
        status = THEUS_FOREIGN;
    }
    else {
        status = deferral->key != NULL
                     ? theus_cell_store(cell, ctx, deferral->hash, deferral->key, made)
                     : theus_cell_put(cell, deferral->index, made);
        theus_value_release(heap, made);
    }
    if (old != THEUS_NONE) {
        theus_value_release(heap, old);
    }
    return status;
}

bool
theus_cell_defers(const theus_cell *cell, uint64_t hash)
{
    for (const theus_deferral *it = cell->deferred; it != NULL; it = it->next) {
        if (it->key != NULL && it->hash == hash) {
            return true;
        }
    }
    return false;
}

theus_status
theus_cell_settle(theus_cell *cell, void *ctx)
{
    if (cell->settling) {
        return THEUS_OK; /* by a body that an application runs: it sees those before its own */
    }
    theus_status status = THEUS_OK;
    theus_deferral *waiting = theus_deferrals_reversed(cell->deferred); /* oldest first */
    cell->deferred = NULL; /* what the applications defer comes here, and stays deferred */
    cell->settling = true;
    while (waiting != NULL && status == THEUS_OK) {
        status = settle_one(cell, ctx, waiting);
        if (status == THEUS_OK) {
            theus_deferral *done = waiting;
            waiting = done->next;
            done->next = cell->txn->retired;
            cell->txn->retired = done;
        }
    }
    cell->settling = false;
    theus_deferral **end = &cell->deferred;
    while (*end != NULL) {
        end = &(*end)->next;
    }
    *end = theus_deferrals_reversed(waiting); /* older than any new one */
    return status;
}

/* ---- their life ----------------------------------------------------------------------- */

static void
deferral_free(const theus_value_ops *ops, theus_heap *heap, theus_deferral *deferral)
{
    if (deferral->key != NULL) {
        ops->release(deferral->key);
    }
    if (deferral->resolver != NULL) {
        ops->release(deferral->resolver);
    }
    theus_value_release(heap, deferral->operand);
    theus_free(deferral);
}

void
theus_deferrals_free(theus_heap *heap, theus_deferral *list)
{
    while (list != NULL) {
        theus_deferral *next = list->next;
        deferral_free(theus_heap_ops(heap), heap, list);
        list = next;
    }
}

static int
visit_value(theus_value value, int (*visit)(void *, void *), void *arg)
{
    if (value == THEUS_NONE || theus_value_kind(value) != THEUS_ATOM) {
        return 0; /* containers are the heap's to report */
    }
    return visit(theus_value_atom(value), arg);
}

int
theus_deferrals_visit(const theus_deferral *list, int (*visit)(void *, void *), void *arg)
{
    int result = 0;
    for (; list != NULL && result == 0; list = list->next) {
        if (list->key != NULL) {
            result = visit(list->key, arg);
        }
        if (result == 0 && list->resolver != NULL) {
            result = visit(list->resolver, arg);
        }
        if (result == 0) {
            result = visit_value(list->operand, visit, arg);
        }
    }
    return result;
}
