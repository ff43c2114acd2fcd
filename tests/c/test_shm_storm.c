/* kill -9, of everybody, everywhere: what the dead leave is whole, and the living do not notice.
 *
 *     keeper      this process: owns blocks that must survive, replaces them all the time, and looks at everything after each
 *                 round of deaths
 *     survivors   a borrower, an owner, a claimer, a lender and a taker that live from the beginning to the end
 *     victims     two at a time; each dies at a step of the core that has a name (THEUS_SHM_STEP), or at any moment:
 *        borrower   leases what the board says, and compares it with what was posted there
 *        owner      an engine of its own: allocates, posts, retires, tidies up, forks
 *        claimer    one of several processes that take slots from one table
 *        lender     lends the rows of a block, and looks at what comes back
 *        taker      takes what is lent, and fills it
 *        reaper     clears away what a dead claimer left
 *        sweeper    removes the files of dead owners; where memory has names
 *
 * After each round: the content of every block of the keeper is what it wrote; births - deaths = a walk of the slot table;
 * whoever still leases a retired block is alive; no descriptor is left; one sweep finds all files of the dead, and none of the
 * keeper's is gone. At the end, when the survivors have gone: no block lingers, no slot is lost, none is taken, nothing is mapped,
 * and the folder is empty.
 *
 *     test_shm_storm [KILLS [SEED]]     2,000 by default; `check.py storm` asks for 100,000
 *
 * Half of the kills are on memory without names, half on memory with them. */
#define _GNU_SOURCE

#include "storm.h"

#include "shm_sweep.h"

#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { KILLS = 300 }; /* a fork copies the sanitizer's memory, too */
#else
enum { KILLS = 2000 };
#endif

enum {
    SURVIVORS = 5, /* one of each role but the last two */
    ROUNDS = 60,   /* of a victim that does not reach its step */
};

typedef enum { BORROWER, OWNER, CLAIMER, LENDER, TAKER, REAPER, SWEEPER, ROLES } role;

static const char *const role_names[ROLES] = {"borrowers", "owners", "claimers", "lenders", "takers", "reapers", "sweepers"};

/* Where somebody may die, and who gets there; those from NAMED on only where memory has names. */
static const struct {
    const char *name;
    role who;
    unsigned passes; /* he dies at one of so many passages */
} steps[] = {
    {"hint taken", CLAIMER, 40},    {"claimed", CLAIMER, 40},      {"claimed by scan", CLAIMER, 1},
    {"published", CLAIMER, 40},     {"retired", CLAIMER, 40},      {"recycled", CLAIMER, 40},
    {"lease set", CLAIMER, 40},     {"lease ended", CLAIMER, 40},  {"reaping", REAPER, 3},
    {"recycled", REAPER, 3},        {"lease ended", REAPER, 1},    {"hint taken", OWNER, 20},
    {"claimed", OWNER, 20},         {"published", OWNER, 20},      {"retired", OWNER, 20},
    {"recycled", OWNER, 20},        {"lease set", BORROWER, 40},   {"lease ended", BORROWER, 40},
    {"control opened", BORROWER, 1}, {"dead reaped", BORROWER, 1}, {"joined", BORROWER, 1},
    {"child looks", BORROWER, 1},   {"child looks", OWNER, 2},     {"leases for a child", OWNER, 3},
    {"files mapped", OWNER, 2},     {"header filled in", OWNER, 2}, {"place taken", OWNER, 20},
    {"backed", OWNER, 2},           {"birth counted", OWNER, 20},  {"dead reaped", OWNER, 1},
    {"closed", OWNER, 1},
    {"loan described", LENDER, 20}, {"loan offered", LENDER, 20},  {"loan broken", LENDER, 2},
    {"loan read", TAKER, 3},        {"loan mapped", TAKER, 3},     {"loan taken", TAKER, 3},
    {"loan read-only", TAKER, 3},   {"loan ended", TAKER, 3},      {"behind the door", TAKER, 1},
    {"show: no name", OWNER, 2},    {"show: control", OWNER, 2},    {"show: both", OWNER, 2},
    {"hide: both", OWNER, 2},       {"hide: control", OWNER, 2},    {"hide: none", OWNER, 2},
    {"sweep: dead", SWEEPER, 3},    {"sweep: data", SWEEPER, 3},    {"sweep: control", SWEEPER, 3},
    {"sweep: dead", OWNER, 1},
};
enum { STEPS = sizeof(steps) / sizeof(steps[0]), NAMED = STEPS - 10 };

