#include "heads.h"

#include <math.h>
#include <string.h>

#include "core/kernel/blas.h"

static const char *const words[] = {
#define DETECTOR(name, word) word,
#include "heads.def"
#undef DETECTOR
};
const char *detector_word(enum detector d) { return words[d]; }

struct heads {
    struct heads_request q;
    float **pattern;     /* [n_in], of those in hand or kept: [n_layers][n_heads][n][n] */
    float *v;            /* [n_layers][n][G·e] of the input in hand; NULL unless weighted */
    float *work;         /* [n][d] and [d][e] */
    double *score;       /* [n_in][DETECTORS][n_layers][n_heads] */
    struct taps taps;    /* [n_layers] patterns, then as many values */
    struct run *run;     /* of the input in hand */
    bool ran;
    size_t input, layer; /* next */
    size_t done;         /* of finished runs */
};

static const struct arch *arch_of(const struct heads_request *q) { return &view_model(q->view)->arch; }
static size_t square(const struct heads_request *q, size_t i) { return (size_t)q->in[i].n * q->in[i].n; }
static size_t pattern_floats(const struct heads_request *q, size_t i)
{
    return plan_times(plan_times(q->n_layers, q->n_heads), square(q, i));
}
static size_t kv_width(const struct arch *a) { return (size_t)a->n_kv_heads * a->d_head; }

static size_t longest(const struct heads_request *q)
{
    size_t most = 0;
    for (size_t i = 0; i < q->n_in; i++)
        if (q->in[i].n > most) most = q->in[i].n;
    return most;
}

static size_t work_floats(const struct heads_request *q)
{
    return (longest(q) + arch_of(q)->d_head) * arch_of(q)->d_model;
}

void heads_plan(const struct heads_request *q, int threads, struct plan *p)
{
    const struct arch *a = arch_of(q);
    struct run_size run = {0};
    size_t patterns = 0, most = longest(q);
    for (size_t i = 0; i < q->n_in; i++) {
        size_t one = mem_floats_bytes(pattern_floats(q, i));
        patterns = q->keep ? plan_sum(patterns, one) : one > patterns ? one : patterns;
    }
    run_size_add(&run, 0, most, 0, false);
    run_plan(&run, a, threads, p);
    plan_add(p, NEED_CAPTURES, patterns);
    plan_add(p, NEED_CAPTURES, plan_times(q->n_in * DETECTORS * q->n_layers, q->n_heads * sizeof(double)));
    if (!q->value_weighted) return;
    plan_add(p, NEED_CAPTURES, mem_floats_bytes(plan_times(q->n_layers * most, kv_width(a))));
    plan_add(p, NEED_SCRATCH, mem_floats_bytes(work_floats(q)));
}

struct heads *heads_new(const struct heads_request *q, struct err *e)
{
    struct heads *h = mem_new(sizeof *h);
    h->q = *q;
    h->taps.n = q->n_layers * (q->value_weighted ? 2 : 1);
    h->pattern = mem_take(q->n_in, sizeof *h->pattern, e);
    h->score = h->pattern ? mem_take(q->n_in * DETECTORS * q->n_layers, q->n_heads * sizeof *h->score, e) : NULL;
    h->taps.tap = h->score ? mem_take(h->taps.n, sizeof *h->taps.tap, e) : NULL;
    bool ok = h->taps.tap != NULL;
    if (ok && q->value_weighted) {
        h->v = mem_floats(q->n_layers * longest(q) * kv_width(arch_of(q)), e);
        h->work = h->v ? mem_floats(work_floats(q), e) : NULL;
        ok = h->work != NULL;
    }
    if (ok) return h;
    heads_free(h);
    return NULL;
}

void heads_free(struct heads *h)
{
    if (!h) return;
    run_free(h->run);
    for (size_t i = 0; h->pattern && i < h->q.n_in; i++) mem_drop(h->pattern[i]);
    mem_drop(h->pattern);
    mem_drop(h->score);
    mem_drop(h->taps.tap);
    mem_drop(h->v);
    mem_drop(h->work);
    mem_drop(h);
}

static float *pattern_at(const struct heads *h, size_t input, size_t layer, size_t head)
{
    return h->pattern[input] + (layer * h->q.n_heads + head) * square(&h->q, input);
}

static bool begin_input(struct heads *h, struct err *e)
{
    const struct heads_request *q = &h->q;
    const struct heads_input *in = &q->in[h->input];
    const struct run_input run = {.ids = in->ids, .n = in->n};
    if (!(h->pattern[h->input] = mem_floats(pattern_floats(q, h->input), e))) return false;
    for (size_t l = 0; l < q->n_layers; l++) {
        h->taps.tap[l] = (struct tap){.site = {HOOK_PATTERN, q->layer[l]}, .op = TAP_READ, .every_pos = true, .head = q->head,
                                      .n_head = q->n_heads, .n_source = in->n, .dst = pattern_at(h, h->input, l, 0)};
        if (q->value_weighted)
            h->taps.tap[q->n_layers + l] = (struct tap){.site = {HOOK_V, q->layer[l]}, .op = TAP_READ, .every_pos = true,
                                                        .dst = h->v + l * in->n * kv_width(arch_of(q))};
    }
    h->ran = false;
    h->layer = 0;
    h->run = run_new(q->view, &run, 1, &h->taps, e);
    return h->run != NULL;
}

