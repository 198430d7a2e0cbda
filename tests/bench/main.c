/* convstore-bench: measures convstored and what people would use instead. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/bench/commands.h"
#include "tests/bench/report.h"

static const struct {
    const char *name;
    int (*run)(const struct options *o, json_t *report);
} commands[] = {
    {"single", command_single}, {"concurrent", command_concurrent}, {"paced", command_paced},
    {"batch", command_batch},   {"saturate", command_saturate},     {"open", command_saturate},
    {"outage", command_outage}, {"replay", command_replay},         {"reads", command_reads},
    {"raw", command_raw},       {"pg-insert", command_pg_insert},   {"pg-copy", command_pg_copy},
};

int main(int argc, char **argv)
{
    struct options options;
    int status = options_parse(&options, argc, argv);
    json_t *report;

    if (status != 0)
        return status < 0 ? 2 : 0;
    signal(SIGPIPE, SIG_IGN);
    report = report_new(options.command);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(options.command, commands[i].name) == 0)
            status = commands[i].run(&options, report);
    report_print(report, options.json);
    return status == 0 ? 0 : 1;
}
