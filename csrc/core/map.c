/* Maps and sets: keys, found through the index, in the order of the entries. */
#include "index.h"
#include "node.h"
#include "vector.h"

/* ---- finding ------------------------------------------------------------------ */

/* What the comparison of one candidate came to. */
typedef enum { KEY_DIFFERS, KEY_EQUAL, KEY_FAILED, KEY_MOVED } key_verdict;

/* Asks the embedder. The key of an edit is held meanwhile, for equal() may remove it; those of
 * a sealed container stay as long as the caller's count. */
static key_verdict
key_compare(const theus_container *container, void *ctx, void *there, void *key)
{
    const theus_value_ops *ops = container->heap->ops;
    bool may_change = container->edit != 0;
    uint64_t shape = container->shape;
    if (may_change) {
        ops->retain(there);
    }
    int equal = ops->equal(ctx, there, key);
    bool moved = may_change && container->shape != shape;
    if (may_change) {
        ops->release(there); /* may run foreign code as well, so look again: */
        moved = moved || container->shape != shape;
    }
    if (equal < 0) {
        return KEY_FAILED;
    }
    if (moved) {
        return KEY_MOVED;
    }
    return equal ? KEY_EQUAL : KEY_DIFFERS;
}

theus_find
theus_container_find(const theus_container *container, void *ctx, uint64_t hash, void *key,
                     uint32_t *pos, theus_value *value)
{
    assert(container->kind != THEUS_LIST);
    uint32_t fragment = theus_index_fragment(hash);
restart:;
    theus_index_probe probe = theus_index_find(container, fragment);
    uint32_t at;
    while (theus_index_next(&probe, &at)) {
        const uintptr_t *words = theus_entries_at(container, at);
        if (theus_value_atom(words[0]) != key) {
            key_verdict verdict = key_compare(container, ctx, theus_value_atom(words[0]), key);
            if (verdict == KEY_DIFFERS) {
                continue;
            }
            if (verdict == KEY_MOVED) {
                goto restart;
            }
            if (verdict == KEY_FAILED) {
                return THEUS_FIND_FAILED;
            }
            words = theus_entries_at(container, at); /* a put may have copied the path */
        }
        *pos = at;
        if (value != NULL) {
            *value = words[theus_entries_stride(container->kind) - 1];
        }
        return THEUS_FOUND;
    }
    return THEUS_ABSENT;
}

/* ---- writing -------------------------------------------------------------------- */

/* The old value is released last, after unlocking, and is often out of the cache: ask for it
 * now, so that it arrives while the path is copied. */
static void
prefetch(theus_value value)
{
    __builtin_prefetch((const void *)(value & ~THEUS_TAG_MASK), 1);
}

static theus_status
put_locked(theus_container *edit, uint32_t pos, theus_value value, theus_grave *grave)
{
    theus_node *leaf = theus_entries_own_locked(edit, pos, grave);
    if (leaf == NULL) {
        return THEUS_NOMEM;
    }
    unsigned i = theus_entries_offset(edit->kind, pos) + theus_entries_stride(edit->kind) - 1;
    assert(leaf->words[i] != 0); /* a hole has no value to replace */
    theus_value_take(edit->heap->ops, value);
    theus_node_store_locked(edit->heap, leaf, i, value, grave);
    return THEUS_OK;
}

theus_status
theus_container_put(theus_container *edit, uint32_t pos, theus_value value)
{
    assert(edit->edit != 0 && edit->kind != THEUS_SET && value != THEUS_NONE);
    theus_value old = theus_container_value_at(edit, pos);
    if (old == value) {
        return THEUS_OK;
    }
    prefetch(old);
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&edit->heap->lock);
    theus_status status = put_locked(edit, pos, value, &grave);
    theus_grave_close(edit->heap, &grave);
    return status;
}

