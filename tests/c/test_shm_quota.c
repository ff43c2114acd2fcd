/* Limits that hold for a whole process: its own quota, whatever zones it has, and its address space; and what is counted for it. */
#define _GNU_SOURCE

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shm_zone_parts.h"
#include "zone_scene.h"

static void
test_decisions(void)
{
    CHECK(theus_room_decide(0, 0, 0) == THEUS_REJECT);
    CHECK(theus_room_decide(10, 0, 10) == THEUS_ADMIT && theus_room_decide(10, 0, 11) == THEUS_REJECT);
    CHECK(theus_room_decide(10, 4, 6) == THEUS_ADMIT && theus_room_decide(10, 4, 7) == THEUS_REJECT);
    CHECK(theus_room_decide(10, 11, 0) == THEUS_REJECT && theus_room_decide(UINT64_MAX, 16, UINT64_MAX) == THEUS_REJECT);
}

static theus_process_figures
process_now(void)
{
    theus_process_figures found;
    theus_process_read(&found);
    CHECK(found.totals.births - found.totals.deaths == found.blocks && found.totals.used == found.bytes);
    CHECK(found.totals.bytes_born - found.totals.bytes_dead == found.bytes);
    return found;
}

static void
test_two_zones_share_a_quota(void)
{
    theus_zone *one = zone_new(0), *two = zone_new(0);
    theus_refusal refusal;
    uint64_t births = process_now().totals.births;
    theus_process_limit(0, 8 * MIB, false);
    theus_process_limit(0, 1, true); /* somebody has said it already */
    theus_block first = alloc_of(one, "a", 5 * MIB);
    CHECK(alloc_status(two, "b", 3 * MIB + 1, &refusal) == THEUS_NO_ROOM);
    CHECK(refusal.why == THEUS_ROOM_PROCESS && refusal.used == 5 * MIB && refusal.limit == 8 * MIB);
    theus_block second = alloc_of(two, "b", 3 * MIB);
    theus_process_figures found = process_now();
    CHECK(found.totals.used == 8 * MIB && found.totals.peak >= 8 * MIB && found.blocks == 2 && found.totals.births == births + 2);
    CHECK(theus_zone_list(NULL, NULL, 0) == 2 && theus_zone_list(one, NULL, 0) == 1);

    /* A quota of the zone that is used up, too, is the one that is named. */
    CHECK(theus_zone_limit(one, "", 0, 0, 5 * MIB) == THEUS_OK);
    CHECK(alloc_status(one, "c", MIB, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_QUOTA && refusal.quota == 0);

    theus_zone_free(one);
    CHECK(process_now().totals.used == 8 * MIB); /* the first is looked at: it is there */
    theus_block_release(&first);
    CHECK(process_now().totals.used == 3 * MIB);
    theus_block_release(&second);
    theus_zone_free(two);
    found = process_now();
    CHECK(found.blocks == 0 && found.arenas == 0 && found.totals.deaths == births + 2);
    theus_process_limit(0, 0, false);
}

/* Beyond it, no zone keeps anything that is idle. */
static void
test_a_soft_limit(void)
{
    theus_zone *one = zone_new(0), *two = zone_new(0);
    theus_block large = alloc_of(one, "large", 40 * MIB);
    theus_block_release(&large);
    CHECK(FIGURE(one, idle) == 40 * MIB);
    theus_process_limit(2 * MIB, 0, false);
    theus_block within = alloc_of(two, "a", 2 * MIB);
    CHECK(FIGURE(one, idle) == 40 * MIB);
    theus_block beyond = alloc_of(two, "b", MIB);
    CHECK(FIGURE(one, idle) == 0 && FIGURE(one, arenas) == 0 && FIGURE(two, arenas) == 1);
    theus_block_release(&within);
    theus_block_release(&beyond);
    theus_process_limit(0, 0, false);
    theus_zone_free(one);
    theus_zone_free(two);
}

static void
test_without_memory(void)
{
    theus_process_limit(0, 4 * MIB, false);
    for (long n = 1;; n++) {
        theus_zone *zone = zone_new(0);
        theus_block block;
        theus_refusal refusal;
        theus_alloc_fail_at(n);
        theus_status status = theus_zone_alloc(zone, "x", 1, 4 * MIB, 0, &block, &refusal);
        theus_alloc_fail_at(-1);
        CHECK_SOUND(theus_zone_check(zone));
        CHECK(process_now().totals.used == (status == THEUS_OK ? 4 * MIB : 0));
        if (status == THEUS_OK) {
            theus_block_release(&block);
        }
        theus_zone_free(zone);
        if (status == THEUS_OK) {
            break;
        }
        CHECK(status == THEUS_NOMEM);
    }
    CHECK(process_now().blocks == 0);
    theus_process_limit(0, 0, false);
}

/* ---- other processes ---------------------------------------------------------------------------- */

typedef struct {
    theus_block *block;
    theus_zone *zone;
    int ready[2], go[2];
} meeting;

/* What a child inherits is its parent's; its own arrays have the same limit. */
static void
begin_anew(void *arg)
{
    meeting *with = arg;
    theus_refusal refusal;
    theus_process_figures found = process_now();
    CHECK(found.totals.used == 0 && found.totals.births == 0 && found.totals.peak == 0 && found.totals.hard == 8 * MIB);
    theus_block own = alloc_of(with->zone, "own", 8 * MIB);
    CHECK(alloc_status(with->zone, "more", 64, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_PROCESS);
    theus_block_release(with->block);
    theus_block_release(&own);
    CHECK(process_now().blocks == 0);
}

/* Looks at the parent's block until it is told to end. */
static void
look(void *arg)
{
    meeting *with = arg;
    char byte = 0;
    REQUIRE(write(with->ready[1], &byte, 1) == 1 && read(with->go[0], &byte, 1) == 1);
}

static void *
run_looker(void *arg)
{
    return (void *)(intptr_t)in_child(look, arg);
}

static void
test_children(void)
{
    theus_zone *zone = zone_new(0);
    theus_process_limit(0, 8 * MIB, false);
    theus_block block = alloc_of(zone, "x", 6 * MIB);
    meeting with = {.block = &block, .zone = zone};
    REQUIRE(pipe(with.ready) == 0 && pipe(with.go) == 0);
    CHECK(in_child(begin_anew, &with) == 0);
    CHECK(process_now().totals.used == 6 * MIB);

    pthread_t thread;
    char byte = 0;
    REQUIRE(pthread_create(&thread, NULL, run_looker, &with) == 0 && read(with.ready[0], &byte, 1) == 1);
    theus_looker lookers[3];
    REQUIRE(theus_zone_lookers(zone, lookers, 3) == 2);
    CHECK(lookers[0].pid == (uint32_t)getpid() && lookers[0].blocks == 1 && lookers[0].bytes == 6 * MIB);
    CHECK(lookers[1].pid != (uint32_t)getpid() && lookers[1].blocks == 1 && lookers[1].bytes == 6 * MIB);
    CHECK(theus_zone_lookers(zone, NULL, 0) == 2);

    /* The child looks on at what is ours no longer, once its arena is closed. */
    theus_block_release(&block);
    CHECK(process_now().totals.used == 6 * MIB && FIGURE(zone, lingering) == 1);
    theus_zone_free(zone);
    CHECK(process_now().totals.used == 0 && process_now().arenas == 0);
    REQUIRE(write(with.go[1], &byte, 1) == 1 && pthread_join(thread, NULL) == 0);
    for (int i = 0; i < 2; i++) {
        close(with.ready[i]);
        close(with.go[i]);
    }
    theus_process_limit(0, 0, false);
}

/* ---- the address space ------------------------------------------------------------------------------ */

static void
limit_address_space(uint64_t more)
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = RLIM_INFINITY - 1 < limit.rlim_max ? RLIM_INFINITY - 1 : limit.rlim_max; /* for the first look */
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = theus_address_read().used + more;
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void
run_out_of_addresses(void *arg)
{
    theus_zone *zone = arg, *other = zone_new(0);
    theus_refusal refusal;
    limit_address_space(256 * MIB);
    theus_address_figures before = theus_address_read();
    CHECK(before.limit > 0 && before.used < before.limit);
    CHECK(alloc_status(zone, "x", 250 * MIB, &refusal) == THEUS_NO_ROOM); /* it would fit, and nothing else any more */
    CHECK(refusal.why == THEUS_ROOM_ADDRESS && refusal.limit == before.limit && refusal.used == before.used);
    theus_block half = alloc_of(zone, "half", 128 * MIB);
    CHECK(theus_address_read().used >= before.used + 128 * MIB);
    CHECK(alloc_status(zone, "y", 128 * MIB, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_ADDRESS);
    theus_block_release(&half); /* and its addresses stay with the zone, until another one needs them */
    half = alloc_of(other, "half", 160 * MIB);
    CHECK(FIGURE(zone, arenas) == 0);
    theus_block_release(&half);
    theus_zone_free(other);
}

/* Publishing maps the arena once more, a copy on write the block's pages: both are refused, and nothing has happened. */
static void
run_out_of_mappings(void *arg)
{
    theus_zone *zone = arg, *other = zone_new(0);
    theus_block block = alloc_of(zone, "x", 3 * MIB), idle = alloc_of(other, "idle", 40 * MIB);
    theus_refusal refusal;
    char *data;
    void *base;
    uint64_t mapped;
    theus_process_figures before = process_now();
    limit_address_space(2 * MIB);
    uint64_t limit = theus_address_read().limit;
    CHECK(theus_block_map_private(&block, &base, &mapped, &data, &refusal) == THEUS_NO_ROOM);
    CHECK(refusal.why == THEUS_ROOM_ADDRESS && refusal.limit == limit && refusal.mapping == 3 * MIB);
    CHECK(refusal.used < limit && limit - refusal.used < 3 * MIB);
    CHECK(theus_block_publish(&block, &data, &refusal) == THEUS_NO_ROOM && refusal.mapping == 64 * MIB);
    CHECK(theus_block_publish(&block, &data, NULL) == THEUS_NO_ROOM);
    CHECK(!theus_block_is_published(&block) && theus_block_is_live(&block));
    theus_process_figures after = process_now();
    CHECK(after.totals.used == before.totals.used && after.blocks == before.blocks && after.arenas == before.arenas);

    /* What nobody needs goes before that. */
    theus_block_release(&idle);
    CHECK(FIGURE(other, arenas) == 1);
    CHECK(theus_block_map_private(&block, &base, &mapped, &data, &refusal) == THEUS_OK && FIGURE(other, arenas) == 0);
    theus_shm_unmap(base, mapped);
    limit_address_space(66 * MIB);
    CHECK(theus_block_publish(&block, &data, &refusal) == THEUS_OK && theus_block_is_published(&block));
    theus_block_release(&block);
    CHECK_SOUND(theus_zone_check(zone));
    theus_zone_free(other);
    CHECK(theus_zone_tidy(zone) > 0 && process_now().arenas == 0);
}

/* Small blocks get smaller arenas, in which they can be published; and one that is refused counts nowhere. */
static void
run_out_of_large_arenas(void *arg)
{
    theus_zone *zone = arg;
    theus_refusal refusal;
    char *shown;
    limit_address_space(30 * MIB);
    uint64_t peak = process_now().totals.peak;
    CHECK(alloc_status(zone, "large", 20 * MIB, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_ADDRESS);
    CHECK(process_now().totals.peak == peak && FIGURE(zone, arenas) == 0);
    theus_block block = alloc_of(zone, "small", 100);
    CHECK(FIGURE(zone, mapped) == 4 * MIB);
    CHECK(theus_block_publish(&block, &shown, &refusal) == THEUS_OK);
    theus_block second = alloc_of(zone, "second", 3 * MIB);
    CHECK(FIGURE(zone, arenas) == 1); /* they lie in it together */
    theus_block third = alloc_of(zone, "third", 2 * MIB), fourth = alloc_of(zone, "fourth", 2 * MIB);
    CHECK(FIGURE(zone, arenas) == 3 && FIGURE(zone, mapped) == 8 * MIB);
    CHECK(alloc_status(zone, "fifth", 2 * MIB, &refusal) == THEUS_NO_ROOM && refusal.why == THEUS_ROOM_ADDRESS);
    theus_block_release(&fourth);
    theus_block_release(&third);
    theus_block_release(&second);
    theus_block_release(&block);
    CHECK(theus_zone_tidy(zone) > 0 && process_now().arenas == 0);
}

static theus_arena_kind
fitted(theus_arena_kind kind, uint64_t least, uint64_t left)
{
    bool fits = zone_fit_addresses(&kind, least, (theus_address_figures){.used = 1000 * MIB, .limit = 1000 * MIB + left});
    return fits ? kind : (theus_arena_kind){.data_size = 0};
}

/* Twice the data, 16 MiB for everybody else, and some more for the control file. */
static void
test_how_large_an_arena(void)
{
    theus_arena_kind kind = {.data_size = 64 * MIB, .capacity = 4096}, got;
    CHECK(zone_fit_addresses(&kind, 64 * MIB, (theus_address_figures){0, 0}) && kind.data_size == 64 * MIB);
    CHECK(fitted(kind, 2 * MIB, 146 * MIB).data_size == 64 * MIB && fitted(kind, 2 * MIB, 144 * MIB).data_size == 32 * MIB);
    got = fitted(kind, 2 * MIB, 49 * MIB);
    CHECK(got.data_size == 16 * MIB && got.capacity == 1024 && !got.lends);
    got = fitted(kind, 2 * MIB, 21 * MIB);
    CHECK(got.data_size == 2 * MIB && got.capacity == 128);
    CHECK(fitted(kind, 2 * MIB, 19 * MIB).data_size == 2 * MIB); /* once */
    CHECK(fitted(kind, 2 * MIB, 18 * MIB).data_size == 0);
    got = fitted(kind, 20 * MIB, 60 * MIB); /* and not 16 */
    CHECK(got.data_size == 20 * MIB && got.capacity == 1280);
    CHECK(fitted(kind, 20 * MIB, 37 * MIB).data_size == 20 * MIB && fitted(kind, 20 * MIB, 36 * MIB).data_size == 0);
    kind = (theus_arena_kind){.data_size = 100 * MIB, .capacity = 64}; /* of a large block */
    got = fitted(kind, 100 * MIB, 117 * MIB);
    CHECK(got.data_size == 100 * MIB && got.capacity == 64 && fitted(kind, 100 * MIB, 116 * MIB).data_size == 0);
    kind.data_size = UINT64_MAX - 4095;
    CHECK(fitted(kind, UINT64_MAX - 4095, UINT64_MAX / 2).data_size == 0);
    CHECK(!zone_fit_addresses(&kind, kind.data_size, (theus_address_figures){.used = 5, .limit = 4}));
}

static void
test_address_space(void)
{
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_AS, &limit) == 0);
    if (limit.rlim_cur == RLIM_INFINITY) {
        theus_address_figures none = theus_address_read();
        CHECK(none.limit == 0 && none.used == 0);
    }
    theus_zone *zone = zone_new(0);
    CHECK(in_child(run_out_of_addresses, zone) == 0);
    CHECK(in_child(run_out_of_mappings, zone) == 0);
    CHECK(in_child(run_out_of_large_arenas, zone) == 0);
    theus_zone_free(zone);
}

static void
test_on_a_backend(void)
{
    test_two_zones_share_a_quota();
    test_a_soft_limit();
    test_without_memory();
    test_children();
    test_address_space();
}

int
main(void)
{
    long before = theus_alloc_live();
    test_decisions();
    test_how_large_an_arena();
    zone_on_both_backends(test_on_a_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
