#include "features.h"

#include <math.h>
#include <string.h>

#include "core/head.h"

enum { HEAD_ROWS = 64 /* positions unembedded in one step */, MOST_ROWS = 64 };

struct text {
    const struct features_input *in;
    struct features_rows rows;
    uint32_t *want; /* 0 … n − 2 */
    float *x, *y;   /* [n_pos][d] what is there, and its reconstruction (splice) */
};

struct features {
    struct features_request q;
    struct text *text;
    uint32_t head;         /* the tap's one, where the autoencoder is of one */
    struct taps taps;
    struct run *run;
    enum features_pass pass;
    bool ran, encoded;
    size_t at, row;        /* the input and its row: next to be unembedded, or encoded */
    double *mean;          /* [d] x̄ */
    float *work, *a, *back;
    double off, size, spread, l0, loss[FEATURES_PASSES]; /* sums */
    size_t rows, tokens, done, total;
};

double features_recovered(const double loss[FEATURES_PASSES])
{
    return (loss[PASS_ZERO] - loss[PASS_SAE]) / (loss[PASS_ZERO] - loss[PASS_CLEAN]);
}

/* Rows encoded in a step: about 2³¹ multiplications, and no more memory than a layer's rows take. */
static size_t rows_at_once(const struct sae_cfg *c)
{
    size_t n = ((size_t)1 << 31) / ((size_t)c->width * c->features + 1);
    return n < 1 ? 1 : n > MOST_ROWS ? MOST_ROWS : n;
}

static size_t wanted(const struct features_request *q, size_t i) { return q->splice ? q->in[i].n - 1 : 0; }

void features_plan(const struct features_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const struct sae_cfg *c = &q->sae->cfg;
    size_t m = rows_at_once(c);
    struct run_size size = {0};
    for (size_t i = 0; i < q->n_in; i++) {
        size_t n = q->in[i].n_pos, values = mem_floats_bytes(plan_times(n, c->width) + 1);
        run_size_add(&size, 0, q->in[i].n, wanted(q, i), false);
        plan_add(p, NEED_CAPTURES, plan_times(q->splice ? 2 : 1, values));
        plan_add(p, NEED_CAPTURES, plan_times(q->in[i].n, sizeof(uint32_t)));
        plan_add(p, NEED_ANSWER, plan_times(n, 8 * ((size_t)q->top_k + 4) + 4 * q->n_features));
        plan_add(p, NEED_ANSWER, 1024);
    }
    plan_add(p, NEED_CAPTURES, plan_sum(mem_floats_bytes(sae_work(c, m)), mem_floats_bytes(plan_times(m, c->features))));
    plan_add(p, NEED_CAPTURES, plan_sum(mem_floats_bytes(m * c->width), 16 * (size_t)c->width));
    if (q->splice) plan_add(p, NEED_LOGITS, mem_floats_bytes(plan_times(HEAD_ROWS, a->d_vocab)));
    if (hook_info(q->site.hook)->axis != AXIS_PLAIN) { /* a copy of the stream for a head, as in trace.c */
        size_t rows = size.rows < RUN_ROWS ? size.rows : RUN_ROWS;
        plan_add(p, NEED_SCRATCH, mem_floats_bytes(2 * rows * a->d_model + (size_t)a->d_model * a->d_head));
    }
    run_plan(&size, a, threads, p);
}

static bool text_new(struct features *f, size_t i, struct err *e)
{
    const struct features_request *q = &f->q;
    struct text *t = &f->text[i];
    struct features_rows *r = &t->rows;
    size_t n = q->in[i].n_pos, values = n * q->sae->cfg.width + 1;
    t->in = &q->in[i];
    r->top_id = mem_take(n * q->top_k + 1, sizeof *r->top_id, e);
    r->top = mem_take(n * q->top_k + 1, sizeof *r->top, e);
    r->n_top = mem_take(n, sizeof *r->n_top, e);
    r->l0 = mem_take(n, sizeof *r->l0, e);
    r->error = mem_take(n, sizeof *r->error, e);
    r->explained = mem_take(n, sizeof *r->explained, e);
    r->followed = mem_take(n * q->n_features + 1, sizeof *r->followed, e);
    t->want = mem_take(t->in->n, sizeof *t->want, e);
    t->x = mem_floats(values, e);
    t->y = q->splice ? mem_floats(values, e) : NULL;
    for (uint32_t k = 0; t->want && k < t->in->n; k++) t->want[k] = k;
    f->total += (q->splice ? FEATURES_PASSES : 1) * (size_t)t->in->n + n;
    f->rows += n;
    return r->top_id && r->top && r->n_top && r->l0 && r->error && r->explained && r->followed && t->want && t->x && (t->y || !q->splice);
}

