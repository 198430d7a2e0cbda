/* Which of the claimed rows are tried together, and what their failures mean. Pure; any thread. */
#ifndef DAEMON_BACKFILL_WINDOW_H
#define DAEMON_BACKFILL_WINDOW_H

#include "daemon/backfill_pg.h"
#include "daemon/embedding_text.h"

/* The end of the window of rows that begins at first (which is below load->count). */
size_t backfill_window_end(const struct backfill_load *load, size_t first,
                           enum embedding_source source);

/* Fills in what became of a claim from its row's error (see embedding_set_error()) in a window of
 * so many rows. */
void backfill_judge(struct backfill_claim *claim, int error, size_t window_rows);

/* The same for a row whose vector came and is refused by the database. */
void backfill_refused(struct backfill_claim *claim);

#endif
