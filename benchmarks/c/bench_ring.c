/* What does the commit record add to a commit?
 *
 * Publishes versions with and without a record, in turns, through the real store. The record is filled as
 * a commit of one path of two keys fills it: its facts, the path, and the atoms that keep its keys
 * alive. A full ring overwrites a record with each commit, so making and letting go of one are both in
 * the price. What the commit does before (the transaction) is left out.
 *
 *   cmake -S . -B build/bench -DTHEUS_BUILD_BENCHMARKS=ON && cmake --build build/bench && build/bench/bench_ring
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "heap.h"
#include "port.h"
#include "store.h"

enum { TURNS = 31, COMMITS = 100000, BAR_NS = 30 };

/* Atoms that count as Python objects do without threads: an addition, and no free. */
static void
count_up(void *atom)
{
    ++*(long *)atom;
}

static void
count_down(void *atom)
{
    --*(long *)atom;
}

static int
same(void *ctx, void *a, void *b)
{
    (void)ctx;
    return a == b;
}

static int
hash_address(void *ctx, void *atom, uint64_t *hash)
{
    (void)ctx;
    *hash = (uint64_t)(uintptr_t)atom;
    return 0;
}

static const theus_value_ops ops = {
    .retain = count_up,
    .release = count_down,
    .equal = same,
    .hash = hash_address,
    .serial = true,
};
static _Alignas(8) long keys[2] = {1, 1};

static void
check(theus_status status)
{
    if (status != THEUS_OK) {
        fprintf(stderr, "bench_ring: %s\n", theus_status_text(status));
        exit(1);
    }
}

static theus_record *
new_record(theus_store *store)
{
    void *atoms[2] = {&keys[0], &keys[1]};
    theus_record *record;
    check(theus_record_new(store, atoms, 2, 2, &record));
    record->thread = theus_thread_id();
    record->sets = record->reads = record->path_count = 1;
    record->segment_count = record->depth[0] = 2;
    for (int i = 0; i < 2; i++) {
        record->segments[i] = (theus_segment){&keys[i], 0};
    }
    return record;
}

/* Nanoseconds of processor time for one commit. */
static double
turn(theus_store *store, bool recorded)
{
    clock_t started = clock();
    for (int i = 0; i < COMMITS; i++) {
        theus_version *base = theus_store_pin(store);
        theus_record *record = recorded ? new_record(store) : NULL;
        theus_version *next;
        check(theus_version_new(store, 0, base->root, base->signals, record, &next));
        if (theus_store_publish(store, base, next, 0) != THEUS_SWAPPED) {
            fputs("bench_ring: somebody else committed\n", stderr);
            exit(1);
        }
        theus_record_release(record);
        theus_version_release(next);
        theus_version_release(base);
    }
    return (double)(clock() - started) * (1e9 / CLOCKS_PER_SEC) / COMMITS;
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

int
main(void)
{
    theus_heap *heap;
    theus_container *root, *signals;
    theus_version *first;
    theus_store *store;
    check(theus_heap_new(&ops, &heap));
    check(theus_container_new(heap, THEUS_MAP, &root));
    check(theus_container_new(heap, THEUS_MAP, &signals));
    check(theus_edit_seal(root));
    check(theus_edit_seal(signals));
    check(theus_version_new(NULL, 0, root, signals, NULL, &first));
    theus_store_limits limits = {.ring_capacity = 1024, .history_count = 128};
    check(theus_store_new(heap, first, &limits, &store));

    double with[TURNS], without[TURNS], added[TURNS];
    turn(store, true); /* fills the ring and the history */
    for (int i = 0; i < TURNS; i++) {
        without[i] = turn(store, false);
        with[i] = turn(store, true);
        added[i] = with[i] - without[i];
    }
    double record = median(added);
    printf("publish a version      %6.1f ns\n", median(without));
    printf("  with its record      %6.1f ns\n", median(with));
    printf("the record             %6.1f ns, bar <= %d ns: %s\n", record, BAR_NS,
           record <= BAR_NS ? "met" : "MISSED");

    theus_version_release(first);
    theus_container_release(root);
    theus_container_release(signals);
    theus_store_free(store);
    theus_heap_free(heap);
    return 0;
}
