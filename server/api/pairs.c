#include "pairs.h"

#include <stdio.h>
#include <string.h>

#include "groups.h"
#include "metrics.h"
#include "place.h"
#include "set_list.h"

/* ---- reading --------------------------------------------------------------------------------------- */

struct list { /* the members of "pairs" or "metrics", or the one thing in their place */
    const struct json *first;
    size_t n;
    bool many;
    const char *name;
};

static struct list list_of(const struct json *q, const char *many, const char *one)
{
    const struct json *list = json_get(q, many);
    if (list) return (struct list){list->child, list->len, true, many};
    return (struct list){*one ? json_get(q, one) : q, 1, false, one};
}

static bool is_pair(const struct json *row) { return json_get(row, "clean") != NULL; }

/* The rows of a set as a list of pairs. */
static bool list_of_set(struct look *l, struct call *c, struct list *out, struct err *e)
{
    static const struct set_need need = {.fits = is_pair, .missing = "no clean and corrupt", .most = 1024};
    const struct json *list;
    if (!set_list_read(l, c, &need, &list, e)) return false;
    if (list) *out = (struct list){list->child, list->len, true, "set"};
    return true;
}

/* ---- pairs ------------------------------------------------------------------------------------------ */

static const char *field_of(const struct list *l, size_t i, char out[64])
{
    if (l->many) (void)snprintf(out, 64, "%s[%zu]", l->name, i);
    else (void)snprintf(out, 64, "%s", l->name);
    return out;
}

static bool read_texts(struct pair *p, struct look *l, const struct json *v, const char *field, struct err *e)
{
    char name[128];
    const struct json *id = json_get(v, "id"), *alone = json_get(v, "input");
    p->id = id ? id->text : NULL;
    if (alone) return input_resolve(look_model(l), alone, "input", &p->clean, e);
    if (!input_resolve(look_model(l), json_get(v, "clean"), place_field(name, field, "clean"), &p->clean, e) ||
        !input_resolve(look_model(l), json_get(v, "corrupt"), place_field(name, field, "corrupt"), &p->corrupt, e))
        return false;
    return p->clean.n == p->corrupt.n ||
           err_field(e, ERR_INVALID, place_field(name, field, "corrupt"), "clean has %zu tokens and corrupt %zu; they must be equal",
                     p->clean.n, p->corrupt.n);
}

static bool read_pos(struct metric *m, struct look *l, const struct json *v, uint32_t n, const char *field, struct err *e)
{
    char name[128];
    struct places pos;
    place_field(name, field, "pos");
    if (!place_pos(json_get(v, "pos"), n, name, &l->arena, &pos, e)) return false;
    if (pos.n != 1) return err_field(e, ERR_INVALID, name, "the metric is read at one position, not %zu", pos.n);
    m->pos = pos.at[0];
    return true;
}

/* The metrics of one pair, whose own tokens stand in the place of a metric's. */
static bool read_metrics(struct pairs *p, size_t pair, struct look *l, const struct json *v, const char *field,
                         const struct list *metrics, struct err *e)
{
    char name[64];
    size_t i = 0;
    struct metric *m = p->metric + pair * p->n_metrics;
    bool own = json_get(v, "answer") || json_get(v, "foil");
    for (const struct json *x = metrics->first; i < metrics->n; x = x->next, i++) {
        field_of(metrics, i, name);
        if (!metric_read(l, x, name, own && field[0] ? v : x, own && field[0] ? field : name, &m[i], e) ||
            !read_pos(&m[i], l, x, (uint32_t)p->pair[pair].clean.n, name, e))
            return false;
        if (m[i].pos != m->pos)
            return err_field(e, ERR_INVALID, place_field((char[128]){0}, name, "pos"),
                             "metrics of one request are read at one position: %u here, %u before", m[i].pos, m->pos);
    }
    return true;
}

bool pairs_read(struct pairs *p, struct look *l, struct call *c, struct err *e)
{
    const struct json *q = l->request;
    struct list pairs = list_of(q, "pairs", ""), metrics = list_of(q, "metrics", "metric");
    char field[64];
    size_t i = 0;
    if (json_get(q, "multi")) return err_field(e, ERR_UNSUPPORTED, "multi", "\"multi\" is not served yet");
    if (!list_of_set(l, c, &pairs, e)) return false;
    *p = (struct pairs){.n_metrics = metrics.n, .listed = pairs.many || metrics.many,
                        .denoise = strcmp(json_get(q, "direction")->text, "denoise") == 0};
    p->pair = arena_take(&l->arena, pairs.n, sizeof *p->pair, e);
    p->metric = arena_take(&l->arena, pairs.n * metrics.n, sizeof *p->metric, e);
    p->asked = arena_take(&l->arena, pairs.n, sizeof *p->asked, e);
    p->group = arena_take(&l->arena, pairs.n, sizeof *p->group, e);
    if (!p->pair || !p->metric || !p->asked || !p->group) return false;
    for (const struct json *v = pairs.first; i < pairs.n; v = v->next, i++) {
        p->n = i + 1; /* for pairs_release */
        if (!read_texts(&p->pair[i], l, v, field_of(&pairs, i, field), e) || !read_metrics(p, i, l, v, field, &metrics, e))
            return false;
        p->asked[i] = (struct patch_pair){p->pair[i].clean.ids, p->pair[i].corrupt.ids, (uint32_t)p->pair[i].clean.n,
                                          p->metric + i * metrics.n};
    }
    return groups_read(pairs.first, pairs.n, l->set.id[0], p->group, &p->n_groups, e);
}

void pairs_release(struct pairs *p)
{
    for (size_t i = 0; i < p->n; i++) {
        input_release(&p->pair[i].clean);
        input_release(&p->pair[i].corrupt);
    }
}

void pairs_ask(const struct pairs *p, const struct look *l, struct patch_request *out)
{
    out->view = l->view.view;
    out->pair = p->asked;
    out->n_pairs = p->n;
    out->n_metrics = p->n_metrics;
    out->denoise = p->denoise;
}

/* ---- answering ------------------------------------------------------------------------------------- */

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

void pairs_echo(const struct pairs *p, size_t pair, size_t metric, const struct look *l, const struct patch_scores *s, jout *o)
{
    const struct model *m = look_model(l);
    const struct pair *of = &p->pair[pair];
    jout *baseline = jout_put_object(o, "baseline"), *tokens = jout_put_object(o, "tokens");
    jout_f64(baseline, "clean", s->clean);
    jout_f64(baseline, "corrupt", s->corrupt);
    input_tokens(tokens, "clean", m, of->clean.ids, of->clean.n);
    if (of->corrupt.n) input_tokens(tokens, "corrupt", m, of->corrupt.ids, of->corrupt.n);
    echo_rendered(of, o);
    metric_echo(&p->metric[pair * p->n_metrics + metric], m, o);
}
