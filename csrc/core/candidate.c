/* The content that a commit would publish: the cells folded, or their writes replayed on what others have
 * made meanwhile, with the deferred operations applied to what stands there now.
 *
 * A replay stores and removes keys in the order of their positions. So the content is that of the transaction alone
 * on the version before it, but where others have removed a key that it overwrote, that key may stand elsewhere in the
 * order: this is not promised. */
#include "commit_run.h"

/* Stores under a key of `edit`, wherever that key stands. */
static theus_status
edit_store(commit_run *run, theus_container *edit, void *key, theus_value value)
{
    uint64_t hash;
    uint32_t pos;
    if (theus_heap_ops(edit->heap)->hash(run->ctx, key, &hash) < 0) {
        return THEUS_FOREIGN;
    }
    switch (theus_container_find(edit, run->ctx, hash, key, &pos, NULL)) {
    case THEUS_FOUND:
        return edit->kind == THEUS_SET ? THEUS_OK : theus_container_put(edit, pos, value);
    case THEUS_ABSENT:
        return theus_container_insert(edit, hash, key, value, NULL);
    default:
        return THEUS_FOREIGN;
    }
}

static theus_status
edit_remove(commit_run *run, theus_container *edit, void *key)
{
    uint64_t hash;
    uint32_t pos;
    if (theus_heap_ops(edit->heap)->hash(run->ctx, key, &hash) < 0) {
        return THEUS_FOREIGN;
    }
    switch (theus_container_find(edit, run->ctx, hash, key, &pos, NULL)) {
    case THEUS_FOUND:
        return theus_container_remove(edit, hash, pos);
    case THEUS_ABSENT:
        return THEUS_OK;
    default:
        return THEUS_FOREIGN;
    }
}

/* Repeats the cell's own writes on `edit`, an edit of what others have made of its container. */
static theus_status
replay(commit_run *run, theus_cell *cell, theus_container *edit)
{
    const theus_container *base = cell->base, *now = cell->now;
    theus_status status = THEUS_OK;
    theus_numbers_sort(&cell->writes);
    for (uint32_t i = 0; i < cell->writes.count && status == THEUS_OK; i++) {
        uint32_t pos = cell->writes.items[i];
        theus_value value = theus_container_value_at(now, pos);
        if (base->kind == THEUS_LIST) {
            status = theus_container_put(edit, pos, value); /* validated: the positions stand */
        }
        else if (value != THEUS_NONE) {
            status = edit_store(run, edit, theus_container_key_at(now, pos), value);
        }
        else if (pos < base->span && theus_container_value_at(base, pos) != THEUS_NONE) {
            status = edit_remove(run, edit, theus_container_key_at(base, pos));
        }
    }
    return status;
}

/* What stands where a deferred operation goes: *old, borrowed, or THEUS_NONE. */
static theus_status
deferred_target(commit_run *run, const theus_container *edit, const theus_deferral *deferral,
                uint32_t *pos, theus_value *old)
{
    *pos = deferral->index;
    *old = THEUS_NONE;
    if (deferral->key == NULL) {
        if (*pos >= edit->count) {
            return THEUS_BAD_PATH;
        }
        *old = theus_container_value_at(edit, *pos);
        return THEUS_OK;
    }
    theus_find found
        = theus_container_find(edit, run->ctx, deferral->hash, deferral->key, pos, old);
    return found == THEUS_FIND_FAILED ? THEUS_FOREIGN : THEUS_OK;
}

static theus_status
apply_one(commit_run *run, theus_container *edit, theus_cell *cell, const theus_deferral *deferral)
{
    uint32_t pos;
    theus_value old, made;
    theus_status status = deferred_target(run, edit, deferral, &pos, &old);
    if (status != THEUS_OK) {
        return status;
    }
    if (old != THEUS_NONE) {
        theus_value_retain(edit->heap, old); /* the edit may let it go while we still hold on to it */
    }
    if (theus_deferral_apply(cell, deferral, old, &made) < 0) {
        status = THEUS_FOREIGN;
    }
    else {
        status = deferral->key != NULL ? edit_store(run, edit, deferral->key, made)
                                       : theus_container_put(edit, pos, made);
        theus_value_release(edit->heap, made);
    }
    if (old != THEUS_NONE) {
        theus_value_release(edit->heap, old);
    }
    return status;
}

