/* Random MessagePack, packed by msgpack-c: what test_scan.c and test_reader.c are held against. */
#ifndef TESTS_RANDOM_MSGPACK_H
#define TESTS_RANDOM_MSGPACK_H

#include <msgpack.h>
#include <stdlib.h>
#include <string.h>

static inline uint64_t random_bits(void)
{
    uint64_t bits = (uint64_t)random() << 42 ^ (uint64_t)random() << 21 ^ (uint64_t)random();

    return bits >> (random() % 64);
}

static inline size_t random_length(void)
{
    static const size_t edges[] = {0, 1, 2, 4, 8, 15, 16, 31, 32, 255, 256, 65535, 65536};

    return edges[(size_t)random() % (random() % 8 == 0 ? 13 : 11)];
}

static inline void pack_random_bytes(msgpack_packer *pk, int kind)
{
    static char bytes[65536];
    size_t len = random_length();

    bytes[0] = (char)random();
    if (kind == 0) {
        msgpack_pack_str_with_body(pk, bytes, len);
    } else if (kind == 1) {
        msgpack_pack_bin_with_body(pk, bytes, len);
    } else {
        msgpack_pack_ext(pk, len, (int8_t)random());
        msgpack_pack_ext_body(pk, bytes, len);
    }
}

static inline void pack_random_scalar(msgpack_packer *pk)
{
    switch (random() % 9) {
    case 0:
        msgpack_pack_nil(pk);
        break;
    case 1:
        msgpack_pack_true(pk);
        break;
    case 2:
        msgpack_pack_false(pk);
        break;
    case 3:
        msgpack_pack_uint64(pk, random_bits());
        break;
    case 4:
        msgpack_pack_int64(pk, (int64_t)(0 - random_bits()));
        break;
    case 5:
        msgpack_pack_float(pk, (float)random_bits() / 7);
        break;
    case 6:
        msgpack_pack_double(pk, (double)random_bits() / 7);
        break;
    default:
        pack_random_bytes(pk, (int)(random() % 3));
        break;
    }
}

/* One value, nested at most `depth` deep. */
static inline void pack_random(msgpack_packer *pk, int depth)
{
    size_t count = (size_t)random() % (random() % 16 == 0 ? 40 : 5);

    if (depth == 0 || random() % 3 == 0) {
        pack_random_scalar(pk);
        return;
    }
    if (random() % 2 == 0) {
        msgpack_pack_array(pk, count);
    } else {
        msgpack_pack_map(pk, count);
        count *= 2;
    }
    while (count-- > 0)
        pack_random(pk, depth - 1);
}

#endif
