/* Lines are put together in a buffer of their own and written with one write(2), so that the lines
 * of two threads never mix.
 *
 * The one hard thing is to tell the quotes of a line's format from those inside its values, which
 * come from servers and from peers. So the format's own are exchanged for a mark before the values
 * are put in. A value that holds a mark itself would tell lies about what follows it: then the
 * whole line after the event becomes one value.
 *
 * Repeats are counted by call site, which is the address of the format. The table is small and has
 * a lock of its own: a line costs a system call anyway. */
#include "daemon/log.h"

#include <assert.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/utf8.h"

#define TEXT_MAX_BYTES 1536
#define LINE_MAX_BYTES 4096 /* as JSON every byte of the text may become two */
#define FORMAT_MAX_BYTES 1024
#define SITES_MAX 128
#define MARK '\x01'

static atomic_int max_level = LOG_LEVEL_INFO;
static atomic_int line_format = LOG_FORMAT_TEXT;

/* One place in the code that logs. */
struct site {
    const char *format; /* NULL: free */
    enum log_level level;
    uint64_t since_ms; /* of its period */
    unsigned said, held_back;
};

static struct site sites[SITES_MAX];
static pthread_mutex_t sites_lock = PTHREAD_MUTEX_INITIALIZER;

struct line {
    char data[LINE_MAX_BYTES];
    size_t len;
};

void log_set_level(enum log_level level)
{
    atomic_store(&max_level, (int)level);
}

void log_set_format(enum log_format format)
{
    atomic_store(&line_format, (int)format);
}

static const char *level_name(enum log_level level)
{
    switch (level) {
    case LOG_LEVEL_ERROR:
        return "error";
    case LOG_LEVEL_WARNING:
        return "warning";
    case LOG_LEVEL_INFO:
        return "info";
    case LOG_LEVEL_DEBUG:
        return "debug";
    }
    abort();
}

enum log_level log_level_of(const char *name)
{
    static const enum log_level levels[] = {LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_DEBUG};

    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
        if (strcmp(name, level_name(levels[i])) == 0)
            return levels[i];
    return LOG_LEVEL_INFO;
}

enum log_format log_format_of(const char *name)
{
    return strcmp(name, "json") == 0 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT;
}

/* Repeats. */

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* NULL when the table is full: then nothing is held back. */
static struct site *site_of(const char *format)
{
    for (size_t i = 0; i < SITES_MAX; i++) {
        if (sites[i].format == NULL)
            sites[i].format = format;
        if (sites[i].format == format)
            return &sites[i];
    }
    return NULL;
}

static bool is_over(const struct site *site, uint64_t now)
{
    return now - site->since_ms >= LOG_PERIOD_MS;
}

/* Ends the site's period; true, with a copy, when lines were held back in it. */
static bool end_period(struct site *site, uint64_t now, struct site *ret)
{
    *ret = *site;
    site->since_ms = now;
    site->said = site->held_back = 0;
    return ret->held_back > 0;
}

static void say_held_back(const struct site *site)
{
    log_line(site->level, "log.held_back event=%.*s lines=%u seconds=%d",
             (int)strcspn(site->format, " %"), site->format, site->held_back, LOG_PERIOD_MS / 1000);
}

static bool may_say(enum log_level level, const char *format)
{
    struct site *site, over;
    uint64_t now = now_ms();
    bool ended = false, say = true;

    if (level == LOG_LEVEL_DEBUG)
        return true;
    pthread_mutex_lock(&sites_lock);
    site = site_of(format);
    if (site != NULL) {
        site->level = level;
        ended = is_over(site, now) && end_period(site, now, &over);
        say = site->said < LOG_BURST;
        site->said += say;
        site->held_back += !say;
    }
    pthread_mutex_unlock(&sites_lock);
    if (ended)
        say_held_back(&over);
    return say;
}

void log_held_back(bool all)
{
    uint64_t now = now_ms();

    for (size_t i = 0; i < SITES_MAX; i++) {
        struct site over;
        bool ended;

        pthread_mutex_lock(&sites_lock);
        ended = (all || is_over(&sites[i], now)) && end_period(&sites[i], now, &over);
        pthread_mutex_unlock(&sites_lock);
        if (ended)
            say_held_back(&over);
    }
}

/* Lines. */

static void put(struct line *line, char c)
{
    if (line->len < sizeof line->data - 1) /* the newline has its place */
        line->data[line->len++] = c;
}

static void put_text(struct line *line, const char *text)
{
    while (*text != '\0')
        put(line, *text++);
}

static void put_escaped(struct line *line, char c)
{
    if (c == '"' || c == '\\')
        put(line, '\\');
    put(line, c);
}

/* Whether systemd's journal reads stderr: it takes time and level from elsewhere; a person reading
 * stderr wants both in the line. */
