#include "reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "numbers.h"

const enum hook reference_hooks[REFERENCE_HOOKS] = {
    HOOK_RESID_PRE, HOOK_Q, HOOK_K, HOOK_V, HOOK_PATTERN, HOOK_Z, HOOK_ATTN_OUT, HOOK_RESID_MID,
    HOOK_MLP_PRE, HOOK_MLP_PRE_LINEAR, HOOK_MLP_POST, HOOK_MLP_OUT, HOOK_RESID_POST};

struct reference *reference_new(const struct view *v)
{
    struct reference *r = calloc(1, sizeof *r);
    const struct model *m = view_model(v);
    r->model = m;
    r->weight = calloc(m->n_tensors, sizeof *r->weight);
    for (size_t t = 0; t < m->n_tensors; t++) {
        float *w = malloc(m->tensors[t].n_elements * sizeof *w);
        view_tensor_copy(v, t, w);
        r->weight[t] = zero_doubles(m->tensors[t].n_elements);
        for (size_t i = 0; i < m->tensors[t].n_elements; i++) r->weight[t][i] = (double)w[i];
        free(w);
    }
    return r;
}

void reference_free(struct reference *r)
{
    for (size_t t = 0; t < r->model->n_tensors; t++) free(r->weight[t]);
    free(r->weight);
    free(r);
}

double *reference_weight(const struct reference *r, enum role role, uint32_t layer)
{
    size_t t;
    assert_true(model_role(r->model, role, layer, &t));
    return r->weight[t];
}

static void show(const struct reference *r, enum hook h, uint32_t layer, double *value, size_t n)
{
    if (r->hook) r->hook(r->ctx, h, layer, value, n);
}

/* y [n][out] = x [n][in] · w [out][in]ᵀ */
static double *linear(const double *x, size_t n, size_t in, const double *w, size_t out)
{
    double *y = zero_doubles(n * out);
    for (size_t i = 0; i < n; i++)
        for (size_t o = 0; o < out; o++)
            for (size_t k = 0; k < in; k++) y[i * out + o] += x[i * in + k] * w[o * in + k];
    return y;
}

static double *rms_norm(const struct reference *r, const double *x, size_t n, const double *gain)
{
    size_t d = r->model->arch.d_model;
    double *y = zero_doubles(n * d);
    for (size_t i = 0; i < n; i++, x += d) {
        double squares = 0;
        for (size_t k = 0; k < d; k++) squares += x[k] * x[k];
        double s = sqrt(squares / (double)d + (double)r->model->arch.norm_eps);
        for (size_t k = 0; k < d; k++) y[i * d + k] = x[k] / s * gain[k];
    }
    return y;
}

/* Halves convention: (i, i + e/2) turn by position · theta^(−2i/e). */
static double *turned(const struct reference *r, const double *x, size_t n, size_t heads)
{
    size_t e = r->model->arch.d_head, half = e / 2;
    double *y = zero_doubles(n * heads * e);
    for (size_t p = 0; p < n; p++)
        for (size_t h = 0; h < heads; h++)
            for (size_t i = 0; i < half; i++) {
                double turn = (double)p * pow((double)r->model->arch.rotary.theta, -2.0 * (double)i / (double)e);
                size_t a = (p * heads + h) * e + i, b = a + half;
                y[a] = x[a] * cos(turn) - x[b] * sin(turn);
                y[b] = x[b] * cos(turn) + x[a] * sin(turn);
            }
    return y;
}

static double *pattern_of(const struct arch *a, const double *q, const double *k, size_t n)
{
    size_t H = a->n_heads, G = a->n_kv_heads, e = a->d_head;
    double *p = zero_doubles(H * n * n);
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i < n; i++) {
            double *row = p + (h * n + i) * n, top = -INFINITY, sum = 0;
            for (size_t j = 0; j <= i; j++) {
                for (size_t c = 0; c < e; c++) row[j] += q[(i * H + h) * e + c] * k[(j * G + h / (H / G)) * e + c];
                row[j] /= sqrt((double)e);
                top = fmax(top, row[j]);
            }
            for (size_t j = 0; j <= i; j++) sum += row[j] = exp(row[j] - top);
            for (size_t j = 0; j <= i; j++) row[j] /= sum;
        }
    return p;
}

static double *mixed(const struct arch *a, const double *p, const double *v, size_t n)
{
    size_t H = a->n_heads, G = a->n_kv_heads, e = a->d_head;
    double *z = zero_doubles(n * H * e);
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < H; h++)
            for (size_t j = 0; j <= i; j++)
                for (size_t c = 0; c < e; c++)
                    z[(i * H + h) * e + c] += p[(h * n + i) * n + j] * v[(j * G + h / (H / G)) * e + c];
    return z;
}

