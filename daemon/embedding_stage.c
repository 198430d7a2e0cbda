/* Orders of texts, and the start and end of the stage; embedding_request.c has the requests. Owns
 * the embed workers, the cache, the flights and one timer; lives on the loop thread.
 *
 * The one hard thing: orders and requests do not match one to one. A text that two orders want is
 * in one flight with two waiters; a request carries flights of many orders; an order may give up
 * (deadline, cancel) while its flights go on. So an item hangs in its flight's list of waiters by a
 * link that it can undo alone, and a flight does not mind losing all its waiters.
 *
 * Invariants: an item is linked exactly while it is not settled; an order is in the waiting list
 * while waiting > 0, then in the ready list until on_done, both sorted by due_ms; requests under
 * way are at most as many as workers. */
#include "daemon/embedding_stage.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_cache_file.h"
#include "daemon/embedding_stage_internal.h"

#define SELFTEST_WAIT_MS 250
#define QUIET_AFTER_MS 250

/* Orders */

/* Behind the last one that is due no later: the end, but for the few with a deadline of their own.
 */
static void list_push(struct order_list *list, struct embedding_order *order)
{
    struct embedding_order *after = list->tail;

    while (after != NULL && after->due_ms > order->due_ms)
        after = after->previous;
    order->previous = after;
    order->next = after != NULL ? after->next : list->head;
    if (order->next != NULL)
        order->next->previous = order;
    else
        list->tail = order;
    if (after != NULL)
        after->next = order;
    else
        list->head = order;
    list->count++;
}

static void list_remove(struct order_list *list, struct embedding_order *order)
{
    if (order->previous != NULL)
        order->previous->next = order->next;
    else
        list->head = order->next;
    if (order->next != NULL)
        order->next->previous = order->previous;
    else
        list->tail = order->previous;
    assert(list->count > 0);
    list->count--;
}

void embedding_stage_set_order_state(struct embedding_stage *s, struct embedding_order *order,
                                     int state)
{
    if (order->state == ORDER_WAITING)
        list_remove(&s->waiting, order);
    else if (order->state == ORDER_READY)
        list_remove(&s->ready, order);
    order->state = state;
    if (state == ORDER_WAITING)
        list_push(&s->waiting, order);
    else if (state == ORDER_READY)
        list_push(&s->ready, order);
}

static void item_link(struct embedding_item *item, struct flight *flight)
{
    item->next_waiter = flight->waiters;
    item->link = &flight->waiters;
    if (item->next_waiter != NULL)
        item->next_waiter->link = &item->next_waiter;
    flight->waiters = item;
}

void embedding_stage_unlink_item(struct embedding_item *item)
{
    *item->link = item->next_waiter;
    if (item->next_waiter != NULL)
        item->next_waiter->link = item->link;
    item->link = NULL;
}

/* Takes all items of an order that are not settled out of their flights. */
static void order_give_up(struct embedding_order *order)
{
    for (size_t i = 0; i < order->count && order->waiting > 0; i++) {
        if (order->items[i].link == NULL)
            continue;
        embedding_stage_unlink_item(&order->items[i]);
        order->items[i].error = -EAGAIN;
        order->waiting--;
    }
    assert(order->waiting == 0);
}

static void on_timer(uv_timer_t *timer);

uint64_t embedding_stage_next_chance_ms(const struct embedding_stage *s)
{
    return endpoints_next_ms(&s->endpoints, uv_now(s->timer.loop), s->config->embedding.timeout_ms);
}

/* The time at which there is something to do; UINT64_MAX: only when something comes. */
static uint64_t next_work_ms(const struct embedding_stage *s, uint64_t now)
{
    uint64_t at = s->waiting.head != NULL ? s->waiting.head->due_ms : UINT64_MAX;
    uint64_t chance = embedding_stage_next_chance_ms(s);

    if (s->ready.head != NULL)
        return now;
    if (flights_queued(s->flights) > 0 && chance > now && chance < at)
        at = chance; /* a breaker lets go of what is queued */
    if (s->selftests) {
        uint64_t selftest = endpoints_next_selftest_ms(&s->endpoints, now);

        if (selftest < now + SELFTEST_WAIT_MS) /* the workers are busy */
            selftest = now + SELFTEST_WAIT_MS;
        at = selftest < at ? selftest : at;
    }
    return at;
}

static void arm_timer(struct embedding_stage *s)
{
    uint64_t now = uv_now(s->timer.loop);
    uint64_t at = next_work_ms(s, now);

    if (at == UINT64_MAX)
        uv_timer_stop(&s->timer);
    else
        uv_timer_start(&s->timer, on_timer, at > now ? at - now : 0, 0);
}

/* Runs on_done of those that are ready now; those that become ready meanwhile wait for the timer,
 * so that an on_done that wants again cannot keep the loop here. */
