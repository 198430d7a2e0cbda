/* The journal on the loop: records come in, groups go out, acks and notes follow.
 *
 * The one hard thing, group commit: at most one group is out; what arrives meanwhile forms the
 * next, which leaves at the end of the loop's iteration in which the one before came back. So a
 * lone record leaves at once, and under load one sync covers all that wait. Invariants: a record is
 * in exactly one of `forming`, the group that is out, or the ledger; `offset` is behind everything
 * that was ever sent to the current segment; nothing leaves a group that failed but on_lost. */
#include <assert.h>
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

/* What is left free at the end of a segment: an END, and a trim note, so that a full segment can
 * still say what may go. */
#define TRIM_BYTES (2 * sizeof(struct record_header) - RECORD_ALIGN)
#define TAIL_BYTES (sizeof(struct record_header) + TRIM_BYTES)
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
    if (j == NULL)
        return -ENOMEM;
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
    first_segment(j);
    kill_point(KILL_recovery_ready);
    *ret = j;
    return 0;
}

/* Bytes that client records may still take: to the end of the current segment and in as many more
 * as journal.max_bytes and the disk allow. What lies beyond is the reserve. */
static uint64_t bytes_ahead(const struct journal *j, int *ret_error)
{
    uint64_t usable = j->config.segment_bytes - SEGMENT_DATA - TAIL_BYTES;
    uint64_t more, current = 0;

    *ret_error = -EDQUOT;
    if (j->ledger.bytes > j->config.max_bytes)
        return 0;
    more = (j->config.max_bytes - j->ledger.bytes) / j->config.segment_bytes;
    if (j->no_space) {
        unsigned prepared = journal_prepared(j);
        uint64_t ready = prepared > JOURNAL_RESERVE ? prepared - JOURNAL_RESERVE : 0;

        if (ready < more) {
            more = ready;
            *ret_error = -ENOSPC;
        }
    }
    if (j->current.fd >= 0 && j->current.bytes > j->offset + TAIL_BYTES)
        current = j->current.bytes - j->offset - TAIL_BYTES;
    return current + more * usable;
}

static int admit(const struct journal *j, uint64_t disk_bytes)
{
    int error;

    if (j->state != JOURNAL_RUNNING)
        return -EIO;
    return j->forming_bytes + disk_bytes <= bytes_ahead(j, &error) ? 0 : error;
}

int journal_admits(const struct journal *j, unsigned count, uint64_t packed_bytes)
{
    return admit(j, packed_bytes + count * record_bytes(RECORD_ALIGN));
}

int journal_append(struct journal *j, struct conversation *c)
{
    uint64_t bytes = record_bytes(c->packed_len);
    int rc = admit(j, bytes);

    assert(c->seq == 0);
    if (bytes > j->config.segment_bytes - SEGMENT_DATA - TAIL_BYTES)
        return -EMSGSIZE;
    j->full = rc == -EDQUOT || rc == -ENOSPC;
    if (rc != 0)
        return rc;
    c->seq = j->next_seq++;
    conversation_list_push(&j->forming, c);
    j->forming_bytes += bytes;
    if (j->forming_bytes + j->group_bytes > j->config.max_unsynced_bytes)
        j->congested = true;
    kill_point(KILL_append);
    return 0;
}

uint64_t journal_last_seq(const struct journal *j)
{
    return j->next_seq - 1;
}

bool journal_congested(const struct journal *j)
{
    return j->congested;
}

static int compare_ranges(const void *a, const void *b)
{
    uint64_t x = ((const struct done_range *)a)->first;
    uint64_t y = ((const struct done_range *)b)->first;

    return (x > y) - (x < y);
}

/* Rows are committed in the order of their keys; sorted by number they make a few ranges. */
static void merge_notes(struct journal *j)
{
    unsigned kept = 0;

    if (j->note_count == 0)
        return;
    qsort(j->notes, j->note_count, sizeof *j->notes, compare_ranges);
    for (unsigned i = 1; i < j->note_count; i++) {
        struct done_range *last = &j->notes[kept];

        if (j->notes[i].first == last->first + last->count)
            last->count += j->notes[i].count;
        else
            j->notes[++kept] = j->notes[i];
    }
    j->note_count = kept + 1;
}

/* A note that finds no room is left out: all it costs is that a restart replays the record, which
 * the database then recognises. */
