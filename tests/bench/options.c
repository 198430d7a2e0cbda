/* See options.h. Every number has its bounds here, so that no run is endless and none eats the
 * machine. */
#include "tests/bench/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/clock.h"
#include "tests/bench/dialect.h"
#include "tests/bench/load.h"

#define SECONDS_MAX 86400
#define CLIENTS_MAX 64
#define COUNT_MAX 1e12

static const char help[] =
    "convstore-bench COMMAND --socket PATH [options]: measures a running convstored, or a peer.\n"
    "\n"
    "  single       one connection, one message at a time: the baseline\n"
    "  concurrent   one message on each of 100 connections at once; 20 rounds\n"
    "  paced        1,000 conversations over 60 s; half of the clients wait for the row\n"
    "  batch        store_many by batch size, each waiting for its rows\n"
    "  saturate     closed loop: a new message when an answer came\n"
    "  open         open loop: --rate messages a second, latency from the intended start\n"
    "  reads        get, recent list, a user's search by words and by vector, one at a time\n"
    "  outage       open loop while --down takes the database away; catching up after --up\n"
    "  replay       fill; --down ends the daemon: until it answers again, and what it replayed\n"
    "  raw          overwrite + fdatasync of the same bytes in --dir; --rate: of all that are due\n"
    "  pg-insert    autocommit INSERTs over --connections to --conninfo, convstored's tables\n"
    "  pg-copy      binary COPY in batches of 500, --clients at once; with --rate not faster\n"
    "\n"
    "  --target NAME      convstored (default), redis (XADD), beanstalkd (put)\n"
    "  --socket PATH      the server's Unix socket    --port N  on 127.0.0.1 (beanstalkd)\n"
    "  --connections N    --depth N (messages in flight on each)    --rate N (a second)\n"
    "  --seconds N        measured time    --warmup N  before it (default: a tenth, at most 2)\n"
    "  --count N          messages (single, paced, replay), rounds (concurrent)\n"
    "  --size BYTES       of a transcript (2048)    --seed N  of the texts\n"
    "                     saturate and open go through lists: --connections 1,100 --rate 500,2000\n"
    "  --down COMMAND     --up COMMAND  for the shell; replay needs no --up where systemd starts\n"
    "                     the daemon again\n"
    "  --batch N,N,...    batch sizes    --wait durable|stored  what an answer means\n"
    "  --drain SECONDS    afterwards wait so long for the daemon's queue to empty, and measure it\n"
    "                     (outage: 600)\n"
    "  --json             every figure on stdout, for programs    --quiet  no progress\n"
    "\n"
    "  convstore-bench saturate --socket build/run/convstore.sock --connections 100 --seconds 30\n";

enum {
    OPT_TARGET = 256,
    OPT_SOCKET,
    OPT_PORT,
    OPT_CONNINFO,
    OPT_DIR,
    OPT_DOWN,
    OPT_UP,
    OPT_CONNECTIONS,
    OPT_DEPTH,
    OPT_SIZE,
    OPT_CLIENTS,
    OPT_COUNT,
    OPT_SEED,
    OPT_RATE,
    OPT_SECONDS,
    OPT_WARMUP,
    OPT_DRAIN,
    OPT_BATCH,
    OPT_WAIT,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"target", required_argument, NULL, OPT_TARGET},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"port", required_argument, NULL, OPT_PORT},
    {"conninfo", required_argument, NULL, OPT_CONNINFO},
    {"dir", required_argument, NULL, OPT_DIR},
    {"down", required_argument, NULL, OPT_DOWN},
    {"up", required_argument, NULL, OPT_UP},
    {"connections", required_argument, NULL, OPT_CONNECTIONS},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"size", required_argument, NULL, OPT_SIZE},
    {"clients", required_argument, NULL, OPT_CLIENTS},
    {"count", required_argument, NULL, OPT_COUNT},
    {"seed", required_argument, NULL, OPT_SEED},
    {"rate", required_argument, NULL, OPT_RATE},
    {"seconds", required_argument, NULL, OPT_SECONDS},
    {"warmup", required_argument, NULL, OPT_WARMUP},
    {"drain", required_argument, NULL, OPT_DRAIN},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"wait", required_argument, NULL, OPT_WAIT},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

