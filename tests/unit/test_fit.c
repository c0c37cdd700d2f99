/* Parameters in the stream and their fit: gradients, losses and what five updates end in against PyTorch and
 * transformers (tests/golden/make_fit.py), slopes at every hook a write may be at against differences, and what
 * LoFiT must satisfy whatever the model (planted heads, silent heads, the penalty alone, grouped queries). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "core/train.h"
#include "probes/fit.h"
#include "support/families.h"
#include "support/numbers.h"

enum { MOST = 16, FIRST = 3 };

/* ---- the question of the golden file ----------------------------------------------------------------- */

struct question {
    struct fit_example example[2];
    struct metric metric;
    uint32_t answer, foil, at[2][MOST];
    float *z[8];
    const float *source[8];
};

/* Both texts, their tokens from the fourth on to be predicted. */
static void ask(struct question *q, const struct golden *g)
{
    memset(q, 0, sizeof *q);
    for (size_t i = 0; i < 2; i++) {
        for (uint32_t k = 0; k < MOST; k++) q->at[i][k] = FIRST - 1 + k;
        q->example[i] = (struct fit_example){.ids = g->ids[i], .n = g->n[i], .scored = q->at[i], .target = g->ids[i] + FIRST,
                                             .n_scored = g->n[i] - FIRST};
    }
}

/* The second text, masked towards the first's z, by the difference of two logits at its end. */
static void ask_masked(struct question *q, const struct golden *g)
{
    const struct arch *a = &g->model->arch;
    struct tap tap[8];
    struct taps taps = {tap, a->n_layers};
    const uint32_t n = g->n[1];
    ask(q, g);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        q->source[l] = q->z[l] = floats((size_t)n * a->n_heads * a->d_head);
        tap[l] = (struct tap){.site = {HOOK_Z, l}, .op = TAP_READ, .every_pos = true, .dst = q->z[l]};
    }
    mem_drop(logits_at(g, g->view, g->ids[0], n, n - 1, &taps));
    q->answer = 5;
    q->foil = 9;
    q->metric = (struct metric){METRIC_LOGIT_DIFF, &q->answer, &q->foil, 1, 1, n - 1, NULL};
    q->at[1][0] = n - 1;
    q->example[0] = (struct fit_example){.ids = g->ids[1], .n = n, .scored = q->at[1], .n_scored = 1, .metric = &q->metric,
                                         .source = q->source, .n_source = n};
}

static void forget(struct question *q)
{
    for (size_t l = 0; l < 8; l++) mem_drop(q->z[l]);
}

static struct fit_request plain(const struct golden *g, struct stream_params *p, const struct question *q)
{
    return (struct fit_request){.view = g->view, .params = p, .example = q->example, .n = 2, .loss = FIT_CE, .task = 1, .lr = 0,
                                .epochs = 1, .batch = 8, .beta = 0.5};
}

static struct stream_params *params_at(const struct golden *g, enum hook h, enum stream_kind kind, enum stream_grain grain)
{
    struct err e = {0};
    struct stream_params *p = stream_params_new(&g->model->arch, h, kind, grain, NULL, 0, &e);
    must(p, e);
    return p;
}

/* Run it; the losses of its updates. */
static size_t fitted(const struct golden *g, const struct fit_request *q, double *losses, double *totals)
{
    struct err e = {0};
    struct fit *f = fit_new(q, &e);
    must(f, e);
    must(STEP_ALL(fit_step(f, g->session, &e)), e);
    size_t n, done, total;
    for (size_t i = 0; losses && i < fit_updates(q); i++) losses[i] = fit_losses(f, &n)[i];
    for (size_t i = 0; totals && i < fit_updates(q); i++) totals[i] = fit_totals(f, &n)[i];
    (void)fit_losses(f, &n);
    fit_progress(f, &done, &total);
    assert_int_equal(done, total);
    fit_free(f);
    return n;
}

static double loss_at(const struct golden *g, const struct fit_request *q)
{
    double loss = NAN;
    assert_int_equal(fitted(g, q, &loss, NULL), 1);
    return loss;
}

/* ---- against PyTorch --------------------------------------------------------------------------------- */

