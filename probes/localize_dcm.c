/* Localizer `dcm`: desiderata-based component masking (arXiv 2307.03637). A number m of every unit between the base's z
 * and the source's,
 *
 *     z' = (1 − m)·z + m·z_src     m = 1 at first, put back into [0, 1] after each update
 *     loss = mean over pairs of −(±M) + λ·Σ m        ± as the source's metric lies above or below the base's
 *
 * What the penalty leaves is needed to move the metric. The score is m, the region what is above 1/2.
 */
#include <math.h>

#include "localizer.h"
#include "panel.h"
#include "patch_runs.h"

struct masked {
    struct localizer_ask q;
    struct patch_texts *text;
    struct fit_example *example;
    const float **source;      /* [n][L] */
    struct patch_runs *runs;
    bool ran;
    size_t judged;             /* pairs whose direction is known */
    struct stream_params *m;
    struct fit *fit;
};

static const struct arch *arch_of(const struct localizer_ask *q) { return &view_model(q->patch.view)->arch; }

static struct patch_runs_request runs_of(const struct localizer_ask *q, const struct patch_texts *text)
{
    return (struct patch_runs_request){.view = {q->patch.view, q->patch.view}, .pair = text, .n_pairs = q->patch.n_pairs,
                                       .keep = {{PATCH_SOURCE, HOOK_Z, true}}, .n_keep = 1};
}

static struct fit_request fit_of(const struct localizer_ask *q, struct stream_params *m, const struct fit_example *x)
{
    const size_t n = q->patch.n_pairs, batch = (size_t)q->param[LOCALIZER_DCM_batch];
    const double updates = q->param[LOCALIZER_DCM_steps], batches = ceil((double)n / (double)batch);
    return (struct fit_request){.view = q->patch.view, .params = m, .example = x, .n = n, .loss = FIT_METRIC, .maximise = true,
                                .task = 1, .lr = q->param[LOCALIZER_DCM_lr], .l1 = q->param[LOCALIZER_DCM_l1], .clip = 0,
                                .epochs = (uint32_t)ceil(updates / batches), .batch = (uint32_t)batch, .seed = q->seed};
}

static struct stream_params *mask_new(const struct localizer_ask *q, struct err *e)
{
    return stream_params_new(arch_of(q), HOOK_Z, STREAM_MASK, q->patch.axis == PATCH_LAYER ? STREAM_LAYER : STREAM_HEAD, NULL, 0, e);
}

