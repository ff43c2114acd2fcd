/* Kinds of memory: blocks of each are as good as those of any other, and whoever is content with several gets the first that has
 * room. Pages of 2 MiB are tried where some are set aside (as root: echo 64 > /proc/sys/vm/nr_hugepages). */
#define _GNU_SOURCE

#include "zone_scene.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "port_memory.h"

enum { ALL = (1 << THEUS_MEMORY_BLOCKS) - 1 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool pins = false; /* the mlock() of sanitizers does nothing */
#else
static const bool pins = true;
#endif

static const char *const kind_names[] = {"huge", "pinned", "shared", "file"};

static theus_status
alloc_in(theus_zone *zone, theus_placement set, uint64_t size, theus_block *block, theus_refusal *refusal)
{
    theus_status status = theus_zone_alloc_in(zone, set, "x", 1, size, THEUS_ZEROED, block, refusal);
    CHECK_SOUND(theus_zone_check(zone));
    return status;
}

/* The kind that a block of that set gets, which is given back; KINDS: none. */
static theus_memory
kind_of(theus_zone *zone, theus_placement set, uint64_t size)
{
    theus_block block;
    theus_refusal refusal;
    if (alloc_in(zone, set, size, &block, &refusal) != THEUS_OK) {
        return THEUS_MEMORY_KINDS;
    }
    theus_memory kind = block.arena->memory;
    theus_block_release(&block);
    return kind;
}

/* ---- decisions ------------------------------------------------------------------------------------- */

static void
test_decisions(void)
{
    for (theus_placement set = 0; set < 1u << THEUS_MEMORY_KINDS; set++) {
        for (theus_memory kind = 0; kind < THEUS_MEMORY_KINDS; kind++) {
            CHECK(theus_placement_accepts(set, kind) == ((set & THEUS_PLACE(kind)) != 0));
            theus_memory next = theus_placement_next(set, kind);
            CHECK(next >= kind && next <= (kind < THEUS_MEMORY_BLOCKS ? THEUS_MEMORY_BLOCKS : kind));
            CHECK(next >= THEUS_MEMORY_BLOCKS || theus_placement_accepts(set, next));
            for (theus_memory between = kind; between < next; between++) {
                CHECK(!theus_placement_accepts(set, between));
            }
        }
    }
    CHECK(theus_placement_next(THEUS_PLACE(THEUS_MEMORY_HOST), 0) == THEUS_MEMORY_BLOCKS); /* no block is of it */
}

/* ---- every kind ---------------------------------------------------------------------------------------- */

typedef struct {
    theus_arena_name name;
    uint32_t slot, generation;
} token;

/* In a process that does not descend from the owner's arena. */
static void
borrow_main(int tokens)
{
    token it;
    theus_block block;
    REQUIRE(read(tokens, &it, sizeof(it)) == sizeof(it));
    REQUIRE(theus_block_lease(&it.name, it.slot, it.generation, &block, NULL) == THEUS_OK);
    CHECK(is_filled(&block, 5) && !theus_block_is_owned(&block));
    theus_block_release(&block);
    theus_arenas_forget();
    _exit(check_result());
}

static void
write_there(void *arg)
{
    *(volatile char *)arg = 1;
}

static void
look_and_die(void *arg)
{
    theus_block *block = arg;
    int own;
    REQUIRE(is_filled(block, 5) && !theus_block_is_owned(block));
    if (geteuid() != 0 && theus_name_reopen(block->arena->data_fd, true, &own) == THEUS_OK) {
        CHECK(!"the data can be opened for writing once more");
    }
    raise(SIGKILL);
}

static void
check_block(theus_zone *zone, theus_memory kind, uint64_t size)
{
    theus_block block;
    theus_refusal refusal;
    int tokens[2], status;
    REQUIRE(pipe(tokens) == 0);
    pid_t borrower = fork();
    REQUIRE(borrower >= 0);
    if (borrower == 0) {
        borrow_main(tokens[0]);
    }
    REQUIRE(alloc_in(zone, THEUS_PLACE(kind), size, &block, &refusal) == THEUS_OK);
    CHECK(is_filled(&block, 0) && block.arena->memory == kind);
    memset(theus_block_data(&block), 5, size);
    token it = {.slot = block.slot, .generation = block.generation};
    theus_arena_name_of(block.arena, &it.name);
    REQUIRE(write(tokens[1], &it, sizeof(it)) == sizeof(it));
    REQUIRE(waitpid(borrower, &status, 0) == borrower);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(tokens[0]);
    close(tokens[1]);

    CHECK(in_child(look_and_die, &block) == -SIGKILL);
    char *shown, *data;
    void *base;
    uint64_t mapped;
    REQUIRE(theus_block_publish(&block, &shown, NULL) == THEUS_OK);
    CHECK(memcmp(shown, theus_block_data(&block), size) == 0 && in_child(write_there, shown) != 0);
    theus_status private = theus_block_map_private(&block, &base, &mapped, &data, NULL);
    CHECK(private == THEUS_OK || (kind == THEUS_MEMORY_HUGE && private == THEUS_NO_ROOM)); /* its pages are set aside, too */
    if (private == THEUS_OK) {
        data[0] = data[size - 1] = 6;
        CHECK(is_filled(&block, 5));
        theus_shm_unmap(base, mapped);
    }
    theus_block_release(&block);
    (void)theus_zone_tidy(zone); /* whoever was killed held a lease */
    CHECK(FIGURE(zone, lingering) == 0 && FIGURE(zone, arenas) == 0);
}

static uint64_t
locked_bytes(void)
{
    unsigned long long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    REQUIRE(file != NULL);
    while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "VmLck: %llu", &kib) != 1) {
    }
    fclose(file);
    return kib * KIB;
}

