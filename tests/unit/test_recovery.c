/* What recovery makes of damaged, cut, missing, foreign and forged segments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/world.h"

/* A text's bytes before the first one where a record may start. */
#define TEXT_SKIP 6u
#define SEGMENT_BYTES (4 * SEGMENT_PAGE)

static const struct journal_config small = {.sync = true,
                                            .max_bytes = 16 * SEGMENT_BYTES,
                                            .segment_bytes = SEGMENT_BYTES,
                                            .max_unsynced_bytes = 1000000};

static struct world w;

static void append_and_settle(unsigned count, size_t len)
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(world_append(&w, len), 0);
    world_settle(&w);
}

static void begin(const struct journal_config *config)
{
    world_init(&w, 7, config);
    assert_int_equal(world_open(&w), 0);
    world_room(&w, 100000);
}

static void reopen(void)
{
    int rc = world_open(&w);

    if (rc != 0)
        world_fail(&w, "no start: %s", w.text);
    world_room(&w, 100000);
    world_settle(&w);
}

static uint32_t missing(void)
{
    uint32_t count = 0;

    for (uint32_t n = 1; n <= w.count; n++)
        count += w.in_memory[n] == 0 && w.fates[n] == FATE_ACKED;
    return count;
}

static char *segment_name(uint64_t index)
{
    static char name[DISK_NAME_MAX];

    disk_segment_name(index, name);
    return name;
}

static bool damage_of(enum journal_damage_kind kind)
{
    for (unsigned i = 0; i < w.journal->damages.kept; i++)
        if (w.journal->damages.list[i].kind == kind)
            return true;
    return false;
}

/* Where the record of each n stands, read with the format's own functions. */
static uint64_t record_at(uint64_t index, uint32_t wanted, uint64_t *ret_bytes)
{
    struct sim_file *f = simdisk_file(w.disk, segment_name(index));
    struct segment_header header;
    struct segment_key key;
    uint64_t offset = SEGMENT_DATA;
    struct record_header record;

    if (f == NULL || segment_decode(f->cache, SEGMENT_PAGE, &header) != 0)
        return 0;
    segment_key_init(&key, header.salt);
    while (record_check(&key, offset, f->cache + offset, f->size - offset, f->size, &record) == 1 &&
           record.type != RECORD_END) {
        *ret_bytes = sizeof record + record.length;
        if (record.type == RECORD_CONVERSATION && w.by_seq[record.seq] == wanted)
            return offset;
        offset += record_bytes(record.length);
    }
    return 0;
}

/* Which n's record the byte belongs to; 0: none. */
static uint32_t owner_of(uint64_t index, uint64_t at)
{
    for (uint32_t n = 1; n <= w.count; n++) {
        uint64_t bytes, offset = record_at(index, n, &bytes);

        if (offset != 0 && at >= offset && at < offset + bytes)
            return n;
    }
    return 0;
}

/* Goal of this test: with any one byte of the journal flipped the start succeeds, at most the
 * record that the byte belongs to is missing, and then it is reported and set aside. */
static void test_every_byte_flipped(void **state)
{
    uint64_t flips = 0, lost = 0, headers = 0, ends[3] = {0};
    struct simdisk *sound;

    (void)state;
    begin(&small);
    append_and_settle(3, 900);
    append_and_settle(4, 1100); /* the second segment begins here */
    append_and_settle(2, 70);
    assert_int_equal(w.journal->current.index, 2);
    for (uint64_t i = 1; i <= 2; i++)
        ends[i] = ledger_find(&w.journal->ledger, i)->end + sizeof(struct record_header);
    world_abandon(&w);
    sound = simdisk_crash(w.disk, 1, 256);
    for (uint64_t index = 1; index <= 2; index++) {
        for (uint64_t at = 0; at < ends[index]; at++) {
            uint32_t owner;

            simdisk_free(w.disk);
            w.disk = simdisk_crash(sound, at, 256);
            owner = owner_of(index, at);
            simdisk_flip(w.disk, segment_name(index), at, (uint8_t)(1u << at % 8));
            reopen();
            if (missing() > 0) {
                lost++;
                assert_true(owner != 0 && missing() == 1 && w.in_memory[owner] == 0);
                assert_true(w.journal->damages.count == 1 && damage_of(JOURNAL_DAMAGE_BYTES));
                assert_non_null(simdisk_file(w.disk, w.journal->damages.list[0].file));
            } else {
                assert_int_equal(owner, 0);
            }
            if (damage_of(JOURNAL_DAMAGE_HEADER))
                headers++;
            flips++;
            world_abandon(&w);
        }
    }
    assert_int_equal(headers, 4 * sizeof(struct segment_header));
    printf("# flips: %llu bytes, %llu cost a record\n", (unsigned long long)flips,
           (unsigned long long)lost);
    simdisk_free(sound);
    world_done(&w);
}