void embedding_stage_deliver(struct embedding_stage *s)
{
    for (size_t n = s->ready.count; n > 0 && s->ready.head != NULL; n--) {
        struct embedding_order *order = s->ready.head;

        embedding_stage_set_order_state(s, order, ORDER_IDLE);
        order->on_done(order); /* the order belongs to its owner again */
    }
    arm_timer(s);
}

static void on_timer(uv_timer_t *timer)
{
    struct embedding_stage *s = timer->data;

    while (s->waiting.head != NULL && s->waiting.head->due_ms <= uv_now(timer->loop)) {
        struct embedding_order *order = s->waiting.head;

        order_give_up(order);
        embedding_stage_set_order_state(s, order, ORDER_READY);
    }
    if (s->pool != NULL)
        embedding_stage_dispatch(s);
    embedding_stage_deliver(s);
}

/* The stage */

static void say_cache_file(struct embedding_stage *s, const char *what, int error, const char *text)
{
    if (s->hooks.on_cache_file != NULL)
        s->hooks.on_cache_file(s->hooks.context, what, error, text);
}

static void on_cache_saved(void *context, int error)
{
    say_cache_file(context, "saved", error, error < 0 ? strerror(-error) : "");
}

/* What the last daemon left, and saving it again from time to time. */
static int start_cache_file(struct embedding_stage *s)
{
    const char *path = s->config->cache.file;
    char text[256];
    uint64_t count = 0;
    int rc;

    if (path == NULL || path[0] == '\0')
        return 0;
    rc = embedding_cache_load(s->cache, path, s->model_key, s->model.dimension, &count, text);
    if (rc == 0)
        snprintf(text, sizeof text, "%ju vectors", (uintmax_t)count);
    say_cache_file(s, "read", rc == -ENOENT ? 0 : rc, text);
    return embedding_cache_file_start(s->timer.loop, s->cache, path, s->model_key,
                                      s->model.dimension, on_cache_saved, s, &s->cache_file);
}

static void stage_free(struct embedding_stage *s)
{
    flights_free(s->flights);
    endpoints_done(&s->endpoints);
    embedding_cache_free(s->cache);
    free(s->workers);
    free(s);
    curl_global_cleanup();
}

static struct embedding_stage *stage_new(const struct config *config,
                                         const struct embedding_model *model,
                                         const struct embedding_stage_hooks *hooks)
{
    struct embedding_stage *s;

    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) /* here: before there are threads */
        return NULL;
    s = calloc(1, sizeof *s);
    if (s == NULL) {
        curl_global_cleanup();
        return NULL;
    }
    s->config = config;
    s->model = *model;
    s->model_key = embedding_key_of_model(model);
    if (hooks != NULL)
        s->hooks = *hooks;
    if (s->hooks.embedder_new == NULL)
        s->hooks.embedder_new = embedder_new;
    s->cache = embedding_cache_new(config->cache.embedding_cache_size,
                                   config->cache.embedding_cache_bytes);
    s->flights = flights_new();
    if (endpoints_init(&s->endpoints, config->embedding.url) != 0 || s->cache == NULL ||
        s->flights == NULL) {
        stage_free(s);
        return NULL;
    }
    return s;
}

static void on_handle_closed(void *arg)
{
    struct embedding_stage *s = arg;
    void (*on_closed)(void *) = s->on_closed;
    void *context = s->on_closed_context;

    assert(s->open_handles > 0);
    if (--s->open_handles > 0)
        return;
    stage_free(s);
    if (on_closed != NULL)
        on_closed(context);
}

static void on_timer_closed(uv_handle_t *handle)
{
    on_handle_closed(handle->data);
}

int embedding_stage_start(uv_loop_t *loop, const struct config *config,
                          const struct embedding_model *model,
                          const struct embedding_stage_hooks *hooks, struct embedding_stage **ret)
{
    struct embedding_stage *s = stage_new(config, model, hooks);
    int rc;

    if (s == NULL)
        return -ENOMEM;
    rc = uv_timer_init(loop, &s->timer);
    if (rc != 0) {
        stage_free(s);
        return rc;
    }
    s->timer.data = s;
    s->open_handles = 1;
    if (model->dimension > 0) {
        rc = embedding_stage_start_pool(s);
        if (rc == 0)
            rc = start_cache_file(s);
        if (rc != 0) {
            embedding_stage_close(s, NULL, NULL);
            return rc;
        }
        s->stats.state = EMBEDDING_OK;
        s->selftests = config->embedding.self_test && strcmp(model->provider, "builtin") != 0;
        embedding_stage_dispatch(s);
        arm_timer(s);
    }
    *ret = s;
    return 0;
}

