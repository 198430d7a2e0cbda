/* Which figures are beyond their thresholds, and since when. Pure: figures and clocks are given.
 *
 * The one hard thing is to be quiet about what passes. A threshold's warning and its critical value
 * are two levels that change apart: one is raised when the figure has been beyond it for
 * raise_after_ms without a break, and cleared when the figure has been better by a tenth for
 * clear_after_ms. A state (a server is down) is true or not: no time, no margin. */
#ifndef DAEMON_ALERTS_H
#define DAEMON_ALERTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum alert_severity { ALERT_NONE, ALERT_WARNING, ALERT_CRITICAL };

enum alert_id {
    /* Figures with thresholds. */
    ALERT_QUEUE_DEPTH,
    ALERT_QUEUE_AGE,
    ALERT_ACK_SLOW,
    ALERT_JOURNAL_SLOW_SYNC,
    ALERT_JOURNAL_SLOW_DISK,
    ALERT_JOURNAL_SIZE,
    ALERT_DISK_SPACE,
    ALERT_DATABASE_SLOW,
    ALERT_FAILURE_RATE,
    ALERT_DEAD_LETTERS,
    ALERT_EMBEDDING_SLOW,
    ALERT_EMBEDDING_BACKLOG,
    ALERT_CACHE_HIT_RATE,
    /* States. */
    ALERT_DATABASE_DOWN,
    ALERT_DATABASE_STOPPED,
    ALERT_DATABASE_FSYNC_OFF,
    ALERT_PGVECTOR_OLD,
    ALERT_JOURNAL_FULL,
    ALERT_JOURNAL_DAMAGED,
    ALERT_EMBEDDER_DOWN,
    ALERT_EMBEDDER_BATCHES_DIFFER,
    ALERT_COUNT,
};

/* What is known of one alert now. All zero: nothing, which raises nothing. */
struct alert_figure {
    bool known;
    double value;             /* of a state: 1, it is so */
    double warning, critical; /* thresholds; 0: off. Not for states */
    const char *text;         /* states only: what is the matter */
};

struct alerts_settings {
    uint64_t raise_after_ms;
    uint64_t clear_after_ms;
};

struct alert {
    enum alert_severity severity; /* ALERT_NONE: it is not raised, and only name, figure and action
                                     below are good */
    const char *name;
    const char *figure; /* where it stands in `stats` */
    const char *action; /* what to do */
    char text[320];     /* the figure and its threshold, or what is the matter */
    double value;       /* at the latest look; in the unit of the threshold's key */
    double threshold;   /* of its severity; 1 for states */
    uint64_t since_ms;  /* since 1970: when it was raised, at whatever severity */
};

/* Whether the figure is beyond one threshold, with memory. */
struct alert_level {
    bool raised;
    bool changing;        /* the figure says otherwise ... */
    uint64_t changing_ms; /* ... since then, monotonic */
};

struct alerts {
    struct alert list[ALERT_COUNT];
    struct alert_level warning[ALERT_COUNT], critical[ALERT_COUNT];
};

void alerts_init(struct alerts *a);

/* Takes a look. now_ms: monotonic; wall_ms: since 1970. on_change (may be NULL) runs for each alert
 * whose severity changed, with the one before. */
void alerts_update(struct alerts *a, const struct alert_figure figures[ALERT_COUNT],
                   const struct alerts_settings *settings, uint64_t now_ms, uint64_t wall_ms,
                   void (*on_change)(const struct alert *alert, enum alert_severity before));

/* Every alert there is, raised or not; lives as long as a. */
const struct alert *alerts_get(const struct alerts *a, enum alert_id id);

/* How many are raised, and the severest of them. */
size_t alerts_raised(const struct alerts *a);
enum alert_severity alerts_worst(const struct alerts *a);

/* "none", "warning", "critical"; and of the daemon as a whole "healthy", "warning", "critical". */
const char *alert_severity_name(enum alert_severity severity);
const char *alert_health_name(enum alert_severity worst);

#endif
