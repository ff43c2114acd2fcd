/* What maps, lists and sets have in common: counts, edits, reading by position. */
#include "index.h"
#include "node.h"
#include "vector.h"

/* ---- counts -------------------------------------------------------------- */

void
theus_container_retain(theus_container *container)
{
    /* Relaxed: whoever adds a count already has one to go by. */
    atomic_fetch_add_explicit(&container->refs, 1, memory_order_relaxed);
}

void
theus_container_release(theus_container *container)
{
    if (container == NULL || !theus_container_drop(container)) {
        return;
    }
    theus_heap *heap = container->heap;
    theus_grave grave;
    theus_grave_init(&grave);
    container->next = NULL;
    grave.containers = container;
    theus_mutex_lock(&heap->lock);
    theus_grave_close(heap, &grave);
}

void
theus_value_retain(theus_heap *heap, theus_value value)
{
    if (value != THEUS_NONE) {
        theus_value_take(heap->ops, value);
    }
}

void
theus_value_release(theus_heap *heap, theus_value value)
{
    if (value == THEUS_NONE) {
        return;
    }
    if (theus_value_kind(value) == THEUS_ATOM) {
        heap->ops->release(theus_value_atom(value));
    }
    else {
        theus_container_release(theus_value_container(value));
    }
}

/* ---- making and editing --------------------------------------------------- */

theus_status
theus_container_new(theus_heap *heap, theus_kind kind, theus_container **out)
{
    assert(kind != THEUS_ATOM);
    theus_mutex_lock(&heap->lock);
    theus_container *container = theus_container_alloc_locked(heap);
    if (container != NULL) {
        container->kind = (uint8_t)kind;
        container->shift = 0;
        container->mark = 0;
        container->count = 0;
        container->span = 0;
        container->edit = theus_heap_token_locked(heap);
        container->shape = theus_heap_token_locked(heap);
        container->line = (uint32_t)container->shape;
        container->entries = NULL;
        container->index = NULL;
        container->gap_start = 0;
        container->gap_end = 0;
    }
    theus_mutex_unlock(&heap->lock);
    *out = container;
    return container == NULL ? THEUS_NOMEM : THEUS_OK;
}

theus_container *
theus_edit_begin_locked(theus_container *base)
{
    assert(base->edit == 0);
    theus_container *edit = theus_container_alloc_locked(base->heap);
    if (edit == NULL) {
        return NULL;
    }
    edit->kind = base->kind;
    edit->shift = base->shift;
    edit->mark = base->mark;
    edit->count = base->count;
    edit->span = base->span;
    edit->edit = theus_heap_token_locked(base->heap);
    edit->shape = base->shape;
    edit->line = base->line;
    edit->gap_start = base->gap_start;
    edit->gap_end = base->gap_end;
    edit->entries = base->entries;
    edit->index = base->index;
    if (edit->entries != NULL) {
        edit->entries->refs++;
    }
    if (edit->index != NULL) {
        theus_node_of_word((uintptr_t)edit->index)->refs++;
    }
    return edit;
}

theus_status
theus_edit_begin(theus_container *base, theus_container **out)
{
    theus_mutex_lock(&base->heap->lock);
    *out = theus_edit_begin_locked(base);
    theus_mutex_unlock(&base->heap->lock);
    return *out == NULL ? THEUS_NOMEM : THEUS_OK;
}

void
theus_container_mark(theus_container *edit, uint8_t mark)
{
    assert(edit->edit != 0);
    edit->mark = mark;
}

/* ---- scratch copies --------------------------------------------------------- */

void
theus_scratch_begin(theus_container *scratch, const theus_container *edit, bool share)
{
    theus_heap *heap = edit->heap;
    memset(scratch, 0, sizeof(*scratch));
    scratch->kind = edit->kind;
    scratch->heap = heap;
    theus_mutex_lock(&heap->lock);
    scratch->edit = theus_heap_token_locked(heap);
    scratch->shape = theus_heap_token_locked(heap);
    if (share) {
        assert(edit->kind == THEUS_LIST); /* else there would be an index to share */
        scratch->shift = edit->shift;
        scratch->count = edit->count;
        scratch->span = edit->span;
        scratch->entries = edit->entries;
        if (scratch->entries != NULL) {
            scratch->entries->refs++;
        }
    }
    theus_mutex_unlock(&heap->lock);
}

