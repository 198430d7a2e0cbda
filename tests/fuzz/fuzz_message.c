/* From the socket's bytes to checked fields, as a session does it. What comes out must be what
 * PostgreSQL takes: valid JSON by another library's judgement, UTF-8 without NUL, lengths and times
 * in range; what does not come out must leave an error that can be sent. */
#include <assert.h>
#include <jansson.h>
#include <stdint.h>
#include <string.h>

#include "proto/message.h"
#include "proto/scan.h"
#include "proto/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(const struct wire_error *err)
{
    size_t len = strnlen(err->text, sizeof err->text);

    assert(err->code > WIRE_OK && err->code <= WIRE_INTERNAL && err->retry_after_ms == -1);
    assert(len > 0 && len < sizeof err->text && utf8_first_bad(err->text, len) == -1);
}

static void check_text(struct slice text, size_t max_bytes)
{
    assert(text.data != NULL && text.len > 0 && text.len <= max_bytes);
    assert(utf8_first_bad(text.data, text.len) == -1);
}

static void check_conversation(struct reader r)
{
    struct conversation_fields fields;
    struct json_buffer json = {0};
    struct wire_error err = {0};

    if (conversation_decode(&r, "conversation", &json, &fields, &err) != 0) {
        check_error(&err);
    } else {
        check_text(fields.user_id, USER_ID_MAX_BYTES);
        check_text(fields.platform, PLATFORM_MAX_BYTES);
        check_text(fields.transcript, SIZE_MAX);
        if (fields.metadata.data != NULL) {
            json_t *root = json_loadb(fields.metadata.data, fields.metadata.len,
                                      JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL);

            assert(json_is_object(root));
            json_decref(root);
        }
    }
    json_buffer_done(&json);
}

static void check_options(struct reader r)
{
    struct store_options options;
    struct wire_error err = {0};

    if (store_options_decode(&r, &options, &err) != 0)
        check_error(&err);
    else
        assert(options.timeout_ms <= 86400000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct scan s;
    struct message m;
    struct wire_error err = {0};
    size_t len;
    uint32_t msgid;
    bool peeked = message_peek_msgid(data, size, &msgid);

    scan_reset(&s);
    if (scan_value(&s, data, size, 1 << 20, 1 << 16, &len) != SCAN_COMPLETE)
        return 0;
    if (message_parse(data, len, &m, &err) != 0)
        check_error(&err);
    assert(m.has_msgid == peeked && (!peeked || m.msgid == msgid));
    if (m.method.data == NULL)
        return 0;
    check_conversation(m.params);
    check_options(m.params);
    return 0;
}
