/* The slot table against a reference that one can read in a minute: random operations, each done by one of several processes,
 * one after the other, and after each the whole table is what the reference says.
 *
 *     test_shm_model [OPERATIONS [SEED]] */
#define _GNU_SOURCE

#include "shm_slots.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { CAPACITY = 64, PROCESSES = 3, OPERATIONS = 30000 };

static unsigned long long chance = 31;

/* ---- the reference: process p has the number p ---------------------------------------------------- */

typedef struct {
    theus_slot_state state;
    uint32_t generation, claimer;
    bool leased[PROCESSES];
} tenant;

static tenant model[CAPACITY];

static bool
nobody_looks(const tenant *it)
{
    return !it->leased[0] && !it->leased[1] && !it->leased[2];
}

static bool
model_retire(tenant *it, uint32_t generation)
{
    if (it->state != THEUS_SLOT_LIVE || it->generation != generation) {
        return false;
    }
    it->state = THEUS_SLOT_RETIRED;
    return true;
}

static bool
model_recycle(tenant *it, uint32_t generation)
{
    if (it->generation != generation || (it->state != THEUS_SLOT_CLAIMED && it->state != THEUS_SLOT_RETIRED)
        || !nobody_looks(it)) {
        return false;
    }
    it->state = THEUS_SLOT_FREE;
    it->claimer = 0;
    return true;
}

static theus_lease
model_lease(uint32_t slot, uint32_t generation, uint32_t who)
{
    if (slot >= CAPACITY || generation == 0 || generation > model[slot].generation) {
        return THEUS_LEASE_BAD;
    }
    if (generation < model[slot].generation || model[slot].state != THEUS_SLOT_LIVE) {
        return THEUS_LEASE_STALE;
    }
    model[slot].leased[who] = true;
    return THEUS_LEASED;
}

static bool
model_unlease(tenant *it, uint32_t who)
{
    it->leased[who] = false;
    return nobody_looks(it) && it->state == THEUS_SLOT_RETIRED;
}

static void
model_reap(uint32_t dead)
{
    for (tenant *it = model; it < model + CAPACITY; it++) {
        it->leased[dead] = false;
        if (it->state != THEUS_SLOT_FREE && it->claimer == dead) {
            (void)model_retire(it, it->generation);
            (void)model_recycle(it, it->generation);
        }
    }
}

/* ---- the processes: each does what it is told ------------------------------------------------------- */

typedef enum { CLAIM, PUBLISH, RETIRE, RECYCLE, LEASE, UNLEASE, REAP, ENDS } operation;

typedef struct {
    operation what;
    uint32_t slot, generation, who;
    uint32_t answer;
} request;

static void *memory; /* shared */

static struct {
    pid_t pid;
    int to, from;
} processes[PROCESSES];

static void
serve(int in, int out)
{
    theus_slots table;
    request it;
    theus_slots_open(&table, memory, CAPACITY);
    while (read(in, &it, sizeof(it)) == sizeof(it) && it.what != ENDS) {
        switch (it.what) {
        case CLAIM:
            it.answer = theus_slot_claim(&table, it.who, &it.slot, &it.generation);
            break;
        case PUBLISH:
            theus_slot_publish(&table, it.slot);
            break;
        case RETIRE:
            it.answer = theus_slot_retire(&table, it.slot, it.generation);
            break;
        case RECYCLE:
            it.answer = theus_slot_recycle(&table, it.slot, it.generation);
            break;
        case LEASE:
            it.answer = theus_slot_lease(&table, it.slot, it.generation, it.who);
            break;
        case UNLEASE:
            it.answer = theus_slot_unlease(&table, it.slot, it.who);
            break;
        default:
            theus_slots_reap(&table, it.who);
        }
        REQUIRE(write(out, &it, sizeof(it)) == sizeof(it));
    }
    _exit(0);
}

static void
start(unsigned p)
{
    int there[2], back[2];
    REQUIRE(pipe(there) == 0 && pipe(back) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* if a check ends the test, it ends us */
        serve(there[0], back[1]);
    }
    close(there[0]);
    close(back[1]);
    processes[p].pid = child;
    processes[p].to = there[1];
    processes[p].from = back[0];
}

