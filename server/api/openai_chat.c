/* POST /v1/chat/completions: the assistant's next turn. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "openai.h"

/* ---- out --------------------------------------------------------------------------------------- */

static void put_logprobs(const struct openai *o, const struct openai_part *p, struct buf *out)
{
    buf_text(out, ",\"logprobs\":");
    if (o->logprobs) openai_put_chat_logprobs(o, p, out);
    else buf_text(out, "null");
}

static void put_whole(struct openai *o, const struct openai_part *p, struct buf *out)
{
    buf_text(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    openai_put_text(out, p->text, p->len);
    buf_text(out, ",\"refusal\":null}");
    put_logprobs(o, p, out);
    buf_printf(out, ",\"finish_reason\":\"%s\"", p->finish);
}

/* `delta`, logprobs where tokens are told, and at the end why. */
static void chunk(struct openai *o, const struct openai_part *p, const struct buf *delta, bool tokens, const char *finish)
{
    struct buf choice = {0};
    buf_printf(&choice, "{\"index\":%zu,\"delta\":{%s}", p->choice, delta->data ? delta->data : "");
    if (tokens) put_logprobs(o, p, &choice);
    else buf_text(&choice, ",\"logprobs\":null");
    if (finish) buf_printf(&choice, ",\"finish_reason\":\"%s\"}", finish);
    else buf_text(&choice, ",\"finish_reason\":null}");
    if (!choice.failed && !delta->failed) openai_chunk(o, choice.data, finish);
    buf_release(&choice);
}

static void tell(struct openai *o, const struct openai_part *p)
{
    struct buf delta = {0};
    if (p->first) {
        buf_text(&delta, "\"role\":\"assistant\",\"content\":\"\",\"refusal\":null");
        chunk(o, p, &delta, false, NULL);
        delta.len = 0;
    }
    if (p->len || (o->logprobs && p->to > p->from)) {
        buf_text(&delta, "\"content\":");
        openai_put_text(&delta, p->text, p->len);
        chunk(o, p, &delta, true, NULL);
    }
    buf_release(&delta);
    if (p->last) chunk(o, p, &delta, false, p->finish);
}

static const struct openai_form form = {
    .id = "chat", .object = "chat.completion", .chunk_object = "chat.completion.chunk", .put_whole = put_whole, .tell = tell,
};

static const struct work_ops ops = {
    .kind = "chat", .unit = "tokens", .brief = true,
    .step = openai_step, .finish = openai_finish, .free = openai_free,
};

/* ---- in ---------------------------------------------------------------------------------------- */

static const struct {
    const char *asked, *role; /* role NULL: not offered */
} roles[] = {{"developer", "system"}, {"tool", NULL}, {"function", NULL}};

static bool role_of(const struct json *message, size_t i, struct json *out, struct err *e)
{
    *out = *json_get(message, "role");
    for (size_t k = 0; k < sizeof roles / sizeof *roles; k++) {
        if (strcmp(out->text, roles[k].asked) != 0) continue;
        char field[48];
        (void)snprintf(field, sizeof field, "messages[%zu].role", i);
        if (!roles[k].role) return err_field(e, ERR_UNSUPPORTED, field, "turns of a %s are not offered", roles[k].asked);
        out->text = roles[k].role;
        out->len = strlen(out->text);
    }
    return true;
}

/* Members that would have to be shown to the model, and cannot be. */
static bool is_text_turn(const struct json *message, size_t i, struct err *e)
{
    static const char *const others[] = {"refusal", "audio", "tool_calls", "tool_call_id", "function_call"};
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
        const struct json *v = json_get(message, others[k]);
        if (!v || ((v->type == JSON_ARRAY || v->type == JSON_STRING) && v->len == 0)) continue;
        char field[64];
        (void)snprintf(field, sizeof field, "messages[%zu].%s", i, others[k]);
        return err_field(e, ERR_UNSUPPORTED, field, "only text is offered in a turn");
    }
    return true;
}

