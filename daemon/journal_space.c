/* The journal's segments on the loop: the next one made ahead of use, spares, trim.
 *
 * The one hard thing is a full journal that must still drain: notes, moves and the trim point need
 * room to free room. So two prepared segments lie beyond journal.max_bytes; client records never
 * go there (but for the few that a segment's end pushed over), done notes never take the last.
 * Trim goes strictly oldest first, because the notes in a segment speak of records in older ones;
 * and the trim point is synced in a note before a file is touched, because directory operations may
 * reach the disk in any order. */
#include <assert.h>
#include <errno.h>

#include "daemon/journal_private.h"
#include "daemon/kill_point.h"

/* Files that one job of recycling looks at. */
#define RETIRE_MAX 16u

void journal_submit(struct journal *j, struct work_job *job)
{
    struct work_job *slot = &j->work[job->kind];

    assert(!j->work_out[job->kind]);
    *slot = *job;
    slot->disk = &j->disk;
    j->work_out[job->kind] = true;
    j->executor.work(j->executor.context, slot);
}

unsigned journal_prepared(const struct journal *j)
{
    return j->spares + (j->next.fd >= 0);
}

bool journal_under_pressure(const struct journal *j)
{
    return j->no_space || j->ledger.bytes + j->config.segment_bytes > j->config.max_bytes;
}

/* One ahead of use while max_bytes allows, and the reserve; what of the reserve is in use is not
 * made again. The reserve begins beyond what the start has found: where max_bytes was lowered, the
 * notes that let the journal shrink would find no segment otherwise. */
static unsigned prepared_wanted(const struct journal *j)
{
    uint64_t limit = j->config.max_bytes, over;

    if (j->ledger.bytes + j->config.segment_bytes <= limit)
        return JOURNAL_RESERVE + 1;
    if (limit < j->found_bytes)
        limit = j->found_bytes;
    if (j->ledger.bytes <= limit)
        return JOURNAL_RESERVE;
    over = (j->ledger.bytes - limit - 1) / j->config.segment_bytes + 1;
    return over < JOURNAL_RESERVE ? JOURNAL_RESERVE - (unsigned)over : 0;
}

bool journal_transient(int error)
{
    return error == -ENOSPC || error == -EDQUOT || error == -EMFILE || error == -ENFILE ||
           error == -ENOMEM;
}

bool journal_may_try(const struct journal *j, enum work_kind kind)
{
    return !j->work_out[kind] && (j->retry_us[kind] == 0 || journal_now_us(j) >= j->retry_us[kind]);
}

static void make_ready(struct journal *j)
{
    unsigned wanted = prepared_wanted(j);

    if (j->next.fd < 0 && (j->spares > 0 || wanted > 0) && journal_may_try(j, WORK_SEGMENT))
        journal_submit(j, &(struct work_job){.kind = WORK_SEGMENT,
                                             .index = j->last_index + 1,
                                             .next_seq = j->next_seq,
                                             .trim_point = j->trim_point});
    if (!j->work_out[WORK_SEGMENT] && journal_prepared(j) < wanted &&
        journal_may_try(j, WORK_SPARE))
        journal_submit(j, &(struct work_job){.kind = WORK_SPARE});
}

static bool made(struct journal *j, const struct work_job *job)
{
    j->spares = job->spares;
    if (journal_transient(job->error)) {
        j->no_space = true;
    } else if (job->error != 0) {
        journal_fail(j, job->error, job->step);
    }
    return job->error == 0;
}

void journal_segment_finished(struct journal *j, struct work_job *job)
{
    if (!made(j, job))
        return;
    assert(j->next.fd < 0);
    j->next = job->segment;
    j->last_index = job->segment.index;
}

void journal_spare_finished(struct journal *j, struct work_job *job)
{
    if (made(j, job))
        j->no_space = false;
}

void journal_retire_finished(struct journal *j, struct work_job *job)
{
    j->spares = job->spares;
    if (job->error == 0) {
        j->retired = job->to_index;
        j->no_space = false; /* worth another try */
    } else if (!journal_transient(job->error)) {
        journal_fail(j, job->error, job->step);
    }
}

bool journal_rotate(struct journal *j)
{
    if (j->next.fd < 0 || j->old_fd >= 0)
        return false;
    if (ledger_push(&j->ledger, j->next.index, j->next.bytes) != 0)
        return false;
    ledger_youngest(&j->ledger)->end = SEGMENT_DATA;
    j->old_fd = j->current.fd;
    j->old_dirty = j->dirty && j->config.sync;
    j->current = j->next;
    j->next.fd = -1;
    j->offset = SEGMENT_DATA;
    j->fresh = true;
    j->dirty = false;
    kill_point(KILL_rotate);
    return true;
}

static bool may_trim(const struct journal *j, const struct ledger_segment *s, int64_t now_us)
{
    if (s->live > 0)
        return false;
    /* After a start nothing is appended to the youngest either: when space is short it may go. */
    if (s == ledger_youngest(&j->ledger) && (j->current.fd >= 0 || !journal_under_pressure(j)))
        return false;
    if (j->work_out[WORK_READ] && j->work[WORK_READ].index == s->index)
        return false; /* the reader has it open */
    return journal_under_pressure(j) ||
           (uint64_t)(now_us - s->done_at_us) / 1000 >= j->config.retain_ms;
}

static void look_for_trim(struct journal *j)
{
    int64_t now_us;

    if (j->group_out && j->group.trim_point > 0)
        return;
    now_us = journal_now_us(j);
    for (size_t i = 0; i < j->ledger.count && may_trim(j, &j->ledger.segments[i], now_us); i++)
        j->trim_wanted = j->ledger.segments[i].index + 1;
}

void journal_trimmed(struct journal *j, uint64_t trim_point)
{
    assert(trim_point > j->trim_point);
    kill_point(KILL_trim_synced);
    ledger_trim(&j->ledger, trim_point);
    j->trim_point = trim_point;
}

static void recycle(struct journal *j)
{
    uint64_t to = j->trim_point;

    if (j->retired == to || !journal_may_try(j, WORK_RETIRE))
        return;
    if (to - j->retired > RETIRE_MAX)
        to = j->retired + RETIRE_MAX;
    journal_submit(j, &(struct work_job){.kind = WORK_RETIRE, .index = j->retired, .to_index = to});
}

void journal_space_pump(struct journal *j)
{
    make_ready(j);
    look_for_trim(j);
    recycle(j);
}