void embedding_stage_reconfigure(struct embedding_stage *s, const struct config *config)
{
    s->config = config;
    embedding_cache_resize(s->cache, config->cache.embedding_cache_size,
                           config->cache.embedding_cache_bytes);
    endpoints_renew_selftests(&s->endpoints);
    if (s->selftests)
        arm_timer(s);
}

/* Settles one item at once, or hangs it into its text's flight. */
static void want_item(struct embedding_stage *s, struct embedding_item *item)
{
    struct embedding_key key;
    struct flight *flight;

    item->error = s->pool == NULL ? -EOPNOTSUPP : 0;
    if (s->pool == NULL)
        return;
    key = embedding_key_of_text(s->model_key, item->text);
    item->vector = embedding_cache_get(s->cache, key);
    if (item->vector != NULL)
        return;
    if (item->order->cached_only) {
        item->error = -EAGAIN;
        return;
    }
    flight = flights_find(s->flights, key);
    if (flight == NULL)
        flight = flights_add(s->flights, key, item->text, item->order->apart ? item->order : NULL);
    if (flight == NULL) {
        s->stats.shed++;
        item->error = -EAGAIN;
        return;
    }
    item_link(item, flight);
    item->order->waiting++;
}

void embedding_stage_want(struct embedding_stage *s, struct embedding_order *order)
{
    assert(!s->closing && order->on_done != NULL);
    order->waiting = 0;
    order->state = ORDER_IDLE;
    order->due_ms =
        uv_now(s->timer.loop) +
        (order->deadline_ms != 0 ? order->deadline_ms : s->config->embedding.deadline_ms);
    for (size_t i = 0; i < order->count; i++) {
        order->items[i].order = order;
        order->items[i].vector = NULL;
        order->items[i].link = NULL;
        want_item(s, &order->items[i]);
    }
    if (order->waiting > 0 && !order->patient)
        s->live_ms = uv_now(s->timer.loop);
    embedding_stage_set_order_state(s, order, order->waiting > 0 ? ORDER_WAITING : ORDER_READY);
    if (s->pool != NULL)
        embedding_stage_dispatch(s);
    arm_timer(s);
}

void embedding_stage_hurry(struct embedding_stage *s, struct embedding_order *order)
{
    assert(order->state != ORDER_IDLE);
    if (order->state != ORDER_WAITING)
        return;
    order->due_ms = uv_now(s->timer.loop);
    embedding_stage_set_order_state(s, order, ORDER_WAITING); /* to its new place */
    arm_timer(s);
}

void embedding_stage_cancel(struct embedding_stage *s, struct embedding_order *order)
{
    assert(order->state != ORDER_IDLE);
    order_give_up(order);
    embedding_stage_set_order_state(s, order, ORDER_IDLE);
    if (!s->closing)
        arm_timer(s);
}

bool embedding_stage_is_ready(const struct embedding_stage *s)
{
    return s->pool != NULL && embedding_stage_next_chance_ms(s) <= uv_now(s->timer.loop);
}

bool embedding_stage_is_quiet(const struct embedding_stage *s)
{
    return uv_now(s->timer.loop) - s->live_ms >= QUIET_AFTER_MS;
}

const char *embedding_state_name(enum embedding_state state)
{
    switch (state) {
    case EMBEDDING_OFF:
        return "off";
    case EMBEDDING_OK:
        return "ok";
    case EMBEDDING_FAILING:
        return "failing";
    }
    abort();
}

void embedding_stage_stats(const struct embedding_stage *s, struct embedding_stage_stats *ret)
{
    *ret = s->stats;
    ret->cache = embedding_cache_stats(s->cache);
    ret->endpoints = &s->endpoints;
}

void embedding_stage_clear_cache(struct embedding_stage *s)
{
    embedding_cache_clear(s->cache);
    if (s->cache_file != NULL)
        embedding_cache_file_save_now(s->cache_file);
}

bool embedding_stage_stop(struct embedding_stage *s)
{
    s->stopping = true;
    return s->pool == NULL || handoff_in_flight(s->pool) == 0;
}

void embedding_stage_close(struct embedding_stage *s, void (*on_closed)(void *), void *context)
{
    assert(!s->closing);
    s->closing = true;
    s->on_closed = on_closed;
    s->on_closed_context = context;
    while (s->waiting.head != NULL)
        embedding_stage_cancel(s, s->waiting.head);
    while (s->ready.head != NULL)
        embedding_stage_cancel(s, s->ready.head);
    if (s->pool != NULL) {
        s->open_handles++;
        handoff_close(s->pool, on_handle_closed);
        s->pool = NULL;
    }
    if (s->cache_file != NULL) { /* behind the pool, whose last vectors are in the cache now */
        s->open_handles++;
        embedding_cache_file_close(s->cache_file, on_handle_closed, s);
        s->cache_file = NULL;
    }
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}
