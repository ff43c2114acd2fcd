/* Blocks of shared memory: what is given out, counted, refused, lent to other processes, inherited by forks, and left by
 * the dead. */
#define _GNU_SOURCE

#include "shm_zone.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static const uint64_t KIB = 1024, MIB = 1024 * 1024;

static theus_backend backend; /* everything here is true of both */

static theus_zone *
zone_new(uint64_t limit)
{
    theus_zone *zone;
    theus_status status = theus_zone_new("test", limit, &zone);
    REQUIRE(status == THEUS_OK);
    theus_zone_choose(zone, backend);
    return zone;
}

static theus_block
alloc_of(theus_zone *zone, const char *label, uint64_t size)
{
    theus_block block;
    theus_refusal refusal;
    theus_status status = theus_zone_alloc(zone, label, (uint32_t)strlen(label), size, true, &block, &refusal);
    if (status == THEUS_UNSUPPORTED || status == THEUS_REFUSED) {
        exit(77); /* no memfd here */
    }
    REQUIRE(status == THEUS_OK);
    CHECK_SOUND(theus_zone_check(zone));
    return block;
}

static theus_status
alloc_status(theus_zone *zone, const char *label, uint64_t size, theus_refusal *refusal)
{
    theus_block block;
    theus_status status = theus_zone_alloc(zone, label, (uint32_t)strlen(label), size, true, &block, refusal);
    if (status == THEUS_OK) {
        theus_block_release(&block);
    }
    CHECK_SOUND(theus_zone_check(zone));
    return status;
}

static uint64_t
figure(theus_zone *zone, size_t offset)
{
    theus_zone_figures figures;
    theus_zone_read(zone, &figures);
    return *(uint64_t *)((char *)&figures + offset);
}
#define FIGURE(zone, name) figure((zone), offsetof(theus_zone_figures, name))

static bool
is_filled(const theus_block *block, char with)
{
    for (uint64_t i = 0; i < block->size; i++) {
        if (theus_block_data(block)[i] != with) {
            return false;
        }
    }
    return true;
}

/* Runs `body` in a child and says how it ended: its exit status, or -signal. */
static int
in_child(void (*body)(void *arg), void *arg)
{
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        body(arg);
        _exit(check_result());
    }
    int status;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- one process --------------------------------------------------------------------------------- */

static void
test_runs(void)
{
    enum { BLOCKS = 40 };
    theus_runs *runs;
    REQUIRE(theus_runs_new(MIB, BLOCKS, &runs) == THEUS_OK);
    CHECK(theus_runs_extent(0) == 64 && theus_runs_extent(65) == 128 && theus_runs_extent(64 * KIB + 1) == 68 * KIB);
    CHECK(theus_runs_extent(UINT64_MAX) == 0);
    uint64_t at[BLOCKS], size[BLOCKS], offset;
    unsigned long long seed = 9;
    for (int i = 0; i < BLOCKS; i++) {
        size[i] = 0;
    }
    for (int round = 0; round < 20000; round++) {
        unsigned i = check_random(&seed, BLOCKS);
        if (size[i] > 0) {
            theus_runs_give(runs, at[i], size[i]);
            size[i] = 0;
        }
        else {
            uint64_t extent = theus_runs_extent(check_random(&seed, 2) ? check_random(&seed, 500) : check_random(&seed, 200000));
            if (theus_runs_take(runs, extent, &at[i])) {
                size[i] = extent;
                CHECK(at[i] % (extent < 64 * KIB ? 64 : 4096) == 0);
                for (unsigned k = 0; k < BLOCKS; k++) {
                    CHECK(k == i || size[k] == 0 || at[k] + size[k] <= at[i] || at[i] + extent <= at[k]);
                }
            }
            else {
                CHECK(theus_runs_largest(runs) < extent + 4096);
            }
        }
        CHECK_SOUND(theus_runs_check(runs));
    }
    for (int i = 0; i < BLOCKS; i++) {
        if (size[i] > 0) {
            theus_runs_give(runs, at[i], size[i]);
        }
    }
    CHECK(theus_runs_take(runs, MIB, &offset) && offset == 0 && !theus_runs_take(runs, 64, &offset));
    theus_runs_free(runs);
}