static bool join_parts(const struct json *parts, size_t i, struct buf *text, struct err *e)
{
    size_t k = 0;
    for (const struct json *v = parts->child; v; v = v->next, k++) {
        const struct json *type = json_get(v, "type"), *said = json_get(v, "text");
        char field[64];
        (void)snprintf(field, sizeof field, "messages[%zu].content[%zu].%s", i, k, said ? "type" : "text");
        if (strcmp(type->text, "text") != 0)
            return err_field(e, ERR_UNSUPPORTED, field, "a part of type \"%.40s\" is not offered; text is", type->text);
        if (!said) return err_field(e, ERR_INVALID, field, "required");
        buf_put(text, said->text, said->len);
    }
    return buf_ok(text, e);
}

static bool content_of(struct call *c, const struct json *message, size_t i, struct json *out, struct err *e)
{
    const struct json *content = json_get(message, "content");
    if (!content) {
        char field[48];
        (void)snprintf(field, sizeof field, "messages[%zu].content", i);
        return err_field(e, ERR_INVALID, field, "required");
    }
    *out = *content;
    if (content->type == JSON_STRING) return true;
    struct buf text = {0};
    bool ok = join_parts(content, i, &text, e);
    *out = (struct json){.type = JSON_STRING, .len = text.len};
    if (ok) out->text = arena_text(c->arena, text.data ? text.data : "", text.len, e);
    buf_release(&text);
    return ok && out->text;
}

/* The messages as an INPUT has them: {"messages":[{"role","content"}],"date"}. */
static bool read_messages(struct openai *o, struct call *c, const struct json *messages, struct err *e)
{
    struct json *turn = arena_take(c->arena, messages->len, sizeof *turn, e);
    struct json *member = turn ? arena_take(c->arena, 2 * messages->len, sizeof *member, e) : NULL;
    o->prompt = member ? arena_take(&o->arena, 1, sizeof *o->prompt, e) : NULL;
    if (!o->prompt) return false;
    size_t i = 0;
    for (const struct json *v = messages->child; v; v = v->next, i++) {
        struct json *role = &member[2 * i], *content = role + 1;
        if (!role_of(v, i, role, e) || !is_text_turn(v, i, e) || !content_of(c, v, i, content, e)) return false;
        role->key = "role", role->key_len = strlen(role->key), role->next = content;
        content->key = "content", content->key_len = strlen(content->key), content->next = NULL;
        turn[i] = (struct json){.type = JSON_OBJECT, .len = 2, .child = role, .next = v->next ? &turn[i + 1] : NULL};
    }
    struct json list = {.type = JSON_ARRAY, .len = i, .child = turn, .key = "messages", .key_len = strlen("messages")};
    struct json date = {.type = JSON_NULL};
    if (json_get(c->body, "date")) {
        date = *json_get(c->body, "date");
        date.next = NULL;
        list.next = &date;
    }
    const struct json in = {.type = JSON_OBJECT, .len = list.next ? 2 : 1, .child = &list};
    if (!input_resolve(openai_model(o), &in, "", &o->prompt[0], e)) return false;
    o->n_prompts = 1;
    return true;
}

/* max_completion_tokens is the newer name; without either an answer may fill the context. */
static bool read_limit(const struct json *q, uint32_t *limit, struct err *e)
{
    const struct json *old = json_get(q, "max_tokens"), *new = json_get(q, "max_completion_tokens");
    if (old && new && old->integer != new->integer)
        return err_field(e, ERR_INVALID, "max_tokens", "cannot stand beside \"max_completion_tokens\"");
    if (!new) new = old;
    *limit = new ? (uint32_t)new->integer : UINT32_MAX;
    return true;
}

static bool prepare(struct openai *o, struct call *c, struct err *e)
{
    const struct json *q = c->body, *top = json_get(q, "top_logprobs");
    uint32_t limit = 0;
    o->logprobs = json_get(q, "logprobs")->boolean;
    if (top && !o->logprobs) return err_field(e, ERR_INVALID, "top_logprobs", "only with logprobs");
    return read_limit(q, &limit, e) && read_messages(o, c, json_get(q, "messages"), e) &&
           openai_requests(o, q, limit, top ? (uint32_t)top->integer : 0, e);
}

struct work *api_chat(struct call *c, struct err *e)
{
    struct openai *o = openai_new(c, &ops, &form, e);
    if (!o || prepare(o, c, e)) return o ? &o->work : NULL;
    openai_free(&o->work);
    return NULL;
}
