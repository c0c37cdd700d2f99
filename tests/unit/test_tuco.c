/* TuCo (arXiv 2506.23423), definitions 4.1 and the acceptance tests drawn from them: against float64
 * blocks of both views run on the stream of the tuned one, and on vectors whose answer is known. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "probes/tuco.h"
#include "support/families.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"

static struct tuco *tuco(const struct golden *g, struct view *view, struct view *against, const struct tuco_input *in, size_t n)
{
    struct err e = {0};
    struct tuco *t = tuco_new(view, against, in, n, &e);
    must(t && STEP_ALL(tuco_step(t, g->session, &e)), e);
    return t;
}

/* The base with a random change of one matrix, relative to its own size. */
static struct view *changed(const struct golden *g, struct view *parent, enum role role, uint32_t layer, double scale)
{
    size_t t;
    uint64_t seed = 60 + (uint64_t)role + layer;
    assert_true(model_role(g->model, role, layer, &t));
    float *change = random_floats(&seed, g->model->tensors[t].n_elements, scale);
    struct view *v = view_plus(g, parent, t, change);
    free(change);
    return v;
}

/* P, F and the layers' own terms at every position, from the formulas: [n][d] each. */
struct sums {
    double *P, *F, *layer_p, *layer_f; /* layer_*: [L][n][d] */
    double *x0, *xL;
};

static struct sums by_definition(const struct golden *g, struct view *view, struct view *against, const uint32_t *ids, uint32_t n)
{
    struct reference *ft = reference_new(view), *pt = reference_new(against);
    size_t values = (size_t)n * g->model->arch.d_model, L = g->model->arch.n_layers;
    struct sums s = {zero_doubles(values), zero_doubles(values), zero_doubles(L * values), zero_doubles(L * values),
                     zero_doubles(values), zero_doubles(values)};
    double *x = s.xL, *y = zero_doubles(values), *z = zero_doubles(values);
    reference_embed(ft, ids, n, x);
    memcpy(s.x0, x, values * sizeof *x);
    for (uint32_t l = 0; l < L; l++) {
        memcpy(y, x, values * sizeof *x);
        memcpy(z, x, values * sizeof *x);
        reference_block(ft, l, y, n);
        reference_block(pt, l, z, n); /* the other view's block, on the tuned stream */
        for (size_t i = 0; i < values; i++) {
            s.P[i] += s.layer_p[l * values + i] = z[i] - x[i];
            s.F[i] += s.layer_f[l * values + i] = y[i] - z[i];
        }
        memcpy(x, y, values * sizeof *x);
    }
    free(y), free(z);
    reference_free(ft);
    reference_free(pt);
    return s;
}

static void sums_free(struct sums *s) { free(s->P), free(s->F), free(s->layer_p), free(s->layer_f), free(s->x0), free(s->xL); }

static double l1(const double *v, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += fabs(v[i]);
    return s;
}

static void near(const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want)))) fail_msg("%s is %.9g, %.9g expected", what, got, want);
}

