/* What services do today: an autocommit INSERT for each conversation, over many connections. One
 * prepared statement writes both of convstored's tables, so that a conversation costs one round
 * trip and one commit, which is the best that this way can do.
 *
 * One thread; libpq's connections stay in blocking mode, since a row fits the socket's buffer.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/load.h"
#include "tests/bench/peer_pg.h"
#include "tests/bench/report.h"

#define EVENTS_MAX 128
#define WAIT_MS 100
#define LINGER_NS (30 * NS_PER_S)

static const char insert_sql[] =
    "WITH c AS (INSERT INTO convstore.conversations"
    " (user_id, id, created_at, content_hash, platform, transcript, metadata)"
    " VALUES ($1::text, $2::uuid, now(), $3::bytea, $4::text, $5::text, $6::jsonb)"
    " ON CONFLICT DO NOTHING)"
    " INSERT INTO convstore.embeddings"
    " (user_id, conversation_id, model_id, chunk, byte_start, byte_end, embedding)"
    " VALUES ($1::text, $2::uuid, $7::smallint, 0, 0, 0, $8) ON CONFLICT DO NOTHING";

struct client {
    PGconn *conn;
    uint64_t start_ns; /* 0: idle */
};

struct insert {
    const struct options *options;
    struct peer_pg pg;
    struct payload *payload;
    uint8_t *map;
    struct client *clients;
    struct load_result *result;
    struct progress progress;
    int epoll;
    uint64_t warm_ns, end_ns;
    uint32_t busy;
    bool broken;
};

static void send_row(struct insert *in, struct client *c)
{
    struct peer_pg_row row;
    uint16_t model = (uint16_t)(in->pg.model_id << 8 | (uint16_t)in->pg.model_id >> 8);
    int formats[8] = {1, 1, 1, 1, 1, 1, 1, 1};

    payload_put(in->payload, in->map);
    peer_pg_row(&in->pg, in->payload, in->map, &row);
    c->start_ns = clock_ns();
    if (PQsendQueryPrepared(
            c->conn, "insert", 8,
            (const char *const[]){row.parts.user_id.data, (const char *)row.id,
                                  (const char *)row.hash, row.parts.platform.data,
                                  row.parts.transcript.data, (const char *)row.metadata,
                                  (const char *)&model, (const char *)row.vector},
            (const int[]){(int)row.parts.user_id.len, 16, 16, (int)row.parts.platform.len,
                          (int)row.parts.transcript.len, (int)row.metadata_len, 2,
                          (int)in->pg.vector_len},
            formats, 0) != 1 ||
        PQflush(c->conn) != 0) {
        fprintf(stderr, "convstore-bench: insert: %s", PQerrorMessage(c->conn));
        in->broken = true;
    }
    in->busy++;
    in->result->sent++;
}

static void take_result(struct insert *in, struct client *c, const PGresult *result, uint64_t now)
{
    struct load_result *r = in->result;

    if (PQresultStatus(result) != PGRES_COMMAND_OK) {
        r->failed++;
        if (r->text[0] == '\0')
            snprintf(r->text, sizeof r->text, "%s", PQresultErrorMessage(result));
        return;
    }
    r->acked++;
    if (c->start_ns >= in->warm_ns)
        histogram_record(&r->latency, now - c->start_ns);
    if (now >= in->warm_ns && now < in->end_ns)
        r->measured++;
}

static void on_readable(struct insert *in, struct client *c)
{
    PGresult *result;
    uint64_t now;

    if (PQconsumeInput(c->conn) != 1) {
        fprintf(stderr, "convstore-bench: insert: %s", PQerrorMessage(c->conn));
        in->broken = true;
        return;
    }
    now = clock_ns();
    while (c->start_ns != 0 && !PQisBusy(c->conn)) {
        result = PQgetResult(c->conn);
        if (result != NULL) {
            take_result(in, c, result, now);
            PQclear(result);
            continue;
        }
        in->busy--;
        c->start_ns = 0;
        if (now < in->end_ns)
            send_row(in, c);
    }
}

static int connect_all(struct insert *in)
{
    for (uint32_t i = 0; i < in->options->connections; i++) {
        struct client *c = &in->clients[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        PGresult *result;
        bool good;

        c->conn = peer_pg_connect(&in->pg);
        if (c->conn == NULL)
            return -1;
        result = PQprepare(c->conn, "insert", insert_sql, 0, NULL);
        good = PQresultStatus(result) == PGRES_COMMAND_OK;
        if (!good)
            fprintf(stderr, "convstore-bench: insert: %s", PQresultErrorMessage(result));
        PQclear(result);
        if (!good || epoll_ctl(in->epoll, EPOLL_CTL_ADD, PQsocket(c->conn), &event) != 0)
            return -1;
    }
    return 0;
}

static void loop(struct insert *in)
{
    uint64_t start = clock_ns(), now = start;

    in->warm_ns = start + options_warmup_ns(in->options);
    in->end_ns = in->warm_ns + options_run_ns(in->options);
    for (uint32_t i = 0; i < in->options->connections && !in->broken; i++)
        send_row(in, &in->clients[i]);
    while (in->busy > 0 && !in->broken && now < in->end_ns + LINGER_NS) {
        struct epoll_event events[EVENTS_MAX];
        int n = epoll_wait(in->epoll, events, EVENTS_MAX, WAIT_MS);

        for (int i = 0; i < n && !in->broken; i++)
            on_readable(in, events[i].data.ptr);
        now = clock_ns();
        progress_tick(&in->progress, now, in->result->acked);
    }
    in->result->seconds = (double)(in->end_ns - in->warm_ns) / (double)NS_PER_S;
    in->result->elapsed_s = (double)(now - start) / (double)NS_PER_S;
    in->result->unanswered = in->busy;
}

static void report(const struct insert *in, json_t *to)
{
    struct dialect dialect = {.name = "postgresql", .batch = 1};
    struct load_options load = {.dialect = &dialect,
                                .payload = in->payload,
                                .connections = in->options->connections,
                                .depth = 1};

    report_load(report_add(to, in->options->command, dialect.name), &load, in->result);
}

int command_pg_insert(const struct options *o, json_t *to)
{
    struct insert in = {.options = o, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    int status = -1;

    in.payload = payload_new(o->size, o->seed);
    in.map = in.payload != NULL ? malloc(payload_len(in.payload)) : NULL;
    in.clients = calloc(o->connections, sizeof *in.clients);
    in.result = calloc(1, sizeof *in.result);
    if (in.map != NULL && in.clients != NULL && in.result != NULL && in.epoll >= 0 &&
        peer_pg_init(&in.pg, o->conninfo) == 0 && connect_all(&in) == 0) {
        progress_start(&in.progress, o->command, o->quiet,
                       options_warmup_ns(o) + options_run_ns(o));
        loop(&in);
        progress_end(&in.progress);
        report(&in, to);
        status = in.broken ? -1 : 0;
    }
    for (uint32_t i = 0; in.clients != NULL && i < o->connections; i++)
        PQfinish(in.clients[i].conn);
    free(in.clients);
    free(in.map);
    free(in.result);
    payload_free(in.payload);
    return status;
}
