/* The journal's disk work but for groups: segments to come, segments that are done with, read-back.
 *
 * Runs on the work thread; touches its own half of struct journal_disk. The one hard thing is
 * order: a file is full of zeros on disk before it is a spare, a header is synced before its file
 * has a segment's name, and that name before a record is written. What fails comes back as the
 * job's error. */
#include "daemon/journal_disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/kill_point.h"
#include "daemon/sysio.h"

#define FILL_BYTES (1u << 17) /* one write of zeros: no group's write waits behind more */
#define UNFINISHED_NAME "new.tmp"

static _Alignas(SEGMENT_PAGE) const uint8_t zeros[FILL_BYTES];

int disk_init(struct journal_disk *disk, const struct sysio *sys, uint64_t segment_bytes, bool sync)
{
    *disk = (struct journal_disk){
        .sys = sys, .dir_fd = -1, .lock_fd = -1, .segment_bytes = segment_bytes, .sync = sync};
    segment_cursor_init(&disk->cursor, sys);
    /* A page more than is ever filled: the END behind the last record may need one. */
    disk->buffer = aligned_alloc(SEGMENT_PAGE, DISK_BUFFER_BYTES + SEGMENT_PAGE);
    return disk->buffer != NULL ? 0 : -ENOMEM;
}

void disk_done(struct journal_disk *disk)
{
    segment_cursor_done(&disk->cursor);
    free(disk->buffer);
    disk->buffer = NULL;
    if (disk->dir_fd >= 0)
        disk->sys->close(disk->sys, disk->dir_fd);
    if (disk->lock_fd >= 0) /* gives the lock free */
        disk->sys->close(disk->sys, disk->lock_fd);
    disk->dir_fd = disk->lock_fd = -1;
}

void disk_segment_name(uint64_t index, char ret[DISK_NAME_MAX])
{
    snprintf(ret, DISK_NAME_MAX, "%016" PRIx64 ".segment", index);
}

void disk_spare_name(uint64_t id, char ret[DISK_NAME_MAX])
{
    snprintf(ret, DISK_NAME_MAX, "%016" PRIx64 ".spare", id);
}

enum disk_file disk_parse_name(const char *name, uint64_t *ret_number)
{
    if (strcmp(name, UNFINISHED_NAME) == 0)
        return FILE_UNFINISHED;
    if (strspn(name, "0123456789abcdef") != 16 || name[16] != '.')
        return FILE_FOREIGN;
    *ret_number = strtoull(name, NULL, 16);
    if (strcmp(name + 16, ".segment") == 0 && *ret_number > 0)
        return FILE_SEGMENT;
    return strcmp(name + 16, ".spare") == 0 ? FILE_SPARE : FILE_FOREIGN;
}

static int work_fail(struct work_job *job, int error, const char *step)
{
    job->error = error;
    job->step = step;
    return error;
}

/* Past the page cache where that works: what is written once is not read soon, an overwrite with
 * its sync takes a fifth less time, and zeros leave in small steps instead of as megabytes before
 * which a group's sync would wait. A file system that refuses gets the usual way. */
static int open_direct(struct journal_disk *disk, const char *name, int flags)
{
    const struct sysio *sys = disk->sys;
    _Alignas(SEGMENT_PAGE) uint8_t page[SEGMENT_PAGE];
    int fd;

    if (disk->sync) {
        fd = sysio_open(sys, disk->dir_fd, name, flags | O_DIRECT);
        if (fd >= 0 && sysio_read(sys, fd, page, sizeof page, 0) >= 0)
            return fd;
        if (fd >= 0)
            sys->close(sys, fd);
    }
    return sysio_open(sys, disk->dir_fd, name, flags);
}

static int fill_with_zeros(struct journal_disk *disk, int fd)
{
    for (uint64_t at = 0; at < disk->segment_bytes;) {
        uint64_t left = disk->segment_bytes - at;
        size_t step = left < FILL_BYTES ? (size_t)left : FILL_BYTES;
        int rc = sysio_write(disk->sys, fd, zeros, step, at);

        at += step;
        if (rc != 0)
            return rc;
    }
    kill_point(KILL_spare_filled);
    return sysio_sync_data(disk->sys, fd);
}

