/* Loans that other processes take: they write, give up, are killed at every step, and fork. */
#define _GNU_SOURCE

#include "loan_scene.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a child is to do with a loan. It knows the arena by its name alone: what it inherited it has given back. */
typedef struct {
    const theus_block *block;
    theus_arena_name arena;
    uint32_t slot, tenant;
    theus_loan_name name;
    const char *dies_at; /* a step of the core */
} errand;

static errand
errand_of(const theus_block *block, theus_loan_name name)
{
    errand it = {block, .slot = block->slot, .tenant = block->generation, .name = name};
    theus_arena_name_of(block->arena, &it.arena);
    return it;
}

static pid_t
start(void (*body)(const errand *), const errand *it)
{
    int go[2];
    char byte = 0;
    REQUIRE(pipe(go) == 0);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        /* Until our parent is back from fork(), it holds the number that it made for us: we would get the next one. */
        REQUIRE(read(go[0], &byte, 1) == 1);
        close(go[0]);
        close(go[1]);
        theus_block mine = *it->block;
        theus_block_release(&mine);
        theus_arenas_forget();
        body(it);
        _exit(check_result());
    }
    REQUIRE(write(go[1], &byte, 1) == 1);
    close(go[0]);
    close(go[1]);
    return child;
}

/* How it ended: its exit status, or -signal. */
static int
end_of(pid_t child)
{
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int
in_stranger(void (*body)(const errand *), const errand *it)
{
    return end_of(start(body, it));
}

static theus_loan *
take_errand(const errand *it)
{
    theus_loan *loan;
    REQUIRE(theus_loan_take(&it->arena, it->slot, it->tenant, it->name, &loan, NULL) == THEUS_OK);
    return loan;
}

static void
fill(const errand *it)
{
    theus_loan *loan = take_errand(it);
    CHECK(!theus_block_is_owned(&loan->block));
    memset(loan->data, 7, loan->size);
    theus_loan_end(loan, true);
    CHECK(loan->data[0] == 7 && theus_block_data(&loan->block)[loan->from] == 7); /* it can still be read */
    theus_loan_free(loan);
}

static void
give_up(const errand *it)
{
    theus_loan_free(take_errand(it));
}

static void
leave(const errand *it)
{
    (void)take_errand(it);
    _exit(0);
}

static void
die(const errand *it)
{
    take_errand(it)->data[0] = 1;
    raise(SIGKILL);
}

static void
write_beside(const errand *it)
{
    theus_loan *loan = take_errand(it);
    theus_block_data(&loan->block)[loan->from] = 1; /* by the mapping that everybody who looks at it has */
}

/* Ends it when the kernel gives no new mapping. */
static void
write_late_without_room(const errand *it)
{
    theus_loan *loan = take_errand(it);
    struct rlimit limit, none;
    REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
    none = limit;
    none.rlim_cur = 4096;
    REQUIRE(setrlimit(RLIMIT_AS, &none) == 0);
    theus_loan_end(loan, true);
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    loan->data[0] = 1;
}

static void
write_late(const errand *it)
{
    theus_loan *loan = take_errand(it);
    theus_loan_end(loan, true);
    loan->data[0] = 1;
}

/* ---- what becomes of it ------------------------------------------------------------------------- */

enum { LOANS_RACED = 100, RACERS = 4 };

static theus_loan_name raced[LOANS_RACED]; /* the children have a copy */
static _Atomic(unsigned) *wins;            /* and this one together */

static void
take_all(const errand *it)
{
    for (unsigned i = 0; i < LOANS_RACED; i++) {
        theus_loan *loan;
        theus_status status = theus_loan_take(&it->arena, it->slot, it->tenant, raced[i], &loan, NULL);
        CHECK(status == THEUS_OK || status == THEUS_OVER);
        if (status == THEUS_OK) {
            loan->data[0]++;
            atomic_fetch_add(wins, 1);
            theus_loan_end(loan, true);
            theus_loan_free(loan);
        }
    }
}

static void
test_processes_race(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, LOANS_RACED);
    wins = mmap(NULL, sizeof(*wins), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(wins != MAP_FAILED);
    for (unsigned i = 0; i < LOANS_RACED; i++) {
        raced[i] = offer(&block, i, 1);
    }
    errand it = errand_of(&block, raced[0]);
    pid_t children[RACERS];
    for (unsigned i = 0; i < RACERS; i++) {
        children[i] = start(take_all, &it);
    }
    for (unsigned i = 0; i < RACERS; i++) {
        CHECK(end_of(children[i]) == 0);
    }
    CHECK(atomic_load(wins) == LOANS_RACED);
    for (unsigned i = 0; i < LOANS_RACED; i++) {
        CHECK(theus_block_data(&block)[i] == 1 && state_of(&block, raced[i]) == THEUS_LOAN_RETURNED);
    }
    munmap(wins, sizeof(*wins));
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
test_another_process_writes(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 20 * KIB);
    theus_loan_name name = offer(&block, 5000, 10000);
    errand it = errand_of(&block, name);
    CHECK(in_stranger(fill, &it) == 0 && state_of(&block, name) == THEUS_LOAN_RETURNED);
    const char *data = theus_block_data(&block);
    CHECK(data[4999] == 0 && data[5000] == 7 && data[14999] == 7 && data[15000] == 0);
    it.name = offer(&block, 5000, 1);
    CHECK(in_stranger(give_up, &it) == 0 && state_of(&block, it.name) == THEUS_LOAN_BROKEN);
    it.name = offer(&block, 5000, 1);
    CHECK(in_stranger(leave, &it) == 0 && state_of(&block, it.name) == THEUS_LOAN_BROKEN);
    it.name = offer(&block, 5000, 1);
    CHECK(in_stranger(die, &it) == -SIGKILL && state_of(&block, it.name) == THEUS_LOAN_BROKEN && data[5000] == 1);
    it.name = offer(&block, 5000, 1);
    CHECK(in_stranger(write_beside, &it) != 0 && data[5000] == 1); /* SIGSEGV, or what a sanitizer makes of it */
    CHECK(state_of(&block, it.name) == THEUS_LOAN_BROKEN);
    data = theus_block_data(&block);
    theus_block_data(&block)[5000] = 3;
    it.name = offer(&block, 5000, 1);
    CHECK(in_stranger(write_late, &it) != 0 && data[5000] == 3 && state_of(&block, it.name) == THEUS_LOAN_RETURNED);
    it.name = offer(&block, 5001, 1);
    CHECK(in_stranger(write_late_without_room, &it) != 0 && data[5001] == 7);
    CHECK(state_of(&block, it.name) == THEUS_LOAN_RETURNED);
    theus_block_release(&block);
    (void)theus_zone_tidy(zone); /* some died with their leases */
    CHECK_SOUND(theus_zone_check(zone));
    CHECK(theus_zone_list(zone, NULL, 0) == 0);
    theus_zone_free(zone);
}

/* The dead are found by whoever is in the way of a new loan, and by the next one who gets their number. */
static void
test_what_the_dead_had_is_lent_again(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 100);
    for (int round = 0; round < 3; round++) {
        errand it = errand_of(&block, offer(&block, 0, 60));
        CHECK(in_stranger(die, &it) == -SIGKILL);
        errand next = errand_of(&block, offer(&block, 40, 60)); /* overlaps with what the dead one had */
        CHECK(in_stranger(die, &next) == -SIGKILL);
        errand third = errand_of(&block, offer(&block, 0, 10));
        CHECK(in_stranger(fill, &third) == 0); /* with the same number */
        CHECK(atomic_load(&block.arena->loans[next.name.number].word) >> 24 << 56 == (uint64_t)THEUS_LOAN_BROKEN << 56);
    }
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    CHECK(theus_zone_list(zone, NULL, 0) == 0);
    theus_zone_free(zone);
}

