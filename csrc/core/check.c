/* The invariants of node.h, vector.c and index.c, asked of live structures. For tests: both
 * functions take O(size), and memory. */
#ifdef THEUS_TESTING

#include "index.h"
#include "node.h"
#include "vector.h"

/* ---- one container ------------------------------------------------------------- */

struct container_check {
    const theus_container *container;
    void *ctx;
    uint32_t live;    /* entries seen */
    uint32_t indexed; /* entries of the index seen */
    const char *broken;
};

#define REQUIRE(check, condition, text) \
    do {                                \
        if (!(condition)) {             \
            (check)->broken = (text);   \
            return;                     \
        }                               \
    } while (0)

static void
check_leaf(struct container_check *check, const theus_node *leaf, uint32_t base)
{
    const theus_container *container = check->container;
    theus_kind kind = (theus_kind)container->kind;
    unsigned stride = theus_entries_stride(kind);
    REQUIRE(check, leaf->sort == THEUS_LEAF, "a branch where a leaf should be");
    REQUIRE(check, theus_node_room(leaf) <= stride << theus_entries_leaf_bits(kind),
            "a leaf is too wide");
    for (uint32_t i = 0; i < theus_node_room(leaf); i += stride) {
        uint32_t pos = base + i / stride;
        uintptr_t key = leaf->words[i];
        uintptr_t value = leaf->words[i + stride - 1];
        REQUIRE(check, (key == 0) == (value == 0), "a key without a value, or the reverse");
        REQUIRE(check, key == 0 || pos < container->span, "an entry beyond the span");
        REQUIRE(check, kind == THEUS_LIST || theus_value_kind(key) == THEUS_ATOM,
                "a key is no atom");
        REQUIRE(check, kind != THEUS_LIST || pos >= container->span || key != 0,
                "a hole in a list");
        check->live += key != 0;
    }
}

static void
check_entries(struct container_check *check, const theus_node *node, unsigned shift, uint32_t base)
{
    theus_kind kind = (theus_kind)check->container->kind;
    if (shift == 0) {
        check_leaf(check, node, base);
        return;
    }
    REQUIRE(check, node->sort == THEUS_BRANCH, "a leaf where a branch should be");
    REQUIRE(check, theus_node_room(node) <= 1u << THEUS_BRANCH_BITS, "a branch is too wide");
    unsigned bits = shift - THEUS_BRANCH_BITS + theus_entries_leaf_bits(kind);
    for (uint32_t i = 0; i < theus_node_room(node) && check->broken == NULL; i++) {
        if (node->words[i] != 0) {
            check_entries(check, theus_node_of_word(node->words[i]), shift - THEUS_BRANCH_BITS,
                          base + (i << bits));
        }
    }
}

static void
check_index_entry(struct container_check *check, uint32_t fragment, uint32_t pos)
{
    const theus_container *container = check->container;
    REQUIRE(check, pos < container->span, "the index names a position beyond the span");
    void *key = theus_container_key_at(container, pos);
    REQUIRE(check, key != NULL, "the index names a hole");
    uint64_t hash = 0;
    REQUIRE(check, container->heap->ops->hash(check->ctx, key, &hash) == 0, "hash() failed");
    REQUIRE(check, theus_index_fragment(hash) == fragment, "a wrong fragment");
    theus_index_probe probe = theus_index_find(container, fragment);
    uint32_t candidate;
    bool found = false;
    while (!found && theus_index_next(&probe, &candidate)) {
        found = candidate == pos;
    }
    REQUIRE(check, found, "an entry of the index that no search finds");
    check->indexed++;
}

static void
check_index(struct container_check *check, uintptr_t word, unsigned shift)
{
    const theus_node *node = theus_node_of_word(word);
    REQUIRE(check, theus_index_word(node) == word, "a wrong tag in the index");
    uint32_t used = 0;
    for (uint32_t i = 0; i < theus_node_room(node) && check->broken == NULL; i++) {
        if (node->words[i] == 0) {
            continue;
        }
        if (node->sort == THEUS_BRANCH) {
            REQUIRE(check, shift >= THEUS_INDEX_BITS, "the index is too deep");
            check_index(check, node->words[i], shift - THEUS_INDEX_BITS);
        }
        else {
            uint64_t entry = node->words[i];
            check_index_entry(check, (uint32_t)(entry >> 32), (uint32_t)entry - 1u);
            used++;
        }
    }
    REQUIRE(check, check->broken != NULL || node->sort == THEUS_BRANCH || used == node->used,
            "a segment miscounts its entries");
    REQUIRE(check, node->sort == THEUS_BRANCH || used < theus_node_room(node),
            "a segment without an empty word");
}