/* The bytes of a whole, sound record, sealed for another place. */
static size_t steal_record(uint64_t index, uint32_t n, uint8_t *to)
{
    uint64_t bytes = 0, offset = record_at(index, n, &bytes);

    assert_true(offset != 0);
    memcpy(to, simdisk_file(w.disk, segment_name(index))->cache + offset, record_bytes(bytes - 32));
    return (size_t)record_bytes(bytes - 32);
}

/* The offset in its file of the first aligned byte of the text of n. */
static uint64_t text_at(uint64_t index, uint32_t n, size_t *ret_skip)
{
    uint64_t bytes, offset = record_at(index, n, &bytes);
    uint64_t text = offset + sizeof(struct record_header) + sizeof(struct packed_conversation) + 2;

    assert_true(offset != 0);
    *ret_skip = (size_t)(RECORD_ALIGN - text % RECORD_ALIGN) % RECORD_ALIGN;
    return text + *ret_skip;
}

/* Goal of this test: text that consists of bytes of sound records, of other segments or of this
 * one, is never taken for a record, even when damage makes recovery search right there. */
static void test_forgery(void **state)
{
    static uint8_t text[7000];
    size_t len = 0, skip;
    uint64_t head;

    (void)state;
    begin(&small);
    append_and_settle(5, 900); /* 1 to 5 in segment 1 */
    append_and_settle(6, 1000);
    append_and_settle(1, 10);
    memset(text, 'x', sizeof text);
    len = TEXT_SKIP;
    len += steal_record(1, 1, text + len);
    len += steal_record(1, 3, text + len);
    len += steal_record(2, 10, text + len);
    assert_int_equal(world_append_text(&w, text, sizeof text), 0);
    world_settle(&w);
    for (uint32_t n = 1; n < w.count; n++)
        world_commit(&w, n);
    append_and_settle(1, 50);
    world_settle(&w);
    for (uint32_t n = 1; n < w.count - 1; n++)
        w.fates[n] = FATE_NOTED; /* if one comes back, it is the forgery's doing */
    head = record_at(w.journal->current.index, w.count - 1, &(uint64_t){0});
    assert_true(head != 0);
    assert_int_equal((text_at(w.journal->current.index, w.count - 1, &skip), skip), TEXT_SKIP);
    world_abandon(&w);
    simdisk_flip(w.disk, segment_name(3), head, 0x10);
    w.fates[w.count - 1] = FATE_SUBMITTED; /* the forger's own record is what is damaged */
    reopen();
    assert_int_equal(w.journal->damages.count, 1);
    world_check_recovered(&w);
    world_done(&w);
}

/* Goal of this test: the one above can fail. Bytes that are sealed with the segment's own salt for
 * the very place are found by the search, so it did look there. */
static void test_forgery_with_the_key(void **state)
{
    struct record_header header = {.length = 0, .type = RECORD_CONVERSATION, .seq = 1000};
    static char text[600];
    struct segment_header segment;
    struct segment_key key;
    struct sim_file *f;
    uint64_t at, head;
    size_t skip;

    (void)state;
    begin(&small);
    memset(text, 'x', sizeof text);
    assert_int_equal(world_append_text(&w, text, sizeof text), 0);
    append_and_settle(1, 100);
    at = text_at(1, 1, &skip);
    head = record_at(1, 1, &(uint64_t){0});
    world_abandon(&w);
    f = simdisk_file(w.disk, segment_name(1));
    assert_int_equal(segment_decode(f->cache, SEGMENT_PAGE, &segment), 0);
    segment_key_init(&key, segment.salt);
    record_seal(&key, at, "", &header);
    memcpy(f->cache + at, &header, sizeof header);
    simdisk_flip(w.disk, segment_name(1), head, 0x10);
    assert_int_equal(world_open(&w), 0);
    assert_true(w.journal->next_seq == 1001);
    assert_int_equal(w.journal->damages.count, 2); /* before and behind the found one */
    world_done(&w);
}

