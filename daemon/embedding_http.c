/* libcurl for one embed worker. Owns the CURL handle (and so the connection that is kept between
 * requests) and the reply's buffer; lives on the worker's thread.
 *
 * The hard thing: the server is not trusted to end. Both time-outs are set, since libcurl's
 * defaults are five minutes and none, and the reply is counted in the write callback, since
 * CURLOPT_MAXFILESIZE knows only what a Content-Length announces. A server may close a kept
 * connection just as a request goes out: libcurl then sends it again on a fresh one by itself,
 * which asks that the body stays in memory (CURLOPT_POSTFIELDS does). */
#include "daemon/embedding_http.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONNECT_TIMEOUT_MS 5000
#define UNIX_PREFIX "unix://"

struct embedding_http {
    CURL *curl;
    struct curl_slist *headers;
    char *url;
    char *data; /* the reply's body */
    size_t len;
    size_t capacity;
    size_t reply_max;
    bool too_big;
    int retry_after_ms;
    char curl_error[CURL_ERROR_SIZE];
};

static bool grow(struct embedding_http *h, size_t need)
{
    size_t capacity = h->capacity > 0 ? h->capacity : 16384;
    char *data;

    if (need <= h->capacity)
        return true;
    while (capacity < need)
        capacity *= 2; /* need is at most reply_max */
    data = realloc(h->data, capacity);
    if (data == NULL)
        return false;
    h->data = data;
    h->capacity = capacity;
    return true;
}

/* Anything but the full size makes libcurl give up with CURLE_WRITE_ERROR. */
static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct embedding_http *h = arg;
    size_t len = size * count;

    if (len > h->reply_max - h->len) {
        h->too_big = true;
        return 0;
    }
    if (!grow(h, h->len + len))
        return 0;
    memcpy(h->data + h->len, data, len);
    h->len += len;
    return len;
}

/* Not a number: less than 1. */
static int bounded_ms(double ms)
{
    if (!(ms >= 1))
        return 0;
    return ms < RETRY_AFTER_MAX_MS ? (int)ms : RETRY_AFTER_MAX_MS;
}

/* A retry-after-ms's value; -1 where it is no number. */
static int retry_after_in_ms(const char *value)
{
    char *end;
    double ms = strtod(value, &end);

    return end != value ? bounded_ms(ms) : -1;
}

/* A Retry-After's value: seconds or a date; -1 where it is neither. */
static int retry_after(const char *value)
{
    char *end;
    double seconds = strtod(value, &end);

    if (end == value) {
        time_t when = curl_getdate(value, NULL);

        if (when == -1)
            return -1;
        seconds = difftime(when, time(NULL));
    }
    return bounded_ms(seconds * 1000);
}

/* libcurl hands over one whole header line at a time. */
static size_t on_header(char *data, size_t size, size_t count, void *arg)
{
    static const char in_ms[] = "retry-after-ms:";
    static const char plain[] = "retry-after:";
    struct embedding_http *h = arg;
    size_t len = size * count;
    char line[128];

    if (len >= 5 && memcmp(data, "HTTP/", 5) == 0)
        h->retry_after_ms = -1; /* a new answer: that before was "100 Continue" or the like */
    if (len >= sizeof line)
        return len;
    memcpy(line, data, len);
    line[len] = '\0';
    if (strncasecmp(line, in_ms, strlen(in_ms)) == 0) {
        h->retry_after_ms = retry_after_in_ms(line + strlen(in_ms));
    } else if (strncasecmp(line, plain, strlen(plain)) == 0 && h->retry_after_ms == -1) {
        h->retry_after_ms = retry_after(line + strlen(plain) + strspn(line + strlen(plain), " \t"));
    }
    return len;
}

