/* port.h for POSIX systems: the only calls of the core into the operating system.
 *
 * Process-wide data stand in one struct below and are numbers only: no pointer, no
 * memory, nothing to tear down. What belongs to one thread exists only in debug and
 * test builds. */
#define _POSIX_C_SOURCE 200809L

#include "port.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sched.h>
#include <time.h>

static struct {
    pthread_once_t watch_forks; /* runs process_watch_forks() once */
    _Atomic(uint64_t) epoch;    /* 1 + forks between the first call and this process; 0: no call yet */
    _Atomic(uint64_t) random_state;
#ifdef THEUS_TESTING
    _Atomic(long) live_allocations;
#endif
} process = {.watch_forks = PTHREAD_ONCE_INIT};

#if defined(THEUS_TESTING) || !defined(NDEBUG)
static _Thread_local struct {
    long fail_at;        /* allocations until one fails; below 1: never */
    uint32_t held_ranks; /* a bit per rank of lock that this thread holds */
} thread;
#endif

/* ---- memory ------------------------------------------------------------ */

#ifdef THEUS_TESTING

static bool
alloc_must_fail(void)
{
    return thread.fail_at > 0 && --thread.fail_at == 0;
}

void
theus_alloc_fail_at(long n)
{
    thread.fail_at = n;
}

long
theus_alloc_live(void)
{
    return atomic_load(&process.live_allocations);
}

void *
theus_alloc(size_t size)
{
    assert(size > 0);
    void *memory = alloc_must_fail() ? NULL : malloc(size);
    if (memory != NULL) {
        atomic_fetch_add(&process.live_allocations, 1);
    }
    return memory;
}

void *
theus_realloc(void *memory, size_t size)
{
    assert(size > 0);
    void *moved = alloc_must_fail() ? NULL : realloc(memory, size);
    if (moved != NULL && memory == NULL) {
        atomic_fetch_add(&process.live_allocations, 1);
    }
    return moved;
}

void
theus_free(void *memory)
{
    if (memory != NULL) {
        atomic_fetch_sub(&process.live_allocations, 1);
    }
    free(memory);
}

#else

void *
theus_alloc(size_t size)
{
    assert(size > 0);
    return malloc(size);
}

void *
theus_realloc(void *memory, size_t size)
{
    assert(size > 0);
    return realloc(memory, size);
}

void
theus_free(void *memory)
{
    free(memory);
}

#endif

/* ---- locks ------------------------------------------------------------- */

theus_status
theus_mutex_init(theus_mutex *mutex, theus_rank rank, bool serial)
{
    if (pthread_mutex_init(&mutex->os, NULL) != 0) {
        return THEUS_NOMEM;
    }
    mutex->serial = serial;
#ifndef NDEBUG
    mutex->rank = rank;
    atomic_init(&mutex->owner, 0);
#else
    (void)rank;
#endif
    return THEUS_OK;
}

void
theus_mutex_fini(theus_mutex *mutex)
{
    int result = pthread_mutex_destroy(&mutex->os);
    assert(result == 0); /* EBUSY: somebody still holds it */
    (void)result;
}

void
theus_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Regions last some tens of nanoseconds; to sleep and be woken costs both threads some microseconds. So whoever finds
 * the lock taken looks again for about as long as that, less and less often, and only then sleeps. (Two threads on
 * disjoint keys, without a GIL: together 0.48 of the pace of one before, 0.74 since.) */
static int
mutex_take_os(pthread_mutex_t *os)
{
    enum { LOOKS = 40, PAUSES_MAX = 16 };
    for (int look = 0; look < LOOKS; look++) {
        int result = pthread_mutex_trylock(os);
        if (result != EBUSY) {
            return result;
        }
        for (int i = 0; i <= look && i < PAUSES_MAX; i++) {
            theus_pause();
        }
    }
    return pthread_mutex_lock(os);
}

void
theus_mutex_take(theus_mutex *mutex)
{
    /* Every bit at or above ours: a lock of the same or a higher rank is held. */
    assert(thread.held_ranks >> mutex->rank == 0);
    int result = mutex_take_os(&mutex->os);
    assert(result == 0);
    (void)result;
#ifndef NDEBUG
    thread.held_ranks |= 1u << mutex->rank;
    atomic_store_explicit(&mutex->owner, theus_thread_id(), memory_order_relaxed);
#endif
}

void
theus_mutex_drop(theus_mutex *mutex)
{
    assert(theus_mutex_is_mine(mutex));
#ifndef NDEBUG
    thread.held_ranks &= ~(1u << mutex->rank);
    atomic_store_explicit(&mutex->owner, 0, memory_order_relaxed);
#endif
    int result = pthread_mutex_unlock(&mutex->os);
    assert(result == 0);
    (void)result;
}

