#include "edge.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/head.h"
#include "core/kernel/blas.h"
#include "core/kernel/norm.h"
#include "core/train.h"
#include "panel.h"
#include "slope.h"

enum { TAPE_ROWS = 256 };
enum stage { STAGE_RUNS, STAGE_BEGIN, STAGE_FORWARD, STAGE_HEAD, STAGE_EDGES, STAGE_BACK };

struct edges {
    struct edge_request q;
    size_t W, R, per_layer;  /* writers, readers; readers of a layer */
    float *score;            /* [n_pairs][W][R] */
    float *mean;             /* [W][R] */
    double *read;            /* [n_pairs][2] metrics of the clean and the corrupt run */
    uint32_t *first_difference;
    double *a, *weight;      /* [steps] */
    uint32_t together, longest;
    uint32_t *head;          /* [H] 0, 1, … */
    /* the pair in hand */
    size_t pair;
    enum stage stage;
    uint32_t n, first, m;    /* positions; the first that differs; those from it on */
    uint32_t next, points;   /* of the path: the first of the tape in hand, and how many it has */
    uint32_t at, below;      /* the readers' layer, L the final one; the writers' */
    uint32_t *pos;           /* [longest] */
    struct run *run;
    float *z, *out, *scale;  /* [2][L][m] × He, d, 1: source and base; then the changes in the source's place */
    float *from, *to;        /* [n][d] the streams entering layer 0 */
    float *final;            /* [2][d] */
    float *grad;             /* [points][readers of a layer][m][d]; their mean in the first */
    float *stack, *w, *sum;  /* [H][m][d] what heads add; [d][e]; [H + 2][readers of a layer] */
    float *slope;            /* [V] */
    double *reference;       /* [V] */
    struct tap *tap;
    struct taps taps;
    struct tape_seq *seq;
    struct tape *tape;
    size_t done;
};

static const struct arch *arch_of(const struct edges *g) { return &view_model(g->q.view)->arch; }
static const struct patch_pair *pair_of(const struct edges *g) { return &g->q.pair[g->pair]; }

/* ---- the graph ----------------------------------------------------------------------------------------- */

static size_t layer_readers(const struct arch *a) { return (size_t)a->n_heads + 2 * a->n_kv_heads + 1; }
size_t edge_writers(const struct arch *a) { return 1 + (size_t)a->n_layers * (a->n_heads + 1); }
size_t edge_readers(const struct arch *a) { return 1 + a->n_layers * layer_readers(a); }

struct edge_node edge_writer(const struct arch *a, size_t u)
{
    if (u == 0) return (struct edge_node){EDGE_EMBED, 0, 0};
    const uint32_t each = a->n_heads + 1, layer = (uint32_t)((u - 1) / each), k = (uint32_t)((u - 1) % each);
    return k < a->n_heads ? (struct edge_node){EDGE_HEAD, layer, k} : (struct edge_node){EDGE_MLP, layer, 0};
}

struct edge_node edge_reader(const struct arch *a, size_t v)
{
    const uint32_t each = (uint32_t)layer_readers(a), layer = (uint32_t)(v / each), H = a->n_heads, G = a->n_kv_heads;
    uint32_t k = (uint32_t)(v % each);
    if (layer == a->n_layers) return (struct edge_node){EDGE_FINAL, layer, 0};
    if (k < H) return (struct edge_node){EDGE_Q, layer, k};
    if (k < H + G) return (struct edge_node){EDGE_K, layer, k - H};
    if (k < H + 2 * G) return (struct edge_node){EDGE_V, layer, k - H - G};
    return (struct edge_node){EDGE_MLP, layer, 0};
}

bool edge_is(const struct arch *a, size_t u, size_t v)
{
    const struct edge_node from = edge_writer(a, u), to = edge_reader(a, v);
    if (from.part == EDGE_EMBED || from.layer < to.layer) return true;
    return from.layer == to.layer && from.part == EDGE_HEAD && to.part == EDGE_MLP && !a->parallel;
}

