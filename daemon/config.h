/* The configuration: defaults, file, environment and command line become one immutable struct. */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct config {
    struct {
        char *socket;
        char *control_socket;
        uint64_t socket_mode; /* permission bits */
        uint64_t control_socket_mode;
        uint64_t max_message_bytes;
        uint64_t max_connections;
        uint64_t max_partial_bytes; /* half-read messages of all connections */
        uint64_t max_reply_bytes;   /* unread replies of one connection */
        uint64_t max_in_flight;     /* unanswered requests of one connection */
    } listen;
    struct {
        char *directory;
        char *durability;   /* "fsync" or "os" */
        uint64_t max_bytes; /* of segments in use */
        uint64_t segment_bytes;
        uint64_t max_unsynced_bytes;
        uint64_t retain_ms; /* done segments stay that long */
    } journal;
    struct {
        uint64_t max_queue_size;
        uint64_t max_queue_bytes;
    } queue;
    struct {
        uint64_t batch_size;
        uint64_t flush_interval_ms;
        uint64_t batch_timeout_ms;
        uint64_t max_concurrent_batches;
        uint64_t drain_timeout_ms;
        uint64_t max_attempts;
    } batch;
    struct {
        char *conninfo;
        uint64_t max_connections;
        bool auto_migrate;
    } database;
    struct {
        char *provider; /* "builtin", "ollama", "openai", "none" */
        char *url;      /* several: comma-separated */
        char *api_key_file;
        char *encoding_format; /* "default" (not sent), "float", "base64" */
        char *model;
        uint64_t dimensions; /* 0: what the model gives */
        char *document_prefix;
        char *query_prefix;
        char *source; /* "summary", "transcript", "both" */
        uint64_t timeout_ms;
        uint64_t deadline_ms;
        uint64_t max_in_flight;
        uint64_t request_inputs;
        uint64_t request_bytes;
        bool self_test;
    } embedding;
    struct {
        uint64_t embedding_cache_size;
        uint64_t embedding_cache_bytes;
        char *file; /* "": not kept */
    } cache;
    struct {
        char *level;
    } log;
};

struct config_source {
    const char *file;       /* --config, or NULL for none */
    const char *const *set; /* --set section.key=value, NULL-terminated */
};

/* Builds a configuration from all sources; precedence: command line, environment, file, default. 0;
 * or -1 with one clear line in ret_error (file and line number where there is one). *ret is
 * untouched on failure. */
int config_load(const struct config_source *source, struct config **ret, char ret_error[512])
    __attribute__((warn_unused_result));

void config_free(struct config *config);

/* Every key with its value in force, as a configuration file. Passwords in database.conninfo are
 * masked. */
void config_print(const struct config *config, FILE *out);

#endif
