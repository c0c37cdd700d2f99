/* What TuCo costs, in forward passes of the same prompt measured in the same run.
 *
 *     build/bench_tuco MODEL [repeats]
 *
 * Bounds: 1.2 where the views differ in one layer, 2.2 between two models that share nothing (the same file
 * twice). Medians of interleaved runs; the machine may be noisy, ratios are what counts.
 */
#include <stdio.h>
#include <stdlib.h>

#include "bench/clock.h"
#include "probes/tuco.h"

enum { MOST_REPEATS = 31 };

static double plain(struct view *v, struct session *s, const uint32_t *ids, uint32_t n)
{
    struct err e = {0};
    const struct run_input in = {.ids = ids, .n = n, .want = &(uint32_t){n - 1}, .n_want = 1};
    double start = now();
    struct run *r = run_new(v, &in, 1, NULL, &e);
    if (!r || !STEP_ALL(run_step(r, s, &e))) die(&e);
    run_free(r);
    return now() - start;
}

static double tuco(struct view *v, struct view *against, struct session *s, const uint32_t *ids, uint32_t n, bool all)
{
    struct err e = {0};
    const struct tuco_input in = {.ids = ids, .n = n, .all_positions = all};
    double start = now();
    struct tuco *t = tuco_new(v, against, &in, 1, &e);
    if (!t || !STEP_ALL(tuco_step(t, s, &e))) die(&e);
    tuco_free(t);
    return now() - start;
}

static void compare(const char *what, struct view *v, struct view *against, struct session *s, uint32_t n, bool all, int repeats,
                    double bound)
{
    uint32_t ids[1024];
    double one[MOST_REPEATS], both[MOST_REPEATS];
    for (uint32_t i = 0; i < n; i++) ids[i] = (i * 37 + 11) % view_model(v)->arch.d_vocab;
    for (int r = 0; r < repeats; r++) {
        one[r] = plain(v, s, ids, n);
        both[r] = tuco(v, against, s, ids, n, all);
    }
    printf("%-28s %4u tokens, %s: %5.2f forward passes (bound %.1f; a pass %.0f ms)\n", what, n, all ? "all " : "last",
           median(both, repeats) / median(one, repeats), bound, 1e3 * median(one, repeats));
}

/* The base with one down-projection of the middle layer moved a little. */
static struct view *moved(struct model *m, struct view *base)
{
    struct err e = {0};
    size_t t;
    if (!model_role(m, ROLE_DOWN, m->arch.n_layers / 2, &t)) exit(1);
    float *change = mem_floats(m->tensors[t].n_elements, &e);
    for (size_t i = 0; change && i < m->tensors[t].n_elements; i++) change[i] = (float)(i % 13) * 1e-3f;
    struct delta *d = change ? delta_new_dense(m, t, change, &e) : NULL;
    struct view *v = d ? view_with_delta(base, d, &e) : NULL;
    if (!v) die(&e);
    delta_free(d);
    mem_drop(change);
    return v;
}

int main(int argc, char **argv)
{
    struct err e = {0};
    if (argc < 2) return fprintf(stderr, "usage: bench_tuco MODEL [repeats]\n"), 2;
    int repeats = argc > 2 ? atoi(argv[2]) : 7;
    if (repeats < 1 || repeats > MOST_REPEATS) repeats = 7;
    struct model *m = model_open(argv[1], "one", NULL, NULL, &e), *other = m ? model_open(argv[1], "other", NULL, NULL, &e) : NULL;
    struct session *s = other ? session_new(2, &e) : NULL;
    if (!s) die(&e);
    struct view *base = view_base(m), *edited = moved(m, base), *twin = view_base(other);
    for (uint32_t n = 64; n <= 256; n *= 4)
        for (int all = 0; all < 2; all++) {
            compare("one layer differs", edited, base, s, n, all, repeats, 1.2);
            compare("two models", base, twin, s, n, all, repeats, 2.2);
        }
    view_drop(base), view_drop(edited), view_drop(twin);
    session_free(s);
    model_drop(m), model_drop(other);
    return 0;
}