const char *edge_text(struct edge_node n, char out[EDGE_TEXT])
{
    static const char *const end[] = {[EDGE_EMBED] = "", [EDGE_HEAD] = "", [EDGE_Q] = ".q", [EDGE_K] = ".k", [EDGE_V] = ".v",
                                      [EDGE_MLP] = "", [EDGE_FINAL] = ""};
    if (n.part == EDGE_EMBED || n.part == EDGE_FINAL) (void)snprintf(out, EDGE_TEXT, "%s", n.part == EDGE_EMBED ? "embed" : "logits");
    else if (n.part == EDGE_MLP) (void)snprintf(out, EDGE_TEXT, "L%u.mlp", n.layer);
    else (void)snprintf(out, EDGE_TEXT, "L%uH%u%s", n.layer, n.head, end[n.part]);
    return out;
}

/* ---- sizes --------------------------------------------------------------------------------------------- */

static uint32_t points_together(const struct edge_request *q, uint32_t n)
{
    const uint32_t most = n < TAPE_ROWS / 2 ? TAPE_ROWS / n : 2;
    return q->steps < most ? q->steps : most;
}

struct sizes { /* floats */
    size_t stream, z, out, scale, grad, stack, w, sum, taps;
};

static struct sizes sizes_of(const struct edge_request *q)
{
    const struct arch *a = &view_model(q->view)->arch;
    const size_t n = patch_longest(q->pair, q->n_pairs), L = a->n_layers, stream = plan_times(n, a->d_model), points = points_together(q, (uint32_t)n);
    const size_t run = 3 * 2 * L, back = points * layer_readers(a);
    return (struct sizes){
        .stream = stream, .z = plan_times(plan_times(2 * L, n), (size_t)a->n_heads * a->d_head), .out = plan_times(2 * L, stream),
        .scale = plan_times(2 * L, n), .grad = plan_times(plan_times(points, layer_readers(a)), stream),
        .stack = plan_times(a->n_heads, stream), .w = (size_t)a->d_model * a->d_head, .sum = (a->n_heads + 2) * layer_readers(a),
        .taps = run > back ? run : back,
    };
}

void edges_plan(const struct edge_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    const struct sizes z = sizes_of(q);
    const uint32_t n = patch_longest(q->pair, q->n_pairs), points = points_together(q, n);
    const size_t matrix = plan_times(edge_writers(a), edge_readers(a)), rows = (size_t)n * points;
    struct run_size size = {0};
    struct plan run = {0}, tape = {0};
    plan_add(p, NEED_CAPTURES, plan_sum(plan_sum(mem_floats_bytes(z.z), mem_floats_bytes(z.out)), mem_floats_bytes(z.scale)));
    plan_add(p, NEED_CAPTURES, plan_sum(mem_floats_bytes(z.grad), mem_floats_bytes(z.stack)));
    plan_add(p, NEED_STREAM, plan_sum(2 * mem_floats_bytes(z.stream), mem_floats_bytes(2 * (size_t)a->d_model)));
    plan_add(p, NEED_SCRATCH, plan_sum(mem_floats_bytes(z.w), mem_floats_bytes(z.sum)));
    plan_add(p, NEED_ANSWER, plan_sum(mem_floats_bytes(plan_times(matrix, q->n_pairs)), mem_floats_bytes(matrix)));
    plan_add(p, NEED_ANSWER, plan_times(q->n_pairs, 2 * sizeof(double) + sizeof(uint32_t)) + q->steps * 2 * sizeof(double));
    plan_add(p, NEED_ANSWER, plan_times(z.taps, sizeof(struct tap)) + points * sizeof(struct tape_seq) + (n + a->n_heads) * sizeof(uint32_t));
    plan_add(p, NEED_LOGITS, mem_floats_bytes(a->d_vocab) + a->d_vocab * sizeof(double));
    for (int i = 0; i < 2; i++) run_size_add(&size, 0, n, 1, false);
    run_plan(&size, a, threads, &run);
    tape_plan(a, rows, n, points, 0, threads, &tape);
    plan_add(&tape, NEED_SCRATCH, mem_floats_bytes(plan_times(2 * rows, a->d_model) + z.w + rows * a->d_head));
    const size_t back = attention_backward_bytes(n), most = run.bytes[NEED_SCRATCH] > tape.bytes[NEED_SCRATCH] - back
                                                                ? run.bytes[NEED_SCRATCH] : tape.bytes[NEED_SCRATCH] - back;
    run.bytes[NEED_SCRATCH] = tape.bytes[NEED_SCRATCH] = plan_sum(most, back); /* the session keeps what either took of it */
    plan_peak(&run, &tape);
    plan_with(p, &run);
    panel_plan(a, q->pair->metric, 1, p);
}

