/* Localization: its ranking against one full float64 run per unit, its region's joint effect and
 * its random control against runs with several units patched at once. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "probes/localize.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

#define CLOSE 2e-4 /* of an effect: two logit differences, each within 1e-4 */

enum { N = 9, MOST_UNITS = 16, MOST_LAYERS = 4 };

/* Runs of the base with the z of any set of units taken from the source. */
struct bench {
    struct reference *r;
    const struct localize_request *q;
    double *z[MOST_LAYERS];
    bool capture, unit[MOST_UNITS];
};

static void bench_hook(void *ctx, enum hook h, uint32_t layer, double *z, size_t n)
{
    struct bench *b = ctx;
    const struct arch *a = &b->r->model->arch;
    if (h != HOOK_Z) return;
    if (b->capture) {
        b->z[layer] = memcpy(zero_doubles(n), z, n * sizeof *z);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        size_t head = i / a->d_head % a->n_heads;
        if (b->unit[b->q->patch.axis == PATCH_LAYER ? layer : layer * a->n_heads + head]) z[i] = b->z[layer][i];
    }
}

/* The logit difference at the metric's position. */
static double difference(struct bench *b, const uint32_t *ids)
{
    const struct metric *m = b->q->patch.pair->metric;
    size_t V = b->r->model->arch.d_vocab;
    double *logits = zero_doubles(N * V);
    reference_run(b->r, ids, b->q->patch.pair->n, NULL, logits);
    double d = logits[m->pos * V + m->answer[0]] - logits[m->pos * V + m->foil[0]];
    free(logits);
    return d;
}

static void bench_init(struct bench *b, const struct golden *g, const struct localize_request *q, double *base, double *source)
{
    *b = (struct bench){.r = reference_new(g->view), .q = q, .capture = true};
    *base = difference(b, q->patch.denoise ? q->patch.pair->corrupt : q->patch.pair->clean);
    b->r->hook = bench_hook;
    b->r->ctx = b;
    *source = difference(b, q->patch.denoise ? q->patch.pair->clean : q->patch.pair->corrupt);
    b->capture = false;
}

static void bench_release(struct bench *b)
{
    for (int l = 0; l < MOST_LAYERS; l++) free(b->z[l]);
    reference_free(b->r);
}

static struct localize *localize(const struct golden *g, const struct localize_request *q)
{
    struct err e = {0};
    struct localize *l = localize_new(q, &e);
    must(l && STEP_ALL(localize_step(l, g->session, &e)), e);
    return l;
}

static void near(const char *what, double got, double want)
{
    if (!(fabs(got - want) <= CLOSE)) fail_msg("%s is %.7f, %.7f expected", what, got, want);
}

static const uint32_t answer[] = {42}, foil[] = {7};

static struct metric metric = {METRIC_LOGIT_DIFF, answer, foil, 1, 1, N - 1, NULL};

static void make(const struct golden *g, struct localize_request *q, uint32_t *clean, uint32_t *corrupt)
{
    static struct patch_pair pair;
    pair = (struct patch_pair){clean, corrupt, N, &metric};
    metric.pos = N - 1;
    uint64_t seed = 80;
    for (int i = 0; i < N; i++) clean[i] = corrupt[i] = below(&seed, g->model->arch.d_vocab);
    corrupt[2] = (clean[2] + 5) % g->model->arch.d_vocab;
    corrupt[5] = (clean[5] + 9) % g->model->arch.d_vocab;
    *q = (struct localize_request){.patch = {.view = g->view, .pair = &pair, .n_pairs = 1, .n_metrics = 1, .denoise = true, .site = HOOK_Z,
                                             .axis = PATCH_LAYER_HEAD},
                                   .k = 3, .n_control = 20, .seed = 1};
}

