/* What is embedded of a conversation. Pure, any thread. */
#ifndef DAEMON_EMBEDDING_TEXT_H
#define DAEMON_EMBEDDING_TEXT_H

#include "daemon/conversation.h"
#include "proto/slice.h"

/* About 1,500 tokens of English and up to 2,000 of Chinese: inside the 2,048 of the smaller models,
 * which refuse what is longer. */
#define EMBEDDING_TEXT_MAX_BYTES 6000

/* For embedding.source "summary": the summary, or the transcript where there is none (or one
 * without a letter or digit); in either case its first EMBEDDING_TEXT_MAX_BYTES bytes, cut between
 * two characters. Points into the conversation. */
struct slice embedding_text(const struct conversation *c);

/* The first max bytes of text at most, cut between two characters of its UTF-8. */
struct slice embedding_text_cut(struct slice text, size_t max);

#endif
