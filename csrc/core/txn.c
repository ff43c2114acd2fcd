/* The life of a transaction, and the list of what it did. */
#include "cell.h"

#include <assert.h>
#include <string.h>

#include "ring.h"

/* ---- life -------------------------------------------------------------------- */

/* Every field but the cells. (For memset, see cell_blank() in cell.c.) */
static void
txn_blank(theus_txn *txn)
{
    txn->store = NULL;
    txn->pinned = NULL;
    txn->isolation = THEUS_SERIALIZABLE;
    txn->read_only = txn->committing = txn->sparse = txn->strict = txn->pledged = txn->reserved = txn->by_task = false;
    txn->asks = false;
    atomic_init(&txn->state, THEUS_TXN_IDLE);
    atomic_init(&txn->user, 0);
    atomic_init(&txn->abandoned, false);
    txn->depth = txn->cell_count = 0;
    txn->epoch = txn->deadline_ns = txn->saves = txn->turn = 0;
    txn->held_up = 0;
    txn->ticket = NULL;
    txn->root = txn->last_cell = NULL;
    txn->find_status = THEUS_OK;
    txn->apply = NULL;
    txn->admit = NULL;
    txn->embedder = txn->process = NULL;
    txn->retired = NULL;
    for (int i = 0; i < THEUS_ATTACHMENTS; i++) {
        txn->attached[i] = NULL;
    }
    txn->savepoint = NULL;
}

/* Takes over a count of `pinned`. */
static void
txn_begin_on(theus_txn *txn, theus_store *store, theus_version *pinned, theus_isolation isolation,
             bool read_only)
{
    txn_blank(txn);
    txn->store = store;
    txn->isolation = isolation;
    txn->read_only = read_only;
    txn->epoch = theus_process_epoch();
    theus_status status = theus_cell_new(txn, pinned->root, pinned->root, &txn->root);
    assert(status == THEUS_OK); /* the first cells are part of the transaction */
    (void)status;
    txn->pinned = pinned;
    atomic_store_explicit(&txn->state, THEUS_TXN_OPEN, memory_order_release);
}

void
theus_txn_begin(theus_txn *txn, theus_store *store, theus_version *pinned,
                theus_isolation isolation, bool read_only)
{
    theus_version_retain(pinned);
    txn_begin_on(txn, store, pinned, isolation, read_only);
}

void
theus_txn_begin_newest(theus_txn *txn, theus_store *store, theus_isolation isolation, bool read_only)
{
    txn_begin_on(txn, store, theus_store_pin(store), isolation, read_only);
}

/* Frees everything the transaction holds. Its state is final by now, so foreign code that runs
 * here finds it ended. */
void
theus_txn_finish(theus_txn *txn, theus_txn_state state)
{
    atomic_store_explicit(&txn->state, (uint8_t)state, memory_order_release);
    txn->committing = false;
    while (txn->savepoint != NULL) {
        theus_savepoint_release(txn->savepoint);
    }
    theus_heap *heap = theus_store_heap(txn->store);
    theus_cell *cell = txn->root;
    txn->root = txn->last_cell = NULL;
    for (uint32_t i = 0; cell != NULL; i++) {
        theus_cell *next = cell->next;
        theus_deferrals_free(heap, cell->deferred);
        theus_cell_fini(cell);
        if (i >= THEUS_TXN_CELLS) {
            theus_free(cell);
        }
        cell = next;
    }
    theus_deferral *retired = txn->retired;
    theus_version *pinned = txn->pinned;
    theus_ticket *ticket = txn->ticket;
    txn->ticket = NULL;
    theus_txn_unreserve(txn);
    txn->retired = NULL; /* out of the collector's sight before anything is released */
    txn->pinned = NULL;
    theus_deferrals_free(heap, retired);
    theus_detach(txn->attached);
    theus_version_release(pinned);
    if (ticket != NULL) {
        theus_ticket_free(theus_store_turns(txn->store), ticket);
    }
}

void
theus_txn_unreserve(theus_txn *txn)
{
    if (txn->reserved) {
        txn->reserved = false;
        theus_ring_unreserve(theus_store_ring(txn->store), txn->epoch);
    }
}