static void check_views(const struct golden *g, struct view *view, struct view *against)
{
    size_t d = g->model->arch.d_model, L = g->model->arch.n_layers;
    for (int s = 0; s < 2; s++) {
        uint32_t n = g->n[s];
        struct sums want = by_definition(g, view, against, g->ids[s], n);
        const struct tuco_input in[2] = {{.ids = g->ids[s], .n = n, .all_positions = true}, {.ids = g->ids[s], .n = n}};
        struct tuco *t = tuco(g, view, against, in, 2);
        for (int k = 0; k < 2; k++) { /* all positions, or only the last: the same */
            const struct tuco_score *c = tuco_result(t, (size_t)k);
            double p = l1(want.P + (n - 1) * d, d), f = l1(want.F + (n - 1) * d, d);
            near("ptc", c->ptc, p, 1e-5);
            near("ftc", c->ftc, f, 1e-5);
            near("tuco", c->tuco, f / (p + f), 1e-5);
            assert_true(c->check <= 1e-5); /* x_0 + P + F is the stream */
            for (size_t l = 0; l < L; l++) {
                near("layer ptc", c->layer[l].ptc, l1(want.layer_p + (l * n + n - 1) * d, d), 1e-5);
                near("layer ftc", c->layer[l].ftc, l1(want.layer_f + (l * n + n - 1) * d, d), 1e-5);
            }
            double beta = 0, sum_p[512] = {0}, sum_f[512] = {0};
            assert_true(d <= 512);
            for (size_t l = 0; l < L; l++) {
                for (size_t i = 0; i < d; i++) {
                    sum_p[i] += want.layer_p[(l * n + n - 1) * d + i];
                    sum_f[i] += want.layer_f[(l * n + n - 1) * d + i];
                }
                p = l1(sum_p, d), f = l1(sum_f, d);
                near("sum ptc", c->layer[l].sum.ptc, p, 1e-5);
                near("sum ftc", c->layer[l].sum.ftc, f, 1e-5);
                near("beta", c->layer[l].beta, f / (p + f), 1e-5);
                beta = fmax(beta, f / (p + f));
            }
            near("beta_max", c->beta_max, beta, 1e-5);
            assert_true(k ? c->position == NULL : c->position[n - 1] == c->tuco);
            for (uint32_t r = 0; c->position && r < n; r++) {
                p = l1(want.P + r * d, d), f = l1(want.F + r * d, d);
                near("position", c->position[r], f / (p + f), 1e-5);
            }
        }
        assert_true(fabs(tuco_result(t, 0)->tuco - tuco_result(t, 1)->tuco) <= 1e-6); /* TC-8: other products, the same */
        tuco_free(t);
        sums_free(&want);
    }
}

static void test_by_definition(void **state)
{
    (void)state;
    static const char *const models[] = {"gqa_tied", "gqa_untied_odd", "wide_head"};
    for (size_t m = 0; m < 3; m++) {
        struct golden g;
        golden_open(&g, models[m], NULL);
        struct view *attn = changed(&g, g.view, ROLE_V, 0, 0.2), *both = changed(&g, attn, ROLE_GATE, 1, 0.2);
        check_views(&g, attn, g.view);
        check_views(&g, both, g.view);
        check_views(&g, g.view, both); /* the stream is the first view's */
        check_views(&g, both, attn);
        view_drop(attn);
        view_drop(both);
        golden_close(&g);
    }
}

/* A prompt of more rows than a step takes: cached, it is what it is in one piece (TC-8). */
static void test_long_prompt(void **state)
{
    (void)state;
    enum { N = RUN_ROWS + 130 };
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    struct view *view = changed(&g, g.view, ROLE_GATE, 1, 0.2);
    uint32_t ids[N];
    for (uint32_t i = 0; i < N; i++) ids[i] = (i * 37 + 11) % g.model->arch.d_vocab;
    struct sums want = by_definition(&g, view, g.view, ids, N);
    const struct tuco_input in = {.ids = ids, .n = N, .all_positions = true};
    struct tuco *t = tuco(&g, view, g.view, &in, 1);
    size_t d = g.model->arch.d_model;
    for (uint32_t r = 0; r < N; r += 47) {
        double p = l1(want.P + r * d, d), f = l1(want.F + r * d, d);
        near("position", tuco_result(t, 0)->position[r], f / (p + f), 1e-5);
    }
    near("tuco", tuco_result(t, 0)->tuco, l1(want.F + (N - 1) * d, d) / (l1(want.P + (N - 1) * d, d) + l1(want.F + (N - 1) * d, d)), 1e-5);
    assert_true(tuco_result(t, 0)->check <= 1e-5);

    /* few positions, in both chunks: run apart from the rest */
    const uint32_t pos[] = {0, 7, RUN_ROWS - 1, RUN_ROWS, RUN_ROWS + 60};
    const struct tuco_input few[] = {{.ids = ids, .n = N, .pos = pos, .n_pos = 5}, {.ids = ids, .n = N}};
    struct tuco *apart = tuco(&g, view, g.view, few, 2);
    for (size_t k = 0; k < 5; k++) near("listed", tuco_result(apart, 0)->position[k], tuco_result(t, 0)->position[pos[k]], 1e-6);
    for (size_t k = 0; k < 2; k++) {
        const struct tuco_score *c = tuco_result(apart, k);
        assert_int_equal(c->n_positions, k ? 0 : 5);
        near("last alone", c->tuco, tuco_result(t, 0)->tuco, 1e-6);
        assert_true(c->check <= 1e-5 && c->sequence_beta_max == 0);
    }
    tuco_free(apart);
    tuco_free(t);
    sums_free(&want);
    view_drop(view);
    golden_close(&g);
}