static_assert(STEPS <= sizeof(((storm_board *)0)->died) / sizeof(uint64_t), "each step is counted");

static theus_zone *kept_zone;
static theus_block kept[KEPT];
static uint64_t kept_seeds[KEPT];
static uint32_t keeper; /* its pid */
static unsigned long long chance;

static struct {
    unsigned step, passes;
    bool armed;
} doom;

static void
die_at_step(const char *step)
{
    if (doom.armed && strcmp(step, steps[doom.step].name) == 0 && theus_process_id() != keeper && doom.passes-- == 0) {
        atomic_fetch_add(&storm->died[doom.step], 1);
        raise(SIGKILL);
    }
}

/* ---- life and death -------------------------------------------------------------------------------------------- */

typedef struct {
    pid_t pid;
    role who;
    unsigned lane;
    bool at_step;
} victim;

static void
play(role who, unsigned lane, long rounds, unsigned long long *seed)
{
    if (rounds > 0 && check_random(seed, 2) == 0) { /* a stranger, who inherited nothing */
        for (unsigned i = 0; i < KEPT; i++) {
            theus_block_release(&kept[i]);
        }
        theus_arenas_forget();
    }
    switch (who) {
    case BORROWER:
        storm_borrow(seed, rounds);
        break;
    case OWNER:
        storm_own(seed, rounds, &storm->posts[KEPT + lane * POSTS_OF_OWNER]);
        break;
    case CLAIMER:
        storm_claim(seed, rounds < 0 ? rounds : 20 * rounds, 1 + lane);
        break;
    case LENDER:
        storm_lend(seed, rounds, &storm->offers[lane * ROWS]);
        break;
    case TAKER:
        storm_take(seed, rounds);
        break;
    case SWEEPER:
        storm_sweep(6);
        break;
    default:
        storm_leave_in_disorder(seed, 1 + lane);
        storm_reap(1 + lane);
    }
}

static pid_t
start(role who, unsigned lane, long rounds)
{
    unsigned long long seed = check_random(&chance, 1u << 30) + 1;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* if a check ends the keeper, it ends us */
        play(who, lane, rounds, &seed);
        _exit(check_result());
    }
    return child;
}

/* Has it been killed? It may also have come to its end. */
static bool
bury(const victim *it)
{
    int status;
    REQUIRE(waitpid(it->pid, &status, 0) == it->pid);
    CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    for (uint32_t i = 0; i < CLAIMABLE && it->who == CLAIMER; i++) {
        uint32_t dead = 1 + it->lane + 1;
        (void)atomic_compare_exchange_strong(&storm->claimer[i], &dead, 0);
    }
    for (unsigned i = 0; i < POSTS_OF_OWNER && it->who == OWNER; i++) {
        storm_take_down(&storm->posts[KEPT + it->lane * POSTS_OF_OWNER + i]);
    }
    for (unsigned i = 0; i < ROWS && it->who == LENDER; i++) {
        storm_take_back(&storm->offers[it->lane * ROWS + i]);
    }
    return WIFSIGNALED(status);
}

static victim
start_victim(unsigned lane)
{
    victim it = {.lane = lane};
    bool named = storm->backend == THEUS_NAMED;
    unsigned reach = named ? STEPS : NAMED, one = check_random(&chance, reach), other = check_random(&chance, reach);
    doom.step = atomic_load(&storm->died[one]) < atomic_load(&storm->died[other]) ? one : other; /* some are hard to reach */
    doom.passes = check_random(&chance, steps[doom.step].passes);
    it.at_step = check_random(&chance, 5) > 0;
    if (it.at_step && doom.step == STEPS - 1) {
        storm_leave_files(); /* an owner sweeps once: he is to find something */
    }
    doom.armed = it.at_step;
    it.who = doom.armed ? steps[doom.step].who : (role)check_random(&chance, named ? ROLES : SWEEPER);
    it.pid = start(it.who, lane, ROUNDS);
    doom.armed = false;
    return it;
}

/* ---- the keeper --------------------------------------------------------------------------------------------------- */

static void
keep(unsigned i)
{
    theus_refusal refusal;
    theus_status status = theus_zone_alloc(kept_zone, "kept", 4, storm_some_size(&chance), THEUS_ZEROED, &kept[i], &refusal);
    if (status == THEUS_UNSUPPORTED || status == THEUS_REFUSED) {
        exit(77); /* no memfd here */
    }
    REQUIRE(status == THEUS_OK && storm_is_zero(&kept[i]));
    kept_seeds[i] = storm_new_seed(&chance);
    storm_fill(&kept[i], kept_seeds[i]);
    storm_put_up(&storm->posts[i], &kept[i], kept_seeds[i]);
}

