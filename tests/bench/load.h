/* The load generator: many connections to one server, from one thread, in a closed loop (a new
 * message when an answer came) or an open one (messages at a fixed rate, see schedule.h). */
#ifndef TESTS_BENCH_LOAD_H
#define TESTS_BENCH_LOAD_H

#include <stdint.h>

#include "daemon/histogram.h"
#include "tests/bench/dialect.h"
#include "tests/bench/payload.h"
#include "tests/bench/progress.h"

#define LOAD_CONNECTIONS_MAX 20000
#define LOAD_DEPTH_MAX 10000
#define LOAD_LINGER_S 30 /* for the last answers, after the last message has left */

struct load_options {
    const struct dialect *dialect;
    struct payload *payload;
    const char *socket; /* path of a Unix socket; NULL: the port on 127.0.0.1 */
    unsigned port;
    uint32_t connections;      /* 1 to LOAD_CONNECTIONS_MAX */
    uint32_t depth;            /* messages in flight on each, 1 to LOAD_DEPTH_MAX */
    double rate;               /* messages a second of an open loop; 0: closed */
    uint64_t count;            /* a closed loop ends after so many messages; 0: by time alone */
    uint64_t warmup_ns;        /* not measured */
    uint64_t run_ns;           /* measured, after the warm-up */
    struct progress *progress; /* NULL: none */
};

/* Counts are of conversations, latencies of messages: from the moment when a message was built
 * (closed loop) or due (open loop) until its answer was read. */
struct load_result {
    uint64_t sent, acked, refused, failed, unanswered; /* the whole run, warm-up included */
    uint64_t measured;                                 /* acked within the measured time */
    double seconds;                                    /* the measured time */
    double elapsed_s; /* from the first message to the last answer */
    struct histogram
        latency;            /* nanoseconds; of messages acked, due or built in the measured time */
    uint64_t client_cpu_ns; /* of this process, in the measured time */
    uint64_t server_cpu_ns; /* of the server's process; 0: unknown */
    uint64_t server_rss_bytes; /* of the server at the end; 0: unknown */
    char text[200];            /* the first answer that was no ack, or why the run broke off */
};

/* Runs it to its end, at most warm-up + run + LOAD_LINGER_S. 0; or -1 when the connections could
 * not be made or one was lost: text says why. *ret is filled either way. */
int load_run(const struct load_options *options, struct load_result *ret)
    __attribute__((warn_unused_result));

/* A connection to the Unix socket at path, or a negative errno. */
int load_connect(const char *path) __attribute__((warn_unused_result));

/* Adds what one run gave to the sum of several. Times are added, too: a caller whose runs went on
 * side by side sets them itself. */
void load_result_add(struct load_result *to, const struct load_result *from);

#endif
