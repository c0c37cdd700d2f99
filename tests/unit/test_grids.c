/* Patch grids over every site that a layer has, by every axis, of every family: two pairs and two metrics
 * from one sweep against one whole run with one write for each cell. The engine's own numbers, and what a
 * write at each hook does, are proven in test_families.c. Agreement: 1e-4. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"
#include "probes/patch.h"
#include "support/families.h"
#include "support/numbers.h"
#include "support/prompts.h"

#define CLOSE 1e-4

enum { PAIRS = 2, METRICS = 2 };

static const uint32_t answers[] = {42, 3}, foils[] = {7};
static const struct metric metrics[METRICS] = {{METRIC_LOGIT_DIFF, answers, foils, 2, 1, N - 2, NULL},
                                               {METRIC_KL, NULL, NULL, 0, 0, N - 2, NULL}};

static void make_pairs(const struct golden *g, struct prompts ids[PAIRS])
{
    static const uint32_t at[PAIRS][2] = {{2, 5}, {0, 6}};
    uint64_t seed = 19;
    for (int i = 0; i < PAIRS; i++) {
        for (int k = 0; k < N; k++) ids[i].clean[k] = ids[i].corrupt[k] = below(&seed, g->model->arch.d_vocab);
        for (int k = 0; k < 2; k++) ids[i].corrupt[at[i][k]] = below(&seed, g->model->arch.d_vocab);
    }
}

/* ---- one run for one cell ------------------------------------------------------------------------------ */

/* What is written: the values themselves, copied one by one for the places in question. */
struct write {
    struct tap tap;
    uint32_t pos[N], head[64];
    float *src;
};

static void make_write(struct write *w, const struct site_values *s, uint32_t layer, const uint32_t *pos, const uint32_t *head)
{
    const bool source = hook_info(s->hook)->axis == AXIS_SOURCE;
    const uint32_t n_pos = pos ? 1 : N, n_head = head ? 1 : s->heads;
    assert_true(s->heads <= 64);
    w->src = floats((size_t)n_pos * n_head * s->width);
    for (uint32_t p = 0; p < n_pos; p++) w->pos[p] = pos ? *pos : p;
    for (uint32_t h = 0; h < n_head; h++) w->head[h] = head ? *head : h;
    for (uint32_t p = 0; p < n_pos; p++)
        for (uint32_t h = 0; h < n_head; h++) {
            size_t from = source ? (size_t)w->head[h] * N + w->pos[p] : (size_t)w->pos[p] * s->heads + w->head[h];
            size_t to = source ? (size_t)h * n_pos + p : (size_t)p * n_head + h;
            memcpy(w->src + to * s->width, s->layer[layer] + from * s->width, s->width * sizeof *w->src);
        }
    w->tap = (struct tap){.site = {s->hook, layer}, .op = TAP_SET, .weight = 1, .pos = w->pos, .n_pos = n_pos, .n_source = N,
                          .src = w->src, .n_src_pos = n_pos};
    if (hook_info(s->hook)->axis != AXIS_PLAIN) w->tap.head = w->head, w->tap.n_head = n_head;
}

/* ---- metrics by their definitions ---------------------------------------------------------------------- */

static double log_sum(const float *y, const uint32_t *ids, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)y[ids ? ids[i] : i]);
    return log(sum);
}

static double by_definition(int metric, const float *y, const float *source, uint32_t V)
{
    double kl = 0, total = log_sum(y, NULL, V), ref = log_sum(source, NULL, V);
    if (metric == 0) return log_sum(y, answers, 2) - log_sum(y, foils, 1);
    for (uint32_t i = 0; i < V; i++) kl += exp((double)source[i] - ref) * ((double)source[i] - ref - (double)y[i] + total);
    return kl;
}

/* ---- a grid ----------------------------------------------------------------------------------------------- */

struct asked {
    const struct golden *g;
    const struct patch_request *q;
    const struct patch_grid *grid;
    struct view *source; /* view of the source run */
    double spread;       /* how far cells lie apart: a grid of one value would show nothing */
};

static void check_cell(struct asked *k, size_t pair, const struct site_values *s, uint32_t l, uint32_t h, uint32_t p,
                       const uint32_t *base, const float *source_logits)
{
    const struct patch_request *q = k->q;
    const struct patch_grid *grid = k->grid;
    const uint32_t from = l > q->before ? l - q->before : 0, up = l + q->after, L = grid->n_layers;
    struct write w[MOST_LAYERS];
    struct tap tap[MOST_LAYERS];
    size_t n = 0;
    for (uint32_t at = from; at <= up && at < L; at++, n++) {
        make_write(&w[n], s, at, grid->n_pos > 1 ? &p : NULL, grid->n_heads > 1 ? &h : NULL);
        tap[n] = w[n].tap;
        if (q->from == PATCH_FROM_ZERO) tap[n].src = NULL;
    }
    float *y = logits_at(k->g, q->view, base, N, N - 2, &(struct taps){tap, n});
    for (int m = 0; m < METRICS; m++) {
        const struct patch_scores *scores = &grid->scores[pair * METRICS + (size_t)m];
        double want = by_definition(m, y, source_logits, k->g->model->arch.d_vocab);
        double got = scores->values[((size_t)l * grid->n_heads + h) * grid->n_pos + p], off = fabs(got - want);
        if (!(off <= CLOSE))
            fail_msg("%s: %s of pair %zu, cell (%u, %u, %u), metric %d is %.7f, %.7f expected", k->g->model->path,
                     hook_info(q->site)->spelling, pair, l, h, p, m, got, want);
        if (m == 0) k->spread = fmax(k->spread, fabs(got - (q->denoise ? scores->corrupt : scores->clean)));
    }
    mem_drop(y);
    for (size_t i = 0; i < n; i++) mem_drop(w[i].src);
}

