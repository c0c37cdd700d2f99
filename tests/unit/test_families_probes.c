/* What is built on the engine, on every family: patch grids, localization, TuCo and measures against plain
 * runs. The engine's own numbers are proven in test_families.c; here one whole run with a write stands for
 * each cell, one run of the other view for each block of TuCo, and formulas are written out again from the
 * logits. Prompts are three times as long as windows. Agreement: 1e-4, as in test_patch.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "probes/localize.h"
#include "probes/measure.h"
#include "probes/tuco.h"
#include "support/families.h"
#include "support/numbers.h"
#include "support/one_pair.h"

#define CLOSE 1e-4

enum { N = 12, MOST_LAYERS = 8 };

static void near(const struct golden *g, const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance)) fail_msg("%s: %s is %.8f, %.8f expected", g->model->path, what, got, want);
}

/* ---- plain runs -------------------------------------------------------------------------------------- */

static size_t site_width(const struct golden *g, enum hook h)
{
    return (size_t)hook_heads(&g->model->arch, h) * hook_width(&g->model->arch, h);
}

/* The values of one hook of all layers, [L][n][width]. */
static float *values_of(const struct golden *g, struct view *v, enum hook h, const uint32_t *ids, uint32_t n)
{
    const uint32_t L = g->model->arch.n_layers;
    const size_t each = n * site_width(g, h);
    struct tap tap[MOST_LAYERS];
    assert_true(L <= MOST_LAYERS);
    float *out = floats(L * each);
    for (uint32_t l = 0; l < L; l++) tap[l] = (struct tap){.site = {h, l}, .every_pos = true, .dst = out + l * each};
    mem_drop(logits_at(g, v, ids, n, n - 1, &(struct taps){tap, L}));
    return out;
}

/* ---- metrics, by their definitions ------------------------------------------------------------------- */

static double log_sum(const float *logits, const uint32_t *ids, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)logits[ids ? ids[i] : i]);
    return log(sum);
}

static double difference(const struct metric *m, const float *y)
{
    return log_sum(y, m->answer, m->n_answer) - log_sum(y, m->foil, m->n_foil);
}

struct runs { /* logits at the metric's position */
    const float *clean, *corrupt, *source;
};

static double by_definition(const struct metric *m, const float *y, const struct runs *r, uint32_t V)
{
    double kl = 0, total = log_sum(y, NULL, V), ref = log_sum(r->source, NULL, V);
    switch (m->kind) {
    case METRIC_LOGIT_DIFF: return difference(m, y);
    case METRIC_NORM_LOGIT_DIFF:
        return (difference(m, y) - difference(m, r->corrupt)) / (difference(m, r->clean) - difference(m, r->corrupt));
    case METRIC_PROB: return exp(log_sum(y, m->answer, m->n_answer) - total);
    case METRIC_LOGPROB: return log_sum(y, m->answer, m->n_answer) - total;
    case METRIC_KL:
        for (uint32_t i = 0; i < V; i++)
            kl += exp((double)r->source[i] - ref) * ((double)r->source[i] - ref - (double)y[i] + total);
        return kl;
    case METRIC_LOGIT: return log_sum(y, m->answer, m->n_answer);
    case METRIC_PROB_DIFF: return exp(log_sum(y, m->answer, m->n_answer) - total) - exp(log_sum(y, m->foil, m->n_foil) - total);
    case METRIC_LOSS: return total - log_sum(y, m->answer, m->n_answer);
    case METRIC_PROJECTION: case METRIC_COUNT: break;
    }
    fail();
    return 0;
}

/* ---- patch grids --------------------------------------------------------------------------------------- */

static const struct {
    enum hook site;
    enum patch_axis axis;
} grids[] = {{HOOK_RESID_PRE, PATCH_LAYER_POS}, {HOOK_Z, PATCH_LAYER_HEAD}, {HOOK_Z, PATCH_LAYER}};
enum { N_GRIDS = sizeof grids / sizeof *grids };

static const uint32_t answers[] = {42, 3, 250}, foils[] = {7, 200};

static uint32_t columns_of(const struct arch *a, enum patch_axis axis)
{
    return axis == PATCH_LAYER_POS ? N : axis == PATCH_LAYER ? 1 : a->n_heads;
}

