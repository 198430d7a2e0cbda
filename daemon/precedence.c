/* The hard thing is to know what the writers can do. Those that keep a pace do not show it, and a
 * load that they could keep up with must not wait for ever: so the pace ends, for a minute at
 * least, when no more comes in than they stored without it, and once a minute to measure that anew.
 * Neither do those that wait for work, or have just begun: so what they store counts only while
 * more waits than they may have at once, and when it rises no more.
 *
 * Nor does a closed loop show what it would bring: where the processors are full, no more comes in
 * than is stored, so that much is an overload already. */
#include "daemon/precedence.h"

#include <inttypes.h>

#include "daemon/log.h"
#include "daemon/server.h"

#define LOOKS_PER_SECOND 2u
#define OVERLOADED_LOOKS 2 /* before a pace: the first after a pause tells little */
#define PACED_LOOKS (60 * LOOKS_PER_SECOND)
/* Of what was stored under the overload: a little over half of what the writers can do. */
#define PACE_PERCENT 55

uint64_t precedence_pace(struct precedence *p, uint64_t accepted, uint64_t slow, uint64_t completed,
                         bool all_busy)
{
    uint64_t in = accepted - p->accepted, out = completed - p->completed;
    bool slow_acks = (slow - p->slow) * 100 > in; /* over 1 % */

    p->accepted = accepted;
    p->slow = slow;
    p->completed = completed;
    if (p->paced > 0) {
        p->paced = in > p->rows && p->paced < PACED_LOOKS ? p->paced + 1 : 0;
        p->rest = in > p->rows ? 0 : PACED_LOOKS;
    } else if (p->rest > 0) {
        p->rest--;
    } else {
        bool overload = all_busy && slow_acks && out > 0 && in > out - out / 8;

        p->overloaded = !overload ? 0 : out <= p->rows + p->rows / 4 ? p->overloaded + 1 : 1;
        p->rows = p->overloaded > 1 && p->rows > out ? p->rows : out;
        p->paced = p->overloaded >= OVERLOADED_LOOKS;
    }
    if (p->paced == 0)
        return 0;
    p->overloaded = 0;
    return (p->rows * LOOKS_PER_SECOND * PACE_PERCENT + 99) / 100;
}

static void on_look(uv_timer_t *timer)
{
    struct server *server = timer->data;
    const struct stats *stats = &server->stats;
    const struct config *config = server->config;
    uint64_t at_once = config->batch.batch_size * config->batch.max_concurrent_batches;
    bool before = server->precedence.paced > 0;
    uint64_t pace = precedence_pace(&server->precedence, stats->accepted, stats->slow_acks,
                                    stats->completed, server->outstanding > at_once);

    batcher_set_pace(server->batcher, pace);
    if (before != (pace > 0))
        log_debug("batch.pace rows_per_second=%" PRIu64, pace);
}

int precedence_start(struct server *server)
{
    uv_timer_t *timer = &server->precedence.timer;
    int rc = uv_timer_init(server->loop, timer);

    timer->data = server;
    return rc == 0
               ? uv_timer_start(timer, on_look, 1000 / LOOKS_PER_SECOND, 1000 / LOOKS_PER_SECOND)
               : rc;
}

void precedence_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->precedence.timer, NULL);
}