static struct fit_example example_of(const struct localizer_ask *q, size_t i, const struct patch_texts *t)
{
    const struct metric *m = q->patch.pair[i].metric;
    return (struct fit_example){.ids = t->ids[PATCH_BASE], .n = t->n, .scored = &m->pos, .n_scored = 1, .metric = m, .n_source = t->n};
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static bool lay_out(struct masked *x, struct err *e)
{
    const size_t n = x->q.patch.n_pairs;
    x->text = mem_take(n, sizeof *x->text, e);
    x->example = x->text ? mem_take(n, sizeof *x->example, e) : NULL;
    x->source = x->example ? mem_take(n * arch_of(&x->q)->n_layers, sizeof(const float *), e) : NULL;
    for (size_t i = 0; x->source && i < n; i++) {
        x->text[i] = patch_texts_of(&x->q.patch.pair[i], x->q.patch.denoise);
        x->example[i] = example_of(&x->q, i, &x->text[i]);
        x->example[i].source = x->source + i * arch_of(&x->q)->n_layers;
    }
    x->m = x->source ? mask_new(&x->q, e) : NULL;
    return x->m != NULL;
}

static void close(void *state)
{
    struct masked *x = state;
    if (!x) return;
    fit_free(x->fit);
    patch_runs_free(x->runs);
    stream_params_free(x->m);
    mem_drop(x->text);
    mem_drop(x->example);
    mem_drop(x->source);
    mem_drop(x);
}

static void plan(const struct localizer_ask *q, int threads, struct plan *p)
{
    struct masked x = {.q = *q};
    struct err e = {0};
    struct plan runs = {0}, fit = {0};
    if (lay_out(&x, &e)) {
        const struct patch_runs_request r = runs_of(q, x.text);
        const struct fit_request f = fit_of(q, x.m, x.example);
        patch_runs_plan(&r, threads, &runs);
        panel_plan(arch_of(q), q->patch.pair->metric, 1, &runs);
        fit_plan(&f, threads, &fit);
        plan_add(p, NEED_TRAINING, plan_times(x.m->n_units, 64));
    }
    mem_drop(x.text);
    mem_drop(x.example);
    mem_drop(x.source);
    stream_params_free(x.m);
    plan_with(p, &runs); /* the sources' z stays */
    plan_with(p, &fit);
    plan_add(p, NEED_CAPTURES, plan_times(q->patch.n_pairs, sizeof(struct patch_texts) + sizeof(struct fit_example) +
                                                                arch_of(q)->n_layers * sizeof(float *)));
}

static void *open(const struct localizer_ask *q, struct err *e)
{
    struct masked *x = mem_new(sizeof *x);
    x->q = *q;
    if (lay_out(x, e)) {
        const struct patch_runs_request r = runs_of(q, x->text);
        for (size_t i = 0; i < x->m->n; i++) x->m->theta[i] = 1;
        x->runs = patch_runs_new(&r, e);
    }
    if (x->runs) return x;
    close(x);
    return NULL;
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

/* Is the next pair's metric lower at the source? */
static bool judge(struct masked *x, struct session *s, struct err *e)
{
    const size_t i = x->judged++;
    const struct panel panel = {.view = x->q.patch.view, .metric = x->q.patch.pair[i].metric, .n_metrics = 1};
    double base, source;
    if (!panel_read(&panel, s, patch_runs_final(x->runs, i, PATCH_BASE), 1, &base, e) ||
        !panel_read(&panel, s, patch_runs_final(x->runs, i, PATCH_SOURCE), 1, &source, e))
        return false;
    x->example[i].turned = source < base;
    for (uint32_t l = 0; l < arch_of(&x->q)->n_layers; l++)
        x->source[i * arch_of(&x->q)->n_layers + l] = patch_runs_values(x->runs, i, PATCH_SOURCE, (struct site){HOOK_Z, l});
    return true;
}

static enum step step(void *state, struct session *s, struct err *e)
{
    struct masked *x = state;
    if (!x->ran) {
        enum step step = patch_runs_step(x->runs, s, e);
        x->ran = step == STEP_DONE;
        return step == STEP_FAIL ? step : STEP_MORE;
    }
    if (x->judged < x->q.patch.n_pairs) return judge(x, s, e) ? STEP_MORE : STEP_FAIL;
    if (!x->fit) {
        const struct fit_request r = fit_of(&x->q, x->m, x->example);
        if (!(x->fit = fit_new(&r, e))) return STEP_FAIL;
    }
    return fit_step(x->fit, s, e);
}

static void progress(const void *state, size_t *done, size_t *total)
{
    const struct masked *x = state;
    const struct fit_request r = fit_of(&x->q, x->m, x->example);
    *done = 0;
    *total = 0;
    if (x->fit) {
        fit_progress(x->fit, done, total);
        return;
    }
    for (size_t i = 0; i < x->q.patch.n_pairs; i++) *total += (size_t)x->text[i].n * r.epochs * 2 * arch_of(&x->q)->n_layers;
}

static double value(const void *state, size_t row, size_t unit)
{
    (void)row;
    return (double)((const struct masked *)state)->m->theta[unit];
}

static const double *losses(const void *state, size_t *n) { return fit_losses(((const struct masked *)state)->fit, n); }

const struct localizer localizer_dcm = {.plan = plan, .brief = true, .open = open, .step = step, .progress = progress, .close = close,
                                        .value = value, .flat = true, .threshold = 0.5, .losses = losses};
