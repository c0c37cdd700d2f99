#include "dla.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/block.h"
#include "core/head.h"

/* ---- words ------------------------------------------------------------------------------------------ */

static const char *const bys[] = {
#define DLA_BY(name, word) word,
#include "dla.def"
#undef DLA_BY
};
static const char *const kinds[] = {
#define DLA_ROW(name, word) word,
#include "dla.def"
#undef DLA_ROW
};

const char *dla_word(enum dla_kind k) { return kinds[k]; }

bool dla_by_parse(const char *word, enum dla_by *out)
{
    for (int i = 0; i < DLA_BYS; i++)
        if (strcmp(word, bys[i]) == 0) {
            *out = (enum dla_by)i;
            return true;
        }
    return false;
}

/* ---- what is read ------------------------------------------------------------------------------------- */

/* Of one prompt at its position: which hooks, and how wide they are. */
struct part {
    enum hook hook;
    size_t width, at; /* floats, and where they begin; of a layer's hook those of layer 0 */
};
enum { MOST_PARTS = 6 };
struct parts {
    struct part of[MOST_PARTS];
    size_t n, floats;
};

static void add_part(struct parts *p, const struct arch *a, enum hook h, bool wanted)
{
    if (!wanted || hook_absent(a, h)) return;
    size_t width = (size_t)hook_heads(a, h) * hook_width(a, h);
    p->of[p->n++] = (struct part){h, width, p->floats};
    p->floats += width * (hook_info(h)->scope == SCOPE_LAYER ? a->n_layers : 1);
}

static struct parts parts_of(const struct arch *a, enum dla_by by)
{
    struct parts p = {.n = 0};
    bool heads = by == DLA_BY_HEAD, neurons = by == DLA_BY_NEURON;
    add_part(&p, a, HOOK_EMBED, true);
    add_part(&p, a, HOOK_POS_EMBED, true);
    add_part(&p, a, heads ? HOOK_Z : HOOK_ATTN_OUT, true);
    add_part(&p, a, HOOK_LN1_POST_SCALE, heads);
    add_part(&p, a, neurons ? HOOK_MLP_POST : HOOK_MLP_OUT, true);
    add_part(&p, a, HOOK_LN2_POST_SCALE, neurons);
    return p;
}

static size_t n_taps(const struct parts *p, const struct arch *a)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++) n += hook_info(p->of[i].hook)->scope == SCOPE_LAYER ? a->n_layers : 1;
    return n;
}

/* ---- rows ----------------------------------------------------------------------------------------------- */

/* Are there addends behind the heads (or neurons) that belong to none of them? */
static bool has_bias(const struct arch *a, bool attention)
{
    return (attention ? a->o_bias : a->mlp_bias) || (a->post_norm && a->norm == NORM_LAYER);
}

static size_t put_row(struct dla_row *out, size_t n, enum dla_kind kind, uint32_t layer, uint32_t unit)
{
    if (out) out[n] = (struct dla_row){kind, layer, unit};
    return n + 1;
}

static size_t layer_rows(const struct arch *a, enum dla_by by, uint32_t layer, struct dla_row *out, size_t n)
{
    if (by == DLA_BY_LAYER) return put_row(out, n, DLA_LAYER, layer, 0);
    if (by == DLA_BY_HEAD) {
        for (uint32_t h = 0; h < a->n_heads; h++) n = put_row(out, n, DLA_HEAD, layer, h);
        if (has_bias(a, true)) n = put_row(out, n, DLA_ATTN_BIAS, layer, 0);
    } else {
        n = put_row(out, n, DLA_ATTN, layer, 0);
    }
    if (by != DLA_BY_NEURON) return put_row(out, n, DLA_MLP, layer, 0);
    for (uint32_t j = 0; j < a->d_mlp; j++) n = put_row(out, n, DLA_NEURON, layer, j);
    return has_bias(a, false) ? put_row(out, n, DLA_MLP_BIAS, layer, 0) : n;
}

