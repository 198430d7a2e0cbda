/* JSON as people write it -> the conversation that the library sends. Pure but for memory.
 *
 * What only the daemon can judge (lengths, NUL, emptiness) goes to it as it is, so that its error
 * is the one that is reported; here stands what JSON cannot say to the wire: wrong types, unknown
 * keys, times as text. */
#include "client/convstorectl.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define METADATA_MAX_DEPTH 64 /* of the wire; deeper is refused before the recursion */

void ctl_item_init(struct ctl_item *item)
{
    memset(item, 0, sizeof *item);
    msgpack_sbuffer_init(&item->metadata);
}

void ctl_item_done(struct ctl_item *item)
{
    json_decref(item->root);
    item->root = NULL;
    msgpack_sbuffer_destroy(&item->metadata);
}

static int fail(char why[CTL_WHY_SIZE], const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static int fail(char why[CTL_WHY_SIZE], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, CTL_WHY_SIZE, format, args);
    va_end(args);
    return -1;
}

/* ---- metadata ---- */

static void pack_string(msgpack_packer *pk, const char *text, size_t len)
{
    msgpack_pack_str(pk, len);
    msgpack_pack_str_body(pk, text, len);
}

static bool pack_json(msgpack_packer *pk, json_t *value, int depth);

static bool pack_container(msgpack_packer *pk, json_t *value, int depth)
{
    const char *key;
    json_t *member;
    size_t i;

    if (depth > METADATA_MAX_DEPTH)
        return false;
    if (json_is_array(value)) {
        msgpack_pack_array(pk, json_array_size(value));
        json_array_foreach(value, i, member)
        {
            if (!pack_json(pk, member, depth))
                return false;
        }
        return true;
    }
    msgpack_pack_map(pk, json_object_size(value));
    json_object_foreach(value, key, member)
    {
        pack_string(pk, key, strlen(key));
        if (!pack_json(pk, member, depth))
            return false;
    }
    return true;
}

/* False when it is nested too deep. */
static bool pack_json(msgpack_packer *pk, json_t *value, int depth)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
        msgpack_pack_nil(pk);
        return true;
    case JSON_TRUE:
        msgpack_pack_true(pk);
        return true;
    case JSON_FALSE:
        msgpack_pack_false(pk);
        return true;
    case JSON_INTEGER:
        msgpack_pack_int64(pk, json_integer_value(value));
        return true;
    case JSON_REAL:
        msgpack_pack_double(pk, json_real_value(value));
        return true;
    case JSON_STRING:
        pack_string(pk, json_string_value(value), json_string_length(value));
        return true;
    case JSON_ARRAY:
    case JSON_OBJECT:
        return pack_container(pk, value, depth + 1);
    }
    return false;
}

int ctl_item_set_metadata(struct ctl_item *item, json_t *metadata, char why[CTL_WHY_SIZE])
{
    msgpack_packer pk;

    if (!json_is_object(metadata))
        return fail(why, "metadata: must be a JSON object");
    msgpack_packer_init(&pk, &item->metadata, msgpack_sbuffer_write);
    if (!pack_json(&pk, metadata, 0))
        return fail(why, "metadata: nested deeper than %d", METADATA_MAX_DEPTH);
    item->conversation.metadata = (struct convstore_text){item->metadata.data, item->metadata.size};
    return 0;
}

/* ---- times ---- */

/* count digits as a number; -1 where they are none. */
static int digits(const char **at, int count)
{
    int n = 0;

    for (int i = 0; i < count; i++, (*at)++) {
        if (!isdigit((unsigned char)**at))
            return -1;
        n = n * 10 + (**at - '0');
    }
    return n;
}

static bool take(const char **at, const char *any)
{
    if (**at == '\0' || strchr(any, **at) == NULL)
        return false;
    (*at)++;
    return true;
}

static bool parse_date(const char **at, struct tm *tm)
{
    static const int days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year = digits(at, 4);
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

    tm->tm_year = year - 1900;
    if (year < 0 || !take(at, "-") || (tm->tm_mon = digits(at, 2) - 1) < 0 || tm->tm_mon > 11 ||
        !take(at, "-") || (tm->tm_mday = digits(at, 2)) < 1)
        return false;
    return tm->tm_mday <= days[tm->tm_mon] - (tm->tm_mon == 1 && !leap);
}

static bool parse_clock(const char **at, struct tm *tm, int64_t *ret_us)
{
    int64_t unit = 100000;

    *ret_us = 0;
    if ((tm->tm_hour = digits(at, 2)) < 0 || tm->tm_hour > 23 || !take(at, ":") ||
        (tm->tm_min = digits(at, 2)) < 0 || tm->tm_min > 59 || !take(at, ":") ||
        (tm->tm_sec = digits(at, 2)) < 0 || tm->tm_sec > 60)
        return false;
    if (!take(at, "."))
        return true;
    if (!isdigit((unsigned char)**at))
        return false;
    for (; isdigit((unsigned char)**at); (*at)++, unit /= 10)
        *ret_us += (**at - '0') * unit; /* digits behind the microseconds count nothing */
    return true;
}

