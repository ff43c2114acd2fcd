/* The one commit gate: validate, rebase, publish.
 *
 *     newest = current version
 *     newest is the pinned one?    fold the cells: their root is the candidate
 *     else                         every log still true on newest?  no: conflict
 *                                  replay the writes on newest: that is the candidate
 *     publish(newest -> candidate) lost?  somebody committed meanwhile: again
 *
 * Why this is strictly serializable. Commit order is version order. When T becomes version v, publish has just seen that
 * v - 1 is current, and every log of T is true of v - 1: each value it read is the same word there (a
 * word that T's pin keeps alive, so equal words are the same immutable value), each key it missed is missing, each
 * shape it relied on has the same token. So T run alone on v - 1 would read the same and write the same. A transaction
 * that wrote nothing stands right after the version it pinned. Both points lie between begin and end, so real time is
 * respected. Under SNAPSHOT only written places are compared: first committer wins, write skew is possible.
 *
 * A replay stores and removes keys in the order of their positions. So the content is that of T alone on v - 1, but where
 * others have removed a key that T overwrote, it may stand elsewhere in the order: that is not promised.
 *
 * Progress: publish is lost only to another commit, so somebody always gets through.
 *
 * Validation walks the cells parents first and skips every container that is still the same
 * one: the price follows what both sides touched. All of it runs without a lock; key equality and
 * hashing may run foreign code, which is why publish compares again. */
#include "cell.h"

#include <assert.h>
#include <string.h>

typedef struct {
    theus_txn *txn;
    void *ctx;
    theus_version *newest; /* counted */
    theus_conflict *why;
} commit_run;

typedef enum { HOLDS, BROKEN, FAILED } verdict; /* FAILED: run.status below */

/* ---- saying what is in the way ----------------------------------------------------- */

static uint32_t
home_path(const theus_cell *cell, theus_segment *path, uint32_t room)
{
    if (cell->home == NULL) {
        return 0;
    }
    uint32_t length = home_path(cell->home, path, room);
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

static verdict
broken(commit_run *run, const theus_cell *cell, const char *what, const theus_segment *last)
{
    theus_conflict *why = run->why;
    uint32_t length = home_path(cell, why->path, THEUS_PATH_ROOM - 1);
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

static theus_segment
base_segment(const theus_container *base, uint32_t pos)
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
        return broken(run, cell, "content", NULL);
    }
    if (cell->read_shape && base->shape != there->shape) {
        return broken(run, cell, "keys", NULL);
    }
    for (uint32_t i = 0; i < cell->reads.count; i++) {
        uint32_t pos = cell->reads.items[i], there_pos;
        theus_value value = THEUS_NONE;
        theus_find found = same_entry(run, base, pos, there, &there_pos, &value);
        if (found == THEUS_FIND_FAILED) {
            return FAILED;
        }
        if (found == THEUS_ABSENT || !fetches_alike(theus_container_value_at(base, pos), value)) {
            theus_segment last = base_segment(base, pos);
            return broken(run, cell, "value", &last);
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
                return broken(run, cell, "absence", &last);
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
            theus_segment last = base_segment(named, pos);
            return broken(run, cell, inserted ? "absence" : "value", &last);
        }
    }
    return HOLDS;
}