/* In the order they are computed: embeddings, layers, constants. out NULL: only counted. */
static size_t all_rows(const struct arch *a, enum dla_by by, struct dla_row *out)
{
    size_t n = put_row(out, 0, DLA_EMBED, 0, 0);
    if (!hook_absent(a, HOOK_POS_EMBED)) n = put_row(out, n, DLA_POS_EMBED, 0, 0);
    for (uint32_t l = 0; l < a->n_layers; l++) n = layer_rows(a, by, l, out, n);
    if (a->norm == NORM_LAYER) n = put_row(out, n, DLA_NORM_BIAS, 0, 0);
    return a->head_bias ? put_row(out, n, DLA_UNEMBED_BIAS, 0, 0) : n;
}

size_t dla_rows(const struct arch *a, enum dla_by by) { return all_rows(a, by, NULL); }

/* ---- the work ---------------------------------------------------------------------------------------------- */

struct dla {
    struct dla_request q;
    struct parts parts;
    struct run *run;
    struct taps taps;
    float *read;       /* [prompt][parts.floats] */
    float *logits;     /* [2][V]: before and after the soft-cap */
    double *v;         /* [prompt][d] */
    float *folded;     /* [prompt][d]: v behind a post-norm's scale, as the matrices take it */
    float *through;    /* [prompt][H·e or m]: the same through a matrix */
    double *numbers;   /* value, total, sum, scale */
    double *value, *total, *sum, *scale;
    struct dla_row *row;
    size_t n_rows, next_row; /* rows made so far */
    bool ran;
    size_t headed;     /* prompts whose v is made */
    uint32_t layer;    /* next */
};

static const struct arch *arch_of(const struct dla_request *q) { return &view_model(q->view)->arch; }

static size_t widest(const struct arch *a, enum dla_by by)
{
    return by == DLA_BY_HEAD ? (size_t)a->n_heads * a->d_head : by == DLA_BY_NEURON ? a->d_mlp : 1;
}

static size_t n_numbers(const struct dla_request *q) { return plan_times(q->n, plan_sum(dla_rows(arch_of(q), q->by), 3)); }

void dla_plan(const struct dla_request *q, int threads, struct plan *p)
{
    const struct arch *a = arch_of(q);
    const struct parts parts = parts_of(a, q->by);
    struct run_size run = {0};
    for (size_t i = 0; i < q->n; i++) run_size_add(&run, 0, q->prompt[i].n, 1, false);
    run_plan(&run, a, threads, p);
    plan_add(p, NEED_CAPTURES, mem_floats_bytes(plan_times(q->n, parts.floats)));
    plan_add(p, NEED_CAPTURES, plan_times(q->n * n_taps(&parts, a), sizeof(struct tap)));
    plan_add(p, NEED_CAPTURES, plan_times(n_numbers(q), sizeof(double)));
    plan_add(p, NEED_CAPTURES, plan_times(dla_rows(a, q->by), sizeof(struct dla_row)));
    plan_add(p, NEED_STREAM, plan_times(q->n * a->d_model, sizeof(double)));
    plan_add(p, NEED_STREAM, plan_sum(mem_floats_bytes(q->n * a->d_model), mem_floats_bytes(q->n * widest(a, q->by))));
    plan_add(p, NEED_LOGITS, mem_floats_bytes(2 * (size_t)a->d_vocab));
}

static void place_taps(struct dla *d)
{
    const struct arch *a = arch_of(&d->q);
    struct tap *t = d->taps.tap;
    for (size_t i = 0; i < d->q.n; i++)
        for (size_t k = 0; k < d->parts.n; k++) {
            const struct part *p = &d->parts.of[k];
            uint32_t layers = hook_info(p->hook)->scope == SCOPE_LAYER ? a->n_layers : 1;
            for (uint32_t l = 0; l < layers; l++)
                *t++ = (struct tap){.site = {p->hook, l}, .op = TAP_READ, .seq = (uint32_t)i, .pos = &d->q.prompt[i].pos, .n_pos = 1,
                                    .dst = d->read + i * d->parts.floats + p->at + l * p->width};
        }
}