#define EXCHANGE(type, a, b) \
    do {                     \
        type kept = (a);     \
        (a) = (b);           \
        (b) = kept;          \
    } while (0)

void
theus_scratch_end_locked(theus_container *scratch, theus_container *edit, theus_status status,
                         theus_grave *grave)
{
    if (status == THEUS_OK) {
        EXCHANGE(uint8_t, scratch->shift, edit->shift);
        EXCHANGE(uint32_t, scratch->count, edit->count);
        EXCHANGE(uint32_t, scratch->span, edit->span);
        EXCHANGE(uint64_t, scratch->edit, edit->edit);
        EXCHANGE(uint64_t, scratch->shape, edit->shape);
        EXCHANGE(struct theus_node *, scratch->entries, edit->entries);
        EXCHANGE(void *, scratch->index, edit->index);
        EXCHANGE(uint32_t, scratch->gap_start, edit->gap_start);
        EXCHANGE(uint32_t, scratch->gap_end, edit->gap_end);
    }
    theus_container_empty_locked(scratch, grave);
}

/* ---- sealing ------------------------------------------------------------------ */

/* Compaction: the live entries move together in a trie of their own, and a new index is made
 * from the fragments of the old one. So it asks no key for its hash and calls nothing back. */

struct compaction {
    theus_container *edit;
    theus_container scratch;
    uint32_t *moved; /* old position -> new */
    theus_grave grave;
};

static theus_status
compact_entries(struct compaction *work)
{
    theus_heap *heap = work->edit->heap;
    theus_status status = THEUS_OK;
    uint32_t pos;
    void *key;
    theus_value value;
    theus_cursor cursor;
    theus_cursor_init(&cursor, work->edit, false);
    while (status == THEUS_OK && theus_cursor_next(&cursor, &pos, &key, &value)) {
        work->moved[pos] = work->scratch.span;
        theus_mutex_lock(&heap->lock);
        status = theus_entries_append_locked(&work->scratch, key, value, &work->grave);
        theus_mutex_unlock(&heap->lock);
    }
    return status;
}

static theus_status
compact_index_entry(void *arg, uint32_t fragment, uint32_t pos)
{
    struct compaction *work = arg;
    theus_heap *heap = work->edit->heap;
    theus_mutex_lock(&heap->lock);
    theus_status status =
        theus_index_insert_locked(&work->scratch, fragment, work->moved[pos], &work->grave);
    theus_mutex_unlock(&heap->lock);
    return status;
}

static theus_status
edit_compact(theus_container *edit)
{
    theus_heap *heap = edit->heap;
    struct compaction work;
    work.edit = edit;
    work.moved = theus_alloc(sizeof(uint32_t) * edit->span);
    if (work.moved == NULL) {
        return THEUS_NOMEM;
    }
    theus_grave_init(&work.grave);
    theus_scratch_begin(&work.scratch, edit, false);
    theus_status status = compact_entries(&work);
    if (status == THEUS_OK) {
        status = theus_index_walk(edit, compact_index_entry, &work);
    }
    theus_free(work.moved);
    theus_mutex_lock(&heap->lock);
    theus_scratch_end_locked(&work.scratch, edit, status, &work.grave);
    if (status == THEUS_OK) {
        edit->edit = 0; /* before anything foreign runs */
    }
    theus_grave_close(heap, &work.grave);
    return status;
}

theus_status
theus_edit_seal(theus_container *edit)
{
    if (edit->edit == 0) {
        return THEUS_OK;
    }
    uint32_t holes = edit->span - edit->count;
    if (edit->count > 0 && holes > edit->span / 2) {
        return edit_compact(edit);
    }
    edit->edit = 0;
    if (edit->count == 0 && edit->entries != NULL) {
        theus_grave grave;
        theus_grave_init(&grave);
        theus_mutex_lock(&edit->heap->lock);
        theus_container_empty_locked(edit, &grave);
        theus_grave_close(edit->heap, &grave);
    }
    return THEUS_OK;
}

