/* Edits and seals: what changes when, compaction, cursors in between, threads that share. */
#include "check.h"
#include "fakes.h"
#include "vector.h"

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
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

static theus_container *
map_of(uint64_t size)
{
    theus_container *map = new_edit(heap, THEUS_MAP);
    for (uint64_t i = 0; i < size; i++) {
        REQUIRE(set_id(map, i, i) == THEUS_OK);
    }
    return map;
}

static void
test_empty(void)
{
    setup();
    const theus_kind kinds[] = {THEUS_MAP, THEUS_LIST, THEUS_SET};
    for (int i = 0; i < 3; i++) {
        theus_container *empty = new_edit(heap, kinds[i]);
        theus_value word = theus_value_of_container(empty);
        CHECK(theus_value_kind(word) == kinds[i] && theus_value_container(word) == empty);
        CHECK(empty->count == 0 && empty->span == 0 && empty->edit != 0);
        CHECK(kinds[i] == THEUS_LIST || get_id(empty, 1) == -1);
        CHECK(theus_container_clear(empty) == THEUS_OK);
        sealed(empty);
        CHECK(empty->edit == 0 && empty->entries == NULL);
        CHECK(theus_edit_seal(empty) == THEUS_OK); /* again: nothing */
        theus_cursor cursor;
        theus_cursor_init(&cursor, empty, true);
        CHECK(!theus_cursor_next(&cursor, NULL, NULL, NULL));
        CHECK(!theus_cursor_prev(&cursor, NULL, NULL, NULL));
        check_sound(empty);
        theus_container_release(empty);
    }
    theus_container_release(NULL);
    teardown();
}

/* The shape tells insertions and deletions, and nothing else. */
static void
test_shape(void)
{
    setup();
    theus_container *base = sealed(map_of(50));
    theus_container *edit = begin(base);
    CHECK(edit->shape == base->shape && edit->edit != base->edit);
    CHECK(set_id(edit, 7, 70) == THEUS_OK);
    CHECK(edit->shape == base->shape);
    CHECK(set_id(edit, 50, 1) == THEUS_OK);
    uint64_t inserted = edit->shape;
    CHECK(inserted != base->shape);
    CHECK(remove_id(edit, 50) == 1);
    CHECK(edit->shape != inserted && edit->shape != base->shape);
    uint64_t removed = edit->shape;
    sealed(edit);
    CHECK(edit->shape == removed);
    theus_container *cleared = begin(edit);
    CHECK(theus_container_clear(cleared) == THEUS_OK && cleared->shape != removed);
    theus_container_release(sealed(cleared));
    theus_container_release(edit);
    theus_container_release(base);
    teardown();
}

/* Positions stand still until the seal, whatever is removed; the seal then closes the gaps. */
static void
test_compaction(void)
{
    for (uint32_t size = 2; size < 3000; size = size * 3 + 1) {
        setup();
        theus_container *base = sealed(map_of(size));
        theus_container *edit = begin(base);
        for (uint32_t i = 0; i < size; i++) {
            if (i % 3 != 1) {
                CHECK(remove_id(edit, i) == 1);
            }
        }
        for (uint32_t i = 0; i < size; i++) {
            CHECK(id_at(edit, i) == (i % 3 == 1 ? (int64_t)i : -1));
            CHECK((theus_container_key_at(edit, i) != NULL) == (i % 3 == 1));
        }
        CHECK(set_id(edit, 9999, 1) == THEUS_OK);
        CHECK(id_at(edit, size) == 1);
        uint32_t count = edit->count;
        bool must = edit->span - count > edit->span / 2;
        uint64_t shape = edit->shape;
        sealed(edit);
        check_sound(edit);
        CHECK(edit->count == count && (edit->span == count) == must);
        CHECK((edit->shape != shape) == must);
        CHECK(must || size < 10);
        uint32_t last = theus_container_nth(edit, count - 1);
        CHECK(last == edit->span - 1 && id_at(edit, last) == 1);
        for (uint32_t i = 0; i < count - 1; i++) {
            CHECK(id_at(edit, theus_container_nth(edit, i)) == 3 * (int64_t)i + 1);
        }
        check_sound(base);
        theus_container_release(base);
        check_sound(edit);
        theus_container_release(edit);
        teardown();
    }
}

/* An edit whose entries all went keeps no memory after the seal. */
static void
test_emptied(void)
{
    setup();
    theus_container *edit = begin(sealed(map_of(0)));
    theus_container *base = map_of(100);
    for (uint64_t i = 0; i < 100; i++) {
        CHECK(remove_id(base, i) == 1);
    }
    CHECK(base->count == 0 && base->span == 100);
    sealed(base);
    CHECK(base->span == 0 && base->entries == NULL && base->index == NULL);
    theus_container_release(base);
    theus_container_release(edit);
    teardown();
}

/* An edit that is dropped unsealed takes nothing of its base with it. */
static void
test_abandoned_edit(void)
{
    setup();
    theus_container *base = sealed(map_of(2000));
    theus_container *edit = begin(base);
    for (uint64_t i = 0; i < 2000; i += 3) {
        CHECK(set_id(edit, i, 1) == THEUS_OK && set_id(edit, 5000 + i, 1) == THEUS_OK);
        CHECK(remove_id(edit, i + 1) == (i + 1 < 2000));
    }
    check_sound(edit);
    theus_container_release(edit);
    check_sound(base);
    for (uint64_t i = 0; i < 2000; i++) {
        CHECK(get_id(base, i) == (int64_t)i);
    }
    theus_container_release(base);
    teardown();
}

