#include "gradients.h"

#include <stdio.h>
#include <string.h>

#include "metrics.h"

/* ---- metrics ------------------------------------------------------------------------------------- */

static bool differentiable(struct look *l, const struct json *v, const char *field, struct metric *m, struct err *e)
{
    char name[128];
    if (!metric_parse(json_get(v, "kind")->text, &m->kind) || !metric_has_gradient(m->kind))
        return err_field(e, ERR_INVALID, place_field(name, field, "kind"),
                         "%s is normalised by two other runs and has no gradient of its own; ask for logit_diff and divide",
                         json_get(v, "kind")->text);
    if (m->kind != METRIC_LOSS) return metric_read(l, v, field, v, field, m, e);
    return !json_get(v, "answer") || err_field(e, ERR_INVALID, place_field(name, field, "answer"),
                                               "loss is of the input's own next tokens; of another answer, ask for logprob");
}

static bool read_ref(struct gradient_reads *g, struct look *l, struct call *c, const struct named_input *input,
                     size_t n_named, struct asked_metric *m, const char *field, struct err *e)
{
    char where[128], name[128];
    const struct json *ref = json_get(m->json, "ref"), *id = json_get(ref, "input"), *view = json_get(ref, "view");
    place_field(where, field, "ref");
    if (m->metric.kind != METRIC_KL)
        return !ref || err_field(e, ERR_INVALID, where, "only kl compares with a reference");
    if (!id && !view)
        return err_field(e, ERR_INVALID, where, "kl compares with a reference: give the ref an input or a view");
    m->ref_pos = json_get(ref, "pos");
    if (id && !place_input(input, n_named, id, place_field(name, where, "input"), &m->ref_input, e)) return false;
    if (!view) return true;
    struct resolved *r = &g->view[g->n_views];
    if (!look_view(l, c, view->text, r, e)) return place_blame(e, place_field(name, where, "view"));
    g->n_views++;
    m->ref_view = r;
    return true;
}

static bool too_many(const char *field, struct err *e)
{
    return err_field(e, ERR_TOO_LARGE, field, "gradients of at most %d pairs of input and metric are served at once",
                     MOST_GRADIENTS);
}

/* The metric's number: that of an earlier member in the same words, or a new one. */
static bool find_metric(struct gradient_reads *g, struct look *l, struct call *c, const struct named_input *input,
                        size_t n_named, const struct json *v, const char *field, size_t *out, struct err *e)
{
    struct buf b = {0};
    json_write(v, &b);
    const char *text = buf_ok(&b, e) ? arena_text(&l->arena, b.data, b.len, e) : NULL;
    buf_release(&b);
    if (!text) return false;
    for (*out = 0; *out < g->n_metrics; ++*out)
        if (strcmp(g->metric[*out].text, text) == 0) return true;
    if (g->n_metrics == MOST_GRADIENTS) return too_many(field, e);
    struct asked_metric *m = &g->metric[g->n_metrics++];
    *m = (struct asked_metric){.text = text, .json = v, .ref_input = SIZE_MAX};
    return differentiable(l, v, field, &m->metric, e) && read_ref(g, l, c, input, n_named, m, field, e);
}

/* ---- requests ------------------------------------------------------------------------------------ */

static bool metric_pos(struct look *l, const struct asked_metric *m, uint32_t n, const char *field, struct places *out,
                       struct err *e)
{
    static const struct json last = {.type = JSON_NUMBER, .is_int = true, .integer = -1, .number = -1};
    char name[128];
    const struct json *pos = json_get(m->json, "pos");
    bool loss = m->metric.kind == METRIC_LOSS;
    place_field(name, field, "pos");
    if (loss && n < 2) return err_field(e, ERR_INVALID, name, "an input of one token has no next token to predict");
    if (!place_pos(pos ? pos : loss ? NULL : &last, n, name, &l->arena, out, e)) return false;
    if (loss && !pos) out->n--;
    return !loss || out->at[out->n - 1] < n - 1 ||
           err_field(e, ERR_INVALID, name, "nothing follows the last position, so it has no loss");
}

