/* A scrape is refused as a whole where one label's text is no UTF-8, so bytes that are none are
 * written as "?".
 *
 * The loop writes this while services wait: so whole numbers go past printf's slow way with
 * doubles, and each histogram is walked once. */
#include "daemon/exposition.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "proto/utf8.h"

#define MICROSECONDS 1e6
#define DIGITS 15 /* whole counts up to 10^15, and no noise behind 0.1 */
#define WHOLE_MAX 1e15

/* Upper bounds in microseconds: from a fast sync to a drain that hangs. 5 ms, 100 ms and 500 ms are
 * the promises for an ack, a query and an embedding. */
static const uint64_t bounds_us[] = {
    100,    250,    500,     1000,    2500,    5000,     10000,    25000,    50000,     100000,
    250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000,
};
#define BOUNDS (sizeof bounds_us / sizeof bounds_us[0])

/* The same in seconds. */
static const char *const bounds_text[BOUNDS] = {
    "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1",
    "0.25",   "0.5",     "1",      "2.5",   "5",      "10",    "30",   "60",    "300",
};

void exposition_family(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void write_text(FILE *out, const char *text)
{
    bool utf8 = utf8_first_bad(text, strlen(text)) < 0;

    if (utf8 && strpbrk(text, "\\\"\n") == NULL) {
        fputs(text, out);
        return;
    }
    for (; *text != '\0'; text++) {
        if (*text == '\\' || *text == '"')
            putc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            putc((*text & 0x80) != 0 && !utf8 ? '?' : *text, out);
    }
}

static void write_value(FILE *out, double value)
{
    if (fabs(value) < WHOLE_MAX && value == trunc(value))
        fprintf(out, " %" PRId64 "\n", (int64_t)value);
    else
        fprintf(out, " %.*g\n", DIGITS, value);
}

void exposition_sample(FILE *out, const char *name, double value, ...)
{
    const char *label;
    char before = '{';
    va_list args;

    fputs(name, out);
    va_start(args, value);
    while ((label = va_arg(args, const char *)) != NULL) {
        putc(before, out);
        fputs(label, out);
        fputs("=\"", out);
        write_text(out, va_arg(args, const char *));
        putc('"', out);
        before = ',';
    }
    va_end(args);
    if (before == ',')
        putc('}', out);
    write_value(out, value);
}

void exposition_counter(FILE *out, const char *name, const char *help, double value)
{
    exposition_family(out, name, "counter", help);
    exposition_sample(out, name, value, NULL);
}

void exposition_gauge(FILE *out, const char *name, const char *help, double value)
{
    exposition_family(out, name, "gauge", help);
    exposition_sample(out, name, value, NULL);
}

void exposition_histogram(FILE *out, const char *name, const char *label, const char *text,
                          const struct histogram *h)
{
    uint64_t counts[BOUNDS];
    char part[128];

    snprintf(part, sizeof part, "%s_bucket", name);
    histogram_counts_to(h, bounds_us, BOUNDS, counts);
    for (size_t i = 0; i < BOUNDS; i++)
        exposition_sample(out, part, (double)counts[i], label, text, "le", bounds_text[i], NULL);
    exposition_sample(out, part, (double)h->count, label, text, "le", "+Inf", NULL);
    snprintf(part, sizeof part, "%s_sum", name);
    exposition_sample(out, part, (double)h->sum / MICROSECONDS, label, text, NULL);
    snprintf(part, sizeof part, "%s_count", name);
    exposition_sample(out, part, (double)h->count, label, text, NULL);
}
