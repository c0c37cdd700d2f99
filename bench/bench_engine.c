/* How fast the engine is, beside what this machine allows: every figure is printed with its bound,
 * measured in the same run.
 *
 *     build/bench_engine MODEL [repeats [--no-grid]]
 *
 * Bounds: arithmetic over the SGEMM rate measured on the model's own shapes at the same row counts;
 * bytes of weights over the measured read bandwidth. Medians; the machine may be noisy, ratios are
 * what counts.
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/rate.h"
#include "core/decode.h"
#include "core/head.h"
#include "core/kernel/par.h"
#include "probes/patch.h"

struct bench {
    struct model *m;
    struct view *v;
    struct session *s;
    int repeats, threads;
    struct err e;
    uint32_t ids[1024], other[1024];
};

/* ---- bounds ------------------------------------------------------------------------------------ */

struct read_job {
    const float *p;
    float sum[64];
};

static void read_range(void *ctx, size_t from, size_t to, int thread)
{
    struct read_job *j = ctx;
    typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));
    v16 a = {0}, b = {0}, c = {0}, d = {0};
    for (size_t i = from; i + 64 <= to; i += 64) {
        a += *(const v16 *)(j->p + i);
        b += *(const v16 *)(j->p + i + 16);
        c += *(const v16 *)(j->p + i + 32);
        d += *(const v16 *)(j->p + i + 48);
    }
    a += b + c + d;
    j->sum[thread] = a[0];
}

/* Bytes per second of reading the embedding and every layer once, all threads. */
static double read_rate(struct bench *b)
{
    double t[MOST_REPEATS], bytes = 0;
    struct par *par = par_new(b->threads, &b->e);
    if (!par) die(&b->e);
    for (int r = 0; r < b->repeats; r++) {
        double start = now();
        bytes = 0;
        for (size_t i = 0; i < b->m->n_tensors; i++) {
            const struct matrix *w = &b->m->tensors[i].memory;
            struct read_job j = {.p = w->data};
            size_t n = w->rows * w->row_bytes / sizeof(float);
            if (n < 4096) continue;
            par_for(par, n, read_range, &j);
            bytes += 4.0 * (double)n;
        }
        t[r] = now() - start;
    }
    par_free(par);
    return bytes / median(t, b->repeats);
}

/* ---- figures ----------------------------------------------------------------------------------- */

static double time_decode(struct bench *b, uint32_t tokens)
{
    double t[MOST_REPEATS];
    for (int r = 0; r < b->repeats; r++) {
        struct decode_request q = {.prompt = b->ids, .n_prompt = 8, .max_tokens = tokens};
        struct decoder *d = decoder_new(b->v, &q, 1, NULL, &b->e);
        if (!d) die(&b->e);
        while (decoder_tokens(d) < 1)
            if (decoder_step(d, b->s, &b->e) == STEP_FAIL) die(&b->e);
        double start = now();
        size_t first = decoder_tokens(d);
        if (!STEP_ALL(decoder_step(d, b->s, &b->e))) die(&b->e);
        t[r] = (now() - start) / (double)(decoder_tokens(d) - first);
        decoder_free(d);
    }
    return median(t, b->repeats);
}

static double time_prefill(struct bench *b, uint32_t n)
{
    double t[MOST_REPEATS];
    for (int r = 0; r < b->repeats; r++) {
        struct run_input in = {.ids = b->ids, .n = n};
        double start = now();
        struct run *run = run_new(b->v, &in, 1, NULL, &b->e);
        if (!run || !STEP_ALL(run_step(run, b->s, &b->e))) die(&b->e);
        t[r] = now() - start;
        run_free(run);
    }
    return median(t, b->repeats);
}

static struct patch_pair grid_pair(struct bench *b, uint32_t P, uint32_t first, const struct metric *metric)
{
    memcpy(b->other, b->ids, sizeof b->other);
    for (uint32_t i = first; i < P; i++) b->other[i] = b->ids[i] + 1;
    return (struct patch_pair){b->ids, b->other, P, metric};
}

static double time_grid(struct bench *b, const struct patch_request *q, struct patch_grid *out)
{
    double t[MOST_REPEATS];
    int n = b->repeats > 3 ? 3 : b->repeats;
    for (int r = 0; r < n; r++) {
        double start = now();
        struct patch *p = patch_new(q, &b->e);
        if (!p || !STEP_ALL(patch_step(p, b->s, &b->e))) die(&b->e);
        t[r] = now() - start;
        *out = *patch_result(p);
        patch_free(p);
    }
    return median(t, n);
}

/* One full run per cell with a write at the site: what a tool that shares nothing does. A sample
 * of cells, scaled up, since each costs the same. */
