/* What is embedded of a conversation. Pure, any thread. */
#ifndef DAEMON_EMBEDDING_TEXT_H
#define DAEMON_EMBEDDING_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/conversation.h"
#include "proto/slice.h"

/* About 1,500 tokens of English and up to 2,000 of Chinese: inside the 2,048 of the smaller models,
 * which refuse what is longer. */
#define EMBEDDING_TEXT_MAX_BYTES 6000

/* Of a transcript that is cut into chunks: a chunk's most bytes, about how many it shares with the
 * one before, and how many chunks a conversation gets at most (over 7 MB of text). */
#define EMBEDDING_CHUNK_BYTES 2000
#define EMBEDDING_CHUNK_OVERLAP 250
#define EMBEDDING_CHUNKS_MAX 4096

/* A piece shorter than this is not halved: it is not its length that the model refuses. */
#define EMBEDDING_PIECE_MIN_BYTES 64

enum embedding_source {
    SOURCE_SUMMARY,    /* the summary, or the transcript's begin where there is none */
    SOURCE_TRANSCRIPT, /* the transcript in chunks */
    SOURCE_BOTH,       /* both of these */
};

/* The name as embedding.source has it; another is SOURCE_SUMMARY. */
enum embedding_source embedding_source_of(const char *name);

/* For SOURCE_SUMMARY: the summary, or the transcript where there is none (or one without a letter
 * or digit); in either case its first EMBEDDING_TEXT_MAX_BYTES bytes, cut between two characters.
 * Points into the conversation. */
struct slice embedding_text(const struct conversation *c);

/* The first max bytes of text at most, cut between two characters of its UTF-8. */
struct slice embedding_text_cut(struct slice text, size_t max);

/* White space only: servers refuse it, and there is nothing to find in it. */
bool embedding_text_is_blank(struct slice text);

/* One text of a conversation that gets a vector of its own. */
struct embedding_piece {
    struct slice text;             /* points into the conversation */
    uint32_t byte_start, byte_end; /* of the transcript; both 0: it stands for the whole */
};

/* Walks over a conversation's pieces: first the one that stands for the whole, then the chunks of
 * the transcript, as the source asks. Chunks begin and end between turns where they can, else
 * between lines, words or characters; one without a letter or digit is left out. At least one
 * piece comes. */
struct embedding_cutter {
    const struct conversation *conversation;
    enum embedding_source source;
    size_t at; /* where the next chunk begins */
    unsigned given;
    bool whole_is_due;
};
struct embedding_cutter embedding_cutter_start(const struct conversation *c,
                                               enum embedding_source source);
bool embedding_cutter_next(struct embedding_cutter *cutter, struct embedding_piece *ret);

/* Cuts a piece that is too long for the model: ret_second gets the second half of a chunk; what
 * stands for the whole just loses it (false). Its text has EMBEDDING_PIECE_MIN_BYTES at least. */
bool embedding_piece_halve(struct embedding_piece *piece, struct embedding_piece *ret_second);

#endif