static const char *doom;

static void
die_at_step(const char *step)
{
    if (doom != NULL && strcmp(step, doom) == 0) {
        raise(SIGKILL);
    }
}

static void
fill_until_doom(const errand *it)
{
    doom = it->dies_at;
    fill(it);
}

static void
stop_at_step(const char *step)
{
    if (doom != NULL && strcmp(step, doom) == 0) {
        doom = NULL;
        raise(SIGSTOP);
    }
}

static void
stop_and_fill(const errand *it)
{
    raise(SIGSTOP);
    fill_until_doom(it);
}

static void
await_stop(pid_t child)
{
    int status;
    REQUIRE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
}

/* Whoever gets a dead taker's number has not yet cleared up behind him: the dead one looks dead all the same. */
static void
test_a_successor_hides_no_death(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 100);
    errand it = errand_of(&block, offer(&block, 0, 60)), next = errand_of(&block, offer(&block, 60, 40));
    theus_shm_at_step = stop_at_step;
    next.dies_at = "lease ended"; /* that of the dead one */
    pid_t child = start(stop_and_fill, &next); /* before: a fork would clear up, too */
    await_stop(child);
    CHECK(in_stranger(die, &it) == -SIGKILL);
    REQUIRE(kill(child, SIGCONT) == 0);
    await_stop(child);
    CHECK(state_of(&block, it.name) == THEUS_LOAN_BROKEN && state_of(&block, next.name) == THEUS_LOAN_OFFERED);
    CHECK(answer_to(&block, 0, 60) == THEUS_LENDS);
    REQUIRE(kill(child, SIGCONT) == 0);
    CHECK(end_of(child) == 0 && state_of(&block, next.name) == THEUS_LOAN_RETURNED);
    theus_shm_at_step = NULL;
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
test_killed_at_every_step(void)
{
    static const struct {
        const char *step;
        theus_loan_state state;
    } deaths[] = {
        {"behind the door", THEUS_LOAN_OFFERED},
        {"loan read", THEUS_LOAN_OFFERED},
        {"loan mapped", THEUS_LOAN_OFFERED},
        {"loan taken", THEUS_LOAN_BROKEN},
        {"loan read-only", THEUS_LOAN_BROKEN},
        {"loan ended", THEUS_LOAN_RETURNED},
    };
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 20 * KIB);
    theus_shm_at_step = die_at_step;
    for (unsigned i = 0; i < sizeof(deaths) / sizeof(deaths[0]); i++) {
        errand it = errand_of(&block, offer(&block, 0, block.size));
        it.dies_at = deaths[i].step;
        CHECK(in_stranger(fill_until_doom, &it) == -SIGKILL);
        CHECK(state_of(&block, it.name) == deaths[i].state);
        (void)theus_loan_recall(&block, it.name);
        CHECK(answer_to(&block, 0, block.size) == THEUS_LENDS);
        theus_loan_forget(&block, it.name);
    }
    theus_shm_at_step = NULL;
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    CHECK_SOUND(theus_zone_check(zone));
    CHECK(theus_zone_list(zone, NULL, 0) == 0);
    theus_zone_free(zone);
}

