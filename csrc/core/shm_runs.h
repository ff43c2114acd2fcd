/* Which ranges of a data file are free: kept by the arena's owner, in memory of its own, because nobody else gives ranges out.
 *
 * The free ranges stand in one array, in the order of their places; neighbours are always merged. A request takes the smallest
 * range that fits, of equal ones the lowest, and leaves the rest of it free. The range at the end of the file is the largest one and
 * so comes last: data gather at the start, where the pages are backed and warm. (To take the lowest range that fits is faster, and
 * left one page in eight unused where sizes differ much: tests/c/test_shm_memory.c.) What is wasted beside that is the rounding: to
 * 64 bytes, and from 64 KiB on to pages. The array cannot run out of places: between two free ranges lies a block, and blocks are
 * bounded by the slots. A search looks at each free range at most once.
 *
 * Not for two threads at a time. */
#ifndef THEUS_SHM_RUNS_H
#define THEUS_SHM_RUNS_H

#include "port.h"

typedef struct {
    uint64_t offset, size;
} theus_run;

typedef struct {
    uint32_t count, places;
    uint64_t free_bytes;
    uint64_t largest; /* never below the largest free range; exact when a search has failed */
    theus_run free[];
} theus_runs;

/* All of `size` bytes free, for at most `blocks` blocks at a time. */
THEUS_MUST_CHECK theus_status theus_runs_new(uint64_t size, uint32_t blocks, theus_runs **out);
void theus_runs_free(theus_runs *runs);

/* The bytes that a block of `size` takes: rounded up, never 0. 0: more than there can be. */
uint64_t theus_runs_extent(uint64_t size);

/* A range of theus_runs_extent() bytes. False: no free range is as large. */
THEUS_MUST_CHECK bool theus_runs_take(theus_runs *runs, uint64_t extent, uint64_t *offset);
void theus_runs_give(theus_runs *runs, uint64_t offset, uint64_t extent);

uint64_t theus_runs_largest(const theus_runs *runs);

#ifdef THEUS_TESTING
const char *theus_runs_check(const theus_runs *runs); /* NULL, or what is broken */
#endif

#endif
