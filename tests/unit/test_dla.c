/* Direct logit attribution on every family: rows against the formulas in float64 on the committed activations of
 * PyTorch, and their sum against the logits. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "probes/dla.h"
#include "support/families.h"
#include "support/numbers.h"

enum { ANSWER = 42, FOIL = 7 };

static void near(const struct golden *g, const char *what, const struct dla_row *r, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want))))
        fail_msg("%s: %s of %s %u.%u is %.9f, %.9f expected", g->model->path, what, r ? dla_word(r->kind) : "all", r ? r->layer : 0,
                 r ? r->unit : 0, got, want);
}

static struct dla *dla(const struct golden *g, const struct dla_prompt *p, size_t n, enum dla_by by)
{
    struct err e = {0};
    const struct dla_request q = {.view = g->view, .prompt = p, .n = n, .by = by};
    struct dla *d = dla_new(&q, &e);
    must(d && STEP_ALL(dla_step(d, g->session, &e)), e);
    return d;
}

/* v of the formula from the last stream x; *constant gets what the norm's and the unembedding's biases add. */
static void direction(const struct golden *g, const float *x, bool foil, double *v, double *constant)
{
    const struct arch *a = &g->model->arch;
    const struct norm n = view_final_norm(g->view);
    const struct linear head = view_head(g->view);
    float *w = floats(2 * (size_t)a->d_model);
    double mean = 0, square = 0, all = 0;
    linear_outputs(&head, ANSWER, 1, w);
    if (foil) linear_outputs(&head, FOIL, 1, w + a->d_model);
    for (uint32_t i = 0; n.kind == NORM_LAYER && i < a->d_model; i++) mean += (double)x[i] / a->d_model;
    for (uint32_t i = 0; i < a->d_model; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / a->d_model;
    *constant = 0;
    for (uint32_t i = 0; i < a->d_model; i++) {
        double u = (double)w[i] - (double)w[a->d_model + i];
        v[i] = u * ((double)n.offset + (double)n.gain[i]) / sqrt(square + (double)a->norm_eps);
        all += v[i] / a->d_model;
        if (n.bias) *constant += u * (double)n.bias[i];
    }
    for (uint32_t i = 0; n.kind == NORM_LAYER && i < a->d_model; i++) v[i] -= all;
    const float *bias = linear_bias(&head, ANSWER, 1), *other = linear_bias(&head, FOIL, 1);
    if (bias) *constant += (double)*bias - (foil ? (double)*other : 0);
    mem_drop(w);
}

/* c·v of the values of a hook, width d, at a position. */
static double of_hook(const struct golden *g, enum hook h, uint32_t layer, uint32_t pos, const double *v)
{
    char site[64], name[96];
    size_t n, d = g->model->arch.d_model;
    double sum = 0;
    site_text((struct site){h, layer}, site);
    (void)snprintf(name, sizeof name, "s0.%s", site);
    float *x = golden_tensor(g, name, &n);
    if (!x) fail_msg("%s has no %s", g->model->path, name);
    for (size_t i = 0; i < d; i++) sum += (double)x[pos * d + i] * v[i];
    mem_drop(x);
    return sum;
}

/* A vector behind a frozen post-norm: folded into v. */
static void fold_post(const struct golden *g, enum hook scale, const struct norm *n, uint32_t layer, uint32_t pos, double *v)
{
    char site[64], name[96];
    size_t count;
    if (!g->model->arch.post_norm) return;
    site_text((struct site){scale, layer}, site);
    (void)snprintf(name, sizeof name, "s0.%s", site);
    float *s = golden_tensor(g, name, &count);
    assert_non_null(s);
    for (uint32_t i = 0; i < g->model->arch.d_model; i++) v[i] *= ((double)n->offset + (double)n->gain[i]) / (double)s[pos];
    mem_drop(s);
}

static double of_head(const struct golden *g, const struct dla_row *r, uint32_t pos, const double *v)
{
    const struct arch *a = &g->model->arch;
    const struct layer_weights w = view_layer(g->view, r->layer);
    char name[96];
    size_t n;
    double sum = 0, *folded = zero_doubles(a->d_model);
    memcpy(folded, v, a->d_model * sizeof *v);
    fold_post(g, HOOK_LN1_POST_SCALE, &w.attn_post_norm, r->layer, pos, folded);
    (void)snprintf(name, sizeof name, "s0.blocks.%u.attn.hook_result", r->layer);
    float *x = golden_tensor(g, name, &n);
    assert_non_null(x);
    for (uint32_t i = 0; i < a->d_model; i++)
        sum += (double)x[((size_t)pos * a->n_heads + r->unit) * a->d_model + i] * folded[i];
    mem_drop(x);
    free(folded);
    return sum;
}

static double of_neuron(const struct golden *g, const struct dla_row *r, uint32_t pos, const double *v)
{
    const struct arch *a = &g->model->arch;
    const struct layer_weights w = view_layer(g->view, r->layer);
    char name[96];
    size_t n;
    double sum = 0, *folded = zero_doubles(a->d_model);
    float *column = floats(a->d_model);
    memcpy(folded, v, a->d_model * sizeof *v);
    fold_post(g, HOOK_LN2_POST_SCALE, &w.mlp_post_norm, r->layer, pos, folded);
    (void)snprintf(name, sizeof name, "s0.blocks.%u.mlp.hook_post", r->layer);
    float *x = golden_tensor(g, name, &n);
    assert_non_null(x);
    linear_inputs(&w.down, r->unit, 1, column);
    for (uint32_t i = 0; i < a->d_model; i++) sum += (double)x[(size_t)pos * a->d_mlp + r->unit] * (double)column[i] * folded[i];
    mem_drop(x);
    mem_drop(column);
    free(folded);
    return sum;
}

static double of_bias(const struct golden *g, const struct linear *l, const double *v)
{
    const float *b = linear_bias(l, 0, g->model->arch.d_model);
    double sum = 0;
    for (uint32_t i = 0; b && i < g->model->arch.d_model; i++) sum += (double)b[i] * v[i];
    return sum;
}

static double by_definition(const struct golden *g, const struct dla_row *r, uint32_t pos, const double *v)
{
    const struct layer_weights w = view_layer(g->view, r->layer);
    switch (r->kind) {
    case DLA_EMBED: return of_hook(g, HOOK_EMBED, 0, pos, v);
    case DLA_POS_EMBED: return of_hook(g, HOOK_POS_EMBED, 0, pos, v);
    case DLA_ATTN: return of_hook(g, HOOK_ATTN_OUT, r->layer, pos, v);
    case DLA_MLP: return of_hook(g, HOOK_MLP_OUT, r->layer, pos, v);
    case DLA_LAYER: return of_hook(g, HOOK_ATTN_OUT, r->layer, pos, v) + of_hook(g, HOOK_MLP_OUT, r->layer, pos, v);
    case DLA_HEAD: return of_head(g, r, pos, v);
    case DLA_NEURON: return of_neuron(g, r, pos, v);
    case DLA_ATTN_BIAS: return of_bias(g, &w.o, v); /* no family has both a post-norm and this bias */
    case DLA_MLP_BIAS: return of_bias(g, &w.down, v);
    case DLA_NORM_BIAS:
    case DLA_UNEMBED_BIAS:
    case DLA_KINDS: break;
    }
    return 0;
}

static void check_rows(const struct golden *g, enum dla_by by, bool foil)
{
    const struct arch *a = &g->model->arch;
    const uint32_t pos[2] = {g->n[0] - 1, 3};
    const struct dla_prompt prompts[] = {{g->ids[0], g->n[0], pos[0], ANSWER, foil ? FOIL : DLA_NO_FOIL},
                                         {g->ids[0], g->n[0], pos[1], ANSWER, foil ? FOIL : DLA_NO_FOIL}};
    struct dla *d = dla(g, prompts, 2, by);
    struct dla_result r = dla_result(d);
    char name[96];
    size_t n;
    double *v = zero_doubles(a->d_model), most = 0;
    (void)snprintf(name, sizeof name, "s0.blocks.%u.hook_resid_post", a->n_layers - 1);
    float *end = golden_tensor(g, name, &n);
    assert_non_null(end);
    assert_int_equal(r.n_rows, dla_rows(a, by));
    for (size_t i = 0; i < 2; i++) {
        double constant, constants = 0;
        direction(g, end + (size_t)pos[i] * a->d_model, foil, v, &constant);
        for (size_t k = 0; k < r.n_rows; k++) {
            double got = r.value[k * 2 + i];
            if (r.row[k].kind == DLA_NORM_BIAS || r.row[k].kind == DLA_UNEMBED_BIAS) constants += got;
            else near(g, "row", &r.row[k], got, by_definition(g, &r.row[k], pos[i], v), 1e-4);
            most = fmax(most, fabs(got));
        }
        near(g, "constants", NULL, constants, constant, 1e-4);
        near(g, "sum", NULL, r.sum[i], r.total[i], 1e-5);
    }
    assert_true(most > 0.01);
    free(v);
    mem_drop(end);
    dla_free(d);
}

static void check_family(struct golden *g)
{
    for (int by = 0; by < DLA_BYS; by++)
        for (int foil = 0; foil < 2; foil++) check_rows(g, (enum dla_by)by, foil);
}

static void test_rows(void **state)
{
    (void)state;
    families_each(true, check_family);
}

/* Through the soft-cap the sum is the model's logit; where there is none, it is just that. */
static void check_logits(struct golden *g)
{
    const struct arch *a = &g->model->arch;
    const struct dla_prompt p = {g->ids[0], g->n[0], g->n[0] - 1, ANSWER, DLA_NO_FOIL};
    float *logits = logits_at(g, g->view, g->ids[0], g->n[0], g->n[0] - 1, NULL);
    for (int by = 0; by < DLA_BYS; by++) {
        struct dla *d = dla(g, &p, 1, (enum dla_by)by);
        double sum = dla_result(d).sum[0], cap = (double)a->final_softcap;
        near(g, "logit", NULL, cap > 0 ? cap * tanh(sum / cap) : sum, (double)logits[ANSWER], 1e-5);
        dla_free(d);
    }
    mem_drop(logits);
}

static void test_logits(void **state)
{
    (void)state;
    families_each(false, check_logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
