/* The hard thing is to tell an overload from a load that the writers can take. A closed loop does
 * not show what it would bring: where the processors are full, no more comes in than is stored. So
 * slow acks of as much as is stored are taken for an overload, and the pace itself is the trial: it
 * goes on while clearly more comes in for it, and else ends for a minute at least. So what arrives
 * at its own rate (an open loop) is never paced for long, whatever the writers can do.
 *
 * Writers that keep a pace do not show what they can do: once a minute it ends to measure that
 * anew. Nor do those that wait for work or for a database that stands still for a moment: so what
 * counts is the best that they did, forgotten slowly; and no pace begins while they get faster. */
#include "daemon/precedence.h"

#include <inttypes.h>

#include "daemon/journal.h"
#include "daemon/latency.h"
#include "daemon/log.h"
#include "daemon/server.h"

#define LOOKS_PER_SECOND 2u
#define OVERLOADED_LOOKS 2 /* before a pace: the first after a pause tells little */
#define UNPAID_LOOKS 4     /* on end, before a pace is given up */
#define PACED_LOOKS (60 * LOOKS_PER_SECOND)
/* Of the best that writers did beside the overload: over half of what they do alone. */
#define PACE_PERCENT 72

static void look_at_pace(struct precedence *p, uint64_t in)
{
    p->unpaid = in > p->before + p->before / 8 ? 0 : p->unpaid + 1;
    p->rest = p->unpaid == UNPAID_LOOKS ? PACED_LOOKS : 0;
    p->paced = p->rest == 0 && p->paced < PACED_LOOKS ? p->paced + 1 : 0;
}

static void look_at_writers(struct precedence *p, uint64_t in, uint64_t out, bool overload)
{
    uint64_t best = p->rows - p->rows / 64; /* half of it is forgotten in 22 s */
    bool faster = out > best + best / 4;

    p->rows = out > best ? out : best;
    if (p->rest > 0)
        p->rest--;
    else
        p->overloaded = !overload ? 0 : faster ? 1 : p->overloaded + 1;
    p->before = p->overloaded > 1 ? (p->before + in) / 2 : in;
    if (p->overloaded < OVERLOADED_LOOKS)
        return;
    p->overloaded = p->unpaid = 0;
    p->paced = 1;
}

uint64_t precedence_pace(struct precedence *p, uint64_t accepted, uint64_t slow, uint64_t written,
                         bool busy)
{
    uint64_t in = accepted - p->accepted, out = written - p->written;
    bool slow_acks = (slow - p->slow) * 100 > in; /* over 1 % */

    p->accepted = accepted;
    p->slow = slow;
    p->written = written;
    if (p->paced > 0)
        look_at_pace(p, in);
    else
        look_at_writers(p, in, out, busy && slow_acks && out > 0 && in > out - out / 8);
    return p->paced > 0 ? (p->rows * LOOKS_PER_SECOND * PACE_PERCENT + 99) / 100 : 0;
}

static void look_for_pace(struct server *server)
{
    const struct stats *stats = &server->stats;
    bool before = server->precedence.paced > 0;
    uint64_t pace =
        precedence_pace(&server->precedence, stats->accepted, stats->slow_acks, stats->written,
                        server->outstanding > server->config->batch.batch_size);

    batcher_set_pace(server->batcher, pace);
    if (before != (pace > 0))
        log_debug("batch.pace rows_per_second=%" PRIu64, pace);
}

static void look_for_rush(struct server *server)
{
    const struct stats *stats = &server->stats;

    rush_look(&server->rush, &(struct rush_totals){.accepted = stats->accepted,
                                                   .replies = stats->replies,
                                                   .groups = stats->groups,
                                                   .written = stats->written,
                                                   .batches = stats->batches});
    latency_set_first(&server->latency, server->rush.on);
    journal_come_first(server->journal, server->rush.on);
}

static void on_tick(uv_timer_t *timer)
{
    struct server *server = timer->data;

    look_for_rush(server);
    if (++server->precedence.ticks % (RUSH_LOOKS_PER_SECOND / LOOKS_PER_SECOND) == 0)
        look_for_pace(server);
}

int precedence_start(struct server *server)
{
    uv_timer_t *timer = &server->precedence.timer;
    int rc = uv_timer_init(server->loop, timer);

    timer->data = server;
    return rc == 0 ? uv_timer_start(timer, on_tick, 1000 / RUSH_LOOKS_PER_SECOND,
                                    1000 / RUSH_LOOKS_PER_SECOND)
                   : rc;
}

void precedence_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->precedence.timer, NULL);
}
