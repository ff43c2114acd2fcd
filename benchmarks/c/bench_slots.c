/* What do a slot and a lease cost, beside the usual design of such a table?
 *
 * The peer is a copy of limen's ConcurrentMemoryManager (limen_core::memory::concurrent_manager): a tagged stack of free
 * indices, and a reader-writer lock around the content of each slot. It lives in one process; ours works between
 * processes and survives the death of any of them. Work of one thread, in turns:
 *
 *   slot    claim, publish, retire, recycle        beside  pop, lock, store, unlock; lock, clear, unlock, push
 *   lease   the first of a process, and its end    beside  lock for reading, unlock
 *
 * And both beside the same source made for one thread alone (private_slots.c): the price of sharing.
 *
 *   cmake -S . -B build/bench -DTHEUS_BUILD_BENCHMARKS=ON && cmake --build build/bench && build/bench/bench_slots
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shm_slots.h"

#include "private_slots.h"

enum { TURNS = 31, TIMES = 200000, CAPACITY = 4096, SELF = 0 };
#define SLOT_BAR_NS 6.0
#define LEASE_BAR_NS 3.0
#define SHARING_BAR 1.2

/* ---- the peer --------------------------------------------------------------------------- */

#define NOTHING UINT32_MAX

typedef struct {
    pthread_rwlock_t lock;
    _Atomic(uint32_t) next;
    bool stored;
} peer_slot;

static peer_slot peer[CAPACITY];
static _Atomic(uint64_t) peer_head;
static _Atomic(uint64_t) peer_available;

static uint32_t
peer_store(void)
{
    for (;;) {
        uint64_t head = atomic_load_explicit(&peer_head, memory_order_acquire);
        uint32_t index = (uint32_t)head;
        if (index == NOTHING) {
            return NOTHING;
        }
        uint64_t next = ((head >> 32) + 1) << 32 | atomic_load_explicit(&peer[index].next, memory_order_acquire);
        if (!atomic_compare_exchange_strong_explicit(&peer_head, &head, next, memory_order_acq_rel, memory_order_relaxed)) {
            continue;
        }
        atomic_fetch_sub_explicit(&peer_available, 1, memory_order_acq_rel);
        pthread_rwlock_wrlock(&peer[index].lock);
        peer[index].stored = true;
        pthread_rwlock_unlock(&peer[index].lock);
        return index;
    }
}

static void
peer_free(uint32_t index)
{
    pthread_rwlock_wrlock(&peer[index].lock);
    peer[index].stored = false;
    pthread_rwlock_unlock(&peer[index].lock);
    for (;;) {
        uint64_t head = atomic_load_explicit(&peer_head, memory_order_acquire);
        atomic_store_explicit(&peer[index].next, (uint32_t)head, memory_order_release);
        uint64_t next = ((head >> 32) + 1) << 32 | index;
        if (atomic_compare_exchange_strong_explicit(&peer_head, &head, next, memory_order_acq_rel, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&peer_available, 1, memory_order_acq_rel);
            return;
        }
    }
}

static void
peer_make(void)
{
    for (uint32_t i = 0; i < CAPACITY; i++) {
        pthread_rwlock_init(&peer[i].lock, NULL);
        atomic_init(&peer[i].next, i + 1 < CAPACITY ? i + 1 : NOTHING);
    }
    atomic_init(&peer_available, CAPACITY);
}

/* ---- the work ---------------------------------------------------------------------------- */

static theus_slots table, alone;
static uint32_t lent, lent_generation, lent_alone, lent_alone_generation;

static void
fail(const char *what)
{
    fprintf(stderr, "bench_slots: %s\n", what);
    exit(1);
}

static void
slot_ours(void)
{
    uint32_t index, generation;
    if (!theus_slot_claim(&table, SELF, &index, &generation)) {
        fail("no slot is free");
    }
    theus_slot_publish(&table, index);
    if (!theus_slot_retire(&table, index, generation) || !theus_slot_recycle(&table, index, generation)) {
        fail("a slot was taken away");
    }
}

