/* See storm.h. */
#define _GNU_SOURCE

#include "storm.h"

#include "shm_sweep.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

enum { HELD = 8 }; /* blocks that a process has at a time */

storm_board *storm;
theus_slots storm_table;

/* ---- content and posts --------------------------------------------------------------------------- */

static uint64_t
word_of(uint64_t seed, uint64_t i)
{
    return (seed + i) * 0x9E3779B97F4A7C15u;
}

void
storm_fill_words(char *data, uint64_t size, uint64_t seed)
{
    uint64_t *words = (uint64_t *)data;
    for (uint64_t i = 0; i < size / 8; i++) {
        words[i] = word_of(seed, i);
    }
}

bool
storm_words_are(const char *data, uint64_t size, uint64_t seed)
{
    const uint64_t *words = (const uint64_t *)data;
    uint64_t i = 0;
    while (i < size / 8 && words[i] == word_of(seed, i)) {
        i++;
    }
    return i == size / 8;
}

void
storm_fill(const theus_block *block, uint64_t seed)
{
    storm_fill_words(theus_block_data(block), block->size, seed);
}

bool
storm_is_filled(const theus_block *block, uint64_t seed)
{
    return storm_words_are(theus_block_data(block), block->size, seed);
}

bool
storm_is_zero(const theus_block *block)
{
    const uint64_t *words = (const uint64_t *)theus_block_data(block);
    uint64_t i = 0;
    while (i < block->size / 8 && words[i] == 0) {
        i++;
    }
    return i == block->size / 8;
}

void
storm_put_up(storm_post *at, const theus_block *block, uint64_t seed)
{
    uint64_t count = atomic_load(&at->count) | 1;
    atomic_store(&at->count, count);
    theus_arena_name_of(block->arena, &at->arena);
    at->slot = block->slot;
    at->generation = block->generation;
    at->size = block->size;
    at->seed = seed;
    atomic_store(&at->count, count + 1);
}

void
storm_take_down(storm_post *at)
{
    uint64_t count = atomic_load(&at->count) | 1;
    atomic_store(&at->count, count);
    at->size = 0;
    atomic_store(&at->count, count + 1);
}

/* False: nothing is posted there, or just being written. */
static bool
read_post(const storm_post *at, storm_post *out)
{
    uint64_t count = atomic_load(&at->count);
    memcpy((char *)out + sizeof(count), (const char *)at + sizeof(count), sizeof(*at) - sizeof(count));
    return count % 2 == 0 && out->size > 0 && atomic_load(&at->count) == count;
}

uint64_t
storm_some_size(unsigned long long *chance)
{
    return check_random(chance, 12) == 0 ? 8 + 8 * check_random(chance, 16000) : 8 + 8 * check_random(chance, 400);
}

uint64_t
storm_new_seed(unsigned long long *chance)
{
    return (uint64_t)check_random(chance, 1u << 30) << 20;
}

/* ---- borrowers ---------------------------------------------------------------------------------------- */

void
storm_nap(void)
{
    struct timespec wait = {0, 500000};
    nanosleep(&wait, NULL);
}

/* Leases what is posted, and looks at it: when it comes, and once more when it goes. rounds < 0: until the end. */
void
storm_borrow(unsigned long long *chance, long rounds)
{
    theus_block held[HELD];
    uint64_t seeds[HELD];
    unsigned count = 0;
    for (long round = 0; rounds < 0 ? !atomic_load(&storm->ends) : round < rounds; round++) {
        if (count == HELD || (count > 0 && check_random(chance, 3) == 0)) {
            unsigned i = check_random(chance, count);
            REQUIRE(storm_is_filled(&held[i], seeds[i]));
            theus_block_release(&held[i]);
            held[i] = held[--count];
            seeds[i] = seeds[count];
            continue;
        }
        storm_post note;
        if (!read_post(&storm->posts[check_random(chance, POSTS)], &note)) {
            continue;
        }
        theus_status status = theus_block_lease(&note.arena, note.slot, note.generation, &held[count], NULL);
        REQUIRE(status == THEUS_OK || status == THEUS_STALE || status == THEUS_CROWDED);
        if (status == THEUS_OK) {
            REQUIRE(held[count].size == note.size && storm_is_filled(&held[count], note.seed));
            seeds[count++] = note.seed;
            atomic_fetch_add(&storm->looked, 1);
        }
        if (rounds < 0) {
            storm_nap();
        }
    }
    while (count > 0) {
        count--;
        REQUIRE(storm_is_filled(&held[count], seeds[count]));
        theus_block_release(&held[count]);
    }
    theus_arenas_forget();
}

