/* A ledger: names of segments that this process made by other means, as shm_open() does, and that are not to outlive it.
 *
 * It is a control file without data, in which names stand instead of slots. So it is shown, locked and swept like any other; who
 * sweeps one whose owner is dead removes first what stands in it, then the ledger itself. It is believed as little as anything
 * that lies in a folder: only regular files of this user that begin with THEUS_FILE_PREFIX, in the same folder, and no file of
 * an arena. */
#ifndef THEUS_SHM_LEDGER_H
#define THEUS_SHM_LEDGER_H

#include "shm_files.h"

/* An empty ledger of this process, in the folder of named memory. Names are appended to `fd`, each followed by a newline; the
 * owner hides and closes it. */
THEUS_MUST_CHECK theus_status theus_ledger_open(int *fd, theus_arena_name *name);

/* If that control file is a ledger: adds up the bytes of what stands in it, and removes that, if `remove`. NOMEM: not now. */
THEUS_MUST_CHECK theus_status theus_ledger_sweep(const char *folder, int control, bool remove, uint64_t *bytes);

#endif
