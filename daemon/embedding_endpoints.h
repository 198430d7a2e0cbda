/* The URLs of the embedder, spread over, each with a breaker of its own. Loop thread only. */
#ifndef DAEMON_EMBEDDING_ENDPOINTS_H
#define DAEMON_EMBEDDING_ENDPOINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/breaker.h"
#include "daemon/embedding.h"
#include "daemon/embedding_selftest.h"

struct endpoint {
    char *url;
    struct breaker breaker;
    unsigned in_flight;
    size_t inputs_max;           /* in a request, after one that took too long; 0: as configured */
    uint64_t requests, failures; /* that came back; of them, without an answer */
    uint64_t answered_ms;        /* when it last answered; 0: never */
    struct embedding_selftest selftest; /* its last outcome */
    uint64_t selftest_due_ms;           /* when the next may begin; UINT64_MAX: none is due */
    bool selftest_under_way;
    char last_error[256];
};

struct endpoints {
    struct endpoint list[EMBEDDING_URLS_MAX];
    const char *urls[EMBEDDING_URLS_MAX]; /* the same, for the workers */
    unsigned count;
    unsigned last; /* the one that was chosen last */
};

/* list: URLs separated by commas; at least one stands after it, perhaps "". 0; -ENOMEM; -E2BIG
 * there are more than EMBEDDING_URLS_MAX. After either, endpoints_done() is due. */
int endpoints_init(struct endpoints *e, const char *list) __attribute__((warn_unused_result));
void endpoints_done(struct endpoints *e);

/* The endpoint that may be asked now and has the fewest requests, in turn where several have as
 * few; NULL: none may. Begins a request there, which endpoint_settle() ends. */
struct endpoint *endpoints_begin(struct endpoints *e, uint64_t now_ms);

/* One whose self-test is due and that may be asked now, or NULL. Begins a request there. */
struct endpoint *endpoints_begin_selftest(struct endpoints *e, uint64_t now_ms);

/* A self-test is over. What it found stands until another one finds something; the next is due at
 * once where the server did not answer, later where it should be mended. */
void endpoint_settle_selftest(struct endpoint *endpoint, const struct embedding_selftest *found,
                              uint64_t now_ms);

/* All servers' self-tests are due. */
void endpoints_renew_selftests(struct endpoints *e);

/* When the next self-test is due; UINT64_MAX: none is. */
uint64_t endpoints_next_selftest_ms(const struct endpoints *e, uint64_t now_ms);

/* A request that began at begun_ms is over. error: why it was not answered, or "". */
void endpoint_settle(struct endpoint *endpoint, enum breaker_event event, int retry_after_ms,
                     const char *error, uint64_t begun_ms, uint64_t now_ms);

/* A request of so many inputs took too long, or was answered: the next ones are half as large, and
 * then twice as large with each that is full and answered, up to configured_max again. */
void endpoint_fit_inputs(struct endpoint *endpoint, size_t inputs, bool timed_out,
                         size_t configured_max);

/* A request that endpoints_begin() allowed does not go after all. */
void endpoint_take_back(struct endpoint *endpoint);

/* The earliest time at which any may be asked; see breaker_next_ms(). */
uint64_t endpoints_next_ms(const struct endpoints *e, uint64_t now_ms, uint64_t probe_ms);

/* No breaker is closed. */
bool endpoints_all_open(const struct endpoints *e);

/* None has answered the last request that it had. */
bool endpoints_all_failing(const struct endpoints *e);

/* A URL for logs and stats: without a user's name or password, or what follows a "?". */
void endpoint_shown_url(const char *url, char ret[128]);

#endif
