#include "fit.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/base/random.h"
#include "core/head.h"
#include "core/kernel/adam.h"
#include "core/kernel/softmax.h"
#include "core/run.h"
#include "core/train.h"

enum stage { STAGE_BELOW, STAGE_REFERENCE, STAGE_TRAIN, STAGE_DONE };
enum phase { PHASE_FORWARD, PHASE_HEAD, PHASE_BACKWARD };

struct fit {
    struct fit_request q;
    enum stage stage;
    enum phase phase;
    /* below */
    float **below;          /* [n] the stream entering the lowest layer; NULL from layer 0 */
    struct run *run;
    struct tap tap;
    struct taps taps;
    size_t at;              /* example, or item of the epoch's order */
    /* one pass: items order[first..first+count) */
    struct tape *tape;
    struct stream_writes *writes;
    size_t *member;         /* examples of the pass */
    size_t n_members, pass_items;
    double *score;          /* [n_members] Σ log p of targets */
    float *slope;           /* [V] */
    /* one batch */
    size_t batch_first, batch_n;
    double loss;            /* so far */
    /* all */
    double *reference;      /* [n] Σ log p before the first update */
    size_t *order, items;
    struct random random;
    struct adam adam;
    float *step;            /* [n params] gradient as the optimiser gets it */
    double *losses, *totals;
    size_t updates;
    uint32_t epoch;
    size_t done;
};

static const struct arch *arch_of(const struct fit *f) { return &view_model(f->q.view)->arch; }
static size_t per_item(const struct fit_request *q) { return q->loss == FIT_DPO ? 2 : 1; }
static size_t items_of(const struct fit_request *q) { return q->n / per_item(q); }

static size_t batches_of(const struct fit_request *q) { return (items_of(q) + q->batch - 1) / q->batch; }
size_t fit_updates(const struct fit_request *q) { return (size_t)q->epochs * batches_of(q); }

static size_t all_rows(const struct fit_request *q)
{
    size_t rows = 0;
    for (size_t i = 0; i < q->n; i++) rows += q->example[i].n;
    return rows;
}

/* ---- plan, beginning, end ------------------------------------------------------------------------ */

/* A pass ends with the item that fills it: so many rows and scored rows at most, whatever the order. */
static void largest_pass(const struct fit_request *q, size_t *rows, size_t *scored, size_t *longest, size_t *members)
{
    size_t most = 0, most_scored = 0, each = per_item(q);
    *longest = 0;
    for (size_t i = 0; i + each <= q->n; i += each) {
        size_t r = 0, s = 0;
        for (size_t k = i; k < i + each; k++) {
            r += q->example[k].n;
            s += q->example[k].n_scored;
            if (q->example[k].n > *longest) *longest = q->example[k].n;
        }
        if (r > most) most = r;
        if (s > most_scored) most_scored = s;
    }
    size_t batch = q->batch < items_of(q) ? q->batch : items_of(q), full = FIT_ROWS - 1 + most;
    *rows = batch * most < full ? batch * most : full;
    *scored = batch * most_scored < *rows ? batch * most_scored : *rows;
    *members = batch * each < *rows ? batch * each : *rows;
}

void fit_plan(const struct fit_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t from = q->params->lowest, n = q->params->n;
    size_t rows, scored, longest, members;
    struct plan below = {0}, train = {0};
    struct run_size size = {0};
    largest_pass(q, &rows, &scored, &longest, &members);
    for (size_t i = 0; from && i < q->n; i++) plan_add(p, NEED_CAPTURES, mem_floats_bytes(q->example[i].n * a->d_model));
    run_size_add(&size, 0, longest, 0, false);
    if (from) run_plan(&size, a, threads, &below);
    tape_plan(a, rows, longest, scored, (uint32_t)from, threads, &train);
    plan_add(&train, NEED_TAPE, stream_writes_bytes(q->params, rows, members, true));
    plan_add(&train, NEED_LOGITS, mem_floats_bytes(a->d_vocab));
    plan_peak(&below, &train);
    plan_with(p, &below);
    plan_add(p, NEED_TRAINING, plan_sum(plan_times(3 * sizeof(float), n), 64));
    plan_add(p, NEED_TRAINING, plan_times(q->n, 2 * sizeof(size_t) + 2 * sizeof(double) + sizeof(float *)));
    plan_add(p, NEED_TRAINING, plan_times(fit_updates(q), 2 * sizeof(double)));
}

