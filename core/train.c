#include "train.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernel/softmax.h"
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
    const struct weight_grads *ends;
    struct taps *writes;
    float *head;         /* the scored rows' x, and behind them their gradients, while tape_head goes on */
    size_t head_seq, head_at, head_row; /* the next of them */
};

static size_t align16(size_t n) { return (n + 15) & ~(size_t)15; }

/* A block's rows, all of them, and the two residuals. */
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

void tape_plan(const struct arch *a, size_t rows, size_t longest, size_t scored, uint32_t from, int threads,
               struct plan *p)
{
    size_t at_once = scored < TAPE_HEAD_ROWS ? scored : TAPE_HEAD_ROWS;
    size_t logits = mem_floats_bytes(at_once * a->d_vocab), stream = mem_floats_bytes(rows * a->d_model);
    plan_add(p, NEED_TAPE, mem_floats_bytes(plan_times(layer_floats(a, rows), a->n_layers - from)));
    plan_add(p, NEED_STREAM, plan_sum(stream, stream));
    plan_add(p, NEED_STREAM, mem_floats_bytes(2 * scored * a->d_model + 1));
    plan_add(p, NEED_LOGITS, a->final_softcap > 0 ? plan_sum(logits, logits) : logits);
    plan_add(p, NEED_SCRATCH, session_bytes(a, rows, longest, threads));
    plan_add(p, NEED_SCRATCH, attention_backward_bytes(longest));
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
    mem_drop(t->head);
    mem_drop(t);
}

size_t tape_rows(const struct tape *t) { return t->rows; }
float *tape_input(struct tape *t) { return t->input; }

void tape_train_down(struct tape *t, const float *down, const float *post)
{
    t->down = down;
    t->post = post;
}

void tape_train_ends(struct tape *t, const struct weight_grads *ends) { t->ends = ends; }

void tape_write(struct tape *t, struct taps *writes)
{
    for (size_t i = 0; i < writes->n; i++)
        assert(writes->tap[i].op == TAP_READ || (writes->tap[i].site.layer >= t->from && block_back_through(writes->tap[i].site.hook)));
    t->writes = writes;
}

void tape_weigh(struct tape *t, const double *weight)
{
    size_t d = t->arch->d_model;
    for (size_t i = 0; i < t->n; i++) {
        float *x = t->x + t->span[i].first_row * d;
        for (size_t k = 0; k < t->span[i].n_rows * d; k++) x[k] = (float)(weight[i] * (double)x[k]);
    }
}
const float *tape_stream(const struct tape *t) { return t->x; }
const struct saved *tape_saved(const struct tape *t, uint32_t layer) { return &t->saved[layer - t->from]; }

static struct block block_of(struct tape *t, struct view *v, struct session *s, const struct taps *taps)
{
    return (struct block){.session = s, .view = v, .layer = t->layer, .span = t->span,
                          .n_spans = t->n, .n_rows = t->rows, .x = t->x, .taps = taps};
}

static size_t x_bytes(const struct tape *t) { return (size_t)t->rows * t->arch->d_model * sizeof(float); }

void tape_resume(struct tape *t, uint32_t layer, const float *x)
{
    assert(layer > t->from && layer <= t->arch->n_layers);
    t->layer = layer;
    memcpy(t->x, x, x_bytes(t));
}

/* x ← x_mid + what the matrix being trained makes of its kept input. */
static bool candidate_mlp(struct tape *t, struct block *b, struct err *e)
{
    if (!block_down(b, t->post, t->down, e)) return false;
    for (size_t i = 0; i < (size_t)t->rows * t->arch->d_model; i++) t->x[i] += b->rows.out[i];
    return true;
}

enum step tape_forward(struct tape *t, struct view *v, struct session *s, struct err *e)
{
    if (t->layer == t->from) memcpy(t->x, t->input, x_bytes(t));
    struct saved *save = &t->saved[t->layer - t->from];
    struct block b = block_of(t, v, s, t->writes);
    b.rows = save->rows;
    bool first = t->layer == t->from;
    if (!(first && t->from_mid)) {
        if (!block_attention(&b, e)) return STEP_FAIL;
        memcpy(save->x_pre, t->x, x_bytes(t)); /* as written, if it was */
        if (!block_project(&b, e)) return STEP_FAIL;
    }
    memcpy(save->x_mid, t->x, x_bytes(t));
    if (!(first && t->down ? candidate_mlp(t, &b, e) : block_mlp(&b, e))) return STEP_FAIL;
    if (++t->layer < t->arch->n_layers) return STEP_MORE;
    return STEP_DONE;
}

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

/* The next stretch of scored rows of one sequence: logits, their gradient by `loss`, back to the stream. */
static bool loss_rows(struct tape *t, struct view *v, struct session *s, const struct taps *taps, float *logits,
                      size_t n, tape_row_loss loss, void *ctx, struct err *e)
{
    size_t V = t->arch->d_vocab, d = t->arch->d_model, seq = t->head_seq, at = t->head_at;
    const struct head_rows hear = {taps, (uint32_t)seq, t->seq[seq].scored + at};
    const float *x = t->head + t->head_row * d;
    if (!unembed(s, v, x, n, NULL, logits, e)) return false;
    for (size_t k = 0; k < n; k++) loss(ctx, seq, at + k, logits + k * V);
    return unembed_backward(s, v, x, n, taps ? &hear : NULL, logits, t->head + (count_scored(t) + t->head_row) * d,
                            t->ends, e);
}

