/* See zone_scene.h. */
#define _GNU_SOURCE

#include "zone_scene.h"

#include <sys/wait.h>
#include <unistd.h>

static theus_backend backend; /* whose turn it is */

theus_backend
zone_backend(void)
{
    return backend;
}

theus_zone *
zone_new(uint64_t limit)
{
    theus_zone *zone;
    theus_status status = theus_zone_new("test", limit, &zone);
    REQUIRE(status == THEUS_OK);
    theus_zone_choose(zone, backend);
    return zone;
}

theus_block
alloc_of(theus_zone *zone, const char *label, uint64_t size)
{
    theus_block block;
    theus_refusal refusal;
    theus_status status = theus_zone_alloc(zone, label, (uint32_t)strlen(label), size, THEUS_ZEROED, &block, &refusal);
    if (status == THEUS_UNSUPPORTED || status == THEUS_REFUSED) {
        exit(77); /* no memfd here */
    }
    REQUIRE(status == THEUS_OK);
    CHECK_SOUND(theus_zone_check(zone));
    return block;
}

theus_status
alloc_status(theus_zone *zone, const char *label, uint64_t size, theus_refusal *refusal)
{
    theus_block block;
    theus_status status = theus_zone_alloc(zone, label, (uint32_t)strlen(label), size, THEUS_ZEROED, &block, refusal);
    if (status == THEUS_OK) {
        theus_block_release(&block);
    }
    CHECK_SOUND(theus_zone_check(zone));
    return status;
}

uint64_t
zone_figure(theus_zone *zone, size_t offset)
{
    theus_zone_figures figures;
    theus_zone_read(zone, &figures);
    return *(uint64_t *)((char *)&figures + offset);
}

bool
is_filled(const theus_block *block, char with)
{
    for (uint64_t i = 0; i < block->size; i++) {
        if (theus_block_data(block)[i] != with) {
            return false;
        }
    }
    return true;
}

int
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

void
zone_on_both_backends(void (*test)(void))
{
    char folder[] = ZONE_FOLDER "XXXXXX";
    test();
    if (mkdtemp(folder) != NULL) {
        theus_files_choose_folder(folder);
        backend = THEUS_NAMED;
        test();
        CHECK(rmdir(folder) == 0);
    }
}
