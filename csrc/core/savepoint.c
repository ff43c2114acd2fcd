/* Savepoints: what every cell looked like, and how to go back.
 *
 * A savepoint seals what each cell holds and keeps a count of it, so the next write
 * copies its path as after a commit. Going back restores the contents and the places; reads that were logged since stay,
 * because the body may have acted on them. Cells born since are dead for drafts, yet they keep their reads. */
#include "cell.h"

#include <assert.h>

typedef struct {
    theus_cell *cell;
    theus_container *now; /* counted, sealed */
    theus_cell *parent;
    uint32_t pos;
    const theus_deferral *deferred; /* newest one; borrowed from the transaction */
    bool stale, stale_below, touched, touched_below, deferred_below, reshaped;
    theus_numbers writes;
} saved_cell;

struct theus_savepoint {
    theus_txn *txn;
    theus_savepoint *outer;
    uint64_t number;          /* theus_txn_savepoint() */
    theus_container *attached[THEUS_ATTACHMENTS]; /* counted; NULL where there was nothing */
    theus_cell *last_cell;
    uint32_t count;
    saved_cell cells[];
};

static void
savepoint_free(theus_savepoint *savepoint, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        theus_numbers_fini(&savepoint->cells[i].writes);
        theus_container_release(savepoint->cells[i].now);
    }
    theus_detach(savepoint->attached);
    theus_free(savepoint);
}

/* Deferred operations become ordinary writes first: one that is applied after the savepoint could not be undone.
 * Applying may defer more, also on cells that are done: so from the start again after each. */
static theus_status
settle_all(theus_txn *txn)
{
    theus_status status = THEUS_OK;
    theus_cell *cell = txn->root;
    while (cell != NULL && status == THEUS_OK) {
        if (cell->deferred == NULL || cell->settling) {
            cell = cell->next;
            continue;
        }
        status = theus_cell_settle(cell, NULL);
        cell = txn->root;
    }
    return status;
}

theus_status
theus_txn_save(theus_txn *txn, theus_savepoint **out)
{
    theus_status status = settle_all(txn);
    if (status != THEUS_OK) {
        return status;
    }
    theus_savepoint *savepoint
        = theus_alloc(sizeof(*savepoint) + txn->cell_count * sizeof(saved_cell));
    if (savepoint == NULL) {
        return THEUS_NOMEM;
    }
    savepoint->txn = txn;
    savepoint->outer = txn->savepoint;
    savepoint->last_cell = txn->last_cell;
    for (int i = 0; i < THEUS_ATTACHMENTS; i++) {
        savepoint->attached[i] = NULL;
    }
    uint32_t i = 0;
    for (theus_cell *cell = txn->root; cell != NULL; cell = cell->next, i++) {
        saved_cell *saved = &savepoint->cells[i];
        saved->cell = cell;
        saved->parent = cell->parent;
        saved->pos = cell->pos;
        saved->deferred = cell->deferred;
        saved->stale = cell->stale;
        saved->stale_below = cell->stale_below;
        saved->touched = cell->touched;
        saved->touched_below = cell->touched_below;
        saved->deferred_below = cell->deferred_below;
        saved->reshaped = cell->reshaped;
        if (theus_numbers_copy(&saved->writes, &cell->writes) != THEUS_OK) {
            savepoint_free(savepoint, i);
            return THEUS_NOMEM;
        }
        theus_seal_in_place(cell->now);
        cell->stamp++;
        theus_container_retain(cell->now);
        saved->now = cell->now;
    }
    savepoint->count = i;
    theus_attach_all(txn->attached, savepoint->attached);
    savepoint->number = ++txn->saves;
    txn->savepoint = savepoint;
    *out = savepoint;
    return THEUS_OK;
}

uint64_t
theus_txn_savepoint(const theus_txn *txn)
{
    return txn->savepoint == NULL ? 0 : txn->savepoint->number;
}

bool
theus_txn_is_saved(const theus_txn *txn, uint64_t number)
{
    const theus_savepoint *it = txn->savepoint;
    while (it != NULL && it->number != number) {
        it = it->outer;
    }
    return it != NULL;
}

uint32_t
theus_txn_attached_before(const theus_txn *txn, theus_attachment kind)
{
    const theus_container *list = txn->savepoint == NULL ? NULL : txn->savepoint->attached[kind];
    return list == NULL ? 0 : list->count / 2;
}

void
theus_savepoint_release(theus_savepoint *savepoint)
{
    assert(savepoint->txn->savepoint == savepoint);
    savepoint->txn->savepoint = savepoint->outer;
    savepoint_free(savepoint, savepoint->count);
}

