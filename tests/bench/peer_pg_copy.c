/* The limit: clients that do nothing but binary COPY, in batches of 500 rows, one transaction each,
 * into convstored's tables. Each client has a thread and a connection of its own, and rows sorted
 * by key within a batch, as convstored sorts them. */
#include <endian.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/load.h"
#include "tests/bench/peer_pg.h"
#include "tests/bench/report.h"

#define BATCH 500
#define ROW_OVERHEAD 512 /* of a row in COPY's format, beside its transcript and its vector */

static const char copy_conversations[] =
    "COPY convstore.conversations (user_id, id, created_at, content_hash, platform, transcript,"
    " metadata) FROM STDIN (FORMAT binary)";
static const char copy_embeddings[] =
    "COPY convstore.embeddings (user_id, conversation_id, model_id, chunk, byte_start, byte_end,"
    " embedding) FROM STDIN (FORMAT binary)";

struct client {
    const struct options *options;
    const struct peer_pg *pg;
    struct payload *payload;
    struct load_result *result;
    struct progress progress;
    uint8_t *maps, *order[BATCH]; /* the batch's conversations, and their order */
    uint8_t *out;
    uint64_t start_ns, warm_ns, end_ns;
    pthread_t thread;
    bool started, failed;
};

/* COPY's binary format */

static uint8_t *put_bytes(uint8_t *at, const void *data, size_t len)
{
    memcpy(at, data, len);
    return at + len;
}

static uint8_t *put_int2(uint8_t *at, uint16_t value)
{
    value = htobe16(value);
    return put_bytes(at, &value, sizeof value);
}

static uint8_t *put_int4(uint8_t *at, uint32_t value)
{
    value = htobe32(value);
    return put_bytes(at, &value, sizeof value);
}

static uint8_t *put_field(uint8_t *at, const void *data, size_t len)
{
    return put_bytes(put_int4(at, (uint32_t)len), data, len);
}