const char *
theus_container_check(const theus_container *container, void *ctx)
{
    struct container_check check = {.container = container, .ctx = ctx};
    if (container->count > container->span) {
        return "more entries than positions";
    }
    if (container->gap_start > container->gap_end || container->gap_end > container->span) {
        return "a gap beyond the span";
    }
    if (container->span > theus_entries_capacity(container->kind, container->shift)) {
        return "the span does not fit under the root";
    }
    if (container->entries == NULL) {
        return container->span == 0 && container->index == NULL && container->shift == 0
                   ? NULL
                   : "entries are missing";
    }
    check_entries(&check, container->entries, container->shift, 0);
    if (check.broken == NULL && check.live != container->count) {
        check.broken = "a wrong count";
    }
    if (check.broken == NULL && container->index != NULL) {
        check_index(&check, (uintptr_t)container->index, THEUS_INDEX_HASH_BITS);
    }
    if (check.broken == NULL && container->kind != THEUS_LIST
        && check.indexed != container->count) {
        check.broken = "entries that the index does not name";
    }
    for (uint32_t pos = container->gap_start; pos < container->gap_end; pos++) {
        if (check.broken == NULL && theus_entries_at(container, pos)[0] != 0) {
            check.broken = "an entry in the gap";
        }
    }
    if (check.broken == NULL && container->edit == 0 && container->kind != THEUS_LIST
        && container->span - container->count > container->span / 2) {
        check.broken = "sealed without compaction";
    }
    return check.broken;
}

/* ---- the heap -------------------------------------------------------------------- */

/* Owners found per node and container: an open-addressing table from address to count. */
struct tally {
    const void **items;
    uint64_t *counts;
    size_t mask;
};

static uint64_t *
tally_of(struct tally *tally, const void *item)
{
    size_t i = theus_index_fragment((uintptr_t)item) & tally->mask;
    while (tally->items[i] != NULL && tally->items[i] != item) {
        i = (i + 1) & tally->mask;
    }
    tally->items[i] = item;
    return &tally->counts[i];
}

struct heap_check {
    theus_heap *heap;
    struct tally nodes;      /* owners */
    struct tally containers; /* words that own it */
    uint64_t node_count;
    uint64_t chain_count;
    uint64_t bytes;
    const char *broken;
};

static void
check_chain(struct heap_check *check, const theus_node *node)
{
    const theus_node *origin = node->origin;
    REQUIRE(check, node->succ == NULL || node->succ->origin == node, "succ without origin");
    REQUIRE(check, origin == NULL || origin->succ == node, "origin without succ");
    REQUIRE(check, origin != NULL || node->borrowed == 0, "the first of a chain borrows");
    REQUIRE(check,
            node->sort == THEUS_BRANCH || node->sort == THEUS_LEAF
                || (origin == NULL && node->succ == NULL),
            "a chain of what has no chains");
    for (uint32_t i = 0; i < 64 && node->borrowed >> i != 0; i++) {
        REQUIRE(check,
                (node->borrowed >> i & 1) == 0
                    || (i < theus_node_room(node) && i < theus_node_room(origin)
                        && origin->words[i] == node->words[i]),
                "a borrowed word is not the origin's");
    }
    if (node->sort == THEUS_LEAF && origin == NULL) {
        check->chain_count++;
        REQUIRE(check,
                node->place < check->heap->chains.count
                    && check->heap->chains.items[node->place] == node,
                "a chain that the heap does not know");
    }
}

static void check_owned_word(struct heap_check *check, const theus_node *node, uintptr_t word);