static void
test_every_kind(void)
{
    theus_zone *zone = zone_new(0);
    unsigned tried = 0;
    for (theus_memory kind = 0; kind < THEUS_MEMORY_BLOCKS; kind++) {
        theus_memory got = kind_of(zone, THEUS_PLACE(kind), MIB);
        (void)theus_zone_tidy(zone);
        if (got != kind) {
            fprintf(stderr, "no memory of the kind %s here\n", kind_names[kind]);
            continue;
        }
        tried++;
        check_block(zone, kind, 3000);
        check_block(zone, kind, 3 * MIB + 5);
        check_block(zone, kind, 40 * MIB); /* an arena of its own */
    }
    CHECK(tried >= 2);
    theus_block block;
    theus_refusal refusal;
    uint64_t before = locked_bytes();
    if (alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_PINNED), MIB, &block, &refusal) == THEUS_OK) {
        CHECK(!pins || locked_bytes() >= before + MIB);
        theus_zone_figures figures;
        theus_zone_read(zone, &figures);
        const theus_memory_tally *tally = &figures.memory[THEUS_MEMORY_PINNED];
        CHECK(tally->arenas == 1 && tally->blocks == 1 && tally->bytes == MIB && tally->backed == MIB && tally->idle == 0);
        CHECK(figures.memory[THEUS_MEMORY_SHARED].arenas == 0);
        theus_block_release(&block);
        (void)theus_zone_tidy(zone);
        CHECK(locked_bytes() == before);
    }
    theus_zone_free(zone);
}

/* ---- which one ------------------------------------------------------------------------------------------ */

static void
test_the_first_that_has_room(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block;
    theus_refusal refusal = {0};
    const theus_placement shared = THEUS_PLACE(THEUS_MEMORY_SHARED), huge = THEUS_PLACE(THEUS_MEMORY_HUGE);
    CHECK(kind_of(zone, shared | THEUS_PLACE(THEUS_MEMORY_FILE), MIB) == THEUS_MEMORY_SHARED);
    CHECK(kind_of(zone, shared | THEUS_PLACE(THEUS_MEMORY_HOST), MIB) == THEUS_MEMORY_SHARED);
    CHECK(alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_HOST), MIB, &block, &refusal) == THEUS_UNSUPPORTED);
    CHECK(alloc_in(zone, 0, MIB, &block, &refusal) == THEUS_UNSUPPORTED);
    if (theus_huge_room("") == 0) {
        CHECK(kind_of(zone, huge | shared, MIB) == THEUS_MEMORY_SHARED);
        theus_status status = alloc_in(zone, huge, MIB, &block, &refusal);
        CHECK(status == THEUS_UNSUPPORTED || status == THEUS_NO_ROOM);
        CHECK(status != THEUS_NO_ROOM || (refusal.memory == THEUS_MEMORY_HUGE && refusal.why == THEUS_ROOM_SYSTEM));
    }
    /* A quota counts every kind: no other one is tried. */
    CHECK(theus_zone_limit(zone, "", 0, 0, MIB) == THEUS_OK);
    CHECK(alloc_in(zone, ALL, 2 * MIB, &block, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_QUOTA);
    theus_zone_free(zone);
}

static void
with_little_to_pin(void *arg)
{
    (void)arg;
    if (!pins) {
        return;
    }
    const struct rlimit little = {64 * 1024, 64 * 1024};
    theus_zone *zone = zone_new(0);
    theus_block block;
    theus_refusal refusal;
    REQUIRE(setrlimit(RLIMIT_MEMLOCK, &little) == 0 && (geteuid() != 0 || setresuid(65534, 65534, 65534) == 0));
    CHECK(alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_PINNED), MIB, &block, &refusal) == THEUS_NO_ROOM);
    CHECK(refusal.memory == THEUS_MEMORY_PINNED && refusal.limit == little.rlim_cur);
    CHECK(kind_of(zone, THEUS_PLACE(THEUS_MEMORY_PINNED) | THEUS_PLACE(THEUS_MEMORY_SHARED), MIB) == THEUS_MEMORY_SHARED);
    theus_zone_free(zone);
}