#ifndef NDEBUG
bool
theus_mutex_is_mine(theus_mutex *mutex)
{
    return atomic_load_explicit(&mutex->owner, memory_order_relaxed) == theus_thread_id();
}
#endif

theus_status
theus_cond_init(theus_cond *cond)
{
    pthread_condattr_t attributes;
    if (pthread_condattr_init(&attributes) != 0) {
        return THEUS_NOMEM;
    }
#ifndef __APPLE__ /* which waits for an interval, below */
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    int result = pthread_cond_init(&cond->os, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    return result == 0 ? THEUS_OK : THEUS_NOMEM;
}

void
theus_cond_fini(theus_cond *cond)
{
    (void)pthread_cond_destroy(&cond->os);
}

static int
cond_wait_os(theus_cond *cond, pthread_mutex_t *os, uint64_t until)
{
    if (until == UINT64_MAX) {
        return pthread_cond_wait(&cond->os, os);
    }
#ifdef __APPLE__
    uint64_t now = theus_clock_fine_ns();
    uint64_t left = until > now ? until - now : 0;
    struct timespec span = {(time_t)(left / 1000000000), (long)(left % 1000000000)};
    return pthread_cond_timedwait_relative_np(&cond->os, os, &span);
#else
    struct timespec end = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    return pthread_cond_timedwait(&cond->os, os, &end);
#endif
}

bool
theus_cond_wait(theus_cond *cond, theus_mutex *mutex, uint64_t until)
{
    assert(theus_mutex_is_mine(mutex));
#ifndef NDEBUG
    thread.held_ranks &= ~(1u << mutex->rank);
    atomic_store_explicit(&mutex->owner, 0, memory_order_relaxed);
#endif
    int result = cond_wait_os(cond, &mutex->os, until);
#ifndef NDEBUG
    thread.held_ranks |= 1u << mutex->rank;
    atomic_store_explicit(&mutex->owner, theus_thread_id(), memory_order_relaxed);
#endif
    return result != ETIMEDOUT;
}

void
theus_cond_signal(theus_cond *cond)
{
    (void)pthread_cond_signal(&cond->os);
}

void
theus_cond_broadcast(theus_cond *cond)
{
    (void)pthread_cond_broadcast(&cond->os);
}

#ifdef THEUS_TESTING
uint32_t
theus_swap_held_ranks(uint32_t held)
{
    uint32_t before = thread.held_ranks;
    thread.held_ranks = held;
    return before;
}
#endif

/* ---- time and identity -------------------------------------------------- */

static uint64_t
clock_read(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#ifdef CLOCK_REALTIME_COARSE
#define WALL_CLOCK CLOCK_REALTIME_COARSE
#define TICK_CLOCK CLOCK_MONOTONIC_COARSE
#else
#define WALL_CLOCK CLOCK_REALTIME
#define TICK_CLOCK CLOCK_MONOTONIC
#endif

uint64_t
theus_clock_wall_ns(void)
{
    return clock_read(WALL_CLOCK);
}

uint64_t
theus_clock_tick_ns(void)
{
    return clock_read(TICK_CLOCK);
}

uint64_t
theus_clock_fine_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

uint64_t
theus_thread_id(void)
{
    return (uint64_t)(uintptr_t)pthread_self(); /* an address wherever we run, so never 0 */
}

static void
process_forked(void) /* in the child, before fork() returns */
{
    atomic_fetch_add(&process.epoch, 1);
}

static void
process_watch_forks(void)
{
    /* It can fail only for lack of memory. Then forks go unseen, and what depends on
     * the epoch loses a diagnosis, not its safety. */
    (void)pthread_atfork(NULL, NULL, process_forked);
    atomic_store(&process.epoch, 1);
}

uint64_t
theus_process_epoch(void)
{
    uint64_t epoch = atomic_load_explicit(&process.epoch, memory_order_relaxed);
    if (epoch == 0) {
        pthread_once(&process.watch_forks, process_watch_forks);
        epoch = atomic_load_explicit(&process.epoch, memory_order_relaxed);
    }
    return epoch;
}

/* splitmix64 over a shared counter; thread and time go in so that a forked child and
 * its parent, whose counters are equal, soon differ. */
uint64_t
theus_random(void)
{
    uint64_t x =
        atomic_fetch_add_explicit(&process.random_state, 0x9E3779B97F4A7C15u, memory_order_relaxed);
    x ^= theus_clock_fine_ns() ^ (theus_process_epoch() << 56) ^ theus_thread_id();
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* ---- waiting ---------------------------------------------------------------- */

void
theus_sleep_ns(uint64_t ns)
{
    struct timespec wait = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    /* Cut short by a signal? The caller looks at the clock, or does not care. */
    (void)nanosleep(&wait, NULL);
}

void
theus_yield(void)
{
    (void)sched_yield();
}
