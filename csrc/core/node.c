#include "node.h"

/* ---- memory ---------------------------------------------------------------- */

/* Spare nodes make the steady state of an engine (a path made, a path freed) free of malloc. They
 * are bounded size by size: one that is rarely asked for must not crowd out the others. (With one
 * bound for all, what splitting segments had left behind filled it for ever, and a write to a map
 * of 10 000 keys spent a third of its instructions in malloc.) One spare is always kept; more only
 * as a fraction of what lives, so that a small map stays small. */
static bool
spare_is_wanted_locked(const theus_heap *heap, uint8_t count, size_t size)
{
    enum { SPARE_MAX = 32, FRACTION = 8 };
    return count == 0 || (count < SPARE_MAX && size * (count + 1u) <= heap->live_bytes / FRACTION);
}

static size_t
node_size(unsigned log2)
{
    return sizeof(theus_node) + (sizeof(uintptr_t) << log2);
}

static theus_node *
node_alloc_locked(theus_heap *heap, unsigned log2)
{
    assert(theus_mutex_is_mine(&heap->lock));
    unsigned i = log2 - THEUS_NODE_LOG2_MIN;
    theus_node *node = i < THEUS_NODE_SPARE_SIZES ? heap->spare_nodes[i] : NULL;
    if (node != NULL) {
        heap->spare_nodes[i] = node->next;
        heap->spare_node_counts[i]--;
    }
    else {
        node = theus_alloc(node_size(log2));
        if (node == NULL) {
            return NULL;
        }
        assert(((uintptr_t)node & THEUS_NODE_TAGS) == 0);
    }
    heap->live_bytes += node_size(log2);
    heap->live_nodes++;
    node->log2 = (uint8_t)log2;
    return node;
}

static void
node_recycle_locked(theus_heap *heap, theus_node *node)
{
    unsigned i = node->log2 - THEUS_NODE_LOG2_MIN;
    size_t size = node_size(node->log2);
    heap->live_bytes -= size;
    heap->live_nodes--;
    if (i < THEUS_NODE_SPARE_SIZES
        && spare_is_wanted_locked(heap, heap->spare_node_counts[i], size)) {
        node->next = heap->spare_nodes[i];
        heap->spare_nodes[i] = node;
        heap->spare_node_counts[i]++;
    }
    else {
        theus_free(node);
    }
}

/* ---- rosters ---------------------------------------------------------------- */

theus_status
theus_roster_reserve(theus_roster *roster, void **inline_items)
{
    if (roster->count < roster->room) {
        return THEUS_OK;
    }
    if (roster->room > UINT32_MAX / 2) {
        return THEUS_NOMEM;
    }
    size_t size = sizeof(void *) * roster->room * 2;
    bool was_inline = roster->items == inline_items;
    void **items = theus_realloc(was_inline ? NULL : roster->items, size);
    if (items == NULL) {
        return THEUS_NOMEM;
    }
    if (was_inline) {
        memcpy(items, inline_items, sizeof(void *) * roster->count);
    }
    roster->items = items;
    roster->room *= 2;
    return THEUS_OK;
}

uint32_t
theus_roster_add(theus_roster *roster, void *item)
{
    assert(roster->count < roster->room);
    roster->items[roster->count] = item;
    return roster->count++;
}

void *
theus_roster_remove(theus_roster *roster, uint32_t place)
{
    assert(place < roster->count);
    void *last = roster->items[--roster->count];
    roster->items[place] = last;
    return place == roster->count ? NULL : last;
}

static void
chain_leave_locked(theus_heap *heap, theus_node *node)
{
    assert(heap->chains.items[node->place] == node);
    theus_node *moved = theus_roster_remove(&heap->chains, node->place);
    if (moved != NULL) {
        moved->place = node->place;
    }
}

/* ---- making ------------------------------------------------------------------ */

/* Fills in the header of a node that starts a chain. NULL: no memory, the node is gone. */
static theus_node *
node_start_locked(theus_heap *heap, theus_node *node, theus_node_sort sort, uint64_t edit)
{
    node->borrowed = 0;
    node->origin = NULL;
    node->succ = NULL;
    node->refs = 1;
    node->edit = edit;
    node->sort = (uint8_t)sort;
    node->used = 0;
    if (sort == THEUS_LEAF || sort == THEUS_CELLS) {
        if (theus_roster_reserve(&heap->chains, heap->first_chains) != THEUS_OK) {
            node_recycle_locked(heap, node);
            return NULL;
        }
        node->place = theus_roster_add(&heap->chains, node);
    }
    return node;
}

