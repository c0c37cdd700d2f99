#include "attribution.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"
#include "core/train.h"
#include "panel.h"
#include "slope.h"

enum stage { STAGE_SOURCE, STAGE_FORWARD, STAGE_HEAD, STAGE_BACK, STAGE_DROP, STAGE_NEXT };

struct sited { /* of one site */
    enum hook site;
    enum node_kind kind;
    struct patch_grid grid;
    struct patch_scores *scores; /* [n_pairs][n_metrics] */
    double *values, *drop;       /* all of them */
    size_t cells, columns;       /* of a pair; of a layer */
    float *value;                /* [L][floats] of the pair in hand: the source's, then for linear ones the difference */
    float *heard;                /* [floats] one layer of the base, or of gradients */
    size_t floats;
};

struct attribution {
    struct attribution_request q;
    struct sited *site;
    uint32_t *first_difference;
    size_t longest_columns;
    double *layer;          /* [columns] estimates in hand */
    /* the pair in hand */
    size_t pair, metric;
    enum stage stage;
    uint32_t n, first, at, cut; /* positions; first that differs; the layer that is next; of a drop, the one left out */
    uint32_t *pos;          /* [longest] positions from `first` on */
    struct taps taps, one;  /* of the source: site by layer; of one layer of the base */
    struct run *run;
    struct tape_seq seq;
    struct tape *tape;
    float *final;           /* [n][d] the base's stream leaving the last layer */
    float *source_final;    /* [d] */
    float *behind;          /* [L][n][d] gradients behind each layer; GradDrop only */
    float *scratch, *slope;
    double *reference, *read;
    struct attribution_cost done;
};

