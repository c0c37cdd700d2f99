#include "node.h"

#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"
#include "core/kernel/softmax.h"

enum node_kind node_kind(enum hook site, bool qk_fix)
{
    static const enum node_kind kinds[HOOK_COUNT] = {
        [HOOK_Q] = NODE_QUERY, [HOOK_Q_NORMED] = NODE_QUERY, [HOOK_ROT_Q] = NODE_QUERY,
        [HOOK_K] = NODE_KEY,   [HOOK_K_NORMED] = NODE_KEY,   [HOOK_ROT_K] = NODE_KEY,
    };
    return qk_fix ? kinds[site] : NODE_LINEAR;
}

enum hook node_value(enum node_kind kind, enum hook site)
{
    return kind == NODE_LINEAR ? site : kind == NODE_QUERY ? HOOK_ROT_Q : HOOK_ROT_K;
}

enum hook node_gradient(enum node_kind kind, enum hook site) { return kind == NODE_LINEAR ? site : HOOK_Z; }

size_t node_scratch(uint32_t n) { return plan_times(plan_times(n, n), 3); }

/* Where a head's estimate at a position goes. */
static double *place(const struct node *k, double *out, uint32_t head, uint32_t pos)
{
    size_t h = patch_by_head(k->axis) ? head : 0, p = patch_by_pos(k->axis) ? pos : 0;
    return out + h * k->n_pos + p;
}

/* ---- linear ------------------------------------------------------------------------------------------- */

static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)y[i];
    return sum;
}

static void linear_node(const struct node *k, double *out)
{
    const uint32_t heads = hook_heads(k->arch, k->site), m = k->n - k->first;
    const bool source = hook_info(k->site)->axis == AXIS_SOURCE;
    const size_t width = source ? k->n : hook_width(k->arch, k->site);
    for (uint32_t h = 0; h < heads; h++)
        for (uint32_t p = 0; p < m; p++) {
            size_t at = (source ? (size_t)h * m + p : (size_t)p * heads + h) * width;
            *place(k, out, h, k->first + p) += dot(k->value + at, k->slope + at, width);
        }
}

/* ---- through the softmax -------------------------------------------------------------------------------- */

struct head_work { /* of one query head; rows [first, n), columns [0, n) */
    const struct node *k;
    uint32_t head, kv, m;
    float *s, *moved, *g; /* [m][n] scores, those with the source's queries or keys, dM/dp */
};

static void capped(const struct head_work *w, float *s)
{
    softcap_row(s, (size_t)w->m * w->k->n, w->k->arch->attn_softcap);
}

static void products(const struct head_work *w)
{
    const struct node *k = w->k;
    const struct arch *a = k->arch;
    const size_t e = a->d_head, H = a->n_heads, G = a->n_kv_heads, row = (H + 2 * G) * e, n = k->n, m = w->m, f = k->first;
    const float *q = k->qkv + f * row + w->head * e, *key = k->qkv + (H + w->kv) * e, *v = key + G * e;
    const float *src = k->value + (k->kind == NODE_QUERY ? w->head : w->kv) * e;
    gemm_nt(m, n, e, q, row, key, row, w->s, n, a->attn_scale, false);
    gemm_nt(m, n, e, k->slope + w->head * e, H * e, v, row, w->g, n, 1.0f, false);
    memcpy(w->moved, w->s, m * n * sizeof *w->s);
    if (k->kind == NODE_QUERY) gemm_nt(m, n, e, src, H * e, key, row, w->moved, n, a->attn_scale, false);
    else gemm_nt(m, m, e, q, row, src, G * e, w->moved + f, n, a->attn_scale, false);
    capped(w, w->s);
    capped(w, w->moved);
}

static double lse(const float *s, uint32_t n) { return log_sum_exp(s, NULL, n); }

/* Σ_j (p'[i,j] − p[i,j]) g[i,j] over the columns [low, i]. */
static double whole_row(const float *s, const float *moved, const float *g, uint32_t n)
{
    const double before = lse(s, n), after = lse(moved, n);
    double sum = 0;
    for (uint32_t j = 0; j < n; j++)
        sum += (exp((double)moved[j] - after) - exp((double)s[j] - before)) * (double)g[j];
    return sum;
}

/* Each column by itself. */
static void each_key(const struct head_work *w, const float *s, const float *moved, const float *g, uint32_t low, uint32_t n,
                     double *out)
{
    enum { SURE = 30 }; /* r/(1+r) is 1 in float64 from there on */
    const double before = lse(s, n);
    double mean = 0;
    for (uint32_t j = 0; j < n; j++) mean += exp((double)s[j] - before) * (double)g[j];
    for (uint32_t j = w->k->first > low ? w->k->first - low : 0; j < n; j++) {
        const double log_p = (double)s[j] - before, to = log_p + (double)moved[j] - (double)s[j], r = exp(to) - exp(log_p);
        *place(w->k, out, w->kv, low + j) += (to > SURE ? 1 : r / (1 + r)) * ((double)g[j] - mean);
    }
}

static void softmax_node(const struct node *k, float *scratch, double *out)
{
    const struct arch *a = k->arch;
    const uint32_t m = k->n - k->first, n = k->n, window = arch_windowed(a, k->layer) ? a->window : UINT32_MAX;
    struct head_work w = {.k = k, .m = m, .s = scratch, .moved = scratch + (size_t)m * n, .g = scratch + (size_t)2 * m * n};
    for (w.head = 0; w.head < a->n_heads; w.head++) {
        w.kv = w.head / (a->n_heads / a->n_kv_heads);
        products(&w);
        for (uint32_t i = k->first; i < n; i++) {
            const uint32_t low = i >= window ? i + 1 - window : 0, cols = i + 1 - low;
            const size_t at = (size_t)(i - k->first) * n + low;
            if (k->kind == NODE_QUERY)
                *place(k, out, w.head, i) += whole_row(w.s + at, w.moved + at, w.g + at, cols);
            else if (!patch_by_pos(k->axis))
                *place(k, out, w.kv, 0) += whole_row(w.s + at, w.moved + at, w.g + at, cols);
            else each_key(&w, w.s + at, w.moved + at, w.g + at, low, cols, out);
        }
    }
}

void node_estimate(const struct node *k, float *scratch, double *out)
{
    const size_t heads = patch_by_head(k->axis) ? hook_heads(k->arch, k->site) : 1;
    memset(out, 0, heads * k->n_pos * sizeof *out);
    if (k->kind == NODE_LINEAR) linear_node(k, out);
    else softmax_node(k, scratch, out);
}
