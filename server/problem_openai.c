#include "problem_openai.h"

#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "quote.h"

/* The first row that fits; what it leaves out fits anything, and keeps the problem's status. */
static const struct row {
    const char *problem;
    enum err_code cause;
    const char *field;
    int from, status;
    const char *type, *code;
} rows[] = {
    {.problem = "unauthorized", .type = "invalid_request_error", .code = "invalid_api_key"},
    {.problem = "forbidden", .type = "permission_error", .code = "insufficient_permissions"},
    {.problem = "not-found", .field = "model", .type = "invalid_request_error", .code = "model_not_found"},
    {.cause = ERR_TOO_LONG, .type = "invalid_request_error", .code = "context_length_exceeded"},
    {.problem = "unsupported", .status = 400, .type = "invalid_request_error", .code = "unsupported_parameter"},
    {.problem = "over-share", .type = "requests", .code = "rate_limit_exceeded"},
    {.from = 500, .type = "server_error"},
    {.type = "invalid_request_error"},
};

static bool fits(const struct row *r, const struct problem *p)
{
    return (!r->problem || strcmp(r->problem, p->type) == 0) && (!r->cause || r->cause == p->cause) &&
           (!r->field || strcmp(r->field, p->field) == 0) && p->status >= r->from;
}

static void put_text(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, ",\"%s\":", key);
    if (text && *text) quote(out, text);
    else buf_text(out, "null");
}

int problem_openai(const struct problem *p, struct buf *out)
{
    const struct row *r = rows;
    while (!fits(r, p)) r++;
    const char *sentence = p->detail[0] ? p->detail : p->title;
    struct buf message = {0};
    if (p->field[0]) buf_printf(&message, "%s: ", p->field); /* many clients show the message alone */
    buf_text(&message, sentence);
    buf_text(out, "{\"error\":{\"message\":");
    quote(out, message.failed ? sentence : message.data);
    buf_release(&message);
    put_text(out, "type", r->type);
    put_text(out, "param", p->field);
    put_text(out, "code", r->code);
    buf_text(out, "}}");
    return r->status ? r->status : p->status;
}

static void copy(const struct json *body, const char *key, char *out, size_t cap)
{
    const struct json *v = json_get(body, key);
    (void)snprintf(out, cap, "%s", v && v->type == JSON_STRING ? v->text : "");
}

int problem_openai_again(const char *body, size_t len, struct buf *out)
{
    struct arena a;
    struct err e = {0};
    arena_init(&a, 0);
    const struct json *said = json_parse(body, len, &a, &e);
    const struct json *status = json_get(said, "status"), *type = json_get(said, "type");
    struct problem p = {.status = status && status->is_int ? (int)status->integer : 500,
                        .type = type && type->type == JSON_STRING ? type->text : "internal",
                        .title = "Internal error"};
    copy(said, "detail", p.detail, sizeof p.detail);
    copy(said, "field", p.field, sizeof p.field);
    int answer = problem_openai(&p, out);
    arena_release(&a);
    return answer;
}
