/* The heap as the collector and the embedder see it: visit, clear, free, cells, sizes. */
#include "check.h"
#include "fakes.h"
#include "node.h"

static theus_heap *heap;

static void
setup(void)
{
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    CHECK(theus_heap_ops(heap) == &fake_ops);
}

static void
teardown(void)
{
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

static theus_container *
map_of(uint64_t first, uint64_t end)
{
    theus_container *map = new_edit(heap, THEUS_MAP);
    for (uint64_t i = first; i < end; i++) {
        REQUIRE(set_id(map, i, i) == THEUS_OK);
    }
    return map;
}

/* ---- visit -------------------------------------------------------------------------- */

static int
unvisit(void *atom, void *arg)
{
    (void)arg;
    ((fake_atom *)atom)->refs--;
    return 0;
}

static int
revisit(void *atom, void *arg)
{
    (void)arg;
    ((fake_atom *)atom)->refs++;
    return 0;
}

static int
all_explained(void *atom, void *arg)
{
    (void)arg;
    return ((fake_atom *)atom)->refs == 0 ? 0 : 1;
}

/* What a collector does: subtract every reference that the heap reports; what is left comes
 * from elsewhere. Here nothing is elsewhere, so all counts must come to exactly 0. */
static void
check_explained(void)
{
    CHECK(theus_heap_visit(heap, unvisit, NULL) == 0);
    CHECK(theus_heap_visit(heap, all_explained, NULL) == 0);
    CHECK(theus_heap_visit(heap, revisit, NULL) == 0);
}

static int
stop_at_third(void *atom, void *arg)
{
    (void)atom;
    return ++*(int *)arg == 3 ? 17 : 0;
}

static void
test_visit(void)
{
    setup();
    enum { VERSIONS = 40 };
    theus_container *versions[VERSIONS];
    versions[0] = sealed(map_of(0, 300));
    for (uint64_t i = 1; i < VERSIONS; i++) {
        theus_container *edit = begin(versions[i * 7 % i]); /* chains and branches */
        CHECK(set_id(edit, i * 11 % 300, 1000 + i) == THEUS_OK);
        CHECK(set_id(edit, 400 + i, i) == THEUS_OK);
        CHECK(remove_id(edit, i * 13 % 200) == 1);
        versions[i] = sealed(edit);
        check_explained();
    }
    int calls = 0;
    CHECK(theus_heap_visit(heap, stop_at_third, &calls) == 17 && calls == 3);
    for (int i = 0; i < VERSIONS; i++) {
        theus_container_release(versions[i * 7 % VERSIONS]);
        check_explained();
    }
    CHECK(owned_atoms(heap) == 0);
    teardown();
}

/* ---- clear -------------------------------------------------------------------------- */

static int
is_placeholder(void *atom, void *arg)
{
    return atom != arg;
}

static void
test_clear(void)
{
    setup();
    theus_container *old = sealed(map_of(0, 1000));
    theus_container *next = begin(old);
    CHECK(set_id(next, 3, 33) == THEUS_OK);
    sealed(next);
    theus_container *branch = begin(old);
    CHECK(set_id(branch, 4, 44) == THEUS_OK);
    sealed(branch);
    long owned = owned_atoms(heap);
    fake_atom *placeholder = fake_new(0);
    theus_heap_clear(heap, placeholder);
    CHECK(fakes_live() == 1);
    CHECK(placeholder->refs == owned + 1);
    CHECK(owned_atoms(heap) == owned);
    CHECK(theus_heap_visit(heap, is_placeholder, placeholder) == 0);
    CHECK(theus_container_value_at(next, 3) == theus_value_of_atom(placeholder));
    CHECK(theus_container_value_at(branch, 900) == theus_value_of_atom(placeholder));
    CHECK(theus_container_key_at(old, 17) == placeholder);
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_clear(heap, placeholder); /* again: nothing happens */
    CHECK(placeholder->refs == owned + 1);
    theus_container_release(old);
    theus_container_release(branch);
    theus_container_release(next);
    CHECK(placeholder->refs == 1);
    fake_release(placeholder);
    teardown();
}

static theus_container *clear_keeps[64];
static int clear_count;

/* Makes and drops containers of the heap that is being cleared; some stay. */
static void
disturb_clear(fake_atom *atom)
{
    theus_container *map = map_of(atom->id, atom->id + 3);
    if (clear_count < 64) {
        clear_keeps[clear_count++] = sealed(map);
    }
    else {
        theus_container_release(map);
        theus_container_release(clear_keeps[atom->id % 64]);
        clear_keeps[atom->id % 64] = NULL;
    }
    CHECK_SOUND(theus_heap_check(heap));
}

static void
test_clear_reenters(void)
{
    setup();
    clear_count = 0;
    theus_container *maps[20];
    for (uint64_t m = 0; m < 20; m++) {
        maps[m] = map_of(0, 0);
        for (uint64_t i = 0; i < 40; i++) {
            fake_atom *key = fake_new(m * 1000 + i);
            key->on_free = i % 5 == 0 ? disturb_clear : NULL;
            CHECK(theus_container_insert(maps[m], key->hash, key, theus_value_of_atom(key), NULL)
                  == THEUS_OK);
            fake_release(key);
        }
        sealed(maps[m]);
    }
    fake_atom *placeholder = fake_new(0);
    theus_heap_clear(heap, placeholder);
    for (int m = 0; m < 20; m++) {
        for (uint32_t pos = 0; pos < 40; pos++) {
            CHECK(theus_container_key_at(maps[m], pos) == placeholder);
        }
        theus_container_release(maps[m]);
    }
    for (int i = 0; i < 64; i++) {
        theus_container_release(clear_keeps[i]);
    }
    fake_release(placeholder);
    CHECK(owned_atoms(heap) == 0);
    teardown();
}

/* ---- free ---------------------------------------------------------------------------- */

static int free_visits;

static void
look_around(fake_atom *atom)
{
    (void)atom;
    free_visits++;
    CHECK_SOUND(theus_heap_check(heap)); /* still whole while releases run */
    if (free_visits == 5) {              /* and whoever adds to it even now gains nothing */
        theus_container *late = sealed(map_of(0, 10));
        CHECK(late->count == 10);
    }
}

/* Containers, edits and cells that nobody gave back. */
static void
test_free_with_all_alive(void)
{
    setup();
    free_visits = 0;
    theus_container *inner = sealed(map_of(0, 50));
    theus_container *outer = new_edit(heap, THEUS_LIST);
    theus_value word = theus_value_of_container(inner);
    CHECK(theus_list_splice(outer, 0, 0, &word, 1) == THEUS_OK);
    for (uint64_t i = 0; i < 20; i++) {
        fake_atom *atom = fake_new(i);
        atom->on_free = look_around;
        word = theus_value_of_atom(atom);
        CHECK(theus_list_splice(outer, 1, 0, &word, 1) == THEUS_OK);
        fake_release(atom);
    }
    theus_container *edit = begin(inner);
    CHECK(set_id(edit, 7, 70) == THEUS_OK);
    fake_atom *atom = fake_new(1);
    void *atoms[] = {atom, atom, atom};
    theus_atoms *cells;
    CHECK(theus_atoms_new(heap, atoms, 3, &cells) == THEUS_OK);
    fake_release(atom);
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    CHECK(free_visits == 20);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

/* ---- cells --------------------------------------------------------------------------- */

static void
test_cells(void)
{
    setup();
    const uint32_t sizes[] = {0, 1, 4, 5, 64, 65, 1000};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        uint32_t size = sizes[s];
        void *atoms[1000];
        for (uint32_t i = 0; i < size; i++) {
            atoms[i] = fake_new(i);
        }
        theus_atoms *cells, *others;
        REQUIRE(theus_atoms_new(heap, atoms, size, &cells) == THEUS_OK);
        REQUIRE(theus_atoms_new(heap, atoms, size, &others) == THEUS_OK);
        for (uint32_t i = 0; i < size; i++) {
            fake_release(atoms[i]);
            CHECK(theus_atoms_at(cells, i) == atoms[i]);
        }
        check_explained();
        CHECK(owned_atoms(heap) == 2 * (long)size);
        CHECK_SOUND(theus_heap_check(heap));
        fake_atom *placeholder = fake_new(0);
        theus_atoms_free(heap, cells);
        CHECK(fakes_live() == (long)size + 1);
        theus_heap_clear(heap, placeholder);
        CHECK(fakes_live() == 1);
        CHECK(size == 0 || theus_atoms_at(others, size - 1) == placeholder);
        theus_atoms_free(heap, others);
        fake_release(placeholder);
        CHECK(fakes_live() == 0);
    }
    teardown();
}

/* ---- sizes ---------------------------------------------------------------------------- */

static void
test_small_is_small(void)
{
    setup();
    theus_container *map = sealed(map_of(0, 1));
    theus_heap_stats stats;
    theus_heap_read_stats(heap, &stats);
    CHECK(stats.containers == 1 && stats.nodes == 2);
    size_t debug_only = sizeof(theus_mutex) - sizeof(pthread_mutex_t);
    CHECK(stats.bytes + sizeof(theus_heap) - debug_only < 450);
    CHECK(theus_alloc_live() == 4); /* heap, header, leaf, segment */
    theus_container_release(map);
    theus_heap_read_stats(heap, &stats);
    CHECK(stats.containers == 0 && stats.nodes == 0 && stats.bytes == 0);
    teardown();
}

/* Nodes and headers that are kept for reuse. */
static long
count_spare(void)
{
    long count = heap->spare_container_count;
    for (int i = 0; i < THEUS_NODE_SPARE_SIZES; i++) {
        count += heap->spare_node_counts[i];
    }
    return count;
}

/* What is kept for reuse stays a fraction of what lives, and is what later writes ask for. */
static void
test_spare_nodes(void)
{
    setup();
    theus_container *map = sealed(map_of(0, 50000));
    long live = theus_alloc_live();
    CHECK(live > 2000);
    CHECK(count_spare() <= 33 * (THEUS_NODE_SPARE_SIZES + 1));
    for (uint64_t i = 0; i < 400; i++) {
        if (i == 100) {
            live = theus_alloc_live(); /* from here on, no write asks the allocator */
            theus_alloc_fail_at(1);
        }
        theus_container *edit;
        REQUIRE(theus_edit_begin(map, &edit) == THEUS_OK);
        CHECK(set_id(edit, i * 101 % 50000, i) == THEUS_OK);
        theus_container_release(map);
        map = sealed(edit);
    }
    theus_alloc_fail_at(-1);
    CHECK(theus_alloc_live() == live);
    theus_container_release(map);
    CHECK(count_spare() <= 33 * (THEUS_NODE_SPARE_SIZES + 1));
    CHECK(theus_alloc_live() < count_spare() + 4); /* and the heap and its rosters */
    teardown();
}

int
main(void)
{
    test_visit();
    test_clear();
    test_clear_reenters();
    test_free_with_all_alive();
    test_cells();
    test_small_is_small();
    test_spare_nodes();
    return check_result();
}