static void
test_quota_decisions(void)
{
    const uint64_t most = UINT64_MAX;
    CHECK(theus_quota_decide(0, most, 0, 0) == THEUS_ADMIT);
    CHECK(theus_quota_decide(60, 40, 0, 100) == THEUS_ADMIT && theus_quota_decide(60, 41, 0, 100) == THEUS_REJECT);
    CHECK(theus_quota_decide(60, 40, 100, 0) == THEUS_ADMIT && theus_quota_decide(60, 41, 100, 0) == THEUS_ADMIT_TIDY);
    CHECK(theus_quota_decide(60, 41, 50, 100) == THEUS_REJECT && theus_quota_decide(60, 40, 50, 100) == THEUS_ADMIT_TIDY);
    CHECK(theus_quota_decide(200, 0, 0, 100) == THEUS_REJECT); /* the limit was lowered */
    CHECK(theus_quota_decide(10, most, 0, most) == THEUS_REJECT && theus_quota_decide(10, most - 10, 0, most) == THEUS_ADMIT);
}

static void
test_alloc(void)
{
    theus_zone *zone = zone_new(0);
    theus_block a = alloc_of(zone, "a", 100), b = alloc_of(zone, "b", 0), c = alloc_of(zone, "c", 3 * MIB);
    CHECK(is_filled(&a, 0) && is_filled(&c, 0) && (uintptr_t)theus_block_data(&a) % 64 == 0);
    CHECK((uintptr_t)theus_block_data(&c) % 4096 == 0);
    memset(theus_block_data(&a), 7, 100);
    memset(theus_block_data(&c), 8, 3 * MIB);
    CHECK(is_filled(&a, 7) && theus_block_is_owned(&a) && theus_block_is_live(&a));
    CHECK(FIGURE(zone, births) == 3 && FIGURE(zone, asked) == 100 + 3 * MIB && FIGURE(zone, arenas) == 1);
    uint64_t place = c.offset;
    theus_block_release(&c);
    c = alloc_of(zone, "c", 2 * MIB);
    CHECK(c.offset == place && is_filled(&c, 0)); /* the same pages, warm, and zero again */
    theus_block large = alloc_of(zone, "large", 40 * MIB);
    CHECK(FIGURE(zone, arenas) == 2 && is_filled(&large, 0));
    memset(theus_block_data(&large), 1, large.size);
    theus_block_release(&large);
    CHECK(FIGURE(zone, idle) == 40 * MIB);
    large = alloc_of(zone, "large", 40 * MIB);
    CHECK(FIGURE(zone, arenas) == 2 && is_filled(&large, 0));
    theus_block_release(&large);
    CHECK(theus_zone_tidy(zone) == 40 * MIB && FIGURE(zone, arenas) == 1);
    theus_block more[8];
    for (int i = 0; i < 8; i++) {
        more[i] = alloc_of(zone, "large", 50 * MIB);
    }
    CHECK(FIGURE(zone, arenas) == 9 && FIGURE(zone, idle) == 0);
    for (int i = 0; i < 8; i++) {
        theus_block_release(&more[i]);
    }
    CHECK(FIGURE(zone, arenas) == 6 && FIGURE(zone, idle) == 250 * MIB); /* 256 MiB are kept */
    CHECK(is_filled(&a, 7));
    theus_block_release(&a);
    theus_block_release(&b);
    theus_zone_retire_all(zone, true);
    CHECK(!theus_block_is_live(&c) && is_filled(&c, 0));
    theus_block_release(&c);
    CHECK(FIGURE(zone, births) == FIGURE(zone, deaths) && FIGURE(zone, asked) == 0 && FIGURE(zone, arenas) == 0);
    theus_zone_free(zone);
}

static void
test_users_outlive_the_zone(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", MIB), second;
    theus_arena_name name;
    theus_arena_name_of(block.arena, &name);
    CHECK(theus_block_lease(&name, block.slot, block.generation, &second) == THEUS_OK);
    CHECK(theus_block_data(&second) == theus_block_data(&block)); /* our own arena: no other mapping */
    memset(theus_block_data(&block), 3, MIB);
    theus_zone_free(zone);
    CHECK(!theus_block_is_live(&block) && is_filled(&block, 3));
    theus_block_release(&block);
    CHECK(is_filled(&second, 3));
    theus_block_release(&second);
    CHECK(theus_block_lease(&name, 0, 1, &second) == THEUS_STALE);
}

