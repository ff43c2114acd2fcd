/* See shm_ledger.h. */
#include "shm_ledger.h"

#include "shm_slots.h"

#include <string.h>

static const char magic[] = "thuslog1\n"; /* in the place of THEUS_SHM_MAGIC, and in no format the same */

enum {
    MAGIC_BYTES = sizeof(magic) - 1,
    MOST_BYTES = 1 << 20, /* some ten thousand names */
};

theus_status
theus_ledger_open(int *fd, theus_arena_name *name)
{
    *name = (theus_arena_name){.pid = theus_process_id(), .control_fd = THEUS_BY_NAME};
    theus_status status = theus_random_id(name->id);
    if (status != THEUS_OK || (status = theus_name_create(theus_files_folder(), false, 0, fd)) != THEUS_OK) {
        return status;
    }
    if (!theus_byte_try_lock(*fd, THEUS_SHM_OWNER) || !theus_file_append(*fd, magic, MAGIC_BYTES)) {
        status = THEUS_NO_ROOM;
    }
    else {
        status = theus_name_give(*fd, theus_files_folder(), theus_file_name_of(name, THEUS_FILE_CONTROL).text);
    }
    if (status != THEUS_OK) {
        theus_shm_close(*fd);
    }
    return status;
}

static void
sweep_entry(const char *folder, const char *entry, bool remove, uint64_t *bytes)
{
    theus_name_facts facts;
    theus_arena_name arena;
    uint32_t format;
    theus_file_kind kind;
    if (strncmp(entry, THEUS_FILE_PREFIX, strlen(THEUS_FILE_PREFIX)) != 0 || strchr(entry, '/') != NULL
        || theus_file_name_parse(entry, &arena, &format, &kind)
        || theus_name_look(folder, entry, &facts) != THEUS_OK || !facts.regular || !facts.mine) {
        return;
    }
    *bytes += facts.bytes;
    if (remove) {
        (void)theus_name_remove(folder, entry);
        THEUS_SHM_STEP("sweep: entry");
    }
}

theus_status
theus_ledger_sweep(const char *folder, int control, bool remove, uint64_t *bytes)
{
    char begin[MAGIC_BYTES];
    if (theus_file_read(control, begin, sizeof(begin)) != sizeof(begin) || memcmp(begin, magic, sizeof(begin)) != 0) {
        return THEUS_OK;
    }
    char *text = theus_alloc(MOST_BYTES + 1);
    if (text == NULL) {
        return THEUS_NOMEM;
    }
    text[theus_file_read(control, text, MOST_BYTES)] = '\0';
    /* A name without its newline was being written when its owner died: it may be the beginning of another one. */
    for (char *entry = text + MAGIC_BYTES, *end; (end = strchr(entry, '\n')) != NULL; entry = end + 1) {
        *end = '\0';
        sweep_entry(folder, entry, remove, bytes);
    }
    theus_free(text);
    return THEUS_OK;
}
