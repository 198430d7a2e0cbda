/* Chooses and cuts the text that stands for a conversation. Owns nothing.
 *
 * The one hard thing is where to cut a transcript. A chunk ends at the last turn's begin in its
 * last third, for a question and its answer to stay together; where no turn begins there, at the
 * last line, then the last blank, then between two characters. The next chunk begins a little
 * before that end, again at the best place that is near, so that what stands at a seam is found
 * from either side. Every chunk is longer than the overlap, so each begins after the one before. */
#include "daemon/embedding_text.h"

#include <assert.h>
#include <string.h>

#include "daemon/letters.h"

#define SPEAKER_MAX_BYTES 40 /* "User: ", "Dr. Grünwald: " */

static_assert(EMBEDDING_CHUNK_BYTES * 2 / 3 > 2 * EMBEDDING_CHUNK_OVERLAP, "chunks move on");

enum embedding_source embedding_source_of(const char *name)
{
    if (strcmp(name, "transcript") == 0)
        return SOURCE_TRANSCRIPT;
    return strcmp(name, "both") == 0 ? SOURCE_BOTH : SOURCE_SUMMARY;
}

static bool is_inside_character(struct slice text, size_t at)
{
    return at < text.len && ((unsigned char)text.data[at] & 0xc0) == 0x80;
}

struct slice embedding_text_cut(struct slice text, size_t max)
{
    size_t len = max;

    if (text.len <= max)
        return text;
    while (len > 0 && is_inside_character(text, len))
        len--; /* this byte goes on with a character that the cut would split */
    return (struct slice){text.data, len};
}

bool embedding_text_is_blank(struct slice text)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] != ' ' && (text.data[i] < '\t' || text.data[i] > '\r'))
            return false;
    return true;
}

static bool summary_stands_for_it(const struct conversation *c, struct slice *ret)
{
    struct slice summary = conversation_summary(c);

    if (summary.data == NULL)
        return false;
    *ret = embedding_text_cut(summary, EMBEDDING_TEXT_MAX_BYTES);
    return !letters_none(*ret);
}

struct slice embedding_text(const struct conversation *c)
{
    struct slice text;

    if (summary_stands_for_it(c, &text))
        return text;
    return embedding_text_cut(conversation_transcript(c), EMBEDDING_TEXT_MAX_BYTES);
}

/* How good a place to cut at is: between text[at - 1] and text[at]. */
enum seam { SEAM_NONE, SEAM_CHARACTER, SEAM_BLANK, SEAM_LINE, SEAM_TURN };

/* A line that begins with a short name and a colon. */
static bool begins_turn(struct slice text, size_t at)
{
    size_t end = text.len - at > SPEAKER_MAX_BYTES ? at + SPEAKER_MAX_BYTES : text.len;

    for (size_t i = at; i + 1 < end && text.data[i] != '\n'; i++)
        if (text.data[i] == ':')
            return i > at && text.data[i + 1] == ' ';
    return false;
}

static enum seam seam_at(struct slice text, size_t at)
{
    if (text.data[at - 1] == '\n')
        return begins_turn(text, at) ? SEAM_TURN : SEAM_LINE;
    if (text.data[at - 1] == ' ' || text.data[at - 1] == '\t')
        return SEAM_BLANK;
    return is_inside_character(text, at) ? SEAM_NONE : SEAM_CHARACTER;
}

/* The best place to cut in [from, to], the last of its kind. */
static size_t best_seam(struct slice text, size_t from, size_t to)
{
    enum seam best = SEAM_NONE;
    size_t place = to;

    for (size_t at = to; at >= from && best != SEAM_TURN; at--) {
        enum seam seam = seam_at(text, at);

        if (seam > best) {
            best = seam;
            place = at;
        }
    }
    return place;
}

static size_t chunk_end(struct slice text, size_t start)
{
    if (text.len - start <= EMBEDDING_CHUNK_BYTES)
        return text.len;
    return best_seam(text, start + EMBEDDING_CHUNK_BYTES * 2 / 3, start + EMBEDDING_CHUNK_BYTES);
}

struct embedding_cutter embedding_cutter_start(const struct conversation *c,
                                               enum embedding_source source)
{
    struct slice ignored;

    return (struct embedding_cutter){
        .conversation = c,
        .source = source,
        .whole_is_due = source == SOURCE_SUMMARY ||
                        (source == SOURCE_BOTH && summary_stands_for_it(c, &ignored))};
}

bool embedding_cutter_next(struct embedding_cutter *cutter, struct embedding_piece *ret)
{
    struct slice text = conversation_transcript(cutter->conversation);

    if (cutter->whole_is_due) {
        cutter->whole_is_due = false;
        cutter->given++;
        *ret = (struct embedding_piece){.text = embedding_text(cutter->conversation)};
        return true;
    }
    if (cutter->source == SOURCE_SUMMARY)
        return false;
    while (cutter->at < text.len && cutter->given < EMBEDDING_CHUNKS_MAX) {
        size_t start = cutter->at, end = chunk_end(text, start);
        struct slice chunk = {text.data + start, end - start};

        cutter->at = end == text.len ? end
                                     : best_seam(text, end - EMBEDDING_CHUNK_OVERLAP * 6 / 5,
                                                 end - EMBEDDING_CHUNK_OVERLAP * 4 / 5);
        if (letters_none(chunk) && (cutter->given > 0 || end < text.len))
            continue;
        cutter->given++;
        *ret = (struct embedding_piece){chunk, (uint32_t)start, (uint32_t)end};
        return true;
    }
    return false;
}

bool embedding_piece_halve(struct embedding_piece *piece, struct embedding_piece *ret_second)
{
    struct slice text = piece->text;
    size_t middle = best_seam(text, text.len / 3, text.len - text.len / 3);

    assert(text.len >= EMBEDDING_PIECE_MIN_BYTES);
    piece->text.len = middle;
    if (piece->byte_end == 0)
        return false;
    *ret_second = (struct embedding_piece){{text.data + middle, text.len - middle},
                                           piece->byte_start + (uint32_t)middle,
                                           piece->byte_end};
    piece->byte_end = ret_second->byte_start;
    return true;
}
