#include "joint.h"

#include <math.h>
#include <string.h>

#include "panel.h"
#include "patch_runs.h"

struct joint {
    struct joint_request q;
    size_t pair, set;         /* the pair in hand, the first set of the run in hand */
    struct patch_texts text;
    struct patch_runs *ends;  /* both runs of the pair */
    bool ended;               /* they are done, the baselines known */
    struct run *run;          /* of some sets */
    size_t n_in_run;
    struct run_input input[JOINT_SEQUENCES];
    struct tap *tap;          /* [JOINT_SEQUENCES][2·L] */
    uint32_t *head;           /* [JOINT_SEQUENCES][k] the heads of the taps, layer after layer */
    struct taps taps;
    float *x;                 /* [JOINT_SEQUENCES][d] */
    double *reference;        /* [V], of kl; or NULL */
    struct patch_scores base; /* of the pair */
    double *effect, *value;   /* [n_sets][n_pairs] */
    double *span, *of_base;   /* [n_pairs] */
    size_t done;
};

static const struct arch *arch_of(const struct joint *j) { return &view_model(j->q.ask.patch.view)->arch; }
static const struct patch_pair *pair_of(const struct joint *j) { return &j->q.ask.patch.pair[j->pair]; }
static bool denoise_of(const struct joint_request *q) { return q->ask.patch.denoise && !q->zero; }

static size_t sets_a_run(uint32_t n)
{
    size_t fit = JOINT_ROWS / n;
    return fit < 1 ? 1 : fit < JOINT_SEQUENCES ? fit : JOINT_SEQUENCES;
}

static struct patch_runs_request ends_of(const struct joint_request *q, const struct patch_texts *text)
{
    struct patch_runs_request r = {.view = {q->ask.patch.view, q->ask.patch.view}, .pair = text, .n_pairs = 1};
    if (!q->zero) r.keep[r.n_keep++] = (struct patch_keep){PATCH_SOURCE, HOOK_Z, true};
    if (!q->zero && q->mlps) r.keep[r.n_keep++] = (struct patch_keep){PATCH_SOURCE, HOOK_MLP_OUT, true};
    return r;
}

/* ---- memory ---------------------------------------------------------------------------------------- */

static bool of_kl(const struct localizer_ask *q) { return q->patch.pair->metric->kind == METRIC_KL; }

void joint_plan(const struct joint_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->ask.patch.view)->arch;
    struct plan each = {0};
    for (size_t i = 0; i < q->ask.patch.n_pairs; i++) { /* one after the other */
        const struct patch_pair *pair = &q->ask.patch.pair[i];
        const struct patch_texts text = patch_texts_of(pair, denoise_of(q));
        const struct patch_runs_request ends = ends_of(q, &text);
        struct plan one = {0};
        struct run_size sets = {0};
        size_t n = sets_a_run(text.n) < q->n_sets ? sets_a_run(text.n) : q->n_sets;
        for (size_t k = 0; k < n; k++) run_size_add(&sets, 0, text.n, 1, false);
        patch_runs_plan(&ends, threads, &one);
        size_t scratch = one.bytes[NEED_SCRATCH];
        one.bytes[NEED_SCRATCH] = 0;
        run_plan(&sets, a, threads, &one);
        if (one.bytes[NEED_SCRATCH] < scratch) one.bytes[NEED_SCRATCH] = scratch; /* one session */
        panel_plan(a, pair->metric, 1, &one);
        plan_peak(&each, &one);
    }
    plan_with(p, &each);
    plan_add(p, NEED_CAPTURES, JOINT_SEQUENCES * (2 * a->n_layers * sizeof(struct tap) + plan_times(q->k + 1, sizeof(uint32_t))));
    plan_add(p, NEED_STREAM, mem_floats_bytes((size_t)JOINT_SEQUENCES * a->d_model));
    plan_add(p, NEED_ANSWER, plan_times(plan_times(q->n_sets + 1, q->ask.patch.n_pairs), 2 * sizeof(double)));
    if (of_kl(&q->ask)) plan_add(p, NEED_LOGITS, a->d_vocab * sizeof(double));
}

