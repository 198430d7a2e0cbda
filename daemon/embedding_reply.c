/* Replies of embedding servers. Owns nothing; keeps no state.
 *
 * The hard thing: a status says little. Ollama passes a crashed runner's text on as 400, a vector
 * that is not a number is 400 or 500, and a model that is still loading is 503; so the body is
 * looked at before the status (see embedding_reply_classify()). A vector is believed only when its
 * count, dimension, finiteness and norm are right: a bad one is never stored. */
#include "daemon/embedding_reply.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "daemon/json_scan.h"

#define BODY_LOOKED_AT 4096 /* an error's text stands at its start */

/* What the server's words say, where they say enough; REPLY_VECTORS where they do not. */
static enum reply_class classify_text(const char *text)
{
    if (strstr(text, "NaN") != NULL || strstr(text, "unsupported value") != NULL)
        return REPLY_BAD_INPUT;
    if (strcasestr(text, "context length") != NULL || strcasestr(text, "too large") != NULL ||
        strcasestr(text, "must have less than") != NULL)
        return REPLY_TOO_LONG;
    if (strstr(text, "EOF") != NULL || strstr(text, "do embedding request") != NULL)
        return REPLY_TRANSIENT;
    return REPLY_VECTORS;
}

enum reply_class embedding_reply_classify(long status, struct slice body)
{
    char text[BODY_LOOKED_AT + 1];
    size_t len = body.len < BODY_LOOKED_AT ? body.len : BODY_LOOKED_AT;
    enum reply_class class;

    if (status == 200)
        return REPLY_VECTORS;
    if (len > 0)
        memcpy(text, body.data, len);
    text[len] = '\0';
    class = classify_text(text);
    if (class != REPLY_VECTORS)
        return class;
    switch (status) {
    case 413:
        return REPLY_TOO_LONG;
    case 400:
    case 422:
        return REPLY_BAD_INPUT;
    case 408:
    case 424:
    case 425:
    case 429:
        return REPLY_TRANSIENT;
    default:
        return status >= 500 ? REPLY_TRANSIENT : REPLY_CONFIG;
    }
}

void embedding_reply_message(struct slice body, char ret[128])
{
    size_t len = body.len < BODY_LOOKED_AT ? body.len : BODY_LOOKED_AT;
    json_t *root = len > 0 ? json_loadb(body.data, len, 0, NULL) : NULL;
    json_t *error = json_object_get(root, "error");
    const char *text = json_string_value(error);

    if (text == NULL)
        text = json_string_value(json_object_get(error, "message"));
    snprintf(ret, 128, "%s", text != NULL ? text : "");
    for (char *c = ret; *c != '\0'; c++)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
    json_decref(root);
}

/* One vector's numbers into input; those beyond the dimension are counted only. */
static int read_vector(struct json_scan *s, struct embed_input *input, uint32_t dimension,
                       size_t *ret_len)
{
    double squares = 0;
    size_t len = 0;
    float value;

    if (!json_scan_take(s, '['))
        return -EBADMSG;
    if (!json_scan_take(s, ']')) {
        do {
            if (json_scan_float(s, &value) != 0)
                return -EBADMSG;
            if (len < dimension)
                input->values[len] = value;
            squares += (double)value * (double)value;
            len++;
        } while (json_scan_take(s, ','));
        if (!json_scan_take(s, ']'))
            return -EBADMSG;
    }
    input->error = len == dimension && isfinite(squares) && squares > 0 ? 0 : -EINVAL;
    *ret_len = len;
    return 0;
}

struct vectors {
    size_t count;
    size_t fitting;   /* of the right dimension */
    size_t other_len; /* the length of one that is not */
};

/* The list of vectors; null in the place of one costs that input. */
static int read_vectors(struct json_scan *s, struct embed_input *const inputs[], size_t count,
                        uint32_t dimension, struct vectors *found)
{
    if (!json_scan_take(s, '['))
        return -EBADMSG;
    if (json_scan_take(s, ']'))
        return 0;
    do {
        size_t len = 0;
        float value;

        if (found->count == count)
            return -EBADMSG;
        if (json_scan_take(s, 'n')) {
            s->at--;
            inputs[found->count]->error = -EINVAL;
            if (json_scan_float(s, &value) != 0)
                return -EBADMSG;
        } else if (read_vector(s, inputs[found->count], dimension, &len) != 0) {
            return -EBADMSG;
        }
        found->fitting += len == dimension;
        found->other_len = len != dimension && len > 0 ? len : found->other_len;
        found->count++;
    } while (json_scan_take(s, ','));
    return json_scan_take(s, ']') ? 0 : -EBADMSG;
}

static int read_object(struct json_scan *s, struct embed_input *const inputs[], size_t count,
                       uint32_t dimension, struct vectors *found)
{
    bool seen = false;
    struct slice key;
    int rc;

    if (!json_scan_take(s, '{'))
        return -EBADMSG;
    do {
        if (json_scan_string(s, &key) != 0 || !json_scan_take(s, ':'))
            return -EBADMSG;
        if (slice_equals(key, "embeddings") && !seen) {
            seen = true;
            rc = read_vectors(s, inputs, count, dimension, found);
        } else {
            rc = json_scan_skip(s);
        }
        if (rc != 0)
            return rc;
    } while (json_scan_take(s, ','));
    return json_scan_take(s, '}') && json_scan_at_end(s) ? 0 : -EBADMSG;
}

int embedding_reply_ollama(struct slice body, struct embed_input *const inputs[], size_t count,
                           uint32_t dimension, char error[256])
{
    struct json_scan s = json_scan_start(body);
    struct vectors found = {0, 0, 0};

    if (body.len == 0 || read_object(&s, inputs, count, dimension, &found) != 0 ||
        found.count != count) {
        snprintf(error, 256, "the reply of %zu bytes is not the expected JSON with %zu embeddings",
                 body.len, count);
        return -EBADMSG;
    }
    if (found.fitting == 0 && found.other_len != 0) {
        snprintf(error, 256,
                 "the model gives %zu dimensions where %u are configured: set embedding.dimensions",
                 found.other_len, dimension);
        return -EDOM;
    }
    return 0;
}
