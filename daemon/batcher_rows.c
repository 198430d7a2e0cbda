/* A batch's rows: taken from the backlog, sorted by key, given away with their verdict. Loop.
 *
 * Rows are sorted so that overlapping batches of several daemons cannot deadlock, and because
 * neighbours in the index are cheaper. Invariant: no key stands twice in a batch. */
#include "daemon/batcher_private.h"

#include <stdlib.h>

void batch_free(struct batch *batch)
{
    struct batcher *b = batch->batcher;
    struct conversation *c;

    TAILQ_REMOVE(&b->batches, batch, link);
    b->batch_count--;
    b->held_count -= batch->held;
    b->processing -= batch->later.count;
    b->processing_bytes -= batch->later.bytes;
    while ((c = conversation_list_pop(&batch->later)) != NULL)
        conversation_list_push_front(&b->backlog, c);
    embedding_set_done(&batch->texts);
    free(batch->write.rows);
    free(batch);
}

static struct batch *batch_new(struct batcher *b, size_t count)
{
    struct batch *batch = calloc(1, sizeof *batch);

    if (batch == NULL)
        return NULL;
    batch->batcher = b;
    batch->progress_seen = b->progress;
    batch->write.rows = calloc(count + 1, sizeof *batch->write.rows);
    TAILQ_INSERT_TAIL(&b->batches, batch, link);
    b->batch_count++;
    if (batch->write.rows != NULL)
        return batch;
    batch_free(batch);
    return NULL;
}

static int compare_rows(const void *left, const void *right)
{
    const struct conversation *a = ((const struct write_row *)left)->conversation;
    const struct conversation *b = ((const struct write_row *)right)->conversation;
    int order = conversation_compare(a, b);

    return order != 0 ? order : (a->seq > b->seq) - (a->seq < b->seq);
}

/* Sorts the rows; of those with the same key the first stays and the others wait until this batch
 * is done, so that the first to come is the row. */
static void sort_rows(struct batch *batch)
{
    struct write_row *rows = batch->write.rows;
    size_t kept = 0;

    qsort(rows, batch->write.count, sizeof rows[0], compare_rows);
    for (size_t i = 0; i < batch->write.count; i++) {
        struct conversation *c = rows[i].conversation;

        if (kept > 0 && conversation_compare(rows[kept - 1].conversation, c) == 0)
            conversation_list_push_front(&batch->later, c);
        else
            rows[kept++].conversation = c;
    }
    batch->write.count = kept;
}

static void fill_batch(struct batch *batch, size_t count)
{
    struct batcher *b = batch->batcher;

    for (size_t i = 0; i < count; i++)
        batch->write.rows[i].conversation = conversation_list_pop(&b->backlog);
    batch->write.count = count;
    sort_rows(batch);
    b->processing += count;
    b->processing_bytes += batch->later.bytes;
    for (size_t i = 0; i < batch->write.count; i++)
        b->processing_bytes += conversation_bytes(batch->write.rows[i].conversation);
}

struct batch *batch_cut(struct batcher *b, size_t count)
{
    struct batch *batch = batch_new(b, count);

    if (batch != NULL)
        fill_batch(batch, count);
    return batch;
}

void batch_settle(struct batch *batch)
{
    struct batcher *b = batch->batcher;
    struct write_row *rows = batch->write.rows;
    struct write_vector *all = batch->texts.vectors;
    size_t kept = 0, vectors = 0, v = 0;

    for (size_t i = 0; i < batch->write.count; i++) {
        struct conversation *c = rows[i].conversation;
        bool settled = rows[i].verdict != ROW_PENDING;
        bool has_vector = v < batch->write.vector_count && all[v].row == i;

        b->without_vector +=
            rows[i].verdict == ROW_STORED && !has_vector && b->config.writer.model.dimension > 0;
        for (; v < batch->write.vector_count && all[v].row == i; v++)
            if (!settled) {
                all[vectors] = all[v];
                all[vectors++].row = (uint32_t)kept;
            }
        if (!settled) {
            rows[kept++] = rows[i];
            continue;
        }
        b->processing--;
        b->processing_bytes -= conversation_bytes(c);
        b->callbacks.on_row(b->owner, c, rows[i].verdict);
    }
    batch->write.count = kept;
    batch->write.vector_count = vectors;
}