/* Two runs; forward and back of every point, and back once more through each head's readers; the edges. */
double edges_flops(const struct edge_request *q, size_t *rows)
{
    const struct arch *a = &view_model(q->view)->arch;
    const double L = a->n_layers, d = a->d_model, H = a->n_heads, e = a->d_head, readers = (double)layer_readers(a);
    double flops = 0;
    *rows = 0;
    for (size_t i = 0; i < q->n_pairs; i++) {
        const uint32_t n = patch_used(&q->pair[i]), together = points_together(q, patch_longest(q->pair, q->n_pairs));
        const double tapes = (q->steps + together - 1) / together, points = (double)n * q->steps;
        *rows += (2 + 2 * (size_t)q->steps) * n * a->n_layers;
        flops += run_flops(a, 2.0 * n + 2 * points) + 2 * panel_flops(a, q->pair->metric, 1) + 4.0 * q->steps * a->d_vocab * d;
        flops += points * L * (readers - 1) * 2 * d * e;
        flops += tapes * L * (L + 1) / 2 * n * d * 2 * (H * e + (H + 1) * readers);
    }
    return flops;
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

static bool take_results(struct edges *g, struct err *e)
{
    const size_t matrix = plan_times(g->W, g->R);
    g->score = mem_floats(plan_times(matrix, g->q.n_pairs), e);
    g->mean = g->score ? mem_floats(matrix, e) : NULL;
    g->read = g->mean ? mem_take(2 * g->q.n_pairs, sizeof *g->read, e) : NULL;
    g->first_difference = g->read ? mem_take(g->q.n_pairs, sizeof *g->first_difference, e) : NULL;
    g->a = g->first_difference ? mem_take(g->q.steps, sizeof *g->a, e) : NULL;
    g->weight = g->a ? mem_take(g->q.steps, sizeof *g->weight, e) : NULL;
    g->pos = g->weight ? mem_take(g->longest, sizeof *g->pos, e) : NULL;
    g->head = g->pos ? mem_take(arch_of(g)->n_heads, sizeof *g->head, e) : NULL;
    return g->head != NULL;
}

static bool take_work(struct edges *g, struct err *e)
{
    const struct sizes z = sizes_of(&g->q);
    const size_t V = arch_of(g)->d_vocab, d = arch_of(g)->d_model;
    const struct {
        float **to;
        size_t n;
    } of[] = {{&g->z, z.z}, {&g->out, z.out}, {&g->scale, z.scale}, {&g->from, z.stream}, {&g->to, z.stream}, {&g->final, 2 * d},
              {&g->grad, z.grad}, {&g->stack, z.stack}, {&g->w, z.w}, {&g->sum, z.sum}, {&g->slope, V}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (!(*of[i].to = mem_floats(of[i].n, e))) return false;
    g->reference = mem_take(V, sizeof *g->reference, e);
    g->tap = g->reference ? mem_take(z.taps, sizeof *g->tap, e) : NULL;
    g->seq = g->tap ? mem_take(g->together, sizeof *g->seq, e) : NULL;
    return g->seq != NULL;
}

struct edges *edges_new(const struct edge_request *q, struct err *e)
{
    struct edges *g = mem_new(sizeof *g);
    assert(q->n_pairs && q->steps);
    g->q = *q;
    g->q.view = view_retain(q->view);
    g->W = edge_writers(arch_of(g)), g->R = edge_readers(arch_of(g)), g->per_layer = layer_readers(arch_of(g));
    g->longest = patch_longest(q->pair, q->n_pairs);
    g->together = points_together(q, g->longest);
    if (!take_results(g, e) || !take_work(g, e)) {
        edges_free(g);
        return NULL;
    }
    memset(g->score, 0, g->W * g->R * q->n_pairs * sizeof *g->score);
    integral_points(q->steps > 1 ? q->rule : RULE_LEFT, q->steps, g->a, g->weight);
    for (uint32_t h = 0; h < arch_of(g)->n_heads; h++) g->head[h] = h;
    return g;
}

void edges_free(struct edges *g)
{
    if (!g) return;
    run_free(g->run);
    tape_free(g->tape);
    void *const taken[] = {g->score, g->mean, g->read, g->first_difference, g->a, g->weight, g->pos, g->head, g->z, g->out, g->scale,
                           g->from, g->to, g->final, g->grad, g->stack, g->w, g->sum, g->slope, g->reference, g->tap, g->seq};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) mem_drop(taken[i]);
    view_drop(g->q.view);
    mem_drop(g);
}

/* ---- both runs ------------------------------------------------------------------------------------------- */

static void read_at(struct edges *g, struct site site, uint32_t seq, const uint32_t *head, float *dst)
{
    g->tap[g->taps.n++] = (struct tap){.site = site, .op = TAP_READ, .seq = seq, .pos = g->pos, .n_pos = g->m, .head = head,
                                       .n_head = head ? 1 : 0, .dst = dst};
}

static bool begin_runs(struct edges *g, struct session *s, struct err *e)
{
    const struct arch *a = arch_of(g);
    const struct patch_pair *p = pair_of(g);
    const uint32_t *ids[] = {g->q.denoise ? p->clean : p->corrupt, g->q.denoise ? p->corrupt : p->clean};
    struct run_input in[2];
    g->first_difference[g->pair] = patch_pair_difference(p);
    g->n = patch_used(p);
    g->first = g->first_difference[g->pair] < g->n ? g->first_difference[g->pair] : g->n;
    g->m = g->n - g->first;
    for (uint32_t i = 0; i < g->m; i++) g->pos[i] = g->first + i;
    g->taps = (struct taps){g->tap, 0};
    for (uint32_t i = 0; i < 2; i++) {
        in[i] = (struct run_input){.ids = ids[i], .n = g->n, .seq = i, .want = &p->metric->pos, .n_want = 1};
        if (!embed(s, g->q.view, ids[i], g->n, 0, NULL, 0, i ? g->from : g->to, e)) return false;
        for (uint32_t l = 0; g->m && l < a->n_layers; l++) {
            const size_t row = ((size_t)i * a->n_layers + l) * g->m;
            read_at(g, (struct site){HOOK_Z, l}, i, NULL, g->z + row * a->n_heads * a->d_head);
            read_at(g, (struct site){HOOK_MLP_OUT, l}, i, NULL, g->out + row * a->d_model);
            if (a->post_norm) read_at(g, (struct site){HOOK_LN1_POST_SCALE, l}, i, NULL, g->scale + row);
        }
    }
    g->run = run_new(g->q.view, in, 2, &g->taps, e);
    return g->run != NULL;
}

/* The metrics of both runs, by which norm_logit_diff is normalised. */
static bool baselines(struct edges *g, struct session *s, struct err *e)
{
    const struct metric *metric = pair_of(g)->metric;
    const struct panel panel = {.view = g->q.view, .metric = metric, .n_metrics = 1, .reference = g->reference};
    double value[2], *read = g->read + 2 * g->pair;
    if (metric->kind == METRIC_KL && !panel_reference(g->q.view, s, g->final, g->reference, e)) return false;
    if (!panel_read(&panel, s, g->final, 2, value, e)) return false;
    read[0] = value[g->q.denoise ? 0 : 1], read[1] = value[g->q.denoise ? 1 : 0];
    return patch_normalises(metric, read[0], read[1], e);
}

/* source − base, z of a normed branch over its run's scale first. */
static void differences(struct edges *g)
{
    const struct arch *a = arch_of(g);
    const size_t rows = (size_t)a->n_layers * g->m, He = (size_t)a->n_heads * a->d_head, d = a->d_model;
    for (size_t r = 0; a->post_norm && r < 2 * rows; r++)
        for (size_t i = 0; i < He; i++) g->z[r * He + i] /= g->scale[r];
    for (size_t i = 0; i < rows * He; i++) g->z[i] -= g->z[rows * He + i];
    for (size_t i = 0; i < rows * d; i++) g->out[i] -= g->out[rows * d + i];
}

static enum step step_runs(struct edges *g, struct session *s, struct err *e)
{
    const size_t d = arch_of(g)->d_model;
    if (!g->run && !begin_runs(g, s, e)) return STEP_FAIL;
    enum step step = run_step(g->run, s, e);
    if (step != STEP_DONE) return step;
    for (size_t i = 0; i < 2; i++) memcpy(g->final + i * d, run_final(g->run, i), d * sizeof *g->final);
    run_free(g->run);
    g->run = NULL;
    if (!baselines(g, s, e)) return STEP_FAIL;
    differences(g);
    g->next = 0;
    return STEP_DONE;
}

/* ---- points of the path ------------------------------------------------------------------------------------ */

static enum step step_begin(struct edges *g, struct session *s, struct err *e)
{
    const size_t stream = (size_t)g->n * arch_of(g)->d_model;
    (void)s;
    g->points = g->q.steps - g->next < g->together ? g->q.steps - g->next : g->together;
    for (uint32_t i = 0; i < g->points; i++) g->seq[i] = (struct tape_seq){.n = g->n, .scored = &pair_of(g)->metric->pos, .n_scored = 1};
    g->tape = tape_new(arch_of(g), g->seq, g->points, 0, false, e);
    if (!g->tape) return STEP_FAIL;
    for (uint32_t i = 0; i < g->points; i++) {
        float *x = tape_input(g->tape) + i * stream;
        const double at = g->a[g->next + i];
        for (size_t k = 0; k < stream; k++) x[k] = (float)((double)g->from[k] + at * ((double)g->to[k] - (double)g->from[k]));
    }
    return STEP_DONE;
}

static enum step step_forward(struct edges *g, struct session *s, struct err *e)
{
    g->done++;
    return tape_forward(g->tape, g->q.view, s, e);
}

/* Gradients of `readers` readers: their weighed mean over the tape's points in the first point's place. */
static void average(struct edges *g, size_t readers)
{
    const size_t n = readers * g->m * arch_of(g)->d_model;
    for (uint32_t i = 0; i < g->points; i++) {
        const float w = (float)g->weight[g->next + i], *x = g->grad + i * n;
        for (size_t k = 0; k < n; k++) g->grad[k] = (i ? g->grad[k] : 0) + w * x[k];
    }
}

static enum step step_head(struct edges *g, struct session *s, struct err *e)
{
    const size_t d = arch_of(g)->d_model, rows = (size_t)g->m * d;
    struct slope k = {.metric = pair_of(g)->metric, .reference = g->reference, .V = arch_of(g)->d_vocab, .work = g->slope};
    enum step step = tape_head(g->tape, g->q.view, s, NULL, slope_row, &k, e);
    if (step != STEP_DONE) return step;
    for (uint32_t i = 0; i < g->points; i++)
        memcpy(g->grad + i * rows, tape_stream(g->tape) + ((size_t)i * g->n + g->first) * d, rows * sizeof *g->grad);
    average(g, 1);
    g->at = g->below = arch_of(g)->n_layers;
    return STEP_DONE;
}

static enum step step_back(struct edges *g, struct session *s, struct err *e)
{
    const struct arch *a = arch_of(g);
    const size_t each = (size_t)g->m * a->d_model;
    g->at--;
    g->taps = (struct taps){g->tap, 0};
    for (uint32_t i = 0; i < g->points; i++)
        for (size_t r = 0; r < g->per_layer; r++) {
            static const enum hook hooks[] = {[EDGE_Q] = HOOK_Q_INPUT, [EDGE_K] = HOOK_K_INPUT, [EDGE_V] = HOOK_V_INPUT, [EDGE_MLP] = HOOK_MLP_IN};
            const struct edge_node v = edge_reader(a, r);
            read_at(g, (struct site){hooks[v.part], g->at}, i, v.part == EDGE_MLP ? NULL : g->head + v.head,
                    g->grad + (i * g->per_layer + r) * each);
        }
    g->done++;
    if (tape_backward(g->tape, g->q.view, s, NULL, &g->taps, e) == STEP_FAIL) return STEP_FAIL;
    average(g, g->per_layer);
    g->below = g->at + (a->parallel ? 0 : 1); /* its own heads come before its MLP */
    return STEP_DONE;
}

/* ---- the edges between two layers --------------------------------------------------------------------------- */

/* stack ← what the change of each head's z adds to the stream. */
static void make_stack(struct edges *g, uint32_t layer)
{
    const struct arch *a = arch_of(g);
    const struct layer_weights w = view_layer(g->q.view, layer);
    const size_t d = a->d_model, e = a->d_head, He = a->n_heads * e, each = g->m * d;
    const float *z = g->z + (size_t)layer * g->m * He;
    for (uint32_t h = 0; h < a->n_heads; h++) {
        linear_inputs(&w.o, (uint32_t)(h * e), a->d_head, g->w);
        gemm_nt(g->m, d, e, z + h * e, He, g->w, e, g->stack + h * each, d, 1.0f, false);
    }
    if (a->post_norm) norm_finish_backward(&w.attn_post_norm, g->stack, g->stack, a->n_heads * g->m, a->d_model); /* times its gain */
}

/* Add the products of n writers' changes with the gradients in hand: writers from `u` on. */
static void add_edges(struct edges *g, const float *change, size_t n, size_t u)
{
    const bool final = g->at == arch_of(g)->n_layers;
    const size_t readers = final ? 1 : g->per_layer, k = (size_t)g->m * arch_of(g)->d_model, v = g->at * g->per_layer;
    float *out = g->score + g->pair * g->W * g->R;
    gemm_nt(n, readers, k, change, k, g->grad, k, g->sum, readers, 1.0f, false);
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < readers; r++)
            if (edge_is(arch_of(g), u + i, v + r)) out[(u + i) * g->R + v + r] += g->sum[i * readers + r];
}

