/* `journal`: what a running daemon keeps on disk; `journal verify`: the same from the files
 * themselves, with no daemon at hand. */
#include "client/convstorectl.h"

#include <stdio.h>
#include <string.h>

#include "daemon/journal.h"
#include "daemon/sysio.h"

#define JOURNAL_TIMEOUT_MS 5000

const char ctl_journal_help[] =
    "Usage: convstorectl journal [OPTION…]\n"
    "       convstorectl journal verify DIRECTORY\n"
    "\n"
    "Shows the daemon's journal: segments, bytes, the oldest conversation that is not a row yet,\n"
    "and what was found damaged. verify reads a journal's directory itself, changes nothing and\n"
    "needs no daemon: one line a segment, one a damage. Exit status 1 when something is damaged.\n"
    "\n"
    "Examples:\n"
    "  convstorectl journal\n"
    "  convstorectl journal verify /var/lib/convstore/journal\n";

static int verify(const struct ctl *ctl, int argc, char **argv)
{
    int rc;

    if (argc - optind != 2)
        return ctl_usage(ctl, "verify takes one directory");
    rc = journal_verify(argv[optind + 1], sysio_real(), stdout);
    return rc == 0 ? CTL_OK : CTL_REFUSED;
}

int ctl_run_journal(struct ctl *ctl, int argc, char **argv)
{
    static const char no_params[] = {(char)0x90};
    struct convstore *c;
    const char *json;
    int status, code;

    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    if (optind < argc && strcmp(argv[optind], "verify") == 0)
        return verify(ctl, argc, argv);
    status = ctl_no_arguments(ctl, argc, argv);
    if (status == CTL_OK)
        status = ctl_open(ctl, true, JOURNAL_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    code = convstore_call(c, "journal", no_params, sizeof no_params, &json);
    status = code == 0 ? ctl_print_result(ctl, json) : ctl_failed(c, code);
    convstore_close(c);
    return status;
}
