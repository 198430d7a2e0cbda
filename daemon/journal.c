/* The journal on the loop: records come in, groups come back, acks follow; and the end when the
 * disk fails.
 *
 * The one hard thing is that an ack means durable, always: on_durable is called in one place, for
 * records of a group whose sync has returned, in the state RUNNING. Invariants: a record is in
 * exactly one of `forming`, the group that is out, or the ledger; nothing leaves a journal that
 * failed but on_lost. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/journal_private.h"
#include "daemon/kill_point.h"
#include "daemon/sysio.h"

/* Bytes that client records may still take: to the end of the current segment and in as many more
 * as journal.max_bytes and the disk allow. What lies beyond is the reserve. */
static uint64_t bytes_ahead(const struct journal *j, int *ret_error)
{
    uint64_t usable = journal_usable_bytes(&j->config);
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
    if (j->current.fd >= 0 && j->current.bytes > j->offset + JOURNAL_TAIL_BYTES)
        current = j->current.bytes - j->offset - JOURNAL_TAIL_BYTES;
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
    if (bytes > journal_usable_bytes(&j->config))
        return -EMSGSIZE;
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

uint64_t journal_first_seq(const struct journal *j)
{
    return ledger_first_seq(&j->ledger);
}

bool journal_congested(const struct journal *j)
{
    return j->congested;
}

void journal_done(struct journal *j, uint64_t seq)
{
    enum record_place place = ledger_place(&j->ledger, seq, NULL);

    if (place != PLACE_MEMORY && place != PLACE_DISK)
        return;
    ledger_set(&j->ledger, seq, PLACE_DONE, journal_now_us(j));
    journal_note_done(j, seq);
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
    if (j->on.on_group != NULL && j->group.sync)
        j->on.on_group(j->owner, j->group_records, j->group.end - j->group.offset, j->group.ns);
    if (j->congested && j->forming_bytes <= j->config.max_unsynced_bytes) {
        j->congested = false;
        j->on.on_uncongested(j->owner);
    }
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
    journal_send_group(j);
}

void journal_room(struct journal *j, size_t conversations, size_t bytes)
{
    j->room_count = conversations;
    j->room_bytes = bytes;
}

/* What a full journal could give back at once: trim goes oldest first. */
static uint64_t retained_bytes(const struct ledger *l)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i + 1 < l->count && l->segments[i].live == 0; i++)
        bytes += l->segments[i].bytes;
    return bytes;
}

void journal_reconfigure(struct journal *j, const struct journal_config *config)
{
    if (config->max_bytes < j->config.max_bytes && j->found_bytes < j->ledger.bytes)
        j->found_bytes = j->ledger.bytes;
    j->config.max_bytes = config->max_bytes;
    j->config.max_unsynced_bytes = config->max_unsynced_bytes;
    j->config.retain_ms = config->retain_ms;
}

void journal_stats(const struct journal *j, struct journal_stats *ret)
{
    *ret = (struct journal_stats){
        .bytes = j->ledger.bytes,
        .retained_bytes = retained_bytes(&j->ledger),
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
        .full = admit(j, record_bytes(SEGMENT_PAGE)) != 0,
    };
    memcpy(ret->damage, j->damages.list, j->damages.kept * sizeof ret->damage[0]);
}
