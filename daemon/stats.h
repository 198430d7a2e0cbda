/* Counters and timings of the whole daemon. Loop. */
#ifndef DAEMON_STATS_H
#define DAEMON_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/histogram.h"

enum operation {
    OPERATION_QUEUE,        /* message read -> ack sent */
    OPERATION_JOURNAL_SYNC, /* one group written and synced */
    OPERATION_EMBEDDING,    /* one request to the embedder */
    OPERATION_BATCH_INSERT, /* one batch written */
    OPERATION_END_TO_END,   /* message read -> row committed */
    OPERATION_COUNT,
};
const char *operation_name(enum operation operation);

struct stats {
    uint64_t accepted;   /* conversations acked */
    uint64_t completed;  /* rows committed, duplicates and replays included */
    uint64_t duplicates; /* the same conversation sent again */
    uint64_t replayed;   /* our own retry or replay met its row */
    uint64_t failed;     /* ended in dead_letters */
    uint64_t rejected;   /* refused at the door */
    uint64_t notifications_refused;
    struct histogram operations[OPERATION_COUNT]; /* microseconds */
    uint64_t errors[OPERATION_COUNT];
};

void stats_record(struct stats *stats, enum operation operation, uint64_t duration_ns, bool ok);

#endif
