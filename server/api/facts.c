#include "facts.h"

#include <stdio.h>
#include <string.h>

#include "core/text/codepoint.h"
#include "core/text/nfc.h"
#include "place.h"

struct reader {
    struct facts *f;
    const struct model *m;
    struct arena *a;
    bool append_eos;
};

static const struct input *resolve(struct reader *r, const struct json *v, const char *field, struct err *e)
{
    struct input *in = &r->f->inputs[r->f->n_inputs];
    if (!input_resolve(r->m, v, field, in, e)) return NULL;
    r->f->n_inputs++;
    return in;
}

static bool ends_in_space(const struct model *m, const struct input *in)
{
    size_t len;
    const char *piece = tokenizer_piece(m->tokenizer, in->ids[in->n - 1], &len);
    unsigned char last = len ? (unsigned char)piece[len - 1] : 0;
    return last == ' ' || (last >= '\t' && last <= '\r');
}

bool target_ids(const struct model *m, struct arena *a, const struct input *prompt, const struct json *text, const char *field,
                const uint32_t **out, uint32_t *n, struct err *e)
{
    struct ids ids = {0};
    uint32_t first;
    (void)cp_next(text->text, text->len, &first);
    bool space = !ends_in_space(m, prompt) && !is_white_space(first);
    struct buf b = {0};
    if (space) buf_text(&b, " ");
    buf_put(&b, text->text, text->len);
    bool ok = buf_ok(&b, e) && tokenizer_encode_behind(m->tokenizer, b.data, b.len, false, &ids, e);
    uint32_t *kept = ok ? arena_take(a, ids.n, sizeof *kept, e) : NULL;
    if (kept) {
        memcpy(kept, ids.id, ids.n * sizeof *kept);
        *out = kept;
        *n = (uint32_t)ids.n;
    }
    buf_release(&b);
    ids_release(&ids);
    if (!kept) return place_blame(e, field);
    if (*n == 0) return err_field(e, ERR_INVALID, field, "it has no tokens");
    if (prompt->n + *n + 1 > m->arch.context)
        return err_field(e, ERR_INVALID, field, "prompt and target are %zu tokens, the context is %u",
                         prompt->n + *n + 1, m->arch.context);
    return true;
}

static bool blank(const struct json *text)
{
    for (size_t at = 0; at < text->len;) {
        uint32_t cp;
        at += cp_next(text->text + at, text->len - at, &cp);
        if (!is_white_space(cp)) return false;
    }
    return true;
}

static bool read_prompt(struct reader *r, const struct json *v, const char *field, const struct json *target,
                        struct prompt *out, struct err *e)
{
    const struct input *in = resolve(r, v, field, e);
    if (!in) return false;
    *out = (struct prompt){.ids = in->ids, .n = (uint32_t)in->n};
    return !target || target_ids(r->m, r->a, in, target, field, &out->target, &out->n_target, e);
}

static bool read_prompts(struct reader *r, const struct json *list, const char *field, const char *member,
                         const struct json *target, const struct prompt **out, size_t *n, struct err *e)
{
    struct prompt *p = arena_take(r->a, list->len, sizeof *p, e);
    if (!p) return false;
    *out = p;
    for (const struct json *v = list->child; v; v = v->next) {
        char at[128];
        (void)snprintf(at, sizeof at, "%.90s[%zu]%s", field, *n, member);
        if (!read_prompt(r, *member ? json_get(v, member + 1) : v, at, target, &p[(*n)++], e)) return false;
    }
    return true;
}

/* Prompt, target and end token in one line of ids. */
static bool add_example(struct reader *r, const struct prompt *p, struct err *e)
{
    uint32_t eos, n = p->n + p->n_target;
    bool end = r->append_eos && tokenizer_eos(r->m->tokenizer, &eos);
    uint32_t *ids = arena_take(r->a, n + 1u, sizeof *ids, e);
    if (!ids) return false;
    memcpy(ids, p->ids, p->n * sizeof *ids);
    memcpy(ids + p->n, p->target, p->n_target * sizeof *ids);
    if (end) ids[n] = eos;
    r->f->example[r->f->n_examples++] = (struct example){ids, n + end, p->n};
    return true;
}