/* Scores are effects towards the source; the region is the best k, patched together. */
static void check_ranking(const struct golden *g, const struct localize_request *q)
{
    double base, source;
    struct bench b;
    bench_init(&b, g, q, &base, &source);
    const struct arch *a = &g->model->arch;
    const uint32_t *ids = q->patch.denoise ? q->patch.pair->corrupt : q->patch.pair->clean;
    uint32_t heads = q->patch.axis == PATCH_LAYER ? 1 : a->n_heads;
    double sign = source >= base ? 1 : -1;
    struct localize *l = localize(g, q);
    const struct localize_result *r = localize_result(l);
    bool seen[MOST_UNITS] = {false};
    assert_int_equal(r->n_units, a->n_layers * heads);
    assert_int_equal(r->k, q->k);
    for (size_t i = 0; i < r->n_units; i++) {
        const struct unit *u = &r->ranking[i];
        size_t at = u->layer * heads + u->head;
        assert_true(u->layer < a->n_layers && u->head < heads && !seen[at]);
        seen[at] = true;
        memset(b.unit, 0, sizeof b.unit);
        b.unit[at] = true;
        near("score", u->score, sign * (difference(&b, ids) - base));
        if (i) assert_true(r->ranking[i - 1].score >= u->score);
    }
    memset(b.unit, 0, sizeof b.unit);
    for (uint32_t i = 0; i < r->k; i++) b.unit[r->ranking[i].layer * heads + r->ranking[i].head] = true;
    near("region", r->region_effect, sign * (difference(&b, ids) - base));
    assert_true(r->grid->check_full < 1e-4 && r->grid->check_identity < 1e-4);
    localize_free(l);
    bench_release(&b);
}

static void test_ranking(void **state)
{
    (void)state;
    static const char *const models[] = {"gqa_tied", "gqa_untied_odd"};
    for (size_t m = 0; m < 2; m++) {
        struct golden g;
        struct localize_request q;
        uint32_t clean[N], corrupt[N];
        golden_open(&g, models[m], NULL);
        make(&g, &q, clean, corrupt);
        for (int how = 0; how < 8; how++) {
            q.patch.denoise = how & 1;
            q.patch.axis = how & 2 ? PATCH_LAYER : PATCH_LAYER_HEAD;
            metric.pos = how & 4 ? 6 : N - 1;
            q.k = how & 2 ? 1 : 3;
            check_ranking(&g, &q);
        }
        golden_close(&g);
    }
}

/* Where as many units are left as the region has, the only random set is the rest of them: its
 * joint effect is the control's mean, without spread. */
static void test_control_of_one_set(void **state)
{
    (void)state;
    struct golden g;
    struct localize_request q;
    uint32_t clean[N], corrupt[N];
    double base, source;
    golden_open(&g, "gqa_tied", NULL);
    make(&g, &q, clean, corrupt);
    q.k = 6; /* of 12 */
    struct bench b;
    bench_init(&b, &g, &q, &base, &source);
    struct localize *l = localize(&g, &q);
    const struct localize_result *r = localize_result(l);
    for (size_t i = r->k; i < r->n_units; i++) b.unit[r->ranking[i].layer * 4 + r->ranking[i].head] = true;
    near("control", r->control.mean, (source >= base ? 1 : -1) * (difference(&b, corrupt) - base));
    assert_int_equal(r->n_control, 20);
    assert_true(r->control.sd < 1e-6);
    assert_true(r->control.percentile == (r->region_effect > r->control.mean ? 100 : 0));
    localize_free(l);
    bench_release(&b);
    golden_close(&g);
}

/* Over many prompts: a region usually beats the rest, and where it does not the percentile says so.
 * Two sets: their effects are scores of single units, and lie at the mean ± sd/√2. */
