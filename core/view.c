#include "view.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "element bytes are little-endian");

/* Memory that replaces one tensor of the base; shared by the views that have it. */
struct overlay {
    _Atomic size_t references;
    float *data;
    size_t floats;
};

struct view {
    _Atomic size_t references;
    struct model *model;
    struct overlay **overlay; /* by tensor; NULL: the base's own */
};

static void overlay_drop(const struct model *m, struct overlay *o)
{
    if (!o || atomic_fetch_sub(&o->references, 1) != 1) return;
    if (m->overlay_bytes) atomic_fetch_sub(m->overlay_bytes, mem_floats_bytes(o->floats));
    mem_drop(o->data);
    mem_drop(o);
}

struct view *view_base(struct model *m)
{
    struct view *v = mem_new(sizeof *v);
    atomic_init(&v->references, 1);
    v->model = model_retain(m);
    v->overlay = mem_new(m->n_tensors * sizeof *v->overlay);
    return v;
}

struct view *view_retain(struct view *v)
{
    atomic_fetch_add(&v->references, 1);
    return v;
}

void view_drop(struct view *v)
{
    if (!v || atomic_fetch_sub(&v->references, 1) != 1) return;
    for (size_t i = 0; i < v->model->n_tensors; i++) overlay_drop(v->model, v->overlay[i]);
    mem_drop(v->overlay);
    model_drop(v->model);
    mem_drop(v);
}

struct matrix view_matrix(const struct view *v, size_t tensor)
{
    const struct tensor *t = &v->model->tensors[tensor];
    return v->overlay[tensor] ? matrix_of(DTYPE_F32, v->overlay[tensor]->data, t->rows, t->cols) : t->memory;
}

void view_tensor_copy(const struct view *v, size_t tensor, float *out)
{
    struct matrix w = view_matrix(v, tensor);
    matrix_rows_widen(&w, 0, w.rows, out, w.cols);
}

double view_tensor_norm(const struct view *v, size_t tensor)
{
    struct matrix w = view_matrix(v, tensor);
    float *row = mem_new(w.cols * sizeof *row);
    double sum = 0;
    for (size_t r = 0; r < w.rows; r++) {
        matrix_rows_widen(&w, r, 1, row, w.cols);
        for (size_t i = 0; i < w.cols; i++) sum += (double)row[i] * (double)row[i];
    }
    mem_drop(row);
    return sqrt(sum);
}

static struct view *child(struct view *parent)
{
    struct view *v = view_base(parent->model);
    for (size_t i = 0; i < v->model->n_tensors; i++)
        if ((v->overlay[i] = parent->overlay[i])) atomic_fetch_add(&v->overlay[i]->references, 1);
    return v;
}

/* Writable memory of a tensor in a view under construction, holding its present values. */
static float *own(struct view *v, size_t tensor, struct err *e)
{
    size_t n = v->model->tensors[tensor].n_elements;
    float *data = mem_floats(n, e);
    if (!data) return NULL;
    view_tensor_copy(v, tensor, data);
    overlay_drop(v->model, v->overlay[tensor]);
    struct overlay *o = v->overlay[tensor] = mem_new(sizeof *o);
    atomic_init(&o->references, 1);
    o->data = data;
    o->floats = n;
    if (v->model->overlay_bytes) atomic_fetch_add(v->model->overlay_bytes, mem_floats_bytes(n));
    return data;
}

static bool apply(struct view *v, const struct delta *d, struct err *e)
{
    for (size_t i = 0; i < d->n_parts; i++) {
        const struct tensor *t = &v->model->tensors[d->parts[i].tensor];
        float *w = own(v, d->parts[i].tensor, e);
        if (!w) return false;
        delta_apply(&d->parts[i], t->rows, t->cols, w);
        for (size_t k = 0; k < t->n_elements; k++)
            if (!__builtin_isfinite(w[k]))
                return err_set(e, ERR_NONFINITE, "applying the delta makes element %zu of %s infinite",
                               k, t->name);
    }
    return true;
}