int disk_add_spare(struct journal_disk *disk)
{
    const struct sysio *sys = disk->sys;
    char name[DISK_NAME_MAX];
    int fd, rc;

    if (disk->spares == DISK_SPARES_MAX) /* recycling was quicker */
        return 0;
    fd = open_direct(disk, UNFINISHED_NAME, O_RDWR | O_CREAT | O_TRUNC);
    if (fd < 0)
        return fd;
    rc = fill_with_zeros(disk, fd);
    sys->close(sys, fd);
    disk_spare_name(disk->next_spare_id, name);
    if (rc == 0)
        rc = sys->rename(sys, disk->dir_fd, UNFINISHED_NAME, name);
    if (rc != 0) {
        sys->unlink(sys, disk->dir_fd, UNFINISHED_NAME);
        return rc;
    }
    kill_point(KILL_spare_renamed);
    disk->spare_ids[disk->spares++] = disk->next_spare_id++;
    return 0;
}

int disk_retire(struct journal_disk *disk, const char *name)
{
    const struct sysio *sys = disk->sys;
    int fd = sysio_open(sys, disk->dir_fd, name, O_RDONLY);
    char spare[DISK_NAME_MAX];
    int64_t size;
    int rc;

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    size = sys->size(sys, fd);
    sys->close(sys, fd);
    if (disk->spares == DISK_SPARES_MAX || size != (int64_t)disk->segment_bytes) {
        rc = sys->unlink(sys, disk->dir_fd, name);
        kill_point(KILL_segment_unlinked);
        return rc;
    }
    disk_spare_name(disk->next_spare_id, spare);
    rc = sys->rename(sys, disk->dir_fd, name, spare);
    if (rc == 0)
        disk->spare_ids[disk->spares++] = disk->next_spare_id++;
    kill_point(KILL_segment_recycled);
    return rc;
}

static int work_retire(struct work_job *job)
{
    for (uint64_t index = job->index; index < job->to_index; index++) {
        char name[DISK_NAME_MAX];
        int rc;

        disk_segment_name(index, name);
        rc = disk_retire(job->disk, name);
        if (rc != 0)
            return work_fail(job, rc, "recycle");
    }
    return 0;
}

static int write_header(struct work_job *job, int fd)
{
    struct journal_disk *disk = job->disk;
    const struct sysio *sys = disk->sys;
    struct segment_header header = {.index = job->index,
                                    .segment_bytes = disk->segment_bytes,
                                    .next_seq = job->next_seq,
                                    .trim_point = job->trim_point,
                                    .created_us = sys->now_us(sys)};
    uint8_t pages[3 * SEGMENT_PAGE];
    int rc = sys->random(sys, header.salt, sizeof header.salt);

    if (rc != 0)
        return work_fail(job, rc, "getrandom");
    segment_encode(&header, pages);
    segment_key_init(&job->segment.key, header.salt);
    rc = sysio_write(sys, fd, pages, sizeof pages, 0);
    kill_point(KILL_header_written);
    if (rc == 0 && disk->sync)
        rc = sysio_sync_data(sys, fd);
    kill_point(KILL_header_synced);
    return rc == 0 ? 0 : work_fail(job, rc, "write a header");
}

static int name_segment(struct work_job *job, const char *spare)
{
    struct journal_disk *disk = job->disk;
    char name[DISK_NAME_MAX];
    int rc;

    disk_segment_name(job->index, name);
    rc = disk->sys->rename(disk->sys, disk->dir_fd, spare, name);
    if (rc != 0)
        return work_fail(job, rc, "rename");
    disk->spares--;
    kill_point(KILL_segment_renamed);
    if (disk->sync)
        rc = sysio_sync_directory(disk->sys, disk->dir_fd);
    kill_point(KILL_segment_ready);
    return rc == 0 ? 0 : work_fail(job, rc, "fsync of the directory");
}

int disk_open_segment(struct journal_disk *disk, uint64_t index)
{
    char name[DISK_NAME_MAX];

    disk_segment_name(index, name);
    return open_direct(disk, name, O_RDWR);
}

