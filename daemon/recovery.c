/* Start-up, first half: what the segments say. Changes nothing; also serves `journal verify`.
 *
 * Runs once before listening, on the loop's thread. The one hard thing: nothing here is ever fatal
 * that is only damage. Bytes that do not check are noted as a piece and jumped over, files that are
 * no segments are noted; what cannot be read is not damage but a failing disk, and stops. Memory:
 * the cursor's window, two bits a record, and the list of pieces. */
#include "daemon/recovery.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/sysio.h"

/* Missing segments in a row; a number further off belongs to something else. */
#define INDEX_HOLE_MAX (1u << 20)
/* Damaged pieces that are set aside and listed; more are skipped and only counted. */
#define PIECES_MAX 4096u

int recovery_fail(char error[512], int rc, const char *what, const char *name)
{
    snprintf(error, 512, "cannot %s %s: %s", what, name, strerror(-rc));
    return rc;
}

const char *damage_kind_name(enum journal_damage_kind kind)
{
    static const char *const names[] = {
        [JOURNAL_DAMAGE_HEADER] = "header_copy", [JOURNAL_DAMAGE_BYTES] = "bytes",
        [JOURNAL_DAMAGE_TAIL] = "torn_tail",     [JOURNAL_DAMAGE_SEGMENT] = "no_segment",
        [JOURNAL_DAMAGE_MISSING] = "missing",
    };

    return names[kind];
}

void damage_add(struct damage_list *damages, const struct journal_damage *damage)
{
    if (damage->kind != JOURNAL_DAMAGE_TAIL)
        damages->count++;
    if (damages->kept < JOURNAL_DAMAGE_KEPT)
        damages->list[damages->kept++] = *damage;
}

/* Grows a list by one element; the arrays here hold one element a file or a damage. */
static int grow(void *list_pointer, size_t count, size_t size)
{
    void **list = list_pointer;
    void *grown;

    if ((count & (count - 1)) != 0) /* room up to the next power of two */
        return 0;
    grown = realloc(*list, (count == 0 ? 1 : 2 * count) * size);
    if (grown == NULL)
        return -ENOMEM;
    *list = grown;
    return 0;
}

static int add_piece(struct recovery *r, enum journal_damage_kind kind, uint64_t segment,
                     uint64_t offset, uint64_t bytes)
{
    int rc;

    if (r->piece_count == PIECES_MAX) {
        r->damages.count++;
        return 0;
    }
    rc = grow(&r->pieces, r->piece_count, sizeof *r->pieces);
    if (rc == 0)
        r->pieces[r->piece_count++] = (struct journal_damage){
            .kind = kind, .segment = segment, .offset = offset, .bytes = bytes};
    return rc;
}

static int collect_name(void *arg, const char *name)
{
    struct recovery *r = arg;
    uint64_t number = 0;
    int rc = 0;

    switch (disk_parse_name(name, &number)) {
    case FILE_SEGMENT:
        rc = grow(&r->found, r->found_count, sizeof *r->found);
        if (rc == 0)
            r->found[r->found_count++] = (struct found_segment){.index = number};
        break;
    case FILE_SPARE:
    case FILE_UNFINISHED:
        rc = grow(&r->others, r->other_count, sizeof *r->others);
        if (rc == 0)
            snprintf(r->others[r->other_count++], DISK_NAME_MAX, "%s", name);
        break;
    case FILE_FOREIGN:
        break;
    }
    return rc;
}

static int compare_found(const void *a, const void *b)
{
    uint64_t x = ((const struct found_segment *)a)->index;
    uint64_t y = ((const struct found_segment *)b)->index;

    return (x > y) - (x < y);
}

static void raise_seq(struct recovery *r, uint64_t next_seq)
{
    if (next_seq > r->next_seq)
        r->next_seq = next_seq;
}

static void recover_done_note(struct recovery *r, const struct record_view *record)
{
    size_t count = record->header.length / sizeof(struct done_range);

    for (size_t i = 0; i < count; i++) {
        struct done_range range;

        memcpy(&range, record->payload + i * sizeof range, sizeof range);
        for (uint64_t seq = range.first;
             seq - range.first < range.count && seq <= r->ledger.last_seq; seq++)
            if (ledger_place(&r->ledger, seq, NULL) == PLACE_DISK)
                ledger_set(&r->ledger, seq, PLACE_DONE, 0);
    }
}

