/* The format of a segment, as bytes.
 *
 * The one hard thing: a recycled file is full of old records with valid checksums, and a transcript
 * may contain anything. So the salt of this use of the file and the offset enter the header's
 * checksum, and the other half of the salt enters the payload's, which the header's covers. */
#include "daemon/segment.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "daemon/crc32c.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the structures are written as they stand in memory: little endian only"
#endif
static_assert(sizeof(struct segment_header) == 80, "the segment header is on disk");
static_assert(sizeof(struct record_header) == 32, "the record header is on disk");
static_assert(sizeof(struct done_range) == 16, "the done range is on disk");
static_assert(sizeof(struct record_header) % RECORD_ALIGN == 0, "headers stay aligned");
static_assert(SEGMENT_PAGE % RECORD_ALIGN == 0, "a page starts where a record may start");

static const char segment_magic[8] = {'C', 'S', 'J', 'R', 'N', 'L', '\r', '\n'};

static uint32_t checksum(const void *bytes, size_t len)
{
    return ~crc32c_update(~0u, bytes, len);
}

void segment_key_init(struct segment_key *key, const uint8_t salt[16])
{
    key->header_seed = crc32c_update(~0u, salt, 8);
    key->payload_seed = crc32c_update(~0u, salt + 8, 8);
}

void segment_encode(const struct segment_header *header, uint8_t ret[3 * SEGMENT_PAGE])
{
    struct segment_header h = *header;
    struct record_header end = {.type = RECORD_END, .seq = h.next_seq, .arrived_us = h.created_us};
    struct segment_key key;

    memcpy(h.magic, segment_magic, sizeof h.magic);
    h.version = SEGMENT_VERSION;
    h.header_bytes = sizeof h;
    h.reserved = 0;
    h.crc = checksum(&h, offsetof(struct segment_header, crc));
    segment_key_init(&key, h.salt);
    record_seal(&key, SEGMENT_DATA, NULL, &end);
    memset(ret, 0, 3 * SEGMENT_PAGE);
    memcpy(ret, &h, sizeof h);
    memcpy(ret + SEGMENT_COPY_AT, &h, sizeof h);
    memcpy(ret + SEGMENT_DATA, &end, sizeof end);
}

int segment_decode(const uint8_t *bytes, size_t len, struct segment_header *ret)
{
    struct segment_header h;
    uint32_t crc;

    if (len < sizeof h)
        return -EBADMSG;
    memcpy(&h, bytes, sizeof h);
    if (memcmp(h.magic, segment_magic, sizeof h.magic) != 0)
        return -EBADMSG;
    if (h.header_bytes < 20 || h.header_bytes > SEGMENT_PAGE || h.header_bytes > len)
        return -EBADMSG;
    memcpy(&crc, bytes + h.header_bytes - sizeof crc, sizeof crc);
    if (crc != checksum(bytes, h.header_bytes - sizeof crc))
        return -EBADMSG;
    if (h.version > SEGMENT_VERSION)
        return -EPROTONOSUPPORT;
    if (h.version != SEGMENT_VERSION || h.header_bytes != sizeof h)
        return -EBADMSG;
    *ret = h;
    return 0;
}

uint64_t record_bytes(uint64_t payload_len)
{
    uint64_t bytes = sizeof(struct record_header) + payload_len;

    return (bytes + RECORD_ALIGN - 1) / RECORD_ALIGN * RECORD_ALIGN;
}

static uint32_t header_checksum(const struct segment_key *key, uint64_t offset,
                                const struct record_header *header)
{
    uint32_t state = crc32c_update(key->header_seed, &offset, sizeof offset);

    return ~crc32c_update(state, (const uint8_t *)header + sizeof header->header_crc,
                          sizeof *header - sizeof header->header_crc);
}

static uint32_t payload_checksum(const struct segment_key *key, const void *payload, size_t len)
{
    return ~crc32c_update(key->payload_seed, payload, len);
}

void record_seal(const struct segment_key *key, uint64_t offset, const void *payload,
                 struct record_header *header)
{
    assert(offset % RECORD_ALIGN == 0);
    header->reserved = 0;
    header->payload_crc = payload_checksum(key, payload, header->length);
    header->header_crc = header_checksum(key, offset, header);
}

int record_check(const struct segment_key *key, uint64_t offset, const uint8_t *bytes, size_t len,
                 uint64_t end, struct record_header *ret)
{
    struct record_header h;

    if (len < sizeof h)
        return 0;
    memcpy(&h, bytes, sizeof h);
    if (h.reserved != 0 || offset > end || record_bytes(h.length) > end - offset)
        return 0; /* cheap, and most of what is no record fails here */
    if (h.header_crc != header_checksum(key, offset, &h))
        return 0;
    *ret = h;
    if (len - sizeof h < h.length)
        return -EAGAIN;
    return h.payload_crc == payload_checksum(key, bytes + sizeof h, h.length) ? 1 : 0;
}