/* ---- owners --------------------------------------------------------------------------------------------- */

typedef struct {
    theus_zone *zone;
    theus_block blocks[HELD];
    uint64_t seeds[HELD];
    unsigned count;
    storm_post *posts;
} estate;

static void
add_block(estate *it, unsigned long long *chance)
{
    theus_refusal refusal;
    theus_block *block = &it->blocks[it->count];
    REQUIRE(theus_zone_alloc(it->zone, "storm", 5, storm_some_size(chance), THEUS_ZEROED, block, &refusal) == THEUS_OK);
    for (unsigned i = 0; i < it->count; i++) {
        const theus_block *other = &it->blocks[i];
        REQUIRE(block->arena != other->arena || block->offset + block->size <= other->offset
                || other->offset + other->size <= block->offset);
    }
    REQUIRE(storm_is_zero(block));
    it->seeds[it->count] = storm_new_seed(chance);
    storm_fill(block, it->seeds[it->count]);
    storm_put_up(&it->posts[it->count], block, it->seeds[it->count]);
    it->count++;
}

static void
end_block(estate *it, unsigned i)
{
    REQUIRE(storm_is_filled(&it->blocks[i], it->seeds[i]));
    REQUIRE(theus_block_retire(&it->blocks[i]) == THEUS_OK);
    theus_block_release(&it->blocks[i]);
    it->count--;
    it->blocks[i] = it->blocks[it->count];
    it->seeds[i] = it->seeds[it->count];
    if (i < it->count) {
        storm_put_up(&it->posts[i], &it->blocks[i], it->seeds[i]);
    }
    storm_take_down(&it->posts[it->count]);
}

/* A child that looks at what it inherited, and goes, or is killed with its leases. */
static void
have_child(estate *it, unsigned long long *chance)
{
    bool dies = check_random(chance, 2) == 0;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        for (unsigned i = 0; i < it->count; i++) {
            REQUIRE(storm_is_filled(&it->blocks[i], it->seeds[i]) && !theus_block_is_owned(&it->blocks[i]));
        }
        if (dies) {
            raise(SIGKILL);
        }
        _exit(check_result());
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
}

void
storm_own(unsigned long long *chance, long rounds, storm_post *posts)
{
    estate it = {.posts = posts};
    char *shown;
    REQUIRE(theus_zone_new("storm", 0, &it.zone) == THEUS_OK);
    theus_zone_choose(it.zone, storm->backend);
    for (long round = 0; rounds < 0 ? !atomic_load(&storm->ends) : round < rounds; round++) {
        unsigned what = check_random(chance, 32);
        if (what == 0) {
            (void)theus_zone_tidy(it.zone);
        }
        else if (what == 1 && it.count > 0) {
            have_child(&it, chance);
            end_block(&it, check_random(chance, it.count)); /* lingers, if the child was killed */
            (void)theus_zone_tidy(it.zone);
        }
        else if (what == 2) {
            while (it.count > 0) {
                end_block(&it, it.count - 1);
            }
            (void)theus_zone_tidy(it.zone); /* the arena goes, unless somebody looks at it */
        }
        else if (what == 3 && it.count > 0) {
            REQUIRE(theus_block_publish(&it.blocks[check_random(chance, it.count)], &shown, NULL) == THEUS_OK);
        }
        else if (it.count < HELD && what < 20) {
            add_block(&it, chance);
        }
        else if (it.count > 0) {
            end_block(&it, check_random(chance, it.count));
        }
        CHECK_SOUND(theus_zone_check(it.zone));
        if (rounds < 0) {
            storm_nap();
        }
    }
    while (it.count > 0) {
        end_block(&it, it.count - 1);
    }
    theus_zone_free(it.zone);
}

