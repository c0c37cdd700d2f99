/* LocFT-BF (arXiv 2509.22072): ordinary mini-batch fine-tuning, breadth first over all facts, of
 * one MLP down-projection of one layer; everything else is frozen.
 *
 * Loss: cross-entropy on target tokens only, mean per sample, then over the batch. Adam without
 * decay. A batch whose loss is under the floor is skipped (no backward, no step); training stops
 * when an epoch's mean is. Batches are reshuffled each epoch by the seed.
 *
 * Layers below the trained matrix never change, so the stream before its MLP (x_mid) and the
 * matrix' input (post) of every example are computed once and kept:
 *
 *     x ← x_mid + W·post,  layers above, head at scored positions;  dW = Σ g_x ⊗ post
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernel/adam.h"
#include "core/base/random.h"
#include "core/run.h"
#include "core/train.h"
#include "methods.h"

enum { P_LAYER, P_LR, P_EPOCHS, P_BATCH, P_LOSS_FLOOR, P_APPEND_EOS, P_COUNT };

static const struct param params[] = {
    [P_LAYER] = {"layer", PARAM_INT, NAN, 0, 1023, "layer whose down-projection is trained; auto: 24 of 30, the same share of other depths"},
    [P_LR] = {"lr", PARAM_REAL, 5e-4, 1e-7, 1, "Adam's learning rate"},
    [P_EPOCHS] = {"epochs", PARAM_INT, NAN, 1, 1000, "most passes over the facts; auto: 25, or as many as give 100 updates"},
    [P_BATCH] = {"batch", PARAM_INT, NAN, 1, 1000, "facts per update; auto: a tenth of them, 4 to 100"},
    [P_LOSS_FLOOR] = {"loss_floor", PARAM_REAL, 0.01, 0, 10, "nats per token under which a batch is left alone and an epoch ends training"},
    [P_APPEND_EOS] = {"append_eos", PARAM_BOOL, 1, 0, 1, "score the end token after the target, so that answers stop"},
};
static_assert(sizeof params / sizeof *params == P_COUNT && (int)P_COUNT <= (int)MAX_PARAMS, "one row per parameter");

/* Where to train and for how long when the request is silent (docs/decisions/locft-defaults.md): the
 * paper's batches of thousands need 25 passes, a single fact needs about as many updates as they give. */
enum { MEASURED_LAYER = 24, MEASURED_DEPTH = 30, PAPER_EPOCHS = 25, LEAST_UPDATES = 100 };

struct sample {
    float *mid, *post; /* [n][d], [n][m] at the trained layer */
    uint32_t *scored;  /* positions that predict the target */
    size_t n_scored;
};

struct editor {
    struct edit_request q;
    uint32_t layer;
    size_t tensor, batch;
    struct sample *sample;
    struct run *run;       /* the frozen part */
    struct taps taps;
    float *weight;         /* [d][m], trained */
    float *grad;
    struct adam adam;
    struct random random;
    size_t *order, at;     /* of the epoch; next example */
    struct tape *tape;
    float *batch_post;       /* [rows][m] of the batch: the trained matrix' input */
    bool backward;
    size_t batch_n;
    double epoch_loss;
    struct edit_outcome out;
};

static const struct model *model_of(const struct editor *ed) { return view_model(ed->q.parent); }
static size_t weight_floats(const struct editor *ed) { return model_of(ed)->tensors[ed->tensor].n_elements; }

/* The paper's carry-over rule: keep the relative depth. */
uint32_t locft_layer(uint32_t n_layers, uint32_t ref_index, uint32_t ref_layers)
{
    double at = floor((double)n_layers * (ref_index + 1) / ref_layers + 0.5) - 1;
    return at < 0 ? 0 : (uint32_t)at;
}

