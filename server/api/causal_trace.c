/* POST /v1/causal-trace: facts, one after the other, and what they say on the whole. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "metrics.h"
#include "place.h"
#include "probes/causal_stats.h"
#include "server/clock.h"
#include "subject.h"

struct causal_work {
    struct look look;
    struct input *prompt;
    const char **id;
    struct causal_fact *fact;
    size_t n;              /* prompts resolved: for input_release */
    double sd_embeddings;
    struct causal_request request;
    struct causal *causal;
    struct causal_stats *stats;
};

static struct causal_work *of(struct work *w) { return (struct causal_work *)w; }

static void causal_work_free(struct work *w)
{
    struct causal_work *t = of(w);
    causal_stats_free(t->stats);
    causal_free(t->causal);
    for (size_t i = 0; i < t->n; i++) input_release(&t->prompt[i]);
    look_release(&t->look);
    mem_drop(w);
}

static enum step causal_work_step(struct work *w, struct session *s, struct err *e)
{
    struct causal_work *t = of(w);
    size_t done, total;
    if (look_cached(&t->look)) return STEP_DONE;
    if (t->stats) return causal_stats_step(t->stats, e);
    enum step step = causal_step(t->causal, s, e);
    causal_progress(t->causal, &done, &total);
    work_progress(w, done, total);
    if (step != STEP_DONE) return step;
    t->stats = causal_stats_new(&t->request, t->causal, t->request.seed, e);
    return t->stats ? STEP_MORE : STEP_FAIL;
}

/* ---- the answer ---------------------------------------------------------------------------------- */

static void put_token(const struct causal_work *t, jout *o, const char *key, uint32_t id)
{
    struct buf token = {0};
    jout *one = jout_put_object(o, key);
    tokenizer_show(look_model(&t->look)->tokenizer, id, &token);
    jout_int(one, "id", id);
    jout_text(one, "token", token.data ? token.data : "");
    buf_release(&token);
}

static void put_result(struct causal_work *t, size_t i, jout *o)
{
    const struct causal_scores *s = causal_result(t->causal, i);
    const struct causal_fact *f = &t->fact[i];
    if (t->id[i]) jout_text(o, "fact", t->id[i]);
    else jout_int(o, "fact", (int64_t)i);
    input_tokens(o, "tokens", look_model(&t->look), f->ids, f->n);
    input_rendered(o, &t->prompt[i]);
    jout *subject = jout_put_object(o, "subject");
    jout_int(subject, "from", f->first);
    jout_int(subject, "to", f->end);
    put_token(t, o, "answer", s->answer);
    put_token(t, o, "said", s->said);
    jout_f64(o, "high", s->high);
    if (s->dropped) {
        jout_text(o, "dropped", "the clean run does not say the answer");
        return;
    }
    jout_f64(o, "low", s->low);
    jout_f64(o, "total_effect", s->high - s->low);
    jout *scores = jout_put_object(o, "scores");
    for (size_t k = 0; k < t->request.n_kinds; k++) {
        jout *layers = jout_put_array(scores, causal_words[t->request.kind[k]]);
        for (uint32_t l = 0; l < look_model(&t->look)->arch.n_layers; l++) jout_f64s(layers, NULL, s->score[k] + (size_t)l * f->n, f->n);
    }
}

static void put_estimate(jout *o, const char *key, const struct estimate *x)
{
    jout *one = jout_put_object(o, key);
    jout_f64(one, "mean", x->value);
    jout_f64(one, "low", x->low);
    jout_f64(one, "high", x->high);
}

static void put_role(const struct causal_work *t, size_t kind, enum causal_role r, jout *o)
{
    const struct estimate *first = causal_stats_effect(t->stats, kind, r, 0);
    if (first->n == 0) {
        jout_null(o, causal_role_words[r]);
        return;
    }
    jout *role = jout_put_object(o, causal_role_words[r]), *mean, *low, *high;
    jout_int(role, "n", (int64_t)first->n);
    mean = jout_put_array(role, "mean"), low = jout_put_array(role, "low"), high = jout_put_array(role, "high");
    for (uint32_t l = 0; l < look_model(&t->look)->arch.n_layers; l++) {
        const struct estimate *x = causal_stats_effect(t->stats, kind, r, l);
        jout_f64(mean, NULL, x->value);
        jout_f64(low, NULL, x->low);
        jout_f64(high, NULL, x->high);
    }
}