static void check_pair(struct asked *k, size_t pair)
{
    const struct patch_pair *p = &k->q->pair[pair];
    const uint32_t *base = k->q->denoise ? p->corrupt : p->clean, *source = k->q->denoise ? p->clean : p->corrupt;
    struct site_values s = read_site(k->g, k->source, k->q->site, source);
    float *source_logits = logits_at(k->g, k->source, source, N, N - 2, NULL);
    for (uint32_t l = 0; l < k->grid->n_layers; l++)
        for (uint32_t h = 0; h < k->grid->n_heads; h++)
            for (uint32_t pos = 0; pos < k->grid->n_pos; pos++) check_cell(k, pair, &s, l, h, pos, base, source_logits);
    mem_drop(source_logits);
    drop_site(&s);
}

/* Returns how much its cells moved the metric. */
static double check_grid(const struct golden *g, const struct patch_request *q)
{
    struct err e = {0};
    struct patch *p = patch_new(q, &e);
    must(p && STEP_ALL(patch_step(p, g->session, &e)), e);
    struct asked k = {.g = g, .q = q, .grid = patch_result(p), .source = q->source ? q->source : q->view};
    for (size_t i = 0; i < q->n_pairs; i++) check_pair(&k, i);
    if (!(k.grid->check_identity <= CLOSE)) fail_msg("%s: identity is off by %.2e", g->model->path, k.grid->check_identity);
    bool full = q->from == PATCH_FROM_OTHER && !q->source;
    if (full && !(k.grid->check_full <= CLOSE)) fail_msg("%s: full is off by %.2e", g->model->path, k.grid->check_full);
    if (!full) assert_true(isnan(k.grid->check_full));
    patch_free(p);
    return k.spread;
}

/* Sites of a layer that can be written and are not per-head copies of the stream. */
static bool is_site(const struct arch *a, enum hook h)
{
    const struct hook_info *i = hook_info(h);
    return i->scope == SCOPE_LAYER && i->writable && !hook_absent(a, h) && !hook_of_head_input(h);
}

static void ask(const struct golden *g, const struct prompts *ids, struct patch_pair *pair, struct patch_request *q)
{
    for (int i = 0; i < PAIRS; i++) pair[i] = (struct patch_pair){ids[i].clean, ids[i].corrupt, N, metrics};
    *q = (struct patch_request){.view = g->view, .pair = pair, .n_pairs = PAIRS, .n_metrics = METRICS};
}

static void every_site(struct golden *g)
{
    static const enum patch_axis axes[] = {PATCH_LAYER, PATCH_LAYER_POS, PATCH_LAYER_HEAD, PATCH_LAYER_HEAD_POS};
    static const size_t budgets[] = {0, 1, 4000};
    struct prompts ids[PAIRS];
    struct patch_pair pair[PAIRS];
    struct patch_request q;
    make_pairs(g, ids);
    ask(g, ids, pair, &q);
    for (unsigned h = 0; h < HOOK_COUNT; h++) {
        q.site = (enum hook)h;
        if (!is_site(&g->model->arch, q.site)) continue;
        double spread = 0;
        for (int x = 0; x < 4; x++) {
            q.axis = axes[x];
            q.denoise = (h + (unsigned)x) % 2;
            q.memory_bytes = budgets[(h + (unsigned)x) % 3];
            if (x >= 2 && hook_info(q.site)->axis == AXIS_PLAIN) continue;
            spread = fmax(spread, check_grid(g, &q));
        }
        if (!(spread > 1e-3)) fail_msg("%s: no cell of %s moves anything", g->model->path, hook_info(q.site)->spelling);
    }
}

static void test_every_site(void **state)
{
    (void)state;
    families_each(false, every_site);
}

/* Windows of layers, zero in place of the source, another view as the source. */
static void other_questions(struct golden *g)
{
    static const enum hook sites[] = {HOOK_RESID_PRE, HOOK_V, HOOK_Z, HOOK_ATTN_OUT, HOOK_MLP_POST, HOOK_MLP_OUT};
    struct prompts ids[PAIRS];
    struct patch_pair pair[PAIRS];
    struct patch_request q;
    size_t down;
    uint64_t seed = 5;
    make_pairs(g, ids);
    ask(g, ids, pair, &q);
    assert_true(model_role(g->model, ROLE_DOWN, 0, &down));
    float *change = random_floats(&seed, g->model->tensors[down].n_elements, 0.05);
    struct view *other = view_plus(g, g->view, down, change);
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        q.site = sites[i];
        q.axis = i % 2 ? PATCH_LAYER : PATCH_LAYER_POS;
        q.before = 1, q.after = i % 2;
        (void)check_grid(g, &q);
        q.before = q.after = 0;
        q.from = PATCH_FROM_ZERO;
        (void)check_grid(g, &q);
        q.from = PATCH_FROM_OTHER;
        q.source = other;
        (void)check_grid(g, &q);
        q.source = NULL;
    }
    view_drop(other);
    free(change);
}

static void test_other_questions(void **state)
{
    (void)state;
    families_each(false, other_questions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_site), cmocka_unit_test(test_other_questions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