static void embedding_edges(struct edges *g)
{
    const size_t n = (size_t)g->m * arch_of(g)->d_model, from = (size_t)g->first * arch_of(g)->d_model;
    for (size_t i = 0; i < n; i++) g->stack[i] = g->to[from + i] - g->from[from + i];
    add_edges(g, g->stack, 1, 0);
}

static enum step step_edges(struct edges *g, struct session *s, struct err *e)
{
    const struct arch *a = arch_of(g);
    (void)s, (void)e;
    g->done++;
    if (g->below == 0) {
        embedding_edges(g);
        return STEP_DONE;
    }
    const size_t layer = --g->below, u = 1 + layer * (a->n_heads + 1);
    make_stack(g, (uint32_t)layer);
    add_edges(g, g->stack, a->n_heads, u);
    if (layer < g->at) add_edges(g, g->out + layer * g->m * a->d_model, 1, u + a->n_heads);
    return STEP_MORE;
}

/* ---- one after the other --------------------------------------------------------------------------------------- */

static enum step end_pair(struct edges *g)
{
    float *out = g->score + g->pair * g->W * g->R;
    const double *read = g->read + 2 * g->pair, scale = pair_of(g)->metric->kind == METRIC_NORM_LOGIT_DIFF ? 1 / (read[0] - read[1]) : 1;
    for (size_t i = 0; i < g->W * g->R; i++) out[i] = (float)(scale * (double)out[i]);
    g->stage = STAGE_RUNS;
    if (++g->pair < g->q.n_pairs) return STEP_MORE;
    for (size_t i = 0; i < g->W * g->R; i++) {
        double sum = 0;
        for (size_t k = 0; k < g->q.n_pairs; k++) sum += (double)g->score[k * g->W * g->R + i];
        g->mean[i] = (float)(sum / (double)g->q.n_pairs);
    }
    return STEP_DONE;
}

