/* The slot table: one owner per slot, stale for ever, and nothing lost whenever and wherever somebody is killed.
 *
 * What is asked of a table of slots, and where it is shown (without a file: here):
 *
 *     a token for what is stored, for every dtype and order    unit/test_shm_array.py, model/test_shm_views.py
 *     a free list that no recycled head can break              sim/sim_slots.c (every schedule), test_threads
 *     readers at the same time, in two processes               test_two_processes_look_at_once
 *     whoever reads sees one tenant, whole                     isolated/test_readers.py, test_shm_storm.c, test_threads (generations)
 *     the record can be read without the data                  test_shm_processes.c: test_a_look_at_the_record_alone
 *     free at once, given again after the last lease           test_life, test_shm_processes.c: test_borrowers
 *     full is an answer, and passes                            test_capacity, unit/test_heavy.py
 *     given back twice, forged, read when freed, also later    test_stale_for_ever, test_shm_zone.c: test_names, test_shm_fuzz.c
 *     used last, given next, under another name                test_life
 *     taken is never below 0 or above the capacity             test_taken_is_within_bounds, by 1e8 looks: check.py storm
 *     kinds of memory, their default, sets of them             test_shm_memory.c, unit/test_memory.py
 *     a writer that dies: nobody reads it, the slot comes back test_killed_at_steps, test_shm_storm.c
 *     busy and borrowed are answers                            test_shm_processes.c: test_each_borrower_has_a_number_of_its_own
 *     many who want one slot get on, though nobody waits       test_many_want_one_slot
 *     the largest table, and none                              test_the_largest_table, test_shm_fuzz.c (capacity 0)
 *     64 processes; one more is told so, until one leaves      test_shm_crowd.c
 *     one suite for every backend                              zone_scene.c, unit/test_heavy.py by THEUS_SHM_BACKEND
 *     NumPy's own allocator is ours (NEP 49)                   not done: a handler would have to lend slots to every temporary, for
 *                                                              all who import NumPy; alloc() and put() are asked for instead
 *     admission is a pure decision                             test_shm_zone.c: test_quota_decisions
 *     one thread and many processes: the same code             everything here; its price: benchmarks/c/bench_slots.c */
#define _GNU_SOURCE

#include "shm_slots.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { CAPACITY = 128, WORKERS = 4 };

/* What the processes of a test share: a table, and who believes to own which slot. */
typedef struct {
    theus_slots table;
    _Atomic(uint32_t) *owner; /* per slot: 1 + participant, 0: nobody */
    void *memory;
    size_t size;
} shared;

