/* convstorectl: the operators' tool. Here are the table of commands, the options that stand
 * everywhere, and the way to a daemon; each group of commands has a file of its own. A new command
 * is one entry of the table, its function and its help text. */
#include "client/convstorectl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_CONTROL_SOCKET "/run/convstore/control.sock"
#define OWN_OPTIONS_MAX 16
#define TIMEOUT_MAX_S 86400

static const struct ctl_command commands[] = {
    {"store", "store one conversation", ctl_store_help, ctl_run_store},
    {"import", "store conversations from JSON lines", ctl_import_help, ctl_run_import},
    {"status", "tell where a conversation is", ctl_status_help, ctl_run_status},
    {"get", "print one conversation", ctl_get_help, ctl_run_get},
    {"list", "list a user's conversations", ctl_list_help, ctl_run_list},
    {"search", "search a user's conversations", ctl_search_help, ctl_run_search},
    {"stats", "show how the daemon is: counters, alerts, timings", ctl_stats_help, ctl_run_stats},
    {"top", "watch the daemon live on the terminal", ctl_top_help, ctl_run_top},
    {"health", "one line and an exit status for monitors", ctl_health_help, ctl_run_health},
    {"metrics", "print the figures as Prometheus reads them", ctl_metrics_help, ctl_run_metrics},
    {"ping", "ask whether the daemon answers", ctl_ping_help, ctl_run_ping},
    {"flush", "write the whole backlog to the database now", ctl_flush_help, ctl_run_flush},
    {"reload", "have the daemon read its configuration again", ctl_reload_help, ctl_run_reload},
    {"journal", "show or verify what the daemon keeps on disk", ctl_journal_help, ctl_run_journal},
    {"dead-letters", "show, retry or drop what the database refused", ctl_dead_letters_help,
     ctl_run_dead_letters},
    {"embeddings", "show the models that made vectors, or drop one", ctl_embeddings_help,
     ctl_run_embeddings},
    {"reembed", "give every conversation a vector of the current model", ctl_reembed_help,
     ctl_run_reembed},
    {"migrate-vectors", "move vectors to the daemon's embedding.storage", ctl_migrate_vectors_help,
     ctl_run_migrate_vectors},
    {"forget", "erase what is stored of a user", ctl_forget_help, ctl_run_forget},
    {"schema", "print the SQL of the tables and the grants", ctl_schema_help, ctl_run_schema},
};

#define COMMANDS (sizeof commands / sizeof commands[0])

static const char usage[] = "Usage: convstorectl [OPTION…] COMMAND [ARGUMENT…]\n"
                            "\n"
                            "Talks to convstored, which stores conversations in PostgreSQL.\n"
                            "\n"
                            "Commands (convstorectl COMMAND --help tells more):\n";

static const char common_help[] =
    "\n"
    "Options of every command:\n"
    "  --socket PATH      the daemon's socket (default: $CONVSTORE_SOCKET, else\n"
    "                     " CONVSTORE_DEFAULT_SOCKET ")\n"
    "  --control PATH     its control socket, for flush and other operators' commands (default:\n"
    "                     $CONVSTORE_CONTROL_SOCKET, else control.sock beside the socket given,\n"
    "                     else " DEFAULT_CONTROL_SOCKET ")\n"
    "  --timeout SECONDS  give up after this time, tries again included (default: 5; 30 for\n"
    "                     import, status, get, list and search; 60 for flush; 600 for\n"
    "                     dead-letters and forget; 3600 for embeddings, reembed and\n"
    "                     migrate-vectors; 1 for each look of top and stats --watch)\n"
    "  --json             results as JSON\n"
    "  --version          show the version and end\n"
    "  --help             show this help, or a command's, and end\n"
    "\n"
    "Exit status:\n"
    "  0  done\n"
    "  1  refused by the daemon, or some of the items failed\n"
    "  2  the command line is wrong\n"
    "  3  no connection, or no answer within the time-out\n";

static const char examples[] =
    "\n"
    "Examples:\n"
    "  convstorectl ping\n"
    "  convstorectl import conversations.jsonl\n"
    "  convstorectl store --user u1 --platform web --transcript @chat.txt\n"
    "  convstorectl stats --json | jq .queued\n"
    "  convstorectl top\n";