/* The write that a cell stands for; src is the source's values of the layer. */
static struct tap cell_write(const struct golden *g, struct one_pair *q, uint32_t layer, const uint32_t *column,
                             const float *src, float *own)
{
    const struct arch *a = &g->model->arch;
    size_t width = site_width(g, q->site);
    struct tap t = {.site = {q->site, layer}, .op = TAP_SET, .weight = 1, .src = src, .n_src_pos = N, .every_pos = true};
    if (q->axis == PATCH_LAYER_POS) {
        t.every_pos = false, t.pos = column, t.n_pos = t.n_src_pos = 1;
        t.src = src + *column * width;
    } else if (q->axis == PATCH_LAYER_HEAD) {
        t.head = column, t.n_head = 1, t.src = own;
        for (uint32_t p = 0; p < N; p++) memcpy(own + p * a->d_head, src + p * width + *column * a->d_head, a->d_head * sizeof *own);
    }
    return t;
}

/* logits [L·C][V]: one whole run for each cell. */
static float *loop_of(const struct golden *g, struct one_pair *q)
{
    const struct arch *a = &g->model->arch;
    const uint32_t C = columns_of(a, q->axis), V = a->d_vocab;
    const uint32_t *base = q->denoise ? q->corrupt : q->clean, *source = q->denoise ? q->clean : q->corrupt;
    size_t each = N * site_width(g, q->site);
    float *out = floats((size_t)a->n_layers * C * V), *values = values_of(g, q->view, q->site, source, N), *own = floats(each);
    for (uint32_t l = 0; l < a->n_layers; l++)
        for (uint32_t c = 0; c < C; c++) {
            struct tap write = cell_write(g, q, l, &c, values + l * each, own);
            float *logits = logits_at(g, q->view, base, N, q->metric.pos, &(struct taps){&write, 1});
            memcpy(out + ((size_t)l * C + c) * V, logits, V * sizeof *out);
            mem_drop(logits);
        }
    mem_drop(values);
    mem_drop(own);
    return out;
}

static struct patch *grid_of(const struct golden *g, struct one_pair *q)
{
    struct err e = {0};
    struct patch_request request = one_request(q);
    struct patch *p = patch_new(&request, &e);
    must(p && STEP_ALL(patch_step(p, g->session, &e)), e);
    return p;
}

/* Returns how far the grid's values lie apart: a grid of one value would show nothing. */
static double compare_grid(const struct golden *g, struct one_pair *q, const float *cell, const struct runs *r)
{
    const uint32_t V = g->model->arch.d_vocab, C = columns_of(&g->model->arch, q->axis);
    struct patch *p = grid_of(g, q);
    const struct patch_grid *grid = patch_result(p);
    double close = CLOSE, least = INFINITY, most = -INFINITY;
    if (q->metric.kind == METRIC_NORM_LOGIT_DIFF)
        close = fmax(close, close / fabs(difference(&q->metric, r->clean) - difference(&q->metric, r->corrupt)));
    near(g, "clean", grid->scores->clean, by_definition(&q->metric, r->clean, r, V), close);
    near(g, "corrupt", grid->scores->corrupt, by_definition(&q->metric, r->corrupt, r, V), close);
    near(g, "identity", grid->check_identity, 0, close);
    near(g, "full", grid->check_full, 0, close);
    for (size_t i = 0; i < grid->cost.cells; i++) {
        char what[128];
        (void)snprintf(what, sizeof what, "%s cell (%zu, %zu) of %s at %u", metric_word(q->metric.kind), i / C, i % C,
                       hook_info(q->site)->spelling, q->metric.pos);
        near(g, what, grid->scores->values[i], by_definition(&q->metric, cell + i * V, r, V), close);
        least = fmin(least, grid->scores->values[i]), most = fmax(most, grid->scores->values[i]);
    }
    patch_free(p);
    return most - least;
}

