/* CRC32C twice: with SSE4.2's instruction, eight bytes a step, and with eight tables, which give
 * the same numbers on any machine. The tables are made once, at the first use. */
#include "daemon/crc32c.h"

#include <pthread.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* reflected */

static uint32_t tables[8][256];
static pthread_once_t tables_made = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;

        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? POLYNOMIAL : 0);
        tables[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int k = 1; k < 8; k++)
            tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 0xff];
}

uint32_t crc32c_update_table(uint32_t state, const void *buf, size_t len)
{
    const uint8_t *at = buf;

    pthread_once(&tables_made, make_tables);
    for (; len >= 8; len -= 8, at += 8) {
        uint64_t word;

        memcpy(&word, at, 8);
        word ^= state;
        state = 0;
        for (int k = 0; k < 8; k++)
            state ^= tables[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; len > 0; len--, at++)
        state = (state >> 8) ^ tables[0][(state ^ *at) & 0xff];
    return state;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t update_sse42(uint32_t state, const uint8_t *at,
                                                               size_t len)
{
    uint64_t crc = state;

    for (; len >= 8; len -= 8, at += 8) {
        uint64_t word;

        memcpy(&word, at, 8);
        crc = _mm_crc32_u64(crc, word);
    }
    state = (uint32_t)crc;
    for (; len > 0; len--, at++)
        state = _mm_crc32_u8(state, *at);
    return state;
}

uint32_t crc32c_update(uint32_t state, const void *buf, size_t len)
{
    if (__builtin_cpu_supports("sse4.2"))
        return update_sse42(state, buf, len);
    return crc32c_update_table(state, buf, len);
}
#else
uint32_t crc32c_update(uint32_t state, const void *buf, size_t len)
{
    return crc32c_update_table(state, buf, len);
}
#endif
