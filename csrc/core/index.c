/* The index: an open-addressing hash table that is cut into segments, so that a version
 * can replace one of them.
 *
 *     container.index --> directory --+--> segment   4 to 256 words: fragment | position
 *                          32 words   +--> directory --+--> segment
 *                                     +--> 0           +--> ...
 *
 * A fragment is 32 bits of the mixed hash. Directories branch on its upper bits, five per
 * level; a segment starts probing at its lower bits, linearly. A segment that is three
 * quarters full doubles; at 256 words it becomes a directory of 32 segments, unless the
 * upper bits are used up: then its keys collide indeed, and it doubles without limit.
 *
 * An entry names a position, never a key, so a segment owns nothing: copying one is memcpy,
 * dropping one is free(), and storing under an existing key leaves the index alone. Nothing
 * here calls back: where fragments are equal, map.c compares the keys.
 *
 * A removal closes the gap by moving later entries of the cluster back, so there are no
 * tombstones. Segments do not shrink; the seal rebuilds the index when most of it is gone. */
#include "index.h"

_Static_assert(sizeof(uintptr_t) == 8, "an index entry fills one word");

enum {
    CHILDREN = 1 << THEUS_INDEX_BITS,
    DIRECTORY_LOG2 = THEUS_INDEX_BITS,
};

static uint32_t
segment_limit(unsigned log2)
{
    return (uint32_t)(((uint64_t)3 << log2) / 4);
}

static void
segment_add(theus_node *segment, uint64_t entry)
{
    uint32_t mask = theus_node_room(segment) - 1;
    uint32_t i = (uint32_t)(entry >> 32) & mask;
    while (segment->words[i] != 0) {
        i = (i + 1) & mask;
    }
    segment->words[i] = entry;
    segment->used++;
}

/* The same entries in a segment with twice the words. */
static theus_node *
segment_double_locked(theus_heap *heap, const theus_node *old, uint64_t edit)
{
    theus_node *segment = theus_node_new_locked(heap, THEUS_SEGMENT, old->log2 + 1u, edit);
    if (segment == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < theus_node_room(old); i++) {
        if (old->words[i] != 0) {
            segment_add(segment, old->words[i]);
        }
    }
    return segment;
}

static unsigned
child_of_entry(uint64_t entry, unsigned shift)
{
    return (unsigned)(entry >> (32 + shift)) & (CHILDREN - 1);
}

/* The same entries in a directory that branches on the bits from `shift` on. */
static theus_node *
segment_split_locked(theus_heap *heap, const theus_node *old, unsigned shift, uint64_t edit,
                     theus_grave *grave)
{
    uint32_t counts[CHILDREN] = {0};
    for (uint32_t i = 0; i < theus_node_room(old); i++) {
        if (old->words[i] != 0) {
            counts[child_of_entry(old->words[i], shift)]++;
        }
    }
    theus_node *directory = theus_node_new_locked(heap, THEUS_BRANCH, DIRECTORY_LOG2, edit);
    if (directory == NULL) {
        return NULL;
    }
    for (unsigned i = 0; i < CHILDREN; i++) {
        if (counts[i] == 0) {
            continue;
        }
        unsigned log2 = THEUS_NODE_LOG2_MIN;
        while (segment_limit(log2) < counts[i]) {
            log2++;
        }
        theus_node *segment = theus_node_new_locked(heap, THEUS_SEGMENT, log2, edit);
        if (segment == NULL) {
            theus_node_drop_locked(heap, directory, grave);
            return NULL;
        }
        directory->words[i] = theus_index_word(segment);
    }
    for (uint32_t i = 0; i < theus_node_room(old); i++) {
        if (old->words[i] != 0) {
            unsigned child = child_of_entry(old->words[i], shift);
            segment_add(theus_node_of_word(directory->words[child]), old->words[i]);
        }
    }
    return directory;
}

