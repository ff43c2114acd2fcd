/* Differences of two containers against what a naive comparison finds, and their cost. */
#include "check.h"
#include "fakes.h"

static theus_heap *heap;
static theus_heap *other_heap;

static void
setup(void)
{
    memset(&fakes, 0, sizeof(fakes));
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    REQUIRE(theus_heap_new(&fake_ops, &other_heap) == THEUS_OK);
}

static void
teardown(void)
{
    memset(&fakes, 0, sizeof(fakes));
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    theus_heap_free(other_heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

/* ---- a record of what was reported, checked as it comes -------------------------------- */

typedef struct {
    const theus_container *a;
    const theus_container *b;
    uint32_t added, removed, changed;
    int64_t last_in_a, last_in_b;
    uint32_t stop_after; /* 0: never */
    int answer;          /* then */
} record;

static int
on_change(void *arg, theus_change_kind kind, void *key, uint32_t pos_a, theus_value a,
          uint32_t pos_b, theus_value b)
{
    record *record = arg;
    CHECK(key == NULL || record->a->kind != THEUS_LIST);
    if (kind != THEUS_ADDED) {
        CHECK(record->added == 0); /* additions come last */
        CHECK((int64_t)pos_a > record->last_in_a);
        CHECK(theus_container_value_at(record->a, pos_a) == a);
        CHECK(key == NULL || theus_container_key_at(record->a, pos_a) == key);
        record->last_in_a = pos_a;
    }
    if (kind == THEUS_ADDED) {
        CHECK((int64_t)pos_b > record->last_in_b);
        CHECK(key == NULL || theus_container_key_at(record->b, pos_b) == key);
        record->last_in_b = pos_b;
    }
    if (kind != THEUS_REMOVED) {
        CHECK(theus_container_value_at(record->b, pos_b) == b);
    }
    if (kind == THEUS_CHANGED_VALUE) {
        CHECK(a != b);
    }
    record->added += kind == THEUS_ADDED;
    record->removed += kind == THEUS_REMOVED;
    record->changed += kind == THEUS_CHANGED_VALUE;
    return record->stop_after != 0
                   && record->added + record->removed + record->changed == record->stop_after
               ? record->answer
               : 0;
}

static record
diff(const theus_container *a, const theus_container *b)
{
    record record = {.a = a, .b = b, .last_in_a = -1, .last_in_b = -1};
    theus_status status;
    CHECK(theus_container_diff(a, b, NULL, on_change, &record, &status) == 0);
    CHECK(status == THEUS_OK);
    return record;
}

/* The same by asking for every key. */
static record
naive_diff(const theus_container *a, const theus_container *b)
{
    record record = {.a = a, .b = b};
    theus_cursor cursor;
    uint32_t pos, other;
    void *key;
    theus_value value, other_value;
    theus_cursor_init(&cursor, a, false);
    while (theus_cursor_next(&cursor, &pos, &key, &value)) {
        if (theus_container_find(b, NULL, ((fake_atom *)key)->hash, key, &other, &other_value)
            == THEUS_ABSENT) {
            record.removed++;
        }
        else {
            record.changed += other_value != value && a->kind == THEUS_MAP;
        }
    }
    theus_cursor_init(&cursor, b, false);
    while (theus_cursor_next(&cursor, &pos, &key, &value)) {
        record.added += theus_container_find(a, NULL, ((fake_atom *)key)->hash, key, &other, NULL)
                        == THEUS_ABSENT;
    }
    return record;
}

static void
check_diff(const theus_container *a, const theus_container *b)
{
    record found = diff(a, b);
    record expected = naive_diff(a, b);
    CHECK(found.added == expected.added);
    CHECK(found.removed == expected.removed);
    CHECK(found.changed == expected.changed);
}

/* ---- by position ------------------------------------------------------------------------- */

typedef struct {
    const theus_container *a, *b;
    uint32_t told;
    int64_t last;
    uint32_t stop_after;
} places;

static theus_value
entry_of(const theus_container *container, uint32_t pos, void **key)
{
    *key = NULL;
    return pos < container->span ? theus_container_entry_at(container, pos, key) : THEUS_NONE;
}

static int
on_place(void *arg, uint32_t pos, void *key_a, theus_value a, void *key_b, theus_value b)
{
    places *self = arg;
    void *here_a, *here_b;
    CHECK((int64_t)pos > self->last);
    CHECK(entry_of(self->a, pos, &here_a) == a && entry_of(self->b, pos, &here_b) == b);
    if (self->a->kind != THEUS_LIST) {
        CHECK(here_a == key_a && here_b == key_b);
    }
    self->last = pos;
    self->told++;
    return self->told == self->stop_after ? 7 : 0;
}

/* All places that are not the same are told, and no others. */
static void
check_places(const theus_container *a, const theus_container *b)
{
    uint32_t span = a->span > b->span ? a->span : b->span, differ = 0;
    for (uint32_t pos = 0; pos < span; pos++) {
        void *key_a, *key_b;
        theus_value in_a = entry_of(a, pos, &key_a), in_b = entry_of(b, pos, &key_b);
        differ += in_a != in_b || key_a != key_b;
    }
    places all = {.a = a, .b = b, .last = -1};
    CHECK(theus_container_places(a, b, on_place, &all) == 0 && all.told == differ);
    places some = {.a = a, .b = b, .last = -1, .stop_after = differ / 2};
    CHECK(theus_container_places(a, b, on_place, &some) == (differ / 2 == 0 ? 0 : 7));
    CHECK(differ < 2 || some.told == differ / 2);
}

/* ---- maps and sets ----------------------------------------------------------------------- */

static void
test_random(theus_kind kind, unsigned keys, unsigned steps, unsigned long long random)
{
    enum { VERSIONS = 10 };
    setup();
    theus_container *versions[VERSIONS];
    for (int i = 0; i < VERSIONS; i++) {
        versions[i] = sealed(new_edit(heap, kind));
    }
    for (int round = 0; round < 200; round++) {
        unsigned from = check_random(&random, VERSIONS), to = check_random(&random, VERSIONS);
        theus_container *edit = begin(versions[from]);
        for (unsigned i = 0; i < steps; i++) {
            uint64_t key = check_random(&random, keys);
            if (check_random(&random, 5) < 3) {
                CHECK(set_id(edit, key, check_random(&random, 1000)) == THEUS_OK);
            }
            else {
                remove_id(edit, key);
            }
        }
        theus_container_release(versions[to]);
        versions[to] = sealed(edit);
        check_diff(versions[check_random(&random, VERSIONS)], edit);
        check_diff(edit, versions[check_random(&random, VERSIONS)]);
        check_diff(edit, edit);
        check_places(versions[check_random(&random, VERSIONS)], edit);
        check_places(edit, versions[check_random(&random, VERSIONS)]);
    }
    for (int i = 0; i < VERSIONS; i++) {
        theus_container_release(versions[i]);
    }
    teardown();
}

static theus_container *
map_of(theus_heap *where, uint64_t size)
{
    theus_container *map = new_edit(where, THEUS_MAP);
    for (uint64_t i = 0; i < size; i++) {
        REQUIRE(set_id(map, i, i) == THEUS_OK);
    }
    return sealed(map);
}

/* Cost follows the changes: counted in calls to equal(), which a comparison of one shape never
 * needs, and by what is walked: see bench_container.c. */
static void
test_counts(void)
{
    setup();
    theus_container *base = map_of(heap, 5000);
    theus_container *next = begin(base);
    for (uint64_t i = 0; i < 10; i++) {
        CHECK(set_id(next, i * 450, 1000000 + i) == THEUS_OK);
    }
    sealed(next);
    atomic_store(&fakes.equal_calls, 0);
    fakes.fail_hash = 1; /* not even that */
    record found = diff(base, next);
    CHECK(found.changed == 10 && found.added == 0 && found.removed == 0);
    found = diff(next, base);
    CHECK(found.changed == 10);
    CHECK(atomic_load(&fakes.equal_calls) == 0);
    fakes.fail_hash = 0;

    theus_container *more = begin(next);
    CHECK(set_id(more, 5001, 1) == THEUS_OK && remove_id(more, 17) == 1);
    CHECK(remove_id(more, 18) == 1 && set_id(more, 18, 18) == THEUS_OK); /* moved to the end */
    sealed(more);
    found = diff(base, more);
    CHECK(found.changed == 11 && found.added == 1 && found.removed == 1);
    theus_container_release(more);
    theus_container_release(next);
    theus_container_release(base);
    teardown();
}

static void
test_two_heaps(void)
{
    setup();
    theus_container *here = map_of(heap, 100);
    theus_container *there = map_of(other_heap, 120);
    record found = diff(here, there); /* equal keys, other value atoms */
    CHECK(found.changed == 100 && found.added == 20 && found.removed == 0);
    theus_container_release(here);
    theus_container_release(there);
    teardown();
}

static void
test_stop_and_fail(void)
{
    setup();
    theus_container *base = map_of(heap, 100);
    theus_container *next = begin(base);
    for (uint64_t i = 0; i < 20; i++) {
        CHECK(remove_id(next, i) == 1 && set_id(next, 1000 + i, i) == THEUS_OK);
    }
    sealed(next);
    for (uint32_t stop = 1; stop <= 40; stop++) {
        for (int answer = -1; answer <= 1; answer += 2) {
            record record = {.a = base,
                             .b = next,
                             .last_in_a = -1,
                             .last_in_b = -1,
                             .stop_after = stop,
                             .answer = answer};
            theus_status status;
            CHECK(theus_container_diff(base, next, NULL, on_change, &record, &status) == answer);
            CHECK(status == (answer < 0 ? THEUS_FOREIGN : THEUS_OK));
            CHECK(record.added + record.removed == stop);
        }
    }
    fakes.fail_hash = 1;
    record record = {.a = base, .b = next, .last_in_a = -1, .last_in_b = -1};
    theus_status status;
    CHECK(theus_container_diff(base, next, NULL, on_change, &record, &status) == -1);
    CHECK(status == THEUS_FOREIGN);
    theus_container *more = begin(base); /* nothing removed: only the second walk asks */
    CHECK(set_id(more, 5000, 1) == THEUS_OK);
    sealed(more);
    record.b = more;
    CHECK(theus_container_diff(base, more, NULL, on_change, &record, &status) == -1);
    CHECK(status == THEUS_FOREIGN && record.added == 0);
    fakes.fail_hash = 0;
    theus_container_release(more);
    theus_container_release(next);
    theus_container_release(base);
    teardown();
}

/* ---- lists -------------------------------------------------------------------------------- */

static void
test_lists(unsigned long long random)
{
    setup();
    for (int round = 0; round < 200; round++) {
        theus_container *a = new_edit(heap, THEUS_LIST);
        unsigned size = check_random(&random, 1200);
        for (unsigned i = 0; i < size; i++) {
            CHECK(append_id(a, i) == THEUS_OK);
        }
        theus_container *b = begin(sealed(a));
        uint32_t cut = check_random(&random, b->count + 1);
        uint32_t changes = 0;
        CHECK(theus_list_splice(b, b->count - cut, cut, NULL, 0) == THEUS_OK);
        for (uint32_t pos = 0; pos < b->count; pos += 1 + check_random(&random, 50)) {
            fake_atom *value = fake_new(5);
            CHECK(theus_container_put(b, pos, theus_value_of_atom(value)) == THEUS_OK);
            fake_release(value);
            changes++;
        }
        uint32_t kept = b->count;
        uint32_t more = check_random(&random, 1200);
        for (uint32_t i = 0; i < more; i++) {
            CHECK(append_id(b, i) == THEUS_OK); /* new atoms: all differ from what was cut */
        }
        sealed(b);
        uint32_t both = a->count < b->count ? a->count : b->count;
        record found = diff(a, b);
        CHECK(found.changed == changes + (both - kept));
        CHECK(found.removed == a->count - both && found.added == b->count - both);
        found = diff(b, a);
        CHECK(found.changed == changes + (both - kept));
        CHECK(found.added == a->count - both && found.removed == b->count - both);
        check_places(a, b);
        check_places(b, a);
        theus_container_release(a);
        theus_container_release(b);
    }
    teardown();
}

int
main(void)
{
    test_random(THEUS_MAP, 20, 5, 1);
    test_random(THEUS_MAP, 300, 60, 2);
    test_random(THEUS_SET, 100, 30, 3);
    test_counts();
    test_two_heaps();
    test_stop_and_fail();
    test_lists(4);
    return check_result();
}
