/* Shared memory with names: who finds it, what the dead leave, and who removes that. Every step of owner and sweeper is one to be
 * killed at; afterwards one sweep leaves an empty folder, and no living owner loses anything. */
#define _GNU_SOURCE

#include "shm_ledger.h"
#include "shm_sweep.h"
#include "shm_zone.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { PATIENCE_S = 20 }; /* for what has to come, and may be slow to */

static char folder[] = "/dev/shm/theus-test-XXXXXX";

/* ---- helpers -------------------------------------------------------------------------------- */

static theus_zone *
zone_new(void)
{
    theus_zone *zone;
    theus_status status = theus_zone_new("test", 0, &zone);
    REQUIRE(status == THEUS_OK);
    theus_zone_choose(zone, THEUS_NAMED);
    return zone;
}

static theus_block
alloc_of(theus_zone *zone, uint64_t size)
{
    theus_block block;
    theus_refusal refusal;
    theus_status status = theus_zone_alloc(zone, "x", 1, size, THEUS_ZEROED, &block, &refusal);
    REQUIRE(status == THEUS_OK);
    memset(theus_block_data(&block), 7, size);
    return block;
}

static unsigned
files(void)
{
    unsigned count = 0;
    DIR *entries = opendir(folder);
    REQUIRE(entries != NULL);
    for (struct dirent *it; (it = readdir(entries)) != NULL;) {
        count += it->d_name[0] != '.';
    }
    closedir(entries);
    return count;
}

typedef struct {
    unsigned seen[THEUS_LEFT_FOREIGN + 1], removed;
    theus_left last;
    theus_arena_name last_name;
} tally;

static void
count(void *context, const theus_left *left)
{
    tally *it = context;
    it->seen[left->why]++;
    it->removed += left->removed;
    it->last = *left;
    uint32_t format;
    theus_file_kind kind;
    (void)theus_file_name_parse(left->name, &it->last_name, &format, &kind);
}

static tally
sweep(bool remove)
{
    tally found = {0};
    CHECK(theus_sweep(folder, remove, count, &found) == THEUS_OK);
    return found;
}

static const char *deadly_step;
static long deadly_passes;

static void
die_at_step(const char *step)
{
    if (deadly_step != NULL && strcmp(step, deadly_step) == 0 && deadly_passes-- == 0) {
        kill(getpid(), SIGKILL);
    }
}

/* Runs `body` in a child, which is killed at a step; its exit status, or -signal. */
static int
in_child(const char *step, long passes, void (*body)(void))
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        deadly_step = step;
        deadly_passes = passes;
        body();
        _exit(check_result());
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- names -------------------------------------------------------------------------------------- */

static void
test_names(void)
{
    theus_arena_name name = {.pid = 4242, .control_fd = THEUS_BY_NAME}, again;
    uint32_t format;
    theus_file_kind kind;
    for (int i = 0; i < 16; i++) {
        name.id[i] = (unsigned char)(i * 17);
    }
    for (int i = THEUS_FILE_CONTROL; i <= THEUS_FILE_DATA; i++) {
        theus_file_name text = theus_file_name_of(&name, (theus_file_kind)i);
        REQUIRE(theus_file_name_parse(text.text, &again, &format, &kind));
        CHECK(memcmp(&name, &again, sizeof(name)) == 0 && format == THEUS_SHM_FORMAT && (int)kind == i);
        /* Whatever is called otherwise, if only by a letter, is not ours. */
        for (size_t at = 0; at < strlen(text.text); at++) {
            theus_file_name other = text;
            other.text[at] = '~';
            CHECK(!theus_file_name_parse(other.text, &again, &format, &kind));
            other.text[at] = '\0';
            CHECK(!theus_file_name_parse(other.text, &again, &format, &kind));
        }
    }
}

static void
test_folder(void)
{
    CHECK(strcmp(theus_files_folder(), folder) == 0);
    theus_files_choose_folder("/elsewhere"); /* too late */
    CHECK(strcmp(theus_files_folder(), folder) == 0);
    CHECK(theus_files_room(THEUS_NAMED, THEUS_MEMORY_SHARED) > 0);
    int fd;
    CHECK(theus_name_create("/nowhere", false, 1, &fd) == THEUS_NO_FOLDER);
    CHECK(theus_name_create("/proc", false, 1, &fd) == THEUS_UNSUPPORTED);
    CHECK(theus_name_create(folder, false, UINT64_MAX, &fd) == THEUS_NO_ROOM);
    CHECK(theus_sweep("/nowhere", true, NULL, NULL) == THEUS_NO_FOLDER);
    REQUIRE(theus_name_create(folder, false, 1, &fd) == THEUS_OK);
    CHECK(files() == 0);
    CHECK(theus_name_give(fd, folder, "x") == THEUS_OK && files() == 1);
    CHECK(theus_name_give(fd, folder, "x") == THEUS_REFUSED);
    CHECK(theus_name_remove(folder, "x") && !theus_name_remove(folder, "x"));
    theus_shm_close(fd);
}

