#include "view.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "element bytes are little-endian");

/* A block of memory that replaces one group of the base; shared by the views that have it. */
struct overlay {
    _Atomic size_t references;
    float *data;
    size_t floats;
};

struct view {
    _Atomic size_t references;
    struct model *model;
    struct overlay **overlay; /* by group; NULL: the base's own */
    bool *changed;            /* by tensor */
};

static void overlay_drop(struct overlay *o)
{
    if (!o || atomic_fetch_sub(&o->references, 1) != 1) return;
    mem_drop(o->data);
    mem_drop(o);
}

struct view *view_base(struct model *m)
{
    struct view *v = mem_new(sizeof *v);
    atomic_init(&v->references, 1);
    v->model = model_retain(m);
    v->overlay = mem_new(m->n_groups * sizeof *v->overlay);
    v->changed = mem_new(m->n_tensors * sizeof *v->changed);
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
    for (size_t g = 0; g < v->model->n_groups; g++) overlay_drop(v->overlay[g]);
    mem_drop(v->overlay);
    mem_drop(v->changed);
    model_drop(v->model);
    mem_drop(v);
}

static const float *group(const struct view *v, uint32_t g)
{
    return v->overlay[g] ? v->overlay[g]->data : v->model->groups[g];
}

static struct view *child(struct view *parent)
{
    struct view *v = view_base(parent->model);
    memcpy(v->changed, parent->changed, v->model->n_tensors * sizeof *v->changed);
    for (size_t g = 0; g < v->model->n_groups; g++)
        if ((v->overlay[g] = parent->overlay[g])) atomic_fetch_add(&v->overlay[g]->references, 1);
    return v;
}

/* Writable memory of a tensor in a view under construction: its group's block becomes the view's
 * own. `fresh` blocks were already copied for this view. */
static float *own(struct view *v, size_t tensor, bool *fresh, struct err *e)
{
    const struct tensor *t = &v->model->tensors[tensor];
    if (!fresh[t->group]) {
        size_t n = v->model->group_floats[t->group];
        float *data = mem_floats(n, e);
        if (!data) return NULL;
        memcpy(data, group(v, t->group), n * sizeof *data);
        overlay_drop(v->overlay[t->group]);
        struct overlay *o = v->overlay[t->group] = mem_new(sizeof *o);
        atomic_init(&o->references, 1);
        o->data = data;
        o->floats = n;
        fresh[t->group] = true;
    }
    v->changed[tensor] = true;
    return v->overlay[t->group]->data + t->offset;
}

static bool apply(struct view *v, const struct delta *d, bool *fresh, struct err *e)
{
    for (size_t i = 0; i < d->n_parts; i++) {
        const struct tensor *t = &v->model->tensors[d->parts[i].tensor];
        float *w = own(v, d->parts[i].tensor, fresh, e);
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
    bool *fresh = mem_new(v->model->n_groups * sizeof *fresh);
    bool ok = apply(v, d, fresh, e);
    mem_drop(fresh);
    if (ok) return v;
    view_drop(v);
    return NULL;
}

struct view *view_with_tensors(struct view *parent, const size_t *tensor, const float *const *data,
                               size_t n, struct err *e)
{
    struct view *v = child(parent);
    bool *fresh = mem_new(v->model->n_groups * sizeof *fresh);
    bool ok = true;
    for (size_t i = 0; i < n && ok; i++) {
        float *w = own(v, tensor[i], fresh, e);
        if ((ok = w != NULL)) memcpy(w, data[i], v->model->tensors[tensor[i]].n_elements * sizeof *w);
    }
    mem_drop(fresh);
    if (ok) return v;
    view_drop(v);
    return NULL;
}

const struct model *view_model(const struct view *v) { return v->model; }

const float *view_tensor(const struct view *v, size_t tensor)
{
    const struct tensor *t = &v->model->tensors[tensor];
    return group(v, t->group) + t->offset;
}

bool view_changes(const struct view *v, size_t tensor) { return v->changed[tensor]; }

size_t view_overlay_bytes(const struct view *v)
{
    size_t bytes = 0;
    for (size_t g = 0; g < v->model->n_groups; g++)
        if (v->overlay[g]) bytes += v->overlay[g]->floats * sizeof(float);
    return bytes;
}

static const float *layer_group(const struct view *v, enum role r, uint32_t layer)
{
    return group(v, model_group(v->model, r, layer));
}

struct layer_weights view_layer(const struct view *v, uint32_t layer)
{
    return (struct layer_weights){
        .attn_norm = layer_group(v, ROLE_ATTN_NORM, layer),
        .qkv = layer_group(v, ROLE_Q, layer),
        .o = layer_group(v, ROLE_O, layer),
        .mlp_norm = layer_group(v, ROLE_MLP_NORM, layer),
        .gate_up = layer_group(v, ROLE_GATE, layer),
        .down = layer_group(v, ROLE_DOWN, layer),
    };
}

bool view_same_layer(const struct view *a, const struct view *b, uint32_t layer)
{
    struct layer_weights x = view_layer(a, layer), y = view_layer(b, layer);
    return a->model == b->model && memcmp(&x, &y, sizeof x) == 0;
}

const float *view_embed(const struct view *v) { return layer_group(v, ROLE_EMBED, 0); }
const float *view_final_norm(const struct view *v) { return layer_group(v, ROLE_FINAL_NORM, 0); }
const float *view_head(const struct view *v)
{
    return layer_group(v, v->model->arch.tied_head ? ROLE_EMBED : ROLE_HEAD, 0);
}

enum dtype view_tensor_type(const struct view *v, size_t tensor)
{
    return v->changed[tensor] ? DTYPE_F32 : v->model->tensors[tensor].stored;
}

void view_tensor_bytes(const struct view *v, size_t tensor,
                       void (*sink)(void *, const void *, size_t), void *ctx)
{
    enum { CHUNK = 8192 };
    const float *w = view_tensor(v, tensor);
    size_t n = v->model->tensors[tensor].n_elements;
    enum dtype type = view_tensor_type(v, tensor);
    if (type == DTYPE_F32) { /* little-endian machines only, asserted below */
        sink(ctx, w, n * sizeof *w);
        return;
    }
    uint16_t narrow[CHUNK];
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t k = n - at < CHUNK ? n - at : CHUNK;
        for (size_t i = 0; i < k; i++)
            narrow[i] = type == DTYPE_F16 ? f32_to_f16(w[at + i]) : f32_to_bf16(w[at + i]);
        sink(ctx, narrow, k * sizeof *narrow);
    }
}
