/* The system calls under the journal, behind one struct of functions so that tests can make each of
 * them fail and can play a disk that loses power. EINTR and short transfers are dealt with here and
 * nowhere else. All return 0 or a count, or a negative errno. Any thread. */
#ifndef DAEMON_SYSIO_H
#define DAEMON_SYSIO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Called with each name in a directory; anything but 0 ends the listing and is its result. */
typedef int sysio_name_cb(void *arg, const char *name);

/* The raw calls: may be interrupted, may be short. dir: a directory's descriptor. */
struct sysio {
    int (*open_directory)(const struct sysio *sys, const char *path);
    /* Makes it, 0700, where it is missing, and sees that its parent remembers it. */
    int (*make_directory)(const struct sysio *sys, const char *path);
    int (*open)(const struct sysio *sys, int dir, const char *name, int flags);
    int (*close)(const struct sysio *sys, int fd);
    /* A hint: this file will be read soon, as a whole. May be NULL. */
    void (*will_read)(const struct sysio *sys, int dir, const char *name);
    ssize_t (*pread)(const struct sysio *sys, int fd, void *buf, size_t len, uint64_t offset);
    ssize_t (*pwrite)(const struct sysio *sys, int fd, const void *buf, size_t len,
                      uint64_t offset);
    int (*fdatasync)(const struct sysio *sys, int fd);
    int (*fsync)(const struct sysio *sys, int fd);
    int (*truncate)(const struct sysio *sys, int fd, uint64_t size);
    int64_t (*size)(const struct sysio *sys, int fd);
    int (*rename)(const struct sysio *sys, int dir, const char *from, const char *to);
    int (*unlink)(const struct sysio *sys, int dir, const char *name);
    int (*list)(const struct sysio *sys, int dir, sysio_name_cb *each, void *arg);
    int (*lock)(const struct sysio *sys, int fd); /* -EWOULDBLOCK: another process holds it */
    int (*random)(const struct sysio *sys, void *buf, size_t len);
    int64_t (*now_us)(const struct sysio *sys);    /* the wall clock, since 1970 */
    uint64_t (*clock_ns)(const struct sysio *sys); /* monotonic */
};

/* The real ones. */
const struct sysio *sysio_real(void);

/* Tried again after EINTR. Files are made 0600. */
int sysio_open(const struct sysio *sys, int dir, const char *name, int flags)
    __attribute__((warn_unused_result));
int sysio_sync_data(const struct sysio *sys, int fd) __attribute__((warn_unused_result));
int sysio_sync_directory(const struct sysio *sys, int dir) __attribute__((warn_unused_result));
int sysio_truncate(const struct sysio *sys, int fd, uint64_t size)
    __attribute__((warn_unused_result));

/* Writes all or fails. A write that comes back with 0 is -EIO. */
int sysio_write(const struct sysio *sys, int fd, const void *buf, size_t len, uint64_t offset)
    __attribute__((warn_unused_result));

/* Reads up to the end of the file; the count, or a negative errno. */
ssize_t sysio_read(const struct sysio *sys, int fd, void *buf, size_t len, uint64_t offset)
    __attribute__((warn_unused_result));

#endif