/* One owner of `node` has been found; the first time, look at the node itself. */
static void
check_owned_node(struct heap_check *check, const theus_node *node)
{
    if (check->broken != NULL || ++*tally_of(&check->nodes, node) > 1) {
        return;
    }
    check->node_count++;
    check->bytes += sizeof(theus_node) + (sizeof(uintptr_t) << node->log2);
    check_chain(check, node);
    if (node->sort == THEUS_SEGMENT || node->sort == THEUS_CELLS) {
        return; /* they name no nodes and no containers */
    }
    for (uint32_t i = 0; i < theus_node_room(node) && check->broken == NULL; i++) {
        if (node->words[i] != 0 && (node->borrowed >> i & 1) == 0) {
            check_owned_word(check, node, node->words[i]);
        }
    }
}

static void
check_owned_word(struct heap_check *check, const theus_node *node, uintptr_t word)
{
    if (node->sort == THEUS_BRANCH) {
        check_owned_node(check, theus_node_of_word(word));
    }
    else if (theus_value_kind(word) != THEUS_ATOM) {
        const theus_container *container = theus_value_container(word);
        REQUIRE(check, container->heap == check->heap, "a container of another heap");
        ++*tally_of(&check->containers, container);
    }
}

static void
check_counts(struct heap_check *check)
{
    for (size_t i = 0; i <= check->nodes.mask; i++) {
        const theus_node *node = check->nodes.items[i];
        REQUIRE(check, node == NULL || node->refs == check->nodes.counts[i],
                "a node miscounts its owners");
    }
    for (size_t i = 0; i <= check->containers.mask; i++) {
        const theus_container *container = check->containers.items[i];
        REQUIRE(check, container == NULL || container->refs >= check->containers.counts[i],
                "a container has more owners than counts");
    }
}

static void
heap_check_all(struct heap_check *check)
{
    theus_heap *heap = check->heap;
    for (uint32_t i = 0; i < heap->containers.count && check->broken == NULL; i++) {
        const theus_container *container = heap->containers.items[i];
        REQUIRE(check, container->place == i, "a container in the wrong place");
        REQUIRE(check, container->refs > 0, "a dead container");
        check->bytes += sizeof(theus_container);
        if (container->entries != NULL) {
            check_owned_node(check, container->entries);
        }
        if (container->index != NULL) {
            check_owned_node(check, theus_node_of_word((uintptr_t)container->index));
        }
    }
    for (uint32_t i = 0; i < heap->chains.count && check->broken == NULL; i++) {
        const theus_node *node = heap->chains.items[i];
        REQUIRE(check, node->place == i, "a chain in the wrong place");
        if (node->sort == THEUS_CELLS) {
            check_owned_node(check, node);
            check->chain_count++;
        }
    }
    if (check->broken != NULL) {
        return;
    }
    check_counts(check);
    REQUIRE(check, check->broken != NULL || check->chain_count == heap->chains.count,
            "the heap knows chains that nobody owns");
    REQUIRE(check, heap->live_nodes == check->node_count, "a wrong count of nodes");
    REQUIRE(check, heap->live_bytes == check->bytes, "a wrong count of bytes");
}

static bool
tally_init(struct tally *tally, uint64_t items)
{
    size_t room = 16;
    while (room < items * 2) {
        room *= 2;
    }
    tally->mask = room - 1;
    tally->items = theus_alloc(room * sizeof(void *));
    tally->counts = theus_alloc(room * sizeof(uint64_t));
    if (tally->items == NULL || tally->counts == NULL) {
        return false;
    }
    memset(tally->items, 0, room * sizeof(void *));
    memset(tally->counts, 0, room * sizeof(uint64_t));
    return true;
}

static void
tally_fini(struct tally *tally)
{
    theus_free(tally->items);
    theus_free(tally->counts);
}

const char *
theus_heap_check(theus_heap *heap)
{
    struct heap_check check = {.heap = heap};
    theus_mutex_lock(&heap->lock);
    if (tally_init(&check.nodes, heap->live_nodes)
        && tally_init(&check.containers, heap->containers.count)) {
        heap_check_all(&check);
    }
    else {
        check.broken = "no memory to check";
    }
    theus_mutex_unlock(&heap->lock);
    tally_fini(&check.nodes);
    tally_fini(&check.containers);
    return check.broken;
}

#else
/* A translation unit must not be empty. */
typedef int theus_check_is_for_tests;
#endif
