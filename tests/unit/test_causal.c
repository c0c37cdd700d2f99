/* Causal traces on every family: a whole run for each cell and sample, with the noise and the value put back as
 * plain writes; the identities that need no reference; and the numbers of tests/golden/make_causal.py, which has
 * the definition once more in PyTorch. Agreement: 1e-5 of a probability. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "probes/causal.h"
#include "support/families.h"
#include "support/numbers.h"

#define CLOSE 1e-5

enum { N = 9, FIRST = 2, END = 5, SAMPLES = 3, MOST_LAYERS = 8 };
static const enum hook sites[CAUSAL_KINDS] = {HOOK_RESID_POST, HOOK_MLP_OUT, HOOK_ATTN_OUT};
static const struct causal_request all_kinds = {.kind = {CAUSAL_STATE, CAUSAL_MLP, CAUSAL_ATTN}, .n_kinds = 3, .window = 2,
                                                .samples = SAMPLES, .seed = 7};

static void make_ids(const struct golden *g, uint32_t ids[N])
{
    uint64_t seed = 23;
    for (int i = 0; i < N; i++) ids[i] = below(&seed, g->model->arch.d_vocab);
}

static struct causal *traced(const struct golden *g, const struct causal_request *q)
{
    struct err e = {0};
    struct causal *c = causal_new(q, &e);
    must(c && STEP_ALL(causal_step(c, g->session, &e)), e);
    return c;
}

static double probability(const float *y, uint32_t V, uint32_t id)
{
    double sum = 0;
    for (uint32_t i = 0; i < V; i++) sum += exp((double)y[i] - (double)y[id]);
    return 1 / sum;
}

/* ---- one run for one cell ------------------------------------------------------------------------------ */

struct naive {
    const struct golden *g;
    const uint32_t *ids;
    float *clean[CAUSAL_KINDS][MOST_LAYERS]; /* [N][d] */
    float *noise;                            /* [SAMPLES][subject][d] */
    uint32_t subject[END - FIRST], answer;
};

static void naive_open(struct naive *n, const struct golden *g, const uint32_t *ids, double sd)
{
    const struct arch *a = &g->model->arch;
    struct tap tap[CAUSAL_KINDS * MOST_LAYERS];
    size_t taps = 0;
    *n = (struct naive){.g = g, .ids = ids, .noise = floats((size_t)SAMPLES * (END - FIRST) * a->d_model)};
    assert_true(a->n_layers <= MOST_LAYERS);
    for (int k = 0; k < CAUSAL_KINDS; k++)
        for (uint32_t l = 0; l < a->n_layers; l++) {
            n->clean[k][l] = floats((size_t)N * a->d_model);
            tap[taps++] = (struct tap){.site = {sites[k], l}, .every_pos = true, .dst = n->clean[k][l]};
        }
    float *y = logits_at(g, g->view, ids, N, N - 1, &(struct taps){tap, taps});
    n->answer = arg_max(y, a->d_vocab);
    mem_drop(y);
    causal_noise(all_kinds.seed, sd, (size_t)SAMPLES * (END - FIRST) * a->d_model, n->noise);
    for (uint32_t i = 0; i < END - FIRST; i++) n->subject[i] = FIRST + i;
}

static void naive_close(struct naive *n)
{
    for (int k = 0; k < CAUSAL_KINDS; k++)
        for (int l = 0; l < MOST_LAYERS; l++) mem_drop(n->clean[k][l]);
    mem_drop(n->noise);
}

/* Mean p(answer) of the noised runs with layers [from, to) of that kind put back at pos. */
static double naive_cell(const struct naive *n, int kind, uint32_t from, uint32_t to, uint32_t pos)
{
    const struct arch *a = &n->g->model->arch;
    const size_t each = (size_t)(END - FIRST) * a->d_model;
    double mean = 0;
    for (int i = 0; i < SAMPLES; i++) {
        struct tap tap[1 + MOST_LAYERS] = {{.site = {HOOK_EMBED, 0}, .op = TAP_ADD, .weight = 1, .pos = n->subject,
                                            .n_pos = END - FIRST, .src = n->noise + (size_t)i * each, .n_src_pos = END - FIRST}};
        size_t taps = 1;
        for (uint32_t l = from; l < to; l++)
            tap[taps++] = (struct tap){.site = {sites[kind], l}, .op = TAP_SET, .weight = 1, .pos = &pos, .n_pos = 1,
                                       .src = n->clean[kind][l] + (size_t)pos * a->d_model, .n_src_pos = 1};
        float *y = logits_at(n->g, n->g->view, n->ids, N, N - 1, &(struct taps){tap, taps});
        mean += probability(y, a->d_vocab, n->answer) / SAMPLES;
        mem_drop(y);
    }
    return mean;
}

