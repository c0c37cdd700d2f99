#include "pick.h"

#include <math.h>
#include <stdbool.h>

#include "core/base/random.h"

static bool among(const size_t *list, size_t n, size_t i)
{
    for (size_t k = 0; k < n; k++)
        if (list[k] == i) return true;
    return false;
}

size_t pick_some(double (*effect)(const void *ctx, size_t i), const void *ctx, size_t n, size_t wanted, uint64_t seed, size_t *out)
{
    struct random random;
    double most = -1;
    size_t found = 0, best = n, choice = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = effect(ctx, i);
        choice += !(x < 0);
        if (x <= most || x < 0 || isnan(most)) continue;
        most = x;
        best = i;
    }
    if (wanted > choice) wanted = choice;
    if (wanted) out[found++] = best;
    random_init(&random, seed);
    while (found < wanted) {
        const size_t i = (size_t)random_below(&random, n);
        if (!(effect(ctx, i) < 0) && !among(out, found, i)) out[found++] = i;
    }
    return found;
}