static void print_help(const struct ctl *ctl)
{
    if (ctl->command != NULL) {
        printf("%s%s", ctl->command->help, common_help);
        return;
    }
    fputs(usage, stdout);
    for (size_t i = 0; i < COMMANDS; i++)
        printf("  %-16s %s\n", commands[i].name, commands[i].summary);
    printf("%s%s", common_help, examples);
}

int ctl_usage(const struct ctl *ctl, const char *format, ...)
{
    va_list args;

    fputs("convstorectl: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; see convstorectl%s%s --help\n", ctl->command != NULL ? " " : "",
            ctl->command != NULL ? ctl->command->name : "");
    return CTL_USAGE;
}

/* ---- options ---- */

enum {
    OPTION_SOCKET = 1,
    OPTION_CONTROL,
    OPTION_TIMEOUT,
    OPTION_JSON,
    OPTION_VERSION,
    OPTION_HELP
};

static const struct option common_options[] = {
    {"socket", required_argument, NULL, OPTION_SOCKET},
    {"control", required_argument, NULL, OPTION_CONTROL},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"json", no_argument, NULL, OPTION_JSON},
    {"version", no_argument, NULL, OPTION_VERSION},
    {"help", no_argument, NULL, OPTION_HELP},
};

#define COMMON_OPTIONS (sizeof common_options / sizeof common_options[0])

static void take_timeout(struct ctl *ctl)
{
    char *end;
    double seconds = strtod(optarg, &end);

    if (end == optarg || *end != '\0' || !(seconds >= 0.001 && seconds <= TIMEOUT_MAX_S))
        exit(ctl_usage(ctl, "--timeout %s: must be 0.001 to %d seconds", optarg, TIMEOUT_MAX_S));
    ctl->timeout_ms = (unsigned)(seconds * 1000 + 0.5);
}

/* True when it was one of them. */
static bool take_common(struct ctl *ctl, int option)
{
    switch (option) {
    case OPTION_SOCKET:
        ctl->socket = optarg;
        return true;
    case OPTION_CONTROL:
        ctl->control = optarg;
        return true;
    case OPTION_TIMEOUT:
        take_timeout(ctl);
        return true;
    case OPTION_JSON:
        ctl->json = true;
        return true;
    case OPTION_VERSION:
        printf("convstorectl %s\n", convstore_version());
        exit(CTL_OK);
    case OPTION_HELP:
        print_help(ctl);
        exit(CTL_OK);
    default:
        return false;
    }
}

int ctl_getopt(struct ctl *ctl, int argc, char **argv, const struct option *own)
{
    struct option all[COMMON_OPTIONS + OWN_OPTIONS_MAX + 1];
    size_t count = COMMON_OPTIONS;
    int option;

    memcpy(all, common_options, sizeof common_options);
    while (own != NULL && own->name != NULL) {
        assert(count < COMMON_OPTIONS + OWN_OPTIONS_MAX);
        all[count++] = *own++;
    }
    memset(&all[count], 0, sizeof all[count]);
    opterr = 0;
    do {
        int at = optind;

        /* Before the command's name, the first argument that is no option ends the options. */
        option = getopt_long(argc, argv, ctl->command == NULL ? "+:" : ":", all, NULL);
        if (option == '?')
            exit(ctl_usage(ctl, "unknown option %s", argv[at > 0 ? at : 1]));
        if (option == ':')
            exit(ctl_usage(ctl, "%s needs a value", argv[at > 0 ? at : 1]));
    } while (take_common(ctl, option));
    return option;
}

int ctl_no_arguments(const struct ctl *ctl, int argc, char **argv)
{
    if (optind < argc)
        return ctl_usage(ctl, "unexpected argument \"%s\"", argv[optind]);
    return CTL_OK;
}

/* ---- the daemon ---- */

int ctl_exit_of(int code)
{
    if (code == 0)
        return CTL_OK;
    return code >= CONVSTORE_CANNOT_CONNECT ? CTL_UNREACHABLE : CTL_REFUSED;
}

int ctl_failed(const struct convstore *c, int code)
{
    fprintf(stderr, "convstorectl: %s: %s\n", convstore_code_name(code), convstore_error_text(c));
    return ctl_exit_of(code);
}

