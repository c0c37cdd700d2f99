#include "metrics.h"

#include <assert.h>
#include <string.h>

#include "place.h"

/* One answer: an id, or a text scored by its first token as it stands behind the prompt. */
bool metric_token(struct look *l, const struct json *v, const char *field, uint32_t *id, struct err *e)
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
    bool ok = tokenizer_encode_behind(m->tokenizer, v->text, v->len, true, &ids, e);
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
        if (!metric_token(l, x, field, &ids[*n], e)) return false;
        for (size_t i = 0; i < *n; i++) /* summed over: each token once, or a probability passes 1 */
            if (ids[i] == ids[*n])
                return err_field(e, ERR_INVALID, field, "two of the list are the same token, id %u", ids[i]);
        ++*n;
    }
    *out = ids;
    return true;
}

static bool no_overlap(const struct metric *m, const char *field, struct err *e)
{
    for (size_t i = 0; i < m->n_answer; i++)
        for (size_t k = 0; k < m->n_foil; k++)
            if (m->answer[i] == m->foil[k])
                return err_field(e, ERR_INVALID, field, "answer and foil are the same token, id %u",
                                 m->foil[k]);
    return true;
}

static bool direction(struct look *l, const struct json *v, const char *field, struct metric *m, struct err *e)
{
    const uint32_t d = look_model(l)->arch.d_model;
    if (!v) return err_field(e, ERR_INVALID, field, "this metric needs it");
    if (v->len != d) return err_field(e, ERR_INVALID, field, "it has %zu numbers; the stream has %u", (size_t)v->len, d);
    float *x = arena_take(&l->arena, d, sizeof *x, e), *at = x;
    for (const struct json *i = x ? v->child : NULL; i; i = i->next) *at++ = (float)i->number;
    m->direction = x;
    return x != NULL;
}

bool metric_read(struct look *l, const struct json *v, const char *field, const struct json *tokens,
                 const char *tokens_field, struct metric *m, struct err *e)
{
    char name[128];
    const struct json *multi = json_get(v, "multi");
    bool known = metric_parse(json_get(v, "kind")->text, &m->kind);
    assert(known);
    (void)known;
    if (multi && strcmp(multi->text, "first") != 0)
        return err_field(e, ERR_UNSUPPORTED, place_field(name, field, "multi"), "\"%s\" is not served yet", multi->text);
    if (metric_needs_answer(m->kind) &&
        !token_list(l, json_get(tokens, "answer"), place_field(name, tokens_field, "answer"), &m->answer, &m->n_answer, e))
        return false;
    if (metric_needs_foil(m->kind) &&
        !token_list(l, json_get(tokens, "foil"), place_field(name, tokens_field, "foil"), &m->foil, &m->n_foil, e))
        return false;
    if (m->kind == METRIC_PROJECTION && !direction(l, json_get(v, "direction"), place_field(name, field, "direction"), m, e))
        return false;
    return no_overlap(m, place_field(name, tokens_field, "foil"), e);
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

void metric_echo(const struct metric *m, const struct model *model, jout *o)
{
    echo_tokens(o, "answer", model, m->answer, m->n_answer, m->n_answer > 1);
    echo_tokens(o, "foil", model, m->foil, m->n_foil, m->n_foil > 1);
}
