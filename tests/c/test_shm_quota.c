/* Limits that hold for a whole process: its own quota, whatever zones it has, and its address space; and what is counted for it. */
#define _GNU_SOURCE

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "port_memory.h"
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
    zone_on_both_backends(test_on_a_backend);
    CHECK(theus_alloc_live() == before);
    return check_result();
}
