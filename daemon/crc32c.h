/* CRC32C (Castagnoli), by the processor's own instruction where it has one. Any thread. */
#ifndef DAEMON_CRC32C_H
#define DAEMON_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues from `state`, without the complement before and after: the standard CRC32C of a buffer
 * is ~crc32c_update(~0u, buf, len). */
uint32_t crc32c_update(uint32_t state, const void *buf, size_t len);

/* The portable one, for machines without the instruction and for its test. */
uint32_t crc32c_update_table(uint32_t state, const void *buf, size_t len);

#endif
