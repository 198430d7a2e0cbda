/* Start-up, second half: what was found is made certain.
 *
 * Runs once before listening, on the loop's thread. The one hard thing: what can be read need not
 * be on disk. After a failed sync the kernel calls the lost pages clean, and a sync of clean pages
 * says yes to anything. So the last segment with records, the only one that may hold unsynced
 * groups, is written anew in place with the bytes that were read, and synced, before a note in it
 * is acted upon. Each step may be cut off at any point and is simply done again by the next start.
 */
#include "daemon/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "daemon/kill_point.h"
#include "daemon/sysio.h"

/* Below this a segment is not worth continuing. */
#define TAIL_ROOM_MIN SEGMENT_PAGE

static int copy_bytes(const struct sysio *sys, int from, int to, uint64_t offset, uint64_t bytes)
{
    uint8_t page[SEGMENT_PAGE];

    for (uint64_t done = 0; done < bytes;) {
        size_t want = bytes - done < sizeof page ? (size_t)(bytes - done) : sizeof page;
        ssize_t n = sysio_read(sys, from, page, want, offset + done);
        int rc = n < 0 ? (int)n : 0;

        if (n == 0) /* the file is cut */
            break;
        if (rc == 0)
            rc = sysio_write(sys, to, page, (size_t)n, done);
        if (rc != 0)
            return rc;
        done += (uint64_t)n;
    }
    return sysio_sync_data(sys, to);
}

static int set_bytes_aside(struct journal_disk *disk, struct journal_damage *piece)
{
    const struct sysio *sys = disk->sys;
    char name[DISK_NAME_MAX];
    int from, to, rc;

    disk_segment_name(piece->segment, name);
    from = sysio_open(sys, disk->dir_fd, name, O_RDONLY);
    if (from < 0)
        return from;
    snprintf(piece->file, sizeof piece->file, "%016" PRIx64 "-%08" PRIx64 ".damaged",
             piece->segment, piece->offset);
    to = sysio_open(sys, disk->dir_fd, piece->file, O_WRONLY | O_CREAT | O_TRUNC);
    rc = to < 0 ? to : copy_bytes(sys, from, to, piece->offset, piece->bytes);
    if (to >= 0)
        sys->close(sys, to);
    sys->close(sys, from);
    return rc;
}

static int set_file_aside(struct journal_disk *disk, struct journal_damage *piece)
{
    char name[DISK_NAME_MAX];
    uint32_t unique;
    int rc = disk->sys->random(disk->sys, &unique, sizeof unique);

    if (rc != 0)
        return rc;
    disk_segment_name(piece->segment, name);
    snprintf(piece->file, sizeof piece->file, "%016" PRIx64 "-%08" PRIx32 ".no-segment",
             piece->segment, unique);
    return disk->sys->rename(disk->sys, disk->dir_fd, name, piece->file);
}

static int set_damage_aside(struct recovery *r, struct journal_disk *disk, char error[512])
{
    for (size_t i = 0; i < r->piece_count; i++) {
        struct journal_damage *piece = &r->pieces[i];
        int rc = 0;

        if (piece->kind == JOURNAL_DAMAGE_BYTES)
            rc = set_bytes_aside(disk, piece);
        else if (piece->kind == JOURNAL_DAMAGE_SEGMENT)
            rc = set_file_aside(disk, piece);
        if (rc == -ENOSPC || rc == -EDQUOT) { /* the bytes stay where they are, and are skipped */
            disk->sys->unlink(disk->sys, disk->dir_fd, piece->file);
            piece->file[0] = '\0';
            rc = 0;
        }
        if (rc != 0)
            return recovery_fail(error, rc, "set aside damage as", piece->file);
        kill_point(KILL_recovery_set_aside);
        damage_add(&r->damages, piece);
    }
    return 0;
}

/* Segments before the last used one were synced by the daemon that wrote them, unless it ran with
 * durability `os`, or left notes at their end. */
static int sync_complete_segments(struct recovery *r, struct journal_disk *disk, char error[512])
{
    for (size_t i = 0; disk->sync && i < r->ledger.count; i++) {
        char name[DISK_NAME_MAX];
        int fd, rc;

        disk_segment_name(r->ledger.segments[i].index, name);
        fd = sysio_open(disk->sys, disk->dir_fd, name, O_RDONLY);
        rc = fd < 0 ? fd : sysio_sync_data(disk->sys, fd);
        if (fd >= 0)
            disk->sys->close(disk->sys, fd);
        if (rc != 0)
            return recovery_fail(error, rc, "sync", name);
    }
    return 0;
}

