/* Patch grids of one pair of prompts, given as token ids: seconds of our sweep, beside what this machine allows.
 *
 *     build/bench_grid MODEL CLEAN CORRUPT ANSWER FOIL SITE:AXES... [--threads n] [--repeats n] [--layers l,...] [--json]
 *
 * CLEAN and CORRUPT are ids with commas between; SITE a layer's hook, such as hook_resid_pre or attn.hook_z; AXES pos or head, by
 * layer. --layers: cells of these layers alone. The metric is logit_diff at the last position, denoising. The bound
 * is the sweep's arithmetic over the SGEMM rate measured in the same run. --json: a line a grid, with its values,
 * for bench/rival_grids.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/rate.h"
#include "core/session.h"
#include "core/site.h"
#include "probes/patch.h"

enum { MOST_IDS = 1024, RATE_ROWS = 768 };

struct asked {
    uint32_t clean[MOST_IDS], corrupt[MOST_IDS], layers[MOST_IDS], answer, foil;
    size_t n, n_layers;
    int threads, repeats;
    bool json;
    const char *grids[64];
    size_t n_grids;
};

static _Noreturn void usage(void)
{
    (void)fprintf(stderr, "usage: bench_grid MODEL CLEAN CORRUPT ANSWER FOIL SITE:AXES... [--threads n] [--repeats n] "
                          "[--layers l,...] [--json]\n");
    exit(2);
}

static size_t numbers(const char *text, uint32_t *out)
{
    size_t n = 0;
    char *end;
    do {
        out[n++] = (uint32_t)strtoul(text, &end, 10);
        if (end == text) usage();
        text = end + 1;
    } while (*end == ',' && n < MOST_IDS);
    if (*end) usage();
    return n;
}

static struct asked read_arguments(int argc, char **argv)
{
    struct asked a = {.threads = 2, .repeats = 5};
    if (argc < 7) usage();
    a.n = numbers(argv[2], a.clean);
    if (numbers(argv[3], a.corrupt) != a.n) usage();
    a.answer = (uint32_t)strtoul(argv[4], NULL, 10);
    a.foil = (uint32_t)strtoul(argv[5], NULL, 10);
    for (int i = 6; i < argc; i++) {
        const char *next = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--json")) a.json = true;
        else if (!strcmp(argv[i], "--threads")) a.threads = atoi(next), i++;
        else if (!strcmp(argv[i], "--repeats")) a.repeats = atoi(next), i++;
        else if (!strcmp(argv[i], "--layers")) a.n_layers = numbers(next, a.layers), i++;
        else if (a.n_grids < 64) a.grids[a.n_grids++] = argv[i];
    }
    if (a.threads < 1 || a.repeats < 1 || a.repeats > MOST_REPEATS) usage();
    return a;
}

/* The cells of some layers, in order. */
static size_t *cells_of(const struct asked *a, const struct patch_request *q, size_t *n, struct err *e)
{
    uint32_t heads, pos;
    patch_columns(q, &heads, &pos);
    size_t each = (size_t)heads * pos, *out = mem_take(a->n_layers * each, sizeof *out, e);
    if (!out) die(e);
    *n = 0;
    for (size_t i = 0; i < a->n_layers; i++)
        for (size_t c = 0; c < each; c++) out[(*n)++] = a->layers[i] * each + c;
    return out;
}

static void print_json(const char *name, const struct patch_grid *g, double seconds, double rate)
{
    size_t columns = (size_t)g->n_heads * g->n_pos;
    printf("{\"grid\":\"%s\",\"seconds\":%.6g,\"flops\":%.6g,\"all_flops\":%.6g,\"rate\":%.6g,\"cells_run\":%zu,\"values\":[", name,
           seconds, g->cost.flops, g->cost.all_flops, rate, g->cost.cells_run);
    for (uint32_t l = 0; l < g->n_layers; l++)
        for (size_t c = 0; c < columns; c++)
            printf("%s%.9g%s", c ? "," : l ? ",[" : "[", g->scores->values[l * columns + c], c + 1 == columns ? "]" : "");
    printf("]}\n");
}

static void bench(struct view *v, struct session *s, const struct asked *a, const char *name, double rate)
{
    struct err e = {0};
    char site[64];
    const char *colon = strchr(name, ':');
    if (!colon || (size_t)(colon - name) >= sizeof site) usage();
    memcpy(site, name, (size_t)(colon - name));
    site[colon - name] = 0;
    const struct metric metric = {METRIC_LOGIT_DIFF, &a->answer, &a->foil, 1, 1, (uint32_t)a->n - 1, NULL};
    const struct patch_pair pair = {a->clean, a->corrupt, (uint32_t)a->n, &metric};
    struct patch_request q = {.view = v, .pair = &pair, .n_pairs = 1, .n_metrics = 1, .denoise = true,
                              .axis = strcmp(colon + 1, "head") ? PATCH_LAYER_POS : PATCH_LAYER_HEAD};
    if (!hook_parse(site, &q.site, &e)) die(&e);
    size_t *only = a->n_layers ? cells_of(a, &q, &q.n_only, &e) : NULL;
    double t[MOST_REPEATS];
    struct patch *p = NULL;
    for (int r = 0; r < a->repeats; r++) {
        patch_free(p);
        q.only = only;
        double start = now();
        if (!(p = patch_new(&q, &e)) || !STEP_ALL(patch_step(p, s, &e))) die(&e);
        t[r] = now() - start;
    }
    const struct patch_grid *g = patch_result(p);
    double seconds = median(t, a->repeats), bound = g->cost.flops / rate;
    if (a->json) print_json(name, g, seconds, rate);
    else
        printf("%s by layer, %zu of %zu cells: sweep %.3f s, bound %.3f s (%.1f GFLOP at %.0f GFLOP/s): %.2f x bound\n", name,
               g->cost.cells_run, g->cost.cells, seconds, bound, g->cost.flops / 1e9, rate / 1e9, seconds / bound);
    patch_free(p);
    mem_drop(only);
}

int main(int argc, char **argv)
{
    struct err e = {0};
    const struct asked a = read_arguments(argc, argv);
    struct model *m = NULL;
    if (!blas_start(a.threads, &e) || !(m = model_open(argv[1], NULL, NULL, NULL, &e))) die(&e);
    for (size_t i = 0; i < a.n_layers; i++)
        if (a.layers[i] >= m->arch.n_layers || (i && a.layers[i] <= a.layers[i - 1])) usage();
    for (size_t i = 0; i < a.n; i++)
        if (a.clean[i] >= m->arch.d_vocab || a.corrupt[i] >= m->arch.d_vocab) usage();
    if (a.answer >= m->arch.d_vocab || a.foil >= m->arch.d_vocab) usage();
    struct view *v = view_base(m);
    struct session *s = session_new(a.threads, &e);
    if (!s) die(&e);
    double rate = gemm_rate(&m->arch, RATE_ROWS, a.repeats);
    for (size_t i = 0; i < a.n_grids; i++) bench(v, s, &a, a.grids[i], rate);
    session_free(s);
    view_drop(v);
    model_drop(m);
    return 0;
}