static void numbers_close(const char *what, const struct json *list, const double *got, size_t n, double tolerance)
{
    const struct json *x = list->child;
    double most = 0;
    for (const struct json *y = x; y; y = y->next) most = fmax(most, fabs(y->number));
    for (size_t i = 0; i < n; i++, x = x->next) {
        assert_non_null(x);
        if (!(fabs(got[i] - x->number) <= tolerance * fmax(most, 1e-3)))
            fail_msg("%s[%zu] is %.9g, %.9g expected", what, i, got[i], x->number);
    }
    assert_null(x);
}

static void start(struct stream_params *p)
{
    for (size_t i = 0; i < p->n; i++) {
        double wave = sin(1 + (double)i);
        p->theta[i] = (float)(p->kind == STREAM_MASK ? 0.5 + 0.3 * wave : 0.05 * wave);
    }
}

static void check_case(const struct golden *g, const struct json *all, const struct json *c)
{
    char what[96];
    bool mask = strcmp(c->key, "mask_metric") == 0, dpo = strstr(c->key, "dpo") != NULL, scale = strncmp(c->key, "scale", 5) == 0;
    struct question q;
    struct stream_params *p = params_at(g, HOOK_Z, mask ? STREAM_MASK : scale ? STREAM_SCALE : STREAM_OFFSET,
                                        mask ? STREAM_HEAD : STREAM_CHANNEL);
    mask ? ask_masked(&q, g) : ask(&q, g);
    struct fit_request r = plain(g, p, &q);
    if (dpo) r.loss = FIT_DPO;
    if (mask) r.loss = FIT_METRIC, r.n = 1, r.maximise = true;
    start(p);
    (void)loss_at(g, &r);
    (void)snprintf(what, sizeof what, "%s %s: gradient", g->name, c->key);
    numbers_close(what, json_get(c, "grad"), p->grad, p->n, 1e-4);
    double losses[8], totals[8], *theta = zero_doubles(p->n);
    r.lr = json_get(all, "lr")->number;
    r.l1 = json_get(all, "l1")->number;
    r.clip = json_get(all, "clip")->number;
    r.epochs = 5;
    assert_int_equal(fitted(g, &r, losses, totals), 5);
    (void)snprintf(what, sizeof what, "%s %s: loss", g->name, c->key);
    numbers_close(what, json_get(c, "losses"), losses, 5, 1e-4);
    numbers_close(what, json_get(c, "totals"), totals, 5, 1e-4);
    for (size_t i = 0; i < p->n; i++) theta[i] = (double)p->theta[i];
    (void)snprintf(what, sizeof what, "%s %s: theta", g->name, c->key);
    numbers_close(what, json_get(c, "theta"), theta, p->n, 2e-3);
    free(theta);
    stream_params_free(p);
    forget(&q);
}

static void test_five_updates_are_torchs(void **state)
{
    (void)state;
    const struct json *all = golden_json("tests/golden/fit.json", &golden_arena);
    size_t checked = 0;
    for (const struct json *f = json_get(all, "families")->child; f; f = f->next) {
        struct golden g;
        golden_open_family(&g, f->key, NULL);
        for (const struct json *c = f->child; c; c = c->next, checked++) check_case(&g, all, c);
        golden_close(&g);
    }
    assert_int_equal(checked, 30);
}

/* ---- against differences, at every hook --------------------------------------------------------------- */

/* Along the gradient and a random direction together: (L(θ + ε·u) − L(θ − ε·u)) / 2ε = g·u, of two ε, extrapolated. */
static void check_slope(struct golden *g, enum hook h, enum stream_kind kind)
{
    struct question q;
    struct stream_params *p = params_at(g, h, kind, STREAM_CHANNEL);
    uint64_t seed = 7 + (uint64_t)h;
    double norm = 0, want = 0, side[4], *u = zero_doubles(p->n);
    const double eps = 1e-2;
    ask(&q, g);
    struct fit_request r = plain(g, p, &q);
    float *theta = floats(p->n);
    for (size_t i = 0; i < p->n; i++) p->theta[i] = theta[i] = (float)(0.1 + uniform(&seed, 0.1));
    (void)loss_at(g, &r);
    for (size_t i = 0; i < p->n; i++) norm += p->grad[i] * p->grad[i];
    norm = sqrt(norm);
    for (size_t i = 0; i < p->n; i++) {
        u[i] = (p->grad[i] / (norm + 1e-30) + uniform(&seed, 1.7) / sqrt((double)p->n)) / sqrt(2);
        want += u[i] * p->grad[i];
    }
    for (int k = 0; k < 4; k++) {
        double to = (k & 1 ? eps : -eps) / (k < 2 ? 1 : 2);
        for (size_t i = 0; i < p->n; i++) p->theta[i] = (float)((double)theta[i] + to * u[i]);
        side[k] = loss_at(g, &r);
    }
    double wide = (side[1] - side[0]) / (2 * eps), narrow = (side[3] - side[2]) / eps, got = (4 * narrow - wide) / 3;
    if (!(fabs(got - want) <= 1e-3 * fmax(fabs(want), 0.2)))
        fail_msg("%s: at %s, kind %d, the slope is %.6g, differences say %.6g", g->model->path, hook_info(h)->spelling, kind, want, got);
    mem_drop(theta);
    free(u);
    stream_params_free(p);
}

