/* The loop's side of embedding: texts in, vectors out, from the cache or from the embed workers.
 * Everything here is called on the loop thread, and every callback runs there. */
#ifndef DAEMON_EMBEDDING_STAGE_H
#define DAEMON_EMBEDDING_STAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "daemon/config.h"
#include "daemon/embedding.h"
#include "daemon/embedding_cache.h"
#include "daemon/embedding_endpoints.h"
#include "daemon/pgwriter.h"
#include "daemon/vector.h"
#include "proto/slice.h"

enum embedding_state {
    EMBEDDING_OFF,     /* provider "none" */
    EMBEDDING_OK,      /* one of the URLs answered its last request, or had none yet */
    EMBEDDING_FAILING, /* none did */
};
const char *embedding_state_name(enum embedding_state state);

struct embedding_order;

/* One text of an order. */
struct embedding_item {
    struct slice text;     /* in; read in embedding_stage_want() only */
    struct vector *vector; /* out: a reference that the order's owner releases; NULL: none */
    int error; /* out: 0; -EAGAIN not in time or the embedder failed: later; -ETIMEDOUT the same,
                  and it is this text that takes too long, or one that it went apart with; -E2BIG,
                  -EINVAL this text never (see embed_input); -EOPNOTSUPP provider "none" */

    /* The stage's own. */
    struct embedding_order *order;
    struct embedding_item *next_waiter, **link;
};

/* The texts of one batch. Belongs to the caller again when on_done runs. */
struct embedding_order {
    struct embedding_item *items;
    size_t count;
    uint64_t deadline_ms; /* 0: embedding.deadline_ms */
    bool patient;         /* waits for a server that is down, up to the deadline */
    bool apart;           /* its texts go in requests with no other's, and once: they may be what
                             made an earlier request hang */
    bool cached_only; /* takes what the cache has and asks nobody: for the others it is -EAGAIN */
    void (*on_done)(struct embedding_order *order);

    /* The stage's own. */
    size_t waiting; /* items that are not settled */
    uint64_t due_ms;
    struct embedding_order *next, *previous;
    enum { ORDER_IDLE, ORDER_WAITING, ORDER_READY } state;
};

/* What the owner wants to hear; each function may be NULL. */
struct embedding_stage_hooks {
    void *context;
    /* A request came back. ok: it was answered. inputs: the texts in it. */
    void (*on_request_done)(void *context, uint64_t duration_ns, size_t inputs, bool ok);
    /* The state changed; error is the reason ("" for EMBEDDING_OK). For the log. */
    void (*on_state)(void *context, enum embedding_state state, const char *error);
    /* A server's self-test was made. For the log. */
    void (*on_selftest)(void *context, const char *url, const struct embedding_selftest *found);
    /* cache.file was read at the start (with what was found) or written; error: 0 or a negative
     * errno. For the log. */
    void (*on_cache_file)(void *context, const char *what, int error, const char *text);
    /* In the place of embedder_new(): for tests. Called on the workers. */
    struct embedder *(*embedder_new)(const struct config *config, const char *url);
};

struct embedding_stage;

/* Starts the embed workers. config lives until the next embedding_stage_reconfigure(), model's
 * strings outlive the stage; hooks may be NULL and is copied. 0 or a negative errno. */
int embedding_stage_start(uv_loop_t *loop, const struct config *config,
                          const struct embedding_model *model,
                          const struct embedding_stage_hooks *hooks, struct embedding_stage **ret)
    __attribute__((warn_unused_result));

/* Another snapshot from now on: deadlines, time-outs, sizes of requests and of the cache, the API
 * key's file. The model, the URLs and the number of workers stay. */
void embedding_stage_reconfigure(struct embedding_stage *s, const struct config *config);

/* Fills in the order's vectors: from the cache, else by asking the workers for what nobody has
 * asked for yet. on_done runs once, never inside this call: when all items are settled, or at the
 * deadline with those that are, or at once with those that are where no server may be asked before
 * it, or all breakers are open and the order is not patient (see breaker.h). The deadline cancels
 * no request: a late vector goes into the cache. What is in no request by then is not asked for any
 * more, unless another order wants it. count may be 0. The stage's own fields of the order need no
 * preparation. */
void embedding_stage_want(struct embedding_stage *s, struct embedding_order *order);

/* Its deadline is now: on_done runs soon, with what is there. Not for an order that is done. */
void embedding_stage_hurry(struct embedding_stage *s, struct embedding_order *order);

/* Takes an order back before its on_done, which then never runs. Vectors that its items have so far
 * are the caller's to release. */
void embedding_stage_cancel(struct embedding_stage *s, struct embedding_order *order);

/* Whether asking now makes sense: some server may be asked. */
bool embedding_stage_is_ready(const struct embedding_stage *s);

/* For a quarter of a second no order that is not patient has had to ask a server. */
bool embedding_stage_is_quiet(const struct embedding_stage *s);

struct embedding_stage_stats {
    enum embedding_state state;
    char last_error[256]; /* "" while nothing failed; stays after it is over */
    uint64_t requests;    /* that came back */
    uint64_t failures;    /* of them, those without an answer */
    uint64_t inputs;      /* texts in them */
    uint64_t refused;     /* texts that got an error of their own */
    uint64_t late;        /* vectors that came when nobody waited any more */
    uint64_t shed;        /* texts not asked for because too many were asked for already */
    struct embedding_cache_stats cache;
    const struct endpoints *endpoints; /* good until the loop goes on */
};
void embedding_stage_stats(const struct embedding_stage *s, struct embedding_stage_stats *ret);

/* Forgets all vectors, those in cache.file too. */
void embedding_stage_clear_cache(struct embedding_stage *s);

/* Sends no request any more. True: none is under way, and embedding_stage_close() blocks for none.
 */
bool embedding_stage_stop(struct embedding_stage *s);

/* Ends the stage: waits for requests that are under way (blocks the loop for embedding.timeout_ms
 * at most), drops those that are not, takes back all orders as embedding_stage_cancel() does.
 * on_closed (may be NULL) runs when all is freed. */
void embedding_stage_close(struct embedding_stage *s, void (*on_closed)(void *), void *context);

#endif
