/* Shared memory that somebody has written into, and names that nobody gave out: a clean refusal, never a wrong block, a crash
 * or a look beyond the data.
 *
 * About a million mutations of an arena made by hand (fuzz_scene.h), by one seed, and for each the right answer is known:
 *
 *     headers    one to eight bytes, or one field, is another one, of an arena that lends and of one that does not
 *     files      of other sizes, unsealed, under other labels, under second names, or no files at all
 *     slots      word, leases and record, with right and wrong numbers in the token
 *     names      pids, descriptors and ids at random
 *     stale      each of a million names of one slot, after it was given back
 *     scribbles  another process writes anywhere in the control file, all the time
 *
 * All that on both backends, half of it on each. Loans: test_shm_fuzz_loans.c.
 *
 *     test_shm_fuzz [TIMES [SEED]]     TIMES as many of each; 1 by default */
#define _GNU_SOURCE

#include "fuzz_scene.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- headers --------------------------------------------------------------------------------------- */

#define FIELD(name) {offsetof(theus_shm_header, name), sizeof(((theus_shm_header *)0)->name)}

static const struct {
    size_t at, size;
} essential[] = {
    FIELD(magic), FIELD(format), FIELD(capacity), FIELD(fingerprint), FIELD(control_size),
    FIELD(data_size), FIELD(id), FIELD(data_fd), FIELD(closed),
};
enum { ESSENTIAL = sizeof(essential) / sizeof(essential[0]) };

static bool
header_is_good(const arena_files *it)
{
    const theus_shm_header *header = (const theus_shm_header *)it->control;
    /* Where there are seals, data without them are in a file on a disk: not these. */
    bool good = header->memory < (is_named() ? THEUS_MEMORY_BLOCKS : THEUS_MEMORY_FILE);
    for (unsigned i = 0; i < ESSENTIAL; i++) {
        bool unused = is_named() && essential[i].at == offsetof(theus_shm_header, data_fd);
        good = good && (unused || memcmp(it->control + essential[i].at, it->as_made + essential[i].at, essential[i].size) == 0);
    }
    return good;
}

