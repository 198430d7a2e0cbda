/* Rows a second through the writer, beside one client's binary COPY of rows of the same kind into
 * the same tables in the same run. One connection each, one after the other, in turns. Where the
 * server runs on this machine, also the CPU time that its backend takes for a row, which a busy
 * machine disturbs less.
 *
 *   bench_writer CONNINFO [ROWS]     the database's schema convstore is emptied
 */
#include <assert.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libpq-fe.h>

#include "daemon/pgwriter.h"

#define DIMENSION 768
#define TEXT_BYTES 2048
#define BATCH_MAX 500
#define ROUNDS 3

static struct write_row rows[BATCH_MAX];
static struct write_vector vectors[BATCH_MAX];
static float values[BATCH_MAX][DIMENSION];
static unsigned long long next_id;

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_writer: %s: %s\n", what, why);
    exit(1);
}

static PGresult *run(PGconn *conn, const char *sql)
{
    PGresult *result = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(result);

    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_COPY_IN)
        die(sql, PQresultErrorMessage(result));
    return result;
}

/* Words of a small vocabulary, which compress about as well as talk does. */
static void make_text(char text[TEXT_BYTES])
{
    static const char *const syllables[] = {"ta",  "ren", "so",  "mi", "kal", "dor", "vi", "lu",
                                            "pen", "ga",  "tor", "es", "an",  "qui", "bo", "ze"};
    size_t n = 0;

    while (n < TEXT_BYTES) {
        const char *s = syllables[random() % 16];

        for (; *s != '\0' && n < TEXT_BYTES; s++)
            text[n++] = *s;
        if (random() % 3 == 0 && n < TEXT_BYTES)
            text[n++] = ' ';
    }
}

/* Ids as version 7 makes them: neighbours in time are neighbours in the index of their user. */
static struct conversation *make_row(void)
{
    char text[TEXT_BYTES], user[32];
    uint8_t id[16] = {0};
    uint64_t n = htobe64(++next_id);
    struct conversation_fields fields = {
        .user_id = {user, (size_t)snprintf(user, sizeof user, "user-%ld", random() % 1000)},
        .platform = {"bench", 5},
        .transcript = {text, TEXT_BYTES},
        .metadata = {"{\"topic\": \"bench\"}", 18},
    };
    struct conversation *c;

    memcpy(id, &n, sizeof n);
    make_text(text);
    c = conversation_new(&fields, id, 1700000000000000 + (int64_t)next_id);
    if (c == NULL)
        die("memory", "short");
    return c;
}

static int by_key(const void *a, const void *b)
{
    return conversation_compare(((const struct write_row *)a)->conversation,
                                ((const struct write_row *)b)->conversation);
}

static void fill(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        conversation_free(rows[i].conversation);
        rows[i].conversation = make_row();
        vectors[i] = (struct write_vector){.row = (uint32_t)i, .values = values[i]};
        for (int k = 0; k < DIMENSION; k++)
            values[i][k] = (float)random() / 2147483648.0f - 0.5f;
    }
    qsort(rows, count, sizeof *rows, by_key);
}

/* Binary COPY */

static char *put(char *at, const void *data, size_t len)
{
    uint32_t big = htobe32((uint32_t)len);

    memcpy(at, &big, 4);
    memcpy(at + 4, data, len);
    return at + 4 + len;
}

static char *put_text(char *at, struct slice s)
{
    return put(at, s.data, s.len);
}

static char *put_count(char *at, uint16_t fields)
{
    uint16_t big = htobe16(fields);

    memcpy(at, &big, 2);
    return at + 2;
}

static char *put_conversation(char *at, const struct conversation *c)
{
    const struct packed_conversation *head = conversation_header(c);
    int64_t us = (int64_t)htobe64((uint64_t)(head->created_at_us - 946684800000000));
    char metadata[64];
    struct slice json = conversation_metadata(c);

    metadata[0] = 1;
    memcpy(metadata + 1, json.data, json.len);
    at = put_count(at, 7);
    at = put_text(at, conversation_user_id(c));
    at = put(at, head->id, 16);
    at = put(at, &us, 8);
    at = put(at, head->content_hash, 16);
    at = put_text(at, conversation_platform(c));
    at = put_text(at, conversation_transcript(c));
    return put(at, metadata, 1 + json.len);
}

static char *put_embedding(char *at, const struct conversation *c, const float *v)
{
    uint32_t zero = 0, vector[1 + DIMENSION] = {htobe32(DIMENSION << 16)};
    uint16_t model = htobe16(1);

    for (int i = 0; i < DIMENSION; i++) {
        memcpy(&vector[1 + i], &v[i], 4);
        vector[1 + i] = htobe32(vector[1 + i]);
    }
    at = put_count(at, 7);
    at = put_text(at, conversation_user_id(c));
    at = put(at, conversation_header(c)->id, 16);
    at = put(at, &model, 2);
    at = put(at, &zero, 4);
    at = put(at, &zero, 4);
    at = put(at, &zero, 4);
    return put(at, vector, sizeof vector);
}

