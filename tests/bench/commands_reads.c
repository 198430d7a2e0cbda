/* What a running daemon with conversations in its database answers, and how fast: get, the recent
 * list, and a user's search by words and by vector. One connection, one question at a time, of
 * users and conversations that are drawn anew for each. Main thread. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/convstore.h"
#include "tests/bench/clock.h"
#include "tests/bench/commands.h"
#include "tests/bench/payload.h"
#include "tests/bench/report.h"

#define USERS 64 /* user-0000 and on, as payload.c names them */
#define IDS 100  /* of each, the most recent */
#define TIMEOUT_MS 60000

struct reads {
    struct convstore *store;
    uint64_t random;
    unsigned users; /* that have conversations */
    char user_ids[USERS][16];
    unsigned id_counts[USERS];
    char ids[USERS][IDS][CONVSTORE_ID_SIZE];
};

enum kind { READ_GET, READ_LIST, READ_TEXT, READ_VECTOR, READ_KINDS };

static int failed(const struct reads *r, const char *what)
{
    fprintf(stderr, "convstore-bench: %s: %s\n", what, convstore_error_text(r->store));
    return -1;
}

/* The ids of one user's most recent conversations. */
static int read_user(struct reads *r, unsigned n)
{
    unsigned at = r->users;
    struct convstore_query query = {.user_id = r->user_ids[at], .limit = IDS};
    const char *json;
    json_t *list, *rows, *row;
    size_t i;

    snprintf(r->user_ids[at], sizeof r->user_ids[at], "user-%04u", n);
    if (convstore_list(r->store, &query, &json) != 0)
        return failed(r, "list");
    list = json_loads(json, 0, NULL);
    rows = json_object_get(list, "conversations");
    json_array_foreach(rows, i, row) snprintf(r->ids[at][i], CONVSTORE_ID_SIZE, "%s",
                                              json_string_value(json_object_get(row, "id")));
    r->id_counts[at] = (unsigned)json_array_size(rows);
    r->users += r->id_counts[at] > 0;
    json_decref(list);
    return 0;
}

static unsigned draw(struct reads *r, unsigned count)
{
    return (unsigned)(payload_random(&r->random) % count);
}

static int ask(struct reads *r, enum kind kind)
{
    static const char *const words[] = {"printer", "invoice", "refund",  "delivery",
                                        "account", "morning", "weather", "battery"};
    unsigned user = draw(r, r->users);
    struct convstore_query query = {.user_id = r->user_ids[user]};
    char text[64];
    const char *json;

    /* Two words, and a number so that no query's vector is in the cache. */
    snprintf(text, sizeof text, "%s %s %" PRIu32, words[draw(r, 8)], words[draw(r, 8)],
             (uint32_t)payload_random(&r->random));
    switch (kind) {
    case READ_GET:
        return convstore_get(r->store, query.user_id, r->ids[user][draw(r, r->id_counts[user])],
                             &json);
    case READ_LIST:
        return convstore_list(r->store, &query, &json);
    case READ_TEXT:
        *strrchr(text, ' ') = '\0';
        query.mode = "text";
        break;
    case READ_VECTOR:
        query.mode = "vector";
        break;
    case READ_KINDS:
        abort();
    }
    query.query = text;
    return convstore_search(r->store, &query, &json);
}

static int measure(struct reads *r, enum kind kind, const struct options *o, json_t *report)
{
    static const char *const names[READ_KINDS] = {"get", "recent list", "search by words",
                                                  "search by vector"};
    struct histogram *latency = calloc(1, sizeof *latency);
    uint64_t begin = clock_ns(), measured = begin + options_warmup_ns(o) / READ_KINDS, now = begin;
    uint64_t end = measured + options_run_ns(o) / READ_KINDS;
    json_t *result;
    int status = latency != NULL ? 0 : -1;

    while (status == 0 && now < end) {
        uint64_t start = now;

        if (ask(r, kind) != 0)
            status = failed(r, names[kind]);
        now = clock_ns();
        if (start >= measured)
            histogram_record(latency, now - start);
    }
    if (status == 0) {
        result = report_add(report, names[kind], "convstored");
        json_object_set_new(
            result, "per_second",
            json_real((double)latency->count * (double)NS_PER_S / (double)(now - measured)));
        report_latency(result, "latency_us", latency);
    }
    free(latency);
    return status;
}

int command_reads(const struct options *o, json_t *report)
{
    struct reads *r = calloc(1, sizeof *r);
    int status = 0;

    if (r == NULL || convstore_open(o->socket, &r->store) != 0) {
        fprintf(stderr, "convstore-bench: %s: cannot be opened\n", o->socket);
        free(r);
        return -1;
    }
    r->random = o->seed;
    convstore_set_timeout(r->store, TIMEOUT_MS);
    for (unsigned n = 0; status == 0 && n < USERS; n++)
        status = read_user(r, n);
    if (status == 0 && r->users == 0) {
        fprintf(stderr,
                "convstore-bench: user-0000 to user-%04d have no conversations: run "
                "saturate first\n",
                USERS - 1);
        status = -1;
    }
    for (enum kind kind = 0; status == 0 && kind < READ_KINDS; kind++)
        status = measure(r, kind, o, report);
    convstore_close(r->store);
    free(r);
    return status;
}