static void three_segments(void)
{
    begin(&small);
    append_and_settle(20, 900);
    assert_int_equal(w.journal->current.index, 3);
    assert_int_equal(w.count, 20);
    world_abandon(&w);
}

static uint32_t records_in(uint64_t index)
{
    uint32_t count = 0;

    for (uint32_t n = 1; n <= w.count; n++)
        count += record_at(index, n, &(uint64_t){0}) != 0;
    return count;
}

static void store_again(void)
{
    append_and_settle(2, 100);
    assert_false(w.failed);
    assert_int_equal(w.fates[w.count], FATE_ACKED);
}

/* Goal of these tests: no file in the directory stops the start, all other records are kept, and
 * what is lost is said. */
static void test_segment_missing(void **state)
{
    uint32_t gone;

    (void)state;
    three_segments();
    gone = records_in(2);
    w.disk->sys.unlink(&w.disk->sys, 1000, segment_name(2));
    reopen();
    assert_true(damage_of(JOURNAL_DAMAGE_MISSING));
    assert_int_equal(missing(), gone);
    store_again();
    world_done(&w);
}

static void test_segment_empty(void **state)
{
    uint32_t gone;

    (void)state;
    three_segments();
    gone = records_in(2);
    simdisk_file(w.disk, segment_name(2))->size = 0;
    reopen();
    assert_true(damage_of(JOURNAL_DAMAGE_SEGMENT));
    assert_int_equal(missing(), gone);
    store_again();
    world_done(&w);
}

static void test_segment_cut(void **state)
{
    (void)state;
    for (uint64_t index = 1; index <= 3; index++) {
        uint32_t kept, all;
        uint64_t bytes, third;

        three_segments();
        all = records_in(index);
        kept = 0;
        third = 0;
        for (uint32_t n = 1; n <= w.count && kept < 2; n++) {
            uint64_t offset = record_at(index, n, &bytes);

            kept += offset != 0;
            third = offset != 0 ? offset + record_bytes(bytes - 32) : third;
        }
        simdisk_file(w.disk, segment_name(index))->size = third + 100;
        reopen();
        assert_int_equal(missing(), all - kept);
        assert_true(damage_of(index < 3 ? JOURNAL_DAMAGE_BYTES : JOURNAL_DAMAGE_TAIL));
        store_again();
        world_abandon(&w);
        reopen(); /* and again, with what the first start made of it */
        assert_int_equal(missing(), all - kept);
        world_done(&w);
    }
}

static void test_segment_foreign(void **state)
{
    uint32_t gone;
    struct sim_file *f;

    (void)state;
    three_segments();
    gone = records_in(1);
    f = simdisk_file(w.disk, segment_name(1));
    for (uint64_t i = 0; i < f->size; i++)
        f->cache[i] = (uint8_t)(i * 31);
    memcpy(f->disk, f->cache, f->size);
    w.disk->sys.open(&w.disk->sys, 1000, "notes-of-the-operator.txt", O_CREAT | O_RDWR);
    w.disk->sys.open(&w.disk->sys, 1000, "00000000ffffffff.segment", O_CREAT | O_RDWR);
    simdisk_kill(w.disk);
    reopen();
    assert_true(damage_of(JOURNAL_DAMAGE_SEGMENT));
    assert_int_equal(missing(), gone);
    assert_non_null(simdisk_file(w.disk, "notes-of-the-operator.txt"));
    store_again();
    world_done(&w);
}

static void test_segment_by_another_name(void **state)
{
    (void)state;
    three_segments();
    w.disk->sys.rename(&w.disk->sys, 1000, segment_name(1), "0000000000000009.segment");
    reopen();
    assert_true(damage_of(JOURNAL_DAMAGE_SEGMENT));
    assert_true(damage_of(JOURNAL_DAMAGE_MISSING));
    store_again();
    world_done(&w);
}