static bool take(struct joint *j, struct err *e)
{
    const struct arch *a = arch_of(j);
    const size_t pairs = j->q.ask.patch.n_pairs;
    j->tap = mem_take((size_t)JOINT_SEQUENCES * 2 * a->n_layers, sizeof *j->tap, e);
    j->head = j->tap ? mem_take(plan_times(JOINT_SEQUENCES, j->q.k + 1), sizeof *j->head, e) : NULL;
    j->x = j->head ? mem_floats((size_t)JOINT_SEQUENCES * a->d_model, e) : NULL;
    j->effect = j->x ? mem_take(plan_times(j->q.n_sets, pairs), sizeof *j->effect, e) : NULL;
    j->value = j->effect ? mem_take(plan_times(j->q.n_sets, pairs), sizeof *j->value, e) : NULL;
    j->span = j->value ? mem_take(pairs, sizeof *j->span, e) : NULL;
    j->of_base = j->span ? mem_take(pairs, sizeof *j->of_base, e) : NULL;
    if (j->of_base && of_kl(&j->q.ask)) j->reference = mem_take(a->d_vocab, sizeof *j->reference, e);
    return j->of_base && (j->reference || !of_kl(&j->q.ask));
}

struct joint *joint_new(const struct joint_request *q, struct err *e)
{
    struct joint *j = mem_new(sizeof *j);
    j->q = *q;
    if (take(j, e)) return j;
    joint_free(j);
    return NULL;
}

void joint_free(struct joint *j)
{
    if (!j) return;
    run_free(j->run);
    patch_runs_free(j->ends);
    mem_drop(j->tap);
    mem_drop(j->head);
    mem_drop(j->x);
    mem_drop(j->reference);
    mem_drop(j->effect);
    mem_drop(j->value);
    mem_drop(j->span);
    mem_drop(j->of_base);
    mem_drop(j);
}

/* ---- the pair's own runs -------------------------------------------------------------------------------- */

static struct panel panel_of(const struct joint *j)
{
    return (struct panel){.view = j->q.ask.patch.view, .metric = pair_of(j)->metric, .n_metrics = 1, .reference = j->reference};
}

static bool read_ends(struct joint *j, struct session *s, struct err *e)
{
    const struct metric *m = pair_of(j)->metric;
    const struct panel panel = panel_of(j);
    const float *base = patch_runs_final(j->ends, 0, PATCH_BASE), *source = patch_runs_final(j->ends, 0, PATCH_SOURCE);
    double of_base, of_source;
    if (j->reference && !panel_reference(panel.view, s, source, j->reference, e)) return false;
    if (!panel_read(&panel, s, base, 1, &of_base, e) || !panel_read(&panel, s, source, 1, &of_source, e)) return false;
    if (!patch_scores_open(m, of_base, of_source, denoise_of(&j->q), &j->base, e)) return false;
    patch_scores_settle(m, &j->base, 0);
    j->span[j->pair] = fabs(j->base.clean - j->base.corrupt);
    j->of_base[j->pair] = denoise_of(&j->q) ? j->base.corrupt : j->base.clean;
    return j->ended = true;
}

static enum step step_ends(struct joint *j, struct session *s, struct err *e)
{
    if (!j->ends) {
        j->text = patch_texts_of(pair_of(j), denoise_of(&j->q));
        const struct patch_runs_request r = ends_of(&j->q, &j->text);
        if (!(j->ends = patch_runs_new(&r, e))) return STEP_FAIL;
    }
    enum step step = patch_runs_step(j->ends, s, e);
    if (step == STEP_DONE && !read_ends(j, s, e)) return STEP_FAIL;
    return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
}

/* ---- sets ----------------------------------------------------------------------------------------------- */

static struct tap write_at(const struct joint *j, struct site site, uint32_t seq)
{
    return (struct tap){.site = site, .op = TAP_SET, .seq = seq, .every_pos = true, .weight = 1.0f, .n_src_pos = j->text.n,
                        .src_whole = !j->q.zero, .src = j->q.zero ? NULL : patch_runs_values(j->ends, 0, PATCH_SOURCE, site)};
}

