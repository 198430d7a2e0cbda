/* The world: see world.h. Jobs are run and finished when the test says so, so that every order that
 * two threads and a loop can produce is produced by one, from a seed. */
#include "tests/support/world.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void world_fail(const struct world *w, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "FAILED seed=%llu: ", (unsigned long long)w->seed);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n");
    exit(1);
}

size_t world_text(uint32_t n, size_t len, char *ret)
{
    for (size_t i = 0; i < len; i++)
        ret[i] = (char)('a' + (n * 7 + i * 3 + i / 26) % 26);
    return len;
}

static struct conversation *make(uint32_t n, const char *text, size_t len)
{
    uint8_t id[16] = {0};
    struct conversation_fields fields = {
        .user_id = {"u", 1}, .platform = {"p", 1}, .transcript = {text, len}};
    struct conversation *c;

    memcpy(id, &n, sizeof n);
    c = conversation_new(&fields, id, 1700000000000000);
    assert(c != NULL);
    return c;
}

static uint32_t number_of(const struct world *w, const struct conversation *c)
{
    const struct slice text = conversation_transcript(c);
    uint32_t n;
    char *expected = malloc(text.len);

    assert(expected != NULL);
    memcpy(&n, conversation_header(c)->id, sizeof n);
    if (n == 0 || n > w->count)
        world_fail(w, "a record with the id %u that was never written", n);
    world_text(n, text.len, expected);
    if (!w->own_text[n] && memcmp(expected, text.data, text.len) != 0)
        world_fail(w, "the text of %u is not what was written", n);
    free(expected);
    return n;
}

static void on_durable(void *owner, struct conversation *c)
{
    struct world *w = owner;
    uint32_t n = number_of(w, c);

    if (w->fates[n] != FATE_SUBMITTED)
        world_fail(w, "%u acknowledged in state %d", n, w->fates[n]);
    if (n < w->next_ack)
        world_fail(w, "the ack of %u comes after that of %u", n, w->next_ack);
    w->next_ack = n;
    w->fates[n] = FATE_ACKED;
}

static void on_ready(void *owner, struct conversation *c)
{
    struct world *w = owner;
    uint32_t n = number_of(w, c);

    if (w->in_memory[n]++ != 0)
        world_fail(w, "%u handed on twice", n);
    w->seqs[n] = c->seq;
    w->by_seq[c->seq] = n;
    conversation_free(c);
}

static void on_lost(void *owner, struct conversation *c)
{
    struct world *w = owner;

    if (w->fates[number_of(w, c)] != FATE_SUBMITTED)
        world_fail(w, "an acknowledged record is called lost");
    w->lost++;
}

static void on_failed(void *owner, int error, const char *text)
{
    struct world *w = owner;

    assert(!w->failed && error != 0 && text[0] != '\0');
    w->failed = true;
    w->last_error = error;
    snprintf(w->text, sizeof w->text, "%s", text);
}

static void on_uncongested(void *owner)
{
    (void)owner;
}

static void take_group(void *context, struct group_job *job)
{
    struct world *w = context;

    assert(w->group == NULL);
    w->group = job;
    w->group_ran = false;
}

static void take_work(void *context, struct work_job *job)
{
    struct world *w = context;

    assert(w->work[job->kind] == NULL);
    w->work[job->kind] = job;
    w->work_ran[job->kind] = false;
}

void world_init(struct world *w, uint64_t seed, const struct journal_config *config)
{
    *w = (struct world){.seed = seed, .random = seed, .config = *config};
    w->config.directory = "sim";
    w->disk = simdisk_new(seed);
}

void world_done(struct world *w)
{
    world_abandon(w);
    simdisk_free(w->disk);
    w->disk = NULL;
}

int world_open(struct world *w)
{
    static const struct journal_callbacks callbacks = {.on_durable = on_durable,
                                                       .on_ready = on_ready,
                                                       .on_lost = on_lost,
                                                       .on_failed = on_failed,
                                                       .on_uncongested = on_uncongested};
    struct journal_executor executor = {take_group, take_work, w};

    assert(w->journal == NULL);
    w->failed = false;
    w->lost = 0;
    w->text[0] = '\0';
    return journal_new(&w->config, &w->disk->sys, &callbacks, w, &executor, &w->journal, w->text);
}

void world_abandon(struct world *w)
{
    bool quiet = w->disk->quiet;

    w->disk->quiet = true;
    if (w->journal != NULL) {
        struct journal *j = w->journal;

        /* What the dead process had in its hands: freed here, so that leaks stay visible. */
        if (w->work[WORK_READ] != NULL) {
            struct conversation *c;

            while (w->work_ran[WORK_READ] &&
                   (c = conversation_list_pop(&j->work[WORK_READ].found)) != NULL)
                conversation_free(c);
        }
        if (w->work[WORK_SEGMENT] != NULL && w->work_ran[WORK_SEGMENT] &&
            j->work[WORK_SEGMENT].error == 0)
            w->disk->sys.close(&w->disk->sys, j->work[WORK_SEGMENT].segment.fd);
        for (struct conversation *next, *c = j->group_out ? j->group.conversations : NULL;
             c != NULL; c = next) {
            next = c->next;
            conversation_free(c);
        }
        for (struct conversation *next, *c = j->group_out ? j->group.moved : NULL; c != NULL;
             c = next) {
            next = c->next;
            conversation_free(c);
        }
        j->group_out = false;
        memset(&j->on, 0, sizeof j->on);
        j->on.on_lost = on_lost;
        journal_delete(j);
    }
    w->journal = NULL;
    w->group = NULL;
    memset(w->work, 0, sizeof w->work);
    memset(w->in_memory, 0, sizeof w->in_memory);
    w->written_note_count = 0;
    w->notes_are_void = false;
    w->next_ack = 0;
    simdisk_kill(w->disk);
    w->disk->quiet = quiet;
}

