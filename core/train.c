#include "train.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"
#include "head.h"

struct tape {
    const struct arch *arch;
    struct tape_seq *seq;
    struct span *span;
    size_t n;
    uint32_t from, layer, rows;
    bool from_mid;
    float *input;        /* [R][d] */
    float *x;            /* [R][d], running; after tape_loss the gradient */
    float *memory;       /* activations of all layers */
    struct saved *saved; /* [L − from] */
    const float *down, *post;
};

static size_t align16(size_t n) { return (n + 15) & ~(size_t)15; }

/* qkv, z, gate_up, post, and the two residuals; norm and out are scratch, shared by layers. */
static size_t layer_floats(const struct arch *a, size_t R)
{
    return block_rows_floats(a, R) + 2 * align16(R * a->d_model);
}

static bool place(struct tape *t, struct err *e)
{
    const struct arch *a = t->arch;
    size_t R = t->rows, layers = a->n_layers - t->from, each = layer_floats(a, R), total;
    if (!size_mul(each, layers, &total)) return err_set(e, ERR_NO_MEMORY, "training batch is too large");
    t->saved = mem_take(layers, sizeof *t->saved, e);
    t->memory = mem_floats(total, e);
    t->input = mem_floats(R * a->d_model, e);
    t->x = mem_floats(R * a->d_model, e);
    if (!t->saved || !t->memory || !t->input || !t->x) return false;
    for (size_t l = 0; l < layers; l++) {
        float *at = t->memory + l * each;
        block_rows_place(a, R, at, &t->saved[l].rows);
        t->saved[l].x_pre = at + block_rows_floats(a, R);
        t->saved[l].x_mid = t->saved[l].x_pre + align16(R * a->d_model);
    }
    return true;
}

struct tape *tape_new(const struct arch *a, const struct tape_seq *seq, size_t n, uint32_t from,
                      bool from_mid, struct err *e)
{
    assert(from < a->n_layers);
    struct tape *t = mem_new(sizeof *t);
    t->arch = a;
    t->n = n;
    t->from = t->layer = from;
    t->from_mid = from_mid;
    t->seq = mem_take(n, sizeof *t->seq, e);
    t->span = mem_take(n, sizeof *t->span, e);
    for (size_t i = 0; t->seq && t->span && i < n; i++) {
        t->seq[i] = seq[i];
        t->span[i] = (struct span){.seq = (uint32_t)i, .first_row = t->rows, .n_rows = seq[i].n};
        t->rows += seq[i].n;
    }
    if (t->seq && t->span && place(t, e)) return t;
    tape_free(t);
    return NULL;
}

void tape_free(struct tape *t)
{
    if (!t) return;
    mem_drop(t->seq);
    mem_drop(t->span);
    mem_drop(t->input);
    mem_drop(t->x);
    mem_drop(t->memory);
    mem_drop(t->saved);
    mem_drop(t);
}

size_t tape_rows(const struct tape *t) { return t->rows; }
float *tape_input(struct tape *t) { return t->input; }

void tape_train_down(struct tape *t, const float *down, const float *post)
{
    t->down = down;
    t->post = post;
}

static struct block block_of(struct tape *t, struct view *v, struct session *s, const struct taps *taps)
{
    return (struct block){.session = s, .view = v, .layer = t->layer, .span = t->span,
                          .n_spans = t->n, .n_rows = t->rows, .x = t->x, .taps = taps};
}

static size_t x_bytes(const struct tape *t) { return (size_t)t->rows * t->arch->d_model * sizeof(float); }

enum step tape_forward(struct tape *t, struct view *v, struct session *s, struct err *e)
{
    const struct arch *a = t->arch;
    if (t->layer == t->from) memcpy(t->x, t->input, x_bytes(t));
    struct saved *save = &t->saved[t->layer - t->from];
    struct block b = block_of(t, v, s, NULL);
    b.rows = save->rows;
    bool first = t->layer == t->from;
    if (!(first && t->from_mid)) {
        memcpy(save->x_pre, t->x, x_bytes(t));
        if (!block_attention(&b, e)) return STEP_FAIL;
        block_project(&b);
    }
    memcpy(save->x_mid, t->x, x_bytes(t));
    if (first && t->down) /* x ← x_mid + down · post */
        gemm_nt(t->rows, a->d_model, a->d_mlp, t->post, a->d_mlp, t->down, a->d_mlp, t->x,
                a->d_model, 1.0f, true);
    else
        block_mlp(&b);
    if (++t->layer < a->n_layers) return STEP_MORE;
    return STEP_DONE;
}