static void
test_headers(long times, bool lends)
{
    arena_files it = files_new(lends);
    theus_block block;
    long refused = 0;
    for (long i = 0; i < times; i++) {
        unsigned field = check_random(&chance, ESSENTIAL);
        if (check_random(&chance, 2) == 0) {
            damage_bytes(it.control, sizeof(theus_shm_header));
        }
        else {
            size_t size = essential[field].size < 8 ? essential[field].size : 8;
            damage_number(it.control + essential[field].at, size);
        }
        if (check_random(&chance, 4) == 0) { /* participants, hints */
            damage_bytes(it.control + THEUS_SHM_PAGE, theus_shm_slots_at(CAPACITY) - THEUS_SHM_PAGE);
        }
        uint32_t slot = check_random(&chance, BLOCKS);
        theus_status status = theus_block_lease(&it.name, slot, 1, &block, NULL);
        if (header_is_good(&it)) {
            REQUIRE(status == THEUS_OK && block.size == BLOCK_BYTES && look_at(&block) == 3 * (slot + 1));
            theus_block_release(&block);
        }
        else {
            REQUIRE(status == THEUS_STALE || status == THEUS_BAD_TOKEN);
            refused++;
        }
        theus_arenas_forget();
        restore(&it);
    }
    CHECK(refused > times / 2 && refused < times); /* there were some of both */
    files_free(&it);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

/* Is the good header refused with these descriptors? */
static bool
is_refused(const arena_files *it, int control_fd, int data_fd)
{
    theus_arena_name name = it->name;
    theus_block block;
    name.control_fd = control_fd;
    ((theus_shm_header *)it->control)->data_fd = data_fd;
    theus_status status = theus_block_lease(&name, 3, 1, &block, NULL);
    if (status == THEUS_OK) {
        theus_block_release(&block);
    }
    theus_arenas_forget();
    ((theus_shm_header *)it->control)->data_fd = it->data_fd;
    return status == THEUS_STALE || status == THEUS_BAD_TOKEN;
}

static void
test_files_by_descriptor(void)
{
    arena_files it = files_new(false);
    CHECK(!is_refused(&it, it.control_fd, it.data_fd));
    const uint64_t sizes[] = {1, 100, 4095, 4096, 4097, it.control_size - 1, it.control_size + 1, it.control_size * 2};
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) { /* cut, or grown, before it was sealed */
        char *memory;
        int fd = file_new(THEUS_FILE_CONTROL, false, sizes[i], &memory);
        memcpy(memory, it.control, sizes[i] < it.control_size ? sizes[i] : it.control_size);
        REQUIRE(theus_shm_seal(fd, false) == THEUS_OK);
        CHECK(is_refused(&it, fd, it.data_fd));
        theus_shm_unmap(memory, sizes[i]);
        theus_shm_close(fd);
    }
    const uint64_t data_sizes[] = {0, 1, DATA_BYTES - 4096, DATA_BYTES - 1, DATA_BYTES + 1};
    for (unsigned i = 0; i < sizeof(data_sizes) / sizeof(data_sizes[0]); i++) {
        int fd = file_new(THEUS_FILE_DATA, false, data_sizes[i], NULL);
        REQUIRE(theus_shm_seal(fd, true) == THEUS_OK);
        CHECK(is_refused(&it, it.control_fd, fd));
        theus_shm_close(fd);
    }
    char *memory;
    int unsealed = file_new(THEUS_FILE_CONTROL, false, it.control_size, &memory);
    memcpy(memory, it.control, it.control_size);
    CHECK(is_refused(&it, unsealed, it.data_fd));
    CHECK(is_refused(&it, it.data_fd, it.data_fd) && is_refused(&it, it.control_fd, it.control_fd)); /* under the other's label */
    int writable = file_new(THEUS_FILE_DATA, false, DATA_BYTES, NULL);
    REQUIRE(theus_shm_seal(writable, false) == THEUS_OK);
    CHECK(is_refused(&it, it.control_fd, writable));

    int pipes[2], others[4] = {open("/dev/zero", O_RDWR), open("/", O_RDONLY), open("/proc/self/mem", O_RDONLY), -1};
    REQUIRE(pipe(pipes) == 0);
    for (int i = 0; i < 4; i++) {
        CHECK(is_refused(&it, others[i], it.data_fd) && is_refused(&it, it.control_fd, others[i]));
    }
    CHECK(is_refused(&it, pipes[0], it.data_fd) && is_refused(&it, it.control_fd, pipes[1]));
    CHECK(is_refused(&it, INT32_MAX, it.data_fd) && is_refused(&it, it.control_fd, INT32_MIN));
    for (int i = 0; i < 3; i++) {
        close(others[i]);
    }
    close(pipes[0]);
    close(pipes[1]);
    theus_shm_unmap(memory, it.control_size);
    theus_shm_close(unsealed);
    theus_shm_close(writable);
    files_free(&it);
}

typedef struct {
    char there[512], aside[512];
} two_paths;

/* Is the arena refused with something else under the name of one of its files? `put` makes that something. */
static void
check_instead(const arena_files *it, theus_file_kind kind, bool (*put)(const two_paths *paths))
{
    two_paths paths;
    theus_block block;
    snprintf(paths.there, sizeof(paths.there), "%s/%s", theus_files_folder(), theus_file_name_of(&it->name, kind).text);
    snprintf(paths.aside, sizeof(paths.aside), "%s/aside", theus_files_folder());
    REQUIRE(rename(paths.there, paths.aside) == 0);
    if (put(&paths)) {
        theus_status status = theus_block_lease(&it->name, 3, 1, &block, NULL);
        CHECK(status == THEUS_STALE || status == THEUS_BAD_TOKEN || status == THEUS_REFUSED);
        theus_arenas_forget();
    }
    (void)remove(paths.there);
    REQUIRE(rename(paths.aside, paths.there) == 0);
}

static bool
put_nothing(const two_paths *paths)
{
    (void)paths;
    return true;
}

static bool
put_second_name(const two_paths *paths)
{
    return link(paths->aside, paths->there) == 0;
}

static bool
put_link(const two_paths *paths)
{
    return symlink(paths->aside, paths->there) == 0;
}

static bool
put_pipe(const two_paths *paths)
{
    return mkfifo(paths->there, 0600) == 0;
}

static bool
put_folder(const two_paths *paths)
{
    return mkdir(paths->there, 0700) == 0;
}

