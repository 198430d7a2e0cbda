/* The embedding stage by itself: requests, replies, parsing, cache, with a stand-in in the place of
 * the embedder.
 *
 *   bench_embedding [--json] [--seconds S]
 *   bench_embedding --serve PATH: the embedder of 150 ms alone, on that socket, until it is ended
 *
 * First what share of an embedder's capacity it uses: one that takes 150 ms for each request can
 * give max_in_flight x request_inputs / 0.15 s and no more. Then, with an embedder that answers at
 * once, the CPU time that a conversation costs here on all threads, and how much of that is the
 * parsing of its vector, measured apart on the same replies.
 */
#include <assert.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/embedding_model.h"
#include "daemon/embedding_reply.h"
#include "daemon/embedding_stage.h"
#include "tests/bench/clock.h"
#include "tests/bench/stand_in.h"

#define DIMENSION 768
#define TEXT_BYTES 2048
#define TEXT_DIGITS 16
#define ORDER_TEXTS 500 /* a batch */
#define ORDERS 4        /* of them at once, so that there is always something to ask for */
#define SLOW_MS 150
#define MAX_IN_FLIGHT 2
#define PARSED                                                                                     \
    16000 /* vectors, a multiple of each size of a request, for the parser's own figure */

static const struct {
    const char *name;
    const char *provider;
    int (*read)(struct slice body, struct embed_input *const inputs[], size_t count,
                uint32_t dimension, char error[256]);
} dialects[] = {
    [STAND_IN_OLLAMA] = {"ollama", "ollama", embedding_reply_ollama},
    [STAND_IN_OPENAI_FLOATS] = {"openai, floats", "openai", embedding_reply_openai},
    [STAND_IN_OPENAI_BASE64] = {"openai, base64", "openai", embedding_reply_openai},
};

struct run {
    uv_loop_t loop;
    struct config config;
    struct embedding_model model;
    struct embedding_stage *stage;
    uint64_t end_ns;
    uint64_t texts, failed;
    uint64_t next_text; /* all are distinct */
};

struct order {
    struct embedding_order order; /* first: an order is cast to this */
    struct embedding_item items[ORDER_TEXTS];
    struct run *run;
};

static char texts[ORDER_TEXTS][TEXT_BYTES + 1]; /* the stage copies them */
static bool json;
static bool first_result = true;

static void die(const char *what)
{
    fprintf(stderr, "bench_embedding: %s\n", what);
    exit(1);
}

static void want(struct order *o)
{
    struct run *run = o->run;

    for (size_t i = 0; i < ORDER_TEXTS; i++) {
        char digits[TEXT_DIGITS + 1];

        snprintf(digits, sizeof digits, "%016jx", (uintmax_t)run->next_text++);
        memcpy(texts[i], digits, TEXT_DIGITS);
        o->items[i] = (struct embedding_item){.text = {texts[i], TEXT_BYTES}};
    }
    o->order.items = o->items;
    o->order.count = ORDER_TEXTS;
    embedding_stage_want(run->stage, &o->order);
}

static void on_done(struct embedding_order *order)
{
    struct order *o = (struct order *)order;
    struct run *run = o->run;

    for (size_t i = 0; i < order->count; i++) {
        run->failed += o->items[i].error != 0;
        vector_release(o->items[i].vector);
    }
    run->texts += order->count;
    if (clock_ns() < run->end_ns)
        want(o);
    else
        uv_stop(&run->loop);
}

