/* One line an event on stderr, as key=value or as JSON, with sd-daemon's level prefixes when
 * systemd reads it. Any thread. Never log a transcript, a key or a password. */
#ifndef DAEMON_LOG_H
#define DAEMON_LOG_H

#include <stdbool.h>

enum log_level {
    LOG_LEVEL_ERROR = 3,
    LOG_LEVEL_WARNING = 4,
    LOG_LEVEL_INFO = 6,
    LOG_LEVEL_DEBUG = 7
};

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* At any time: it holds from the next line on. What is less than `level` is not logged. */
void log_set_level(enum log_level level);
void log_set_format(enum log_format format);

/* The values of log.level and log.format. */
enum log_level log_level_of(const char *name);
enum log_format log_format_of(const char *name);

/* The format is a literal: "event key=value key=\"value with blanks\"". Quotes inside a value are
 * escaped, a control character is written as ?. A line that comes more than LOG_BURST times within
 * LOG_PERIOD_MS is held back and counted (but for debug). */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define LOG_BURST 20
#define LOG_PERIOD_MS 10000

/* Says how many lines were held back: where their period is over (about once a second), or, at the
 * end, all. */
void log_held_back(bool all);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