static void
end(unsigned p)
{
    int status;
    REQUIRE(kill(processes[p].pid, SIGKILL) == 0 && waitpid(processes[p].pid, &status, 0) == processes[p].pid);
    close(processes[p].to);
    close(processes[p].from);
}

static request
ask(unsigned p, request it)
{
    REQUIRE(write(processes[p].to, &it, sizeof(it)) == sizeof(it));
    REQUIRE(read(processes[p].from, &it, sizeof(it)) == sizeof(it));
    return it;
}

/* ---- one against the other ------------------------------------------------------------------------------ */

static void
claim(unsigned p)
{
    bool any = false;
    for (unsigned i = 0; i < CAPACITY; i++) {
        any = any || model[i].state == THEUS_SLOT_FREE;
    }
    request done = ask(p, (request){.what = CLAIM, .who = p});
    REQUIRE(done.answer == any);
    if (any) { /* which one is its own affair */
        tenant *it = &model[done.slot];
        REQUIRE(done.slot < CAPACITY && it->state == THEUS_SLOT_FREE && done.generation == it->generation + 1);
        it->state = THEUS_SLOT_CLAIMED;
        it->generation++;
        it->claimer = p;
    }
}

static void
do_something(void)
{
    unsigned p = check_random(&chance, PROCESSES);
    request it = {.what = (operation)check_random(&chance, ENDS), .slot = check_random(&chance, CAPACITY), .who = p};
    tenant *slot = &model[it.slot];
    it.generation = slot->generation + (check_random(&chance, 6) == 0 ? check_random(&chance, 5) - 2 : 0);
    switch (it.what) {
    case CLAIM:
        claim(p);
        break;
    case PUBLISH: /* by its claimer */
        if (slot->state == THEUS_SLOT_CLAIMED) {
            (void)ask(slot->claimer, it);
            slot->state = THEUS_SLOT_LIVE;
        }
        break;
    case RETIRE:
        REQUIRE(ask(p, it).answer == model_retire(slot, it.generation));
        break;
    case RECYCLE:
        REQUIRE(ask(p, it).answer == model_recycle(slot, it.generation));
        break;
    case LEASE: /* once per process */
        if (!slot->leased[p]) {
            it.slot = check_random(&chance, 50) == 0 ? CAPACITY + it.slot : it.slot;
            REQUIRE(ask(p, it).answer == model_lease(it.slot, it.generation, p));
        }
        break;
    case UNLEASE:
        if (slot->leased[p]) {
            REQUIRE(ask(p, it).answer == model_unlease(slot, p));
        }
        break;
    default: /* one in fifty: it is killed, and another one clears up */
        if (check_random(&chance, 50) == 0) {
            end(p);
            (void)ask((p + 1) % PROCESSES, it);
            model_reap(p);
            start(p);
        }
    }
}

static void
compare(const theus_slots *table)
{
    uint32_t taken = 0;
    for (uint32_t i = 0; i < CAPACITY; i++) {
        const tenant *it = &model[i];
        uint64_t leases = it->leased[0] | it->leased[1] << 1 | it->leased[2] << 2;
        REQUIRE(atomic_load(&table->slots[i].word) == theus_slot_word(it->generation, it->state, it->claimer));
        REQUIRE(atomic_load(&table->slots[i].leases) == leases);
        taken += it->state != THEUS_SLOT_FREE;
    }
    REQUIRE(theus_slots_taken(table) == taken);
}

int
main(int argc, char **argv)
{
    long operations = argc > 1 ? strtol(argv[1], NULL, 10) : OPERATIONS;
    chance = argc > 2 ? strtoull(argv[2], NULL, 10) : chance;
    theus_slots table;
    size_t size = theus_shm_control_size(CAPACITY, false);
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    theus_slots_open(&table, memory, CAPACITY);
    theus_slots_init(&table);
    for (unsigned p = 0; p < PROCESSES; p++) {
        start(p);
    }
    for (long i = 0; i < operations; i++) {
        do_something();
        compare(&table);
    }
    for (unsigned p = 0; p < PROCESSES; p++) {
        end(p);
    }
    munmap(memory, size);
    return check_result();
}
