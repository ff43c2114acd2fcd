/* Loans: who may write to which range of a block; once, and until he has finished. Other processes: test_shm_takers.c. */
#define _GNU_SOURCE

#include "loan_scene.h"

#include <pthread.h>

static void
test_ranges_do_not_overlap(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 1000), other = alloc_lending(zone, 1000);
    theus_block sealed = alloc_of(zone, "x", 1000);
    CHECK(theus_block_lends(&block) && !theus_block_lends(&sealed) && block.arena != sealed.arena);
    CHECK(other.arena == block.arena && block.offset % THEUS_SHM_PAGE == 0 && other.offset % THEUS_SHM_PAGE == 0);
    theus_loan_name loan = offer(&block, 100, 200), unused;
    theus_loan_facts clash;
    CHECK(theus_loan_offer(&block, 299, 1, &unused, &clash) == THEUS_LENDS_OVERLAP);
    CHECK(clash.from == 100 && clash.size == 200 && clash.state == THEUS_LOAN_OFFERED && clash.pid == 0);
    CHECK(answer_to(&block, 0, 101) == THEUS_LENDS_OVERLAP && answer_to(&block, 0, 1000) == THEUS_LENDS_OVERLAP);
    CHECK(answer_to(&block, 0, 100) == THEUS_LENDS && answer_to(&block, 300, 700) == THEUS_LENDS);
    CHECK(answer_to(&other, 100, 200) == THEUS_LENDS && answer_to(&sealed, 0, 1) == THEUS_LENDS_NOT);
    CHECK(theus_loans_list(&block, &clash, 1) == 1 && theus_loans_list(&other, NULL, 0) == 0);
    CHECK(theus_loan_recall(&block, loan) && !theus_loan_recall(&block, loan));
    CHECK(state_of(&block, loan) == THEUS_LOAN_RECALLED && answer_to(&block, 100, 200) == THEUS_LENDS);
    theus_loan *late;
    CHECK(take(&block, loan, &late) == THEUS_OVER);
    theus_loan_forget(&block, loan);
    (void)offer(&block, 0, 1);
    (void)offer(&block, 9, 1);
    (void)offer(&other, 0, 1);
    CHECK(theus_loans_recall(&block) == 2 && theus_loans_list(&block, NULL, 0) == 0 && theus_loans_recall(&block) == 0);
    CHECK(theus_loans_list(&other, NULL, 0) == 1);
    theus_block_release(&block);
    block = alloc_lending(zone, 1000); /* in the same slot: nothing is lent of it */
    CHECK(theus_loans_list(&block, NULL, 0) == 0 && state_of(&block, (theus_loan_name){600, 1}) == THEUS_LOAN_NONE);
    theus_block_release(&block);
    theus_block_release(&other);
    theus_block_release(&sealed);
    theus_zone_free(zone);
}

static void
test_as_many_as_there_are(void)
{
    enum { ALL = 512 };
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 2 * ALL);
    theus_loan_name names[ALL];
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < ALL; i++) {
            names[i] = offer(&block, i, 1);
        }
        CHECK(answer_to(&block, ALL, 1) == THEUS_LENDS_FULL);
        theus_loan *loan;
        REQUIRE(take(&block, names[5], &loan) == THEUS_OK);
        theus_loan_end(loan, true);
        theus_loan_free(loan);
        CHECK(answer_to(&block, ALL, 1) == THEUS_LENDS_FULL && state_of(&block, names[5]) == THEUS_LOAN_RETURNED);
        theus_loan_forget(&block, names[5]); /* now nobody asks what has become of it */
        CHECK(answer_to(&block, ALL, 1) == THEUS_LENDS && state_of(&block, names[5]) == THEUS_LOAN_NONE);
        for (unsigned i = 0; i < ALL; i++) {
            CHECK(theus_loan_recall(&block, names[i]) == (i != 5));
            theus_loan_forget(&block, names[i]);
        }
    }
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
test_one_takes_it(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 20 * KIB);
    theus_loan_name name = offer(&block, 5000, 10000);
    theus_loan *loan, *second;
    REQUIRE(take(&block, name, &loan) == THEUS_OK);
    CHECK(loan->from == 5000 && loan->size == 10000 && loan->mapped < 10000 + THEUS_SHM_PAGE);
    CHECK(take(&block, name, &second) == THEUS_OVER && !theus_loan_recall(&block, name));
    CHECK(take(&block, (theus_loan_name){name.number, name.generation + 1}, &second) == THEUS_BAD_TOKEN);
    CHECK(take(&block, (theus_loan_name){name.number, 0}, &second) == THEUS_BAD_TOKEN);
    CHECK(take(&block, (theus_loan_name){512, 1}, &second) == THEUS_BAD_TOKEN);
    theus_loan_facts facts = theus_loan_look(&block, name);
    CHECK(facts.state == THEUS_LOAN_TAKEN && facts.pid == theus_process_id());
    memset(loan->data, 9, loan->size);
    const char *data = theus_block_data(&block);
    CHECK(data[4999] == 0 && data[5000] == 9 && data[14999] == 9 && data[15000] == 0);
    theus_loan_end(loan, true);
    theus_loan_end(loan, false); /* only the first time counts */
    CHECK(state_of(&block, name) == THEUS_LOAN_RETURNED && loan->data[0] == 9);
    CHECK(answer_to(&block, 0, block.size) == THEUS_LENDS);
    theus_loan_free(loan);
    theus_loan_forget(&block, name);
    theus_block_release(&block);
    CHECK_SOUND(theus_zone_check(zone));
    theus_zone_free(zone);
}