theus_node *
theus_node_new_locked(theus_heap *heap, theus_node_sort sort, unsigned log2, uint64_t edit)
{
    theus_node *node = node_alloc_locked(heap, log2);
    if (node == NULL) {
        return NULL;
    }
    memset(node->words, 0, sizeof(uintptr_t) << log2);
    return node_start_locked(heap, node, sort, edit);
}

/* A copy that owns and counts everything: what a path copy usually is, and here only a
 * branch of history needs. */
static void
node_count_words_locked(theus_heap *heap, theus_node *node)
{
    if (node->sort == THEUS_SEGMENT) {
        return;
    }
    for (uint32_t i = 0; i < theus_node_room(node); i++) {
        if (node->words[i] == 0) {
            continue;
        }
        if (node->sort == THEUS_BRANCH) {
            theus_node_of_word(node->words[i])->refs++;
        }
        else {
            theus_value_take(heap->ops, node->words[i]);
        }
    }
}

theus_node *
theus_node_copy_locked(theus_heap *heap, theus_node *node, uint64_t edit)
{
    theus_node *copy = node_alloc_locked(heap, node->log2);
    if (copy == NULL) {
        return NULL;
    }
    memcpy(copy->words, node->words, sizeof(uintptr_t) << node->log2);
    if (node->sort == THEUS_SEGMENT || node->succ != NULL) {
        copy = node_start_locked(heap, copy, node->sort, edit);
        if (copy != NULL) {
            copy->used = node->used;
            node_count_words_locked(heap, copy);
        }
        return copy;
    }
    copy->borrowed = theus_node_mask(node);
    copy->origin = node;
    copy->succ = NULL;
    copy->refs = 1;
    copy->edit = edit;
    copy->sort = node->sort;
    copy->used = node->used;
    node->succ = copy;
    return copy;
}

theus_node *
theus_node_grow_locked(theus_heap *heap, theus_node *node)
{
    assert(node->succ == NULL && node->refs == 1 && node->log2 < THEUS_NODE_LOG2_OWNED);
    theus_node *grown = node_alloc_locked(heap, node->log2 + 1u);
    if (grown == NULL) {
        return NULL;
    }
    size_t size = sizeof(uintptr_t) << node->log2;
    memcpy(grown->words, node->words, size);
    memset((char *)grown->words + size, 0, size);
    grown->borrowed = node->borrowed;
    grown->origin = node->origin;
    grown->succ = NULL;
    grown->refs = 1;
    grown->place = node->place;
    grown->edit = node->edit;
    grown->sort = node->sort;
    grown->used = node->used;
    if (grown->origin != NULL) {
        grown->origin->succ = grown;
    }
    else if (grown->sort == THEUS_LEAF) {
        heap->chains.items[grown->place] = grown;
    }
    node_recycle_locked(heap, node);
    return grown;
}

/* ---- writing ----------------------------------------------------------------- */

void
theus_node_store_locked(theus_heap *heap, theus_node *node, unsigned i, uintptr_t word,
                        theus_grave *grave)
{
    assert(theus_mutex_is_mine(&heap->lock));
    assert(node->succ == NULL && i < theus_node_room(node));
    uint64_t bit = (uint64_t)1 << i;
    uintptr_t old = node->words[i];
    node->words[i] = word;
    if ((node->borrowed & bit) != 0) {
        node->borrowed &= ~bit;
    }
    else if (old != 0) {
        if (node->sort == THEUS_BRANCH) {
            theus_node_drop_locked(heap, theus_node_of_word(old), grave);
        }
        else {
            theus_value_drop_locked(heap, old, grave);
        }
    }
}

void
theus_node_replace_locked(theus_heap *heap, theus_node *parent, uintptr_t *ref, uintptr_t word,
                          theus_grave *grave)
{
    if (parent != NULL) {
        theus_node_store_locked(heap, parent, (unsigned)(ref - parent->words), word, grave);
        return;
    }
    uintptr_t old = *ref;
    *ref = word;
    if (old != 0) {
        theus_node_drop_locked(heap, theus_node_of_word(old), grave);
    }
}

theus_node *
theus_node_own_locked(theus_heap *heap, theus_node *parent, uintptr_t *ref, uint64_t edit,
                      theus_grave *grave)
{
    theus_node *node = theus_node_of_word(*ref);
    if (node->edit == edit) {
        return node;
    }
    theus_node *copy = theus_node_copy_locked(heap, node, edit);
    if (copy != NULL) {
        theus_node_replace_locked(heap, parent, ref, (uintptr_t)copy | (*ref & THEUS_NODE_TAGS),
                                  grave);
    }
    return copy;
}

