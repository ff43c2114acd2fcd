/* Files with a name in a folder, as the named backend and its sweeper need them: made in one step, looked at without being
 * touched, removed. The rest of what a file of shared memory needs is in port_shm.h, whose outcomes these are. */
#ifndef THEUS_PORT_NAMES_H
#define THEUS_PORT_NAMES_H

#include "port.h"

enum { THEUS_FILE_NAME_MAX = 255 }; /* bytes of a name in a folder */

/* A file of zeroes that will lie in `folder`, but has no name yet: it is gone with its last descriptor, as one without
 * a name. No other user can open it; `read_only`: nobody can open it for writing once more, unless he may do everything.
 * NO_FOLDER: there is no such folder, or it is closed to us; UNSUPPORTED: its file system cannot do that. */
THEUS_MUST_CHECK theus_status theus_name_create(const char *folder, bool read_only, uint64_t size, int *fd);

/* Gives it its name, in one step. REFUSED: the name is taken. */
THEUS_MUST_CHECK theus_status theus_name_give(int fd, const char *folder, const char *name);

/* Opens a file of ours: a regular one, of this user, under no second name. Links are not followed. GONE: there is none. */
THEUS_MUST_CHECK theus_status theus_name_open(const char *folder, const char *name, bool writable, int *fd, uint64_t *size);

/* What is open as `fd`, opened once more: a description of our own, with locks of its own. */
THEUS_MUST_CHECK theus_status theus_name_reopen(int fd, bool writable, int *own);

/* Whether it was there, and is not any more. */
bool theus_name_remove(const char *folder, const char *name);

typedef struct {
    bool regular; /* a file: no folder, link, pipe, device */
    bool mine;    /* of the user who asks */
    uint64_t bytes; /* of memory that it takes */
} theus_name_facts;

/* GONE: no such name. The file is not opened, nor is a link followed. */
THEUS_MUST_CHECK theus_status theus_name_look(const char *folder, const char *name, theus_name_facts *facts);

/* Calls `visit` with every name that begins with `prefix`. Names that come or go meanwhile may be visited or not. */
THEUS_MUST_CHECK theus_status theus_names_each(const char *folder, const char *prefix,
                                               void (*visit)(void *context, const char *name), void *context);

/* At most `most` bytes from the start of a file. How many there were. */
uint64_t theus_file_read(int fd, void *bytes, uint64_t most);

/* Adds to the end of a file; false: there was no room. */
THEUS_MUST_CHECK bool theus_file_append(int fd, const void *bytes, uint64_t size);

/* Bytes that the folder's file system can still take; UINT64_MAX where nobody says. */
uint64_t theus_folder_room(const char *folder);

#endif
