/* The life of a transaction, what it defers, and the list of what it did. */
#include "cell.h"

#include <assert.h>
#include <string.h>

/* ---- life -------------------------------------------------------------------- */

void
theus_txn_begin(theus_txn *txn, theus_store *store, theus_version *pinned,
                theus_isolation isolation, bool read_only)
{
    memset(txn, 0, offsetof(theus_txn, cells));
    txn->store = store;
    txn->isolation = isolation;
    txn->read_only = read_only;
    txn->epoch = theus_process_epoch();
    theus_status status = theus_cell_new(txn, pinned->root, pinned->root, &txn->root);
    assert(status == THEUS_OK); /* the first cells are part of the transaction */
    (void)status;
    theus_version_retain(pinned);
    txn->pinned = pinned;
    txn->state = THEUS_TXN_OPEN;
}

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

static void
deferrals_free(theus_txn *txn, theus_deferral *list)
{
    theus_heap *heap = theus_store_heap(txn->store);
    while (list != NULL) {
        theus_deferral *next = list->next;
        deferral_free(theus_heap_ops(heap), heap, list);
        list = next;
    }
}

/* Frees everything the transaction holds. Its state is final by now, so foreign code that runs
 * here finds it ended. */
void
theus_txn_finish(theus_txn *txn, theus_txn_state state)
{
    txn->state = (uint8_t)state;
    while (txn->savepoint != NULL) {
        theus_savepoint_release(txn->savepoint);
    }
    theus_cell *cell = txn->root;
    txn->root = txn->last_cell = NULL;
    for (uint32_t i = 0; cell != NULL; i++) {
        theus_cell *next = cell->next;
        deferrals_free(txn, cell->deferred);
        theus_cell_fini(cell);
        if (i >= THEUS_TXN_CELLS) {
            theus_free(cell);
        }
        cell = next;
    }
    deferrals_free(txn, txn->retired);
    txn->retired = NULL;
    theus_container *signals = txn->signals;
    theus_version *pinned = txn->pinned;
    txn->signals = NULL;
    txn->pinned = NULL;
    theus_container_release(signals);
    theus_version_release(pinned);
}

void
theus_txn_abort(theus_txn *txn)
{
    if (txn->state == THEUS_TXN_OPEN) {
        theus_txn_finish(txn, THEUS_TXN_ABORTED);
    }
}

theus_status
theus_txn_enter(theus_txn *txn)
{
    if (txn->state != THEUS_TXN_OPEN) {
        return THEUS_ENDED;
    }
    if (txn->epoch != theus_process_epoch()) {
        return THEUS_FORKED;
    }
    uint64_t me = theus_thread_id(), nobody = 0;
    if (!atomic_compare_exchange_strong_explicit(&txn->user, &nobody, me, memory_order_acquire,
                                                 memory_order_relaxed)
        && nobody != me) {
        return THEUS_BUSY;
    }
    txn->depth++;
    return THEUS_OK;
}

void
theus_txn_leave(theus_txn *txn)
{
    if (--txn->depth == 0) {
        atomic_store_explicit(&txn->user, 0, memory_order_release);
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

static int
visit_deferrals(const theus_deferral *list, int (*visit)(void *, void *), void *arg)
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

int
theus_txn_visit(theus_txn *txn, int (*visit)(void *atom, void *arg), void *arg)
{
    int result = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next) {
        result = visit_deferrals(cell->deferred, visit, arg);
        for (theus_absence *it = cell->absent; it != NULL && result == 0; it = it->next) {
            result = visit(it->key, arg);
        }
    }
    return result != 0 ? result : visit_deferrals(txn->retired, visit, arg);
}

theus_status
theus_txn_signal(theus_txn *txn, void *ctx, uint64_t hash, void *topic, theus_value payload)
{
    if (txn->read_only) {
        return THEUS_READ_ONLY;
    }
    if (txn->signals == NULL) {
        theus_status status = theus_container_new(theus_store_heap(txn->store), THEUS_MAP,
                                                  &txn->signals);
        if (status != THEUS_OK) {
            return status;
        }
    }
    uint32_t pos;
    switch (theus_container_find(txn->signals, ctx, hash, topic, &pos, NULL)) {
    case THEUS_FOUND:
        return theus_container_put(txn->signals, pos, payload);
    case THEUS_ABSENT:
        return theus_container_insert(txn->signals, hash, topic, payload, NULL);
    default:
        return THEUS_FOREIGN;
    }
}

/* ---- deferred operations ---------------------------------------------------------- */

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
    for (theus_cell *up = cell; up != NULL; up = up->parent) {
        up->touched_below = true;
        up->deferred_below = true;
    }
    return THEUS_OK;
}

/* The list is newest first; they apply oldest first. */
static theus_deferral *
oldest(theus_deferral *list)
{
    while (list->next != NULL) {
        list = list->next;
    }
    return list;
}

void
theus_cell_retire_deferred(theus_cell *cell)
{
    while (cell->deferred != NULL) {
        theus_deferral *deferral = cell->deferred;
        cell->deferred = deferral->next;
        deferral->next = cell->txn->retired;
        cell->txn->retired = deferral;
    }
}

