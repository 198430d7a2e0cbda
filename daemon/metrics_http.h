/* /metrics and /health over HTTP, for Prometheus and whoever watches the daemon. Loop. */
#ifndef DAEMON_METRICS_HTTP_H
#define DAEMON_METRICS_HTTP_H

struct metrics_http;
struct server;

/* Listens on metrics.listen. 0; or -1 with one clear line in ret_error. */
int metrics_http_start(struct server *server, struct metrics_http **ret, char ret_error[512])
    __attribute__((warn_unused_result));

/* Ends it and all of its connections; the handles close on the loop by themselves. Takes NULL. */
void metrics_http_close(struct metrics_http *h);

#endif