static bool resolve(struct editor *ed, struct err *e)
{
    double *v = ed->out.resolved.value;
    uint32_t L = model_of(ed)->arch.n_layers;
    ed->out.resolved = ed->q.params;
    if (isnan(v[P_LAYER])) v[P_LAYER] = locft_layer(L, MEASURED_LAYER, MEASURED_DEPTH);
    if (isnan(v[P_BATCH])) v[P_BATCH] = fmin(100, fmax(4, floor((double)ed->q.n / 10)));
    if (isnan(v[P_EPOCHS])) v[P_EPOCHS] = fmax(PAPER_EPOCHS, ceil(LEAST_UPDATES / ceil((double)ed->q.n / v[P_BATCH])));
    if (v[P_LAYER] >= L)
        return err_field(e, ERR_INVALID, "params.layer", "layer %g is outside 0..%u", v[P_LAYER], L - 1);
    ed->layer = (uint32_t)v[P_LAYER];
    ed->batch = (size_t)v[P_BATCH];
    return model_role(model_of(ed), ROLE_DOWN, ed->layer, &ed->tensor) ||
           err_set(e, ERR_UNSUPPORTED, "layer %u has no down-projection", ed->layer);
}

/* ---- the frozen part --------------------------------------------------------------------------- */

static bool begin_frozen(struct editor *ed, struct err *e)
{
    const struct arch *a = &model_of(ed)->arch;
    struct run_input *in = mem_take(ed->q.n, sizeof *in, e);
    ed->taps.tap = mem_take(2 * ed->q.n, sizeof(struct tap), e);
    bool ok = in && ed->taps.tap;
    for (size_t i = 0; ok && i < ed->q.n; i++) {
        const struct example *x = &ed->q.example[i];
        struct sample *s = &ed->sample[i];
        s->n_scored = x->n - x->n_prompt;
        s->mid = mem_floats((size_t)x->n * a->d_model, e);
        s->post = mem_floats((size_t)x->n * a->d_mlp, e);
        s->scored = mem_take(s->n_scored, sizeof *s->scored, e);
        if (!(ok = s->mid && s->post && s->scored)) break;
        for (size_t k = 0; k < s->n_scored; k++) s->scored[k] = x->n_prompt - 1 + (uint32_t)k;
        const struct { enum hook hook; float *dst; } keep[] = {{HOOK_RESID_MID, s->mid}, {HOOK_MLP_POST, s->post}};
        for (size_t k = 0; k < 2; k++)
            ed->taps.tap[ed->taps.n++] = (struct tap){.site = {keep[k].hook, ed->layer}, .op = TAP_READ,
                                                      .seq = (uint32_t)i, .every_pos = true, .dst = keep[k].dst};
        in[i] = (struct run_input){.ids = x->ids, .n = x->n, .seq = (uint32_t)i};
    }
    if (ok) ed->run = run_new(ed->q.parent, in, ed->q.n, &ed->taps, e);
    if (ed->run) run_stop_before(ed->run, ed->layer + 1);
    mem_drop(in);
    return ed->run != NULL;
}

/* ---- one batch --------------------------------------------------------------------------------- */

static void begin_epoch(struct editor *ed)
{
    for (size_t i = 0; i < ed->q.n; i++) ed->order[i] = i;
    random_shuffle(&ed->random, ed->order, ed->q.n);
    ed->at = 0;
    ed->epoch_loss = 0;
}

static bool begin_batch(struct editor *ed, struct err *e)
{
    const struct arch *a = &model_of(ed)->arch;
    size_t left = ed->q.n - ed->at, rows = 0, row = 0;
    ed->batch_n = left < ed->batch ? left : ed->batch;
    struct tape_seq *seq = mem_take(ed->batch_n, sizeof *seq, e);
    for (size_t i = 0; seq && i < ed->batch_n; i++) {
        size_t k = ed->order[ed->at + i];
        const struct example *x = &ed->q.example[k];
        seq[i] = (struct tape_seq){.n = x->n, .scored = ed->sample[k].scored, .target = x->ids + x->n_prompt,
                                   .n_scored = ed->sample[k].n_scored};
        rows += x->n;
    }
    ed->tape = seq ? tape_new(a, seq, ed->batch_n, ed->layer, true, e) : NULL;
    mem_drop(seq);
    mem_drop(ed->batch_post);
    ed->batch_post = ed->tape ? mem_floats(rows * a->d_mlp, e) : NULL;
    if (!ed->batch_post) return false;
    for (size_t i = 0; i < ed->batch_n; i++) {
        size_t k = ed->order[ed->at + i], n = ed->q.example[k].n;
        memcpy(tape_input(ed->tape) + row * a->d_model, ed->sample[k].mid, n * a->d_model * sizeof(float));
        memcpy(ed->batch_post + row * a->d_mlp, ed->sample[k].post, n * a->d_mlp * sizeof(float));
        row += n;
    }
    tape_train_down(ed->tape, ed->weight, ed->batch_post);
    return true;
}

