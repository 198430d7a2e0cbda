/* convstored: options, start, loop, end. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

#include "daemon/config.h"
#include "daemon/log.h"
#include "daemon/server.h"

#define DEFAULT_CONFIG "/etc/convstore/convstored.conf"
#define MAX_SETTINGS 256

static const char usage[] =
    "Usage: convstored [--config FILE] [--set SECTION.KEY=VALUE]... [--check-config]\n"
    "Takes conversations on a Unix socket and stores them in PostgreSQL with their embeddings.\n"
    "\n"
    "  --config FILE            configuration (default: " DEFAULT_CONFIG ", if it is there)\n"
    "  --set SECTION.KEY=VALUE  one setting; stronger than file and environment\n"
    "  --check-config           print the configuration in force and exit\n"
    "  --version                print the version and exit\n"
    "  --help                   print this and exit\n"
    "\n"
    "Example: convstored --set listen.socket=/tmp/c.sock --set listen.control_socket=/tmp/ctl.sock "
    "\\\n"
    "           --set database.conninfo='host=/var/run/postgresql dbname=chat'\n";

struct options {
    const char *config;
    const char *set[MAX_SETTINGS + 1];
    bool check;
};

static void parse_options(int argc, char **argv, struct options *ret)
{
    static const struct option names[] = {
        {"config", required_argument, NULL, 'c'}, {"set", required_argument, NULL, 's'},
        {"check-config", no_argument, NULL, 'k'}, {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
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
        config_print(config, stdout);
        config_free(config);
        return EXIT_SUCCESS;
    }
    log_set_level(log_level_of(config->log.level));
    log_set_format(log_format_of(config->log.format));
    signal(SIGPIPE, SIG_IGN);
    uv_loop_init(&loop);
    if (server_start(&server, &loop, config, error) != 0) {
        fprintf(stderr, "convstored: %s\n", error);
        _exit(EXIT_FAILURE); /* threads may run already; nothing was accepted */
    }
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    stats_done(&server.stats);
    config_free(config);
    return EXIT_SUCCESS;
}
