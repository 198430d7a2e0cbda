/* What `stats` says, as Prometheus reads it. Loop. */
#ifndef DAEMON_METRICS_H
#define DAEMON_METRICS_H

#include <stddef.h>

struct server;

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* All metrics as one text, which the caller frees. 0 or -ENOMEM. */
int metrics_text(struct server *server, char **ret, size_t *ret_len)
    __attribute__((warn_unused_result));

#endif