static bool begin(struct fit *f, struct err *e)
{
    const struct fit_request *q = &f->q;
    f->items = items_of(q);
    f->below = mem_take(q->n, sizeof *f->below, e);
    f->member = mem_take(q->n, sizeof *f->member, e);
    f->score = mem_take(q->n, sizeof *f->score, e);
    f->reference = mem_take(q->n, sizeof *f->reference, e);
    f->order = mem_take(f->items, sizeof *f->order, e);
    f->slope = mem_floats(arch_of(f)->d_vocab, e);
    f->step = mem_take(q->params->n, sizeof *f->step, e);
    f->losses = mem_take(fit_updates(q), sizeof *f->losses, e);
    f->totals = mem_take(fit_updates(q), sizeof *f->totals, e);
    return f->below && f->member && f->score && f->reference && f->order && f->slope && f->step && f->losses &&
           f->totals && (q->descent || adam_init(&f->adam, q->params->n, q->lr, e));
}

static enum stage after_below(const struct fit *f) { return f->q.loss == FIT_DPO ? STAGE_REFERENCE : STAGE_TRAIN; }

struct fit *fit_new(const struct fit_request *q, struct err *e)
{
    assert(q->n && q->batch && q->epochs && q->n % per_item(q) == 0 && block_back_through(q->params->hook));
    struct fit *f = mem_new(sizeof *f);
    f->q = *q;
    view_retain(q->view);
    if (!begin(f, e)) {
        fit_free(f);
        return NULL;
    }
    for (size_t i = 0; i < f->items; i++) f->order[i] = i;
    random_init(&f->random, q->seed);
    f->stage = q->params->lowest ? STAGE_BELOW : after_below(f);
    if (f->stage == STAGE_TRAIN) random_shuffle(&f->random, f->order, f->items);
    return f;
}

static void end_pass(struct fit *f)
{
    tape_free(f->tape);
    stream_writes_free(f->writes);
    f->tape = NULL;
    f->writes = NULL;
    f->phase = PHASE_FORWARD;
}

void fit_free(struct fit *f)
{
    if (!f) return;
    end_pass(f);
    run_free(f->run);
    for (size_t i = 0; f->below && i < f->q.n; i++) mem_drop(f->below[i]);
    mem_drop(f->below);
    mem_drop(f->member);
    mem_drop(f->score);
    mem_drop(f->reference);
    mem_drop(f->order);
    mem_drop(f->slope);
    mem_drop(f->step);
    mem_drop(f->losses);
    mem_drop(f->totals);
    adam_release(&f->adam);
    view_drop(f->q.view);
    mem_drop(f);
}

/* ---- the layers below, once ---------------------------------------------------------------------- */

static void next_stage(struct fit *f, enum stage stage)
{
    f->stage = stage;
    f->at = 0;
    if (stage == STAGE_TRAIN) random_shuffle(&f->random, f->order, f->items);
}

static enum step step_below(struct fit *f, struct session *s, struct err *e)
{
    const struct fit_example *x = &f->q.example[f->at];
    const uint32_t from = f->q.params->lowest;
    if (!f->run) {
        float *dst = f->below[f->at] = mem_floats((size_t)x->n * arch_of(f)->d_model, e);
        if (!dst) return STEP_FAIL;
        f->tap = (struct tap){.site = {HOOK_RESID_POST, from - 1}, .op = TAP_READ, .every_pos = true, .dst = dst};
        f->taps = (struct taps){&f->tap, 1};
        const struct run_input in = {.ids = x->ids, .n = x->n};
        f->run = run_new(f->q.view, &in, 1, &f->taps, e);
        if (!f->run) return STEP_FAIL;
        run_stop_before(f->run, from);
    }
    enum step step = run_step(f->run, s, e);
    if (step != STEP_DONE) return step;
    run_free(f->run);
    f->run = NULL;
    f->done += (size_t)x->n * from;
    if (++f->at == f->q.n) next_stage(f, after_below(f));
    return STEP_MORE;
}

/* ---- one pass ------------------------------------------------------------------------------------- */

/* The items from `at` on that a pass takes, none behind `end`. */
static void fill_pass(struct fit *f, size_t end)
{
    size_t rows = 0, each = per_item(&f->q);
    f->n_members = f->pass_items = 0;
    while (f->at + f->pass_items < end && rows < FIT_ROWS) {
        for (size_t k = 0; k < each; k++) {
            size_t i = f->order[f->at + f->pass_items] * each + k;
            f->member[f->n_members++] = i;
            rows += f->q.example[i].n;
        }
        f->pass_items++;
    }
}