static void
slot_alone(void)
{
    uint32_t index, generation;
    if (!private_slot_claim(&alone, SELF, &index, &generation)) {
        fail("no private slot is free");
    }
    private_slot_publish(&alone, index);
    if (!private_slot_retire(&alone, index, generation) || !private_slot_recycle(&alone, index, generation)) {
        fail("a private slot was taken away");
    }
}

static void
slot_peers(void)
{
    uint32_t index = peer_store();
    if (index == NOTHING) {
        fail("the peer has no slot");
    }
    peer_free(index);
}

static void
lease_ours(void)
{
    if (theus_slot_lease(&table, lent, lent_generation, SELF) != THEUS_LEASED) {
        fail("no lease");
    }
    if (theus_slot_unlease(&table, lent, SELF)) {
        fail("it was retired");
    }
}

static void
lease_alone(void)
{
    if (private_slot_lease(&alone, lent_alone, lent_alone_generation, SELF) != THEUS_LEASED) {
        fail("no private lease");
    }
    if (private_slot_unlease(&alone, lent_alone, SELF)) {
        fail("the private one was retired");
    }
}

static void
lease_peers(void)
{
    pthread_rwlock_rdlock(&peer[0].lock);
    bool stored = *(volatile bool *)&peer[0].stored;
    pthread_rwlock_unlock(&peer[0].lock);
    if (!stored) {
        fail("the peer lost it");
    }
}

static double
turn(void (*work)(void))
{
    clock_t started = clock();
    for (int i = 0; i < TIMES; i++) {
        work();
    }
    return (double)(clock() - started) * (1e9 / CLOCKS_PER_SEC) / TIMES;
}

static int
by_size(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double
median(double *times)
{
    qsort(times, TURNS, sizeof(*times), by_size);
    return times[TURNS / 2];
}

static const char *
verdict(bool met)
{
    return met ? "met" : "MISSED";
}

static void
compare(const char *what, void (*ours)(void), void (*peers)(void), void (*private)(void), double bar)
{
    double our[TURNS], their[TURNS], own[TURNS];
    for (int i = 0; i < TURNS; i++) {
        our[i] = turn(ours);
        their[i] = turn(peers);
        own[i] = turn(private);
    }
    double mine = median(our), its = median(their), least = median(own);
    printf("%-24s %6.1f ns   limen's design %6.1f ns (%.2f x)   bar <= %.0f ns: %s\n", what, mine, its, mine / its, bar,
           verdict(mine <= bar));
    printf("%-24s %6s      for one thread %6.1f ns (%.2f x)   bar <= %.1f x: %s\n", "", "", least, mine / least, SHARING_BAR,
           verdict(mine <= SHARING_BAR * least));
}

/* A new table, in memory of its own. */
static void *
control_of(uint64_t size)
{
    void *control = aligned_alloc(THEUS_SHM_PAGE, size);
    if (control == NULL) {
        fail("out of memory");
    }
    memset(control, 0, size);
    return control;
}

int
main(void)
{
    uint64_t size = theus_shm_control_size(CAPACITY, false);
    void *control = control_of(size), *control_alone = control_of(size);
    theus_slots_open(&table, control, CAPACITY);
    theus_slots_init(&table);
    private_slots_open(&alone, control_alone, CAPACITY);
    private_slots_init(&alone);
    peer_make();
    compare("slot: take, give back", slot_ours, slot_peers, slot_alone, SLOT_BAR_NS);
    if (!theus_slot_claim(&table, SELF, &lent, &lent_generation)
        || !private_slot_claim(&alone, SELF, &lent_alone, &lent_alone_generation)) {
        fail("no slot is free");
    }
    theus_slot_publish(&table, lent);
    private_slot_publish(&alone, lent_alone);
    if (peer_store() != 0) {
        fail("the peer's first slot is not its first");
    }
    lease_peers();
    compare("lease: take, give back", lease_ours, lease_peers, lease_alone, LEASE_BAR_NS);
    free(control);
    free(control_alone);
    return 0;
}
