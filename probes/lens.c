#include "lens.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"
#include "core/sample.h"

struct lens {
    struct lens_request q;
    struct trace_input *in;     /* [n_in] */
    struct trace_place *read;   /* [n_in][n_layers + 1]; the last of an input's is the stream the model unembeds */
    struct trace *trace;
    bool traced;
    struct lens_cells *cells;   /* [n_in] */
    float *final, *logits;      /* [LENS_ROWS][V] of the rows in hand: the model's, and a layer's */
    size_t input, first;        /* rows in hand: of this input, from this of its positions on */
    size_t layer;               /* which layer of them is next… */
    bool referred;              /* …once the model's own logits are there */
    size_t done;                /* rows unembedded */
};

static const struct arch *arch_of(const struct lens_request *q) { return &view_model(q->view)->arch; }

static size_t most_pos(const struct lens_request *q)
{
    size_t most = 1;
    for (size_t i = 0; i < q->n_in; i++)
        if (q->in[i].n_pos > most) most = q->in[i].n_pos;
    return most < LENS_ROWS ? most : LENS_ROWS;
}

/* ---- what is kept ---------------------------------------------------------------------------------- */

static size_t kept_bytes(const struct lens_request *q, size_t cells)
{
    size_t each = q->top_k * (sizeof(uint32_t) + sizeof(float) + sizeof(double)) + 2 * sizeof(double) +
                  q->n_tokens * (sizeof(uint32_t) + sizeof(float) + sizeof(double));
    return plan_times(cells + 1, each);
}

static bool cells_new(const struct lens_request *q, size_t n_pos, struct lens_cells *c, struct err *e)
{
    size_t n = n_pos * q->n_layers, top = n * q->top_k + 1, asked = n * q->n_tokens + 1;
    c->top_id = mem_take(top, sizeof *c->top_id, e);
    c->top_logit = c->top_id ? mem_take(top, sizeof *c->top_logit, e) : NULL;
    c->top_prob = c->top_logit ? mem_take(top, sizeof *c->top_prob, e) : NULL;
    c->entropy = c->top_prob ? mem_take(n + 1, sizeof *c->entropy, e) : NULL;
    c->kl = c->entropy ? mem_take(n + 1, sizeof *c->kl, e) : NULL;
    c->logit = c->kl ? mem_take(asked, sizeof *c->logit, e) : NULL;
    c->logprob = c->logit ? mem_take(asked, sizeof *c->logprob, e) : NULL;
    c->rank = c->logprob ? mem_take(asked, sizeof *c->rank, e) : NULL;
    return c->rank != NULL;
}

static void cells_free(struct lens_cells *c)
{
    void *parts[] = {c->top_id, c->top_logit, c->top_prob, c->entropy, c->kl, c->logit, c->logprob, c->rank};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) mem_drop(parts[i]);
}

/* ---- making ---------------------------------------------------------------------------------------- */

/* Places and inputs of the trace beneath; memory of at least n_in and n_in · (n_layers + 1). */
static void lay_out(const struct lens_request *q, struct trace_input *in, struct trace_place *read)
{
    const uint32_t last = arch_of(q)->n_layers - 1;
    for (size_t i = 0; i < q->n_in; i++) {
        const struct lens_input *of = &q->in[i];
        in[i] = (struct trace_input){.ids = of->ids, .n = of->n};
        for (size_t l = 0; l <= q->n_layers; l++) {
            struct site site = l < q->n_layers ? (struct site){q->at, q->layer[l]} : (struct site){HOOK_RESID_POST, last};
            *read++ = (struct trace_place){.input = (uint32_t)i, .site = site, .pos = of->pos, .n_pos = of->n_pos};
        }
    }
}

static size_t n_reads(const struct lens_request *q) { return q->n_in * (q->n_layers + 1); }

void lens_plan(const struct lens_request *q, int threads, struct plan *p)
{
    const struct arch *a = arch_of(q);
    struct run_size run = {0};
    size_t cells = 0, rows = most_pos(q);
    for (size_t i = 0; i < q->n_in; i++) {
        run_size_add(&run, 0, q->in[i].n, 0, false);
        cells += q->in[i].n_pos * q->n_layers;
        plan_add(p, NEED_CAPTURES, plan_times(q->n_layers + 1, mem_floats_bytes(q->in[i].n_pos * a->d_model + 1)));
    }
    run_plan(&run, a, threads, p);
    plan_add(p, NEED_LOGITS, 2 * mem_floats_bytes(rows * a->d_vocab));
    plan_add(p, NEED_CAPTURES, kept_bytes(q, cells));
    plan_add(p, NEED_REQUEST, plan_times(n_reads(q), sizeof(struct trace_place) + sizeof(struct tap)));
}

struct lens *lens_new(const struct lens_request *q, struct err *e)
{
    struct lens *l = mem_new(sizeof *l);
    const size_t logits = most_pos(q) * arch_of(q)->d_vocab;
    l->q = *q;
    assert(q->top_k <= LENS_TOP && q->top_k <= arch_of(q)->d_vocab);
    l->in = mem_take(q->n_in, sizeof *l->in, e);
    l->read = l->in ? mem_take(n_reads(q), sizeof *l->read, e) : NULL;
    l->cells = l->read ? mem_take(q->n_in, sizeof *l->cells, e) : NULL;
    l->final = l->cells ? mem_floats(logits, e) : NULL;
    l->logits = l->final ? mem_floats(logits, e) : NULL;
    bool ok = l->logits != NULL;
    for (size_t i = 0; ok && i < q->n_in; i++) ok = cells_new(q, q->in[i].n_pos, &l->cells[i], e);
    if (ok) lay_out(q, l->in, l->read);
    l->trace = ok ? trace_new(q->view, l->in, q->n_in, l->read, n_reads(q), NULL, 0, e) : NULL;
    if (l->trace) return l;
    lens_free(l);
    return NULL;
}

