/* What an import says of itself: a bar that moves on a terminal, a line now and then elsewhere, one
 * line for each item that failed, and the end line.
 *
 * Latencies are kept as counts in buckets a 32nd of an octave wide (3 %), from 1 µs to hours. */
#include "client/convstorectl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_WIDTH 30
#define BAR_INTERVAL_MS 100
#define LINE_INTERVAL_MS 2000
#define BUCKET_BITS 5

int64_t ctl_now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void ctl_report_start(struct ctl_report *report, const struct ctl *ctl, uint64_t total_bytes)
{
    memset(report, 0, sizeof *report);
    report->json = ctl->json;
    report->terminal = isatty(STDERR_FILENO) == 1;
    report->total_bytes = total_bytes;
    report->started_us = report->shown_us = ctl_now_us();
}

/* ---- latencies ---- */

static unsigned bucket_of(uint64_t us)
{
    unsigned octave;

    if (us < 1 << BUCKET_BITS)
        return (unsigned)us;
    octave = 63 - (unsigned)__builtin_clzll(us) - BUCKET_BITS;
    return (octave << BUCKET_BITS) + (unsigned)(us >> octave);
}

static double bucket_ms(unsigned bucket)
{
    unsigned octave = bucket >> BUCKET_BITS;
    uint64_t from = bucket;

    if (octave > 0)
        from = (uint64_t)((bucket & ((1U << BUCKET_BITS) - 1)) + (1U << BUCKET_BITS))
               << (octave - 1);
    return (double)from / 1000;
}

void ctl_report_latency(struct ctl_report *report, int64_t us)
{
    unsigned bucket = bucket_of(us > 0 ? (uint64_t)us : 0);

    report->latency[bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1]++;
}

static double percentile_ms(const struct ctl_report *report, unsigned percent)
{
    uint64_t want = (report->acked * percent + 99) / 100;
    uint64_t seen = 0;

    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += report->latency[i];
        if (seen >= want && seen > 0)
            return bucket_ms(i);
    }
    return 0;
}

/* ---- on the way ---- */

static double rate(const struct ctl_report *report)
{
    double seconds = (double)(ctl_now_us() - report->started_us) / 1e6;

    return seconds > 0 ? (double)report->acked / seconds : 0;
}

static void clear_bar(struct ctl_report *report)
{
    if (report->bar_shown)
        fputs("\r\033[K", stderr);
    report->bar_shown = false;
}

static void show_bar(struct ctl_report *report, double done)
{
    char bar[BAR_WIDTH + 1] = "";
    char acked[32], per_s[32];
    int full = (int)(done * BAR_WIDTH);

    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < full ? '#' : '.';
    if (report->total_bytes > 0)
        fprintf(stderr, "\r[%s] %3d%%  ", bar, (int)(done * 100));
    else
        fputc('\r', stderr);
    fprintf(stderr, "%s acked, %s/s", ctl_grouped((int64_t)report->acked, acked),
            ctl_grouped((int64_t)rate(report), per_s));
    if (report->refused + report->bad > 0)
        fprintf(stderr, ", %" PRIu64 " failed", report->refused + report->bad);
    fputs("\033[K", stderr);
    report->bar_shown = true;
}

int ctl_report_interval_ms(const struct ctl_report *report)
{
    return report->terminal ? BAR_INTERVAL_MS : LINE_INTERVAL_MS;
}

void ctl_report_progress(struct ctl_report *report, uint64_t bytes)
{
    int64_t now = ctl_now_us();
    double done = report->total_bytes > 0 ? (double)bytes / (double)report->total_bytes : 0;
    char acked[32], per_s[32];

    if (now - report->shown_us < ctl_report_interval_ms(report) * 1000)
        return;
    report->shown_us = now;
    if (report->terminal) {
        show_bar(report, done < 1 ? done : 1);
        return;
    }
    fprintf(stderr, "%s acked, %s/s", ctl_grouped((int64_t)report->acked, acked),
            ctl_grouped((int64_t)rate(report), per_s));
    if (report->total_bytes > 0)
        fprintf(stderr, ", %d%% of the file", (int)((done < 1 ? done : 1) * 100));
    fputc('\n', stderr);
}

void ctl_report_line(struct ctl_report *report, uint64_t line, const char *name, const char *text)
{
    clear_bar(report);
    fprintf(stderr, "line %" PRIu64 ": %s%s%s\n", line, name, name[0] != '\0' ? ": " : "", text);
}

/* ---- the end ---- */

static void print_json_end(const struct ctl_report *report, double seconds)
{
    json_t *end = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:I}", "read", (json_int_t)report->read,
        "acked", (json_int_t)report->acked, "refused", (json_int_t)report->refused, "bad_lines",
        (json_int_t)report->bad, "unanswered", (json_int_t)report->unanswered, "seconds", seconds,
        "per_second", seconds > 0 ? (double)report->acked / seconds : 0.0, "ack_p50_ms",
        percentile_ms(report, 50), "ack_p99_ms", percentile_ms(report, 99), "reconnects",
        (json_int_t)report->retried_connections);

    if (end != NULL)
        json_dumpf(end, stdout, JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(end);
}

static void print_end(const struct ctl_report *report, double seconds)
{
    char read[32], acked[32], refused[32], per_s[32];

    printf("%s read, %s acked, %s refused in %.2f s: %s/s, ack p50 %.2f ms, p99 %.2f ms",
           ctl_grouped((int64_t)report->read, read), ctl_grouped((int64_t)report->acked, acked),
           ctl_grouped((int64_t)(report->refused + report->bad), refused), seconds,
           ctl_grouped((int64_t)(seconds > 0 ? (double)report->acked / seconds : 0), per_s),
           percentile_ms(report, 50), percentile_ms(report, 99));
    if (report->retried_connections > 0)
        printf(", %" PRIu64 " reconnects", report->retried_connections);
    putchar('\n');
}

int ctl_report_end(struct ctl_report *report)
{
    double seconds = (double)(ctl_now_us() - report->started_us) / 1e6;

    clear_bar(report);
    if (report->json)
        print_json_end(report, seconds);
    else
        print_end(report, seconds);
    if (report->interrupted)
        fprintf(stderr,
                "convstorectl: interrupted; the lines behind line %" PRIu64 " were not sent\n",
                report->read);
    if (report->gave_up[0] != '\0')
        fprintf(stderr,
                "convstorectl: gave up: %s\nconvstorectl: %" PRIu64
                " lines read were not acked, the first is line %" PRIu64
                ", and what follows them was not sent; an import of the same file stores nothing "
                "twice where its lines carry an id\n",
                report->gave_up, report->unanswered, report->first_unanswered);
    if (report->gave_up[0] != '\0')
        return CTL_UNREACHABLE;
    return report->refused + report->bad > 0 || report->interrupted ? CTL_REFUSED : CTL_OK;
}
