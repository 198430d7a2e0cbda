/* A key with its value, for the files of report.h. */
#ifndef DAEMON_REPORT_PACK_H
#define DAEMON_REPORT_PACK_H

#include <stdint.h>

#include "proto/reply.h"

static inline void pack_number(msgpack_packer *pk, const char *key, uint64_t number)
{
    pack_str(pk, key);
    msgpack_pack_uint64(pk, number);
}

static inline void pack_ms(msgpack_packer *pk, const char *key, double microseconds)
{
    pack_str(pk, key);
    msgpack_pack_double(pk, microseconds / 1000);
}

static inline void pack_text(msgpack_packer *pk, const char *key, const char *text)
{
    pack_str(pk, key);
    pack_str(pk, text);
}

#endif