/* Goal of this test: a newer format is never guessed at and never set aside. */
static void test_newer_version(void **state)
{
    struct segment_header header;
    struct sim_file *f;
    uint8_t pages[3 * SEGMENT_PAGE];

    (void)state;
    three_segments();
    f = simdisk_file(w.disk, segment_name(2));
    assert_int_equal(segment_decode(f->cache, SEGMENT_PAGE, &header), 0);
    segment_encode(&header, pages);
    header = *(struct segment_header *)(void *)pages;
    header.version = SEGMENT_VERSION + 1;
    header.crc = 0;
    /* The checksum over a changed version, by the format's rule: the last 4 of header_bytes. */
    {
        uint32_t crc = ~0u;
        const uint8_t *at = (const uint8_t *)&header;

        for (size_t i = 0; i < sizeof header - 4; i++) {
            crc ^= at[i];
            for (int bit = 0; bit < 8; bit++)
                crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
        }
        header.crc = ~crc;
    }
    memcpy(f->cache, &header, sizeof header);
    memcpy(f->cache + SEGMENT_COPY_AT, &header, sizeof header);
    assert_int_equal(world_open(&w), -EPROTONOSUPPORT);
    assert_non_null(strstr(w.text, "newer format"));
    assert_non_null(simdisk_file(w.disk, segment_name(2)));
    world_done(&w);
}

/* Goal of this test: a zeroed sector in the middle costs the records in it and no other. */
static void test_zeroed_sector(void **state)
{
    struct sim_file *f;

    (void)state;
    three_segments();
    f = simdisk_file(w.disk, segment_name(1));
    memset(f->cache + SEGMENT_DATA + 4 * SIM_SECTOR, 0, SIM_SECTOR);
    memcpy(f->disk, f->cache, f->size);
    reopen();
    assert_in_range(missing(), 1, 2);
    assert_int_equal(w.journal->damages.count, 1);
    world_done(&w);
}

/* Goal of this test: after a failed sync the records that a restart finds are on the disk, not only
 * in a cache that the kernel calls clean. The segment is larger than the buffer that rewrites it.
 */
static void test_rewritten_before_trusted(void **state)
{
    static const struct journal_config large = {.sync = true,
                                                .max_bytes = 16u << 20,
                                                .segment_bytes = 4u << 20,
                                                .max_unsynced_bytes = 8u << 20};
    struct simdisk *after;

    (void)state;
    begin(&large);
    world_settle(&w);
    for (unsigned i = 0; i < 600; i++)
        assert_int_equal(world_append(&w, 4000), 0);
    world_pump(&w);
    w.disk->fault =
        (struct sim_fault){.at = w.disk->calls + 4, .error = -EIO}; /* three writes, the sync */
    world_run_group(&w);
    world_finish_group(&w);
    assert_true(w.failed && w.lost == 600);
    world_abandon(&w);
    reopen();
    for (uint32_t n = 1; n <= w.count; n++) /* all are in the cache, so all come back */
        assert_int_equal(w.in_memory[n], 1);
    world_adopt(&w);
    after = simdisk_crash(w.disk, 5, 0);
    world_abandon(&w);
    simdisk_free(w.disk);
    w.disk = after;
    reopen();
    world_check_recovered(&w);
    world_done(&w);
}

/* Goal of this test: starts that find nothing to do leave the directory as it is, however many. */
static void test_many_starts(void **state)
{
    (void)state;
    begin(&small);
    append_and_settle(3, 100);
    for (int i = 0; i < 50; i++) {
        world_abandon(&w);
        reopen();
        assert_int_equal(missing(), 0);
        assert_int_equal(w.journal->ledger.count, 1);
        assert_true(journal_prepared(w.journal) <= DISK_SPARES_MAX + 1);
    }
    world_done(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_byte_flipped),
        cmocka_unit_test(test_forgery),
        cmocka_unit_test(test_forgery_with_the_key),
        cmocka_unit_test(test_segment_missing),
        cmocka_unit_test(test_segment_empty),
        cmocka_unit_test(test_segment_cut),
        cmocka_unit_test(test_segment_foreign),
        cmocka_unit_test(test_segment_by_another_name),
        cmocka_unit_test(test_newer_version),
        cmocka_unit_test(test_zeroed_sector),
        cmocka_unit_test(test_rewritten_before_trusted),
        cmocka_unit_test(test_many_starts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
