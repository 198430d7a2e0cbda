/* What embedding_stage.c (orders, start and end) and embedding_request.c (requests and their
 * answers) share. Loop. */
#ifndef DAEMON_EMBEDDING_STAGE_INTERNAL_H
#define DAEMON_EMBEDDING_STAGE_INTERNAL_H

#include "daemon/embedding_flight.h"
#include "daemon/embedding_job.h"
#include "daemon/embedding_stage.h"
#include "daemon/handoff.h"

struct order_list {
    struct embedding_order *head, *tail;
    size_t count;
};

struct embedding_stage {
    uv_timer_t timer;
    const struct config *config;
    struct embedding_model model;
    struct embedding_key model_key;
    struct embedding_stage_hooks hooks;
    struct embedding_cache *cache;
    struct embedding_cache_file *cache_file; /* NULL: not kept */
    struct flights *flights;
    struct handoff *pool; /* NULL: provider "none" */
    struct embed_worker *workers;
    unsigned worker_count;
    struct endpoints endpoints;
    bool selftests; /* they are made */
    struct order_list waiting, ready;
    struct embedding_stage_stats stats;
    uint64_t live_ms; /* when an order that is not patient last had to ask */
    bool stopping, closing;
    unsigned open_handles; /* the timer and the pool */
    void (*on_closed)(void *);
    void *on_closed_context;
};

/* embedding_stage.c */

/* Moves an order to the list of its new state. */
void embedding_stage_set_order_state(struct embedding_stage *s, struct embedding_order *order,
                                     int state);

/* Takes an item that is not settled out of its flight. */
void embedding_stage_unlink_item(struct embedding_item *item);

/* The earliest time at which any server may be asked. */
uint64_t embedding_stage_next_chance_ms(const struct embedding_stage *s);

/* Runs on_done of the orders that are ready, and arms the timer. */
void embedding_stage_deliver(struct embedding_stage *s);

/* embedding_request.c */

/* Starts the embed workers. */
int embedding_stage_start_pool(struct embedding_stage *s) __attribute__((warn_unused_result));

/* Gives each free worker a request while there is something to ask for and somebody to ask. */
void embedding_stage_dispatch(struct embedding_stage *s);

#endif