static void test_statistics(void **state)
{
    (void)state;
    struct golden g;
    struct localize_request q;
    uint32_t clean[N], corrupt[N];
    int beaten = 0, beats = 0, spread = 0;
    golden_open(&g, "gqa_untied_odd", NULL);
    make(&g, &q, clean, corrupt);
    for (uint32_t i = 0; i < 120; i++) {
        corrupt[2] = i, corrupt[5] = 299 - i;
        q.seed = i;
        q.k = 5; /* of 10: one possible set */
        q.n_control = 3;
        struct localize *l = localize(&g, &q);
        const struct localize_result *r = localize_result(l);
        bool more = r->region_effect > r->control.mean;
        assert_true(r->control.percentile == (more ? 100 : 0));
        more ? beats++ : beaten++;
        localize_free(l);
        if (i >= 20) continue;
        q.k = 1;
        q.n_control = 2;
        l = localize(&g, &q);
        r = localize_result(l);
        for (int side = -1; side <= 1; side += 2) {
            double at = r->control.mean + side * r->control.sd / sqrt(2), off = HUGE_VAL;
            for (size_t k = 1; k < r->n_units; k++) off = fmin(off, fabs(r->ranking[k].score - at));
            assert_true(off < 1e-5);
        }
        spread += r->control.sd > 1e-2;
        localize_free(l);
    }
    if (!beaten || beats < beaten || spread < 5) fail_msg("beats %d, beaten %d, spread %d", beats, beaten, spread);
    golden_close(&g);
}

/* Random sets: between what any set of units outside the region can do; the same for a seed. */
static void test_control(void **state)
{
    (void)state;
    struct golden g;
    struct localize_request q;
    uint32_t clean[N], corrupt[N];
    double base, source, least = HUGE_VAL, most = -HUGE_VAL, sum = 0;
    golden_open(&g, "gqa_tied", NULL);
    make(&g, &q, clean, corrupt);
    q.k = 1;
    q.n_control = 400;
    struct bench b;
    bench_init(&b, &g, &q, &base, &source);
    struct localize *l = localize(&g, &q), *again = localize(&g, &q);
    const struct localize_result *r = localize_result(l), *s = localize_result(again);
    for (size_t i = 1; i < r->n_units; i++) { /* sets of one: the other units' own scores, each as likely */
        least = fmin(least, r->ranking[i].score);
        most = fmax(most, r->ranking[i].score);
        sum += r->ranking[i].score;
    }
    double mean = sum / 11, squares = 0;
    for (size_t i = 1; i < r->n_units; i++) squares += pow(r->ranking[i].score - mean, 2);
    double sd = sqrt(squares / 11);
    assert_true(r->control.mean > least && r->control.mean < most);
    assert_true(fabs(r->control.mean - mean) < 5 * sd / sqrt(400));
    assert_true(fabs(r->control.sd / sd - 1) < 0.3);
    near("region", r->region_effect, r->ranking[0].score);
    assert_true(r->control.percentile == 100); /* the best beats every other */
    assert_true(r->control.mean == s->control.mean && r->control.sd == s->control.sd && r->control.percentile == s->control.percentile);
    localize_free(again);
    q.seed = 2;
    again = localize(&g, &q);
    assert_true(localize_result(again)->control.mean != r->control.mean);
    localize_free(again);
    localize_free(l);
    bench_release(&b);
    golden_close(&g);
}

/* A region of more than half the units leaves nothing to compare with; one of all is all. */
static void test_large_regions(void **state)
{
    (void)state;
    struct golden g;
    struct localize_request q;
    uint32_t clean[N], corrupt[N];
    golden_open(&g, "gqa_tied", NULL);
    make(&g, &q, clean, corrupt);
    static const uint32_t sizes[][2] = {{7, 7}, {12, 12}, {13, 12}, {1000, 12}};
    for (size_t i = 0; i < 4; i++) {
        q.k = sizes[i][0];
        struct localize *l = localize(&g, &q);
        assert_int_equal(localize_result(l)->k, sizes[i][1]);
        assert_int_equal(localize_result(l)->n_control, 0);
        localize_free(l);
    }
    golden_close(&g);
}

/* ---- attention_drift: against patterns of plain runs ------------------------------------------------------- */

struct patterns {
    double *layer[MOST_LAYERS]; /* [head][n][n] */
};

static void keep_pattern(void *ctx, enum hook h, uint32_t layer, double *p, size_t n)
{
    struct patterns *x = ctx;
    if (h == HOOK_PATTERN) x->layer[layer] = memcpy(zero_doubles(n), p, n * sizeof *p);
}

