/* What the core believes of its platform. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"
#include "port.h"
#include "status.h"

#include <sys/wait.h>
#include <unistd.h>

static void
test_status_texts(void)
{
    CHECK(strcmp(theus_status_text(THEUS_OK), "ok") == 0);
    CHECK(strcmp(theus_status_text(THEUS_NOMEM), "out of memory") == 0);
    CHECK(strcmp(theus_status_text((theus_status)-999), "unknown status") == 0);
#define NOT_EMPTY(name, number, text) CHECK(strlen(theus_status_text(THEUS_##name)) > 0);
    THEUS_STATUS_LIST(NOT_EMPTY)
#undef NOT_EMPTY
}

static void
test_failing_allocator(void)
{
    long live = theus_alloc_live();
    for (long n = 1; n <= 6; n++) {
        theus_alloc_fail_at(n);
        for (long i = 1; i <= 6; i += 2) { /* allocations i and i + 1: the n-th fails, once */
            void *memory = theus_alloc(8);
            CHECK((memory == NULL) == (i == n));
            void *larger = theus_realloc(memory, 4096);
            CHECK((larger == NULL) == (i + 1 == n));
            theus_free(larger != NULL ? larger : memory);
        }
    }
    theus_alloc_fail_at(-1);
    void *fresh = theus_realloc(NULL, 10);
    CHECK(fresh != NULL && theus_alloc_live() == live + 1);
    theus_free(fresh);
    theus_free(NULL);
    CHECK(theus_alloc_live() == live);
}

static void *
lock_and_count(void *arg)
{
    struct {
        theus_mutex lock;
        long count;
    } *shared = arg;
    for (int i = 0; i < 20000; i++) {
        theus_mutex_lock(&shared->lock);
        shared->count++;
        theus_mutex_unlock(&shared->lock);
    }
    return NULL;
}

static void
test_mutex(void)
{
    struct {
        theus_mutex lock;
        long count;
    } shared = {.count = 0};
    CHECK(theus_mutex_init(&shared.lock, THEUS_RANK_HEAP, false) == THEUS_OK);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, lock_and_count, &shared) == 0);
    }
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(shared.count == 40000);
#ifndef NDEBUG
    CHECK(!theus_mutex_is_mine(&shared.lock));
    theus_mutex_lock(&shared.lock);
    CHECK(theus_mutex_is_mine(&shared.lock));
    theus_mutex_unlock(&shared.lock);
#endif
    theus_mutex_fini(&shared.lock);
}

#ifndef NDEBUG
/* In a child, because the assert must kill it: 1 if it did. */
static int
dies_when_locking(theus_rank first, theus_rank second)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        REQUIRE(freopen("/dev/null", "w", stderr) != NULL);
        theus_mutex a, b;
        REQUIRE(theus_mutex_init(&a, first, false) == THEUS_OK);
        REQUIRE(theus_mutex_init(&b, second, false) == THEUS_OK);
        theus_mutex_lock(&a);
        theus_mutex_lock(&b);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

static void
test_ranks(void)
{
    CHECK(dies_when_locking(THEUS_RANK_STORE, THEUS_RANK_RING) == 0);
    CHECK(dies_when_locking(THEUS_RANK_RING, THEUS_RANK_HEAP) == 0);
    CHECK(dies_when_locking(THEUS_RANK_HEAP, THEUS_RANK_STORE) == 1);
    CHECK(dies_when_locking(THEUS_RANK_HEAP, THEUS_RANK_HEAP) == 1);
}
#endif

static void
test_clocks(void)
{
    uint64_t tick = theus_clock_tick_ns(), fine = theus_clock_fine_ns();
    for (int i = 0; i < 1000; i++) {
        uint64_t next_tick = theus_clock_tick_ns(), next_fine = theus_clock_fine_ns();
        CHECK(next_tick >= tick && next_fine >= fine);
        tick = next_tick;
        fine = next_fine;
    }
    CHECK(theus_clock_wall_ns() > 1700000000ull * 1000000000ull); /* after 2023 */
}

static void
test_identity(void)
{
    CHECK(theus_thread_id() != 0 && theus_thread_id() == theus_thread_id());
    uint64_t epoch = theus_process_epoch();
    CHECK(theus_process_epoch() == epoch);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        _exit(theus_process_epoch() != epoch ? 0 : 1);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(theus_process_epoch() == epoch);
}

static void
test_random(void)
{
    uint64_t ones = 0, zeros = 0;
    for (int i = 0; i < 200; i++) {
        uint64_t x = theus_random();
        ones |= x;
        zeros |= ~x;
    }
    CHECK(ones == UINT64_MAX && zeros == UINT64_MAX);
    CHECK(theus_random() != theus_random());
}

int
main(void)
{
    test_status_texts();
    test_failing_allocator();
    test_mutex();
#ifndef NDEBUG
    test_ranks();
#endif
    test_clocks();
    test_identity();
    test_random();
    return check_result();
}
