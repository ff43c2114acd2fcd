/* Every allocation of every operation fails in turn. After a failure the container is what it
 * was, everything is consistent, and the same operation succeeds when memory is back. */
#include "check.h"
#include "fakes.h"

/* One scenario: a container made by `prepare`, and an operation on an edit of it. */
typedef struct {
    theus_kind kind;
    uint32_t size; /* keys or values 0 .. size-1 */
    bool branch;   /* an older edit of the same base lives, so copies are counted */
    theus_status (*act)(theus_container *edit);
} scenario;

static theus_status
act_put(theus_container *edit)
{
    fake_atom *value = fake_new(777);
    theus_status status = theus_container_put(edit, edit->span / 2, theus_value_of_atom(value));
    fake_release(value);
    return status;
}

static theus_status
act_insert(theus_container *edit)
{
    return set_id(edit, 1000001, 5);
}

static theus_status
act_remove(theus_container *edit)
{
    return remove_id(edit, edit->span / 2) == 1 ? THEUS_OK : THEUS_NOMEM;
}

static theus_status
splice(theus_container *edit, uint32_t start, uint32_t drop, uint32_t count)
{
    theus_value values[40] = {0};
    REQUIRE(count <= 40);
    for (uint32_t i = 0; i < count; i++) {
        values[i] = theus_value_of_atom(fake_new(5000 + i));
    }
    theus_status status = theus_list_splice(edit, start, drop, values, count);
    for (uint32_t i = 0; i < count; i++) {
        fake_release(theus_value_atom(values[i]));
    }
    return status;
}

static theus_status
act_append(theus_container *edit)
{
    return splice(edit, edit->span, 0, 1);
}

static theus_status
act_extend(theus_container *edit)
{
    return splice(edit, edit->span, 0, 40);
}

static theus_status
act_pop(theus_container *edit)
{
    return splice(edit, edit->span - 1, 1, 0);
}

static theus_status
act_splice(theus_container *edit)
{
    return splice(edit, edit->span / 2, 3, 20);
}

static theus_status
act_replace(theus_container *edit)
{
    return splice(edit, edit->span / 2, 10, 10);
}

static theus_status
act_shorten(theus_container *edit)
{
    return splice(edit, edit->span / 2, edit->span - edit->span / 2, 3);
}

static theus_status
act_reverse(theus_container *edit)
{
    uint32_t *order = calloc(edit->span + 1, sizeof(*order));
    REQUIRE(order != NULL);
    for (uint32_t i = 0; i < edit->span; i++) {
        order[i] = edit->span - 1 - i;
    }
    theus_status status = theus_list_permute(edit, order);
    free(order);
    return status;
}

static theus_container *
build(theus_heap *heap, const scenario *scenario)
{
    theus_container *edit = new_edit(heap, scenario->kind);
    for (uint32_t i = 0; i < scenario->size; i++) {
        theus_status status =
            scenario->kind == THEUS_LIST ? append_id(edit, i) : set_id(edit, i, i);
        REQUIRE(status == THEUS_OK);
    }
    return sealed(edit);
}

/* What a container holds, in one number. */
static uint64_t
digest(const theus_container *container)
{
    uint64_t digest = container->count * 31u + container->span;
    theus_cursor cursor;
    uint32_t pos;
    void *key;
    theus_value value;
    theus_cursor_init(&cursor, container, false);
    while (theus_cursor_next(&cursor, &pos, &key, &value)) {
        digest = digest * 1000003u + pos;
        digest = digest * 1000003u + ((fake_atom *)theus_value_atom(value))->id;
        digest = digest * 1000003u + (key == NULL ? 0 : ((fake_atom *)key)->id);
    }
    return digest;
}

/* One attempt, on a heap of its own: spare nodes of an earlier one would spare allocations. */
static theus_status
attempt(const scenario *scenario, long n)
{
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    theus_container *base = build(heap, scenario);
    uint64_t before = digest(base);
    theus_container *other = NULL;
    if (scenario->branch) {
        other = begin(base);
        REQUIRE(scenario->act(other) == THEUS_OK);
    }
    theus_container *edit = begin(base);
    theus_alloc_fail_at(n);
    theus_status status = scenario->act(edit);
    theus_alloc_fail_at(-1);
    if (status != THEUS_OK) {
        CHECK(status == THEUS_NOMEM);
        CHECK(digest(edit) == before);
        check_sound(edit);
        CHECK(scenario->act(edit) == THEUS_OK);
    }
    check_sound(edit);
    CHECK(digest(base) == before);
    uint64_t after = digest(sealed(edit));
    CHECK(after != before);
    CHECK(other == NULL || digest(sealed(other)) == after);
    theus_container_release(other);
    check_sound(edit);
    theus_container_release(base);
    check_sound(edit);
    CHECK(digest(edit) == after);
    theus_container_release(edit);
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
    return status;
}

