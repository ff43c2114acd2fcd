/* port_memory.h for Linux; elsewhere nothing is known. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "port_memory.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH_BYTES = 2048, GROUP_BYTES = 1000, HUGE_PAGE = 2 << 20 };

/* A small text file, as a string. */
static bool
read_text(const char *folder, const char *name, char *text, size_t size)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = length < PATH_BYTES ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) {
        return false;
    }
    ssize_t got = read(fd, text, size - 1);
    close(fd);
    text[got > 0 ? got : 0] = '\0';
    return got > 0;
}

static bool
read_number(const char *folder, const char *name, uint64_t *number)
{
    char text[64];
    return name != NULL && read_text(folder, name, text, sizeof(text)) && sscanf(text, "%" SCNu64, number) == 1; /* not "max" */
}

/* ---- groups --------------------------------------------------------------------------- */

/* What the two versions of cgroups call the same things. `soft`: beyond it the kernel holds processes up until they give something
 * back, which what lies in shared memory cannot. */
typedef struct {
    const char *limit, *soft, *usage, *active, *inactive;
} group_names;

static const group_names groups_1 = {"memory.limit_in_bytes", NULL, "memory.usage_in_bytes", "total_active_file",
                                     "total_inactive_file"};
static const group_names groups_2 = {"memory.max", "memory.high", "memory.current", "active_file", "inactive_file"};

/* Bytes of files that a group keeps in memory because there is room: they count as used, and are given up before anything else
 * is. Memory of ours is not among them. */
static uint64_t
read_cache(const char *folder, const group_names *names)
{
    char text[8192];
    if (!read_text(folder, "memory.stat", text, sizeof(text))) {
        return 0;
    }
    uint64_t bytes = 0;
    char *rest = NULL, name[64];
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        uint64_t value;
        if (sscanf(line, "%63s %" SCNu64, name, &value) == 2
            && (strcmp(name, names->active) == 0 || strcmp(name, names->inactive) == 0)) {
            bytes += value;
        }
    }
    return bytes;
}

static void
narrow_by_group(theus_memory_figures *figures, const group_names *names, const char *folder)
{
    uint64_t most = UINT64_MAX, soft = UINT64_MAX, used;
    bool limited = read_number(folder, names->limit, &most), held_up = read_number(folder, names->soft, &soft);
    if ((!limited && !held_up) || !read_number(folder, names->usage, &used)) {
        return;
    }
    most = soft < most ? soft : most;
    uint64_t cache = read_cache(folder, names);
    used -= cache < used ? cache : used;
    uint64_t left = used < most ? most - used : 0;
    figures->total = most < figures->total ? most : figures->total;
    figures->room = left < figures->room ? left : figures->room;
}

/* The limits of the group of that name and of all above it, up to where the groups are mounted. (In a container that sees its own
 * group as the uppermost one, the name leads nowhere, and only that one is found.) */
static void
narrow_by_groups(theus_memory_figures *figures, const group_names *names, const char *root, const char *mount, const char *group)
{
    char folder[PATH_BYTES];
    size_t start = (size_t)snprintf(folder, sizeof(folder), "%s%s", root, mount);
    if (start + strlen(group) >= sizeof(folder)) {
        return;
    }
    strcpy(folder + start, group);
    for (;;) {
        narrow_by_group(figures, names, folder);
        char *slash = strrchr(folder + start, '/');
        if (slash == NULL) {
            return;
        }
        *slash = '\0';
    }
}

static void
narrow_by_all_groups(theus_memory_figures *figures, const char *root)
{
    char text[4096];
    if (!read_text(root, "proc/self/cgroup", text, sizeof(text))) {
        return;
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
        char *kind = strchr(line, ':'); /* "4:memory:/group" (version 1) or "0::/group" */
        char *group = kind == NULL ? NULL : strchr(kind + 1, ':');
        if (group == NULL || strlen(group) > GROUP_BYTES) {
            continue;
        }
        *group++ = '\0';
        if (kind[1] == '\0') {
            narrow_by_groups(figures, &groups_2, root, "/sys/fs/cgroup", group);
            narrow_by_groups(figures, &groups_2, root, "/sys/fs/cgroup/unified", group); /* beside groups of version 1 */
        }
        else if (strcmp(kind + 1, "memory") == 0) {
            narrow_by_groups(figures, &groups_1, root, "/sys/fs/cgroup/memory", group);
        }
    }
}

/* ---- the whole ---------------------------------------------------------------------------- */

theus_memory_figures
theus_memory_read(const char *root)
{
    theus_memory_figures figures = {UINT64_MAX, UINT64_MAX};
    char text[4096];
    if (read_text(root, "proc/meminfo", text, sizeof(text))) {
        const char *total = strstr(text, "MemTotal:"), *room = strstr(text, "MemAvailable:");
        uint64_t kib;
        if (total != NULL && sscanf(total, "MemTotal: %" SCNu64, &kib) == 1) {
            figures.total = kib * 1024;
        }
        if (room != NULL && sscanf(room, "MemAvailable: %" SCNu64, &kib) == 1) {
            figures.room = kib * 1024;
        }
    }
    narrow_by_all_groups(&figures, root);
    return figures;
}

uint64_t
theus_huge_room(const char *root)
{
    char folder[PATH_BYTES];
    uint64_t pages;
    int length = snprintf(folder, sizeof(folder), "%s/sys/kernel/mm/hugepages/hugepages-2048kB", root);
    return length < PATH_BYTES && read_number(folder, "free_hugepages", &pages) ? pages * HUGE_PAGE : 0;
}

uint64_t
theus_pin_limit(void)
{
#ifdef RLIMIT_MEMLOCK
    struct rlimit limit;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        return limit.rlim_cur;
    }
#endif
    return UINT64_MAX;
}

theus_address_figures
theus_address_read(void)
{
    theus_address_figures figures = {0, 0};
#ifdef RLIMIT_AS
    struct rlimit limit;
    uint64_t pages;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && read_number("/proc/self", "statm", &pages)) {
        figures.used = pages * (uint64_t)sysconf(_SC_PAGESIZE);
        figures.limit = limit.rlim_cur > 0 ? limit.rlim_cur : 1;
    }
#endif
    return figures;
}
