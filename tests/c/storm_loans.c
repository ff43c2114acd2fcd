/* Those who lend and those who take, in the storm: see storm.h. */
#define _GNU_SOURCE

#include "storm.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum {
    ROW_BYTES = 1016, /* a multiple of 8; four rows share a page, and some lie on two */
    AFRESH = 32,      /* one round in so many begins with a block of its own */
};

/* ---- offers ------------------------------------------------------------------------------------------ */

static void
put_up(storm_offer *at, const theus_block *block, const storm_offer *offer)
{
    uint64_t count = atomic_load(&at->count) | 1;
    atomic_store(&at->count, count);
    theus_arena_name_of(block->arena, &at->arena);
    at->slot = block->slot;
    at->tenant = block->generation;
    at->loan = offer->loan;
    at->from = offer->from;
    at->serial = offer->serial;
    atomic_store(&at->count, count + 1);
}

void
storm_take_back(storm_offer *at)
{
    uint64_t count = atomic_load(&at->count) | 1;
    atomic_store(&at->count, count);
    at->serial = 0;
    atomic_store(&at->count, count + 1);
}

/* False: nothing is offered there, or just being written. */
static bool
read_offer(const storm_offer *at, storm_offer *out)
{
    uint64_t count = atomic_load(&at->count);
    memcpy((char *)out + sizeof(count), (const char *)at + sizeof(count), sizeof(*at) - sizeof(count));
    return count % 2 == 0 && out->serial > 0 && atomic_load(&at->count) == count;
}

/* ---- takers --------------------------------------------------------------------------------------------- */

static void
write_row(const theus_loan *loan, uint64_t seed)
{
    storm_fill_words(loan->data, loan->size, seed);
    REQUIRE(storm_words_are(loan->data, loan->size, seed)); /* nobody else writes here */
}

/* What he wrote is there for as long as he lives. Then his row is the lender's again, a moment before his child hears of his death. */
static bool
is_as_written(const theus_loan *loan, uint64_t seed, pid_t taker)
{
    bool written = storm_words_are(loan->data, loan->size, seed);
    for (int i = 0; i < 2000 && !written && getppid() == taker; i++) {
        storm_nap();
    }
    return written || getppid() != taker;
}

/* The child of a taker sees what he wrote, and the loan is not its own. One of them may be killed. */
static void
have_heir(theus_loan *loan, uint64_t seed, bool dies, bool loses_parent)
{
    pid_t taker = getpid(), child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        REQUIRE(is_as_written(loan, seed, taker));
        theus_loan_end(loan, true);
        if (dies) {
            raise(SIGKILL);
        }
        theus_loan_free(loan);
        _exit(check_result());
    }
    if (loses_parent) {
        raise(SIGKILL);
    }
    REQUIRE(storm_words_are(loan->data, loan->size, seed));
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    write_row(loan, seed); /* still his */
}

static theus_status
take(const storm_offer *offer, theus_loan **loan)
{
    return theus_loan_take(&offer->arena, offer->slot, offer->tenant, offer->loan, loan, NULL);
}

void
storm_take(unsigned long long *chance, long rounds)
{
    for (long round = 0; rounds < 0 ? !atomic_load(&storm->ends) : round < rounds; round++) {
        storm_offer offer;
        theus_loan *loan;
        if (!read_offer(&storm->offers[check_random(chance, OFFERS)], &offer)) {
            storm_nap();
            continue;
        }
        theus_status status = take(&offer, &loan);
        REQUIRE(status == THEUS_OK || status == THEUS_OVER || status == THEUS_STALE || status == THEUS_CROWDED);
        if (status != THEUS_OK) {
            storm_nap();
            continue;
        }
        REQUIRE(atomic_exchange(&storm->given[offer.serial % GIVEN], offer.serial) != offer.serial); /* to us alone */
        REQUIRE(loan->from == offer.from && loan->size == ROW_BYTES);
        write_row(loan, offer.serial);
        if (check_random(chance, 16) == 0) {
            have_heir(loan, offer.serial, check_random(chance, 2) == 0, rounds > 0 && check_random(chance, 3) == 0);
        }
        if (check_random(chance, 8) > 0) {
            theus_loan_end(loan, true);
        }
        theus_loan_free(loan); /* unfinished: he gives up */
        atomic_fetch_add(&storm->taken, 1);
    }
    theus_arenas_forget();
}

/* ---- lenders ------------------------------------------------------------------------------------------------ */

typedef struct {
    theus_zone *zone;
    theus_block block;
    storm_offer *posts;
    struct {
        storm_offer offer; /* serial 0: nobody may write there but the lender */
        uint64_t seed;     /* of its content, while nobody may; 0: zeroes */
    } rows[ROWS];
} lender;

static char *
row_data(const lender *it, unsigned i)
{
    return theus_block_data(&it->block) + (uint64_t)i * ROW_BYTES;
}

static void
begin_block(lender *it)
{
    theus_refusal refusal;
    REQUIRE(theus_zone_alloc(it->zone, "lent", 4, (uint64_t)ROWS * ROW_BYTES, THEUS_ZEROED | THEUS_LENDING, &it->block, &refusal)
            == THEUS_OK);
    memset(it->rows, 0, sizeof(it->rows));
    REQUIRE(storm_is_zero(&it->block));
}

/* With loans of it out or not: who has taken one may finish it. */
static void
end_block(lender *it)
{
    for (unsigned i = 0; i < ROWS; i++) {
        storm_take_back(&it->posts[i]);
        if (it->rows[i].offer.serial > 0) {
            (void)theus_loan_recall(&it->block, it->rows[i].offer.loan);
            theus_loan_forget(&it->block, it->rows[i].offer.loan);
        }
    }
    REQUIRE(theus_block_retire(&it->block) == THEUS_OK);
    theus_block_release(&it->block);
}

