/* What comes back from disk: the read cursor, and the survivors of an old segment.
 *
 * The memory rule: a durable record that is not done is either in memory (PLACE_MEMORY: handed to
 * the backlog) or behind the read cursor (PLACE_DISK), and the ledger says which. A fresh record is
 * handed on at once only when nothing is behind the cursor, so that old ones never starve; the read
 * job knows nothing of this and brings all, and what is not PLACE_DISK is dropped. Memory is
 * bounded by the backlog's room and by what one job reads. */
#include <assert.h>
#include <errno.h>

#include "daemon/journal_private.h"
#include "daemon/kill_point.h"

/* Survivors that are worth moving: fewer than one in this many; when space is short, one in two. */
#define SPARSE_PART 20u
#define PRESSURE_PART 2u
/* And at most this part of a segment's bytes, unless it is one record. */
#define MOVE_BYTES_PART 4u

void journal_ready(struct journal *j, struct conversation *c)
{
    size_t bytes = conversation_bytes(c);

    ledger_set(&j->ledger, c->seq, PLACE_MEMORY, 0);
    j->room_count -= j->room_count > 0;
    j->room_bytes -= bytes < j->room_bytes ? bytes : j->room_bytes;
    j->on.on_ready(j->owner, c);
    kill_point(KILL_record_ready);
}

/* The segment in which the cursor stands, brought to where something unread is; NULL for none. */
static struct ledger_segment *cursor_segment(struct journal *j)
{
    for (size_t i = 0; i < j->ledger.count && j->ledger.unread > 0; i++) {
        struct ledger_segment *s = &j->ledger.segments[i];

        if (s->index < j->cursor_index || s->unread == 0)
            continue;
        if (s->index > j->cursor_index) {
            j->cursor_index = s->index;
            j->cursor_offset = SEGMENT_DATA;
        }
        if (j->cursor_offset < s->end)
            return s;
        /* The cursor is through, and records that are there did not come: damaged since they were
         * written or recovered. The next start sets the damage aside and goes on without it. */
        journal_fail(j, -EBADMSG, "reading records back");
        return NULL;
    }
    assert(j->ledger.unread == 0);
    return NULL;
}

static void read_on(struct journal *j)
{
    struct ledger_segment *s;

    if (j->ledger.unread == 0 || j->room_count == 0 || j->room_bytes == 0)
        return;
    s = cursor_segment(j);
    if (s == NULL)
        return;
    j->read_is_move = false;
    j->read_from = j->cursor_offset;
    journal_submit(j, &(struct work_job){.kind = WORK_READ,
                                         .index = s->index,
                                         .offset = j->cursor_offset,
                                         .limit = s->end,
                                         .max_count = j->room_count,
                                         .max_bytes = j->room_bytes});
}

static void cursor_read(struct journal *j, struct work_job *job)
{
    struct conversation *c;

    /* A replay may have sent the cursor back meanwhile. */
    if (j->cursor_index == job->index && j->cursor_offset == j->read_from)
        j->cursor_offset = job->offset;
    while ((c = conversation_list_pop(&job->found)) != NULL) {
        j->cursor_arrived_us = conversation_header(c)->arrived_at_us;
        if (ledger_place(&j->ledger, c->seq, NULL) != PLACE_DISK) {
            conversation_free(c);
            continue;
        }
        c->replayed = c->seq < j->first_seq;
        journal_ready(j, c);
    }
    kill_point(KILL_read_back);
}

/* The oldest segment, if few records hold it; pressure makes more of it "few". */
static bool worth_moving(struct journal *j, struct ledger_segment *s)
{
    bool pressure = journal_under_pressure(j);
    uint64_t part = pressure ? PRESSURE_PART : SPARSE_PART;
    int64_t now_us;

    if (s == NULL || s == ledger_youngest(&j->ledger) || s->live == 0 ||
        s->live * part >= s->records)
        return false;
    now_us = journal_now_us(j);
    if (s->sparse_at_us == 0)
        s->sparse_at_us = now_us;
    return now_us >= j->move_retry_us &&
           (pressure || now_us - s->sparse_at_us >= JOURNAL_SPARSE_US);
}

static void move_read_on(struct journal *j, const struct ledger_segment *s)
{
    j->read_is_move = true;
    journal_submit(j, &(struct work_job){.kind = WORK_READ,
                                         .index = s->index,
                                         .offset = j->move_offset,
                                         .limit = s->end,
                                         .max_count = SIZE_MAX,
                                         .max_bytes = SIZE_MAX});
}

