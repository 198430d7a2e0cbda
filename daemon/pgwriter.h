/* One batch into PostgreSQL in one transaction. Owns a PGconn; lives on one write worker.
 */
#ifndef DAEMON_PGWRITER_H
#define DAEMON_PGWRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/conversation.h"

/* How vectors of this configuration are made: one row of convstore.embedding_models. dimension 0:
 * no vectors are made (provider "none"), no backlog either. */
struct embedding_model {
    const char *provider;
    const char *model;
    uint32_t dimension;
    const char *prefix;
    const char *source;
    const char *storage; /* "vector" or "halfvec"; "real" is what it becomes without pgvector */
};

/* Where COPY's round trips cost less than it saves. */
#define PGWRITER_COPY_ROWS 50

struct pgwriter_config {
    const char *conninfo;
    bool auto_migrate;
    struct embedding_model model;
    size_t copy_rows; /* new rows from which on a batch goes by COPY; 0: never */
};

enum row_verdict {
    ROW_PENDING,   /* not stored: the batch failed */
    ROW_STORED,    /* a new row */
    ROW_DUPLICATE, /* the same id with the same content was there already */
    ROW_DEAD,      /* in dead_letters: refused by the server, or ID_REUSED */
};

struct write_row {
    struct conversation *conversation; /* read only here */
    enum row_verdict verdict;          /* out */
};

/* A vector of one row. chunk 0 with byte_end 0 is the whole (summary); else bytes [byte_start,
 * byte_end) of the transcript. */
struct write_vector {
    uint32_t row;
    uint32_t chunk;
    uint32_t byte_start;
    uint32_t byte_end;
    const float *values; /* model.dimension floats, finite */
};

enum write_outcome {
    WRITE_DONE,  /* committed: each row has its verdict */
    WRITE_RETRY, /* passing trouble while connected (40, lock time-out, 53, 25006): the whole batch
                    again, after a pause */
    WRITE_UNREACHABLE, /* no connection, or it was lost (08, 57, 58): the same, and others need not
                          try meanwhile */
    WRITE_SUSPECT, /* failed in a way that may be one row's fault (22, 23, 54, XX and unknown ones;
                      isolated: its backend died of it): try isolated */
    WRITE_STOPPED, /* schema or permission trouble (42, 28, 3D, 3F, wrong encoding or version), or
                      dead letters that cannot be written: nobody can write now, unless `refused` */
};

struct write_batch {
    struct write_row *rows; /* sorted by conversation_compare, no key twice */
    size_t count;
    const struct write_vector
        *vectors; /* sorted by row, then chunk; rows without any go into embedding_backlog */
    size_t vector_count;
    bool isolate;      /* row by row, a sync after each; refused rows become dead letters */
    bool last_attempt; /* isolate: a row that fails now for whatever reason of its own is
                          dead-lettered */
    /* With last_attempt: this one is a row's own, too, whatever its class; or "". */
    char own_sqlstate[6];

    /* Out. The rows' verdicts hold whatever the outcome is: one that is not ROW_PENDING is done
     * with, the others go again. */
    enum write_outcome outcome;
    bool refused;        /* out: the server refused a statement of it, and nothing else was wrong;
                            with WRITE_UNREACHABLE and WRITE_STOPPED it may be one row's fault */
    bool lost_in_flight; /* out: the server took the batch and then went away without a word,
                            as a backend does that dies of it; twice alike is suspect */
    char sqlstate[6];    /* out: "" on success or where there is none */
    char error[256];     /* out: for logs and stats; no row content */
};

struct pgwriter;

/* Never fails but for memory (NULL). Does not connect yet. config and its strings outlive the
 * writer. */
struct pgwriter *pgwriter_new(const struct pgwriter_config *config);
void pgwriter_free(struct pgwriter *w); /* takes NULL */

/* Connects where needed (schema and model row are made then), writes the batch, fills in its out
 * fields. One without rows only connects. Blocks its thread, bounded by connect_timeout,
 * tcp_user_timeout and statement_timeout. */
void pgwriter_write(struct pgwriter *w, struct write_batch *batch);

/* Where vectors are not stored as wanted, each connection looks that often whether they can be. */
#define PGWRITER_LOOK_MS 2000

/* What the connection found. Valid after the first successful connect; for the log and stats. */
struct pgwriter_found {
    bool connected;
    int server_version;
    char pgvector_version[32]; /* "" without */
    char storage[16];          /* of vectors: "vector", "halfvec", "real" */
    bool pgvector_old;         /* too old for vectors, which are wanted: they are real[] */
    bool vectors_movable;      /* they are not stored as wanted, and pgvector is there */
    bool fsync_off;
    uint32_t timeline; /* of the server's WAL: another one means that a standby was promoted */
};
struct pgwriter_found pgwriter_found(const struct pgwriter *w);

#endif
