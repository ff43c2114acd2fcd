#include "node.h"

theus_status
theus_heap_new(const theus_value_ops *ops, theus_heap **out)
{
    *out = NULL;
    theus_heap *heap = theus_alloc(sizeof(*heap));
    if (heap == NULL) {
        return THEUS_NOMEM;
    }
    memset(heap, 0, sizeof(*heap));
    heap->ops = ops;
    heap->chains.items = heap->first_chains;
    heap->chains.room = THEUS_ROSTER_INLINE;
    heap->containers.items = heap->first_containers;
    heap->containers.room = THEUS_ROSTER_INLINE;
    theus_status status = theus_mutex_init(&heap->lock, THEUS_RANK_HEAP, ops->serial);
    if (status != THEUS_OK) {
        theus_free(heap);
        return status;
    }
    *out = heap;
    return THEUS_OK;
}

const theus_value_ops *
theus_heap_ops(const theus_heap *heap)
{
    return heap->ops;
}

void
theus_heap_read_stats(theus_heap *heap, theus_heap_stats *out)
{
    theus_mutex_lock(&heap->lock);
    out->bytes = heap->live_bytes;
    out->nodes = heap->live_nodes;
    out->containers = heap->containers.count;
    theus_mutex_unlock(&heap->lock);
}

/* ---- the end of a heap ------------------------------------------------------- */

/* Empties the containers from the last place down to the first. Releases that re-enter may
 * move a container only from behind us (already empty, or new) to a place before us: so none
 * is missed. Returns whether there was anything to do. */
static bool
heap_empty_containers(theus_heap *heap)
{
    bool found = false;
    theus_mutex_lock(&heap->lock);
    for (uint32_t i = heap->containers.count; i-- > 0;) {
        if (i >= heap->containers.count) {
            continue; /* released behind our back */
        }
        theus_container *container = heap->containers.items[i];
        if (container->entries == NULL) {
            continue;
        }
        found = true;
        theus_grave grave;
        theus_grave_init(&grave);
        theus_container_empty_locked(container, &grave);
        theus_grave_close(heap, &grave);
        theus_mutex_lock(&heap->lock);
    }
    theus_mutex_unlock(&heap->lock);
    return found;
}

static void
roster_fini(theus_roster *roster, void **inline_items)
{
    if (roster->items != inline_items) {
        theus_free(roster->items);
    }
}

void
theus_heap_free(theus_heap *heap)
{
    do { /* again, for what releases may have stored meanwhile */
        while (heap->chains.count > 0
               && ((theus_node *)heap->chains.items[heap->chains.count - 1])->sort == THEUS_CELLS) {
            theus_atoms_free(heap, heap->chains.items[heap->chains.count - 1]);
        }
    } while (heap_empty_containers(heap) || heap->chains.count > 0);

    /* From here on nothing foreign runs. */
    for (uint32_t i = 0; i < heap->containers.count; i++) {
        theus_free(heap->containers.items[i]);
    }
    while (heap->spare_containers != NULL) {
        theus_container *container = heap->spare_containers;
        heap->spare_containers = container->next;
        theus_free(container);
    }
    for (size_t i = 0; i < sizeof(heap->spare_nodes) / sizeof(heap->spare_nodes[0]); i++) {
        while (heap->spare_nodes[i] != NULL) {
            theus_node *node = heap->spare_nodes[i];
            heap->spare_nodes[i] = node->next;
            theus_free(node);
        }
    }
    roster_fini(&heap->chains, heap->first_chains);
    roster_fini(&heap->containers, heap->first_containers);
    theus_mutex_fini(&heap->lock);
    theus_free(heap);
}

/* ---- the collector's side ------------------------------------------------------ */

static uint32_t
node_count_words(const theus_node *node)
{
    return node->sort == THEUS_CELLS ? node->used : theus_node_room(node);
}

static bool
node_owns_atom(const theus_node *node, uint32_t i)
{
    uintptr_t word = node->words[i];
    return word != 0 && theus_value_kind(word) == THEUS_ATOM
           && (node->sort == THEUS_CELLS || (node->borrowed >> i & 1) == 0);
}

int
theus_heap_visit(theus_heap *heap, int (*visit)(void *atom, void *arg), void *arg)
{
    for (uint32_t place = 0; place < heap->chains.count; place++) {
        for (theus_node *node = heap->chains.items[place]; node != NULL; node = node->succ) {
            uint32_t count = node_count_words(node);
            for (uint32_t i = 0; i < count; i++) {
                if (node_owns_atom(node, i)) {
                    int result = visit(theus_value_atom(node->words[i]), arg);
                    if (result != 0) {
                        return result;
                    }
                }
            }
        }
    }
    return 0;
}

/* Puts the placeholder in one word, and in those newer nodes of the chain that borrow it:
 * invariants 2 and 3 hold before and after. Returns what stood there. */
static void *
node_blank_word_locked(theus_heap *heap, theus_node *owner, uint32_t i, void *placeholder)
{
    void *atom = theus_value_atom(owner->words[i]);
    heap->ops->retain(placeholder);
    owner->words[i] = theus_value_of_atom(placeholder);
    if (owner->sort == THEUS_LEAF) {
        for (theus_node *node = owner->succ; node != NULL && (node->borrowed >> i & 1) != 0;
             node = node->succ) {
            node->words[i] = theus_value_of_atom(placeholder);
        }
    }
    return atom;
}

/* Blanks as many atoms of the chain at `place` as fit in the batch; true: that was all. */
static bool
chain_blank_locked(theus_heap *heap, uint32_t place, void *placeholder, theus_grave *batch)
{
    for (theus_node *node = heap->chains.items[place]; node != NULL; node = node->succ) {
        uint32_t count = node_count_words(node);
        for (uint32_t i = 0; i < count; i++) {
            if (!node_owns_atom(node, i) || theus_value_atom(node->words[i]) == placeholder) {
                continue;
            }
            if (batch->count == THEUS_GRAVE_ATOMS) {
                return false;
            }
            batch->atoms[batch->count++] = node_blank_word_locked(heap, node, i, placeholder);
        }
    }
    return true;
}

/* From the last chain down to the first, for the same reason as heap_empty_containers(): what
 * re-entering code adds stands behind us and is not ours to clear, what it removes moves only
 * things from behind us. So one pass is complete, and it ends. */
void
theus_heap_clear(theus_heap *heap, void *placeholder)
{
    theus_mutex_lock(&heap->lock);
    for (uint32_t place = heap->chains.count; place-- > 0;) {
        bool done = place >= heap->chains.count; /* gone meanwhile */
        while (!done) {
            theus_grave batch;
            theus_grave_init(&batch);
            done = chain_blank_locked(heap, place, placeholder, &batch);
            if (batch.count > 0) {
                theus_grave_close(heap, &batch);
                theus_mutex_lock(&heap->lock);
            }
            done = done || place >= heap->chains.count;
        }
    }
    theus_mutex_unlock(&heap->lock);
}