static void
write_own(lender *it, unsigned i, unsigned long long *chance)
{
    it->rows[i].seed = storm_new_seed(chance) | 1;
    storm_fill_words(row_data(it, i), ROW_BYTES, it->rows[i].seed);
}

static void
lend_row(lender *it, unsigned i)
{
    storm_offer *offer = &it->rows[i].offer;
    theus_loan_facts other;
    uint64_t from = (uint64_t)i * ROW_BYTES;
    REQUIRE(theus_loan_offer(&it->block, from, ROW_BYTES, &offer->loan, &other) == THEUS_LENDS);
    offer->from = from;
    offer->serial = atomic_fetch_add(&storm->serial, 1) + 1;
}

/* What has become of it? A row that came back has what was there before, or what its taker wrote, whole; from one who died or gave
 * up it has anything. */
static void
look_at_row(lender *it, unsigned i, unsigned long long *chance)
{
    storm_offer *offer = &it->rows[i].offer;
    theus_loan_facts facts = theus_loan_look(&it->block, offer->loan);
    REQUIRE(facts.from == offer->from && facts.size == ROW_BYTES);
    if (facts.state == THEUS_LOAN_TAKEN
        || (facts.state == THEUS_LOAN_OFFERED && (check_random(chance, 4) > 0 || !theus_loan_recall(&it->block, offer->loan)))) {
        return;
    }
    REQUIRE(facts.state == THEUS_LOAN_OFFERED || facts.state == THEUS_LOAN_RETURNED || facts.state == THEUS_LOAN_BROKEN);
    storm_take_back(&it->posts[i]);
    theus_loan_forget(&it->block, offer->loan);
    if (facts.state == THEUS_LOAN_RETURNED) {
        it->rows[i].seed = offer->serial;
    }
    else if (facts.state == THEUS_LOAN_BROKEN) {
        write_own(it, i, chance);
    }
    offer->serial = 0;
}

/* Lends a row to a child that is killed with it: it is back at once. */
static void
lend_to_the_dying(lender *it, unsigned i, unsigned long long *chance)
{
    lend_row(it, i);
    storm_offer offer = it->rows[i].offer;
    theus_arena_name_of(it->block.arena, &offer.arena);
    offer.slot = it->block.slot;
    offer.tenant = it->block.generation;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        theus_loan *loan;
        REQUIRE(take(&offer, &loan) == THEUS_OK);
        write_row(loan, 1);
        raise(SIGKILL);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    REQUIRE(theus_loan_look(&it->block, offer.loan).state == THEUS_LOAN_BROKEN);
    look_at_row(it, i, chance);
    REQUIRE(it->rows[i].offer.serial == 0);
}

/* What nobody may write has not changed, whoever died beside it. */
static void
check_rows(const lender *it)
{
    for (unsigned i = 0; i < ROWS; i++) {
        if (it->rows[i].offer.serial == 0 && it->rows[i].seed > 0) {
            REQUIRE(storm_words_are(row_data(it, i), ROW_BYTES, it->rows[i].seed));
        }
    }
}

static void
look_at_rows(lender *it, unsigned long long *chance, bool lends)
{
    for (unsigned i = 0; i < ROWS; i++) {
        if (it->rows[i].offer.serial > 0) {
            look_at_row(it, i, chance);
        }
        else if (lends && check_random(chance, 8) == 0) {
            write_own(it, i, chance);
        }
        else if (lends) {
            lend_row(it, i);
            put_up(&it->posts[i], &it->block, &it->rows[i].offer);
        }
    }
}

/* Nobody takes any more, and whoever has taken ends or is dead. Then the block can be published, and is lent no more. */
static void
wind_up(lender *it, unsigned long long *chance)
{
    char *shown;
    theus_loan_name name;
    theus_loan_facts other;
    for (unsigned i = 0; i < ROWS; i++) {
        storm_take_back(&it->posts[i]);
    }
    (void)theus_loans_recall(&it->block);
    while (theus_loans_list(&it->block, NULL, 0) > 0) {
        storm_nap();
    }
    for (unsigned i = 0; i < ROWS; i++) {
        storm_offer *offer = &it->rows[i].offer;
        if (offer->serial > 0 && theus_loan_look(&it->block, offer->loan).state == THEUS_LOAN_RECALLED) {
            offer->serial = 0;
        }
    }
    look_at_rows(it, chance, false);
    check_rows(it);
    REQUIRE(theus_block_publish(&it->block, &shown, NULL) == THEUS_OK);
    REQUIRE(theus_loan_offer(&it->block, 0, 1, &name, &other) == THEUS_LENDS_NOT);
}

void
storm_lend(unsigned long long *chance, long rounds, storm_offer *posts)
{
    lender it = {.posts = posts};
    REQUIRE(theus_zone_new("lender", 0, &it.zone) == THEUS_OK);
    theus_zone_choose(it.zone, storm->backend);
    begin_block(&it);
    for (long round = 0; rounds < 0 ? !atomic_load(&storm->ends) : round < rounds; round++) {
        if (check_random(chance, AFRESH) == 0) {
            end_block(&it); /* lingers, if somebody has a loan of it */
            (void)theus_zone_tidy(it.zone);
            begin_block(&it);
        }
        look_at_rows(&it, chance, true);
        unsigned row = check_random(chance, ROWS);
        if (it.rows[row].offer.serial == 0 && check_random(chance, 4) == 0) {
            lend_to_the_dying(&it, row, chance);
        }
        check_rows(&it);
        CHECK_SOUND(theus_zone_check(it.zone));
        storm_nap();
    }
    if (rounds < 0) {
        wind_up(&it, chance);
    }
    end_block(&it);
    theus_zone_free(it.zone);
}