static void add(double *x, const double *y, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

static void attention(const struct reference *r, uint32_t l, double *x, uint32_t n)
{
    const struct arch *a = &r->model->arch;
    size_t d = a->d_model, H = a->n_heads, G = a->n_kv_heads, e = a->d_head;
    double *y = rms_norm(r, x, n, reference_weight(r, ROLE_ATTN_NORM, l));
    double *q = linear(y, n, d, reference_weight(r, ROLE_Q, l), H * e);
    double *k = linear(y, n, d, reference_weight(r, ROLE_K, l), G * e);
    double *v = linear(y, n, d, reference_weight(r, ROLE_V, l), G * e);
    show(r, HOOK_Q, l, q, n * H * e);
    show(r, HOOK_K, l, k, n * G * e);
    show(r, HOOK_V, l, v, n * G * e);
    double *rq = turned(r, q, n, H), *rk = turned(r, k, n, G), *p = pattern_of(a, rq, rk, n);
    show(r, HOOK_PATTERN, l, p, H * n * n);
    double *z = mixed(a, p, v, n);
    show(r, HOOK_Z, l, z, n * H * e);
    double *out = linear(z, n, H * e, reference_weight(r, ROLE_O, l), d);
    show(r, HOOK_ATTN_OUT, l, out, n * d);
    add(x, out, n * d);
    free(y), free(q), free(k), free(v), free(rq), free(rk), free(p), free(z), free(out);
}

static void mlp(const struct reference *r, uint32_t l, double *x, uint32_t n)
{
    size_t d = r->model->arch.d_model, m = r->model->arch.d_mlp;
    double *y = rms_norm(r, x, n, reference_weight(r, ROLE_MLP_NORM, l));
    double *gate = linear(y, n, d, reference_weight(r, ROLE_GATE, l), m);
    double *up = linear(y, n, d, reference_weight(r, ROLE_UP, l), m);
    show(r, HOOK_MLP_PRE, l, gate, n * m);
    show(r, HOOK_MLP_PRE_LINEAR, l, up, n * m);
    for (size_t i = 0; i < n * m; i++) up[i] *= gate[i] / (1 + exp(-gate[i]));
    show(r, HOOK_MLP_POST, l, up, n * m);
    double *out = linear(up, n, m, reference_weight(r, ROLE_DOWN, l), d);
    show(r, HOOK_MLP_OUT, l, out, n * d);
    add(x, out, n * d);
    free(y), free(gate), free(up), free(out);
}

void reference_block(const struct reference *r, uint32_t l, double *x, uint32_t n)
{
    size_t values = (size_t)n * r->model->arch.d_model;
    show(r, HOOK_RESID_PRE, l, x, values);
    attention(r, l, x, n);
    show(r, HOOK_RESID_MID, l, x, values);
    mlp(r, l, x, n);
    show(r, HOOK_RESID_POST, l, x, values);
}

void reference_embed(const struct reference *r, const uint32_t *ids, uint32_t n, double *x)
{
    size_t d = r->model->arch.d_model;
    const double *table = reference_weight(r, ROLE_EMBED, 0);
    for (uint32_t i = 0; i < n; i++) memcpy(x + i * d, table + ids[i] * d, d * sizeof *x);
}

void reference_head(const struct reference *r, const double *x, uint32_t n, double *logits)
{
    const struct arch *a = &r->model->arch;
    double *y = rms_norm(r, x, n, reference_weight(r, ROLE_FINAL_NORM, 0));
    double *out = linear(y, n, a->d_model, reference_weight(r, a->tied_head ? ROLE_EMBED : ROLE_HEAD, 0), a->d_vocab);
    memcpy(logits, out, (size_t)n * a->d_vocab * sizeof *out);
    free(y), free(out);
}

static double *stream(const struct reference *r, const uint32_t *ids, uint32_t n)
{
    double *x = zero_doubles((size_t)n * r->model->arch.d_model);
    reference_embed(r, ids, n, x);
    for (uint32_t l = 0; l < r->model->arch.n_layers; l++) reference_block(r, l, x, n);
    return x;
}

void reference_run(const struct reference *r, const uint32_t *ids, uint32_t n, double *final, double *logits)
{
    double *x = stream(r, ids, n);
    if (final) memcpy(final, x, (size_t)n * r->model->arch.d_model * sizeof *x);
    reference_head(r, x, n, logits);
    free(x);
}

void reference_last(const struct reference *r, const uint32_t *ids, uint32_t n, double *logits)
{
    double *x = stream(r, ids, n);
    reference_head(r, x + (size_t)(n - 1) * r->model->arch.d_model, 1, logits);
    free(x);
}

double reference_nll(const double *logits, uint32_t V, uint32_t id)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < V; i++) top = fmax(top, logits[i]);
    for (uint32_t i = 0; i < V; i++) sum += exp(logits[i] - top);
    return top + log(sum) - logits[id];
}