/* A file with what is in the right one, of another size. */
static bool
put_size(const two_paths *paths, off_t size)
{
    static char bytes[DATA_BYTES];
    int from = open(paths->aside, O_RDONLY), to = open(paths->there, O_RDWR | O_CREAT | O_EXCL, 0600);
    REQUIRE(from >= 0 && to >= 0);
    uint64_t length = theus_file_read(from, bytes, sizeof(bytes));
    REQUIRE(theus_file_append(to, bytes, length) && ftruncate(to, size) == 0);
    close(from);
    close(to);
    return true;
}

static bool
put_empty(const two_paths *paths)
{
    return put_size(paths, 0);
}

static bool
put_byte(const two_paths *paths)
{
    return put_size(paths, 1);
}

static bool
put_page(const two_paths *paths)
{
    return put_size(paths, THEUS_SHM_PAGE);
}

static bool
put_large(const two_paths *paths)
{
    return put_size(paths, DATA_BYTES * 2);
}

/* Of the right size and content, but locked by nobody: its owner is dead, or never was. */
static bool
put_copy(const two_paths *paths)
{
    struct stat about;
    REQUIRE(stat(paths->aside, &about) == 0);
    return put_size(paths, about.st_size);
}

static void
test_files_by_name(void)
{
    static bool (*const puts[])(const two_paths *) = {put_nothing, put_second_name, put_link,  put_pipe, put_folder,
                                                      put_empty,   put_byte,        put_page, put_large};
    arena_files it = files_new(false);
    theus_block block;
    for (unsigned i = 0; i < sizeof(puts) / sizeof(puts[0]); i++) {
        check_instead(&it, THEUS_FILE_CONTROL, puts[i]);
        check_instead(&it, THEUS_FILE_DATA, puts[i]);
    }
    check_instead(&it, THEUS_FILE_CONTROL, put_copy);
    REQUIRE(theus_block_lease(&it.name, 3, 1, &block, NULL) == THEUS_OK); /* all is as it was */
    CHECK(look_at(&block) == 3 * 4);
    theus_block_release(&block);
    files_free(&it);
}

/* ---- slots -------------------------------------------------------------------------------------------------- */

static void
damage_slot(theus_slot *slot)
{
    switch (check_random(&chance, 8)) {
    case 0:
        damage_number((char *)&slot->offset, 8);
        break;
    case 1:
        damage_number((char *)&slot->size, 8);
        break;
    case 2:
        damage_number((char *)&slot->label_length, 4);
        break;
    case 3:
        atomic_store(&slot->word, theus_slot_word(1 + check_random(&chance, 2), (theus_slot_state)check_random(&chance, 8), 0));
        break;
    case 4:
        break;
    default:
        damage_bytes((char *)slot, sizeof(*slot));
    }
}