/* ---- borrowing ---------------------------------------------------------------------------------- */

static void
test_a_stranger_borrows_by_name(void)
{
    int to_child[2], to_parent[2];
    REQUIRE(pipe(to_child) == 0 && pipe(to_parent) == 0);
    pid_t child = fork(); /* before there is anything to inherit */
    REQUIRE(child >= 0);
    if (child == 0) {
        theus_block sent, own;
        REQUIRE(read(to_child[0], &sent, sizeof(sent)) == sizeof(sent));
        theus_arena_name name;
        REQUIRE(read(to_child[0], &name, sizeof(name)) == sizeof(name));
        CHECK(theus_block_lease(&name, sent.slot, sent.generation, &own, NULL) == THEUS_OK);
        CHECK(theus_block_data(&own)[sent.size - 1] == 7 && !theus_block_is_owned(&own));
        CHECK(theus_block_retire(&own) == THEUS_BORROWED && sweep(true).removed == 0);
        CHECK(write(to_parent[1], "1", 1) == 1);
        char go;
        CHECK(read(to_child[0], &go, 1) == 1); /* the owner is gone: what we see, stays; nothing new comes */
        CHECK(theus_block_data(&own)[sent.size - 1] == 7 && !theus_block_is_live(&own));
        theus_block other;
        theus_block_release(&own);
        theus_arenas_forget();
        CHECK(theus_block_lease(&name, sent.slot, sent.generation, &other, NULL) == THEUS_STALE);
        _exit(check_result());
    }
    theus_zone *zone = zone_new();
    theus_block block = alloc_of(zone, 100000);
    theus_arena_name name;
    theus_arena_name_of(block.arena, &name);
    CHECK(name.control_fd == THEUS_BY_NAME && files() == 2);
    CHECK(write(to_child[1], &block, sizeof(block)) == sizeof(block) && write(to_child[1], &name, sizeof(name)) == sizeof(name));
    char answer;
    CHECK(read(to_parent[0], &answer, 1) == 1);
    theus_zone_free(zone);
    theus_block_release(&block);
    CHECK(files() == 0);
    CHECK(write(to_child[1], "1", 1) == 1);
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && status == 0);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_parent[i]);
    }
}

static void
test_forged_names(void)
{
    theus_zone *zone = zone_new();
    theus_block block = alloc_of(zone, 1000), out;
    theus_arena_name name;
    theus_arena_name_of(block.arena, &name);
    theus_arena_name wrong = name;
    wrong.pid++;
    wrong.id[3] ^= 1;
    CHECK(theus_block_lease(&wrong, block.slot, block.generation, &out, NULL) == THEUS_STALE);
    wrong = name;
    wrong.control_fd = -2; /* no name and no descriptor */
    wrong.id[0] ^= 1;
    CHECK(theus_block_lease(&wrong, block.slot, block.generation, &out, NULL) == THEUS_STALE);
    /* What lies there under such a name, and is none. */
    wrong = name;
    wrong.id[5] ^= 1;
    char path[300];
    snprintf(path, sizeof(path), "%s/%s", folder, theus_file_name_of(&wrong, THEUS_FILE_CONTROL).text);
    for (int size = 0; size <= 8192; size += 4096) {
        int fd = open(path, O_CREAT | O_RDWR, 0600);
        REQUIRE(fd >= 0 && ftruncate(fd, size) == 0);
        close(fd);
        CHECK(theus_block_lease(&wrong, 0, 1, &out, NULL) == THEUS_BAD_TOKEN);
    }
    REQUIRE(unlink(path) == 0 && symlink("/dev/zero", path) == 0);
    CHECK(theus_block_lease(&wrong, 0, 1, &out, NULL) == THEUS_STALE);
    REQUIRE(unlink(path) == 0);
    theus_block_release(&block);
    theus_zone_free(zone);
    CHECK(files() == 0);
}

/* ---- deaths ---------------------------------------------------------------------------------------- */

/* Two arenas, of which one goes at once and the other at the end. */
static void
live(void)
{
    theus_zone *zone = zone_new();
    theus_block kept = alloc_of(zone, 1000), large = alloc_of(zone, 40 << 20);
    theus_block_release(&large);
    (void)theus_zone_tidy(zone);
    theus_block_release(&kept);
    theus_zone_free(zone);
}