static void every_cell(struct golden *g)
{
    static const size_t budgets[] = {0, 1};
    const uint32_t L = g->model->arch.n_layers, window = 3;
    struct naive n;
    uint32_t ids[N];
    double sd, restored, identity, spread = 0;
    struct err e = {0};
    make_ids(g, ids);
    struct causal_fact fact = {.ids = ids, .n = N, .first = FIRST, .end = END};
    struct causal_request q = all_kinds;
    q.view = g->view, q.fact = &fact, q.n_facts = 1, q.expect = true, q.window = window;
    must(causal_embedding_sd(g->view, &fact, 1, &sd, &e), e);
    q.sd = 3 * sd;
    naive_open(&n, g, ids, q.sd);
    double low = naive_cell(&n, 0, 0, 0, 0);
    for (int b = 0; b < 2; b++) {
        q.memory_bytes = budgets[b];
        struct causal *c = traced(g, &q);
        const struct causal_scores *s = causal_result(c, 0);
        assert_false(s->dropped);
        assert_int_equal(s->answer, n.answer);
        if (!(fabs(s->low - low) <= CLOSE)) fail_msg("%s: low is %.8f, %.8f expected", g->model->path, s->low, low);
        for (int k = 0; k < CAUSAL_KINDS; k++)
            for (uint32_t l = 0; l < L; l++)
                for (uint32_t p = 0; p < N; p++) {
                    uint32_t from = l, to = l + 1;
                    if (k != CAUSAL_STATE) from = l < 1 ? 0 : l - 1, to = l + 2 < L ? l + 2 : L; /* a window of 3 */
                    double want = naive_cell(&n, k, from, to, p), got = s->score[k][(size_t)l * N + p];
                    if (!(fabs(got - want) <= CLOSE))
                        fail_msg("%s: %s at layer %u, token %u is %.8f, %.8f expected", g->model->path, causal_words[k], l, p, got, want);
                    if (p < FIRST) assert_true(got == s->low);
                    spread = fmax(spread, fabs(got - s->low));
                }
        causal_checks(c, &restored, &identity);
        if (!(restored <= CLOSE && identity <= CLOSE)) fail_msg("%s: restored %.2e, identity %.2e", g->model->path, restored, identity);
        causal_free(c);
    }
    naive_close(&n);
    if (!(spread > 1e-4)) fail_msg("%s: no cell moves anything", g->model->path);
}

static void test_every_cell_is_a_run_of_its_own(void **state)
{
    (void)state;
    families_each(false, every_cell);
}

/* ---- identities ---------------------------------------------------------------------------------------- */

static void test_without_noise_all_is_high(void **state)
{
    (void)state;
    struct golden g;
    uint32_t ids[N];
    golden_open_family(&g, "gpt2", NULL);
    make_ids(&g, ids);
    struct causal_fact fact = {.ids = ids, .n = N, .first = FIRST, .end = END};
    struct causal_request q = all_kinds;
    q.view = g.view, q.fact = &fact, q.n_facts = 1;
    struct causal *c = traced(&g, &q);
    const struct causal_scores *s = causal_result(c, 0);
    assert_true(fabs(s->high - s->low) <= 1e-7);
    for (int k = 0; k < CAUSAL_KINDS; k++)
        for (size_t i = 0; i < (size_t)g.model->arch.n_layers * N; i++) assert_true(fabs(s->score[k][i] - s->high) <= 1e-7);
    causal_free(c);
    golden_close(&g);
}