/* TC-1. A view against itself, and against others that hold the same weights elsewhere: a view, a model. Asked for
 * all positions, or for the last alone, whose rows then go through products of their own. */
static void test_same_is_zero(void **state)
{
    (void)state;
    struct golden g, again;
    golden_open(&g, "gqa_tied", NULL);
    struct view *twin = changed(&g, g.view, ROLE_DOWN, 1, 0), *edited = changed(&g, g.view, ROLE_Q, 1, 0.3);
    golden_open(&again, "gqa_tied", NULL);
    struct view *pairs[][2] = {{g.view, g.view}, {twin, g.view}, {g.view, twin}, {edited, edited}, {g.view, again.view}};
    for (size_t i = 0; i < 10; i++) {
        const struct tuco_input in = {.ids = g.ids[0], .n = g.n[0], .all_positions = i < 5, .output_co = true};
        struct tuco *t = tuco(&g, pairs[i % 5][0], pairs[i % 5][1], &in, 1);
        const struct tuco_score *c = tuco_result(t, 0);
        assert_true(c->tuco == 0 && c->ftc == 0 && c->ptc > 0 && c->beta_max == 0 && c->output_co == 0);
        for (uint32_t l = 0; l < g.model->arch.n_layers; l++)
            assert_true(c->layer[l].ftc == 0 && c->layer[l].attn.ftc == 0 && c->layer[l].mlp.ftc == 0);
        for (uint32_t p = 0; c->position && p < g.n[0]; p++) assert_true(c->position[p] == 0);
        tuco_free(t);
    }
    golden_close(&again);
    view_drop(twin);
    view_drop(edited);
    golden_close(&g);
}

/* TC-7. One down-projection changed: F = ΔW·u at the last token, and no other layer contributes. */
static void test_single_matrix_edit(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    uint32_t layer = 1, d = g.model->arch.d_model, m = g.model->arch.d_mlp, n = g.n[0];
    double scales[] = {0.1, 0.01, 0.001}, seen[3];
    for (int k = 0; k < 3; k++) {
        struct view *v = changed(&g, g.view, ROLE_DOWN, layer, scales[k]);
        size_t t;
        assert_true(model_role(g.model, ROLE_DOWN, layer, &t));
        const float *now = held_floats(v, t), *was = held_floats(g.view, t);
        float *u = random_floats(&(uint64_t){1}, (size_t)n * m, 1);
        struct tap tap = {.site = {HOOK_MLP_POST, layer}, .op = TAP_READ, .every_pos = true, .dst = u};
        struct taps taps = {&tap, 1};
        struct run_input in = {.ids = g.ids[0], .n = n};
        struct run *r = run_new(v, &in, 1, &taps, &e);
        must(r && STEP_ALL(run_step(r, g.session, &e)), e);
        run_free(r);
        double f = 0;
        for (uint32_t i = 0; i < d; i++) {
            double moved = 0;
            for (uint32_t j = 0; j < m; j++) moved += ((double)now[i * m + j] - (double)was[i * m + j]) * (double)u[(n - 1) * m + j];
            f += fabs(moved);
        }
        const struct tuco_input one = {.ids = g.ids[0], .n = n};
        struct tuco *c = tuco(&g, v, g.view, &one, 1);
        const struct tuco_score *s = tuco_result(c, 0);
        /* FTC is a small difference of float32 addends: rounding of those, some 1e-7 each */
        if (!(fabs(s->ftc - f) < 3e-6 * d)) fail_msg("scale %g: ‖F‖ %.9g, %.9g expected", scales[k], s->ftc, f);
        for (uint32_t l = 0; l < g.model->arch.n_layers; l++) assert_true(l == layer ? s->layer[l].ftc > 0 : s->layer[l].ftc == 0);
        seen[k] = s->tuco;
        tuco_free(c);
        free(u);
        view_drop(v);
    }
    assert_true(seen[0] > 0.01); /* and it shrinks with the edit, in proportion once it is small */
    assert_true(fabs(seen[1] / seen[2] - 10) < 0.5);
    golden_close(&g);
}

