/* The index under bad hashes and bad manners: collisions, equal() that fails, calls back, or
 * changes the edit that is being searched. */
#include "check.h"
#include "fakes.h"
#include "index.h"

static theus_heap *heap;

static void
setup(void)
{
    memset(&fakes, 0, sizeof(fakes));
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
}

static void
teardown(void)
{
    memset(&fakes, 0, sizeof(fakes));
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

/* ---- shapes of the table ------------------------------------------------------------- */

/* Growth through segments, splits and directories of several levels. */
static void
test_growth(void)
{
    setup();
    theus_container *map = new_edit(heap, THEUS_MAP);
    enum { KEYS = 30000 };
    for (uint64_t i = 0; i < KEYS; i++) {
        REQUIRE(set_id(map, i, i) == THEUS_OK);
        if ((i & (i + 1)) == 0 || i % 7000 == 0) {
            check_sound(map);
        }
    }
    check_sound(map);
    for (uint64_t i = 0; i < KEYS + 100; i++) {
        CHECK(get_id(map, i) == (i < KEYS ? (int64_t)i : -1));
    }
    for (uint64_t i = 0; i < KEYS; i += 2) {
        REQUIRE(remove_id(map, i) == 1);
    }
    check_sound(map);
    for (uint64_t i = 0; i < KEYS; i++) {
        CHECK(get_id(map, i) == (i % 2 == 0 ? -1 : (int64_t)i));
    }
    theus_container_release(sealed(map));
    CHECK(atomic_load(&fakes.equal_calls) > 0);
    teardown();
}

/* All fragments equal: a segment that may not split, and grows beyond what tags can tell. */
static void
test_equal_hashes(void)
{
    setup();
    theus_container *set = new_edit(heap, THEUS_SET);
    enum { KEYS = 1200 };
    for (uint64_t i = 0; i < KEYS; i++) {
        fake_atom *key = fake_new_hashed(i, 42);
        CHECK(theus_container_insert(set, 42, key, THEUS_NONE, NULL) == THEUS_OK);
        fake_release(key);
    }
    check_sound(set);
    for (uint64_t i = 0; i < KEYS; i += 50) {
        CHECK(get_hashed(set, i, 42) == (int64_t)i);
    }
    CHECK(get_hashed(set, KEYS, 42) == -1);
    for (uint64_t i = 0; i < KEYS; i += 3) {
        CHECK(remove_hashed(set, i, 42) == 1);
    }
    check_sound(sealed(set));
    theus_container_release(set);
    teardown();
}

/* The tag of a word says how large its segment is, up to a size; then the segment does. */
static void
test_tags(void)
{
    setup();
    for (unsigned log2 = THEUS_NODE_LOG2_MIN; log2 <= 18; log2++) {
        theus_grave grave;
        theus_grave_init(&grave);
        theus_mutex_lock(&heap->lock);
        theus_node *segment = theus_node_new_locked(heap, THEUS_SEGMENT, log2, 0);
        REQUIRE(segment != NULL);
        uintptr_t word = theus_index_word(segment);
        CHECK((word & THEUS_NODE_TAGS) != 0);
        CHECK(theus_node_of_word(word) == segment);
        CHECK(theus_index_segment_mask(word) == (1u << log2) - 1);
        theus_node_drop_locked(heap, segment, &grave);
        theus_grave_close(heap, &grave);
    }
    teardown();
}

/* Hashes with structure must not all begin to probe at one place. */
static void
test_mixing(void)
{
    for (unsigned shift = 0; shift < 56; shift += 4) {
        uint32_t low[64] = {0}, high[64] = {0};
        for (uint64_t i = 0; i < 256; i++) {
            uint32_t fragment = theus_index_fragment(i << shift);
            low[fragment & 63]++;
            high[fragment >> 26]++;
        }
        for (int i = 0; i < 64; i++) {
            CHECK(low[i] < 24 && high[i] < 24); /* 4 each would be even */
        }
    }
}

/* ---- equality ------------------------------------------------------------------------ */

/* Identity first, equal fragments only. */
static void
test_equal_is_asked_rarely(void)
{
    setup();
    theus_container *map = new_edit(heap, THEUS_MAP);
    fake_atom *keys[100];
    for (uint64_t i = 0; i < 100; i++) {
        keys[i] = fake_new(i);
        CHECK(theus_container_insert(map, i, keys[i], theus_value_of_atom(keys[i]), NULL)
              == THEUS_OK);
    }
    sealed(map);
    uint32_t pos;
    for (uint64_t i = 0; i < 100; i++) {
        CHECK(theus_container_find(map, NULL, i, keys[i], &pos, NULL) == THEUS_FOUND);
        CHECK(pos == i);
    }
    CHECK(get_id(map, 12345) == -1);
    CHECK(atomic_load(&fakes.equal_calls) == 0);
    CHECK(get_id(map, 7) == 7); /* another object, equal */
    CHECK(atomic_load(&fakes.equal_calls) == 1);
    fakes.fail_equal = 1;
    fake_atom *other = fake_new(7);
    CHECK(theus_container_find(map, NULL, 7, other, &pos, NULL) == THEUS_FIND_FAILED);
    CHECK(theus_container_find(map, NULL, 7, keys[7], &pos, NULL) == THEUS_FOUND);
    fakes.fail_equal = 0;
    fake_release(other);
    for (int i = 0; i < 100; i++) {
        fake_release(keys[i]);
    }
    theus_container_release(map);
    teardown();
}

/* equal() that changes the edit it is asked for, `ctx`, a bounded number of times. */
static int mischief_left;
static int mischief_kind;

static void
mischief(void *ctx, fake_atom *a, fake_atom *b)
{
    (void)b;
    if (mischief_left == 0) {
        return;
    }
    mischief_left--;
    theus_container *edit = ctx;
    uint64_t id = a->id;
    switch (mischief_kind) {
    case 0: /* the very entry goes, and with it the key that is being compared */
        CHECK(theus_container_remove(edit, 42, (uint32_t)id) == THEUS_OK);
        CHECK(a->id == id); /* still there */
        break;
    case 1: /* everything goes */
        CHECK(theus_container_clear(edit) == THEUS_OK);
        break;
    case 2: { /* the index grows, splits, moves */
        for (uint64_t i = 0; i < 400; i++) {
            fake_atom *key =
                fake_new_hashed(100000 + i + (uint64_t)mischief_left * 1000, i % 2 == 0 ? 42 : i);
            CHECK(theus_container_insert(edit, key->hash, key, theus_value_of_atom(key), NULL)
                  == THEUS_OK);
            fake_release(key);
        }
        break;
    }
    default: { /* values change, the path of the entry is copied */
        fake_atom *value = fake_new(777);
        CHECK(theus_container_put(edit, (uint32_t)id, theus_value_of_atom(value)) == THEUS_OK);
        fake_release(value);
    }
    }
}

static void
test_equal_changes_the_edit(void)
{
    for (mischief_kind = 0; mischief_kind < 4; mischief_kind++) {
        for (int times = 1; times < 4; times++) {
            setup();
            theus_container *base = new_edit(heap, THEUS_MAP);
            for (uint64_t i = 0; i < 20; i++) {
                CHECK(set_hashed(base, i, 42, i) == THEUS_OK);
            }
            theus_container *edit = begin(sealed(base));
            fake_atom *key = fake_new_hashed(10, 42);
            uint32_t pos = 99;
            theus_value value = THEUS_NONE;
            fakes.on_equal = mischief;
            mischief_left = times;
            theus_find found = theus_container_find(edit, edit, 42, key, &pos, &value);
            CHECK(mischief_left == 0 || mischief_kind == 1);
            fakes.on_equal = NULL;
            CHECK(found == (mischief_kind == 1 ? THEUS_ABSENT : THEUS_FOUND));
            if (found == THEUS_FOUND) {
                CHECK(pos == 10 && theus_container_value_at(edit, 10) == value);
            }
            check_sound(edit);
            CHECK(get_hashed(base, 10, 42) == 10);
            fake_release(key);
            theus_container_release(edit);
            theus_container_release(base);
            teardown();
        }
    }
}

int
main(void)
{
    test_growth();
    test_equal_hashes();
    test_tags();
    test_mixing();
    test_equal_is_asked_rarely();
    test_equal_changes_the_edit();
    return check_result();
}
