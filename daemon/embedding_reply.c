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
        return REPLY_CRASHED;
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
        return REPLY_TRANSIENT;
    case 429:
        return REPLY_LIMITED;
    case 500:
        return REPLY_FAILED;
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
    if (text == NULL)
        text = json_string_value(json_object_get(root, "message"));
    if (text == NULL)
        text = json_string_value(json_object_get(root, "detail"));
    snprintf(ret, 128, "%s", text != NULL ? text : "");
    for (char *c = ret; *c != '\0'; c++)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
    json_decref(root);
}

/* What a reply held so far. */
struct vectors {
    size_t count;
    size_t fitting;   /* of the right dimension */
    size_t other_len; /* the length of one that is not */
};

/* Believes a vector of len numbers whose squares sum up to that, or not. */
static void judge_vector(struct embed_input *input, uint32_t dimension, size_t len, double squares,
                         struct vectors *found)
{
    input->error = len == dimension && isfinite(squares) && squares > 0 ? 0 : -EINVAL;
    found->fitting += len == dimension;
    found->other_len = len != dimension && len > 0 ? len : found->other_len;
    found->count++;
}

/* One vector's numbers into input; those beyond the dimension are counted only. null in the place
 * of a vector costs its input. */
static int read_vector(struct json_scan *s, struct embed_input *input, uint32_t dimension,
                       struct vectors *found)
{
    double squares = 0;
    size_t len = 0;
    float value;

    if (json_scan_take(s, 'n')) {
        s->at--;
        judge_vector(input, dimension, 0, 0, found);
        return json_scan_float(s, &value);
    }
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
    judge_vector(input, dimension, len, squares, found);
    return 0;
}

/* Ollama: a list of vectors, in the order of the inputs. */
static int read_list(struct json_scan *s, struct embed_input *const inputs[], size_t count,
                     uint32_t dimension, struct vectors *found)
{
    if (!json_scan_take(s, '['))
        return -EBADMSG;
    if (json_scan_take(s, ']'))
        return 0;
    do {
        if (found->count == count || read_vector(s, inputs[found->count], dimension, found) != 0)
            return -EBADMSG;
    } while (json_scan_take(s, ','));
    return json_scan_take(s, ']') ? 0 : -EBADMSG;
}

/* OpenAI and its likes */

/* By a table: the branches of a comparison would be guessed wrong on such data. */
static int base64_digit(char c)
{
    static const uint8_t one_more[256] = {
        ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,
        ['H'] = 8,  ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14,
        ['O'] = 15, ['P'] = 16, ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21,
        ['V'] = 22, ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28,
        ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35,
        ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40, ['o'] = 41, ['p'] = 42,
        ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49,
        ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
        ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63,
        ['/'] = 64};

    return one_more[(uint8_t)c] - 1;
}

/* Little-endian floats in base64; JSON may write its / as \/. */
static int read_base64(struct json_scan *s, struct embed_input *input, uint32_t dimension,
                       struct vectors *found)
{
    struct slice text;
    uint32_t bits = 0, word = 0;
    unsigned bit_count = 0, byte = 0;
    double squares = 0;
    size_t len = 0;

    if (json_scan_string(s, &text) != 0)
        return -EBADMSG;
    for (size_t i = 0; i < text.len && text.data[i] != '='; i++) {
        int digit = base64_digit(text.data[i]);

        if (digit < 0 && text.data[i] == '\\')
            continue;
        if (digit < 0)
            return -EBADMSG;
        bits = bits << 6 | (uint32_t)digit;
        bit_count += 6;
        if (bit_count < 8)
            continue;
        bit_count -= 8;
        word |= (bits >> bit_count & 0xff) << (8 * byte++);
        if (byte == 4) {
            float value;

            memcpy(&value, &word, sizeof value);
            if (len < dimension)
                input->values[len] = value;
            squares += (double)value * (double)value;
            len++;
            byte = 0;
            word = 0;
        }
    }
    if (byte != 0)
        return -EBADMSG;
    judge_vector(input, dimension, len, squares, found);
    return 0;
}