/* All metrics of one grid, single answers and lists, under budgets that take one group, several, one per column. */
static double check_metrics(const struct golden *g, struct one_pair q)
{
    static const size_t budgets[] = {0, 1, 20000};
    float *clean = logits_at(g, q.view, q.clean, N, q.metric.pos, NULL), *corrupt = logits_at(g, q.view, q.corrupt, N, q.metric.pos, NULL);
    struct runs r = {clean, corrupt, q.denoise ? clean : corrupt};
    float *cell = loop_of(g, &q);
    double spread = 0;
    for (unsigned kind = 0; kind < METRIC_PROJECTION; kind++)
        for (unsigned lists = 0; lists < 2; lists++) {
            q.metric.kind = (enum metric_kind)kind;
            q.metric.answer = answers, q.metric.n_answer = lists ? 3 : 1;
            q.metric.foil = foils, q.metric.n_foil = lists ? 2 : 1;
            q.memory_bytes = budgets[(kind + lists) % 3];
            double s = compare_grid(g, &q, cell, &r);
            if (kind == METRIC_LOGIT_DIFF) spread = fmax(spread, s);
        }
    mem_drop(cell);
    mem_drop(clean);
    mem_drop(corrupt);
    return spread;
}

static void two_prompts(const struct golden *g, const uint32_t *at, size_t n_at, uint32_t *clean, uint32_t *corrupt)
{
    uint64_t seed = 7;
    assert_true(g->n[0] >= N);
    memcpy(clean, g->ids[0], N * sizeof *clean);
    memcpy(corrupt, clean, N * sizeof *corrupt);
    for (size_t i = 0; i < n_at; i++) corrupt[at[i]] = (clean[at[i]] + 1 + below(&seed, g->model->arch.d_vocab - 1)) % g->model->arch.d_vocab;
}

static void check_patch(struct golden *g)
{
    static const struct {
        uint32_t at[3];
        size_t n;
        uint32_t pos;
    } pairs[] = {{{3, 4, 8}, 3, N - 1}, {{0, 5}, 2, N - 1}, {{4}, 1, 9}};
    uint32_t clean[N], corrupt[N];
    for (size_t k = 0; k < N_GRIDS; k++)
        for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
            struct one_pair q = {.view = g->view, .clean = clean, .corrupt = corrupt, .n = N, .denoise = (k + i) % 2 == 0,
                                      .site = grids[k].site, .axis = grids[k].axis, .metric.pos = pairs[i].pos};
            two_prompts(g, pairs[i].at, pairs[i].n, clean, corrupt);
            double spread = check_metrics(g, q);
            if (i == 0) assert_true(spread > 0.01);
        }
}

static void test_patch(void **state)
{
    (void)state;
    families_each(false, check_patch);
}

/* ---- localization ---------------------------------------------------------------------------------------- */

/* Move of the metric by some units patched together, in one whole run. */
static double joint_effect(const struct golden *g, struct one_pair *q, const struct unit *unit, size_t n, double base, double sign)
{
    const struct arch *a = &g->model->arch;
    const uint32_t *from = q->denoise ? q->corrupt : q->clean, *source = q->denoise ? q->clean : q->corrupt;
    size_t each = N * site_width(g, HOOK_Z);
    float *values = values_of(g, q->view, HOOK_Z, source, N), *own = floats(n * N * (size_t)a->d_head);
    struct tap tap[64];
    assert_true(n <= 64);
    for (size_t i = 0; i < n; i++)
        tap[i] = cell_write(g, q, unit[i].layer, &unit[i].head, values + unit[i].layer * each, own + i * N * a->d_head);
    float *logits = logits_at(g, q->view, from, N, q->metric.pos, &(struct taps){tap, n});
    double effect = (difference(&q->metric, logits) - base) * sign;
    mem_drop(logits);
    mem_drop(values);
    mem_drop(own);
    return effect;
}

