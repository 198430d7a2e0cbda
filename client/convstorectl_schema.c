/* `schema`: the SQL that the daemon would run by itself, for a site where someone else runs it. */
#include "client/convstorectl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/schema.h"

const char ctl_schema_help[] =
    "Usage: convstorectl schema [OPTION…]\n"
    "\n"
    "Prints the migrations of the schema convstore, for a site where the daemon may not make\n"
    "tables (database.auto_migrate = false): run them as the role that shall own the tables, in\n"
    "a database with the encoding UTF8. Needs no daemon. Running them again changes nothing.\n"
    "\n"
    "Options:\n"
    "  --from VERSION     only the steps that lead on from this version of the schema\n"
    "  --grants           print what the daemon's own role needs instead, and who may\n"
    "                     CREATE EXTENSION vector\n"
    "\n"
    "Examples:\n"
    "  convstorectl schema | psql -1 -v ON_ERROR_STOP=1 chat\n"
    "  convstorectl schema --grants | psql -1 -v ON_ERROR_STOP=1 chat\n";

enum { OPTION_FROM = 256, OPTION_GRANTS };

int ctl_run_schema(struct ctl *ctl, int argc, char **argv)
{
    static const struct option own[] = {
        {"from", required_argument, NULL, OPTION_FROM},
        {"grants", no_argument, NULL, OPTION_GRANTS},
        {NULL, 0, NULL, 0},
    };
    bool grants = false;
    long from = 0;
    int option, status;

    while ((option = ctl_getopt(ctl, argc, argv, own)) != -1) {
        char *end = NULL;

        if (option == OPTION_GRANTS) {
            grants = true;
            continue;
        }
        from = strtol(optarg, &end, 10);
        if (end == optarg || *end != '\0' || from < 0 || from > SCHEMA_VERSION)
            return ctl_usage(ctl, "--from %s: must be 0 to %d", optarg, SCHEMA_VERSION);
    }
    status = ctl_no_arguments(ctl, argc, argv);
    if (status != CTL_OK)
        return status;
    if (grants) {
        fputs(schema_grants(), stdout);
        return CTL_OK;
    }
    for (int version = (int)from + 1; version <= SCHEMA_VERSION; version++)
        fputs(schema_sql(version), stdout);
    return CTL_OK;
}