/* A sealed container with another value: all or nothing, too. */
static void
run_with(theus_kind kind, uint32_t size)
{
    scenario scenario = {.kind = kind, .size = size};
    for (long n = 1;; n++) {
        theus_heap *heap;
        REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
        theus_container *base = build(heap, &scenario), *next;
        uint64_t before = digest(base);
        fake_atom *value = fake_new(777);
        theus_alloc_fail_at(n);
        theus_status status =
            theus_container_with(base, size / 2, theus_value_of_atom(value), &next);
        theus_alloc_fail_at(-1);
        CHECK((next != NULL) == (status == THEUS_OK) && digest(base) == before);
        CHECK(value->refs == (status == THEUS_OK ? 2 : 1));
        check_sound(base);
        if (status == THEUS_OK) {
            CHECK(next->edit == 0 && next->shape == base->shape && id_at(next, size / 2) == 777);
            theus_container_release(base);
            check_sound(next);
        }
        theus_container_release(status == THEUS_OK ? next : base);
        fake_release(value);
        theus_heap_free(heap);
        CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
        if (status == THEUS_OK) {
            CHECK(n > 1);
            break;
        }
    }
}

static void
run(const scenario *scenario)
{
    long n = 1;
    while (attempt(scenario, n) != THEUS_OK) {
        n++;
    }
    /* Small nodes may be there as spares from building. */
    CHECK(n > 1 || scenario->size < 1000);
}

static void
run_compaction(theus_kind kind, uint32_t size)
{
    scenario scenario = {.kind = kind, .size = size};
    theus_heap *heap;
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    theus_container *base = build(heap, &scenario);
    long failures = 0;
    for (long n = 1;; n++) {
        theus_container *edit = begin(base);
        for (uint32_t i = 0; i < size; i++) {
            REQUIRE(i % 3 == 0 || remove_id(edit, i) == 1); /* so the seal must compact */
        }
        uint64_t before = digest(edit);
        uint32_t span = edit->span;
        theus_alloc_fail_at(n);
        theus_status status = theus_edit_seal(edit);
        theus_alloc_fail_at(-1);
        if (status != THEUS_OK) {
            failures++;
            CHECK(status == THEUS_NOMEM && edit->edit != 0 && edit->span == span);
            CHECK(digest(edit) == before);
            check_sound(edit);
            CHECK(theus_edit_seal(edit) == THEUS_OK);
        }
        CHECK(edit->edit == 0 && edit->span == edit->count);
        for (uint32_t i = 0; i < size; i++) {
            int64_t expected = i % 3 == 0 ? (int64_t)i : -1;
            CHECK(get_id(edit, i) == expected);
        }
        check_sound(edit);
        theus_container_release(edit);
        if (status == THEUS_OK) {
            break;
        }
    }
    CHECK(failures > 0);
    theus_container_release(base);
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

/* The first steps of a heap and of a container: nothing is there to be spared. */
static void
test_first_steps(void)
{
    for (long n = 1;; n++) {
        theus_heap *heap;
        theus_container *map = NULL;
        theus_atoms *cells = NULL;
        theus_alloc_fail_at(n);
        theus_status status = theus_heap_new(&fake_ops, &heap);
        if (status == THEUS_OK) {
            status = theus_container_new(heap, THEUS_MAP, &map);
        }
        for (uint64_t i = 0; i < 300 && status == THEUS_OK; i++) {
            status = set_id(map, i, i);
        }
        if (status == THEUS_OK) {
            fake_atom *atom = fake_new(1);
            void *atoms[] = {atom, atom};
            status = theus_atoms_new(heap, atoms, 2, &cells);
            fake_release(atom);
        }
        theus_alloc_fail_at(-1);
        CHECK(status == THEUS_OK || status == THEUS_NOMEM);
        if (heap != NULL) {
            CHECK_SOUND(theus_heap_check(heap));
            if (map != NULL) {
                check_sound(map);
                theus_container_release(map);
            }
            CHECK((cells != NULL) == (status == THEUS_OK));
            theus_heap_free(heap);
        }
        CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
        if (status == THEUS_OK) {
            break;
        }
        REQUIRE(n < 1000);
    }
}

int
main(void)
{
    test_first_steps();
    const uint32_t sizes[] = {1, 4, 32, 33, 192, 1024, 1500};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int branch = 0; branch < 2; branch++) {
            run(&(scenario){THEUS_MAP, sizes[i], branch, act_put});
            run(&(scenario){THEUS_MAP, sizes[i], branch, act_insert});
            run(&(scenario){THEUS_MAP, sizes[i], branch, act_remove});
            run(&(scenario){THEUS_SET, sizes[i], branch, act_insert});
            run(&(scenario){THEUS_SET, sizes[i], branch, act_remove});
            run(&(scenario){THEUS_LIST, sizes[i], branch, act_put});
            run(&(scenario){THEUS_LIST, sizes[i], branch, act_append});
            run(&(scenario){THEUS_LIST, sizes[i], branch, act_extend});
            run(&(scenario){THEUS_LIST, sizes[i], branch, act_pop});
            if (sizes[i] > 20) {
                run(&(scenario){THEUS_LIST, sizes[i], branch, act_splice});
                run(&(scenario){THEUS_LIST, sizes[i], branch, act_replace});
                run(&(scenario){THEUS_LIST, sizes[i], branch, act_shorten});
                run(&(scenario){THEUS_LIST, sizes[i], branch, act_reverse});
            }
        }
    }
    run_with(THEUS_MAP, 3);
    run_with(THEUS_MAP, 1500);
    run_with(THEUS_LIST, 1500);
    run_compaction(THEUS_MAP, 40);
    run_compaction(THEUS_SET, 40);
    run_compaction(THEUS_MAP, 700);
    return check_result();
}
