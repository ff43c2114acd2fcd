/* Entries: a radix trie of positions.
 *
 *     container.entries --> branch --+--> branch --+--> leaf   key 0 | value 0 | key 1 | ...
 *           shift = 10      32 words +--> ...      +--> leaf
 *
 * Position p is found by its bits: the lowest in the leaf, five more per branch above. Atoms lie
 * in the leaves themselves, there are no boxes for entries; a leaf owns them word by word as
 * node.h tells. The trie grows at its right edge only: `span` is the next position, everything
 * at or above it is 0. The last leaf, and the branches on the right edge, start with four words
 * and double, so that small containers are small. After a failed append, or one that the index
 * refused, room for one more may be there already; whoever comes next finds and uses it.
 *
 * Why two structures, positions here and an index of positions beside, and not one hash trie
 * whose entries are boxes with a sequence number? Measured with bench_container.c's atoms, in one
 * process: walking a map in order costs 1.7, 1.8, 2.2 and 24 ns per entry here at 1k, 10k, 100k
 * and 1M keys; gathering boxes in hash order and sorting them (radix, two passes, boxes laid out
 * in insertion order, the best case) 10, 12, 19 and 94, and the first entry comes only after the
 * last. Both copy one path to replace a value: the box has a slot in a node of the hash trie, the
 * position one in a leaf. Both miss the cache twice for a lookup in a large map: segment and leaf
 * here, node and box there. Boxes save the second path that a new key costs, and pay for it with
 * 32 bytes and one allocation per entry, in every write. */
#include "vector.h"

static bool
is_full(const theus_container *container)
{
    return container->span == theus_entries_capacity(container->kind, container->shift);
}

/* The root, writable. */
static theus_node *
root_own_locked(theus_container *edit, theus_grave *grave)
{
    uintptr_t word = (uintptr_t)edit->entries;
    theus_node *root = theus_node_own_locked(edit->heap, NULL, &word, edit->edit, grave);
    edit->entries = theus_node_of_word(word);
    return root;
}

theus_node *
theus_entries_own_locked(theus_container *edit, uint32_t pos, theus_grave *grave)
{
    assert(edit->edit != 0 && pos < edit->span);
    theus_node *node = root_own_locked(edit, grave);
    for (unsigned shift = edit->shift; shift > 0 && node != NULL; shift -= THEUS_BRANCH_BITS) {
        uintptr_t *ref = &node->words[theus_entries_child(edit->kind, shift, pos)];
        node = theus_node_own_locked(edit->heap, node, ref, edit->edit, grave);
    }
    return node;
}

/* A root with room for position span, writable. */
static theus_node *
root_room_locked(theus_container *edit, theus_grave *grave)
{
    theus_heap *heap = edit->heap;
    if (edit->entries == NULL) {
        edit->entries = theus_node_new_locked(heap, THEUS_LEAF, THEUS_NODE_LOG2_MIN, edit->edit);
        return edit->entries;
    }
    if (!is_full(edit)) {
        return root_own_locked(edit, grave);
    }
    theus_node *root = theus_node_new_locked(heap, THEUS_BRANCH, THEUS_NODE_LOG2_MIN, edit->edit);
    if (root != NULL) {
        root->words[0] = (uintptr_t)edit->entries; /* with the container's count */
        edit->entries = root;
        edit->shift += THEUS_BRANCH_BITS;
    }
    return root;
}

/* `node`, or a larger one that has taken its place in *ref, so that words up to i exist. */
static theus_node *
node_reach_locked(theus_heap *heap, theus_node *node, uintptr_t *ref, unsigned i)
{
    while (node != NULL && i >= theus_node_room(node)) {
        node = theus_node_grow_locked(heap, node);
        if (node != NULL) {
            *ref = (uintptr_t)node;
        }
    }
    return node;
}

