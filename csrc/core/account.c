/* What a transaction has seen, and what it has deferred. */
#include "account.h"

#include "cell.h"

/* ---- sights ------------------------------------------------------------------------- */

/* A cell with a base has a log that is validated, also when its container is gone or its savepoint was undone. */
static int
sights_of_cell(const theus_cell *cell, theus_sight_fn fn, void *arg)
{
    theus_segment path[THEUS_PATH_ROOM];
    uint32_t length = theus_cell_home_path(cell, path, THEUS_ACCOUNT_DEPTH);
    if (length > THEUS_ACCOUNT_DEPTH) {
        return fn(arg, THEUS_SAW_ALL, path, THEUS_ACCOUNT_DEPTH);
    }
    if (cell->read_all || (cell->reshaped && theus_cell_is_attached(cell))) {
        return fn(arg, THEUS_SAW_ALL, path, length);
    }
    int result = cell->read_shape ? fn(arg, THEUS_SAW_KEYS, path, length) : 0;
    for (uint32_t i = 0; i < cell->reads.count && result == 0; i++) {
        path[length] = theus_base_segment(cell->base, cell->reads.items[i]);
        result = fn(arg, THEUS_SAW_VALUE, path, length + 1);
    }
    for (const theus_absence *it = cell->absent; it != NULL && result == 0; it = it->next) {
        path[length] = (theus_segment){it->key, 0};
        result = fn(arg, THEUS_SAW_NOTHING, path, length + 1);
    }
    return result;
}

int
theus_txn_sights(theus_txn *txn, theus_sight_fn fn, void *arg)
{
    int result = 0;
    for (const theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next) {
        bool placed = cell->base != NULL && (cell->home != NULL || cell == txn->root);
        if (placed) {
            result = sights_of_cell(cell, fn, arg);
        }
    }
    return result;
}

/* ---- deferred operations ---------------------------------------------------------------- */

static bool
is_told_singly(const theus_cell *cell)
{
    return theus_cell_is_told(cell) && theus_cell_path(cell, NULL, 0) < THEUS_ACCOUNT_DEPTH;
}

/* Applying one may defer more, also on cells that are done: so from the start again after each. */
theus_status
theus_txn_settle_untold(theus_txn *txn)
{
    theus_status status = THEUS_OK;
    theus_cell *cell = txn->root;
    while (cell != NULL && status == THEUS_OK) {
        if (cell->deferred == NULL || cell->settling || is_told_singly(cell)) {
            cell = cell->next;
            continue;
        }
        status = theus_cell_settle(cell, NULL);
        cell = txn->root;
    }
    return status;
}

int
theus_txn_deferrals(theus_txn *txn, theus_deferral_fn fn, void *arg)
{
    theus_segment path[THEUS_PATH_ROOM];
    int result = 0;
    for (theus_cell *cell = txn->root; cell != NULL && result == 0; cell = cell->next) {
        if (cell->deferred == NULL || !is_told_singly(cell)) {
            continue;
        }
        uint32_t length = theus_cell_path(cell, path, THEUS_ACCOUNT_DEPTH);
        cell->deferred = theus_deferrals_reversed(cell->deferred); /* it lists them newest first */
        for (const theus_deferral *it = cell->deferred; it != NULL && result == 0; it = it->next) {
            path[length] = (theus_segment){it->key, it->index};
            result = fn(arg, it->kind, path, length + 1, it->operand, it->resolver);
        }
        cell->deferred = theus_deferrals_reversed(cell->deferred);
    }
    return result;
}
