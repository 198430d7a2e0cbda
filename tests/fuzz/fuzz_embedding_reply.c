/* Any bytes as an embedding server's reply, in each dialect: no crash, and what is believed is
 * finite and not zero. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/embedding_reply.h"

#define INPUTS 3
#define DIMENSION 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int read_reply(struct slice body, struct embed_input *const inputs[], size_t count,
                       uint32_t dimension, char error[256]);

static void try_reader(read_reply *read, struct slice body)
{
    float values[INPUTS][DIMENSION];
    struct embed_input inputs[INPUTS], *pointers[INPUTS];
    char error[256];

    memset(values, 0, sizeof values);
    for (int i = 0; i < INPUTS; i++) {
        inputs[i] = (struct embed_input){.values = values[i]};
        pointers[i] = &inputs[i];
    }
    if (read(body, pointers, INPUTS, DIMENSION, error) != 0)
        return;
    for (int i = 0; i < INPUTS; i++) {
        double squares = 0;

        for (int k = 0; k < DIMENSION; k++)
            squares += (double)values[i][k] * (double)values[i][k];
        if (inputs[i].error == 0 && !(isfinite(squares) && squares > 0))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice body = {(const char *)data, size};
    char message[128];

    embedding_reply_message(body, message);
    if (embedding_reply_classify(500, body) == REPLY_VECTORS)
        abort();
    try_reader(embedding_reply_ollama, body);
    try_reader(embedding_reply_openai, body);
    return 0;
}