/* As many units in the region as are left over, so that the one control set is all the others. */
static void check_axis(const struct golden *g, enum patch_axis axis, bool denoise)
{
    struct err e = {0};
    uint32_t clean[N], corrupt[N], units = g->model->arch.n_layers * columns_of(&g->model->arch, axis);
    two_prompts(g, (const uint32_t[]){3, 4, 8}, 3, clean, corrupt);
    struct one_pair patch = {.view = g->view, .clean = clean, .corrupt = corrupt, .n = N, .denoise = denoise, .site = HOOK_Z,
                             .axis = axis, .metric = {.kind = METRIC_LOGIT_DIFF, .answer = answers, .foil = foils, .n_answer = 1,
                                                      .n_foil = 1, .pos = N - 1}};
    struct localize_request q = {.patch = one_request(&patch), .k = units / 2, .n_control = 1, .seed = 5};
    struct localize *l = localize_new(&q, &e);
    must(l && STEP_ALL(localize_step(l, g->session, &e)), e);
    const struct localize_result *r = localize_result(l);
    double base = denoise ? r->grid->scores->corrupt : r->grid->scores->clean, source = denoise ? r->grid->scores->clean : r->grid->scores->corrupt;
    double sign = source >= base ? 1 : -1;
    assert_int_equal(r->n_units, units);
    for (size_t i = 0; i < units; i++) {
        near(g, "score", r->ranking[i].score, joint_effect(g, &patch, &r->ranking[i], 1, base, sign), CLOSE);
        if (i) assert_true(r->ranking[i].score <= r->ranking[i - 1].score);
    }
    near(g, "region", r->region_effect, joint_effect(g, &patch, r->ranking, r->k, base, sign), CLOSE);
    if (units % 2 == 0) {
        assert_int_equal(r->n_control, 1);
        near(g, "control", r->control.mean, joint_effect(g, &patch, r->ranking + r->k, units - r->k, base, sign), CLOSE);
        assert_true(r->control.percentile == (r->control.mean < r->region_effect ? 100 : 0));
    }
    localize_free(l);
}

static void check_localize(struct golden *g)
{
    check_axis(g, PATCH_LAYER_HEAD, true);
    check_axis(g, PATCH_LAYER_HEAD, false);
    check_axis(g, PATCH_LAYER, true);
}

static void test_localize(void **state)
{
    (void)state;
    families_each(false, check_localize);
}

/* ---- TuCo ------------------------------------------------------------------------------------------------- */

/* A view with a random change of one tensor. */
static struct view *changed(const struct golden *g, struct view *parent, enum role role, uint32_t layer, double scale)
{
    size_t t;
    uint64_t seed = 60 + (uint64_t)role + layer;
    if (!model_role(g->model, role, layer, &t)) return view_retain(parent);
    float *change = random_floats(&seed, g->model->tensors[t].n_elements, scale);
    struct view *v = view_plus(g, parent, t, change);
    free(change);
    return v;
}

/* What block `layer` of a view adds to the stream x [n][d]: its run with the stream set to x, less x. */
static float *block_adds(const struct golden *g, struct view *v, uint32_t layer, const float *x, const uint32_t *ids, uint32_t n)
{
    size_t values = (size_t)n * g->model->arch.d_model;
    float *out = floats(values);
    struct tap tap[2] = {
        {.site = {HOOK_RESID_PRE, layer}, .op = TAP_SET, .weight = 1, .every_pos = true, .src = x, .n_src_pos = n},
        {.site = {HOOK_RESID_POST, layer}, .every_pos = true, .dst = out}};
    mem_drop(logits_at(g, v, ids, n, n - 1, &(struct taps){tap, 2}));
    for (size_t i = 0; i < values; i++) out[i] -= x[i];
    return out;
}

static double l1(const double *v, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += fabs(v[i]);
    return s;
}

/* Differences of float32 streams are compared with something of the streams' own size. */
static void compare_tuco(const struct golden *g, struct view *view, struct view *against, const uint32_t *ids, uint32_t n)
{
    struct err e = {0};
    const uint32_t d = g->model->arch.d_model, L = g->model->arch.n_layers;
    const size_t values = (size_t)n * d;
    double *P = zero_doubles(values), *F = zero_doubles(values);
    const struct tuco_input in = {.ids = ids, .n = n, .all_positions = true};
    struct tuco *t = tuco_new(view, against, &in, 1, &e);
    must(t && STEP_ALL(tuco_step(t, g->session, &e)), e);
    const struct tuco_score *s = tuco_result(t, 0);
    float *stream = values_of(g, view, HOOK_RESID_PRE, ids, n);
    for (uint32_t l = 0; l < L; l++) {
        float *tuned = block_adds(g, view, l, stream + l * values, ids, n), *before = block_adds(g, against, l, stream + l * values, ids, n);
        double ptc = 0, ftc = 0;
        for (size_t i = 0; i < values; i++) {
            double f = (double)tuned[i] - (double)before[i];
            P[i] += (double)before[i], F[i] += f;
            if (i >= values - d) ptc += fabs((double)before[i]), ftc += fabs(f);
        }
        near(g, "layer ptc", s->layer[l].ptc, ptc, CLOSE * fmax(1, ptc));
        near(g, "layer ftc", s->layer[l].ftc, ftc, CLOSE * fmax(1, ptc));
        mem_drop(tuned);
        mem_drop(before);
    }
    for (uint32_t r = 0; r < n; r++) {
        double p = l1(P + (size_t)r * d, d), f = l1(F + (size_t)r * d, d);
        near(g, "tuco", s->position[r], f / (p + f), CLOSE);
        if (r + 1 < n) continue;
        near(g, "ptc", s->ptc, p, CLOSE * fmax(1, p));
        near(g, "ftc", s->ftc, f, CLOSE * fmax(1, p));
        assert_true(s->tuco == s->position[r] && s->tuco > 0.01 && s->check <= 1e-5);
    }
    mem_drop(stream);
    tuco_free(t);
    free(P), free(F);
}

