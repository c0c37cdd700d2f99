/* The logit lens on every family: the final norm and the unembedding written out in float64 on the committed
 * activations of PyTorch; and the last layer against the engine's own logits, to the bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "probes/lens.h"
#include "support/families.h"
#include "support/numbers.h"

enum { MOST_LAYERS = 8, TOP = 7 };

static const enum hook streams[] = {HOOK_RESID_POST, HOOK_RESID_MID, HOOK_RESID_PRE, HOOK_ATTN_OUT, HOOK_MLP_OUT};

static void near(const struct golden *g, const char *what, double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * fmax(1, fabs(want))))
        fail_msg("%s: %s is %.9f, %.9f expected", g->model->path, what, got, want);
}

/* logits [V] of x [d], from the formulas. */
static void by_definition(const struct golden *g, const float *x, double *out)
{
    const struct arch *a = &g->model->arch;
    const struct norm n = view_final_norm(g->view);
    const struct linear head = view_head(g->view);
    double mean = 0, square = 0, *y = zero_doubles(a->d_model);
    float *w = floats(a->d_model);
    for (uint32_t i = 0; n.kind == NORM_LAYER && i < a->d_model; i++) mean += (double)x[i] / a->d_model;
    for (uint32_t i = 0; i < a->d_model; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / a->d_model;
    for (uint32_t i = 0; i < a->d_model; i++)
        y[i] = ((double)x[i] - mean) / sqrt(square + (double)a->norm_eps) * ((double)n.offset + (double)n.gain[i]) + (n.bias ? (double)n.bias[i] : 0);
    for (uint32_t t = 0; t < a->d_vocab; t++) {
        const float *bias = linear_bias(&head, t, 1);
        linear_outputs(&head, t, 1, w);
        out[t] = bias ? (double)*bias : 0;
        for (uint32_t i = 0; i < a->d_model; i++) out[t] += y[i] * (double)w[i];
        if (a->final_softcap > 0) out[t] = (double)a->final_softcap * tanh(out[t] / (double)a->final_softcap);
    }
    mem_drop(w);
    free(y);
}

static double log_sum(const double *x, uint32_t V)
{
    double sum = 0;
    for (uint32_t i = 0; i < V; i++) sum += exp(x[i]);
    return log(sum);
}

static void check_cell(const struct golden *g, const struct lens_request *q, const struct lens_cells *c, size_t cells, size_t cell,
                       const double *x, const double *final)
{
    const uint32_t V = g->model->arch.d_vocab;
    double s = log_sum(x, V), f = log_sum(final, V), entropy = 0, kl = 0;
    for (uint32_t i = 0; i < V; i++) {
        entropy -= exp(x[i] - s) * (x[i] - s);
        kl += exp(final[i] - f) * (final[i] - f - x[i] + s);
    }
    near(g, "entropy", c->entropy[cell], entropy, 1e-4);
    near(g, "kl", c->kl[cell], kl, 2e-4);
    for (uint32_t k = 0; k < TOP; k++) {
        uint32_t id = c->top_id[cell * TOP + k], ahead = 0;
        for (uint32_t i = 0; i < V; i++) ahead += x[i] > x[id] + 2e-4;
        assert_true(ahead <= k);
        near(g, "top logit", (double)c->top_logit[cell * TOP + k], x[id], 1e-4);
        near(g, "top prob", c->top_prob[cell * TOP + k], exp(x[id] - s), 1e-4);
    }
    for (size_t t = 0; t < q->n_tokens; t++) {
        uint32_t ahead = 1, near_by = 1;
        for (uint32_t i = 0; i < V; i++) ahead += x[i] > x[q->token[t]] + 2e-4, near_by += x[i] > x[q->token[t]] - 2e-4;
        near(g, "logit", (double)c->logit[t * cells + cell], x[q->token[t]], 1e-4);
        near(g, "logprob", c->logprob[t * cells + cell], x[q->token[t]] - s, 1e-4);
        assert_in_range(c->rank[t * cells + cell], ahead, near_by);
    }
}

static struct lens *lens(const struct golden *g, const struct lens_request *q)
{
    struct err e = {0};
    struct lens *l = lens_new(q, &e);
    must(l && STEP_ALL(lens_step(l, g->session, &e)), e);
    return l;
}

static void check_stream(const struct golden *g, enum hook at)
{
    const struct arch *a = &g->model->arch;
    const uint32_t V = a->d_vocab, d = a->d_model, last = a->n_layers - 1, layers[] = {0, last};
    static const uint32_t tokens[] = {42, 3};
    uint32_t pos[3] = {0, 4, g->n[0] - 1};
    const struct lens_input in = {g->ids[0], g->n[0], pos, 3};
    const struct lens_request q = {.view = g->view, .in = &in, .n_in = 1, .at = at, .layer = layers, .n_layers = 2,
                                   .top_k = TOP, .token = tokens, .n_tokens = 2};
    if (hook_absent(a, at)) return;
    double *x = zero_doubles(V), *final = zero_doubles(V), least = INFINITY, most = 0;
    char name[96], site[64];
    size_t n;
    struct lens *l = lens(g, &q);
    const struct lens_cells *c = lens_result(l, 0);
    (void)snprintf(name, sizeof name, "s0.blocks.%u.hook_resid_post", last);
    float *end = golden_tensor(g, name, &n);
    assert_non_null(end);
    for (size_t k = 0; k < 2; k++) {
        site_text((struct site){at, layers[k]}, site);
        (void)snprintf(name, sizeof name, "s0.%s", site);
        float *stream = golden_tensor(g, name, &n);
        assert_non_null(stream);
        for (size_t p = 0; p < 3; p++) {
            by_definition(g, stream + pos[p] * d, x);
            by_definition(g, end + pos[p] * d, final);
            check_cell(g, &q, c, 6, k * 3 + p, x, final);
            least = fmin(least, c->kl[k * 3 + p]), most = fmax(most, c->kl[k * 3 + p]);
        }
        mem_drop(stream);
    }
    assert_true(most > least + 1e-3);
    lens_free(l);
    mem_drop(end);
    free(x), free(final);
}

static void check_family(struct golden *g)
{
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) check_stream(g, streams[i]);
}