static void note_done(struct journal *j, uint64_t seq)
{
    struct done_range *last = j->note_count > 0 ? &j->notes[j->note_count - 1] : NULL;

    if (last != NULL && last->first + last->count == seq && last->count < UINT32_MAX) {
        last->count++;
        return;
    }
    if (j->note_count == JOURNAL_NOTES_MAX)
        merge_notes(j);
    if (j->note_count < JOURNAL_NOTES_MAX)
        j->notes[j->note_count++] = (struct done_range){.first = seq, .count = 1};
}

void journal_done(struct journal *j, uint64_t seq)
{
    enum record_place place = ledger_place(&j->ledger, seq, NULL);

    if (place != PLACE_MEMORY && place != PLACE_DISK)
        return;
    ledger_set(&j->ledger, seq, PLACE_DONE, journal_now_us(j));
    note_done(j, seq);
}

/* Moves records from a list to the group's while they fit; returns their bytes on disk. */
static uint64_t take(struct conversation_list *from, struct conversation **ret, uint64_t room,
                     uint64_t wanted, unsigned *ret_count)
{
    struct conversation **end = ret;
    uint64_t taken = 0;

    *ret = NULL;
    *ret_count = 0;
    while (from->head != NULL && taken < wanted) {
        uint64_t bytes = record_bytes(from->head->packed_len);

        if (taken + bytes > room)
            break;
        *end = conversation_list_pop(from);
        end = &(*end)->next;
        taken += bytes;
        (*ret_count)++;
    }
    return taken;
}

/* Survivors that were done while they waited need no copy. */
static void drop_done_moves(struct journal *j)
{
    struct conversation_list left = {0};
    struct conversation *c;

    while ((c = conversation_list_pop(&j->moving)) != NULL) {
        enum record_place place = ledger_place(&j->ledger, c->seq, NULL);

        if (place == PLACE_MEMORY || place == PLACE_DISK)
            conversation_list_push(&left, c);
        else
            conversation_free(c);
    }
    j->moving = left;
}

/* Behind `taken` bytes of a group; there is room for it once in each segment for certain. */
static bool trim_fits(const struct journal *j, uint64_t taken)
{
    return j->offset + taken + TRIM_BYTES + sizeof(struct record_header) <= j->current.bytes;
}

/* Adds what is to be noted to a group of `used` bytes; returns the bytes of the notes. */
static uint64_t take_notes(struct journal *j, uint64_t room, uint64_t used)
{
    const uint64_t head = sizeof(struct record_header);
    struct group_job *group = &j->group;
    uint64_t taken = 0;

    room -= used;
    if (j->replay_wanted && room >= head) {
        group->replay = true;
        j->replay_wanted = false;
        taken += head;
    }
    if (j->note_count > 0 && room - taken > head + sizeof(struct done_range)) {
        uint64_t fit = (room - taken - head) / sizeof(struct done_range);
        struct done_range *notes = j->notes;

        merge_notes(j);
        group->done_count = j->note_count < fit ? j->note_count : (unsigned)fit;
        j->note_count -= group->done_count;
        j->notes = j->notes_out;
        j->notes_out = notes;
        memcpy(j->notes, notes + group->done_count, j->note_count * sizeof *notes);
        group->done = notes;
        taken += record_bytes(group->done_count * sizeof *notes);
        kill_point(KILL_done_noted);
    }
    if (j->trim_wanted > j->trim_point && trim_fits(j, used + taken)) {
        group->trim_point = j->trim_wanted;
        taken += TRIM_BYTES;
        kill_point(KILL_trim_noted);
    }
    return taken;
}

static uint64_t room_in_segment(const struct journal *j)
{
    if (j->current.fd < 0 || j->offset + TAIL_BYTES > j->current.bytes)
        return 0;
    return j->current.bytes - j->offset - TAIL_BYTES;
}

/* Puts what waits into j->group; returns its bytes. The order is that of recovery's reading: copies
 * before the notes that may speak of them, the trim note after all. */
static uint64_t fill_group(struct journal *j)
{
    struct group_job *group = &j->group;
    uint64_t room = room_in_segment(j), used;
    unsigned moved;

    *group = (struct group_job){.disk = &j->disk,
                                .segment = j->current,
                                .fresh = j->fresh,
                                .old_fd = -1,
                                .offset = j->offset,
                                .next_seq = j->next_seq};
    used = take(&j->forming, &group->conversations, room, JOURNAL_GROUP_BYTES, &j->group_records);
    j->forming_bytes -= used;
    j->group_bytes = used;
    drop_done_moves(j);
    if (used < JOURNAL_GROUP_BYTES)
        used += take(&j->moving, &group->moved, room - used, JOURNAL_GROUP_BYTES - used, &moved);
    used += take_notes(j, room, used);
    group->sync = group->conversations != NULL || group->moved != NULL || group->trim_point > 0 ||
                  group->replay;
    return used;
}

