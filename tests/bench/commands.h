/* The commands of convstore-bench. Each adds its results to the report and returns 0, or -1 when it
 * could not be carried out: then it has said why. */
#ifndef TESTS_BENCH_COMMANDS_H
#define TESTS_BENCH_COMMANDS_H

#include <jansson.h>

#include "tests/bench/options.h"

/* commands_load.c: by the load generator */
int command_single(const struct options *o, json_t *report);
int command_concurrent(const struct options *o, json_t *report);
int command_paced(const struct options *o, json_t *report);
int command_batch(const struct options *o, json_t *report);
int command_saturate(const struct options *o, json_t *report); /* open, too */

/* commands_faults.c */
int command_outage(const struct options *o, json_t *report);
int command_replay(const struct options *o, json_t *report);

/* commands_reads.c */
int command_reads(const struct options *o, json_t *report);

/* peer_raw.c, peer_pg_insert.c, peer_pg_copy.c */
int command_raw(const struct options *o, json_t *report);
int command_pg_insert(const struct options *o, json_t *report);
int command_pg_copy(const struct options *o, json_t *report);

#endif
