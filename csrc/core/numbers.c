/* Growing arrays of positions, with room for a few in place. */
#include "cell.h"

#include <stdlib.h>
#include <string.h>

void
theus_numbers_init(theus_numbers *numbers)
{
    numbers->count = 0;
    numbers->room = sizeof(numbers->few) / sizeof(numbers->few[0]);
    numbers->items = numbers->few;
}

void
theus_numbers_fini(theus_numbers *numbers)
{
    if (numbers->items != numbers->few) {
        theus_free(numbers->items);
    }
    theus_numbers_init(numbers);
}

static int
number_order(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool
numbers_ascend(const theus_numbers *numbers)
{
    for (uint32_t i = 1; i < numbers->count; i++) {
        if (numbers->items[i - 1] >= numbers->items[i]) {
            return false;
        }
    }
    return true;
}

void
theus_numbers_sort(theus_numbers *numbers)
{
    if (numbers_ascend(numbers)) {
        return; /* as iterating logs them */
    }
    qsort(numbers->items, numbers->count, sizeof(uint32_t), number_order);
    uint32_t kept = 1;
    for (uint32_t i = 1; i < numbers->count; i++) {
        if (numbers->items[i] != numbers->items[kept - 1]) {
            numbers->items[kept++] = numbers->items[i];
        }
    }
    numbers->count = kept;
}

static theus_status
numbers_grow(theus_numbers *numbers, uint32_t room)
{
    uint32_t *items = theus_alloc(room * sizeof(uint32_t));
    if (items == NULL) {
        return THEUS_NOMEM;
    }
    memcpy(items, numbers->items, numbers->count * sizeof(uint32_t));
    if (numbers->items != numbers->few) {
        theus_free(numbers->items);
    }
    numbers->items = items;
    numbers->room = room;
    return THEUS_OK;
}

/* Repeats are squeezed out when the array is full, so a loop over a few keys stays small; but not in a small array, which
 * would be full again at once. */
theus_status
theus_numbers_make_room(theus_numbers *numbers)
{
    enum { WORTH_SORTING = 32 };
    if (numbers->room >= WORTH_SORTING) {
        theus_numbers_sort(numbers);
    }
    return numbers->count > numbers->room / 2 ? numbers_grow(numbers, numbers->room * 2) : THEUS_OK;
}

theus_status
theus_numbers_copy(theus_numbers *to, const theus_numbers *from)
{
    theus_numbers_init(to);
    if (from->count > to->room && numbers_grow(to, from->count) != THEUS_OK) {
        return THEUS_NOMEM;
    }
    memcpy(to->items, from->items, from->count * sizeof(uint32_t));
    to->count = from->count;
    return THEUS_OK;
}
