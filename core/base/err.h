/* An error is a value: a kind, the field or file at fault, and a sentence that grows as it rises.
 *
 * Every function that can fail takes `struct err *e` last and returns false (or NULL) after
 * setting it; on success it leaves *e alone. The setters return false so that a failure is one
 * line:
 *
 *     if (n > left) return err_set(e, ERR_CORRUPT, "string of %zu bytes, %zu left", n, left);
 *     if (!read_header(f, e)) return err_while(e, "reading %s", path);
 *
 * Ownership: a struct err is plain memory, owned by whoever declared it. Threads: none shared.
 * Long text is cut, never overflowed. `field` is "" where no request field is to blame; it is a
 * dotted path such as "facts[3].target_new".
 */
#ifndef ENGRAM_ERR_H
#define ENGRAM_ERR_H

#include <stdbool.h>
#include <stddef.h>

enum err_code {
#define ERR(name, word) ERR_##name,
#include "err.def"
#undef ERR
    ERR_COUNT
};

struct err {
    enum err_code code;
    char field[128];
    char text[640];
};

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

const char *err_word(enum err_code code);

/* Set the error. Always false. */
bool err_set(struct err *e, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Set the error and name the request field to blame. Always false. */
bool err_field(struct err *e, enum err_code code, const char *field, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* Append " (while <fmt>)" to the sentence. Always false. */
bool err_while(struct err *e, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
