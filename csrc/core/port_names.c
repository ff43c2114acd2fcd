/* port_names.h for Linux; elsewhere there is no way to make a file, lock it, and only then give it a name. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "port_names.h"

#include "port_shm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { PATH_BYTES = 1024 };

static bool
path_of(char path[PATH_BYTES], const char *folder, const char *name)
{
    int length = snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return length > 0 && length < PATH_BYTES;
}

#ifdef __linux__

theus_status
theus_name_create(const char *folder, bool read_only, uint64_t size, int *fd)
{
    int made = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, read_only ? 0400 : 0600);
    if (made < 0) {
        switch (errno) {
        case ENOENT:
        case ENOTDIR:
        case EACCES:
        case EPERM:
        case EROFS:
            return THEUS_NO_FOLDER;
        case EISDIR: /* a file system that knows no O_TMPFILE takes it for O_DIRECTORY */
            return THEUS_UNSUPPORTED;
        default:
            return theus_status_of_errno(errno);
        }
    }
    /* A strict umask must not lock out ourselves. */
    if (size > INT64_MAX || fchmod(made, read_only ? 0400 : 0600) != 0 || ftruncate(made, (off_t)size) != 0) {
        theus_status status = size > INT64_MAX ? THEUS_NO_ROOM : theus_status_of_errno(errno);
        close(made);
        return status;
    }
    *fd = made;
    return THEUS_OK;
}

theus_status
theus_name_give(int fd, const char *folder, const char *name)
{
    char own[64], path[PATH_BYTES];
    snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
    if (!path_of(path, folder, name)) {
        return THEUS_NO_FOLDER;
    }
    return linkat(AT_FDCWD, own, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 ? THEUS_OK : theus_status_of_errno(errno);
}

theus_status
theus_name_reopen(int fd, bool writable, int *own)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    *own = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY);
    return *own >= 0 ? THEUS_OK : theus_status_of_errno(errno);
}

#else

theus_status
theus_name_create(const char *folder, bool read_only, uint64_t size, int *fd)
{
    (void)folder, (void)read_only, (void)size, (void)fd;
    return THEUS_UNSUPPORTED;
}

theus_status
theus_name_give(int fd, const char *folder, const char *name)
{
    (void)fd, (void)folder, (void)name;
    return THEUS_UNSUPPORTED;
}

theus_status
theus_name_reopen(int fd, bool writable, int *own)
{
    (void)fd, (void)writable, (void)own;
    return THEUS_UNSUPPORTED;
}

#endif

theus_status
theus_name_open(const char *folder, const char *name, bool writable, int *fd, uint64_t *size)
{
    char path[PATH_BYTES];
    struct stat about;
    /* Look before opening: to open a pipe or a device does something. */
    if (!path_of(path, folder, name) || lstat(path, &about) != 0 || !S_ISREG(about.st_mode)) {
        return THEUS_GONE;
    }
    int opened = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (opened < 0) {
        return errno == ENOENT || errno == ELOOP ? THEUS_GONE : theus_status_of_errno(errno);
    }
    if (fstat(opened, &about) != 0 || !S_ISREG(about.st_mode) || about.st_uid != geteuid() || about.st_nlink != 1) {
        close(opened);
        return THEUS_GONE;
    }
    *fd = opened;
    *size = (uint64_t)about.st_size;
    return THEUS_OK;
}

bool
theus_name_remove(const char *folder, const char *name)
{
    char path[PATH_BYTES];
    return path_of(path, folder, name) && unlink(path) == 0;
}

theus_status
theus_name_look(const char *folder, const char *name, theus_name_facts *facts)
{
    char path[PATH_BYTES];
    struct stat about;
    if (!path_of(path, folder, name) || lstat(path, &about) != 0) {
        return THEUS_GONE;
    }
    *facts = (theus_name_facts){S_ISREG(about.st_mode), about.st_uid == geteuid(), (uint64_t)about.st_blocks * 512};
    return THEUS_OK;
}

theus_status
theus_names_each(const char *folder, const char *prefix, void (*visit)(void *context, const char *name), void *context)
{
    DIR *entries = opendir(folder);
    if (entries == NULL) {
        return errno == ENOMEM || errno == EMFILE || errno == ENFILE ? THEUS_NO_ROOM : THEUS_NO_FOLDER;
    }
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
            visit(context, entry->d_name);
        }
    }
    closedir(entries);
    return THEUS_OK;
}

uint64_t
theus_file_read(int fd, void *bytes, uint64_t most)
{
    ssize_t length = pread(fd, bytes, (size_t)most, 0);
    return length > 0 ? (uint64_t)length : 0;
}

bool
theus_file_append(int fd, const void *bytes, uint64_t size)
{
    return lseek(fd, 0, SEEK_END) >= 0 && write(fd, bytes, (size_t)size) == (ssize_t)size;
}

uint64_t
theus_folder_room(const char *folder)
{
    struct statvfs about;
    if (statvfs(folder, &about) != 0) {
        return UINT64_MAX;
    }
    /* A tmpfs without a limit has no blocks at all. */
    return about.f_blocks == 0 ? UINT64_MAX : (uint64_t)about.f_bavail * about.f_frsize;
}
