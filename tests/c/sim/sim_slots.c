/* The slot table of shared memory, schedule by schedule, with somebody who dies at each of its steps.
 *
 * A thread here stands for a process, and thread 0 may die (mortal.h); from then on, at any moment, another thread may clear up
 * behind it, and a third one goes on as if nothing had happened.
 *
 * In all scenes: a slot is given to one at a time, no tenant is replaced under a lease, and when all have ended, or have died and were
 * cleared up after, every slot can be had again, once. */
#include "switch.h" /* here, too: the names that the core calls */

#include "mortal.h"

#include "../check.h"
#include "shm_slots.h"

enum {
    CAPACITY = 64,
    OPEN = 2,    /* slots that are free in the beginning: who is to get lost needs few */
    DEAD = 9,    /* somebody who died before the scene began */
    LOOKER = 32, /* + thread: the number that it leases under */
};

static struct {
    _Alignas(64) char memory[32 * 1024];
    theus_slots table;
    int owner[CAPACITY];   /* thread + 1 who believes to have the slot */
    int looking[CAPACITY]; /* leases that hold */
    bool buried;           /* the dead one was cleared up after */
} stage;

/* ---- what processes do -------------------------------------------------------------------------------- */

typedef struct {
    uint32_t slot, generation;
} tenancy;

static bool
take(tenancy *mine)
{
    if (!theus_slot_claim(&stage.table, (uint32_t)me(), &mine->slot, &mine->generation)) {
        return false;
    }
    CHECK(stage.owner[mine->slot] == 0 && stage.looking[mine->slot] == 0);
    stage.owner[mine->slot] = me() + 1;
    stage.table.slots[mine->slot].size = mine->generation;
    return true;
}

/* Whoever retires is told by nobody when the last lease ends: who ends it recycles. */
static void
leave(tenancy mine)
{
    CHECK(stage.owner[mine.slot] == me() + 1);
    stage.owner[mine.slot] = 0; /* before: once it is retired, others may recycle it */
    CHECK(theus_slot_retire(&stage.table, mine.slot, mine.generation));
    (void)theus_slot_recycle(&stage.table, mine.slot, mine.generation);
}

static void
look(tenancy at)
{
    uint32_t who = (uint32_t)(LOOKER + me());
    if (theus_slot_lease(&stage.table, at.slot, at.generation, who) != THEUS_LEASED) {
        return;
    }
    stage.looking[at.slot]++;
    CHECK(stage.table.slots[at.slot].size == at.generation);
    sim_point("looking");
    CHECK(stage.table.slots[at.slot].size == at.generation);
    stage.looking[at.slot]--;
    if (theus_slot_unlease(&stage.table, at.slot, who)) {
        (void)theus_slot_recycle(&stage.table, at.slot, at.generation);
    }
}

static void
reap(uint32_t who)
{
    theus_slots_reap(&stage.table, who);
    theus_slots_reap(&stage.table, LOOKER + who);
}

/* ---- scenes ---------------------------------------------------------------------------------------------- */

static const tenancy first = {0, 1}; /* that is there when a scene begins */

static void
open_table(const void *about)
{
    tenancy taken;
    memset(&stage, 0, sizeof(stage));
    theus_slots_open(&stage.table, stage.memory, CAPACITY);
    theus_slots_init(&stage.table);
    for (uint32_t i = 0; i < CAPACITY; i++) {
        REQUIRE(theus_slot_claim(&stage.table, 63, &taken.slot, &taken.generation) && taken.slot == i);
    }
    for (uint32_t i = 0; i < OPEN; i++) {
        REQUIRE(theus_slot_recycle(&stage.table, i, 1));
        atomic_store(&stage.table.slots[i].word, 0); /* as if it were new */
    }
    begin_mortal(about);
}

/* With slot 0 taken by thread 1, and published. */
static void
open_tenant(const void *about)
{
    tenancy made;
    open_table(about);
    REQUIRE(theus_slot_claim(&stage.table, 1, &made.slot, &made.generation) && made.slot == 0 && made.generation == 1);
    stage.owner[0] = 2;
    stage.table.slots[0].size = 1;
    theus_slot_publish(&stage.table, 0);
}

static void
open_no_hints(const void *about)
{
    open_table(about);
    stage.table.hints[0] = 0;
}