/* Is the current segment at its end for what waits? */
static bool must_rotate(const struct journal *j)
{
    uint64_t room = room_in_segment(j);

    if (j->forming.head != NULL)
        return record_bytes(j->forming.head->packed_len) > room;
    if (j->moving.head != NULL)
        return record_bytes(j->moving.head->packed_len) > room;
    if (j->trim_wanted > j->trim_point)
        return j->current.fd < 0 || !trim_fits(j, 0);
    if (j->replay_wanted)
        return room < SEGMENT_PAGE / 2;
    /* Done notes are no reason to take the last prepared segment: it is for what frees others. */
    return j->note_count > 0 && room < SEGMENT_PAGE / 2 && journal_prepared(j) > 1;
}

static bool reserve_ledger(struct journal *j)
{
    uint64_t last = j->forming.tail != NULL ? j->forming.tail->seq : 0;
    uint64_t first = j->forming.head != NULL ? j->forming.head->seq : 1;

    return ledger_reserve(&j->ledger, first, last, j->moving.count) == 0;
}

/* Sends a group if something waits and none is out. Short of memory, or without a segment, it
 * waits: for the next iteration, or for the segment. */
static void send_group(struct journal *j)
{
    uint64_t bytes;

    if (j->group_out || !journal_has_unwritten(j))
        return;
    if (must_rotate(j))
        (void)!journal_rotate(j); /* what is small may still go into the old one */
    if (j->current.fd < 0 || !reserve_ledger(j))
        return;
    bytes = fill_group(j);
    if (bytes == 0)
        return;
    j->group.old_fd = j->old_fd;
    j->group.old_dirty = j->old_dirty;
    j->old_fd = -1;
    j->offset += bytes;
    j->fresh = false;
    j->dirty = !j->group.sync;
    j->group_out = true;
    kill_point(KILL_group_formed);
    j->executor.group(j->executor.context, &j->group);
}

bool journal_has_unwritten(const struct journal *j)
{
    return j->state == JOURNAL_RUNNING &&
           (j->forming.head != NULL || j->moving.head != NULL || j->note_count > 0 ||
            j->trim_wanted > j->trim_point || j->replay_wanted);
}

/* One record is durable: its ack may go. Then it is handed on, or left to the read cursor. */
static void record_durable(struct journal *j, struct conversation *c, uint64_t offset)
{
    bool trailing = j->ledger.unread > 0;

    ledger_add(&j->ledger, c->seq, PLACE_DISK);
    j->on.on_durable(j->owner, c);
    if (!trailing && j->room_count > 0 && j->room_bytes > 0) {
        journal_ready(j, c);
        return;
    }
    if (!trailing) {
        j->cursor_index = ledger_youngest(&j->ledger)->index;
        j->cursor_offset = offset;
        j->cursor_arrived_us = conversation_header(c)->arrived_at_us;
    }
    c->call = NULL;
    conversation_free(c);
    kill_point(KILL_record_left_on_disk);
}

static void group_durable(struct journal *j)
{
    struct group_job group = j->group;
    uint64_t offset = group.offset;
    struct conversation *next;

    ledger_youngest(&j->ledger)->end = group.end;
    j->syncs += group.sync && j->config.sync;
    j->records += j->group_records;
    for (struct conversation *c = group.conversations; c != NULL; c = next) {
        uint64_t bytes = record_bytes(c->packed_len);

        next = c->next;
        c->next = NULL;
        record_durable(j, c, offset);
        offset += bytes;
    }
    kill_point(KILL_group_acked);
    journal_moves_synced(j, group.moved);
    if (group.trim_point > 0)
        journal_trimmed(j, group.trim_point);
    if (j->on.on_group != NULL && group.sync)
        j->on.on_group(j->owner, j->group_records, group.end - group.offset, group.ns);
}

static void lose(struct journal *j, struct conversation *list)
{
    while (list != NULL) {
        struct conversation *next = list->next;

        j->on.on_lost(j->owner, list);
        conversation_free(list);
        list = next;
    }
}

