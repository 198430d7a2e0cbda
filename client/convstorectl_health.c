/* convstorectl ping and health: for scripts and monitors. health keeps to the form of monitoring
 * plugins: one line, what is wrong first, figures behind a bar, and the verdict as exit status. */
#include "client/convstorectl.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/convstorectl_figures.h"
#include "client/convstorectl_units.h"

enum verdict { HEALTH_OK = 0, HEALTH_WARNING = 1, HEALTH_CRITICAL = 2 };

const char ctl_ping_help[] =
    "Usage: convstorectl ping [OPTION…]\n"
    "\n"
    "Asks whether the daemon answers, and says its version and how long that took.\n"
    "\n"
    "Examples:\n"
    "  convstorectl ping\n"
    "  convstorectl --timeout 0.5 ping || echo down\n";

const char ctl_health_help[] = "Usage: convstorectl health [OPTION…]\n"
                               "\n"
                               "One line for a monitor, in the form of monitoring plugins (Nagios, "
                               "Icinga, …): the verdict, the\n"
                               "alerts, and figures behind a bar. Its exit status is its own: 0 "
                               "healthy, 1 warning, 2 critical\n"
                               "or no answer.\n"
                               "\n"
                               "Examples:\n"
                               "  convstorectl health\n"
                               "  convstorectl --timeout 2 health >/dev/null || echo look at it\n";

/* The part of both that is the same: no options of their own. */
static int read_options(struct ctl *ctl, int argc, char **argv)
{
    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    return ctl_no_arguments(ctl, argc, argv);
}

int ctl_run_ping(struct ctl *ctl, int argc, char **argv)
{
    struct convstore_server server;
    struct convstore *c;
    int status = read_options(ctl, argc, argv);
    int64_t start = ctl_now_us();
    int code;

    if (status == CTL_OK)
        status = ctl_open(ctl, false, CONVSTORE_DEFAULT_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    code = convstore_ping(c, &server);
    if (code != 0) {
        status = ctl_failed(c, code);
    } else {
        double ms = (double)(ctl_now_us() - start) / 1000;

        printf(ctl->json ? "{\"server\": \"%s\", \"version\": \"%s\", \"protocol\": %u, "
                           "\"durability\": \"%s\", \"ms\": %.3f}\n"
                         : "%s %s, protocol %u, durability %s: answered in %.3f ms\n",
               server.server, server.version, server.protocol, server.durability, ms);
    }
    convstore_close(c);
    return status;
}

/* ---- health ---- */

static enum verdict verdict_of(const char *health)
{
    if (strcmp(health, "healthy") == 0)
        return HEALTH_OK;
    return strcmp(health, "warning") == 0 ? HEALTH_WARNING : HEALTH_CRITICAL;
}

/* A monitor takes a bar for the beginning of the figures, and a newline for the end. */
static void print_text(const char *text)
{
    for (; *text != '\0'; text++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text == '|' ? '/' : *text);
}

static void print_alerts(const struct figures *figures)
{
    for (size_t i = 0; i < figures->alert_count; i++) {
        if (i > 0)
            fputs("; ", stdout);
        print_text(figures->alerts[i].name);
        fputs(": ", stdout);
        print_text(figures->alerts[i].text);
    }
}

static void print_summary(const struct figures *figures)
{
    struct figures_latency ack = figures_latency(figures, "queue", figures_recent(figures));
    char queued[UNITS_SIZE], p99[UNITS_SIZE];

    printf("%s queued, ack p99 %s, database ", units_count(queued, figures->queued),
           units_ms(p99, ack.count > 0 ? ack.p99_ms : NAN));
    print_text(figures->database.state);
    fputs(", embedding ", stdout);
    print_text(figures->embedding.state);
}

/* name=value with the plugins' units (s, B, c for what only grows); what is not known is left out.
 */
static void print_performance(const struct figures *figures)
{
    struct figures_latency ack = figures_latency(figures, "queue", figures_recent(figures));
    const struct {
        const char *name, *unit;
        int64_t value;
    } counts[] = {
        {"queued", "", figures->queued},
        {"processing", "", figures->processing},
        {"completed", "c", figures->completed},
        {"dead_letters", "", figures->dead_letters},
        {"embedding_backlog", "", figures->embedding.backlog},
        {"journal", "B", figures->journal.bytes},
        {"connections", "", figures->connections},
    };

    fputs(" |", stdout);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (counts[i].value >= 0)
            printf(" %s=%" PRId64 "%s", counts[i].name, counts[i].value, counts[i].unit);
    }
    if (figures->oldest_queued_ms >= 0)
        printf(" oldest=%.3fs", (double)figures->oldest_queued_ms / 1000);
    if (ack.count > 0 && ack.p99_ms >= 0)
        printf(" ack_p99=%.6fs", ack.p99_ms / 1000);
}

static enum verdict print_health(const struct ctl *ctl, const struct figures *figures)
{
    static const char *const names[] = {"OK", "WARNING", "CRITICAL"};
    enum verdict verdict = verdict_of(figures->health);

    if (ctl->json) {
        json_t *health = json_pack("{s:s, s:O?}", "health", figures->health, "alerts",
                                   json_object_get(figures->root, "alerts"));

        json_dumpf(health, stdout, JSON_COMPACT);
        json_decref(health);
    } else {
        printf("convstored %s: ", names[verdict]);
        if (figures->alert_count > 0)
            print_alerts(figures);
        else
            print_summary(figures);
        print_performance(figures);
    }
    putchar('\n');
    return verdict;
}

static enum verdict print_no_answer(const struct ctl *ctl, const char *why)
{
    if (ctl->json) {
        json_t *health = json_pack("{s:s, s:s}", "health", "critical", "error", why);

        json_dumpf(health, stdout, JSON_COMPACT);
        json_decref(health);
    } else {
        fputs("convstored CRITICAL: ", stdout);
        print_text(why);
    }
    putchar('\n');
    return HEALTH_CRITICAL;
}

int ctl_run_health(struct ctl *ctl, int argc, char **argv)
{
    struct figures figures;
    enum verdict verdict;
    struct convstore *c;
    const char *json;
    int status = read_options(ctl, argc, argv);
    int code;

    if (status == CTL_OK)
        status = ctl_open_later(ctl, false, CONVSTORE_DEFAULT_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    code = convstore_connect(c);
    if (code == 0)
        code = convstore_stats(c, NULL, &json);
    if (code != 0) {
        verdict = print_no_answer(ctl, convstore_error_text(c));
    } else if (figures_read(json, &figures) != 0) {
        verdict = print_no_answer(ctl, "the answer to stats is no map");
    } else {
        verdict = print_health(ctl, &figures);
        figures_done(&figures);
    }
    convstore_close(c);
    return (int)verdict;
}
