/* A daemon's result as a page for people: whatever map it is, so that what a newer daemon adds is
 * shown without a change here.
 *
 * Single values come first, name and value in two columns; a map becomes a section; a map of like
 * maps, and a list of maps, become a table. Names are the wire's own, to be found again with
 * --json. */
#include "client/convstorectl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CELL_SIZE 320
#define COLUMNS_MAX 16
#define INDENT_MAX 12 /* sections nested deeper are not moved further to the right */

const char *ctl_grouped(int64_t n, char buffer[32])
{
    char plain[24];
    int len = snprintf(plain, sizeof plain, "%" PRId64, n);
    int digits = len - (n < 0);
    char *out = buffer;

    for (int i = 0; i < len; i++) {
        int left = len - i;

        *out++ = plain[i];
        if (left > 1 && left <= digits && (left - 1) % 3 == 0)
            *out++ = ',';
    }
    *out = '\0';
    return buffer;
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

static void format_bytes(char *cell, size_t size, json_int_t n)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double value = (double)n / 1024;
    char grouped[32];
    size_t unit = 0;

    while (value >= 1024 && unit < 3) {
        value /= 1024;
        unit++;
    }
    if (n < 1024)
        snprintf(cell, size, "%s", ctl_grouped(n, grouped));
    else
        snprintf(cell, size, "%s (%.1f %s)", ctl_grouped(n, grouped), value, units[unit]);
}

