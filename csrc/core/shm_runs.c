/* See shm_runs.h. */
#include "shm_runs.h"

#include <assert.h>
#include <string.h>

enum { LINE = 64, PAGE = 4096, PAGED_FROM = 64 * 1024 };

theus_status
theus_runs_new(uint64_t size, uint32_t blocks, theus_runs **out)
{
    uint32_t places = blocks + 1;
    theus_runs *runs = theus_alloc(sizeof(theus_runs) + places * sizeof(theus_run));
    if (runs == NULL) {
        return THEUS_NOMEM;
    }
    *runs = (theus_runs){.count = 1, .places = places, .free_bytes = size, .largest = size};
    runs->free[0] = (theus_run){0, size};
    *out = runs;
    return THEUS_OK;
}

void
theus_runs_free(theus_runs *runs)
{
    theus_free(runs);
}

uint64_t
theus_runs_extent(uint64_t size)
{
    uint64_t step = size < PAGED_FROM ? LINE : PAGE;
    if (size > UINT64_MAX / 2) {
        return 0;
    }
    return size == 0 ? LINE : (size + step - 1) / step * step;
}

/* How much of a free range goes before a block whose place must be a page's. */
static uint64_t
padding(const theus_run *run, uint64_t extent)
{
    return extent < PAGED_FROM ? 0 : (PAGE - run->offset % PAGE) % PAGE;
}

static void
remove_at(theus_runs *runs, uint32_t at)
{
    runs->count--;
    memmove(&runs->free[at], &runs->free[at + 1], (runs->count - at) * sizeof(theus_run));
}

static void
insert_at(theus_runs *runs, uint32_t at, theus_run run)
{
    assert(runs->count < runs->places);
    memmove(&runs->free[at + 1], &runs->free[at], (runs->count - at) * sizeof(theus_run));
    runs->free[at] = run;
    runs->count++;
}

/* The smallest free range that fits, of equal ones the lowest; `count`: none does. */
static uint32_t
best_for(const theus_runs *runs, uint64_t extent)
{
    uint32_t best = runs->count;
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < runs->count && least > extent; i++) {
        const theus_run *run = &runs->free[i];
        if (run->size < least && run->size >= padding(run, extent) + extent) {
            best = i;
            least = run->size;
        }
    }
    return best;
}

bool
theus_runs_take(theus_runs *runs, uint64_t extent, uint64_t *offset)
{
    if (extent == 0 || extent > runs->largest) {
        return false;
    }
    uint32_t at = best_for(runs, extent);
    if (at == runs->count) {
        runs->largest = theus_runs_largest(runs);
        return false;
    }
    theus_run *run = &runs->free[at];
    uint64_t before = padding(run, extent), after = run->size - before - extent;
    *offset = run->offset + before;
    runs->free_bytes -= extent;
    if (before > 0) {
        run->size = before;
        if (after > 0) {
            insert_at(runs, at + 1, (theus_run){*offset + extent, after});
        }
    }
    else if (after > 0) {
        *run = (theus_run){*offset + extent, after};
    }
    else {
        remove_at(runs, at);
    }
    return true;
}

void
theus_runs_give(theus_runs *runs, uint64_t offset, uint64_t extent)
{
    uint32_t low = 0, high = runs->count; /* the first free range behind the given one */
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (runs->free[middle].offset < offset) {
            low = middle + 1;
        }
        else {
            high = middle;
        }
    }
    theus_run *before = low > 0 ? &runs->free[low - 1] : NULL;
    theus_run *after = low < runs->count ? &runs->free[low] : NULL;
    bool joins_before = before != NULL && before->offset + before->size == offset;
    bool joins_after = after != NULL && offset + extent == after->offset;
    assert(before == NULL || before->offset + before->size <= offset);
    assert(after == NULL || offset + extent <= after->offset);
    uint64_t size;
    if (joins_before) {
        before->size += extent + (joins_after ? after->size : 0);
        size = before->size;
        if (joins_after) {
            remove_at(runs, low);
        }
    }
    else if (joins_after) {
        *after = (theus_run){offset, extent + after->size};
        size = after->size;
    }
    else {
        insert_at(runs, low, (theus_run){offset, extent});
        size = extent;
    }
    runs->free_bytes += extent;
    runs->largest = size > runs->largest ? size : runs->largest;
}

uint64_t
theus_runs_largest(const theus_runs *runs)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < runs->count; i++) {
        largest = runs->free[i].size > largest ? runs->free[i].size : largest;
    }
    return largest;
}

#ifdef THEUS_TESTING
const char *
theus_runs_check(const theus_runs *runs)
{
    uint64_t free_bytes = 0, end = 0;
    for (uint32_t i = 0; i < runs->count; i++) {
        const theus_run *run = &runs->free[i];
        if (run->size == 0 || run->size % LINE != 0 || run->offset % LINE != 0) {
            return "a free range is empty or not aligned";
        }
        if (i > 0 && run->offset <= end) {
            return run->offset < end ? "two free ranges overlap" : "two neighbours are not merged";
        }
        end = run->offset + run->size;
        free_bytes += run->size;
    }
    if (free_bytes != runs->free_bytes) {
        return "the sum of the free ranges is another one than is kept";
    }
    return theus_runs_largest(runs) > runs->largest ? "a free range is larger than the largest" : NULL;
}
#endif
