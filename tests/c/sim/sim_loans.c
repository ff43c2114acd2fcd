/* The table of loans in shared memory, schedule by schedule, with a taker or a reaper who dies at each of its steps.
 *
 * A thread here stands for a process, and thread 0 may die (mortal.h).
 * The kernel's part is played by the scene: a byte lock is free once its holder is dead, one at a time has it, and a mapping that
 * can write is a mark in `writers`.
 *
 * In all scenes: a loan has one taker; he alone writes to its range, and the range is of the block that he leases; what a dead one
 * had is offered again, as soon as somebody looks; in the end no loan is TAKEN, every slot is free, and no lease is left. */
#include "switch.h" /* here, too: the names that the core calls */

#include "mortal.h"

#include "../check.h"
#include "shm_lendings.h"
#include "shm_slots.h"

enum {
    CAPACITY = 64,
    OWNER = 63,  /* its number */
    RECORDS = 2,
    DEAD = 9,    /* somebody who died before the scene began */
    LAST = 8,    /* generations of a record that a scene may use */
};

static struct {
    _Alignas(64) char memory[32 * 1024];
    theus_slots table;
    theus_loan_record records[RECORDS];
    unsigned writers[CAPACITY];    /* per slot: who has a mapping of its block that can write, a bit each */
    int taken[RECORDS][LAST];      /* how often, per generation */
    bool finished[RECORDS][LAST];  /* the taker was about to say so */
    int holder, door;              /* thread + 1 who holds the byte lock of DEAD, and its door; 0: nobody */
} stage;

/* Another thread may go on at each step, too: between what is written to a record and its word. */
static void
at_step(const char *step)
{
    sim_point(step);
    die_at_step(step);
}

/* ---- takers ------------------------------------------------------------------------------------------- */

static void
let_go(uint32_t who, uint32_t slot, uint32_t tenant)
{
    if (theus_slot_unlease(&stage.table, slot, who)) {
        (void)theus_slot_recycle(&stage.table, slot, tenant);
    }
}

/* As theus_loan_take() and what comes after it, for the loan of that name, of a block of which he knows the name, too. */
static void
take_as(uint32_t who, uint32_t slot, uint32_t tenant, uint32_t number, uint32_t generation)
{
    theus_loan_record *record = &stage.records[number];
    theus_range range;
    if (theus_slot_lease(&stage.table, slot, tenant, who) != THEUS_LEASED) {
        return;
    }
    if (theus_lending_read(record, generation, &range) != THEUS_OK || range.slot != slot || range.tenant != tenant
        || !theus_lending_take(record, generation, who)) {
        let_go(who, slot, tenant);
        return;
    }
    CHECK(stage.taken[number][generation]++ == 0);
    CHECK(range.from == generation && record->from == generation); /* what he read is what he got */
    CHECK(theus_slot_generation_of(stage.table.slots[slot].word) == tenant);
    CHECK(stage.writers[slot] == 0);
    stage.writers[slot] = 1u << me();
    sim_point("writing");
    CHECK(theus_slot_generation_of(stage.table.slots[slot].word) == tenant);
    CHECK(stage.writers[slot] == 1u << me());
    CHECK(record->word == theus_lending_word(generation, THEUS_LOAN_TAKEN, who)); /* and nobody breaks what a living one has */
    stage.writers[slot] = 0; /* the mapping can only read any more */
    at_step("loan read-only");
    stage.finished[number][generation] = true;
    theus_lending_end(record, generation, who, true);
    let_go(who, slot, tenant);
}

static void
take(uint32_t slot, uint32_t tenant, uint32_t number, uint32_t generation)
{
    take_as((uint32_t)me(), slot, tenant, number, generation);
}

/* ---- the dead ------------------------------------------------------------------------------------------- */

static void
live(void (*part)(void))
{
    if (lives_through(part)) {
        return;
    }
    for (uint32_t i = 0; i < CAPACITY; i++) {
        stage.writers[i] &= ~1u; /* his mapping has gone with him */
    }
    stage.door = stage.door == 1 ? 0 : stage.door;
    stage.holder = stage.holder == 1 ? 0 : stage.holder;
}

/* Is the byte lock of that number held? */
static bool
is_held(uint32_t number)
{
    return number == DEAD ? stage.holder != 0 : number != 0 || !death.dead;
}

