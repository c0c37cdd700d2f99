#include "path_patch.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"
#include "core/kernel/norm.h"
#include "panel.h"
#include "path_naive.h"
#include "pick.h"
#include "sweep.h"

enum { DEFAULT_MEMORY = 512u << 20 };

struct path_patch {
    struct path_request q;
    struct patch_grid grid;
    struct path_groups groups;
    struct patch_scores *scores; /* [n_pairs][n_metrics] */
    double *values;
    uint32_t *first_difference;
    double *reference;           /* [V] log-probabilities of the pair's source, for kl; or NULL */
    float scale;                 /* of the base's final norm, where it is frozen */
    struct path_sender *sender;  /* [n_senders] those that are run, in order; and which they are */
    size_t *number, n_run;
    size_t pair, turn;           /* the pair in hand; the turn's first sender */
    struct patch_texts text;
    struct patch_runs *runs;
    bool ran;
    struct path_carry *carry;
    bool carried;
    struct sweep_base base;
    struct cell *cell;           /* [of a turn] */
    struct cell_maker maker;
    uint32_t *pos;               /* [longest] */
    struct sweep *sweep;
    bool swept;
    size_t n_evaluated;
    struct path_naive *naive;
    size_t picked[PATH_NAIVE_MOST], n_picked;
    bool checked;
};

static const struct arch *arch_of(const struct path_request *q) { return &view_model(q->view)->arch; }

static size_t order(const struct path_sender *s)
{
    return s->from == PATH_EMBED ? 0 : 1 + 2 * (size_t)s->layer + (s->from == PATH_MLP);
}

int path_before(const struct path_sender *a, const struct path_sender *b)
{
    if (order(a) != order(b)) return order(a) < order(b) ? -1 : 1;
    return a->from == PATH_HEAD ? (a->head > b->head) - (a->head < b->head) : 0;
}

