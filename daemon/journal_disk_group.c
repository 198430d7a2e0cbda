/* Groups on disk: written, synced, and written anew by a start.
 *
 * Runs on the sync thread (disk_rewrite: before there is one); touches its own half of struct
 * journal_disk. The one hard thing: a failed write or sync is never repeated, since a sync of pages
 * that the kernel gave up proves nothing; it comes back as the job's error and ends the daemon.
 * Invariant: buffer[0..filled) are the segment's bytes from `base` on. */
#include "daemon/journal_disk.h"

#include <assert.h>
#include <string.h>

#include "daemon/kill_point.h"
#include "daemon/sysio.h"

static int group_fail(struct group_job *job, int error, const char *step)
{
    job->error = error;
    job->step = step;
    return error;
}

/* Appends to the buffer; a full buffer is written out. */
static int put(struct group_job *job, const void *bytes, size_t len)
{
    struct journal_disk *disk = job->disk;

    while (len > 0) {
        size_t step =
            DISK_BUFFER_BYTES - disk->filled < len ? DISK_BUFFER_BYTES - disk->filled : len;

        memcpy(disk->buffer + disk->filled, bytes, step);
        disk->filled += step;
        bytes = (const uint8_t *)bytes + step;
        len -= step;
        if (disk->filled == DISK_BUFFER_BYTES) {
            int rc =
                sysio_write(disk->sys, job->segment.fd, disk->buffer, disk->filled, disk->base);

            if (rc != 0)
                return group_fail(job, rc, "write");
            kill_point(KILL_group_partial);
            disk->base += disk->filled;
            disk->filled = 0;
        }
    }
    return 0;
}

static int put_record(struct group_job *job, struct record_header *header, const void *payload)
{
    static const uint8_t padding[RECORD_ALIGN];
    size_t len = (size_t)(record_bytes(header->length) - sizeof *header - header->length);
    int rc;

    record_seal(&job->segment.key, job->disk->base + job->disk->filled, payload, header);
    rc = put(job, header, sizeof *header);
    if (rc == 0)
        rc = put(job, payload, header->length);
    return rc == 0 ? put(job, padding, len) : rc;
}

static int put_conversations(struct group_job *job, const struct conversation *list, uint8_t flags)
{
    int rc = 0;

    for (const struct conversation *c = list; c != NULL && rc == 0; c = c->next) {
        struct record_header header = {.length = c->packed_len,
                                       .type = RECORD_CONVERSATION,
                                       .flags = flags,
                                       .seq = c->seq,
                                       .arrived_us = conversation_header(c)->arrived_at_us};

        rc = put_record(job, &header, c->packed);
    }
    return rc;
}

static int put_notes(struct group_job *job)
{
    struct record_header header = {.seq = job->next_seq,
                                   .arrived_us = job->disk->sys->now_us(job->disk->sys)};
    int rc = 0;

    if (job->replay) {
        header.type = RECORD_REPLAY;
        rc = put_record(job, &header, NULL);
    }
    if (rc == 0 && job->done_count > 0) {
        header.type = RECORD_DONE;
        header.length = job->done_count * (uint32_t)sizeof *job->done;
        rc = put_record(job, &header, job->done);
    }
    if (rc == 0 && job->trim_point > 0) {
        header.type = RECORD_TRIM;
        header.length = sizeof job->trim_point;
        rc = put_record(job, &header, &job->trim_point);
    }
    return rc;
}

/* Writes whole pages: what is filled, an END, zeros. Keeps the last, partial page for the next
 * group. */