theus_node *
theus_entries_room_locked(theus_container *edit, theus_grave *grave)
{
    assert(edit->edit != 0 && edit->span < THEUS_SPAN_MAX);
    theus_heap *heap = edit->heap;
    theus_node *node = root_room_locked(edit, grave);
    uintptr_t root = (uintptr_t)edit->entries;
    uintptr_t *ref = &root;
    for (unsigned shift = edit->shift; shift > 0 && node != NULL; shift -= THEUS_BRANCH_BITS) {
        unsigned i = theus_entries_child(edit->kind, shift, edit->span);
        node = node_reach_locked(heap, node, ref, i);
        if (node == NULL) {
            break;
        }
        ref = &node->words[i];
        if (*ref == 0) {
            theus_node_sort sort = shift > THEUS_BRANCH_BITS ? THEUS_BRANCH : THEUS_LEAF;
            theus_node *child = theus_node_new_locked(heap, sort, THEUS_NODE_LOG2_MIN, edit->edit);
            if (child != NULL) {
                theus_node_store_locked(heap, node, i, (uintptr_t)child, grave);
            }
            node = child;
        }
        else {
            node = theus_node_own_locked(heap, node, ref, edit->edit, grave);
        }
    }
    if (node != NULL) {
        unsigned last =
            theus_entries_offset(edit->kind, edit->span) + theus_entries_stride(edit->kind) - 1;
        node = node_reach_locked(heap, node, ref, last);
    }
    edit->entries = theus_node_of_word(root);
    return node;
}

void
theus_entries_fill_locked(theus_container *edit, theus_node *leaf, void *key, theus_value value,
                          theus_grave *grave)
{
    unsigned i = theus_entries_offset(edit->kind, edit->span);
    if (edit->kind == THEUS_MAP) {
        theus_value_take(edit->heap->ops, theus_value_of_atom(key));
        theus_node_store_locked(edit->heap, leaf, i++, theus_value_of_atom(key), grave);
    }
    theus_value_take(edit->heap->ops, value);
    theus_node_store_locked(edit->heap, leaf, i, value, grave);
    edit->span++;
    edit->count++;
}

theus_status
theus_entries_append_locked(theus_container *edit, void *key, theus_value value, theus_grave *grave)
{
    theus_node *leaf = theus_entries_room_locked(edit, grave);
    if (leaf == NULL) {
        return THEUS_NOMEM;
    }
    theus_entries_fill_locked(edit, leaf, key, value, grave);
    return THEUS_OK;
}

/* Clears the words from i on. */
static void
node_cut_locked(theus_heap *heap, theus_node *node, unsigned i, theus_grave *grave)
{
    for (; i < theus_node_room(node); i++) {
        if (node->words[i] != 0) {
            theus_node_store_locked(heap, node, i, 0, grave);
        }
    }
}

/* Takes away roots of which only the first child is needed. */
static void
root_lower_locked(theus_container *edit, theus_grave *grave)
{
    while (edit->shift > 0
           && edit->span <= theus_entries_capacity(edit->kind, edit->shift - THEUS_BRANCH_BITS)) {
        theus_node *root = edit->entries;
        theus_node *child = theus_node_of_word(root->words[0]);
        child->refs++;
        edit->entries = child;
        edit->shift -= THEUS_BRANCH_BITS;
        theus_node_drop_locked(edit->heap, root, grave);
    }
}

theus_status
theus_entries_trim_locked(theus_container *edit, uint32_t span, theus_grave *grave)
{
    assert(edit->kind == THEUS_LIST && span <= edit->span);
    if (span == 0) {
        theus_container_empty_locked(edit, grave);
        return THEUS_OK;
    }
    if (theus_entries_own_locked(edit, span - 1, grave) == NULL) {
        return THEUS_NOMEM;
    }
    theus_node *node = edit->entries; /* writable along the whole path, as we just saw to */
    for (unsigned shift = edit->shift; shift > 0; shift -= THEUS_BRANCH_BITS) {
        unsigned i = theus_entries_child(edit->kind, shift, span - 1);
        node_cut_locked(edit->heap, node, i + 1, grave);
        node = theus_node_of_word(node->words[i]);
    }
    node_cut_locked(edit->heap, node, theus_entries_offset(edit->kind, span - 1) + 1, grave);
    edit->span = span;
    edit->count = span;
    root_lower_locked(edit, grave);
    return THEUS_OK;
}