static void test_definition(void **state)
{
    (void)state;
    families_each(true, check_family);
}

/* All positions, in several panels: the last layer's resid_post gives what a trace's logits are. */
static void check_bits(struct golden *g)
{
    enum { LONG = LENS_ROWS + 9 };
    const uint32_t V = g->model->arch.d_vocab, last = g->model->arch.n_layers - 1;
    uint32_t n = LONG < g->model->arch.context ? LONG : g->model->arch.context, ids[LONG], pos[LONG], *all = mem_new(V * sizeof *all);
    struct err e = {0};
    for (uint32_t i = 0; i < n; i++) pos[i] = i, ids[i] = (i * 7 + 3) % V;
    for (uint32_t i = 0; i < V; i++) all[i] = i;
    const struct lens_input in = {ids, n, pos, n};
    const struct lens_request q = {.view = g->view, .in = &in, .n_in = 1, .at = HOOK_RESID_POST, .layer = &last, .n_layers = 1,
                                   .token = all, .n_tokens = V};
    const struct trace_input traced = {ids, n, pos, n};
    struct trace *t = trace_new(g->view, &traced, 1, NULL, 0, NULL, 0, &e);
    must(t && STEP_ALL(trace_step(t, g->session, &e)), e);
    struct lens *l = lens(g, &q);
    const struct lens_cells *c = lens_result(l, 0);
    for (uint32_t p = 0; p < n; p++) {
        assert_true(c->kl[p] == 0);
        for (uint32_t i = 0; i < V; i++)
            if (c->logit[i * n + p] != trace_logits(t, 0)[p * V + i]) fail_msg("%s: position %u, token %u", g->model->path, p, i);
    }
    trace_free(t);
    lens_free(l);
    mem_drop(all);
}

static void test_last_layer(void **state)
{
    (void)state;
    families_each(false, check_bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definition),
        cmocka_unit_test(test_last_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
