/* What do the operations of one map cost inside the core, from 10 keys to a million?
 *
 *   find      a key by identity, in random order
 *   set       find + with + release of the version before, random keys
 *   edit      the same by edit_begin, put and seal
 *   add/del   an edit that inserts a new key, then one that removes it
 *   iterate   per entry, by cursor
 *   build     per entry: find (absent) + insert, into one edit
 *   diff      of two versions ten values apart, in microseconds
 *   bytes     of nodes, index and headers per entry
 *
 * Usage: bench_container [runs [locks]]. With `locks` as under no global interpreter lock: every
 * change takes the heap's mutex, though nobody contends.
 *
 * Best of several runs, in ns unless said. Atoms are counters in one array; so an embedder adds
 * the price of its own objects, and of its calls. */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "container.h"

typedef struct {
    uint64_t refs;
    uint64_t hash;
} atom;

static void
atom_retain(void *memory)
{
    ((atom *)memory)->refs++;
}

static void
atom_release(void *memory)
{
    ((atom *)memory)->refs--;
}

static int
atom_equal(void *ctx, void *a, void *b)
{
    (void)ctx;
    return a == b;
}

static int
atom_hash(void *ctx, void *memory, uint64_t *hash)
{
    (void)ctx;
    *hash = ((atom *)memory)->hash;
    return 0;
}

static theus_value_ops ops = {
    .retain = atom_retain,
    .release = atom_release,
    .equal = atom_equal,
    .hash = atom_hash,
    .serial = true, /* as under a global interpreter lock */
};

static double
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static uint64_t random_state = 88172645463325252u;

static uint32_t
random_below(uint32_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) * n >> 32);
}

static void
must(int condition)
{
    if (!condition) {
        fprintf(stderr, "bench_container: an operation failed\n");
        exit(1);
    }
}

enum { EXTRA = 1024 };

static atom *atoms; /* n keys, n values, EXTRA of each */
static uint32_t n;
static theus_heap *heap;

static atom *
key_of(uint32_t i)
{
    return &atoms[i];
}

static theus_value
value_of(uint32_t i)
{
    return theus_value_of_atom(&atoms[n + EXTRA + i]);
}

static theus_container *
build(void)
{
    theus_container *map;
    must(theus_container_new(heap, THEUS_MAP, &map) == THEUS_OK);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pos;
        atom *key = key_of(i);
        must(theus_container_find(map, NULL, key->hash, key, &pos, NULL) == THEUS_ABSENT);
        must(theus_container_insert(map, key->hash, key, value_of(i), NULL) == THEUS_OK);
    }
    must(theus_edit_seal(map) == THEUS_OK);
    return map;
}

static theus_container *
version_set(theus_container *base, uint32_t i, theus_value value)
{
    theus_container *edit;
    atom *key = key_of(i);
    uint32_t pos;
    if (theus_container_find(base, NULL, key->hash, key, &pos, NULL) == THEUS_FOUND) {
        must(theus_container_with(base, pos, value, &edit) == THEUS_OK);
    }
    else {
        must(theus_edit_begin(base, &edit) == THEUS_OK);
        must(theus_container_insert(edit, key->hash, key, value, NULL) == THEUS_OK);
        must(theus_edit_seal(edit) == THEUS_OK);
    }
    theus_container_release(base);
    return edit;
}

static theus_container *
version_edit(theus_container *base, uint32_t i, theus_value value)
{
    theus_container *edit;
    atom *key = key_of(i);
    uint32_t pos;
    must(theus_edit_begin(base, &edit) == THEUS_OK);
    must(theus_container_find(edit, NULL, key->hash, key, &pos, NULL) == THEUS_FOUND);
    must(theus_container_put(edit, pos, value) == THEUS_OK);
    must(theus_edit_seal(edit) == THEUS_OK);
    theus_container_release(base);
    return edit;
}

static theus_container *
version_delete(theus_container *base, uint32_t i)
{
    theus_container *edit;
    atom *key = key_of(i);
    uint32_t pos;
    must(theus_edit_begin(base, &edit) == THEUS_OK);
    must(theus_container_find(edit, NULL, key->hash, key, &pos, NULL) == THEUS_FOUND);
    must(theus_container_remove(edit, key->hash, pos) == THEUS_OK);
    must(theus_edit_seal(edit) == THEUS_OK);
    theus_container_release(base);
    return edit;
}

/* ---- the rows ------------------------------------------------------------------------ */

enum { OPERATIONS = 200000 };

static uint32_t *order; /* OPERATIONS random keys */

static double
time_find(theus_container *map)
{
    uintptr_t sum = 0;
    double start = now_ns();
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        atom *key = key_of(order[i]);
        uint32_t pos;
        theus_value value;
        must(theus_container_find(map, NULL, key->hash, key, &pos, &value) == THEUS_FOUND);
        sum += value;
    }
    must(sum != 0);
    return (now_ns() - start) / OPERATIONS;
}

