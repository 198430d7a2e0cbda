/* Data only. A key added here needs its line in config/convstored.conf and its entry in
 * config/convstored.conf.5: a test compares the three. LIVE: a reload applies it; what the modules
 * must be told is in reload.c. */
#include "daemon/config_keys.h"

#include <assert.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define DAY_MS 86400000ull

/* A key whose line ends in LIVE is live. */
#define KEY(section, name, type, fallback, min, max, choices, ...)                                 \
    {                                                                                              \
#section, #name, type, offsetof(struct config, section.name), fallback, min, max, choices, \
            (sizeof #__VA_ARGS__)> 1                                                               \
    }
#define TEXT(section, name, fallback, ...)                                                         \
    KEY(section, name, CONFIG_TEXT, fallback, 0, 0, NULL, __VA_ARGS__)
#define CHOICE(section, name, fallback, choices, ...)                                              \
    KEY(section, name, CONFIG_CHOICE, fallback, 0, 0, choices, __VA_ARGS__)
#define NUMBER(section, name, fallback, min, max, ...)                                             \
    KEY(section, name, CONFIG_NUMBER, fallback, min, max, NULL, __VA_ARGS__)
#define SIZE(section, name, fallback, min, max, ...)                                               \
    KEY(section, name, CONFIG_SIZE, fallback, min, max, NULL, __VA_ARGS__)
#define MODE(section, name, fallback, ...)                                                         \
    KEY(section, name, CONFIG_MODE, fallback, 0, 0777, NULL, __VA_ARGS__)
#define BOOL(section, name, fallback, ...)                                                         \
    KEY(section, name, CONFIG_BOOL, fallback, 0, 0, NULL, __VA_ARGS__)

const struct config_key config_keys[] = {
    TEXT(listen, socket, "/run/convstore/convstore.sock"),
    TEXT(listen, control_socket, "/run/convstore/control.sock"),
    MODE(listen, socket_mode, "0660"),
    MODE(listen, control_socket_mode, "0600"),
    SIZE(listen, max_message_bytes, "4MiB", 1 * KIB, 256 * MIB, LIVE),
    NUMBER(listen, max_connections, "10000", 1, 1000000, LIVE),
    SIZE(listen, max_partial_bytes, "64MiB", 1 * MIB, 64 * GIB, LIVE),
    SIZE(listen, max_reply_bytes, "1MiB", 64 * KIB, 1 * GIB, LIVE),
    NUMBER(listen, max_in_flight, "10000", 1, 1000000, LIVE),

    TEXT(journal, directory, "/var/lib/convstore/journal"),
    CHOICE(journal, durability, "fsync", "fsync os"),
    SIZE(journal, max_bytes, "8GiB", 1 * MIB, 65536 * GIB, LIVE),
    SIZE(journal, segment_bytes, "16MiB", 64 * KIB, 1 * GIB),
    SIZE(journal, max_unsynced_bytes, "32MiB", 64 * KIB, 1 * GIB, LIVE),
    NUMBER(journal, retain_ms, "0", 0, 30 * DAY_MS, LIVE),

    NUMBER(queue, max_queue_size, "100000", 1, 100000000, LIVE),
    SIZE(queue, max_queue_bytes, "32MiB", 1 * MIB, 64 * GIB, LIVE),

    NUMBER(batch, batch_size, "500", 1, 10000, LIVE),
    NUMBER(batch, flush_interval_ms, "50", 1, DAY_MS, LIVE),
    NUMBER(batch, batch_timeout_ms, "100", 0, DAY_MS, LIVE),
    NUMBER(batch, max_concurrent_batches, "4", 1, 64),
    NUMBER(batch, drain_timeout_ms, "60000", 0, DAY_MS, LIVE),
    NUMBER(batch, max_attempts, "8", 1, 1000, LIVE),

    TEXT(database, conninfo, ""),
    NUMBER(database, max_connections, "6", 4, 20),
    BOOL(database, auto_migrate, "true"),

    CHOICE(embedding, provider, "builtin", "builtin ollama openai none"),
    TEXT(embedding, url, "http://127.0.0.1:11434"),
    TEXT(embedding, api_key_file, "", LIVE),
    CHOICE(embedding, encoding_format, "default", "default float base64", LIVE),
    TEXT(embedding, model, "nomic-embed-text"),
    NUMBER(embedding, dimensions, "0", 0, 16000),
    TEXT(embedding, document_prefix, "auto"),
    TEXT(embedding, query_prefix, "auto"),
    CHOICE(embedding, source, "summary", "summary transcript both"),
    CHOICE(embedding, storage, "vector", "vector halfvec"),
    NUMBER(embedding, timeout_ms, "30000", 100, DAY_MS, LIVE),
    NUMBER(embedding, deadline_ms, "500", 1, DAY_MS, LIVE),
    NUMBER(embedding, max_in_flight, "2", 1, 64),
    NUMBER(embedding, request_inputs, "100", 1, 2048, LIVE),
    SIZE(embedding, request_bytes, "1MiB", 1 * KIB, 64 * MIB, LIVE),
    BOOL(embedding, self_test, "true"),

    NUMBER(cache, embedding_cache_size, "1000", 0, 10000000, LIVE),
    SIZE(cache, embedding_cache_bytes, "64MiB", 0, 64 * GIB, LIVE),
    TEXT(cache, file, ""),

    NUMBER(alerts, queue_depth_warning, "100000", 0, 1000000000ull, LIVE),
    NUMBER(alerts, queue_depth_critical, "1000000", 0, 1000000000ull, LIVE),
    NUMBER(alerts, queue_age_warning_ms, "60000", 0, 30 * DAY_MS, LIVE),
    NUMBER(alerts, queue_age_critical_ms, "600000", 0, 30 * DAY_MS, LIVE),
    NUMBER(alerts, ack_p99_warning_ms, "20", 0, DAY_MS, LIVE),
    NUMBER(alerts, ack_p99_critical_ms, "200", 0, DAY_MS, LIVE),
    NUMBER(alerts, sync_p99_warning_ms, "20", 0, DAY_MS, LIVE),
    NUMBER(alerts, sync_p99_critical_ms, "200", 0, DAY_MS, LIVE),
    NUMBER(alerts, start_sync_p99_warning_ms, "5", 0, DAY_MS, LIVE),
    NUMBER(alerts, start_sync_p99_critical_ms, "100", 0, DAY_MS, LIVE),
    NUMBER(alerts, journal_size_warning_percent, "50", 0, 100, LIVE),
    NUMBER(alerts, journal_size_critical_percent, "80", 0, 100, LIVE),
    SIZE(alerts, disk_space_warning_bytes, "1GiB", 0, 65536 * GIB, LIVE),
    SIZE(alerts, disk_space_critical_bytes, "256MiB", 0, 65536 * GIB, LIVE),
    NUMBER(alerts, database_p99_warning_ms, "100", 0, DAY_MS, LIVE),
    NUMBER(alerts, database_p99_critical_ms, "1000", 0, DAY_MS, LIVE),
    NUMBER(alerts, failure_rate_warning_percent, "1", 0, 100, LIVE),
    NUMBER(alerts, failure_rate_critical_percent, "10", 0, 100, LIVE),
    NUMBER(alerts, dead_letters_warning, "1", 0, 1000000000ull, LIVE),
    NUMBER(alerts, dead_letters_critical, "1000", 0, 1000000000ull, LIVE),
    NUMBER(alerts, embedding_p99_warning_ms, "500", 0, DAY_MS, LIVE),
    NUMBER(alerts, embedding_p99_critical_ms, "5000", 0, DAY_MS, LIVE),
    NUMBER(alerts, embedding_backlog_warning, "10000", 0, 1000000000000ull, LIVE),
    NUMBER(alerts, embedding_backlog_critical, "1000000", 0, 1000000000000ull, LIVE),
    NUMBER(alerts, cache_hit_rate_warning_percent, "0", 0, 100, LIVE),
    NUMBER(alerts, cache_hit_rate_critical_percent, "0", 0, 100, LIVE),
    NUMBER(alerts, min_samples, "20", 1, 1000000, LIVE),
    NUMBER(alerts, raise_after_ms, "10000", 0, DAY_MS, LIVE),
    NUMBER(alerts, clear_after_ms, "30000", 0, DAY_MS, LIVE),

    TEXT(search, language, "simple"),
    NUMBER(search, timeout_ms, "5000", 100, DAY_MS / 24),

    TEXT(metrics, listen, ""),

    CHOICE(log, level, "info", "error warning info debug", LIVE),
    CHOICE(log, format, "text", "text json", LIVE),
};

static_assert(sizeof config_keys / sizeof config_keys[0] <= CONFIG_KEYS_MAX, "config_changes");
const size_t config_key_count = sizeof config_keys / sizeof config_keys[0];

#define NOT_OVER(section, name, spare, other_section, other_name, why)                             \
    {                                                                                              \
#section "." #name, #other_section "." #other_name, offsetof(struct config, section.name), \
            offsetof(struct config, other_section.other_name), spare, false, why                   \
    }
#define THRESHOLDS(low, high)                                                                      \
    {                                                                                              \
        "alerts." #low, "alerts." #high, offsetof(struct config, alerts.low),                      \
            offsetof(struct config, alerts.high), 0, true, "the worse alert would come first"      \
    }
#define RISING(name) THRESHOLDS(name##_warning, name##_critical)
#define RISING_IN(name, unit) THRESHOLDS(name##_warning_##unit, name##_critical_##unit)
#define FALLING_IN(name, unit) THRESHOLDS(name##_critical_##unit, name##_warning_##unit)

const struct config_limit config_limits[] = {
    NOT_OVER(listen, max_message_bytes, 0, queue, max_queue_bytes,
             "such a message could never be taken"),
    NOT_OVER(listen, max_message_bytes, CONFIG_SEGMENT_SPARE, journal, segment_bytes,
             "such a message could never be taken"),
    NOT_OVER(listen, max_message_bytes, 0, listen, max_partial_bytes,
             "such a message could never be read"),
    NOT_OVER(batch, batch_size, 0, queue, max_queue_size, "such a batch could never fill"),
    RISING(queue_depth),
    RISING_IN(queue_age, ms),
    RISING_IN(ack_p99, ms),
    RISING_IN(sync_p99, ms),
    RISING_IN(start_sync_p99, ms),
    RISING_IN(journal_size, percent),
    FALLING_IN(disk_space, bytes),
    RISING_IN(database_p99, ms),
    RISING_IN(failure_rate, percent),
    RISING(dead_letters),
    RISING_IN(embedding_p99, ms),
    RISING(embedding_backlog),
    FALLING_IN(cache_hit_rate, percent),
};

const size_t config_limit_count = sizeof config_limits / sizeof config_limits[0];
