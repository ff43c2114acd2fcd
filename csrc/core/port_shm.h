/* What shared memory asks of the operating system: files without a name, mappings, locks on bytes of a file. port_shm.c is the only
 * file of the core that makes these calls; how much memory there is, says port_memory.h.
 *
 * Outcomes: THEUS_NO_ROOM where memory or address space ran out, THEUS_NO_FILES where descriptors did, THEUS_REFUSED where the system said no for another
 * reason, THEUS_UNSUPPORTED where it has no such thing. Nothing here blocks, and nothing is written to a stream. */
#ifndef THEUS_PORT_SHM_H
#define THEUS_PORT_SHM_H

#include "port.h"

/* What an errno of these calls means; also for port_names.c. */
theus_status theus_status_of_errno(int error);

/* ---- files ------------------------------------------------------------------------ */

/* A file of zeroes that has no name, is not inherited through exec, and is gone with its last descriptor and mapping. `label` is
 * what /proc shows. Its pages are not there yet: see theus_shm_back(). `huge`: they will be those of 2 MiB that are set aside, and
 * the size is a multiple of that. */
THEUS_MUST_CHECK theus_status theus_shm_create(const char *label, bool huge, uint64_t size, int *fd);

/* From now on the size stays: no mapping can lose its pages. `read_only`: and no new mapping can write, no write() either; those
 * that exist go on. */
THEUS_MUST_CHECK theus_status theus_shm_seal(int fd, bool read_only);

/* Has the pages of this range allocated, or says that there is no room: touching them later cannot fail. Those that
 * are there keep their content. */
THEUS_MUST_CHECK theus_status theus_shm_back(int fd, uint64_t offset, uint64_t size);

typedef enum {
    THEUS_OPEN_SEALED, /* to read it, if it is sealed read-only */
    THEUS_OPEN_READ,   /* to read it, whoever may write */
    THEUS_OPEN_WRITE,
} theus_open;

/* Opens once more what `fd` of process `pid` is (0: this process), if that is a file that theus_shm_create() made under
 * `label` and theus_shm_seal() sealed: a description of our own, with locks of its own. GONE: there is no such file there. */
THEUS_MUST_CHECK theus_status theus_shm_open(uint32_t pid, int fd, const char *label, theus_open how, int *own,
                                             uint64_t *size);

/* The same for a file that theus_name_create() made read-only, in whatever folder, and that was given no name. */
THEUS_MUST_CHECK theus_status theus_shm_open_nameless(uint32_t pid, int fd, int *own, uint64_t *size);
void theus_shm_close(int fd);

/* ---- mappings ----------------------------------------------------------------------- */

typedef enum {
    THEUS_MAP_READ,    /* the kernel refuses every write, and to make it writable if the file is sealed read-only */
    THEUS_MAP_WRITE,
    THEUS_MAP_PRIVATE, /* writable; what is written stays here */
} theus_map;

THEUS_MUST_CHECK theus_status theus_shm_map(int fd, uint64_t offset, uint64_t size, theus_map how, void **memory);

/* Puts another mapping of the same range, from `offset` on, in the place of the one at `memory`. If the kernel refuses a new one (RLIMIT_AS,
 * vm.max_map_count), the old one stays, and with it the description that it was made through; but THEUS_MAP_READ holds: what is mapped
 * there cannot be written to. */
void theus_shm_remap(int fd, uint64_t offset, void *memory, uint64_t size, theus_map how);
void theus_shm_unmap(void *memory, uint64_t size);

/* Keeps pages that are there in RAM, for as long as they are mapped here. NO_ROOM: RLIMIT_MEMLOCK is used up. */
THEUS_MUST_CHECK theus_status theus_shm_pin(void *memory, uint64_t size);
uint64_t theus_page_size(void);

/* ---- liveness ------------------------------------------------------------------------- */

/* A lock on one byte of a file, held by an open file description: not by a process or thread. The kernel drops it when the last
 * descriptor of that description is closed and the last mapping made through it is gone, so at the latest when its processes are
 * dead, however they died. (Mappings are easily forgotten: a forked child inherits them, too.) */
bool theus_byte_try_lock(int fd, uint64_t byte);
void theus_byte_unlock(int fd, uint64_t byte);
bool theus_byte_is_locked(int fd, uint64_t byte); /* by another description */

/* ---- identity ---------------------------------------------------------------------------- */

uint32_t theus_process_id(void);
THEUS_MUST_CHECK theus_status theus_random_id(unsigned char id[16]); /* cannot be guessed */

/* pthread_atfork. The child's handler runs before fork() returns there. */
THEUS_MUST_CHECK theus_status theus_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void));

/* atexit. Not in a process that ends by _exit() or a signal. */
THEUS_MUST_CHECK theus_status theus_at_exit(void (*last)(void));

#endif