/* What each command does without options. */
static const struct {
    const char *command;
    uint32_t connections, depth;
    uint64_t count;
    double seconds, rate;
} defaults[] = {
    {"single", 1, 1, 0, 10, 0},          {"concurrent", 100, 1, 20, 60, 0},
    {"paced", 10, 64, 1000, 60, 0},      {"batch", 1, 1, 0, 3, 0},
    {"saturate", 100, 1, 0, 30, 0},      {"open", 100, 64, 0, 30, 1000},
    {"reads", 1, 1, 0, 20, 0},           {"outage", 100, 64, 0, 30, 1000},
    {"replay", 100, 10, 100000, 600, 0}, {"raw", 1, 1, 0, 10, 0},
    {"pg-insert", 100, 1, 0, 30, 0},     {"pg-copy", 1, 1, 0, 30, 0},
};

static int set_defaults(struct options *o, const char *command)
{
    *o = (struct options){
        .clients = 1,
        .seed = 1,
        .warmup_s = -1,
        .batches = {.values = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}, .count = 10},
        .sweep_sizes = {.values = {2048}, .count = 1},
    };
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        if (strcmp(command, defaults[i].command) != 0)
            continue;
        o->command = defaults[i].command;
        o->sweep_connections =
            (struct options_list){.values = {defaults[i].connections}, .count = 1};
        o->depth = defaults[i].depth;
        o->count = defaults[i].count;
        o->seconds = defaults[i].seconds;
        o->sweep_rates = (struct options_list){.values = {defaults[i].rate}, .count = 1};
        return 0;
    }
    fprintf(stderr, "convstore-bench: no command is named %s; try --help\n", command);
    return -1;
}

static const char *option_name(int value)
{
    for (const struct option *o = long_options; o->name != NULL; o++)
        if (o->val == value)
            return o->name;
    return "?";
}

/* A number within bounds. */
static int number(int option, const char *text, double min, double max, double *ret)
{
    char *end;
    double value;

    errno = 0;
    value = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' || !isfinite(value) || value < min ||
        value > max) {
        fprintf(stderr, "convstore-bench: --%s must be a number from %.10g to %.10g, got %s\n",
                option_name(option), min, max, text);
        return -1;
    }
    *ret = value;
    return 0;
}

static int whole(int option, const char *text, double min, double max, uint32_t *ret)
{
    double value = 0;

    if (number(option, text, min, max, &value) != 0)
        return -1;
    *ret = (uint32_t)value;
    return 0;
}