static void copy_table(PGconn *conn, const char *sql, size_t count, bool embeddings)
{
    static char buffer[BATCH_MAX * 4096];
    static const char header[19] = "PGCOPY\n\377\r\n";
    char *at = buffer;
    PGresult *result;

    PQclear(run(conn, sql));
    memcpy(at, header, sizeof header);
    at += sizeof header;
    for (size_t i = 0; i < count; i++)
        at = embeddings ? put_embedding(at, rows[i].conversation, values[i])
                        : put_conversation(at, rows[i].conversation);
    at = put_count(at, UINT16_MAX);
    if (PQputCopyData(conn, buffer, (int)(at - buffer)) != 1 || PQputCopyEnd(conn, NULL) != 1)
        die("COPY", PQerrorMessage(conn));
    result = PQgetResult(conn);
    if (PQresultStatus(result) != PGRES_COMMAND_OK)
        die("COPY", PQresultErrorMessage(result));
    PQclear(result);
    PQclear(PQgetResult(conn));
}

static void copy_batch(PGconn *conn, size_t count)
{
    PQclear(run(conn, "BEGIN"));
    copy_table(conn,
               "COPY convstore.conversations (user_id, id, created_at, content_hash, platform,"
               " transcript, metadata) FROM STDIN BINARY",
               count, false);
    copy_table(conn,
               "COPY convstore.embeddings (user_id, conversation_id, model_id, chunk, byte_start,"
               " byte_end, embedding) FROM STDIN BINARY",
               count, true);
    PQclear(run(conn, "COMMIT"));
}

/* The writer */

static void write_batch(struct pgwriter *w, size_t count)
{
    struct write_batch batch = {
        .rows = rows, .count = count, .vectors = vectors, .vector_count = count};

    pgwriter_write(w, &batch);
    if (batch.outcome != WRITE_DONE)
        die("the writer", batch.error);
}

/* What a backend on this machine has used; 0 where it cannot be seen. */
static double cpu_s(long pid)
{
    char path[64], line[512] = "";
    unsigned long user = 0, kernel = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    file = fopen(path, "r");
    if (file == NULL)
        return 0;
    if (fgets(line, sizeof line, file) != NULL && strrchr(line, ')') != NULL)
        sscanf(strrchr(line, ')') + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
               &user, &kernel);
    fclose(file);
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

static long writer_pid(PGconn *conn)
{
    PGresult *result = run(conn, "SELECT pid FROM pg_stat_activity WHERE application_name ="
                                 " 'convstored' AND datname = current_database()");
    long pid = PQntuples(result) == 1 ? atol(PQgetvalue(result, 0, 0)) : 0;

    PQclear(result);
    return pid;
}

struct figures {
    double rows_per_s, cpu_us;
};

/* Over so many rows; making them is not counted. */
static struct figures measure(struct pgwriter *w, PGconn *conn, size_t total, size_t count)
{
    long pid = w != NULL ? writer_pid(conn) : PQbackendPID(conn);
    double spent = 0, cpu = cpu_s(pid);

    for (size_t done = 0; done < total; done += count) {
        double start;

        fill(count);
        start = now_s();
        if (w != NULL)
            write_batch(w, count);
        else
            copy_batch(conn, count);
        spent += now_s() - start;
    }
    return (struct figures){(double)total / spent, (cpu_s(pid) - cpu) * 1e6 / (double)total};
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {10, 100, 500};
    size_t total = argc > 2 ? strtoul(argv[2], NULL, 10) : 10000;
    struct pgwriter_config config = {
        .conninfo = argc > 1 ? argv[1] : "",
        .auto_migrate = true,
        .copy_rows = PGWRITER_COPY_ROWS,
        .model = {"bench", "random", DIMENSION, "", "transcript", "vector"},
    };
    struct pgwriter *w = pgwriter_new(&config);
    PGconn *conn = PQconnectdb(config.conninfo);

    if (w == NULL || PQstatus(conn) != CONNECTION_OK)
        die("connection", PQerrorMessage(conn));
    fill(1);
    write_batch(w, 1); /* the schema is there now */
    if (strcmp(pgwriter_found(w).storage, "vector") != 0)
        die("pgvector", "not there, and COPY of vectors needs it");
    PQclear(run(conn, "TRUNCATE convstore.conversations, convstore.embeddings"));
    printf("         writer           COPY      (%d rounds, %zu rows each)\n"
           "batch  rows/s  us CPU  rows/s  us CPU\n",
           ROUNDS, total);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int round = 0; round < ROUNDS; round++) {
            struct figures writer = measure(w, conn, total, sizes[s]);
            struct figures copy = measure(NULL, conn, total, sizes[s]);

            printf("%5zu  %6.0f  %6.1f  %6.0f  %6.1f\n", sizes[s], writer.rows_per_s, writer.cpu_us,
                   copy.rows_per_s, copy.cpu_us);
            fflush(stdout);
        }
    PQfinish(conn);
    pgwriter_free(w);
    for (size_t i = 0; i < BATCH_MAX; i++)
        conversation_free(rows[i].conversation);
    return 0;
}
