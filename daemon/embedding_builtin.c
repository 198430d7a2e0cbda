/* The builtin embedder: signed feature hashing of words, word pairs and character trigrams
 * (Weinberger et al. 2009). Owns nothing; any thread.
 *
 * The hard thing: the same text must give the same bits on every machine and in every release,
 * since vectors are stored and compared for years. So all sums are whole numbers, the only
 * floating point steps are one square root and one division for each component (both correctly
 * rounded by IEEE 754), and the constants below are part of the model's name, "hash-v1": to change
 * one is to make another model.
 *
 * Each component is the signed square root of its sum before normalising. That keeps "the", which
 * is in every text, from outweighing what a text is about, and it makes the squared norm the sum of
 * the absolute sums: a whole number again.
 *
 * A text without a feature (blank, or punctuation only; or sums that cancel to nothing) gets a
 * fixed unit vector: all such texts are equal to one another and far from the others, and no vector
 * is ever zero or not a number. */
#include "daemon/embedding_provider.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/letters.h"

#define SEED_WORD 0x9ae16a3b2f90404fu
#define SEED_PAIR 0xc949c7defbae3a85u
#define SEED_TRIGRAM 0xb492b66fbe98f273u
#define WORD_STEP 0x9e3779b97f4a7c15u
#define SMALL_SUMS 32
#define BOUNDARY 0x20u /* stands before and after a run of letters in its trigrams */

enum weight { WEIGHT_WORD = 3, WEIGHT_PAIR = 2, WEIGHT_TRIGRAM = 1 };

struct features {
    int32_t sums[BUILTIN_DIMENSION];
    uint64_t previous; /* hash of the word before, 0 at the start */
};

/* The finaliser of MurmurHash3: every bit of the result depends on every bit given. */
static inline uint64_t mix(uint64_t h)
{
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdu;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 33;
}

static inline void add(struct features *f, uint64_t feature, int32_t weight)
{
    uint64_t h = mix(feature);
    uint32_t bucket = (uint32_t)((h >> 32) * BUILTIN_DIMENSION >> 32);
    int32_t sign = (int32_t)(h & 1) * 2 - 1; /* bits that the bucket does not use */

    f->sums[bucket] += sign * weight;
}

static inline void add_word(struct features *f, uint64_t word)
{
    if (word == 0)
        return;
    add(f, word ^ SEED_WORD, WEIGHT_WORD);
    if (f->previous != 0)
        add(f, (f->previous * WORD_STEP + word) ^ SEED_PAIR, WEIGHT_PAIR);
    f->previous = word;
}

/* The letters up to the next separator: each is the middle of one trigram. */
static inline void add_run(struct features *f, struct slice text, size_t *at, uint32_t letter)
{
    uint64_t before = BOUNDARY, word = 0;

    while (letter != 0) {
        uint32_t next = *at < text.len ? letters_next(text, at) : 0;
        uint64_t after = next != 0 ? next : BOUNDARY;
        bool alone = letter >= 0x3000 && letters_is_ideograph(letter);

        if (alone) {
            add_word(f, word);
            word = 0;
        }
        word = (word + letter) * WORD_STEP;
        word ^= word >> 29;
        if (alone) {
            add_word(f, word);
            word = 0;
        }
        add(f, (before << 42 | (uint64_t)letter << 21 | after) ^ SEED_TRIGRAM, WEIGHT_TRIGRAM);
        before = letter;
        letter = next;
    }
    add_word(f, word);
}

static float magnitude(int64_t sum, int64_t total)
{
    return (float)sqrt((double)sum / (double)total);
}

/* Nearly all sums are small, and so have few magnitudes. */
static void normalise(const int32_t sums[], float ret[BUILTIN_DIMENSION])
{
    float small[2 * SMALL_SUMS + 1] = {0}; /* of -SMALL_SUMS to SMALL_SUMS */
    int64_t total = 0;

    for (size_t i = 0; i < BUILTIN_DIMENSION; i++)
        total += labs(sums[i]);
    if (total == 0) {
        memset(ret, 0, BUILTIN_DIMENSION * sizeof ret[0]);
        ret[0] = 1;
        return;
    }
    for (int i = 1; i <= SMALL_SUMS; i++) {
        small[SMALL_SUMS + i] = magnitude(i, total);
        small[SMALL_SUMS - i] = -small[SMALL_SUMS + i];
    }
    for (size_t i = 0; i < BUILTIN_DIMENSION; i++) {
        int64_t sum = sums[i];

        if (labs(sum) <= SMALL_SUMS)
            ret[i] = small[SMALL_SUMS + sum];
        else
            ret[i] = sum < 0 ? -magnitude(-sum, total) : magnitude(sum, total);
    }
}

void embedding_builtin(struct slice text, float ret[BUILTIN_DIMENSION])
{
    struct features f;
    size_t at = 0;

    memset(&f, 0, sizeof f);
    while (at < text.len)
        add_run(&f, text, &at, letters_next(text, &at));
    normalise(f.sums, ret);
}

static void builtin_run(struct embedder *e, struct embed_request *request)
{
    (void)e;
    assert(request->dimension == BUILTIN_DIMENSION);
    for (size_t i = 0; i < request->count; i++) {
        embedding_builtin(request->inputs[i].text, request->inputs[i].values);
        request->inputs[i].error = 0;
    }
    request->outcome = EMBED_DONE;
}

static void builtin_free(struct embedder *e)
{
    free(e);
}

struct embedder *embedder_new_builtin(const struct config *config)
{
    static const struct embedder_ops ops = {builtin_run, builtin_free};
    struct embedder *e = malloc(sizeof *e);

    (void)config;
    if (e != NULL)
        e->ops = &ops;
    return e;
}
