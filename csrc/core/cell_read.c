/* Reading through cells: every look at base is logged, looks at what the body wrote itself are not. */
#include "cell.h"

#include <assert.h>

enum { ABSENCES_MAX = 4096 }; /* more become one read of the key set */

theus_status
theus_cell_log_absence(theus_cell *cell, uint64_t hash, void *key)
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

bool
theus_cell_base_holds(const theus_cell *cell, uint32_t pos, theus_value value)
{
    return pos < cell->base->span && theus_container_value_at(cell->base, pos) == value;
}

/* Is `value`, which now has at pos, still the one that base has there? Then reading it reads the pinned version. */
static bool
is_from_base(const theus_cell *cell, uint32_t pos, theus_value value)
{
    return cell->now == cell->base || theus_cell_base_holds(cell, pos, value);
}

/* The failure of a find, for who wants more than "failed". */
static theus_find
find_failed(theus_cell *cell, theus_status why)
{
    cell->txn->find_status = why;
    return THEUS_FIND_FAILED;
}

/* Keeps what was found, and logged, for the next one who asks: `d[k] += 1` looks up the same key twice. Atoms only: folding
 * puts containers in their places under one stamp. */
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
        cell->last_number++;
    }
}

/* Without regard to what is deferred. */
static inline theus_find
cell_find(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos, theus_value *value)
{
    if (key == cell->last_key && cell->stamp == cell->last_stamp) {
        *pos = cell->last_pos;
        if (value != NULL) {
            *value = cell->last_value;
        }
        return THEUS_FOUND;
    }
    theus_cell_forget_last(cell);
    for (;;) {
        uint32_t stamp = cell->stamp;
        theus_container *now = cell->now;
        bool passing = now != cell->base; /* equality may run a body that replaces it */
        if (passing) {
            theus_container_retain(now);
        }
        theus_find found = theus_container_find(now, ctx, hash, key, pos, value);
        if (passing) {
            theus_container_release(now);
        }
        if (found == THEUS_FIND_FAILED) {
            return find_failed(cell, THEUS_FOREIGN);
        }
        if (stamp == cell->stamp) {
            return found;
        }
    }
}

/* Logs that something stands at `pos`: then it need not be looked for again. */
static inline theus_find
log_found(theus_cell *cell, void *key, uint32_t pos, theus_value value)
{
    if (!theus_cell_logs_reads(cell)) {
        return THEUS_FOUND;
    }
    if (is_from_base(cell, pos, value) && theus_numbers_push(&cell->reads, pos) != THEUS_OK) {
        return find_failed(cell, THEUS_NOMEM);
    }
    cell_remember(cell, key, pos, value);
    return THEUS_FOUND;
}

/* The key has not been found. Gone by our own hand? Then the pinned version was not asked. */
static theus_find
look_in_base(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos,
             theus_value *value)
{
    for (;;) {
        uint32_t stamp = cell->stamp, base_pos;
        theus_find before = THEUS_ABSENT;
        if (cell->now != cell->base && theus_cell_logs_reads(cell)) {
            before = theus_container_find(cell->base, ctx, hash, key, &base_pos, NULL);
        }
        if (before == THEUS_FIND_FAILED) {
            return find_failed(cell, THEUS_FOREIGN);
        }
        if (stamp == cell->stamp) {
            if (before == THEUS_FOUND || !theus_cell_logs_reads(cell)) {
                return THEUS_ABSENT;
            }
            theus_status status = theus_cell_log_absence(cell, hash, key);
            return status == THEUS_OK ? THEUS_ABSENT : find_failed(cell, status);
        }
        theus_find found = cell_find(cell, ctx, hash, key, pos, value);
        if (found != THEUS_ABSENT) {
            return found == THEUS_FOUND ? log_found(cell, key, *pos, *value) : found;
        }
    }
}

/* cell_find(), logged. */
static theus_find
cell_find_logged(theus_cell *cell, void *ctx, uint64_t hash, void *key, uint32_t *pos,
                 theus_value *value)
{
    theus_find found = cell_find(cell, ctx, hash, key, pos, value);
    return found == THEUS_FOUND    ? log_found(cell, key, *pos, *value)
           : found == THEUS_ABSENT ? look_in_base(cell, ctx, hash, key, pos, value)
                                   : found;
}

/* A cell that only stands for having read all of what base has at a position. */
static theus_status
rely_on_content(theus_cell *cell, uint32_t pos, theus_container *content)
{
    theus_cell *reader;
    theus_status status = theus_cell_new(cell->txn, content, content, &reader);
    if (status == THEUS_OK) {
        reader->home = cell;
        reader->home_pos = pos;
        reader->depth = cell->depth + 1;
        reader->read_all = true;
    }
    return status;
}

theus_status
theus_cell_rely(theus_cell *cell, void *ctx, uint64_t hash, void *key)
{
    if (!theus_cell_logs_reads(cell)) {
        return THEUS_OK;
    }
    uint32_t pos;
    theus_value value;
    theus_find found = theus_container_find(cell->base, ctx, hash, key, &pos, &value);
    if (found == THEUS_FIND_FAILED) {
        return THEUS_FOREIGN;
    }
    if (found == THEUS_ABSENT) {
        return theus_cell_log_absence(cell, hash, key);
    }
    theus_status status = theus_numbers_push(&cell->reads, pos);
    return status != THEUS_OK || theus_value_kind(value) == THEUS_ATOM
               ? status
               : rely_on_content(cell, pos, theus_value_container(value));
}

theus_status
theus_cell_settled(theus_cell *cell, void *ctx)
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
    theus_status status = theus_cell_settled(cell, NULL);
    if (status != THEUS_OK) {
        return status;
    }
    /* Settling may have run a body that shortened it. */
    *value = pos < cell->now->span ? theus_container_value_at(cell->now, pos) : THEUS_NONE;
    if (*value != THEUS_NONE && theus_cell_logs_reads(cell) && is_from_base(cell, pos, *value)) {
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
    if (theus_cell_logs_reads(cell) && known && theus_numbers_push(&cell->reads, pos) != THEUS_OK) {
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