static bool fill_input(struct fit *f, struct session *s, struct err *e)
{
    const size_t d = arch_of(f)->d_model;
    float *to = tape_input(f->tape);
    for (size_t m = 0; m < f->n_members; m++) {
        const struct fit_example *x = &f->q.example[f->member[m]];
        const float *below = f->below[f->member[m]];
        if (below) memcpy(to, below, x->n * d * sizeof *to);
        else if (!embed(s, f->q.view, x->ids, x->n, 0, NULL, 0, to, e)) return false;
        to += x->n * d;
    }
    return true;
}

static bool begin_pass(struct fit *f, struct session *s, size_t end, struct err *e)
{
    fill_pass(f, end);
    struct tape_seq *seq = mem_take(f->n_members, sizeof *seq, e);
    struct stream_text *text = mem_take(f->n_members, sizeof *text, e);
    for (size_t m = 0; seq && text && m < f->n_members; m++) {
        const struct fit_example *x = &f->q.example[f->member[m]];
        seq[m] = (struct tape_seq){.n = x->n, .scored = x->scored, .target = x->target, .n_scored = x->n_scored};
        text[m] = (struct stream_text){x->n, x->source, x->n_source};
        f->score[m] = 0;
    }
    if (seq && text) f->tape = tape_new(arch_of(f), seq, f->n_members, f->q.params->lowest, false, e);
    if (f->tape) f->writes = stream_writes_new(f->q.params, text, f->n_members, f->stage == STAGE_TRAIN, e);
    mem_drop(seq);
    mem_drop(text);
    if (!f->writes) return false;
    tape_write(f->tape, stream_writes_taps(f->writes));
    return fill_input(f, s, e);
}

/* log p(target) and, in the place of the logits, its gradient times `weight`. */
static double target_gradient(float *logits, uint32_t V, uint32_t target, double weight)
{
    const double log_sum = log_sum_exp(logits, NULL, V), value = (double)logits[target] - log_sum;
    for (uint32_t i = 0; i < V; i++) logits[i] = (float)(-weight * exp((double)logits[i] - log_sum));
    logits[target] += (float)weight;
    return value;
}

static void row_loss(void *ctx, size_t seq, size_t k, float *logits)
{
    struct fit *f = ctx;
    const struct fit_example *x = &f->q.example[f->member[seq]];
    const uint32_t V = arch_of(f)->d_vocab;
    const double n = (double)f->batch_n;
    double sign = f->q.maximise != x->turned ? -1 : 1;
    switch (f->q.loss) {
    case FIT_CE: f->loss -= target_gradient(logits, V, x->target[k], -1 / (n * (double)x->n_scored)) / (n * (double)x->n_scored); break;
    case FIT_DPO: f->score[seq] += target_gradient(logits, V, x->target[k], 1); break;
    case FIT_METRIC:
        f->loss += sign * metric_gradient(x->metric, logits, V, x->reference, f->slope) / n;
        for (uint32_t i = 0; i < V; i++) logits[i] = (float)(sign * (double)f->slope[i] / n);
        break;
    }
}

double fit_couple_loss(double h) { return h > 0 ? log1p(exp(-h)) : log1p(exp(h)) - h; }

/* The loss of each couple, now that both sums are known, and what its slope makes of each member's gradient. */
static bool weigh_couples(struct fit *f, struct err *e)
{
    double *weight = mem_take(f->n_members, sizeof *weight, e);
    if (!weight) return false;
    for (size_t m = 0; m < f->n_members; m += 2) {
        const double *ref = &f->reference[f->member[m]], n = (double)f->batch_n;
        double h = f->q.beta * ((f->score[m] - f->score[m + 1]) - (ref[0] - ref[1]));
        f->loss += fit_couple_loss(h) / n;
        weight[m] = -f->q.beta / (1 + exp(h)) / n;
        weight[m + 1] = -weight[m];
    }
    tape_weigh(f->tape, weight);
    mem_drop(weight);
    return true;
}

/* One step of the pass: STEP_DONE at its end. */
static enum step pass_step(struct fit *f, struct session *s, struct err *e)
{
    enum step step;
    switch (f->phase) {
    case PHASE_FORWARD:
        step = tape_forward(f->tape, f->q.view, s, e);
        f->done += tape_rows(f->tape);
        break;
    case PHASE_HEAD:
        step = tape_head(f->tape, f->q.view, s, NULL, row_loss, f, e);
        if (step != STEP_DONE) break;
        if (f->stage == STAGE_REFERENCE) return STEP_DONE;
        if (f->q.loss == FIT_DPO && !weigh_couples(f, e)) return STEP_FAIL;
        break;
    default:
        step = tape_backward(f->tape, f->q.view, s, NULL, NULL, e);
        f->done += tape_rows(f->tape);
        return step;
    }
    if (step != STEP_DONE) return step;
    f->phase++;
    return STEP_MORE;
}