unsigned ctl_timeout_ms(const struct ctl *ctl, unsigned default_ms)
{
    return ctl->timeout_ms > 0 ? ctl->timeout_ms : default_ms;
}

/* control.sock beside the socket that was given; where there is none, that socket itself, so that
 * the control socket may also be named with --socket. buffer: of at least strlen(socket) + 16. */
static const char *control_beside(const char *socket, char *buffer)
{
    const char *slash = strrchr(socket, '/');
    int directory = slash != NULL ? (int)(slash - socket) + 1 : 0;

    sprintf(buffer, "%.*scontrol.sock", directory, socket);
    return access(buffer, F_OK) == 0 ? buffer : socket;
}

static const char *control_path(const struct ctl *ctl, char *buffer)
{
    if (ctl->control != NULL)
        return ctl->control;
    return ctl->socket != NULL ? control_beside(ctl->socket, buffer) : DEFAULT_CONTROL_SOCKET;
}

int ctl_open_later(const struct ctl *ctl, bool control, unsigned default_timeout_ms,
                   struct convstore **ret)
{
    char *buffer = malloc((ctl->socket != NULL ? strlen(ctl->socket) : 0) + 16);
    const char *path = ctl->socket != NULL ? ctl->socket : CONVSTORE_DEFAULT_SOCKET;
    int code;

    if (buffer == NULL) {
        fputs("convstorectl: out of memory\n", stderr);
        return CTL_REFUSED;
    }
    if (control)
        path = control_path(ctl, buffer);
    code = convstore_open(path, ret);
    if (code == CONVSTORE_INVALID_ARGUMENT)
        fprintf(stderr, "convstorectl: %s: a Unix socket's path has 1 to 107 bytes\n", path);
    else if (code != 0)
        fputs("convstorectl: out of memory\n", stderr);
    free(buffer);
    if (code != 0)
        return code == CONVSTORE_INVALID_ARGUMENT ? CTL_USAGE : CTL_REFUSED;
    convstore_set_timeout(*ret, ctl_timeout_ms(ctl, default_timeout_ms));
    return CTL_OK;
}

int ctl_open(const struct ctl *ctl, bool control, unsigned default_timeout_ms,
             struct convstore **ret)
{
    int status = ctl_open_later(ctl, control, default_timeout_ms, ret);
    int code;

    if (status != CTL_OK)
        return status;
    code = convstore_connect(*ret);
    if (code != 0) {
        status = ctl_failed(*ret, code);
        convstore_close(*ret);
        *ret = NULL;
    }
    return status;
}

int ctl_run_plain(struct ctl *ctl, int argc, char **argv, const char *method,
                  int (*show)(const struct ctl *ctl, const char *json))
{
    const char *json;
    struct convstore *c;
    int status, code;

    while (ctl_getopt(ctl, argc, argv, NULL) != -1) {
    }
    status = ctl_no_arguments(ctl, argc, argv);
    if (status == CTL_OK)
        status = ctl_open(ctl, true, CONVSTORE_DEFAULT_TIMEOUT_MS, &c);
    if (status != CTL_OK)
        return status;
    code = convstore_call(c, method, NULL, 0, &json);
    status = code == 0 ? show(ctl, json) : ctl_failed(c, code);
    convstore_close(c);
    return status;
}

/* ---- main ---- */

static const struct ctl_command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value != NULL && value[0] != '\0' ? value : NULL;
}

int main(int argc, char **argv)
{
    struct ctl ctl = {.socket = environment("CONVSTORE_SOCKET"),
                      .control = environment("CONVSTORE_CONTROL_SOCKET")};
    int first, status;

    while (ctl_getopt(&ctl, argc, argv, NULL) != -1) {
    }
    if (optind == argc)
        return ctl_usage(&ctl, "no command given");
    first = optind;
    ctl.command = find_command(argv[first]);
    if (ctl.command == NULL)
        return ctl_usage(&ctl, "unknown command \"%s\"", argv[first]);
    optind = 0; /* getopt starts anew on the command's own arguments */
    status = ctl.command->run(&ctl, argc - first, argv + first);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("convstorectl: standard output");
        return status != CTL_OK ? status : CTL_REFUSED;
    }
    return status;
}