static void
test_what_is_published_is_not_lent(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 1000);
    theus_loan_name name = offer(&block, 0, 1000);
    char *data;
    theus_loan *loan;
    CHECK(theus_block_publish(&block, &data, NULL) == THEUS_LENT && !theus_block_is_published(&block));
    REQUIRE(take(&block, name, &loan) == THEUS_OK);
    CHECK(theus_block_publish(&block, &data, NULL) == THEUS_LENT);
    theus_loan_end(loan, true);
    CHECK(theus_block_publish(&block, &data, NULL) == THEUS_OK && theus_block_is_published(&block));
    CHECK(answer_to(&block, 0, 1) == THEUS_LENDS_NOT);
    theus_loan_free(loan);
    theus_block_release(&block);
    block = alloc_lending(zone, 1000);
    CHECK(theus_block_retire(&block) == THEUS_OK && answer_to(&block, 0, 1) == THEUS_LENDS_NOT);
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
test_out_of_memory(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block;
    theus_refusal refusal;
    for (long n = 1;; n++) {
        theus_alloc_fail_at(n);
        theus_status status = theus_zone_alloc(zone, "x", 1, 64, THEUS_LENDING, &block, &refusal);
        theus_alloc_fail_at(-1);
        CHECK_SOUND(theus_zone_check(zone));
        if (status == THEUS_OK) {
            CHECK(n > 4);
            break;
        }
        CHECK(status == THEUS_NOMEM);
    }
    theus_loan_name name = offer(&block, 0, 64);
    theus_loan *loan;
    theus_alloc_fail_at(1);
    CHECK(take(&block, name, &loan) == THEUS_NOMEM);
    theus_alloc_fail_at(-1);
    REQUIRE(take(&block, name, &loan) == THEUS_OK); /* it is still there to be taken */
    theus_loan_free(loan);
    CHECK(state_of(&block, name) == THEUS_LOAN_BROKEN);
    theus_block_release(&block);
    theus_zone_free(zone);
}

/* ---- races -------------------------------------------------------------------------------------------- */

enum { LOANS_RACED = 100, RACERS = 4 };

typedef struct {
    const theus_block *block;
    const theus_loan_name *names;
    pthread_barrier_t *barrier;
    unsigned taken;
} racer;

static void *
racer_main(void *arg)
{
    racer *it = arg;
    pthread_barrier_wait(it->barrier);
    for (unsigned i = 0; i < LOANS_RACED; i++) {
        theus_loan *loan;
        theus_status status = take(it->block, it->names[i], &loan);
        CHECK(status == THEUS_OK || status == THEUS_OVER);
        if (status == THEUS_OK) {
            loan->data[0]++;
            theus_loan_end(loan, true);
            theus_loan_free(loan);
            it->taken++;
        }
    }
    return NULL;
}

static void
test_threads_race(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, LOANS_RACED);
    theus_loan_name names[LOANS_RACED];
    for (unsigned i = 0; i < LOANS_RACED; i++) {
        names[i] = offer(&block, i, 1);
    }
    pthread_t threads[RACERS];
    racer racers[RACERS];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, RACERS);
    for (unsigned i = 0; i < RACERS; i++) {
        racers[i] = (racer){&block, names, &barrier, 0};
        REQUIRE(pthread_create(&threads[i], NULL, racer_main, &racers[i]) == 0);
    }
    unsigned taken = 0;
    for (unsigned i = 0; i < RACERS; i++) {
        REQUIRE(pthread_join(threads[i], NULL) == 0);
        taken += racers[i].taken;
    }
    pthread_barrier_destroy(&barrier);
    CHECK(taken == LOANS_RACED);
    for (unsigned i = 0; i < LOANS_RACED; i++) {
        CHECK(theus_block_data(&block)[i] == 1 && state_of(&block, names[i]) == THEUS_LOAN_RETURNED);
    }
    theus_block_release(&block);
    theus_zone_free(zone);
}

