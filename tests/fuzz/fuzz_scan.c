/* The scanner fed in pieces says what it says at once, the reader agrees with it about the end, and
 * neither looks beyond what it was given (each piece is a heap block of its own). */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/reader.h"
#include "proto/scan.h"

#define MAX_BYTES 4096
#define MAX_ELEMENTS 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Each cut is `step` bytes further on, and the step changes. */
static enum scan_result scan_in_pieces(const uint8_t *data, size_t size, uint8_t step,
                                       size_t *ret_len)
{
    enum scan_result result = SCAN_PARTIAL;
    struct scan s;

    scan_reset(&s);
    for (size_t fed = 0; fed < size && result == SCAN_PARTIAL; step = (uint8_t)(step * 7 + 3)) {
        uint8_t *copy;

        fed += 1 + step % 16;
        fed = fed < size ? fed : size;
        copy = malloc(fed);
        memcpy(copy, data, fed);
        result = scan_value(&s, copy, fed, MAX_BYTES, MAX_ELEMENTS, ret_len);
        free(copy);
        assert(s.depth <= SCAN_MAX_DEPTH && s.elements <= MAX_ELEMENTS);
        assert(result != SCAN_PARTIAL || s.offset + s.skip + s.wanted <= MAX_BYTES);
    }
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at_once = 0, in_pieces = 0;
    struct reader r;
    struct scan s;
    enum scan_result result;

    if (size < 2)
        return 0;
    scan_reset(&s);
    result = scan_value(&s, data + 1, size - 1, MAX_BYTES, MAX_ELEMENTS, &at_once);
    assert(scan_in_pieces(data + 1, size - 1, data[0], &in_pieces) == result);
    assert(at_once == in_pieces && at_once < size);
    reader_init(&r, data + 1, size - 1);
    if (result == SCAN_COMPLETE)
        assert(reader_skip(&r) == 0 && r.at == data + 1 + at_once);
    else if (result == SCAN_PARTIAL || result == SCAN_BAD)
        assert(reader_skip(&r) != 0);
    return 0;
}
