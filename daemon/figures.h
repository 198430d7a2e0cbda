/* The figures of all modules at one moment, for stats, metrics and alerts. Loop. */
#ifndef DAEMON_FIGURES_H
#define DAEMON_FIGURES_H

#include <stdint.h>

#include "daemon/backfill.h"
#include "daemon/batcher.h"
#include "daemon/embedding_stage.h"
#include "daemon/journal.h"

struct server;

struct figures {
    struct batcher_status batcher;
    struct journal_stats journal;
    struct embedding_stage_stats embedding;
    struct backfill_status backfill; /* all 0 where no vectors are made */
    uint64_t queued;                 /* durable and in no batch: in memory or on disk */
    uint64_t oldest_queued_ms;       /* age of the oldest that is not a row; 0: none */
    uint64_t dead_letters;           /* as far as is known; dead_letters_count() asks anew */
    uint64_t disk_free_bytes;        /* where the journal lies */
};

/* Good until the loop goes on. */
void figures_gather(const struct server *server, struct figures *ret);

#endif