static bool subject_occurs(const struct json *subject, const struct input *prompt, const char *field, struct err *e)
{
    if (!subject || (prompt->text && strstr(prompt->text, subject->text))) return true;
    return err_field(e, ERR_INVALID, field, "the subject \"%.100s\" does not occur in the prompt", subject->text);
}

static bool read_fact(struct reader *r, const struct json *v, size_t k, struct err *e)
{
    struct facts *f = r->f;
    struct fact *fact = &f->fact[k];
    char field[64], at[128], number[16];
    (void)snprintf(field, sizeof field, "facts[%zu]", k);
    (void)snprintf(number, sizeof number, "%zu", k);
    const struct json *target = json_get(v, "target_new"), *was = json_get(v, "target_true"), *id = json_get(v, "id");
    f->id[k] = id ? id->text : arena_text(r->a, number, strlen(number), e);
    for (size_t i = 0; i < k; i++)
        if (strcmp(f->id[i], f->id[k]) == 0)
            return err_field(e, ERR_INVALID, place_field(at, field, "id"), "two facts have the id \"%.64s\"", f->id[k]);
    if (blank(target)) return err_field(e, ERR_INVALID, place_field(at, field, "target_new"), "the target is empty");
    size_t prompt_input = f->n_inputs;
    if (!read_prompt(r, json_get(v, "prompt"), place_field(at, field, "prompt"), target, &fact->prompt, e) ||
        !subject_occurs(json_get(v, "subject"), &f->inputs[prompt_input], place_field(at, field, "subject"), e))
        return false;
    f->prompt[k] = &f->inputs[prompt_input];
    fact->target_text = target->text;
    fact->target_len = target->len;
    if (was && (blank(was) ? !err_field(e, ERR_INVALID, place_field(at, field, "target_true"), "the target is empty")
                           : !target_ids(r->m, r->a, &f->inputs[prompt_input], was, place_field(at, field, "target_true"),
                                         &fact->true_ids, &fact->n_true, e)))
        return false;
    const struct prompt *train = NULL;
    size_t n_train = 0;
    if (!read_prompts(r, json_get(v, "train_prompts"), place_field(at, field, "train_prompts"), "", target,
                      &train, &n_train, e) ||
        !read_prompts(r, json_get(v, "paraphrases"), place_field(at, field, "paraphrases"), "", target,
                      &fact->paraphrase, &fact->n_paraphrase, e) ||
        !read_prompts(r, json_get(v, "locality"), place_field(at, field, "locality"), ".prompt", NULL,
                      &fact->locality, &fact->n_locality, e))
        return false;
    f->first_example[k] = f->n_examples;
    if (!add_example(r, &fact->prompt, e)) return false;
    for (size_t i = 0; i < n_train; i++)
        if (!add_example(r, &train[i], e)) return false;
    f->first_example[k + 1] = f->n_examples;
    return true;
}

bool facts_read(struct facts *f, const struct model *m, const struct json *list, bool append_eos,
                struct arena *a, struct err *e)
{
    struct reader r = {f, m, a, append_eos};
    size_t inputs = 0, examples = 0, k = 0;
    for (const struct json *v = list->child; v; v = v->next) {
        size_t train = json_get(v, "train_prompts")->len;
        examples += 1 + train;
        inputs += 1 + train + json_get(v, "paraphrases")->len + json_get(v, "locality")->len;
    }
    *f = (struct facts){.n = list->len};
    f->fact = arena_take(a, f->n, sizeof *f->fact, e);
    f->id = arena_take(a, f->n, sizeof *f->id, e);
    f->first_example = arena_take(a, f->n + 1, sizeof *f->first_example, e);
    f->example = arena_take(a, examples, sizeof *f->example, e);
    f->prompt = arena_take(a, f->n, sizeof *f->prompt, e);
    f->inputs = arena_take(a, inputs, sizeof *f->inputs, e);
    if (!f->fact || !f->id || !f->first_example || !f->example || !f->prompt || !f->inputs)
        return false;
    for (const struct json *v = list->child; v; v = v->next, k++)
        if (!read_fact(&r, v, k, e)) return false;
    return true;
}

void facts_release(struct facts *f)
{
    for (size_t i = 0; f->inputs && i < f->n_inputs; i++) input_release(&f->inputs[i]);
}