static void free_list(struct conversation *list)
{
    while (list != NULL) {
        struct conversation *next = list->next;

        conversation_free(list);
        list = next;
    }
}

void journal_delete(struct journal *j)
{
    const int fds[] = {j->current.fd, j->next.fd, j->old_fd};

    assert(!j->group_out);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0)
            j->sys->close(j->sys, fds[i]);
    lose(j, j->forming.head); /* no segment had room for them: nobody was told that they are safe */
    free_list(j->moving.head);
    ledger_done(&j->ledger);
    disk_done(&j->disk);
    free(j->notes);
    free(j->notes_out);
    free(j);
}

/* No later ack can slip out: nobody is told anything but on_lost from here on. */
static void give_up(struct journal *j)
{
    struct conversation *forming = j->forming.head;

    assert(j->state == JOURNAL_FAILING && !j->group_out);
    j->forming = (struct conversation_list){0};
    lose(j, j->group.conversations);
    lose(j, forming);
    free_list(j->group.moved);
    free_list(j->moving.head);
    j->moving = (struct conversation_list){0};
    j->group.conversations = j->group.moved = NULL;
    j->state = JOURNAL_FAILED;
    j->on.on_failed(j->owner, j->error, j->error_text);
}

int64_t journal_now_us(const struct journal *j)
{
    return (int64_t)(j->sys->clock_ns(j->sys) / 1000);
}

void journal_fail(struct journal *j, int error, const char *step)
{
    if (j->state != JOURNAL_RUNNING)
        return;
    j->state = JOURNAL_FAILING;
    j->error = error;
    snprintf(j->error_text, sizeof j->error_text, "journal: %s failed: %s", step, strerror(-error));
    if (!j->group_out)
        give_up(j);
}

void journal_group_finished(struct journal *j)
{
    assert(j->group_out);
    j->group_out = false;
    if (j->state == JOURNAL_FAILING) {
        give_up(j);
        return;
    }
    if (j->group.error != 0) {
        journal_fail(j, j->group.error, j->group.step);
        return;
    }
    j->group_bytes = 0;
    group_durable(j);
    j->group.conversations = j->group.moved = NULL;
    if (j->congested && j->forming_bytes <= j->config.max_unsynced_bytes) {
        j->congested = false;
        j->on.on_uncongested(j->owner);
    }
    journal_pump(j);
}

void journal_work_finished(struct journal *j, struct work_job *job)
{
    j->work_out[job->kind] = false;
    j->retry_us[job->kind] =
        journal_transient(job->error) ? journal_now_us(j) + JOURNAL_RETRY_US : 0;
    switch (job->kind) {
    case WORK_SEGMENT:
        journal_segment_finished(j, job);
        break;
    case WORK_SPARE:
        journal_spare_finished(j, job);
        break;
    case WORK_RETIRE:
        journal_retire_finished(j, job);
        break;
    case WORK_READ:
        journal_read_finished(j, job);
        break;
    case WORK_KINDS:
        assert(!"a kind of work");
    }
    journal_pump(j);
}

void journal_pump(struct journal *j)
{
    if (j->state != JOURNAL_RUNNING || j->phase == JOURNAL_STOPPING)
        return;
    if (j->phase == JOURNAL_OPEN) {
        journal_space_pump(j);
        journal_read_pump(j);
    }
    send_group(j);
}

void journal_room(struct journal *j, size_t conversations, size_t bytes)
{
    j->room_count = conversations;
    j->room_bytes = bytes;
}

void journal_stats(const struct journal *j, struct journal_stats *ret)
{
    *ret = (struct journal_stats){
        .bytes = j->ledger.bytes,
        .segments = j->ledger.count,
        .spares = journal_prepared(j),
        .syncs = j->syncs,
        .records = j->records,
        .waiting = j->ledger.live,
        .waiting_on_disk = j->ledger.unread,
        .oldest_on_disk_us = j->ledger.unread > 0 ? j->cursor_arrived_us : 0,
        .unsynced_bytes = j->forming_bytes + j->group_bytes,
        .moved = j->moved,
        .recovered = j->recovered,
        .damages = j->damages.count,
        .damage_count = j->damages.kept,
        .probe_p50_ns = j->probe_p50_ns,
        .probe_p99_ns = j->probe_p99_ns,
        .full = j->full,
    };
    memcpy(ret->damage, j->damages.list, j->damages.kept * sizeof ret->damage[0]);
}
