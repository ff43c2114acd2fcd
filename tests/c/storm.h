/* Those who are killed in test_shm_storm.c, and what they share with each other and with the keeper. */
#ifndef THEUS_STORM_H
#define THEUS_STORM_H

#include "shm_loans.h"

enum {
    LANES = 2,          /* victims at a time; lane LANES is that of the survivors */
    KEPT = 24,          /* blocks of the keeper */
    POSTS_OF_OWNER = 8,
    POSTS = KEPT + (LANES + 1) * POSTS_OF_OWNER,
    CLAIMABLE = 64,     /* slots of the table that the claimers share */
    ROWS = 8,           /* of a lender's block */
    OFFERS = (LANES + 1) * ROWS,
    GIVEN = 4096,
};

/* A block that may be borrowed. Who posts may be killed while he writes: then `count` stays odd until the next one writes. */
typedef struct {
    _Atomic(uint64_t) count;
    theus_arena_name arena;
    uint32_t slot, generation;
    uint64_t size, seed;
} storm_post;

/* A row that may be taken; as a post. */
typedef struct {
    _Atomic(uint64_t) count;
    theus_arena_name arena;
    uint32_t slot, tenant;
    theus_loan_name loan;
    uint64_t from;
    uint64_t serial; /* of all loans in this storm, and what the taker fills the row with; 0: nothing is offered here */
} storm_offer;

/* What all of them share. */
typedef struct {
    theus_backend backend;                /* constant */
    storm_post posts[POSTS];
    _Atomic(bool) ends;                   /* the survivors may go */
    _Atomic(uint64_t) looked;             /* blocks that were compared by borrowers */
    _Atomic(uint64_t) died[64];           /* at each step */
    storm_offer offers[OFFERS];
    _Atomic(uint64_t) serial, taken;      /* loans that were offered; that somebody has taken and given back */
    _Atomic(uint64_t) given[GIVEN];       /* serials of loans that were taken, each at serial % GIVEN */
    _Atomic(uint32_t) claimer[CLAIMABLE]; /* 1 + who believes to have the slot; 0: nobody */
} storm_board;

extern storm_board *storm;       /* shared by all */
extern theus_slots storm_table; /* of the claimers; shared */

/* Content that says which block it is of; the size is a multiple of 8. */
void storm_fill(const theus_block *block, uint64_t seed);
bool storm_is_filled(const theus_block *block, uint64_t seed);
bool storm_is_zero(const theus_block *block);
void storm_fill_words(char *data, uint64_t size, uint64_t seed);
bool storm_words_are(const char *data, uint64_t size, uint64_t seed);
uint64_t storm_some_size(unsigned long long *chance);
uint64_t storm_new_seed(unsigned long long *chance);

void storm_put_up(storm_post *at, const theus_block *block, uint64_t seed);
void storm_take_down(storm_post *at);
void storm_take_back(storm_offer *at);
void storm_nap(void);

/* The parts that victims and survivors play, for so many rounds; below 0: until storm->ends. A claimer has the numbers who and
 * 32 + who. */
void storm_borrow(unsigned long long *chance, long rounds);
void storm_own(unsigned long long *chance, long rounds, storm_post *posts);
void storm_lend(unsigned long long *chance, long rounds, storm_offer *posts);
void storm_take(unsigned long long *chance, long rounds);
void storm_claim(unsigned long long *chance, long rounds, uint32_t who);
void storm_leave_in_disorder(unsigned long long *chance, uint32_t who); /* as a claimer does who is killed */
void storm_reap(uint32_t who);

/* Has somebody make a named arena and die. */
void storm_leave_files(void);

/* Does that, and clears up behind him and all others, so many times. */
void storm_sweep(long rounds);

#endif