static bool is_journal(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long device, inode;
    struct stat file;

    return stream != NULL && sscanf(stream, "%lu:%lu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &file) == 0 && file.st_dev == device && file.st_ino == inode;
}

static void put_time(struct line *line)
{
    char text[64];
    struct timespec now;
    struct tm utc;
    size_t len;

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    len = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + len, sizeof text - len, ".%03ldZ", now.tv_nsec / 1000000);
    put_text(line, text);
}

/* "event key=value key=\"value\"", the quotes being marks. */
static void put_as_text(struct line *line, const char *text)
{
    bool quoted = false;

    for (; *text != '\0'; text++) {
        if (*text == MARK) {
            quoted = !quoted;
            put(line, '"');
        } else if (quoted) {
            put_escaped(line, *text);
        } else {
            put(line, *text);
        }
    }
    if (quoted)
        put(line, '"'); /* it was cut */
}

/* An unquoted value goes on over blanks that no key follows. */
static size_t value_length(const char *text)
{
    size_t len = strcspn(text, " ");

    while (text[len] == ' ') {
        size_t key = strspn(text + len + 1, "abcdefghijklmnopqrstuvwxyz0123456789_");

        if (key > 0 && text[len + 1 + key] == '=')
            break;
        len += 1 + strcspn(text + len + 1, " ");
    }
    return len;
}

static void put_json_string(struct line *line, const char *text, size_t len)
{
    put(line, '"');
    for (size_t i = 0; i < len; i++)
        put_escaped(line, text[i] == MARK ? '?' : text[i]);
    put(line, '"');
}

/* The rest of an object that has begun; every value is a string. */
static void put_as_json(struct line *line, const char *text)
{
    size_t len = strcspn(text, " ");

    put_text(line, ",\"event\":");
    put_json_string(line, text, len);
    for (text += len; *text == ' '; text += len) {
        const char mark[] = {MARK, '\0'};
        bool quoted;

        len = strcspn(++text, "=");
        put(line, ',');
        put_json_string(line, text, len);
        put(line, ':');
        text += len + (text[len] == '=');
        quoted = *text == MARK;
        len = quoted ? strcspn(++text, mark) : value_length(text);
        put_json_string(line, text, len);
        text += quoted && text[len] == MARK;
    }
    put(line, '}');
}

static void write_line(enum log_level level, const char *text)
{
    struct line line = {.len = 0};
    bool journal = is_journal();

    if (journal) {
        put(&line, '<');
        put(&line, (char)('0' + level));
        put(&line, '>');
    }
    if (atomic_load_explicit(&line_format, memory_order_relaxed) == LOG_FORMAT_JSON) {
        put_text(&line, "{\"time\":\"");
        put_time(&line);
        put_text(&line, "\",\"level\":\"");
        put_text(&line, level_name(level));
        put(&line, '"');
        put_as_json(&line, text);
    } else {
        if (!journal) {
            put_time(&line);
            put(&line, ' ');
            put_text(&line, level_name(level));
            put(&line, ' ');
        }
        put_as_text(&line, text);
    }
    line.data[line.len++] = '\n';
    if (write(STDERR_FILENO, line.data, line.len) < 0)
        return; /* nowhere left to say it */
}

static void mark_quotes(const char *format, char ret[FORMAT_MAX_BYTES])
{
    size_t len = strlen(format);

    assert(len < FORMAT_MAX_BYTES);
    for (size_t i = 0; i <= len; i++)
        ret[i] = format[i] == '"' ? MARK : format[i];
}

static size_t count_marks(const char *text)
{
    size_t marks = 0;

    for (; *text != '\0'; text++)
        marks += *text == MARK;
    return marks;
}

/* "event key=..." becomes "event text=\"key=...\"". */
static void make_one_value(char text[TEXT_MAX_BYTES])
{
    char rest[TEXT_MAX_BYTES];
    size_t event = strcspn(text, " \x01");

    for (char *at = text; *at != '\0'; at++)
        if (*at == MARK)
            *at = '?';
    snprintf(rest, sizeof rest, "%s", text + event);
    snprintf(text + event, TEXT_MAX_BYTES - event, " text=%c%s%c", MARK, rest, MARK);
}

static void clean(char *text)
{
    bool is_utf8 = utf8_first_bad(text, strlen(text)) < 0;

    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;

        if ((c < 0x20 && c != MARK) || c == 0x7f || (c >= 0x80 && !is_utf8))
            *text = '?';
    }
}

void log_line(enum log_level level, const char *format, ...)
{
    char text[TEXT_MAX_BYTES], marked[FORMAT_MAX_BYTES];
    va_list args;

    if ((int)level > atomic_load_explicit(&max_level, memory_order_relaxed) ||
        !may_say(level, format))
        return;
    mark_quotes(format, marked);
    va_start(args, format);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* it has the literal's conversions */
    if (vsnprintf(text, sizeof text, marked, args) < 0)
        text[0] = '\0';
#pragma GCC diagnostic pop
    va_end(args);
    if (count_marks(text) > count_marks(marked))
        make_one_value(text);
    clean(text);
    write_line(level, text);
}
