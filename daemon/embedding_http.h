/* POST of a JSON body to an embedding server over a connection that is kept. Worker side: one of
 * these for each thread. */
#ifndef DAEMON_EMBEDDING_HTTP_H
#define DAEMON_EMBEDDING_HTTP_H

#include <stddef.h>

#include "proto/slice.h"

#define RETRY_AFTER_MAX_MS 3600000
#define EMBEDDING_KEY_MAX 1024 /* bytes of an API key */

struct embedding_http;

struct http_reply {
    long status;
    struct slice body;  /* valid until the next post */
    int retry_after_ms; /* -1: the server named none */
};

/* url: http://, https://, or unix:///path/of/the/socket; path is appended ("/api/embed"), less a
 * "/v1" that both have. key: for the Authorization header; NULL or "": none. curl_global_init() has
 * run. NULL when memory is short. */
struct embedding_http *embedding_http_new(const char *url, const char *path, const char *key);
void embedding_http_free(struct embedding_http *h); /* takes NULL */

/* One request. Blocks its thread for timeout_ms at most. 0 with *ret, whatever the status; or with
 * error (256 bytes) filled: -EMSGSIZE the reply is over reply_max bytes; -EINVAL the address or
 * the server's certificate is unusable, a person must look; -ENOMEM; -ETIMEDOUT the server took the
 * request and did not answer in time; -ECONNABORTED anything else that is in the way of an answer.
 */
int embedding_http_post(struct embedding_http *h, struct slice body, size_t reply_max,
                        long timeout_ms, struct http_reply *ret, char error[256])
    __attribute__((warn_unused_result));

#endif