static int make_segment(struct work_job *job)
{
    struct journal_disk *disk = job->disk;
    char spare[DISK_NAME_MAX];
    int fd, rc;

    disk_spare_name(disk->spare_ids[disk->spares - 1], spare);
    fd = sysio_open(disk->sys, disk->dir_fd, spare, O_RDWR);
    if (fd < 0)
        return work_fail(job, fd, "open a spare");
    rc = write_header(job, fd);
    disk->sys->close(disk->sys, fd);
    return rc == 0 ? name_segment(job, spare) : rc;
}

static int work_segment(struct work_job *job)
{
    struct journal_disk *disk = job->disk;
    int rc = disk->spares == 0 ? disk_add_spare(disk) : 0;

    if (rc != 0)
        return work_fail(job, rc, "make a new segment");
    rc = make_segment(job);
    if (rc != 0)
        return rc;
    job->segment.fd = disk_open_segment(disk, job->index);
    if (job->segment.fd < 0)
        return work_fail(job, job->segment.fd, "open a new segment");
    job->segment.index = job->index;
    job->segment.bytes = disk->segment_bytes;
    return 0;
}

static int read_records(struct work_job *job)
{
    struct segment_cursor *cursor = &job->disk->cursor;
    uint64_t start = job->offset;
    int rc = 0;

    while (job->found.count < job->max_count && job->found.bytes < job->max_bytes &&
           job->offset - start < DISK_READ_BYTES) {
        struct conversation *c = NULL;
        struct record_view record;

        rc = segment_cursor_next(cursor, &record);
        if (rc <= 0) {
            job->offset = rc == 0 ? job->limit : job->offset;
            break;
        }
        if (record.header.type == RECORD_CONVERSATION) {
            rc = conversation_unpack(record.payload, record.header.length, &c);
            if (rc == -ENOMEM)
                break;
            if (rc == 0) {
                c->seq = record.header.seq;
                conversation_list_push(&job->found, c);
            }
        }
        job->offset = cursor->offset;
    }
    return rc < 0 && rc != -EBADMSG ? rc : 0;
}

static int work_read(struct work_job *job)
{
    const struct sysio *sys = job->disk->sys;
    struct segment_header header;
    struct segment_key key;
    char name[DISK_NAME_MAX];
    unsigned bad_copies;
    int fd, rc;

    job->found = (struct conversation_list){0};
    disk_segment_name(job->index, name);
    fd = sysio_open(sys, job->disk->dir_fd, name, O_RDONLY);
    rc = fd >= 0 ? segment_read_header(sys, fd, &header, &bad_copies) : fd;
    if (rc == 0) {
        segment_key_init(&key, header.salt);
        segment_cursor_start(&job->disk->cursor, fd, &key, job->offset, job->limit);
        rc = read_records(job);
    }
    if (fd >= 0)
        sys->close(sys, fd);
    return rc == 0 ? 0 : work_fail(job, rc, "read");
}

void disk_work_run(struct work_job *job)
{
    int rc = 0;

    job->error = 0;
    switch (job->kind) {
    case WORK_SEGMENT:
        rc = work_segment(job);
        break;
    case WORK_SPARE:
        rc = disk_add_spare(job->disk);
        if (rc != 0)
            rc = work_fail(job, rc, "make a new segment");
        break;
    case WORK_RETIRE:
        rc = work_retire(job);
        break;
    case WORK_READ:
        rc = work_read(job);
        break;
    case WORK_KINDS:
        assert(!"a kind of work");
    }
    assert(rc == job->error);
    job->spares = job->disk->spares;
}

static int compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

int disk_probe(struct journal_disk *disk, uint64_t *ns, unsigned count)
{
    const struct sysio *sys = disk->sys;
    char name[DISK_NAME_MAX];
    int fd, rc = 0;

    assert(disk->spares > 0);
    disk_spare_name(disk->spare_ids[disk->spares - 1], name);
    fd = sysio_open(sys, disk->dir_fd, name, O_RDWR);
    if (fd < 0)
        return fd;
    for (unsigned i = 0; i < count && rc == 0; i++) {
        uint64_t start = sys->clock_ns(sys);

        rc = sysio_write(sys, fd, zeros, SEGMENT_PAGE, SEGMENT_DATA);
        if (rc == 0)
            rc = sysio_sync_data(sys, fd);
        ns[i] = sys->clock_ns(sys) - start;
    }
    sys->close(sys, fd);
    qsort(ns, count, sizeof *ns, compare_ns);
    return rc;
}
