/* See shm_files.h. */
#include "shm_files.h"

#include "port_memory.h"
#include "shm_slots.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTROL_LABEL "theus-control"
#define DATA_LABEL "theus-data"
#define LENT_LABEL "theus-lent" /* not sealed read-only: nobody takes it for one that is */

typedef struct {
    _Atomic(bool) chosen;
    char path[256];
} folder;

/* Constant from the first use on: theus_files_choose_...() comes before it, or never. */
static struct {
    folder named, disk;
} places = {.named.path = "/dev/shm", .disk.path = "/var/tmp"};

static void
choose(folder *which, const char *path)
{
    if (!atomic_exchange(&which->chosen, true)) {
        bool fits = path[0] == '/' && strlen(path) < sizeof(which->path);
        strncpy(which->path, fits ? path : "", sizeof(which->path) - 1);
    }
}

void
theus_files_choose_folder(const char *path)
{
    choose(&places.named, path);
}

void
theus_files_choose_disk(const char *path)
{
    choose(&places.disk, path);
}

const char *
theus_files_folder(void)
{
    return places.named.path;
}

/* ---- the two backends ------------------------------------------------------------------------- */

/* Files that others find through descriptors alone, also where the backend has names; their pages cannot be lent, either. */
static bool
needs_descriptors(theus_memory memory)
{
    return memory == THEUS_MEMORY_HUGE || memory == THEUS_MEMORY_FILE;
}

theus_status
theus_files_create(theus_files_kind kind, uint64_t control_size, uint64_t data_size, int *control, int *data)
{
    if (needs_descriptors(kind.memory) && (kind.backend == THEUS_NAMED || kind.lends)) {
        return THEUS_UNSUPPORTED;
    }
    theus_status status = kind.backend == THEUS_NAMED ? theus_name_create(places.named.path, false, control_size, control)
                                                      : theus_shm_create(CONTROL_LABEL, false, control_size, control);
    if (status != THEUS_OK) {
        return status;
    }
    if (kind.memory == THEUS_MEMORY_FILE) {
        return theus_name_create(places.disk.path, true, data_size, data);
    }
    return kind.backend == THEUS_NAMED
               ? theus_name_create(places.named.path, !kind.lends, data_size, data)
               : theus_shm_create(kind.lends ? LENT_LABEL : DATA_LABEL, kind.memory == THEUS_MEMORY_HUGE, data_size, data);
}

/* Files in folders know no seals: that they cannot be opened for writing was said when they were made. */
static bool
lies_in_folder(theus_files_kind kind)
{
    return kind.backend == THEUS_NAMED || kind.memory == THEUS_MEMORY_FILE;
}

theus_status
theus_files_seal(theus_files_kind kind, int control, int data)
{
    theus_status status = kind.backend == THEUS_NAMED ? THEUS_OK : theus_shm_seal(control, false);
    return status != THEUS_OK || lies_in_folder(kind) ? status : theus_shm_seal(data, !kind.lends);
}

theus_status
theus_files_show(const theus_arena_name *name, int control, int data)
{
    if (name->control_fd != THEUS_BY_NAME) {
        return THEUS_OK;
    }
    THEUS_SHM_STEP("show: no name");
    theus_status status = theus_name_give(control, places.named.path, theus_file_name_of(name, THEUS_FILE_CONTROL).text);
    if (status != THEUS_OK) {
        return status;
    }
    THEUS_SHM_STEP("show: control");
    status = theus_name_give(data, places.named.path, theus_file_name_of(name, THEUS_FILE_DATA).text);
    THEUS_SHM_STEP("show: both");
    return status;
}

bool
theus_files_hide(const theus_arena_name *name)
{
    if (name->control_fd != THEUS_BY_NAME) {
        return false;
    }
    THEUS_SHM_STEP("hide: both");
    bool data = theus_name_remove(places.named.path, theus_file_name_of(name, THEUS_FILE_DATA).text);
    THEUS_SHM_STEP("hide: control");
    bool control = theus_name_remove(places.named.path, theus_file_name_of(name, THEUS_FILE_CONTROL).text);
    THEUS_SHM_STEP("hide: none");
    return data || control;
}