static struct run *begin_run(struct dla *d, struct err *e)
{
    struct run_input *in = mem_take(d->q.n, sizeof *in, e);
    for (size_t i = 0; in && i < d->q.n; i++) {
        const struct dla_prompt *p = &d->q.prompt[i];
        in[i] = (struct run_input){.ids = p->ids, .n = p->n, .seq = (uint32_t)i, .want = &p->pos, .n_want = 1};
    }
    struct run *r = in ? run_new(d->q.view, in, d->q.n, &d->taps, e) : NULL;
    mem_drop(in);
    return r;
}

struct dla *dla_new(const struct dla_request *q, struct err *e)
{
    const struct arch *a = arch_of(q);
    struct dla *d = mem_new(sizeof *d);
    d->q = *q;
    d->parts = parts_of(a, q->by);
    d->n_rows = dla_rows(a, q->by);
    d->taps.n = q->n * n_taps(&d->parts, a);
    d->taps.tap = mem_take(d->taps.n, sizeof *d->taps.tap, e);
    d->read = d->taps.tap ? mem_floats(q->n * d->parts.floats, e) : NULL;
    d->logits = d->read ? mem_floats(2 * (size_t)a->d_vocab, e) : NULL;
    d->v = d->logits ? mem_take(q->n * a->d_model, sizeof *d->v, e) : NULL;
    d->folded = d->v ? mem_floats(q->n * a->d_model, e) : NULL;
    d->through = d->folded ? mem_floats(q->n * widest(a, q->by), e) : NULL;
    d->row = d->through ? mem_take(d->n_rows, sizeof *d->row, e) : NULL;
    d->numbers = d->row ? mem_take(n_numbers(q), sizeof *d->numbers, e) : NULL;
    if (d->numbers) {
        d->value = d->numbers, d->total = d->value + d->n_rows * q->n, d->sum = d->total + q->n, d->scale = d->sum + q->n;
        (void)all_rows(a, q->by, d->row);
        place_taps(d);
        d->run = begin_run(d, e);
    }
    if (d->run) return d;
    dla_free(d);
    return NULL;
}

void dla_free(struct dla *d)
{
    if (!d) return;
    run_free(d->run);
    mem_drop(d->taps.tap);
    mem_drop(d->read);
    mem_drop(d->logits);
    mem_drop(d->v);
    mem_drop(d->folded);
    mem_drop(d->through);
    mem_drop(d->row);
    mem_drop(d->numbers);
    mem_drop(d);
}

/* ---- the direction ----------------------------------------------------------------------------------------- */

/* out ← (g∘in)/s, under LayerNorm less its mean: how the norm, frozen at s, sees the addends in front of it. */
static void fold_norm(const struct norm *n, const double *in, double s, double *out, size_t d)
{
    double mean = 0;
    for (size_t i = 0; i < d; i++) {
        out[i] = in[i] * ((double)n->offset + (double)n->gain[i]) / s;
        mean += out[i] / (double)d;
    }
    for (size_t i = 0; n->kind == NORM_LAYER && i < d; i++) out[i] -= mean;
}

static double dot(const double *v, const float *x, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < d; i++) sum += v[i] * (double)x[i];
    return sum;
}

static double output_bias(const struct linear *head, uint32_t id)
{
    const float *b = linear_bias(head, id, 1);
    return b ? (double)*b : 0;
}

/* A row of the constants at the end of the table, whichever it is. */
static void put_constants(struct dla *d, size_t i, double norm_bias, double unembed_bias)
{
    for (size_t r = d->n_rows; r-- > 0 && (d->row[r].kind == DLA_NORM_BIAS || d->row[r].kind == DLA_UNEMBED_BIAS);)
        d->value[r * d->q.n + i] = d->row[r].kind == DLA_NORM_BIAS ? norm_bias : unembed_bias;
}

