/* Which claimed rows are tried together, and what becomes of those that get no vector.
 *
 * The hard thing is a text that makes its whole request hang, alone or by what it is together with.
 * Nothing tells it from its neighbours, so a row that failed goes in ever smaller company, the
 * count of its attempts being what outlives a restart. */
#include "daemon/backfill_window.h"

#include <errno.h>
#include <stdlib.h>

#define PIECES_MAX 1024 /* texts of a window, unless one row has more */
#define COMPANY_SHARE 4
#define AGAIN_BASE_MS 1000
#define AGAIN_CAP_MS 30000
#define SLOW_CAP_MS 3600000
#define REFUSED_CAP_MS 86400000

/* How many rows may stand in one window with this one, itself included. */
static size_t company(const struct backfill_claim *claim)
{
    int32_t failures = claim->attempts - 1;
    size_t rows = BACKFILL_ROWS_MAX;

    for (; failures > 0 && rows > 1; failures--)
        rows /= COMPANY_SHARE;
    return rows;
}

size_t backfill_window_end(const struct backfill_load *load, size_t first,
                           enum embedding_source source)
{
    size_t end = first, pieces = 0, rows_max = company(&load->claims[first]);

    while (end < load->count && (pieces < PIECES_MAX || end == first) && end - first < rows_max &&
           company(&load->claims[end]) == rows_max) {
        struct slice text = conversation_transcript(load->rows[end].conversation);

        pieces += source == SOURCE_SUMMARY
                      ? 1
                      : 2 + text.len / (EMBEDDING_CHUNK_BYTES - EMBEDDING_CHUNK_OVERLAP);
        end++;
    }
    return end;
}

/* When to try a row again that failed for the attempts-th time, alone: what failed in company is
 * soon tried in a smaller one. Half of it is chance, so that texts that failed together do not all
 * come back together with the one that made them fail. */
static int32_t later_ms(int error, int32_t attempts, bool alone)
{
    int64_t ms = AGAIN_BASE_MS, cap = REFUSED_CAP_MS;

    if (error == -EAGAIN || error == -ETIMEDOUT)
        cap = alone ? error == -EAGAIN ? AGAIN_CAP_MS : SLOW_CAP_MS : AGAIN_BASE_MS;
    for (int32_t i = 0; i < attempts && ms < cap; i++)
        ms *= error == -EAGAIN ? 2 : 3;
    if (ms > cap)
        ms = cap;
    return (int32_t)(ms / 2 + random() % (ms / 2 + 1));
}

static const char *reason_of(int error)
{
    switch (error) {
    case -EAGAIN:
        return "the embedder did not answer";
    case -ETIMEDOUT:
        return "the embedder takes too long for this text";
    case -E2BIG:
        return "too long for the model";
    case -EINVAL:
        return "the embedder refuses the text or gives no finite vector for it";
    default:
        return "no vector";
    }
}

void backfill_judge(struct backfill_claim *claim, int error, size_t window_rows)
{
    if (error == -ETIMEDOUT && window_rows > 1)
        error = -EAGAIN; /* another one's fault, perhaps */
    claim->done = error == 0;
    if (claim->done)
        return;
    claim->error = reason_of(error);
    claim->later_ms = later_ms(error, claim->attempts, window_rows == 1);
}

void backfill_refused(struct backfill_claim *claim)
{
    claim->done = false;
    claim->error = "the database refuses the vector";
    claim->later_ms = later_ms(-EINVAL, claim->attempts, true);
}
