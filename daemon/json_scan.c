/* A cursor over JSON text. Owns nothing, allocates nothing.
 *
 * The hard thing is the speed of numbers: strtod() looks at the locale and rounds the last bit of a
 * double, where a float is wanted. Here up to 19 digits are gathered as a whole number and scaled
 * once by an exact power of ten: at most half a float's last bit and a little off. */
#include "daemon/json_scan.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define DIGITS_MAX 19     /* what a uint64_t holds whatever the digits are */
#define EXPONENT_MAX 9999 /* further digits change nothing: it is zero or infinite by then */

static void skip_blanks(struct json_scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\n' || *s->at == '\r' || *s->at == '\t'))
        s->at++;
}

struct json_scan json_scan_start(struct slice text)
{
    return (struct json_scan){text.data, text.data + text.len};
}

bool json_scan_take(struct json_scan *s, char c)
{
    skip_blanks(s);
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

bool json_scan_at_end(struct json_scan *s)
{
    skip_blanks(s);
    return s->at == s->end;
}

int json_scan_string(struct json_scan *s, struct slice *ret)
{
    const char *start;

    if (!json_scan_take(s, '"'))
        return -EBADMSG;
    start = s->at;
    while (s->at < s->end && *s->at != '"') {
        if ((unsigned char)*s->at < 0x20)
            return -EBADMSG;
        if (*s->at == '\\' && ++s->at == s->end)
            return -EBADMSG;
        s->at++;
    }
    if (s->at == s->end)
        return -EBADMSG;
    *ret = (struct slice){start, (size_t)(s->at - start)};
    s->at++;
    return 0;
}

static bool is_digit(const struct json_scan *s)
{
    return s->at < s->end && *s->at >= '0' && *s->at <= '9';
}

static bool take_word(struct json_scan *s, const char *word)
{
    size_t len = strlen(word);

    if ((size_t)(s->end - s->at) < len || memcmp(s->at, word, len) != 0)
        return false;
    s->at += len;
    return true;
}

/* value * 10^exponent, by powers of ten that a double holds exactly. */
static double scale(double value, int exponent)
{
    static const double powers[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                      1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                      1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

    for (; exponent > 22 && value != 0 && isfinite(value); exponent -= 22)
        value *= powers[22];
    for (; exponent < -22 && value != 0; exponent += 22)
        value /= powers[22];
    if (value == 0 || !isfinite(value))
        return value;
    return exponent < 0 ? value / powers[-exponent] : value * powers[exponent];
}

/* The number's digits so far. */
struct digits {
    uint64_t value;
    int count;   /* digits in value, leading zeros apart */
    int dropped; /* digits before the point that did not fit */
    int fraction;
};

static int take_digits(struct json_scan *s, struct digits *d, bool fraction)
{
    if (!is_digit(s))
        return -EBADMSG;
    for (; is_digit(s); s->at++) {
        if (d->count < DIGITS_MAX) {
            d->value = d->value * 10 + (uint64_t)(*s->at - '0');
            d->count += d->value != 0;
            d->fraction += fraction && d->fraction < EXPONENT_MAX;
        } else if (!fraction) {
            d->dropped += d->dropped < EXPONENT_MAX;
        }
    }
    return 0;
}

static int take_exponent(struct json_scan *s, int *ret)
{
    bool negative;
    int value = 0;

    s->at++; /* the e */
    negative = s->at < s->end && *s->at == '-';
    if (s->at < s->end && (*s->at == '-' || *s->at == '+'))
        s->at++;
    if (!is_digit(s))
        return -EBADMSG;
    for (; is_digit(s); s->at++)
        if (value < EXPONENT_MAX)
            value = value * 10 + (*s->at - '0');
    *ret = negative ? -value : value;
    return 0;
}

int json_scan_float(struct json_scan *s, float *ret)
{
    struct digits d = {0, 0, 0, 0};
    int exponent = 0;
    bool negative;
    double value;

    skip_blanks(s);
    negative = s->at < s->end && *s->at == '-';
    if (negative)
        s->at++;
    else if (take_word(s, "null"))
        return *ret = NAN, 0;
    if (take_digits(s, &d, false) != 0)
        return -EBADMSG;
    if (s->at < s->end && *s->at == '.') {
        s->at++;
        if (take_digits(s, &d, true) != 0)
            return -EBADMSG;
    }
    if (s->at < s->end && (*s->at == 'e' || *s->at == 'E') && take_exponent(s, &exponent) != 0)
        return -EBADMSG;
    value = scale((double)d.value, exponent + d.dropped - d.fraction);
    *ret = (float)(negative ? -value : value);
    return 0;
}

static int skip_value(struct json_scan *s, int depth);

/* The members of an object (with_keys) or an array, after its opening character. */
static int skip_members(struct json_scan *s, char close, bool with_keys, int depth)
{
    struct slice key;

    if (json_scan_take(s, close))
        return 0;
    do {
        if (with_keys && (json_scan_string(s, &key) != 0 || !json_scan_take(s, ':')))
            return -EBADMSG;
        if (skip_value(s, depth) != 0)
            return -EBADMSG;
    } while (json_scan_take(s, ','));
    return json_scan_take(s, close) ? 0 : -EBADMSG;
}

static int skip_value(struct json_scan *s, int depth)
{
    struct slice string;
    float number;

    if (depth == JSON_SCAN_MAX_DEPTH)
        return -EBADMSG;
    if (json_scan_take(s, '{'))
        return skip_members(s, '}', true, depth + 1);
    if (json_scan_take(s, '['))
        return skip_members(s, ']', false, depth + 1);
    if (s->at < s->end && *s->at == '"')
        return json_scan_string(s, &string);
    if (take_word(s, "true") || take_word(s, "false"))
        return 0;
    return json_scan_float(s, &number);
}

int json_scan_skip(struct json_scan *s)
{
    return skip_value(s, 0);
}