/* Items of a list are places only while no one moves them. */
static verdict
check_list_writes(commit_run *run, theus_cell *cell)
{
    if (cell->base->shape != cell->current->shape) {
        return broken(run, cell, "keys", NULL);
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
        return broken(run, cell, "place", NULL);
    }
    if (cell->reshaped && writes) {
        return broken(run, cell, "content", NULL);
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

static verdict
validate(commit_run *run)
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

/* ---- the candidate ----------------------------------------------------------------------- */

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
apply_one(commit_run *run, theus_container *edit, const theus_deferral *deferral)
{
    const theus_txn *txn = run->txn;
    uint32_t pos;
    theus_value old, made;
    theus_status status = deferred_target(run, edit, deferral, &pos, &old);
    if (status != THEUS_OK) {
        return status;
    }
    if (old != THEUS_NONE) {
        theus_value_retain(edit->heap, old); /* the edit may let it go while we still hold on to it */
    }
    if (txn->apply(txn->embedder, deferral->kind, old, deferral->operand, deferral->resolver, &made) < 0) {
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
        status = apply_one(run, edit, it);
    }
    cell->deferred = theus_deferrals_reversed(cell->deferred); /* for another round */
    return status;
}

static theus_status build(commit_run *run, theus_cell *cell, theus_container *there,
                          theus_container **out);

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
        status = build(run, child, there == cell->base ? child->base : child->current, &content);
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

/* What the cell's container becomes on top of `there`, its content in the newest version (NULL for one
 * that the body made). Sealed and retained. */
static theus_status
build(commit_run *run, theus_cell *cell, theus_container *there, theus_container **out)
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
    status = build(&run, cell, cell->base, out);
    txn->committing = committing;
    theus_container_release(seen);
    return status;
}

/* (A first signal that failed leaves an empty map.) */
static bool
has_signals(const theus_txn *txn)
{
    return txn->signals != NULL && txn->signals->count != 0;
}

/* The newest signals with those of the body on top. */
static theus_status
build_signals(commit_run *run, theus_container **out)
{
    theus_container *sent = run->txn->signals, *latest = run->newest->signals;
    if (!has_signals(run->txn)) {
        theus_container_retain(latest);
        *out = latest;
        return THEUS_OK;
    }
    theus_container *edit;
    theus_status status = theus_edit_begin(latest, &edit);
    theus_cursor cursor;
    void *topic;
    theus_value payload;
    theus_cursor_init(&cursor, sent, false);
    while (status == THEUS_OK && theus_cursor_next(&cursor, NULL, &topic, &payload)) {
        status = edit_store(run, edit, topic, payload);
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

/* ---- the record -------------------------------------------------------------------------------- */

typedef struct {
    uint32_t sets, deletes, paths, segments;
    uint16_t depth[THEUS_RECORD_PATHS];
    theus_segment kept[THEUS_RECORD_PATHS * THEUS_PATH_ROOM];
} op_summary;

static int
summarise(void *arg, theus_op_kind kind, const theus_segment *path, uint32_t length)
{
    op_summary *summary = arg;
    if (kind == THEUS_OP_DELETE) {
        summary->deletes++;
    }
    else {
        summary->sets++;
    }
    if (summary->paths < THEUS_RECORD_PATHS) {
        memcpy(&summary->kept[summary->segments], path, length * sizeof(*path));
        summary->segments += length;
        summary->depth[summary->paths++] = (uint16_t)length;
    }
    return 0;
}

/* `summary` is large: the caller keeps it, uninitialised but for its counts. */
static theus_status
record_new(theus_txn *txn, op_summary *summary, theus_record **out)
{
    summary->sets = summary->deletes = summary->paths = summary->segments = 0;
    int stopped = theus_txn_operations(txn, summarise, summary);
    assert(stopped == 0); /* summarise never stops it */
    (void)stopped;
    void *keys[THEUS_RECORD_PATHS * THEUS_PATH_ROOM + 1];
    uint32_t count = 0;
    if (txn->process != NULL) {
        keys[count++] = txn->process;
    }
    for (uint32_t i = 0; i < summary->segments; i++) {
        if (summary->kept[i].key != NULL) {
            keys[count++] = summary->kept[i].key;
        }
    }
    theus_record *record;
    theus_status status
        = theus_record_new(txn->store, keys, count, summary->segments, &record);
    if (status != THEUS_OK) {
        return status;
    }
    record->thread = theus_thread_id();
    record->process = txn->process;
    record->sets = summary->sets;
    record->deletes = summary->deletes;
    for (theus_cell *cell = txn->root; cell != NULL; cell = cell->next) {
        theus_numbers_sort(&cell->reads); /* each once */
        record->reads += cell->reads.count;
    }
    record->path_count = summary->paths;
    record->segment_count = summary->segments;
    memcpy(record->depth, summary->depth, summary->paths * sizeof(record->depth[0]));
    memcpy(record->segments, summary->kept, summary->segments * sizeof(theus_segment));
    *out = record;
    return THEUS_OK;
}

/* ---- the gate ------------------------------------------------------------------------------------ */

/* UNCHANGED: everything that the transaction depends on still holds in run->newest. */
static theus_outcome
confirm(commit_run *run, theus_record *record, theus_status *status)
{
    theus_txn *txn = run->txn;
    if (run->newest == txn->pinned) {
        return THEUS_UNCHANGED;
    }
    if (txn->strict) {
        broken(run, txn->root, "strict", NULL);
        return THEUS_CONFLICTED;
    }
    switch (validate(run)) {
    case BROKEN:
        return THEUS_CONFLICTED;
    case FAILED:
        *status = THEUS_FOREIGN;
        return THEUS_COMMIT_FAILED;
    default:
        record->rebased = true;
        return THEUS_UNCHANGED;
    }
}

static theus_status
measure(commit_run *run)
{
    theus_conflict *why = run->why;
    theus_status status
        = why->measured ? THEUS_OK : theus_txn_footprint(run->txn, run->ctx, &why->footprint);
    why->measured = status == THEUS_OK;
    return status;
}

/* Tickets are out: is one in the way? Who has been held up too often stands in line from now on. */
static theus_outcome
ask_at_gate(commit_run *run, theus_turns *turns, theus_status *status)
{
    theus_txn *txn = run->txn;
    *status = measure(run);
    if (*status != THEUS_OK) {
        return THEUS_COMMIT_FAILED;
    }
    bool in_line;
    if (theus_turns_pass(turns, txn->turn, &run->why->footprint.changes, &in_line)) {
        return THEUS_UNCHANGED;
    }
    txn->held_up++;
    if (!in_line && txn->ticket == NULL && txn->held_up >= THEUS_TURN_FAILURES) {
        *status = theus_ticket_new(turns, &run->why->footprint, THEUS_LEASE_NS,
                                   txn->by_task ? theus_thread_id() : 0, &txn->ticket);
        if (*status != THEUS_OK) {
            return THEUS_COMMIT_FAILED;
        }
        txn->turn = txn->ticket->number;
        theus_turns_begin(turns, txn->turn);
    }
    return THEUS_HELD_UP;
}

/* Every commit path (transaction, run, CAS, process) comes through here, once per round. UNCHANGED: not yet, again. */
static theus_outcome
try_commit(commit_run *run, theus_record *record, theus_version **made, theus_status *status)
{
    theus_txn *txn = run->txn;
    theus_turns *turns = theus_store_turns(txn->store);
    uint64_t grants;
    theus_outcome outcome
        = theus_turns_are_out(turns, &grants) ? ask_at_gate(run, turns, status) : THEUS_UNCHANGED;
    if (outcome == THEUS_UNCHANGED) {
        outcome = confirm(run, record, status);
    }
    if (outcome != THEUS_UNCHANGED) {
        return outcome;
    }
    theus_container *root;
    *status = build(run, txn->root, run->newest->root, &root);
    if (*status != THEUS_OK) {
        return THEUS_COMMIT_FAILED;
    }
    theus_container *signals = NULL;
    theus_version *next = NULL;
    *status = build_signals(run, &signals);
    if (*status == THEUS_OK) {
        *status = theus_version_new(txn->store, 0, root, signals, record, &next);
    }
    theus_container_release(root);
    theus_container_release(signals);
    if (*status != THEUS_OK) {
        return THEUS_COMMIT_FAILED;
    }
    if (theus_store_publish(txn->store, run->newest, next, grants) == THEUS_SWAP_LOST) {
        theus_version_release(next);
        return THEUS_UNCHANGED; /* somebody was faster, or has just been given a ticket */
    }
    txn->reserved = false; /* filled */
    *made = next;
    return THEUS_COMMITTED;
}

static void
count(theus_txn *txn, theus_outcome outcome, bool rebased)
{
    theus_counters *counters = theus_store_counters(txn->store);
    switch (outcome) {
    case THEUS_COMMITTED:
        atomic_fetch_add_explicit(&counters->commits, 1, memory_order_relaxed);
        if (rebased) {
            atomic_fetch_add_explicit(&counters->rebases, 1, memory_order_relaxed);
        }
        break;
    case THEUS_UNCHANGED:
        atomic_fetch_add_explicit(&counters->noops, 1, memory_order_relaxed);
        break;
    case THEUS_CONFLICTED:
        atomic_fetch_add_explicit(&counters->conflicts, 1, memory_order_relaxed);
        break;
    case THEUS_COMMIT_FAILED:
    case THEUS_HELD_UP:
        break;
    }
}

theus_outcome
theus_txn_commit(theus_txn *txn, void *ctx, theus_version **made, theus_conflict *why,
                 theus_status *status)
{
    theus_outcome outcome = THEUS_COMMIT_FAILED;
    theus_record *record = NULL;
    op_summary summary;
    commit_run run = {.txn = txn, .ctx = ctx, .why = why};

    *status = THEUS_OK;
    *made = NULL;
    why->cells = NULL;
    why->measured = false;
    txn->committing = true; /* the logs are read from here on: whatever foreign code runs may not add to them */
    if (!txn->root->touched && !txn->root->touched_below && !has_signals(txn)) {
        bool looked = txn->read_only || txn->root->next != NULL || txn->root->read_shape
                      || txn->root->read_all || txn->root->reads.count != 0 || txn->root->absent != NULL;
        theus_counters *counters = theus_store_counters(txn->store);
        atomic_fetch_add_explicit(looked ? &counters->reads : &counters->noops, 1, memory_order_relaxed);
        theus_txn_finish(txn, THEUS_TXN_COMMITTED);
        return THEUS_UNCHANGED;
    }
    *status = record_new(txn, &summary, &record);
    if (*status == THEUS_OK) {
        bool nothing = record->sets + record->deletes == 0 && !has_signals(txn);
        bool again = !nothing || txn->pledged;
        outcome = THEUS_UNCHANGED;
        if (!nothing) {
            *status = theus_txn_reserve(txn);
            if (*status != THEUS_OK) {
                outcome = THEUS_COMMIT_FAILED;
                again = false;
            }
        }
        while (again) {
            /* The usual case needs no count beside that of the transaction. */
            bool same = theus_store_is_current(txn->store, txn->pinned);
            run.newest = same ? txn->pinned : theus_store_pin(txn->store);
            outcome = nothing ? confirm(&run, record, status) : try_commit(&run, record, made, status);
            if (!same) {
                theus_version_release(run.newest);
            }
            again = outcome == THEUS_UNCHANGED && !nothing;
            if (again && txn->deadline_ns != 0 && theus_clock_tick_ns() > txn->deadline_ns) {
                /* Somebody was faster each time: a resolver that commits by itself, for one. */
                outcome = THEUS_COMMIT_FAILED;
                *status = THEUS_LATE;
                again = false;
            }
        }
        if (outcome == THEUS_CONFLICTED && measure(&run) != THEUS_OK) {
            theus_conflict_fini(why);
            outcome = THEUS_COMMIT_FAILED;
            *status = THEUS_FOREIGN;
        }
        count(txn, outcome, record->rebased);
    }
    theus_record_release(record);
    if (outcome == THEUS_HELD_UP) {
        theus_txn_unreserve(txn); /* who is in the way may need the place */
        txn->committing = false;
        return outcome;
    }
    theus_txn_finish(txn, outcome == THEUS_COMMITTED || outcome == THEUS_UNCHANGED
                              ? THEUS_TXN_COMMITTED
                              : THEUS_TXN_ABORTED);
    return outcome;
}