static size_t hooks_checked;
static void check_slopes(struct golden *g)
{
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        if (hook_absent(&g->model->arch, (enum hook)h) || !block_back_through((enum hook)h)) continue;
        for (int kind = STREAM_SCALE; kind <= STREAM_MASK; kind++, hooks_checked++) check_slope(g, (enum hook)h, (enum stream_kind)kind);
    }
}
static void test_slopes_at_every_hook(void **state)
{
    (void)state;
    families_each(true, check_slopes);
    assert_true(hooks_checked > 4 * 3 * 10);
}

/* ---- what holds for any model ------------------------------------------------------------------------- */

static float *logits_with(const struct golden *g, struct stream_params *p, struct view *v)
{
    struct err e = {0};
    const struct stream_text text = {g->n[0], NULL, 0};
    struct stream_writes *w = stream_writes_new(p, &text, 1, false, &e);
    must(w, e);
    float *logits = logits_at(g, v, g->ids[0], g->n[0], g->n[0] - 1, stream_writes_taps(w));
    stream_writes_free(w);
    return logits;
}

static void check_neutral(struct golden *g)
{
    size_t V = g->model->arch.d_vocab;
    float *plainly = logits_at(g, g->view, g->ids[0], g->n[0], g->n[0] - 1, NULL);
    for (int kind = STREAM_SCALE; kind <= STREAM_MASK; kind++) {
        struct stream_params *p = params_at(g, HOOK_Z, (enum stream_kind)kind, STREAM_CHANNEL);
        float *zero = logits_with(g, p, g->view);
        for (size_t i = 0; i < V; i++) assert_true(zero[i] == plainly[i]);
        p->theta[0] = 0.5f; /* and not because nothing is written */
        float *moved = logits_with(g, p, g->view);
        assert_true(farthest(moved, plainly, V) > 0);
        mem_drop(zero);
        mem_drop(moved);
        stream_params_free(p);
    }
    mem_drop(plainly);
}
static void test_zero_is_neutral(void **state)
{
    (void)state;
    families_each(true, check_neutral);
}

/* One token: dA = z·dv. Its tape is the fit's, by hand, with z read in the forward pass. */
static void test_one_token(void **state)
{
    (void)state;
    struct golden g;
    golden_open_family(&g, "llama", NULL);
    const struct arch *a = &g.model->arch;
    uint32_t at = 0;
    struct fit_example one = {.ids = g.ids[0], .n = 1, .scored = &at, .target = g.ids[0] + 1, .n_scored = 1};
    struct stream_params *p[2] = {params_at(&g, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL), params_at(&g, HOOK_Z, STREAM_OFFSET, STREAM_CHANNEL)};
    for (int k = 0; k < 2; k++) {
        struct fit_request r = {.view = g.view, .params = p[k], .example = &one, .n = 1, .task = 1, .epochs = 1, .batch = 1};
        (void)loss_at(&g, &r);
    }
    size_t n = (size_t)a->n_heads * a->d_head;
    float *z = floats(n * a->n_layers);
    struct tap tap[8];
    struct taps taps = {tap, a->n_layers};
    for (uint32_t l = 0; l < a->n_layers; l++) tap[l] = (struct tap){.site = {HOOK_Z, l}, .every_pos = true, .dst = z + l * n};
    mem_drop(logits_at(&g, g.view, g.ids[0], 1, 0, &taps));
    for (size_t i = 0; i < p[0]->n; i++) {
        double want = (double)z[i] * p[1]->grad[i];
        assert_true(fabs(p[0]->grad[i] - want) <= 1e-6 * fabs(want) + 1e-12);
        assert_true(p[1]->grad[i] != 0);
    }
    mem_drop(z);
    stream_params_free(p[0]);
    stream_params_free(p[1]);
    golden_close(&g);
}