static const struct arch *arch_of(const struct attribution *a) { return &view_model(a->q.view)->arch; }
static const struct patch_pair *pair_of(const struct attribution *a) { return &a->q.pair[a->pair]; }
struct patch_request attribution_patch(const struct attribution_request *q, size_t site)
{
    return (struct patch_request){.view = q->view, .pair = q->pair, .n_pairs = q->n_pairs, .n_metrics = q->n_metrics,
                                  .denoise = q->denoise, .site = q->site[site], .axis = q->axis};
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

/* Floats of one layer of `rows` positions at a hook whose rows may be n wide. */
static size_t hook_floats(const struct arch *a, enum hook h, uint32_t rows, uint32_t n)
{
    size_t width = hook_info(h)->axis == AXIS_SOURCE ? n : hook_width(a, h);
    return plan_times(plan_times(rows, hook_heads(a, h)), width);
}

static size_t floats_of(const struct arch *a, enum hook site, enum node_kind kind, uint32_t n)
{
    size_t value = hook_floats(a, node_value(kind, site), n, n), slope = hook_floats(a, node_gradient(kind, site), n, n);
    return value > slope ? value : slope;
}

/* What is made on the side for those who listen at a head's copies. */
static size_t listeners(const struct arch *a, uint32_t n)
{
    return mem_floats_bytes(plan_sum(plan_times(2 * (size_t)n, a->d_model), plan_sum(plan_times(a->d_model, a->d_head), plan_times(n, a->d_head))));
}

void attribution_plan(const struct attribution_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const uint32_t n = patch_longest(q->pair, q->n_pairs);
    struct run_size size = {0};
    struct plan run = {0}, tape = {0};
    size_t stream = mem_floats_bytes(plan_times(n, a->d_model));
    for (size_t i = 0; i < q->n_sites; i++) {
        struct patch_request one = attribution_patch(q, i);
        uint32_t heads, pos;
        patch_columns(&one, &heads, &pos);
        size_t cells = plan_times(plan_times(heads, pos), a->n_layers);
        size_t floats = floats_of(a, q->site[i], node_kind(q->site[i], q->qk_fix), n);
        plan_add(p, NEED_CAPTURES, plan_sum(mem_floats_bytes(plan_times(floats, a->n_layers)), mem_floats_bytes(floats)));
        plan_add(p, NEED_ANSWER, plan_times(plan_times(cells, plan_times(q->n_pairs, q->n_metrics)), 2 * sizeof(double) + 64));
        plan_add(p, NEED_ANSWER, plan_times(a->n_layers, sizeof(struct tap)) + plan_times(plan_times(heads, pos), sizeof(double)));
    }
    run_size_add(&size, 0, n, 1, false);
    run_plan(&size, a, threads, &run);
    tape_plan(a, n, n, 1, 0, threads, &tape);
    plan_add(&tape, NEED_SCRATCH, listeners(a, n));
    if (q->grad_drop) plan_add(&tape, NEED_TAPE, mem_floats_bytes(plan_times(plan_times(n, a->d_model), a->n_layers)));
    plan_add(&tape, NEED_STREAM, stream);
    plan_peak(&run, &tape);
    plan_with(p, &run);
    plan_add(p, NEED_SCRATCH, mem_floats_bytes(node_scratch(n)));
    plan_add(p, NEED_LOGITS, plan_times(a->d_vocab, sizeof(double) + 2 * sizeof(float)));
    panel_plan(a, q->pair->metric, q->n_metrics, p);
}

/* Activations only: a pass back is a pass forward. With drops one more for each layer, half of them on average. */
double attribution_flops(const struct attribution_request *q, size_t *rows)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t L = a->n_layers, back = L + (q->grad_drop ? L * (L - 1) / 2 : 0);
    double flops = 0;
    *rows = 0;
    for (size_t i = 0; i < q->n_pairs; i++) {
        const struct patch_pair *p = &q->pair[i];
        *rows += patch_used(p) * (2 * L + q->n_metrics * back);
        flops += 2 * panel_flops(a, p->metric, q->n_metrics) + 4.0 * (double)q->n_metrics * a->d_vocab * a->d_model;
    }
    return flops + run_flops(a, (double)*rows / (double)L);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static bool take_site(struct attribution *a, size_t i, struct err *e)
{
    const struct arch *arch = arch_of(a);
    struct sited *s = &a->site[i];
    struct patch_request one = attribution_patch(&a->q, i);
    const size_t scores = a->q.n_pairs * a->q.n_metrics;
    s->site = a->q.site[i];
    s->kind = node_kind(s->site, a->q.qk_fix);
    s->grid = (struct patch_grid){.n_layers = arch->n_layers, .first_difference = a->first_difference,
                                  .check_identity = NAN, .check_full = NAN};
    patch_columns(&one, &s->grid.n_heads, &s->grid.n_pos);
    s->columns = (size_t)s->grid.n_heads * s->grid.n_pos;
    s->cells = s->columns * arch->n_layers;
    s->grid.cost.cells = s->cells * a->q.n_pairs;
    if (s->columns > a->longest_columns) a->longest_columns = s->columns;
    s->floats = floats_of(arch, s->site, s->kind, patch_longest(a->q.pair, a->q.n_pairs));
    s->scores = mem_take(scores, sizeof *s->scores, e);
    s->values = s->scores ? mem_take(scores * s->cells, sizeof *s->values, e) : NULL;
    s->value = s->values ? mem_floats(plan_times(s->floats, arch->n_layers), e) : NULL;
    s->heard = s->value ? mem_floats(s->floats, e) : NULL;
    if (!s->heard) return false;
    s->grid.scores = s->scores;
    for (size_t k = 0; k < scores; k++) s->scores[k].values = s->values + k * s->cells;
    if (a->q.grad_drop) s->drop = mem_take(scores * s->cells, sizeof *s->drop, e);
    return !a->q.grad_drop || s->drop;
}

static bool take(struct attribution *a, struct err *e)
{
    const struct arch *arch = arch_of(a);
    const size_t n = patch_longest(a->q.pair, a->q.n_pairs), d = arch->d_model, V = arch->d_vocab;
    a->first_difference = mem_take(a->q.n_pairs, sizeof *a->first_difference, e);
    a->site = a->first_difference ? mem_take(a->q.n_sites, sizeof *a->site, e) : NULL;
    for (size_t i = 0; i < a->q.n_sites; i++)
        if (!a->site || !take_site(a, i, e)) return false;
    for (size_t i = 0; i < a->q.n_pairs; i++) a->first_difference[i] = patch_pair_difference(&a->q.pair[i]);
    a->layer = mem_take(a->longest_columns, sizeof *a->layer, e);
    a->pos = a->layer ? mem_take(n, sizeof *a->pos, e) : NULL;
    a->taps.tap = a->pos ? mem_take(a->q.n_sites * arch->n_layers, sizeof(struct tap), e) : NULL;
    a->one.tap = a->taps.tap ? mem_take(a->q.n_sites, sizeof(struct tap), e) : NULL;
    a->final = a->one.tap ? mem_floats(n * d, e) : NULL;
    a->source_final = a->final ? mem_floats(d, e) : NULL;
    a->scratch = a->source_final ? mem_floats(node_scratch((uint32_t)n), e) : NULL;
    a->slope = a->scratch ? mem_floats(V, e) : NULL;
    a->reference = a->slope ? mem_take(V, sizeof *a->reference, e) : NULL;
    a->read = a->reference ? mem_take(2 * a->q.n_metrics, sizeof *a->read, e) : NULL;
    if (!a->read) return false;
    if (a->q.grad_drop) a->behind = mem_floats(plan_times(n * d, arch->n_layers), e);
    return !a->q.grad_drop || a->behind;
}

struct attribution *attribution_new(const struct attribution_request *q, struct err *e)
{
    struct attribution *a = mem_new(sizeof *a);
    assert(q->n_pairs && q->n_metrics && q->n_sites);
    a->q = *q;
    a->q.view = view_retain(q->view);
    if (take(a, e)) return a;
    attribution_free(a);
    return NULL;
}

void attribution_free(struct attribution *a)
{
    if (!a) return;
    run_free(a->run);
    tape_free(a->tape);
    for (size_t i = 0; a->site && i < a->q.n_sites; i++) {
        struct sited *s = &a->site[i];
        mem_drop(s->scores), mem_drop(s->values), mem_drop(s->drop), mem_drop(s->value), mem_drop(s->heard);
    }
    mem_drop(a->site), mem_drop(a->first_difference), mem_drop(a->layer), mem_drop(a->pos);
    mem_drop(a->taps.tap), mem_drop(a->one.tap);
    mem_drop(a->final), mem_drop(a->source_final), mem_drop(a->behind);
    mem_drop(a->scratch), mem_drop(a->slope), mem_drop(a->reference), mem_drop(a->read);
    view_drop(a->q.view);
    mem_drop(a);
}

/* ---- the source --------------------------------------------------------------------------------------------- */

static struct tap read_tap(const struct attribution *a, enum hook h, uint32_t layer, float *dst)
{
    return (struct tap){.site = {h, layer}, .op = TAP_READ, .pos = a->pos, .n_pos = a->n - a->first, .n_source = a->n, .dst = dst};
}

static void begin_pair(struct attribution *a)
{
    const struct patch_pair *p = pair_of(a);
    a->n = patch_used(p);
    a->first = a->first_difference[a->pair] < a->n ? a->first_difference[a->pair] : a->n;
    for (uint32_t i = a->first; i < a->n; i++) a->pos[i - a->first] = i;
    a->seq = (struct tape_seq){.n = a->n, .scored = &p->metric->pos, .n_scored = 1};
    a->metric = 0;
    a->taps.n = 0;
    for (size_t i = 0; i < a->q.n_sites; i++)
        for (uint32_t l = 0; l < arch_of(a)->n_layers; l++)
            a->taps.tap[a->taps.n++] = read_tap(a, node_value(a->site[i].kind, a->site[i].site), l, a->site[i].value + l * a->site[i].floats);
}

static enum step step_source(struct attribution *a, struct session *s, struct err *e)
{
    const struct patch_pair *p = pair_of(a);
    if (!a->run) {
        begin_pair(a);
        const struct run_input in = {.ids = a->q.denoise ? p->clean : p->corrupt, .n = a->n, .want = a->seq.scored, .n_want = 1};
        a->run = run_new(a->q.view, &in, 1, &a->taps, e);
        if (!a->run) return STEP_FAIL;
    }
    enum step step = run_step(a->run, s, e);
    if (step != STEP_DONE) return step;
    memcpy(a->source_final, run_final(a->run, 0), arch_of(a)->d_model * sizeof *a->source_final);
    run_free(a->run);
    a->run = NULL;
    a->done.forward += (size_t)a->n * arch_of(a)->n_layers;
    return STEP_DONE;
}

/* ---- the base ------------------------------------------------------------------------------------------------ */

/* source − base; masked scores are alike. */
static void difference(const struct attribution *a, struct sited *s, uint32_t layer)
{
    const size_t n = hook_floats(arch_of(a), s->site, a->n - a->first, a->n);
    float *value = s->value + layer * s->floats;
    for (size_t i = 0; i < n; i++) value[i] = value[i] == s->heard[i] ? 0.0f : value[i] - s->heard[i];
}

/* Taps of one layer: of the base's values, or of gradients. */
static void listen(struct attribution *a, uint32_t layer, bool gradients)
{
    a->one.n = 0;
    for (size_t i = 0; i < a->q.n_sites; i++) {
        const struct sited *s = &a->site[i];
        if (!gradients && s->kind != NODE_LINEAR) continue;
        enum hook h = gradients ? node_gradient(s->kind, s->site) : s->site;
        a->one.tap[a->one.n++] = read_tap(a, h, layer, s->heard);
    }
}

static enum step step_forward(struct attribution *a, struct session *s, struct err *e)
{
    const struct patch_pair *p = pair_of(a);
    const uint32_t *ids = a->q.denoise ? p->corrupt : p->clean;
    if (!a->tape) {
        a->tape = tape_new(arch_of(a), &a->seq, 1, 0, false, e);
        if (!a->tape || !embed(s, a->q.view, ids, a->n, 0, NULL, 0, tape_input(a->tape), e)) return STEP_FAIL;
        tape_write(a->tape, &a->one);
        a->at = 0;
    }
    listen(a, a->at, false);
    enum step step = tape_forward(a->tape, a->q.view, s, e);
    if (step == STEP_FAIL) return step;
    for (size_t i = 0; i < a->q.n_sites; i++)
        if (a->site[i].kind == NODE_LINEAR) difference(a, &a->site[i], a->at);
    a->at++;
    a->done.forward += a->n;
    if (step == STEP_DONE) memcpy(a->final, tape_stream(a->tape), (size_t)a->n * arch_of(a)->d_model * sizeof *a->final);
    return step;
}

static struct patch_scores *scores_of(struct attribution *a, size_t site, size_t metric)
{
    return &a->site[site].scores[a->pair * a->q.n_metrics + metric];
}

/* The metrics of both runs, by which estimates are scaled too. */
static bool baselines(struct attribution *a, struct session *s, struct err *e)
{
    const size_t M = a->q.n_metrics;
    struct panel panel = {.view = a->q.view, .metric = pair_of(a)->metric, .n_metrics = M, .reference = a->reference};
    const float *rows[] = {a->final + (size_t)(a->n - 1) * arch_of(a)->d_model, a->source_final};
    if (metric_any(panel.metric, M, METRIC_KL) && !panel_reference(a->q.view, s, a->source_final, a->reference, e)) return false;
    for (size_t r = 0; r < 2; r++)
        if (!panel_read(&panel, s, rows[r], 1, a->read + r * M, e)) return false;
    for (size_t m = 0; m < M; m++) {
        const struct metric *metric = &panel.metric[m];
        for (size_t i = 0; i < a->q.n_sites; i++) {
            struct patch_scores *out = scores_of(a, i, m);
            if (!patch_scores_open(metric, a->read[m], a->read[M + m], a->q.denoise, out, e)) return false;
            patch_scores_settle(metric, out, 0); /* estimates are made in its terms */
        }
    }
    return true;
}

/* ---- back ------------------------------------------------------------------------------------------------------ */

static double scale_of(struct attribution *a)
{
    const struct patch_scores *s = scores_of(a, 0, a->metric);
    return pair_of(a)->metric[a->metric].kind == METRIC_NORM_LOGIT_DIFF ? 1 / (s->ld_clean - s->ld_corrupt) : 1;
}

static void estimate(struct attribution *a, const struct sited *s, uint32_t layer, const float *slope)
{
    const struct node k = {.arch = arch_of(a), .site = s->site, .kind = s->kind, .axis = a->q.axis, .layer = layer,
                           .first = a->first, .n = a->n, .n_pos = s->grid.n_pos, .value = s->value + layer * s->floats,
                           .slope = slope, .qkv = tape_saved(a->tape, layer)->rows.qkv};
    node_estimate(&k, a->scratch, a->layer);
}

static double *drops(struct attribution *a, struct sited *s, uint32_t layer)
{
    return s->drop + (a->pair * a->q.n_metrics + a->metric) * s->cells + layer * s->columns;
}

/* times · |the layer's estimates in hand|, of the mean over L − 1. */
static void add_drop(struct attribution *a, struct sited *s, uint32_t layer, double times)
{
    const uint32_t L = arch_of(a)->n_layers;
    double *out = drops(a, s, layer), by = times * fabs(scale_of(a)) / (L > 1 ? L - 1 : 1);
    for (size_t i = 0; i < s->columns; i++) out[i] += by * fabs(a->layer[i]);
}

/* With a layer's own addends left out nothing but the stream itself is left of its nodes. */
static void drop_own_layer(struct attribution *a, struct sited *s, uint32_t layer)
{
    const bool stream = s->site == HOOK_RESID_PRE || s->site == HOOK_RESID_MID || s->site == HOOK_RESID_POST;
    const size_t d = arch_of(a)->d_model;
    if (!stream) return;
    estimate(a, s, layer, a->behind + ((size_t)layer * a->n + a->first) * d);
    add_drop(a, s, layer, 1);
}

static void record(struct attribution *a, uint32_t layer)
{
    const double scale = scale_of(a);
    for (size_t i = 0; i < a->q.n_sites; i++) {
        struct sited *s = &a->site[i];
        double *out = scores_of(a, i, a->metric)->values + layer * s->columns;
        estimate(a, s, layer, s->heard);
        for (size_t k = 0; k < s->columns; k++) out[k] = scale * a->layer[k];
        if (!a->q.grad_drop) continue;
        add_drop(a, s, layer, layer); /* passes that leave out a layer below it are the whole one so far */
        drop_own_layer(a, s, layer);
    }
}

static enum step step_head(struct attribution *a, struct session *s, struct err *e)
{
    struct slope k = {.metric = &pair_of(a)->metric[a->metric], .reference = a->reference, .V = arch_of(a)->d_vocab, .work = a->slope};
    enum step step = tape_head(a->tape, a->q.view, s, NULL, slope_row, &k, e);
    a->at = arch_of(a)->n_layers;
    return step;
}

static enum step back(struct attribution *a, struct session *s, struct err *e)
{
    listen(a, --a->at, true);
    a->done.backward += a->n;
    return tape_backward(a->tape, a->q.view, s, NULL, &a->one, e);
}

static enum step step_back(struct attribution *a, struct session *s, struct err *e)
{
    const size_t stream = (size_t)a->n * arch_of(a)->d_model;
    if (a->behind) memcpy(a->behind + (a->at - 1) * stream, tape_stream(a->tape), stream * sizeof *a->behind);
    enum step step = back(a, s, e);
    if (step != STEP_FAIL) record(a, a->at);
    a->cut = arch_of(a)->n_layers;
    return step;
}

/* Passes that leave out a layer, from the last down; the first layer's has nothing below it. */
static enum step step_drop(struct attribution *a, struct session *s, struct err *e)
{
    if (!a->behind || (a->at == 0 && a->cut <= 1)) return STEP_DONE;
    if (a->at == 0) {
        if (--a->cut == 0) return STEP_DONE;
        tape_resume(a->tape, a->cut, a->behind + (size_t)a->cut * a->n * arch_of(a)->d_model);
        a->at = a->cut;
    }
    if (back(a, s, e) == STEP_FAIL) return STEP_FAIL;
    for (size_t i = 0; i < a->q.n_sites; i++) {
        estimate(a, &a->site[i], a->at, a->site[i].heard);
        add_drop(a, &a->site[i], a->at, 1);
    }
    return STEP_MORE;
}

/* The next metric or pair. */
static enum step step_next(struct attribution *a, struct session *s, struct err *e)
{
    (void)s, (void)e;
    if (++a->metric < a->q.n_metrics) {
        tape_resume(a->tape, arch_of(a)->n_layers, a->final);
        a->stage = STAGE_HEAD;
        return STEP_MORE;
    }
    tape_free(a->tape);
    a->tape = NULL;
    a->stage = STAGE_SOURCE;
    return ++a->pair < a->q.n_pairs ? STEP_MORE : STEP_DONE;
}

enum step attribution_step(struct attribution *a, struct session *s, struct err *e)
{
    static enum step (*const stages[])(struct attribution *, struct session *, struct err *) = {
        [STAGE_SOURCE] = step_source, [STAGE_FORWARD] = step_forward, [STAGE_HEAD] = step_head,
        [STAGE_BACK] = step_back,     [STAGE_DROP] = step_drop,
    };
    if (a->pair == a->q.n_pairs) return STEP_DONE;
    if (a->stage == STAGE_NEXT) return step_next(a, s, e);
    enum step step = stages[a->stage](a, s, e);
    if (step != STEP_DONE) return step;
    if (a->stage == STAGE_FORWARD && !baselines(a, s, e)) return STEP_FAIL;
    a->stage++;
    if (a->first == a->n && a->stage == STAGE_HEAD) a->metric = a->q.n_metrics - 1, a->stage = STAGE_NEXT; /* nothing differs */
    return STEP_MORE;
}

/* ---- results --------------------------------------------------------------------------------------------------- */

void attribution_progress(const struct attribution *a, size_t *done, size_t *total)
{
    const size_t L = arch_of(a)->n_layers, passes = a->q.n_metrics * (a->q.grad_drop ? 2 * L + L * (L - 1) : 2 * L);
    *total = 0;
    for (size_t i = 0; i < a->q.n_pairs; i++) *total += patch_used(&a->q.pair[i]) * (2 * L + passes / 2);
    *done = a->pair == a->q.n_pairs ? *total : a->done.forward + a->done.backward;
}

const struct patch_grid *attribution_grid(const struct attribution *a, size_t site) { return &a->site[site].grid; }
const double *attribution_drop(const struct attribution *a, size_t site) { return a->site[site].drop; }
struct attribution_cost attribution_cost(const struct attribution *a) { return a->done; }