struct features *features_new(const struct features_request *q, struct err *e)
{
    const struct sae_cfg *c = &q->sae->cfg;
    size_t m = rows_at_once(c);
    struct features *f = mem_new(sizeof *f);
    f->q = *q;
    f->head = (uint32_t)c->head;
    f->q.view = view_retain(q->view);
    f->text = mem_take(q->n_in, sizeof *f->text, e);
    f->taps.tap = mem_take(q->n_in, sizeof *f->taps.tap, e);
    f->taps.n = q->n_in;
    f->mean = mem_take(c->width, sizeof *f->mean, e);
    f->work = mem_floats(sae_work(c, m), e);
    f->a = mem_floats(m * c->features, e);
    f->back = mem_floats(m * c->width, e);
    bool ok = f->text && f->taps.tap && f->mean && f->work && f->a && f->back;
    for (size_t i = 0; ok && i < q->n_in; i++) ok = text_new(f, i, e);
    if (ok) return f;
    features_free(f);
    return NULL;
}

static void text_release(struct text *t)
{
    mem_drop(t->rows.top_id);
    mem_drop(t->rows.top);
    mem_drop(t->rows.n_top);
    mem_drop(t->rows.l0);
    mem_drop(t->rows.error);
    mem_drop(t->rows.explained);
    mem_drop(t->rows.followed);
    mem_drop(t->want);
    mem_drop(t->x);
    mem_drop(t->y);
}

void features_free(struct features *f)
{
    if (!f) return;
    run_free(f->run);
    for (size_t i = 0; f->text && i < f->q.n_in; i++) text_release(&f->text[i]);
    mem_drop(f->text);
    mem_drop(f->taps.tap);
    mem_drop(f->mean);
    mem_drop(f->work);
    mem_drop(f->a);
    mem_drop(f->back);
    view_drop(f->q.view);
    mem_drop(f);
}

/* ---- passes -------------------------------------------------------------------------------------- */

static struct tap tap_of(const struct features *f, uint32_t i)
{
    const struct text *t = &f->text[i];
    bool one = f->q.sae->cfg.head != SAE_ALL_HEADS;
    struct tap tap = {.site = f->q.site, .op = f->pass == PASS_CLEAN ? TAP_READ : TAP_SET, .seq = i, .pos = t->in->pos,
                      .n_pos = t->in->n_pos, .head = one ? &f->head : NULL, .n_head = one, .weight = 1};
    if (f->pass == PASS_CLEAN) tap.dst = t->x;
    tap.src = f->pass == PASS_SAE ? t->y : NULL;
    tap.n_src_pos = f->pass == PASS_SAE ? t->in->n_pos : 1;
    return tap;
}

/* Where nothing is put back, layers behind the site need not run. */
static bool pass_begin(struct features *f, struct err *e)
{
    const struct features_request *q = &f->q;
    struct run_input *in = mem_take(q->n_in, sizeof *in, e);
    for (size_t i = 0; in && i < q->n_in; i++) {
        f->taps.tap[i] = tap_of(f, (uint32_t)i);
        in[i] = (struct run_input){.ids = q->in[i].ids, .n = q->in[i].n, .seq = (uint32_t)i, .want = f->text[i].want, .n_want = wanted(q, i)};
    }
    f->run = in ? run_new(q->view, in, q->n_in, &f->taps, e) : NULL;
    mem_drop(in);
    if (f->run && !q->splice) run_stop_before(f->run, q->site.layer + 1);
    f->ran = false;
    f->at = f->row = 0;
    return f->run != NULL;
}

/* The losses of the next few positions. */
static bool add_losses(struct features *f, struct session *s, size_t n, struct err *e)
{
    struct text *t = &f->text[f->at];
    const struct arch *a = &view_model(f->q.view)->arch;
    float *logits = mem_floats(n * a->d_vocab, e);
    bool ok = logits && unembed(s, f->q.view, run_final(f->run, f->at) + f->row * a->d_model, n, NULL, logits, e);
    for (size_t k = 0; ok && k < n; k++)
        t->rows.loss[f->pass] -= log_prob(logits + k * a->d_vocab, a->d_vocab, t->in->ids[f->row + k + 1]);
    mem_drop(logits);
    f->row += n;
    return ok;
}

/* Sums of an input become its mean; of all, the sums of the answer. */
static void end_text(struct features *f)
{
    struct text *t = &f->text[f->at];
    size_t n = wanted(&f->q, f->at);
    f->loss[f->pass] += t->rows.loss[f->pass];
    if (f->pass == PASS_CLEAN) f->tokens += n;
    t->rows.loss[f->pass] = n ? t->rows.loss[f->pass] / (double)n : (double)NAN;
    f->at++;
    f->row = 0;
}

static enum step pass_step(struct features *f, struct session *s, struct err *e)
{
    if (!f->run && !pass_begin(f, e)) return STEP_FAIL;
    if (!f->ran) {
        enum step step = run_step(f->run, s, e);
        if (step == STEP_DONE) f->ran = true;
        return step == STEP_FAIL ? step : STEP_MORE;
    }
    while (f->at < f->q.n_in && f->row == wanted(&f->q, f->at)) end_text(f);
    if (f->at < f->q.n_in) {
        size_t left = wanted(&f->q, f->at) - f->row;
        return add_losses(f, s, left < HEAD_ROWS ? left : HEAD_ROWS, e) ? STEP_MORE : STEP_FAIL;
    }
    run_free(f->run);
    f->run = NULL;
    f->at = f->row = 0;
    return STEP_DONE;
}