static void
clean_up(void)
{
    (void)sweep(true);
}

static const char *const owner_steps[] = {"show: no name", "show: control", "show: both",
                                          "hide: both",    "hide: control", "hide: none"};
static const char *const sweeper_steps[] = {"sweep: dead", "sweep: data", "sweep: control"};

static void
test_killed_at_every_step(void)
{
    theus_zone *zone = zone_new(); /* of somebody who lives all the time */
    theus_block block = alloc_of(zone, 1000);
    for (size_t i = 0; i < sizeof(owner_steps) / sizeof(owner_steps[0]); i++) {
        for (long passes = 0; passes < 2; passes++) {
            CHECK(in_child(owner_steps[i], passes, live) == -SIGKILL);
            unsigned left = files() - 2;
            CHECK(left <= 4);
            for (size_t j = 0; left > 0 && j < sizeof(sweeper_steps) / sizeof(sweeper_steps[0]); j++) {
                unsigned before = files();
                int end = in_child(sweeper_steps[j], 0, clean_up); /* the first one leaves work to the next */
                CHECK(end == -SIGKILL || (end == 0 && files() == 2));
                CHECK(files() <= before);
            }
            tally found = sweep(true);
            CHECK(found.seen[THEUS_LEFT_ALIVE] == 1 && files() == 2);
            CHECK(theus_block_is_live(&block) && theus_block_data(&block)[999] == 7);
        }
    }
    theus_block_release(&block);
    theus_zone_free(zone);
    CHECK(files() == 0);
}

static void
test_what_a_sweep_tells(void)
{
    CHECK(in_child("show: both", 1, live) == -SIGKILL); /* two arenas */
    tally found = sweep(false);
    CHECK(found.seen[THEUS_LEFT_DEAD] == 2 && found.removed == 0 && files() == 4);
    CHECK(strcmp(found.last.session, "test") == 0 && found.last.pid > 0 && found.last.made_ns > 0);
    CHECK(found.last.bytes >= theus_shm_control_size(64, false));
    theus_block out;
    CHECK(theus_block_lease(&found.last_name, 0, 1, &out, NULL) == THEUS_STALE); /* its files are there, and it is dead */
    found = sweep(true);
    CHECK(found.removed == 2 && files() == 0);
    CHECK(in_child("show: both", 0, live) == -SIGKILL);
    theus_zone *zone = zone_new();
    theus_block block = alloc_of(zone, 1); /* the first one sweeps */
    CHECK(files() == 2);
    theus_block_release(&block);
    theus_zone_free(zone);
}

/* A parent that is killed right after a fork: the child looks on, and nobody takes the parent for living. */
static void
orphan_a_child(void)
{
    theus_zone *zone = zone_new();
    theus_block block = alloc_of(zone, 1000);
    pid_t parent = getpid(), child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        kill(parent, SIGKILL);
        /* Its files are closed before it loses its children, but where it had more threads (of a sanitizer): by the last of
         * them, a moment later. */
        uint64_t end = theus_clock_fine_ns() + PATIENCE_S * 1000000000ull;
        while ((getppid() == parent || theus_block_is_live(&block)) && theus_clock_fine_ns() < end) {
            theus_yield();
        }
        bool gone = !theus_block_is_live(&block);
        tally found = sweep(true);
        bool good = gone && found.removed == 1 && files() == 0 && theus_block_data(&block)[999] == 7;
        theus_block own = alloc_of(zone, 10);
        good = good && files() == 2 && sweep(true).seen[THEUS_LEFT_ALIVE] == 1 && own.arena->name.pid == (uint32_t)getpid();
        theus_block_release(&own);
        theus_zone_free(zone);
        theus_block_release(&block);
        _exit(good && files() == 0 ? check_result() : 1);
    }
    for (;;) {
        pause();
    }
}

static void
test_a_child_keeps_nobody_alive(void)
{
    REQUIRE(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0); /* the orphan comes to us */
    CHECK(in_child(NULL, 0, orphan_a_child) == -SIGKILL);
    int status;
    REQUIRE(wait(&status) > 0 && status == 0);
}