struct view *view_with_delta(struct view *parent, const struct delta *d, struct err *e)
{
    struct view *v = child(parent);
    if (apply(v, d, e)) return v;
    view_drop(v);
    return NULL;
}

struct view *view_with_tensors(struct view *parent, const size_t *tensor, const float *const *data,
                               size_t n, struct err *e)
{
    struct view *v = child(parent);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        float *w = own(v, tensor[i], e);
        if ((ok = w != NULL)) memcpy(w, data[i], v->model->tensors[tensor[i]].n_elements * sizeof *w);
    }
    if (ok) return v;
    view_drop(v);
    return NULL;
}

const struct model *view_model(const struct view *v) { return v->model; }

bool view_changes(const struct view *v, size_t tensor) { return v->overlay[tensor] != NULL; }

size_t view_overlay_bytes(const struct view *v)
{
    size_t bytes = 0;
    for (size_t i = 0; i < v->model->n_tensors; i++)
        if (v->overlay[i]) bytes += v->overlay[i]->floats * sizeof(float);
    return bytes;
}

/* ---- weights by their place in the block --------------------------------------------------------- */

/* ROLE_COUNT: none. */
static const float *vector(const struct view *v, enum role r, uint32_t layer)
{
    size_t i;
    return r < ROLE_COUNT && model_role(v->model, r, layer, &i) ? view_matrix(v, i).data : NULL;
}

static struct norm norm_of(const struct view *v, enum role gain, enum role bias, uint32_t layer)
{
    const struct arch *a = &v->model->arch;
    return (struct norm){a->norm, a->norm_eps, a->norm_offset, vector(v, gain, layer),
                         a->norm == NORM_LAYER ? vector(v, bias, layer) : NULL};
}

/* Does part b's matrix go on where a's ends? */
static bool adjacent(const struct matrix *a, const struct matrix *b)
{
    return a->type == b->type && a->cols == b->cols &&
           (const unsigned char *)a->data + a->rows * a->row_bytes == (const unsigned char *)b->data;
}

static void add_part(struct linear *l, struct matrix w, const float *bias)
{
    uint32_t n = (uint32_t)(l->input_major ? w.cols : w.rows);
    struct linear_part *last = l->n_parts ? &l->part[l->n_parts - 1] : NULL;
    bool follows = last && !l->input_major && adjacent(&last->w, &w) &&
                   (bias ? last->bias && last->bias + last->n == bias : !last->bias);
    l->in = (uint32_t)(l->input_major ? w.rows : w.cols);
    if (follows) {
        last->w.rows += w.rows;
        last->n += n;
    } else {
        l->part[l->n_parts++] = (struct linear_part){w, bias, l->out, n};
    }
    l->out += n;
}

/* Roles that follow each other in the output, with their biases. */
struct parts {
    enum role weight, bias;
};

static struct linear linear_of(const struct view *v, const struct parts *parts, size_t n, uint32_t layer)
{
    struct linear l = {.input_major = v->model->arch.input_major};
    size_t i;
    for (size_t k = 0; k < n; k++)
        if (model_role(v->model, parts[k].weight, layer, &i))
            add_part(&l, view_matrix(v, i), vector(v, parts[k].bias, layer));
    return l;
}

