/* A short list, walked each time. Owns the URLs. */
#include "daemon/embedding_endpoints.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SELFTEST_AGAIN_MS 300000 /* a server that somebody should mend is looked at again */

static int add(struct endpoints *e, const char *start, size_t len)
{
    struct endpoint *endpoint = &e->list[e->count];

    if (e->count == EMBEDDING_URLS_MAX)
        return -E2BIG;
    endpoint->url = strndup(start, len);
    if (endpoint->url == NULL)
        return -ENOMEM;
    e->urls[e->count++] = endpoint->url;
    return 0;
}

int endpoints_init(struct endpoints *e, const char *list)
{
    int rc = 0;

    memset(e, 0, sizeof *e);
    for (const char *at = list; rc == 0;) {
        size_t len, blank;

        at += strspn(at, ", \t");
        len = blank = strcspn(at, ",");
        while (len > 0 && (at[len - 1] == ' ' || at[len - 1] == '\t'))
            len--;
        if (blank == 0)
            break;
        rc = add(e, at, len);
        at += blank;
    }
    if (rc == 0 && e->count == 0)
        rc = add(e, "", 0);
    return rc;
}

void endpoints_done(struct endpoints *e)
{
    for (unsigned i = 0; i < e->count; i++)
        free(e->list[i].url);
    e->count = 0;
}

static void begin(struct endpoint *endpoint)
{
    endpoint->in_flight++;
    breaker_begin(&endpoint->breaker);
}

struct endpoint *endpoints_begin(struct endpoints *e, uint64_t now_ms)
{
    struct endpoint *best = NULL;

    for (unsigned i = 1; i <= e->count; i++) {
        struct endpoint *endpoint = &e->list[(e->last + i) % e->count];

        if (breaker_allows(&endpoint->breaker, now_ms) &&
            (best == NULL || endpoint->in_flight < best->in_flight))
            best = endpoint;
    }
    if (best == NULL)
        return NULL;
    e->last = (unsigned)(best - e->list);
    begin(best);
    return best;
}

struct endpoint *endpoints_begin_selftest(struct endpoints *e, uint64_t now_ms)
{
    for (unsigned i = 0; i < e->count; i++) {
        struct endpoint *endpoint = &e->list[i];

        if (endpoint->selftest_due_ms > now_ms || endpoint->selftest_under_way ||
            !breaker_allows(&endpoint->breaker, now_ms))
            continue;
        endpoint->selftest_under_way = true;
        begin(endpoint);
        return endpoint;
    }
    return NULL;
}

uint64_t endpoints_next_selftest_ms(const struct endpoints *e, uint64_t now_ms)
{
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < e->count; i++) {
        const struct endpoint *endpoint = &e->list[i];
        uint64_t one = breaker_next_ms(&endpoint->breaker, now_ms, BREAKER_CAP_MS);

        if (one < endpoint->selftest_due_ms)
            one = endpoint->selftest_due_ms;
        if (!endpoint->selftest_under_way && one < next)
            next = one;
    }
    return next;
}

void endpoint_settle_selftest(struct endpoint *endpoint, const struct embedding_selftest *found,
                              uint64_t now_ms)
{
    endpoint->selftest_under_way = false;
    switch (found->state) {
    case SELFTEST_DUE:
        endpoint->selftest_due_ms = 0; /* the breaker says when */
        break;
    case SELFTEST_PASSED:
        endpoint->selftest_due_ms = UINT64_MAX;
        break;
    case SELFTEST_WARNING:
        endpoint->selftest_due_ms = now_ms + SELFTEST_AGAIN_MS;
    }
    if (found->state != SELFTEST_DUE || endpoint->selftest.state == SELFTEST_DUE)
        endpoint->selftest = *found;
}

void endpoints_renew_selftests(struct endpoints *e)
{
    for (unsigned i = 0; i < e->count; i++)
        e->list[i].selftest_due_ms = 0;
}

void endpoint_take_back(struct endpoint *endpoint)
{
    assert(endpoint->in_flight > 0);
    endpoint->in_flight--;
    if (endpoint->breaker.state == BREAKER_HALF_OPEN)
        endpoint->breaker.state = BREAKER_OPEN;
}

void endpoint_fit_inputs(struct endpoint *endpoint, size_t inputs, bool timed_out,
                         size_t configured_max)
{
    if (timed_out)
        endpoint->inputs_max = inputs > 1 ? inputs / 2 : 1;
    else if (endpoint->inputs_max > 0 && inputs >= endpoint->inputs_max)
        endpoint->inputs_max *= 2;
    if (endpoint->inputs_max >= configured_max)
        endpoint->inputs_max = 0;
}

void endpoint_settle(struct endpoint *endpoint, enum breaker_event event, int retry_after_ms,
                     const char *error, uint64_t begun_ms, uint64_t now_ms)
{
    assert(endpoint->in_flight > 0);
    endpoint->in_flight--;
    endpoint->requests++;
    endpoint->failures += event != BREAKER_ANSWERED;
    if (event == BREAKER_ANSWERED)
        endpoint->answered_ms = now_ms;
    if (error[0] != '\0')
        snprintf(endpoint->last_error, sizeof endpoint->last_error, "%s", error);
    breaker_settle(&endpoint->breaker, event, retry_after_ms, begun_ms, now_ms);
}

uint64_t endpoints_next_ms(const struct endpoints *e, uint64_t now_ms, uint64_t probe_ms)
{
    uint64_t next = UINT64_MAX;

    for (unsigned i = 0; i < e->count; i++) {
        uint64_t one = breaker_next_ms(&e->list[i].breaker, now_ms, probe_ms);

        next = one < next ? one : next;
    }
    return next;
}

bool endpoints_all_open(const struct endpoints *e)
{
    for (unsigned i = 0; i < e->count; i++)
        if (e->list[i].breaker.state == BREAKER_CLOSED)
            return false;
    return true;
}

bool endpoints_all_failing(const struct endpoints *e)
{
    for (unsigned i = 0; i < e->count; i++)
        if (e->list[i].breaker.failures + e->list[i].breaker.limited == 0)
            return false;
    return true;
}

void endpoint_shown_url(const char *url, char ret[128])
{
    const char *host = strstr(url, "://");
    const char *end = url + strcspn(url, "?#");
    const char *at = NULL;
    size_t scheme = host != NULL ? (size_t)(host + 3 - url) : 0;

    /* A user's part ends at the last @ before the path. */
    for (const char *c = url + scheme; c < end && *c != '/'; c++)
        if (*c == '@')
            at = c;
    if (at == NULL)
        snprintf(ret, 128, "%.*s", (int)(end - url), url);
    else
        snprintf(ret, 128, "%.*s%.*s", (int)scheme, url, (int)(end - at - 1), at + 1);
}