/* A dropped fact costs nothing and says what was said; its neighbours' scores are what they are alone. */
static void test_a_fact_that_is_not_known_is_dropped(void **state)
{
    (void)state;
    struct golden g;
    uint32_t ids[N];
    golden_open_family(&g, "llama", NULL);
    make_ids(&g, ids);
    struct causal_fact facts[2] = {{.ids = ids, .n = N, .first = FIRST, .end = END, .given = true}, {.ids = ids, .n = N - 1, .first = 0, .end = 1}};
    struct causal_request q = all_kinds;
    q.view = g.view, q.fact = facts, q.n_facts = 2, q.sd = 1, q.expect = true;
    float *y = logits_at(&g, g.view, ids, N, N - 1, NULL);
    facts[0].answer = (arg_max(y, g.model->arch.d_vocab) + 1) % g.model->arch.d_vocab;
    struct causal *both = traced(&g, &q);
    assert_true(causal_result(both, 0)->dropped && !causal_result(both, 0)->score[0] && isnan(causal_result(both, 0)->low));
    assert_int_equal(causal_result(both, 0)->said, arg_max(y, g.model->arch.d_vocab));
    q.fact = &facts[1], q.n_facts = 1;
    struct causal *alone = traced(&g, &q);
    assert_memory_equal(causal_result(both, 1)->score[1], causal_result(alone, 0)->score[1], sizeof(double) * g.model->arch.n_layers * (N - 1));
    causal_free(alone);
    causal_free(both);
    q.fact = facts, q.expect = false; /* kept: the answer asked for is scored */
    struct causal *kept = traced(&g, &q);
    assert_true(fabs(causal_result(kept, 0)->high - probability(y, g.model->arch.d_vocab, facts[0].answer)) <= CLOSE);
    causal_free(kept);
    mem_drop(y);
    golden_close(&g);
}

/* The edges of the reference implementation: l − w/2 inclusive to l + w/2 exclusive, cut at both ends. */
static void test_windows(void **state)
{
    static const uint32_t want[][5] = {{10, 48, 0, 0, 5}, {10, 48, 20, 15, 25}, {10, 48, 46, 41, 48}, {3, 8, 4, 3, 6}, {1, 8, 7, 7, 8}};
    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        uint32_t from, to;
        causal_window(CAUSAL_MLP, want[i][0], want[i][1], want[i][2], &from, &to);
        assert_int_equal(from, want[i][3]);
        assert_int_equal(to, want[i][4]);
        causal_window(CAUSAL_STATE, want[i][0], want[i][1], want[i][2], &from, &to);
        assert_true(from == want[i][2] && to == from + 1);
    }
}

/* ---- PyTorch ------------------------------------------------------------------------------------------- */

static void test_golden(void **state)
{
    (void)state;
    const struct json *file = golden_json("tests/golden/causal.json", &golden_arena);
    for (const struct json *m = json_get(file, "models")->child; m; m = m->next) {
        struct golden g;
        struct err e = {0};
        uint32_t ids[64], n = 0;
        double sd;
        golden_open_family(&g, json_get(m, "model")->text, NULL);
        for (const struct json *v = json_get(m, "ids")->child; v; v = v->next) ids[n++] = (uint32_t)v->integer;
        struct causal_fact fact = {.ids = ids, .n = n, .first = (uint32_t)json_get(m, "first")->integer, .end = (uint32_t)json_get(m, "end")->integer};
        struct causal_request q = all_kinds;
        q.view = g.view, q.fact = &fact, q.n_facts = 1, q.expect = true;
        q.window = (uint32_t)json_get(m, "window")->integer;
        q.samples = (uint32_t)json_get(m, "samples")->integer;
        q.seed = (uint64_t)json_get(m, "seed")->integer;
        must(causal_embedding_sd(g.view, &fact, 1, &sd, &e), e);
        assert_true(fabs(sd - json_get(m, "sd")->number) <= 1e-6 * sd);
        q.sd = 3 * sd;
        struct causal *c = traced(&g, &q);
        const struct causal_scores *s = causal_result(c, 0);
        assert_int_equal(s->answer, json_get(m, "answer")->integer);
        assert_true(fabs(s->high - json_get(m, "high")->number) <= CLOSE && fabs(s->low - json_get(m, "low")->number) <= CLOSE);
        for (int k = 0; k < CAUSAL_KINDS; k++) {
            size_t i = 0;
            for (const struct json *v = json_get(m, causal_words[k])->child; v; v = v->next, i++)
                if (!(fabs(s->score[k][i] - v->number) <= CLOSE))
                    fail_msg("%s: %s %zu is %.8f, %.8f expected", g.name, causal_words[k], i, s->score[k][i], v->number);
            assert_int_equal(i, g.model->arch.n_layers * n);
        }
        causal_free(c);
        golden_close(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cell_is_a_run_of_its_own), cmocka_unit_test(test_without_noise_all_is_high),
        cmocka_unit_test(test_a_fact_that_is_not_known_is_dropped), cmocka_unit_test(test_windows), cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests(tests, golden_arena_init, golden_arena_release);
}
