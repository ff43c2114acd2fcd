/* How much memory is left, read from trees of files that look like the kernel's: of both versions of cgroups, as systemd, hybrid
 * systems and containers have them. No group is made here; tests/isolated/test_storm.py does that where it may. */
#define _GNU_SOURCE

#include "port_memory.h"

#include <ftw.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

static char root[] = "/tmp/theus-memory-XXXXXX";
static const uint64_t MIB = 1024 * 1024;

/* A file of the tree, with the folders above it. */
static void
put(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700); /* it may be there */
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static int
remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

/* An empty tree in which 8,000 of 16,000 MiB are left. */
static void
begin(const char *groups)
{
    (void)nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    REQUIRE(mkdir(root, 0700) == 0);
    put("proc/meminfo", "MemTotal:       16384000 kB\nMemFree:          100000 kB\nMemAvailable:    8192000 kB\n");
    if (groups != NULL) {
        put("proc/self/cgroup", groups);
    }
}

static bool
reads(uint64_t total_mib, uint64_t room_mib)
{
    theus_memory_figures found = theus_memory_read(root);
    if (found.total != total_mib * MIB || found.room != room_mib * MIB) {
        fprintf(stderr, "total %llu, room %llu bytes\n", (unsigned long long)found.total, (unsigned long long)found.room);
        return false;
    }
    return true;
}

static void
test_no_groups(void)
{
    begin(NULL);
    CHECK(reads(16000, 8000));
    begin("0::/somewhere\n"); /* whose files are not there */
    CHECK(reads(16000, 8000));
    begin("nonsense\n:\n0\n4:memory\n::\n");
    CHECK(reads(16000, 8000));
    char nowhere[4096];
    memset(nowhere, 'x', sizeof(nowhere) - 1);
    nowhere[sizeof(nowhere) - 1] = '\0';
    theus_memory_figures none = theus_memory_read(nowhere);
    CHECK(none.total == UINT64_MAX && none.room == UINT64_MAX && theus_huge_room(nowhere) == 0);
}

/* Version 2: the limits of the group and of all above it; the uppermost one has none. */
static void
test_version_2(void)
{
    begin("0::/user.slice/app.scope\n");
    put("sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n");
    put("sys/fs/cgroup/user.slice/app.scope/memory.high", "max\n");
    put("sys/fs/cgroup/user.slice/app.scope/memory.current", "1073741824\n");
    CHECK(reads(16000, 8000)); /* "max" is no limit */
    put("sys/fs/cgroup/user.slice/app.scope/memory.max", "2147483648\n");
    CHECK(reads(2048, 1024));
    put("sys/fs/cgroup/user.slice/app.scope/memory.stat",
        "anon 5\nfile 300\nshmem 7\ninactive_anon 9\nactive_file 104857600\ninactive_file 209715200\nslab 3\n");
    CHECK(reads(2048, 1324)); /* what is cached of files can be had */
    put("sys/fs/cgroup/user.slice/memory.max", "1073741824\n");
    put("sys/fs/cgroup/user.slice/memory.current", "943718400\n");
    CHECK(reads(1024, 124)); /* the group above is nearer to its limit */
    put("sys/fs/cgroup/user.slice/memory.current", "2943718400\n");
    CHECK(reads(1024, 0)); /* the limit was lowered */
    put("sys/fs/cgroup/user.slice/memory.max", "max\n");
    put("sys/fs/cgroup/user.slice/memory.high", "3145728000\n");
    put("sys/fs/cgroup/user.slice/memory.current", "2936012800\n");
    CHECK(reads(2048, 200)); /* beyond it the kernel would hold us up */
}

/* A container sees its own group as the uppermost one: the files lie where the groups are mounted. */
static void
test_in_a_container(void)
{
    begin("0::/\n");
    put("sys/fs/cgroup/memory.max", "536870912\n");
    put("sys/fs/cgroup/memory.current", "134217728\n");
    CHECK(reads(512, 384));
    begin("0::/docker/0123456789abcdef\n"); /* or it is told its name outside, which leads nowhere here */
    put("sys/fs/cgroup/memory.max", "536870912\n");
    put("sys/fs/cgroup/memory.current", "134217728\n");
    CHECK(reads(512, 384));
    begin("0::/../../other\n");
    put("sys/fs/cgroup/memory.max", "536870912\n");
    put("sys/fs/cgroup/memory.current", "134217728\n");
    CHECK(reads(512, 384));
}

static void
test_version_1(void)
{
    begin("9:name=systemd:/\n4:memory:/process/job\n3:cpu,cpuacct:/\n0::/\n");
    put("sys/fs/cgroup/memory/process/job/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/process/job/memory.usage_in_bytes", "1048576\n");
    CHECK(reads(16000, 8000));
    put("sys/fs/cgroup/memory/process/job/memory.limit_in_bytes", "104857600\n");
    put("sys/fs/cgroup/memory/process/job/memory.stat",
        "active_file 7340032\ninactive_file 0\ntotal_active_file 0\ntotal_inactive_file 524288\n");
    theus_memory_figures found = theus_memory_read(root);
    CHECK(found.total == 100 * MIB && found.room == 100 * MIB - MIB / 2);
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "52428800\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "2097152\n");
    CHECK(reads(50, 48));
}

/* Both at once: version 2 is mounted beside the others, and has the controller of memory. */
static void
test_hybrid(void)
{
    begin("5:cpu:/job\n0::/job\n");
    put("sys/fs/cgroup/unified/job/memory.max", "268435456\n");
    put("sys/fs/cgroup/unified/job/memory.current", "67108864\n");
    CHECK(reads(256, 192));
}

static void
test_huge_pages_and_pins(void)
{
    begin(NULL);
    CHECK(theus_huge_room(root) == 0);
    put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "12\n");
    CHECK(theus_huge_room(root) == 24 * MIB);
    struct rlimit limit;
    REQUIRE(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
    CHECK(theus_pin_limit() == (limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur));
    CHECK(theus_memory_room() <= theus_memory_read("").total); /* of the machine itself */
}

int
main(void)
{
    REQUIRE(mkdtemp(root) != NULL);
    test_no_groups();
    test_version_2();
    test_in_a_container();
    test_version_1();
    test_hybrid();
    test_huge_pages_and_pins();
    (void)nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return check_result();
}
