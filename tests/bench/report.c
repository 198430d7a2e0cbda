/* See report.h. The main thread. The table is made from the JSON, so that both always agree. */
#include "tests/bench/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/clock.h"

static void must(bool good)
{
    if (good)
        return;
    fprintf(stderr, "convstore-bench: out of memory for the report\n");
    exit(1);
}

static void set(json_t *object, const char *key, json_t *value)
{
    must(json_object_set_new(object, key, value) == 0);
}

/* The first processor's name as /proc/cpuinfo has it. */
static void cpu_model(char *ret, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(ret, size, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(ret, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (file != NULL)
        fclose(file);
}

json_t *report_new(const char *command)
{
    json_t *report = json_object(), *machine = json_object();
    struct utsname name;
    char text[256];
    time_t now = time(NULL);
    struct tm utc;

    must(report != NULL && machine != NULL);
    set(report, "command", json_string(command));
    set(report, "version", json_string(CONVSTORE_VERSION));
    gmtime_r(&now, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
    set(report, "started_at", json_string(text));
    set(machine, "processors", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    cpu_model(text, sizeof text);
    set(machine, "model", json_string(text));
    if (uname(&name) == 0)
        set(machine, "kernel", json_string(name.release));
    set(report, "machine", machine);
    set(report, "results", json_array());
    return report;
}

json_t *report_add(json_t *report, const char *name, const char *target)
{
    json_t *result = json_object();

    must(result != NULL);
    set(result, "name", json_string(name));
    set(result, "target", json_string(target));
    must(json_array_append_new(json_object_get(report, "results"), result) == 0);
    return result;
}

static json_t *us(uint64_t ns)
{
    return json_real((double)ns / (double)NS_PER_US);
}

void report_latency(json_t *result, const char *key, const struct histogram *ns)
{
    static const struct {
        const char *key;
        double q;
    } quantiles[] = {{"p50", 0.5},  {"p90", 0.9},     {"p95", 0.95},
                     {"p99", 0.99}, {"p99_9", 0.999}, {"p99_99", 0.9999}};
    json_t *latency = json_object();

    must(latency != NULL);
    set(latency, "count", json_integer((json_int_t)ns->count));
    set(latency, "mean", us(ns->count > 0 ? ns->sum / ns->count : 0));
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++)
        set(latency, quantiles[i].key, us(histogram_quantile(ns, quantiles[i].q)));
    set(latency, "max", us(ns->max));
    set(result, key, latency);
}

static void set_count(json_t *result, const char *key, uint64_t value)
{
    set(result, key, json_integer((json_int_t)value));
}

void report_load(json_t *result, const struct load_options *o, const struct load_result *load)
{
    double measured = (double)load->measured;

    set_count(result, "connections", o->connections);
    set_count(result, "depth", o->depth);
    set_count(result, "batch", o->dialect->batch);
    set_count(result, "message_bytes", dialect_len(o->dialect, o->payload));
    if (o->rate > 0)
        set(result, "rate", json_real(o->rate));
    set(result, "id_prefix", json_string(payload_prefix(o->payload)));
    set_count(result, "sent", load->sent);
    set_count(result, "acked", load->acked);
    set_count(result, "refused", load->refused);
    set_count(result, "failed", load->failed);
    set_count(result, "unanswered", load->unanswered);
    set(result, "seconds", json_real(load->seconds));
    set(result, "elapsed_s", json_real(load->elapsed_s));
    set(result, "per_second", json_real(load->seconds > 0 ? measured / load->seconds : 0));
    report_latency(result, "latency_us", &load->latency);
    if (measured > 0) {
        set(result, "client_cpu_us", json_real((double)load->client_cpu_ns / 1e3 / measured));
        if (load->server_cpu_ns > 0)
            set(result, "server_cpu_us", json_real((double)load->server_cpu_ns / 1e3 / measured));
    }
    if (load->server_rss_bytes > 0)
        set_count(result, "server_rss_bytes", load->server_rss_bytes);
    if (load->text[0] != '\0')
        set(result, "first_error", json_string(load->text));
}

/* The table */

static double get(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static void print_row(const json_t *result)
{
    static const char *const columns[] = {"p50", "p99", "p99_9", "p99_99", "max"};
    const json_t *latency = json_object_get(result, "latency_us");
    const char *text = json_string_value(json_object_get(result, "first_error"));

    printf("%-26s %-11s %10.0f", json_string_value(json_object_get(result, "name")),
           json_string_value(json_object_get(result, "target")), get(result, "per_second"));
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        printf(" %9.3f", get(latency, columns[i]) / 1e3);
    printf(" %8.1f %8.1f", get(result, "server_cpu_us"), get(result, "client_cpu_us"));
    if (get(result, "refused") + get(result, "failed") + get(result, "unanswered") > 0)
        printf("  refused %.0f, failed %.0f, unanswered %.0f", get(result, "refused"),
               get(result, "failed"), get(result, "unanswered"));
    printf("%s%s\n", text != NULL ? "  " : "", text != NULL ? text : "");
}

/* What a result has beside its row: numbers and small maps that only some commands give. */
static void print_more(const json_t *result)
{
    static const char *const keys[] = {"rows",  "replay", "catch_up",
                                       "drain", "cache",  "daemon_ack_us"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *more = json_object_get(result, keys[i]);
        char *text = more != NULL ? json_dumps(more, JSON_REAL_PRECISION(6)) : NULL;

        if (text != NULL)
            printf("  %s: %s\n", keys[i], text);
        free(text);
    }
}

static void print_table(const json_t *report)
{
    const json_t *results = json_object_get(report, "results"), *result;
    size_t i;

    printf("%-26s %-11s %10s %9s %9s %9s %9s %9s %8s %8s\n", "", "", "per second", "p50 ms",
           "p99 ms", "p99.9 ms", "p99.99 ms", "max ms", "CPU µs", "client µs");
    json_array_foreach(results, i, result)
    {
        print_row(result);
        print_more(result);
    }
}

void report_print(json_t *report, bool as_json)
{
    if (as_json) {
        must(json_dumpf(report, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) == 0);
        putchar('\n');
    } else {
        print_table(report);
    }
    json_decref(report);
}
