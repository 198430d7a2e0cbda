/* UUIDs (RFC 9562): text form and version 7, whose leading 48 bits are milliseconds since 1970, so
 * that ids made one after another stand side by side in an index. */
#ifndef PROTO_UUID_H
#define PROTO_UUID_H

#include <stddef.h>
#include <stdint.h>

#define UUID_TEXT_LEN 36

/* A new version 7 UUID of the present moment. Any thread. Never fails: without getrandom(2) there
 * is no id to give, and it aborts. */
void uuid_make_v7(uint8_t ret[16]);

/* 36 characters, any case. 0, or -EINVAL. */
int uuid_parse(const char *text, size_t len, uint8_t ret[16]) __attribute__((warn_unused_result));

/* Lower case; writes 36 characters and a NUL. */
void uuid_format(const uint8_t id[16], char ret[UUID_TEXT_LEN + 1]);

#endif
