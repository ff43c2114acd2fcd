/* The walkers themselves: a checker that has never found a fault proves nothing. Each fault is
 * made by hand, must be found, and is taken back. */
#include "check.h"
#include "fakes.h"
#include "index.h"
#include "node.h"
#include "vector.h"

static theus_heap *heap;
static theus_container *old;
static theus_container *map; /* a later version of old */

static theus_node *
first_leaf(const theus_container *container)
{
    theus_node *node = container->entries;
    for (unsigned shift = container->shift; shift > 0; shift -= THEUS_BRANCH_BITS) {
        node = theus_node_of_word(node->words[0]);
    }
    return node;
}

#define FAULT(walker, lvalue, wrong)        \
    do {                                    \
        __typeof__(lvalue) kept = (lvalue); \
        (lvalue) = (wrong);                 \
        CHECK((walker) != NULL);            \
        (lvalue) = kept;                    \
        CHECK((walker) == NULL);            \
    } while (0)

#define MAP_FAULT(lvalue, wrong) FAULT(theus_container_check(map, NULL), lvalue, wrong)
#define HEAP_FAULT(lvalue, wrong) FAULT(theus_heap_check(heap), lvalue, wrong)

static void
test_container_faults(void)
{
    theus_node *leaf = first_leaf(map);
    MAP_FAULT(map->count, map->count - 1);
    MAP_FAULT(map->count, map->span + 1);
    MAP_FAULT(map->span, map->span - 1);
    MAP_FAULT(map->span, 1u << 20);
    MAP_FAULT(map->shift, 0);
    MAP_FAULT(map->entries, NULL);
    MAP_FAULT(map->index, NULL);
    MAP_FAULT(map->gap_end, map->span + 1);
    MAP_FAULT(map->gap_end, 3);
    MAP_FAULT(leaf->words[0], 0);
    MAP_FAULT(leaf->words[1], 0);
    MAP_FAULT(leaf->words[2], leaf->words[0]);
    MAP_FAULT(leaf->words[2], leaf->words[2] | THEUS_MAP);
    MAP_FAULT(leaf->sort, THEUS_BRANCH);
    MAP_FAULT(map->entries->sort, THEUS_LEAF);
    fakes.fail_hash = 1;
    CHECK(theus_container_check(map, NULL) != NULL);
    fakes.fail_hash = 0;
    CHECK(theus_container_check(map, NULL) == NULL);
}

static void
test_index_faults(void)
{
    uintptr_t word = (uintptr_t)map->index;
    theus_node *parent = theus_node_of_word(word);
    CHECK(parent->sort == THEUS_BRANCH);
    uint32_t child = 0;
    while (parent->words[child] == 0) {
        child++;
    }
    theus_node *segment = theus_node_of_word(parent->words[child]);
    uint32_t i = 0;
    while (segment->words[i] == 0) {
        i++;
    }
    MAP_FAULT(parent->words[child], parent->words[child] ^ 1);
    MAP_FAULT(segment->used, segment->used + 1);
    MAP_FAULT(segment->words[i], 0);
    MAP_FAULT(segment->words[i], segment->words[i] + 1);
    MAP_FAULT(segment->words[i], segment->words[i] + ((uint64_t)1 << 32));
    MAP_FAULT(segment->words[i], segment->words[i] | UINT32_MAX);
}

static void
test_heap_faults(void)
{
    theus_node *newer = first_leaf(map);
    theus_node *older = newer->origin;
    REQUIRE(older != NULL && older->succ == newer && older->origin == NULL);
    HEAP_FAULT(newer->refs, 2);
    HEAP_FAULT(map->entries->borrowed, map->entries->borrowed ^ 2); /* leaf 1: the older's */
    HEAP_FAULT(newer->borrowed, newer->borrowed | 2);               /* value 0 is its own */
    HEAP_FAULT(older->borrowed, 1);
    HEAP_FAULT(older->succ, NULL);
    HEAP_FAULT(newer->origin, NULL);
    HEAP_FAULT(older->place, older->place + 1);
    HEAP_FAULT(newer->words[2], newer->words[0]);
    HEAP_FAULT(heap->live_bytes, heap->live_bytes + 8);
    HEAP_FAULT(heap->live_nodes, heap->live_nodes + 1);
    HEAP_FAULT(map->place, map->place + 1);
    HEAP_FAULT(map->entries->words[1], newer->origin == NULL ? 0 : map->entries->words[0]);
    theus_alloc_fail_at(1);
    CHECK(theus_heap_check(heap) != NULL);
    theus_alloc_fail_at(-1);
    CHECK(theus_heap_check(heap) == NULL);
}

/* A nested container with fewer counts than owners. */
static void
test_nested_faults(void)
{
    theus_container *list = new_edit(heap, THEUS_LIST);
    theus_value word = theus_value_of_container(map);
    for (uint32_t i = 0; i < 3; i++) {
        REQUIRE(theus_list_splice(list, i, 0, &word, 1) == THEUS_OK);
    }
    CHECK_SOUND(theus_heap_check(heap));
    uint32_t refs = atomic_load(&map->refs);
    atomic_store(&map->refs, 2);
    CHECK(theus_heap_check(heap) != NULL);
    atomic_store(&map->refs, refs);
    FAULT(theus_heap_check(heap), map->heap, NULL);
    FAULT(theus_container_check(list, NULL), list->entries->words[1], 0);
    theus_container_release(list);
}

/* Most of it removed, and sealed as no one should. */
static void
test_uncompacted(void)
{
    theus_container *edit = begin(map);
    for (uint64_t i = 1; i < 900; i++) {
        REQUIRE(remove_id(edit, i) == 1);
    }
    CHECK_SOUND(theus_container_check(edit, NULL));
    FAULT(theus_container_check(edit, NULL), edit->edit, 0);
    theus_container_release(edit);
}

int
main(void)
{
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    theus_container *edit = new_edit(heap, THEUS_MAP);
    for (uint64_t i = 0; i < 1000; i++) {
        REQUIRE(set_id(edit, i, i) == THEUS_OK);
    }
    old = sealed(edit);
    edit = begin(old);
    REQUIRE(set_id(edit, 0, 5) == THEUS_OK);
    map = sealed(edit);
    check_sound(map);
    test_container_faults();
    test_index_faults();
    test_heap_faults();
    test_nested_faults();
    test_uncompacted();
    theus_container_release(old);
    theus_container_release(map);
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
    return check_result();
}
