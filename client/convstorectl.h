/* convstorectl: what its commands share. One thread; errors go to stderr, results to stdout. */
#ifndef CONVSTORECTL_H
#define CONVSTORECTL_H

#include <getopt.h>
#include <jansson.h>
#include <msgpack.h>
#include <stdbool.h>
#include <stdint.h>

#include "client/convstore.h"

enum ctl_exit {
    CTL_OK = 0,
    CTL_REFUSED = 1,     /* by the daemon, or some items failed */
    CTL_USAGE = 2,       /* the command line is wrong */
    CTL_UNREACHABLE = 3, /* cannot connect, or the time is over */
};

struct ctl {
    const char *socket;  /* NULL: the default */
    const char *control; /* NULL: the default */
    bool json;
    unsigned timeout_ms; /* 0: the command's own default */
    const struct ctl_command *command;
};

struct ctl_command {
    const char *name;
    const char *summary; /* one line of --help */
    const char *help;    /* usage, options, examples */
    int (*run)(struct ctl *ctl, int argc, char **argv);
};

/* The commands, each in its topic's file. argv[0] is the command's name. They return an exit code.
 */
int ctl_run_store(struct ctl *ctl, int argc, char **argv);
int ctl_run_import(struct ctl *ctl, int argc, char **argv);
int ctl_run_status(struct ctl *ctl, int argc, char **argv);
int ctl_run_get(struct ctl *ctl, int argc, char **argv);
int ctl_run_list(struct ctl *ctl, int argc, char **argv);
int ctl_run_search(struct ctl *ctl, int argc, char **argv);
int ctl_run_stats(struct ctl *ctl, int argc, char **argv);
int ctl_run_top(struct ctl *ctl, int argc, char **argv);
int ctl_run_health(struct ctl *ctl, int argc, char **argv);
int ctl_run_metrics(struct ctl *ctl, int argc, char **argv);
int ctl_run_ping(struct ctl *ctl, int argc, char **argv);
int ctl_run_flush(struct ctl *ctl, int argc, char **argv);
int ctl_run_reload(struct ctl *ctl, int argc, char **argv);
int ctl_run_journal(struct ctl *ctl, int argc, char **argv);
int ctl_run_dead_letters(struct ctl *ctl, int argc, char **argv);
int ctl_run_embeddings(struct ctl *ctl, int argc, char **argv);
int ctl_run_reembed(struct ctl *ctl, int argc, char **argv);
int ctl_run_migrate_vectors(struct ctl *ctl, int argc, char **argv);
int ctl_run_forget(struct ctl *ctl, int argc, char **argv);
int ctl_run_schema(struct ctl *ctl, int argc, char **argv);
extern const char ctl_store_help[], ctl_import_help[], ctl_stats_help[], ctl_ping_help[],
    ctl_flush_help[], ctl_journal_help[], ctl_dead_letters_help[], ctl_schema_help[],
    ctl_embeddings_help[], ctl_reembed_help[], ctl_migrate_vectors_help[], ctl_top_help[],
    ctl_health_help[], ctl_metrics_help[], ctl_reload_help[], ctl_status_help[], ctl_get_help[],
    ctl_list_help[], ctl_search_help[], ctl_forget_help[];

/* ---- convstorectl.c ---- */

/* getopt_long() over own (ends with a zero entry; values from 256 on) and the options that stand
 * everywhere, which are handled in here: --help exits, a wrong option exits with CTL_USAGE. The
 * next of own's values, or -1 at the end. */
int ctl_getopt(struct ctl *ctl, int argc, char **argv, const struct option *own);

/* Refuses arguments behind the options. */
int ctl_no_arguments(const struct ctl *ctl, int argc, char **argv);

