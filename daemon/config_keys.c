/* Data only. A key added here needs its line in config/convstored.conf: a test compares the two. */
#include "daemon/config_keys.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define DAY_MS 86400000ull

#define KEY(section, name, type, fallback, min, max, choices)                                      \
    {                                                                                              \
#section, #name, type, offsetof(struct config, section.name), fallback, min, max, choices  \
    }
#define TEXT(section, name, fallback) KEY(section, name, CONFIG_TEXT, fallback, 0, 0, NULL)
#define CHOICE(section, name, fallback, choices)                                                   \
    KEY(section, name, CONFIG_CHOICE, fallback, 0, 0, choices)
#define NUMBER(section, name, fallback, min, max)                                                  \
    KEY(section, name, CONFIG_NUMBER, fallback, min, max, NULL)
#define SIZE(section, name, fallback, min, max)                                                    \
    KEY(section, name, CONFIG_SIZE, fallback, min, max, NULL)
#define MODE(section, name, fallback) KEY(section, name, CONFIG_MODE, fallback, 0, 0777, NULL)
#define BOOL(section, name, fallback) KEY(section, name, CONFIG_BOOL, fallback, 0, 0, NULL)

const struct config_key config_keys[] = {
    TEXT(listen, socket, "/run/convstore/convstore.sock"),
    TEXT(listen, control_socket, "/run/convstore/control.sock"),
    MODE(listen, socket_mode, "0660"),
    MODE(listen, control_socket_mode, "0600"),
    SIZE(listen, max_message_bytes, "4MiB", 1 * KIB, 256 * MIB),
    NUMBER(listen, max_connections, "10000", 1, 1000000),
    SIZE(listen, max_partial_bytes, "64MiB", 1 * MIB, 64 * GIB),
    SIZE(listen, max_reply_bytes, "1MiB", 64 * KIB, 1 * GIB),
    NUMBER(listen, max_in_flight, "10000", 1, 1000000),

    TEXT(journal, directory, "/var/lib/convstore/journal"),
    CHOICE(journal, durability, "fsync", "fsync os"),
    SIZE(journal, max_bytes, "8GiB", 1 * MIB, 65536 * GIB),
    SIZE(journal, segment_bytes, "16MiB", 64 * KIB, 1 * GIB),
    SIZE(journal, max_unsynced_bytes, "8MiB", 64 * KIB, 1 * GIB),
    NUMBER(journal, retain_ms, "0", 0, 30 * DAY_MS),

    NUMBER(queue, max_queue_size, "100000", 1, 100000000),
    SIZE(queue, max_queue_bytes, "32MiB", 1 * MIB, 64 * GIB),

    NUMBER(batch, batch_size, "500", 1, 10000),
    NUMBER(batch, flush_interval_ms, "50", 1, DAY_MS),
    NUMBER(batch, batch_timeout_ms, "100", 0, DAY_MS),
    NUMBER(batch, max_concurrent_batches, "4", 1, 64),
    NUMBER(batch, drain_timeout_ms, "60000", 0, DAY_MS),
    NUMBER(batch, max_attempts, "8", 1, 1000),

    TEXT(database, conninfo, ""),
    NUMBER(database, max_connections, "6", 4, 20),
    BOOL(database, auto_migrate, "true"),

    CHOICE(embedding, provider, "builtin", "builtin ollama openai none"),
    TEXT(embedding, url, "http://127.0.0.1:11434"),
    TEXT(embedding, api_key_file, ""),
    CHOICE(embedding, encoding_format, "default", "default float base64"),
    TEXT(embedding, model, "nomic-embed-text"),
    NUMBER(embedding, dimensions, "0", 0, 16000),
    TEXT(embedding, document_prefix, "auto"),
    TEXT(embedding, query_prefix, "auto"),
    CHOICE(embedding, source, "summary", "summary transcript both"),
    CHOICE(embedding, storage, "vector", "vector halfvec"),
    NUMBER(embedding, timeout_ms, "30000", 100, DAY_MS),
    NUMBER(embedding, deadline_ms, "500", 1, DAY_MS),
    NUMBER(embedding, max_in_flight, "2", 1, 64),
    NUMBER(embedding, request_inputs, "500", 1, 2048),
    SIZE(embedding, request_bytes, "1MiB", 1 * KIB, 64 * MIB),
    BOOL(embedding, self_test, "true"),

    NUMBER(cache, embedding_cache_size, "1000", 0, 10000000),
    SIZE(cache, embedding_cache_bytes, "64MiB", 0, 64 * GIB),
    TEXT(cache, file, ""),

    NUMBER(alerts, queue_depth_warning, "100000", 0, 1000000000ull),
    NUMBER(alerts, queue_depth_critical, "1000000", 0, 1000000000ull),
    NUMBER(alerts, queue_age_warning_ms, "60000", 0, 30 * DAY_MS),
    NUMBER(alerts, queue_age_critical_ms, "600000", 0, 30 * DAY_MS),
    NUMBER(alerts, ack_p99_warning_ms, "20", 0, DAY_MS),
    NUMBER(alerts, ack_p99_critical_ms, "200", 0, DAY_MS),
    NUMBER(alerts, sync_p99_warning_ms, "20", 0, DAY_MS),
    NUMBER(alerts, sync_p99_critical_ms, "200", 0, DAY_MS),
    NUMBER(alerts, journal_size_warning_percent, "50", 0, 100),
    NUMBER(alerts, journal_size_critical_percent, "80", 0, 100),
    SIZE(alerts, disk_space_warning_bytes, "1GiB", 0, 65536 * GIB),
    SIZE(alerts, disk_space_critical_bytes, "256MiB", 0, 65536 * GIB),
    NUMBER(alerts, database_p99_warning_ms, "100", 0, DAY_MS),
    NUMBER(alerts, database_p99_critical_ms, "1000", 0, DAY_MS),
    NUMBER(alerts, failure_rate_warning_percent, "1", 0, 100),
    NUMBER(alerts, failure_rate_critical_percent, "10", 0, 100),
    NUMBER(alerts, dead_letters_warning, "1", 0, 1000000000ull),
    NUMBER(alerts, dead_letters_critical, "1000", 0, 1000000000ull),
    NUMBER(alerts, embedding_p99_warning_ms, "500", 0, DAY_MS),
    NUMBER(alerts, embedding_p99_critical_ms, "5000", 0, DAY_MS),
    NUMBER(alerts, embedding_backlog_warning, "10000", 0, 1000000000000ull),
    NUMBER(alerts, embedding_backlog_critical, "1000000", 0, 1000000000000ull),
    NUMBER(alerts, cache_hit_rate_warning_percent, "0", 0, 100),
    NUMBER(alerts, cache_hit_rate_critical_percent, "0", 0, 100),
    NUMBER(alerts, min_samples, "20", 1, 1000000),
    NUMBER(alerts, raise_after_ms, "10000", 0, DAY_MS),
    NUMBER(alerts, clear_after_ms, "30000", 0, DAY_MS),

    TEXT(search, language, "simple"),
    NUMBER(search, timeout_ms, "5000", 100, DAY_MS / 24),

    TEXT(metrics, listen, ""),

    CHOICE(log, level, "info", "error warning info debug"),
    CHOICE(log, format, "text", "text json"),
};

const size_t config_key_count = sizeof config_keys / sizeof config_keys[0];