static int write_out(struct journal_disk *disk, const struct disk_segment *segment,
                     uint64_t next_seq)
{
    struct record_header end = {.type = RECORD_END, .seq = next_seq};
    size_t behind = disk->filled + sizeof end;
    size_t whole = (behind + SEGMENT_PAGE - 1) / SEGMENT_PAGE * SEGMENT_PAGE;
    size_t keep = disk->filled / SEGMENT_PAGE * SEGMENT_PAGE;
    int rc;

    assert(disk->base + whole <= segment->bytes);
    record_seal(&segment->key, disk->base + disk->filled, NULL, &end);
    memcpy(disk->buffer + disk->filled, &end, sizeof end);
    memset(disk->buffer + behind, 0, whole - behind);
    rc = sysio_write(disk->sys, segment->fd, disk->buffer, whole, disk->base);
    if (rc != 0)
        return rc;
    memmove(disk->buffer, disk->buffer + keep, disk->filled - keep);
    disk->base += keep;
    disk->filled -= keep;
    return 0;
}

static int leave_old_segment(struct group_job *job)
{
    const struct sysio *sys = job->disk->sys;
    int rc = 0;

    if (job->old_dirty)
        rc = sysio_sync_data(sys, job->old_fd);
    kill_point(KILL_old_segment_synced);
    sys->close(sys, job->old_fd);
    return rc == 0 ? 0 : group_fail(job, rc, "fdatasync");
}

static int write_group(struct group_job *job)
{
    struct journal_disk *disk = job->disk;
    int rc = 0;

    if (job->old_fd >= 0 && (rc = leave_old_segment(job)) != 0)
        return rc;
    if (job->fresh) {
        disk->base = SEGMENT_DATA;
        disk->filled = 0;
    }
    assert(disk->base + disk->filled == job->offset);
    rc = put_conversations(job, job->conversations, 0);
    if (rc == 0)
        rc = put_conversations(job, job->moved, RECORD_MOVED);
    if (rc == 0)
        rc = put_notes(job);
    if (rc != 0)
        return rc;
    job->end = disk->base + disk->filled;
    rc = write_out(disk, &job->segment, job->next_seq);
    if (rc != 0)
        return group_fail(job, rc, "write");
    kill_point(KILL_group_written);
    if (job->sync && disk->sync) {
        rc = sysio_sync_data(disk->sys, job->segment.fd);
        if (rc != 0)
            return group_fail(job, rc, "fdatasync");
    }
    kill_point(KILL_group_synced);
    return 0;
}

void disk_group_run(struct group_job *job)
{
    const struct sysio *sys = job->disk->sys;
    uint64_t start = sys->clock_ns(sys);

    job->error = 0;
    (void)!write_group(job); /* its result is in the job */
    job->ns = sys->clock_ns(sys) - start;
}

int disk_rewrite(struct journal_disk *disk, const struct disk_segment *segment, uint64_t end,
                 uint64_t next_seq)
{

    disk->base = SEGMENT_DATA;
    disk->filled = 0;
    assert(end >= SEGMENT_DATA);
    while (end - disk->base >= DISK_BUFFER_BYTES) {
        ssize_t n = sysio_read(disk->sys, segment->fd, disk->buffer, DISK_BUFFER_BYTES, disk->base);
        int rc = n < 0 ? (int)n : n < (ssize_t)DISK_BUFFER_BYTES ? -EIO : 0;

        if (rc == 0)
            rc = sysio_write(disk->sys, segment->fd, disk->buffer, DISK_BUFFER_BYTES, disk->base);
        if (rc != 0)
            return rc;
        disk->base += DISK_BUFFER_BYTES;
    }
    while (disk->base + disk->filled < end) {
        size_t want = (size_t)(end - disk->base - disk->filled);
        ssize_t n = sysio_read(disk->sys, segment->fd, disk->buffer + disk->filled, want,
                               disk->base + disk->filled);

        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        disk->filled += (size_t)n;
    }
    if (end + sizeof(struct record_header) > segment->bytes / SEGMENT_PAGE * SEGMENT_PAGE)
        return sysio_write(disk->sys, segment->fd, disk->buffer, disk->filled, disk->base);
    return write_out(disk, segment, next_seq);
}