/* One of two or three words; its index, or -1. */
static int word(int option, const char *text, const char *const *words)
{
    for (int i = 0; words[i] != NULL; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    fprintf(stderr, "convstore-bench: --%s cannot be %s\n", option_name(option), text);
    return -1;
}

/* Numbers with commas between them. */
static int list(int option, const char *text, double min, double max, struct options_list *ret)
{
    char item[32];

    ret->count = 0;
    do {
        size_t len = strcspn(text, ",");

        if (ret->count == OPTIONS_LIST_MAX || len >= sizeof item) {
            fprintf(stderr, "convstore-bench: --%s takes at most %d numbers\n", option_name(option),
                    OPTIONS_LIST_MAX);
            return -1;
        }
        snprintf(item, sizeof item, "%.*s", (int)len, text);
        if (number(option, item, min, max, &ret->values[ret->count]) != 0)
            return -1;
        ret->count++;
        text += len;
    } while (*text++ == ',');
    return 0;
}

/* The same, of whole numbers. */
static int whole_list(int option, const char *text, double min, double max,
                      struct options_list *ret)
{
    if (list(option, text, min, max, ret) != 0)
        return -1;
    for (unsigned i = 0; i < ret->count; i++)
        ret->values[i] = trunc(ret->values[i]);
    return 0;
}

static void use_first(struct options *o)
{
    o->connections = (uint32_t)o->sweep_connections.values[0];
    o->size = (uint32_t)o->sweep_sizes.values[0];
    o->rate = o->sweep_rates.values[0];
}

static int apply_word(struct options *o, int option, const char *text)
{
    static const char *const targets[] = {"convstored", "redis", "beanstalkd", NULL};
    static const char *const waits[] = {"durable", "stored", NULL};
    int found = word(option, text, option == OPT_TARGET ? targets : waits);

    if (found < 0)
        return -1;
    if (option == OPT_TARGET)
        o->target = (enum target)found;
    else
        o->wait_stored = found == 1;
    return 0;
}

static int apply_number(struct options *o, int option, const char *text)
{
    double value = 0;
    int status;

    switch (option) {
    case OPT_PORT:
        return whole(option, text, 1, 65535, &o->port);
    case OPT_CONNECTIONS:
        return whole_list(option, text, 1, LOAD_CONNECTIONS_MAX, &o->sweep_connections);
    case OPT_DEPTH:
        return whole(option, text, 1, LOAD_DEPTH_MAX, &o->depth);
    case OPT_SIZE:
        return whole_list(option, text, PAYLOAD_SIZE_MIN, PAYLOAD_SIZE_MAX, &o->sweep_sizes);
    case OPT_CLIENTS:
        return whole(option, text, 1, CLIENTS_MAX, &o->clients);
    case OPT_RATE:
        return list(option, text, 0.001, 1e7, &o->sweep_rates);
    case OPT_SECONDS:
        return number(option, text, 0.01, SECONDS_MAX, &o->seconds);
    case OPT_WARMUP:
        return number(option, text, 0, SECONDS_MAX, &o->warmup_s);
    case OPT_DRAIN:
        return number(option, text, 0, SECONDS_MAX, &o->drain_s);
    default:
        status = number(option, text, option == OPT_COUNT, COUNT_MAX, &value);
        if (status == 0 && option == OPT_COUNT)
            o->count = (uint64_t)value;
        else if (status == 0)
            o->seed = (uint64_t)value;
        return status;
    }
}

static int apply(struct options *o, int option, const char *text)
{
    switch (option) {
    case OPT_TARGET:
    case OPT_WAIT:
        return apply_word(o, option, text);
    case OPT_SOCKET:
        o->socket = text;
        return 0;
    case OPT_CONNINFO:
        o->conninfo = text;
        return 0;
    case OPT_DIR:
        o->dir = text;
        return 0;
    case OPT_DOWN:
        o->down = text;
        return 0;
    case OPT_UP:
        o->up = text;
        return 0;
    case OPT_BATCH:
        return whole_list(option, text, 1, DIALECT_BATCH_MAX, &o->batches);
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_QUIET:
        o->quiet = true;
        return 0;
    case '?':
        return -1; /* getopt has said why */
    default:
        return apply_number(o, option, text);
    }
}

/* What the command cannot do without, and lists only where they are gone through. */
static int check(const struct options *o)
{
    const char *missing = NULL;
    bool faults = strcmp(o->command, "outage") == 0 || strcmp(o->command, "replay") == 0;
    bool sweeps = strcmp(o->command, "saturate") == 0 || strcmp(o->command, "open") == 0;

    if (!sweeps &&
        (o->sweep_connections.count > 1 || o->sweep_sizes.count > 1 || o->sweep_rates.count > 1)) {
        fprintf(stderr,
                "convstore-bench: %s takes one number for --connections, --size and --rate; "
                "saturate and open take several\n",
                o->command);
        return -1;
    }
    if (strncmp(o->command, "pg-", 3) == 0)
        missing = o->conninfo == NULL ? "--conninfo" : NULL;
    else if (strcmp(o->command, "raw") == 0)
        missing = o->dir == NULL ? "--dir" : NULL;
    else if (o->socket == NULL && (faults || o->port == 0))
        missing = "--socket";
    else if (faults && o->target != TARGET_CONVSTORED)
        missing = "--target convstored";
    else if (faults && o->down == NULL)
        missing = "--down";
    else if (strcmp(o->command, "outage") == 0 && o->up == NULL)
        missing = "--up";
    if (missing != NULL)
        fprintf(stderr, "convstore-bench: %s needs %s; try --help\n", o->command, missing);
    return missing == NULL ? 0 : -1;
}

int options_parse(struct options *ret, int argc, char **argv)
{
    int option;

    if (argc < 2 || strcmp(argv[1], "--help") == 0) {
        fputs(help, argc < 2 ? stderr : stdout);
        return argc < 2 ? -1 : 1;
    }
    if (set_defaults(ret, argv[1]) != 0)
        return -1;
    optind = 2;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (option == OPT_HELP) {
            fputs(help, stdout);
            return 1;
        }
        if (apply(ret, option, optarg) != 0)
            return -1;
    }
    if (optind < argc) {
        fprintf(stderr, "convstore-bench: what is %s? try --help\n", argv[optind]);
        return -1;
    }
    use_first(ret);
    return check(ret);
}

uint64_t options_run_ns(const struct options *o)
{
    return (uint64_t)(o->seconds * (double)NS_PER_S);
}

uint64_t options_warmup_ns(const struct options *o)
{
    double seconds = o->warmup_s;

    if (seconds < 0)
        seconds = o->seconds / 10 < 2 ? o->seconds / 10 : 2;
    return (uint64_t)(seconds * (double)NS_PER_S);
}
