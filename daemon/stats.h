/* Counters and timings of the whole daemon. Loop. */
#ifndef DAEMON_STATS_H
#define DAEMON_STATS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/histogram.h"
#include "proto/error.h"
#include "proto/slice.h"

/* The daemon's own operations. */
enum operation {
    OPERATION_QUEUE,        /* message readable -> ack handed to the kernel */
    OPERATION_JOURNAL_SYNC, /* one group written and synced */
    OPERATION_EMBEDDING,    /* one request to the embedder */
    OPERATION_BATCH_INSERT, /* one batch written: the database's answer to one transaction */
    OPERATION_END_TO_END,   /* message readable -> row committed; error: a dead letter */
    OPERATION_READ,         /* status, get, list, search: message readable -> answer packed */
    OPERATION_COUNT,
};

#define STATS_RECORDED_MAX 64 /* operations of services */
#define STATS_NAME_MAX 64     /* bytes of a name */
#define STATS_DURATION_MAX_MS 86400000.0

enum stats_window {
    STATS_SINCE_START,
    STATS_LAST_MINUTE,    /* 50 to 60 s */
    STATS_LAST_5_MINUTES, /* 250 to 300 s */
};

struct stats_operation; /* one operation's histograms */

struct stats {
    uint64_t accepted;   /* conversations acked */
    uint64_t slow_acks;  /* of them: over PRECEDENCE_SLOW_NS */
    uint64_t replies;    /* that told a client of some of them */
    uint64_t groups;     /* of the journal, written and synced */
    uint64_t completed;  /* rows committed, duplicates and replays included */
    uint64_t written;    /* the same, but not lowered by what a promotion puts in question */
    uint64_t batches;    /* transactions that wrote them, refused ones included */
    uint64_t duplicates; /* the same conversation sent again */
    uint64_t replayed;   /* our own retry or replay met its row */
    uint64_t failed;     /* ended in dead_letters */
    uint64_t rejected;   /* refused at the door */
    uint64_t notifications_refused;

    /* The daemon's own, in the order of enum operation, then those that services record. */
    struct stats_operation *operations[OPERATION_COUNT + STATS_RECORDED_MAX];
    unsigned operation_count;
    uint64_t turned_s; /* the time of the latest stats_turn() */
};

/* Makes the daemon's own operations. 0 or -ENOMEM. */
int stats_init(struct stats *stats) __attribute__((warn_unused_result));
void stats_done(struct stats *stats);

/* Moves the windows on; now_s: seconds of a clock that never goes back. Call it about once a
 * second: recording reads no clock. */
void stats_turn(struct stats *stats, uint64_t now_s);

void stats_record(struct stats *stats, enum operation operation, uint64_t duration_ns, bool ok);

/* What a service says of an operation of its own. 0; or -1 with *err: the name is none (1 to 64
 * letters, digits, and _ . : / -), the daemon's own or one too many, or the duration is not finite
 * and from 0 to a day. */
int stats_record_named(struct stats *stats, struct slice name, double duration_ms, bool ok,
                       struct wire_error *err) __attribute__((warn_unused_result));

/* One operation's figures over one window. Times in microseconds. */
struct stats_figures {
    uint64_t count;
    uint64_t errors; /* of them */
    double mean;
    uint64_t p50, p95, p99, max;
};

/* i: 0 to stats->operation_count - 1; the first OPERATION_COUNT are enum operation's. */
const char *stats_name(const struct stats *stats, unsigned i);
void stats_figures(const struct stats *stats, unsigned i, enum stats_window window,
                   struct stats_figures *ret);

/* All since the start, in microseconds. */
const struct histogram *stats_histogram(const struct stats *stats, unsigned i);
uint64_t stats_errors(const struct stats *stats, unsigned i);

#endif
