/* Is what a transaction has seen still so in the newest version? And if not: what, where.
 *
 * Walks the cells parents first and skips every container that is still the same one: the price follows what both
 * sides touched. Runs without a lock; key equality may run foreign code. */
#include "commit_run.h"

/* ---- saying what is in the way ----------------------------------------------------- */

uint32_t
theus_cell_home_path(const theus_cell *cell, theus_segment *path, uint32_t room)
{
    if (cell->home == NULL) {
        return 0;
    }
    uint32_t length = theus_cell_home_path(cell->home, path, room);
    if (length < room) {
        const theus_container *base = cell->home->base;
        path[length].key = base->kind == THEUS_LIST ? NULL : theus_container_key_at(base, cell->home_pos);
        path[length].index = base->kind == THEUS_LIST ? cell->home_pos : 0;
    }
    return length + 1;
}

/* Keys of a path, kept alive by the heap. NOMEM costs only the path. */
static theus_atoms *
keep_keys(theus_heap *heap, const theus_segment *path, uint32_t length)
{
    void *keys[THEUS_PATH_ROOM];
    uint32_t count = 0;
    for (uint32_t i = 0; i < length; i++) {
        if (path[i].key != NULL) {
            keys[count++] = path[i].key;
        }
    }
    theus_atoms *cells = NULL;
    if (count == 0 || theus_atoms_new(heap, keys, count, &cells) != THEUS_OK) {
        return NULL;
    }
    return cells;
}

verdict
theus_commit_broken(commit_run *run, const theus_cell *cell, const char *what, const theus_segment *last)
{
    theus_conflict *why = run->why;
    uint32_t length = theus_cell_home_path(cell, why->path, THEUS_PATH_ROOM - 1);
    if (length > THEUS_PATH_ROOM - 1) {
        length = THEUS_PATH_ROOM - 1;
    }
    if (last != NULL) {
        why->path[length++] = *last;
    }
    why->length = length;
    why->what = what;
    why->expected = run->txn->pinned->number;
    why->found = run->newest->number;
    why->heap = theus_store_heap(run->txn->store);
    why->cells = keep_keys(why->heap, why->path, length);
    if (why->cells == NULL) { /* nothing keeps the keys: say less rather than something freed */
        for (uint32_t i = 0; i < length; i++) {
            if (why->path[i].key != NULL) {
                why->length = i;
                break;
            }
        }
    }
    return BROKEN;
}

void
theus_conflict_fini(theus_conflict *conflict)
{
    if (conflict->cells != NULL) {
        theus_atoms_free(conflict->heap, conflict->cells);
        conflict->cells = NULL;
    }
}

/* ---- validation ----------------------------------------------------------------------- */

/* What `there` holds for the entry that base has at `pos`. */
static theus_find
same_entry(commit_run *run, const theus_container *base, uint32_t pos,
           const theus_container *there, uint32_t *there_pos, theus_value *value)
{
    if (base->kind == THEUS_LIST || base->shape == there->shape) {
        if (pos >= there->span) {
            return THEUS_ABSENT;
        }
        *there_pos = pos;
        *value = theus_container_value_at(there, pos);
        return *value == THEUS_NONE ? THEUS_ABSENT : THEUS_FOUND;
    }
    void *key = theus_container_key_at(base, pos);
    uint64_t hash;
    if (theus_heap_ops(base->heap)->hash(run->ctx, key, &hash) < 0) {
        return THEUS_FIND_FAILED;
    }
    return theus_container_find(there, run->ctx, hash, key, there_pos, value);
}

theus_segment
theus_base_segment(const theus_container *base, uint32_t pos)
{
    theus_segment segment = {NULL, pos};
    if (base->kind != THEUS_LIST) {
        segment.key = theus_container_key_at(base, pos);
        segment.index = 0;
    }
    return segment;
}

/* Where the cell's container is now: cell->current, or NULL when its place is gone or holds another container. */
static verdict
locate(commit_run *run, theus_cell *cell)
{
    if (cell->home == NULL) {
        cell->current = cell == run->txn->root ? run->newest->root : NULL;
        return HOLDS;
    }
    theus_container *up = cell->home->current;
    if (up == NULL || up == cell->home->base) {
        cell->current = up == NULL ? NULL : cell->base;
        return HOLDS;
    }
    uint32_t pos;
    theus_value value;
    cell->current = NULL;
    switch (same_entry(run, cell->home->base, cell->home_pos, up, &pos, &value)) {
    case THEUS_FIND_FAILED:
        return FAILED;
    case THEUS_FOUND:
        if (theus_value_kind(value) == (theus_kind)cell->base->kind
            && theus_value_container(value)->line == cell->base->line) {
            cell->current = theus_value_container(value);
        }
        return HOLDS;
    default:
        return HOLDS;
    }
}

/* Do two value words mean the same to someone who only fetched them? A nested container that was fetched is
 * answered for by the reads in its own cell. What a mark means is asked without a read, so there it must be the same
 * container, changed at most. */
static bool
fetches_alike(theus_value before, theus_value after)
{
    if (before == after) {
        return true;
    }
    if (theus_value_kind(before) == THEUS_ATOM || theus_value_kind(before) != theus_value_kind(after)) {
        return false;
    }
    const theus_container *old = theus_value_container(before), *new = theus_value_container(after);
    return old->mark == new->mark && (old->mark == 0 || old->line == new->line);
}

