/* The table of real system calls, and the wrappers that repeat what was interrupted or short.
 *
 * Stateless, any thread. fdatasync and fsync are repeated after EINTR only: after any other error
 * the kernel may call the lost pages clean, so that a second call would prove nothing. */
#include "daemon/sysio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull

static int result(int rc)
{
    return rc < 0 ? -errno : rc;
}

static int real_open_directory(const struct sysio *sys, const char *path)
{
    (void)sys;
    return result(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* A directory that its parent forgets takes everything in it along. So the parent is synced, also
 * where the directory was there: the daemon that made it may have died before. A parent that may
 * not be opened was made by somebody else, with the directory. */
static int sync_parent(const char *path)
{
    char *copy = strdup(path);
    int fd, rc;

    if (copy == NULL)
        return -ENOMEM;
    fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    if (fd < 0)
        return 0;
    rc = result(fsync(fd));
    close(fd);
    return rc;
}

static int real_make_directory(const struct sysio *sys, const char *path)
{
    int rc = result(mkdir(path, 0700));

    (void)sys;
    return rc == 0 || rc == -EEXIST ? sync_parent(path) : rc;
}

static int real_open(const struct sysio *sys, int dir, const char *name, int flags)
{
    (void)sys;
    return result(openat(dir, name, flags | O_CLOEXEC, 0600));
}

static int real_close(const struct sysio *sys, int fd)
{
    (void)sys;
    return result(close(fd));
}

static void real_will_read(const struct sysio *sys, int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

    (void)sys;
    if (fd < 0)
        return;
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
    close(fd);
}

static ssize_t real_pread(const struct sysio *sys, int fd, void *buf, size_t len, uint64_t offset)
{
    ssize_t n = pread(fd, buf, len, (off_t)offset);

    (void)sys;
    return n < 0 ? -errno : n;
}

static ssize_t real_pwrite(const struct sysio *sys, int fd, const void *buf, size_t len,
                           uint64_t offset)
{
    ssize_t n = pwrite(fd, buf, len, (off_t)offset);

    (void)sys;
    return n < 0 ? -errno : n;
}

static int real_fdatasync(const struct sysio *sys, int fd)
{
    (void)sys;
    return result(fdatasync(fd));
}

static int real_fsync(const struct sysio *sys, int fd)
{
    (void)sys;
    return result(fsync(fd));
}

static int real_truncate(const struct sysio *sys, int fd, uint64_t size)
{
    (void)sys;
    return result(ftruncate(fd, (off_t)size));
}

static int64_t real_size(const struct sysio *sys, int fd)
{
    struct stat st;

    (void)sys;
    return fstat(fd, &st) < 0 ? -errno : st.st_size;
}

static int real_rename(const struct sysio *sys, int dir, const char *from, const char *to)
{
    (void)sys;
    return result(renameat(dir, from, dir, to));
}

static int real_unlink(const struct sysio *sys, int dir, const char *name)
{
    (void)sys;
    return result(unlinkat(dir, name, 0));
}

static int real_list(const struct sysio *sys, int dir, sysio_name_cb *each, void *arg)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int rc = 0;

    (void)sys;
    if (stream == NULL) {
        rc = -errno;
        if (fd >= 0)
            close(fd);
        return rc;
    }
    while (rc == 0) {
        errno = 0;
        entry = readdir(stream);
        if (entry == NULL) {
            rc = -errno;
            break;
        }
        if (entry->d_name[0] != '.')
            rc = each(arg, entry->d_name);
    }
    closedir(stream);
    return rc;
}

static int real_lock(const struct sysio *sys, int fd)
{
    (void)sys;
    return result(flock(fd, LOCK_EX | LOCK_NB));
}

static int real_random(const struct sysio *sys, void *buf, size_t len)
{
    ssize_t n = getrandom(buf, len, 0);

    (void)sys;
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -EIO;
}

static int64_t real_now_us(const struct sysio *sys)
{
    struct timespec now;

    (void)sys;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static uint64_t real_clock_ns(const struct sysio *sys)
{
    struct timespec now;

    (void)sys;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

const struct sysio *sysio_real(void)
{
    static const struct sysio real = {
        .open_directory = real_open_directory,
        .make_directory = real_make_directory,
        .open = real_open,
        .close = real_close,
        .will_read = real_will_read,
        .pread = real_pread,
        .pwrite = real_pwrite,
        .fdatasync = real_fdatasync,
        .fsync = real_fsync,
        .truncate = real_truncate,
        .size = real_size,
        .rename = real_rename,
        .unlink = real_unlink,
        .list = real_list,
        .lock = real_lock,
        .random = real_random,
        .now_us = real_now_us,
        .clock_ns = real_clock_ns,
    };

    return &real;
}

int sysio_open(const struct sysio *sys, int dir, const char *name, int flags)
{
    int rc;

    do
        rc = sys->open(sys, dir, name, flags);
    while (rc == -EINTR);
    return rc;
}

int sysio_sync_data(const struct sysio *sys, int fd)
{
    int rc;

    do
        rc = sys->fdatasync(sys, fd);
    while (rc == -EINTR);
    return rc;
}

int sysio_sync_directory(const struct sysio *sys, int dir)
{
    int rc;

    do
        rc = sys->fsync(sys, dir);
    while (rc == -EINTR);
    return rc;
}

int sysio_truncate(const struct sysio *sys, int fd, uint64_t size)
{
    int rc;

    do
        rc = sys->truncate(sys, fd, size);
    while (rc == -EINTR);
    return rc;
}

int sysio_write(const struct sysio *sys, int fd, const void *buf, size_t len, uint64_t offset)
{
    const uint8_t *at = buf;

    while (len > 0) {
        ssize_t n = sys->pwrite(sys, fd, at, len, offset);

        if (n == -EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        at += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

ssize_t sysio_read(const struct sysio *sys, int fd, void *buf, size_t len, uint64_t offset)
{
    size_t got = 0;

    while (got < len) {
        ssize_t n = sys->pread(sys, fd, (uint8_t *)buf + got, len - got, offset + got);

        if (n == -EINTR)
            continue;
        if (n < 0)
            return n;
        if (n == 0)
            break;
        got += (size_t)n;
    }
    return (ssize_t)got;
}