/* The segment under *ref (the root) for `fragment`, writable and with room for one more. */
static theus_node *
segment_room_locked(theus_container *edit, uintptr_t *ref, uint32_t fragment, theus_grave *grave)
{
    theus_heap *heap = edit->heap;
    theus_node *parent = NULL;
    unsigned shift = THEUS_INDEX_HASH_BITS;
    for (;;) {
        if (*ref == 0) {
            theus_node *fresh =
                theus_node_new_locked(heap, THEUS_SEGMENT, THEUS_NODE_LOG2_MIN, edit->edit);
            if (fresh != NULL) {
                theus_node_replace_locked(heap, parent, ref, theus_index_word(fresh), grave);
            }
            return fresh;
        }
        theus_node *node = theus_node_of_word(*ref);
        if (node->sort == THEUS_BRANCH) {
            parent = theus_node_own_locked(heap, parent, ref, edit->edit, grave);
            if (parent == NULL) {
                return NULL;
            }
            shift -= THEUS_INDEX_BITS;
            ref = &parent->words[(fragment >> shift) & (CHILDREN - 1)];
            continue;
        }
        if (node->used < segment_limit(node->log2)) {
            return theus_node_own_locked(heap, parent, ref, edit->edit, grave);
        }
        bool split = node->log2 >= THEUS_INDEX_SPLIT_LOG2 && shift >= THEUS_INDEX_BITS;
        theus_node *larger =
            split ? segment_split_locked(heap, node, shift - THEUS_INDEX_BITS, edit->edit, grave)
                  : segment_double_locked(heap, node, edit->edit);
        if (larger == NULL) {
            return NULL;
        }
        theus_node_replace_locked(heap, parent, ref, theus_index_word(larger), grave);
    }
}

theus_status
theus_index_insert_locked(theus_container *edit, uint32_t fragment, uint32_t pos,
                          theus_grave *grave)
{
    uintptr_t root = (uintptr_t)edit->index;
    theus_node *segment = segment_room_locked(edit, &root, fragment, grave);
    edit->index = (void *)root; /* perhaps a copy, also when it failed further down */
    if (segment == NULL) {
        return THEUS_NOMEM;
    }
    segment_add(segment, theus_index_entry(fragment, pos));
    return THEUS_OK;
}

/* Empties word i and lets those later entries of the cluster move back that may: an entry
 * may stand anywhere between where its probing starts and the next empty word. */
static void
segment_remove(theus_node *segment, uint32_t i)
{
    uint32_t mask = theus_node_room(segment) - 1;
    for (uint32_t j = (i + 1) & mask; segment->words[j] != 0; j = (j + 1) & mask) {
        uint32_t start = (uint32_t)((uint64_t)segment->words[j] >> 32) & mask;
        if (((j - start) & mask) >= ((j - i) & mask)) {
            segment->words[i] = segment->words[j];
            i = j;
        }
    }
    segment->words[i] = 0;
    segment->used--;
}

/* The segment under *ref (the root) for `fragment`, writable. */
static theus_node *
segment_own_locked(theus_container *edit, uintptr_t *ref, uint32_t fragment, theus_grave *grave)
{
    theus_node *node = NULL;
    for (unsigned shift = THEUS_INDEX_HASH_BITS;; shift -= THEUS_INDEX_BITS) {
        assert(*ref != 0);
        node = theus_node_own_locked(edit->heap, node, ref, edit->edit, grave);
        if (node == NULL || node->sort == THEUS_SEGMENT) {
            return node;
        }
        ref = &node->words[(fragment >> (shift - THEUS_INDEX_BITS)) & (CHILDREN - 1)];
    }
}

theus_status
theus_index_remove_locked(theus_container *edit, uint32_t fragment, uint32_t pos,
                          theus_grave *grave)
{
    uintptr_t root = (uintptr_t)edit->index;
    theus_node *segment = segment_own_locked(edit, &root, fragment, grave);
    edit->index = (void *)root;
    if (segment == NULL) {
        return THEUS_NOMEM;
    }
    uint32_t mask = theus_node_room(segment) - 1;
    uint32_t i = fragment & mask;
    while (segment->words[i] != theus_index_entry(fragment, pos)) {
        assert(segment->words[i] != 0); /* wrong hash, or not the position of this key */
        i = (i + 1) & mask;
    }
    segment_remove(segment, i);
    return THEUS_OK;
}

static theus_status
index_walk_word(uintptr_t word, theus_index_visit_fn visit, void *arg)
{
    if (word == 0) {
        return THEUS_OK;
    }
    theus_status status = THEUS_OK;
    const theus_node *node = theus_node_of_word(word);
    for (uint32_t i = 0; i < theus_node_room(node) && status == THEUS_OK; i++) {
        if (node->sort == THEUS_BRANCH) {
            status = index_walk_word(node->words[i], visit, arg);
        }
        else if (node->words[i] != 0) {
            uint64_t entry = node->words[i];
            status = visit(arg, (uint32_t)(entry >> 32), (uint32_t)entry - 1u);
        }
    }
    return status;
}

theus_status
theus_index_walk(const theus_container *container, theus_index_visit_fn visit, void *arg)
{
    return index_walk_word((uintptr_t)container->index, visit, arg);
}