static void look_for_moves(struct journal *j)
{
    struct ledger_segment *s = ledger_oldest(&j->ledger);

    if (j->move_state == MOVE_APPENDING && j->moving.head == NULL &&
        !(j->group_out && j->group.moved != NULL))
        j->move_state = MOVE_NONE;
    if (j->move_state == MOVE_NONE && worth_moving(j, s)) {
        j->move_retry_us = j->move_index == s->index ? journal_now_us(j) + JOURNAL_SPARSE_US : 0;
        j->move_state = MOVE_READING;
        j->move_index = s->index;
        j->move_offset = SEGMENT_DATA;
        j->move_bytes = 0;
    }
    if (j->move_state == MOVE_READING) {
        s = ledger_find(&j->ledger, j->move_index);
        if (s != NULL)
            move_read_on(j, s);
        else
            j->move_state = MOVE_NONE; /* done and trimmed meanwhile */
    }
}

/* Too many bytes to copy, or a segment that went meanwhile: it stays until its rows are committed.
 */
static void abandon_move(struct journal *j)
{
    struct conversation *c;

    while ((c = conversation_list_pop(&j->moving)) != NULL)
        conversation_free(c);
    j->move_state = MOVE_NONE;
}

/* More than is worth copying; or a record from a time of larger segments, which none holds now. */
static bool too_much_to_move(const struct journal *j)
{
    return j->move_bytes > (j->moving.count > 1 ? j->config.segment_bytes / MOVE_BYTES_PART
                                                : journal_usable_bytes(&j->config));
}

static void move_read(struct journal *j, struct work_job *job)
{
    struct ledger_segment *s = ledger_find(&j->ledger, job->index);
    struct conversation *c;

    while ((c = conversation_list_pop(&job->found)) != NULL) {
        uint64_t home = 0;
        enum record_place place = ledger_place(&j->ledger, c->seq, &home);

        if ((place == PLACE_DISK || place == PLACE_MEMORY) && home == job->index) {
            j->move_bytes += record_bytes(c->packed_len);
            conversation_list_push(&j->moving, c);
        } else {
            conversation_free(c);
        }
    }
    j->move_offset = job->offset;
    if (s == NULL || too_much_to_move(j)) {
        abandon_move(j);
    } else if (j->move_offset >= s->end) {
        j->move_state = MOVE_APPENDING;
        kill_point(KILL_move_read);
    }
}

void journal_moves_synced(struct journal *j, struct conversation *moved)
{
    while (moved != NULL) {
        struct conversation *next = moved->next;
        enum record_place place = ledger_place(&j->ledger, moved->seq, NULL);

        /* Done while its copy was on the way: its note is in a later group than the copy. */
        if (place == PLACE_DISK || place == PLACE_MEMORY)
            ledger_move(&j->ledger, moved->seq, journal_now_us(j));
        j->moved++;
        conversation_free(moved);
        moved = next;
        kill_point(KILL_move_synced);
    }
}

void journal_read_finished(struct journal *j, struct work_job *job)
{
    struct conversation *c;

    if (job->error != 0 && !journal_transient(job->error))
        journal_fail(j, job->error, job->step);
    if (j->state != JOURNAL_RUNNING) {
        while ((c = conversation_list_pop(&job->found)) != NULL)
            conversation_free(c);
        return;
    }
    if (j->read_is_move)
        move_read(j, job);
    else
        cursor_read(j, job);
}

void journal_read_pump(struct journal *j)
{
    bool cursor_first = j->read_is_move;

    if (!journal_may_try(j, WORK_READ))
        return;
    if (cursor_first)
        read_on(j);
    if (!j->work_out[WORK_READ])
        look_for_moves(j);
    if (!j->work_out[WORK_READ] && !cursor_first)
        read_on(j);
}

uint64_t journal_replay_done(struct journal *j)
{
    uint64_t point = j->trim_wanted > j->trim_point ? j->trim_wanted : j->trim_point;
    uint64_t revived = ledger_revive(&j->ledger, point);

    if (revived == 0)
        return 0;
    j->cursor_index = 0;
    j->cursor_offset = SEGMENT_DATA;
    j->first_seq = j->next_seq; /* what comes back now was handed on before */
    j->note_count = 0;
    j->replay_wanted = true;
    return revived;
}
