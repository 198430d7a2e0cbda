/* Each operation is counted three times: since the start, and in the current slice of two windows.
 * A window is a ring of six slices, of which the oldest is emptied when time moves on; what it
 * shows is their sum. That is about 115 KB an operation, whatever happens, and zero pages that
 * nobody has written stay the kernel's: an operation that is not used costs nothing. */
#include "daemon/stats.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW_SLICES 6u

static const char *const own_names[OPERATION_COUNT] = {
    [OPERATION_QUEUE] = "queue",           [OPERATION_JOURNAL_SYNC] = "journal_sync",
    [OPERATION_EMBEDDING] = "embedding",   [OPERATION_BATCH_INSERT] = "batch_insert",
    [OPERATION_END_TO_END] = "end_to_end", [OPERATION_READ] = "read",
};

/* Seconds of one slice. */
#define MINUTE_S 10u
#define FIVE_MINUTES_S 50u

struct slice_of_time {
    struct histogram_slice times;
    uint32_t errors;
};

struct stats_operation {
    char name[STATS_NAME_MAX + 1];
    uint64_t errors;
    struct histogram times;
    struct slice_of_time minute[WINDOW_SLICES];
    struct slice_of_time five_minutes[WINDOW_SLICES];
};

static int add_operation(struct stats *stats, const char *name, size_t len)
{
    struct stats_operation *o = calloc(1, sizeof *o);

    if (o == NULL)
        return -ENOMEM;
    memcpy(o->name, name, len);
    stats->operations[stats->operation_count++] = o;
    return 0;
}

int stats_init(struct stats *stats)
{
    for (unsigned i = 0; i < OPERATION_COUNT; i++)
        if (add_operation(stats, own_names[i], strlen(own_names[i])) != 0)
            return -ENOMEM;
    return 0;
}

void stats_done(struct stats *stats)
{
    for (unsigned i = 0; i < stats->operation_count; i++)
        free(stats->operations[i]);
    stats->operation_count = 0;
}

/* Empties the slices that begin after from_s, up to and with the one of now_s. */
static void turn(struct slice_of_time *slices, uint64_t slice_s, uint64_t from_s, uint64_t now_s)
{
    uint64_t first = from_s / slice_s + 1, last = now_s / slice_s;

    if (last >= first + WINDOW_SLICES)
        first = last - WINDOW_SLICES + 1;
    for (; first <= last; first++) {
        struct slice_of_time *slice = &slices[first % WINDOW_SLICES];

        if (slice->times.count > 0)
            memset(slice, 0, sizeof *slice);
    }
}

void stats_turn(struct stats *stats, uint64_t now_s)
{
    assert(now_s >= stats->turned_s);
    for (unsigned i = 0; i < stats->operation_count; i++) {
        turn(stats->operations[i]->minute, MINUTE_S, stats->turned_s, now_s);
        turn(stats->operations[i]->five_minutes, FIVE_MINUTES_S, stats->turned_s, now_s);
    }
    stats->turned_s = now_s;
}

static void count(struct slice_of_time *slices, uint64_t at, uint64_t us, bool ok)
{
    struct slice_of_time *slice = &slices[at % WINDOW_SLICES];

    histogram_slice_record(&slice->times, us);
    slice->errors += !ok;
}

static void record(const struct stats *stats, struct stats_operation *o, uint64_t us, bool ok)
{
    histogram_record(&o->times, us);
    o->errors += !ok;
    count(o->minute, stats->turned_s / MINUTE_S, us, ok);
    count(o->five_minutes, stats->turned_s / FIVE_MINUTES_S, us, ok);
}

void stats_record(struct stats *stats, enum operation operation, uint64_t duration_ns, bool ok)
{
    record(stats, stats->operations[operation], (duration_ns + 500) / 1000, ok);
}

static bool is_name(struct slice name)
{
    if (name.len == 0 || name.len > STATS_NAME_MAX)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.data[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');

        if (!is_letter && !(c >= '0' && c <= '9') && (c == '\0' || strchr("_.:/-", c) == NULL))
            return false;
    }
    return true;
}

static int find(const struct stats *stats, struct slice name)
{
    for (unsigned i = 0; i < stats->operation_count; i++)
        if (slice_equals(name, stats->operations[i]->name))
            return (int)i;
    return -1;
}

int stats_record_named(struct stats *stats, struct slice name, double duration_ms, bool ok,
                       struct wire_error *err)
{
    int i;

    if (!is_name(name))
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "operation: must be 1 to %d letters, digits, and _ . : / -",
                         STATS_NAME_MAX);
    if (!isfinite(duration_ms) || duration_ms < 0 || duration_ms > STATS_DURATION_MAX_MS)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "duration_ms: must be a finite number from 0 to %.0f",
                         STATS_DURATION_MAX_MS);
    i = find(stats, name);
    if (i >= 0 && i < OPERATION_COUNT)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "operation: \"%s\" is the daemon's own; take another name",
                         stats->operations[i]->name);
    if (i < 0 && stats->operation_count == OPERATION_COUNT + STATS_RECORDED_MAX)
        return wire_fail(err, WIRE_INVALID_ARGUMENT,
                         "operation: %d names are recorded already; record under one of them",
                         STATS_RECORDED_MAX);
    if (i < 0) {
        if (add_operation(stats, name.data, name.len) != 0)
            return wire_fail(err, WIRE_INTERNAL, "out of memory; record again");
        i = (int)stats->operation_count - 1;
    }
    record(stats, stats->operations[i], (uint64_t)llround(duration_ms * 1000), ok);
    return 0;
}

const char *stats_name(const struct stats *stats, unsigned i)
{
    return stats->operations[i]->name;
}

static void read_figures(const struct histogram *h, uint64_t errors, struct stats_figures *ret)
{
    *ret = (struct stats_figures){
        .count = h->count,
        .errors = errors,
        .mean = h->count > 0 ? (double)h->sum / (double)h->count : 0,
        .p50 = histogram_quantile(h, 0.50),
        .p95 = histogram_quantile(h, 0.95),
        .p99 = histogram_quantile(h, 0.99),
        .max = h->max,
    };
}

void stats_figures(const struct stats *stats, unsigned i, enum stats_window window,
                   struct stats_figures *ret)
{
    const struct stats_operation *o = stats->operations[i];
    const struct slice_of_time *slices = window == STATS_LAST_MINUTE ? o->minute : o->five_minutes;
    struct histogram together;
    uint64_t errors = 0;

    if (window == STATS_SINCE_START) {
        read_figures(&o->times, o->errors, ret);
        return;
    }
    memset(&together, 0, sizeof together);
    for (unsigned n = 0; n < WINDOW_SLICES; n++) {
        histogram_add(&together, &slices[n].times);
        errors += slices[n].errors;
    }
    read_figures(&together, errors, ret);
}

const struct histogram *stats_histogram(const struct stats *stats, unsigned i)
{
    return &stats->operations[i]->times;
}

uint64_t stats_errors(const struct stats *stats, unsigned i)
{
    return stats->operations[i]->errors;
}
