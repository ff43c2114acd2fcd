/* Numbers of participants: there are 64, one more process is told so, and nobody is told so without need. */
#define _GNU_SOURCE

#include "zone_scene.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    theus_arena_name arena;
    uint32_t slot, generation;
} token;

static token
token_of(const theus_block *block)
{
    token made = {.slot = block->slot, .generation = block->generation};
    theus_arena_name_of(block->arena, &made.arena);
    return made;
}

static theus_status
look(const token *at, theus_block *block)
{
    return theus_block_lease(&at->arena, at->slot, at->generation, block, NULL);
}

/* ---- the 65th process ----------------------------------------------------------------------- */

enum { OTHERS = THEUS_PARTICIPANTS - 1, TOO_MANY = OTHERS + 2 };

/* Of all children; who reads a byte first, does it. */
static int go[2], leave[2], answers[2];

typedef struct {
    pid_t pid;
    int status; /* of its look; 1: it has left */
} answer;

static void
tell(int status)
{
    answer it = {getpid(), status};
    REQUIRE(write(answers[1], &it, sizeof(it)) == sizeof(it));
}

/* Looks when it is told to, until it may; stays, and leaves when it is told to. */
static void
child_main(void)
{
    token at;
    theus_block block;
    theus_status status = THEUS_CROWDED;
    char byte;
    close(go[1]), close(leave[1]), close(answers[0]);
    while (status == THEUS_CROWDED && read(go[0], &at, sizeof(at)) == sizeof(at)) {
        status = look(&at, &block);
        tell(status);
    }
    if (status == THEUS_OK && read(leave[0], &byte, 1) == 1) {
        theus_block_release(&block);
        theus_arenas_forget();
        tell(1);
    }
    _exit(check_result());
}

static answer
ask(int pipe, const void *what, size_t size)
{
    answer it;
    REQUIRE(write(pipe, what, size) == (ssize_t)size && read(answers[0], &it, sizeof(it)) == sizeof(it));
    return it;
}

static void
test_the_sixty_fifth_process(void)
{
    pid_t children[TOO_MANY];
    REQUIRE(pipe(go) == 0 && pipe(leave) == 0 && pipe(answers) == 0);
    for (int i = 0; i < TOO_MANY; i++) {
        children[i] = fork(); /* before there is an arena that it could inherit */
        REQUIRE(children[i] >= 0);
        if (children[i] == 0) {
            child_main();
        }
    }
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 1000);
    token at = token_of(&block);
    answer last = {0};
    for (int i = 0; i < OTHERS; i++) {
        last = ask(go[1], &at, sizeof(at));
        CHECK(last.status == THEUS_OK);
    }
    CHECK(ask(go[1], &at, sizeof(at)).status == THEUS_CROWDED && ask(go[1], &at, sizeof(at)).status == THEUS_CROWDED);
    REQUIRE(kill(last.pid, SIGKILL) == 0 && waitpid(last.pid, NULL, 0) == last.pid);
    CHECK(ask(go[1], &at, sizeof(at)).status == THEUS_OK && ask(go[1], &at, sizeof(at)).status == THEUS_CROWDED);
    CHECK(ask(leave[1], "", 1).status == 1 && ask(go[1], &at, sizeof(at)).status == THEUS_OK);
    close(go[0]), close(go[1]), close(leave[0]), close(leave[1]); /* all that are left end */
    for (int i = 0; i < TOO_MANY; i++) {
        int status;
        CHECK(children[i] == last.pid || (waitpid(children[i], &status, 0) == children[i] && status == 0));
    }
    close(answers[0]), close(answers[1]);
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    CHECK(FIGURE(zone, lingering) == 0);
    theus_zone_free(zone);
}

/* ---- a number that is being buried ----------------------------------------------------------------- */

static pid_t owner;
static int reports[2]; /* of who joins: 'w' he waits, 'y' he has a number, 'n' he has none */

static void
at_step(const char *step)
{
    char report = 'w';
    if (getpid() != owner && strcmp(step, "waits at a door") == 0) {
        REQUIRE(write(reports[1], &report, 1) == 1);
    }
    if (getpid() == owner && strcmp(step, "dead reaped") == 0) {
        REQUIRE(write(go[1], "", 1) == 1 && read(reports[0], &report, 1) == 1);
        CHECK(report == 'w');
    }
}

/* Gets the first number, and dies with a lease. */
static void
dead_main(void)
{
    token at;
    theus_block block;
    REQUIRE(read(leave[0], &at, sizeof(at)) == sizeof(at) && look(&at, &block) == THEUS_OK && block.arena->self == 1);
    raise(SIGKILL);
}

static void
joiner_main(void)
{
    token at;
    theus_block block;
    char byte;
    close(go[1]);
    REQUIRE(read(answers[0], &at, sizeof(at)) == sizeof(at) && read(go[0], &byte, 1) == 1);
    byte = look(&at, &block) == THEUS_OK ? 'y' : 'n';
    REQUIRE(write(reports[1], &byte, 1) == 1);
    _exit(check_result());
}

/* All numbers are taken but a dead one's, whom the owner buries just now. That is no reason to be sent away. */
static void
test_a_burial_is_waited_for(void)
{
    int status;
    REQUIRE(pipe(go) == 0 && pipe(leave) == 0 && pipe(answers) == 0 && pipe(reports) == 0);
    owner = getpid();
    theus_shm_at_step = at_step;
    pid_t joiner = fork(), dead = joiner == 0 ? 0 : fork(); /* both before there is an arena */
    REQUIRE(joiner >= 0 && dead >= 0);
    if (joiner == 0) {
        joiner_main();
    }
    if (dead == 0) {
        dead_main();
    }
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 1000);
    token at = token_of(&block);
    REQUIRE(write(leave[1], &at, sizeof(at)) == sizeof(at) && waitpid(dead, &status, 0) == dead);
    REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    int living;
    REQUIRE(theus_files_share(block.arena->control_fd, &living) == THEUS_OK);
    for (uint32_t number = 2; number < THEUS_PARTICIPANTS; number++) {
        REQUIRE(theus_byte_try_lock(living, number));
    }
    REQUIRE(write(answers[1], &at, sizeof(at)) == sizeof(at));
    REQUIRE(theus_zones_recover() == 1);
    char report = 'w';
    while (report == 'w') {
        REQUIRE(read(reports[0], &report, 1) == 1);
    }
    CHECK(report == 'y');
    REQUIRE(waitpid(joiner, &status, 0) == joiner);
    CHECK(status == 0);
    theus_shm_at_step = NULL;
    theus_shm_close(living);
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    theus_zone_free(zone);
    for (int i = 0; i < 2; i++) {
        close(go[i]), close(leave[i]), close(answers[i]), close(reports[i]);
    }
}

static void
test_backend(void)
{
    test_the_sixty_fifth_process();
    test_a_burial_is_waited_for();
}

int
main(void)
{
    long before = theus_alloc_live();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