/* TC-4, TC-5, TC-6, TC-10 on vectors. */
static void test_ratio(void **state)
{
    (void)state;
    double p1, f1;
    const double h[3] = {1, -2, 0.5};
    double P[3] = {0}, F[3] = {0};
    /* PTC = 0, 0, h, −h/2; FTC = h, −h/2, 0, 0: sums h/2 and h/2 */
    for (int i = 0; i < 3; i++) P[i] = h[i] - h[i] / 2, F[i] = h[i] - h[i] / 2;
    assert_true(tuco_ratio(P, F, 3, &p1, &f1) == 0.5);
    assert_true(p1 == 1.75 && f1 == 1.75);
    /* f_PT(x,0) = h, f_PT(x,1) = x; f_FT(x,0) = 2h, f_FT(x,1) = 0 from x_0 = 0: P = 3h, F = −h */
    double x[3] = {0};
    for (int i = 0; i < 3; i++) {
        double pt0 = h[i], ft0 = 2 * h[i];
        x[i] = ft0;
        P[i] = pt0 + x[i], F[i] = (ft0 - pt0) + (0 - x[i]);
        assert_true(P[i] == 3 * h[i] && F[i] == -h[i]);
    }
    assert_true(tuco_ratio(P, F, 3, NULL, NULL) == 0.25);
    assert_true(tuco_ratio(F, P, 3, NULL, NULL) == 0.75); /* roles exchanged: 1 − TuCo */
    for (int i = 0; i < 3; i++) P[i] *= -1024, F[i] *= -1024;
    assert_true(tuco_ratio(P, F, 3, NULL, NULL) == 0.25);
    const double none[3] = {0};
    assert_true(tuco_ratio(none, none, 3, &p1, &f1) == 0 && p1 == 0 && f1 == 0);
    assert_true(tuco_ratio(none, h, 3, NULL, NULL) == 1);
    assert_true(tuco_ratio(h, none, 3, NULL, NULL) == 0);
    /* L1, not L2: of (3, 4) and (5, 0) these differ */
    assert_true(tuco_ratio((const double[]){3, 4}, (const double[]){5, 0}, 2, NULL, NULL) == 5.0 / 12);
}

/* TC-11. A thousand random prompts, single tokens among them; and each as if alone. */
static void test_range(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    enum { N = 1000, MOST = 8 };
    static uint32_t ids[N][MOST];
    static struct tuco_input in[N];
    uint64_t seed = 70;
    struct view *v = changed(&g, g.view, ROLE_O, 0, 0.1);
    for (int i = 0; i < N; i++) {
        in[i] = (struct tuco_input){.ids = ids[i], .n = 1 + (uint32_t)i % MOST, .all_positions = i % 3 == 0};
        for (uint32_t k = 0; k < in[i].n; k++) ids[i][k] = below(&seed, g.model->arch.d_vocab);
    }
    struct tuco *t = tuco(&g, v, g.view, in, N);
    for (size_t i = 0; i < N; i++) {
        const struct tuco_score *c = tuco_result(t, i);
        assert_true(c->tuco > 0 && c->tuco < 1 && c->check < 1e-5);
        for (uint32_t p = 0; c->position && p < in[i].n; p++) assert_true(c->position[p] >= 0 && c->position[p] <= 1);
        if (i % 100) continue;
        struct tuco *alone = tuco(&g, v, g.view, &in[i], 1);
        assert_true(tuco_result(alone, 0)->tuco == c->tuco);
        tuco_free(alone);
    }
    size_t done, total, rows = 0;
    tuco_progress(t, &done, &total);
    for (size_t i = 0; i < N; i++) rows += in[i].n;
    assert_true(done == total && total == rows * g.model->arch.n_layers);
    tuco_free(t);
    view_drop(v);
    golden_close(&g);
}