/* The model's own logits of one prompt before any soft-cap, its scale, v, and the constants. */
static bool head_prompt(struct dla *d, size_t i, struct session *s, struct err *e)
{
    const struct arch *a = arch_of(&d->q);
    const struct dla_prompt *p = &d->q.prompt[i];
    const struct linear head = view_head(d->q.view);
    const struct norm norm = view_final_norm(d->q.view);
    const float *x = run_final(d->run, i);
    struct tap raw = {.site = {HOOK_UNEMBED_OUT, 0}, .op = TAP_READ, .pos = &p->pos, .n_pos = 1, .dst = d->logits};
    const struct head_rows rows = {&(struct taps){&raw, 1}, 0, &p->pos};
    if (!unembed(s, d->q.view, x, 1, &rows, d->logits + a->d_vocab, e)) return false;
    float scale, *row = d->folded + i * a->d_model; /* not yet in use: an output's weights */
    double *v = d->v + i * a->d_model, norm_bias = 0, unembed_bias = output_bias(&head, p->answer);
    norm_scale(&norm, x, &scale, row, 1, a->d_model);
    linear_outputs(&head, p->answer, 1, row);
    for (uint32_t k = 0; k < a->d_model; k++) v[k] = (double)row[k];
    d->total[i] = (double)d->logits[p->answer];
    if (p->foil != DLA_NO_FOIL) {
        linear_outputs(&head, (uint32_t)p->foil, 1, row);
        for (uint32_t k = 0; k < a->d_model; k++) v[k] -= (double)row[k];
        d->total[i] -= (double)d->logits[p->foil];
        unembed_bias -= output_bias(&head, (uint32_t)p->foil);
    }
    if (norm.bias) norm_bias = dot(v, norm.bias, a->d_model);
    d->scale[i] = (double)scale;
    fold_norm(&norm, v, d->scale[i], v, a->d_model);
    put_constants(d, i, norm_bias, unembed_bias);
    return true;
}

/* ---- addends ------------------------------------------------------------------------------------------------- */

static const float *values(const struct dla *d, size_t i, enum hook h, uint32_t layer)
{
    for (size_t k = 0; k < d->parts.n; k++)
        if (d->parts.of[k].hook == h) return d->read + i * d->parts.floats + d->parts.of[k].at + layer * d->parts.of[k].width;
    assert(false);
    return NULL;
}

static double addend(const struct dla *d, size_t i, enum hook h, uint32_t layer)
{
    size_t width = arch_of(&d->q)->d_model;
    return dot(d->v + i * width, values(d, i, h, layer), width);
}

static void add_row(struct dla *d, enum hook h, uint32_t layer)
{
    for (size_t i = 0; i < d->q.n; i++) d->value[d->next_row * d->q.n + i] = addend(d, i, h, layer);
    d->next_row++;
}

/* A branch taken apart: the matrix behind z or the neurons, and the norm behind that. */
struct branch {
    struct linear map;
    struct norm norm;      /* gain NULL: none */
    enum hook in, scale;
    uint32_t units, width; /* of the input: H heads of e, or m neurons of 1 */
    bool attention;
};

static struct branch branch_of(const struct dla *d, uint32_t layer, bool attention)
{
    const struct arch *a = arch_of(&d->q);
    struct layer_weights w = view_layer(d->q.view, layer);
    return attention ? (struct branch){w.o, w.attn_post_norm, HOOK_Z, HOOK_LN1_POST_SCALE, a->n_heads, a->d_head, true}
                     : (struct branch){w.down, w.mlp_post_norm, HOOK_MLP_POST, HOOK_LN2_POST_SCALE, a->d_mlp, 1, false};
}

/* folded ← v' of prompt i, and what the biases behind the branch add along v. */
static double fold_prompt(struct dla *d, const struct branch *b, size_t i, uint32_t layer, double *work)
{
    const size_t width = arch_of(&d->q)->d_model;
    const double *v = d->v + i * width;
    const float *bias = linear_bias(&b->map, 0, (uint32_t)width);
    double constant = 0;
    if (arch_of(&d->q)->post_norm) {
        fold_norm(&b->norm, v, (double)*values(d, i, b->scale, layer), work, width);
        if (b->norm.bias) constant += dot(v, b->norm.bias, width);
    } else {
        memcpy(work, v, width * sizeof *work);
    }
    for (size_t k = 0; k < width; k++) d->folded[i * width + k] = (float)work[k];
    return constant + (bias ? dot(work, bias, width) : 0);
}