static void
replace(unsigned i)
{
    REQUIRE(storm_is_filled(&kept[i], kept_seeds[i]));
    if (check_random(&chance, 2) == 0) {
        REQUIRE(theus_block_retire(&kept[i]) == THEUS_OK);
    }
    theus_block_release(&kept[i]);
    keep(i);
}

static unsigned
descriptors(void)
{
    unsigned count = 0;
    DIR *folder = opendir("/proc/self/fd");
    REQUIRE(folder != NULL);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

/* Is a retired block not free yet because of somebody who is dead? */
static bool
dead_linger(void)
{
    bool any = false;
    theus_shm_lock();
    for (theus_arena *it = theus_arenas_first_locked(); it != NULL; it = it->next) {
        for (uint32_t i = 0; i < it->lingering_count; i++) {
            uint64_t leases = atomic_load(&it->slots.slots[it->lingering[i]].leases);
            for (uint32_t number = 1; number < THEUS_PARTICIPANTS; number++) {
                any = any || ((leases >> number & 1) != 0 && !theus_byte_is_locked(it->control_fd, number));
            }
        }
    }
    theus_shm_unlock();
    return any;
}

static void
count_dead(void *context, const theus_left *left)
{
    *(unsigned *)context += left->why == THEUS_LEFT_DEAD || left->why == THEUS_LEFT_ORPHAN;
}

/* The dead have left no file that a sweep does not find; the keeper's are all there. */
static void
check_names(void)
{
    unsigned dead;
    int tries = 0;
    do {
        dead = 0;
        CHECK(theus_sweep(theus_files_folder(), true, NULL, NULL) == THEUS_OK);
        CHECK(theus_sweep(theus_files_folder(), false, count_dead, &dead) == THEUS_OK);
    } while (dead > 0 && ++tries < 100); /* a victim's child may have died between the two */
    CHECK(dead == 0);
    theus_shm_lock();
    for (theus_arena *it = theus_arenas_first_locked(); it != NULL; it = it->next) {
        theus_name_facts facts;
        CHECK(theus_name_look(theus_files_folder(), theus_file_name_of(&it->name, THEUS_FILE_CONTROL).text, &facts) == THEUS_OK);
        CHECK(theus_name_look(theus_files_folder(), theus_file_name_of(&it->name, THEUS_FILE_DATA).text, &facts) == THEUS_OK);
    }
    theus_shm_unlock();
}

static void
check_after_deaths(unsigned files)
{
    int tries = 0;
    if (storm->backend == THEUS_NAMED) {
        check_names();
    }
    do {
        (void)theus_zone_tidy(kept_zone);
        CHECK_SOUND(theus_zone_check(kept_zone));
    } while (dead_linger() && ++tries < 100); /* a victim's child may have died after we tidied up */
    CHECK(tries < 100);
    for (unsigned i = 0; i < KEPT; i++) {
        CHECK(storm_is_filled(&kept[i], kept_seeds[i]));
    }
    CHECK(descriptors() == files);
}

/* When nobody is left. */
static void
check_the_end(void)
{
    uint32_t slot, generation;
    for (uint32_t i = 0; i < CLAIMABLE; i++) { /* whoever was to be told that a lease ended may have died */
        CHECK(atomic_load(&storm_table.slots[i].leases) == 0);
        (void)theus_slot_recycle(&storm_table, i, theus_slot_generation_of(atomic_load(&storm_table.slots[i].word)));
    }
    CHECK(theus_slots_taken(&storm_table) == 0);
    for (uint32_t i = 0; i < CLAIMABLE; i++) {
        CHECK(theus_slot_claim(&storm_table, 0, &slot, &generation));
    }
    CHECK(!theus_slot_claim(&storm_table, 0, &slot, &generation));

    (void)theus_zone_tidy(kept_zone);
    theus_zone_figures figures;
    theus_zone_read(kept_zone, &figures);
    CHECK(figures.lingering == 0 && figures.births - figures.deaths == KEPT);
    for (unsigned i = 0; i < KEPT; i++) {
        theus_block_release(&kept[i]);
    }
    (void)theus_zone_tidy(kept_zone);
    theus_zone_read(kept_zone, &figures);
    CHECK(figures.births == figures.deaths && figures.bytes_born == figures.bytes_dead && figures.arenas == 0);
    theus_zone_free(kept_zone);
}

/* Over both backends. */
static uint64_t died[STEPS], killed[ROLES], looked, taken;

/* The victims, until so many are dead. */
static void
rage(uint64_t wanted, unsigned files)
{
    uint64_t kills = 0;
    while (kills < wanted && check_result() == 0) {
        victim victims[LANES];
        for (unsigned lane = 0; lane < LANES; lane++) {
            storm_reap(1 + lane); /* whoever did that before may have been killed */
            victims[lane] = start_victim(lane);
        }
        for (unsigned i = check_random(&chance, 20); i > 0; i--) {
            replace(check_random(&chance, KEPT));
        }
        for (unsigned lane = 0; lane < LANES; lane++) {
            if (!victims[lane].at_step) {
                struct timespec wait = {0, (long)check_random(&chance, 1500000)};
                nanosleep(&wait, NULL);
                kill(victims[lane].pid, SIGKILL);
            }
        }
        for (unsigned lane = 0; lane < LANES; lane++) {
            bool was_killed = bury(&victims[lane]);
            kills += was_killed;
            killed[victims[lane].who] += was_killed;
        }
        check_after_deaths(files);
    }
}

static void
storm_over(theus_backend backend, uint64_t wanted)
{
    unsigned files = descriptors();
    size_t size = sizeof(storm_board), table_size = theus_shm_control_size(CLAIMABLE, false);
    storm = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *table = mmap(NULL, table_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(storm != MAP_FAILED && table != MAP_FAILED);
    storm->backend = backend;
    theus_slots_open(&storm_table, table, CLAIMABLE);
    theus_slots_init(&storm_table);
    REQUIRE(theus_zone_new("keeper", 0, &kept_zone) == THEUS_OK);
    theus_zone_choose(kept_zone, backend);
    for (unsigned i = 0; i < KEPT; i++) {
        keep(i);
    }
    unsigned files_then = descriptors();
    pid_t survivors[SURVIVORS];
    for (unsigned i = 0; i < SURVIVORS; i++) {
        survivors[i] = start((role)i, LANES, -1);
    }
    rage(wanted, files_then);
    atomic_store(&storm->ends, true);
    int status;
    for (pid_t child; (child = waitpid(-1, &status, 0)) > 0;) { /* the survivors, and who lost its parent */
        bool survived = false;
        for (unsigned i = 0; i < SURVIVORS; i++) {
            survived = survived || child == survivors[i];
        }
        CHECK(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : !survived && WTERMSIG(status) == SIGKILL);
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        storm_reap(1 + lane);
    }
    check_the_end();
    for (unsigned i = 0; i < STEPS; i++) {
        died[i] += atomic_load(&storm->died[i]);
    }
    looked += atomic_load(&storm->looked);
    taken += atomic_load(&storm->taken);
    munmap(storm, size);
    munmap(table, table_size);
    CHECK(descriptors() == files);
}

int
main(int argc, char **argv)
{
    uint64_t wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : KILLS, kills = 0, began = theus_clock_fine_ns();
    long live = theus_alloc_live();
    char folder[] = "/dev/shm/theus-test-XXXXXX";
    chance = argc > 2 ? strtoull(argv[2], NULL, 10) : 20;
    REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); /* children of victims come to us */
    keeper = theus_process_id();
    theus_shm_at_step = die_at_step;
    bool named = mkdtemp(folder) != NULL;
    if (named) {
        theus_files_choose_folder(folder);
    }
    storm_over(THEUS_ANONYMOUS, named ? wanted / 2 : wanted);
    if (named) {
        storm_over(THEUS_NAMED, wanted - wanted / 2);
        CHECK(theus_sweep(folder, true, NULL, NULL) == THEUS_OK); /* of those who died last */
        CHECK(rmdir(folder) == 0);
    }
    for (unsigned i = 0; i < ROLES; i++) {
        kills += killed[i];
    }
    printf("%llu kills in %.1f s:", (unsigned long long)kills, (double)(theus_clock_fine_ns() - began) / 1e9);
    for (unsigned i = 0; i < ROLES; i++) {
        printf(" %llu %s", (unsigned long long)killed[i], role_names[i]);
    }
    printf("; %llu blocks compared by borrowers, %llu rows filled by takers\n", (unsigned long long)looked,
           (unsigned long long)taken);
    for (unsigned i = 0; i < (named ? STEPS : NAMED); i++) {
        CHECK(died[i] > 0 || wanted < KILLS || KILLS < 2000);
        if (argc > 1) {
            printf("    %-20s %-10s %6llu\n", steps[i].name, role_names[steps[i].who], (unsigned long long)died[i]);
        }
    }
    CHECK(theus_alloc_live() == live);
    return check_result();
}