/* The view whose output projections hear only the heads kept[layer·H + head]. */
static struct view *deafened(const struct golden *g, const bool *kept)
{
    const struct arch *a = &g->model->arch;
    struct view *v = view_retain(g->view);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        size_t t, width = (size_t)a->n_heads * a->d_head;
        assert_true(model_role(g->model, ROLE_O, l, &t));
        float *change = floats(g->model->tensors[t].n_elements);
        const float *w = held_floats(g->view, t);
        for (size_t i = 0; i < g->model->tensors[t].n_elements; i++)
            change[i] = kept[l * a->n_heads + i % width / a->d_head] ? 0 : -w[i];
        struct view *next = view_plus(g, v, t, change);
        view_drop(v);
        mem_drop(change);
        v = next;
    }
    return v;
}

static void test_unheard_head(void **state)
{
    (void)state;
    struct golden g;
    struct question q;
    golden_open_family(&g, "llama", NULL);
    bool kept[64];
    for (size_t i = 0; i < 64; i++) kept[i] = i != 1;
    struct view *v = deafened(&g, kept);
    struct stream_params *p = params_at(&g, HOOK_Z, STREAM_OFFSET, STREAM_CHANNEL);
    float *before = logits_with(&g, p, v);
    for (uint32_t i = 0; i < p->each; i++) p->theta[p->each + i] = 100.0f + (float)i;
    float *after = logits_with(&g, p, v);
    assert_memory_equal(before, after, g.model->arch.d_vocab * sizeof *after);
    ask(&q, &g);
    struct fit_request r = plain(&g, p, &q);
    r.view = v;
    (void)loss_at(&g, &r);
    for (uint32_t i = 0; i < p->each; i++) assert_true(p->grad[p->each + i] == 0 && p->grad[i] != 0);
    mem_drop(before);
    mem_drop(after);
    stream_params_free(p);
    view_drop(v);
    golden_close(&g);
}

static void test_planted_head(void **state)
{
    (void)state;
    struct golden g;
    struct question q;
    golden_open_family(&g, "llama", NULL);
    bool kept[64] = {[5] = true};
    struct view *v = deafened(&g, kept);
    for (int penalised = 0; penalised < 2; penalised++) {
        struct stream_params *p = params_at(&g, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL);
        ask(&q, &g);
        struct fit_request r = plain(&g, p, &q);
        r.view = v;
        r.lr = 5e-3;
        r.clip = 1;
        r.batch = 1;
        r.epochs = 100;
        r.l1 = penalised ? 1e-4 : 0;
        stream_params_draw(p, 1e-3, 42);
        float *initial = floats(p->n);
        double norm[64];
        memcpy(initial, p->theta, p->n * sizeof *initial);
        for (size_t u = 0; u < p->n_units; u++) norm[u] = stream_unit_norm(p, u);
        assert_int_equal(fitted(&g, &r, NULL, NULL), 200);
        for (size_t u = 0; u < p->n_units; u++) {
            bool same = memcmp(initial + u * p->each, p->theta + u * p->each, p->each * sizeof *initial) == 0;
            if (u == 5) assert_false(same);
            else if (!penalised) assert_true(same);
            else assert_true(stream_unit_norm(p, u) < norm[u] && stream_unit_norm(p, u) < stream_unit_norm(p, 5));
        }
        mem_drop(initial);
        stream_params_free(p);
    }
    view_drop(v);
    golden_close(&g);
}

static void test_penalty_alone(void **state)
{
    (void)state;
    struct golden g;
    struct question q;
    golden_open_family(&g, "llama", NULL);
    struct stream_params *p = params_at(&g, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL);
    ask(&q, &g);
    struct fit_request r = plain(&g, p, &q);
    r.task = 0;
    r.l1 = 1e-3;
    r.lr = 0.25;
    r.clip = 1;
    r.descent = true;
    stream_params_draw(p, 1e-2, 1);
    p->theta[3] = 0;
    float *before = floats(p->n);
    memcpy(before, p->theta, p->n * sizeof *before);
    (void)loss_at(&g, &r);
    for (size_t i = 0; i < p->n; i++) {
        double sign = (before[i] > 0) - (before[i] < 0);
        assert_true(p->theta[i] == (float)((double)before[i] - 0.25 * (double)(float)(1e-3 * sign)));
    }
    assert_true(p->theta[3] == 0);
    mem_drop(before);
    stream_params_free(p);
    golden_close(&g);
}

