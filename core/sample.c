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

/* Keep the best k seen so far: a sorted list with insertion, good for the small k people ask for;
 * for large k everything is sorted. */
bool top_logits(const float *logits, uint32_t n_vocab, uint32_t k, uint32_t *ids, struct err *e)
{
    struct scored *all = mem_take(n_vocab, sizeof *all, e);
    if (!all) return false;
    for (uint32_t i = 0; i < n_vocab; i++) all[i] = (struct scored){logits[i], i};
    if (k <= 64) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < n_vocab; i++) {
            struct scored x = {logits[i], i};
            if (n == k && by_logit(&x, &all[n - 1]) >= 0) continue;
            uint32_t at = n < k ? n++ : n - 1;
            while (at && by_logit(&x, &all[at - 1]) < 0) {
                all[at] = all[at - 1];
                at--;
            }
            all[at] = x;
        }
    } else {
        qsort(all, n_vocab, sizeof *all, by_logit);
    }
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

bool sample(const float *logits, uint32_t n_vocab, const struct sampling *how, struct random *random,
            uint32_t *id, struct err *e)
{
    if (how->temperature <= 0) {
        *id = arg_max(logits, n_vocab);
        return true;
    }
    uint32_t k = how->top_k && how->top_k < n_vocab ? how->top_k : n_vocab;
    uint32_t *ids = mem_take(k, sizeof *ids, e);
    double *p = ids ? mem_take(k, sizeof *p, e) : NULL;
    bool ok = p && top_logits(logits, n_vocab, k, ids, e);
    if (ok) *id = draw(logits, ids, p, k, how, random);
    mem_drop(ids);
    mem_drop(p);
    return ok;
}
