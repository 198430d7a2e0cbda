/* Numbers as text, three digits where more would say nothing, and sparklines. */
#include "client/convstorectl_units.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "client/convstorectl.h"

static const char *unknown(char buffer[UNITS_SIZE])
{
    return strcpy(buffer, "-");
}

const char *units_count(char buffer[UNITS_SIZE], int64_t count)
{
    if (count < 0)
        return unknown(buffer);
    if (count < 1000000000)
        return ctl_grouped(count, buffer);
    ctl_grouped(count / 1000000, buffer);
    return strcat(buffer, " M");
}

const char *units_rate(char buffer[UNITS_SIZE], double per_s)
{
    if (!(per_s >= 0) || per_s > 1e12)
        return unknown(buffer);
    if (per_s > 0 && per_s < 9.95)
        snprintf(buffer, UNITS_SIZE, "%.1f", per_s);
    else
        ctl_grouped((int64_t)(per_s + 0.5), buffer);
    return strcat(buffer, "/s");
}

/* Three digits, and no unit that would make four of them by rounding. */
static const char *three_digits(char buffer[UNITS_SIZE], double value, const char *unit)
{
    int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;

    snprintf(buffer, UNITS_SIZE, "%.*f %s", decimals, value, unit);
    return buffer;
}

const char *units_bytes(char buffer[UNITS_SIZE], int64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes / 1024;
    size_t unit = 0;

    if (bytes < 0)
        return unknown(buffer);
    if (bytes < 1024) {
        snprintf(buffer, UNITS_SIZE, "%d B", (int)bytes);
        return buffer;
    }
    while (value >= 999.5 && unit + 1 < sizeof units / sizeof units[0]) {
        value /= 1024;
        unit++;
    }
    return three_digits(buffer, value, units[unit]);
}

const char *units_ms(char buffer[UNITS_SIZE], double ms)
{
    if (!(ms >= 0) || ms > 1e15)
        return unknown(buffer);
    if (ms > 0 && ms < 0.0995) {
        snprintf(buffer, UNITS_SIZE, "%.0f us", ms * 1000);
        return buffer;
    }
    if (ms < 999.5)
        return ms > 0 ? three_digits(buffer, ms, "ms") : strcpy(buffer, "0 ms");
    if (ms < 99.95e3)
        return three_digits(buffer, ms / 1e3, "s");
    if (ms < 99.95 * 60e3)
        return three_digits(buffer, ms / 60e3, "min");
    if (ms < 99.95 * 3600e3)
        return three_digits(buffer, ms / 3600e3, "h");
    return three_digits(buffer, ms / 86400e3, "d");
}

const char *units_age(char buffer[UNITS_SIZE], int64_t seconds)
{
    static const struct {
        int64_t seconds;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    size_t i = 0;
    int64_t rest;
    int len;

    if (seconds < 0)
        return unknown(buffer);
    while (i < 3 && seconds < units[i].seconds)
        i++;
    rest = seconds % units[i].seconds;
    len = snprintf(buffer, UNITS_SIZE, "%lld %s", (long long)(seconds / units[i].seconds),
                   units[i].name);
    if (i < 3 && rest >= units[i + 1].seconds)
        snprintf(buffer + len, UNITS_SIZE - (size_t)len, " %lld %s",
                 (long long)(rest / units[i + 1].seconds), units[i + 1].name);
    return buffer;
}

const char *units_share(char buffer[UNITS_SIZE], double share)
{
    if (!(share >= 0) || share > 1e6)
        return unknown(buffer);
    snprintf(buffer, UNITS_SIZE, "%.1f %%", share * 100);
    return buffer;
}

const char *units_mean(char buffer[UNITS_SIZE], double value)
{
    if (!(value >= 0) || value > 1e15)
        return unknown(buffer);
    if (value >= 99.5)
        return units_count(buffer, (int64_t)(value + 0.5));
    snprintf(buffer, UNITS_SIZE, "%.3g", value);
    return buffer;
}

/* ---- sparklines ---- */

#define SPARK_LEVELS 8

static const char *spark(double value, double most, bool utf8)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
    int level;

    if (!(value >= 0))
        return " ";
    /* The lowest level is 0 alone, so that a little is told from nothing. */
    level = most > 0 ? (int)ceil(value / most * (SPARK_LEVELS - 1)) : 0;
    return (utf8 ? blocks : ascii)[level];
}

void units_sparkline(char *out, const double *values, size_t count, int width, bool utf8)
{
    size_t shown = width < 0 ? 0 : count < (size_t)width ? count : (size_t)width;
    double most = 0;

    *out = '\0';
    values += count - shown;
    for (size_t i = 0; i < shown; i++)
        most = fmax(most, values[i]);
    for (size_t i = 0; i < shown; i++)
        out = stpcpy(out, spark(values[i], most, utf8));
}
