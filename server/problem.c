#include "problem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "quote.h"

struct row {
    const char *type;
    int status;
    const char *title;
};

static const struct row problems[] = {
#define PROBLEM(name, type, status, title) {type, status, title},
#include "problem.def"
#undef PROBLEM
};
static_assert(sizeof problems / sizeof *problems == PROBLEM_COUNT, "one row per problem");

static const struct row faults[] = {
#define FAULT(code, status, title) [ERR_##code] = {NULL, status, title},
#include "problem.def"
#undef FAULT
};
static_assert(sizeof faults / sizeof *faults == ERR_COUNT, "one status per error kind");

enum {
    COUNT_FAULTS = 0
#define FAULT(code, status, title) +1
#include "problem.def"
#undef FAULT
};
static_assert((int)COUNT_FAULTS == (int)ERR_COUNT, "no error kind without a status");

bool problem_set(struct problem *p, enum problem_kind kind, const char *fmt, ...)
{
    assert((unsigned)kind < PROBLEM_COUNT);
    const struct row *r = &problems[kind];
    *p = (struct problem){.status = r->status, .type = r->type, .title = r->title};
    if (r->status == 503 || r->status == 429) p->retry_after_s = 1;
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(p->detail, sizeof p->detail, fmt, ap);
    va_end(ap);
    return false;
}

int problem_status(enum err_code code)
{
    assert((unsigned)code < ERR_COUNT);
    return faults[code].status;
}

/* Conflicts over a header are known by the field they blame. */
static bool over_header(struct problem *p, const struct err *e)
{
    static const struct { const char *field; enum problem_kind kind; } headers[] = {
        {"Idempotency-Key", PROBLEM_KEY_REUSED},
        {"If-Match", PROBLEM_PRECONDITION},
    };
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        if (e->code == ERR_CONFLICT && strcmp(e->field, headers[i].field) == 0) {
            (void)problem_set(p, headers[i].kind, "%s", e->text);
            return true;
        }
    return false;
}

bool problem_from(struct problem *p, const struct err *e)
{
    if (!over_header(p, e))
        *p = (struct problem){.status = problem_status(e->code), .type = err_word(e->code),
                              .title = faults[e->code].title,
                              .retry_after_s = e->code == ERR_NO_MEMORY}; /* others end and give theirs back */
    p->cause = e->code;
    (void)snprintf(p->detail, sizeof p->detail, "%s", e->text);
    (void)snprintf(p->field, sizeof p->field, "%s", e->field);
    return false;
}

void problem_write(const struct problem *p, struct buf *out)
{
    assert(p->status >= 400 && p->type);
    buf_text(out, "{\"type\":");
    quote(out, p->type);
    buf_text(out, ",\"title\":");
    quote(out, p->title);
    buf_printf(out, ",\"status\":%d,\"detail\":", p->status);
    quote(out, p->detail);
    if (p->field[0]) {
        buf_text(out, ",\"field\":");
        quote(out, p->field);
    }
    buf_text(out, "}");
}
