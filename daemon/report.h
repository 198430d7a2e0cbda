/* What ping, journal and stats answer. Loop. */
#ifndef DAEMON_REPORT_H
#define DAEMON_REPORT_H

#include <stdint.h>

struct server;
struct session;

void report_ping(const struct server *server, struct session *s, uint32_t msgid);
void report_journal(const struct server *server, struct session *s, uint32_t msgid);
void report_stats(struct server *server, struct session *s, uint32_t msgid);

#endif
