/* libconvstore's calls that read back: parameters packed, the answer as JSON. */
#include "client/convstore_internal.h"

#include <string.h>

static void pack_text(msgpack_packer *pk, const char *text)
{
    msgpack_pack_str_with_body(pk, text, strlen(text));
}

/* A key of a map, where its value is given; returns whether. pk NULL: only that. */
static bool pack_option(msgpack_packer *pk, const char *key, const char *text)
{
    if (text != NULL && pk != NULL) {
        pack_text(pk, key);
        pack_text(pk, text);
    }
    return text != NULL;
}

static bool pack_limit(msgpack_packer *pk, unsigned limit)
{
    if (limit > 0 && pk != NULL) {
        pack_text(pk, "limit");
        msgpack_pack_unsigned_int(pk, limit);
    }
    return limit > 0;
}

static bool pack_time(msgpack_packer *pk, const char *key, bool given, int64_t us)
{
    msgpack_timestamp at = {.tv_sec = us / 1000000 - (us % 1000000 < 0)};

    if (given && pk != NULL) {
        at.tv_nsec = (uint32_t)(us - at.tv_sec * 1000000) * 1000;
        pack_text(pk, key);
        msgpack_pack_timestamp(pk, &at);
    }
    return given;
}

static unsigned pack_query(msgpack_packer *pk, const struct convstore_query *q)
{
    unsigned count = 0;

    count += pack_option(pk, "user_id", q->user_id);
    count += pack_option(pk, "query", q->query);
    count += pack_option(pk, "mode", q->mode);
    count += pack_option(pk, "platform", q->platform);
    count += pack_option(pk, "before", q->before);
    count += pack_limit(pk, q->limit);
    count += pack_time(pk, "since", q->has_since, q->since_us);
    count += pack_time(pk, "until", q->has_until, q->until_us);
    return count;
}

static int call_with_query(struct convstore *c, const char *method, const struct convstore_query *q,
                           const char **ret_json)
{
    msgpack_sbuffer params;
    msgpack_packer pk;
    int code;

    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, 1);
    msgpack_pack_map(&pk, pack_query(NULL, q));
    pack_query(&pk, q);
    code = convstore_call(c, method, params.data, params.size, ret_json);
    msgpack_sbuffer_destroy(&params);
    return code;
}

static int call_with_key(struct convstore *c, const char *method, const char *user_id,
                         const char *id, const char **ret_json)
{
    msgpack_sbuffer params;
    msgpack_packer pk;
    int code;

    msgpack_sbuffer_init(&params);
    msgpack_packer_init(&pk, &params, msgpack_sbuffer_write);
    msgpack_pack_array(&pk, 2);
    pack_text(&pk, user_id);
    pack_text(&pk, id);
    code = convstore_call(c, method, params.data, params.size, ret_json);
    msgpack_sbuffer_destroy(&params);
    return code;
}

int convstore_status(struct convstore *c, const char *user_id, const char *id,
                     const char **ret_json)
{
    return call_with_key(c, "status", user_id, id, ret_json);
}

int convstore_get(struct convstore *c, const char *user_id, const char *id, const char **ret_json)
{
    return call_with_key(c, "get", user_id, id, ret_json);
}

int convstore_list(struct convstore *c, const struct convstore_query *query, const char **ret_json)
{
    return call_with_query(c, "list", query, ret_json);
}

int convstore_search(struct convstore *c, const struct convstore_query *query,
                     const char **ret_json)
{
    return call_with_query(c, "search", query, ret_json);
}
