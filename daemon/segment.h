/* The format of a segment: headers and records as bytes. Pure: no file, no thread, no allocation.
 * proto/JOURNAL.md describes the same in words. */
#ifndef DAEMON_SEGMENT_H
#define DAEMON_SEGMENT_H

#include <stddef.h>
#include <stdint.h>

#define SEGMENT_VERSION 1u
#define SEGMENT_PAGE 4096u              /* what is written is whole pages */
#define SEGMENT_COPY_AT SEGMENT_PAGE    /* the header's second copy */
#define SEGMENT_DATA (2 * SEGMENT_PAGE) /* the first record */
#define SEGMENT_BYTES_MIN (4 * SEGMENT_PAGE)
#define RECORD_ALIGN 16u

/* At offset 0 and again at SEGMENT_COPY_AT, little endian. magic, version and header_bytes keep
 * their place in every version, and the checksum is the last 4 of header_bytes. */
struct segment_header {
    char magic[8];
    uint32_t version;
    uint32_t header_bytes;
    uint8_t salt[16]; /* random at each use of the file */
    uint64_t index;   /* the number in its name; one more at each use */
    uint64_t segment_bytes;
    uint64_t next_seq;   /* when the header was made: no smaller number is new in here */
    uint64_t trim_point; /* segments below this index are gone */
    int64_t created_us;
    uint32_t reserved;
    uint32_t crc;
};

enum record_type {
    RECORD_END = 0,          /* closes each group; the next group overwrites it. No payload. */
    RECORD_CONVERSATION = 1, /* payload: struct packed_conversation and its texts */
    RECORD_DONE = 2,         /* payload: struct done_range, one or more */
    RECORD_TRIM = 3,         /* payload: the new trim point, 8 bytes */
    RECORD_REPLAY = 4        /* every done note before it is void. No payload. */
};

#define RECORD_MOVED 1u /* flag: an older record appended again, with the number that it had */

struct record_header {
    uint32_t header_crc;  /* salt, offset in the file, the rest of this header */
    uint32_t payload_crc; /* salt, payload */
    uint32_t length;      /* of the payload; zeros follow up to RECORD_ALIGN */
    uint8_t type;
    uint8_t flags;
    uint16_t reserved;
    uint64_t seq; /* a conversation's number; in all other types the next one to be given */
    int64_t arrived_us;
};

struct done_range {
    uint64_t first;
    uint32_t count;
    uint32_t reserved;
};

/* What a segment's salt makes of the two checksums' starts. 64 secret bits in all: bytes that a
 * client chose, or that another use of the file left, do not pass for a record. */
struct segment_key {
    uint32_t header_seed;
    uint32_t payload_seed;
};

void segment_key_init(struct segment_key *key, const uint8_t salt[16]);

/* Fills in magic, version, header_bytes and crc, and writes both copies and the first END: the
 * first three pages of a segment. */
void segment_encode(const struct segment_header *header, uint8_t ret[3 * SEGMENT_PAGE]);

/* One copy. 0; -EBADMSG: not a header, or damaged; -EPROTONOSUPPORT: a sound header of a newer
 * version. *ret is untouched on failure. */
int segment_decode(const uint8_t *bytes, size_t len, struct segment_header *ret)
    __attribute__((warn_unused_result));

/* Bytes on disk of a record with such a payload. */
uint64_t record_bytes(uint64_t payload_len);

/* Seals a header (length, type, flags, seq, arrived_us are the caller's) for that offset. */
void record_seal(const struct segment_key *key, uint64_t offset, const void *payload,
                 struct record_header *header);

/* Is there a record at `offset`, whose bytes are at `bytes`? `len` are at hand, the segment ends at
 * `end`. 1: yes, *ret is its header; 0: no; -EAGAIN: the header is sound, and *ret says how many
 * more bytes the payload needs. */
int record_check(const struct segment_key *key, uint64_t offset, const uint8_t *bytes, size_t len,
                 uint64_t end, struct record_header *ret) __attribute__((warn_unused_result));

#endif