static enum step step_reference(struct fit *f, struct session *s, struct err *e)
{
    if (!f->tape && !begin_pass(f, s, f->items, e)) return STEP_FAIL;
    enum step step = pass_step(f, s, e);
    if (step != STEP_DONE) return step;
    for (size_t m = 0; m < f->n_members; m++) f->reference[f->member[m]] = f->score[m];
    f->at += f->pass_items;
    end_pass(f);
    if (f->at == f->items) next_stage(f, STAGE_TRAIN);
    return STEP_MORE;
}

/* ---- one update ----------------------------------------------------------------------------------- */

/* Gradient of loss and penalty, clipped, as floats; the penalty. */
static double gather(struct fit *f)
{
    const struct stream_params *p = f->q.params;
    double squares = 0, penalty = 0, by = 1;
    for (size_t i = 0; i < p->n; i++) {
        double x = (double)p->theta[i], g = f->q.task * p->grad[i] + f->q.l1 * ((x > 0) - (x < 0));
        p->grad[i] = g;
        squares += g * g;
        penalty += f->q.l1 * fabs(x);
    }
    if (f->q.clip > 0) by = fmin(1, f->q.clip / (sqrt(squares) + 1e-6));
    for (size_t i = 0; i < p->n; i++) f->step[i] = (float)(by * p->grad[i]);
    return penalty;
}

static bool update(struct fit *f, struct session *s, struct err *e)
{
    struct stream_params *p = f->q.params;
    const double lr = f->q.lr * (1 - (double)f->updates / (double)fit_updates(&f->q)), penalty = gather(f);
    f->losses[f->updates] = f->loss;
    f->totals[f->updates++] = f->q.task * f->loss + penalty;
    if (!isfinite(f->loss)) return err_set(e, ERR_NONFINITE, "the loss became %g; lower the learning rate", f->loss);
    f->adam.lr = lr;
    if (!f->q.descent) adam_step(&f->adam, s->par, f->step, p->theta);
    for (size_t i = 0; f->q.descent && i < p->n; i++) p->theta[i] = (float)((double)p->theta[i] - lr * (double)f->step[i]);
    for (size_t i = 0; p->kind == STREAM_MASK && i < p->n; i++) p->theta[i] = fminf(1, fmaxf(0, p->theta[i]));
    return true;
}

static void begin_batch(struct fit *f)
{
    size_t left = f->items - f->at;
    f->batch_first = f->at;
    f->batch_n = left < f->q.batch ? left : f->q.batch;
    f->loss = 0;
    memset(f->q.params->grad, 0, f->q.params->n * sizeof *f->q.params->grad);
}

static enum step step_train(struct fit *f, struct session *s, struct err *e)
{
    if (!f->tape && f->at == (f->batch_n ? f->batch_first + f->batch_n : 0)) begin_batch(f);
    size_t end = f->batch_first + f->batch_n;
    if (!f->tape && !begin_pass(f, s, end, e)) return STEP_FAIL;
    enum step step = pass_step(f, s, e);
    if (step != STEP_DONE) return step;
    f->at += f->pass_items;
    end_pass(f);
    if (f->at < end) return STEP_MORE;
    if (!update(f, s, e)) return STEP_FAIL;
    if (f->at < f->items) return STEP_MORE;
    f->batch_first = f->batch_n = 0;
    if (++f->epoch < f->q.epochs) {
        next_stage(f, STAGE_TRAIN);
        return STEP_MORE;
    }
    f->stage = STAGE_DONE;
    return STEP_DONE;
}

/* ---- steps ---------------------------------------------------------------------------------------- */

enum step fit_step(struct fit *f, struct session *s, struct err *e)
{
    switch (f->stage) {
    case STAGE_BELOW: return step_below(f, s, e);
    case STAGE_REFERENCE: return step_reference(f, s, e);
    case STAGE_TRAIN: return step_train(f, s, e);
    case STAGE_DONE: break;
    }
    return STEP_DONE;
}

void fit_progress(const struct fit *f, size_t *done, size_t *total)
{
    size_t from = f->q.params->lowest, above = arch_of(f)->n_layers - from;
    *done = f->done;
    *total = all_rows(&f->q) * (from + (f->q.loss == FIT_DPO ? above : 0) + (size_t)f->q.epochs * 2 * above);
}

const double *fit_losses(const struct fit *f, size_t *n) { return *n = f->updates, f->losses; }
const double *fit_totals(const struct fit *f, size_t *n) { return *n = f->updates, f->totals; }