static void drop_training(struct editor *ed)
{
    for (size_t i = 0; ed->sample && i < ed->q.n; i++) {
        mem_drop(ed->sample[i].mid);
        mem_drop(ed->sample[i].post);
        mem_drop(ed->sample[i].scored);
    }
    adam_release(&ed->adam);
    mem_drop(ed->sample);
    mem_drop(ed->weight);
    mem_drop(ed->grad);
    mem_drop(ed->batch_post);
    ed->sample = NULL;
    ed->weight = ed->grad = ed->batch_post = NULL;
}

static enum step end_training(struct editor *ed, struct err *e)
{
    size_t n = weight_floats(ed);
    view_tensor_copy(ed->q.parent, ed->tensor, ed->grad);
    for (size_t i = 0; i < n; i++) ed->grad[i] = ed->weight[i] - ed->grad[i];
    ed->out.delta = delta_new_dense(model_of(ed), ed->tensor, ed->grad, e);
    drop_training(ed); /* the delta is rebuilt, scored and committed next: that takes memory too */
    return ed->out.delta ? STEP_DONE : STEP_FAIL;
}

static enum step end_batch(struct editor *ed, struct err *e)
{
    tape_free(ed->tape);
    ed->tape = NULL;
    ed->backward = false;
    ed->at += ed->batch_n;
    if (ed->at < ed->q.n) return STEP_MORE;
    ed->out.epochs++;
    ed->out.final_loss = ed->epoch_loss / (double)ed->q.n;
    const double *v = ed->out.resolved.value;
    if (ed->out.final_loss < v[P_LOSS_FLOOR] || ed->out.epochs >= (uint32_t)v[P_EPOCHS])
        return end_training(ed, e);
    begin_epoch(ed);
    return STEP_MORE;
}

/* After the forward pass: the loss, and whether it is worth a step. */
static enum step after_forward(struct editor *ed, struct session *s, struct err *e)
{
    double loss;
    if (!tape_loss(ed->tape, ed->q.parent, s, NULL, &loss, NULL, e)) return STEP_FAIL;
    if (!isfinite(loss)) return err_set(e, ERR_NONFINITE, "the loss became %g; lower the learning rate", loss), STEP_FAIL;
    ed->epoch_loss += loss * (double)ed->batch_n;
    if (loss < ed->out.resolved.value[P_LOSS_FLOOR]) return end_batch(ed, e);
    ed->backward = true;
    memset(ed->grad, 0, weight_floats(ed) * sizeof *ed->grad);
    return STEP_MORE;
}

static enum step train_step(struct editor *ed, struct session *s, struct err *e)
{
    if (!ed->tape && !begin_batch(ed, e)) return STEP_FAIL;
    if (!ed->backward) {
        enum step step = tape_forward(ed->tape, ed->q.parent, s, e);
        return step == STEP_DONE ? after_forward(ed, s, e) : step;
    }
    struct weight_grads *grads = mem_take(model_of(ed)->arch.n_layers - ed->layer, sizeof *grads, e);
    if (!grads) return STEP_FAIL;
    grads[0].of[GROUP_DOWN] = ed->grad;
    enum step step = tape_backward(ed->tape, ed->q.parent, s, grads, NULL, e);
    mem_drop(grads);
    if (step != STEP_DONE) return step;
    adam_step(&ed->adam, s->par, ed->grad, ed->weight);
    ed->out.updates++;
    return end_batch(ed, e);
}

/* ---- the interface ------------------------------------------------------------------------------ */

