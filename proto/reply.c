/* Writes MessagePack-RPC messages with msgpack-c's packer. Pure; the loop's, as the buffer is.
 *
 * A packer fails only where its write callback does, and every later value goes through the same
 * callback: so results are not looked at here, and the callback's owner keeps the failure. */
#include "proto/reply.h"

#include <assert.h>
#include <string.h>

#include "proto/message.h"
#include "proto/uuid.h"

static void reply_head(msgpack_packer *pk, bool has_msgid, uint32_t msgid)
{
    msgpack_pack_array(pk, 4);
    msgpack_pack_int(pk, MESSAGE_RESPONSE);
    if (has_msgid)
        msgpack_pack_uint32(pk, msgid);
    else
        msgpack_pack_nil(pk);
}

void reply_begin(msgpack_packer *pk, uint32_t msgid)
{
    reply_head(pk, true, msgid);
    msgpack_pack_nil(pk);
}

void reply_error(msgpack_packer *pk, bool has_msgid, uint32_t msgid, const struct wire_error *err)
{
    reply_head(pk, has_msgid, msgid);
    pack_error(pk, err);
    msgpack_pack_nil(pk);
}

void pack_error(msgpack_packer *pk, const struct wire_error *err)
{
    assert(err->code != WIRE_OK);
    msgpack_pack_array(pk, 4);
    msgpack_pack_int(pk, (int)err->code);
    pack_str(pk, wire_code_name((int)err->code));
    pack_str(pk, err->text);
    if (err->retry_after_ms >= 0)
        msgpack_pack_int(pk, err->retry_after_ms);
    else
        msgpack_pack_nil(pk);
}

void pack_str(msgpack_packer *pk, const char *text)
{
    msgpack_pack_str_with_body(pk, text, strlen(text));
}

void pack_slice(msgpack_packer *pk, struct slice s)
{
    if (s.data == NULL)
        msgpack_pack_nil(pk);
    else
        msgpack_pack_str_with_body(pk, s.data, s.len);
}

void pack_id(msgpack_packer *pk, const uint8_t id[16])
{
    char text[UUID_TEXT_LEN + 1];

    uuid_format(id, text);
    msgpack_pack_str_with_body(pk, text, UUID_TEXT_LEN);
}

void pack_time(msgpack_packer *pk, int64_t us)
{
    msgpack_timestamp at = {.tv_sec = us / 1000000 - (us % 1000000 < 0)};

    at.tv_nsec = (uint32_t)(us - at.tv_sec * 1000000) * 1000;
    msgpack_pack_timestamp(pk, &at);
}