static void put_means(const struct causal_work *t, jout *root)
{
    static const char *const totals[CAUSAL_TOTALS] = {"high", "low", "total_effect"};
    jout *means = jout_put_object(root, "means"), *effect, *how;
    for (int i = 0; i < CAUSAL_TOTALS; i++) put_estimate(means, totals[i], causal_stats_total(t->stats, (enum causal_total)i));
    effect = jout_put_object(means, "indirect_effect");
    for (size_t k = 0; k < t->request.n_kinds; k++) {
        jout *kind = jout_put_object(effect, causal_words[t->request.kind[k]]);
        for (int r = 0; r < CAUSAL_ROLES; r++) put_role(t, k, (enum causal_role)r, kind);
    }
    how = jout_put_object(root, "intervals");
    jout_f64(how, "level", 0.95);
    jout_int(how, "draws", STATS_DRAWS);
    jout_int(how, "seed", t->look.seed);
}

static void put_setting(const struct causal_work *t, jout *root)
{
    jout *noise = jout_put_object(root, "noise"), *windows;
    jout_f64(noise, "sd", t->request.sd);
    jout_f64(noise, "embedding_sd", t->sd_embeddings);
    jout_int(noise, "samples", t->request.samples);
    jout_int(noise, "seed", t->look.seed);
    windows = jout_put_object(root, "windows");
    for (size_t k = 0; k < t->request.n_kinds; k++) {
        jout *layers = jout_put_array(windows, causal_words[t->request.kind[k]]);
        for (uint32_t l = 0, edge[2]; l < look_model(&t->look)->arch.n_layers; l++) {
            causal_window(t->request.kind[k], t->request.window, look_model(&t->look)->arch.n_layers, l, &edge[0], &edge[1]);
            jout_u32s(layers, NULL, edge, 2);
        }
    }
}

static void put_checks(const struct causal_work *t, jout *root)
{
    double restored, identity;
    const struct causal_cost cost = causal_cost(t->causal);
    causal_checks(t->causal, &restored, &identity);
    jout *o = jout_put_object(root, "checks");
    jout_f64(o, "restored", restored);
    jout_f64(o, "identity", identity);
    o = jout_put_object(root, "cost");
    jout_int(o, "cells", (int64_t)cost.cells);
    jout_int(o, "cells_run", (int64_t)cost.cells_run);
    jout_int(o, "rows", (int64_t)cost.rows);
    jout_f64(o, "flops", cost.flops);
    jout_f64(o, "seconds", (double)(monotonic_us() - t->look.work.started_us) / 1e6);
}

