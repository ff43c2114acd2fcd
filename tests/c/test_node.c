/* Ownership along chains of versions: who counts what, and when it falls. */
#include "check.h"
#include "fakes.h"
#include "node.h"

static theus_heap *heap;

static void
setup(void)
{
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
}

static void
teardown(void)
{
    CHECK_SOUND(theus_heap_check(heap));
    CHECK(owned_atoms(heap) == 0);
    theus_heap_stats stats;
    theus_heap_read_stats(heap, &stats);
    CHECK(stats.nodes == 0 && stats.containers == 0 && stats.bytes == 0);
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

static theus_container *
map_of(uint32_t size)
{
    theus_container *map = new_edit(heap, THEUS_MAP);
    for (uint64_t i = 0; i < size; i++) {
        REQUIRE(set_id(map, i, i) == THEUS_OK);
    }
    return sealed(map);
}

/* map.set(key, value): a new sealed version. */
static theus_container *
version_with(theus_container *base, uint64_t key, uint64_t value)
{
    theus_container *edit = begin(base);
    REQUIRE(set_id(edit, key, value) == THEUS_OK);
    return sealed(edit);
}

/* The point of it all: a new version takes one reference, whatever the width. */
static void
test_copy_counts_nothing(void)
{
    setup();
    theus_container *base = map_of(1000);
    atomic_store(&fakes.retain_calls, 0);
    theus_container *next = begin(base);
    fake_atom *value = fake_new(7);
    CHECK(theus_container_put(next, 500, theus_value_of_atom(value)) == THEUS_OK);
    CHECK(atomic_load(&fakes.retain_calls) == 1);
    CHECK(value->refs == 2);
    sealed(next);
    CHECK(owned_atoms(heap) == 2001);
    theus_container_release(base); /* the old value falls, all else passes on */
    CHECK(atomic_load(&fakes.retain_calls) == 1);
    CHECK(owned_atoms(heap) == 2000);
    check_sound(next);
    CHECK(get_id(next, 500) == 7 && get_id(next, 499) == 499);
    theus_container_release(next);
    CHECK(value->refs == 1);
    fake_release(value);
    teardown();
}

/* A second version of one base owns and counts everything on its path. */
static void
test_branches_are_counted(void)
{
    setup();
    theus_container *base = map_of(20);
    theus_container *first = version_with(base, 3, 100);
    CHECK(owned_atoms(heap) == 41);
    theus_container *second = version_with(base, 4, 200);
    CHECK(owned_atoms(heap) == 41 + 40);
    check_sound(second);
    theus_container_release(first);
    theus_container *third = version_with(base, 5, 300); /* base may have a succ again */
    CHECK(owned_atoms(heap) == 40 + 40 + 1);
    check_sound(third);
    theus_container_release(base);
    CHECK(get_id(second, 3) == 3 && get_id(second, 4) == 200);
    CHECK(get_id(third, 4) == 4 && get_id(third, 5) == 300);
    theus_container_release(third);
    check_sound(second);
    theus_container_release(second);
    teardown();
}

/* A chain of versions that falls from the old end, from the new end, and from within. */
static void
test_chain_orders(void)
{
    enum { CHAIN = 60 };
    for (int order = 0; order < 3; order++) {
        setup();
        theus_container *versions[CHAIN];
        versions[0] = map_of(200);
        for (uint32_t i = 1; i < CHAIN; i++) {
            versions[i] = version_with(versions[i - 1], i % 7, 1000 + i);
        }
        for (uint32_t i = 0; i < CHAIN; i++) {
            uint32_t dies = order == 0 ? i : order == 1 ? CHAIN - 1 - i : (i * 37) % CHAIN;
            theus_container *container = versions[dies];
            int64_t expected = dies == 0 ? 0 : 1000 + (int64_t)dies;
            CHECK(get_id(container, dies % 7) == expected);
            check_sound(container);
            theus_container_release(container);
        }
        teardown();
    }
}

/* Storing the value that is there makes no copy at all. */
static void
test_same_value(void)
{
    setup();
    theus_container *base = map_of(100);
    theus_container *edit = begin(base);
    CHECK(theus_container_put(edit, 50, theus_container_value_at(base, 50)) == THEUS_OK);
    CHECK(edit->entries == base->entries);
    sealed(edit);
    theus_container_release(edit);
    theus_container_release(base);
    teardown();
}

/* ---- nesting ---------------------------------------------------------------------- */

static void
test_deep_nesting(void)
{
    enum { DEPTH = 100000 };
    setup();
    theus_container *inner = NULL;
    for (int i = 0; i < DEPTH; i++) {
        theus_container *outer = new_edit(heap, THEUS_LIST);
        if (inner != NULL) {
            theus_value word = theus_value_of_container(inner);
            CHECK(theus_list_splice(outer, 0, 0, &word, 1) == THEUS_OK);
            theus_container_release(inner);
        }
        else {
            CHECK(append_id(outer, 1) == THEUS_OK);
        }
        inner = sealed(outer);
    }
    theus_heap_stats stats;
    theus_heap_read_stats(heap, &stats);
    CHECK(stats.containers == DEPTH);
    CHECK(fakes_live() == 1);
    theus_container_release(inner);
    teardown();
}

static void
test_shared_containers(void)
{
    setup();
    theus_container *shared = map_of(3);
    theus_value word = theus_value_of_container(shared);
    theus_container *list = new_edit(heap, THEUS_LIST);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK(theus_list_splice(list, i, 0, &word, 1) == THEUS_OK);
    }
    CHECK(atomic_load(&shared->refs) == 101);
    theus_container *next = begin(sealed(list));
    CHECK(theus_list_splice(next, 0, 50, NULL, 0) == THEUS_OK);
    check_sound(sealed(next));
    theus_container_release(list);
    CHECK(atomic_load(&shared->refs) == 51);
    theus_value_retain(heap, word);
    theus_value_release(heap, word);
    theus_container_release(next);
    CHECK(atomic_load(&shared->refs) == 1);
    theus_container_release(shared);
    teardown();
}

