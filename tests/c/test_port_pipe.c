/* Pipes as the wire between processes has them: what comes, when nothing does, and who says so. */
#define _GNU_SOURCE

#include "port_pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static const uint64_t MS = 1000 * 1000;
static int reads, writes;

static void
open_pipe(void)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0 && fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    reads = ends[0];
    writes = ends[1];
}

static void
test_bytes_come_as_they_went(void)
{
    char found[8];
    size_t count = 99;
    open_pipe();
    CHECK(theus_pipe_read(reads, found, sizeof(found), &count) == THEUS_PIPE_LATER && count == 0);
    CHECK(theus_pipe_write(writes, "abc", 3, &count) == THEUS_PIPE_DONE && count == 3);
    CHECK(theus_pipe_read(reads, found, sizeof(found), &count) == THEUS_PIPE_DONE && count == 3);
    CHECK(found[0] == 'a' && found[2] == 'c');
    theus_pipe_close(writes);
    CHECK(theus_pipe_read(reads, found, sizeof(found), &count) == THEUS_PIPE_END && count == 0);
    CHECK(theus_pipe_await(reads, true) == THEUS_PIPE_DONE);
    theus_pipe_close(reads);
    CHECK(theus_pipe_read(reads, found, sizeof(found), &count) == THEUS_PIPE_BROKEN && errno == EBADF);
}

static void
test_a_full_pipe_has_no_room_until_somebody_reads(void)
{
    static char block[4096];
    size_t count;
    open_pipe();
    while (theus_pipe_write(writes, block, sizeof(block), &count) == THEUS_PIPE_DONE) {
    }
    CHECK(count == 0);
    REQUIRE(theus_pipe_read(reads, block, sizeof(block), &count) == THEUS_PIPE_DONE);
    CHECK(theus_pipe_await(writes, false) == THEUS_PIPE_DONE);
    theus_pipe_close(writes);
    theus_pipe_close(reads);
}

static void
test_looking_that_does_not_pay_pauses(void)
{
    theus_look never = {0}, look = {.look_ns = 2 * MS};
    size_t count;
    open_pipe();
    CHECK(!theus_look_pays(&never) && theus_look_pays(&look));
    uint64_t begun = theus_clock_fine_ns(), pause = 0;
    for (int i = 0; i < 3; i++) { /* in vain, each time: four times as long a pause */
        CHECK(theus_pipe_look(reads, &look) == THEUS_PIPE_LATER);
        CHECK(look.pause_ns == (i == 0 ? MS : 4 * pause));
        pause = look.pause_ns;
    }
    CHECK(theus_clock_fine_ns() - begun >= 6 * MS);
    look.paused_until = UINT64_MAX;
    CHECK(!theus_look_pays(&look));
    look.look_ns = MS / 100;
    for (int i = 0; i < 10; i++) {
        CHECK(theus_pipe_look(reads, &look) == THEUS_PIPE_LATER && look.pause_ns <= 1000 * MS);
    }
    REQUIRE(theus_pipe_write(writes, "x", 1, &count) == THEUS_PIPE_DONE);
    for (int i = 0; i < 1000 && look.pause_ns > 0; i++) { /* that pays, unless somebody else gets the processor */
        CHECK(theus_pipe_look(reads, &look) == THEUS_PIPE_DONE);
    }
    CHECK(look.pause_ns == 0 && theus_look_pays(&look));
    theus_pipe_close(writes);
    theus_pipe_close(reads);
}

static void
test_a_sleeper_is_woken_by_a_byte_and_by_the_end(void)
{
    for (int with_a_byte = 0; with_a_byte < 2; with_a_byte++) {
        open_pipe();
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            theus_sleep_ns(2 * MS);
            _exit(with_a_byte && write(writes, "x", 1) != 1);
        }
        theus_pipe_close(writes);
        CHECK(theus_pipe_await(reads, true) == THEUS_PIPE_DONE);
        char found;
        size_t count;
        CHECK(theus_pipe_read(reads, &found, 1, &count) == (with_a_byte ? THEUS_PIPE_DONE : THEUS_PIPE_END));
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        theus_pipe_close(reads);
    }
}

static void
on_signal(int number)
{
    (void)number;
}

static void
test_a_signal_is_told(void)
{
    struct sigaction action = {.sa_handler = on_signal}; /* without SA_RESTART */
    REQUIRE(sigaction(SIGALRM, &action, NULL) == 0);
    open_pipe();
    /* It comes once more every millisecond: one before the sleep wakes nobody. */
    struct itimerval every = {.it_interval = {0, 1000}, .it_value = {0, 1000}}, never = {{0, 0}, {0, 0}};
    REQUIRE(setitimer(ITIMER_REAL, &every, NULL) == 0);
    CHECK(theus_pipe_await(reads, true) == THEUS_PIPE_SIGNAL);
    REQUIRE(setitimer(ITIMER_REAL, &never, NULL) == 0);
    theus_pipe_close(writes);
    theus_pipe_close(reads);
}

int
main(void)
{
    test_bytes_come_as_they_went();
    test_a_full_pipe_has_no_room_until_somebody_reads();
    test_looking_that_does_not_pay_pauses();
    test_a_sleeper_is_woken_by_a_byte_and_by_the_end();
    test_a_signal_is_told();
    return check_result();
}
