#include "daemon/stats.h"

#include <stdlib.h>

const char *operation_name(enum operation operation)
{
    switch (operation) {
    case OPERATION_QUEUE:
        return "queue";
    case OPERATION_JOURNAL_SYNC:
        return "journal_sync";
    case OPERATION_EMBEDDING:
        return "embedding";
    case OPERATION_BATCH_INSERT:
        return "batch_insert";
    case OPERATION_END_TO_END:
        return "end_to_end";
    case OPERATION_COUNT:
        break;
    }
    abort();
}

void stats_record(struct stats *stats, enum operation operation, uint64_t duration_ns, bool ok)
{
    histogram_record(&stats->operations[operation], duration_ns / 1000);
    if (!ok)
        stats->errors[operation]++;
}