/* At step 0 the loss is ln 2 and its slope −β/2 that of the difference of log-probabilities. */
static void test_preference_at_the_start(void **state)
{
    (void)state;
    struct golden g;
    struct question q;
    golden_open_family(&g, "gemma2", NULL);
    struct stream_params *p = params_at(&g, HOOK_Z, STREAM_OFFSET, STREAM_CHANNEL);
    double *slope = zero_doubles(p->n);
    ask(&q, &g);
    stream_params_draw(p, 1e-3, 3);
    struct fit_request r = plain(&g, p, &q);
    for (size_t i = 0; i < 2; i++) { /* cross-entropy is minus the mean */
        r.example = &q.example[i];
        r.n = 1;
        (void)loss_at(&g, &r);
        for (size_t k = 0; k < p->n; k++) slope[k] += (i ? 1.0 : -1.0) * p->grad[k] * (double)q.example[i].n_scored;
    }
    r = plain(&g, p, &q);
    r.loss = FIT_DPO;
    double most = 0;
    assert_true(fabs(loss_at(&g, &r) - 0.69314718) <= 1e-6);
    for (size_t k = 0; k < p->n; k++) most = fmax(most, fabs(p->grad[k]));
    for (size_t k = 0; k < p->n; k++) assert_true(fabs(p->grad[k] + 0.25 * slope[k]) <= 1e-5 * most);
    assert_true(most > 0);
    free(slope);
    stream_params_free(p);
    golden_close(&g);
}

static void test_weights_stay(void **state)
{
    (void)state;
    struct golden g;
    struct question q;
    golden_open_family(&g, "llama", NULL);
    size_t V = g.model->arch.d_vocab, bytes = 0, at = 0;
    for (size_t t = 0; t < g.model->n_tensors; t++) bytes += g.model->tensors[t].n_elements * sizeof(float);
    char *held = mem_new(bytes);
    for (size_t t = 0; t < g.model->n_tensors; at += g.model->tensors[t++].n_elements * sizeof(float))
        memcpy(held + at, held_floats(g.view, t), g.model->tensors[t].n_elements * sizeof(float));
    float *before = logits_at(&g, g.view, g.ids[0], g.n[0], g.n[0] - 1, NULL);
    struct stream_params *p = params_at(&g, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL);
    ask(&q, &g);
    struct fit_request r = plain(&g, p, &q);
    r.lr = 0.1;
    r.epochs = 3;
    (void)fitted(&g, &r, NULL, NULL);
    float *after = logits_at(&g, g.view, g.ids[0], g.n[0], g.n[0] - 1, NULL), *with = logits_with(&g, p, g.view);
    assert_memory_equal(before, after, V * sizeof *after);
    assert_true(farthest(before, with, V) > 1e-3);
    at = 0;
    for (size_t t = 0; t < g.model->n_tensors; at += g.model->tensors[t++].n_elements * sizeof(float))
        assert_memory_equal(held + at, held_floats(g.view, t), g.model->tensors[t].n_elements * sizeof(float));
    mem_drop(held);
    mem_drop(before);
    mem_drop(after);
    mem_drop(with);
    stream_params_free(p);
    golden_close(&g);
}

