/* The item that flows; its one owner frees it. Pure: no thread, no handle, no global. */
#include "daemon/conversation.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the packed form is written as it stands in memory: little endian only"
#endif
static_assert(sizeof(struct packed_conversation) == 72, "the packed header is on disk");

/* Each part goes in with its length, so that no two contents run together to the same bytes. */
static void hash_part(XXH3_state_t *state, struct slice part)
{
    uint64_t len = part.data != NULL ? part.len : UINT64_MAX;

    XXH3_128bits_update(state, &len, sizeof len);
    if (part.data != NULL)
        XXH3_128bits_update(state, part.data, part.len);
}

static void hash_content(const struct conversation_fields *fields, uint8_t ret[16])
{
    XXH3_state_t state;
    XXH128_canonical_t canonical;

    XXH3_INITSTATE(&state);
    XXH3_128bits_reset(&state);
    hash_part(&state, fields->platform);
    hash_part(&state, fields->transcript);
    hash_part(&state, fields->summary);
    hash_part(&state, fields->metadata);
    if (fields->has_created_at)
        XXH3_128bits_update(&state, &fields->created_at_us, sizeof fields->created_at_us);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    memcpy(ret, canonical.digest, 16);
}

static struct conversation *conversation_alloc(size_t packed_len)
{
    struct conversation *c;

    if (packed_len > UINT32_MAX)
        return NULL;
    c = malloc(sizeof *c + packed_len);
    if (c == NULL)
        return NULL;
    memset(c, 0, sizeof *c);
    c->packed_len = (uint32_t)packed_len;
    return c;
}

static uint8_t *append(uint8_t *at, struct slice part)
{
    if (part.data != NULL)
        memcpy(at, part.data, part.len);
    return at + part.len;
}

static size_t part_len(struct slice part)
{
    return part.data != NULL ? part.len : 0;
}

struct conversation *conversation_new(const struct conversation_fields *fields,
                                      const uint8_t id[16], int64_t now_us)
{
    struct packed_conversation head = {
        .created_at_us = fields->has_created_at ? fields->created_at_us : now_us,
        .arrived_at_us = now_us,
        .flags = (fields->summary.data != NULL ? PACKED_HAS_SUMMARY : 0) |
                 (fields->metadata.data != NULL ? PACKED_HAS_METADATA : 0) |
                 (fields->has_created_at ? PACKED_HAS_CREATED_AT : 0),
        .user_id_len = (uint32_t)fields->user_id.len,
        .platform_len = (uint32_t)fields->platform.len,
        .transcript_len = (uint32_t)fields->transcript.len,
        .summary_len = (uint32_t)part_len(fields->summary),
        .metadata_len = (uint32_t)part_len(fields->metadata),
    };
    struct conversation *c =
        conversation_alloc(sizeof head + fields->user_id.len + fields->platform.len +
                           fields->transcript.len + head.summary_len + head.metadata_len);
    uint8_t *at;

    if (c == NULL)
        return NULL;
    memcpy(head.id, id, 16);
    hash_content(fields, head.content_hash);
    memcpy(c->packed, &head, sizeof head);
    at = append(c->packed + sizeof head, fields->user_id);
    at = append(at, fields->platform);
    at = append(at, fields->transcript);
    at = append(at, fields->summary);
    at = append(at, fields->metadata);
    assert(at == c->packed + c->packed_len);
    return c;
}

/* Written so that no sum of hostile lengths can wrap. */
static bool lengths_fit(const struct packed_conversation *head, size_t len)
{
    uint64_t total = (uint64_t)sizeof *head + head->user_id_len + head->platform_len +
                     head->transcript_len + head->summary_len + head->metadata_len;

    return total == len && head->user_id_len > 0 && head->platform_len > 0 &&
           head->transcript_len > 0 &&
           ((head->flags & PACKED_HAS_SUMMARY) != 0 || head->summary_len == 0) &&
           ((head->flags & PACKED_HAS_METADATA) != 0 || head->metadata_len == 0);
}

int conversation_unpack(const void *packed, size_t len, struct conversation **ret)
{
    struct packed_conversation head;
    struct conversation *c;

    if (len < sizeof head)
        return -EBADMSG;
    memcpy(&head, packed, sizeof head);
    if (!lengths_fit(&head, len))
        return -EBADMSG;
    c = conversation_alloc(len);
    if (c == NULL)
        return -ENOMEM;
    memcpy(c->packed, packed, len);
    c->replayed = true;
    *ret = c;
    return 0;
}

void conversation_free(struct conversation *c)
{
    free(c);
}

const struct packed_conversation *conversation_header(const struct conversation *c)
{
    return (const struct packed_conversation *)(const void *)c->packed;
}

static struct slice part(const struct conversation *c, size_t offset, size_t len)
{
    return (struct slice){(const char *)c->packed + sizeof(struct packed_conversation) + offset,
                          len};
}

struct slice conversation_user_id(const struct conversation *c)
{
    return part(c, 0, conversation_header(c)->user_id_len);
}

struct slice conversation_platform(const struct conversation *c)
{
    const struct packed_conversation *h = conversation_header(c);

    return part(c, h->user_id_len, h->platform_len);
}

struct slice conversation_transcript(const struct conversation *c)
{
    const struct packed_conversation *h = conversation_header(c);

    return part(c, (size_t)h->user_id_len + h->platform_len, h->transcript_len);
}

struct slice conversation_summary(const struct conversation *c)
{
    const struct packed_conversation *h = conversation_header(c);

    if ((h->flags & PACKED_HAS_SUMMARY) == 0)
        return (struct slice){NULL, 0};
    return part(c, (size_t)h->user_id_len + h->platform_len + h->transcript_len, h->summary_len);
}

struct slice conversation_metadata(const struct conversation *c)
{
    const struct packed_conversation *h = conversation_header(c);

    if ((h->flags & PACKED_HAS_METADATA) == 0)
        return (struct slice){NULL, 0};
    return part(c, (size_t)h->user_id_len + h->platform_len + h->transcript_len + h->summary_len,
                h->metadata_len);
}

size_t conversation_bytes(const struct conversation *c)
{
    return sizeof *c + c->packed_len;
}

int conversation_compare(const struct conversation *a, const struct conversation *b)
{
    struct slice ua = conversation_user_id(a), ub = conversation_user_id(b);
    int order = memcmp(ua.data, ub.data, ua.len < ub.len ? ua.len : ub.len);

    if (order == 0)
        order = (ua.len > ub.len) - (ua.len < ub.len);
    if (order == 0)
        order = memcmp(conversation_header(a)->id, conversation_header(b)->id, 16);
    return order;
}

void conversation_list_push(struct conversation_list *list, struct conversation *c)
{
    c->next = NULL;
    if (list->tail != NULL)
        list->tail->next = c;
    else
        list->head = c;
    list->tail = c;
    list->count++;
    list->bytes += conversation_bytes(c);
}

void conversation_list_push_front(struct conversation_list *list, struct conversation *c)
{
    c->next = list->head;
    list->head = c;
    if (list->tail == NULL)
        list->tail = c;
    list->count++;
    list->bytes += conversation_bytes(c);
}

struct conversation *conversation_list_pop(struct conversation_list *list)
{
    struct conversation *c = list->head;

    if (c == NULL)
        return NULL;
    list->head = c->next;
    if (list->head == NULL)
        list->tail = NULL;
    c->next = NULL;
    list->count--;
    list->bytes -= conversation_bytes(c);
    return c;
}
