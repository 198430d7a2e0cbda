#include "daemon/health.h"

#include "daemon/server.h"

#define INTERVAL_MS 1000

static void on_second(uv_timer_t *timer)
{
    struct server *server = timer->data;

    stats_turn(&server->stats, uv_hrtime() / 1000000000u);
}

int health_start(struct server *server)
{
    struct health *health = &server->health;
    int rc = uv_timer_init(server->loop, &health->timer);

    health->timer.data = server;
    stats_turn(&server->stats, uv_hrtime() / 1000000000u);
    return rc == 0 ? uv_timer_start(&health->timer, on_second, INTERVAL_MS, INTERVAL_MS) : rc;
}

void health_close(struct server *server)
{
    uv_close((uv_handle_t *)&server->health.timer, NULL);
}
