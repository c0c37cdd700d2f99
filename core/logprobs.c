#include "logprobs.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/kernel/softmax.h"
#include "sample.h"

void logprobs_release(struct logprobs *l)
{
    mem_drop(l->value);
    mem_drop(l->top);
    *l = (struct logprobs){.n_top = l->n_top};
}

static bool grow(struct logprobs *l, size_t n, struct err *e)
{
    if (l->n + n <= l->cap) return true;
    size_t cap = l->n + n > 2 * l->cap ? l->n + n : 2 * l->cap;
    double *value = mem_take(cap, sizeof *value, e);
    struct logprob *top = value ? mem_take(cap * l->n_top + 1, sizeof *top, e) : NULL;
    if (!top) {
        mem_drop(value);
        return false;
    }
    if (l->n) memcpy(value, l->value, l->n * sizeof *value);
    if (l->n) memcpy(top, l->top, l->n * l->n_top * sizeof *top);
    mem_drop(l->value);
    mem_drop(l->top);
    l->value = value;
    l->top = top;
    l->cap = cap;
    return true;
}

struct batch {
    struct logprobs *l;
    const float *logits;
    uint32_t n_vocab;
    const uint32_t *ids;
};

static void add_some(void *ctx, size_t from, size_t to, int thread)
{
    const struct batch *b = ctx;
    uint32_t best[LOGPROBS_TOP];
    (void)thread;
    for (size_t i = from; i < to; i++) {
        const float *row = b->logits + i * b->n_vocab;
        double log_sum = log_sum_exp_row(row, b->n_vocab);
        struct logprob *top = b->l->top + (b->l->n + i) * b->l->n_top;
        b->l->value[b->l->n + i] = (double)row[b->ids[i]] - log_sum;
        top_few(row, b->n_vocab, b->l->n_top, best);
        for (uint32_t k = 0; k < b->l->n_top; k++)
            top[k] = (struct logprob){best[k], (double)row[best[k]] - log_sum};
    }
}

bool logprobs_add(struct logprobs *l, struct par *par, const float *logits, size_t n, uint32_t n_vocab,
                  const uint32_t *ids, struct err *e)
{
    assert(l->n_top <= LOGPROBS_TOP && l->n_top <= n_vocab);
    if (!grow(l, n, e)) return false;
    struct batch b = {l, logits, n_vocab, ids};
    par_for(par, n, add_some, &b);
    for (size_t i = 0; i < n; i++)
        if (!isfinite(l->value[l->n + i]))
            return err_set(e, ERR_NONFINITE, "the log-probability of token %u is not finite", ids[i]);
    l->n += n;
    return true;
}
