/* The flush calls that wait: each until every conversation accepted before it was read has come to
 * its end. Loop. */
#ifndef DAEMON_FLUSH_H
#define DAEMON_FLUSH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

struct session;
struct flush;
LIST_HEAD(flush_list, flush);

/* Starts a flush of the `remaining` conversations with seq <= last_seq; answers at once where there
 * are none, and after timeout_ms (0: never) with what is left. -ENOMEM when memory is short. */
int flush_begin(struct flush_list *list, uv_loop_t *loop, struct session *s, uint32_t msgid,
                uint64_t last_seq, size_t remaining, uint32_t timeout_ms)
    __attribute__((warn_unused_result));

/* A conversation has come to its end. */
void flush_on_settled(struct flush_list *list, uint64_t seq);

/* A replay has made `remaining` conversations outstanding again, none younger than last_seq: every
 * flush waits for all of them. */
void flush_widen(struct flush_list *list, uint64_t last_seq, uint64_t remaining);

bool flush_any(const struct flush_list *list);

/* Answers all with what is left: the daemon ends. */
void flush_end_all(struct flush_list *list);

#endif