static void set_up(struct run *run, enum stand_in_dialect dialect, unsigned inputs, char *url)
{
    static char model[] = "nomic-embed-text", empty[] = "", as_it_likes[] = "default",
                source[] = "summary", storage[] = "vector", automatic[] = "auto";
    char error[256];

    memset(run, 0, sizeof *run);
    run->config.embedding.provider = (char *)dialects[dialect].provider;
    run->config.embedding.url = url;
    run->config.embedding.api_key_file = empty;
    run->config.embedding.encoding_format = as_it_likes;
    run->config.embedding.model = model;
    run->config.embedding.document_prefix = run->config.embedding.query_prefix = automatic;
    run->config.embedding.source = source;
    run->config.embedding.storage = storage;
    run->config.embedding.timeout_ms = run->config.embedding.deadline_ms = 60000;
    run->config.embedding.max_in_flight = MAX_IN_FLIGHT;
    run->config.embedding.request_inputs = inputs;
    run->config.embedding.request_bytes = 8 << 20;
    run->config.cache.embedding_cache_size = 1000;
    run->config.cache.embedding_cache_bytes = 64 << 20;
    if (embedding_model_resolve(&run->config, &run->model, error) != 0)
        die(error);
    if (uv_loop_init(&run->loop) != 0 ||
        embedding_stage_start(&run->loop, &run->config, &run->model, NULL, &run->stage) != 0)
        die("the stage does not start");
}

static void tear_down(struct run *run)
{
    embedding_stage_close(run->stage, NULL, NULL);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&run->loop) != 0)
        die("the loop still has work");
}

/* By requests, which are smaller than orders. */
static uint64_t answered(const struct run *run)
{
    struct embedding_stage_stats stats;

    embedding_stage_stats(run->stage, &stats);
    return stats.inputs;
}

/* Orders one after another for so long; what they cost in time and in CPU time. */
static void run_orders(struct run *run, double seconds, double *ret_seconds, double *ret_cpu_us)
{
    static struct order orders[ORDERS];
    uint64_t began, cpu, texts_before;

    for (int i = 0; i < ORDERS; i++) {
        orders[i] = (struct order){.run = run, .order = {.on_done = on_done}};
        want(&orders[i]);
    }
    run->end_ns = UINT64_MAX;
    while (run->texts < ORDERS * ORDER_TEXTS) /* connections, buffers, a full cache */
        uv_run(&run->loop, UV_RUN_ONCE);
    texts_before = answered(run);
    began = clock_ns();
    cpu = clock_cpu_ns();
    run->end_ns = began + (uint64_t)(seconds * (double)NS_PER_S);
    uv_run(&run->loop, UV_RUN_DEFAULT); /* until an order comes back behind the end */
    *ret_seconds = (double)(clock_ns() - began) / (double)NS_PER_S;
    *ret_cpu_us = (double)(clock_cpu_ns() - cpu) / (double)NS_PER_US;
    run->texts = answered(run) - texts_before;
    if (run->failed > 0)
        die("the stand-in failed");
}

static double parse_for(enum stand_in_dialect dialect, struct slice body,
                        struct embed_input *const inputs[], unsigned count, unsigned vectors)
{
    uint64_t began = clock_cpu_ns();
    char error[256];

    for (unsigned parsed = 0; parsed < vectors; parsed += count)
        if (dialects[dialect].read(body, inputs, count, DIMENSION, error) != 0)
            die(error);
    return (double)(clock_cpu_ns() - began) / (double)NS_PER_US / vectors;
}

/* What the parser takes for a vector, on the replies that the stand-in gives. */
static double parse_us(enum stand_in_dialect dialect, unsigned count)
{
    const struct stand_in how = {.dialect = dialect, .dimension = DIMENSION};
    struct embed_input inputs[ORDER_TEXTS], *pointers[ORDER_TEXTS];
    float *values = calloc((size_t)count * DIMENSION, sizeof *values);
    char *body;
    size_t len = stand_in_body(&how, count, &body);
    double us;

    assert(values != NULL && count <= ORDER_TEXTS);
    for (unsigned i = 0; i < count; i++) {
        inputs[i] = (struct embed_input){.values = values + (size_t)i * DIMENSION};
        pointers[i] = &inputs[i];
    }
    parse_for(dialect, (struct slice){body, len}, pointers, count, PARSED); /* warm */
    us = parse_for(dialect, (struct slice){body, len}, pointers, count, PARSED);
    free(body);
    free(values);
    return us;
}