static theus_status
apply_deferred(commit_run *run, theus_container *edit, theus_cell *cell)
{
    theus_status status = THEUS_OK;
    cell->deferred = theus_deferrals_reversed(cell->deferred);
    for (theus_deferral *it = cell->deferred; it != NULL && status == THEUS_OK; it = it->next) {
        status = apply_one(run, edit, cell, it);
    }
    cell->deferred = theus_deferrals_reversed(cell->deferred); /* for another round */
    return status;
}

/* Puts what each changed child has become into `edit`; `same_positions` when edit began as cell->now. */
static theus_status
build_children(commit_run *run, theus_cell *cell, theus_container *there, theus_container *edit,
               bool same_positions)
{
    theus_status status = THEUS_OK;
    for (uint32_t i = 0; i < cell->child_room && status == THEUS_OK; i++) {
        theus_cell *child = cell->children[i];
        if (child == NULL || !(child->touched || child->touched_below)) {
            continue;
        }
        theus_container *content;
        status = theus_commit_build(run, child, there == cell->base ? child->base : child->current, &content);
        if (status != THEUS_OK) {
            break;
        }
        theus_value value = theus_value_of_container(content);
        status = same_positions || cell->now->kind == THEUS_LIST
                     ? theus_container_put(edit, child->pos, value)
                     : edit_store(run, edit, theus_container_key_at(cell->now, child->pos), value);
        theus_container_release(content);
    }
    return status;
}

/* Replaces *content by what the embedder lets pass. */
static theus_status
admit(commit_run *run, theus_cell *cell, theus_container **content)
{
    theus_container *passed;
    if (run->txn->admit == NULL) {
        return THEUS_OK;
    }
    if (run->txn->admit(run->txn->embedder, cell, *content, &passed) < 0) {
        return THEUS_FOREIGN;
    }
    theus_container_release(*content);
    *content = passed;
    return THEUS_OK;
}

theus_status
theus_commit_build(commit_run *run, theus_cell *cell, theus_container *there, theus_container **out)
{
    bool same = there == cell->base || cell->base == NULL;
    theus_status status = THEUS_OK;
    theus_container *result = NULL;

    if (!cell->touched && !cell->touched_below) { /* signals alone */
        theus_container_retain(there);
        *out = there;
        return THEUS_OK;
    }

    if (same && !cell->deferred_below && !run->txn->asks) {
        return theus_cell_content(cell, out);
    }
    /* On a copy, which the seal below may compact: the cell keeps its positions for another round. */
    if (same) {
        theus_seal_in_place(cell->now); /* to be copied */
    }
    status = theus_edit_begin(same ? cell->now : there, &result);
    if (status == THEUS_OK && !same) {
        status = replay(run, cell, result);
    }
    if (status == THEUS_OK) {
        status = build_children(run, cell, there, result, same);
    }
    if (status == THEUS_OK) {
        status = apply_deferred(run, result, cell);
    }
    if (status == THEUS_OK) {
        status = theus_edit_seal(result);
    }
    if (status == THEUS_OK && (result->mark & THEUS_MARK_ADMIT) != 0) {
        status = admit(run, cell, &result);
    }
    if (status != THEUS_OK) {
        theus_container_release(result);
        return status;
    }
    *out = result;
    return THEUS_OK;
}

theus_status
theus_cell_admitted(theus_cell *cell, void *ctx, theus_container **out)
{
    theus_txn *txn = cell->txn;
    theus_status status = theus_cell_freeze(cell, out);
    if (status != THEUS_OK || !txn->asks || !(cell->touched || cell->touched_below)) {
        return status;
    }
    theus_container *seen = *out;
    commit_run run = {.txn = txn, .ctx = ctx};
    bool committing = txn->committing;
    txn->committing = true; /* what admit() runs may not change the cells that are being walked */
    status = theus_commit_build(&run, cell, cell->base, out);
    txn->committing = committing;
    theus_container_release(seen);
    return status;
}

theus_status
theus_commit_build_signals(commit_run *run, theus_container **out)
{
    theus_container *sent = run->txn->attached[THEUS_SIGNALS], *latest = run->newest->signals;
    if (sent == NULL) {
        theus_container_retain(latest);
        *out = latest;
        return THEUS_OK;
    }
    theus_container *edit;
    theus_status status = theus_edit_begin(latest, &edit);
    for (uint32_t i = 0; i < sent->count && status == THEUS_OK; i += 2) {
        status = edit_store(run, edit, theus_value_atom(theus_container_value_at(sent, i)),
                            theus_container_value_at(sent, i + 1));
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