/* ---- claimers ------------------------------------------------------------------------------------------------ */

static void
leave_slot(uint32_t who, uint32_t slot, uint32_t generation)
{
    REQUIRE(atomic_exchange(&storm->claimer[slot], 0) == who + 1); /* before: once it is retired, others may recycle it */
    REQUIRE(theus_slot_retire(&storm_table, slot, generation));
    (void)theus_slot_recycle(&storm_table, slot, generation); /* or, leased: whoever lets go last does it */
}

/* Takes slots from the table that others take from, too, and leases theirs (under the number 32 + who). */
void
storm_claim(unsigned long long *chance, long rounds, uint32_t who)
{
    struct {
        uint32_t slot, generation;
    } mine[CLAIMABLE / 2]; /* three of them want more than there is */
    unsigned count = 0;
    for (long round = 0; rounds < 0 ? !atomic_load(&storm->ends) : round < rounds; round++) {
        uint32_t slot, generation, nobody = 0;
        if (count < CLAIMABLE / 2 && check_random(chance, 2) == 0 && theus_slot_claim(&storm_table, who, &slot, &generation)) {
            REQUIRE(atomic_compare_exchange_strong(&storm->claimer[slot], &nobody, who + 1)); /* given to us alone */
            storm_table.slots[slot].size = generation;
            theus_slot_publish(&storm_table, slot);
            mine[count].slot = slot;
            mine[count++].generation = generation;
        }
        else if (count > 0) {
            unsigned i = check_random(chance, count);
            leave_slot(who, mine[i].slot, mine[i].generation);
            mine[i] = mine[--count];
        }
        slot = check_random(chance, CLAIMABLE);
        generation = theus_slot_generation_of(atomic_load(&storm_table.slots[slot].word));
        if (generation > 0 && theus_slot_lease(&storm_table, slot, generation, 32 + who) == THEUS_LEASED) {
            REQUIRE(storm_table.slots[slot].size == generation);
            if (theus_slot_unlease(&storm_table, slot, 32 + who)) {
                (void)theus_slot_recycle(&storm_table, slot, generation);
            }
        }
        if (rounds < 0) {
            storm_nap();
        }
    }
    while (count > 0) {
        count--;
        leave_slot(who, mine[count].slot, mine[count].generation);
    }
}

void
storm_leave_in_disorder(unsigned long long *chance, uint32_t who)
{
    uint32_t slot, generation;
    for (int i = 0; i < HELD && theus_slot_claim(&storm_table, who, &slot, &generation); i++) {
        storm_table.slots[slot].size = generation;
        if (check_random(chance, 2) == 0) {
            theus_slot_publish(&storm_table, slot);
            REQUIRE(theus_slot_lease(&storm_table, slot, generation, 32 + who) == THEUS_LEASED);
        }
    }
}

void
storm_reap(uint32_t who)
{
    theus_slots_reap(&storm_table, who);
    theus_slots_reap(&storm_table, 32 + who);
}

/* ---- sweepers ------------------------------------------------------------------------------------------------- */

static void
make_and_die(void)
{
    theus_zone *zone;
    theus_block block;
    theus_refusal refusal;
    REQUIRE(theus_zone_new("left", 0, &zone) == THEUS_OK);
    theus_zone_choose(zone, THEUS_NAMED);
    REQUIRE(theus_zone_alloc(zone, "left", 4, 100, 0, &block, &refusal) == THEUS_OK);
    raise(SIGKILL);
}

void
storm_leave_files(void)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        make_and_die();
    }
    REQUIRE(waitpid(child, NULL, 0) == child);
}

void
storm_sweep(long rounds)
{
    for (long round = 0; round < rounds; round++) {
        storm_leave_files();
        REQUIRE(theus_sweep(theus_files_folder(), true, NULL, NULL) == THEUS_OK);
    }
}