static pid_t start_server(enum stand_in_dialect dialect, unsigned inputs, unsigned delay_ms,
                          char url[128])
{
    const struct stand_in how = {dialect, DIMENSION, delay_ms, inputs};

    snprintf(url, 128, "unix:///tmp/convstore-bench-embedding.%d", (int)getpid());
    return stand_in_start(&how, url + strlen("unix://"));
}

static void end_server(pid_t pid, const char *url)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    unlink(url + strlen("unix://"));
}

static void begin_result(const char *name, unsigned inputs)
{
    if (json)
        printf("%s{\"name\":\"%s, %u in a request\"", first_result ? "" : ",", name, inputs);
    else
        printf("%s, %u texts in a request\n", name, inputs);
    first_result = false;
}

static void show(const char *key, const char *label, double value)
{
    if (json)
        printf(",\"%s\":%.6g", key, value);
    else
        printf("  %-44s %10.2f\n", label, value);
}

static void end_result(void)
{
    printf(json ? "}" : "\n");
    fflush(stdout);
}

static void measure_slow(unsigned inputs, double seconds)
{
    const double allowed = (double)MAX_IN_FLIGHT * inputs / (SLOW_MS / 1000.0);
    double took, cpu_us;
    struct run run;
    char url[128];
    pid_t pid = start_server(STAND_IN_OLLAMA, inputs, SLOW_MS, url);

    set_up(&run, STAND_IN_OLLAMA, inputs, url);
    run_orders(&run, seconds, &took, &cpu_us);
    begin_result("embedder of 150 ms", inputs);
    show("per_second", "texts/s", (double)run.texts / took);
    show("allowed", "max_in_flight x request_inputs / 0.15 s", allowed);
    show("ratio", "ratio", (double)run.texts / took / allowed);
    end_result();
    tear_down(&run);
    end_server(pid, url);
}

static void measure_cpu(enum stand_in_dialect dialect, unsigned inputs, double seconds)
{
    double took, cpu_us, parse = parse_us(dialect, inputs);
    struct run run;
    char url[128];
    pid_t pid = start_server(dialect, inputs, 0, url);

    set_up(&run, dialect, inputs, url);
    run_orders(&run, seconds, &took, &cpu_us);
    begin_result(dialects[dialect].name, inputs);
    show("per_second", "texts/s", (double)run.texts / took);
    show("cpu_us", "CPU us a conversation", cpu_us / (double)run.texts);
    show("parse_us", "of it the parser", parse);
    show("parse_share", "its share", parse * (double)run.texts / cpu_us);
    end_result();
    tear_down(&run);
    end_server(pid, url);
}

/* For other programs: tests/bench/run asks it from the daemon and from Node. */
static int serve(const char *path)
{
    const struct stand_in how = {STAND_IN_OLLAMA, DIMENSION, SLOW_MS, ORDER_TEXTS};
    int status;

    return waitpid(stand_in_start(&how, path), &status, 0) > 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"serve", required_argument, NULL, 'S'},
                                            {NULL, 0, NULL, 0}};
    static const unsigned sizes[] = {32, 100, ORDER_TEXTS}; /* 100: the default */
    double seconds = 5;
    int option;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'S')
            return serve(optarg);
        if (option != 'j' && option != 's')
            die("usage: bench_embedding [--json] [--seconds S] | --serve PATH");
        json |= option == 'j';
        if (option == 's')
            seconds = strtod(optarg, NULL);
    }
    for (size_t i = 0; i < ORDER_TEXTS; i++)
        for (size_t at = 0; at < TEXT_BYTES; at++)
            texts[i][at] = at % 6 == 5 ? ' ' : (char)('a' + (at * 7 + i) % 26);
    signal(SIGPIPE, SIG_IGN);
    printf(json ? "{\"results\":[" : "");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        measure_slow(sizes[i], seconds);
    for (size_t i = 0; i < sizeof dialects / sizeof dialects[0]; i++)
        measure_cpu((enum stand_in_dialect)i, 32, seconds);
    measure_cpu(STAND_IN_OLLAMA, ORDER_TEXTS, seconds);
    printf(json ? "]}\n" : "");
    return 0;
}