const char *path_norm_absent(const struct path_request *q)
{
    return q->freeze_norm && q->n_receivers ? hook_absent(arch_of(q), HOOK_LN1_SCALE) : NULL;
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

/* Where a pair's rows begin; patch_used() where none can differ. */
static uint32_t first_row(const struct path_request *q, const struct patch_pair *pair)
{
    const uint32_t first = patch_pair_difference(pair), n = patch_used(pair);
    if (first >= n) return n;
    return q->n_receivers ? first : n - 1;
}

/* Senders of one turn. */
static size_t turn_senders(const struct path_request *q, size_t rows)
{
    const size_t width = 2 * arch_of(q)->d_model + q->n_receivers * arch_of(q)->d_head;
    const size_t n = (q->memory_bytes ? q->memory_bytes : DEFAULT_MEMORY) / sizeof(float) / width / (rows ? rows : 1);
    return n < 1 ? 1 : n < q->n_senders ? n : q->n_senders;
}

static void keep(struct patch_runs_request *r, enum patch_role role, enum hook h, bool every_layer)
{
    assert(r->n_keep < PATCH_KEEPS);
    r->keep[r->n_keep++] = (struct patch_keep){role, h, every_layer};
}

static struct patch_runs_request runs_of(const struct path_request *q, const struct patch_texts *text)
{
    struct patch_runs_request r = {.view = {q->view, q->view}, .pair = text, .n_pairs = 1};
    static const enum hook frozen[] = {HOOK_Q, HOOK_K, HOOK_V};
    keep(&r, PATCH_BASE, HOOK_RESID_PRE, true);
    keep(&r, PATCH_BASE, HOOK_Z, true);
    keep(&r, PATCH_BASE, HOOK_MLP_OUT, true);
    keep(&r, PATCH_BASE, HOOK_ATTN_OUT, q->freeze_mlps);
    for (size_t i = 0; path_naive_senders(q) && i < sizeof frozen / sizeof *frozen; i++) keep(&r, PATCH_BASE, frozen[i], true);
    if (q->freeze_norm && q->n_receivers) keep(&r, PATCH_BASE, HOOK_LN1_SCALE, true);
    keep(&r, PATCH_SOURCE, HOOK_RESID_PRE, false); /* of layer 0 */
    keep(&r, PATCH_SOURCE, HOOK_Z, true);
    keep(&r, PATCH_SOURCE, HOOK_MLP_OUT, true);
    return r;
}

void path_plan(const struct path_request *q, int threads, struct plan *p)
{
    const struct arch *a = arch_of(q);
    struct plan run = {0}, turn = {0}, naive = {0};
    size_t most = 0, longest = 0, at = 0;
    for (size_t i = 0; i < q->n_pairs; i++) {
        const size_t rows = patch_used(&q->pair[i]) - first_row(q, &q->pair[i]), all = rows * turn_senders(q, rows);
        if (all > most) most = all;
        if (patch_used(&q->pair[i]) > longest) longest = patch_used(&q->pair[i]), at = i;
    }
    const struct patch_texts text = patch_texts_of(&q->pair[at], q->denoise);
    const struct patch_runs_request runs = runs_of(q, &text);
    const size_t tile = longest > SWEEP_TILE ? longest : SWEEP_TILE, taps = (PATH_INPUTS + 1) * sizeof(struct tap);
    patch_runs_plan(&runs, threads, &run);
    panel_plan(a, q->pair->metric, q->n_metrics, p);
    plan_add(p, NEED_LOGITS, plan_times(2 + (q->freeze_norm ? PANEL_ROWS : 0), sizeof(double) * (size_t)a->d_vocab));
    plan_add(p, NEED_ANSWER, plan_times(plan_times(q->n_senders, q->n_pairs), plan_times(q->n_metrics, sizeof(double) + 64)));
    plan_add(p, NEED_ANSWER, plan_times(q->n_senders, sizeof(struct path_sender) + sizeof(size_t) + sizeof(struct cell)));
    plan_add(&turn, NEED_STREAM, mem_floats_bytes(plan_times(most, a->d_model + plan_times(q->n_receivers, a->d_head)) + 2));
    plan_add(&turn, NEED_STREAM, mem_floats_bytes(tile * a->d_model) + tile * (sizeof(struct span) + taps));
    plan_add(&turn, NEED_STREAM, plan_times(q->n_senders, PATH_INPUTS * sizeof(struct tap)));
    sweep_plan(a, (uint32_t)longest, q->n_senders, most > tile ? most : tile, threads, &turn);
    path_naive_plan(q, (uint32_t)longest, threads, &naive);
    plan_peak(&turn, &naive);
    plan_with(p, &run);
    plan_with(p, &turn);
}

/* Layers that a sender's rows are carried through, and through which its cell then goes. */
static void layers_of(const struct path_request *q, const struct path_sender *s, uint32_t *carried, uint32_t *swept)
{
    const uint32_t L = arch_of(q)->n_layers, to = q->n_receivers ? q->receiver[q->n_receivers - 1].layer : L;
    const uint32_t from = s->from == PATH_EMBED ? 0 : s->layer + (s->from == PATH_MLP), reach = path_reaches(q, s);
    *carried = q->freeze_mlps || reach == UINT32_MAX ? 0 : to - from;
    *swept = reach == UINT32_MAX ? 0 : L - reach;
}

struct path_cost path_forecast(const struct path_request *q)
{
    const struct arch *a = arch_of(q);
    struct path_cost c = {.senders = q->n_senders * q->n_pairs};
    const double layer = run_flops(a, 1) / a->n_layers;
    for (size_t i = 0; i < q->n_pairs; i++) {
        const size_t rows = patch_used(&q->pair[i]) - first_row(q, &q->pair[i]);
        for (size_t k = 0; k < q->n_senders; k++) {
            uint32_t carried, swept;
            layers_of(q, &q->sender[k], &carried, &swept);
            c.rows += rows * (carried + swept);
            c.senders_run += rows && path_reaches(q, &q->sender[k]) != UINT32_MAX;
        }
        c.flops += 2 * run_flops(a, patch_used(&q->pair[i]));
    }
    c.flops += layer * (double)c.rows + (double)c.senders_run * panel_flops(a, q->pair->metric, q->n_metrics);
    c.flops += 2.0 * (double)path_naive_senders(q) * run_flops(a, patch_used(q->pair));
    return c;
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

static struct panel panel_of(const struct path_patch *p)
{
    return (struct panel){.view = p->q.view, .metric = p->q.pair[p->pair].metric, .n_metrics = p->q.n_metrics, .reference = p->reference};
}

static struct patch_scores *scores_of(const struct path_patch *p, size_t metric) { return &p->scores[p->pair * p->q.n_metrics + metric]; }

/* Through the base's scale of the final norm. */
static bool read_frozen(const struct path_patch *p, struct session *s, const float *x, size_t n, double *out, struct err *e)
{
    const uint32_t V = arch_of(&p->q)->d_vocab, d = arch_of(&p->q)->d_model;
    uint32_t pos[PANEL_ROWS] = {0};
    struct tap tap = {.site = {HOOK_FINAL_SCALE, 0}, .op = TAP_SET, .weight = 1, .every_pos = true, .src = &p->scale, .n_src_pos = 1};
    struct taps taps = {&tap, 1};
    const struct head_rows rows = {.taps = &taps, .pos = pos};
    float *logits = mem_floats((size_t)PANEL_ROWS * V, e);
    bool ok = logits && unembed(s, p->q.view, x, n, &rows, logits, e);
    for (size_t i = 0; ok && i < n; i++)
        for (size_t m = 0; m < p->q.n_metrics; m++)
            out[i * p->q.n_metrics + m] = metric_of_row(&p->q.pair[p->pair].metric[m], x + i * d, d, logits + i * V, V, p->reference);
    mem_drop(logits);
    return ok;
}

/* At most PANEL_ROWS final rows of runs D. */
static bool read(const struct path_patch *p, struct session *s, const float *x, size_t n, double *out, struct err *e)
{
    const struct panel panel = panel_of(p);
    if (p->q.freeze_norm && !p->q.n_receivers) return read_frozen(p, s, x, n, out, e);
    return panel_read(&panel, s, x, n, out, e);
}

static bool freeze_final(struct path_patch *p, struct err *e)
{
    const uint32_t d = arch_of(&p->q)->d_model;
    const struct norm norm = view_final_norm(p->q.view);
    float *centred = mem_floats(d, e);
    if (centred) norm_scale(&norm, patch_runs_final(p->runs, 0, PATCH_BASE), &p->scale, centred, 1, d);
    mem_drop(centred);
    return centred != NULL;
}

static bool baselines(struct path_patch *p, struct session *s, struct err *e)
{
    const size_t M = p->q.n_metrics;
    const struct panel panel = panel_of(p);
    double *got = mem_take(PATCH_ROLES * M, sizeof *got, e);
    bool ok = got && freeze_final(p, e);
    if (ok && p->reference) ok = panel_reference(p->q.view, s, patch_runs_final(p->runs, 0, PATCH_SOURCE), p->reference, e);
    for (int role = 0; ok && role < PATCH_ROLES; role++)
        ok = panel_read(&panel, s, patch_runs_final(p->runs, 0, (enum patch_role)role), 1, got + (size_t)role * M, e);
    for (size_t m = 0; ok && m < M; m++) {
        const double base = got[PATCH_BASE * M + m], source = got[PATCH_SOURCE * M + m];
        struct patch_scores *out = scores_of(p, m);
        for (size_t i = 0; i < p->q.n_senders; i++) out->values[i] = base;
        ok = patch_scores_open(&p->q.pair[p->pair].metric[m], base, source, p->q.denoise, out, e);
    }
    mem_drop(got);
    return ok;
}

static void finish(struct path_patch *p)
{
    for (p->pair = 0; p->pair < p->q.n_pairs; p->pair++)
        for (size_t m = 0; m < p->q.n_metrics; m++)
            patch_scores_settle(&p->q.pair[p->pair].metric[m], scores_of(p, m), p->q.n_senders);
}

/* ---- a turn -------------------------------------------------------------------------------------------- */

static uint32_t first_of(const struct path_patch *p) { return first_row(&p->q, &p->q.pair[p->pair]); }
static size_t rows_of(const struct path_patch *p) { return patch_used(&p->q.pair[p->pair]) - first_of(p); }

static size_t in_turn(const struct path_patch *p)
{
    const size_t n = turn_senders(&p->q, rows_of(p)), left = p->n_run - p->turn;
    return n < left ? n : left;
}

static void enter(void *ctx, const struct cell *c, float *x, float *z)
{
    const struct path_patch *p = ctx;
    const size_t d = arch_of(&p->q)->d_model;
    (void)z;
    memcpy(x, patch_runs_values(p->runs, 0, PATCH_BASE, (struct site){HOOK_RESID_PRE, c->layer}) + c->first * d,
           rows_of(p) * d * sizeof *x);
}

static size_t write(void *ctx, const struct cell *c, uint32_t layer, struct tap *out)
{
    const struct path_patch *p = ctx;
    size_t n = 0;
    for (size_t k = 0; k < p->groups.n; k++) {
        const struct path_group *g = &p->groups.group[k];
        if (g->layer != layer) continue;
        out[n++] = (struct tap){.site = {g->hook, layer}, .op = TAP_SET, .weight = 1, .pos = p->pos + c->first, .n_pos = rows_of(p),
                                .head = g->head, .n_head = g->n, .src = path_carry_input(p->carry, c->out, k), .n_src_pos = rows_of(p)};
    }
    return n;
}

static bool begin_sweep(struct path_patch *p, struct err *e)
{
    const size_t n = in_turn(p);
    p->base = (struct sweep_base){patch_used(&p->q.pair[p->pair]), patch_runs_kv(p->runs, 0)};
    for (size_t i = 0; i < n; i++)
        p->cell[i] = (struct cell){.layer = path_reaches(&p->q, &p->sender[p->turn + i]), .first = first_of(p), .entry = ENTER_PRE,
                                   .last = p->q.receiver[p->q.n_receivers - 1].layer, .out = i};
    p->sweep = sweep_new(p->q.view, &p->base, p->cell, n, &p->maker, e);
    return p->sweep != NULL;
}

static void end_turn(struct path_patch *p)
{
    p->turn += in_turn(p);
    path_carry_free(p->carry);
    sweep_free(p->sweep);
    p->carry = NULL, p->sweep = NULL;
    p->carried = p->swept = false;
    p->n_evaluated = 0;
}

static bool evaluate_some(struct path_patch *p, struct session *s, struct err *e)
{
    const size_t all = in_turn(p), left = all - p->n_evaluated, n = left < PANEL_ROWS ? left : PANEL_ROWS, M = p->q.n_metrics;
    const float *x = p->sweep ? sweep_final(p->sweep) : path_carry_final(p->carry);
    double *got = mem_take(n * M, sizeof *got, e);
    bool ok = got && read(p, s, x + p->n_evaluated * arch_of(&p->q)->d_model, n, got, e);
    for (size_t i = 0; ok && i < n; i++)
        for (size_t m = 0; m < M; m++) scores_of(p, m)->values[p->number[p->turn + p->n_evaluated + i]] = got[i * M + m];
    mem_drop(got);
    p->n_evaluated += n;
    if (p->n_evaluated == all) end_turn(p);
    return ok;
}

static bool step_turn(struct path_patch *p, struct session *s, struct err *e)
{
    enum step step;
    if (!p->carry && !(p->carry = path_carry_new(&p->q, &p->groups, p->runs, p->sender + p->turn, in_turn(p), first_of(p),
                                                 patch_used(&p->q.pair[p->pair]), e)))
        return false;
    if (!p->carried) {
        step = path_carry_step(p->carry, s, e);
        p->carried = step == STEP_DONE;
        return step != STEP_FAIL;
    }
    if (p->swept || !p->q.n_receivers) return evaluate_some(p, s, e);
    if (!p->sweep && !begin_sweep(p, e)) return false;
    step = sweep_step(p->sweep, s, e);
    p->swept = step == STEP_DONE;
    return step != STEP_FAIL;
}

/* ---- the check ----------------------------------------------------------------------------------------- */

static double effect(const void *ctx, size_t i)
{
    const struct path_patch *p = ctx;
    const struct patch_scores *s = scores_of(p, 0);
    return fabs(s->values[p->number[i]] - (p->q.denoise ? s->corrupt : s->clean));
}

static void pick(struct path_patch *p)
{
    p->n_picked = pick_some(effect, p, p->n_run, path_naive_senders(&p->q), p->q.seed, p->picked);
    for (size_t i = 0; i < p->n_picked; i++) p->picked[i] = p->number[p->picked[i]];
}

static bool compare(struct path_patch *p, struct session *s, struct err *e)
{
    const size_t M = p->q.n_metrics;
    double *got = mem_take(M, sizeof *got, e);
    bool ok = got != NULL;
    p->grid.check_naive = 0;
    for (size_t i = 0; ok && i < p->n_picked; i++) {
        ok = read(p, s, path_naive_final(p->naive, i), 1, got, e);
        for (size_t m = 0; ok && m < M; m++) {
            const struct patch_scores *of = scores_of(p, m);
            const double span = patch_scores_unit(&p->q.pair->metric[m], of);
            const double off = fabs(got[m] - of->values[p->picked[i]]) / span;
            if (!(off <= p->grid.check_naive)) p->grid.check_naive = off;
        }
    }
    p->grid.n_naive = p->n_picked;
    p->checked = true;
    mem_drop(got);
    return ok;
}

static bool step_check(struct path_patch *p, struct session *s, struct err *e)
{
    if (!p->naive) {
        pick(p);
        p->naive = path_naive_new(&p->q, &p->groups, p->runs, p->picked, p->n_picked, p->text.ids[PATCH_BASE], p->text.n, e);
        return p->naive != NULL;
    }
    enum step step = path_naive_step(p->naive, s, e);
    return step == STEP_DONE ? compare(p, s, e) : step != STEP_FAIL;
}

/* ---- the job ------------------------------------------------------------------------------------------- */

static bool runs_senders(const struct path_patch *p) { return rows_of(p) > 0 && p->n_run > 0; }
static bool check_due(const struct path_patch *p)
{
    return p->pair == 0 && !p->checked && runs_senders(p) && path_naive_senders(&p->q) > 0;
}

bool path_checking(const struct path_patch *p) { return p->runs && p->ran && p->turn == p->n_run && check_due(p); }

static bool begin_pair(struct path_patch *p, struct err *e)
{
    p->text = patch_texts_of(&p->q.pair[p->pair], p->q.denoise);
    const struct patch_runs_request runs = runs_of(&p->q, &p->text);
    p->ran = false;
    p->turn = 0;
    p->runs = patch_runs_new(&runs, e);
    return p->runs != NULL;
}

static enum step end_pair(struct path_patch *p)
{
    path_naive_free(p->naive);
    patch_runs_free(p->runs);
    p->naive = NULL, p->runs = NULL;
    if (++p->pair < p->q.n_pairs) return STEP_MORE;
    finish(p);
    return STEP_DONE;
}

enum step path_step(struct path_patch *p, struct session *s, struct err *e)
{
    bool ok;
    if (p->pair == p->q.n_pairs) return STEP_DONE;
    if (!p->runs) return begin_pair(p, e) ? STEP_MORE : STEP_FAIL;
    if (!p->ran) {
        enum step step = patch_runs_step(p->runs, s, e);
        p->ran = step == STEP_DONE;
        ok = step != STEP_FAIL && (!p->ran || baselines(p, s, e));
    } else if (runs_senders(p) && p->turn < p->n_run) ok = step_turn(p, s, e);
    else if (check_due(p)) ok = step_check(p, s, e);
    else return end_pair(p);
    return ok ? STEP_MORE : STEP_FAIL;
}

static void choose_senders(struct path_patch *p)
{
    for (size_t i = 0; i < p->q.n_senders; i++) {
        assert(i == 0 || path_before(&p->q.sender[i - 1], &p->q.sender[i]) < 0);
        if (path_reaches(&p->q, &p->q.sender[i]) == UINT32_MAX) continue;
        p->sender[p->n_run] = p->q.sender[i];
        p->number[p->n_run++] = i;
    }
}

static bool take(struct path_patch *p, struct err *e)
{
    const size_t scores = p->q.n_pairs * p->q.n_metrics, n = p->q.n_senders;
    const uint32_t longest = patch_longest(p->q.pair, p->q.n_pairs);
    const bool kl = metric_any(p->q.pair->metric, p->q.n_metrics, METRIC_KL);
    if (!path_groups_make(&p->q, &p->groups, e) || !(p->scores = mem_take(scores, sizeof *p->scores, e)) ||
        !(p->values = mem_take(plan_times(scores, n), sizeof *p->values, e)) ||
        !(p->first_difference = mem_take(p->q.n_pairs, sizeof *p->first_difference, e)) ||
        !(p->sender = mem_take(n, sizeof *p->sender, e)) || !(p->number = mem_take(n, sizeof *p->number, e)) ||
        !(p->cell = mem_take(n, sizeof *p->cell, e)) || !(p->pos = mem_take(longest, sizeof *p->pos, e)) ||
        (kl && !(p->reference = mem_take(arch_of(&p->q)->d_vocab, sizeof *p->reference, e))))
        return false;
    for (size_t i = 0; i < scores; i++) p->scores[i].values = p->values + i * n;
    for (size_t i = 0; i < p->q.n_pairs; i++) p->first_difference[i] = patch_pair_difference(&p->q.pair[i]);
    for (uint32_t i = 0; i < longest; i++) p->pos[i] = i;
    return true;
}

struct path_patch *path_new(const struct path_request *q, struct err *e)
{
    assert(q->n_pairs && q->n_metrics && q->n_senders && !path_norm_absent(q));
    struct path_patch *p = mem_new(sizeof *p);
    p->q = *q;
    view_retain(q->view);
    p->maker = (struct cell_maker){enter, write, p, PATH_INPUTS};
    if (!take(p, e)) {
        path_free(p);
        return NULL;
    }
    choose_senders(p);
    p->grid = (struct patch_grid){.n_layers = 1, .n_heads = 1, .n_pos = (uint32_t)q->n_senders, .scores = p->scores,
                                  .first_difference = p->first_difference, .check_identity = NAN, .check_full = NAN, .check_naive = NAN};
    return p;
}

void path_free(struct path_patch *p)
{
    if (!p) return;
    path_naive_free(p->naive);
    sweep_free(p->sweep);
    path_carry_free(p->carry);
    patch_runs_free(p->runs);
    path_groups_release(&p->groups);
    mem_drop(p->scores);
    mem_drop(p->values);
    mem_drop(p->first_difference);
    mem_drop(p->reference);
    mem_drop(p->sender);
    mem_drop(p->number);
    mem_drop(p->cell);
    mem_drop(p->pos);
    view_drop(p->q.view);
    mem_drop(p);
}

void path_progress(const struct path_patch *p, size_t *done, size_t *total)
{
    const size_t n = p->q.n_senders;
    *total = n * p->q.n_pairs;
    *done = p->pair < p->q.n_pairs ? n * p->pair + p->turn : *total;
}

const struct patch_grid *path_result(const struct path_patch *p) { return &p->grid; }