static verdict
check_reads(commit_run *run, theus_cell *cell)
{
    const theus_container *base = cell->base, *there = cell->current;
    if (cell->read_all) {
        return theus_commit_broken(run, cell, "content", NULL);
    }
    if (cell->read_shape && base->shape != there->shape) {
        return theus_commit_broken(run, cell, "keys", NULL);
    }
    for (uint32_t i = 0; i < cell->reads.count; i++) {
        uint32_t pos = cell->reads.items[i], there_pos;
        theus_value value = THEUS_NONE;
        theus_find found = same_entry(run, base, pos, there, &there_pos, &value);
        if (found == THEUS_FIND_FAILED) {
            return FAILED;
        }
        if (found == THEUS_ABSENT || !fetches_alike(theus_container_value_at(base, pos), value)) {
            theus_segment last = theus_base_segment(base, pos);
            return theus_commit_broken(run, cell, "value", &last);
        }
    }
    return HOLDS;
}

/* Keys that were looked for in vain, and keys that came and went inside the transaction. Of the latter base may have had
 * an older entry, whose removal is a write of its own. */
static verdict
check_absences(commit_run *run, theus_cell *cell)
{
    const theus_container *base = cell->base, *there = cell->current;
    for (theus_absence *it = cell->absent; it != NULL && base->shape != there->shape; it = it->next) {
        uint32_t pos;
        theus_find found = theus_container_find(there, run->ctx, it->hash, it->key, &pos, NULL);
        if (found == THEUS_FOUND) {
            found = theus_container_find(base, run->ctx, it->hash, it->key, &pos, NULL);
            if (found == THEUS_ABSENT) {
                theus_segment last = {it->key, 0};
                return theus_commit_broken(run, cell, "absence", &last);
            }
        }
        if (found == THEUS_FIND_FAILED) {
            return FAILED;
        }
    }
    return HOLDS;
}

/* First committer wins: no place that this cell wrote has changed since. */
static verdict
check_writes(commit_run *run, theus_cell *cell)
{
    const theus_container *base = cell->base, *there = cell->current;
    for (uint32_t i = 0; i < cell->writes.count; i++) {
        uint32_t pos = cell->writes.items[i], there_pos;
        bool inserted = pos >= base->span || theus_container_value_at(base, pos) == THEUS_NONE;
        const theus_container *named = inserted ? cell->now : base;
        if (inserted && theus_container_value_at(cell->now, pos) == THEUS_NONE) {
            continue; /* came and went: check_absences() has seen to it */
        }
        theus_value value = THEUS_NONE, before = THEUS_NONE;
        theus_find found = same_entry(run, named, pos, there, &there_pos, &value);
        if (found == THEUS_FOUND && inserted) {
            /* A key that was removed and stored again has a new position, and an old value in base. */
            uint32_t base_pos;
            if (same_entry(run, named, pos, base, &base_pos, &before) == THEUS_FIND_FAILED) {
                found = THEUS_FIND_FAILED;
            }
        }
        else if (!inserted) {
            before = theus_container_value_at(base, pos);
        }
        if (found == THEUS_FIND_FAILED) {
            return FAILED;
        }
        if ((found == THEUS_FOUND ? value : THEUS_NONE) != before) {
            theus_segment last = theus_base_segment(named, pos);
            return theus_commit_broken(run, cell, inserted ? "absence" : "value", &last);
        }
    }
    return HOLDS;
}

/* Items of a list are places only while no one moves them. */
static verdict
check_list_writes(commit_run *run, theus_cell *cell)
{
    if (cell->base->shape != cell->current->shape) {
        return theus_commit_broken(run, cell, "keys", NULL);
    }
    return check_writes(run, cell);
}

static verdict
check_cell(commit_run *run, theus_cell *cell)
{
    bool writes = theus_cell_is_attached(cell)
                  && (cell->reshaped || cell->writes.count != 0 || cell->deferred != NULL);
    bool reads = run->txn->isolation == THEUS_SERIALIZABLE
                 && (cell->read_all || cell->read_shape || cell->reads.count != 0);
    if (cell->current == cell->base || !(reads || writes || cell->absent != NULL)) {
        return HOLDS;
    }
    if (cell->current == NULL) {
        return theus_commit_broken(run, cell, "place", NULL);
    }
    if (cell->reshaped && writes) {
        return theus_commit_broken(run, cell, "content", NULL);
    }
    verdict result = reads ? check_reads(run, cell) : HOLDS;
    if (result == HOLDS) {
        result = check_absences(run, cell);
    }
    if (result == HOLDS && writes) {
        if (cell->base->kind == THEUS_LIST) {
            result = check_list_writes(run, cell);
        }
        else if (run->txn->isolation == THEUS_SNAPSHOT) {
            result = check_writes(run, cell);
        }
    }
    return result;
}

verdict
theus_commit_validate(commit_run *run)
{
    verdict result = HOLDS;
    for (theus_cell *cell = run->txn->root; cell != NULL && result == HOLDS; cell = cell->next) {
        result = locate(run, cell);
        if (result == HOLDS && cell->base != NULL) {
            result = check_cell(run, cell);
        }
    }
    return result;
}