static int recover_record(struct recovery *r, const struct record_view *record)
{
    uint64_t point;

    switch (record->header.type) {
    case RECORD_CONVERSATION:
        if (record->header.seq == 0)
            return 0;
        raise_seq(r, record->header.seq + 1);
        return ledger_recover(&r->ledger, record->header.seq);
    case RECORD_DONE:
        recover_done_note(r, record);
        break;
    case RECORD_TRIM:
        if (record->header.length == sizeof point) {
            memcpy(&point, record->payload, sizeof point);
            if (point > r->trim_point)
                r->trim_point = point;
        }
        break;
    case RECORD_REPLAY:
        ledger_revive(&r->ledger, 0);
        break;
    default: /* a later daemon's note; what must not be skipped comes with a new version */
        break;
    }
    raise_seq(r, record->header.seq); /* of a note: the next number to be given */
    return 0;
}

struct gap_sink {
    struct recovery *r;
    struct found_segment *found;
    int error;
};

static void on_gap(void *arg, uint64_t from, uint64_t to)
{
    struct gap_sink *sink = arg;
    int rc = add_piece(sink->r, JOURNAL_DAMAGE_BYTES, sink->found->index, from, to - from);

    sink->found->gaps++;
    if (rc != 0)
        sink->error = rc;
}

static int scan_records(struct recovery *r, struct segment_cursor *cursor,
                        struct found_segment *found)
{
    struct gap_sink sink = {r, found, 0};
    struct record_view record;
    int rc;

    cursor->on_gap = on_gap;
    cursor->arg = &sink;
    while ((rc = segment_cursor_next(cursor, &record)) == 1) {
        found->records++;
        rc = recover_record(r, &record);
        if (rc != 0)
            return rc;
    }
    if (rc == 0)
        rc = sink.error;
    found->end = cursor->end;
    found->closed = cursor->closed;
    if (cursor->closed)
        raise_seq(r, cursor->end_seq);
    ledger_youngest(&r->ledger)->end = found->end;
    return rc;
}

/* A file of another journal, or one that was renamed, is not ours to act upon. */
static bool plausible(const struct recovery *r, const struct found_segment *found,
                      const struct segment_header *header)
{
    const struct ledger_segment *before = ledger_youngest(&r->ledger);

    return header->index == found->index &&
           (before == NULL || found->index - before->index <= INDEX_HOLE_MAX);
}

static int scan_open_segment(struct recovery *r, struct segment_cursor *cursor, int fd,
                             struct found_segment *found)
{
    struct segment_header header;
    int64_t size = cursor->sys->size(cursor->sys, fd);
    int rc;

    if (size < 0)
        return (int)size;
    found->size = (uint64_t)size;
    rc = segment_read_header(cursor->sys, fd, &header, &found->bad_headers);
    if (rc == -EBADMSG || (rc == 0 && !plausible(r, found, &header))) {
        found->bad_headers = 2;
        return add_piece(r, JOURNAL_DAMAGE_SEGMENT, found->index, 0, found->size);
    }
    if (rc != 0)
        return rc;
    if (found->bad_headers == 1)
        rc = add_piece(r, JOURNAL_DAMAGE_HEADER, found->index, 0, sizeof header);
    if (rc == 0)
        rc = ledger_push(&r->ledger, found->index, found->size);
    if (rc != 0)
        return rc;
    raise_seq(r, header.next_seq);
    if (header.trim_point > r->trim_point)
        r->trim_point = header.trim_point;
    segment_key_init(&found->key, header.salt);
    segment_cursor_start(cursor, fd, &found->key, SEGMENT_DATA,
                         found->size > SEGMENT_DATA ? found->size : SEGMENT_DATA);
    return scan_records(r, cursor, found);
}

static int scan_segment(struct recovery *r, struct segment_cursor *cursor, int dir_fd,
                        struct found_segment *found, char error[512])
{
    char name[DISK_NAME_MAX];
    int fd, rc;