theus_status
theus_edit_begin_with(theus_container *base, uint32_t pos, theus_value value, theus_container **out)
{
    assert(base->edit == 0 && base->kind != THEUS_SET && value != THEUS_NONE);
    theus_heap *heap = base->heap;
    theus_status status = THEUS_NOMEM;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&heap->lock);
    theus_container *edit = theus_edit_begin_locked(base);
    if (edit != NULL) {
        status = put_locked(edit, pos, value, &grave);
    }
    if (edit != NULL && status != THEUS_OK) {
        theus_value_drop_locked(heap, theus_value_of_container(edit), &grave);
        edit = NULL;
    }
    theus_grave_close(heap, &grave);
    *out = edit;
    return status;
}

theus_status
theus_container_with(theus_container *base, uint32_t pos, theus_value value, theus_container **out)
{
    prefetch(theus_container_value_at(base, pos)); /* for the one that releases base */
    theus_status status = theus_edit_begin_with(base, pos, value, out);
    if (status == THEUS_OK) {
        (*out)->edit = 0;
    }
    return status;
}

theus_status
theus_container_insert(theus_container *edit, uint64_t hash, void *key, theus_value value,
                       uint32_t *pos)
{
    assert(edit->edit != 0 && edit->kind != THEUS_LIST && key != NULL);
    if (edit->span >= THEUS_SPAN_MAX) {
        return THEUS_TOO_BIG;
    }
    theus_heap *heap = edit->heap;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&heap->lock);
    /* First what may fail: room among the entries, which nobody sees, then the index. */
    theus_status status = THEUS_NOMEM;
    theus_node *leaf = theus_entries_room_locked(edit, &grave);
    if (leaf != NULL) {
        status = theus_index_insert_locked(edit, theus_index_fragment(hash), edit->span, &grave);
    }
    if (status == THEUS_OK) {
        if (pos != NULL) {
            *pos = edit->span;
        }
        if (edit->kind == THEUS_SET) {
            value = theus_value_of_atom(key);
        }
        theus_entries_fill_locked(edit, leaf, key, value, &grave);
    }
    /* Also when it failed: nodes of the index may be other ones now, and a search that waits
     * for its equal() goes by the shape. */
    edit->shape = theus_heap_token_locked(heap);
    theus_grave_close(heap, &grave);
    return status;
}

static bool
is_hole(const theus_container *container, uint32_t pos)
{
    return theus_entries_at(container, pos)[0] == 0;
}

/* Position `pos` has become a hole. Joins it to its neighbours, and to the known gap if they
 * touch, but does not look far: a gap that is worth knowing grows by one removal at a time. */
static void
gap_extend(theus_container *edit, uint32_t pos)
{
    enum { REACH = 32 };
    uint32_t start = pos;
    uint32_t end = pos + 1;
    for (int steps = 0; steps < REACH && start > 0; steps++) {
        if (start == edit->gap_end) {
            start = edit->gap_start;
        }
        else if (is_hole(edit, start - 1)) {
            start--;
        }
        else {
            break;
        }
    }
    for (int steps = 0; steps < REACH && end < edit->span; steps++) {
        if (end == edit->gap_start) {
            end = edit->gap_end;
        }
        else if (is_hole(edit, end)) {
            end++;
        }
        else {
            break;
        }
    }
    if (end - start > edit->gap_end - edit->gap_start) {
        edit->gap_start = start;
        edit->gap_end = end;
    }
}

theus_status
theus_container_remove(theus_container *edit, uint64_t hash, uint32_t pos)
{
    assert(edit->edit != 0 && edit->kind != THEUS_LIST);
    theus_heap *heap = edit->heap;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&heap->lock);
    theus_status status = THEUS_NOMEM;
    theus_node *leaf = theus_entries_own_locked(edit, pos, &grave);
    if (leaf != NULL) {
        status = theus_index_remove_locked(edit, theus_index_fragment(hash), pos, &grave);
    }
    if (status == THEUS_OK) {
        unsigned i = theus_entries_offset(edit->kind, pos);
        for (unsigned end = i + theus_entries_stride(edit->kind); i < end; i++) {
            theus_node_store_locked(heap, leaf, i, 0, &grave);
        }
        edit->count--;
        gap_extend(edit, pos);
    }
    edit->shape = theus_heap_token_locked(heap); /* also when it failed, as above */
    theus_grave_close(heap, &grave);
    return status;
}
