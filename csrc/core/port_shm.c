/* port_shm.h for Linux; elsewhere shared memory without names is not supported. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "port_shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/random.h>
#endif

enum { BACK_AT_ONCE = 1 << 20 };

theus_status
theus_status_of_errno(int error)
{
    switch (error) {
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return THEUS_NO_ROOM;
    case EMFILE:
    case ENFILE:
        return THEUS_NO_FILES;
    case ENOSYS:
    case EOPNOTSUPP:
        return THEUS_UNSUPPORTED;
    default:
        return THEUS_REFUSED;
    }
}

/* ---- files ------------------------------------------------------------------------ */

#ifdef __linux__

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

theus_status
theus_shm_create(const char *label, uint64_t size, int *fd)
{
    int made = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (made < 0 && errno == EINVAL) { /* a kernel before 6.3 */
        made = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    if (made < 0) {
        return theus_status_of_errno(errno);
    }
    if (size > INT64_MAX || ftruncate(made, (off_t)size) != 0) {
        theus_status status = size > INT64_MAX ? THEUS_NO_ROOM : theus_status_of_errno(errno);
        close(made);
        return status;
    }
    *fd = made;
    return THEUS_OK;
}

theus_status
theus_shm_seal(int fd, bool read_only)
{
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (read_only ? F_SEAL_FUTURE_WRITE : 0);
    return fcntl(fd, F_ADD_SEALS, seals) == 0 ? THEUS_OK : theus_status_of_errno(errno);
}

theus_status
theus_shm_open(uint32_t pid, int fd, const char *label, theus_open how, int *own, uint64_t *size)
{
    char path[64], target[128], wanted[128];
    if (pid == 0) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    }
    else {
        snprintf(path, sizeof(path), "/proc/%" PRIu32 "/fd/%d", pid, fd);
    }
    /* Look before opening: a forged number may name a device or a pipe, and to open those does something. */
    ssize_t length = readlink(path, target, sizeof(target) - 1);
    if (length < 0) {
        return errno == EACCES || errno == EPERM ? THEUS_REFUSED : THEUS_GONE;
    }
    target[length] = '\0';
    snprintf(wanted, sizeof(wanted), "/memfd:%s (deleted)", label);
    if (strcmp(target, wanted) != 0) {
        return THEUS_GONE;
    }
    int opened = open(path, (how == THEUS_OPEN_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (opened < 0) {
        return errno == ENOENT ? THEUS_GONE : theus_status_of_errno(errno);
    }
    /* The seals are what makes it safe to look: a file that can shrink turns every look into a SIGBUS. */
    int needed = F_SEAL_SHRINK | F_SEAL_GROW | (how == THEUS_OPEN_SEALED ? F_SEAL_FUTURE_WRITE : 0);
    int seals = fcntl(opened, F_GET_SEALS);
    struct stat about;
    if (seals < 0 || (seals & needed) != needed || fstat(opened, &about) != 0 || !S_ISREG(about.st_mode)) {
        close(opened);
        return THEUS_GONE;
    }
    *own = opened;
    *size = (uint64_t)about.st_size;
    return THEUS_OK;
}

#else

theus_status
theus_shm_create(const char *label, uint64_t size, int *fd)
{
    (void)label, (void)size, (void)fd;
    return THEUS_UNSUPPORTED;
}

theus_status
theus_shm_seal(int fd, bool read_only)
{
    (void)fd, (void)read_only;
    return THEUS_UNSUPPORTED;
}

theus_status
theus_shm_open(uint32_t pid, int fd, const char *label, theus_open how, int *own, uint64_t *size)
{
    (void)pid, (void)fd, (void)label, (void)how, (void)own, (void)size;
    return THEUS_UNSUPPORTED;
}

#endif

theus_status
theus_shm_back(int fd, uint64_t offset, uint64_t size)
{
#ifdef __linux__
    /* Before Linux 6.11 any signal interrupts a call and undoes it: with a timer that fires every millisecond (a profiler), a large
     * one would never end. So in steps that take less. It returns the error; errno says nothing. */
    for (uint64_t end = offset + size; offset < end;) {
        uint64_t step = end - offset < BACK_AT_ONCE ? end - offset : BACK_AT_ONCE;
        int error = posix_fallocate(fd, (off_t)offset, (off_t)step);
        if (error != 0 && error != EINTR) {
            return theus_status_of_errno(error);
        }
        offset += error == 0 ? step : 0;
    }
    return THEUS_OK;
#else
    (void)fd, (void)offset, (void)size;
    return THEUS_UNSUPPORTED;
#endif
}

void
theus_shm_close(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

/* ---- mappings ----------------------------------------------------------------------- */

theus_status
theus_shm_map(int fd, uint64_t offset, uint64_t size, theus_map how, void **memory)
{
    int protection = how == THEUS_MAP_READ ? PROT_READ : PROT_READ | PROT_WRITE;
    int kind = how == THEUS_MAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED;
    void *mapped = mmap(NULL, (size_t)size, protection, kind, fd, (off_t)offset);
    if (mapped == MAP_FAILED) {
        return theus_status_of_errno(errno);
    }
    *memory = mapped;
    return THEUS_OK;
}

void
theus_shm_remap(int fd, uint64_t offset, void *memory, uint64_t size, theus_map how)
{
    int protection = how == THEUS_MAP_READ ? PROT_READ : PROT_READ | PROT_WRITE;
    (void)mmap(memory, (size_t)size, protection, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
}

void
theus_shm_unmap(void *memory, uint64_t size)
{
    (void)munmap(memory, (size_t)size);
}

uint64_t
theus_page_size(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- liveness ------------------------------------------------------------------------- */

#ifdef F_OFD_SETLK

static struct flock
one_byte(short kind, uint64_t byte)
{
    return (struct flock){.l_type = kind, .l_whence = SEEK_SET, .l_start = (off_t)byte, .l_len = 1};
}

bool
theus_byte_try_lock(int fd, uint64_t byte)
{
    struct flock lock = one_byte(F_WRLCK, byte);
    return fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

void
theus_byte_unlock(int fd, uint64_t byte)
{
    struct flock lock = one_byte(F_UNLCK, byte);
    (void)fcntl(fd, F_OFD_SETLK, &lock);
}

bool
theus_byte_is_locked(int fd, uint64_t byte)
{
    struct flock lock = one_byte(F_WRLCK, byte);
    return fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK; /* in doubt: alive */
}

#else

bool
theus_byte_try_lock(int fd, uint64_t byte)
{
    (void)fd, (void)byte;
    return false;
}

void
theus_byte_unlock(int fd, uint64_t byte)
{
    (void)fd, (void)byte;
}

bool
theus_byte_is_locked(int fd, uint64_t byte)
{
    (void)fd, (void)byte;
    return true;
}

#endif

/* ---- figures ---------------------------------------------------------------------------- */

/* A small text file, as a string. */
static bool
read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t length = read(fd, text, size - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

static bool
read_number(const char *folder, const char *name, uint64_t *number)
{
    char path[1200], text[64];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return read_text(path, text, sizeof(text)) && sscanf(text, "%" SCNu64, number) == 1; /* "max" is no number */
}

typedef struct {
    uint64_t total, room;
} memory_figures;

/* Bytes of files that a group keeps in memory because there is room: they count as used, and are given up before anything else
 * is. Memory of ours is not among them. */
static uint64_t
read_cache(const char *folder, const char *active, const char *inactive)
{
    char path[1200], text[8192];
    snprintf(path, sizeof(path), "%s/memory.stat", folder);
    if (!read_text(path, text, sizeof(text))) {
        return 0;
    }
    uint64_t bytes = 0;
    char *rest = NULL, name[64];
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        uint64_t value;
        if (sscanf(line, "%63s %" SCNu64, name, &value) == 2 && (strcmp(name, active) == 0 || strcmp(name, inactive) == 0)) {
            bytes += value;
        }
    }
    return bytes;
}

/* What the two versions of cgroups call the same things. */
typedef struct {
    const char *mount, *limit, *usage, *active, *inactive;
} group_names;

static const group_names groups_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                     "total_active_file", "total_inactive_file"};
static const group_names groups_2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "active_file", "inactive_file"};

/* The limits of this process's group and of all above it. */
static void
narrow_by_groups(memory_figures *figures, const group_names *names, const char *group)
{
    char folder[1100];
    size_t root = (size_t)snprintf(folder, sizeof(folder), "%s", names->mount);
    snprintf(folder + root, sizeof(folder) - root, "%s", group);
    for (;;) {
        uint64_t most, used;
        if (read_number(folder, names->limit, &most) && read_number(folder, names->usage, &used)) {
            uint64_t cache = read_cache(folder, names->active, names->inactive);
            used -= cache < used ? cache : used;
            uint64_t left = used < most ? most - used : 0;
            figures->total = most < figures->total ? most : figures->total;
            figures->room = left < figures->room ? left : figures->room;
        }
        char *slash = strrchr(folder, '/');
        if (slash == NULL || slash < folder + root) {
            return;
        }
        *slash = '\0';
    }
}

static void
narrow_by_cgroups(memory_figures *figures)
{
    char text[4096];
    if (!read_text("/proc/self/cgroup", text, sizeof(text))) {
        return;
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *kind = strchr(line, ':'); /* "4:memory:/group" (version 1) or "0::/group" */
        char *group = kind == NULL ? NULL : strchr(kind + 1, ':');
        if (group == NULL || strlen(group) > 1000) {
            continue;
        }
        *group++ = '\0';
        if (kind[1] == '\0') {
            narrow_by_groups(figures, &groups_2, group);
        }
        else if (strcmp(kind + 1, "memory") == 0) {
            narrow_by_groups(figures, &groups_1, group);
        }
    }
}

static memory_figures
read_memory_figures(void)
{
    memory_figures figures = {UINT64_MAX, UINT64_MAX};
    char text[4096];
    if (read_text("/proc/meminfo", text, sizeof(text))) {
        const char *total = strstr(text, "MemTotal:"), *room = strstr(text, "MemAvailable:");
        uint64_t kib;
        if (total != NULL && sscanf(total, "MemTotal: %" SCNu64, &kib) == 1) {
            figures.total = kib * 1024;
        }
        if (room != NULL && sscanf(room, "MemAvailable: %" SCNu64, &kib) == 1) {
            figures.room = kib * 1024;
        }
    }
    narrow_by_cgroups(&figures);
    return figures;
}

uint64_t
theus_memory_room(void)
{
    return read_memory_figures().room;
}

uint64_t
theus_memory_total(void)
{
    return read_memory_figures().total;
}

/* ---- identity ------------------------------------------------------------------------------ */

uint32_t
theus_process_id(void)
{
    return (uint32_t)getpid();
}

theus_status
theus_random_id(unsigned char id[16])
{
#ifdef __linux__
    return getrandom(id, 16, 0) == 16 ? THEUS_OK : THEUS_REFUSED; /* 16 bytes come whole or not at all */
#else
    (void)id;
    return THEUS_UNSUPPORTED;
#endif
}

theus_status
theus_at_fork(void (*before)(void), void (*parent)(void), void (*child)(void))
{
    return pthread_atfork(before, parent, child) == 0 ? THEUS_OK : THEUS_NOMEM;
}

theus_status
theus_at_exit(void (*last)(void))
{
    return atexit(last) == 0 ? THEUS_OK : THEUS_NOMEM;
}
