/* One hidden layer, all rows at each step of Adam, float32. Weights start as PyTorch's linear layers do: uniform within
 * 1/sqrt(inputs). */
#include <math.h>
#include <string.h>

#include "core/base/random.h"
#include "core/kernel/adam.h"
#include "core/kernel/blas.h"
#include "readout_int.h"

struct mlp {
    size_t size;
    float *z;             /* [n][d] */
    float *w, *g;         /* W₁ [h][d], b₁ [h], W₂ [o][h], b₂ [o] */
    float *a, *da, *s;    /* [n][h] twice, [n][o] */
    double *score;        /* [n][o] */
    struct adam adam;
    uint32_t epoch;
};

void mlp_free(struct mlp *m)
{
    if (!m) return;
    void *const all[] = {m->z, m->w, m->g, m->a, m->da, m->s, m->score};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_drop(all[i]);
    adam_release(&m->adam);
    mem_drop(m);
}

static struct mlp *begin(struct readout_fit *f, struct err *e)
{
    struct mlp *m = mem_new(sizeof *m);
    const size_t n = f->n, d = f->d, h = f->out->hidden, o = f->out->outputs;
    struct random rng;
    m->size = h * (d + 1) + o * (h + 1);
    float **const parts[] = {&m->z, &m->w, &m->g, &m->a, &m->da, &m->s};
    const size_t floats[] = {n * d, m->size, m->size, n * h, n * h, n * o};
    bool ok = true;
    for (size_t i = 0; ok && i < 6; i++) ok = (*parts[i] = mem_floats(floats[i] + 1, e)) != NULL;
    m->score = ok ? mem_take(n * o, sizeof *m->score, e) : NULL;
    if (!m->score || !adam_init(&m->adam, m->size, f->spec.lr, e)) {
        mlp_free(m);
        return NULL;
    }
    for (size_t i = 0; i < n * d; i++) m->z[i] = (float)f->z[i];
    random_init(&rng, f->spec.seed);
    for (size_t i = 0; i < m->size; i++) {
        double in = (double)(i < h * (d + 1) ? d : h);
        m->w[i] = (float)((2 * random_unit(&rng) - 1) / sqrt(in));
    }
    return m;
}

/* Rows' column sums of x [n][k]. */
static void sum_rows(const float *x, size_t n, size_t k, float *out)
{
    memset(out, 0, k * sizeof *out);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++) out[j] += x[i * k + j];
}

static void epoch(const struct readout_fit *f, struct mlp *m, struct par *par)
{
    const size_t n = f->n, d = f->d, h = f->out->hidden, o = f->out->outputs;
    float *w1 = m->w, *b1 = w1 + h * d, *w2 = b1 + h, *b2 = w2 + o * h;
    float *g1 = m->g, *gb1 = g1 + h * d, *g2 = gb1 + h, *gb2 = g2 + o * h;
    const float lambda = (float)f->spec.lambda;
    gemm_nt(n, h, d, m->z, d, w1, d, m->a, h, 1.0f, false);
    for (size_t i = 0; i < n * h; i++) m->a[i] = fmaxf(m->a[i] + b1[i % h], 0);
    gemm_nt(n, o, h, m->a, h, w2, h, m->s, o, 1.0f, false);
    for (size_t i = 0; i < n * o; i++) m->score[i] = (double)(m->s[i] + b2[i % o]);
    (void)readout_loss(m->score, n, (uint32_t)o, f->y, NULL);
    for (size_t i = 0; i < n * o; i++) m->s[i] = (float)m->score[i];
    gemm_tn(o, h, n, m->s, o, m->a, h, g2, h, 1.0f, false);
    sum_rows(m->s, n, o, gb2);
    gemm_nn(n, h, o, m->s, o, w2, h, m->da, h, 1.0f, false);
    for (size_t i = 0; i < n * h; i++)
        if (!(m->a[i] > 0)) m->da[i] = 0;
    gemm_tn(h, d, n, m->da, h, m->z, d, g1, d, 1.0f, false);
    sum_rows(m->da, n, h, gb1);
    for (size_t i = 0; i < h * d; i++) g1[i] += lambda * w1[i];
    for (size_t i = 0; i < o * h; i++) g2[i] += lambda * w2[i];
    adam_step(&m->adam, par, m->g, m->w);
}

static void widen(double *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++) to[i] = (double)from[i];
}

enum step mlp_step(struct readout_fit *f, struct session *s, struct err *e)
{
    if (!f->mlp) f->mlp = begin(f, e);
    struct mlp *m = f->mlp;
    struct readout *r = f->out;
    if (!m) return STEP_FAIL;
    size_t h = r->hidden, d = f->d, o = r->outputs, left = readout_passes(f->n, d + o, 2 * h);
    for (; left && m->epoch < f->spec.epochs; left--, m->epoch++) epoch(f, m, s->par);
    if (m->epoch < f->spec.epochs) return STEP_MORE;
    double square = 0;
    for (size_t i = 0; i < m->size; i++) square += (double)m->g[i] * (double)m->g[i];
    r->gradient = sqrt(square);
    r->passes = m->epoch;
    widen(r->w1, m->w, h * d);
    widen(r->b1, m->w + h * d, h);
    widen(r->w, m->w + h * (d + 1), o * h);
    widen(r->b, m->w + h * (d + 1) + o * h, o);
    return STEP_DONE;
}