static shared
shared_new(uint32_t capacity)
{
    shared made = {.size = theus_shm_control_size(capacity, false) + capacity * sizeof(uint32_t)};
    made.memory = mmap(NULL, made.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(made.memory != MAP_FAILED);
    theus_slots_open(&made.table, made.memory, capacity);
    theus_slots_init(&made.table);
    made.owner = (_Atomic(uint32_t) *)((char *)made.memory + theus_shm_control_size(capacity, false));
    return made;
}

static void
shared_free(shared *it)
{
    munmap(it->memory, it->size);
}

/* ---- one after the other --------------------------------------------------------------------- */

static void
test_life(void)
{
    shared it = shared_new(64);
    theus_slots *table = &it.table;
    uint32_t slot, again, generation, next;
    REQUIRE(theus_slot_claim(table, 3, &slot, &generation) && generation == 1);
    CHECK(theus_slot_claimer_of(atomic_load(&table->slots[slot].word)) == 3);
    CHECK(theus_slot_lease(table, slot, generation, 5) == THEUS_LEASE_STALE); /* not published: not there */
    CHECK(!theus_slot_retire(table, slot, generation));
    theus_slot_publish(table, slot);
    CHECK(!theus_slot_recycle(table, slot, generation));
    CHECK(theus_slot_lease(table, slot, generation, 5) == THEUS_LEASED);
    CHECK(theus_slot_lease(table, slot, generation + 1, 6) == THEUS_LEASE_BAD);
    CHECK(theus_slot_lease(table, slot, 0, 6) == THEUS_LEASE_BAD && theus_slot_lease(table, 64, 1, 6) == THEUS_LEASE_BAD);
    CHECK(theus_slot_retire(table, slot, generation) && !theus_slot_retire(table, slot, generation));
    CHECK(theus_slot_lease(table, slot, generation, 6) == THEUS_LEASE_STALE);
    CHECK(theus_slot_is_leased(table, slot) && !theus_slot_recycle(table, slot, generation));
    CHECK(theus_slot_unlease(table, slot, 5));
    CHECK(!theus_slot_is_leased(table, slot));
    CHECK(theus_slot_recycle(table, slot, generation) && !theus_slot_recycle(table, slot, generation));
    REQUIRE(theus_slot_claim(table, 3, &again, &next));
    CHECK(again == slot && next == generation + 1); /* used last, given next */
    shared_free(&it);
}

static void
test_capacity(void)
{
    shared it = shared_new(CAPACITY);
    uint32_t slot, generation;
    bool seen[CAPACITY] = {false};
    for (int i = 0; i < CAPACITY; i++) {
        REQUIRE(theus_slot_claim(&it.table, 0, &slot, &generation));
        CHECK(!seen[slot]);
        seen[slot] = true;
        CHECK(theus_slots_taken(&it.table) == (uint32_t)i + 1);
    }
    CHECK(!theus_slot_claim(&it.table, 0, &slot, &generation));
    CHECK(theus_slot_recycle(&it.table, 77, 1));
    CHECK(theus_slot_claim(&it.table, 0, &slot, &generation) && slot == 77 && generation == 2);
    shared_free(&it);
}

static void
test_stale_for_ever(void)
{
    shared it = shared_new(64);
    theus_slots *table = &it.table;
    uint32_t slot, generation;
    for (uint32_t i = 1; i <= 1000000; i++) {
        REQUIRE(theus_slot_claim(table, 0, &slot, &generation) && slot == 0 && generation == i);
        theus_slot_publish(table, slot);
        CHECK(i == 1 || theus_slot_lease(table, slot, 1 + i / 2, 2) == (1 + i / 2 == i ? THEUS_LEASED : THEUS_LEASE_STALE));
        (void)theus_slot_unlease(table, slot, 2);
        CHECK(i == 1 || !theus_slot_retire(table, slot, i - 1));
        REQUIRE(theus_slot_retire(table, slot, i) && theus_slot_recycle(table, slot, i));
    }
    CHECK(theus_slots_taken(table) == 0);
    shared_free(&it);
}

static void
test_worn_out(void)
{
    shared it = shared_new(64);
    uint32_t slot, generation;
    atomic_store(&it.table.slots[0].word, theus_slot_word(UINT32_MAX - 1, THEUS_SLOT_FREE, 0));
    REQUIRE(theus_slot_claim(&it.table, 0, &slot, &generation) && slot == 0 && generation == UINT32_MAX);
    theus_slot_publish(&it.table, 0);
    CHECK(theus_slot_retire(&it.table, 0, generation) && theus_slot_recycle(&it.table, 0, generation));
    for (int i = 1; i < 64; i++) {
        REQUIRE(theus_slot_claim(&it.table, 0, &slot, &generation) && slot != 0);
    }
    CHECK(!theus_slot_claim(&it.table, 0, &slot, &generation));
    shared_free(&it);
}

static void
test_wrong_hints(void)
{
    shared it = shared_new(64);
    uint32_t slot, generation;
    atomic_store(&it.table.hints[0], 0); /* every hint is lost */
    for (int i = 0; i < 64; i++) {
        CHECK(theus_slot_claim(&it.table, 0, &slot, &generation));
    }
    atomic_store(&it.table.hints[0], UINT64_MAX); /* every hint lies */
    CHECK(!theus_slot_claim(&it.table, 0, &slot, &generation));
    CHECK(theus_slot_recycle(&it.table, 9, 1));
    CHECK(theus_slot_claim(&it.table, 0, &slot, &generation) && slot == 9);
    shared_free(&it);
}

/* ---- at the same time ---------------------------------------------------------------------------- */

/* Claims, looks, gives back, in whatever order chance says. Each slot it has is its own alone. */
static void
work(shared *it, uint32_t who, unsigned long long *seed, long rounds)
{
    struct {
        uint32_t slot, generation;
    } mine[8];
    unsigned count = 0;
    for (long round = 0; round < rounds; round++) {
        uint32_t slot, generation, nobody = 0;
        if (count < 8 && check_random(seed, 2) == 0 && theus_slot_claim(&it->table, who, &slot, &generation)) {
            REQUIRE(atomic_compare_exchange_strong(&it->owner[slot], &nobody, who + 1));
            it->table.slots[slot].size = generation;
            theus_slot_publish(&it->table, slot);
            mine[count].slot = slot;
            mine[count++].generation = generation;
        }
        else if (count > 0) {
            unsigned i = check_random(seed, count);
            slot = mine[i].slot;
            generation = mine[i].generation;
            mine[i] = mine[--count];
            REQUIRE(atomic_exchange(&it->owner[slot], 0) == who + 1); /* before: once it is retired, others may recycle it */
            REQUIRE(theus_slot_retire(&it->table, slot, generation));
            (void)theus_slot_recycle(&it->table, slot, generation); /* or, leased: the sweep at the end does it */
        }
        slot = check_random(seed, it->table.capacity);
        uint64_t word = atomic_load(&it->table.slots[slot].word);
        generation = theus_slot_generation_of(word);
        if (theus_slot_lease(&it->table, slot, generation, 32 + who) == THEUS_LEASED) {
            REQUIRE(it->table.slots[slot].size == generation); /* the tenant that was asked for, whatever goes on */
            if (theus_slot_unlease(&it->table, slot, 32 + who)) {
                (void)theus_slot_recycle(&it->table, slot, generation);
            }
        }
    }
    while (count > 0) {
        count--;
        REQUIRE(atomic_exchange(&it->owner[mine[count].slot], 0) == who + 1);
        REQUIRE(theus_slot_retire(&it->table, mine[count].slot, mine[count].generation));
        (void)theus_slot_recycle(&it->table, mine[count].slot, mine[count].generation);
    }
}

typedef struct {
    shared *it;
    uint32_t who;
} worker;

static void *
worker_main(void *arg)
{
    worker *self = arg;
    unsigned long long seed = 77 + self->who;
    work(self->it, self->who, &seed, 40000);
    return NULL;
}

/* Every slot can be had, once, and afterwards there is none. */
static void
check_whole(shared *it)
{
    uint32_t slot, generation;
    for (uint32_t i = 0; i < it->table.capacity; i++) {
        uint64_t word = atomic_load(&it->table.slots[i].word);
        CHECK(atomic_load(&it->table.slots[i].leases) == 0);
        (void)theus_slot_recycle(&it->table, i, theus_slot_generation_of(word)); /* who was to be told is dead */
    }
    CHECK(theus_slots_taken(&it->table) == 0);
    for (uint32_t i = 0; i < it->table.capacity; i++) {
        REQUIRE(theus_slot_claim(&it->table, 0, &slot, &generation));
    }
    CHECK(!theus_slot_claim(&it->table, 0, &slot, &generation));
}

static void
test_threads(void)
{
    shared it = shared_new(64);
    pthread_t threads[WORKERS];
    worker workers[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker){&it, i};
        REQUIRE(pthread_create(&threads[i], NULL, worker_main, &workers[i]) == 0);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_whole(&it);
    shared_free(&it);
}

/* Two leases at a time, of two processes: each waits, with its own, until the other one has its. */
static void
test_two_processes_look_at_once(void)
{
    shared it = shared_new(64);
    uint32_t slot, generation;
    int here[2], there[2], status;
    char byte = 0;
    REQUIRE(theus_slot_claim(&it.table, 0, &slot, &generation) && pipe(here) == 0 && pipe(there) == 0);
    theus_slot_publish(&it.table, slot);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        REQUIRE(theus_slot_lease(&it.table, slot, generation, 2) == THEUS_LEASED);
        REQUIRE(write(there[1], &byte, 1) == 1 && read(here[0], &byte, 1) == 1);
        (void)theus_slot_unlease(&it.table, slot, 2);
        _exit(check_result());
    }
    REQUIRE(theus_slot_lease(&it.table, slot, generation, 1) == THEUS_LEASED);
    REQUIRE(read(there[0], &byte, 1) == 1);
    CHECK(atomic_load(&it.table.slots[slot].leases) == (1u << 1 | 1u << 2));
    CHECK(theus_slot_retire(&it.table, slot, generation) && !theus_slot_recycle(&it.table, slot, generation));
    REQUIRE(write(here[1], &byte, 1) == 1 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(!theus_slot_recycle(&it.table, slot, generation)); /* one still looks */
    CHECK(theus_slot_unlease(&it.table, slot, 1) && theus_slot_recycle(&it.table, slot, generation));
    for (int i = 0; i < 2; i++) {
        close(here[i]);
        close(there[i]);
    }
    shared_free(&it);
}

static void *
want_main(void *arg)
{
    shared *it = ((worker *)arg)->it;
    uint32_t slot, generation;
    for (int got = 0; got < 200;) {
        if (theus_slot_claim(&it->table, ((worker *)arg)->who, &slot, &generation)) {
            uint32_t before = atomic_fetch_add(&it->owner[slot], 1);
            REQUIRE(before == 0);
            atomic_fetch_sub(&it->owner[slot], 1);
            theus_slot_publish(&it->table, slot);
            REQUIRE(theus_slot_retire(&it->table, slot, generation) && theus_slot_recycle(&it->table, slot, generation));
            got++;
        }
        else {
            sched_yield();
        }
    }
    return NULL;
}

static void
test_many_want_one_slot(void)
{
    enum { MANY = 64 };
    shared it = shared_new(64);
    uint32_t slot, generation;
    pthread_t threads[MANY];
    worker workers[MANY];
    for (int i = 0; i < 63; i++) {
        REQUIRE(theus_slot_claim(&it.table, 0, &slot, &generation));
    }
    for (uint32_t i = 0; i < MANY; i++) {
        workers[i] = (worker){&it, i};
        REQUIRE(pthread_create(&threads[i], NULL, want_main, &workers[i]) == 0);
    }
    for (int i = 0; i < MANY; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(theus_slots_taken(&it.table) == 63);
    shared_free(&it);
}

static _Atomic(bool) counted;

static void *
taker_main(void *arg)
{
    worker *self = arg;
    unsigned long long seed = 41 + self->who;
    while (!atomic_load(&counted)) {
        work(self->it, self->who, &seed, 1000);
    }
    return NULL;
}

/* Eight threads: one looks, so many times, while seven take and give back. */
static void
test_taken_is_within_bounds(long looks)
{
    enum { TAKERS = 7 };
    shared it = shared_new(64);
    pthread_t threads[TAKERS];
    worker workers[TAKERS];
    atomic_store(&counted, false);
    for (uint32_t i = 0; i < TAKERS; i++) {
        workers[i] = (worker){&it, i};
        REQUIRE(pthread_create(&threads[i], NULL, taker_main, &workers[i]) == 0);
    }
    for (long i = 0; i < looks; i++) {
        REQUIRE(theus_slots_taken(&it.table) <= 64);
    }
    atomic_store(&counted, true);
    for (uint32_t i = 0; i < TAKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    check_whole(&it);
    shared_free(&it);
}

static void
test_a_large_table(void)
{
    enum { LARGE = 1 << 16 };
    shared it = shared_new(LARGE);
    uint32_t slot, generation;
    for (int i = 0; i < LARGE; i++) {
        REQUIRE(theus_slot_claim(&it.table, 0, &slot, &generation) && generation == 1);
    }
    CHECK(!theus_slot_claim(&it.table, 0, &slot, &generation) && theus_slots_taken(&it.table) == LARGE);
    CHECK(theus_slot_recycle(&it.table, LARGE - 1, 1) && theus_slot_claim(&it.table, 0, &slot, &generation));
    CHECK(slot == LARGE - 1 && generation == 2);
    shared_free(&it);
}

/* As many slots as a header may say: 4 GiB, of which this touches a few pages for writing. What is only read costs no memory. */
static void
test_the_largest_table(void)
{
    const uint32_t last = THEUS_SHM_SLOTS_MOST - 1, groups = THEUS_SHM_SLOTS_MOST / 64;
    size_t size = theus_shm_control_size(THEUS_SHM_SLOTS_MOST, true);
    void *memory = MAP_FAILED;
#ifndef __SANITIZE_THREAD__ /* which notes each read, in twice as much memory as there is to read */
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
#endif
    if (memory == MAP_FAILED) {
        fprintf(stderr, "no room for so many addresses: the largest table is left out\n");
        return;
    }
    theus_slots table;
    uint32_t slot, generation;
    theus_slots_open(&table, memory, THEUS_SHM_SLOTS_MOST);
    CHECK((char *)&table.slots[last + 1] + THEUS_SHM_LOANS * sizeof(theus_loan_record) <= (char *)memory + size);
    theus_slots_init(&table);
    memset(table.hints, 0, (groups - 1) * sizeof(uint64_t)); /* none but for the last group */
    for (uint32_t i = last - 63; i <= last; i++) {
        REQUIRE(theus_slot_claim(&table, 7, &slot, &generation) && slot == i && generation == 1);
    }
    theus_slot_publish(&table, last);
    CHECK(theus_slot_lease(&table, last, 1, 63) == THEUS_LEASED);
    CHECK(theus_slot_lease(&table, last + 1, 1, 63) == THEUS_LEASE_BAD);
    CHECK(theus_slot_lease(&table, UINT32_MAX, 1, 63) == THEUS_LEASE_BAD);
    CHECK(theus_slots_taken(&table) == 64);
    REQUIRE(theus_slot_claim(&table, 7, &slot, &generation) && slot == 0); /* by the scan, which gives the hints back */
    CHECK(table.hints[0] == UINT64_MAX << 1 && table.hints[groups - 2] == UINT64_MAX && table.hints[groups - 1] == 0);
    REQUIRE(theus_slot_claim(&table, 7, &slot, &generation) && slot < last - 63);
    CHECK(theus_slots_reap(&table, 63) == 1 && theus_slots_reap(&table, 7) == 0); /* a death costs one walk */
    CHECK(theus_slots_taken(&table) == 0);
    REQUIRE(theus_slot_claim(&table, 7, &slot, &generation) && generation == 2); /* the slot that was recycled last */
    munmap(memory, size);
}

/* ---- kill -9 ---------------------------------------------------------------------------------------- */

static const char *const steps[] = {
    "hint taken", "claimed",  "claimed by scan", "published",   "retired",
    "recycled",   "lease set", "lease ended",     "reaping",
};
enum { STEPS = sizeof(steps) / sizeof(steps[0]) };

static struct {
    const char *step;
    unsigned passes;
} doom;

static void
die_at_step(const char *step)
{
    if (strcmp(step, doom.step) == 0 && doom.passes-- == 0) {
        raise(SIGKILL);
    }
}

static pid_t
start_worker(shared *it, uint32_t who, unsigned long long seed, const char *step)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child > 0) {
        return child;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* if a check ends the test, it ends us */
    if (step != NULL) {
        doom.step = step;
        doom.passes = check_random(&seed, 50);
        theus_shm_at_step = die_at_step;
    }
    work(it, who, &seed, step == NULL ? 1L << 40 : 2000); /* without a step: until somebody kills it */
    _exit(check_result());
}

static void
bury(shared *it, uint32_t who, pid_t child)
{
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    for (uint32_t i = 0; i < it->table.capacity; i++) {
        uint32_t dead = who + 1;
        (void)atomic_compare_exchange_strong(&it->owner[i], &dead, 0);
    }
    theus_slots_reap(&it->table, who);
    theus_slots_reap(&it->table, 32 + who);
}

static void
test_killed_at_steps(void)
{
    shared it = shared_new(64);
    unsigned long long seed = 4711;
    for (int round = 0; round < 12; round++) {
        for (unsigned step = 0; step < STEPS; step++) {
            pid_t children[2];
            for (uint32_t i = 0; i < 2; i++) {
                children[i] = start_worker(&it, i, check_random(&seed, 1u << 30) + 1, steps[step]);
            }
            for (uint32_t i = 0; i < 2; i++) {
                bury(&it, i, children[i]);
            }
        }
    }
    check_whole(&it);
    shared_free(&it);
}

/* A reaper that dies is followed by another one. */
static void
test_killed_reaper(void)
{
    for (unsigned passes = 0; passes < 12; passes++) {
        shared it = shared_new(64);
        uint32_t slot, generation;
        for (int i = 0; i < 10; i++) {
            REQUIRE(theus_slot_claim(&it.table, 7, &slot, &generation));
            if (i % 2 == 0) {
                theus_slot_publish(&it.table, slot);
                CHECK(theus_slot_lease(&it.table, slot, generation, 7) == THEUS_LEASED);
            }
        }
        pid_t child = fork();
        if (child == 0) {
            doom.step = passes % 2 == 0 ? "reaping" : "recycled";
            doom.passes = passes / 2;
            theus_shm_at_step = die_at_step;
            theus_slots_reap(&it.table, 7);
            _exit(1);
        }
        int status;
        REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
        theus_slots_reap(&it.table, 7);
        CHECK(theus_slots_taken(&it.table) == 0);
        check_whole(&it);
        shared_free(&it);
    }
}

static void
test_killed_anywhere(void)
{
    shared it = shared_new(64);
    unsigned long long seed = 815;
    pid_t children[WORKERS];
    for (uint32_t i = 0; i < WORKERS; i++) {
        children[i] = start_worker(&it, i, i + 1, NULL);
    }
    for (int kills = 0; kills < 150; kills++) {
        struct timespec wait = {0, 100000 + (long)check_random(&seed, 1500000)};
        nanosleep(&wait, NULL);
        uint32_t victim = check_random(&seed, WORKERS);
        kill(children[victim], SIGKILL);
        bury(&it, victim, children[victim]);
        children[victim] = start_worker(&it, victim, check_random(&seed, 1u << 30) + 1, NULL);
    }
    for (uint32_t i = 0; i < WORKERS; i++) {
        kill(children[i], SIGKILL);
        bury(&it, i, children[i]);
    }
    check_whole(&it);
    shared_free(&it);
}

/* test_shm_slots 100000000: how often it is looked at how many are taken. */
int
main(int argc, char **argv)
{
    test_life();
    test_capacity();
    test_stale_for_ever();
    test_worn_out();
    test_wrong_hints();
    test_threads();
    test_two_processes_look_at_once();
    test_many_want_one_slot();
    test_taken_is_within_bounds(argc > 1 ? strtol(argv[1], NULL, 10) : 20000);
    test_a_large_table();
    test_the_largest_table();
    test_killed_at_steps();
    test_killed_reaper();
    test_killed_anywhere();
    return check_result();
}