static bool begin_head(struct tape *t, struct err *e)
{
    size_t floats = count_scored(t) * t->arch->d_model;
    assert(t->layer == t->arch->n_layers);
    t->head_seq = t->head_at = t->head_row = 0;
    t->head = mem_floats(2 * floats + 1, e);
    if (!t->head) return false;
    scored_rows(t, t->head, false);
    memset(t->head + floats, 0, floats * sizeof *t->head);
    return true;
}

static void end_head(struct tape *t)
{
    scored_rows(t, t->head + count_scored(t) * t->arch->d_model, true);
    mem_drop(t->head);
    t->head = NULL;
}

enum step tape_head(struct tape *t, struct view *v, struct session *s, const struct taps *taps, tape_row_loss loss,
                    void *ctx, struct err *e)
{
    if (!t->head && !begin_head(t, e)) return STEP_FAIL;
    while (t->head_seq < t->n && t->head_at == t->seq[t->head_seq].n_scored) {
        t->head_seq++;
        t->head_at = 0;
    }
    if (t->head_seq == t->n) {
        end_head(t);
        return STEP_DONE;
    }
    size_t left = t->seq[t->head_seq].n_scored - t->head_at, n = left < TAPE_HEAD_ROWS ? left : TAPE_HEAD_ROWS;
    float *logits = mem_floats(n * t->arch->d_vocab, e);
    bool ok = logits && loss_rows(t, v, s, taps, logits, n, loss, ctx, e);
    mem_drop(logits);
    t->head_at += n;
    t->head_row += n;
    return ok ? STEP_MORE : STEP_FAIL;
}

struct cross_entropy {
    const struct tape *tape;
    double *nll; /* [sequences] means */
};

/* −log p(target), its gradient in place of the logits. */
static void cross_entropy(void *ctx, size_t seq, size_t k, float *logits)
{
    const struct cross_entropy *c = ctx;
    const struct tape_seq *q = &c->tape->seq[seq];
    const uint32_t V = c->tape->arch->d_vocab, target = q->target[k];
    const double log_sum = log_sum_exp(logits, NULL, V), nll = log_sum - (double)logits[target],
                 weight = 1.0 / ((double)c->tape->n * (double)q->n_scored);
    for (uint32_t i = 0; i < V; i++) logits[i] = (float)(weight * exp((double)logits[i] - log_sum));
    logits[target] -= (float)weight;
    c->nll[seq] += nll / (double)q->n_scored;
}

bool tape_loss(struct tape *t, struct view *v, struct session *s, const struct taps *taps, double *loss, double *nll,
               struct err *e)
{
    struct cross_entropy c = {t, mem_take(t->n, sizeof(double), e)};
    bool ok = c.nll && STEP_ALL(tape_head(t, v, s, taps, cross_entropy, &c, e));
    *loss = 0;
    for (size_t i = 0; ok && i < t->n; i++) {
        if (nll) nll[i] = c.nll[i];
        *loss += c.nll[i] / (double)t->n;
    }
    mem_drop(c.nll);
    return ok;
}

/* What reaches the embeddings, for those who listen there and for their weights. */
static void finish_embeddings(const struct tape *t, const struct view *v, const struct taps *taps)
{
    static const enum hook hooks[] = {HOOK_POS_EMBED, HOOK_EMBED};
    size_t d = t->arch->d_model;
    for (size_t h = 0; h < 2; h++)
        for (size_t i = 0; taps_any(taps, hooks[h], 0) && i < t->n; i++)
            taps_fire(taps, (struct site){hooks[h], 0}, t->span[i].seq, 0, t->span[i].n_rows,
                      t->x + t->span[i].first_row * d, d, 1, t->arch->d_model);
    for (size_t i = 0; t->ends && i < t->n; i++)
        embed_backward(v, t->seq[i].ids, t->seq[i].n, 0, t->x + t->span[i].first_row * d, t->ends);
}

enum step tape_backward(struct tape *t, struct view *v, struct session *s,
                        const struct weight_grads *grads, const struct taps *taps, struct err *e)
{
    static const struct weight_grads none = {0};
    const struct arch *a = t->arch;
    t->layer--;
    const struct saved *save = &t->saved[t->layer - t->from];
    const struct weight_grads *g = grads ? &grads[t->layer - t->from] : &none;
    struct block b = block_of(t, v, s, taps);
    b.written = t->writes;
    float *memory = session_scratch(s, block_rows_floats(a, t->rows), e);
    if (!memory) return STEP_FAIL;
    block_rows_place(a, t->rows, memory, &b.rows);
    bool last = t->layer == t->from;
    if (last && t->down) /* nothing below the trained matrix is asked for */
        return block_down_backward(&b, save, t->post, t->x, g, e) ? STEP_DONE : STEP_FAIL;
    if (!block_backward(&b, save, t->x, g, last && t->from_mid, e)) return STEP_FAIL;
    if (last && t->from == 0 && !t->from_mid) finish_embeddings(t, v, taps);
    return last ? STEP_DONE : STEP_MORE;
}
