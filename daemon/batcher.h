/* From the backlog to the rows: cuts batches by size and by age, has them embedded and written, and
 * brings them through the failures of the database. Loop. */
#ifndef DAEMON_BATCHER_H
#define DAEMON_BATCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/conversation.h"
#include "daemon/embedding_stage.h"
#include "daemon/pgwriter.h"

struct batcher;

struct batcher_config {
    size_t batch_size;
    uint64_t flush_interval_ms; /* how often the age of the oldest is looked at */
    uint64_t batch_timeout_ms;  /* the age at which a batch leaves though it is not full */
    unsigned max_concurrent_batches;
    unsigned write_threads;
    bool rows_first; /* where rows queue up they go without vectors that are not there yet */
    unsigned max_attempts;
    struct pgwriter_config writer;
};

enum database_state {
    DATABASE_UNTRIED, /* the first connection is being made */
    DATABASE_UP,
    DATABASE_DOWN,    /* unreachable: one batch at a time tries, now and then */
    DATABASE_STOPPED, /* reachable, but nothing can be written: schema, permission, wrong server */
};
const char *database_state_name(enum database_state state);

struct batcher_callbacks {
    /* A conversation has come to its end: STORED, DUPLICATE or DEAD. Takes ownership. */
    void (*on_row)(void *owner, struct conversation *c, enum row_verdict verdict);
    /* One try of a batch is over; before its on_row calls. No rows: it only connected. */
    void (*on_write)(void *owner, size_t rows, uint64_t duration_ns, enum write_outcome outcome);
    /* The same, after its on_row calls: the timeline of the server that the connection reached, and
     * whether rows came to their end in it. NULL where nobody asks. */
    void (*on_timeline)(void *owner, uint32_t timeline, bool settled);
    /* ... and all that follows from it is done: there may be room in the backlog. */
    void (*on_room)(void *owner);
};

struct batcher_status {
    size_t queued;             /* in the backlog */
    size_t processing;         /* in batches */
    size_t bytes;              /* of both */
    int64_t oldest_arrived_us; /* of both; 0: none */
    uint64_t without_vector;   /* rows written without one, since the start */
    unsigned batches;
    uint64_t rows_per_second; /* the pace in force; 0: none */
    enum database_state database;
    const char *last_error; /* of the database; "" when all is well */
    struct pgwriter_found found;
};

int batcher_start(uv_loop_t *loop, const struct batcher_config *config,
                  const struct batcher_callbacks *callbacks, void *owner,
                  struct embedding_stage *embedding, struct batcher **ret)
    __attribute__((warn_unused_result));

/* Other sizes and times from now on, for batches that are cut from here; max_concurrent_batches,
 * write_threads, rows_first and writer stay. */
void batcher_reconfigure(struct batcher *b, const struct batcher_config *config);

/* Takes ownership of a durable conversation. */
void batcher_push(struct batcher *b, struct conversation *c);

/* While urgent, batches leave at once, full or not (flush, drain). */
void batcher_set_urgent(struct batcher *b, bool urgent);

/* Batches that are not urgent are written at that pace at most; 0: as fast as it goes. */
void batcher_set_pace(struct batcher *b, uint64_t rows_per_second);

/* Conversations and bytes that it holds, waiting or in batches. */
void batcher_load(const struct batcher *b, size_t *ret_count, size_t *ret_bytes);

/* Whether a write worker is at work, maybe on a connection that hangs. */
bool batcher_is_writing(const struct batcher *b);

struct batcher_status batcher_status(const struct batcher *b);

/* Rows that went into embedding_backlog, since the start. */
uint64_t batcher_without_vector(const struct batcher *b);

/* Frees everything; what has not become a row is dropped here (its owner has it on disk, or has
 * waited for it). Blocks while a write is in flight. on_closed runs when the last handle is gone.
 */
void batcher_close(struct batcher *b, void (*on_closed)(void *owner));

#endif