theus_status
theus_txn_reserve(theus_txn *txn)
{
    theus_ring *ring = theus_store_ring(txn->store);
    if (txn->reserved || !theus_ring_reserves(ring)) {
        return THEUS_OK;
    }
    theus_status status = theus_ring_reserve(ring);
    txn->reserved = status == THEUS_OK;
    return status;
}

static bool
txn_is_open(const theus_txn *txn)
{
    return atomic_load_explicit(&txn->state, memory_order_acquire) == THEUS_TXN_OPEN;
}

/* Makes this thread the user, once more if it is that already. False: another thread is. */
static bool
txn_take(theus_txn *txn)
{
    uint64_t me = theus_thread_id(), nobody = 0;
    if (!atomic_compare_exchange_strong_explicit(&txn->user, &nobody, me, memory_order_acquire,
                                                 memory_order_relaxed)
        && nobody != me) {
        return false;
    }
    txn->depth++;
    return true;
}

theus_status
theus_txn_enter(theus_txn *txn)
{
    if (!txn_is_open(txn)) {
        return THEUS_ENDED;
    }
    if (txn->epoch != theus_process_epoch()) {
        return THEUS_FORKED;
    }
    if (!txn_take(txn)) {
        return THEUS_BUSY;
    }
    if (!txn_is_open(txn) || txn->committing) { /* who was inside until now may have ended it */
        theus_txn_leave(txn);
        return THEUS_ENDED;
    }
    return THEUS_OK;
}

void
theus_txn_leave(theus_txn *txn)
{
    if (--txn->depth == 0) {
        atomic_store_explicit(&txn->user, 0, memory_order_release);
    }
}

/* The cells go while we are the user: no other thread can be looking at one. Foreign code that runs here is this
 * thread, and finds the transaction ended. In a forked child too, where enter would refuse: memory is memory. */
bool
theus_txn_abort(theus_txn *txn)
{
    if (!txn_is_open(txn) || !txn_take(txn)) {
        return false;
    }
    bool ends = txn->depth == 1 && txn_is_open(txn) && !txn->committing;
    if (ends) {
        theus_txn_finish(txn, THEUS_TXN_ABORTED);
    }
    theus_txn_leave(txn);
    return ends;
}

int
theus_txn_visit(theus_txn *txn, int (*visit)(void *atom, void *arg), void *arg)
{
    int result = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next) {
        result = theus_deferrals_visit(cell->deferred, visit, arg);
        for (theus_absence *it = cell->absent; it != NULL && result == 0; it = it->next) {
            result = visit(it->key, arg);
        }
        if (result == 0 && cell->last_key != NULL) {
            result = visit(cell->last_key, arg);
        }
    }
    return result != 0 ? result : theus_deferrals_visit(txn->retired, visit, arg);
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

static const theus_cell *
cell_above(const theus_cell *cell)
{
    return cell->parent != NULL ? cell->parent : cell->home;
}

uint32_t
theus_cell_path(const theus_cell *cell, theus_segment *path, uint32_t room)
{
    uint32_t length = 0;
    for (const theus_cell *up = cell_above(cell); up != NULL; up = cell_above(up)) {
        length++;
    }
    for (uint32_t i = length; i-- > 0; cell = cell_above(cell)) {
        if (i < room) {
            path[i] = cell->parent != NULL ? segment_at(cell->parent->now, cell->pos)
                                           : segment_at(cell->home->base, cell->home_pos);
        }
    }
    return length;
}

/* A container of base that was put back and then changed: a write of the whole, though the word is the same yet. */
static bool
changed_in_place(const theus_cell *cell, uint32_t pos)
{
    const theus_cell *child = cell->restored ? theus_cell_child_at(cell, pos) : NULL;
    return child != NULL && child->base == NULL && (child->touched || child->touched_below);
}