    disk_segment_name(found->index, name);
    fd = sysio_open(cursor->sys, dir_fd, name, O_RDONLY);
    if (fd < 0)
        return recovery_fail(error, fd, "open", name);
    rc = scan_open_segment(r, cursor, fd, found);
    cursor->sys->close(cursor->sys, fd);
    if (rc == -EPROTONOSUPPORT) {
        snprintf(error, 512,
                 "%s is in a newer format than this daemon's version %u: start the newer daemon "
                 "and let it drain, or move the file away",
                 name, SEGMENT_VERSION);
        return rc;
    }
    if (rc == -EIO) {
        /* A bad sector, or a bad minute: only a person can tell. To go on without what could not be
         * read would lose it for good. */
        snprintf(
            error, 512,
            "cannot read %s: the disk is failing; copy the journal to a sound disk, with zeros "
            "for what cannot be read (ddrescue), and start there",
            name);
        return rc;
    }
    return rc == 0 ? 0 : recovery_fail(error, rc, "read", name);
}

/* The disk reads the next segment while this one is checked. */
static void read_ahead(const struct recovery *r, const struct sysio *sys, int dir_fd, size_t at)
{
    char name[DISK_NAME_MAX];

    if (at >= r->found_count || sys->will_read == NULL)
        return;
    disk_segment_name(r->found[at].index, name);
    sys->will_read(sys, dir_fd, name);
}

/* The last segment in which anything was recorded; NULL for none. All before it are complete. */
const struct found_segment *recovery_last_used(const struct recovery *r)
{
    for (size_t i = r->found_count; i > 0; i--) {
        const struct found_segment *found = &r->found[i - 1];

        if (found->bad_headers < 2 && (found->records > 0 || found->gaps > 0))
            return found;
    }
    return NULL;
}

/* What the scan of single segments cannot see: segments that should be there, and a log that breaks
 * off. */
static int judge_sequence(struct recovery *r)
{
    const struct found_segment *last = recovery_last_used(r);
    uint64_t expected = r->trim_point;
    int rc = 0;

    for (size_t i = 0; i < r->found_count && rc == 0; i++) {
        const struct found_segment *found = &r->found[i];

        if (found->index > expected)
            rc = add_piece(r, JOURNAL_DAMAGE_MISSING, expected, 0, found->index - expected);
        if (found->index >= expected)
            expected = found->index + 1;
        if (rc == 0 && found->bad_headers < 2 && !found->closed)
            rc = add_piece(r,
                           last != NULL && found->index < last->index ? JOURNAL_DAMAGE_BYTES
                                                                      : JOURNAL_DAMAGE_TAIL,
                           found->index, found->end, found->size - found->end);
    }
    r->last_index = expected - 1;
    return rc;
}

/* Takes out what lies below the trim point: it is gone, only its files are still there. */
static void forget_trimmed(struct recovery *r)
{
    size_t kept = 0;

    ledger_trim(&r->ledger, r->trim_point);
    for (size_t i = 0; i < r->piece_count; i++)
        if (r->pieces[i].segment >= r->trim_point)
            r->pieces[kept++] = r->pieces[i];
    r->piece_count = kept;
}

int recovery_scan(const struct sysio *sys, int dir_fd, struct recovery *ret, char ret_error[512])
{
    struct segment_cursor cursor;
    int rc;

    *ret = (struct recovery){.next_seq = 1, .trim_point = 1, .tail.fd = -1};
    rc = sys->list(sys, dir_fd, collect_name, ret);
    if (rc != 0)
        return recovery_fail(ret_error, rc, "list", "the journal's directory");
    if (ret->found_count > 0)
        qsort(ret->found, ret->found_count, sizeof *ret->found, compare_found);
    segment_cursor_init(&cursor, sys);
    for (size_t i = 0; i < ret->found_count && rc == 0; i++) {
        read_ahead(ret, sys, dir_fd, i + 1);
        rc = scan_segment(ret, &cursor, dir_fd, &ret->found[i], ret_error);
    }
    segment_cursor_done(&cursor);
    if (rc != 0)
        return rc;
    rc = judge_sequence(ret);
    if (rc != 0)
        return recovery_fail(ret_error, rc, "judge", "the segments");
    forget_trimmed(ret);
    return 0;
}

void recovery_done(struct recovery *r)
{
    ledger_done(&r->ledger);
    free(r->found);
    free(r->pieces);
    free(r->others);
    r->found = NULL;
    r->pieces = NULL;
    r->others = NULL;
}