static struct patterns patterns_of(struct reference *r, const uint32_t *ids, uint32_t n)
{
    struct patterns p = {{NULL}};
    r->hook = keep_pattern;
    r->ctx = &p;
    double *logits = zero_doubles((size_t)n * r->model->arch.d_vocab);
    reference_run(r, ids, n, NULL, logits);
    free(logits);
    return p;
}

/* Of a head of both runs: one less what the rows have in common. */
static double apart(const struct patterns p[2], uint32_t layer, uint32_t head, uint32_t n)
{
    double sum = 0;
    for (size_t k = 0; k < (size_t)n * n; k++)
        sum += fmin(p[0].layer[layer][(size_t)head * n * n + k], p[1].layer[layer][(size_t)head * n * n + k]);
    return 1 - sum / n;
}

static void check_drift(const struct golden *g, struct localize_request *q)
{
    const struct arch *a = &g->model->arch;
    const uint32_t heads = q->patch.axis == PATCH_LAYER ? 1 : a->n_heads, each = a->n_heads / heads;
    struct reference *r = reference_new(g->view);
    double want[MOST_UNITS] = {0};
    for (size_t i = 0; i < q->patch.n_pairs; i++) {
        const struct patch_pair *pair = &q->patch.pair[i];
        struct patterns p[2] = {patterns_of(r, pair->clean, pair->n), patterns_of(r, pair->corrupt, pair->n)};
        for (uint32_t u = 0; u < a->n_layers * a->n_heads; u++)
            want[u / each] += apart(p, u / a->n_heads, u % a->n_heads, pair->n) / each / (double)q->patch.n_pairs;
        for (int l = 0; l < MOST_LAYERS; l++) free(p[0].layer[l]), free(p[1].layer[l]);
    }
    reference_free(r);
    struct localize *l = localize(g, q);
    const struct localize_result *got = localize_result(l);
    size_t done, total;
    localize_progress(l, &done, &total);
    assert_true(done == total && !got->grid && got->n_units == a->n_layers * heads);
    for (size_t i = 0; i < got->n_units; i++) {
        const struct unit *u = &got->ranking[i];
        const double drift = want[u->layer * heads + u->head];
        if (!(fabs(u->score - drift) <= 2e-5)) fail_msg("drift of %u.%u is %.7f, %.7f expected", u->layer, u->head, u->score, drift);
        assert_true(u->score > 0 && u->score < 1 && (i == 0 || got->ranking[i - 1].score >= u->score));
    }
    localize_free(l);
}

static void test_drift_is_how_far_patterns_are_apart(void **state)
{
    (void)state;
    static const char *const models[] = {"gqa_tied", "gqa_untied_odd"};
    for (size_t m = 0; m < 2; m++) {
        struct golden g;
        struct localize_request q;
        uint32_t clean[N], corrupt[N];
        golden_open(&g, models[m], NULL);
        make(&g, &q, clean, corrupt);
        struct metric early = metric;
        early.pos = N - 3; /* of the shorter pair */
        const struct patch_pair pairs[] = {{clean, corrupt, N, &metric}, {corrupt, clean, N - 2, &early}};
        q.patch.pair = pairs;
        q.patch.n_pairs = 2;
        q.method = LOCALIZER_ATTENTION_DRIFT;
        for (int how = 0; how < 2; how++) {
            q.patch.axis = how ? PATCH_LAYER : PATCH_LAYER_HEAD;
            q.k = 1;
            check_drift(&g, &q);
        }
        golden_close(&g);
    }
}

