/* UUIDs: text form and version 7. Any thread; owns nothing. */
#include "proto/uuid.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

void uuid_make_v7(uint8_t ret[16])
{
    struct timespec now;
    uint64_t ms;
    ssize_t n;

    do
        n = getrandom(ret + 6, 10, 0);
    while (n < 0 && errno == EINTR);
    if (n != 10 || clock_gettime(CLOCK_REALTIME, &now) != 0)
        abort();
    ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    for (int i = 0; i < 6; i++)
        ret[i] = (uint8_t)(ms >> (40 - 8 * i));
    ret[6] = (ret[6] & 0x0f) | 0x70; /* version 7 */
    ret[8] = (ret[8] & 0x3f) | 0x80; /* the variant of RFC 9562 */
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* A hyphen stands before bytes 4, 6, 8 and 10. */
static bool hyphen_before(int byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

int uuid_parse(const char *text, size_t len, uint8_t ret[16])
{
    uint8_t id[16];

    if (len != UUID_TEXT_LEN)
        return -EINVAL;
    for (int i = 0; i < 16; i++) {
        int high, low;

        if (hyphen_before(i) && *text++ != '-')
            return -EINVAL;
        high = hex_digit(*text++);
        low = hex_digit(*text++);
        if (high < 0 || low < 0)
            return -EINVAL;
        id[i] = (uint8_t)(high << 4 | low);
    }
    for (int i = 0; i < 16; i++)
        ret[i] = id[i];
    return 0;
}

void uuid_format(const uint8_t id[16], char ret[UUID_TEXT_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";

    for (int i = 0; i < 16; i++) {
        if (hyphen_before(i))
            *ret++ = '-';
        *ret++ = digits[id[i] >> 4];
        *ret++ = digits[id[i] & 0x0f];
    }
    *ret = '\0';
}
