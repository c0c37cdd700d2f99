#include "err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const words[] = {
#define ERR(name, word) word,
#include "err.def"
#undef ERR
};
static_assert(sizeof words / sizeof *words == ERR_COUNT, "one word per error kind");

const char *err_word(enum err_code code)
{
    assert((unsigned)code < ERR_COUNT);
    return words[code];
}

/* Where a text of n bytes that may have been cut short ends, without a character that is there in part. */
static size_t whole_characters(const char *text, size_t n)
{
    size_t at = n, follow = 0;
    while (at > 0 && follow < 4 && ((unsigned char)text[at - 1] & 0xC0) == 0x80) at--, follow++;
    unsigned char lead = at > 0 ? (unsigned char)text[at - 1] : 0;
    size_t wants = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    return wants > follow ? at - 1 : n;
}

static void set_text(struct err *e, enum err_code code, const char *field, const char *fmt,
                     va_list ap)
{
    assert(code != ERR_NONE);
    e->code = code;
    (void)snprintf(e->field, sizeof e->field, "%s", field);
    (void)vsnprintf(e->text, sizeof e->text, fmt, ap);
    e->field[whole_characters(e->field, strlen(e->field))] = '\0';
    e->text[whole_characters(e->text, strlen(e->text))] = '\0';
}

bool err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_text(e, code, "", fmt, ap);
    va_end(ap);
    return false;
}

bool err_field(struct err *e, enum err_code code, const char *field, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    set_text(e, code, field, fmt, ap);
    va_end(ap);
    return false;
}

bool err_while(struct err *e, const char *fmt, ...)
{
    size_t n = strlen(e->text);
    if (n + sizeof " (while )" >= sizeof e->text) return false;
    n += (size_t)snprintf(e->text + n, sizeof e->text - n, " (while ");
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(e->text + n, sizeof e->text - n, fmt, ap);
    va_end(ap);
    n = n + (size_t)m + 2 < sizeof e->text ? n + (size_t)m : whole_characters(e->text, sizeof e->text - 2);
    e->text[n] = ')';
    e->text[n + 1] = '\0';
    return false;
}