/* Says what is wrong with the command line; returns CTL_USAGE. */
int ctl_usage(const struct ctl *ctl, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Says an error of c's last call; returns the exit code that code asks for. */
int ctl_failed(const struct convstore *c, int code);
int ctl_exit_of(int code);

/* Opens and connects, to the control socket where control is set. 0, or an exit code when it has
 * said why. */
int ctl_open(const struct ctl *ctl, bool control, unsigned default_timeout_ms,
             struct convstore **ret);

/* The same without connecting: the first call does. */
int ctl_open_later(const struct ctl *ctl, bool control, unsigned default_timeout_ms,
                   struct convstore **ret);

/* A whole command without options of its own: calls method, without parameters, on the control
 * socket, and shows what it returns. Returns the exit code, which is show's where that is called.
 */
int ctl_run_plain(struct ctl *ctl, int argc, char **argv, const char *method,
                  int (*show)(const struct ctl *ctl, const char *json));

unsigned ctl_timeout_ms(const struct ctl *ctl, unsigned default_ms);

/* ---- convstorectl_print.c ---- */

/* A result on stdout: as it is with --json, else as an aligned page of whatever it holds. Returns
 * CTL_OK. */
int ctl_print_result(const struct ctl *ctl, const char *json);

/* A title and a text as it is, but for what would play with the terminal. */
void ctl_print_text(const char *title, const char *text);

/* 1234567 as 1,234,567. */
const char *ctl_grouped(int64_t n, char buffer[32]);

/* ---- convstorectl_item.c: JSON -> conversation ---- */

#define CTL_WHY_SIZE 200

struct ctl_item {
    struct convstore_conversation conversation; /* points into root and metadata */
    json_t *root;
    msgpack_sbuffer metadata;
};

void ctl_item_init(struct ctl_item *item);
void ctl_item_done(struct ctl_item *item);

/* NULL with why (which quotes nothing of the text). Duplicate keys are refused, NUL is not. */
json_t *ctl_parse_json(const char *text, size_t len, char why[CTL_WHY_SIZE])
    __attribute__((warn_unused_result));

/* Reads one line of an import. 0, or -1 with why. */
int ctl_item_parse(struct ctl_item *item, const char *line, size_t len, char why[CTL_WHY_SIZE])
    __attribute__((warn_unused_result));

/* Packs a metadata object (borrowed) and points the conversation at it. */
int ctl_item_set_metadata(struct ctl_item *item, json_t *metadata, char why[CTL_WHY_SIZE])
    __attribute__((warn_unused_result));

/* Milliseconds since 1970 as an integer, or RFC 3339. 0, or -1. */
int ctl_parse_time(const char *text, int64_t *ret_us) __attribute__((warn_unused_result));

/* ---- convstorectl_lines.c: lines from a descriptor that may be slow ---- */

#define CTL_LINE_MAX_BYTES (64 * 1024 * 1024)

struct ctl_lines {
    int fd;
    bool at_end;   /* the descriptor has no more */
    bool skipping; /* inside a line that was too long */
    bool failed;   /* read(2) failed: errno is in error */
    int error;
    char *data;
    size_t start, len, capacity; /* unread bytes: data[start, start + len) */
    size_t looked;               /* of these, bytes known to hold no newline */
    uint64_t number;             /* of the last line that was returned, from 1 */
    uint64_t consumed;           /* bytes of the lines returned so far */
};

enum ctl_line { CTL_LINE, CTL_LINE_TOO_LONG, CTL_LINE_NEEDS_INPUT, CTL_LINE_END };

/* The next line, without its newline; good until ctl_lines_fill(). */
enum ctl_line ctl_lines_next(struct ctl_lines *lines, const char **ret, size_t *ret_len);

/* One read(2), after CTL_LINE_NEEDS_INPUT. */
void ctl_lines_fill(struct ctl_lines *lines);
void ctl_lines_done(struct ctl_lines *lines);

/* ---- convstorectl_report.c: what an import says of itself ---- */

#define LATENCY_BUCKETS 1024

struct ctl_report {
    bool json, terminal;
    int64_t started_us, shown_us;
    bool bar_shown;
    uint64_t total_bytes; /* 0: not known */
    uint64_t read, acked, refused, bad, unanswered, retried_connections;
    uint64_t first_unanswered; /* line */
    bool interrupted;
    char gave_up[CONVSTORE_TEXT_SIZE]; /* why; empty: it did not */
    uint32_t latency[LATENCY_BUCKETS];
};

int64_t ctl_now_us(void);
void ctl_report_start(struct ctl_report *report, const struct ctl *ctl, uint64_t total_bytes);
void ctl_report_latency(struct ctl_report *report, int64_t us);
void ctl_report_progress(struct ctl_report *report, uint64_t bytes);
int ctl_report_interval_ms(const struct ctl_report *report);

/* One line on stderr about one line of the input. */
void ctl_report_line(struct ctl_report *report, uint64_t line, const char *name, const char *text);

/* The end line, on stdout. Returns the exit code. */
int ctl_report_end(struct ctl_report *report);

#endif
