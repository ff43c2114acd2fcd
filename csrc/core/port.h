/* What the core asks of the operating system and the compiler, and nothing else:
 * memory that can be made to fail, ranked mutexes, clocks, thread and process
 * identity. port_posix.c is the only file of the core that calls POSIX. */
#ifndef THEUS_PORT_H
#define THEUS_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <pthread.h>

#include "status.h"

/* ---- memory ------------------------------------------------------------ */

/* malloc, realloc and free, except that a test can make the n-th allocation of
 * this thread fail (THEUS_TESTING builds). theus_alloc(0) is not allowed. */
THEUS_MUST_CHECK void *theus_alloc(size_t size);
THEUS_MUST_CHECK void *theus_realloc(void *memory, size_t size);
void theus_free(void *memory);

#ifdef THEUS_TESTING
void theus_alloc_fail_at(long n);     /* 1 = the next one; -1 = never */
long theus_alloc_live(void);          /* allocations not freed yet, all threads */
#endif

/* ---- locks ------------------------------------------------------------- */

/* A thread takes locks only in rising rank; debug builds assert it. No region
 * runs foreign code, waits, or allocates Python objects: see csrc/README.md. */
typedef enum {
    THEUS_RANK_ACTIVE = 1, /* of the embedder: which transactions are open */
    THEUS_RANK_TURNS = 2,  /* turns.lock: the line of tickets, those who wait; queue.lock: who fights */
    THEUS_RANK_STORE = 3,  /* store.lock: current version, history, statistics */
    THEUS_RANK_RING = 4,   /* ring.lock: audit slots */
    THEUS_RANK_HEAP = 5,   /* heap.lock: nodes, their links and free lists */
    THEUS_RANK_BELL = 6,   /* bell.lock: who waits */
    THEUS_RANK_FILES = 7,  /* of shm_process.c: files of shared memory are opened or closed */
    THEUS_RANK_SHM = 8,    /* the one of shm_process.h: everything that this process knows of shared memory */
    THEUS_RANK_MAIL = 9,   /* mailbox.lock: letters, who waits for them */
} theus_rank;

typedef struct {
    pthread_mutex_t os;
    bool serial; /* see theus_mutex_init */
#ifndef NDEBUG
    theus_rank rank;
    _Atomic(uint64_t) owner; /* theus_thread_id() of the holder, else 0 */
#endif
} theus_mutex;

/* For the one lock that belongs to the process: theus_mutex lock = THEUS_MUTEX_OF_PROCESS(rank). Never serial: interpreters have
 * no lock in common. */
#ifndef NDEBUG
#define THEUS_MUTEX_OF_PROCESS(its_rank) {.os = PTHREAD_MUTEX_INITIALIZER, .rank = (its_rank)}
#else
#define THEUS_MUTEX_OF_PROCESS(its_rank) {.os = PTHREAD_MUTEX_INITIALIZER}
#endif

/* `serial`: the embedder lets only one thread at a time into the core, and regions call nothing foreign, so
 * no two can overlap and the lock would guard nothing. Under a global interpreter lock that saves about ten
 * uncontended locks, a seventh of a small transaction (measured). Debug builds lock all the same. */
THEUS_MUST_CHECK theus_status theus_mutex_init(theus_mutex *mutex, theus_rank rank, bool serial);
void theus_mutex_fini(theus_mutex *mutex);
void theus_mutex_take(theus_mutex *mutex); /* theus_mutex_lock() calls it where there is something to guard */
void theus_mutex_drop(theus_mutex *mutex);

static inline void
theus_mutex_lock(theus_mutex *mutex)
{
#ifdef NDEBUG
    if (mutex->serial) {
        return;
    }
#endif
    theus_mutex_take(mutex);
}

static inline void
theus_mutex_unlock(theus_mutex *mutex)
{
#ifdef NDEBUG
    if (mutex->serial) {
        return;
    }
#endif
    theus_mutex_drop(mutex);
}

#ifndef NDEBUG
bool theus_mutex_is_mine(theus_mutex *mutex);
#endif

/* What sleepers wait on until somebody who changed something, under the mutex, signals. */
typedef struct {
    pthread_cond_t os;
} theus_cond;

THEUS_MUST_CHECK theus_status theus_cond_init(theus_cond *cond);
void theus_cond_fini(theus_cond *cond); /* nobody waits */
/* Lets the mutex go meanwhile; it is no serial one. May wake for nothing. False: `until`, by theus_clock_fine_ns(), has
 * passed; UINT64_MAX never does. */
bool theus_cond_wait(theus_cond *cond, theus_mutex *mutex, uint64_t until);
void theus_cond_signal(theus_cond *cond);    /* one sleeper */
void theus_cond_broadcast(theus_cond *cond); /* all of them */
#ifdef THEUS_TESTING
/* For a test that runs many threads in one: the set of ranks that this one holds, exchanged. */
uint32_t theus_swap_held_ranks(uint32_t held);
#endif

/* ---- time and identity -------------------------------------------------- */

uint64_t theus_clock_wall_ns(void);   /* coarse (1 to 4 ms), since 1970 */
uint64_t theus_clock_tick_ns(void);   /* coarse, monotonic */
uint64_t theus_clock_fine_ns(void);   /* fine, monotonic; about five times the price */
void theus_sleep_ns(uint64_t ns);      /* may wake early, when a signal arrives */
void theus_pause(void);               /* some cycles, for a loop that waits for another processor */
void theus_yield(void);               /* lets another thread run, if one wants to */
uint64_t theus_thread_id(void);       /* never 0; unique among live threads */
uint64_t theus_process_epoch(void);   /* changes in a forked child; cheap, no system call */
uint64_t theus_random(void);          /* for jitter; not for secrets */

#endif
