/* convstorectl metrics: what Prometheus would read. */
#include "client/convstorectl.h"

#include <stdio.h>

const char ctl_metrics_help[] =
    "Usage: convstorectl metrics [OPTION…]\n"
    "\n"
    "Prints the daemon's metrics as Prometheus reads them from /metrics: for a look, or for\n"
    "node_exporter's textfile collector where metrics.listen is off. With --json they are one\n"
    "string.\n"
    "\n"
    "Examples:\n"
    "  convstorectl metrics | grep convstore_queue\n"
    "  convstorectl metrics | promtool check metrics\n";

static int show(const struct ctl *ctl, const char *json)
{
    json_t *text;

    if (ctl->json)
        return ctl_print_result(ctl, json);
    text = json_loads(json, JSON_DECODE_ANY, NULL);
    if (!json_is_string(text)) {
        fputs("convstorectl: the daemon's answer is no text\n", stderr);
        json_decref(text);
        return CTL_REFUSED;
    }
    fputs(json_string_value(text), stdout);
    json_decref(text);
    return CTL_OK;
}

int ctl_run_metrics(struct ctl *ctl, int argc, char **argv)
{
    return ctl_run_plain(ctl, argc, argv, "metrics", show);
}
