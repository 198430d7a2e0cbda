/* What goes into a group, and when it leaves.
 *
 * The one hard thing, group commit: at most one group is out; what arrives meanwhile forms the
 * next, which leaves at the end of the loop's iteration in which the one before came back. So a
 * lone record leaves at once, and under load one sync covers all that wait. Invariants: `offset` is
 * behind everything that was ever sent to the current segment; a group lies in one segment; each
 * segment keeps room for one trim note. Loop. */
#include <stdlib.h>
#include <string.h>

#include "daemon/journal_private.h"
#include "daemon/kill_point.h"

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
void journal_note_done(struct journal *j, uint64_t seq)
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
    return j->offset + taken + JOURNAL_TRIM_BYTES + sizeof(struct record_header) <=
           j->current.bytes;
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
        taken += JOURNAL_TRIM_BYTES;
        kill_point(KILL_trim_noted);
    }
    return taken;
}

static uint64_t room_in_segment(const struct journal *j)
{
    if (j->current.fd < 0 || j->offset + JOURNAL_TAIL_BYTES > j->current.bytes)
        return 0;
    return j->current.bytes - j->offset - JOURNAL_TAIL_BYTES;
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
void journal_send_group(struct journal *j)
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