/* Many writes in one edit copy each node once. */
static void
test_edit_writes_in_place(void)
{
    setup();
    theus_container *edit = begin(sealed(map_of(0)));
    theus_container *map = map_of(1000);
    theus_container *next = begin(sealed(map));
    CHECK(set_id(next, 500, 1) == THEUS_OK);
    theus_heap_stats once, often;
    theus_heap_read_stats(heap, &once);
    for (uint64_t i = 0; i < 100; i++) {
        CHECK(set_id(next, 500, i) == THEUS_OK);
    }
    theus_heap_read_stats(heap, &often);
    CHECK(often.nodes == once.nodes && often.bytes == once.bytes);
    theus_container_release(next);
    theus_container_release(map);
    theus_container_release(edit);
    teardown();
}

static void
test_cursor_with_holes(void)
{
    setup();
    theus_container *map = map_of(500);
    for (uint64_t i = 0; i < 500; i++) {
        if (i % 7 != 0 || i == 0) {
            CHECK(i >= 260 || remove_id(map, i) == 1); /* whole leaves without an entry */
        }
    }
    theus_cursor cursor;
    uint32_t pos;
    theus_cursor_init(&cursor, map, false);
    uint32_t seen = 0;
    while (theus_cursor_next(&cursor, &pos, NULL, NULL)) {
        CHECK(theus_container_nth(map, seen) == pos);
        seen++;
        uint32_t again;
        theus_cursor turn = cursor; /* back and forth over the same entry */
        CHECK(theus_cursor_prev(&turn, &again, NULL, NULL) && again == pos);
        CHECK(theus_cursor_next(&turn, &again, NULL, NULL) && again == pos);
    }
    CHECK(seen == map->count);
    theus_container_release(map);
    teardown();
}

/* The last position there can be. No test can go there, so the counter is moved. */
static void
test_too_big(void)
{
    setup();
    theus_container *map = map_of(3);
    map->span = THEUS_SPAN_MAX;
    fake_atom *atom = fake_new(77);
    theus_value word = theus_value_of_atom(atom);
    CHECK(theus_container_insert(map, 77, atom, word, NULL) == THEUS_TOO_BIG);
    map->span = 3;
    theus_container *list = new_edit(heap, THEUS_LIST);
    CHECK(theus_list_splice(list, 0, 0, &word, 1) == THEUS_OK);
    list->span = THEUS_SPAN_MAX;
    CHECK(theus_list_splice(list, list->span, 0, &word, 1) == THEUS_TOO_BIG);
    list->span = 1;
    check_sound(map);
    check_sound(list);
    theus_container_release(map);
    theus_container_release(list);
    fake_release(atom);
    teardown();
}

static void
test_values(void)
{
    setup();
    fake_atom *atom = fake_new(1);
    theus_value_retain(heap, theus_value_of_atom(atom));
    CHECK(atom->refs == 2);
    theus_value_release(heap, theus_value_of_atom(atom));
    CHECK(atom->refs == 1);
    fake_release(atom);
    theus_value_retain(heap, THEUS_NONE);
    theus_value_release(heap, THEUS_NONE);
    theus_container *list = new_edit(heap, THEUS_LIST);
    theus_value_retain(heap, theus_value_of_container(list));
    CHECK(atomic_load(&list->refs) == 2);
    theus_value_release(heap, theus_value_of_container(list));
    theus_value_release(heap, theus_value_of_container(list));
    teardown();
}

/* Later states of a container are of its line; a new one is not, however equal. */
static void
test_line(void)
{
    setup();
    theus_container *first = sealed(map_of(3));
    theus_container *second = sealed(map_of(3));
    theus_container *edit = begin(first);
    CHECK(edit->line == first->line && first->line != second->line);
    CHECK(theus_container_clear(edit) == THEUS_OK && edit->line == first->line);
    theus_container_release(edit);
    theus_container_release(first);
    theus_container_release(second);
    teardown();
}

/* Taking entries away at one end, with and without new ones in between, costs the same at any
 * size: the holes that earlier steps left are one gap, and a cursor leaps over it. */
static void
test_pops(void)
{
    enum { KEYS = 3000 };
    for (int way = 0; way < 4; way++) {
        setup();
        theus_container *map = map_of(KEYS);
        uint64_t next_key = KEYS;
        for (int i = 0; i < KEYS - 1; i++) {
            if (way == 2) { /* push 3, pop 3 on top, then pop 1 of the rest */
                for (int push = 0; push < 3; push++) {
                    CHECK(set_id(map, next_key++, 1) == THEUS_OK);
                }
            }
            for (int pop = way == 2 ? 4 : 1; pop > 0; pop--) {
                theus_cursor cursor;
                uint32_t pos;
                void *key;
                theus_cursor_init(&cursor, map, way != 1);
                CHECK(way == 1 ? theus_cursor_next(&cursor, &pos, &key, NULL)
                               : theus_cursor_prev(&cursor, &pos, &key, NULL));
                CHECK(theus_container_remove(map, ((fake_atom *)key)->hash, pos) == THEUS_OK);
            }
            if (way == 3 && i % 5 == 0 && i < KEYS / 4) { /* other holes meanwhile */
                CHECK(remove_id(map, (uint64_t)i) == 1);
            }
            if (map->count == 0) {
                break;
            }
            uint32_t holes = map->span - map->count;
            CHECK(way == 3 || map->gap_end - map->gap_start >= holes / 2);
            CHECK(way != 3 || i < 100 || map->gap_end == map->span);
        }
        check_sound(map);
        theus_container_release(sealed(map));
        teardown();
    }
}

int
main(void)
{
    test_empty();
    test_shape();
    test_compaction();
    test_emptied();
    test_abandoned_edit();
    test_edit_writes_in_place();
    test_cursor_with_holes();
    test_pops();
    test_too_big();
    test_values();
    test_line();
    return check_result();
}