static void
retire(theus_cell *cell, theus_deferral *deferral)
{
    theus_deferral **link = &cell->deferred;
    while (*link != deferral) {
        link = &(*link)->next;
    }
    *link = deferral->next;
    deferral->next = cell->txn->retired;
    cell->txn->retired = deferral;
}

static theus_status
settle_one(theus_cell *cell, void *ctx, theus_deferral *deferral)
{
    uint32_t pos = deferral->index;
    theus_value old = THEUS_NONE, made;
    theus_status status = THEUS_OK;
    theus_find found = THEUS_FOUND;
    if (deferral->key != NULL) {
        found = theus_cell_lookup(cell, ctx, deferral->hash, deferral->key, &pos, &old);
    }
    else if (pos < cell->now->count) {
        status = theus_cell_read(cell, pos, &old);
    }
    else {
        status = THEUS_BAD_PATH;
    }
    if (found == THEUS_FIND_FAILED) {
        return THEUS_FOREIGN;
    }
    if (status != THEUS_OK) {
        return status;
    }
    theus_cell *child = found == THEUS_FOUND ? theus_cell_child_at(cell, pos) : NULL;
    if (child != NULL) {
        theus_container *content;
        status = theus_cell_freeze(child, &content);
        if (status != THEUS_OK) {
            return status;
        }
        old = theus_value_of_container(content); /* with a count of its own */
    }
    else if (old != THEUS_NONE) {
        theus_value_retain(cell->now->heap, old);
    }
    if (cell->txn->apply(cell->txn->apply_ctx, deferral->kind, old, deferral->operand, deferral->resolver, &made) < 0) {
        status = THEUS_FOREIGN;
    }
    else {
        status = deferral->key != NULL
                     ? theus_cell_store(cell, ctx, deferral->hash, deferral->key, made)
                     : theus_cell_put(cell, pos, made);
        theus_value_release(cell->now->heap, made);
    }
    theus_value_release(cell->now->heap, old);
    return status;
}

theus_status
theus_cell_settle(theus_cell *cell, void *ctx)
{
    /* Out of sight while they are applied: the lookups inside would settle again. */
    theus_deferral *waiting = cell->deferred;
    theus_status status = THEUS_OK;
    cell->deferred = NULL;
    while (waiting != NULL && status == THEUS_OK) {
        theus_deferral *deferral = oldest(waiting);
        status = settle_one(cell, ctx, deferral);
        if (status == THEUS_OK) {
            theus_deferral *newer = cell->deferred; /* what a resolver deferred meanwhile */
            cell->deferred = waiting;
            retire(cell, deferral);
            waiting = cell->deferred;
            cell->deferred = newer;
        }
    }
    if (waiting != NULL) {
        oldest(waiting)->next = cell->deferred;
        cell->deferred = waiting;
    }
    return status;
}

/* ---- what was done ------------------------------------------------------------------- */

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

uint32_t
theus_cell_path(const theus_cell *cell, theus_segment *path, uint32_t room)
{
    const theus_cell *up = cell->parent != NULL ? cell->parent : cell->home;
    if (up == NULL) {
        return 0;
    }
    uint32_t length = theus_cell_path(up, path, room);
    if (length < room) {
        path[length] = cell->parent != NULL ? segment_at(up->now, cell->pos)
                                            : segment_at(up->base, cell->home_pos);
    }
    return length + 1;
}

/* What the write at `pos` came to: true with *kind and *last set, false if nothing is left of it. */
static bool
write_at(const theus_cell *cell, uint32_t pos, theus_op_kind *kind, theus_segment *last)
{
    theus_value now = pos < cell->now->span ? theus_container_value_at(cell->now, pos) : THEUS_NONE;
    theus_value before
        = pos < cell->base->span ? theus_container_value_at(cell->base, pos) : THEUS_NONE;
    if (now == before) {
        return false;
    }
    *kind = now == THEUS_NONE ? THEUS_OP_DELETE : THEUS_OP_SET;
    *last = segment_at(now == THEUS_NONE ? cell->base : cell->now, pos);
    return true;
}

int
theus_txn_operations(theus_txn *txn, theus_op_fn fn, void *arg)
{
    theus_segment path[THEUS_PATH_ROOM];
    int result = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next) {
        bool wrote = cell->reshaped || cell->writes.count != 0 || cell->deferred != NULL;
        if (!wrote || !theus_cell_is_attached(cell) || theus_cell_is_covered(cell)) {
            continue;
        }
        uint32_t length = theus_cell_path(cell, path, THEUS_PATH_ROOM - 1);
        if (length > THEUS_PATH_ROOM - 1) {
            length = THEUS_PATH_ROOM - 1;
        }
        if (cell->reshaped) {
            result = fn(arg, THEUS_OP_SET, path, length);
        }
        theus_numbers_sort(&cell->writes);
        for (uint32_t i = 0; i < cell->writes.count && result == 0; i++) {
            theus_op_kind kind;
            if (write_at(cell, cell->writes.items[i], &kind, &path[length])) {
                result = fn(arg, kind, path, length + 1);
            }
        }
        for (theus_deferral *it = cell->deferred; it != NULL && result == 0; it = it->next) {
            path[length] = (theus_segment){it->key, it->index};
            result = fn(arg, (theus_op_kind)(THEUS_OP_ADD + it->kind), path, length + 1);
        }
    }
    return result;
}