typedef theus_container *(*write_fn)(theus_container *base, uint32_t i, theus_value value);

static double
time_write(theus_container **map, write_fn write)
{
    double start = now_ns();
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        *map = write(*map, order[i], value_of(n + i % EXTRA));
    }
    return (now_ns() - start) / OPERATIONS;
}

static void
time_add_delete(theus_container **map, double *add, double *delete)
{
    double start = now_ns();
    for (uint32_t i = 0; i < EXTRA; i++) {
        *map = version_set(*map, n + i, value_of(0));
    }
    double middle = now_ns();
    for (uint32_t i = 0; i < EXTRA; i++) {
        *map = version_delete(*map, n + i);
    }
    *add = (middle - start) / EXTRA;
    *delete = (now_ns() - middle) / EXTRA;
}

static double
time_iterate(theus_container *map)
{
    uint32_t rounds = 1 + 1000000 / n;
    uintptr_t sum = 0;
    double start = now_ns();
    for (uint32_t round = 0; round < rounds; round++) {
        theus_cursor cursor;
        void *key;
        theus_value value;
        theus_cursor_init(&cursor, map, false);
        while (theus_cursor_next(&cursor, NULL, &key, &value)) {
            sum += (uintptr_t)key ^ value;
        }
    }
    must(sum != 0);
    return (now_ns() - start) / rounds / n;
}

static double
time_build(void)
{
    uint32_t rounds = 1 + 200000 / n;
    double start = now_ns();
    for (uint32_t round = 0; round < rounds; round++) {
        theus_container_release(build());
    }
    return (now_ns() - start) / rounds / n;
}

static int
count_change(void *arg, theus_change_kind kind, void *key, uint32_t pos_a, theus_value a,
             uint32_t pos_b, theus_value b)
{
    (void)kind, (void)key, (void)pos_a, (void)a, (void)pos_b, (void)b;
    ++*(uint32_t *)arg;
    return 0;
}

static double
time_diff(theus_container *map)
{
    enum { CHANGES = 10, ROUNDS = 200 };
    theus_container *next;
    must(theus_edit_begin(map, &next) == THEUS_OK);
    for (uint32_t i = 0; i < CHANGES; i++) {
        must(theus_container_put(next, (uint32_t)((uint64_t)i * n / CHANGES), value_of(n + 1000))
             == THEUS_OK);
    }
    must(theus_edit_seal(next) == THEUS_OK);
    double start = now_ns();
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t changes = 0;
        theus_status status;
        must(theus_container_diff(map, next, NULL, count_change, &changes, &status) == 0);
        must(changes == CHANGES);
    }
    double time = (now_ns() - start) / ROUNDS;
    theus_container_release(next);
    return time / 1000;
}

static double
least(double a, double b)
{
    return b == 0 || a < b ? a : b;
}

static void
bench(uint32_t size, int runs)
{
    n = size;
    atoms = calloc(2 * ((size_t)n + EXTRA), sizeof(atom));
    must(atoms != NULL);
    for (uint32_t i = 0; i < 2 * (n + EXTRA); i++) {
        atoms[i].refs = 1;
        atoms[i].hash = i * 0x2545F4914F6CDD1Du; /* as of strings */
    }
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        order[i] = random_below(n);
    }
    double find = 0, set = 0, edit = 0, add = 0, delete = 0, iterate = 0, building = 0, diff = 0;
    double bytes = 0;
    for (int run = 0; run < runs; run++) {
        must(theus_heap_new(&ops, &heap) == THEUS_OK);
        building = least(time_build(), building);
        theus_container *map = build();
        theus_heap_stats stats;
        theus_heap_read_stats(heap, &stats);
        bytes = (double)stats.bytes / n;
        find = least(time_find(map), find);
        iterate = least(time_iterate(map), iterate);
        set = least(time_write(&map, version_set), set);
        edit = least(time_write(&map, version_edit), edit);
        double adding, deleting;
        time_add_delete(&map, &adding, &deleting);
        add = least(adding, add);
        delete = least(deleting, delete);
        diff = least(time_diff(map), diff);
        theus_container_release(map);
        theus_heap_free(heap);
    }
    printf("%8u %7.1f %7.1f %7.1f %7.1f %7.1f %8.2f %7.1f %8.2f %7.1f\n", n, find, set, edit, add,
           delete, iterate, building, diff, bytes);
    free(atoms);
}

int
main(int argc, char **argv)
{
    int runs = argc > 1 ? atoi(argv[1]) : 5;
    ops.serial = argc <= 2 || strcmp(argv[2], "locks") != 0;
    order = malloc(sizeof(*order) * OPERATIONS);
    must(order != NULL);
    printf("%8s %7s %7s %7s %7s %7s %8s %7s %8s %7s\n", "keys", "find", "set", "edit", "add",
           "delete", "iterate", "build", "diff us", "bytes");
    const uint32_t sizes[] = {10, 1000, 10000, 100000, 1000000};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        bench(sizes[i], runs);
    }
    free(order);
    return 0;
}