void lens_free(struct lens *l)
{
    if (!l) return;
    trace_free(l->trace);
    for (size_t i = 0; l->cells && i < l->q.n_in; i++) cells_free(&l->cells[i]);
    mem_drop(l->cells);
    mem_drop(l->read);
    mem_drop(l->in);
    mem_drop(l->final);
    mem_drop(l->logits);
    mem_drop(l);
}

/* ---- one row's distribution -------------------------------------------------------------------------- */

struct sums { /* of logits x: log Σ exp x, and Σ p x */
    double log_sum, mean;
};

static struct sums sums_of(const float *x, size_t V)
{
    float most = x[0];
    double sum = 0, times = 0;
    for (size_t i = 1; i < V; i++)
        if (x[i] > most) most = x[i];
    for (size_t i = 0; i < V; i++) {
        double p = exp((double)x[i] - (double)most);
        sum += p;
        times += p * (double)x[i];
    }
    return (struct sums){(double)most + log(sum), times / sum};
}

/* Σ q (log q − log p): exactly 0 of the same logits. */
static double divergence(const float *q, const float *p, double sum_q, double sum_p, size_t V)
{
    double kl = 0;
    for (size_t i = 0; i < V; i++) kl += exp((double)q[i] - sum_q) * ((double)q[i] - (double)p[i]);
    return kl - sum_q + sum_p;
}

static uint32_t rank_of(const float *x, uint32_t V, uint32_t id)
{
    uint32_t ahead = 0;
    for (uint32_t i = 0; i < V; i++) ahead += x[i] > x[id] || (x[i] == x[id] && i < id);
    return ahead + 1;
}

static void score_row(const struct lens *l, size_t row)
{
    const struct lens_request *q = &l->q;
    const uint32_t V = arch_of(q)->d_vocab;
    const float *x = l->logits + row * V, *final = l->final + row * V;
    struct lens_cells *c = &l->cells[l->input];
    size_t n_pos = q->in[l->input].n_pos, cell = l->layer * n_pos + l->first + row;
    struct sums s = sums_of(x, V), f = sums_of(final, V);
    c->entropy[cell] = isfinite(s.log_sum) ? s.log_sum - s.mean : (double)NAN;
    c->kl[cell] = divergence(final, x, f.log_sum, s.log_sum, V);
    uint32_t *top = c->top_id + cell * q->top_k;
    if (q->top_k) top_few(x, V, q->top_k, top);
    for (uint32_t k = 0; k < q->top_k; k++) {
        c->top_logit[cell * q->top_k + k] = x[top[k]];
        c->top_prob[cell * q->top_k + k] = exp((double)x[top[k]] - s.log_sum);
    }
    for (size_t t = 0; t < q->n_tokens; t++) {
        size_t at = t * q->n_layers * n_pos + cell;
        c->logit[at] = x[q->token[t]];
        c->logprob[at] = (double)x[q->token[t]] - s.log_sum;
        c->rank[at] = rank_of(x, V, q->token[t]);
    }
}

static void score_range(void *ctx, size_t from, size_t to, int thread)
{
    (void)thread;
    for (size_t i = from; i < to; i++) score_row(ctx, i);
}

/* ---- stepping ---------------------------------------------------------------------------------------- */

static size_t rows_in_hand(const struct lens *l)
{
    size_t left = l->q.in[l->input].n_pos - l->first;
    return left < LENS_ROWS ? left : LENS_ROWS;
}

static bool unembed_rows(struct lens *l, struct session *s, size_t read, float *out, struct err *e)
{
    size_t n, d = arch_of(&l->q)->d_model;
    const float *x = trace_values(l->trace, l->input * (l->q.n_layers + 1) + read, &n) + l->first * d;
    l->done += rows_in_hand(l);
    return unembed(s, l->q.view, x, rows_in_hand(l), NULL, out, e);
}

/* On to the next rows; false when there are none. */
static bool advance(struct lens *l)
{
    l->referred = false;
    l->layer = 0;
    l->first += rows_in_hand(l);
    if (l->first == l->q.in[l->input].n_pos) {
        l->input++;
        l->first = 0;
    }
    return l->input < l->q.n_in;
}

enum step lens_step(struct lens *l, struct session *s, struct err *e)
{
    if (!l->traced) {
        enum step step = trace_step(l->trace, s, e);
        l->traced = step == STEP_DONE;
        return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
    }
    if (!l->referred) {
        l->referred = true;
        return unembed_rows(l, s, l->q.n_layers, l->final, e) ? STEP_MORE : STEP_FAIL;
    }
    if (!unembed_rows(l, s, l->layer, l->logits, e)) return STEP_FAIL;
    par_for(s->par, rows_in_hand(l), score_range, l);
    if (++l->layer < l->q.n_layers) return STEP_MORE;
    return advance(l) ? STEP_MORE : STEP_DONE;
}

void lens_progress(const struct lens *l, size_t *done, size_t *total)
{
    trace_progress(l->trace, done, total);
    *done += l->done;
    for (size_t i = 0; i < l->q.n_in; i++) *total += l->q.in[i].n_pos * (l->q.n_layers + 1);
}

const struct lens_cells *lens_result(const struct lens *l, size_t input) { return &l->cells[input]; }