struct layer_weights view_layer(const struct view *v, uint32_t layer)
{
    static const struct parts qkv[] = {{ROLE_QKV, ROLE_QKV_B}, {ROLE_Q, ROLE_Q_B}, {ROLE_K, ROLE_K_B}, {ROLE_V, ROLE_V_B}},
                              o[] = {{ROLE_O, ROLE_O_B}}, down[] = {{ROLE_DOWN, ROLE_DOWN_B}},
                              gate_up[] = {{ROLE_GATE_UP, ROLE_COUNT}, {ROLE_GATE, ROLE_COUNT}, {ROLE_UP, ROLE_UP_B}};
    return (struct layer_weights){
        .attn_norm = norm_of(v, ROLE_ATTN_NORM, ROLE_ATTN_NORM_B, layer),
        .attn_post_norm = norm_of(v, ROLE_ATTN_POST_NORM, ROLE_COUNT, layer),
        .mlp_norm = v->model->arch.one_norm ? norm_of(v, ROLE_ATTN_NORM, ROLE_ATTN_NORM_B, layer)
                                            : norm_of(v, ROLE_MLP_NORM, ROLE_MLP_NORM_B, layer),
        .mlp_post_norm = norm_of(v, ROLE_MLP_POST_NORM, ROLE_COUNT, layer),
        .q_norm = vector(v, ROLE_Q_NORM, layer),
        .k_norm = vector(v, ROLE_K_NORM, layer),
        .qkv = linear_of(v, qkv, 4, layer),
        .o = linear_of(v, o, 1, layer),
        .gate_up = linear_of(v, gate_up, 3, layer),
        .down = linear_of(v, down, 1, layer),
    };
}

bool view_same_layer(const struct view *a, const struct view *b, uint32_t layer)
{
    bool same = a->model == b->model;
    for (size_t i = 0; same && i < a->model->n_tensors; i++) {
        const struct tensor *t = &a->model->tensors[i];
        same = !role_of_layers(t->role) || t->layer != layer || a->overlay[i] == b->overlay[i];
    }
    return same;
}

struct matrix view_embed(const struct view *v)
{
    size_t i = 0;
    (void)model_role(v->model, ROLE_EMBED, 0, &i);
    return view_matrix(v, i);
}

struct matrix view_pos_embed(const struct view *v)
{
    size_t i = 0;
    bool found = model_role(v->model, ROLE_POS_EMBED, 0, &i);
    assert(found);
    (void)found;
    return view_matrix(v, i);
}

struct linear view_head(const struct view *v)
{
    struct linear l = {0};
    size_t i = 0;
    (void)model_role(v->model, v->model->arch.tied_head ? ROLE_EMBED : ROLE_HEAD, 0, &i);
    add_part(&l, view_matrix(v, i), vector(v, ROLE_HEAD_B, 0));
    return l;
}

struct norm view_final_norm(const struct view *v) { return norm_of(v, ROLE_FINAL_NORM, ROLE_FINAL_NORM_B, 0); }

/* ---- element bytes ------------------------------------------------------------------------------- */

enum dtype view_tensor_type(const struct view *v, size_t tensor)
{
    return v->overlay[tensor] ? DTYPE_F32 : v->model->tensors[tensor].stored;
}

/* Narrowed from float32 where the tensor is held wider than it is counted (a 16-bit vector). */
static void narrow(enum dtype type, const float *w, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++) out[i] = type == DTYPE_F16 ? f32_to_f16(w[i]) : f32_to_bf16(w[i]);
}

void view_tensor_bytes(const struct view *v, size_t tensor,
                       void (*sink)(void *, const void *, size_t), void *ctx)
{
    const struct matrix w = view_matrix(v, tensor);
    const enum dtype type = view_tensor_type(v, tensor);
    if (w.type == type) { /* little-endian machines only, asserted above */
        sink(ctx, w.data, w.rows * w.row_bytes);
        return;
    }
    float *row = mem_new(w.cols * sizeof *row);
    uint16_t *half = mem_new(w.cols * sizeof *half);
    for (size_t r = 0; r < w.rows; r++) {
        matrix_rows_widen(&w, r, 1, row, w.cols);
        if (type != DTYPE_F32) narrow(type, row, w.cols, half);
        sink(ctx, type == DTYPE_F32 ? (void *)row : (void *)half, w.cols * (type == DTYPE_F32 ? sizeof *row : sizeof *half));
    }
    mem_drop(row);
    mem_drop(half);
}