static void
test_slots(long times)
{
    arena_files it = files_new(false);
    theus_block known, block;
    REQUIRE(theus_block_lease(&it.name, 0, 1, &known, NULL) == THEUS_OK); /* so that the arena stays known */
    long leased = 0;
    for (long i = 0; i < times; i++) {
        uint32_t index = 1 + check_random(&chance, BLOCKS - 1), generation = 1;
        theus_slot *slot = &it.slots.slots[index];
        damage_slot(slot);
        if (check_random(&chance, 4) == 0) {
            generation = (uint32_t)odd_number();
        }
        uint64_t word = atomic_load(&slot->word);
        bool good = generation > 0 && theus_slot_state_of(word) == THEUS_SLOT_LIVE
                    && theus_slot_generation_of(word) == generation && slot->size <= DATA_BYTES
                    && slot->offset <= DATA_BYTES - slot->size;
        theus_status status = theus_block_lease(&it.name, index, generation, &block, NULL);
        REQUIRE(good ? status == THEUS_OK : status == THEUS_STALE || status == THEUS_BAD_TOKEN);
        REQUIRE(theus_slot_label_length(slot) <= THEUS_LABEL_MAX);
        if (status == THEUS_OK) {
            (void)look_at(&block);
            theus_block_release(&block);
            leased++;
        }
        memcpy(slot, it.as_made + ((char *)slot - it.control), sizeof(*slot));
        index = (uint32_t)odd_number();
        status = theus_block_lease(&it.name, index, 1, &block, NULL);
        REQUIRE(index < BLOCKS ? status == THEUS_OK : status == THEUS_BAD_TOKEN);
        if (status == THEUS_OK) {
            theus_block_release(&block);
        }
    }
    CHECK(leased > times / 10 && leased < times - times / 10);
    theus_block_release(&known);
    files_free(&it);
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static void
test_names(long times)
{
    arena_files it = files_new(false);
    theus_block block;
    for (long i = 0; i < times; i++) {
        theus_arena_name name = it.name;
        unsigned what = 1 + check_random(&chance, 7); /* which of its three parts is another one */
        name.pid = what & 1 ? check_random(&chance, 70000) + 1 : name.pid;
        name.control_fd = what & 2 ? (int32_t)(odd_number() - 1) : name.control_fd;
        if (what & 4) {
            damage_bytes((char *)name.id, sizeof(name.id));
        }
        theus_status status = theus_block_lease(&name, check_random(&chance, BLOCKS), 1, &block, NULL);
        if (memcmp(&name, &it.name, sizeof(name)) == 0) {
            REQUIRE(status == THEUS_OK);
            theus_block_release(&block);
            theus_arenas_forget();
        }
        else { /* of another process's files: perhaps we may not even look */
            REQUIRE(status == THEUS_STALE || status == THEUS_BAD_TOKEN || status == THEUS_REFUSED);
        }
    }
    files_free(&it);
}

/* One slot, reused as often as that: each name was good for one tenant, and for nobody after it. */
static void
test_stale_names(uint32_t times)
{
    theus_zone *zone = zone_new(0);
    theus_block block, other;
    theus_refusal refusal;
    theus_arena_name name;
    for (uint32_t i = 1; i <= times; i++) {
        theus_status status = theus_zone_alloc(zone, "x", 1, 64, THEUS_ZEROED, &block, &refusal);
        REQUIRE(status == THEUS_OK && block.slot == 0 && block.generation == i);
        theus_arena_name_of(block.arena, &name);
        uint32_t before = i == 1 ? 1 : 1 + check_random(&chance, i - 1);
        if (before < i) {
            REQUIRE(theus_block_lease(&name, 0, before, &other, NULL) == THEUS_STALE);
            REQUIRE(theus_block_lease(&name, 0, i + before, &other, NULL) == THEUS_BAD_TOKEN); /* nobody had that yet */
        }
        theus_block_release(&block);
        REQUIRE(theus_block_lease(&name, 0, i, &other, NULL) == THEUS_STALE);
    }
    CHECK_SOUND(theus_zone_check(zone));
    theus_zone_free(zone);
}

/* ---- scribbles ------------------------------------------------------------------------------------------------------ */

static void
scribble(arena_files *it)
{
    for (;;) {
        uint64_t at = check_random(&chance, (unsigned)it->control_size);
        if (check_random(&chance, 64) == 0) {
            restore(it); /* else everything would soon be refused at the door */
        }
        else if (check_random(&chance, 2) == 0) {
            it->control[at] = (char)check_random(&chance, 256);
        }
        else {
            damage_number(it->control + at / 8 * 8, 8);
        }
    }
}

static void
test_scribbles(long times)
{
    arena_files it = files_new(false);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* if a check ends the test, it ends us */
        scribble(&it);
    }
    long leased = 0;
    for (long i = 0; i < times; i++) {
        theus_block block;
        theus_status status = theus_block_lease(&it.name, check_random(&chance, BLOCKS), 1, &block, NULL);
        if (status == THEUS_OK) {
            (void)look_at(&block);
            (void)theus_block_is_live(&block);
            theus_block_release(&block);
            leased++;
        }
        if (check_random(&chance, 50) == 0) {
            theus_arenas_forget();
        }
    }
    CHECK(leased > 0);
    int status;
    REQUIRE(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
    restore(&it);
    files_free(&it);
}

static long times = 1;

static void
test_backend(void)
{
    test_headers(times * 15000 / SLOWER, false);
    test_headers(times * 10000 / SLOWER, true);
    if (is_named()) {
        test_files_by_name();
    }
    else {
        test_files_by_descriptor();
    }
    test_slots(times * 400000);
    test_names(times * 25000 / SLOWER);
    test_stale_names((uint32_t)times * 1000000 / SLOWER);
    test_scribbles(times * 50000);
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
