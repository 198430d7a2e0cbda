/* UTF-8 as PostgreSQL takes it: well formed (RFC 3629: no overlong forms, no surrogates, nothing
 * above U+10FFFF) and without NUL. */
#ifndef PROTO_UTF8_H
#define PROTO_UTF8_H

#include <stddef.h>
#include <sys/types.h>

/* The offset of the first byte or sequence that breaks the rule, or -1 where all is well. */
ssize_t utf8_first_bad(const char *data, size_t len);

#endif