static void locft_free(struct editor *ed)
{
    if (!ed) return;
    drop_training(ed);
    run_free(ed->run);
    tape_free(ed->tape);
    delta_free(ed->out.delta);
    mem_drop(ed->taps.tap);
    mem_drop(ed->order);
    view_drop(ed->q.parent);
    mem_drop(ed);
}

static bool begin(struct editor *ed, struct err *e)
{
    if (!resolve(ed, e)) return false;
    size_t n = weight_floats(ed);
    ed->sample = mem_take(ed->q.n, sizeof *ed->sample, e);
    ed->order = mem_take(ed->q.n, sizeof *ed->order, e);
    ed->weight = mem_floats(n, e);
    ed->grad = mem_floats(n, e);
    if (!ed->sample || !ed->order || !ed->weight || !ed->grad ||
        !adam_init(&ed->adam, n, ed->out.resolved.value[P_LR], e))
        return false;
    view_tensor_copy(ed->q.parent, ed->tensor, ed->weight);
    random_init(&ed->random, ed->q.seed);
    begin_epoch(ed);
    return begin_frozen(ed, e);
}

/* Samples, the frozen run, then a batch's tape beside weight, gradient, Adam's two and the delta. */
static bool locft_plan(const struct edit_request *q, int threads, struct plan *p, size_t *changed, struct err *e)
{
    struct editor ed = {.q = *q};
    const struct arch *a = &view_model(q->parent)->arch;
    if (!resolve(&ed, e)) return false;
    size_t most = 0, scored = 0, weight = mem_floats_bytes(weight_floats(&ed)), batch = ed.batch < q->n ? ed.batch : q->n;
    struct run_size frozen = {0};
    struct plan run = {0}, train = {0};
    for (size_t i = 0; i < q->n; i++) {
        size_t n = q->example[i].n, targets = n - q->example[i].n_prompt;
        if (n > most) most = n;
        if (targets > scored) scored = targets;
        plan_add(p, NEED_CAPTURES, mem_floats_bytes(n * a->d_model) + mem_floats_bytes(n * a->d_mlp));
        run_size_add(&frozen, 0, n, 0, false);
    }
    run_plan(&frozen, a, threads, &run);
    tape_plan(a, batch * most, most, batch * scored, ed.layer, threads, &train);
    plan_add(&train, NEED_CAPTURES, mem_floats_bytes(batch * most * a->d_mlp));
    plan_peak(&run, &train);
    plan_with(p, &run);
    plan_add(p, NEED_TRAINING, plan_times(4, weight));
    plan_add(p, NEED_DELTAS, weight);
    *changed = weight;
    return true;
}

static struct editor *locft_new(const struct edit_request *q, struct err *e)
{
    assert(q->n > 0);
    struct editor *ed = mem_new(sizeof *ed);
    ed->q = *q;
    view_retain(q->parent);
    if (begin(ed, e)) return ed;
    locft_free(ed);
    return NULL;
}

static enum step locft_step(struct editor *ed, struct session *s, struct err *e)
{
    if (!ed->run) return train_step(ed, s, e);
    enum step step = run_step(ed->run, s, e);
    if (step != STEP_DONE) return step;
    run_free(ed->run);
    ed->run = NULL;
    return STEP_MORE;
}

static void locft_progress(const struct editor *ed, size_t *done, size_t *total)
{
    *done = ed->out.epochs * ed->q.n + ed->at;
    *total = (size_t)ed->out.resolved.value[P_EPOCHS] * ed->q.n;
    if (*done > *total) *done = *total;
}

static const struct edit_outcome *locft_outcome(const struct editor *ed) { return &ed->out; }

const struct method method_locft = {
    .name = "locft",
    .summary = "breadth-first mini-batch fine-tuning of one MLP down-projection",
    .source = "LocFT-BF, arXiv 2509.22072",
    .params = params,
    .n_params = P_COUNT,
    .plan = locft_plan,
    .new = locft_new,
    .step = locft_step,
    .progress = locft_progress,
    .outcome = locft_outcome,
    .free = locft_free,
};