/* The next of this tape's layers, the next tape, the next pair. */
static enum step after_edges(struct edges *g)
{
    g->stage = STAGE_BACK;
    if (g->at) return STEP_MORE;
    tape_free(g->tape);
    g->tape = NULL;
    g->stage = STAGE_BEGIN;
    g->next += g->points;
    return g->next < g->q.steps ? STEP_MORE : end_pair(g);
}

enum step edges_step(struct edges *g, struct session *s, struct err *e)
{
    static enum step (*const stages[])(struct edges *, struct session *, struct err *) = {
        [STAGE_RUNS] = step_runs, [STAGE_BEGIN] = step_begin, [STAGE_FORWARD] = step_forward,
        [STAGE_HEAD] = step_head, [STAGE_EDGES] = step_edges, [STAGE_BACK] = step_back,
    };
    if (g->pair == g->q.n_pairs) return STEP_DONE;
    enum step step = stages[g->stage](g, s, e);
    if (step != STEP_DONE) return step;
    if (g->stage == STAGE_RUNS && !g->m) return end_pair(g); /* nothing differs */
    if (g->stage == STAGE_EDGES) return after_edges(g);
    g->stage = g->stage == STAGE_BACK ? STAGE_EDGES : g->stage + 1;
    return STEP_MORE;
}