/* Where the reference is read: as many positions as the metric, the same ones where none are said. */
static bool reference_pos(struct look *l, const struct asked_metric *m, const struct named_input *input, size_t at,
                          const struct gradient_request *r, const char *field, struct places *out, struct err *e)
{
    char where[128], name[128];
    const uint32_t n = (uint32_t)input[at].in.n;
    place_field(name, place_field(where, field, "ref"), "pos");
    *out = (struct places){r->pos, r->n_pos};
    bool last = !m->ref_pos && !json_get(m->json, "pos"); /* each its own */
    static const struct json minus = {.type = JSON_NUMBER, .is_int = true, .integer = -1, .number = -1};
    if ((m->ref_pos || last) && !place_pos(last ? &minus : m->ref_pos, n, name, &l->arena, out, e)) return false;
    if (out->n != r->n_pos)
        return err_field(e, ERR_INVALID, name, "the reference is read at %zu positions, the metric at %zu", out->n, r->n_pos);
    return out->at[out->n - 1] < n ||
           err_field(e, ERR_INVALID, name, "position %u is outside the reference's %u tokens", out->at[out->n - 1], n);
}

bool gradient_group(struct gradient_reads *g, struct look *l, struct call *c, const struct named_input *input,
                    size_t n_named, size_t at, const struct json *grad_of, const char *member, size_t *group,
                    struct err *e)
{
    char field[128];
    size_t k;
    struct places pos;
    place_field(field, member, "grad_of");
    if (!find_metric(g, l, c, input, n_named, grad_of, field, &k, e)) return false;
    for (*group = 0; *group < g->n; ++*group)
        if (g->metric_of[*group] == k && g->request[*group].at[0].input == at) return true;
    if (g->n == MOST_GRADIENTS) return too_many(field, e);
    const struct asked_metric *m = &g->metric[k];
    struct gradient_request *r = &g->request[g->n];
    struct trace_place *first = arena_take(&l->arena, 1, sizeof *first, e); /* until all are packed */
    if (!first || !metric_pos(l, m, (uint32_t)input[at].in.n, field, &pos, e)) return false;
    first->input = (uint32_t)at;
    *r = (struct gradient_request){.view = l->view.view, .at = first, .metric = m->metric, .pos = pos.at, .n_pos = pos.n};
    g->metric_of[g->n++] = k;
    if (m->metric.kind != METRIC_KL) return true;
    r->reference.input = (uint32_t)(m->ref_input == SIZE_MAX ? at : m->ref_input);
    r->reference.view = m->ref_view ? m->ref_view->view : NULL;
    if (!reference_pos(l, m, input, r->reference.input, r, field, &pos, e)) return false;
    r->reference.pos = pos.at;
    return true;
}

bool gradient_pack(struct gradient_reads *g, struct look *l, const struct trace_input *in,
                   const struct trace_place *place, const size_t *group, size_t n, size_t *index, struct err *e)
{
    struct trace_place *packed = arena_take(&l->arena, n, sizeof *packed, e), *room[MOST_GRADIENTS];
    if (!packed) return false;
    for (size_t i = 0; i < n; i++) g->request[group[i]].n_at++;
    for (size_t k = 0; k < g->n; k++) {
        g->request[k].in = in;
        g->request[k].at = room[k] = packed;
        packed += g->request[k].n_at;
        g->request[k].n_at = 0;
    }
    for (size_t i = 0; i < n; i++) {
        index[i] = g->request[group[i]].n_at++;
        room[group[i]][index[i]] = place[i];
    }
    return true;
}

void gradients_plan(const struct gradient_reads *g, int threads, struct plan *p)
{
    struct plan kept = {0}, running = {0};
    for (size_t i = 0; i < g->n; i++) {
        struct plan one = {0};
        gradient_plan(&g->request[i], threads, &one, &kept);
        plan_peak(&running, &one); /* one after the other */
    }
    plan_with(p, &kept);
    plan_with(p, &running);
}

void gradient_release(struct gradient_reads *g)
{
    for (size_t i = 0; i < g->n_views; i++) resolved_release(&g->view[i]);
}

/* ---- the answer ---------------------------------------------------------------------------------- */

void gradient_echo(const struct gradient_reads *g, const struct look *l, const struct named_input *input,
                   size_t group, double value, jout *parent)
{
    const struct gradient_request *r = &g->request[group];
    jout *o = jout_put_object(parent, "grad_of");
    jout_text(o, "kind", metric_word(r->metric.kind));
    jout_f64(o, "value", value);
    jout_u32s(o, "pos", r->pos, r->n_pos);
    metric_echo(&r->metric, look_model(l), o);
    if (r->metric.kind != METRIC_KL) return;
    jout *ref = jout_put_object(o, "ref");
    jout_text(ref, "input", input[r->reference.input].id);
    jout_u32s(ref, "pos", r->reference.pos, r->n_pos);
    const struct resolved *view = g->metric[g->metric_of[group]].ref_view;
    answer_view(ref, "view", view ? view : &l->view);
}
