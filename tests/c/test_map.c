/* Maps and sets against a naive array, with many versions alive at once. */
#include "check.h"
#include "fakes.h"

/* ---- the model: an array in insertion order --------------------------------------- */

enum { MODEL_MAX = 600, VERSIONS = 24 };

typedef struct {
    int count;
    struct {
        uint64_t key;
        uint64_t value;
    } items[MODEL_MAX];
} model;

typedef struct {
    theus_container *container;
    model model;
} version;

static int
model_find(const model *model, uint64_t key)
{
    for (int i = 0; i < model->count; i++) {
        if (model->items[i].key == key) {
            return i;
        }
    }
    return -1;
}

static void
model_set(model *model, uint64_t key, uint64_t value)
{
    int i = model_find(model, key);
    if (i < 0) {
        REQUIRE(model->count < MODEL_MAX);
        i = model->count++;
        model->items[i].key = key;
    }
    model->items[i].value = value;
}

static void
model_remove(model *model, uint64_t key)
{
    int i = model_find(model, key);
    if (i >= 0) {
        model->count--;
        memmove(&model->items[i], &model->items[i + 1],
                sizeof(model->items[0]) * (size_t)(model->count - i));
    }
}

static void
check_same(const theus_container *container, const model *model)
{
    bool is_set = container->kind == THEUS_SET;
    theus_cursor forwards, backwards;
    uint32_t pos;
    void *key;
    theus_value value;
    CHECK(container->count == (uint32_t)model->count);
    theus_cursor_init(&forwards, container, false);
    for (int i = 0; i < model->count; i++) {
        REQUIRE(theus_cursor_next(&forwards, &pos, &key, &value));
        CHECK(((fake_atom *)key)->id == model->items[i].key);
        CHECK(theus_container_key_at(container, pos) == key);
        CHECK(is_set ? value == theus_value_of_atom(key)
                     : ((fake_atom *)theus_value_atom(value))->id == model->items[i].value);
    }
    CHECK(!theus_cursor_next(&forwards, NULL, NULL, NULL));
    theus_cursor_init(&backwards, container, true);
    for (int i = model->count; i-- > 0;) {
        REQUIRE(theus_cursor_prev(&backwards, &pos, &key, NULL));
        CHECK(((fake_atom *)key)->id == model->items[i].key);
    }
    CHECK(!theus_cursor_prev(&backwards, NULL, NULL, NULL));
    if (model->count > 0) {
        pos = theus_container_nth(container, (uint32_t)model->count / 2);
        CHECK(((fake_atom *)theus_container_key_at(container, pos))->id
              == model->items[model->count / 2].key);
    }
}

/* ---- random programs ------------------------------------------------------------------ */

typedef uint64_t (*hash_fn)(uint64_t key);

static uint64_t
hash_identity(uint64_t key)
{
    return key;
}

static uint64_t
hash_equal(uint64_t key)
{
    (void)key;
    return 42;
}

static uint64_t
hash_few(uint64_t key)
{
    return key % 7;
}

static uint64_t
hash_high_bits(uint64_t key)
{
    return key << 48;
}

static void
random_edit(version *target, hash_fn hash, unsigned keys, int steps, unsigned long long *random)
{
    theus_container *edit = target->container;
    for (int i = 0; i < steps; i++) {
        uint64_t key = check_random(random, keys);
        unsigned action = check_random(random, 100);
        if (action < 60) {
            uint64_t value = check_random(random, 1000000);
            REQUIRE(set_hashed(edit, key, hash(key), value) == THEUS_OK);
            model_set(&target->model, key, value);
        }
        else if (action < 99) {
            int there = remove_hashed(edit, key, hash(key));
            CHECK(there == (model_find(&target->model, key) >= 0));
            model_remove(&target->model, key);
        }
        else if (check_random(random, 4) == 0) {
            REQUIRE(theus_container_clear(edit) == THEUS_OK);
            target->model.count = 0;
        }
    }
}

static void
check_lookups(const version *version, hash_fn hash, unsigned keys)
{
    for (uint64_t key = 0; key < keys; key++) {
        int i = model_find(&version->model, key);
        int64_t expected = i < 0 ? -1
                           : version->container->kind == THEUS_SET
                               ? (int64_t)key
                               : (int64_t)version->model.items[i].value;
        CHECK(get_hashed(version->container, key, hash(key)) == expected);
    }
}

/* Versions branch from one another and are dropped in random order. */
static void
test_random(theus_kind kind, hash_fn hash, unsigned keys, int steps, int rounds,
            unsigned long long seed)
{
    static version versions[VERSIONS];
    unsigned long long random = seed;
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    memset(versions, 0, sizeof(versions));
    for (int i = 0; i < VERSIONS; i++) {
        versions[i].container = sealed(new_edit(heap, kind));
    }
    for (int round = 0; round < rounds; round++) {
        version *from = &versions[check_random(&random, VERSIONS)];
        version *to = &versions[check_random(&random, VERSIONS)];
        static version next;
        next.container = begin(from->container);
        next.model = from->model;
        random_edit(&next, hash, keys, 1 + (int)check_random(&random, (unsigned)steps), &random);
        CHECK_SOUND(theus_container_check(next.container, NULL));
        check_same(next.container, &next.model);
        theus_container_release(to->container);
        *to = next;
        sealed(to->container);
        if (round % 8 == 0) {
            check_sound(to->container);
            check_same(from->container, &from->model);
            check_lookups(to, hash, keys);
        }
    }
    for (int i = 0; i < VERSIONS; i++) {
        CHECK_SOUND(theus_container_check(versions[i].container, NULL));
        check_same(versions[i].container, &versions[i].model);
    }
    for (int i = 0; i < VERSIONS; i++) {
        theus_container_release(versions[i].container);
        CHECK_SOUND(theus_heap_check(heap));
    }
    CHECK(owned_atoms(heap) == 0);
    CHECK(fakes_live() == 0);
    theus_heap_free(heap);
    CHECK(theus_alloc_live() == 0);
}

int
main(void)
{
    const theus_kind kinds[] = {THEUS_MAP, THEUS_SET};
    for (int i = 0; i < 2; i++) {
        for (unsigned long long seed = 1; seed < 20; seed += 6) {
            test_random(kinds[i], hash_identity, 10, 5, 600, seed);
            test_random(kinds[i], hash_identity, 80, 30, 400, seed + 1);
            test_random(kinds[i], hash_identity, 500, 300, 200, seed + 2);
            test_random(kinds[i], hash_equal, 60, 30, 200, seed + 3);
            test_random(kinds[i], hash_few, 100, 60, 200, seed + 4);
            test_random(kinds[i], hash_high_bits, 500, 200, 150, seed + 5);
        }
    }
    return check_result();
}