/* As theus_arena_bury_locked(). */
static void
bury(uint32_t number)
{
    if (is_held(number) || stage.door != 0) {
        return;
    }
    stage.door = me() + 1;
    sim_point("buries");
    if (!is_held(number)) {
        theus_slots_reap(&stage.table, number);
        theus_lendings_reap(stage.records, RECORDS, number);
    }
    stage.door = 0;
}

/* As join() in shm_arena.c, for the number of the dead one. */
static bool
join_as_dead(void)
{
    bool got = false;
    if (is_held(DEAD) || stage.door != 0) {
        return false;
    }
    stage.door = me() + 1;
    sim_point("the door is ours");
    if (!is_held(DEAD)) {
        theus_slots_reap(&stage.table, DEAD);
        theus_lendings_reap(stage.records, RECORDS, DEAD);
        sim_point("reaped");
        if (!is_held(DEAD)) {
            stage.holder = me() + 1;
            got = true;
        }
    }
    sim_point("behind the door");
    stage.door = 0;
    return got;
}

/* ---- the owner -------------------------------------------------------------------------------------------- */

static void
offer(uint32_t number, uint32_t slot, uint32_t tenant, uint32_t generation)
{
    const theus_range range = {.from = generation, .size = 8, .slot = slot, .tenant = tenant};
    theus_lending_offer(&stage.records[number], &range, generation);
}

/* Is the loan over? Finds out that its taker is dead. */
static bool
is_over(uint32_t number, uint32_t generation)
{
    uint64_t word = atomic_load(&stage.records[number].word);
    CHECK(theus_lending_generation_of(word) == generation);
    if (theus_lending_state_of(word) == THEUS_LOAN_TAKEN) {
        uint32_t taker = theus_lending_taker_of(word);
        if (!is_held(taker)) {
            theus_lending_break(&stage.records[number], word);
            bury(taker);
        }
        word = atomic_load(&stage.records[number].word);
        CHECK(theus_lending_state_of(word) != THEUS_LOAN_TAKEN || taker != DEAD || generation > 1); /* it does not look alive */
    }
    if (theus_lending_state_of(word) == THEUS_LOAN_RETURNED) {
        CHECK(stage.finished[number][generation]);
    }
    return theus_lending_state_of(word) != THEUS_LOAN_OFFERED && theus_lending_state_of(word) != THEUS_LOAN_TAKEN;
}

/* Offers the range again once it is over, or takes it back and offers it then. */
static void
offer_again(void)
{
    for (uint32_t generation = 1; generation < 3; generation++) {
        if (!is_over(0, generation) && !theus_lending_recall(&stage.records[0], generation)) {
            return; /* somebody writes there, who is not dead, or has just finished */
        }
        CHECK(stage.writers[0] == 0);
        offer(0, 0, 1, generation + 1);
    }
}

/* Gives the block back, whoever looks at it; and lends the next tenant's range, by the same record. */
static void
next_tenant(void)
{
    uint32_t slot, generation;
    (void)theus_lending_recall(&stage.records[0], 1);
    CHECK(theus_slot_retire(&stage.table, 0, 1));
    (void)theus_slot_recycle(&stage.table, 0, 1);
    if (!theus_slot_claim(&stage.table, OWNER, &slot, &generation)) {
        return; /* it is leased */
    }
    CHECK(slot == 0 && generation == 2 && stage.writers[0] == 0);
    theus_slot_publish(&stage.table, slot);
    if (is_over(0, 1)) {
        offer(0, 0, 2, 2);
    }
}

/* ---- scenes ------------------------------------------------------------------------------------------------ */

/* One block, in the one slot that is not taken; its range is offered. */
static void
open_offer(const void *about)
{
    uint32_t slot, generation;
    memset(&stage, 0, sizeof(stage));
    theus_slots_open(&stage.table, stage.memory, CAPACITY);
    theus_slots_init(&stage.table);
    for (uint32_t i = 0; i < CAPACITY; i++) {
        REQUIRE(theus_slot_claim(&stage.table, OWNER, &slot, &generation) && slot == i);
    }
    theus_slot_publish(&stage.table, 0);
    offer(0, 0, 1, 1);
    begin_mortal(about);
}

