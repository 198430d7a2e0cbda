/* Inside the batcher: batcher.c cuts, sends and waits; batcher_rows.c owns a batch's rows;
 * batcher_outcome.c decides what a write's outcome means for the batch and for the others. Loop. */
#ifndef DAEMON_BATCHER_PRIVATE_H
#define DAEMON_BATCHER_PRIVATE_H

#include <sys/queue.h>

#include "daemon/batcher.h"
#include "daemon/embedding_set.h"
#include "daemon/handoff.h"

enum batch_state {
    BATCH_EMBEDDING, /* waits for its vectors */
    BATCH_WRITING,   /* with a write worker, which owns it */
    BATCH_PAUSED,    /* failed; goes again at resume_at_ms */
};

struct batch {
    struct handoff_job job; /* first: the worker gets a pointer to it */
    struct batcher *batcher;
    enum batch_state state;
    bool held;         /* goes row by row in vain: others need not wait for it */
    bool beside;       /* it was refused while others' rows came through */
    unsigned failures; /* since rows of it last came to their end */
    unsigned suspect_failures;
    unsigned lost_in_flight; /* times that the connection went with this batch on it */
    uint64_t progress_seen;  /* the batcher's, when it was cut or last failed */
    char suspect_sqlstate[6];
    uint64_t resume_at_ms;
    uint64_t embedding_since_ms;
    uint64_t duration_ns;           /* of the last write */
    struct pgwriter_found found;    /* after the last write */
    struct conversation_list later; /* same keys as rows of this batch; youngest first */
    struct write_batch write;
    struct embedding_set texts;
    TAILQ_ENTRY(batch) link;
};

struct batcher {
    uv_loop_t *loop;
    struct batcher_config config;
    struct batcher_callbacks callbacks;
    void *owner;
    struct embedding_stage *embedding;
    enum embedding_source source;
    struct handoff *writers;
    struct pgwriter **pgwriters; /* of the threads, in their order */
    uv_timer_t flush_timer;
    uv_timer_t retry_timer;
    unsigned open_handles;
    void (*on_closed)(void *owner);
    bool closing;
    bool urgent;
    uint64_t rows_per_second; /* the pace of writing; 0: as fast as it goes */
    uint64_t next_write_ms;   /* by that pace */
    uint64_t ask_again_ms;    /* for vectors, where more rows wait than may be under way */
    struct conversation_list backlog;
    TAILQ_HEAD(batch_list, batch) batches; /* oldest first */
    unsigned batch_count;
    unsigned held_count;
    unsigned writing;
    unsigned held_writing;
    uint64_t progress; /* writes by which rows came to their end */
    size_t processing;
    size_t processing_bytes;
    uint64_t without_vector; /* rows that went into embedding_backlog */
    enum database_state database;
    unsigned failures; /* of the database, since it last answered */
    char last_error[288];
    struct pgwriter_found found;
};

/* A batch of the `count` oldest in the backlog, which has them; NULL when memory is short. */
struct batch *batch_cut(struct batcher *b, size_t count);

/* Its rows have come to their end; those of `later` go back to the front of the backlog. */
void batch_free(struct batch *batch);

/* Gives away the rows that have their verdict and closes the gaps; vectors follow their rows. */
void batch_settle(struct batch *batch);

/* After a write, its rows settled: the batch ends, or goes again when its time has come.
 * `progress`: rows came to their end by this write, whatever happened after. */
void batch_take_outcome(struct batch *batch, bool progress);

#endif
