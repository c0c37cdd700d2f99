#include "head.h"

#include <math.h>
#include <string.h>

#include "core/kernel/norm.h"
#include "core/kernel/softmax.h"
#include "core/linear.h"

/* ---- in ---------------------------------------------------------------------------------------- */

static void fire_rows(const struct taps *t, const struct arch *a, enum hook h, uint32_t seq, uint32_t first_pos,
                      size_t n, float *data)
{
    taps_fire(t, (struct site){h, 0}, seq, first_pos, (uint32_t)n, data, hook_width(a, h), 1, hook_width(a, h));
}

static bool read_tokens(const struct taps *t, const struct arch *a, const uint32_t *ids, size_t n, uint32_t first_pos,
                        uint32_t seq, struct err *e)
{
    if (!taps_any(t, HOOK_TOKENS, 0)) return true;
    float *values = mem_floats(n, e); /* ids are below 2^24: exact */
    for (size_t i = 0; values && i < n; i++) values[i] = (float)ids[i];
    if (values) fire_rows(t, a, HOOK_TOKENS, seq, first_pos, n, values);
    mem_drop(values);
    return values != NULL;
}

static bool add_positions(struct session *s, const struct view *v, size_t n, uint32_t first_pos,
                          const struct taps *taps, uint32_t seq, float *x, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct matrix table = view_pos_embed(v);
    float *p = session_scratch(s, n * a->d_model, e);
    if (!p) return false;
    matrix_rows_widen(&table, first_pos, n, p, a->d_model);
    fire_rows(taps, a, HOOK_POS_EMBED, seq, first_pos, n, p);
    for (size_t i = 0; i < n * a->d_model; i++) x[i] += p[i];
    return true;
}

bool embed(struct session *s, const struct view *v, const uint32_t *ids, size_t n, uint32_t first_pos,
           const struct taps *taps, uint32_t seq, float *x, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct matrix table = view_embed(v);
    size_t d = a->d_model;
    if (!read_tokens(taps, a, ids, n, first_pos, seq, e)) return false;
    for (size_t i = 0; i < n; i++) matrix_rows_widen(&table, ids[i], 1, x + i * d, d);
    for (size_t i = 0; a->embed_scale != 1.0f && i < n * d; i++) x[i] *= a->embed_scale;
    fire_rows(taps, a, HOOK_EMBED, seq, first_pos, n, x);
    return a->positions != POSITIONS_LEARNED || add_positions(s, v, n, first_pos, taps, seq, x, e);
}

void embed_backward(const struct view *v, const uint32_t *ids, size_t n, uint32_t first_pos, const float *dx,
                    const struct weight_grads *g)
{
    const struct arch *a = &view_model(v)->arch;
    size_t d = a->d_model;
    float *tokens = g->of[GROUP_EMBED], *positions = g->of[GROUP_POS_EMBED];
    for (size_t i = 0; i < n; i++, dx += d) {
        float *token = tokens ? tokens + ids[i] * d : NULL, *position = positions ? positions + (first_pos + i) * d : NULL;
        for (size_t k = 0; token && k < d; k++) token[k] += a->embed_scale * dx[k];
        for (size_t k = 0; position && k < d; k++) position[k] += dx[k];
    }
}

/* ---- out --------------------------------------------------------------------------------------- */

static const enum hook head_hooks[] = {HOOK_FINAL_SCALE, HOOK_FINAL_NORMALIZED, HOOK_UNEMBED_IN, HOOK_UNEMBED_OUT};

bool head_hook(enum hook h)
{
    for (size_t i = 0; i < sizeof head_hooks / sizeof *head_hooks; i++)
        if (head_hooks[i] == h) return true;
    return false;
}

bool head_listens(const struct taps *t)
{
    for (size_t i = 0; i < sizeof head_hooks / sizeof *head_hooks; i++)
        if (taps_any(t, head_hooks[i], 0)) return true;
    return false;
}

/* Rows at positions of their own: one by one. */
static void fire_each(const struct head_rows *rows, const struct arch *a, enum hook h, size_t n, float *data)
{
    uint32_t width = hook_width(a, h);
    if (!rows || !taps_any(rows->taps, h, 0)) return;
    for (size_t i = 0; i < n; i++)
        taps_fire(rows->taps, (struct site){h, 0}, rows->seq, rows->pos[i], 1, data + i * width, width, 1, width);
}

/* y [n][d] ← final norm of x, by parts so that hooks see them; scale [n]. */
static void norm_heard(const struct view *v, const struct head_rows *rows, const float *x, size_t n, float *y, float *scale)
{
    const struct arch *a = &view_model(v)->arch;
    struct norm norm = view_final_norm(v);
    norm_scale(&norm, x, scale, y, n, a->d_model);
    fire_each(rows, a, HOOK_FINAL_SCALE, n, scale);
    norm_divide(y, scale, y, n, a->d_model);
    fire_each(rows, a, HOOK_FINAL_NORMALIZED, n, y);
    norm_finish(&norm, y, y, n, a->d_model);
}

/* The final norm's output, in scratch with `extra` floats behind it. */
static float *final_norm(struct session *s, const struct view *v, const struct head_rows *rows, const float *x, size_t n,
                         size_t extra, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    struct norm norm = view_final_norm(v);
    float *y = session_scratch(s, n * a->d_model + n + extra, e);
    if (!y) return NULL;
    if (rows && head_listens(rows->taps)) norm_heard(v, rows, x, n, y, y + n * a->d_model + extra);
    else norm_forward(&norm, x, a->d_model, y, a->d_model, n, a->d_model);
    fire_each(rows, a, HOOK_UNEMBED_IN, n, y);
    return y;
}

