/* See payload.h. One thread for each payload. Invariant: all maps of a pool have the same layout,
 * so the offsets of what is patched are numbers and not searches. */
#include "tests/bench/payload.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/uuid.h"

#define POOL_BYTES                                                                                 \
    (4u * 1024 * 1024) /* small enough not to turn a benchmark into one of memory                  \
                        */
#define POOL_MAX 1024
#define POOL_MIN 4
#define MAP_OVERHEAD_MAX 256 /* of an encoded conversation, beside its transcript */
#define USER_LEN 9           /* user-0000 */

static const char platform[] = "bench";
/* The same metadata, as it is sent and as jsonb takes it. */
static const uint8_t metadata[] = "\x82\xa4lang\xa2"
                                  "en\xa5topic\xa7support";
static const char metadata_json[] = "{\"lang\":\"en\",\"topic\":\"support\"}";

struct payload {
    uint8_t *pool;
    size_t map_len;
    size_t id_at, user_at, transcript_at; /* of the texts' first bytes in a map */
    uint32_t size;                        /* of a transcript */
    uint32_t count, next;                 /* maps in the pool, the next to be sent */
    uint64_t serial;
    char prefix[PAYLOAD_PREFIX_LEN + 1];
};

uint64_t payload_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Talk: turns of everyday words, which compress about as well as real conversations do. */
static void make_text(char *text, size_t len, uint64_t *random)
{
    static const char *const words[] = {
        "the",      "you",     "please",  "order",   "account",   "with",       "and",
        "for",      "I",       "would",   "like",    "to",        "change",     "my",
        "address",  "because", "it",      "was",     "not",       "sent",       "on",
        "Monday",   "could",   "look",    "thank",   "that",      "invoice",    "number",
        "has",      "been",    "paid",    "already", "when",      "will",       "arrive",
        "tomorrow", "support", "message", "of",      "course",    "help",       "your",
        "password", "is",      "this",    "still",   "possible",  "refund",     "minutes",
        "seems",    "wrong",   "again",   "try",     "different", "browser",    "question",
        "about",    "travel",  "hotel",   "booking", "table",     "restaurant", "weather",
        "music"};
    size_t n = 0, left = 0;
    bool user = true;

    while (n < len) {
        const char *word;

        if (left == 0) {
            n += (size_t)snprintf(text + n, len - n + 1, user ? "\nUser:" : "\nAI:");
            left = 5 + payload_random(random) % 25;
            user = !user;
            continue;
        }
        word = words[payload_random(random) % (sizeof words / sizeof *words)];
        n += (size_t)snprintf(text + n, len - n + 1, " %s", word);
        left--;
    }
}

/* A MessagePack str's header and its bytes. Returns where the next value goes. */
static uint8_t *put_str(uint8_t *at, const char *text, size_t len)
{
    if (len < 32) {
        *at++ = (uint8_t)(0xa0 | len);
    } else if (len < 256) {
        *at++ = 0xd9;
        *at++ = (uint8_t)len;
    } else {
        *at++ = 0xdb;
        for (int shift = 24; shift >= 0; shift -= 8)
            *at++ = (uint8_t)(len >> shift);
    }
    memcpy(at, text, len);
    return at + len;
}

static uint8_t *put_key(uint8_t *at, const char *key)
{
    return put_str(at, key, strlen(key));
}