/* Row of logits → gradient of weight·(−log p(target)), in place; returns −log p. */
static double cross_entropy(float *logits, uint32_t V, uint32_t target, double weight)
{
    double nll = -log_prob(logits, V, target);
    double log_sum = (double)logits[target] + nll; /* log Σ exp */
    for (uint32_t i = 0; i < V; i++)
        logits[i] = (float)(weight * exp((double)logits[i] - log_sum));
    logits[target] -= (float)weight;
    return nll;
}

enum { LOSS_ROWS = 128 }; /* logits rows in hand at a time */

struct scored { /* one scored row */
    size_t seq;
    uint32_t target;
    double weight;
};

static size_t count_scored(const struct tape *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) n += t->seq[i].n_scored;
    return n;
}

/* Gather the scored rows' x, or (back) scatter their gradients into t->x, which is cleared. */
static void scored_rows(struct tape *t, float *rows, bool back)
{
    size_t d = t->arch->d_model, k = 0;
    if (back) memset(t->x, 0, x_bytes(t));
    for (size_t i = 0; i < t->n; i++)
        for (size_t j = 0; j < t->seq[i].n_scored; j++, k++) {
            float *x = t->x + (t->span[i].first_row + t->seq[i].scored[j]) * d;
            memcpy(back ? x : rows + k * d, back ? rows + k * d : x, d * sizeof *x);
        }
}

/* Loss and gradient of the scored rows [at, at + n): logits are held for these only. */
static bool loss_rows(struct tape *t, struct view *v, struct session *s, const float *rows, size_t at, size_t n,
                      const struct scored *score, float *logits, float *dx, double *nll, struct err *e)
{
    size_t d = t->arch->d_model, V = t->arch->d_vocab;
    if (!unembed(s, v, rows + at * d, n, logits, e)) return false;
    for (size_t k = 0; k < n; k++) {
        const struct scored *q = &score[at + k];
        nll[q->seq] += cross_entropy(logits + k * V, (uint32_t)V, q->target, q->weight) / (double)t->seq[q->seq].n_scored;
    }
    return unembed_backward(s, v, rows + at * d, n, logits, dx + at * d, e);
}

bool tape_loss(struct tape *t, struct view *v, struct session *s, double *loss, double *nll,
               struct err *e)
{
    size_t n = count_scored(t), d = t->arch->d_model, k = 0;
    assert(t->layer == t->arch->n_layers);
    float *rows = mem_floats(2 * n * d + 1, e), *logits = mem_floats(LOSS_ROWS * t->arch->d_vocab, e);
    struct scored *score = mem_take(n, sizeof *score, e);
    double *own = mem_take(t->n, sizeof *own, e);
    bool ok = rows && logits && score && own;
    for (size_t i = 0; ok && i < t->n; i++)
        for (size_t j = 0; j < t->seq[i].n_scored; j++)
            score[k++] = (struct scored){i, t->seq[i].target[j], 1.0 / ((double)t->n * (double)t->seq[i].n_scored)};
    if (ok) {
        scored_rows(t, rows, false);
        memset(rows + n * d, 0, n * d * sizeof *rows);
    }
    for (size_t at = 0; ok && at < n; at += LOSS_ROWS)
        ok = loss_rows(t, v, s, rows, at, n - at < LOSS_ROWS ? n - at : LOSS_ROWS, score, logits, rows + n * d, own, e);
    *loss = 0;
    for (size_t i = 0; ok && i < t->n; i++) {
        if (nll) nll[i] = own[i];
        *loss += own[i] / (double)t->n;
    }
    if (ok) scored_rows(t, rows + n * d, true);
    mem_drop(own);
    mem_drop(score);
    mem_drop(logits);
    mem_drop(rows);
    return ok;
}

enum step tape_backward(struct tape *t, struct view *v, struct session *s,
                        const struct weight_grads *grads, const struct taps *taps, struct err *e)
{
    const struct arch *a = t->arch;
    t->layer--;
    const struct saved *save = &t->saved[t->layer - t->from];
    const struct weight_grads *g = grads ? &grads[t->layer - t->from] : NULL;
    if (t->layer == t->from && t->down) { /* nothing below the trained matrix is asked for */
        if (g && g->down)
            gemm_tn(a->d_model, a->d_mlp, t->rows, t->x, a->d_model, t->post, a->d_mlp, g->down,
                    a->d_mlp, 1.0f, true);
        return STEP_DONE;
    }
    struct block b = block_of(t, v, s, taps);
    float *memory = session_scratch(s, block_rows_floats(a, t->rows), e);
    if (!memory) return STEP_FAIL;
    block_rows_place(a, t->rows, memory, &b.rows);
    bool last = t->layer == t->from;
    if (!block_backward(&b, save, t->x, g, last && t->from_mid, e)) return STEP_FAIL;
    return last ? STEP_DONE : STEP_MORE;
}
