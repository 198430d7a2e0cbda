/* Opening a journal: the directory, its lock, recovery, the disk's speed, the first segment.
 *
 * Before listening, on the loop's thread; the journal's own threads do not run yet. The one hard
 * thing is not to be in the way: what is only damage, or a disk that is full, must not keep the
 * daemon from starting, because what is here has to reach the database. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/journal_private.h"
#include "daemon/kill_point.h"
#include "daemon/sysio.h"

#define PROBES 32u

static int open_directory(struct journal_disk *disk, const char *path, char error[512])
{
    const struct sysio *sys = disk->sys;
    int rc = sys->make_directory(sys, path);

    if (rc == 0)
        rc = disk->dir_fd = sys->open_directory(sys, path);
    if (rc < 0) {
        snprintf(error, 512, "cannot open journal.directory %s: %s", path, strerror(-rc));
        return rc;
    }
    return 0;
}

/* A second daemon on the same directory would be the end of both journals. */
static int lock_directory(struct journal_disk *disk, const char *path, char error[512])
{
    const struct sysio *sys = disk->sys;
    char pid[24] = "";
    int rc = disk->lock_fd = sysio_open(sys, disk->dir_fd, "lock", O_RDWR | O_CREAT);

    if (rc < 0) {
        snprintf(error, 512, "cannot open %s/lock: %s", path, strerror(-rc));
        return rc;
    }
    do
        rc = sys->lock(sys, disk->lock_fd);
    while (rc == -EINTR);
    if (rc != 0) {
        ssize_t n = sysio_read(sys, disk->lock_fd, pid, sizeof pid - 1, 0);

        pid[n > 0 ? n : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        if (rc == -EWOULDBLOCK)
            snprintf(error, 512, "journal.directory %s is held by pid %s: stop that daemon first",
                     path, pid[0] != '\0' ? pid : "(unknown)");
        else
            snprintf(error, 512, "cannot lock %s: %s", path, strerror(-rc));
        return rc;
    }
    /* The number only helps whoever reads the message above; a full disk is no reason to stop. */
    snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (sysio_truncate(sys, disk->lock_fd, 0) == 0)
        (void)!sysio_write(sys, disk->lock_fd, pid, strlen(pid), 0);
    kill_point(KILL_recovery_locked);
    return 0;
}

static int check_config(const struct journal_config *config, char error[512])
{
    if (config->segment_bytes < SEGMENT_BYTES_MIN || config->segment_bytes % SEGMENT_PAGE != 0 ||
        config->segment_bytes > UINT32_MAX) {
        snprintf(error, 512,
                 "journal.segment_bytes is %" PRIu64
                 ": it must be a multiple of 4096 between %u and 4 GiB",
                 config->segment_bytes, SEGMENT_BYTES_MIN);
        return -EINVAL;
    }
    if (config->max_bytes < 2 * config->segment_bytes) {
        snprintf(error, 512,
                 "journal.max_bytes is %" PRIu64
                 ": it must be at least two segments (2 x journal.segment_bytes)",
                 config->max_bytes);
        return -EINVAL;
    }
    return 0;
}

static int recover(struct journal *j, char error[512])
{
    struct recovery r;
    int rc = recovery_scan(j->sys, j->disk.dir_fd, &r, error);

    kill_point(KILL_recovery_scanned);
    if (rc == 0)
        rc = recovery_apply(&r, &j->disk, error);
    if (rc != 0 && r.tail.fd >= 0)
        j->sys->close(j->sys, r.tail.fd);
    if (rc == 0) {
        j->ledger = r.ledger;
        r.ledger = (struct ledger){0};
        j->next_seq = j->first_seq = r.next_seq;
        j->trim_point = j->trim_wanted = j->retired = r.trim_point;
        j->last_index = r.last_index;
        j->current = r.tail;
        j->offset = r.tail_offset;
        j->damages = r.damages;
        j->recovered = j->ledger.live;
        j->cursor_offset = SEGMENT_DATA;
        j->spares = j->disk.spares;
        for (size_t i = 0; i < j->ledger.count; i++) /* retention begins anew */
            j->ledger.segments[i].done_at_us = journal_now_us(j);
    }
    recovery_done(&r);
    return rc;
}

/* The disk's speed, said before anybody relies on it; and the first segment. A full disk is no
 * reason not to start: what is here must drain. */
static void first_segment(struct journal *j)
{
    uint64_t ns[PROBES];

    if (j->spares == 0 && j->config.sync && disk_add_spare(&j->disk) == 0)
        j->spares = j->disk.spares;
    if (j->spares > 0 && j->config.sync && disk_probe(&j->disk, ns, PROBES) == 0) {
        j->probe_p50_ns = ns[PROBES / 2];
        j->probe_p99_ns = ns[PROBES - 1];
    }
}

int journal_new(const struct journal_config *config, const struct sysio *sys,
                const struct journal_callbacks *callbacks, void *owner,
                const struct journal_executor *executor, struct journal **ret, char ret_error[512])
{
    struct journal *j;
    int rc = check_config(config, ret_error);

    if (rc != 0)
        return rc;
    kill_point_arm();
    j = calloc(1, sizeof *j);
    if (j == NULL) {
        snprintf(ret_error, 512, "cannot start the journal: out of memory");
        return -ENOMEM;
    }
    j->config = *config;
    j->sys = sys;
    j->on = *callbacks;
    j->owner = owner;
    j->executor = *executor;
    j->current.fd = j->next.fd = j->old_fd = -1;
    j->notes = malloc(JOURNAL_NOTES_MAX * sizeof *j->notes);
    j->notes_out = malloc(JOURNAL_NOTES_MAX * sizeof *j->notes_out);
    rc = disk_init(&j->disk, sys, config->segment_bytes, config->sync);
    if (rc != 0 || j->notes == NULL || j->notes_out == NULL) {
        snprintf(ret_error, 512, "cannot start the journal: out of memory");
        rc = -ENOMEM;
    }
    if (rc == 0)
        rc = open_directory(&j->disk, config->directory, ret_error);
    if (rc == 0)
        rc = lock_directory(&j->disk, config->directory, ret_error);
    if (rc == 0)
        rc = recover(j, ret_error);
    if (rc != 0) {
        journal_delete(j);
        return rc;
    }
    j->found_bytes = j->ledger.bytes;
    first_segment(j);
    kill_point(KILL_recovery_ready);
    *ret = j;
    return 0;
}