static bool causal_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct causal_work *t = of(w);
    size_t dropped = 0;
    if (look_cached(&t->look)) return look_answer_cached(&t->look, o, e);
    jout *root = look_open(&t->look);
    put_setting(t, root);
    jout *results = jout_put_array(root, "results");
    for (size_t i = 0; i < t->n; i++) {
        put_result(t, i, jout_put_object(results, NULL));
        dropped += causal_result(t->causal, i)->dropped;
    }
    jout_int(root, "traced", (int64_t)(t->n - dropped));
    jout_int(root, "dropped", (int64_t)dropped);
    put_means(t, root);
    put_checks(t, root);
    if (dropped) look_warn(&t->look, "facts-dropped", "%zu of %zu facts were dropped: the clean run does not say the answer", dropped, t->n);
    return look_close(&t->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "causal-trace", .unit = "facts",
    .step = causal_work_step, .finish = causal_work_finish, .free = causal_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static bool read_fact(struct causal_work *t, size_t i, const struct json *v, struct err *e)
{
    struct look *l = &t->look;
    char field[64], name[128];
    bool repeats;
    const struct json *subject = json_get(v, "subject"), *answer = json_get(v, "answer"), *id = json_get(v, "id");
    struct causal_fact *f = &t->fact[i];
    (void)snprintf(field, sizeof field, "facts[%zu]", i);
    if (!input_resolve(look_model(l), json_get(v, "prompt"), place_field(name, field, "prompt"), &t->prompt[i], e)) return false;
    t->n = i + 1;
    t->id[i] = id ? id->text : NULL;
    f->ids = t->prompt[i].ids;
    f->n = (uint32_t)t->prompt[i].n;
    place_field(name, field, "subject");
    if (!subject_find(look_model(l), &t->prompt[i], subject->text, subject->len, name, &f->first, &f->end, &repeats, e)) return false;
    if (repeats) look_warn(l, "subject-repeats", "%s occurs more than once; the first occurrence is taken", name);
    f->given = answer != NULL;
    return !answer || metric_token(l, answer, place_field(name, field, "answer"), &f->answer, e);
}

static bool read_facts(struct causal_work *t, struct err *e)
{
    struct look *l = &t->look;
    const struct json *facts = json_get(l->request, "facts");
    size_t i = 0;
    t->prompt = arena_take(&l->arena, facts->len, sizeof *t->prompt, e);
    t->fact = t->prompt ? arena_take(&l->arena, facts->len, sizeof *t->fact, e) : NULL;
    t->id = t->fact ? arena_take(&l->arena, facts->len, sizeof *t->id, e) : NULL;
    if (!t->id) return false;
    for (const struct json *v = facts->child; v; v = v->next, i++)
        if (!read_fact(t, i, v, e)) return false;
    return true;
}

static bool read_kinds(struct causal_work *t, struct err *e)
{
    struct causal_request *q = &t->request;
    for (const struct json *v = json_get(t->look.request, "kinds")->child; v; v = v->next) {
        enum causal_kind k = CAUSAL_STATE;
        while (strcmp(causal_words[k], v->text) != 0) k++;
        for (size_t i = 0; i < q->n_kinds; i++)
            if (q->kind[i] == k) return err_field(e, ERR_INVALID, "kinds", "\"%s\" is named twice", v->text);
        q->kind[q->n_kinds++] = k;
    }
    return true;
}

static bool read_noise(struct causal_work *t, struct err *e)
{
    const struct json *q = t->look.request, *noise = json_get(q, "noise"), *sd = json_get(q, "noise_sd");
    struct causal_request *r = &t->request;
    r->samples = (uint32_t)json_get(noise, "samples")->integer;
    r->seed = (uint64_t)json_get(noise, "seed")->integer;
    t->look.seed = json_get(noise, "seed")->integer;
    if (!causal_embedding_sd(t->look.view.view, t->fact, t->n, &t->sd_embeddings, e)) return false;
    r->sd = sd ? sd->number : json_get(noise, "sd_multiple")->number * t->sd_embeddings;
    return true;
}

/* All scores must fit an answer. */
static bool bounded(const struct causal_work *t, struct err *e)
{
    enum { MOST_VALUES = 8388608 };
    size_t values = 0;
    for (size_t i = 0; i < t->n; i++)
        values = plan_sum(values, plan_times(plan_times(t->request.n_kinds, look_model(&t->look)->arch.n_layers), t->fact[i].n));
    return values <= MOST_VALUES || err_field(e, ERR_TOO_LARGE, "facts", "%zu values would be answered, at most %d", values, MOST_VALUES);
}

static bool prepare(struct causal_work *t, struct call *c, struct err *e)
{
    struct look *l = &t->look;
    struct plan plan = {0};
    if (!look_begin(l, c, &ops, e) || !read_facts(t, e) || !read_kinds(t, e) || !read_noise(t, e)) return false;
    struct causal_request *q = &t->request;
    q->view = l->view.view;
    q->fact = t->fact;
    q->n_facts = t->n;
    q->window = (uint32_t)json_get(l->request, "window")->integer;
    q->expect = json_get(l->request, "expect_answer")->boolean;
    if (!bounded(t, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    causal_plan(q, daemon_threads(c->daemon), &plan);
    causal_stats_plan(q, &plan);
    t->causal = look_lease(l, &plan, e) ? causal_new(q, e) : NULL;
    return t->causal != NULL;
}

struct work *api_causal_trace(struct call *c, struct err *e)
{
    struct causal_work *t = mem_new(sizeof *t);
    if (prepare(t, c, e)) return &t->look.work;
    causal_work_free(&t->look.work);
    return NULL;
}
