/* The dashboard of `top` as a page: what stands where on a screen of any size. Pure. */
#ifndef CONVSTORECTL_TOP_VIEW_H
#define CONVSTORECTL_TOP_VIEW_H

#include <stdbool.h>

#include "client/convstorectl_figures.h"
#include "client/convstorectl_page.h"
#include "client/convstorectl_units.h"

#define TREND_SAMPLES 512 /* more than a screen has columns */

enum trend {
    TREND_ACKED,
    TREND_STORED,
    TREND_QUEUED,
    TREND_ACK_MEAN,
    TREND_ACK_P99,
    TREND_ROW_P99,
    TREND_COUNT
};

enum top_sort { SORT_AS_SENT, SORT_RATE, SORT_P99, SORT_MAX, SORT_ERRORS, SORT_COUNT };

/* The latest values of each trend, oldest first; NAN where there is none. */
struct trends {
    double values[TREND_COUNT][TREND_SAMPLES];
    size_t count;
};

struct top_view {
    const struct figures *figures; /* NULL: none came yet */
    const struct trends *trends;
    const char *trouble; /* why the daemon is not reachable; NULL: it is */
    int64_t now_ms;      /* since 1970 */
    const char *clock;   /* "12:34:56": when figures came */
    double interval_s;
    int rows, columns;
    bool colour, utf8;
    bool paused, help;
    enum top_sort sort;
    enum figures_window window;
};

/* Adds one sample to the trends: of figures and the change since the sample before (NULL: none). */
void trends_add(struct trends *trends, const struct figures *figures,
                const struct figures_change *change);

/* At most view->rows lines into an empty page. */
void top_view_draw(const struct top_view *view, struct page *page);

#endif