static void same_is_zero(const struct golden *g, struct view *a, struct view *b)
{
    struct err e = {0};
    const struct tuco_input in = {.ids = g->ids[0], .n = g->n[0], .all_positions = true};
    struct tuco *t = tuco_new(a, b, &in, 1, &e);
    must(t && STEP_ALL(tuco_step(t, g->session, &e)), e);
    const struct tuco_score *s = tuco_result(t, 0);
    assert_true(s->tuco == 0 && s->ftc == 0 && s->ptc > 0);
    for (uint32_t l = 0; l < g->model->arch.n_layers; l++) assert_true(s->layer[l].ftc == 0);
    for (uint32_t p = 0; p < g->n[0]; p++) assert_true(s->position[p] == 0);
    tuco_free(t);
}

/* An edit of a family that stores 16 bits or packed blocks widens the tensor; with nothing changed it is
 * the same numbers by other products, and where those are exact the score is exactly 0. */
static void check_tuco(struct golden *g)
{
    static const enum role roles[] = {ROLE_O, ROLE_DOWN, ROLE_UP, ROLE_ATTN_NORM, ROLE_MLP_POST_NORM, ROLE_DOWN_B};
    same_is_zero(g, g->view, g->view);
    struct view *all = view_retain(g->view);
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        uint32_t layer = (uint32_t)i % g->model->arch.n_layers;
        struct view *one = changed(g, g->view, roles[i], layer, 0.1), *more = changed(g, all, roles[i], layer, 0.1);
        if (one != g->view && (roles[i] == ROLE_O || roles[i] == ROLE_DOWN)) {
            compare_tuco(g, one, g->view, g->ids[0], g->n[0]);
            compare_tuco(g, g->view, one, g->ids[1], g->n[1]);
        }
        same_is_zero(g, one, one);
        view_drop(one);
        view_drop(all);
        all = more;
    }
    compare_tuco(g, all, g->view, g->ids[0], g->n[0]);
    view_drop(all);
}

static void test_tuco(void **state)
{
    (void)state;
    families_each(false, check_tuco);
}

/* ---- measures ----------------------------------------------------------------------------------------------- */

/* Mean −log p and share of argmax of the targets behind a prompt, position by position of plain runs. */
static double forced_nll(const struct golden *g, struct view *v, const struct prompt *p, double *right)
{
    uint32_t ids[64], V = g->model->arch.d_vocab;
    double nll = 0;
    memcpy(ids, p->ids, p->n * sizeof *ids);
    memcpy(ids + p->n, p->target, p->n_target * sizeof *ids);
    *right = 0;
    for (uint32_t i = 0; i < p->n_target; i++) {
        float *logits = logits_at(g, v, ids, p->n + i, p->n + i - 1, NULL);
        nll -= ((double)logits[p->target[i]] - log_sum(logits, NULL, V)) / p->n_target;
        *right += (arg_max(logits, V) == p->target[i]) / (double)p->n_target;
        mem_drop(logits);
    }
    return nll;
}

/* Greedy by whole runs. */
static uint32_t greedy(const struct golden *g, struct view *v, const uint32_t *prompt, uint32_t n, uint32_t *out, uint32_t most)
{
    uint32_t ids[64], k = 0;
    memcpy(ids, prompt, n * sizeof *ids);
    for (; k < most; k++) {
        float *logits = logits_at(g, v, ids, n + k, n + k - 1, NULL);
        ids[n + k] = out[k] = arg_max(logits, g->model->arch.d_vocab);
        mem_drop(logits);
    }
    return k;
}