/* Idle arenas of one kind are given back when another one runs short: here, of descriptors. */
static void
short_of_descriptors(void *arg)
{
    (void)arg;
    enum { MANY = 5 };
    theus_zone *zone = zone_new(0);
    theus_block blocks[MANY], block;
    theus_refusal refusal;
    theus_zone_decay(zone, UINT64_C(1000000000000));
    for (int i = 0; i < MANY; i++) {
        REQUIRE(alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_SHARED), 40 * MIB, &blocks[i], &refusal) == THEUS_OK);
    }
    for (int i = 0; i < MANY; i++) {
        theus_block_release(&blocks[i]);
    }
    CHECK(FIGURE(zone, arenas) == MANY && FIGURE(zone, idle) == MANY * 40 * MIB);
    int lowest = dup(0);
    REQUIRE(lowest >= 0 && close(lowest) == 0);
    const struct rlimit none = {(rlim_t)lowest, (rlim_t)lowest};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    REQUIRE(alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_PINNED) | THEUS_PLACE(THEUS_MEMORY_SHARED), 50 * MIB, &block, &refusal)
            == THEUS_OK);
    CHECK(FIGURE(zone, arenas) == 1 && FIGURE(zone, idle) == 0);
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
test_names_and_kinds(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block;
    theus_refusal refusal;
    CHECK(alloc_in(zone, THEUS_PLACE(THEUS_MEMORY_FILE), MIB, &block, &refusal) == THEUS_UNSUPPORTED);
    CHECK(kind_of(zone, THEUS_PLACE(THEUS_MEMORY_FILE) | THEUS_PLACE(THEUS_MEMORY_SHARED), MIB) == THEUS_MEMORY_SHARED);
    theus_memory pinned = kind_of(zone, THEUS_PLACE(THEUS_MEMORY_PINNED), MIB);
    CHECK(pinned == THEUS_MEMORY_PINNED || theus_pin_limit() < MIB);
    theus_zone_free(zone);
}

/* ---- how much of it is used ------------------------------------------------------------------------------ */

enum { MOST = 2000 };

typedef struct {
    theus_block blocks[MOST];
    unsigned count;
    uint64_t asked, peak, backed; /* now; at most; what was backed then */
} trace;

static void
trace_add(trace *it, theus_zone *zone, uint64_t size)
{
    theus_refusal refusal;
    REQUIRE(it->count < MOST);
    REQUIRE(theus_zone_alloc(zone, "x", 1, size, 0, &it->blocks[it->count++], &refusal) == THEUS_OK);
    it->asked += size;
    if (it->asked > it->peak) {
        it->peak = it->asked;
        it->backed = FIGURE(zone, backed);
    }
}

static void
trace_end(trace *it, unsigned i)
{
    it->asked -= it->blocks[i].size;
    theus_block_release(&it->blocks[i]);
    it->blocks[i] = it->blocks[--it->count];
}

/* At the peak at least nine tenths of the pages were asked for by somebody. */
static void
test_efficiency(void)
{
    unsigned long long chance = 31;
    for (int which = 0; which < 3; which++) {
        theus_zone *zone = zone_new(0);
        trace *it = calloc(1, sizeof(trace));
        REQUIRE(it != NULL);
        for (unsigned i = 0; which == 0 && i < 20000; i++) { /* random: three in four allocate, until it is full */
            bool full = it->asked > 60 * MIB || it->count == MOST;
            if (!full && (it->count == 0 || check_random(&chance, 100) < 73)) {
                trace_add(it, zone, 1 + check_random(&chance, 96 * 1024));
            }
            else {
                trace_end(it, check_random(&chance, it->count));
            }
        }
        for (unsigned i = 0; which == 1 && i < 5000; i++) { /* a place is emptied and filled again, by a log-uniform size */
            if (it->count == 400) {
                trace_end(it, check_random(&chance, it->count));
            }
            trace_add(it, zone, ((uint64_t)1 << (10 + check_random(&chance, 10))) + check_random(&chance, 1024));
        }
        for (unsigned i = 0; which == 2 && i < 60; i++) { /* batches: the next one comes before the last one goes */
            unsigned last = it->count;
            for (unsigned k = 0; k < 30; k++) {
                trace_add(it, zone, (200 + 10 * k) * KIB + i);
            }
            while (last > 0) {
                trace_end(it, --last);
            }
        }
        CHECK(it->peak > 8 * MIB && it->backed > 0 && (double)it->peak / (double)it->backed >= 0.9);
        while (it->count > 0) {
            trace_end(it, it->count - 1);
        }
        CHECK_SOUND(theus_zone_check(zone));
        theus_zone_free(zone);
        free(it);
    }
}

static void
test_backend(void)
{
    if (zone_backend() == THEUS_NAMED) {
        test_names_and_kinds();
        return;
    }
    test_every_kind();
    test_the_first_that_has_room();
    CHECK(in_child(with_little_to_pin, NULL) == 0);
    CHECK(in_child(short_of_descriptors, NULL) == 0);
    test_efficiency();
}

int
main(void)
{
    long before = theus_alloc_live();
    test_decisions();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