/* The address: for a Unix socket its path apart, and any host's name in the URL. */
static int set_address(struct embedding_http *h, const char *url, const char *path)
{
    size_t len = strlen(url);
    int rc;

    while (len > 0 && url[len - 1] == '/')
        len--;
    if (len >= 3 && strncmp(url + len - 3, "/v1", 3) == 0 && strncmp(path, "/v1/", 4) == 0)
        len -= 3;
    if (strncmp(url, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
        char *socket = strndup(url + strlen(UNIX_PREFIX), len - strlen(UNIX_PREFIX));
        CURLcode code = socket != NULL ? curl_easy_setopt(h->curl, CURLOPT_UNIX_SOCKET_PATH, socket)
                                       : CURLE_OUT_OF_MEMORY;

        free(socket);
        if (code != CURLE_OK)
            return -ENOMEM;
        rc = asprintf(&h->url, "http://localhost%s", path);
    } else {
        rc = asprintf(&h->url, "%.*s%s", (int)len, url, path);
    }
    if (rc < 0) {
        h->url = NULL;
        return -ENOMEM;
    }
    return 0;
}

static int set_headers(struct embedding_http *h, const char *key)
{
    char line[sizeof "Authorization: Bearer " + EMBEDDING_KEY_MAX];
    struct curl_slist *last;

    h->headers = curl_slist_append(NULL, "Content-Type: application/json");
    if (h->headers == NULL || curl_slist_append(h->headers, "Expect:") == NULL)
        return -ENOMEM;
    if (key == NULL || key[0] == '\0')
        return 0;
    snprintf(line, sizeof line, "Authorization: Bearer %s", key);
    last = curl_slist_append(h->headers, line); /* a copy of its own */
    explicit_bzero(line, sizeof line);
    return last != NULL ? 0 : -ENOMEM;
}

static int set_options(struct embedding_http *h)
{
    CURLcode bad = CURLE_OK;

    bad |= curl_easy_setopt(h->curl, CURLOPT_URL, h->url);
    bad |= curl_easy_setopt(h->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(h->curl, CURLOPT_HTTPHEADER, h->headers);
    bad |= curl_easy_setopt(h->curl, CURLOPT_USERAGENT, "convstored/" CONVSTORE_VERSION);
    bad |= curl_easy_setopt(h->curl, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_TCP_NODELAY, 1L);
    /* A name that nobody resolves: libcurl would join its resolver's thread, which no time-out of
     * ours reaches, and hold the worker for 20 s and more. */
    bad |= curl_easy_setopt(h->curl, CURLOPT_QUICK_EXIT, 1L);
    bad |= curl_easy_setopt(h->curl, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(h->curl, CURLOPT_WRITEDATA, h);
    bad |= curl_easy_setopt(h->curl, CURLOPT_HEADERFUNCTION, on_header);
    bad |= curl_easy_setopt(h->curl, CURLOPT_HEADERDATA, h);
    bad |= curl_easy_setopt(h->curl, CURLOPT_ERRORBUFFER, h->curl_error);
    return bad == CURLE_OK ? 0 : -ENOMEM;
}

struct embedding_http *embedding_http_new(const char *url, const char *path, const char *key)
{
    struct embedding_http *h = calloc(1, sizeof *h);

    if (h == NULL)
        return NULL;
    h->curl = curl_easy_init();
    if (h->curl == NULL || set_address(h, url, path) != 0 || set_headers(h, key) != 0 ||
        set_options(h) != 0) {
        embedding_http_free(h);
        return NULL;
    }
    return h;
}

void embedding_http_free(struct embedding_http *h)
{
    if (h == NULL)
        return;
    curl_easy_cleanup(h->curl);
    curl_slist_free_all(h->headers);
    free(h->url);
    free(h->data);
    free(h);
}

/* Whether a server was there to be waited for. */
static bool was_connected(const struct embedding_http *h)
{
    curl_off_t us = 0;

    curl_easy_getinfo(h->curl, CURLINFO_PRETRANSFER_TIME_T, &us);
    return us > 0;
}

/* What a failed transfer means to the caller. */
static int failure(const struct embedding_http *h, CURLcode code, char error[256])
{
    if (h->too_big) {
        snprintf(error, 256, "the reply is larger than %zu bytes", h->reply_max);
        return -EMSGSIZE;
    }
    snprintf(error, 256, "%s", h->curl_error[0] != '\0' ? h->curl_error : curl_easy_strerror(code));
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return was_connected(h) ? -ETIMEDOUT : -ECONNABORTED;
    case CURLE_OUT_OF_MEMORY:
    case CURLE_WRITE_ERROR: /* the buffer could not grow */
        return -ENOMEM;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
        return -EINVAL;
    default:
        return -ECONNABORTED;
    }
}

int embedding_http_post(struct embedding_http *h, struct slice body, size_t reply_max,
                        long timeout_ms, struct http_reply *ret, char error[256])
{
    long connect_ms = timeout_ms < CONNECT_TIMEOUT_MS ? timeout_ms : CONNECT_TIMEOUT_MS;
    CURLcode code;

    h->len = 0;
    h->reply_max = reply_max;
    h->too_big = false;
    h->retry_after_ms = -1;
    h->curl_error[0] = '\0';
    curl_easy_setopt(h->curl, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    curl_easy_setopt(h->curl, CURLOPT_TIMEOUT_MS, timeout_ms);
    curl_easy_setopt(h->curl, CURLOPT_POSTFIELDS, body.data);
    curl_easy_setopt(h->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len);
    code = curl_easy_perform(h->curl);
    if (code != CURLE_OK)
        return failure(h, code, error);
    curl_easy_getinfo(h->curl, CURLINFO_RESPONSE_CODE, &ret->status);
    ret->body = (struct slice){h->data, h->len};
    ret->retry_after_ms = h->retry_after_ms;
    return 0;
}