/* Rows of the units of a branch, and of its bias where it has one. */
static bool split_branch(struct dla *d, uint32_t layer, bool attention, struct session *s, struct err *e)
{
    const struct arch *a = arch_of(&d->q);
    const struct branch b = branch_of(d, layer, attention);
    const size_t n = d->q.n, in = (size_t)b.units * b.width;
    double *work = mem_take(a->d_model, sizeof *work, e), *out = d->value + d->next_row * n;
    bool bias = has_bias(a, attention);
    for (size_t i = 0; work && i < n; i++) {
        double constant = fold_prompt(d, &b, i, layer, work);
        if (bias) out[b.units * n + i] = constant;
    }
    bool ok = work && linear_backward(s, &b.map, d->folded, a->d_model, n, d->through, in, e);
    for (size_t i = 0; ok && i < n; i++) {
        const float *x = values(d, i, b.in, layer), *v = d->through + i * in;
        for (uint32_t u = 0; u < b.units; u++) {
            double sum = 0;
            for (uint32_t k = 0; k < b.width; k++) sum += (double)x[u * b.width + k] * (double)v[u * b.width + k];
            out[u * n + i] = sum;
        }
    }
    d->next_row += b.units + bias;
    mem_drop(work);
    return ok;
}

static bool add_layer(struct dla *d, uint32_t layer, struct session *s, struct err *e)
{
    const size_t n = d->q.n;
    if (d->q.by == DLA_BY_LAYER) {
        for (size_t i = 0; i < n; i++)
            d->value[d->next_row * n + i] = addend(d, i, HOOK_ATTN_OUT, layer) + addend(d, i, HOOK_MLP_OUT, layer);
        d->next_row++;
        return true;
    }
    if (d->q.by != DLA_BY_HEAD) add_row(d, HOOK_ATTN_OUT, layer);
    else if (!split_branch(d, layer, true, s, e)) return false;
    if (d->q.by == DLA_BY_NEURON) return split_branch(d, layer, false, s, e);
    add_row(d, HOOK_MLP_OUT, layer);
    return true;
}

/* ---- stepping -------------------------------------------------------------------------------------------------- */

static void add_up(struct dla *d)
{
    for (size_t r = 0; r < d->n_rows; r++)
        for (size_t i = 0; i < d->q.n; i++) d->sum[i] += d->value[r * d->q.n + i];
}

enum step dla_step(struct dla *d, struct session *s, struct err *e)
{
    const struct arch *a = arch_of(&d->q);
    if (!d->ran) {
        enum step step = run_step(d->run, s, e);
        d->ran = step == STEP_DONE;
        return step == STEP_FAIL ? STEP_FAIL : STEP_MORE;
    }
    if (d->headed < d->q.n) return head_prompt(d, d->headed++, s, e) ? STEP_MORE : STEP_FAIL;
    if (d->layer == 0) {
        add_row(d, HOOK_EMBED, 0);
        if (!hook_absent(a, HOOK_POS_EMBED)) add_row(d, HOOK_POS_EMBED, 0);
    }
    if (!add_layer(d, d->layer, s, e)) return STEP_FAIL;
    if (++d->layer < a->n_layers) return STEP_MORE;
    add_up(d);
    return STEP_DONE;
}

void dla_progress(const struct dla *d, size_t *done, size_t *total)
{
    run_progress(d->run, done, total);
    *done += d->headed + d->layer;
    *total += d->q.n + arch_of(&d->q)->n_layers;
}

struct dla_result dla_result(const struct dla *d)
{
    return (struct dla_result){d->row, d->n_rows, d->value, d->total, d->sum, d->scale};
}
