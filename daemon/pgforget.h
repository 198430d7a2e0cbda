/* forget in SQL. On the thread that owns the connection, outside any transaction. */
#ifndef DAEMON_PGFORGET_H
#define DAEMON_PGFORGET_H

#include <stdint.h>

#include "daemon/pgconn.h"

/* Removes the user's conversation with this id, or all where id is NULL (text form), from every
 * table, as far as they were stored by *until_us of the database's clock; 0 there is set to
 * the present time. 0; or -1 with *err: some may be removed, do it again. *removed grows by
 * the rows of conversations and dead_letters. */
int pgforget(PGconn *conn, const char *user_id, const char *id, int64_t *until_us,
             uint64_t *removed, struct pg_error *err) __attribute__((warn_unused_result));

#endif