/* ---- death ------------------------------------------------------------------- */

void
theus_node_drop_locked(theus_heap *heap, theus_node *node, theus_grave *grave)
{
    assert(theus_mutex_is_mine(&heap->lock));
    (void)heap;
    assert(node->refs > 0);
    if (--node->refs == 0) {
        node->next = grave->nodes;
        grave->nodes = node;
    }
}

void
theus_value_drop_locked(theus_heap *heap, theus_value value, theus_grave *grave)
{
    assert(theus_mutex_is_mine(&heap->lock));
    (void)heap;
    if (theus_value_kind(value) == THEUS_ATOM) {
        assert(grave->count < THEUS_GRAVE_ATOMS);
        grave->atoms[grave->count++] = theus_value_atom(value);
        return;
    }
    theus_container *container = theus_value_container(value);
    if (theus_container_drop(container)) {
        container->next = grave->containers;
        grave->containers = container;
    }
}

/* The heart of node.h: what a dying node owns passes to its successor as far as that one
 * still borrows it; the rest falls. */
static void
node_bury_locked(theus_heap *heap, theus_node *node, theus_grave *grave)
{
    theus_node *origin = node->origin;
    theus_node *succ = node->succ;
    if (node->sort != THEUS_SEGMENT) {
        uint64_t falls = theus_node_mask(node) & ~node->borrowed;
        if (succ != NULL) {
            uint64_t passes = falls & succ->borrowed;
            succ->borrowed ^= passes;
            falls ^= passes;
            succ->origin = origin;
        }
        if (origin != NULL) {
            origin->succ = succ;
        }
        else if (node->sort == THEUS_LEAF) {
            if (succ != NULL) {
                succ->place = node->place;
                heap->chains.items[succ->place] = succ;
            }
            else {
                chain_leave_locked(heap, node);
            }
        }
        for (; falls != 0; falls &= falls - 1) {
            uintptr_t word = node->words[__builtin_ctzll(falls)];
            if (word == 0) {
                continue;
            }
            if (node->sort == THEUS_BRANCH) {
                theus_node_drop_locked(heap, theus_node_of_word(word), grave);
            }
            else {
                theus_value_drop_locked(heap, word, grave);
            }
        }
    }
    node_recycle_locked(heap, node);
}

static void
container_bury_locked(theus_heap *heap, theus_container *container, theus_grave *grave)
{
    theus_container_empty_locked(container, grave);
    theus_container *moved = theus_roster_remove(&heap->containers, container->place);
    if (moved != NULL) {
        moved->place = container->place;
    }
    heap->live_bytes -= sizeof(theus_container);
    if (spare_is_wanted_locked(heap, heap->spare_container_count, sizeof(theus_container))) {
        container->next = heap->spare_containers;
        heap->spare_containers = container;
        heap->spare_container_count++;
    }
    else {
        theus_free(container);
    }
}

/* Takes apart what hangs in the grave, children before it is done with parents: the lists are
 * the stack, so depth costs no C stack. Stops early when the atoms might not fit, or when the
 * region has lasted long enough. */
static void
grave_bury_locked(theus_heap *heap, theus_grave *grave)
{
    assert(theus_mutex_is_mine(&heap->lock));
    enum { STEPS_MAX = 256, WORDS_MAX = 1 << THEUS_NODE_LOG2_OWNED };
    for (int steps = 0; steps < STEPS_MAX && grave->count + WORDS_MAX <= THEUS_GRAVE_ATOMS;
         steps++) {
        if (grave->nodes != NULL) {
            theus_node *node = grave->nodes;
            grave->nodes = node->next;
            node_bury_locked(heap, node, grave);
        }
        else if (grave->containers != NULL) {
            theus_container *container = grave->containers;
            grave->containers = container->next;
            container_bury_locked(heap, container, grave);
        }
        else {
            break;
        }
    }
}

void
theus_grave_empty(theus_heap *heap, theus_grave *grave)
{
    void (*release)(void *) = heap->ops->release;
    for (;;) {
        if (grave->nodes != NULL || grave->containers != NULL) {
            grave_bury_locked(heap, grave);
        }
        theus_mutex_unlock(&heap->lock);
        for (uint32_t i = 0; i < grave->count; i++) {
            release(grave->atoms[i]); /* foreign code: no lock here */
        }
        grave->count = 0;
        if (grave->nodes == NULL && grave->containers == NULL) {
            return;
        }
        theus_mutex_lock(&heap->lock);
    }
}

