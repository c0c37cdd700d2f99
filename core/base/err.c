#include "err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "json.h"

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

/* A text that may have been cut short, without a character that is there in part. */
static void cut_clean(char *text, size_t n) { text[n - utf8_open(text, n)] = '\0'; }

static void set_text(struct err *e, enum err_code code, const char *field, const char *fmt,
                     va_list ap)
{
    assert(code != ERR_NONE);
    e->code = code;
    (void)snprintf(e->field, sizeof e->field, "%s", field);
    (void)vsnprintf(e->text, sizeof e->text, fmt, ap);
    cut_clean(e->field, strlen(e->field));
    cut_clean(e->text, strlen(e->text));
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
    n += (size_t)m;
    const size_t most = sizeof e->text - sizeof ")";
    if (n >= most) n = most - utf8_open(e->text, most);
    e->text[n] = ')';
    e->text[n + 1] = '\0';
    return false;
}
