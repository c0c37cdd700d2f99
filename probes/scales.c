#include "scales.h"

#include <math.h>
#include <string.h>

#include "core/head.h"
#include "core/run.h"

enum { SCALES_ROWS = 1024, SCALES_LOGITS = 64 };

struct scales {
    struct scales_request q;
    size_t per_row, n_examples;  /* examples of a row: 2 of couples */
    size_t set;                  /* 0: none; then the sets */
    size_t at, n;                /* examples of the run in hand */
    struct stream_params *a;     /* of the set */
    struct stream_writes *writes;
    struct run *run;
    struct run_input *input;     /* [n_examples] */
    struct stream_text *text;
    bool ran;
    size_t member, scored;       /* whose logits are next */
    float *logits;               /* [SCALES_LOGITS][V] */
    double *sum, *base;          /* [n_examples] Σ log p of targets, with the set and without */
    double *effect;
};

static const struct arch *arch_of(const struct scales *x) { return &view_model(x->q.ask.patch.view)->arch; }

void scales_plan(const struct scales_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->ask.patch.view)->arch;
    const size_t n = q->ask.n_data * (q->ask.couples ? 2 : 1);
    struct plan most = {0};
    struct run_size size = {0};
    size_t rows = 0, longest = 0;
    for (size_t i = 0; i < n; i++) { /* a run ends with the example that fills it: any so many in a row are fewer than */
        const struct fit_example *x = &q->ask.example[i];
        if (x->n > longest) longest = x->n;
        rows += x->n;
    }
    if (rows > SCALES_ROWS + longest) rows = SCALES_ROWS + longest;
    for (size_t left = rows; left;) {
        size_t each = left < longest ? left : longest;
        run_size_add(&size, 0, each, each, false);
        left -= each;
    }
    run_plan(&size, a, threads, &most);
    plan_with(p, &most);
    plan_add(p, NEED_LOGITS, mem_floats_bytes((size_t)SCALES_LOGITS * a->d_vocab));
    plan_add(p, NEED_CAPTURES, plan_times(n, sizeof(struct run_input) + 2 * sizeof(struct stream_text) + 2 * sizeof(double) +
                                                 a->n_layers * (sizeof(struct tap) + 96)));
    plan_add(p, NEED_CAPTURES, plan_times(q->k, a->d_head * 12 + 16) + plan_times(a->n_layers, a->n_heads * 8 + 4) + 4096);
    plan_add(p, NEED_ANSWER, plan_times(plan_times(q->n_sets, q->ask.n_data), sizeof(double)));
}

struct scales *scales_new(const struct scales_request *q, struct err *e)
{
    struct scales *x = mem_new(sizeof *x);
    x->q = *q;
    x->per_row = q->ask.couples ? 2 : 1;
    x->n_examples = q->ask.n_data * x->per_row;
    x->input = mem_take(x->n_examples, sizeof *x->input, e);
    x->text = x->input ? mem_take(x->n_examples, sizeof *x->text, e) : NULL;
    x->sum = x->text ? mem_take(x->n_examples, sizeof *x->sum, e) : NULL;
    x->base = x->sum ? mem_take(x->n_examples, sizeof *x->base, e) : NULL;
    x->effect = x->base ? mem_take(plan_times(q->n_sets, q->ask.n_data), sizeof *x->effect, e) : NULL;
    x->logits = x->effect ? mem_floats((size_t)SCALES_LOGITS * arch_of(x)->d_vocab, e) : NULL;
    if (x->logits) return x;
    scales_free(x);
    return NULL;
}

static void end_run(struct scales *x)
{
    run_free(x->run);
    stream_writes_free(x->writes);
    x->run = NULL;
    x->writes = NULL;
    x->ran = false;
}

void scales_free(struct scales *x)
{
    if (!x) return;
    end_run(x);
    stream_params_free(x->a);
    mem_drop(x->input);
    mem_drop(x->text);
    mem_drop(x->sum);
    mem_drop(x->base);
    mem_drop(x->effect);
    mem_drop(x->logits);
    mem_drop(x);
}

