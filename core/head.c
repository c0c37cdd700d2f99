#include "head.h"

#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"
#include "core/kernel/norm.h"

void embed(const struct view *v, const uint32_t *ids, size_t n, float *x)
{
    size_t d = view_model(v)->arch.d_model;
    const float *table = view_embed(v);
    for (size_t i = 0; i < n; i++) memcpy(x + i * d, table + ids[i] * d, d * sizeof *x);
}

static float *final_norm(struct session *s, const struct view *v, const float *x, size_t n,
                         size_t extra, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    float *y = session_scratch(s, n * a->d_model + extra, e);
    if (y) norm_forward(x, view_final_norm(v), a->norm_eps, y, n, a->d_model);
    return y;
}

bool unembed(struct session *s, const struct view *v, const float *x, size_t n, float *logits,
             struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const float *y = final_norm(s, v, x, n, 0, e);
    if (!y) return false;
    gemm_nt(n, a->d_vocab, a->d_model, y, a->d_model, view_head(v), a->d_model, logits, a->d_vocab,
            1.0f, false);
    return true;
}

bool unembed_ids(struct session *s, const struct view *v, const float *x, size_t n,
                 const uint32_t *ids, size_t n_ids, float *logits, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    size_t d = a->d_model;
    float *y = final_norm(s, v, x, n, n_ids * d, e), *panel = y ? y + n * d : NULL;
    if (!y) return false;
    for (size_t i = 0; i < n_ids; i++) memcpy(panel + i * d, view_head(v) + ids[i] * d, d * sizeof *panel);
    gemm_nt(n, n_ids, d, y, d, panel, d, logits, n_ids, 1.0f, false);
    return true;
}

bool unembed_backward(struct session *s, const struct view *v, const float *x, size_t n,
                      const float *d_logits, float *dx, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    size_t d = a->d_model;
    float *dy = session_scratch(s, n * d, e);
    if (!dy) return false;
    gemm_nn(n, d, a->d_vocab, d_logits, a->d_vocab, view_head(v), d, dy, d, 1.0f, false);
    norm_backward(x, view_final_norm(v), a->norm_eps, dy, dx, n, a->d_model);
    return true;
}

double log_prob(const float *logits, uint32_t n_vocab, uint32_t id)
{
    double top = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++) top = (double)logits[i] > top ? (double)logits[i] : top;
    for (uint32_t i = 0; i < n_vocab; i++) sum += exp((double)logits[i] - top);
    return (double)logits[id] - top - log(sum);
}

uint32_t arg_max(const float *logits, uint32_t n_vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}
