/* Blocks of shared memory in one process: what is given out, counted and refused. */
#define _GNU_SOURCE

#include "zone_scene.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

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
    CHECK(theus_arenas_held() == 0);
    theus_block a = alloc_of(zone, "a", 100), b = alloc_of(zone, "b", 0), c = alloc_of(zone, "c", 3 * MIB);
    CHECK(theus_arenas_held() == 3);
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
    CHECK(theus_block_lease(&name, block.slot, block.generation, &second, NULL) == THEUS_OK);
    CHECK(theus_block_data(&second) == theus_block_data(&block)); /* our own arena: no other mapping */
    memset(theus_block_data(&block), 3, MIB);
    theus_zone_free(zone);
    CHECK(!theus_block_is_live(&block) && is_filled(&block, 3));
    theus_block_release(&block);
    CHECK(is_filled(&second, 3));
    theus_block_release(&second);
    CHECK(theus_block_lease(&name, 0, 1, &second, NULL) == THEUS_STALE);
}

static void
test_names(void)
{
    theus_zone *zone = zone_new(0);
    theus_block block = alloc_of(zone, "x", 64), other;
    theus_arena_name name, forged;
    theus_arena_name_of(block.arena, &name);
    CHECK(theus_block_lease(&name, block.slot, block.generation + 1, &other, NULL) == THEUS_BAD_TOKEN);
    CHECK(theus_block_lease(&name, block.slot, 0, &other, NULL) == THEUS_BAD_TOKEN);
    CHECK(theus_block_lease(&name, 1u << 30, 1, &other, NULL) == THEUS_BAD_TOKEN);
    CHECK(theus_block_lease(&name, block.slot + 1, 1, &other, NULL) == THEUS_BAD_TOKEN);
    forged = name;
    forged.id[3] ^= 1;
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other, NULL) == THEUS_STALE);
    forged.control_fd = 0; /* whatever that is, it is no arena */
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other, NULL) == THEUS_STALE);
    forged.pid = 0x7ffffff0;
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other, NULL) == THEUS_STALE);
    forged = name;
    forged.id[3] ^= 1;
    forged.control_fd = block.arena->data_fd;
    CHECK(theus_block_lease(&forged, block.slot, block.generation, &other, NULL) == THEUS_STALE);
    CHECK(theus_block_retire(&block) == THEUS_OK);
    CHECK(theus_block_lease(&name, block.slot, block.generation, &other, NULL) == THEUS_STALE);
    theus_block_release(&block);
    block = alloc_of(zone, "y", 64); /* in the same slot */
    CHECK(theus_block_lease(&name, block.slot, block.generation - 1, &other, NULL) == THEUS_STALE);
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

/* Beyond it a block is had, but nothing idle is kept. */
static void
test_a_soft_limit(void)
{
    theus_zone *zone = zone_new(0);
    theus_refusal refusal;
    theus_block large[2] = {alloc_of(zone, "large", 40 * MIB), alloc_of(zone, "large", 40 * MIB)};
    theus_block_release(&large[0]);
    theus_block_release(&large[1]);
    CHECK(theus_zone_limit(zone, "cam.", 4, 2 * MIB, 8 * MIB) == THEUS_OK);
    theus_block within = alloc_of(zone, "cam.a", MIB);
    CHECK(FIGURE(zone, idle) >= 40 * MIB); /* one of the two, at least */
    theus_block beyond = alloc_of(zone, "cam.b", MIB + 1);
    CHECK(FIGURE(zone, idle) == 0);
    CHECK(alloc_status(zone, "cam.c", 8 * MIB, &refusal) == THEUS_NO_ROOM && refusal.quota == 1);
    theus_block_release(&within);
    theus_block_release(&beyond);
    theus_zone_free(zone);

    zone = zone_new(0); /* where an arena has to be made for it, which is idle at first */
    CHECK(theus_zone_limit(zone, "", 0, MIB, 0) == THEUS_OK);
    beyond = alloc_of(zone, "x", 2 * MIB);
    theus_block_release(&beyond);
    beyond = alloc_of(zone, "large", 40 * MIB);
    CHECK(FIGURE(zone, arenas) == 1);
    theus_block_release(&beyond);
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
        REQUIRE(theus_zone_alloc(zone, "x", 1, 200, THEUS_ZEROED, &blocks[i], &refusal) == THEUS_OK);
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
        theus_status status = theus_zone_alloc(zone, "x", 1, 64, THEUS_ZEROED, &block, &refusal);
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
        REQUIRE(theus_zone_alloc(self->zone, "t", 1, size, THEUS_ZEROED, &block, &refusal) == THEUS_OK);
        REQUIRE(size == 0 || (theus_block_data(&block)[0] == 0 && theus_block_data(&block)[size - 1] == 0));
        memset(theus_block_data(&block), (int)self->number + 1, size);
        theus_arena_name name;
        theus_arena_name_of(block.arena, &name);
        REQUIRE(theus_block_lease(&name, block.slot, block.generation, &again, NULL) == THEUS_OK);
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

static void
test_only_sealed_files_are_opened(void)
{
    int fd, own;
    uint64_t size;
    REQUIRE(theus_shm_create("theus-data", false, 4096, &fd) == THEUS_OK);
    CHECK(theus_shm_open(0, fd, "theus-data", THEUS_OPEN_WRITE, &own, &size) == THEUS_GONE);
    REQUIRE(theus_shm_seal(fd, false) == THEUS_OK);
    CHECK(theus_shm_open(0, fd, "theus-data", THEUS_OPEN_SEALED, &own, &size) == THEUS_GONE);
    REQUIRE(theus_shm_open(0, fd, "theus-data", THEUS_OPEN_WRITE, &own, &size) == THEUS_OK);
    CHECK(size == 4096);
    theus_shm_close(own);
    theus_shm_close(fd);
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
    theus_status status = theus_block_publish(arg, &data, NULL);
    if (status == THEUS_BORROWED) {
        _exit(2); /* who owns it has promised nothing */
    }
    CHECK(status == THEUS_OK && data == theus_block_data(arg));
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
    REQUIRE(theus_block_map_private(&block, &base, &mapped, &data, NULL) == THEUS_OK);
    CHECK(memcmp(data, theus_block_data(&block), block.size) == 0);
    memset(data, 6, block.size);
    CHECK(is_filled(&block, 5));
    theus_shm_unmap(base, mapped);
    char *shown, *again;
    CHECK(!theus_block_is_published(&block) && theus_block_publish(&block, &shown, NULL) == THEUS_OK);
    CHECK(theus_block_is_published(&block) && shown != theus_block_data(&block));
    CHECK(theus_block_publish(&block, &again, NULL) == THEUS_OK && again == shown);
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
    test_a_soft_limit();
    test_many_blocks();
    test_out_of_memory();
    CHECK(in_child(out_of_descriptors, NULL) == 0);
    test_threads();
    test_other_mappings();
}

int
main(void)
{
    long before = theus_alloc_live();
    test_runs();
    test_quota_decisions();
    test_only_sealed_files_are_opened();
    zone_on_both_backends(test_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