/* ---- container headers --------------------------------------------------------- */

theus_container *
theus_container_alloc_locked(theus_heap *heap)
{
    assert(theus_mutex_is_mine(&heap->lock));
    if (theus_roster_reserve(&heap->containers, heap->first_containers) != THEUS_OK) {
        return NULL;
    }
    theus_container *container = heap->spare_containers;
    if (container != NULL) {
        heap->spare_containers = container->next;
        heap->spare_container_count--;
    }
    else {
        container = theus_alloc(sizeof(theus_container));
        if (container == NULL) {
            return NULL;
        }
    }
    heap->live_bytes += sizeof(theus_container);
    atomic_init(&container->refs, 1);
    container->heap = heap;
    container->place = theus_roster_add(&heap->containers, container);
    return container;
}

void
theus_container_empty_locked(theus_container *container, theus_grave *grave)
{
    theus_heap *heap = container->heap;
    if (container->entries != NULL) {
        theus_node_drop_locked(heap, container->entries, grave);
        container->entries = NULL;
    }
    if (container->index != NULL) {
        theus_node_drop_locked(heap, theus_node_of_word((uintptr_t)container->index), grave);
        container->index = NULL;
    }
    container->count = 0;
    container->span = 0;
    container->shift = 0;
    container->gap_start = 0;
    container->gap_end = 0;
}

/* ---- bare cells ----------------------------------------------------------------- */

static uint64_t
cells_words(uint32_t count, size_t extra)
{
    return count + (extra + sizeof(uintptr_t) - 1) / sizeof(uintptr_t);
}

theus_status
theus_atoms_alloc(theus_heap *heap, uint32_t count, size_t extra, theus_atoms **out)
{
    unsigned log2 = THEUS_NODE_LOG2_MIN;
    while (((uint64_t)1 << log2) < cells_words(count, extra)) {
        log2++;
    }
    theus_mutex_lock(&heap->lock);
    theus_node *cells = node_alloc_locked(heap, log2);
    if (cells != NULL) {
        cells = node_start_locked(heap, cells, THEUS_CELLS, 0);
    }
    theus_mutex_unlock(&heap->lock);
    *out = cells;
    return cells == NULL ? THEUS_NOMEM : THEUS_OK;
}

bool
theus_atoms_fit(const theus_atoms *cells, uint32_t count, size_t extra)
{
    return cells_words(count, extra) <= theus_node_room(cells);
}

void *
theus_atoms_extra(theus_atoms *cells, uint32_t count)
{
    return cells->words + count;
}

void
theus_atoms_fill(theus_heap *heap, theus_atoms *cells, void *const *atoms, uint32_t count)
{
    assert(cells->used == 0 && count <= theus_node_room(cells));
    for (uint32_t i = 0; i < count; i++) {
        heap->ops->retain(atoms[i]);
        cells->words[i] = theus_value_of_atom(atoms[i]);
    }
    cells->used = count;
}

void
theus_atoms_drain(theus_heap *heap, theus_atoms *cells)
{
    uint32_t count = cells->used;
    cells->used = 0; /* no collector sees them from here on */
    for (uint32_t i = 0; i < count; i++) {
        heap->ops->release(theus_value_atom(cells->words[i]));
    }
}

theus_status
theus_atoms_new(theus_heap *heap, void *const *atoms, uint32_t count, theus_atoms **out)
{
    theus_status status = theus_atoms_alloc(heap, count, 0, out);
    if (status == THEUS_OK) {
        theus_atoms_fill(heap, *out, atoms, count);
    }
    return status;
}

void *
theus_atoms_at(const theus_atoms *cells, uint32_t index)
{
    assert(index < cells->used);
    return theus_value_atom(cells->words[index]);
}

void
theus_atoms_free(theus_heap *heap, theus_atoms *cells)
{
    theus_grave grave;
    theus_grave_init(&grave);
    theus_mutex_lock(&heap->lock);
    chain_leave_locked(heap, cells); /* no collector sees them from here on */
    for (uint32_t i = 0; i < cells->used; i++) {
        if (grave.count == THEUS_GRAVE_ATOMS) {
            theus_grave_close(heap, &grave);
            theus_mutex_lock(&heap->lock);
        }
        grave.atoms[grave.count++] = theus_value_atom(cells->words[i]);
    }
    node_recycle_locked(heap, cells);
    theus_grave_close(heap, &grave);
}
