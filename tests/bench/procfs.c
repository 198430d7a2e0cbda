/* See procfs.h. Any thread. */
#include "tests/bench/procfs.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/clock.h"

pid_t procfs_peer(int fd)
{
    struct ucred peer = {0};
    socklen_t len = sizeof peer;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

/* A small file of /proc/PID. False where it cannot be read. */
static bool slurp(pid_t pid, const char *name, char *ret, size_t size)
{
    char path[64];
    FILE *file;
    size_t n;

    if (pid <= 0)
        return false;
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    file = fopen(path, "re");
    if (file == NULL)
        return false;
    n = fread(ret, 1, size - 1, file);
    ret[n] = '\0';
    fclose(file);
    return n > 0;
}

uint64_t procfs_cpu_ns(pid_t pid)
{
    char text[1024];
    const char *fields;
    unsigned long long user, system;

    /* The second field is the program's name in parentheses and may hold anything. */
    if (!slurp(pid, "stat", text, sizeof text) || (fields = strrchr(text, ')')) == NULL ||
        sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user,
               &system) != 2)
        return 0;
    return (user + system) * (NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
}

uint64_t procfs_rss_bytes(pid_t pid)
{
    char text[256];
    unsigned long long pages;

    if (!slurp(pid, "statm", text, sizeof text) || sscanf(text, "%*u %llu", &pages) != 1)
        return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
