/* What attribution patching of every head's z costs, and of every edge, in forward passes of one of its prompts measured
 * in the same run.
 *
 *     build/bench_attribution MODEL [repeats]
 *
 * Bound: two runs and a pass back come to 3, and 4 are allowed; edges have none. Medians of interleaved runs; the machine may be noisy,
 * ratios are what counts.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/clock.h"
#include "core/head.h"
#include "core/kernel/blas.h"
#include "core/run.h"
#include "probes/attribution.h"
#include "probes/edge.h"

enum { MOST_REPEATS = 31, MOST_TOKENS = 64 };
static const double bound = 4;

static double plain(struct view *v, struct session *s, const struct patch_pair *p)
{
    struct err e = {0};
    const struct run_input in = {.ids = p->clean, .n = p->n, .want = &p->metric->pos, .n_want = 1};
    float *logits = mem_floats(view_model(v)->arch.d_vocab, &e);
    double start = now();
    struct run *r = logits ? run_new(v, &in, 1, NULL, &e) : NULL;
    if (!r || !STEP_ALL(run_step(r, s, &e)) || !unembed(s, v, run_final(r, 0), 1, NULL, logits, &e)) die(&e);
    run_free(r);
    double out = now() - start;
    mem_drop(logits);
    return out;
}

static double attribution(struct view *v, struct session *s, const struct patch_pair *p)
{
    struct err e = {0};
    const enum hook site = HOOK_Z;
    const struct attribution_request q = {.view = v, .pair = p, .n_pairs = 1, .n_metrics = 1, .denoise = true, .site = &site,
                                          .n_sites = 1, .axis = PATCH_LAYER_HEAD, .qk_fix = true};
    double start = now();
    struct attribution *a = attribution_new(&q, &e);
    if (!a || !STEP_ALL(attribution_step(a, s, &e))) die(&e);
    attribution_free(a);
    return now() - start;
}

/* Every edge of the model's graph. */
static double edges(struct view *v, struct session *s, const struct patch_pair *p)
{
    struct err e = {0};
    const struct edge_request q = {.view = v, .pair = p, .n_pairs = 1, .denoise = true, .steps = 1};
    double start = now();
    struct edges *k = edges_new(&q, &e);
    if (!k || !STEP_ALL(edges_step(k, s, &e))) die(&e);
    edges_free(k);
    return now() - start;
}

static void compare(struct view *v, struct session *s, uint32_t n, uint32_t differs, int repeats)
{
    static const uint32_t answer = 500, foil = 600;
    uint32_t clean[MOST_TOKENS], corrupt[MOST_TOKENS];
    double one[MOST_REPEATS], all[MOST_REPEATS], graph[MOST_REPEATS];
    for (uint32_t i = 0; i < n; i++) clean[i] = corrupt[i] = (i * 7919 + 13) % (view_model(v)->arch.d_vocab - 2);
    corrupt[differs]++;
    const struct metric metric = {METRIC_LOGIT_DIFF, &answer, &foil, 1, 1, n - 1, NULL};
    const struct patch_pair pair = {clean, corrupt, n, &metric};
    for (int r = 0; r < repeats; r++) {
        one[r] = plain(v, s, &pair);
        all[r] = attribution(v, s, &pair);
        graph[r] = edges(v, s, &pair);
    }
    printf("%2u tokens, the first that differs at %2u: %5.2f forward passes (bound %.1f; a pass %.0f ms); all edges %.2f\n", n, differs,
           median(all, repeats) / median(one, repeats), bound, 1e3 * median(one, repeats), median(graph, repeats) / median(one, repeats));
}

int main(int argc, char **argv)
{
    struct err e = {0};
    if (argc < 2) return fprintf(stderr, "usage: bench_attribution MODEL [repeats]\n"), 2;
    int repeats = argc > 2 ? atoi(argv[2]) : 7;
    if (repeats < 1 || repeats > MOST_REPEATS) repeats = 7;
    struct model *m = blas_start(2, &e) ? model_open(argv[1], NULL, NULL, NULL, &e) : NULL;
    struct session *s = m ? session_new(2, &e) : NULL;
    if (!s) die(&e);
    struct view *v = view_base(m);
    for (uint32_t n = 20; n <= MOST_TOKENS; n += MOST_TOKENS - 20) {
        compare(v, s, n, 1, repeats);
        compare(v, s, n, n / 2, repeats);
    }
    view_drop(v);
    session_free(s);
    model_drop(m);
    return 0;
}
