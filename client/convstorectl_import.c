/* convstorectl import: JSON lines into the daemon, many in flight on one or more connections.
 *
 * One thread and one poll(2) loop over the input and all connections. The one hard thing: to read
 * no further than there is room for, and yet to leave no connection idle: a parsed line that finds
 * all windows full waits in item, and the input is not asked for more until it has gone.
 *
 * Each line has a UUID before it is first sent, and the library sends it again with that UUID when
 * the daemon is lost, so that a line is stored once or reported. */
#include "client/convstorectl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMPORT_TIMEOUT_MS 30000
#define CONNECTIONS_MAX 256
#define DEFAULT_WINDOW 256
#define BURST_LINES 64     /* read and submitted between two looks at the connections */
#define BURST_LINES_EACH 8 /* and as many more for each connection */

const char ctl_import_help[] =
    "Usage: convstorectl import [OPTION…] FILE|-\n"
    "\n"
    "Stores conversations from JSON lines, many in flight at once. Each line is an object:\n"
    "  {\"user_id\": \"u1\", \"platform\": \"web\", \"transcript\": \"User: Hi\\nAI: Hello!\"}\n"
    "and may also have summary (text), metadata (an object), id (a UUID) and created_at (integer\n"
    "milliseconds since 1970, or text such as \"2024-05-01T12:00:00Z\").\n"
    "\n"
    "A line that is wrong is reported with its number and why, and the rest goes on. When the "
    "daemon\n"
    "is lost in mid-import, the import connects again and sends again what was not acked, under "
    "the\n"
    "same ids. A file whose lines have ids may be imported twice: nothing is stored twice.\n"
    "\n"
    "Options:\n"
    "  --connections N    connections to spread the lines over, 1 to 256 (default 1)\n"
    "  --window N         lines in flight on each connection, 1 to 65536 (default 256)\n"
    "  --wait             count a line as acked only when it is a row in the database\n"
    "  --timeout SECONDS  how long a line may wait for its ack before the import gives up\n"
    "                     (default 30)\n"
    "\n"
    "Examples:\n"
    "  convstorectl import conversations.jsonl\n"
    "  zcat old/*.jsonl.gz | convstorectl import --connections 4 -\n"
    "  convstorectl --json import day.jsonl 2> failed-lines.txt\n";

struct import {
    const struct ctl *ctl;
    const char *name; /* of the file */
    unsigned connection_count;
    unsigned window;
    enum convstore_wait wait;
    struct convstore *connections[CONNECTIONS_MAX];
    unsigned turn; /* the connection that gets the next line */
    struct ctl_lines lines;
    struct ctl_report report;
    bool has_item; /* item is parsed and waits for room */
    bool needs_input;
    bool ended; /* no more lines: end of input, given up, or interrupted */
    struct ctl_item item;
};