/* The vector of the input with this index, which has none yet. */
static int read_placed(struct json_scan *s, float index, struct embed_input *const inputs[],
                       size_t count, uint32_t dimension, struct vectors *found)
{
    struct embed_input *input;

    if (!(index >= 0) || index >= (float)count || index != (float)(size_t)index)
        return -EBADMSG;
    input = inputs[(size_t)index];
    if (input->error != -EINPROGRESS)
        return -EBADMSG;
    if (json_scan_take(s, '"')) {
        s->at--;
        return read_base64(s, input, dimension, found);
    }
    return read_vector(s, input, dimension, found);
}

/* One {"index": n, "embedding": …}. Where the index comes behind the vector, that is skipped and
 * looked at again; without an index the place in the list is it. */
static int read_entry(struct json_scan *s, struct embed_input *const inputs[], size_t count,
                      uint32_t dimension, struct vectors *found)
{
    struct json_scan skipped = {NULL, NULL};
    bool has_index = false, placed = false;
    float index = (float)found->count;
    struct slice key;

    if (!json_scan_take(s, '{'))
        return -EBADMSG;
    do {
        int rc;

        if (json_scan_string(s, &key) != 0 || !json_scan_take(s, ':'))
            return -EBADMSG;
        if (slice_equals(key, "index") && !placed) {
            has_index = true;
            rc = json_scan_float(s, &index);
        } else if (slice_equals(key, "embedding") && has_index && !placed) {
            placed = true;
            rc = read_placed(s, index, inputs, count, dimension, found);
        } else {
            if (slice_equals(key, "embedding"))
                skipped = *s;
            rc = json_scan_skip(s);
        }
        if (rc != 0)
            return -EBADMSG;
    } while (json_scan_take(s, ','));
    if (!json_scan_take(s, '}') || (!placed && skipped.at == NULL))
        return -EBADMSG;
    return placed ? 0 : read_placed(&skipped, index, inputs, count, dimension, found);
}

static int read_data(struct json_scan *s, struct embed_input *const inputs[], size_t count,
                     uint32_t dimension, struct vectors *found)
{
    for (size_t i = 0; i < count; i++)
        inputs[i]->error = -EINPROGRESS;
    if (!json_scan_take(s, '['))
        return -EBADMSG;
    if (json_scan_take(s, ']'))
        return 0;
    do {
        if (found->count == count || read_entry(s, inputs, count, dimension, found) != 0)
            return -EBADMSG;
    } while (json_scan_take(s, ','));
    return json_scan_take(s, ']') ? 0 : -EBADMSG;
}

/* The object around either. */
struct shape {
    const char *key;
    int (*read)(struct json_scan *s, struct embed_input *const inputs[], size_t count,
                uint32_t dimension, struct vectors *found);
};

static int read_object(struct json_scan *s, const struct shape *shape,
                       struct embed_input *const inputs[], size_t count, uint32_t dimension,
                       struct vectors *found)
{
    bool seen = false;
    struct slice key;
    int rc;

    if (!json_scan_take(s, '{'))
        return -EBADMSG;
    do {
        if (json_scan_string(s, &key) != 0 || !json_scan_take(s, ':'))
            return -EBADMSG;
        if (slice_equals(key, shape->key) && !seen) {
            seen = true;
            rc = shape->read(s, inputs, count, dimension, found);
        } else {
            rc = json_scan_skip(s);
        }
        if (rc != 0)
            return rc;
    } while (json_scan_take(s, ','));
    return json_scan_take(s, '}') && json_scan_at_end(s) ? 0 : -EBADMSG;
}

static int read_reply(const struct shape *shape, struct slice body,
                      struct embed_input *const inputs[], size_t count, uint32_t dimension,
                      char error[256])
{
    struct json_scan s = json_scan_start(body);
    struct vectors found = {0, 0, 0};

    if (body.len == 0 || read_object(&s, shape, inputs, count, dimension, &found) != 0 ||
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

int embedding_reply_ollama(struct slice body, struct embed_input *const inputs[], size_t count,
                           uint32_t dimension, char error[256])
{
    static const struct shape shape = {"embeddings", read_list};

    return read_reply(&shape, body, inputs, count, dimension, error);
}

int embedding_reply_openai(struct slice body, struct embed_input *const inputs[], size_t count,
                           uint32_t dimension, char error[256])
{
    static const struct shape shape = {"data", read_data};

    return read_reply(&shape, body, inputs, count, dimension, error);
}