/* ---- forks ------------------------------------------------------------------------------------------- */

static int
fork_of(void (*body)(theus_loan *), theus_loan *loan)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        body(loan);
        _exit(check_result());
    }
    return end_of(child);
}

static void
child_lets_go(theus_loan *loan)
{
    CHECK(loan->data[0] == 4);
    theus_loan_end(loan, true); /* it is the parent's */
    theus_loan_free(loan);
}

static void
child_writes(theus_loan *loan)
{
    loan->data[0] = 5;
}

static theus_block *inherited;
static theus_loan_name inherited_name;

static void
child_lends(theus_loan *loan)
{
    theus_loan_name name;
    theus_loan_facts other;
    (void)loan;
    CHECK(theus_loan_offer(inherited, 0, 1, &name, &other) == THEUS_LENDS_NOT);
    CHECK(theus_loan_look(inherited, inherited_name).state == THEUS_LOAN_NONE && theus_loans_list(inherited, NULL, 0) == 0);
    CHECK(!theus_loan_recall(inherited, inherited_name));
    theus_loan_forget(inherited, inherited_name);
}

static void
check_a_child_of(theus_loan *loan)
{
    loan->data[0] = 4;
    CHECK(fork_of(child_lets_go, loan) == 0);
    CHECK(fork_of(child_writes, loan) != 0 && loan->data[0] == 4); /* SIGSEGV, or what a sanitizer makes of it */
    loan->data[0] = 6;
}

static void
fork_with_a_loan(const errand *it)
{
    theus_loan *loan = take_errand(it);
    check_a_child_of(loan);
    theus_loan_end(loan, true);
    theus_loan_free(loan);
}

static void
test_a_loan_is_not_inherited(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 20 * KIB);
    errand it = errand_of(&block, offer(&block, 5000, 100));
    CHECK(in_stranger(fork_with_a_loan, &it) == 0 && state_of(&block, it.name) == THEUS_LOAN_RETURNED);
    CHECK(theus_block_data(&block)[5000] == 6);
    theus_loan *loan;
    inherited = &block;
    inherited_name = offer(&block, 5000, 100);
    REQUIRE(take(&block, inherited_name, &loan) == THEUS_OK); /* the owner is a taker as any */
    check_a_child_of(loan);
    CHECK(fork_of(child_lends, loan) == 0);
    CHECK(state_of(&block, inherited_name) == THEUS_LOAN_TAKEN);
    theus_loan_free(loan);
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    CHECK(theus_zone_list(zone, NULL, 0) == 0);
    theus_zone_free(zone);
}

/* Its fork had no descriptor left, and so it has no number: if it died with a loan, nobody would see it. */
static void
test_who_has_no_number_takes_nothing(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_lending(zone, 20 * KIB);
    theus_loan_name name = offer(&block, 5000, 100);
    struct rlimit limit, full;
    int next = dup(STDIN_FILENO);
    REQUIRE(next >= 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    full = limit;
    full.rlim_cur = (rlim_t)next;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &full) == 0);
    pid_t child = fork();
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0 && child >= 0);
    if (child == 0) {
        theus_loan *loan;
        CHECK(take(&block, name, &loan) == THEUS_CROWDED);
        _exit(check_result());
    }
    CHECK(end_of(child) == 0 && state_of(&block, name) == THEUS_LOAN_OFFERED);
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    theus_zone_free(zone);
}

static void
test_backend(void)
{
    test_processes_race();
    test_another_process_writes();
    test_what_the_dead_had_is_lent_again();
    test_killed_at_every_step();
    test_a_successor_hides_no_death();
    test_a_loan_is_not_inherited();
    test_who_has_no_number_takes_nothing();
}

int
main(void)
{
    long before = theus_alloc_live();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