static uint8_t *put_head(uint8_t *at)
{
    return put_bytes(at, "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19);
}

/* Microseconds since 2000-01-01. */
static uint8_t *put_now(uint8_t *at)
{
    uint64_t us = clock_read(CLOCK_REALTIME) / NS_PER_US - UINT64_C(946684800000000);

    us = htobe64(us);
    return put_field(at, &us, sizeof us);
}

static size_t make_conversations(struct client *c)
{
    uint8_t *at = put_head(c->out);
    struct peer_pg_row row;

    for (int i = 0; i < BATCH; i++) {
        peer_pg_row(c->pg, c->payload, c->order[i], &row);
        at = put_int2(at, 7);
        at = put_field(at, row.parts.user_id.data, row.parts.user_id.len);
        at = put_field(at, row.id, sizeof row.id);
        at = put_now(at);
        at = put_field(at, row.hash, sizeof row.hash);
        at = put_field(at, row.parts.platform.data, row.parts.platform.len);
        at = put_field(at, row.parts.transcript.data, row.parts.transcript.len);
        at = put_field(at, row.metadata, row.metadata_len);
    }
    return (size_t)(put_int2(at, UINT16_MAX) - c->out);
}

static size_t make_embeddings(struct client *c)
{
    uint8_t *at = put_head(c->out);
    struct peer_pg_row row;

    for (int i = 0; i < BATCH; i++) {
        peer_pg_row(c->pg, c->payload, c->order[i], &row);
        at = put_int2(at, 7);
        at = put_field(at, row.parts.user_id.data, row.parts.user_id.len);
        at = put_field(at, row.id, sizeof row.id);
        at = put_int2(put_int4(at, 2), (uint16_t)c->pg->model_id);
        for (int k = 0; k < 3; k++)
            at = put_int4(put_int4(at, 4), 0);
        at = put_field(at, row.vector, c->pg->vector_len);
    }
    return (size_t)(put_int2(at, UINT16_MAX) - c->out);
}

static const struct payload *comparing; /* offsets are the same for every payload of one size */

static int by_key(const void *a, const void *b)
{
    struct payload_parts x, y;
    int order;

    payload_parts(comparing, *(uint8_t *const *)a, &x);
    payload_parts(comparing, *(uint8_t *const *)b, &y);
    order = memcmp(x.user_id.data, y.user_id.data, x.user_id.len);
    return order != 0 ? order : memcmp(x.id.data, y.id.data, x.id.len);
}

static void make_batch(struct client *c)
{
    size_t len = payload_len(c->payload);

    for (size_t i = 0; i < BATCH; i++) {
        c->order[i] = c->maps + i * len;
        payload_put(c->payload, c->order[i]);
    }
    qsort(c->order, BATCH, sizeof *c->order, by_key);
}

/* One client */

static int copy(struct client *c, PGconn *conn, const char *sql, size_t len)
{
    PGresult *result;
    int status;

    if (peer_pg_run(conn, sql) != 0)
        return -1;
    if (PQputCopyData(conn, (const char *)c->out, (int)len) != 1 || PQputCopyEnd(conn, NULL) != 1) {
        fprintf(stderr, "convstore-bench: copy: %s", PQerrorMessage(conn));
        return -1;
    }
    status = 0;
    while ((result = PQgetResult(conn)) != NULL) {
        if (PQresultStatus(result) != PGRES_COMMAND_OK) {
            fprintf(stderr, "convstore-bench: copy: %s", PQresultErrorMessage(result));
            status = -1;
        }
        PQclear(result);
    }
    return status;
}

static int write_batch(struct client *c, PGconn *conn)
{
    uint64_t start = clock_ns(), now;

    make_batch(c);
    if (peer_pg_run(conn, "BEGIN") != 0 ||
        copy(c, conn, copy_conversations, make_conversations(c)) != 0 ||
        copy(c, conn, copy_embeddings, make_embeddings(c)) != 0 || peer_pg_run(conn, "COMMIT") != 0)
        return -1;
    now = clock_ns();
    c->result->sent += BATCH;
    c->result->acked += BATCH;
    if (start >= c->warm_ns)
        histogram_record(&c->result->latency, now - start);
    if (now >= c->warm_ns && now < c->end_ns)
        c->result->measured += BATCH;
    return 0;
}

/* With --rate a client does not run ahead of its share. */
static void wait_for_turn(const struct client *c)
{
    const struct options *o = c->options;
    struct timespec at;
    uint64_t ns;

    if (o->rate <= 0)
        return;
    ns = c->start_ns + (uint64_t)((double)(c->result->sent * o->clients) / o->rate * NS_PER_S);
    at = (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
}

static void *run_client(void *argument)
{
    struct client *c = argument;
    PGconn *conn = peer_pg_connect(c->pg);
    uint64_t now;

    c->failed = conn == NULL;
    while (!c->failed && (now = clock_ns()) < c->end_ns) {
        wait_for_turn(c);
        c->failed = write_batch(c, conn) != 0;
        progress_tick(&c->progress, now, c->result->acked);
    }
    PQfinish(conn);
    return NULL;
}

static int start_client(struct client *c, const struct options *o, const struct peer_pg *pg,
                        uint64_t start)
{
    size_t len;

    c->options = o;
    c->pg = pg;
    c->payload = payload_new(o->size, o->seed);
    c->result = calloc(1, sizeof *c->result);
    if (c->payload == NULL || c->result == NULL)
        return -1;
    comparing = c->payload;
    len = payload_len(c->payload) > pg->vector_len ? payload_len(c->payload) : pg->vector_len;
    c->maps = malloc(BATCH * payload_len(c->payload));
    c->out = malloc(BATCH * (len + ROW_OVERHEAD));
    c->start_ns = start;
    c->warm_ns = start + options_warmup_ns(o);
    c->end_ns = c->warm_ns + options_run_ns(o);
    c->progress.quiet = true;
    return c->maps != NULL && c->out != NULL ? 0 : -1;
}

static void finish_client(struct client *c)
{
    payload_free(c->payload);
    free(c->result);
    free(c->maps);
    free(c->out);
}

/* Joins the threads and adds up what they did. */
static int collect(struct client *clients, uint32_t count, struct load_result *all)
{
    int status = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct load_result *r = clients[i].result;

        if (!clients[i].started || pthread_join(clients[i].thread, NULL) != 0 ||
            clients[i].failed) {
            status = -1;
            continue;
        }
        load_result_add(all, r);
    }
    return status;
}

int command_pg_copy(const struct options *o, json_t *report)
{
    struct dialect dialect = {.name = "postgresql", .batch = BATCH};
    struct load_options load = {.dialect = &dialect, .connections = o->clients, .depth = 1};
    struct peer_pg *pg = malloc(sizeof *pg);
    struct client *clients = calloc(o->clients, sizeof *clients);
    struct load_result *all = calloc(1, sizeof *all);
    uint64_t start;
    int status = -1;

    if (pg != NULL && clients != NULL && all != NULL)
        status = peer_pg_init(pg, o->conninfo);
    start = clock_ns();
    for (uint32_t i = 0; status == 0 && i < o->clients; i++)
        status = start_client(&clients[i], o, pg, start);
    if (status == 0) {
        progress_start(&clients[0].progress, o->command, o->quiet, clients[0].end_ns - start);
        for (uint32_t i = 0; i < o->clients; i++)
            clients[i].started =
                pthread_create(&clients[i].thread, NULL, run_client, &clients[i]) == 0;
        status = collect(clients, o->clients, all);
        progress_end(&clients[0].progress);
        all->seconds = o->seconds;
        load.payload = clients[0].payload;
        report_load(report_add(report, o->command, dialect.name), &load, all);
    }
    for (uint32_t i = 0; clients != NULL && i < o->clients; i++)
        finish_client(&clients[i]);
    free(clients);
    free(all);
    free(pg);
    return status;
}