/* The region is patched as `patch` patches it: of the same units the same effect. Equal prompts do not drift. */
static void test_drifts_region_is_measured_as_patch_measures(void **state)
{
    (void)state;
    struct golden g;
    struct localize_request q;
    uint32_t clean[N], corrupt[N];
    double base, source;
    golden_open(&g, "gqa_tied", NULL);
    make(&g, &q, clean, corrupt);
    struct bench b;
    bench_init(&b, &g, &q, &base, &source);
    q.method = LOCALIZER_ATTENTION_DRIFT;
    struct localize *l = localize(&g, &q);
    const struct localize_result *r = localize_result(l);
    for (uint32_t i = 0; i < r->k; i++) b.unit[r->ranking[i].layer * 4 + r->ranking[i].head] = true;
    near("region", r->region_effect, (source >= base ? 1 : -1) * (difference(&b, corrupt) - base));
    assert_int_equal(r->n_control, 20);
    localize_free(l);
    memcpy(corrupt, clean, sizeof clean);
    l = localize(&g, &q);
    r = localize_result(l);
    for (size_t i = 0; i < r->n_units; i++) assert_true(r->ranking[i].score == 0);
    localize_free(l);
    bench_release(&b);
    golden_close(&g);
}

/* ---- halves ---------------------------------------------------------------------------------------------- */

static void test_halves_are_of_whole_groups(void **state)
{
    (void)state;
    static const uint32_t group[] = {0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 4};
    struct err e = {0};
    bool moved = false;
    size_t first = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct half h[2];
        bool side[2][5] = {{false}};
        must(halves_make(h, group, 11, 5, true, seed, &e), e);
        assert_int_equal(h[0].n + h[1].n, 11);
        assert_int_equal(h[0].n_groups, 3);
        assert_int_equal(h[1].n_groups, 2);
        for (int k = 0; k < 2; k++)
            for (size_t i = 0; i < h[k].n; i++) {
                side[k][group[h[k].row[i]]] = true;
                assert_true(h[k].group[i] < h[k].n_groups && (i == 0 || h[k].row[i] > h[k].row[i - 1]));
                for (size_t j = 0; j < i; j++)
                    assert_int_equal(h[k].group[i] == h[k].group[j], group[h[k].row[i]] == group[h[k].row[j]]);
            }
        for (int g = 0; g < 5; g++) assert_true(side[0][g] != side[1][g]);
        if (seed == 0) first = h[0].row[0] + 11 * h[0].row[1];
        moved = moved || first != h[0].row[0] + 11 * h[0].row[1];
        halves_release(h);
        must(halves_make(h, group, 11, 5, false, seed, &e), e);
        for (size_t i = 0; i < 11; i++) assert_true(h[0].row[i] == i && h[1].row[i] == i && h[0].n_groups == 5);
        halves_release(h);
    }
    assert_true(moved);
}

/* ---- head_scale: against a fit of its own, and its losses -------------------------------------------------- */

enum { ROWS = 5, TEXT = 8 };

struct data {
    uint32_t ids[2 * ROWS][TEXT], scored[3];
    struct fit_example example[2 * ROWS];
};

static void make_data(const struct golden *g, struct data *d)
{
    uint64_t seed = 3;
    for (uint32_t k = 0; k < 3; k++) d->scored[k] = TEXT - 4 + k;
    for (size_t i = 0; i < 2 * ROWS; i++) {
        for (int k = 0; k < TEXT; k++) d->ids[i][k] = below(&seed, g->model->arch.d_vocab);
        d->example[i] = (struct fit_example){.ids = d->ids[i], .n = TEXT, .scored = d->scored, .target = d->ids[i] + TEXT - 3, .n_scored = 3};
    }
}

/* The loss at these parameters, by the fit's own tape. */
static double loss_at(const struct golden *g, struct stream_params *p, const struct fit_example *x, size_t n)
{
    struct err e = {0};
    const struct fit_request q = {.view = g->view, .params = p, .example = x, .n = n, .loss = FIT_CE, .task = 1, .epochs = 1,
                                  .batch = (uint32_t)n};
    struct fit *f = fit_new(&q, &e);
    must(f && STEP_ALL(fit_step(f, g->session, &e)), e);
    size_t done;
    double loss = fit_losses(f, &done)[0];
    fit_free(f);
    return loss;
}