/* With one slot claimed and one published and leased, by somebody who is dead. */
static void
open_disorder(const void *about)
{
    tenancy made;
    open_table(about);
    for (int i = 0; i < OPEN; i++) {
        REQUIRE(theus_slot_claim(&stage.table, DEAD, &made.slot, &made.generation));
    }
    theus_slot_publish(&stage.table, made.slot);
    REQUIRE(theus_slot_lease(&stage.table, made.slot, made.generation, LOOKER + DEAD) == THEUS_LEASED);
}

static void
live(void (*part)(void))
{
    if (lives_through(part)) {
        return;
    }
    for (int i = 0; i < CAPACITY; i++) {
        stage.owner[i] = stage.owner[i] == 1 ? 0 : stage.owner[i];
    }
}

static void
bury(void)
{
    if (death.dead && !stage.buried) {
        stage.buried = true;
        reap(0);
    }
}

static void
claim_and_leave(void)
{
    tenancy mine;
    for (int i = 0; i < 2; i++) {
        if (take(&mine)) {
            theus_slot_publish(&stage.table, mine.slot);
            look(mine);
            leave(mine);
        }
    }
}

static void
claimers_body(int thread)
{
    if (thread == 0) {
        live(claim_and_leave);
    }
    else if (thread == 1) {
        claim_and_leave();
    }
    else {
        bury();
    }
}

static void
look_at_first(void)
{
    look(first);
}

/* The tenant that is looked at goes, and the next one comes. */
static void
lookers_body(int thread)
{
    if (thread == 0) {
        live(look_at_first);
    }
    else if (thread == 1) {
        tenancy next;
        leave(first);
        if (take(&next)) {
            theus_slot_publish(&stage.table, next.slot);
            leave(next);
        }
    }
    else {
        look(first);
        bury();
    }
}

static void
reap_dead(void)
{
    reap(DEAD);
}

static void
reapers_body(int thread)
{
    tenancy mine;
    if (thread == 0) {
        live(reap_dead);
    }
    else if (thread == 1 && death.dead) { /* one reaper at a time */
        stage.buried = true;
        reap(DEAD);
    }
    else if (thread == 2 && take(&mine)) {
        theus_slot_publish(&stage.table, mine.slot);
        leave(mine);
    }
}

static void
close_table(void)
{
    bury();
    reap(DEAD);
    tenancy mine;
    bool given[CAPACITY] = {false};
    for (uint32_t i = 0; i < OPEN; i++) {
        CHECK(atomic_load(&stage.table.slots[i].leases) == 0);
        uint64_t word = atomic_load(&stage.table.slots[i].word);
        (void)theus_slot_recycle(&stage.table, i, theus_slot_generation_of(word)); /* who was to do it has died */
    }
    CHECK(theus_slots_taken(&stage.table) == CAPACITY - OPEN);
    for (uint32_t i = 0; i < OPEN; i++) {
        CHECK(theus_slot_claim(&stage.table, 5, &mine.slot, &mine.generation) && mine.slot < OPEN && !given[mine.slot]);
        given[mine.slot] = true;
    }
    CHECK(!theus_slot_claim(&stage.table, 5, &mine.slot, &mine.generation));
}

#define CLAIMER(step) {"a claimer dies: " step, 3, 2, step, open_table, claimers_body, close_table}
#define LOOKS(step) {"who looks dies: " step, 3, 2, step, open_tenant, lookers_body, close_table}
#define REAPER(step) {"a reaper dies: " step, 3, 1, step, open_disorder, reapers_body, close_table}

static const sim_scene scenes[] = {
    {"two who claim", 2, 3, NULL, open_table, claimers_body, close_table},
    {"two who claim without hints", 2, 2, NULL, open_no_hints, claimers_body, close_table},
    {"who looks, and the next tenant", 3, 3, NULL, open_tenant, lookers_body, close_table},
    CLAIMER("hint taken"),
    CLAIMER("claimed"),
    {"a claimer dies: claimed by scan", 3, 2, "claimed by scan", open_no_hints, claimers_body, close_table},
    CLAIMER("published"),
    CLAIMER("lease set"),
    CLAIMER("lease ended"),
    CLAIMER("retired"),
    CLAIMER("recycled"),
    LOOKS("lease set"),
    LOOKS("lease ended"),
    LOOKS("recycled"),
    REAPER("lease ended"),
    REAPER("retired"),
    REAPER("reaping"),
    REAPER("recycled"),
};

int
main(int argc, char **argv)
{
    theus_shm_at_step = die_at_step;
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    return check_result();
}