/* ---- releases that re-enter ----------------------------------------------------------- */

static theus_container *reentry_base;
static int reentries;

/* As a __del__ that goes on using the family: edits, drops, looks around. */
static void
reenter(fake_atom *atom)
{
    reentries++;
    CHECK_SOUND(atom->id == 5000 ? theus_container_check(reentry_base, NULL) : NULL);
    theus_container *edit = begin(reentry_base);
    CHECK(set_id(edit, 3, 9) == THEUS_OK);
    CHECK(set_id(edit, 100000 + atom->id, 9) == THEUS_OK);
    CHECK(remove_id(edit, 5) == 1);
    sealed(edit);
    CHECK(get_id(edit, 3) == 9);
    long count = owned_atoms(heap);
    CHECK(count > 0);
    theus_container_release(edit);
}

static void
test_release_reenters(void)
{
    setup();
    reentry_base = map_of(500);
    theus_container *doomed = begin(reentry_base);
    enum { DOOMED = 1000 };
    for (uint64_t i = 0; i < DOOMED; i++) {
        fake_atom *key = fake_new(5000 + i);
        key->on_free = reenter;
        theus_value word = theus_container_value_at(reentry_base, 0);
        CHECK(theus_container_insert(doomed, key->hash, key, word, NULL) == THEUS_OK);
        fake_release(key);
    }
    sealed(doomed);
    reentries = 0;
    theus_container_release(doomed);
    CHECK(reentries == DOOMED);
    check_sound(reentry_base);

    /* The same from within an edit that is being changed: put, remove, clear. */
    theus_container *edit = begin(reentry_base);
    for (uint64_t key = 0; key < 3; key++) {
        fake_atom *value = fake_new(6000 + key);
        value->on_free = reenter;
        CHECK(theus_container_put(edit, (uint32_t)key, theus_value_of_atom(value)) == THEUS_OK);
        fake_release(value);
    }
    CHECK(set_id(edit, 0, 1) == THEUS_OK && reentries == DOOMED + 1);
    CHECK(remove_id(edit, 1) == 1 && reentries == DOOMED + 2);
    CHECK(theus_container_clear(edit) == THEUS_OK && reentries == DOOMED + 3);
    check_sound(edit);
    theus_container_release(edit);
    theus_container_release(reentry_base);
    teardown();
}

int
main(void)
{
    test_copy_counts_nothing();
    test_branches_are_counted();
    test_chain_orders();
    test_same_value();
    test_deep_nesting();
    test_shared_containers();
    test_release_reenters();
    return check_result();
}
