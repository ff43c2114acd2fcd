/* Loans that somebody has written into, and names of loans that nobody gave out: for each the right answer is known, and whoever gets a
 * loan can write to its range and to nothing else.
 *
 *     test_shm_fuzz_loans [TIMES [SEED]]     as test_shm_fuzz */
#define _GNU_SOURCE

#include "fuzz_scene.h"
#include "shm_loans.h"

static void
offer_by_hand(const arena_files *it, uint32_t number)
{
    const theus_range range = {.from = 3 * number, .size = 100 + number, .slot = number, .tenant = 1};
    theus_lending_offer(&it->loans[number], &range, 1);
}

static void
damage_loan(theus_loan_record *record)
{
    switch (check_random(&chance, 8)) {
    case 0:
        damage_number((char *)&record->from, 8);
        break;
    case 1:
        damage_number((char *)&record->size, 8);
        break;
    case 2:
        damage_number((char *)&record->slot, 4);
        break;
    case 3:
        damage_number((char *)&record->tenant, 4);
        break;
    case 4:
        atomic_store(&record->word, theus_lending_word(1 + check_random(&chance, 2), (theus_loan_state)check_random(&chance, 8),
                                                       check_random(&chance, 2)));
        break;
    case 5:
        break;
    default:
        damage_bytes((char *)record, sizeof(*record));
    }
}

/* What a taker of that name, who looks at block `slot`, is to be told. */
static theus_status
right_answer(const arena_files *it, theus_loan_name name, uint32_t slot)
{
    if (name.number >= THEUS_SHM_LOANS || name.generation == 0) {
        return THEUS_BAD_TOKEN;
    }
    const theus_loan_record *record = &it->loans[name.number];
    uint64_t word = atomic_load(&record->word);
    if (word != theus_lending_word(name.generation, THEUS_LOAN_OFFERED, 0)) {
        return word >> 32 < name.generation ? THEUS_BAD_TOKEN : THEUS_OVER;
    }
    bool fits = record->slot == slot && record->tenant == 1 && record->size > 0 && record->size <= BLOCK_BYTES
                && record->from <= BLOCK_BYTES - record->size;
    return fits ? THEUS_OK : THEUS_BAD_TOKEN;
}

/* Whoever got it may write to that range, and has written to no other. */
static void
write_there(arena_files *it, theus_loan *loan, uint32_t slot, const char *data_as_made)
{
    uint64_t at = slot * 1024 + loan->from;
    REQUIRE(loan->data[0] == (char)(slot + 1));
    memset(loan->data, 0x77, loan->size);
    REQUIRE(memcmp(it->data, data_as_made, at) == 0);
    REQUIRE(memcmp(it->data + at + loan->size, data_as_made + at + loan->size, DATA_BYTES - at - loan->size) == 0);
    REQUIRE(it->data[at] == 0x77 && it->data[at + loan->size - 1] == 0x77);
    memcpy(it->data + at, data_as_made + at, loan->size);
}

static void
test_loans(long times)
{
    arena_files it = files_new(true);
    char *data_as_made = malloc(DATA_BYTES);
    REQUIRE(data_as_made != NULL);
    memcpy(data_as_made, it.data, DATA_BYTES);
    theus_block known;
    REQUIRE(theus_block_lease(&it.name, 0, 1, &known, NULL) == THEUS_OK); /* so that the arena stays known */
    long taken = 0;
    for (long i = 0; i < times; i++) {
        uint32_t slot = 1 + check_random(&chance, BLOCKS - 1);
        theus_loan_name name = {slot, 1};
        theus_loan *loan;
        offer_by_hand(&it, slot);
        damage_loan(&it.loans[slot]);
        if (check_random(&chance, 8) == 0) {
            name.number = (uint32_t)odd_number();
        }
        if (check_random(&chance, 8) == 0) {
            name.generation = (uint32_t)odd_number();
        }
        theus_status right = right_answer(&it, name, slot);
        REQUIRE(theus_loan_take(&it.name, slot, 1, name, &loan, NULL) == right);
        if (right == THEUS_OK) {
            write_there(&it, loan, slot, data_as_made);
            theus_loan_end(loan, true);
            theus_loan_free(loan);
            REQUIRE(right_answer(&it, name, slot) == THEUS_OVER);
            taken++;
        }
        memset(&it.loans[slot], 0, sizeof(theus_loan_record));
    }
    CHECK(taken > times / 10 && taken < times - times / 10);
    theus_block_release(&known);
    free(data_as_made);
    files_free(&it);
}

/* Renames the arena to what its bit of the id is for the other kind, in its header and, if it has them, the names of its files. */
static void
turn_kind(arena_files *it)
{
    theus_arena_name from = it->name;
    it->name.id[15] ^= 1;
    ((theus_shm_header *)it->control)->id[15] ^= 1;
    for (int kind = THEUS_FILE_CONTROL; is_named() && kind <= THEUS_FILE_DATA; kind++) {
        char there[512], then[512];
        snprintf(there, sizeof(there), "%s/%s", theus_files_folder(), theus_file_name_of(&from, (theus_file_kind)kind).text);
        snprintf(then, sizeof(then), "%s/%s", theus_files_folder(), theus_file_name_of(&it->name, (theus_file_kind)kind).text);
        REQUIRE(rename(there, then) == 0);
    }
}

/* An arena lends if its name says so, however much room there is behind its slots and whatever lies there. */
static void
test_who_lends(void)
{
    theus_block block;
    theus_loan *loan;
    for (int lends = 0; lends < 2; lends++) {
        arena_files it = files_new(lends);
        REQUIRE(theus_shm_loans_at(CAPACITY) + 8 * sizeof(theus_loan_record) < it.control_size);
        offer_by_hand(&it, 5); /* in what is no table, if it does not lend */
        theus_status status = theus_loan_take(&it.name, 5, 1, (theus_loan_name){5, 1}, &loan, NULL);
        CHECK(status == (lends ? THEUS_OK : THEUS_BAD_TOKEN));
        if (status == THEUS_OK) {
            theus_loan_free(loan);
        }
        REQUIRE(theus_block_lease(&it.name, 5, 1, &block, NULL) == THEUS_OK && theus_block_lends(&block) == lends);
        theus_block_release(&block);
        theus_arenas_forget();
        turn_kind(&it);
        CHECK(theus_block_lease(&it.name, 5, 1, &block, NULL) == THEUS_BAD_TOKEN);
        theus_arenas_forget();
        turn_kind(&it);
        CHECK(theus_block_lease(&it.name, 5, 1, &block, NULL) == THEUS_OK);
        theus_block_release(&block);
        files_free(&it);
    }
}

static long times = 1;

static void
test_backend(void)
{
    test_loans(times * 20000 / SLOWER);
    test_who_lends();
}

int
main(int argc, char **argv)
{
    times = argc > 1 ? strtol(argv[1], NULL, 10) : times;
    chance = argc > 2 ? strtoull(argv[2], NULL, 10) : chance;
    long live = theus_alloc_live();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == live);
    return check_result();
}
