/* Blocks of shared memory between processes: inherited by forks, lent to strangers, and left by the dead. */
#define _GNU_SOURCE

#include "zone_scene.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- forks ------------------------------------------------------------------------------------------- */

typedef struct {
    theus_zone *zone;
    theus_block *block;
    int go, done; /* pipes */
} family;

static void
look_from_child(void *arg)
{
    family *it = arg;
    theus_refusal refusal;
    theus_arena_name name;
    CHECK(is_filled(it->block, 5) && !theus_block_is_owned(it->block) && it->block->arena->self != THEUS_SHM_OWNER);
    CHECK(theus_block_retire(it->block) == THEUS_BORROWED && theus_block_is_live(it->block));
    CHECK(theus_zone_list(it->zone, NULL, 0) == 0 && FIGURE(it->zone, births) == 0);
    CHECK(alloc_status(it->zone, "mine", MIB, &refusal) == THEUS_OK);
    theus_block own = alloc_of(it->zone, "mine", 64);
    theus_arena_name_of(own.arena, &name);
    CHECK(name.pid == theus_process_id());
    theus_block_release(&own);
    theus_block_release(it->block);
    theus_zone_free(it->zone);
}

static void
write_from_child(void *arg)
{
    family *it = arg;
    theus_block_data(it->block)[0] = 6;
}

/* Says that it looks, waits, and looks again. */
static void
look_for_long(void *arg)
{
    family *it = arg;
    char byte = 0;
    REQUIRE(write(it->done, &byte, 1) == 1 && read(it->go, &byte, 1) == 1);
    CHECK(is_filled(it->block, 5));
    theus_block_release(it->block);
}

static void
test_forks(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 100000);
    memset(theus_block_data(&block), 5, block.size);
    family it = {zone, &block, -1, -1};
    CHECK(in_child(look_from_child, &it) == 0);
    CHECK(in_child(write_from_child, &it) != 0); /* SIGSEGV, or what a sanitizer makes of it */
    CHECK(is_filled(&block, 5) && theus_block_is_live(&block) && theus_block_is_owned(&block));
    CHECK_SOUND(theus_zone_check(zone));
    theus_block_release(&block);
    (void)theus_zone_tidy(zone); /* the one who wrote died with its lease */
    CHECK(FIGURE(zone, lingering) == 0 && FIGURE(zone, deaths) == 1);
    theus_zone_free(zone);
}

static void
test_a_death_that_is_known_ends_leases(void)
{
    theus_zone *zone = zone_new(0), *other = zone_new(0);
    theus_block block = alloc_of(zone, "x", 100000), more = alloc_of(other, "y", 100);
    memset(theus_block_data(&block), 5, block.size);
    family it = {zone, &block, -1, -1};
    CHECK(theus_zones_recover() == 0);
    CHECK(in_child(write_from_child, &it) != 0); /* with a lease in either zone */
    CHECK(theus_zones_recover() == 2 && theus_zones_recover() == 0);
    theus_block_release(&block);
    theus_block_release(&more);
    CHECK(FIGURE(zone, lingering) == 0 && FIGURE(zone, deaths) == 1 && FIGURE(other, deaths) == 1);
    CHECK_SOUND(theus_zone_check(zone));
    theus_zone_free(zone);
    theus_zone_free(other);
}

static void
test_fork_keeps_what_it_sees(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 100000);
    memset(theus_block_data(&block), 5, block.size);
    int go[2], done[2];
    REQUIRE(pipe(go) == 0 && pipe(done) == 0);
    family it = {zone, &block, go[0], done[1]};
    pid_t child = fork();
    if (child == 0) {
        look_for_long(&it);
        _exit(check_result());
    }
    char byte;
    uint64_t place = block.offset;
    theus_block_release(&block); /* at once: the child may not have run yet */
    CHECK(FIGURE(zone, lingering) == 1);
    theus_block other = alloc_of(zone, "y", 100000);
    CHECK(other.offset != place);
    memset(theus_block_data(&other), 9, other.size);
    REQUIRE(read(done[0], &byte, 1) == 1);
    CHECK(theus_zones_recover() == 0 && FIGURE(zone, lingering) == 1); /* it lives */
    REQUIRE(write(go[1], &byte, 1) == 1);
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    theus_block_release(&other);
    other = alloc_of(zone, "z", 64); /* who allocates finds what has been given back */
    CHECK(FIGURE(zone, lingering) == 0 && FIGURE(zone, deaths) == 2);
    theus_block_release(&other);
    theus_zone_free(zone);
    for (int i = 0; i < 2; i++) {
        close(go[i]);
        close(done[i]);
    }
}

