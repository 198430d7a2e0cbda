/* How one server is spoken to: what stands around a conversation in a message, and how an answer
 * reads. All else of the load generator is the same for every server, so that each bears the same
 * cost of its clients. Pure. */
#ifndef TESTS_BENCH_DIALECT_H
#define TESTS_BENCH_DIALECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/bench/payload.h"

#define DIALECT_HEAD_MAX 160
#define DIALECT_TAIL_MAX 32
#define DIALECT_BATCH_MAX 1000
#define DIALECT_REPLY_MAX (256 * 1024) /* an answer is never longer */

enum outcome {
    OUTCOME_ACKED,
    OUTCOME_REFUSED, /* the server is full: try again later */
    OUTCOME_FAILED,
};

struct dialect_reply {
    enum outcome outcome;
    uint32_t tag;            /* of its message, where the dialect is tagged */
    uint32_t refused_items;  /* of a batch */
    uint32_t retry_after_ms; /* 0: none given */
    char text[160];          /* why it was not acked */
};

struct dialect {
    const char *name;
    bool tagged;    /* answers name their message; else they come in order */
    size_t tag_at;  /* four bytes, big-endian */
    uint32_t batch; /* conversations in a message */
    uint8_t head[DIALECT_HEAD_MAX], tail[DIALECT_TAIL_MAX];
    size_t head_len, tail_len;
    /* Reads one answer. Its length; 0 when it is not all there; -EBADMSG when it is none. *ret is
     * zero at the call. */
    ssize_t (*read)(const uint8_t *data, size_t len, struct dialect_reply *ret);
};

/* store, or store_many where batch is above 1. wait_stored: answered when it is a row. */
void dialect_convstore(struct dialect *d, uint32_t batch, bool wait_stored);

/* XADD of the encoded conversation as one field. */
void dialect_redis(struct dialect *d, const struct payload *p);

/* put of the encoded conversation. */
void dialect_beanstalkd(struct dialect *d, const struct payload *p);

/* The length of every message. */
size_t dialect_len(const struct dialect *d, const struct payload *p);

/* Writes the next message, dialect_len() bytes. */
void dialect_put(const struct dialect *d, struct payload *p, uint32_t tag, uint8_t *out);

#endif
