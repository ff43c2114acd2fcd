/* The bell: who is called, once, and that nobody sleeps through what he waits for. */
#define _POSIX_C_SOURCE 200809L

#include "bell.h"

#include <semaphore.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static bool
is(void *arg, void *who)
{
    return arg == who;
}

static void
test_list(void)
{
    theus_bell bell;
    int who[4];
    REQUIRE(theus_bell_init(&bell, false) == THEUS_OK);
    CHECK(!theus_bell_awaited(&bell) && theus_bell_take(&bell) == NULL);
    for (int i = 0; i < 4; i++) {
        CHECK(theus_bell_add(&bell, &who[i]) == THEUS_OK && theus_bell_awaited(&bell));
    }
    CHECK(theus_bell_remove(&bell, is, &who[1]) == &who[1]);
    CHECK(theus_bell_remove(&bell, is, &who[1]) == NULL);
    int next = 0;
    for (theus_listener *it = theus_bell_take(&bell); it != NULL; next++) {
        theus_listener *after = it->next;
        next += next == 1; /* who[1] is gone */
        CHECK(it->who == &who[next] && theus_listener_is_here(it));
        theus_free(it);
        it = after;
    }
    CHECK(next == 4 && !theus_bell_awaited(&bell) && theus_bell_remove(&bell, is, &who[0]) == NULL);
    theus_bell_fini(&bell);
}

static void
test_out_of_memory(void)
{
    theus_bell bell;
    REQUIRE(theus_bell_init(&bell, false) == THEUS_OK);
    theus_alloc_fail_at(1);
    CHECK(theus_bell_add(&bell, &bell) == THEUS_NOMEM);
    theus_alloc_fail_at(-1);
    CHECK(!theus_bell_awaited(&bell));
    theus_bell_fini(&bell);
}

static int
count_one(void *who, void *arg)
{
    (void)who;
    return ++*(int *)arg == 2 ? 7 : 0;
}

static void
test_visit(void)
{
    theus_bell bell;
    int seen = 0;
    REQUIRE(theus_bell_init(&bell, false) == THEUS_OK);
    for (int i = 0; i < 3; i++) {
        seen = 0;
        CHECK(theus_bell_visit(&bell, count_one, &seen) == (i == 2 ? 7 : 0) && seen == i); /* 7: stopped */
        CHECK(theus_bell_add(&bell, &seen) == THEUS_OK);
    }
    for (int i = 0; i < 3; i++) {
        CHECK(theus_bell_remove(&bell, is, &seen) == &seen);
    }
    theus_bell_fini(&bell);
}

static void
test_fork(void)
{
    theus_bell bell;
    REQUIRE(theus_bell_init(&bell, false) == THEUS_OK);
    CHECK(theus_bell_add(&bell, &bell) == THEUS_OK);
    pid_t child = fork();
    REQUIRE(child >= 0);
    theus_listener *taken = theus_bell_take(&bell);
    CHECK(taken != NULL && theus_listener_is_here(taken) == (child != 0));
    theus_free(taken);
    if (child == 0) {
        CHECK(theus_bell_add(&bell, &bell) == THEUS_OK);
        taken = theus_bell_take(&bell);
        CHECK(taken != NULL && theus_listener_is_here(taken));
        theus_free(taken);
        _exit(check_result());
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    theus_bell_fini(&bell);
}

/* ---- waiting -------------------------------------------------------------------------------------- */

enum { WAITERS = 4, EVENTS = 3000 };

/* What is waited for: a number that grows under a lock of its own. */
static struct {
    theus_bell bell;
    theus_mutex lock; /* rank STORE, as the version has */
    uint64_t number;  /* guarded by lock */
} world;

static uint64_t
number_now(void)
{
    theus_mutex_lock(&world.lock);
    uint64_t number = world.number;
    theus_mutex_unlock(&world.lock);
    return number;
}

/* Sees the number grow until the end. A wake-up that is lost would leave it asleep, and the test in its time limit. */
static void *
wait_for_all(void *unused)
{
    (void)unused;
    uint64_t seen = 0;
    while (seen < EVENTS) {
        sem_t *called = malloc(sizeof(*called)); /* given to the caller, if it is called */
        REQUIRE(called != NULL && sem_init(called, 0, 0) == 0);
        REQUIRE(theus_bell_add(&world.bell, called) == THEUS_OK);
        if (number_now() == seen || theus_bell_remove(&world.bell, is, called) == NULL) {
            while (sem_wait(called) != 0) {
            }
        }
        sem_destroy(called);
        free(called);
        uint64_t number = number_now();
        CHECK(number >= seen); /* the same: called late, for what it had seen already */
        seen = number;
    }
    return NULL;
}

static void
test_nobody_sleeps_through(void)
{
    pthread_t threads[WAITERS];
    REQUIRE(theus_bell_init(&world.bell, false) == THEUS_OK);
    REQUIRE(theus_mutex_init(&world.lock, THEUS_RANK_STORE, false) == THEUS_OK);
    for (int i = 0; i < WAITERS; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, wait_for_all, NULL) == 0);
    }
    for (int i = 0; i < EVENTS; i++) {
        theus_mutex_lock(&world.lock);
        world.number++;
        theus_mutex_unlock(&world.lock);
        theus_listener *it = theus_bell_awaited(&world.bell) ? theus_bell_take(&world.bell) : NULL;
        while (it != NULL) {
            theus_listener *after = it->next;
            sem_post(it->who);
            theus_free(it);
            it = after;
        }
        if (i % 16 == 0) {
            theus_yield();
        }
    }
    for (int i = 0; i < WAITERS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(!theus_bell_awaited(&world.bell));
    theus_mutex_fini(&world.lock);
    theus_bell_fini(&world.bell);
}

int
main(void)
{
    test_list();
    test_out_of_memory();
    test_visit();
    test_fork();
    test_nobody_sleeps_through();
    CHECK(theus_alloc_live() == 0);
    return check_result();
}
