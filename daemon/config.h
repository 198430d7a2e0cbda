/* The configuration: defaults, file, environment and command line become one immutable snapshot,
 * which is shared by counting; a reload makes another one. Any thread. */
#ifndef DAEMON_CONFIG_H
#define DAEMON_CONFIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_ERROR_BYTES 512
#define CONFIG_KEYS_MAX 128

struct config_key;

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
        char *source;  /* "summary", "transcript", "both" */
        char *storage; /* "vector", "halfvec" */
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
    struct { /* thresholds; 0: off */
        uint64_t queue_depth_warning, queue_depth_critical;
        uint64_t queue_age_warning_ms, queue_age_critical_ms;
        uint64_t ack_p99_warning_ms, ack_p99_critical_ms;
        uint64_t sync_p99_warning_ms, sync_p99_critical_ms;
        uint64_t start_sync_p99_warning_ms, start_sync_p99_critical_ms;
        uint64_t journal_size_warning_percent, journal_size_critical_percent;
        uint64_t disk_space_warning_bytes, disk_space_critical_bytes;
        uint64_t database_p99_warning_ms, database_p99_critical_ms;
        uint64_t failure_rate_warning_percent, failure_rate_critical_percent;
        uint64_t dead_letters_warning, dead_letters_critical;
        uint64_t embedding_p99_warning_ms, embedding_p99_critical_ms;
        uint64_t embedding_backlog_warning, embedding_backlog_critical;
        uint64_t cache_hit_rate_warning_percent, cache_hit_rate_critical_percent;
        uint64_t min_samples; /* fewer are no percentile */
        uint64_t raise_after_ms;
        uint64_t clear_after_ms;
    } alerts;
    struct {
        char *language;
        uint64_t timeout_ms;
    } search;
    struct {
        char *listen; /* "": off */
    } metrics;
    struct {
        char *level;
        char *format; /* "text" or "json" */
    } log;
    atomic_uint references; /* last; 0: not counted, whoever made it keeps it alive */
};

struct config_source {
    const char *file;       /* --config, or NULL for none */
    const char *const *set; /* --set section.key=value, NULL-terminated */
};

/* Builds a configuration from all sources; precedence: command line, environment, file, default. 0,
 * and the caller has a reference; or -1 with one clear line in ret_error (file and line number
 * where there is one). *ret is untouched on failure. */
int config_load(const struct config_source *source, struct config **ret,
                char ret_error[CONFIG_ERROR_BYTES]) __attribute__((warn_unused_result));

/* What a reload found different from the configuration in force. */
struct config_changes {
    const struct config_key *changed[CONFIG_KEYS_MAX]; /* in the new snapshot */
    const struct config_key *restart[CONFIG_KEYS_MAX]; /* not: these need a restart */
    size_t changed_count, restart_count;
};

/* The same again, but what needs a restart keeps the value that it has now. The strings of the
 * first snapshot may be pointed to by whoever read them at the start: it must live to the end. */
int config_reload(const struct config_source *source, const struct config *now, struct config **ret,
                  struct config_changes *ret_changes, char ret_error[CONFIG_ERROR_BYTES])
    __attribute__((warn_unused_result));

const struct config *config_hold(const struct config *config); /* one more reference */
void config_release(const struct config *config); /* the last one frees it; takes NULL */

/* Every key with its value in force, as a configuration file. Passwords in database.conninfo are
 * masked. */
void config_print(const struct config *config, FILE *out);

#endif