/* ---- scores ------------------------------------------------------------------------------------------ */

struct mean {
    double sum;
    size_t n;
};
static void count(struct mean *m, double x) { m->sum += x, m->n++; }

/* What of one destination's row counts for each detector. */
static void score_row(const uint32_t *ids, const float *row, uint32_t i, struct mean out[DETECTORS])
{
    double twice = 0, behind = 0, entropy = 0;
    bool any_twice = false, any_behind = false;
    for (uint32_t j = 0; j <= i; j++) {
        double a = (double)row[j];
        if (a > 0) entropy -= a * log(a);
        if (j < i && ids[j] == ids[i]) any_twice = true, twice += a;
        if (j > 0 && ids[j - 1] == ids[i]) any_behind = true, behind += a;
    }
    if (any_twice) count(&out[DETECT_DUPLICATE], twice);
    if (any_behind) count(&out[DETECT_INDUCTION], behind);
    if (i == 0) return;
    count(&out[DETECT_PREVIOUS], (double)row[i - 1]);
    count(&out[DETECT_FIRST], (double)row[0]);
    count(&out[DETECT_ENTROPY], entropy);
}

static void score_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct heads *h = ctx;
    const struct heads_request *q = &h->q;
    const uint32_t n = q->in[h->input].n;
    (void)thread;
    for (size_t k = from; k < to; k++) {
        struct mean m[DETECTORS] = {{0}};
        const float *a = pattern_at(h, h->input, h->layer, k);
        for (uint32_t i = 0; i < n; i++) score_row(q->in[h->input].ids, a + (size_t)i * n, i, m);
        for (int d = 0; d < DETECTORS; d++)
            h->score[((h->input * DETECTORS + (size_t)d) * q->n_layers + h->layer) * q->n_heads + k] =
                m[d].n ? m[d].sum / (double)m[d].n : (double)NAN;
    }
}

/* The layer's patterns times the length of what each source's value becomes behind W_O. */
static void weigh(struct heads *h)
{
    const struct heads_request *q = &h->q;
    const struct arch *a = arch_of(q);
    const struct layer_weights w = view_layer(q->view, q->layer[h->layer]);
    const uint32_t n = q->in[h->input].n, e = a->d_head;
    const size_t wide = kv_width(a), d = a->d_model;
    float *out = h->work, *o = h->work + n * d;
    for (size_t k = 0; k < q->n_heads; k++) {
        const float *v = h->v + h->layer * n * wide + q->head[k] / (a->n_heads / a->n_kv_heads) * e;
        float *pattern = pattern_at(h, h->input, h->layer, k);
        linear_inputs(&w.o, q->head[k] * e, e, o);
        gemm_nt(n, d, e, v, wide, o, e, out, d, 1.0f, false);
        for (uint32_t j = 0; j < n; j++) {
            double square_sum = 0;
            for (size_t i = 0; i < d; i++) square_sum += (double)out[j * d + i] * (double)out[j * d + i];
            for (uint32_t i = j; i < n; i++) pattern[(size_t)i * n + j] *= (float)sqrt(square_sum);
        }
    }
}

/* ---- stepping ---------------------------------------------------------------------------------------- */

static void end_input(struct heads *h)
{
    size_t done, total;
    run_progress(h->run, &done, &total);
    h->done += done;
    run_free(h->run);
    h->run = NULL;
    if (!h->q.keep) {
        mem_drop(h->pattern[h->input]);
        h->pattern[h->input] = NULL;
    }
    h->input++;
}

enum step heads_step(struct heads *h, struct session *s, struct err *e)
{
    if (!h->run && !begin_input(h, e)) return STEP_FAIL;
    if (!h->ran) {
        enum step step = run_step(h->run, s, e);
        h->ran = step == STEP_DONE;
        return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
    }
    par_for(s->par, h->q.n_heads, score_range, h);
    if (h->q.value_weighted) weigh(h);
    if (++h->layer < h->q.n_layers) return STEP_MORE;
    end_input(h);
    return h->input < h->q.n_in ? STEP_MORE : STEP_DONE;
}

void heads_progress(const struct heads *h, size_t *done, size_t *total)
{
    size_t now = 0, all;
    if (h->run) run_progress(h->run, &now, &all);
    *done = h->done + now;
    *total = 0;
    for (size_t i = 0; i < h->q.n_in; i++) *total += (size_t)h->q.in[i].n * arch_of(&h->q)->n_layers;
}

const double *heads_scores(const struct heads *h, size_t input, enum detector d)
{
    return h->score + (input * DETECTORS + d) * h->q.n_layers * h->q.n_heads;
}

const float *heads_pattern(const struct heads *h, size_t input, size_t layer) { return pattern_at(h, input, layer, 0); }