/* Eight processes that come, sweep and go, or are killed in the middle, as often as they like. */
static void
come_and_go(void)
{
    unsigned long long seed = (unsigned long long)getpid();
    for (int round = 0; round < 30; round++) {
        theus_zone *zone = zone_new();
        theus_block block = alloc_of(zone, 1000);
        (void)sweep(true);
        theus_block out;
        theus_arena_name name;
        theus_arena_name_of(block.arena, &name);
        CHECK(theus_block_is_live(&block) && theus_block_lease(&name, block.slot, block.generation, &out, NULL) == THEUS_OK);
        struct stat about;
        char path[300];
        snprintf(path, sizeof(path), "%s/%s", folder, theus_file_name_of(&name, THEUS_FILE_DATA).text);
        CHECK(stat(path, &about) == 0 && (about.st_mode & 0777) == 0400);
        if (check_random(&seed, 30) == 0 && check_result() == 0) {
            kill(getpid(), SIGKILL);
        }
        theus_block_release(&out);
        theus_block_release(&block);
        theus_zone_free(zone);
    }
}

static void
test_many_come_and_go(void)
{
    enum { PROCESSES = 8 };
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        REQUIRE(children[i] >= 0);
        if (children[i] == 0) {
            come_and_go();
            _exit(check_result());
        }
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status;
        REQUIRE(waitpid(children[i], &status, 0) == children[i]);
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) == 0);
    }
    (void)sweep(true);
    CHECK(files() == 0);
}

static void
test_out_of_memory(void)
{
    for (long n = 1;; n++) {
        theus_zone *zone = zone_new();
        theus_block block;
        theus_refusal refusal;
        theus_alloc_fail_at(n);
        theus_status status = theus_zone_alloc(zone, "x", 1, 1000, THEUS_ZEROED, &block, &refusal);
        theus_alloc_fail_at(-1);
        if (status == THEUS_OK) {
            theus_block_release(&block);
            theus_zone_free(zone);
            break;
        }
        CHECK(status == THEUS_NOMEM && files() == 0);
        theus_zone_free(zone);
    }
    CHECK(files() == 0);
}

static void
make_file(const char *name)
{
    char path[300];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0600);
    REQUIRE(fd >= 0);
    close(fd);
}

static void
test_data_alone_are_nobodys(void)
{
    theus_arena_name name = {.pid = 1, .control_fd = THEUS_BY_NAME};
    make_file(theus_file_name_of(&name, THEUS_FILE_DATA).text);
    tally found = sweep(true);
    CHECK(found.seen[THEUS_LEFT_ORPHAN] == 1 && found.removed == 1 && files() == 0);
}

static void
keep_a_ledger(void)
{
    int fd;
    theus_arena_name name;
    REQUIRE(theus_ledger_open(&fd, &name) == THEUS_OK);
    CHECK(theus_file_append(fd, "theus_one\n", 10) && theus_file_append(fd, "other\n", 6) && theus_file_append(fd, "theus_cut", 9));
    make_file("theus_one");
    make_file("other");
    make_file("theus_cut");
    CHECK(sweep(true).seen[THEUS_LEFT_ALIVE] == 1 && files() == 4);
}

static void
test_ledgers(void)
{
    CHECK(in_child(NULL, 0, keep_a_ledger) == 0);
    theus_alloc_fail_at(1);
    tally found = sweep(true);
    theus_alloc_fail_at(-1);
    CHECK(found.removed == 0 && files() == 4); /* what stands there must not lose it */
    CHECK(in_child("sweep: entry", 0, clean_up) == -SIGKILL && files() == 3);
    found = sweep(true);
    CHECK(found.removed == 1 && files() == 2);
    CHECK(theus_name_remove(folder, "other") && theus_name_remove(folder, "theus_cut"));
}

static void
test_the_end_takes_names_away(void)
{
    theus_zone *zone = zone_new();
    theus_block block = alloc_of(zone, 1000);
    CHECK(files() == 2);
    CHECK(in_child(NULL, 0, theus_arenas_hide) == 0 && files() == 2); /* a child's end is not ours */
    theus_arenas_hide();
    CHECK(files() == 0 && theus_block_data(&block)[999] == 7);
    theus_arenas_hide();
    theus_block_release(&block);
    theus_zone_free(zone);
}

int
main(void)
{
    long before = theus_alloc_live();
    int fd;
    if (mkdtemp(folder) == NULL || theus_name_create(folder, false, 1, &fd) != THEUS_OK) {
        return 77; /* no folder in memory here */
    }
    theus_shm_close(fd);
    theus_files_choose_folder(folder);
    theus_shm_at_step = die_at_step;
    test_names();
    test_folder();
    test_a_stranger_borrows_by_name();
    test_forged_names();
    test_killed_at_every_step();
    test_what_a_sweep_tells();
    test_a_child_keeps_nobody_alive();
    test_many_come_and_go();
    test_out_of_memory();
    test_data_alone_are_nobodys();
    test_ledgers();
    test_the_end_takes_names_away();
    theus_arenas_forget();
    CHECK(files() == 0 && rmdir(folder) == 0);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
