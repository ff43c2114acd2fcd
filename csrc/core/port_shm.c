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
#ifndef MFD_HUGETLB
#define MFD_HUGETLB 0x0004u
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

theus_status
theus_shm_create(const char *label, bool huge, uint64_t size, int *fd)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
    int made = memfd_create(label, flags | MFD_NOEXEC_SEAL);
    if (made < 0 && errno == EINVAL) { /* a kernel before 6.3 */
        made = memfd_create(label, flags);
    }
    if (made < 0) { /* ENODEV, EINVAL: there are no such pages */
        return huge && (errno == ENODEV || errno == EINVAL) ? THEUS_UNSUPPORTED : theus_status_of_errno(errno);
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

typedef struct {
    char text[64];
} fd_path;

static fd_path
path_of(uint32_t pid, int fd)
{
    fd_path path;
    if (pid == 0) {
        snprintf(path.text, sizeof(path.text), "/proc/self/fd/%d", fd);
    }
    else {
        snprintf(path.text, sizeof(path.text), "/proc/%" PRIu32 "/fd/%d", pid, fd);
    }
    return path;
}

/* After EACCES or EPERM. The system also refuses what belongs to a process that has ended since it looked up the name. */
static theus_status
refused_or_gone(uint32_t pid)
{
    char folder[32];
    snprintf(folder, sizeof(folder), "/proc/%" PRIu32, pid);
    return pid == 0 || access(folder, F_OK) == 0 ? THEUS_REFUSED : THEUS_GONE;
}

theus_status
theus_shm_open(uint32_t pid, int fd, const char *label, theus_open how, int *own, uint64_t *size)
{
    char target[128], wanted[128];
    fd_path path = path_of(pid, fd);
    /* Look before opening: a forged number may name a device or a pipe, and to open those does something. */
    ssize_t length = readlink(path.text, target, sizeof(target) - 1);
    if (length < 0) {
        return errno == EACCES || errno == EPERM ? refused_or_gone(pid) : THEUS_GONE;
    }
    target[length] = '\0';
    snprintf(wanted, sizeof(wanted), "/memfd:%s (deleted)", label);
    if (strcmp(target, wanted) != 0) {
        return THEUS_GONE;
    }
    int opened = open(path.text, (how == THEUS_OPEN_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (opened < 0) {
        theus_status status = theus_status_of_errno(errno);
        return errno == ENOENT ? THEUS_GONE : status == THEUS_REFUSED ? refused_or_gone(pid) : status;
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

static bool
is_nameless(const struct stat *about)
{
    return S_ISREG(about->st_mode) && about->st_nlink == 0 && (about->st_mode & 0777) == 0400 && about->st_uid == geteuid();
}

theus_status
theus_shm_open_nameless(uint32_t pid, int fd, int *own, uint64_t *size)
{
    fd_path path = path_of(pid, fd);
    struct stat about;
    if (stat(path.text, &about) != 0) {
        return errno == EACCES || errno == EPERM ? refused_or_gone(pid) : THEUS_GONE;
    }
    int opened = is_nameless(&about) ? open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
    if (opened < 0) {
        return THEUS_GONE;
    }
    if (fstat(opened, &about) != 0 || !is_nameless(&about)) { /* another file has that number meanwhile */
        close(opened);
        return THEUS_GONE;
    }
    *own = opened;
    *size = (uint64_t)about.st_size;
    return THEUS_OK;
}

#else

theus_status
theus_shm_create(const char *label, bool huge, uint64_t size, int *fd)
{
    (void)label, (void)huge, (void)size, (void)fd;
    return THEUS_UNSUPPORTED;
}

theus_status
theus_shm_open_nameless(uint32_t pid, int fd, int *own, uint64_t *size)
{
    (void)pid, (void)fd, (void)own, (void)size;
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
    /* Pages come by theus_shm_back(); where they are of 2 MiB, a mapping would otherwise have all of them put aside. */
    int kind = how == THEUS_MAP_PRIVATE ? MAP_PRIVATE : MAP_SHARED | MAP_NORESERVE;
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
    if (mmap(memory, (size_t)size, protection, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED) {
        (void)mprotect(memory, (size_t)size, protection); /* of a whole mapping: takes no more address space, and no limit counts it */
    }
}

void
theus_shm_unmap(void *memory, uint64_t size)
{
    (void)munmap(memory, (size_t)size);
}

theus_status
theus_shm_pin(void *memory, uint64_t size)
{
    if (mlock(memory, (size_t)size) == 0) {
        return THEUS_OK;
    }
    return errno == EAGAIN || errno == EPERM ? THEUS_NO_ROOM : theus_status_of_errno(errno);
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
