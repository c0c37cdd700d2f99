#include "rate.h"

#include "clock.h"
#include "core/base/mem.h"
#include "core/kernel/blas.h"

/* Less than this many operations say more about the work's beginning than about its arithmetic. */
#define TELLING_FLOPS 1e9
/* Of the rate of one product alone, what a pass with all that lies between products comes to. */
#define SHARE_OF_PRODUCT 0.75

void rate_seen(struct rate *r, double flops, double seconds)
{
    double before = atomic_load(&r->flops_per_s), now = flops / seconds;
    if (flops < TELLING_FLOPS || !(seconds > 0)) return;
    atomic_store(&r->flops_per_s, before > 0 ? 0.5 * (before + now) : now);
}

double rate_known(const struct rate *r) { return atomic_load(&r->flops_per_s); }

bool rate_now(struct rate *r, const struct arch *a, double *out, struct err *e)
{
    enum { ROWS = 256, REPEATS = 3, MOST = 1024 }; /* no plan has this memory: it is small */
    const size_t d = a->d_model < MOST ? a->d_model : MOST, m = a->d_mlp < MOST ? a->d_mlp : MOST;
    *out = rate_known(r);
    if (*out > 0) return true;
    float *x = mem_floats(ROWS * d + m * d + ROWS * m, e);
    if (!x) return false;
    for (size_t i = 0; i < ROWS * d + m * d; i++) x[i] = (float)(i % 13) / 13;
    int64_t least = INT64_MAX;
    for (int i = 0; i < REPEATS; i++) {
        int64_t start = monotonic_us();
        gemm_nt(ROWS, m, d, x, d, x + ROWS * d, d, x + ROWS * d + m * d, m, 1, false);
        int64_t took = monotonic_us() - start;
        if (took < least) least = took;
    }
    mem_drop(x);
    *out = SHARE_OF_PRODUCT * 2.0 * ROWS * (double)d * (double)m / ((double)(least > 0 ? least : 1) / US_PER_S);
    return true;
}
