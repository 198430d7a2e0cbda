/* Fills structs of the modules from the one of the configuration. Owns nothing. */
#include "daemon/settings.h"

#include <string.h>
#include <sys/resource.h>

#include "daemon/log.h"

#define RESERVED_DESCRIPTORS 64 /* operators, database, embedder, epoll, logs */

struct sessions_config settings_sessions(const struct config *config)
{
    return (struct sessions_config){
        .max_message_bytes = config->listen.max_message_bytes,
        .max_partial_bytes = config->listen.max_partial_bytes,
        .max_reply_bytes = config->listen.max_reply_bytes,
        .max_in_flight = (unsigned)config->listen.max_in_flight,
    };
}

struct journal_config settings_journal(const struct config *config)
{
    return (struct journal_config){
        .directory = config->journal.directory,
        .sync = strcmp(config->journal.durability, "fsync") == 0,
        .max_bytes = config->journal.max_bytes,
        .segment_bytes = config->journal.segment_bytes,
        .max_unsynced_bytes = config->journal.max_unsynced_bytes,
        .retain_ms = config->journal.retain_ms,
    };
}

struct batcher_config settings_batcher(const struct config *config)
{
    return (struct batcher_config){
        .batch_size = config->batch.batch_size,
        .flush_interval_ms = config->batch.flush_interval_ms,
        .batch_timeout_ms = config->batch.batch_timeout_ms,
        .max_concurrent_batches = (unsigned)config->batch.max_concurrent_batches,
        .max_attempts = (unsigned)config->batch.max_attempts,
    };
}

size_t settings_max_connections(const struct config *config)
{
    size_t max_connections = config->listen.max_connections;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return max_connections;
    if (limit.rlim_cur < max_connections + RESERVED_DESCRIPTORS &&
        limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max < max_connections + RESERVED_DESCRIPTORS
                             ? limit.rlim_max
                             : max_connections + RESERVED_DESCRIPTORS;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= max_connections + RESERVED_DESCRIPTORS)
        return max_connections;
    log_warning("server.limits max_connections=%zu reason=\"RLIMIT_NOFILE is %ju\"",
                (size_t)limit.rlim_cur - RESERVED_DESCRIPTORS, (uintmax_t)limit.rlim_cur);
    return (size_t)limit.rlim_cur - RESERVED_DESCRIPTORS;
}
