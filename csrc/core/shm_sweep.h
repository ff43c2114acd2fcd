/* What is left of owners that were killed: found and removed. By whoever uses the folder next, and whenever somebody asks.
 *
 * The rules that make this safe are in shm_files.h: a control file that is not locked is a dead owner's, for ever, and data
 * without a control file are nobody's. So a sweep waits for no other process and can be ended at any step; any number
 * of them may run at once, beside any number of owners and borrowers. Who has the memory mapped keeps it.
 *
 * A control file may be a ledger (shm_ledger.h): then what stands there goes with it.
 *
 * What is not certainly ours and dead stays as it is: files of other users, what cannot be opened, links, folders and pipes, and
 * whatever is called otherwise, if only by a letter. A file whose header is broken or of another version is judged as
 * any: names and lock are the same in all versions. */
#ifndef THEUS_SHM_SWEEP_H
#define THEUS_SHM_SWEEP_H

#include "shm_files.h"

typedef enum {
    THEUS_LEFT_DEAD,    /* its owner is dead: removed, if that was asked for */
    THEUS_LEFT_ORPHAN,  /* data without a control file: the same */
    THEUS_LEFT_ALIVE,   /* its owner lives. This and what follows is never touched */
    THEUS_LEFT_OTHERS,  /* another user's */
    THEUS_LEFT_CLOSED,  /* we may not look into it, or not remove it */
    THEUS_LEFT_FOREIGN, /* begins like a name of ours, and is none; or no file */
} theus_left_why;

/* An arena, or something else that lies in the folder. */
typedef struct {
    theus_left_why why;
    bool removed;
    const char *name;   /* of the control file, or of the only one */
    uint64_t bytes;     /* of memory, of both files, or of what stands in a ledger */
    uint32_t pid;       /* that its owner had; 0: not known, as the next two */
    uint64_t made_ns;   /* wall clock */
    char session[THEUS_SESSION_MAX + 1];
} theus_left;

/* Calls `tell` (or nobody, if it is NULL) with everything in the folder that begins with THEUS_FILE_PREFIX; and removes what
 * the dead left, if `remove`. NO_FOLDER, NO_ROOM: the folder could not be read. */
theus_status theus_sweep(const char *folder, bool remove, void (*tell)(void *context, const theus_left *left),
                         void *context);

#endif
