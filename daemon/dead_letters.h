/* The control method dead_letters, and how many dead letters there are. Loop. */
#ifndef DAEMON_DEAD_LETTERS_H
#define DAEMON_DEAD_LETTERS_H

#include <stdbool.h>
#include <stdint.h>

struct rpc;
struct server;

struct dead_letters {
    uint64_t counted;    /* rows of the table when they were counted last, by anybody's daemon */
    uint64_t since;      /* verdicts of ours since then */
    uint64_t counted_ns; /* uv_hrtime() of that; 0: never */
    bool counting, count_again;
};

void dead_letters_handle(struct rpc *rpc);

/* A conversation has become one. */
void dead_letters_on_dead(struct server *server);

/* How many there are, as far as is known; has them counted anew where that is long ago. */
uint64_t dead_letters_count(struct server *server);

#endif
