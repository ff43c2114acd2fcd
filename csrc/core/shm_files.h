/* The two files of an arena, by one of two backends. What they hold is the same (shm_layout.h); how others come to
 * them differs, and what is left when their owner is killed.
 *
 *     anonymous   Two memfds. Others open them through the owner's descriptors, in /proc. There is no name, so nothing is left,
 *                 and the data are sealed: nobody can ever map them for writing once more.
 *     named       Two files in a folder, /dev/shm unless the program says otherwise:
 *
 *                     theus_2_4242_000102030405060708090a0b0c0d0e0f.control
 *                     theus_2_4242_000102030405060708090a0b0c0d0e0f.data
 *                           │   │    └ id of the arena, random
 *                           │   └ pid of its owner, as the owner sees it: for people; nothing is concluded from it
 *                           └ THEUS_SHM_FORMAT
 *
 *                 Any process of the same user that has the folder can come to them, whatever it sees of others in /proc. A
 *                 reader opens the data read-only, so the kernel refuses it every write; but who opens the file himself, as
 *                 the same user and with the right to do everything, can write: there are no seals on files with names.
 *
 * Who owns a named arena is said by a lock, which its control file carries in every format: the owner holds byte 0 of it through
 * a description that nobody shares for longer than it takes a forked child to let go (shm_process.h). The kernel keeps that lock, so neither a reused pid, nor other pid namespaces that
 * see the folder, nor a clock can be wrong about a death. Three rules make it safe for anybody to remove what is left:
 *
 *  1. A control file has its name only after it is complete and locked: it is made without one, and gets it in one step. So whoever
 *     finds a control file that is not locked has found a dead owner's, for ever: an id is not given twice, nobody takes the
 *     lock again.
 *  2. Data have a name only while their control file has one: it comes first and goes last. So data alone are nobody's.
 *  3. To remove is to unlink by name, and to do so twice is to do it once. So removers need no lock against each other, may die
 *     between any two steps, and the next one goes on.
 *
 * There is no file but these two, hence no order of deaths that leaves something else. */
#ifndef THEUS_SHM_FILES_H
#define THEUS_SHM_FILES_H

#include "port_names.h"
#include "port_shm.h"
#include "shm_layout.h"
#include "shm_memory.h"

typedef enum {
    THEUS_ANONYMOUS,
    THEUS_NAMED,
} theus_backend;

enum { THEUS_BY_NAME = -1 }; /* as control_fd: the arena is a named one */

/* What names an arena to another process of this machine. */
typedef struct {
    uint32_t pid;
    int32_t control_fd; /* of that process, or THEUS_BY_NAME */
    unsigned char id[16];
} theus_arena_name;

/* Where named files lie, an absolute path. Asked for once per process, before anything else here; later calls change nothing. */
void theus_files_choose_folder(const char *path);
const char *theus_files_folder(void); /* "/dev/shm" if none was chosen; "" if that was none */

/* The same for the folder, on a disk, in which memory of the kind FILE lies: "/var/tmp". */
void theus_files_choose_disk(const char *path);

/* What decides how an arena's files come to be. */
typedef struct {
    theus_backend backend;
    theus_memory memory; /* that the data lie in */
    bool lends;          /* others may be let write to the data */
} theus_files_kind;

/* Both files, all zeroes, that nobody else can find. On failure: -1 or a descriptor to close in each. UNSUPPORTED: there is no such
 * memory with that backend, or none that can be lent. */
THEUS_MUST_CHECK theus_status theus_files_create(theus_files_kind kind, uint64_t control_size, uint64_t data_size, int *control,
                                                 int *data);

/* The owner has mapped both. No size changes any more, and nobody else maps the data for writing, unless it lends. */
THEUS_MUST_CHECK theus_status theus_files_seal(theus_files_kind kind, int control, int data);

/* The header stands and the owner's lock is held: from now on others can find it. */
THEUS_MUST_CHECK theus_status theus_files_show(const theus_arena_name *name, int control, int data);

/* By the owner, or for it when it is dead: nobody finds it any more. True: something was there. */
bool theus_files_hide(const theus_arena_name *name);

/* Another process's. GONE: it is not there. */
THEUS_MUST_CHECK theus_status theus_files_open_control(const theus_arena_name *name, int *control, uint64_t *size);
THEUS_MUST_CHECK theus_status theus_files_open_data(const theus_arena_name *name, theus_files_kind kind, int data_fd, int *data,
                                                    uint64_t *size);

/* The data of an arena that lends, opened once more, for writing. */
THEUS_MUST_CHECK theus_status theus_files_gain_write(int data, int *own);

/* A coming child's own description of a control file, with locks of its own. */
THEUS_MUST_CHECK theus_status theus_files_share(int control, int *own);

/* In a forked child: from now on `data` cannot write either. (Sealed, it cannot in the first place.) */
void theus_files_lose_write(theus_files_kind kind, int *data);

/* Bytes of such memory that can still be had, as far as anybody knows. Of ordinary memory that is what the system has and what the
 * backend can take; of the other kinds, what is set aside or free on the disk. */
uint64_t theus_files_room(theus_backend backend, theus_memory memory);

/* ---- names -------------------------------------------------------------------------------- */

#define THEUS_FILE_PREFIX "theus_"

typedef enum {
    THEUS_FILE_CONTROL,
    THEUS_FILE_DATA,
} theus_file_kind;

typedef struct {
    char text[96];
} theus_file_name;

theus_file_name theus_file_name_of(const theus_arena_name *name, theus_file_kind kind);

/* The parts of a name, of whatever format it is. False: it is none of ours. */
bool theus_file_name_parse(const char *text, theus_arena_name *name, uint32_t *format, theus_file_kind *kind);

#endif