/* Taken by somebody who is dead. */
static void
open_dead(const void *about)
{
    open_offer(NULL);
    REQUIRE(theus_slot_lease(&stage.table, 0, 1, DEAD) == THEUS_LEASED && theus_lending_take(&stage.records[0], 1, DEAD));
    offer(1, 0, 1, 1);
    REQUIRE(theus_lending_take(&stage.records[1], 1, DEAD));
    begin_mortal(about);
}

static void
take_first(void)
{
    take(0, 1, 0, 1);
}

static void
two_body(int thread)
{
    if (thread == 0) {
        live(take_first);
    }
    else if (thread == 1) {
        take_first();
    }
    else {
        offer_again();
    }
}

/* Whoever knows a name tries it, and finds the loan or a later one. */
static void
again_body(int thread)
{
    if (thread == 0) {
        live(take_first);
    }
    else if (thread == 1) {
        take(0, 1, 0, 2);
        take(0, 1, 0, 3);
    }
    else {
        offer_again();
    }
}

static void
tenant_body(int thread)
{
    if (thread == 0) {
        live(take_first);
    }
    else if (thread == 1) {
        take(0, 2, 0, 2);
        take(0, 1, 0, 2); /* a block that is gone, with a loan of the next one */
    }
    else {
        next_tenant();
    }
}

static void
become_dead(void)
{
    if (join_as_dead()) {
        take_as(DEAD, 0, 1, 0, 2);
    }
}

static void
joiners_body(int thread)
{
    if (thread == 0) {
        live(become_dead);
    }
    else if (thread == 1) {
        if (is_over(0, 1)) {
            offer(0, 0, 1, 2);
            (void)is_over(0, 2);
        }
        (void)is_over(1, 1);
    }
    else {
        become_dead();
    }
}

static void
close_table(void)
{
    stage.holder = 0;
    bury(0);
    bury(DEAD);
    for (uint32_t i = 0; i < RECORDS; i++) {
        uint64_t word = atomic_load(&stage.records[i].word);
        (void)theus_lending_recall(&stage.records[i], theus_lending_generation_of(word));
        word = atomic_load(&stage.records[i].word);
        theus_loan_state state = theus_lending_state_of(word);
        CHECK(state != THEUS_LOAN_OFFERED && state != THEUS_LOAN_TAKEN);
    }
    CHECK(theus_lendings_takers(stage.records, RECORDS) == 0);
    CHECK(stage.writers[0] == 0 && atomic_load(&stage.table.slots[0].leases) == 0);
    uint32_t tenant = theus_slot_generation_of(atomic_load(&stage.table.slots[0].word));
    (void)theus_slot_retire(&stage.table, 0, tenant);
    (void)theus_slot_recycle(&stage.table, 0, tenant);
    CHECK(theus_slots_taken(&stage.table) == CAPACITY - 1);
}

#define TAKER(step) {"a taker dies: " step, 3, 2, step, open_offer, again_body, close_table}
#define TENANT(step) {"a taker dies, the tenant goes: " step, 3, 1, step, open_offer, tenant_body, close_table}
#define JOINER(step) {"who gets a dead one's number dies: " step, 3, 1, step, open_dead, joiners_body, close_table}

static const sim_scene scenes[] = {
    {"two takers and a recall", 3, 3, NULL, open_offer, two_body, close_table},
    {"a taker of the next loan", 3, 2, NULL, open_offer, again_body, close_table},
    {"a taker and the next tenant", 3, 2, NULL, open_offer, tenant_body, close_table},
    {"two who want a dead one's number", 3, 1, NULL, open_dead, joiners_body, close_table},
    TAKER("lease set"),
    TAKER("loan read"),
    TAKER("loan taken"),
    TAKER("loan read-only"),
    TAKER("loan ended"),
    TAKER("lease ended"),
    TENANT("lease set"),
    TENANT("loan read"),
    TENANT("loan taken"),
    TENANT("loan read-only"),
    TENANT("loan ended"),
    TENANT("lease ended"),
    JOINER("loan broken"),
    JOINER("lease ended"),
    JOINER("loan taken"),
    JOINER("loan ended"),
};

int
main(int argc, char **argv)
{
    theus_shm_at_step = at_step;
    sim_explore(scenes, sizeof(scenes) / sizeof(scenes[0]), argc, argv);
    return check_result();
}