/* Its kernel gives it no new mappings. What it inherited, which can write, is none of its own all the same. */
static void
test_a_child_that_may_not_map(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 100000);
    memset(theus_block_data(&block), 5, block.size);
    family it = {zone, &block, -1, -1};
    struct rlimit limit, none;
    REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
    none = limit;
    none.rlim_cur = 4096;
    REQUIRE(setrlimit(RLIMIT_AS, &none) == 0);
    pid_t child = fork();
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0 && child >= 0);
    if (child == 0) {
        write_from_child(&it);
        _exit(0);
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(status != 0 && is_filled(&block, 5));
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    CHECK(FIGURE(zone, lingering) == 0);
    theus_zone_free(zone);
}

/* ---- strangers ------------------------------------------------------------------------------------------- */

typedef struct {
    theus_arena_name name;
    uint32_t slot, generation;
} token;

/* A process that does not descend from the owner's arena: it was forked before there was one. */
static void
borrower_main(int requests, int answers)
{
    token token;
    theus_block held = {0};
    while (read(requests, &token, sizeof(token)) == sizeof(token)) {
        theus_block block;
        char byte = 0;
        theus_status status = theus_block_lease(&token.name, token.slot, token.generation, &block, NULL);
        if (status == THEUS_OK) {
            byte = theus_block_data(&block)[block.size - 1];
            CHECK(!theus_block_is_owned(&block));
            if (held.arena != NULL) {
                theus_block_release(&held);
            }
            held = block;
        }
        int answer = status == THEUS_OK ? byte : status;
        REQUIRE(write(answers, &answer, sizeof(answer)) == sizeof(answer));
    }
    _exit(check_result());
}

static int
ask(int requests, int answers, const theus_block *block)
{
    token token = {.slot = block->slot, .generation = block->generation};
    int answer;
    theus_arena_name_of(block->arena, &token.name);
    REQUIRE(write(requests, &token, sizeof(token)) == sizeof(token));
    REQUIRE(read(answers, &answer, sizeof(answer)) == sizeof(answer));
    return answer;
}

static void
test_borrowers(void)
{
    int requests[2], answers[2];
    REQUIRE(pipe(requests) == 0 && pipe(answers) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(requests[1]);
        borrower_main(requests[0], answers[1]);
    }
    theus_zone *zone = zone_new(0);
    theus_block a = alloc_of(zone, "a", 1000), b = alloc_of(zone, "b", 50 * MIB);
    memset(theus_block_data(&a), 11, a.size);
    memset(theus_block_data(&b), 12, b.size);
    CHECK(ask(requests[1], answers[0], &a) == 11 && ask(requests[1], answers[0], &b) == 12);
    CHECK(ask(requests[1], answers[0], &a) == 11); /* and still looks at it */
    theus_block again = a;
    again.generation++;
    CHECK(ask(requests[1], answers[0], &again) == THEUS_BAD_TOKEN);
    CHECK(theus_block_retire(&a) == THEUS_OK);
    CHECK(ask(requests[1], answers[0], &a) == THEUS_STALE);
    theus_block_release(&a);
    CHECK(FIGURE(zone, lingering) == 1 && theus_zone_tidy(zone) == 0 && FIGURE(zone, lingering) == 1);
    kill(child, SIGKILL);
    int status;
    REQUIRE(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    CHECK(theus_zone_tidy(zone) > 0 && FIGURE(zone, lingering) == 0); /* the kernel dropped its lock */
    theus_block_release(&b);
    CHECK_SOUND(theus_zone_check(zone));
    CHECK(FIGURE(zone, births) == FIGURE(zone, deaths));
    theus_zone_free(zone);
    close(requests[0]), close(requests[1]), close(answers[0]), close(answers[1]);
}

/* Everybody can write to the records of a control file. Its owner does not ask them. */
static void
test_each_borrower_has_a_number_of_its_own(void)
{
    enum { BORROWERS = 6 };
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 1000);
    memset(theus_block_data(&block), 7, block.size);
    int requests[BORROWERS][2], answers[BORROWERS][2];
    pid_t children[BORROWERS];
    for (int i = 0; i < BORROWERS; i++) {
        REQUIRE(pipe(requests[i]) == 0 && pipe(answers[i]) == 0);
        children[i] = fork();
        if (children[i] == 0) {
            for (int j = 0; j <= i; j++) {
                close(requests[j][1]);
            }
            borrower_main(requests[i][0], answers[i][1]);
        }
        CHECK(ask(requests[i][1], answers[i][0], &block) == 7);
    }
    CHECK(theus_block_retire(&block) == THEUS_OK);
    theus_block_release(&block);
    for (int i = 0; i < BORROWERS; i++) {
        (void)theus_zone_tidy(zone);
        CHECK(FIGURE(zone, lingering) == 1); /* the others still look at it, however many have died */
        int status;
        kill(children[i], SIGKILL);
        REQUIRE(waitpid(children[i], &status, 0) == children[i]);
        close(requests[i][0]), close(requests[i][1]), close(answers[i][0]), close(answers[i][1]);
    }
    CHECK(theus_zone_tidy(zone) > 0 && FIGURE(zone, lingering) == 0);
    theus_zone_free(zone);
}

