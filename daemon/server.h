/* The daemon as a whole: owns every module, starts and ends them in order. Loop. */
#ifndef DAEMON_SERVER_H
#define DAEMON_SERVER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/batcher.h"
#include "daemon/config.h"
#include "daemon/dead_letters.h"
#include "daemon/drain.h"
#include "daemon/embedding_stage.h"
#include "daemon/failover.h"
#include "daemon/flush.h"
#include "daemon/forget.h"
#include "daemon/health.h"
#include "daemon/latency.h"
#include "daemon/notify.h"
#include "daemon/pending.h"
#include "daemon/precedence.h"
#include "daemon/read.h"
#include "daemon/reload.h"
#include "daemon/rush.h"
#include "daemon/session.h"
#include "daemon/stats.h"
#include "daemon/waiters.h"
#include "proto/json.h"

struct backfill;
struct journal;
struct listener;
struct metrics_http;
struct queries;

enum server_state {
    SERVER_SERVING,
    SERVER_DRAINING, /* no new conversations; what was accepted goes to the database */
    SERVER_CLOSING,  /* handles are being closed */
};

struct server {
    uv_loop_t *loop;
    const struct config *config; /* the snapshot in force */
    struct reload reload;
    enum server_state state;
    uint64_t started_ns;
    size_t outstanding; /* in the journal or on the way there, neither row nor dead letter yet */
    struct sessions *sessions;
    struct listener *listener;
    struct listener *control_listener;
    struct metrics_http *metrics; /* NULL: metrics.listen is empty */
    struct embedding_model model;
    struct journal *journal;
    struct embedding_stage *embedding;
    struct batcher *batcher;
    struct precedence precedence;
    struct rush rush;
    struct latency latency; /* the loop's */
    struct failover failover;
    struct queries *queries; /* the operators' */
    struct reads reads;      /* the services' */
    struct dead_letters dead_letters;
    struct backfill *backfill; /* NULL: no vectors are made */
    struct stats stats;
    struct health health;
    struct flush_list flushes;
    struct forgets forgets;
    struct waiters waiters;  /* calls that wait for rows */
    struct pending pending;  /* conversations that the batcher holds */
    struct json_buffer json; /* metadata of the message that is being read */
    struct drain drain;
    struct notify notify;
    unsigned closing; /* modules and handles whose close callback is due */
};

/* Starts everything and listens. source is read again by each reload; it and config, the first
 * snapshot, live until the loop has ended. 0; or -1 with one clear line in ret_error. */
int server_start(struct server *server, uv_loop_t *loop, const struct config_source *source,
                 const struct config *config, char ret_error[512])
    __attribute__((warn_unused_result));

/* Takes a conversation for good: ownership passes, and its call is settled when it is durable (or
 * stored). Returns WIRE_OK; or why not, with *err filled, and then the caller keeps it. */
enum wire_code server_take(struct server *server, struct conversation *c, struct wire_error *err);

/* A conversation has come to its end: a row, a dead letter, or forgotten. */
void server_settle(struct server *server, uint64_t seq, enum row_verdict verdict);

/* `count` conversations whose message could be read at begun_ns were acknowledged at sent_ns. */
void server_count_acks(struct server *server, uint64_t begun_ns, uint32_t count, uint64_t sent_ns);

/* Batches leave at once while a flush or forget waits or the daemon drains; called whenever either
 * may have changed. */
void server_update_urgency(struct server *server);

/* Tells the journal how much the backlog can take now. */
void server_offer_room(struct server *server);

/* WIRE_OK where `count` conversations of `packed_bytes` bytes could be taken now, with *err filled
 * otherwise. */
enum wire_code server_room(const struct server *server, unsigned count, uint64_t packed_bytes,
                           struct wire_error *err);

#endif
