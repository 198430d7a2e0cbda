/* Values in PostgreSQL's binary format, built one after another in a single buffer that is used
 * again and again: the parameters of a prepared statement (scalars and one-dimensional arrays), or
 * the rows of a binary COPY. Pure. */
#ifndef DAEMON_PGENCODE_H
#define DAEMON_PGENCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <libpq-fe.h>

#include "proto/slice.h"

#define PGPARAMS_MAX 12

/* Built-in types, fixed for ever in PostgreSQL's catalogue. */
#define PG_BYTEA 17
#define PG_INT8 20
#define PG_INT4 23
#define PG_TEXT 25
#define PG_FLOAT4 700
#define PG_TIMESTAMPTZ 1184
#define PG_UUID 2950
#define PG_JSONB 3802

struct pgparams {
    uint8_t *data;
    size_t len, capacity;
    size_t start[PGPARAMS_MAX]; /* of each parameter in data */
    size_t count;
    bool failed; /* memory ran out, or a parameter outgrew what the protocol can say: sticky */
};

void pgparams_done(struct pgparams *p);
void pgparams_reset(struct pgparams *p); /* forgets the parameters, keeps the buffer */

/* The next parameter is a scalar, or an array of count elements, added one by one after this. */
void pgparams_int2(struct pgparams *p, int16_t value);
void pgparams_array(struct pgparams *p, Oid element, size_t count);

/* COPY's header, and the head of the next row. */
void pgparams_copy_begin(struct pgparams *p);
void pgparams_copy_row(struct pgparams *p, int16_t fields);
void pgparams_copy_end(struct pgparams *p);

/* One element of the array, or field of the row, that is open. */
void pgparams_add(struct pgparams *p, const void *data, size_t len); /* text, bytea, uuid */
void pgparams_add_text(struct pgparams *p, struct slice text);       /* data NULL: SQL NULL */
void pgparams_add_jsonb(struct pgparams *p, struct slice json);      /* data NULL: SQL NULL */
void pgparams_add_int2(struct pgparams *p, int16_t value);
void pgparams_add_int4(struct pgparams *p, int32_t value);
void pgparams_add_int8(struct pgparams *p, int64_t value);
void pgparams_add_time(struct pgparams *p, int64_t us); /* microseconds since 1970 */
void pgparams_add_floats(struct pgparams *p, const float *values, size_t count); /* float4s */

/* pgvector's two types. As halfvec, a value that is out of its range becomes an infinity, which the
 * server refuses. */
void pgparams_add_vector(struct pgparams *p, const float *values, uint32_t dimension);
void pgparams_add_halfvec(struct pgparams *p, const float *values, uint32_t dimension);

/* Queues the prepared statement with these parameters. 0, -ENOMEM, or -EIO where libpq refuses. */
int pgparams_send(const struct pgparams *p, PGconn *conn, const char *statement)
    __attribute__((warn_unused_result));

#endif