static void
test_a_borrower_writes_to_the_records(void)
{
    theus_zone *zone = zone_new(0);
    REQUIRE(theus_zone_limit(zone, "a", 1, 0, 10 * MIB) == THEUS_OK);
    theus_block blocks[8], block;
    for (int i = 0; i < 8; i++) {
        blocks[i] = alloc_of(zone, i % 2 ? "a" : "b", 1000);
    }
    theus_slots *slots = &blocks[0].arena->slots;
    for (uint32_t i = 0; i < slots->capacity; i++) {
        theus_slot *slot = &slots->slots[i];
        slot->offset = slot->extent = slot->size = UINT64_MAX - 64 * i;
        slot->tag = slot->label_length = UINT32_MAX;
        if (i % 2) { /* and this one is free, it says */
            atomic_store(&slot->word, theus_slot_word(1, THEUS_SLOT_FREE, 0));
        }
    }
    memset(blocks[0].arena->slots.hints, 0xff, slots->capacity / 8);
    theus_arena_name name;
    theus_arena_name_of(blocks[0].arena, &name);
    REQUIRE(theus_block_lease(&name, blocks[0].slot, blocks[0].generation, &block, NULL) == THEUS_OK);
    CHECK(block.offset == blocks[0].offset && block.size == 1000);
    theus_block_release(&block);
    theus_block_figures list[8];
    for (uint64_t i = 0, count = theus_zone_list(zone, list, 8); i < count && i < 8; i++) {
        CHECK(list[i].length <= THEUS_LABEL_MAX);
    }
    theus_refusal refusal;
    for (int i = 0; i < 8; i++) { /* no range is given twice, whatever the words say */
        if (theus_zone_alloc(zone, "c", 1, 1000, THEUS_ZEROED, &block, &refusal) == THEUS_OK) {
            for (int j = i; j < 8; j++) {
                CHECK(block.arena != blocks[j].arena || block.offset != blocks[j].offset);
            }
            theus_block_release(&block);
        }
        theus_block_release(&blocks[i]);
    }
    REQUIRE(theus_zone_limit(zone, "b", 1, 0, 10 * MIB) == THEUS_OK);
    theus_zone_retire_all(zone, true);
    (void)theus_zone_tidy(zone);
    theus_zone_free(zone);
}

