/* convstorectl stats and ping: how the daemon is. */
#include "client/convstorectl.h"

#include <stdio.h>

const char ctl_stats_help[] = "Usage: convstorectl stats [OPTION…]\n"
                              "\n"
                              "Shows the daemon's counters, health, alerts and timings. What a "
                              "newer daemon adds is shown too.\n"
                              "\n"
                              "Examples:\n"
                              "  convstorectl stats\n"
                              "  watch convstorectl stats\n"
                              "  convstorectl --json stats | jq '.operations.queue.p99_ms'\n";

const char ctl_ping_help[] =
    "Usage: convstorectl ping [OPTION…]\n"
    "\n"
    "Asks whether the daemon answers, and says its version and how long that took.\n"
    "\n"
    "Examples:\n"
    "  convstorectl ping\n"
    "  convstorectl --timeout 0.5 ping || echo down\n";

/* The part of each command that is the same: no options of its own, an open handle. */
static int open_plain(struct ctl *ctl, int argc, char **argv, struct convstore **ret)
{
    int status;

    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    status = ctl_no_arguments(ctl, argc, argv);
    return status != CTL_OK ? status : ctl_open(ctl, false, CONVSTORE_DEFAULT_TIMEOUT_MS, ret);
}

int ctl_run_stats(struct ctl *ctl, int argc, char **argv)
{
    const char *json;
    struct convstore *c;
    int status = open_plain(ctl, argc, argv, &c);
    int code;

    if (status != CTL_OK)
        return status;
    code = convstore_stats(c, NULL, &json);
    status = code == 0 ? ctl_print_result(ctl, json) : ctl_failed(c, code);
    convstore_close(c);
    return status;
}

int ctl_run_ping(struct ctl *ctl, int argc, char **argv)
{
    struct convstore_server server;
    struct convstore *c;
    int status = open_plain(ctl, argc, argv, &c);
    int64_t start = ctl_now_us();
    int code;

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
