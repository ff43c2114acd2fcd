/* Kinds of memory that a block may lie in, and who is content with which.
 *
 *     HUGE     pages of 2 MiB that the administrator has set aside (vm.nr_hugepages): fewer of them to look up, never swapped out.
 *              Taken in whole pages; the one kind that costs no ordinary memory, so limits on that do not count for it
 *     PINNED   ordinary pages that the owner keeps in RAM (mlock): no access waits for a disk. RLIMIT_MEMLOCK limits them. They are
 *              ordinary ones again when the owner is dead and others still look
 *     SHARED   ordinary pages, which the system may swap out if it has where to. The default
 *     FILE     pages of a file without a name on a disk: the system writes them back there when it needs the memory, so more can be
 *              had than there is memory. What is left after a death is nothing, as of the others
 *     HOST     whatever one process has for itself. No block is of this kind: what lies there has to be copied to be shared
 *
 * A placement is a set of kinds, a bit each: those that somebody can work with. Two questions are asked of it, both answered here
 * and by nothing but their arguments:
 *
 *     is this good enough as it is?      the kind it lies in is in the set; if not, it has to be copied
 *     where does a new block go?         to the first kind of the set, in the order above, that has room. Where a quota says no,
 *                                        the next kind is not asked: quotas count blocks of every kind
 *
 * All blocks of an arena are of its kind. An arena without a block counts for every kind: who runs short of one gives back
 * the idle ones of all (take_place() in shm_zone.c).
 *
 * Whatever its kind, an arena is found, leased, checked and reaped in the same way; only how its data file comes to be differs
 * (shm_files.c). HUGE and FILE are had through descriptors: the named backend has neither. The data of FILE carry no seals, since
 * files on disks know none: another process of the same user who tries can write them, or cut them under a reader, as with
 * files that have names. */
#ifndef THEUS_SHM_MEMORY_H
#define THEUS_SHM_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { /* in the order in which room is looked for */
    THEUS_MEMORY_HUGE,
    THEUS_MEMORY_PINNED,
    THEUS_MEMORY_SHARED,
    THEUS_MEMORY_FILE,
    THEUS_MEMORY_BLOCKS, /* those before it can have blocks */
    THEUS_MEMORY_HOST = THEUS_MEMORY_BLOCKS,
    THEUS_MEMORY_KINDS,
} theus_memory;

typedef uint32_t theus_placement;

#define THEUS_PLACE(kind) ((theus_placement)1 << (kind))

/* Is what lies in memory of this kind good enough as it is? */
static inline bool
theus_placement_accepts(theus_placement set, theus_memory kind)
{
    return (set >> kind & 1) != 0;
}

/* The first kind of the set, from `from` on, that a block may lie in; MEMORY_BLOCKS: there is none. */
static inline theus_memory
theus_placement_next(theus_placement set, theus_memory from)
{
    while (from < THEUS_MEMORY_BLOCKS && !theus_placement_accepts(set, from)) {
        from++;
    }
    return from;
}

/* The pages of such memory, which a mapping of it is made of; `page` is the machine's. */
static inline uint64_t
theus_memory_page(theus_memory kind, uint64_t page)
{
    return kind == THEUS_MEMORY_HUGE ? (uint64_t)2 << 20 : page;
}

#endif