static void
test_names(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 64), other;
    theus_arena_name name, forged;
    theus_arena_name_of(block.arena, &name);
    CHECK(theus_block_lease(&name, block.slot, block.generation + 1, &other) == THEUS_BAD_TOKEN);
    CHECK(theus_block_lease(&name, block.slot, 0, &other) == THEUS_BAD_TOKEN);
    CHECK(theus_block_lease(&name, 1u << 30, 1, &other) == THEUS_BAD_TOKEN);
    CHECK(theus_block_lease(&name, block.slot + 1, 1, &other) == THEUS_BAD_TOKEN);
    forged = name;
    forged.id[3] ^= 1;
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other) == THEUS_STALE);
    forged.control_fd = 0; /* whatever that is, it is no arena */
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other) == THEUS_STALE);
    forged.pid = 0x7ffffff0;
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other) == THEUS_STALE);
    forged = name;
    forged.id[3] ^= 1;
    forged.control_fd = block.arena->data_fd;
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other) == THEUS_STALE);
    CHECK(theus_block_retire(&block) == THEUS_OK);
    CHECK(theus_block_lease(&name, block.slot, block.generation, &other) == THEUS_STALE);
    theus_block_release(&block);
    block = alloc_of(zone, "y", 64); /* in the same slot */
    CHECK(theus_block_lease(&name, block.slot, block.generation - 1, &other) == THEUS_STALE);
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
test_quotas(void)
{
    theus_zone *zone = zone_new(10 * MIB);
    theus_refusal refusal;
    theus_block first = alloc_of(zone, "cam.left.a", MIB);
    CHECK(theus_zone_limit(zone, "cam.", 4, 0, 4 * MIB) == THEUS_OK);
    CHECK(theus_zone_limit(zone, "cam.left.", 9, 0, 2 * MIB) == THEUS_OK);
    CHECK_SOUND(theus_zone_check(zone));
    theus_quota quota;
    REQUIRE(theus_zone_read_quota(zone, 2, &quota));
    CHECK(quota.used == MIB && quota.parent == 1 && !theus_zone_read_quota(zone, 3, &quota));
    CHECK(alloc_status(zone, "cam.left.b", MIB, &refusal) == THEUS_OK);
    CHECK(alloc_status(zone, "cam.left.b", MIB + 1, &refusal) == THEUS_NO_ROOM);
    CHECK(refusal.why == THEUS_ROOM_QUOTA && refusal.quota == 2 && refusal.used == MIB && refusal.limit == 2 * MIB);
    CHECK(alloc_status(zone, "cam.right", 4 * MIB, &refusal) == THEUS_NO_ROOM && refusal.quota == 1);
    CHECK(alloc_status(zone, "other", 9 * MIB + 1, &refusal) == THEUS_NO_ROOM && refusal.quota == 0);
    CHECK(alloc_status(zone, "other", 9 * MIB, &refusal) == THEUS_OK);
    CHECK(alloc_status(zone, "huge", UINT64_MAX, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_SYSTEM);
    CHECK(theus_zone_limit(zone, "cam.left.", 9, 0, 0) == THEUS_OK);
    CHECK(alloc_status(zone, "cam.left.b", 3 * MIB, &refusal) == THEUS_OK);
    theus_block_release(&first);
    theus_zone_free(zone);

    zone = zone_new(0);
    CHECK(alloc_status(zone, "huge", (uint64_t)1 << 50, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_SYSTEM);
    char prefix[3] = "aa";
    for (int i = 1; i < THEUS_ZONE_QUOTAS; i++) {
        prefix[0] = (char)('0' + i);
        CHECK(theus_zone_limit(zone, prefix, 2, 0, 1) == THEUS_OK);
    }
    CHECK(theus_zone_limit(zone, "z", 1, 0, 1) == THEUS_FULL);
    theus_zone_free(zone);
}

static void
test_many_blocks(void)
{
    enum { MANY = 9000 };
    theus_zone *zone = zone_new(0);
    theus_block *blocks = malloc(MANY * sizeof(theus_block));
    theus_refusal refusal;
    for (int i = 0; i < MANY; i++) {
        REQUIRE(theus_zone_alloc(zone, "x", 1, 200, true, &blocks[i], &refusal) == THEUS_OK);
    }
    CHECK_SOUND(theus_zone_check(zone));
    CHECK(FIGURE(zone, arenas) == 3 && theus_zone_list(zone, NULL, 0) == MANY);
    for (int i = 0; i < MANY; i++) {
        theus_block_release(&blocks[i]);
    }
    CHECK_SOUND(theus_zone_check(zone));
    CHECK(theus_zone_list(zone, NULL, 0) == 0);
    free(blocks);
    theus_zone_free(zone);
}

static void
test_out_of_memory(void)
{
    theus_zone *zone;
    theus_alloc_fail_at(1);
    CHECK(theus_zone_new("x", 0, &zone) == THEUS_NOMEM);
    theus_alloc_fail_at(-1);
    zone = zone_new(0);
    theus_block block;
    theus_refusal refusal;
    for (long n = 1;; n++) {
        theus_alloc_fail_at(n);
        theus_status status = theus_zone_alloc(zone, "x", 1, 64, true, &block, &refusal);
        theus_alloc_fail_at(-1);
        CHECK_SOUND(theus_zone_check(zone));
        if (status == THEUS_OK) {
            CHECK(n > 3);
            break;
        }
        CHECK(status == THEUS_NOMEM && FIGURE(zone, arenas) == 0);
    }
    theus_block_release(&block);
    theus_zone_free(zone);
}

static void
out_of_descriptors(void *arg)
{
    (void)arg;
    theus_zone *zone = zone_new(0);
    theus_refusal refusal;
    struct rlimit few;
    getrlimit(RLIMIT_NOFILE, &few);
    for (rlim_t limit = 0; limit < 64; limit++) {
        few.rlim_cur = limit;
        setrlimit(RLIMIT_NOFILE, &few);
        theus_status status = alloc_status(zone, "x", 64, &refusal);
        CHECK(status == THEUS_OK || status == THEUS_NO_ROOM);
        if (status == THEUS_OK) {
            break;
        }
    }
    CHECK(alloc_status(zone, "x", 64, &refusal) == THEUS_OK);
    theus_zone_free(zone);
}

typedef struct {
    theus_zone *zone;
    unsigned number;
} thread_of_zone;

static void *
thread_main(void *arg)
{
    thread_of_zone *self = arg;
    unsigned long long seed = 1 + self->number;
    for (int i = 0; i < 1500; i++) {
        theus_block block, again;
        theus_refusal refusal;
        uint64_t size = check_random(&seed, 200000);
        REQUIRE(theus_zone_alloc(self->zone, "t", 1, size, true, &block, &refusal) == THEUS_OK);
        REQUIRE(size == 0 || (theus_block_data(&block)[0] == 0 && theus_block_data(&block)[size - 1] == 0));
        memset(theus_block_data(&block), (int)self->number + 1, size);
        theus_arena_name name;
        theus_arena_name_of(block.arena, &name);
        REQUIRE(theus_block_lease(&name, block.slot, block.generation, &again) == THEUS_OK);
        theus_block_release(&block);
        REQUIRE(size == 0 || theus_block_data(&again)[size / 2] == (char)(self->number + 1));
        theus_block_release(&again);
        if (i % 100 == 0) {
            (void)theus_zone_tidy(self->zone);
        }
    }
    return NULL;
}

static void
test_threads(void)
{
    theus_zone *zone = zone_new(0);
    pthread_t threads[3];
    thread_of_zone workers[3];
    for (unsigned i = 0; i < 3; i++) {
        workers[i] = (thread_of_zone){zone, i};
        REQUIRE(pthread_create(&threads[i], NULL, thread_main, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK_SOUND(theus_zone_check(zone));
    CHECK(FIGURE(zone, births) == 4500 && FIGURE(zone, deaths) == 4500);
    theus_zone_free(zone);
}

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
    REQUIRE(read(done[0], &byte, 1) == 1 && write(go[1], &byte, 1) == 1);
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
        theus_status status = theus_block_lease(&token.name, token.slot, token.generation, &block);
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

static void
write_there(void *arg)
{
    *(char *)arg = 1;
}

static void
publish_in_child(void *arg)
{
    char *data;
    theus_status status = theus_block_publish(arg, &data);
    if (status == THEUS_BORROWED) {
        _exit(2); /* who owns it has promised nothing */
    }
    CHECK(status == THEUS_OK && data == theus_block_data(arg));
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
    REQUIRE(theus_block_lease(&name, blocks[0].slot, blocks[0].generation, &block) == THEUS_OK);
    CHECK(block.offset == blocks[0].offset && block.size == 1000);
    theus_block_release(&block);
    theus_block_figures list[8];
    for (uint64_t i = 0, count = theus_zone_list(zone, list, 8); i < count && i < 8; i++) {
        CHECK(list[i].length <= THEUS_LABEL_MAX);
    }
    theus_refusal refusal;
    for (int i = 0; i < 8; i++) { /* no range is given twice, whatever the words say */
        if (theus_zone_alloc(zone, "c", 1, 1000, true, &block, &refusal) == THEUS_OK) {
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

static void
test_only_sealed_files_are_opened(void)
{
    int fd, own;
    uint64_t size;
    REQUIRE(theus_shm_create("theus-data", 4096, &fd) == THEUS_OK);
    CHECK(theus_shm_open(0, fd, "theus-data", true, &own, &size) == THEUS_GONE);
    REQUIRE(theus_shm_seal(fd, false) == THEUS_OK);
    CHECK(theus_shm_open(0, fd, "theus-data", false, &own, &size) == THEUS_GONE);
    REQUIRE(theus_shm_open(0, fd, "theus-data", true, &own, &size) == THEUS_OK);
    CHECK(size == 4096);
    theus_shm_close(own);
    theus_shm_close(fd);
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
        if (theus_zone_alloc(it->zone, "x", 1, 40 * MIB, false, &block, &refusal) == THEUS_OK) {
            theus_block_release(&block);
        }
        (void)theus_zone_tidy(it->zone);
    }
    return NULL;
}

/* Where the named files of this test lie. */
#define FOLDER "/dev/shm/theus-test-"

/* Descriptors of this process that are files of arenas, with a name or without. */
static uint32_t
files_open(void)
{
    static const char anonymous[] = "/memfd:theus-", named[] = FOLDER;
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
    theus_block first = alloc_of(it.zone, "x", 100); /* before it, named memory is swept: with files open that are nobody's */
    theus_block_release(&first);
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
test_other_mappings(void)
{
    theus_zone *zone = zone_new(0);
    theus_block pad = alloc_of(zone, "pad", 100), block = alloc_of(zone, "x", 10000);
    memset(theus_block_data(&block), 5, block.size);
    void *base;
    uint64_t mapped;
    char *data;
    REQUIRE(theus_block_map_private(&block, &base, &mapped, &data) == THEUS_OK);
    CHECK(memcmp(data, theus_block_data(&block), block.size) == 0);
    memset(data, 6, block.size);
    CHECK(is_filled(&block, 5));
    theus_shm_unmap(base, mapped);
    char *shown, *again;
    CHECK(!theus_block_is_published(&block) && theus_block_publish(&block, &shown) == THEUS_OK);
    CHECK(theus_block_is_published(&block) && shown != theus_block_data(&block));
    CHECK(theus_block_publish(&block, &again) == THEUS_OK && again == shown);
    theus_block_data(&block)[9] = 8; /* he who promised not to, can; and the other mapping shows it */
    CHECK(shown[9] == 8 && shown[10] == 5);
    CHECK(in_child(write_there, shown) != 0);
    CHECK(in_child(publish_in_child, &block) == 0);
    CHECK(in_child(publish_in_child, &pad) == 2);
    theus_block_release(&block);
    theus_block_release(&pad);
    theus_zone_free(zone);
}

static void
test_backend(void)
{
    test_alloc();
    test_users_outlive_the_zone();
    test_names();
    test_quotas();
    test_many_blocks();
    test_out_of_memory();
    CHECK(in_child(out_of_descriptors, NULL) == 0);
    test_threads();
    test_forks();
    test_fork_keeps_what_it_sees();
    test_borrowers();
    test_each_borrower_has_a_number_of_its_own();
    test_a_borrower_writes_to_the_records();
    test_a_look_at_a_slot_that_is_given_back();
    test_the_dead_are_found_before_the_zone_grows();
    test_forks_while_files_come_and_go();
    test_other_mappings();
}

int
main(void)
{
    long before = theus_alloc_live();
    char folder[] = FOLDER "XXXXXX";
    test_runs();
    test_quota_decisions();
    test_only_sealed_files_are_opened();
    test_backend();
    if (mkdtemp(folder) != NULL) {
        theus_files_choose_folder(folder);
        backend = THEUS_NAMED;
        test_backend();
        CHECK(rmdir(folder) == 0); /* nothing is left there */
    }
    CHECK(theus_alloc_live() == before);
    return check_result();
}