/* A line in flight; freed by its ack. */
struct flight {
    struct import *import;
    uint64_t line;
    int64_t submitted_us;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* A code that says nothing of the line but that the daemon cannot take it now: the time is over. */
static bool is_give_up(int code)
{
    return code >= CONVSTORE_CANNOT_CONNECT || code == CONVSTORE_QUEUE_FULL ||
           code == CONVSTORE_SHUTTING_DOWN || code == CONVSTORE_STORAGE_FAILED;
}

static void on_line_ack(void *context, const struct convstore_result *result)
{
    struct flight *flight = context;
    struct import *im = flight->import;
    struct ctl_report *report = &im->report;

    if (result->code == 0) {
        report->acked++;
        ctl_report_latency(report, ctl_now_us() - flight->submitted_us);
    } else if (!is_give_up(result->code)) {
        report->refused++;
        ctl_report_line(report, flight->line, convstore_code_name(result->code), result->text);
    } else {
        if (report->unanswered++ == 0 || flight->line < report->first_unanswered)
            report->first_unanswered = flight->line;
        if (report->gave_up[0] == '\0')
            snprintf(report->gave_up, sizeof report->gave_up, "%s: %.200s",
                     convstore_code_name(result->code), result->text);
        im->ended = true;
    }
    free(flight);
}

static void report_bad(struct import *im, const char *why)
{
    im->report.bad++;
    ctl_report_line(&im->report, im->lines.number, "", why);
}

static bool is_blank(const char *line, size_t len)
{
    return strspn(line, " \t\r") >= len;
}

/* Parses lines until one is good; false when there is none to be had now. */
static bool next_item(struct import *im)
{
    char why[CTL_WHY_SIZE];
    const char *line;
    size_t len;

    while (!im->has_item && !im->ended) {
        enum ctl_line got = ctl_lines_next(&im->lines, &line, &len);

        im->needs_input = got == CTL_LINE_NEEDS_INPUT;
        if (im->needs_input)
            return false;
        if (got == CTL_LINE_END) {
            im->ended = true;
            return false;
        }
        if (got == CTL_LINE && memchr(line, '\0', len) == NULL && is_blank(line, len))
            continue;
        im->report.read++;
        if (got == CTL_LINE_TOO_LONG) {
            snprintf(why, sizeof why, "longer than %d MiB", CTL_LINE_MAX_BYTES >> 20);
            report_bad(im, why);
            continue;
        }
        ctl_item_init(&im->item);
        im->has_item = ctl_item_parse(&im->item, line, len, why) == 0;
        if (!im->has_item) {
            report_bad(im, why);
            ctl_item_done(&im->item);
        }
    }
    return im->has_item;
}

static void drop_item(struct import *im)
{
    ctl_item_done(&im->item);
    im->has_item = false;
}

static int submit_to(struct import *im, struct convstore *c)
{
    struct flight *flight = malloc(sizeof *flight);
    int code;

    if (flight == NULL)
        return CONVSTORE_WINDOW_FULL; /* memory comes back with the acks */
    *flight = (struct flight){im, im->lines.number, ctl_now_us()};
    code = convstore_submit(c, &im->item.conversation, im->wait, on_line_ack, flight, NULL);
    if (code != 0)
        free(flight);
    return code;
}

/* Gives the waiting item to the next connection with room; false where there is none. */
static bool submit_item(struct import *im)
{
    int code = CONVSTORE_WINDOW_FULL;
    unsigned i;

    for (i = 0; i < im->connection_count && code == CONVSTORE_WINDOW_FULL; i++) {
        im->turn = (im->turn + 1) % im->connection_count;
        code = submit_to(im, im->connections[im->turn]);
    }
    if (code == CONVSTORE_WINDOW_FULL)
        return false;
    if (code != 0) {
        im->report.refused++;
        ctl_report_line(&im->report, im->lines.number, convstore_code_name(code),
                        convstore_error_text(im->connections[im->turn]));
    }
    drop_item(im);
    return true;
}

static unsigned in_flight(const struct import *im)
{
    unsigned n = 0;

    for (unsigned i = 0; i < im->connection_count; i++)
        n += convstore_pending(im->connections[i]);
    return n;
}

/* Waits until a connection or the input has something to do, or it is time to show progress; not at
 * all where more lines are at hand. */
static void wait_for_events(struct import *im, bool more)
{
    struct pollfd fds[CONNECTIONS_MAX + 1];
    int own_ms[CONNECTIONS_MAX];
    int timeout_ms = more ? 0 : ctl_report_interval_ms(&im->report);
    bool wants_input = im->needs_input && !im->has_item && !im->ended;
    unsigned n = im->connection_count;

    for (unsigned i = 0; i < n; i++) {
        fds[i].revents = 0;
        fds[i].fd = convstore_poll(im->connections[i], &fds[i].events, &own_ms[i]);
        if (own_ms[i] >= 0 && own_ms[i] < timeout_ms)
            timeout_ms = own_ms[i];
    }
    fds[n] = (struct pollfd){.fd = wants_input ? im->lines.fd : -1, .events = POLLIN};
    if (poll(fds, n + 1, timeout_ms) > 0 && fds[n].revents != 0)
        ctl_lines_fill(&im->lines);
    for (unsigned i = 0; i < n; i++) {
        if (fds[i].revents != 0 || own_ms[i] == 0)
            convstore_process(im->connections[i], 0);
    }
}

/* Reads and submits lines while there is room, but no more at a time than a burst, so that answers
 * are not kept waiting; true when it stopped for that. */
static bool submit_burst(struct import *im)
{
    unsigned burst = BURST_LINES + BURST_LINES_EACH * im->connection_count;
    unsigned n = 0;

    while (n < burst && next_item(im) && submit_item(im))
        n++;
    return n == burst;
}

static void run(struct import *im)
{
    for (;;) {
        bool more;

        if (im->has_item && im->report.gave_up[0] != '\0') {
            im->report.unanswered++;
            drop_item(im);
        }
        more = submit_burst(im);
        if (interrupted && !im->ended) {
            im->report.interrupted = im->ended = true;
            if (im->has_item) { /* was read, and will not be sent */
                im->report.read--;
                drop_item(im);
            }
        }
        if (im->ended && !im->has_item && in_flight(im) == 0)
            return;
        wait_for_events(im, more);
        ctl_report_progress(&im->report, im->lines.consumed);
    }
}

/* ---- the command ---- */

enum { OPTION_CONNECTIONS = 256, OPTION_WINDOW, OPTION_WAIT };

static int parse_count(const struct ctl *ctl, const char *name, unsigned max, unsigned *ret)
{
    char *end;
    unsigned long n = strtoul(optarg, &end, 10);

    if (optarg[0] < '0' || optarg[0] > '9' || *end != '\0' || n < 1 || n > max)
        return ctl_usage(ctl, "--%s %s: must be 1 to %u", name, optarg, max);
    *ret = (unsigned)n;
    return CTL_OK;
}

static int parse_options(struct import *im, struct ctl *ctl, int argc, char **argv)
{
    static const struct option own[] = {
        {"connections", required_argument, NULL, OPTION_CONNECTIONS},
        {"window", required_argument, NULL, OPTION_WINDOW},
        {"wait", no_argument, NULL, OPTION_WAIT},
        {NULL, 0, NULL, 0},
    };
    int option, status = CTL_OK;

    while (status == CTL_OK && (option = ctl_getopt(ctl, argc, argv, own)) != -1) {
        if (option == OPTION_CONNECTIONS)
            status = parse_count(ctl, "connections", CONNECTIONS_MAX, &im->connection_count);
        else if (option == OPTION_WINDOW)
            status = parse_count(ctl, "window", CONVSTORE_WINDOW_MAX, &im->window);
        else
            im->wait = CONVSTORE_STORED;
    }
    if (status != CTL_OK)
        return status;
    if (optind != argc - 1)
        return ctl_usage(ctl, "import needs one FILE, or - for standard input");
    im->name = argv[optind];
    return CTL_OK;
}

static int open_input(struct import *im, uint64_t *ret_bytes)
{
    struct stat st;

    im->lines.fd = strcmp(im->name, "-") == 0 ? STDIN_FILENO : open(im->name, O_RDONLY | O_CLOEXEC);
    if (im->lines.fd < 0 || fstat(im->lines.fd, &st) != 0 || S_ISDIR(st.st_mode)) {
        fprintf(stderr, "convstorectl: %s: %s\n", im->name,
                im->lines.fd >= 0 ? strerror(EISDIR) : strerror(errno));
        return CTL_USAGE;
    }
    *ret_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    return CTL_OK;
}

static int open_connections(struct import *im)
{
    for (unsigned i = 0; i < im->connection_count; i++) {
        struct convstore *c;
        /* The first one tells whether there is a daemon; the others connect with their first line.
         */
        int status = i == 0 ? ctl_open(im->ctl, false, IMPORT_TIMEOUT_MS, &c)
                            : ctl_open_later(im->ctl, false, IMPORT_TIMEOUT_MS, &c);
        int code = 0;

        if (status == CTL_OK) {
            im->connections[i] = c;
            code = convstore_set_window(c, im->window, CONVSTORE_DEFAULT_WINDOW_BYTES);
        }
        if (code != 0)
            status = ctl_failed(c, code);
        if (status != CTL_OK)
            return status;
    }
    return CTL_OK;
}

static int import_all(struct import *im, uint64_t bytes)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND};
    int status;

    sigaction(SIGINT, &action, NULL); /* once: what is in flight is waited for; twice: ends */
    sigaction(SIGTERM, &action, NULL);
    ctl_report_start(&im->report, im->ctl, bytes);
    run(im);
    for (unsigned i = 0; i < im->connection_count; i++)
        im->report.retried_connections += convstore_reconnects(im->connections[i]);
    status = ctl_report_end(&im->report);
    if (im->lines.failed) {
        fprintf(stderr, "convstorectl: %s: %s; the import is not complete\n", im->name,
                strerror(im->lines.error));
        return status != CTL_OK ? status : CTL_REFUSED;
    }
    return status;
}

int ctl_run_import(struct ctl *ctl, int argc, char **argv)
{
    static struct import im;
    uint64_t bytes = 0;
    int status;

    im.ctl = ctl;
    im.connection_count = 1;
    im.window = DEFAULT_WINDOW;
    status = parse_options(&im, ctl, argc, argv);
    if (status == CTL_OK)
        status = open_input(&im, &bytes);
    if (status == CTL_OK)
        status = open_connections(&im);
    if (status == CTL_OK)
        status = import_all(&im, bytes);
    for (unsigned i = 0; i < im.connection_count; i++)
        convstore_close(im.connections[i]);
    ctl_lines_done(&im.lines);
    if (im.lines.fd > STDERR_FILENO)
        close(im.lines.fd);
    return status;
}