void
theus_savepoint_rollback(theus_savepoint *savepoint)
{
    theus_txn *txn = savepoint->txn;
    assert(txn->savepoint == savepoint);

    for (theus_cell *cell = savepoint->last_cell->next; cell != NULL; cell = cell->next) {
        cell->dead = true;
        cell->parent = NULL;
        cell->touched = cell->touched_below = cell->reshaped = false;
        cell->writes.count = 0;
        theus_cell_forget_children(cell);
        theus_cell_retire_deferred(cell, NULL);
    }
    for (uint32_t i = 0; i < savepoint->count; i++) {
        theus_cell_forget_children(savepoint->cells[i].cell);
    }
    for (uint32_t i = 0; i < savepoint->count; i++) {
        saved_cell *saved = &savepoint->cells[i];
        theus_cell *cell = saved->cell;
        /* The savepoint takes the undone content away when it is freed, below. */
        theus_container *undone = cell->now;
        cell->now = saved->now;
        saved->now = undone;
        theus_numbers undone_writes = cell->writes;
        bool was_few = undone_writes.items == cell->writes.few;
        cell->writes = saved->writes;
        if (saved->writes.items == saved->writes.few) {
            cell->writes.items = cell->writes.few;
        }
        saved->writes = undone_writes;
        if (was_few) {
            saved->writes.items = saved->writes.few;
        }
        cell->stale = saved->stale;
        cell->stale_below = saved->stale_below;
        cell->touched = saved->touched;
        cell->touched_below = saved->touched_below;
        cell->deferred_below = saved->deferred_below;
        cell->reshaped = saved->reshaped;
        theus_cell_retire_deferred(cell, saved->deferred);
        cell->stamp++;
        if (saved->parent != NULL) {
            /* As many children as the table has held before: this cannot need memory. */
            theus_status status = theus_cell_adopt(saved->parent, saved->pos, cell);
            assert(status == THEUS_OK);
            (void)status;
        }
        else {
            cell->parent = NULL;
        }
    }
    for (int i = 0; i < THEUS_ATTACHMENTS; i++) {
        theus_container *undone = txn->attached[i];
        txn->attached[i] = savepoint->attached[i];
        savepoint->attached[i] = undone;
    }
    txn->savepoint = savepoint->outer;
    savepoint_free(savepoint, savepoint->count);
}

bool
theus_savepoint_knows(const theus_savepoint *savepoint, uint32_t number, uint32_t pos)
{
    if (savepoint == NULL || number >= savepoint->count) {
        return false;
    }
    const theus_numbers *writes = &savepoint->cells[number].writes;
    for (uint32_t i = 0; i < writes->count; i++) {
        if (writes->items[i] == pos) {
            return true;
        }
    }
    return false;
}

/* ---- what was done since ------------------------------------------------------------ */

typedef struct {
    theus_cell *cell;
    theus_op_fn fn;
    void *arg;
    uint32_t length;
    theus_segment path[THEUS_PATH_ROOM];
} recent_run;

static uint32_t
recent_path(recent_run *run)
{
    uint32_t length = theus_cell_path(run->cell, run->path, THEUS_PATH_ROOM - 1);
    return length < THEUS_PATH_ROOM ? length : THEUS_PATH_ROOM - 1;
}

/* One entry that differs. A place whose child cell is known is left to that cell. */
static int
recent_change(void *arg, theus_change_kind kind, void *key, uint32_t pos_a, theus_value a,
              uint32_t pos_b, theus_value b)
{
    recent_run *run = arg;
    (void)a;
    if (b != THEUS_NONE && kind == THEUS_CHANGED_VALUE && theus_cell_child_at(run->cell, pos_b) != NULL) {
        return 0;
    }
    run->path[run->length].key = run->cell->now->kind == THEUS_LIST ? NULL : key;
    run->path[run->length].index = kind == THEUS_REMOVED ? pos_a : pos_b;
    return run->fn(run->arg, kind == THEUS_REMOVED ? THEUS_OP_DELETE : THEUS_OP_SET, run->path,
                   run->length + 1);
}

/* Compares with equality of keys, which may run a body that writes. So what is compared is sealed, for such a write
 * to go to a copy, and counted; and the keys of the path to it are retained. */
static int
recent_by_content(recent_run *run, void *ctx, theus_cell *cell, theus_container *before, theus_status *status)
{
    theus_container *now = cell->now;
    const theus_value_ops *ops = theus_heap_ops(now->heap);
    void *keys[THEUS_PATH_ROOM];
    uint32_t count = run->length;
    for (uint32_t i = 0; i < count; i++) {
        keys[i] = run->path[i].key;
        if (keys[i] != NULL) {
            ops->retain(keys[i]);
        }
    }
    theus_seal_in_place(now);
    cell->stamp++;
    theus_container_retain(now);
    int result = theus_container_diff(before, now, ctx, recent_change, run, status);
    theus_container_release(now);
    for (uint32_t i = 0; i < count; i++) {
        if (keys[i] != NULL) {
            ops->release(keys[i]);
        }
    }
    return result;
}

static int
recent_of_cell(recent_run *run, void *ctx, theus_container *before, theus_status *status)
{
    theus_cell *cell = run->cell;
    if (cell->now == before && cell->deferred == NULL) {
        return 0;
    }
    run->length = recent_path(run);
    int result = 0;
    if (cell->now != before) {
        result = recent_by_content(run, ctx, cell, before, status);
        run->length = recent_path(run); /* that may have changed, too */
    }
    for (theus_deferral *it = cell->deferred; it != NULL && result == 0; it = it->next) {
        run->path[run->length] = (theus_segment){it->key, it->index};
        result = run->fn(run->arg, (theus_op_kind)(THEUS_OP_ADD + it->kind), run->path, run->length + 1);
    }
    return result;
}

int
theus_txn_recent_operations(theus_txn *txn, void *ctx, theus_op_fn fn, void *arg, theus_status *status)
{
    theus_savepoint *savepoint = txn->savepoint;
    *status = THEUS_OK;
    if (savepoint == NULL) {
        return theus_txn_operations(txn, fn, arg);
    }
    recent_run run = {.fn = fn, .arg = arg};
    int result = 0;
    uint32_t i = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next, i++) {
        if (theus_cell_is_attached(cell)) {
            run.cell = cell;
            result = recent_of_cell(&run, ctx, i < savepoint->count ? savepoint->cells[i].now : cell->first,
                                    status);
        }
    }
    return result;
}