int world_append_text(struct world *w, const void *text, size_t len)
{
    uint32_t n = w->count + 1;
    struct conversation *c = make(n, text, len);
    int rc;

    assert(n < WORLD_MAX);
    w->count = n;
    w->own_text[n] = true;
    w->fates[n] = FATE_SUBMITTED;
    rc = journal_append(w->journal, c);
    if (rc != 0) {
        conversation_free(c);
        w->fates[n] = FATE_NONE;
        return rc;
    }
    w->seqs[n] = c->seq;
    assert(c->seq < WORLD_MAX * 2);
    w->by_seq[c->seq] = n;
    return 0;
}

int world_append(struct world *w, size_t transcript_len)
{
    char *text = malloc(transcript_len);
    int rc;

    assert(text != NULL);
    world_text(w->count + 1, transcript_len, text);
    rc = world_append_text(w, text, transcript_len);
    w->own_text[w->count] = false;
    free(text);
    return rc;
}

void world_pump(struct world *w)
{
    journal_pump(w->journal);
}

bool world_run_group(struct world *w)
{
    if (w->group == NULL || w->group_ran)
        return false;
    disk_group_run(w->group);
    w->group_ran = true;
    for (unsigned i = 0; i < w->group->done_count && !w->notes_are_void; i++)
        for (uint64_t k = 0; k < w->group->done[i].count; k++) {
            assert(w->written_note_count < WORLD_MAX);
            w->written_notes[w->written_note_count++] = w->group->done[i].first + k;
        }
    return true;
}

bool world_finish_group(struct world *w)
{
    bool synced;

    if (w->group == NULL || !w->group_ran)
        return false;
    synced = w->group->sync && w->group->error == 0;
    w->notes_are_void = false;
    w->group = NULL;
    for (unsigned i = 0; synced && i < w->written_note_count; i++) {
        uint32_t n = w->by_seq[w->written_notes[i]];

        if (w->fates[n] == FATE_DONE)
            w->fates[n] = FATE_NOTED;
    }
    if (synced)
        w->written_note_count = 0;
    journal_group_finished(w->journal);
    return true;
}

bool world_run_work(struct world *w, enum work_kind kind)
{
    if (w->work[kind] == NULL || w->work_ran[kind])
        return false;
    disk_work_run(w->work[kind]);
    w->work_ran[kind] = true;
    return true;
}

bool world_finish_work(struct world *w, enum work_kind kind)
{
    struct work_job *job = w->work[kind];

    if (job == NULL || !w->work_ran[kind])
        return false;
    w->work[kind] = NULL;
    journal_work_finished(w->journal, job);
    return true;
}

void world_settle(struct world *w)
{
    bool busy = true;

    while (busy) {
        journal_pump(w->journal);
        busy = false;
        for (unsigned kind = 0; kind < WORK_KINDS; kind++) {
            if (w->reading_only && kind != WORK_READ)
                continue;
            busy |= world_run_work(w, (enum work_kind)kind);
            busy |= world_finish_work(w, (enum work_kind)kind);
        }
        if (w->reading_only)
            continue;
        busy |= world_run_group(w);
        busy |= world_finish_group(w);
    }
}

void world_commit(struct world *w, uint32_t n)
{
    if (w->in_memory[n] == 0)
        world_fail(w, "%u is not in memory", n);
    w->in_memory[n] = 0;
    if (w->fates[n] == FATE_ACKED)
        w->fates[n] = FATE_DONE;
    journal_done(w->journal, w->seqs[n]);
}

void world_replay(struct world *w)
{
    (void)journal_replay_done(w->journal);
    for (uint32_t n = 1; n <= w->count; n++)
        if (w->fates[n] == FATE_NOTED)
            w->fates[n] = FATE_DONE; /* may come again; need not, it may be trimmed */
    w->written_note_count = 0;
    w->notes_are_void = w->group != NULL;
}

void world_room(struct world *w, size_t count)
{
    journal_room(w->journal, count, SIZE_MAX / 2);
}

void world_check_recovered(struct world *w)
{
    for (uint32_t n = 1; n <= w->count; n++) {
        if (w->fates[n] == FATE_ACKED && w->in_memory[n] == 0)
            world_fail(w, "%u (seq %llu) was acknowledged and is lost", n,
                       (unsigned long long)w->seqs[n]);
        if (w->fates[n] == FATE_NONE && w->in_memory[n] != 0)
            world_fail(w, "%u appeared, which never was or was gone", n);
        if (w->fates[n] == FATE_NOTED && w->in_memory[n] != 0)
            world_fail(w, "%u (seq %llu) came again though its note was synced", n,
                       (unsigned long long)w->seqs[n]);
    }
}

void world_adopt(struct world *w)
{
    world_check_recovered(w);
    for (uint32_t n = 1; n <= w->count; n++) {
        if (w->in_memory[n] != 0)
            w->fates[n] = FATE_ACKED;
        else if (w->fates[n] == FATE_SUBMITTED)
            w->fates[n] = FATE_NONE;
        else if (w->fates[n] == FATE_DONE)
            w->fates[n] = FATE_NOTED;
    }
}
