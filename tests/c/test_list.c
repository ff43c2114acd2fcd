/* Lists against a naive array: splices anywhere, permutations, many versions alive at once. */
#include "check.h"
#include "fakes.h"

enum { MODEL_MAX = 4000, VERSIONS = 12 };

typedef struct {
    theus_container *list;
    uint32_t count;
    uint64_t items[MODEL_MAX];
} version;

static void
check_same(const version *version)
{
    theus_cursor forwards, backwards;
    uint32_t pos;
    void *key;
    theus_value value;
    CHECK(version->list->count == version->count && version->list->span == version->count);
    theus_cursor_init(&forwards, version->list, false);
    theus_cursor_init(&backwards, version->list, true);
    for (uint32_t i = 0; i < version->count; i++) {
        REQUIRE(theus_cursor_next(&forwards, &pos, &key, &value));
        CHECK(pos == i && key == NULL);
        CHECK(((fake_atom *)theus_value_atom(value))->id == version->items[i]);
        CHECK(id_at(version->list, i) == (int64_t)version->items[i]);
        REQUIRE(theus_cursor_prev(&backwards, &pos, NULL, NULL));
        CHECK(pos == version->count - 1 - i);
    }
    CHECK(!theus_cursor_next(&forwards, NULL, NULL, NULL));
    CHECK(!theus_cursor_prev(&backwards, NULL, NULL, NULL));
}

static void
splice(version *version, uint32_t start, uint32_t drop, uint32_t count, uint64_t first_id)
{
    theus_value *values = calloc(count + 1, sizeof(*values));
    REQUIRE(values != NULL && version->count - drop + count <= MODEL_MAX);
    memmove(version->items + start + count, version->items + start + drop,
            sizeof(uint64_t) * (version->count - start - drop));
    version->count = version->count - drop + count;
    for (uint32_t i = 0; i < count; i++) {
        version->items[start + i] = first_id + i;
        values[i] = theus_value_of_atom(fake_new(first_id + i));
    }
    uint64_t shape = version->list->shape;
    CHECK(theus_list_splice(version->list, start, drop, values, count) == THEUS_OK);
    CHECK((version->list->shape == shape) == (drop == count));
    for (uint32_t i = 0; i < count; i++) {
        fake_release(theus_value_atom(values[i]));
    }
    free(values);
}

static void
random_splice(version *version, unsigned long long *random)
{
    uint32_t start = 0, drop = 0, count = 0;
    switch (check_random(random, 6)) {
    case 0: /* append one */
        start = version->count;
        count = 1;
        break;
    case 1: /* append many */
        start = version->count;
        count = check_random(random, 200);
        break;
    case 2: /* cut the end */
        start = check_random(random, version->count + 1);
        drop = version->count - start;
        break;
    case 3: /* replace in place */
        start = check_random(random, version->count + 1);
        drop = count = check_random(random, version->count - start + 1);
        break;
    case 4: /* replace the end by more or less */
        start = check_random(random, version->count + 1);
        drop = version->count - start;
        count = check_random(random, 100);
        break;
    default: /* anything */
        start = check_random(random, version->count + 1);
        drop = check_random(random, version->count - start + 1);
        count = check_random(random, 100);
    }
    if (version->count - drop + count <= MODEL_MAX) {
        splice(version, start, drop, count, check_random(random, 1000000));
    }
}

static void
shuffle(version *version, unsigned long long *random)
{
    static uint32_t order[MODEL_MAX];
    static uint64_t items[MODEL_MAX];
    for (uint32_t i = 0; i < version->count; i++) {
        uint32_t j = check_random(random, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    memcpy(items, version->items, sizeof(items));
    for (uint32_t i = 0; i < version->count; i++) {
        version->items[i] = items[order[i]];
    }
    uint64_t shape = version->list->shape;
    CHECK(theus_list_permute(version->list, order) == THEUS_OK);
    CHECK(version->list->shape == shape);
}

static void
put_some(version *version, unsigned long long *random)
{
    for (int i = 0; i < 5 && version->count > 0; i++) {
        uint32_t pos = check_random(random, version->count);
        fake_atom *value = fake_new(version->items[pos] = check_random(random, 1000000));
        CHECK(theus_container_put(version->list, pos, theus_value_of_atom(value)) == THEUS_OK);
        fake_release(value);
    }
}

static void
test_random(int rounds, unsigned long long random)
{
    static version versions[VERSIONS];
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    for (int i = 0; i < VERSIONS; i++) {
        versions[i].list = sealed(new_edit(heap, THEUS_LIST));
        versions[i].count = 0;
    }
    for (int round = 0; round < rounds; round++) {
        static version next;
        next = versions[check_random(&random, VERSIONS)];
        next.list = begin(next.list);
        for (unsigned i = 0; i < 3; i++) {
            random_splice(&next, &random);
            put_some(&next, &random);
            CHECK_SOUND(theus_container_check(next.list, NULL));
        }
        if (round % 10 == 0) {
            shuffle(&next, &random);
        }
        version *to = &versions[check_random(&random, VERSIONS)];
        theus_container_release(to->list);
        *to = next;
        sealed(to->list);
        check_sound(to->list);
        check_same(to);
    }
    for (int i = 0; i < VERSIONS; i++) {
        check_same(&versions[i]);
        theus_container_release(versions[i].list);
        CHECK_SOUND(theus_heap_check(heap));
    }
    CHECK(owned_atoms(heap) == 0 && fakes_live() == 0);
    theus_heap_free(heap);
    CHECK(theus_alloc_live() == 0);
}

/* Every length around the widths of the trie, built and unbuilt one by one. */
static void
test_heights(void)
{
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    theus_container *list = new_edit(heap, THEUS_LIST);
    enum { TOP = 32 * 32 + 40 };
    for (uint32_t i = 0; i < TOP; i++) {
        CHECK(append_id(list, i) == THEUS_OK);
        if (i % 16 < 2 || i % 32 > 29) {
            check_sound(list);
        }
    }
    CHECK(list->shift == 10);
    for (uint32_t i = TOP; i-- > 0;) {
        CHECK(id_at(list, i) == i);
        CHECK(theus_list_splice(list, i, 1, NULL, 0) == THEUS_OK);
        CHECK(list->count == i);
        if (i % 16 < 2 || i % 32 > 29) {
            check_sound(list);
        }
    }
    CHECK(list->entries == NULL && list->shift == 0);
    theus_container_release(list);
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

/* A list that is not sealed may be spliced with its own values. */
static void
test_own_values(void)
{
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    theus_container *list = new_edit(heap, THEUS_LIST);
    for (uint32_t i = 0; i < 100; i++) {
        CHECK(append_id(list, i) == THEUS_OK);
    }
    theus_value own[50];
    for (uint32_t i = 0; i < 50; i++) {
        own[i] = theus_container_value_at(list, i);
    }
    CHECK(theus_list_splice(list, 0, 60, own, 50) == THEUS_OK);
    CHECK(list->count == 90 && id_at(list, 49) == 49 && id_at(list, 50) == 60);
    check_sound(list);
    theus_container_release(list);
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

int
main(void)
{
    test_heights();
    test_own_values();
    test_random(300, 7);
    test_random(300, 8);
    return check_result();
}