/* Only what a layer is made of counts as the layer: with the embeddings changed all layers are shared. */
static void test_ends_are_no_layer(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    struct view *ends = changed(&g, g.view, ROLE_EMBED, 0, 0.5), *more = changed(&g, ends, ROLE_HEAD, 0, 0.5);
    assert_true(pair_shares_all(more, g.view));
    const struct tuco_input in = {.ids = g.ids[0], .n = g.n[0], .output_co = true};
    struct tuco *t = tuco(&g, more, g.view, &in, 1);
    assert_true(tuco_result(t, 0)->tuco == 0 && tuco_result(t, 0)->output_co > 0.01); /* each run its own x_0 */
    tuco_free(t);
    view_drop(ends);
    view_drop(more);
    golden_close(&g);
}

/* ---- scripted blocks ------------------------------------------------------------------------------------- */

enum { D = 3 };
static const float H[D] = {1, -2, 0.5f}, ZERO[D];

static void times(float c, const float *v, float *out)
{
    for (int i = 0; i < D; i++) out[i] = c * v[i];
}

/* What blocks that add view and against, all of it in their MLPs, come to. */
static struct tuco_layer fed(const float *view, const float *against, double *P, double *F)
{
    struct tuco_layer out;
    tuco_add(&(struct tuco_addends){{ZERO, ZERO}, {view, against}}, D, P, F, &out);
    return out;
}

/* TC-4. PTC = 0, 0, h, −h/2 and FTC = h, −h/2, 0, 0: β is 1 in the middle and 1/2 at the end. */
static void test_scripted_maximum(void **state)
{
    (void)state;
    static const float ptc[] = {0, 0, 1, -0.5f}, ftc[] = {1, -0.5f, 0, 0};
    static const double beta[] = {1, 1, 1.0 / 3, 0.5};
    double P[D] = {0}, F[D] = {0}, most = 0;
    for (int l = 0; l < 4; l++) {
        float view[D], against[D];
        times(ptc[l] + ftc[l], H, view);
        times(ptc[l], H, against);
        struct tuco_layer n = fed(view, against, P, F);
        near("beta", n.beta, beta[l], 1e-12);
        assert_true(n.attn.ptc == 0 && n.attn.ftc == 0 && n.mlp.ptc == n.ptc && n.mlp.ftc == n.ftc);
        most = fmax(most, n.beta);
    }
    assert_true(most == 1 && tuco_ratio(P, F, D, NULL, NULL) == 0.5);
}

/* TC-5. From x_0 = 0, f_PT = h then x, f_FT = 2h then 0: inside the two differ, and their outputs do not. */
static void test_scripted_cancelling(void **state)
{
    (void)state;
    double P[D] = {0}, F[D] = {0};
    float x[D], y[D];
    times(2, H, x);
    fed(x, H, P, F);    /* at 0 */
    fed(ZERO, x, P, F); /* at 2h */
    for (int i = 0; i < D; i++) assert_true(P[i] == 3 * (double)H[i] && F[i] == -(double)H[i]);
    assert_true(tuco_ratio(P, F, D, NULL, NULL) == 0.25);
    times(2, H, y); /* against alone: h, then h again */
    assert_true(tuco_output_co(x, y, D) == 0 && tuco_output_co(y, H, D) == 0.5 && tuco_output_co(ZERO, ZERO, D) == 0);
}

