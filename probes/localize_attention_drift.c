/* Localizer `attention_drift`: how far a head looks elsewhere in the corrupt run than in the clean one
 * (arXiv 2509.23188, where attention moves between conflicting instructions; here the total variation).
 *
 *     drift[l,h] = mean over destinations i of ½ Σ_j |A_clean[i,j] − A_corrupt[i,j]|     in [0, 1], 0 for equal ones
 *
 * A of both runs by taps at attn.hook_pattern (probes/heads.h), pair by pair: the patterns of both runs and all layers
 * are held, 2·L·H·n² floats. Of a layer the mean over its heads. Both prompts have n tokens: rows are of the same sources.
 */
#include <math.h>

#include "heads.h"
#include "localizer.h"

enum run_of { CLEAN, CORRUPT, RUNS };

struct drifts {
    struct localizer_ask q;
    uint32_t *layer, *head;  /* all of them */
    struct heads_input in[RUNS];
    struct heads *heads;     /* of the pair in hand */
    size_t pair;             /* in hand */
    size_t done, total;      /* rows times layers */
    double *value;           /* [n_pairs][n_layers][n_heads] */
};

static const struct arch *arch_of(const struct localizer_ask *q) { return &view_model(q->patch.view)->arch; }
static size_t places(const struct localizer_ask *q) { return (size_t)arch_of(q)->n_layers * arch_of(q)->n_heads; }

static struct heads_request request_of(const struct localizer_ask *q, const struct heads_input in[RUNS],
                                       const uint32_t *layer, const uint32_t *head)
{
    return (struct heads_request){.view = q->patch.view, .in = in, .n_in = RUNS, .keep = true,
                                  .layer = layer, .n_layers = arch_of(q)->n_layers,
                                  .head = head, .n_heads = arch_of(q)->n_heads};
}

/* Pairs are seen one after the other: the longest is what counts. */
static void plan(const struct localizer_ask *q, int threads, struct plan *p)
{
    uint32_t n = 0;
    for (size_t i = 0; i < q->patch.n_pairs; i++)
        if (q->patch.pair[i].n > n) n = q->patch.pair[i].n;
    const struct heads_input in[RUNS] = {{NULL, n}, {NULL, n}};
    const struct heads_request r = request_of(q, in, NULL, NULL);
    heads_plan(&r, threads, p);
    plan_add(p, NEED_CAPTURES, plan_times(plan_times(q->patch.n_pairs, places(q)), sizeof(double)));
    plan_add(p, NEED_CAPTURES, ((size_t)arch_of(q)->n_layers + arch_of(q)->n_heads) * sizeof(uint32_t));
}

static void close(void *state)
{
    struct drifts *x = state;
    if (!x) return;
    heads_free(x->heads);
    mem_drop(x->layer);
    mem_drop(x->head);
    mem_drop(x->value);
    mem_drop(x);
}

static uint32_t *numbers(uint32_t n, struct err *e)
{
    uint32_t *list = mem_take(n, sizeof *list, e);
    for (uint32_t i = 0; list && i < n; i++) list[i] = i;
    return list;
}

static void *open(const struct localizer_ask *q, struct err *e)
{
    struct drifts *x = mem_new(sizeof *x);
    x->q = *q;
    for (size_t i = 0; i < q->patch.n_pairs; i++) x->total += RUNS * (size_t)q->patch.pair[i].n * arch_of(q)->n_layers;
    x->layer = numbers(arch_of(q)->n_layers, e);
    x->head = x->layer ? numbers(arch_of(q)->n_heads, e) : NULL;
    x->value = x->head ? mem_take(q->patch.n_pairs, places(q) * sizeof *x->value, e) : NULL;
    if (x->value) return x;
    close(x);
    return NULL;
}

/* ---- a pair ------------------------------------------------------------------------------------------- */

static bool begin(struct drifts *x, struct err *e)
{
    const struct patch_pair *pair = &x->q.patch.pair[x->pair];
    x->in[CLEAN] = (struct heads_input){pair->clean, pair->n};
    x->in[CORRUPT] = (struct heads_input){pair->corrupt, pair->n};
    const struct heads_request r = request_of(&x->q, x->in, x->layer, x->head);
    return (x->heads = heads_new(&r, e)) != NULL;
}

/* Patterns [n][n], zero right of the diagonal. */
static double drift(const float *clean, const float *corrupt, uint32_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) sum += fabs((double)clean[i * n + j] - (double)corrupt[i * n + j]);
    return sum / 2 / n;
}

static void compare(void *ctx, size_t from, size_t to, int thread)
{
    const struct drifts *x = ctx;
    const uint32_t n = x->in[CLEAN].n, H = arch_of(&x->q)->n_heads;
    (void)thread;
    for (size_t u = from; u < to; u++) {
        const size_t at = u % H * n * n;
        x->value[x->pair * places(&x->q) + u] =
            drift(heads_pattern(x->heads, CLEAN, u / H) + at, heads_pattern(x->heads, CORRUPT, u / H) + at, n);
    }
}

static enum step step(void *state, struct session *s, struct err *e)
{
    struct drifts *x = state;
    if (!x->heads && !begin(x, e)) return STEP_FAIL;
    enum step step = heads_step(x->heads, s, e);
    if (step != STEP_DONE) return step;
    par_for(s->par, places(&x->q), compare, x);
    heads_free(x->heads);
    x->heads = NULL;
    x->done += RUNS * (size_t)x->in[CLEAN].n * arch_of(&x->q)->n_layers;
    return ++x->pair < x->q.patch.n_pairs ? STEP_MORE : STEP_DONE;
}

static void progress(const void *state, size_t *done, size_t *total)
{
    const struct drifts *x = state;
    size_t now = 0, all;
    if (x->heads) heads_progress(x->heads, &now, &all);
    *done = x->done + now;
    *total = x->total;
}

static double value(const void *state, size_t row, size_t unit)
{
    const struct drifts *x = state;
    const uint32_t H = arch_of(&x->q)->n_heads, each = H / localizer_heads(&x->q);
    const double *of = x->value + row * places(&x->q) + unit * each;
    double sum = 0;
    for (uint32_t h = 0; h < each; h++) sum += of[h];
    return sum / each;
}

const struct localizer localizer_attention_drift = {.plan = plan, .open = open, .step = step, .progress = progress,
                                                    .close = close, .value = value};
