/* Between load.c (the run) and load_connection.c (one connection). */
#ifndef TESTS_BENCH_LOAD_INTERNAL_H
#define TESTS_BENCH_LOAD_INTERNAL_H

#include "tests/bench/load.h"
#include "tests/bench/schedule.h"

#define LOAD_NONE UINT32_MAX

/* A message in flight. The slots of a connection hang in one list: of the free ones where answers
 * name their message (its tag is the slot's index), of those in flight, oldest first, where answers
 * come in order. */
struct slot {
    uint64_t start_ns; /* 0: free */
    uint32_t next;
};

struct connection {
    int fd;
    bool want_write;
    struct slot *slots;
    uint32_t free_head;         /* tagged */
    uint32_t oldest, next_slot; /* in order: a ring */
    uint32_t in_flight;
    uint64_t due, next_arrival; /* open loop: arrivals that wait here, the first one's index */
    uint64_t hold_until_ns;     /* the server asked for a pause; 0: no */
    uint8_t *unsent;            /* the rest of a write, NULL where there is none */
    size_t unsent_len, unsent_at;
    uint8_t *partial; /* the beginning of an answer */
    size_t partial_len;
};

struct load {
    const struct load_options *options;
    struct load_result *result;
    struct connection *connections;
    struct slot *slots;
    struct schedule schedule;
    int epoll;
    uint64_t start_ns, warm_ns, end_ns, last_ack_ns;
    uint64_t woke_ns;  /* when epoll told what is handled now */
    uint64_t messages; /* begun, in a closed loop */
    uint64_t in_flight, due;
    uint64_t holding_ns; /* when the first pause of a connection ends; 0: none */
    size_t message_len;
    uint8_t *out, *in; /* scratch, shared by all connections */
    size_t out_size;
    bool broken;
};

#define LOAD_IN_BYTES (DIALECT_REPLY_MAX + 64 * 1024)

/* Sends what may be sent now. */
void connection_send(struct load *load, struct connection *c);

/* Reads what has come, counts it, and sends on. */
void connection_receive(struct load *load, struct connection *c);

/* Ends the run with this text. */
void load_break(struct load *load, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