/* Control characters of a foreign text must not reach the terminal. */
static void format_text(char *cell, size_t size, const char *text)
{
    size_t i = 0;

    for (; text[i] != '\0' && i + 1 < size; i++)
        cell[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? ' ' : text[i];
    cell[i] = '\0';
}

/* One value on one line. */
static void format_value(char *cell, size_t size, const char *key, json_t *value)
{
    char grouped[32];
    char *dump;

    switch (json_typeof(value)) {
    case JSON_NULL:
        snprintf(cell, size, "-");
        return;
    case JSON_TRUE:
    case JSON_FALSE:
        snprintf(cell, size, "%s", json_is_true(value) ? "yes" : "no");
        return;
    case JSON_INTEGER:
        if (ends_with(key, "bytes"))
            format_bytes(cell, size, json_integer_value(value));
        else
            snprintf(cell, size, "%s", ctl_grouped(json_integer_value(value), grouped));
        return;
    case JSON_REAL:
        snprintf(cell, size, "%.*f",
                 ends_with(key, "_s")     ? 0
                 : ends_with(key, "rate") ? 3
                                          : 2,
                 json_real_value(value));
        return;
    case JSON_STRING:
        format_text(cell, size, json_string_length(value) > 0 ? json_string_value(value) : "-");
        return;
    case JSON_ARRAY:
    case JSON_OBJECT:
        dump = json_dumps(value, JSON_COMPACT);
        format_text(cell, size, dump != NULL ? dump : "?");
        free(dump);
        return;
    }
}

/* Columns that a terminal shows: UTF-8's continuation bytes take none. */
static int width_of(const char *text)
{
    int width = 0;

    for (; *text != '\0'; text++)
        width += (*text & 0xc0) != 0x80;
    return width;
}

static void print_cell(const char *text, int width, bool to_the_right)
{
    int pad = width - width_of(text);

    printf("%*s%s%*s", to_the_right && pad > 0 ? pad : 0, "", text,
           !to_the_right && pad > 0 ? pad : 0, "");
}

static bool is_simple(json_t *value)
{
    const json_t *member;
    size_t i;

    if (json_is_object(value))
        return false;
    json_array_foreach(value, i, member)
    {
        if (json_is_object(member))
            return false;
    }
    return true;
}

/* ---- tables ---- */

struct table {
    json_t *rows; /* an object of objects, or an array of objects */
    const char *columns[COLUMNS_MAX];
    int widths[COLUMNS_MAX];
    size_t column_count;
    int name_width; /* of an object's row names */
};

/* Finds the columns; false where it is none: a row that is no map, or too many columns. */
static bool table_column(struct table *t, const char *key, json_t *value)
{
    char cell[CELL_SIZE];
    size_t i = 0;

    while (i < t->column_count && strcmp(t->columns[i], key) != 0)
        i++;
    if (i == COLUMNS_MAX)
        return false;
    if (i == t->column_count) {
        t->columns[t->column_count++] = key;
        t->widths[i] = width_of(key);
    }
    format_value(cell, sizeof cell, key, value);
    if (width_of(cell) > t->widths[i])
        t->widths[i] = width_of(cell);
    return true;
}

static bool table_row(struct table *t, const char *name, json_t *row)
{
    const char *key;
    json_t *value;

    if (!json_is_object(row))
        return false;
    if (name != NULL && width_of(name) > t->name_width)
        t->name_width = width_of(name);
    json_object_foreach(row, key, value)
    {
        if (!is_simple(value) || !table_column(t, key, value))
            return false;
    }
    return true;
}

static bool table_make(struct table *t, json_t *rows)
{
    const char *name;
    json_t *row;
    size_t i;

    *t = (struct table){.rows = rows};
    if (json_is_array(rows)) {
        json_array_foreach(rows, i, row)
        {
            if (!table_row(t, NULL, row))
                return false;
        }
        return json_array_size(rows) > 0;
    }
    json_object_foreach(rows, name, row)
    {
        if (!table_row(t, name, row))
            return false;
    }
    return json_object_size(rows) > 1;
}

static void print_row(const struct table *t, int indent, const char *name, json_t *row)
{
    char cell[CELL_SIZE];

    printf("%*s", indent, "");
    if (name != NULL)
        print_cell(name, t->name_width, false);
    for (size_t i = 0; i < t->column_count; i++) {
        json_t *value = row != NULL ? json_object_get(row, t->columns[i]) : NULL;
        bool last = i + 1 == t->column_count;
        bool text = value == NULL ? json_is_array(t->rows) : json_is_string(value);

        if (row == NULL) /* the heading */
            format_text(cell, sizeof cell, t->columns[i]);
        else if (value != NULL)
            format_value(cell, sizeof cell, t->columns[i], value);
        else
            strcpy(cell, "-");
        if (i > 0 || name != NULL)
            fputs("  ", stdout);
        print_cell(cell, text && last ? 0 : t->widths[i], !text);
    }
    putchar('\n');
}

static void print_table(const struct table *t, int indent)
{
    const char *name;
    json_t *row;
    size_t i;

    print_row(t, indent, json_is_object(t->rows) ? "" : NULL, NULL);
    if (json_is_array(t->rows)) {
        json_array_foreach(t->rows, i, row) print_row(t, indent, NULL, row);
        return;
    }
    json_object_foreach(t->rows, name, row) print_row(t, indent, name, row);
}

/* ---- maps ---- */

static void print_map(json_t *map, int indent);

/* A list that is no table: an element a line. */
static void print_list(json_t *list, int indent)
{
    char cell[CELL_SIZE];
    json_t *value;
    size_t i;

    json_array_foreach(list, i, value)
    {
        format_value(cell, sizeof cell, "", value);
        printf("%*s%s\n", indent, "", cell);
    }
}

static void print_section(const char *key, json_t *value, int indent)
{
    char title[CELL_SIZE];
    struct table table;

    format_text(title, sizeof title, key);
    printf("\n%*s%s\n", indent, "", title);
    indent = indent < INDENT_MAX ? indent + 2 : indent;
    if (table_make(&table, value)) {
        print_table(&table, indent);
    } else if (json_is_object(value)) {
        print_map(value, indent);
    } else {
        print_list(value, indent);
    }
}

static void print_map(json_t *map, int indent)
{
    char cell[CELL_SIZE];
    const char *key;
    json_t *value;
    int width = 0;

    json_object_foreach(map, key, value)
    {
        if (is_simple(value) && width_of(key) > width)
            width = width_of(key);
    }
    json_object_foreach(map, key, value)
    {
        if (!is_simple(value))
            continue;
        printf("%*s", indent, "");
        format_text(cell, sizeof cell, key);
        print_cell(cell, width, false);
        format_value(cell, sizeof cell, key, value);
        printf("  %s\n", json_is_array(value) && json_array_size(value) == 0 ? "none" : cell);
    }
    json_object_foreach(map, key, value)
    {
        if (!is_simple(value))
            print_section(key, value, indent);
    }
}

int ctl_print_result(const struct ctl *ctl, const char *json)
{
    json_t *result = ctl->json ? NULL : json_loads(json, JSON_DECODE_ANY, NULL);

    if (json_is_object(result))
        print_map(result, 0);
    else
        puts(json); /* as asked for, or what no page can be made of */
    json_decref(result);
    return CTL_OK;
}

void ctl_print_text(const char *title, const char *text)
{
    printf("\n%s:\n", title);
    for (; *text != '\0'; text++)
        putchar(((unsigned char)*text < 0x20 && *text != '\n' && *text != '\t') || *text == 0x7f
                    ? ' '
                    : *text);
    putchar('\n');
}