static double mean_kl(const struct golden *g, struct view *was, struct view *is, const uint32_t *ids, uint32_t n, uint32_t forced)
{
    const struct metric m = {.kind = METRIC_KL};
    double kl = 0;
    for (uint32_t i = 0; i < forced; i++) {
        float *ref = logits_at(g, was, ids, n + i, n + i - 1, NULL), *y = logits_at(g, is, ids, n + i, n + i - 1, NULL);
        kl += by_definition(&m, y, &(struct runs){.source = ref}, g->model->arch.d_vocab) / forced;
        mem_drop(ref);
        mem_drop(y);
    }
    return kl;
}

static struct measure *measured(const struct golden *g, struct view *v, const struct fact *f, const struct measure *reference)
{
    struct err e = {0};
    struct measure *m = measure_new(v, f, 1, reference, &e);
    must(m && STEP_ALL(measure_step(m, g->session, &e)), e);
    return m;
}

/* The ids a measure continues a prompt with: what decoding says, which is greedy by whole runs as far as both go. */
static uint32_t continuation(const struct golden *g, struct view *v, const uint32_t *prompt, uint32_t n, uint32_t *ids)
{
    static const char *const stops[] = {"\n", "."};
    struct err e = {0};
    uint32_t plain[MEASURE_KL_TOKENS];
    struct decode_request q = {.prompt = prompt, .n_prompt = n, .max_tokens = MEASURE_KL_TOKENS, .stop = stops, .n_stop = 2};
    struct decoder *d = decoder_new(v, &q, 1, NULL, &e);
    must(d && STEP_ALL(decoder_step(d, g->session, &e)), e);
    const struct ids *got = &decoder_result(d, 0)->ids;
    uint32_t k = greedy(g, v, prompt, n, plain, (uint32_t)got->n);
    for (uint32_t i = 0; i < k; i++) {
        if (got->id[i] != plain[i]) fail_msg("%s: token %u is %u, %u by whole runs", g->model->path, i, got->id[i], plain[i]);
        ids[i] = got->id[i];
    }
    decoder_free(d);
    return k;
}

static void check_measure(struct golden *g)
{
    uint32_t n = g->n[1], all[64] = {0};
    const struct prompt locality = {.ids = g->ids[0], .n = 6}, paraphrase = {g->ids[0], 8, g->ids[0] + 8, 3};
    const struct fact f = {.prompt = {g->ids[1], n - 3, g->ids[1] + n - 3, 3}, .target_text = "x", .target_len = 1,
                           .true_ids = g->ids[0], .n_true = 2, .paraphrase = &paraphrase, .n_paraphrase = 1,
                           .locality = &locality, .n_locality = 1};
    const struct prompt true_target = {g->ids[1], n - 3, g->ids[0], 2};
    struct view *edited = changed(g, g->view, ROLE_DOWN, g->model->arch.n_layers - 1, 0.1);
    struct measure *before = measured(g, g->view, &f, NULL), *after = measured(g, edited, &f, before);
    double right, nll = forced_nll(g, edited, &f.prompt, &right);
    const struct score *s = measure_score(after, 0);
    near(g, "nll", s->nll_new, nll, CLOSE);
    near(g, "share of argmax", s->tf_token_acc, right, 1e-9);
    near(g, "nll of the old target", s->nll_true, forced_nll(g, edited, &true_target, &right), CLOSE);
    near(g, "nll before", measure_score(before, 0)->nll_new, forced_nll(g, g->view, &f.prompt, &right), CLOSE);
    (void)forced_nll(g, edited, &paraphrase, &right);
    assert_true(s->paraphrase_tf_exact == (right == 1));
    memcpy(all, locality.ids, locality.n * sizeof *all);
    uint32_t k = continuation(g, g->view, locality.ids, locality.n, all + locality.n);
    double kl = mean_kl(g, g->view, edited, all, locality.n, k);
    assert_true(kl > 1e-4);
    near(g, "kl", s->locality_kl, kl, CLOSE * fmax(1, kl));
    measure_free(after);
    measure_free(before);
    view_drop(edited);
}

static void test_measure(void **state)
{
    (void)state;
    families_each(false, check_measure);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patch),
        cmocka_unit_test(test_localize),
        cmocka_unit_test(test_tuco),
        cmocka_unit_test(test_measure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