/* ---- results --------------------------------------------------------------------------------------------------- */

void edges_progress(const struct edges *g, size_t *done, size_t *total)
{
    const size_t L = arch_of(g)->n_layers, own = arch_of(g)->parallel ? 0 : L, each = 2 * L + L + 1 + own + L * (L + 1) / 2;
    *total = 0;
    for (size_t i = 0; i < g->q.n_pairs; i++) *total += (g->q.steps + g->together - 1) / g->together * each;
    *done = g->pair == g->q.n_pairs ? *total : g->done;
}

const float *edges_mean(const struct edges *g) { return g->mean; }
const float *edges_of(const struct edges *g, size_t pair) { return g->score + pair * g->W * g->R; }
uint32_t edges_difference(const struct edges *g, size_t pair) { return g->first_difference[pair]; }

void edges_baseline(const struct edges *g, size_t pair, struct patch_scores *out)
{
    const struct metric *m = g->q.pair[pair].metric;
    const double *read = g->read + 2 * pair;
    *out = (struct patch_scores){.clean = read[0], .corrupt = read[1]};
    patch_scores_settle(m, out, 0);
}

size_t edges_top(const struct edges *g, size_t *out, size_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < g->W * g->R; i++) {
        const float size = fabsf(g->mean[i]);
        if (!(size > 0) || (n == most && (!most || !(size > fabsf(g->mean[out[n - 1]]))))) continue;
        size_t k = n < most ? n++ : n - 1;
        for (; k && fabsf(g->mean[out[k - 1]]) < size; k--) out[k] = out[k - 1];
        out[k] = i;
    }
    return n;
}