theus_status
theus_container_clear(theus_container *edit)
{
    assert(edit->edit != 0);
    theus_heap *heap = edit->heap;
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&heap->lock);
    if (edit->count > 0) {
        edit->shape = theus_heap_token_locked(heap);
    }
    theus_container_empty_locked(edit, &grave);
    theus_grave_close(heap, &grave);
    return THEUS_OK;
}

/* ---- reading by position ---------------------------------------------------------- */

theus_value
theus_container_value_at(const theus_container *container, uint32_t pos)
{
    return theus_entries_at(container, pos)[theus_entries_stride(container->kind) - 1];
}

void *
theus_container_key_at(const theus_container *container, uint32_t pos)
{
    assert(container->kind != THEUS_LIST);
    return theus_value_atom(theus_entries_at(container, pos)[0]);
}

theus_value
theus_container_entry_at(const theus_container *container, uint32_t pos, void **key)
{
    const uintptr_t *words = theus_entries_at(container, pos);
    *key = container->kind == THEUS_LIST ? NULL : theus_value_atom(words[0]);
    return words[theus_entries_stride(container->kind) - 1];
}

void
theus_cursor_init(theus_cursor *cursor, const theus_container *container, bool from_end)
{
    cursor->container = container;
    cursor->pos = from_end ? container->span : 0;
    cursor->leaf = NULL;
    cursor->leaf_base = 0;
}

/* The words at `pos`, by way of the leaf that the cursor remembers. */
static inline const uintptr_t *
cursor_words(theus_cursor *cursor, uint32_t pos)
{
    const theus_container *container = cursor->container;
    uint32_t base = pos & ~(((uint32_t)1 << theus_entries_leaf_bits(container->kind)) - 1);
    if (cursor->leaf == NULL || base != cursor->leaf_base) {
        cursor->leaf = theus_entries_leaf(container, pos);
        cursor->leaf_base = base;
    }
    const theus_node *leaf = cursor->leaf;
    return leaf->words + theus_entries_offset(container->kind, pos);
}

/* false: a hole. */
static inline bool
cursor_read(theus_cursor *cursor, uint32_t at, uint32_t *pos, void **key, theus_value *value)
{
    theus_kind kind = cursor->container->kind;
    const uintptr_t *words = cursor_words(cursor, at);
    if (words[0] == 0) {
        return false;
    }
    if (pos != NULL) {
        *pos = at;
    }
    if (key != NULL) {
        *key = kind == THEUS_LIST ? NULL : theus_value_atom(words[0]);
    }
    if (value != NULL) {
        *value = words[theus_entries_stride(kind) - 1];
    }
    return true;
}

bool
theus_cursor_next(theus_cursor *cursor, uint32_t *pos, void **key, theus_value *value)
{
    const theus_container *container = cursor->container;
    while (cursor->pos < container->span) {
        uint32_t at = cursor->pos++;
        if (cursor_read(cursor, at, pos, key, value)) {
            return true;
        }
        if (at >= container->gap_start && at < container->gap_end) {
            cursor->pos = container->gap_end;
        }
    }
    return false;
}

bool
theus_cursor_prev(theus_cursor *cursor, uint32_t *pos, void **key, theus_value *value)
{
    const theus_container *container = cursor->container;
    while (cursor->pos > 0) {
        uint32_t at = --cursor->pos;
        if (cursor_read(cursor, at, pos, key, value)) {
            return true;
        }
        if (at >= container->gap_start && at < container->gap_end) {
            cursor->pos = container->gap_start;
        }
    }
    return false;
}

uint32_t
theus_container_nth(const theus_container *container, uint32_t index)
{
    assert(index < container->count);
    if (container->count == container->span) {
        return index;
    }
    uint32_t pos = 0;
    theus_cursor cursor;
    theus_cursor_init(&cursor, container, false);
    for (uint32_t i = 0; i <= index; i++) {
        bool found = theus_cursor_next(&cursor, &pos, NULL, NULL);
        assert(found);
        (void)found;
    }
    return pos;
}