static bool parse_zone(const char **at, int64_t *ret_offset_s)
{
    int sign = **at == '-' ? -1 : 1;
    int hours, minutes;

    *ret_offset_s = 0;
    if (take(at, "Zz"))
        return true;
    if (!take(at, "+-") || (hours = digits(at, 2)) < 0 || hours > 23 || !take(at, ":") ||
        (minutes = digits(at, 2)) < 0 || minutes > 59)
        return false;
    *ret_offset_s = sign * (hours * 3600 + minutes * 60);
    return true;
}

static int parse_rfc3339(const char *at, int64_t *ret_us)
{
    struct tm tm = {.tm_isdst = 0};
    int64_t us, offset_s;

    if (!parse_date(&at, &tm) || !take(&at, "Tt ") || !parse_clock(&at, &tm, &us) ||
        !parse_zone(&at, &offset_s) || *at != '\0')
        return -1;
    *ret_us = ((int64_t)timegm(&tm) - offset_s) * 1000000 + us;
    return 0;
}

int ctl_parse_time(const char *text, int64_t *ret_us)
{
    char *end;
    long long ms;

    errno = 0;
    ms = strtoll(text, &end, 10);
    if (end != text && *end == '\0' && errno == 0)
        return __builtin_mul_overflow((int64_t)ms, (int64_t)1000, ret_us) ? -1 : 0;
    return parse_rfc3339(text, ret_us);
}

/* ---- a line ---- */

static int set_text(struct convstore_text *ret, const char *key, json_t *value,
                    char why[CTL_WHY_SIZE])
{
    if (!json_is_string(value))
        return fail(why, "%s: must be a string", key);
    *ret = (struct convstore_text){json_string_value(value), json_string_length(value)};
    return 0;
}

static int set_created_at(struct ctl_item *item, json_t *value, char why[CTL_WHY_SIZE])
{
    struct convstore_conversation *c = &item->conversation;
    int rc = -1;

    if (json_is_integer(value))
        rc = __builtin_mul_overflow((int64_t)json_integer_value(value), (int64_t)1000,
                                    &c->created_at_us)
                 ? -1
                 : 0;
    else if (json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value))
        rc = parse_rfc3339(json_string_value(value), &c->created_at_us);
    if (rc != 0)
        return fail(why, "created_at: must be integer milliseconds since 1970 or a string such as "
                         "2024-05-01T12:00:00Z");
    c->has_created_at = true;
    return 0;
}

static int set_id(struct ctl_item *item, json_t *value, char why[CTL_WHY_SIZE])
{
    if (!json_is_string(value) || json_string_length(value) != CONVSTORE_ID_SIZE - 1)
        return fail(why, "id: must be a UUID of 36 characters");
    item->conversation.id = json_string_value(value);
    return 0;
}

static int set_field(struct ctl_item *item, const char *key, json_t *value, char why[CTL_WHY_SIZE])
{
    struct convstore_conversation *c = &item->conversation;

    if (strcmp(key, "user_id") == 0)
        return set_text(&c->user_id, key, value, why);
    if (strcmp(key, "platform") == 0)
        return set_text(&c->platform, key, value, why);
    if (strcmp(key, "transcript") == 0)
        return set_text(&c->transcript, key, value, why);
    if (strcmp(key, "summary") == 0)
        return json_is_null(value) ? 0 : set_text(&c->summary, key, value, why);
    if (strcmp(key, "metadata") == 0)
        return json_is_null(value) ? 0 : ctl_item_set_metadata(item, value, why);
    if (strcmp(key, "id") == 0)
        return json_is_null(value) ? 0 : set_id(item, value, why);
    if (strcmp(key, "created_at") == 0)
        return json_is_null(value) ? 0 : set_created_at(item, value, why);
    return fail(why, "unknown key \"%.60s\"", key);
}

json_t *ctl_parse_json(const char *text, size_t len, char why[CTL_WHY_SIZE])
{
    json_error_t error;
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    char *near;

    if (root != NULL)
        return root;
    near =
        strstr(error.text, " near "); /* jansson goes on to quote the text, which may be secret */
    if (near != NULL)
        *near = '\0';
    (void)fail(why, "not JSON: %s at byte %d", error.text, error.position);
    return NULL;
}

int ctl_item_parse(struct ctl_item *item, const char *line, size_t len, char why[CTL_WHY_SIZE])
{
    const char *key;
    json_t *value;

    item->root = ctl_parse_json(line, len, why);
    if (item->root == NULL)
        return -1;
    if (!json_is_object(item->root))
        return fail(why, "must be a JSON object");
    json_object_foreach(item->root, key, value)
    {
        if (set_field(item, key, value, why) != 0)
            return -1;
    }
    return 0;
}
