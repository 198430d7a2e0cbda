/* Chooses and cuts the text that stands for a conversation. Owns nothing. */
#include "daemon/embedding_text.h"

#include "daemon/letters.h"

struct slice embedding_text_cut(struct slice text, size_t max)
{
    size_t len = max;

    if (text.len <= max)
        return text;
    while (len > 0 && ((unsigned char)text.data[len] & 0xc0) == 0x80)
        len--; /* this byte goes on with a character that the cut would split */
    return (struct slice){text.data, len};
}

struct slice embedding_text(const struct conversation *c)
{
    struct slice summary = conversation_summary(c);

    if (summary.data != NULL && !letters_none(summary))
        return embedding_text_cut(summary, EMBEDDING_TEXT_MAX_BYTES);
    return embedding_text_cut(conversation_transcript(c), EMBEDDING_TEXT_MAX_BYTES);
}