/* One tap for each layer with heads in the set, one for each MLP. */
static void write_set(struct joint *j, size_t set, uint32_t seq)
{
    const uint32_t *unit = j->q.set[set].unit, heads = localizer_heads(&j->q.ask);
    const size_t n = j->q.set[set].n, mlps = localizer_units(&j->q.ask);
    uint32_t *head = j->head + (size_t)seq * j->q.k;
    size_t i = 0;
    for (size_t end; i < n && unit[i] < mlps; i = end) {
        const uint32_t layer = unit[i] / heads;
        struct tap *t = &j->tap[j->taps.n++];
        for (end = i; end < n && unit[end] < mlps && unit[end] / heads == layer; end++) head[end] = unit[end] % heads;
        *t = write_at(j, (struct site){HOOK_Z, layer}, seq);
        if (j->q.ask.patch.axis == PATCH_LAYER) continue;
        t->head = head + i;
        t->n_head = end - i;
    }
    for (; i < n; i++) j->tap[j->taps.n++] = write_at(j, (struct site){HOOK_MLP_OUT, (uint32_t)(unit[i] - mlps)}, seq);
}

static bool begin_sets(struct joint *j, struct err *e)
{
    const size_t left = j->q.n_sets - j->set, most = sets_a_run(j->text.n);
    j->n_in_run = left < most ? left : most;
    j->taps = (struct taps){j->tap, 0};
    for (size_t i = 0; i < j->n_in_run; i++) {
        write_set(j, j->set + i, (uint32_t)i);
        j->input[i] = (struct run_input){.ids = j->text.ids[PATCH_BASE], .n = j->text.n, .seq = (uint32_t)i,
                                         .want = &pair_of(j)->metric->pos, .n_want = 1};
    }
    j->run = run_new(j->q.ask.patch.view, j->input, j->n_in_run, &j->taps, e);
    return j->run != NULL;
}

static bool end_sets(struct joint *j, struct session *s, struct err *e)
{
    const size_t d = arch_of(j)->d_model;
    const struct panel panel = panel_of(j);
    const bool denoise = denoise_of(&j->q);
    double value[JOINT_SEQUENCES];
    for (size_t i = 0; i < j->n_in_run; i++) memcpy(j->x + i * d, run_final(j->run, i), d * sizeof *j->x);
    if (!panel_read(&panel, s, j->x, j->n_in_run, value, e)) return false;
    for (size_t i = 0; i < j->n_in_run; i++) {
        const size_t at = (j->set + i) * j->q.ask.patch.n_pairs + j->pair;
        j->value[at] = patch_normalised(panel.metric, &j->base, value[i]);
        const double change = j->value[at] - j->of_base[j->pair];
        j->effect[at] = j->q.zero ? fabs(change) : localizer_towards(&j->base, denoise, change);
    }
    run_free(j->run);
    j->run = NULL;
    j->set += j->n_in_run;
    j->done += j->n_in_run;
    return true;
}

static void next_pair(struct joint *j)
{
    patch_runs_free(j->ends);
    j->ends = NULL;
    j->ended = false;
    j->set = 0;
    j->pair++;
}

enum step joint_step(struct joint *j, struct session *s, struct err *e)
{
    if (j->pair == j->q.ask.patch.n_pairs) return STEP_DONE;
    if (!j->ended) return step_ends(j, s, e);
    if (!j->run && !begin_sets(j, e)) return STEP_FAIL;
    enum step step = run_step(j->run, s, e);
    if (step != STEP_DONE) return step;
    if (!end_sets(j, s, e)) return STEP_FAIL;
    if (j->set == j->q.n_sets) next_pair(j);
    return j->pair == j->q.ask.patch.n_pairs ? STEP_DONE : STEP_MORE;
}

void joint_progress(const struct joint *j, size_t *done, size_t *total)
{
    *done = j->done;
    *total = j->q.n_sets * j->q.ask.patch.n_pairs;
}

const double *joint_effect(const struct joint *j) { return j->effect; }
const double *joint_span(const struct joint *j) { return j->span; }
const double *joint_value(const struct joint *j) { return j->value; }
const double *joint_base(const struct joint *j) { return j->of_base; }
const struct patch_scores *joint_baseline(const struct joint *j) { return &j->base; }