/* TC-12. ‖x_L^FT − x_L^PT‖₁ ≤ L·M·(1+B)^L·β/(1−β) where PT's blocks are linear maps and FT's are others. */
static void test_bound(void **state)
{
    (void)state;
    enum { L = 3 };
    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t s = seed;
        double P[D] = {0}, F[D] = {0}, B = 0, M = 0, beta = 0, apart = 0;
        float pt[L][D][D], ft[L][D][D], x[D], y[D];
        for (int i = 0; i < D; i++) y[i] = x[i] = (float)uniform(&s, 1);
        for (int l = 0; l < L; l++)
            for (int i = 0; i < D * D; i++) {
                pt[l][i / D][i % D] = (float)uniform(&s, 0.5);
                ft[l][i / D][i % D] = pt[l][i / D][i % D] + (float)uniform(&s, 0.1);
            }
        for (int l = 0; l < L; l++) {
            float tuned[D] = {0}, before[D] = {0}, alone[D] = {0};
            for (int c = 0; c < D; c++) {
                double column = 0;
                for (int r = 0; r < D; r++) {
                    column += fabs((double)pt[l][r][c]);
                    tuned[r] += ft[l][r][c] * x[c], before[r] += pt[l][r][c] * x[c], alone[r] += pt[l][r][c] * y[c];
                }
                B = fmax(B, column);
            }
            struct tuco_layer n = fed(tuned, before, P, F);
            M = fmax(M, n.ptc);
            beta = fmax(beta, n.beta);
            for (int i = 0; i < D; i++) x[i] += tuned[i], y[i] += alone[i];
        }
        for (int i = 0; i < D; i++) apart += fabs((double)x[i] - (double)y[i]);
        assert_true(apart > 0 && beta > 0 && beta < 1 && apart <= L * M * pow(1 + B, L) * beta / (1 - beta));
    }
}

/* ---- FTC scaling ----------------------------------------------------------------------------------------- */

static float *scaled_stream(const struct golden *g, struct view *view, struct view *against, float alpha)
{
    struct err e = {0};
    const struct view_pair pair = {.against = against, .alpha = alpha};
    uint32_t want[64], n = g->n[0];
    for (uint32_t i = 0; i < n; i++) want[i] = i;
    const struct run_input in = {.ids = g->ids[0], .n = n, .want = want, .n_want = n};
    struct run *r = run_new(view, &in, 1, NULL, &e);
    must(r && (!against || run_beside(r, &pair, &e)) && STEP_ALL(run_step(r, g->session, &e)), e);
    float *out = floats((size_t)n * g->model->arch.d_model);
    memcpy(out, run_final(r, 0), (size_t)n * g->model->arch.d_model * sizeof *out);
    run_free(r);
    return out;
}

/* TC-3. α = 1 is view to the bit, α = 0 against to the bit (they share the embedding); between, neither. */
static void check_ends(struct golden *g)
{
    struct view *v = changed(g, g->view, ROLE_O, 0, 0.2), *both = changed(g, v, ROLE_DOWN, 1, 0.2);
    size_t bytes = (size_t)g->n[0] * g->model->arch.d_model * sizeof(float);
    float *view = scaled_stream(g, both, NULL, 1), *against = scaled_stream(g, g->view, NULL, 1),
          *one = scaled_stream(g, both, g->view, 1), *none = scaled_stream(g, both, g->view, 0),
          *half = scaled_stream(g, both, g->view, 0.5f);
    assert_memory_equal(one, view, bytes);
    assert_memory_equal(none, against, bytes);
    assert_true(farthest(half, view, bytes / sizeof(float)) > 1e-3 && farthest(half, against, bytes / sizeof(float)) > 1e-3);
    float *const made[] = {view, against, one, none, half};
    for (int i = 0; i < 5; i++) mem_drop(made[i]);
    view_drop(v);
    view_drop(both);
}

static void test_ends_of_scaling(void **state)
{
    (void)state;
    families_each(false, check_ends);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_definition),
        cmocka_unit_test(test_long_prompt),      cmocka_unit_test(test_same_is_zero),
        cmocka_unit_test(test_single_matrix_edit), cmocka_unit_test(test_ratio),
        cmocka_unit_test(test_range), cmocka_unit_test(test_ends_are_no_layer),
        cmocka_unit_test(test_scripted_maximum), cmocka_unit_test(test_scripted_cancelling),
        cmocka_unit_test(test_bound), cmocka_unit_test(test_ends_of_scaling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