theus_status
theus_files_open_control(const theus_arena_name *name, int *control, uint64_t *size)
{
    if (name->control_fd != THEUS_BY_NAME) {
        return theus_shm_open(name->pid, name->control_fd, CONTROL_LABEL, THEUS_OPEN_WRITE, control, size);
    }
    return theus_name_open(places.named.path, theus_file_name_of(name, THEUS_FILE_CONTROL).text, true, control, size);
}

theus_status
theus_files_open_data(const theus_arena_name *name, theus_files_kind kind, int data_fd, int *data, uint64_t *size)
{
    if (name->control_fd != THEUS_BY_NAME) {
        return kind.memory == THEUS_MEMORY_FILE ? theus_shm_open_nameless(name->pid, data_fd, data, size)
               : kind.lends ? theus_shm_open(name->pid, data_fd, LENT_LABEL, THEUS_OPEN_READ, data, size)
                            : theus_shm_open(name->pid, data_fd, DATA_LABEL, THEUS_OPEN_SEALED, data, size);
    }
    return theus_name_open(places.named.path, theus_file_name_of(name, THEUS_FILE_DATA).text, false, data, size);
}

theus_status
theus_files_share(int control, int *own)
{
    return theus_name_reopen(control, true, own);
}

theus_status
theus_files_gain_write(int data, int *own)
{
    return theus_name_reopen(data, true, own);
}

void
theus_files_lose_write(theus_files_kind kind, int *data)
{
    int own;
    if ((lies_in_folder(kind) || kind.lends) && theus_name_reopen(*data, false, &own) == THEUS_OK) {
        theus_shm_close(*data);
        *data = own;
    }
}

uint64_t
theus_files_room(theus_backend backend, theus_memory memory)
{
    if (memory == THEUS_MEMORY_HUGE) {
        return theus_huge_room("");
    }
    if (memory == THEUS_MEMORY_FILE) {
        return theus_folder_room(places.disk.path);
    }
    uint64_t room = theus_memory_room(), there = backend == THEUS_NAMED ? theus_folder_room(places.named.path) : UINT64_MAX;
    return there < room ? there : room;
}

/* ---- names ---------------------------------------------------------------------------------------- */

static const char *const suffixes[] = {[THEUS_FILE_CONTROL] = ".control", [THEUS_FILE_DATA] = ".data"};

theus_file_name
theus_file_name_of(const theus_arena_name *name, theus_file_kind kind)
{
    theus_file_name made;
    int length = snprintf(made.text, sizeof(made.text), THEUS_FILE_PREFIX "%u_%" PRIu32 "_", THEUS_SHM_FORMAT, name->pid);
    for (int i = 0; i < 16; i++) {
        length += snprintf(made.text + length, sizeof(made.text) - (size_t)length, "%02x", name->id[i]);
    }
    snprintf(made.text + length, sizeof(made.text) - (size_t)length, "%s", suffixes[kind]);
    return made;
}

/* A decimal number, without a sign or more zeroes than it needs, and the "_" after it. */
static bool
take_number(const char **text, uint32_t *number)
{
    char *end;
    if (**text < '0' || **text > '9' || (**text == '0' && (*text)[1] != '_')) {
        return false;
    }
    unsigned long long value = strtoull(*text, &end, 10);
    *number = (uint32_t)value;
    *text = end + 1;
    return *end == '_' && value <= UINT32_MAX;
}

static int
hex_digit(char digit)
{
    return digit >= '0' && digit <= '9' ? digit - '0' : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

bool
theus_file_name_parse(const char *text, theus_arena_name *name, uint32_t *format, theus_file_kind *kind)
{
    size_t prefix = strlen(THEUS_FILE_PREFIX);
    if (strncmp(text, THEUS_FILE_PREFIX, prefix) != 0) {
        return false;
    }
    text += prefix;
    name->control_fd = THEUS_BY_NAME;
    if (!take_number(&text, format) || !take_number(&text, &name->pid)) {
        return false;
    }
    for (int i = 0; i < 16; i++, text += 2) {
        int high = hex_digit(text[0]), low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0) {
            return false;
        }
        name->id[i] = (unsigned char)(high << 4 | low);
    }
    *kind = strcmp(text, suffixes[THEUS_FILE_DATA]) == 0 ? THEUS_FILE_DATA : THEUS_FILE_CONTROL;
    return strcmp(text, suffixes[*kind]) == 0;
}