bool unembed(struct session *s, const struct view *v, const float *x, size_t n, const struct head_rows *rows,
             float *logits, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct linear head = view_head(v);
    const float *y = final_norm(s, v, rows, x, n, 0, e);
    if (!y || !linear_forward(s, &head, y, a->d_model, n, logits, a->d_vocab, e)) return false;
    fire_each(rows, a, HOOK_UNEMBED_OUT, n, logits);
    softcap_row(logits, n * a->d_vocab, a->final_softcap);
    return true;
}

bool unembed_ids(struct session *s, const struct view *v, const float *x, size_t n,
                 const uint32_t *ids, size_t n_ids, float *logits, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct linear head = view_head(v);
    size_t d = a->d_model;
    float *y = final_norm(s, v, NULL, x, n, n_ids * d, e), *panel = y ? y + n * d : NULL;
    if (!y) return false;
    for (size_t i = 0; i < n_ids; i++) linear_outputs(&head, ids[i], 1, panel + i * d);
    const struct matrix some = matrix_of(DTYPE_F32, panel, n_ids, d);
    if (!matrix_nt(s->par, &s->matrix, n, y, d, &some, logits, n_ids, false, e)) return false;
    for (size_t i = 0; i < n_ids; i++) {
        const float *bias = linear_bias(&head, ids[i], 1);
        for (size_t r = 0; bias && r < n; r++) logits[r * n_ids + i] += *bias;
    }
    softcap_row(logits, n * n_ids, a->final_softcap);
    return true;
}

/* Gradients at the final norm's hooks, and of its gain and bias. */
static bool norm_details(const struct view *v, const struct head_rows *rows, const float *x, size_t n, const float *dy,
                         const struct weight_grads *g, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    struct norm norm = view_final_norm(v);
    size_t d = a->d_model;
    float *memory = mem_floats(2 * n * d + 2 * n, e), *centred = memory, *work = memory + n * d, *scale = work + n * d;
    if (!memory) return false;
    norm_scale(&norm, x, scale, centred, n, a->d_model);
    norm_finish_backward(&norm, dy, work, n, a->d_model);
    fire_each(rows, a, HOOK_FINAL_NORMALIZED, n, work);
    norm_divide_backward(work, centred, scale, scale + n, n, a->d_model);
    fire_each(rows, a, HOOK_FINAL_SCALE, n, scale + n);
    norm_divide(centred, scale, centred, n, a->d_model);
    norm_gain_backward(dy, centred, n, a->d_model, g->of[GROUP_FINAL_NORM], g->of[GROUP_FINAL_NORM_B]);
    mem_drop(memory);
    return true;
}

/* Gradients of logits before the soft-cap, in place of those after it: the logits are made again. */
static bool uncap(struct session *s, const struct view *v, const float *x, size_t n, float *d_logits, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    float *logits = mem_floats(n * a->d_vocab, e);
    bool ok = logits && unembed(s, v, x, n, NULL, logits, e);
    if (ok) softcap_backward(d_logits, logits, n * a->d_vocab, a->final_softcap);
    mem_drop(logits);
    return ok;
}

/* Gradients of the unembedding's matrix and bias, from those of its outputs. */
static bool head_weights(struct session *s, const struct view *v, const float *x, size_t n, const float *d_logits,
                         const struct weight_grads *g, struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct linear head = view_head(v);
    float *matrix = g->of[a->tied_head ? GROUP_EMBED : GROUP_HEAD], *bias = g->of[GROUP_HEAD_B];
    const float *y = matrix ? final_norm(s, v, NULL, x, n, 0, e) : NULL;
    if (matrix && !y) return false;
    if (matrix) linear_weight_grad(&head, d_logits, a->d_vocab, y, a->d_model, n, matrix);
    if (bias) linear_bias_grad(&head, d_logits, a->d_vocab, n, bias);
    return true;
}

/* dy [n][d] in scratch ← gradient at the unembedding's input. */
static float *unembed_input_backward(struct session *s, const struct view *v, const float *x, size_t n,
                                     const struct head_rows *rows, float *d_logits, const struct weight_grads *g,
                                     struct err *e)
{
    const struct arch *a = &view_model(v)->arch;
    const struct linear head = view_head(v);
    if (a->final_softcap > 0 && !uncap(s, v, x, n, d_logits, e)) return NULL;
    fire_each(rows, a, HOOK_UNEMBED_OUT, n, d_logits);
    if (!head_weights(s, v, x, n, d_logits, g, e)) return NULL;
    float *dy = session_scratch(s, n * a->d_model, e);
    return dy && linear_backward(s, &head, d_logits, a->d_vocab, n, dy, a->d_model, e) ? dy : NULL;
}

bool unembed_backward(struct session *s, const struct view *v, const float *x, size_t n,
                      const struct head_rows *rows, float *d_logits, float *dx, const struct weight_grads *g,
                      struct err *e)
{
    static const struct weight_grads none = {0};
    const struct arch *a = &view_model(v)->arch;
    struct norm norm = view_final_norm(v);
    if (!g) g = &none;
    float *dy = unembed_input_backward(s, v, x, n, rows, d_logits, g, e);
    if (!dy) return false;
    fire_each(rows, a, HOOK_UNEMBED_IN, n, dy);
    bool asked = g->of[GROUP_FINAL_NORM] || g->of[GROUP_FINAL_NORM_B] || (rows && head_listens(rows->taps));
    if (asked && !norm_details(v, rows, x, n, dy, g, e)) return false;
    norm_backward(&norm, x, a->d_model, dy, a->d_model, dx, a->d_model, n, a->d_model);
    return true;
}

double log_prob(const float *logits, uint32_t n_vocab, uint32_t id)
{
    return (double)logits[id] - log_sum_exp(logits, NULL, n_vocab);
}

uint32_t arg_max(const float *logits, uint32_t n_vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}
