/* The page of `stats`, and those of its parts that `top` shows too. */
#ifndef CONVSTORECTL_STATS_PAGE_H
#define CONVSTORECTL_STATS_PAGE_H

#include "client/convstorectl_figures.h"
#include "client/convstorectl_page.h"
#include "client/convstorectl_units.h"

/* The whole page. change: since the sample before, or NULL. */
void stats_page(struct page *page, const struct figures *figures,
                const struct figures_change *change);

/* "convstored 0.1.0  healthy  up 2 h 13 min  12 connections", without the line's end. */
void stats_page_title(struct page *page, const struct figures *figures);

/* One or two lines for each alert. now_ms: since 1970. */
void stats_page_alerts(struct page *page, const struct figures *figures, int64_t now_ms);

/* The table of operations: what stands behind a name, from column on, 67 columns. marked: the name
 * of the column to be highlighted. */
void stats_page_table_heading(struct page *page, int column, const char *marked);
void stats_page_table_row(struct page *page, int column, const struct figures *figures,
                          const struct figures_latency *latency, enum figures_window window);

/* The column behind the longest name, at most most. */
int stats_page_name_column(const struct figures *figures, int most);

enum page_style stats_page_health_style(const char *health);
enum page_style stats_page_state_style(const char *state);
enum page_style stats_page_bad_above_zero(int64_t count);

/* How many embedding servers there are to show: a provider inside the daemon has none. */
size_t stats_page_server_count(const struct figures *figures);

/* 150020 as "15.20". */
const char *stats_page_server_version(char buffer[UNITS_SIZE], int64_t version);

#endif
