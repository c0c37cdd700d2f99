/* POST /v1/completions: texts or token ids continued, or only scored. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "openai.h"

/* ---- out --------------------------------------------------------------------------------------- */

static void put_members(struct openai *o, const struct openai_part *p, struct buf *out)
{
    struct buf text = {0};
    const struct input *prompt = &o->prompt[p->choice / o->n];
    if (p->first && o->echo) buf_put(&text, prompt->text, prompt->text_len);
    buf_put(&text, p->text, p->len);
    out->failed |= text.failed;
    buf_text(out, "\"text\":");
    openai_put_text(out, text.data ? text.data : "", text.len);
    buf_text(out, ",\"logprobs\":");
    if (o->logprobs) openai_put_completion_logprobs(o, p, out);
    else buf_text(out, "null");
    if (p->finish) buf_printf(out, ",\"finish_reason\":\"%s\"", p->finish);
    else buf_text(out, ",\"finish_reason\":null");
    buf_release(&text);
}

static void tell(struct openai *o, const struct openai_part *p)
{
    struct buf choice = {0};
    buf_printf(&choice, "{\"index\":%zu,", p->choice);
    put_members(o, p, &choice);
    buf_text(&choice, "}");
    if (!choice.failed) openai_chunk(o, choice.data, p->last);
    buf_release(&choice);
}

static const struct openai_form form = {
    .id = "cmpl", .object = "text_completion", .chunk_object = "text_completion", .put_whole = put_members, .tell = tell,
};

static const struct work_ops ops = {
    .kind = "completion", .unit = "tokens", .brief = true,
    .step = openai_step, .finish = openai_finish, .free = openai_free,
};

/* ---- in ---------------------------------------------------------------------------------------- */

static bool read_one(struct openai *o, const struct json *prompt, const char *field, struct err *e)
{
    struct input *in = &o->prompt[o->n_prompts];
    const struct model *m = openai_model(o);
    if (!input_resolve(m, prompt, field, in, e)) return false;
    o->n_prompts++;
    if (in->text || !o->echo) return true;
    struct buf text = {0};
    tokenizer_decode(m->tokenizer, in->ids, in->n, true, &text);
    if (!buf_ok(&text, e)) return false;
    in->text_len = text.len;
    in->text = text.data ? buf_detach(&text) : mem_text("");
    return true;
}

/* A list is several prompts, unless its elements are token ids. */
static bool read_list(struct openai *o, const struct json *list, struct err *e)
{
    char field[32];
    if (list->len > OPENAI_PROMPTS)
        return err_field(e, ERR_INVALID, "prompt", "%zu prompts are more than %d", list->len, OPENAI_PROMPTS);
    o->prompt = arena_take(&o->arena, list->len, sizeof *o->prompt, e);
    if (!o->prompt) return false;
    for (const struct json *v = list->child; v; v = v->next) {
        (void)snprintf(field, sizeof field, "prompt[%zu]", o->n_prompts);
        if (v->type != list->child->type)
            return err_field(e, ERR_INVALID, field, "a list of prompts holds texts, or lists of token ids, not both");
        if (!read_one(o, v, field, e)) return false;
    }
    return true;
}

static bool read_ids_or_list(struct openai *o, const struct json *list, struct err *e)
{
    if (list->child->type != JSON_NUMBER) return read_list(o, list, e);
    size_t i = 0;
    for (const struct json *v = list->child; v; v = v->next, i++) {
        char field[32];
        (void)snprintf(field, sizeof field, "prompt[%zu]", i);
        if (v->type != JSON_NUMBER) return err_field(e, ERR_INVALID, field, "must be a token id, as the first element is");
    }
    o->prompt = arena_take(&o->arena, 1, sizeof *o->prompt, e);
    return o->prompt && read_one(o, list, "prompt", e);
}

static bool read_prompts(struct openai *o, const struct json *prompt, struct err *e)
{
    if (prompt->type == JSON_ARRAY) return read_ids_or_list(o, prompt, e);
    o->prompt = arena_take(&o->arena, 1, sizeof *o->prompt, e);
    return o->prompt && read_one(o, prompt, "prompt", e);
}

static bool prepare(struct openai *o, const struct json *q, struct err *e)
{
    const struct json *logprobs = json_get(q, "logprobs");
    uint32_t max_tokens = (uint32_t)json_get(q, "max_tokens")->integer;
    o->echo = json_get(q, "echo")->boolean;
    o->logprobs = logprobs != NULL;
    if (!max_tokens && !o->echo) return err_field(e, ERR_INVALID, "max_tokens", "0 only with echo");
    return read_prompts(o, json_get(q, "prompt"), e) &&
           openai_requests(o, q, max_tokens, logprobs ? (uint32_t)logprobs->integer : 0, e);
}

struct work *api_completions(struct call *c, struct err *e)
{
    struct openai *o = openai_new(c, &ops, &form, e);
    if (!o || prepare(o, c->body, e)) return o ? &o->work : NULL;
    openai_free(&o->work);
    return NULL;
}
