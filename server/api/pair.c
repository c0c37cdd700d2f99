#include "pair.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "place.h"

static bool refuse_later(const struct json *q, struct err *e)
{
    static const char *const later[] = {"pairs", "metrics", "multi"};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (json_get(q, later[i]))
            return err_field(e, ERR_UNSUPPORTED, later[i], "\"%s\" is not served yet", later[i]);
    const struct json *multi = json_get(json_get(q, "metric"), "multi");
    if (multi && strcmp(multi->text, "first") != 0)
        return err_field(e, ERR_UNSUPPORTED, "metric.multi", "\"%s\" is not served yet", multi->text);
    return true;
}

/* One answer: an id, or a text scored by its first token as it continues the prompt. */
static bool one_token(struct look *l, const struct json *v, const char *field, uint32_t *id, struct err *e)
{
    const struct model *m = look_model(l);
    if (v->type == JSON_NUMBER) {
        if (v->integer < 0 || v->integer >= m->arch.d_vocab)
            return err_field(e, ERR_INVALID, field, "token %lld is outside 0..%u", (long long)v->integer,
                             m->arch.d_vocab - 1);
        *id = (uint32_t)v->integer;
        return true;
    }
    struct ids ids = {0};
    bool ok = tokenizer_encode(m->tokenizer, v->text, v->len, true, &ids, e);
    if (!ok || ids.n == 0) {
        ids_release(&ids);
        return ok ? err_field(e, ERR_INVALID, field, "it has no tokens") : place_blame(e, field);
    }
    *id = ids.id[0];
    if (ids.n > 1)
        look_warn(l, "first-token", "%s \"%.100s\" is %zu tokens; it is scored by the first, id %u", field,
                  v->text, ids.n, *id);
    ids_release(&ids);
    return true;
}

static bool token_list(struct look *l, const struct json *v, const char *field, const uint32_t **out,
                       size_t *n, struct err *e)
{
    if (!v) return err_field(e, ERR_INVALID, field, "this metric needs it");
    bool many = v->type == JSON_ARRAY;
    uint32_t *ids = arena_take(&l->arena, many ? v->len : 1, sizeof *ids, e);
    if (!ids) return false;
    *n = 0;
    for (const struct json *x = many ? v->child : v; x; x = many ? x->next : NULL) {
        if (!one_token(l, x, field, &ids[*n], e)) return false;
        for (size_t i = 0; i < *n; i++) /* summed over: each token once, or a probability passes 1 */
            if (ids[i] == ids[*n])
                return err_field(e, ERR_INVALID, field, "two of the list are the same token, id %u", ids[i]);
        ++*n;
    }
    *out = ids;
    return true;
}

static bool no_overlap(const struct metric *m, struct err *e)
{
    for (size_t i = 0; i < m->n_answer; i++)
        for (size_t k = 0; k < m->n_foil; k++)
            if (m->answer[i] == m->foil[k])
                return err_field(e, ERR_INVALID, "metric.foil", "answer and foil are the same token, id %u",
                                 m->foil[k]);
    return true;
}

static bool read_metric(struct pair *p, struct look *l, const struct json *v, struct err *e)
{
    struct metric *m = &p->metric;
    struct places pos;
    bool known = metric_parse(json_get(v, "kind")->text, &m->kind);
    assert(known);
    (void)known;
    if (metric_needs_answer(m->kind) &&
        !token_list(l, json_get(v, "answer"), "metric.answer", &m->answer, &m->n_answer, e))
        return false;
    if (metric_needs_foil(m->kind) &&
        !token_list(l, json_get(v, "foil"), "metric.foil", &m->foil, &m->n_foil, e))
        return false;
    if (!no_overlap(m, e) ||
        !place_pos(json_get(v, "pos"), (uint32_t)p->clean.n, "metric.pos", &l->arena, &pos, e))
        return false;
    if (pos.n != 1) return err_field(e, ERR_INVALID, "metric.pos", "the metric is read at one position, not %zu", pos.n);
    m->pos = pos.at[0];
    return true;
}

bool pair_read(struct pair *p, struct look *l, struct err *e)
{
    const struct json *q = l->request;
    if (!refuse_later(q, e) || !input_resolve(look_model(l), json_get(q, "clean"), "clean", &p->clean, e) ||
        !input_resolve(look_model(l), json_get(q, "corrupt"), "corrupt", &p->corrupt, e))
        return false;
    if (p->clean.n != p->corrupt.n)
        return err_field(e, ERR_INVALID, "corrupt", "clean has %zu tokens and corrupt %zu; they must be equal",
                         p->clean.n, p->corrupt.n);
    p->denoise = strcmp(json_get(q, "direction")->text, "denoise") == 0;
    return read_metric(p, l, json_get(q, "metric"), e);
}

void pair_release(struct pair *p)
{
    input_release(&p->clean);
    input_release(&p->corrupt);
}

struct patch_request pair_request(const struct pair *p, const struct look *l)
{
    return (struct patch_request){.view = l->view.view, .clean = p->clean.ids, .corrupt = p->corrupt.ids,
                                  .n = (uint32_t)p->clean.n, .denoise = p->denoise, .metric = p->metric};
}

static void echo_tokens(jout *o, const char *key, const struct model *m, const uint32_t *ids, size_t n,
                        bool list)
{
    if (!n) return;
    jout *all = list ? jout_put_array(o, key) : NULL;
    for (size_t i = 0; i < n; i++) {
        struct buf token = {0};
        jout *one = list ? jout_put_object(all, NULL) : jout_put_object(o, key);
        tokenizer_show(m->tokenizer, ids[i], &token);
        jout_int(one, "id", ids[i]);
        jout_text(one, "token", token.data ? token.data : "");
        buf_release(&token);
    }
}

/* Of prompts that are messages: what the chat template made of them, and which template. */
static void echo_rendered(const struct pair *p, jout *o)
{
    const struct input *in[] = {&p->clean, &p->corrupt};
    static const char *const keys[] = {"clean", "corrupt"};
    jout *texts = NULL;
    for (int i = 0; i < 2; i++) {
        if (!in[i]->template[0]) continue;
        if (!texts) {
            jout_text(o, "template", in[i]->template);
            texts = jout_put_object(o, "rendered");
        }
        jout_text(texts, keys[i], in[i]->text);
    }
}

void pair_echo(const struct pair *p, const struct look *l, const struct patch_grid *g, jout *o)
{
    const struct model *m = look_model(l);
    jout *baseline = jout_put_object(o, "baseline"), *tokens = jout_put_object(o, "tokens");
    jout_f64(baseline, "clean", g->clean);
    jout_f64(baseline, "corrupt", g->corrupt);
    input_tokens(tokens, "clean", m, p->clean.ids, p->clean.n);
    input_tokens(tokens, "corrupt", m, p->corrupt.ids, p->corrupt.n);
    echo_rendered(p, o);
    echo_tokens(o, "answer", m, p->metric.answer, p->metric.n_answer, p->metric.n_answer > 1);
    echo_tokens(o, "foil", m, p->metric.foil, p->metric.n_foil, p->metric.n_foil > 1);
}