static int rewrite_last(struct recovery *r, struct journal_disk *disk,
                        const struct found_segment *last, char error[512])
{
    struct disk_segment segment = {.index = last->index, .bytes = last->size, .key = last->key};
    char name[DISK_NAME_MAX];
    int rc;

    disk_segment_name(last->index, name);
    segment.fd = sysio_open(disk->sys, disk->dir_fd, name, O_RDWR);
    if (segment.fd < 0)
        return recovery_fail(error, segment.fd, "open", name);
    rc = disk_rewrite(disk, &segment, last->end, r->next_seq);
    kill_point(KILL_recovery_rewritten);
    if (rc == 0 && disk->sync)
        rc = sysio_sync_data(disk->sys, segment.fd);
    kill_point(KILL_recovery_synced);
    disk->sys->close(disk->sys, segment.fd);
    if (rc != 0)
        return recovery_fail(error, rc, "write anew", name);
    if (last->size != disk->segment_bytes || last->end + TAIL_ROOM_MIN > disk->segment_bytes)
        return 0;
    segment.fd = disk_open_segment(disk, last->index);
    if (segment.fd < 0)
        return recovery_fail(error, segment.fd, "open", name);
    r->tail = segment;
    r->tail_offset = last->end;
    return 0;
}

/* Trimmed segments whose files are still there, and empty ones behind the last used. */
static int retire_segments(struct recovery *r, struct journal_disk *disk, uint64_t last_index,
                           char error[512])
{
    for (size_t i = 0; i < r->found_count; i++) {
        const struct found_segment *found = &r->found[i];
        char name[DISK_NAME_MAX];
        int rc;

        if (found->index >= r->trim_point &&
            (found->index <= last_index || found->bad_headers == 2))
            continue;
        disk_segment_name(found->index, name);
        rc = disk_retire(disk, name);
        if (rc != 0)
            return recovery_fail(error, rc, "recycle", name);
    }
    while (r->ledger.count > 0 && ledger_youngest(&r->ledger)->index > last_index)
        ledger_pop(&r->ledger);
    return 0;
}

/* Files that never became segments, or were ones. Spares get new numbers, so that none is twice. */
static int adopt_others(struct recovery *r, struct journal_disk *disk, char error[512])
{
    for (size_t i = 0; i < r->other_count; i++) {
        uint64_t id = 0;

        if (disk_parse_name(r->others[i], &id) == FILE_SPARE && id >= disk->next_spare_id)
            disk->next_spare_id = id + 1;
    }
    for (size_t i = 0; i < r->other_count; i++) {
        uint64_t id;
        int rc = 0;

        if (disk_parse_name(r->others[i], &id) == FILE_UNFINISHED)
            rc = disk->sys->unlink(disk->sys, disk->dir_fd, r->others[i]);
        else
            rc = disk_retire(disk, r->others[i]);
        if (rc != 0 && rc != -ENOENT)
            return recovery_fail(error, rc, "recycle", r->others[i]);
    }
    return 0;
}

int recovery_apply(struct recovery *r, struct journal_disk *disk, char ret_error[512])
{
    const struct found_segment *last = recovery_last_used(r);
    uint64_t last_index = r->trim_point - 1;
    int rc = set_damage_aside(r, disk, ret_error);

    if (last != NULL && last->index >= r->trim_point)
        last_index = last->index;
    if (rc == 0)
        rc = sync_complete_segments(r, disk, ret_error);
    if (rc == 0 && last_index >= r->trim_point)
        rc = rewrite_last(r, disk, last, ret_error);
    if (rc == 0)
        rc = adopt_others(r, disk, ret_error);
    if (rc == 0)
        rc = retire_segments(r, disk, last_index, ret_error);
    kill_point(KILL_recovery_cleaned);
    if (rc == 0 && disk->sync) {
        rc = sysio_sync_directory(disk->sys, disk->dir_fd);
        if (rc != 0)
            rc = recovery_fail(ret_error, rc, "sync", "the journal's directory");
    }
    r->last_index = last_index;
    return rc;
}