/* The trained scales of the set's heads. */
static bool begin_set(struct scales *x, struct err *e)
{
    const uint32_t *unit = x->q.unit + (x->set - 1) * x->q.k, heads = arch_of(x)->n_heads;
    struct stream_unit *list = mem_take(x->q.k, sizeof *list, e);
    if (!list) return false;
    for (size_t i = 0; i < x->q.k; i++) list[i] = (struct stream_unit){unit[i] / heads, unit[i] % heads};
    x->a = stream_params_new(arch_of(x), HOOK_Z, STREAM_SCALE, STREAM_CHANNEL, list, x->q.k, e);
    for (size_t i = 0; x->a && i < x->q.k; i++)
        memcpy(x->a->theta + i * x->a->each, x->q.trained->theta + unit[i] * x->a->each, x->a->each * sizeof *x->a->theta);
    mem_drop(list);
    return x->a != NULL;
}

static bool begin_run(struct scales *x, struct err *e)
{
    size_t rows = 0;
    if (x->set && !x->a && !begin_set(x, e)) return false;
    for (x->n = 0; x->at + x->n < x->n_examples && rows < SCALES_ROWS; x->n++) {
        const struct fit_example *f = &x->q.ask.example[x->at + x->n];
        x->input[x->n] = (struct run_input){.ids = f->ids, .n = f->n, .seq = (uint32_t)x->n, .want = f->scored, .n_want = f->n_scored};
        x->text[x->n] = (struct stream_text){.n = f->n};
        rows += f->n;
    }
    if (x->a && !(x->writes = stream_writes_new(x->a, x->text, x->n, false, e))) return false;
    x->run = run_new(x->q.ask.patch.view, x->input, x->n, x->writes ? stream_writes_taps(x->writes) : NULL, e);
    x->member = x->scored = 0;
    return x->run != NULL;
}

/* Some logits of one example. */
static bool some_logits(struct scales *x, struct session *s, struct err *e)
{
    const struct fit_example *f = &x->q.ask.example[x->at + x->member];
    const size_t d = arch_of(x)->d_model, V = arch_of(x)->d_vocab, left = f->n_scored - x->scored,
                 n = left < SCALES_LOGITS ? left : SCALES_LOGITS;
    double *sum = &x->sum[x->at + x->member];
    if (x->scored == 0) *sum = 0;
    if (!unembed(s, x->q.ask.patch.view, run_final(x->run, x->member) + x->scored * d, n, NULL, x->logits, e)) return false;
    for (size_t i = 0; i < n; i++) *sum += log_prob(x->logits + i * V, (uint32_t)V, f->target[x->scored + i]);
    x->scored += n;
    if (x->scored == f->n_scored) x->member++, x->scored = 0;
    return true;
}

static double effect(const struct scales *x, size_t row)
{
    const struct localizer_ask *q = &x->q.ask;
    const double *with = x->sum + row * x->per_row, *without = x->base + row * x->per_row;
    if (!q->couples) return (with[0] - without[0]) / (double)q->example[row].n_scored;
    const double h = q->param[LOCALIZER_HEAD_SCALE_dpo_beta] * ((with[0] - without[0]) - (with[1] - without[1]));
    return log(2) - fit_couple_loss(h);
}

static void end_set(struct scales *x)
{
    for (size_t r = 0; x->set && r < x->q.ask.n_data; r++) x->effect[(x->set - 1) * x->q.ask.n_data + r] = effect(x, r);
    if (!x->set) memcpy(x->base, x->sum, x->n_examples * sizeof *x->base);
    stream_params_free(x->a);
    x->a = NULL;
    x->at = 0;
    x->set++;
}

enum step scales_step(struct scales *x, struct session *s, struct err *e)
{
    if (x->set > x->q.n_sets) return STEP_DONE;
    if (!x->run && !begin_run(x, e)) return STEP_FAIL;
    if (!x->ran) {
        enum step step = run_step(x->run, s, e);
        x->ran = step == STEP_DONE;
        return step == STEP_FAIL ? step : STEP_MORE;
    }
    if (x->member < x->n) return some_logits(x, s, e) ? STEP_MORE : STEP_FAIL;
    end_run(x);
    x->at += x->n;
    if (x->at == x->n_examples) end_set(x);
    return x->set > x->q.n_sets ? STEP_DONE : STEP_MORE;
}

void scales_progress(const struct scales *x, size_t *done, size_t *total)
{
    *total = x->q.n_sets * x->q.ask.n_data;
    *done = x->set > 1 ? (x->set - 1) * x->q.ask.n_data : 0;
}

const double *scales_effect(const struct scales *x) { return x->effect; }