static double time_naive(struct bench *b, const struct patch_request *q, int cells)
{
    const struct arch *a = &b->m->arch;
    float *src = mem_floats(a->d_model, &b->e), *logits = mem_floats(a->d_vocab, &b->e);
    if (!src || !logits) die(&b->e);
    memset(src, 0, a->d_model * sizeof *src);
    double start = now();
    for (int c = 0; c < cells; c++) {
        uint32_t pos = (uint32_t)c % q->pair->n, want = q->pair->n - 1;
        struct tap tap = {.site = {HOOK_RESID_PRE, (uint32_t)c % a->n_layers}, .op = TAP_SET, .pos = &pos, .n_pos = 1,
                          .weight = 1, .src = src, .n_src_pos = 1};
        struct taps taps = {&tap, 1};
        struct run_input in = {.ids = b->other, .n = q->pair->n, .want = &want, .n_want = 1};
        struct run *run = run_new(b->v, &in, 1, &taps, &b->e);
        if (!run || !STEP_ALL(run_step(run, b->s, &b->e)) || !unembed(b->s, b->v, run_final(run, 0), 1, NULL, logits, &b->e))
            die(&b->e);
        run_free(run);
    }
    double each = (now() - start) / cells;
    mem_drop(src);
    mem_drop(logits);
    return each * a->n_layers * q->pair->n;
}

static void report_grid(struct bench *b, uint32_t first)
{
    enum { P = 20, SAMPLE = 40 };
    const uint32_t answer[2] = {500, 600};
    struct patch_grid g = {0};
    const struct metric metric = {METRIC_LOGIT_DIFF, answer, answer + 1, 1, 1, P - 1, NULL};
    const struct patch_pair pair = grid_pair(b, P, first, &metric);
    const struct patch_request q = {.view = b->v, .pair = &pair, .n_pairs = 1, .n_metrics = 1, .denoise = true,
                                    .site = HOOK_RESID_PRE, .axis = PATCH_LAYER_POS};
    double sweep = time_grid(b, &q, &g), naive = time_naive(b, &q, SAMPLE);
    double rate = gemm_rate(&b->m->arch, 768, b->repeats), bound = g.cost.flops / rate;
    size_t d = b->m->arch.d_model, m = b->m->arch.d_mlp, z = (size_t)b->m->arch.n_heads * b->m->arch.d_head,
           kv = (size_t)b->m->arch.n_kv_heads * b->m->arch.d_head;
    double naive_flops = (double)g.cost.cells * P * b->m->arch.n_layers * 2.0 * (double)(d * (z + 2 * kv) + d * z + 3 * d * m);
    printf("grid %u x %d, first difference at %u: sweep %.2f s, bound %.2f s (%.0f GFLOP at %.0f GFLOP/s): %.2f x bound\n",
           b->m->arch.n_layers, P, first, sweep, bound, g.cost.flops / 1e9, rate / 1e9, sweep / bound);
    printf("  one full run per cell: %.1f s (%d cells timed): sweep is %.1f x faster; FLOP ratio %.1f\n", naive, SAMPLE,
           naive / sweep, naive_flops / g.cost.flops);
}

int main(int argc, char **argv)
{
    struct bench b = {.repeats = 7, .threads = 2};
    if (argc < 2) {
        (void)fprintf(stderr, "usage: bench_engine MODEL [repeats]\n");
        return 2;
    }
    if (argc > 2) b.repeats = atoi(argv[2]) < 1 ? 1 : atoi(argv[2]) > MOST_REPEATS ? MOST_REPEATS : atoi(argv[2]);
    double start = now();
    if (!blas_start(b.threads, &b.e) || !(b.m = model_open(argv[1], NULL, NULL, NULL, &b.e))) die(&b.e);
    b.v = view_base(b.m);
    if (!(b.s = session_new(b.threads, &b.e))) die(&b.e);
    printf("%s, %d threads, %s: loaded in %.2f s\n", blas_kernel(), b.threads, b.m->name, now() - start);
    for (uint32_t i = 0; i < 1024; i++) b.ids[i] = (i * 7919 + 13) % (b.m->arch.d_vocab - 2);

    double bytes = read_rate(&b), token = time_decode(&b, 48), bound = (double)b.m->token_bytes / bytes;
    printf("decode, one stream: %.1f tokens/s, bound %.1f (%.0f MB at %.1f GB/s): %.0f %% of it\n", 1 / token, 1 / bound,
           (double)b.m->token_bytes / 1e6, bytes / 1e9, 100 * bound / token);

    double rate = gemm_rate(&b.m->arch, 512, b.repeats), prefill = time_prefill(&b, 512);
    const struct arch *a = &b.m->arch;
    double per_row = 2.0 * ((double)b.m->n_parameters - (double)a->d_vocab * a->d_model * (a->tied_head ? 1 : 2));
    double flops = 512 * per_row + 4.0 * a->n_layers * a->n_heads * a->d_head * 512.0 * 513 / 2;
    printf("prefill of 512: %.3f s = %.1f GFLOP/s, SGEMM rate %.1f: %.0f %% of it\n", prefill, flops / prefill / 1e9,
           rate / 1e9, 100 * flops / prefill / rate);
    if (argc < 4 || strcmp(argv[3], "--no-grid") != 0) {
        report_grid(&b, 0);
        report_grid(&b, 13);
    }
    session_free(b.s);
    view_drop(b.v);
    model_drop(b.m);
    return 0;
}
