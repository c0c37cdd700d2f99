/* POST /v1/tuco: how much of what the model adds to its stream comes from what was changed. */
#include <stdio.h>
#include <string.h>

#include "against.h"
#include "core/text/codepoint.h"
#include "generation.h"
#include "handlers.h"
#include "input.h"
#include "place.h"
#include "probes/stats.h"
#include "probes/tuco.h"
#include "probes/tuco_control.h"
#include "probes/tuco_decode.h"
#include "server/clock.h"

struct tuco_work {
    struct look look;
    struct against against;
    bool sublayer;
    struct input *prompt;
    struct tuco_input *in;
    size_t n;
    struct tuco *tuco;
    struct decode_request *q; /* [n], where text is generated; else NULL */
    struct tuco_decode *decode; /* after the scores */
    const char *label[2]; /* of prompts, in the order they come; NULL: none */
    bool *first;          /* [n] is it the first label? */
    bool controlled;
    struct tuco_control_request ask;
    struct tuco_control *control; /* after the text */
};

static struct tuco_work *of(struct work *w) { return (struct tuco_work *)w; }

static void tuco_work_free(struct work *w)
{
    struct tuco_work *t = of(w);
    tuco_free(t->tuco);
    tuco_decode_free(t->decode);
    tuco_control_free(t->control);
    for (size_t i = 0; i < t->n; i++) input_release(&t->prompt[i]);
    against_release(&t->against);
    look_release(&t->look);
    mem_drop(w);
}

static void tell_progress(struct tuco_work *t)
{
    size_t done, total;
    tuco_progress(t->tuco, &done, &total);
    for (size_t i = 0; t->q && i < t->n; i++) total += decode_most(&look_model(&t->look)->arch, &t->q[i]);
    t->look.work.done = (int64_t)(done + (t->decode ? tuco_decode_tokens(t->decode) : 0));
    t->look.work.total = (int64_t)total;
}

static enum step generate_step(struct tuco_work *t, struct session *s, struct err *e)
{
    if (!t->decode) t->decode = tuco_decode_new(t->look.view.view, t->against.at.view, t->q, t->n, e);
    return t->decode ? tuco_decode_step(t->decode, s, e) : STEP_FAIL;
}

static enum step control_step(struct tuco_work *t, struct session *s, struct err *e)
{
    if (!t->control) t->control = tuco_control_new(&t->ask, e);
    return t->control ? tuco_control_step(t->control, s, e) : STEP_FAIL;
}

static enum step tuco_work_step(struct work *w, struct session *s, struct err *e)
{
    struct tuco_work *t = of(w);
    if (look_cached(&t->look)) return STEP_DONE;
    enum step step = t->decode || t->control ? STEP_DONE : tuco_step(t->tuco, s, e);
    if (step == STEP_DONE && t->q && !t->control) step = generate_step(t, s, e);
    if (step == STEP_DONE && t->controlled) step = control_step(t, s, e);
    tell_progress(t);
    return step;
}

static void put_norms(jout *o, const char *key, const struct tuco_norms *n)
{
    jout *one = jout_put_object(o, key);
    jout_f64(one, "ptc", n->ptc);
    jout_f64(one, "ftc", n->ftc);
}

static void put_layer(jout *o, uint32_t layer, const struct tuco_layer *n, bool sublayer)
{
    jout_int(o, "layer", layer);
    jout_f64(o, "ptc", n->ptc);
    jout_f64(o, "ftc", n->ftc);
    jout *sum = jout_put_object(o, "cumulative");
    jout_f64(sum, "ptc", n->sum.ptc);
    jout_f64(sum, "ftc", n->sum.ftc);
    jout_f64(sum, "beta", n->beta);
    if (!sublayer) return;
    put_norms(o, "attn", &n->attn);
    put_norms(o, "mlp", &n->mlp);
}

static bool put_generated(const struct tuco_work *t, jout *parent, size_t i, struct err *e)
{
    const struct decode_result *r = tuco_decode_result(t->decode, i);
    struct buf text = {0};
    jout *o = jout_put_object(parent, "generated");
    if (r->text.len) utf8_repair(r->text.data, r->text.len, &text);
    bool ok = buf_ok(&text, e);
    jout_string(o, "text", text.data ? text.data : "", text.len);
    jout_u32s(o, "ids", r->ids.id, r->ids.n);
    input_tokens(o, "tokens", look_model(&t->look), r->ids.id, r->ids.n);
    jout_f64s(o, "tuco", tuco_decode_scores(t->decode, i), r->ids.n);
    jout_text(o, "finish_reason", r->finish == FINISH_LENGTH ? "length" : "stop");
    buf_release(&text);
    return ok;
}