/* Who tries a stale name sets a bit for a moment, and may die then: also in a slot that is given back unused. */
static void
test_a_look_at_a_slot_that_is_given_back(void)
{
    theus_zone *zone = zone_new(0);
    theus_refusal refusal;
    theus_block block = alloc_of(zone, "x", 64);
    theus_arena *arena = block.arena;
    int fd = arena->data_fd;
    for (uint32_t i = 0; i < arena->slots.capacity; i++) {
        atomic_fetch_or(&arena->slots.slots[i].leases, (uint64_t)1 << 5);
    }
    arena->data_fd = -1; /* no pages to be had */
    CHECK(alloc_status(zone, "y", 2 * MIB, &refusal) == THEUS_REFUSED);
    arena->data_fd = fd;
    CHECK(FIGURE(zone, lingering) == 1 && FIGURE(zone, births) == 2);
    (void)theus_zone_tidy(zone);
    CHECK(FIGURE(zone, lingering) == 0 && FIGURE(zone, deaths) == 1);
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
die_at_once(void *arg)
{
    (void)arg;
}

/* In the process that borrows: what a record says is read where no page of the data can be touched. */
static void
test_a_look_at_the_record_alone(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "a label", 3000);
    pid_t child = fork(); /* it inherits the lease, as a borrower */
    REQUIRE(child >= 0);
    if (child == 0) {
        const theus_slot *record = theus_block_record(&block);
        REQUIRE(mprotect(block.arena->data, block.arena->data_size, PROT_NONE) == 0);
        CHECK(record->size == 3000 && record->extent == 3008 && theus_slot_label_length(record) == 7);
        CHECK(memcmp(record->label, "a label", 7) == 0 && !theus_block_is_published(&block) && theus_block_is_live(&block));
        _exit(check_result());
    }
    int status;
    memset(theus_block_data(&block), 1, block.size); /* meanwhile */
    REQUIRE(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    theus_block_release(&block);
    (void)theus_zone_tidy(zone);
    theus_zone_free(zone);
}

static void
test_the_dead_are_found_before_the_zone_grows(void)
{
    theus_zone *zone = zone_new(0);
    for (int i = 0; i < 3; i++) {
        theus_block block = alloc_of(zone, "x", 40 * MIB);
        CHECK(in_child(die_at_once, NULL) == 0);
        theus_block_release(&block);
        CHECK(FIGURE(zone, arenas) == 1 && FIGURE(zone, lingering) == 1);
    }
    theus_zone_free(zone);
}

/* ---- forks in the middle of everything -------------------------------------------------------------- */

typedef struct {
    theus_zone *zone;
    _Atomic(bool) ends;
} busy;

static void *
busy_main(void *arg)
{
    busy *it = arg;
    while (!atomic_load(&it->ends)) {
        theus_block block;
        theus_refusal refusal;
        if (theus_zone_alloc(it->zone, "x", 1, 40 * MIB, 0, &block, &refusal) == THEUS_OK) {
            theus_block_release(&block);
        }
        (void)theus_zone_tidy(it->zone);
    }
    return NULL;
}

/* Descriptors of this process that are files of arenas, with a name or without. */
static uint32_t
files_open(void)
{
    static const char anonymous[] = "/memfd:theus-", named[] = ZONE_FOLDER;
    uint32_t count = 0;
    for (int fd = 0; fd < 256; fd++) {
        char path[64], target[128];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof(target) - 1);
        target[length < 0 ? 0 : length] = 0;
        count += strncmp(target, anonymous, strlen(anonymous)) == 0 || strncmp(target, named, strlen(named)) == 0;
    }
    return count;
}

static void
count_files(void *arg)
{
    (void)arg;
    uint32_t known = 0;
    theus_shm_lock();
    for (theus_arena *it = theus_arenas_first_locked(); it != NULL; it = it->next) {
        known += (it->control_fd >= 0) + (it->data_fd >= 0);
    }
    theus_shm_unlock();
    CHECK(files_open() == known); /* no other thread is here to close what this one does not know */
}

static void
test_forks_while_files_come_and_go(void)
{
    busy it = {.zone = zone_new(0)};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        REQUIRE(pthread_create(&threads[i], NULL, busy_main, &it) == 0);
    }
    for (int i = 0; i < 100; i++) {
        CHECK(in_child(count_files, NULL) == 0);
    }
    atomic_store(&it.ends, true);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    theus_zone_free(it.zone);
    CHECK(files_open() == 0);
}

static void
test_backend(void)
{
    test_forks();
    test_a_child_that_may_not_map();
    test_a_death_that_is_known_ends_leases();
    test_fork_keeps_what_it_sees();
    test_borrowers();
    test_each_borrower_has_a_number_of_its_own();
    test_a_borrower_writes_to_the_records();
    test_a_look_at_a_slot_that_is_given_back();
    test_a_look_at_the_record_alone();
    test_the_dead_are_found_before_the_zone_grows();
    test_forks_while_files_come_and_go();
}

int
main(void)
{
    long before = theus_alloc_live();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
