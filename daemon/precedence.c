/* The hard thing is that writers at rest do not show what they could do: a load that two of them
 * would keep up with must not wait behind one for ever. So the rest ends when no more comes in than
 * all of them stored before, and once a minute to measure that anew. */
#include "daemon/precedence.h"

#include "daemon/log.h"
#include "daemon/server.h"

#define INTERVAL_MS 1000
#define OVERLOADED_SECONDS 2 /* before writers rest: the first second after a pause tells little   \
                              */
#define HELD_SECONDS 60

bool precedence_decide(struct precedence *p, uint64_t accepted, uint64_t slow, uint64_t completed)
{
    uint64_t in = accepted - p->accepted, out = completed - p->completed;
    bool slow_acks = (slow - p->slow) * 100 > in; /* over 1 % */

    p->accepted = accepted;
    p->slow = slow;
    p->completed = completed;
    if (p->held > 0) {
        p->held = in > p->rows && p->held < HELD_SECONDS ? p->held + 1 : 0;
        return p->held > 0;
    }
    p->rows = out;
    p->overloaded = slow_acks && out > 0 && in > out + out / 4 ? p->overloaded + 1 : 0;
    if (p->overloaded >= OVERLOADED_SECONDS) {
        p->overloaded = 0;
        p->held = 1;
    }
    return p->held > 0;
}

static void on_second(uv_timer_t *timer)
{
    struct server *server = timer->data;
    bool before = server->precedence.held > 0;
    bool rest = precedence_decide(&server->precedence, server->stats.accepted,
                                  server->stats.slow_acks, server->stats.completed);

    if (rest == before)
        return;
    log_debug("batch.precedence writers=%s", rest ? "half" : "all");
    batcher_rest(server->batcher, rest);
}

int precedence_start(struct server *server)
{
    uv_timer_t *timer = &server->precedence.timer;
    int rc = uv_timer_init(server->loop, timer);

    timer->data = server;
    return rc == 0 ? uv_timer_start(timer, on_second, INTERVAL_MS, INTERVAL_MS) : rc;
}

void precedence_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->precedence.timer, NULL);
}