/* With fewer key heads than query heads an offset goes by the query head: it enters through its columns alone. */
static void test_grouped_queries(void **state)
{
    (void)state;
    struct golden g;
    struct err e = {0};
    golden_open_family(&g, "llama", NULL);
    const struct arch *a = &g.model->arch;
    assert_true(a->n_kv_heads < a->n_heads);
    const struct stream_unit unit = {1, 2};
    struct stream_params *p = stream_params_new(a, HOOK_Z, STREAM_OFFSET, STREAM_CHANNEL, &unit, 1, &e);
    must(p, e);
    uint64_t seed = 4;
    for (uint32_t i = 0; i < p->each; i++) p->theta[i] = (float)uniform(&seed, 1);
    float *out[2] = {floats(a->d_model), floats(a->d_model)};
    const struct stream_text text = {g.n[0], NULL, 0};
    struct stream_writes *w = stream_writes_new(p, &text, 1, false, &e);
    must(w, e);
    uint32_t last = g.n[0] - 1;
    for (int k = 0; k < 2; k++) {
        struct tap tap[2] = {{.site = {HOOK_ATTN_OUT, 1}, .pos = &last, .n_pos = 1, .dst = out[k]}};
        if (k) tap[1] = stream_writes_taps(w)->tap[0];
        struct taps taps = {tap, k ? 2 : 1};
        mem_drop(logits_at(&g, g.view, g.ids[0], g.n[0], last, &taps));
    }
    size_t t, width = (size_t)a->n_heads * a->d_head;
    assert_true(model_role(g.model, ROLE_O, 1, &t));
    const float *o = held_floats(g.view, t);
    for (size_t i = 0; i < a->d_model; i++) {
        double want = 0;
        for (size_t k = 0; k < a->d_head; k++) want += (double)o[i * width + 2 * a->d_head + k] * (double)p->theta[k];
        assert_true(fabs((double)out[1][i] - (double)out[0][i] - want) <= 1e-5);
    }
    stream_writes_free(w);
    mem_drop(out[0]);
    mem_drop(out[1]);
    stream_params_free(p);
    golden_close(&g);
}

/* ---- how it is cut up ---------------------------------------------------------------------------------- */

/* A batch of many passes is one of a few with each example as often; and the same again, to the bit. */
static void test_passes_add_up(void **state)
{
    (void)state;
    enum { TIMES = 40 };
    struct golden g;
    struct question q;
    golden_open_family(&g, "gpt2", NULL);
    ask(&q, &g);
    struct fit_example many[2 * TIMES];
    for (size_t i = 0; i < 2 * TIMES; i++) many[i] = q.example[i % 2];
    struct stream_params *p[3];
    double loss[3];
    for (int k = 0; k < 3; k++) {
        p[k] = params_at(&g, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL);
        struct fit_request r = plain(&g, p[k], &q);
        if (k) r.example = many, r.n = 2 * TIMES, r.batch = 2 * TIMES, r.seed = 9;
        loss[k] = loss_at(&g, &r);
    }
    assert_true(fabs(loss[0] - loss[1]) <= 1e-6 * loss[0]);
    for (size_t i = 0; i < p[0]->n; i++) assert_true(fabs(p[0]->grad[i] - p[1]->grad[i]) <= 1e-6);
    assert_true(loss[1] == loss[2]);
    assert_memory_equal(p[1]->grad, p[2]->grad, p[1]->n * sizeof *p[1]->grad);
    for (int k = 0; k < 3; k++) stream_params_free(p[k]);
    golden_close(&g);
}

/* Where only upper layers have units, the lower are run once: the same gradients. */
static void check_lowest(struct golden *g)
{
    struct err e = {0};
    struct question q;
    const struct arch *a = &g->model->arch;
    struct stream_unit top[16];
    for (uint32_t h = 0; h < a->n_heads; h++) top[h] = (struct stream_unit){a->n_layers - 1, h};
    struct stream_params *all = params_at(g, HOOK_Z, STREAM_OFFSET, STREAM_CHANNEL),
                         *some = stream_params_new(a, HOOK_Z, STREAM_OFFSET, STREAM_CHANNEL, top, a->n_heads, &e);
    must(some, e);
    ask(&q, g);
    struct fit_request r = plain(g, all, &q);
    double want = loss_at(g, &r);
    r.params = some;
    assert_true(fabs(loss_at(g, &r) - want) <= 1e-6 * want);
    for (size_t i = 0; i < some->n; i++) assert_true(fabs(some->grad[i] - all->grad[all->n - some->n + i]) <= 1e-5);
    stream_params_free(all);
    stream_params_free(some);
}
static void test_lower_layers_once(void **state)
{
    (void)state;
    families_each(true, check_lowest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_five_updates_are_torchs), cmocka_unit_test(test_slopes_at_every_hook),
        cmocka_unit_test(test_zero_is_neutral),         cmocka_unit_test(test_one_token),
        cmocka_unit_test(test_unheard_head),            cmocka_unit_test(test_planted_head),
        cmocka_unit_test(test_penalty_alone),           cmocka_unit_test(test_preference_at_the_start),
        cmocka_unit_test(test_weights_stay),            cmocka_unit_test(test_grouped_queries),
        cmocka_unit_test(test_passes_add_up),           cmocka_unit_test(test_lower_layers_once),
    };
    return cmocka_run_group_tests(tests, golden_arena_init, golden_arena_release);
}
