/* One family of containers under several threads: meant for the thread sanitizer, but the
 * invariants are checked everywhere. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "fakes.h"

#include <pthread.h>
#include <sched.h>

enum { KEYS = 2000, ROUNDS = 2000, READERS = 3 };

static theus_heap *heap;
static theus_mutex lock; /* rank STORE: guards `current`, as an engine's store does */
static theus_container *current;
static pthread_barrier_t barrier;

static theus_container *
map_of_zeros(void)
{
    theus_container *map = new_edit(heap, THEUS_MAP);
    for (uint64_t i = 0; i < KEYS; i++) {
        REQUIRE(set_id(map, i, 0) == THEUS_OK);
    }
    return sealed(map);
}

static theus_container *
current_pin(void)
{
    theus_mutex_lock(&lock);
    theus_container *pinned = current;
    theus_container_retain(pinned);
    theus_mutex_unlock(&lock);
    return pinned;
}

static void
current_publish(theus_container *next)
{
    theus_mutex_lock(&lock);
    theus_container *old = current;
    current = next;
    theus_mutex_unlock(&lock);
    theus_container_release(old);
}

/* Every version holds one value in all keys 0, 100, 200 ...: a reader never sees two. */
static void *
writer(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&barrier);
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        theus_container *base = current_pin();
        theus_container *edit = begin(base);
        for (uint64_t key = 0; key < KEYS; key += 100) {
            REQUIRE(set_id(edit, key, round) == THEUS_OK);
        }
        REQUIRE(set_id(edit, KEYS + round, round) == THEUS_OK);
        if (round > 10) {
            REQUIRE(remove_id(edit, KEYS + round - 10) == 1);
        }
        current_publish(sealed(edit));
        theus_container_release(base);
    }
    return NULL;
}

static void *
reader(void *arg)
{
    (void)arg;
    pthread_barrier_wait(&barrier);
    int64_t last = 0;
    while (last < ROUNDS) {
        theus_container *pinned = current_pin();
        int64_t first = get_id(pinned, 0);
        for (uint64_t key = 100; key < KEYS; key += 100) {
            CHECK(get_id(pinned, key) == first);
        }
        CHECK(first >= last); /* versions are published in order */
        last = first;
        uint32_t seen = 0;
        theus_cursor cursor;
        theus_cursor_init(&cursor, pinned, false);
        while (theus_cursor_next(&cursor, NULL, NULL, NULL)) {
            seen++;
        }
        CHECK(seen == pinned->count);
        theus_container_release(pinned);
        sched_yield();
    }
    return NULL;
}

static void
test_readers_and_a_writer(void)
{
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    current = map_of_zeros();
    REQUIRE(pthread_barrier_init(&barrier, NULL, READERS + 1) == 0);
    pthread_t threads[READERS + 1];
    REQUIRE(pthread_create(&threads[READERS], NULL, writer, NULL) == 0);
    for (int i = 0; i < READERS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, reader, NULL) == 0);
    }
    for (int i = 0; i <= READERS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    pthread_barrier_destroy(&barrier);
    check_sound(current);
    theus_container_release(current);
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

/* Two threads edit from the same sealed base, again and again, each with a line of its own. */
static theus_container *shared_base;

static void *
editor(void *arg)
{
    uint64_t self = (uint64_t)(uintptr_t)arg;
    unsigned long long random = 77 + self;
    theus_container *mine = shared_base;
    theus_container_retain(mine);
    pthread_barrier_wait(&barrier);
    for (int round = 0; round < ROUNDS; round++) {
        theus_container *from = check_random(&random, 2) == 0 ? shared_base : mine;
        theus_container *edit = begin(from);
        for (int i = 0; i < 5; i++) {
            REQUIRE(set_id(edit, check_random(&random, KEYS), self) == THEUS_OK);
        }
        REQUIRE(set_id(edit, KEYS + self, self) == THEUS_OK);
        CHECK(get_id(edit, KEYS + self) == (int64_t)self);
        CHECK(get_id(edit, KEYS + 3 - self) == -1); /* the other's */
        theus_container_release(mine);
        mine = sealed(edit);
    }
    CHECK_SOUND(theus_container_check(mine, NULL));
    theus_container_release(mine);
    return NULL;
}

static void
test_two_editors(void)
{
    REQUIRE(theus_heap_new(&fake_ops, &heap) == THEUS_OK);
    shared_base = map_of_zeros();
    REQUIRE(pthread_barrier_init(&barrier, NULL, 2) == 0);
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, editor, (void *)(i + 1)) == 0);
    }
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    pthread_barrier_destroy(&barrier);
    check_sound(shared_base);
    for (uint64_t i = 0; i < KEYS; i++) {
        CHECK(get_id(shared_base, i) == 0);
    }
    theus_container_release(shared_base);
    CHECK_SOUND(theus_heap_check(heap));
    theus_heap_free(heap);
    CHECK(fakes_live() == 0 && theus_alloc_live() == 0);
}

int
main(void)
{
    REQUIRE(theus_mutex_init(&lock, THEUS_RANK_STORE, false) == THEUS_OK);
    test_readers_and_a_writer();
    test_two_editors();
    theus_mutex_fini(&lock);
    return check_result();
}