static void put_score(const struct tuco_work *t, jout *o, size_t i)
{
    const struct tuco_score *s = tuco_result(t->tuco, i);
    const struct model *m = look_model(&t->look);
    input_tokens(o, "tokens", m, t->prompt[i].ids, t->prompt[i].n);
    input_rendered(o, &t->prompt[i]);
    jout_f64(o, "tuco", s->tuco);
    jout_f64(o, "ptc", s->ptc);
    jout_f64(o, "ftc", s->ftc);
    jout_f64(o, "beta_max", s->beta_max);
    if (t->in[i].all_positions) jout_f64(o, "sequence_beta_max", s->sequence_beta_max);
    if (t->in[i].output_co) jout_f64(o, "output_co", s->output_co);
    jout *layers = jout_put_array(o, "by_layer");
    for (uint32_t l = 0; l < m->arch.n_layers; l++) put_layer(jout_put_object(layers, NULL), l, &s->layer[l], t->sublayer);
    if (s->position) jout_f64s(o, "by_position", s->position, s->n_positions);
    if (t->in[i].pos) jout_u32s(o, "positions", t->in[i].pos, t->in[i].n_pos);
}

static void put_control(const struct tuco_work *t, jout *parent, size_t i)
{
    static const char *const words[TUCO_CONTROLS] = {"random_delta", "random_tokens", "repeated_token"};
    jout *o = jout_put_object(parent, "control");
    for (int k = 0; k < TUCO_CONTROLS; k++) {
        struct tuco_spread s;
        if (!t->ask.draws[k]) continue;
        tuco_control_spread(t->control, (enum tuco_control_kind)k, i, tuco_result(t->tuco, i)->tuco, &s);
        jout *one = jout_put_object(o, words[k]);
        jout_int(one, "n", (int64_t)s.n);
        jout_f64(one, "mean", s.mean);
        jout_f64(one, "sd", s.sd);
        jout_f64(one, "percentile", s.percentile);
    }
}

static void put_checks(const struct tuco_work *t, jout *root)
{
    double worst = 0;
    for (size_t i = 0; i < t->n; i++)
        if (tuco_result(t->tuco, i)->check > worst) worst = tuco_result(t->tuco, i)->check;
    jout_f64(jout_put_object(root, "checks"), "identity", worst);
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "rows", t->look.work.done);
    jout_f64(cost, "seconds", (double)(monotonic_us() - t->look.work.started_us) / 1e6);
}

/* Does TuCo tell the first label's prompts from the second's? Each prompt is a cluster of its own. */
static bool put_auc(const struct tuco_work *t, jout *root, struct err *e)
{
    uint32_t *own = mem_take(t->n, sizeof *own, e);
    double *score = own ? mem_take(t->n, sizeof *score, e) : NULL;
    struct draws d = {0};
    struct estimate auc = {0};
    for (size_t i = 0; score && i < t->n; i++) own[i] = (uint32_t)i, score[i] = tuco_result(t->tuco, i)->tuco;
    bool ok = score && draws_make(&d, own, t->n, t->n, 0, e) && stats_auc_over(&d, score, t->first, 0.95, &auc, e);
    if (ok) {
        jout *o = jout_put_object(root, "auc");
        jout_text(o, "higher", t->label[0]);
        jout_text(o, "lower", t->label[1]);
        jout_f64(o, "value", auc.value);
        jout_f64(o, "low", auc.low);
        jout_f64(o, "high", auc.high);
        jout_int(o, "n", (int64_t)auc.n);
    }
    mem_drop(d.count);
    mem_drop(score);
    mem_drop(own);
    return ok;
}

static bool tuco_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct tuco_work *t = of(w);
    if (look_cached(&t->look)) return look_answer_cached(&t->look, o, e);
    jout *root = look_open(&t->look);
    answer_view(root, "against", &t->against.at);
    jout *scores = jout_put_array(root, "scores");
    bool ok = true;
    for (size_t i = 0; ok && i < t->n; i++) {
        jout *one = jout_put_object(scores, NULL);
        put_score(t, one, i);
        ok = !t->decode || put_generated(t, one, i, e);
        if (t->control) put_control(t, one, i);
    }
    ok = ok && (!t->first || put_auc(t, root, e));
    if (!ok) return jout_free(root), false;
    if (t->look.seed >= 0) jout_int(root, "seed", t->look.seed);
    put_checks(t, root);
    return look_close(&t->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "tuco", .unit = "rows", .brief = true,
    .step = tuco_work_step, .finish = tuco_work_finish, .free = tuco_work_free,
};

/* Which positions of a prompt are listed. */
static bool read_positions(struct tuco_work *t, const struct json *asked, struct tuco_input *in, struct err *e)
{
    struct places at;
    in->all_positions = json_is(asked, "all");
    if (asked->type == JSON_STRING) return true;
    if (!place_pos(asked, in->n, "positions", &t->look.arena, &at, e)) return false;
    in->pos = at.at;
    in->n_pos = at.n;
    return true;
}

static bool read_prompts(struct tuco_work *t, const struct json *q, struct err *e)
{
    struct look *l = &t->look;
    const struct json *prompts = json_get(q, "prompts");
    t->prompt = arena_take(&l->arena, prompts->len, sizeof *t->prompt, e);
    t->in = arena_take(&l->arena, prompts->len, sizeof *t->in, e);
    if (!t->prompt || !t->in) return false;
    for (const struct json *v = prompts->child; v; v = v->next) {
        struct tuco_input *in = &t->in[t->n];
        char field[64];
        (void)snprintf(field, sizeof field, "prompts[%zu]", t->n);
        if (!input_resolve(look_model(l), v, field, &t->prompt[t->n], e)) return false;
        *in = (struct tuco_input){.ids = t->prompt[t->n].ids, .n = (uint32_t)t->prompt[t->n].n,
                                  .output_co = json_flag(q, "output_co", false)};
        t->n++;
        if (!read_positions(t, json_get(q, "positions"), in, e)) return false;
    }
    t->sublayer = json_is(json_get(q, "detail"), "sublayer");
    return true;
}