static void test_scales_are_a_fits(void **state)
{
    (void)state;
    struct golden g;
    struct data d;
    struct err e = {0};
    golden_open(&g, "gqa_tied", NULL);
    make_data(&g, &d);
    struct localize_request q = {.patch = {.view = g.view, .site = HOOK_Z, .axis = PATCH_LAYER_HEAD}, .method = LOCALIZER_HEAD_SCALE,
                                 .example = d.example, .n_data = ROWS, .k = 4, .n_control = 3, .seed = 7};
    localizer_defaults(q.param);
    q.param[LOCALIZER_HEAD_SCALE_lr] = 0.05;
    struct localize *l = localize(&g, &q);
    const struct localize_result *r = localize_result(l);
    struct stream_params *a = stream_params_new(&g.model->arch, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL, NULL, 0, &e);
    must(a, e);
    const double before = loss_at(&g, a, d.example, ROWS);
    stream_params_draw(a, 1e-3, 7);
    const struct fit_request fq = {.view = g.view, .params = a, .example = d.example, .n = ROWS, .loss = FIT_CE, .task = 1, .lr = 0.05,
                                   .l1 = 1e-3, .clip = 1, .beta = 0.5, .epochs = 5, .batch = 8, .seed = 7};
    struct fit *f = fit_new(&fq, &e);
    must(f && STEP_ALL(fit_step(f, g.session, &e)), e);
    for (size_t i = 0; i < r->n_units; i++) {
        const struct unit *u = &r->ranking[i];
        assert_true(u->score == stream_unit_norm(a, (size_t)u->layer * g.model->arch.n_heads + u->head));
    }
    for (size_t i = 0; i < a->n_units; i++) { /* the others' scales are not there */
        bool in = false;
        for (uint32_t k = 0; k < r->k; k++) in = in || r->ranking[k].layer * g.model->arch.n_heads + r->ranking[k].head == i;
        for (uint32_t c = 0; !in && c < a->each; c++) a->theta[i * a->each + c] = 0;
    }
    const double with = loss_at(&g, a, d.example, ROWS);
    assert_true(fabs(before - with) > 1e-3);
    assert_true(fabs(r->region_effect - (before - with)) < 1e-5);
    assert_int_equal(r->n_losses, 5);
    fit_free(f);
    stream_params_free(a);
    localize_free(l);
    golden_close(&g);
}

/* Examples of which some are turned round: the loss is as if they were counted the other way. */
static void test_a_mask_moves_every_pair_towards_its_source(void **state)
{
    (void)state;
    struct golden g;
    struct localize_request q;
    uint32_t clean[N], corrupt[N];
    golden_open(&g, "gqa_tied", NULL);
    make(&g, &q, clean, corrupt);
    const struct patch_pair both[] = {{clean, corrupt, N, &metric}, {corrupt, clean, N, &metric}}; /* one of them is turned */
    q.patch.pair = both;
    q.patch.n_pairs = 2;
    q.method = LOCALIZER_DCM;
    localizer_defaults(q.param);
    q.param[LOCALIZER_DCM_l1] = 1e-4;
    struct localize *l = localize(&g, &q);
    const struct localize_result *r = localize_result(l);
    assert_true(r->n_losses == 100 && r->losses[99] <= r->losses[0] + 1e-9);
    assert_true(r->k > 0 && r->region_effect > 0 && r->effect.n == 2);
    for (size_t i = 0; i < r->n_units; i++) assert_true(r->ranking[i].score >= 0 && r->ranking[i].score <= 1);
    for (size_t i = 0; i < r->n_units; i++) assert_int_equal(i < r->k, r->ranking[i].score > 0.5);
    localize_free(l);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranking),
        cmocka_unit_test(test_control_of_one_set),
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_large_regions),
        cmocka_unit_test(test_drift_is_how_far_patterns_are_apart),
        cmocka_unit_test(test_drifts_region_is_measured_as_patch_measures),
        cmocka_unit_test(test_halves_are_of_whole_groups),
        cmocka_unit_test(test_scales_are_a_fits),
        cmocka_unit_test(test_a_mask_moves_every_pair_towards_its_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