/* ---- features ------------------------------------------------------------------------------------ */

static void find_mean(struct features *f)
{
    const uint32_t d = f->q.sae->cfg.width;
    for (size_t i = 0; i < f->q.n_in; i++)
        for (size_t r = 0; r < f->text[i].in->n_pos; r++)
            for (uint32_t k = 0; k < d; k++) f->mean[k] += (double)f->text[i].x[r * d + k] / (double)f->rows;
}

/* The largest of a row, kept in order as they come. */
static void find_top(const struct features *f, struct features_rows *out, size_t row, const float *a)
{
    const uint32_t most = f->q.top_k;
    uint32_t *id = out->top_id + row * most, n = 0, l0 = 0;
    float *top = out->top + row * most;
    for (uint32_t i = 0; i < f->q.sae->cfg.features; i++) {
        if (a[i] == 0) continue;
        l0++;
        if (n == most && (!most || !(a[i] > top[n - 1]))) continue;
        uint32_t at = n < most ? n++ : n - 1;
        for (; at > 0 && a[i] > top[at - 1]; at--) {
            top[at] = top[at - 1];
            id[at] = id[at - 1];
        }
        top[at] = a[i];
        id[at] = i;
    }
    out->n_top[row] = n;
    out->l0[row] = l0;
}

static void measure(struct features *f, struct features_rows *out, size_t row, const float *x, const float *y)
{
    double off = 0, size = 0, spread = 0;
    for (uint32_t k = 0; k < f->q.sae->cfg.width; k++) {
        double v = (double)x[k], r = v - (double)y[k], c = v - f->mean[k];
        off += r * r;
        size += v * v;
        spread += c * c;
    }
    out->error[row] = size > 0 ? off / size : (double)NAN;
    out->explained[row] = spread > 0 ? 1 - off / spread : (double)NAN;
    f->off += off;
    f->size += size;
    f->spread += spread;
    f->l0 += out->l0[row];
}

static void encode_rows(struct features *f, size_t n)
{
    const struct features_request *q = &f->q;
    const size_t d = q->sae->cfg.width, k = q->sae->cfg.features;
    struct text *t = &f->text[f->at];
    const float *x = t->x + f->row * d;
    float *y = q->splice ? t->y + f->row * d : f->back;
    sae_encode(q->sae, n, x, d, f->work, f->a);
    sae_decode(q->sae, n, x, d, f->a, y);
    for (size_t r = 0; r < n; r++) {
        find_top(f, &t->rows, f->row + r, f->a + r * k);
        measure(f, &t->rows, f->row + r, x + r * d, y + r * d);
        for (size_t i = 0; i < q->n_features; i++) t->rows.followed[i * t->in->n_pos + f->row + r] = f->a[r * k + q->feature[i]];
    }
    f->row += n;
    f->done += n;
}

static enum step encode_step(struct features *f)
{
    if (f->at == 0 && f->row == 0) find_mean(f);
    while (f->at < f->q.n_in && f->row == f->text[f->at].in->n_pos) {
        f->at++;
        f->row = 0;
    }
    if (f->at == f->q.n_in) return STEP_DONE;
    size_t left = f->text[f->at].in->n_pos - f->row, most = rows_at_once(&f->q.sae->cfg);
    encode_rows(f, left < most ? left : most);
    return STEP_MORE;
}

/* ---- the whole ----------------------------------------------------------------------------------- */

enum step features_step(struct features *f, struct session *s, struct err *e)
{
    bool encodes = f->pass == PASS_SAE && !f->encoded;
    if (f->pass == FEATURES_PASSES) return STEP_DONE;
    enum step step = encodes ? encode_step(f) : pass_step(f, s, e);
    if (step != STEP_DONE) return step;
    if (encodes) {
        f->encoded = true;
        return f->q.splice ? STEP_MORE : (f->pass = FEATURES_PASSES, STEP_DONE);
    }
    for (size_t i = 0; i < f->q.n_in; i++) f->done += f->q.in[i].n;
    f->pass++;
    return f->pass < FEATURES_PASSES ? STEP_MORE : STEP_DONE;
}

void features_progress(const struct features *f, size_t *done, size_t *total)
{
    *done = f->done;
    *total = f->total;
}

const struct features_rows *features_result(const struct features *f, size_t input) { return &f->text[input].rows; }

struct features_sums features_sums(const struct features *f)
{
    struct features_sums s = {.rows = f->rows, .tokens = f->tokens, .l0 = f->l0 / (double)f->rows,
                              .error = f->size > 0 ? f->off / f->size : (double)NAN,
                              .explained = f->spread > 0 ? 1 - f->off / f->spread : (double)NAN};
    for (int i = 0; i < FEATURES_PASSES; i++) s.loss[i] = f->tokens ? f->loss[i] / (double)f->tokens : (double)NAN;
    return s;
}
