#include "adam.h"

#include <math.h>

#include "core/base/mem.h"
#include "simd.h"

bool adam_init(struct adam *a, size_t n, double lr, struct err *e)
{
    *a = (struct adam){.lr = lr, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .n = n};
    a->m = mem_take(n, sizeof(float), e);
    a->v = mem_take(n, sizeof(float), e);
    return a->m && a->v;
}

void adam_release(struct adam *a)
{
    mem_drop(a->m);
    mem_drop(a->v);
    *a = (struct adam){0};
}

struct job {
    struct adam *a;
    const float *g;
    float *w;
    float rate, scale_v; /* lr / (1 − β1ᵗ), 1 / (1 − β2ᵗ) */
};

KERNEL static void update(const struct job *j, size_t from, size_t to)
{
    float b1 = (float)j->a->beta1, b2 = (float)j->a->beta2, c1 = (float)(1 - j->a->beta1),
          c2 = (float)(1 - j->a->beta2), eps = (float)j->a->eps;
    float *restrict m = j->a->m, *restrict v = j->a->v, *restrict w = j->w;
    const float *restrict g = j->g;
    for (size_t i = from; i < to; i++) {
        m[i] = b1 * m[i] + c1 * g[i];
        v[i] = b2 * v[i] + c2 * g[i] * g[i];
        w[i] -= j->rate * m[i] / (sqrtf(v[i] * j->scale_v) + eps);
    }
}

static void range(void *ctx, size_t from, size_t to, int thread)
{
    (void)thread;
    update(ctx, from, to);
}

void adam_step(struct adam *a, struct par *par, const float *g, float *w)
{
    a->step++;
    struct job j = {a, g, w, (float)(a->lr / (1 - pow(a->beta1, (double)a->step))),
                    (float)(1 / (1 - pow(a->beta2, (double)a->step)))};
    par_for(par, a->n, range, &j);
}
