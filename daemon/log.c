/* Lines are put together in a buffer of their own and written with one write(2), so that the lines
 * of two threads never mix. The level is the only state: an atomic, set by the loop, read by all.
 */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048

static atomic_int max_level = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    atomic_store(&max_level, (int)level);
}

/* systemd's journal takes time and level from elsewhere; a person reading stderr wants both in the
 * line. */
static size_t write_prefix(char *line, size_t size, enum log_level level)
{
    static const char *const names[] = {[LOG_LEVEL_ERROR] = "error",
                                        [LOG_LEVEL_WARNING] = "warning",
                                        [LOG_LEVEL_INFO] = "info",
                                        [LOG_LEVEL_DEBUG] = "debug"};
    struct timespec now;
    struct tm utc;
    size_t len;

    if (getenv("JOURNAL_STREAM") != NULL)
        return (size_t)snprintf(line, size, "<%d>", (int)level);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    len = strftime(line, size, "%Y-%m-%dT%H:%M:%S", &utc);
    return len + (size_t)snprintf(line + len, size - len, ".%03ldZ %s ", now.tv_nsec / 1000000,
                                  names[level]);
}

void log_line(enum log_level level, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    size_t start, len;
    va_list args;
    int n;

    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed))
        return;
    start = write_prefix(line, sizeof line, level);
    va_start(args, format);
    n = vsnprintf(line + start, sizeof line - start - 1, format, args);
    va_end(args);
    len = start + (n < 0 ? 0 : (size_t)n);
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    for (size_t i = start; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[len] = '\n';
    if (write(STDERR_FILENO, line, len + 1) < 0)
        return; /* nowhere left to say it */
}
