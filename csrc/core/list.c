/* Lists: positions are indexes, so there are never holes.
 *
 * What happens at the end of a list copies one path per step. Anything else renumbers what
 * comes after, and is done as "cut off the tail, append the new values, append the tail again":
 * O(n), on a scratch copy, so that it happens as a whole or not at all. */
#include "node.h"
#include "vector.h"

/* Where the values to append come from. */
struct source {
    const theus_value *values;   /* either these, */
    const theus_container *list; /* or the values of this list */
    const uint32_t *order;       /* in this order (NULL: as they stand) */
};

static theus_value
source_at(const struct source *source, uint32_t i)
{
    if (source->values != NULL) {
        return source->values[i];
    }
    return theus_container_value_at(source->list, source->order != NULL ? source->order[i] : i);
}

/* Appends items start .. end of the source. Gives the lock away now and then: it may be long. */
static theus_status
list_extend(theus_container *list, const struct source *source, uint32_t start, uint32_t end,
            theus_grave *grave)
{
    enum { REGION = 64 };
    theus_status status = THEUS_OK;
    while (start < end && status == THEUS_OK) {
        uint32_t stop = end - start < REGION ? end : start + REGION;
        theus_mutex_lock(&list->heap->lock);
        for (; start < stop && status == THEUS_OK; start++) {
            status = theus_entries_append_locked(list, NULL, source_at(source, start), grave);
        }
        theus_mutex_unlock(&list->heap->lock);
    }
    return status;
}

/* The general splice. The tail is read from the edit, which stands until the end. */
static theus_status
list_rebuild(theus_container *scratch, const theus_container *edit, uint32_t start, uint32_t drop,
             const struct source *fresh, uint32_t count, theus_grave *grave)
{
    struct source tail = {.list = edit};
    theus_mutex_lock(&edit->heap->lock);
    theus_status status = theus_entries_trim_locked(scratch, start, grave);
    theus_mutex_unlock(&edit->heap->lock);
    if (status == THEUS_OK) {
        status = list_extend(scratch, fresh, 0, count, grave);
    }
    if (status == THEUS_OK) {
        status = list_extend(scratch, &tail, start + drop, edit->span, grave);
    }
    return status;
}

/* Stores values 0 .. count-1 of the source from position `start` on. */
static theus_status
list_overwrite(theus_container *scratch, uint32_t start, const struct source *source,
               uint32_t count, theus_grave *grave)
{
    theus_heap *heap = scratch->heap;
    for (uint32_t i = 0; i < count; i++) {
        theus_mutex_lock(&heap->lock);
        theus_node *leaf = theus_entries_own_locked(scratch, start + i, grave);
        if (leaf != NULL) {
            theus_value value = source_at(source, i);
            theus_value_take(heap->ops, value);
            theus_node_store_locked(heap, leaf, theus_entries_offset(THEUS_LIST, start + i), value,
                                    grave);
        }
        /* If what fell is released here, it is not for the last time: the edit has it too. */
        theus_grave_close(heap, grave);
        if (leaf == NULL) {
            return THEUS_NOMEM;
        }
    }
    return THEUS_OK;
}

static theus_status
list_splice_scratch(theus_container *scratch, const theus_container *edit, uint32_t start,
                    uint32_t drop, const struct source *fresh, uint32_t count, theus_grave *grave)
{
    bool at_end = start + drop == edit->span;
    if (!at_end && drop != count) {
        return list_rebuild(scratch, edit, start, drop, fresh, count, grave);
    }
    uint32_t common = drop < count ? drop : count;
    theus_status status = list_overwrite(scratch, start, fresh, common, grave);
    if (status == THEUS_OK && drop > count) {
        theus_mutex_lock(&edit->heap->lock);
        status = theus_entries_trim_locked(scratch, start + count, grave);
        theus_mutex_unlock(&edit->heap->lock);
    }
    else if (status == THEUS_OK) {
        status = list_extend(scratch, fresh, common, count, grave);
    }
    return status;
}

/* Puts in place what has become of the scratch copy. */
static theus_status
list_finish(theus_container *scratch, theus_container *edit, theus_status status,
            theus_grave *grave)
{
    if (scratch->count == edit->count) {
        scratch->shape = edit->shape; /* the keys of a list are its positions: the same ones */
    }
    theus_mutex_lock(&edit->heap->lock);
    theus_scratch_end_locked(scratch, edit, status, grave);
    theus_grave_close(edit->heap, grave);
    return status;
}

/* One step at the end of the list needs no scratch copy: it happens as a whole anyway. */
static theus_status
list_step_at_end(theus_container *edit, uint32_t drop, const struct source *fresh)
{
    theus_heap *heap = edit->heap;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&heap->lock);
    theus_status status =
        drop > 0 ? theus_entries_trim_locked(edit, edit->span - drop, &grave)
                 : theus_entries_append_locked(edit, NULL, source_at(fresh, 0), &grave);
    if (status == THEUS_OK) {
        edit->shape = theus_heap_token_locked(heap);
    }
    theus_grave_close(heap, &grave);
    return status;
}

theus_status
theus_list_splice(theus_container *edit, uint32_t start, uint32_t drop, const theus_value *values,
                  uint32_t count)
{
    assert(edit->edit != 0 && edit->kind == THEUS_LIST);
    assert(start <= edit->span && drop <= edit->span - start);
    if (count > drop && count - drop > THEUS_SPAN_MAX - edit->span) {
        return THEUS_TOO_BIG;
    }
    if (drop == 0 && count == 0) {
        return THEUS_OK;
    }
    struct source fresh = {.values = values};
    if (start + drop == edit->span && (count == 0 || (drop == 0 && count == 1))) {
        return list_step_at_end(edit, drop, &fresh);
    }
    theus_container scratch;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_scratch_begin(&scratch, edit, true);
    theus_status status = list_splice_scratch(&scratch, edit, start, drop, &fresh, count, &grave);
    return list_finish(&scratch, edit, status, &grave);
}

theus_status
theus_list_permute(theus_container *edit, const uint32_t *order)
{
    assert(edit->edit != 0 && edit->kind == THEUS_LIST);
    struct source sorted = {.list = edit, .order = order};
    theus_container scratch;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_scratch_begin(&scratch, edit, false);
    theus_status status = list_extend(&scratch, &sorted, 0, edit->span, &grave);
    return list_finish(&scratch, edit, status, &grave);
}