/* Encodes one conversation; the serial digits are spaces until it is sent. */
static void make_map(struct payload *p, uint8_t *map, char *text, uint64_t *random)
{
    char user[32], id[PAYLOAD_ID_LEN + 1];
    uint8_t *at = map;

    snprintf(user, sizeof user, "user-%04u", (unsigned)(payload_random(random) % 1000));
    snprintf(id, sizeof id, "%s%*s", p->prefix, PAYLOAD_DIGITS, "");
    memset(text, '0', PAYLOAD_DIGITS);
    make_text(text + PAYLOAD_DIGITS, p->size - PAYLOAD_DIGITS, random);
    *at++ = 0x85; /* five pairs */
    at = put_str(put_key(at, "id"), id, PAYLOAD_ID_LEN);
    p->id_at = (size_t)(at - map) - PAYLOAD_ID_LEN;
    at = put_str(put_key(at, "user_id"), user, USER_LEN);
    p->user_at = (size_t)(at - map) - USER_LEN;
    at = put_str(put_key(at, "platform"), platform, strlen(platform));
    at = put_key(at, "metadata");
    memcpy(at, metadata, sizeof metadata - 1);
    at = put_str(put_key(at + sizeof metadata - 1, "transcript"), text, p->size);
    p->transcript_at = (size_t)(at - map) - p->size;
    assert(p->map_len == 0 || p->map_len == (size_t)(at - map));
    p->map_len = (size_t)(at - map);
}

/* The first 24 characters of a version 7 UUID, hyphens included: the time and 26 random bits. */
static void make_prefix(char prefix[PAYLOAD_PREFIX_LEN + 1])
{
    uint8_t id[16];
    char text[UUID_TEXT_LEN + 1];

    uuid_make_v7(id);
    uuid_format(id, text);
    snprintf(prefix, PAYLOAD_PREFIX_LEN + 1, "%.*s", PAYLOAD_PREFIX_LEN, text);
}

struct payload *payload_new(uint32_t size, uint64_t seed)
{
    struct payload *p = calloc(1, sizeof *p);
    uint8_t *map = malloc(size + MAP_OVERHEAD_MAX);
    char *text = malloc(size + 1);

    assert(size >= PAYLOAD_SIZE_MIN && size <= PAYLOAD_SIZE_MAX);
    if (p == NULL || map == NULL || text == NULL)
        goto fail;
    p->size = size;
    p->count = POOL_BYTES / size;
    p->count = p->count < POOL_MIN ? POOL_MIN : p->count > POOL_MAX ? POOL_MAX : p->count;
    make_prefix(p->prefix);
    for (uint32_t i = 0; i < p->count; i++) {
        make_map(p, map, text, &seed);
        if (i == 0 && (p->pool = malloc(p->map_len * p->count)) == NULL)
            goto fail;
        memcpy(p->pool + i * p->map_len, map, p->map_len);
    }
    free(map);
    free(text);
    return p;
fail:
    free(map);
    free(text);
    payload_free(p);
    return NULL;
}

void payload_free(struct payload *p)
{
    if (p == NULL)
        return;
    free(p->pool);
    free(p);
}

size_t payload_len(const struct payload *p)
{
    return p->map_len;
}

const char *payload_prefix(const struct payload *p)
{
    return p->prefix;
}

static void put_digits(uint8_t *at, uint64_t serial)
{
    static const char digits[] = "0123456789abcdef";

    for (int i = PAYLOAD_DIGITS - 1; i >= 0; i--, serial >>= 4)
        at[i] = (uint8_t)digits[serial & 15];
}

uint64_t payload_put(struct payload *p, uint8_t *out)
{
    uint64_t serial = p->serial++;

    memcpy(out, p->pool + p->next * p->map_len, p->map_len);
    put_digits(out + p->id_at + PAYLOAD_PREFIX_LEN, serial);
    put_digits(out + p->transcript_at, serial);
    p->next = p->next + 1 < p->count ? p->next + 1 : 0;
    return serial;
}

void payload_parts(const struct payload *p, const uint8_t *map, struct payload_parts *ret)
{
    const char *text = (const char *)map;

    *ret = (struct payload_parts){
        .id = {text + p->id_at, PAYLOAD_ID_LEN},
        .user_id = {text + p->user_at, USER_LEN},
        .platform = {platform, sizeof platform - 1},
        .metadata_json = {metadata_json, sizeof metadata_json - 1},
        .transcript = {text + p->transcript_at, p->size},
    };
}