/* What the write at `pos` came to: true with *kind and *last set, false if nothing is left of it. */
static bool
write_at(const theus_cell *cell, uint32_t pos, theus_op_kind *kind, theus_segment *last)
{
    void *key = NULL;
    theus_value now
        = pos < cell->now->span ? theus_container_entry_at(cell->now, pos, &key) : THEUS_NONE;
    theus_value before
        = pos < cell->base->span ? theus_container_value_at(cell->base, pos) : THEUS_NONE;
    if (now == before && !changed_in_place(cell, pos)) {
        return false;
    }
    *kind = now == THEUS_NONE ? THEUS_OP_DELETE : THEUS_OP_SET;
    *last = now == THEUS_NONE ? segment_at(cell->base, pos)
                              : (theus_segment){key, key == NULL ? pos : 0};
    return true;
}

int
theus_txn_operations(theus_txn *txn, theus_op_fn fn, void *arg)
{
    theus_segment path[THEUS_PATH_ROOM];
    int result = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next) {
        bool wrote = cell->reshaped || cell->writes.count != 0 || cell->deferred != NULL;
        if (!wrote || !theus_cell_is_told(cell)) {
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

/* What was written at `pos`, whatever stands there now. */
static theus_segment
written_at(const theus_cell *cell, uint32_t pos)
{
    theus_segment segment = {NULL, pos};
    if (cell->now->kind != THEUS_LIST) {
        segment.key = pos < cell->now->span ? theus_container_key_at(cell->now, pos) : NULL;
        if (segment.key == NULL && pos < cell->base->span) {
            segment.key = theus_container_key_at(cell->base, pos);
        }
    }
    return segment;
}

bool
theus_txn_writes_to(theus_txn *txn, bool (*concerns)(void *arg, const theus_segment *path, uint32_t length), void *arg)
{
    bool found = false;
    for (theus_cell *cell = txn->root; cell != NULL && !found; cell = cell->next) {
        theus_segment path[2];
        bool wrote = cell->reshaped || cell->writes.count != 0 || cell->deferred != NULL;
        if (!wrote || !theus_cell_is_told(cell)) {
            continue;
        }
        uint32_t length = theus_cell_path(cell, path, 2);
        if (length >= 2 || cell->reshaped) {
            found = concerns(arg, path, length < 2 ? length : 2);
            continue;
        }
        for (uint32_t i = 0; i < cell->writes.count && !found; i++) {
            path[length] = written_at(cell, cell->writes.items[i]);
            found = concerns(arg, path, length + 1);
        }
        for (theus_deferral *it = cell->deferred; it != NULL && !found; it = it->next) {
            path[length] = (theus_segment){it->key, it->index};
            found = concerns(arg, path, length + 1);
        }
    }
    return found;
}

int
theus_txn_idle_writes(theus_txn *txn, theus_op_fn fn, void *arg)
{
    theus_segment path[THEUS_PATH_ROOM];
    int result = 0;
    uint32_t number = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next, number++) {
        if (cell->reshaped || cell->writes.count == 0 || !theus_cell_is_told(cell)) {
            continue;
        }
        uint32_t length = theus_cell_path(cell, path, THEUS_PATH_ROOM - 1);
        if (length > THEUS_PATH_ROOM - 1) {
            length = THEUS_PATH_ROOM - 1;
        }
        theus_numbers_sort(&cell->writes);
        for (uint32_t i = 0; i < cell->writes.count && result == 0; i++) {
            theus_op_kind kind;
            uint32_t pos = cell->writes.items[i];
            if (write_at(cell, pos, &kind, &path[length]) || theus_savepoint_knows(txn->savepoint, number, pos)) {
                continue;
            }
            path[length] = written_at(cell, pos);
            if (path[length].key != NULL || cell->now->kind == THEUS_LIST) {
                result = fn(arg, THEUS_OP_SET, path, length + 1);
            }
        }
    }
    return result;
}

static int
stop_at_first(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    (void)arg;
    (void)kind;
    (void)path;
    (void)length;
    return 1;
}

bool
theus_txn_writes(theus_txn *txn)
{
    return theus_txn_sends(txn) || theus_txn_operations(txn, stop_at_first, NULL) != 0;
}