static bool read_labels(struct tuco_work *t, const struct json *labels, struct err *e)
{
    size_t i = 0;
    if (!labels) return true;
    if (labels->len != t->n)
        return err_field(e, ERR_INVALID, "labels", "%zu labels of %zu prompts", labels->len, t->n);
    t->first = arena_take(&t->look.arena, t->n, sizeof *t->first, e);
    if (!t->first) return false;
    t->label[0] = labels->child->text;
    for (const struct json *v = labels->child; v; v = v->next) {
        t->first[i] = strcmp(v->text, t->label[0]) == 0;
        if (!t->first[i] && !t->label[1]) t->label[1] = v->text;
        if (!t->first[i] && strcmp(v->text, t->label[1]) != 0)
            return err_field(e, ERR_INVALID, "labels", "there are two labels at most, and \"%.64s\" is a third", v->text);
        i++;
    }
    return t->label[1] || err_field(e, ERR_INVALID, "labels", "all prompts have the same label");
}

static bool read_generation(struct tuco_work *t, const struct json *g, struct err *e)
{
    struct look *l = &t->look;
    struct decode_request common = {0};
    if (!g) return true;
    common.max_tokens = (uint32_t)json_get(g, "max_tokens")->integer;
    common.sampling = generation_sampling(g);
    l->seed = generation_seed(g, &common.sampling);
    common.seed = (uint64_t)l->seed;
    t->q = arena_take(&l->arena, t->n, sizeof *t->q, e);
    if (!t->q || !generation_stops(g, &l->arena, &common.stop, &common.n_stop, e)) return false;
    for (size_t i = 0; i < t->n; i++) {
        t->q[i] = common;
        t->q[i].prompt = t->in[i].ids;
        t->q[i].n_prompt = t->in[i].n;
    }
    return true;
}

static bool read_controls(struct tuco_work *t, const struct json *c, struct err *e)
{
    enum { MATCHED = 20 };
    struct look *l = &t->look;
    if (!c) return true;
    uint32_t delta = (uint32_t)json_get(c, "random_delta")->integer, matched = json_flag(c, "length_matched", false) ? MATCHED : 0;
    t->controlled = delta || matched;
    t->ask = (struct tuco_control_request){.view = l->view.view, .against = t->against.at.view, .in = t->in, .n = t->n,
                                           .draws = {delta, matched, matched}, .seed = (uint64_t)json_get(c, "seed")->integer};
    if (!delta) return true;
    if (t->against.other)
        return err_field(e, ERR_UNPROCESSABLE, "controls.random_delta", "the views are of two models; what differs is no list of deltas");
    return tuco_control_tensors(l->view.view, t->against.at.view) ||
           err_field(e, ERR_UNPROCESSABLE, "controls.random_delta", "no tensor of a layer differs between the views");
}

/* First the scores, then the text, then the controls. */
static void plan_all(const struct tuco_work *t, int threads, struct plan *out)
{
    const struct look *l = &t->look;
    struct plan text = {0};
    tuco_plan(l->view.view, t->against.at.view, t->in, t->n, threads, out);
    if (t->q) tuco_decode_plan(l->view.view, t->q, t->n, threads, &text);
    if (t->controlled) tuco_control_plan(&t->ask, threads, &text);
    if (t->first) plan_add(out, NEED_ANSWER, plan_times(t->n + 2, (STATS_DRAWS + 8) * sizeof(uint32_t)));
    plan_with(out, &text); /* what was generated is kept */
    for (size_t i = 0; t->q && i < t->n; i++) plan_add(out, NEED_ANSWER, (size_t)decode_most(&look_model(l)->arch, &t->q[i]) * 128);
}

static bool prepare(struct tuco_work *t, struct call *c, struct err *e)
{
    struct look *l = &t->look;
    if (!look_begin(l, c, &ops, e) || !against_read(&t->against, l, c, json_get(l->request, "against"), e) ||
        !read_prompts(t, l->request, e) || !read_generation(t, json_get(l->request, "generate"), e) ||
        !read_labels(t, json_get(l->request, "labels"), e) || !read_controls(t, json_get(l->request, "controls"), e) || !look_find(l, c, e))
        return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    plan_all(t, daemon_threads(c->daemon), &plan);
    if (!look_lease(l, &plan, e)) return false;
    t->tuco = tuco_new(l->view.view, t->against.at.view, t->in, t->n, e);
    return t->tuco != NULL;
}

struct work *api_tuco(struct call *c, struct err *e)
{
    struct tuco_work *t = mem_new(sizeof *t);
    if (prepare(t, c, e)) return &t->look.work;
    tuco_work_free(&t->look.work);
    return NULL;
}
