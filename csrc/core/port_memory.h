/* How much memory there is, of each sort: what the system, the groups of processes that this one is in, and its own limits say.
 * Read anew each time, from files of the kernel; an estimate, since others take memory meanwhile. */
#ifndef THEUS_PORT_MEMORY_H
#define THEUS_PORT_MEMORY_H

#include "port.h"

typedef struct {
    uint64_t total; /* all that this process may use */
    uint64_t room;  /* and what of it is left, before the system or a group runs out */
} theus_memory_figures;

/* As it stands in the files below `root`: "" is the system itself, a test gives a folder that looks like one. Bytes; UINT64_MAX
 * where nothing is known. Some 50 microseconds. */
theus_memory_figures theus_memory_read(const char *root);

static inline uint64_t
theus_memory_room(void)
{
    return theus_memory_read("").room;
}

/* What this process has mapped, and the most that it may (RLIMIT_AS); limit 0: there is none, and `used` was not asked for. */
typedef struct {
    uint64_t used, limit;
} theus_address_figures;

theus_address_figures theus_address_read(void);

/* Bytes in pages of 2 MiB that are set aside and free. */
uint64_t theus_huge_room(const char *root);

/* RLIMIT_MEMLOCK; UINT64_MAX: there is none. */
uint64_t theus_pin_limit(void);

#endif