/* ---- a hostile participant ------------------------------------------------------------------------ */

static void
test_somebody_writes_to_the_table(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 1000);
    theus_loan_record *record;
    theus_loan *loan;
    const uint64_t taken = (uint64_t)THEUS_LOAN_TAKEN << 24;
    const uint64_t forged[] = {0, UINT64_MAX, taken | 200 << 16, taken | 63 << 16, taken, (uint64_t)77 << 24};
    for (unsigned i = 0; i < sizeof(forged) / sizeof(forged[0]); i++) {
        theus_loan_name name = offer(&block, 0, 1000);
        record = &block.arena->loans[name.number];
        atomic_store(&record->word, (uint64_t)name.generation << 32 | forged[i]);
        (void)theus_loan_look(&block, name);
        (void)theus_loans_list(&block, NULL, 0);
        theus_arena_reap_locked(block.arena);
        CHECK(theus_byte_try_lock(block.arena->control_fd, THEUS_SHM_OWNER)); /* ours as before */
        (void)theus_loan_recall(&block, name);
        theus_loan_forget(&block, name);
        if ((forged[i] & 0xffff0000u) == taken) { /* it says that we have it ourselves */
            atomic_store(&record->word, 0);
        }
        CHECK(answer_to(&block, 0, 1000) == THEUS_LENDS);
    }
    const theus_loan_record wrong[] = {
        {.from = 0, .size = 1001, .slot = block.slot, .tenant = block.generation},
        {.from = UINT64_MAX, .size = 2, .slot = block.slot, .tenant = block.generation},
        {.from = 0, .size = 0, .slot = block.slot, .tenant = block.generation},
        {.from = 0, .size = 1, .slot = block.slot + 1, .tenant = block.generation},
        {.from = 0, .size = 1, .slot = block.slot, .tenant = block.generation + 1},
    };
    theus_loan_name name = offer(&block, 0, 1000);
    record = &block.arena->loans[name.number];
    for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        record->from = wrong[i].from;
        record->size = wrong[i].size;
        record->slot = wrong[i].slot;
        record->tenant = wrong[i].tenant;
        CHECK(take(&block, name, &loan) == THEUS_BAD_TOKEN && state_of(&block, name) == THEUS_LOAN_OFFERED);
    }
    theus_block_release(&block);
    theus_zone_free(zone);
}

/* A record that is described anew while somebody reads it: he gets nothing, or what he has read. */
typedef struct {
    theus_loan_record record;
    _Atomic(bool) ends;
    uint32_t taken;
} exchange;

static void *
take_what_is_read(void *arg)
{
    exchange *it = arg;
    while (!atomic_load(&it->ends)) {
        theus_range range;
        uint32_t generation = theus_lending_generation_of(atomic_load(&it->record.word));
        if (theus_lending_read(&it->record, generation, &range) == THEUS_OK && theus_lending_take(&it->record, generation, 1)) {
            CHECK(range.from == generation && range.size == generation && range.slot == generation && range.tenant == generation);
            it->taken++;
            theus_lending_end(&it->record, generation, 1, true);
        }
        theus_yield();
    }
    return NULL;
}

static void
test_a_record_changes_under_its_reader(void)
{
    enum { TIMES = 2000 };
    exchange it = {0};
    pthread_t reader;
    uint32_t recalled = 0;
    REQUIRE(pthread_create(&reader, NULL, take_what_is_read, &it) == 0);
    for (uint32_t generation = 1; generation <= TIMES; generation++) {
        theus_lending_offer(&it.record, &(theus_range){generation, generation, generation, generation}, generation);
        if (generation % 4 == 0) {
            theus_yield();
        }
        recalled += theus_lending_recall(&it.record, generation);
        while (theus_lending_state_of(atomic_load(&it.record.word)) == THEUS_LOAN_TAKEN) {
            theus_yield();
        }
    }
    atomic_store(&it.ends, true);
    pthread_join(reader, NULL);
    CHECK(it.taken + recalled == TIMES);
}

static void
test_backend(void)
{
    test_ranges_do_not_overlap();
    test_as_many_as_there_are();
    test_one_takes_it();
    test_what_is_published_is_not_lent();
    test_out_of_memory();
    test_threads_race();
    test_somebody_writes_to_the_table();
}

int
main(void)
{
    long before = theus_alloc_live();
    test_a_record_changes_under_its_reader();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
