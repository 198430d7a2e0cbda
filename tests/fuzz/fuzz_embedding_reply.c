/* Any bytes as an embedding server's reply: no crash, and what is believed is finite and not zero.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "daemon/embedding_reply.h"

#define INPUTS 3
#define DIMENSION 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static float values[INPUTS][DIMENSION];
    struct embed_input inputs[INPUTS], *pointers[INPUTS];
    struct slice body = {(const char *)data, size};
    char error[256], message[128];

    for (int i = 0; i < INPUTS; i++) {
        inputs[i] = (struct embed_input){.values = values[i]};
        pointers[i] = &inputs[i];
    }
    embedding_reply_message(body, message);
    if (embedding_reply_classify(500, body) == REPLY_VECTORS)
        abort();
    if (embedding_reply_ollama(body, pointers, INPUTS, DIMENSION, error) != 0)
        return 0;
    for (int i = 0; i < INPUTS; i++) {
        double squares = 0;

        for (int k = 0; k < DIMENSION; k++)
            squares += (double)values[i][k] * (double)values[i][k];
        if (inputs[i].error == 0 && !(isfinite(squares) && squares > 0))
            abort();
    }
    return 0;
}
