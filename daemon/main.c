/* convstored: options, start, loop, end. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/check.h"
#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/server.h"

#define DEFAULT_CONFIG "/etc/convstore/convstored.conf"
#define MAX_SETTINGS 256

static const char usage[] =
    "Usage: convstored [--config FILE] [--set SECTION.KEY=VALUE]... [--check-config [--connect]]\n"
    "Takes conversations on a Unix socket and stores them in PostgreSQL with their embeddings.\n"
    "\n"
    "  --config FILE            configuration (default: " DEFAULT_CONFIG ", if it is there)\n"
    "  --set SECTION.KEY=VALUE  one setting; stronger than file and environment\n"
    "  --check-config           print the configuration in force and exit\n"
    "  --connect                with it: try the database and the embedder too, and say what is "
    "found\n"
    "  --version                print the version and exit\n"
    "  --help                   print this and exit\n"
    "\n"
    "Example: convstored --set listen.socket=/tmp/c.sock --set listen.control_socket=/tmp/ctl.sock "
    "\\\n"
    "           --set journal.directory=/tmp/journal \\\n"
    "           --set database.conninfo='host=/var/run/postgresql dbname=chat'\n";

struct options {
    const char *config;
    const char *set[MAX_SETTINGS + 1];
    bool check, connect;
};

static void parse_options(int argc, char **argv, struct options *ret)
{
    static const struct option names[] = {{"config", required_argument, NULL, 'c'},
                                          {"set", required_argument, NULL, 's'},
                                          {"check-config", no_argument, NULL, 'k'},
                                          {"connect", no_argument, NULL, 'n'},
                                          {"version", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    size_t settings = 0;
    int option;

    while ((option = getopt_long(argc, argv, "c:s:h", names, NULL)) != -1) {
        switch (option) {
        case 'c':
            ret->config = optarg;
            break;
        case 's':
            if (settings == MAX_SETTINGS) {
                fprintf(stderr, "convstored: more than %d --set; use a file\n", MAX_SETTINGS);
                exit(2);
            }
            ret->set[settings++] = optarg;
            break;
        case 'k':
            ret->check = true;
            break;
        case 'n':
            ret->connect = true;
            break;
        case 'v':
            puts("convstored " CONVSTORE_VERSION);
            exit(EXIT_SUCCESS);
        case 'h':
            fputs(usage, stdout);
            exit(EXIT_SUCCESS);
        default:
            exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "convstored: unexpected argument %s; see --help\n", argv[optind]);
        exit(2);
    }
    if (ret->connect && !ret->check) {
        fprintf(stderr, "convstored: --connect goes with --check-config; see --help\n");
        exit(2);
    }
}

/* The exit status. */
static int check(const struct config *config, bool connect)
{
    bool good;

    config_print(config, stdout);
    if (connect)
        putchar('\n');
    good = !connect || check_connect(config, stdout);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    static struct server server; /* static: what a failed start leaves behind stays reachable */
    static uv_loop_t loop;
    struct options options = {0};
    struct config_source source;
    struct config *config;
    char error[512];

    parse_options(argc, argv, &options);
    source.file = options.config;
    source.set = options.set;
    if (source.file == NULL && access(DEFAULT_CONFIG, F_OK) == 0)
        source.file = DEFAULT_CONFIG;
    if (config_load(&source, &config, error) != 0) {
        fprintf(stderr, "convstored: %s\n", error);
        return EXIT_FAILURE;
    }
    if (options.check) {
        int status = check(config, options.connect);

        config_release(config);
        return status;
    }
    log_set_level(log_level_of(config->log.level));
    log_set_format(log_format_of(config->log.format));
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN); /* until the server listens for it: this start reads the file anyway */
    uv_loop_init(&loop);
    if (server_start(&server, &loop, &source, config, error) != 0) {
        fprintf(stderr, "convstored: %s\n", error);
        _exit(EXIT_FAILURE); /* threads may run already; nothing was accepted */
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    stats_done(&server.stats);
    config_release(server.config);
    config_release(config);
    return EXIT_SUCCESS;
}
