/* The conversations of a benchmark: made from a seed, all distinct, cheap to send.
 *
 * A pool of conversations of talk-like text stands ready as encoded MessagePack maps of one length.
 * Sending one copies it and patches 12 hexadecimal digits, the serial number, in two places: in its
 * id and at the front of its transcript. So no two have the same id or the same text, however long
 * the run, and a message costs the generator one memcpy. */
#ifndef TESTS_BENCH_PAYLOAD_H
#define TESTS_BENCH_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

#include "proto/slice.h"

#define PAYLOAD_SIZE_MIN 32 /* bytes of a transcript */
#define PAYLOAD_SIZE_MAX (1024u * 1024)
#define PAYLOAD_DIGITS 12
#define PAYLOAD_ID_LEN 36
#define PAYLOAD_PREFIX_LEN                                                                         \
    (PAYLOAD_ID_LEN - PAYLOAD_DIGITS) /* of an id, the same for a whole run */

struct payload;

/* Conversations with a transcript of size bytes. The seed decides the texts; ids begin with
 * ret_prefix's 24 characters, which differ from run to run. NULL: no memory. The caller frees. */
struct payload *payload_new(uint32_t size, uint64_t seed);
void payload_free(struct payload *p); /* takes NULL */

/* The length of every encoded conversation. */
size_t payload_len(const struct payload *p);

/* Writes the next conversation, payload_len() bytes, to out. Returns its serial number. */
uint64_t payload_put(struct payload *p, uint8_t *out);

/* What all ids of this payload begin with; NUL-terminated. */
const char *payload_prefix(const struct payload *p);

/* The parts of an encoded conversation at map, for peers that take columns. The id is 36 characters
 * of text. The slices point into the map. */
struct payload_parts {
    struct slice id, user_id, platform, metadata_json, transcript;
};
void payload_parts(const struct payload *p, const uint8_t *map, struct payload_parts *ret);

/* A repeatable random number; *state is any seed at first (splitmix64). */
uint64_t payload_random(uint64_t *state);

#endif
