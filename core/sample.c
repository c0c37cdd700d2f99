#include "sample.h"

#include <math.h>
#include <string.h>

#include "head.h"

struct scored {
    float logit;
    uint32_t id;
};

static int by_logit(const void *x, const void *y)
{
    const struct scored *a = x, *b = y;
    if (a->logit != b->logit) return a->logit < b->logit ? 1 : -1;
    return (a->id > b->id) - (a->id < b->id);
}

void top_few(const float *logits, uint32_t n_vocab, uint32_t k, uint32_t *ids)
{
    uint32_t n = 0;
    for (uint32_t i = 0; k && i < n_vocab; i++) {
        if (n == k && !(logits[i] > logits[ids[n - 1]])) continue;
        uint32_t at = n < k ? n++ : n - 1;
        for (; at && logits[ids[at - 1]] < logits[i]; at--) ids[at] = ids[at - 1];
        ids[at] = i;
    }
}

bool top_logits(const float *logits, uint32_t n_vocab, uint32_t k, uint32_t *ids, struct err *e)
{
    if (k <= 64) {
        top_few(logits, n_vocab, k, ids);
        return true;
    }
    struct scored *all = mem_take(n_vocab, sizeof *all, e);
    if (!all) return false;
    for (uint32_t i = 0; i < n_vocab; i++) all[i] = (struct scored){logits[i], i};
    qsort(all, n_vocab, sizeof *all, by_logit);
    for (uint32_t i = 0; i < k; i++) ids[i] = all[i].id;
    mem_drop(all);
    return true;
}

static uint32_t draw(const float *logits, const uint32_t *ids, double *p, uint32_t n,
                     const struct sampling *how, struct random *random)
{
    double total = 0, kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        p[i] = exp(((double)logits[ids[i]] - (double)logits[ids[0]]) / how->temperature);
        total += p[i];
    }
    uint32_t last = 0;
    while (last < n && (last == 0 || kept < how->top_p * total)) kept += p[last++];
    double at = random_unit(random) * kept;
    for (uint32_t i = 0; i < last; i++)
        if ((at -= p[i]) < 0) return ids[i];
    return ids[last - 1];
}

/* From all of them: no order is needed. */
static uint32_t draw_any(const float *logits, uint32_t n, double temperature, struct random *random)
{
    const uint32_t best = arg_max(logits, n);
    const double top = (double)logits[best];
    double total = 0;
    for (uint32_t i = 0; i < n; i++) total += exp(((double)logits[i] - top) / temperature);
    double at = random_unit(random) * total;
    for (uint32_t i = 0; i < n; i++)
        if ((at -= exp(((double)logits[i] - top) / temperature)) < 0) return i;
    return best;
}

bool sample(const float *logits, uint32_t n_vocab, const struct sampling *how, struct random *random,
            uint32_t *id, struct err *e)
{
    if (how->temperature <= 0) {
        *id = arg_max(logits, n_vocab);
        return true;
    }
    uint32_t k = how->top_k && how->top_k < n_vocab ? how->top_k : n_vocab;
    if (k == n_vocab && how->top_p >= 1) {
        *id = draw_any(logits, n_vocab, how->temperature, random);
        return true;
    }
    uint32_t *ids = mem_take(k, sizeof *ids, e);
    double *p = ids ? mem_take(k, sizeof *p, e) : NULL;
    bool ok = p && top_logits(logits, n_vocab, k, ids, e);
    if (ok) *id = draw(logits, ids, p, k, how, random);
    mem_drop(ids);
    mem_drop(p);
    return ok;
}
