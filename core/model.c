#include "model.h"

#include <assert.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/file/gguf.h"

enum group {
    GROUP_EMBED, GROUP_ATTN_NORM, GROUP_QKV, GROUP_O, GROUP_MLP_NORM, GROUP_GATE_UP, GROUP_DOWN,
    GROUP_FINAL_NORM, GROUP_HEAD, GROUP_COUNT
};

struct role_row {
    bool per_layer;
    const char *hub, *gguf;
    enum group group;
};
static const struct role_row roles[] = {
#define ROLE(name, per_layer, hub, gguf, rows, cols, group) {per_layer, hub, gguf, GROUP_##group},
#include "tensor.def"
#undef ROLE
};
static_assert(sizeof roles / sizeof *roles == ROLE_COUNT, "one row per role");

static void role_shape(const struct arch *a, enum role r, uint32_t *rows, uint32_t *cols)
{
    const uint32_t H = a->n_heads, G = a->n_kv_heads, e = a->d_head, d = a->d_model, m = a->d_mlp,
                   V = a->d_vocab;
    switch (r) {
#define ROLE(name, per_layer, hub, gguf, n_rows, n_cols, group)                                    \
    case ROLE_##name:                                                                              \
        *rows = n_rows;                                                                            \
        *cols = n_cols;                                                                            \
        return;
#include "tensor.def"
#undef ROLE
    case ROLE_COUNT: break;
    }
    *rows = *cols = 0;
}

struct counted { /* a model and what only this file writes */
    struct model m;
    _Atomic size_t references;
    struct arena names;
    struct tensor *tensors;
    size_t *group_floats;
    float **groups;
};

static struct counted *counted(struct model *m) { return (struct counted *)m; }

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

static bool has_role(const struct arch *a, enum role r) { return r != ROLE_HEAD || !a->tied_head; }

/* A group index that is unique per (layer, group): outer groups first. */
static uint32_t group_index(enum role r, uint32_t layer)
{
    return (uint32_t)((roles[r].per_layer ? layer + 1 : 0) * GROUP_COUNT + roles[r].group);
}

static bool add_tensor(struct counted *c, enum role r, uint32_t layer, struct err *e)
{
    struct model *m = &c->m;
    struct tensor *t = &c->tensors[m->n_tensors++];
    char name[128];
    int n = roles[r].per_layer ? snprintf(name, sizeof name, roles[r].hub, layer)
                               : snprintf(name, sizeof name, "%s", roles[r].hub);
    *t = (struct tensor){.role = r, .layer = layer, .stored = DTYPE_F32};
    t->name = arena_text(&c->names, name, (size_t)n, e);
    if (!t->name) return false;
    role_shape(&m->arch, r, &t->rows, &t->cols);
    t->n_dims = t->rows == 1 && (r == ROLE_ATTN_NORM || r == ROLE_MLP_NORM || r == ROLE_FINAL_NORM) ? 1 : 2;
    if (!size_mul(t->rows, t->cols, &t->n_elements))
        return err_set(e, ERR_CORRUPT, "tensor %s is too large", name);
    t->group = group_index(r, layer);
    t->offset = c->group_floats[t->group];
    c->group_floats[t->group] += t->n_elements;
    m->n_parameters += t->n_elements;
    return true;
}

static bool lay_out(struct counted *c, struct err *e)
{
    struct model *m = &c->m;
    const uint32_t L = m->arch.n_layers;
    m->n_groups = (size_t)(L + 1) * GROUP_COUNT;
    c->tensors = mem_take((size_t)(L + 1) * ROLE_COUNT, sizeof *c->tensors, e);
    c->group_floats = mem_take(m->n_groups, sizeof *c->group_floats, e);
    c->groups = mem_take(m->n_groups, sizeof *c->groups, e);
    if (!c->tensors || !c->group_floats || !c->groups) return false;
    m->tensors = c->tensors;
    m->group_floats = c->group_floats;
    m->groups = c->groups;
    for (unsigned r = 0; r < ROLE_COUNT; r++)
        for (uint32_t l = 0; l < (roles[r].per_layer ? L : 1); l++)
            if (has_role(&m->arch, (enum role)r) && !add_tensor(c, (enum role)r, l, e)) return false;
    qsort(c->tensors, m->n_tensors, sizeof *c->tensors, by_name);
    for (size_t g = 0; g < m->n_groups; g++)
        if (c->group_floats[g] && !(c->groups[g] = mem_floats(c->group_floats[g], e))) return false;
    return true;
}

/* GGUF's llama rows of one head are (0, e/2, 1, e/2+1, …); ours are (0, 1, … e−1). */
static bool unpair_rows(float *w, uint32_t heads, uint32_t e_width, uint32_t cols, struct err *e)
{
    float *head = mem_floats((size_t)e_width * cols, e);
    if (!head) return false;
    for (uint32_t h = 0; h < heads; h++) {
        float *rows = w + (size_t)h * e_width * cols;
        memcpy(head, rows, (size_t)e_width * cols * sizeof *head);
        for (uint32_t i = 0; i < e_width; i++) {
            uint32_t from = i < e_width / 2 ? 2 * i : 2 * (i - e_width / 2) + 1;
            memcpy(rows + (size_t)i * cols, head + (size_t)from * cols, cols * sizeof *head);
        }
    }
    mem_drop(head);
    return true;
}

static const struct file_tensor *locate(const struct model *m, const struct tensor *t)
{
    char name[128];
    if (!modelfile_gguf(m->file)) return modelfile_find(m->file, t->name);
    (void)(roles[t->role].per_layer ? snprintf(name, sizeof name, roles[t->role].gguf, t->layer)
                                    : snprintf(name, sizeof name, "%s", roles[t->role].gguf));
    return modelfile_find(m->file, name);
}

static bool load_tensor(struct model *m, struct tensor *t, const struct family *family, struct err *e)
{
    const struct file_tensor *f = locate(m, t);
    if (!f)
        return err_set(e, ERR_CORRUPT, "%s: tensor %s is missing", modelfile_path(m->file), t->name);
    bool vector = t->n_dims == 1;
    if (f->n_dims != t->n_dims || f->shape[0] != (vector ? t->cols : t->rows) ||
        (!vector && f->shape[1] != t->cols))
        return err_set(e, ERR_CORRUPT, "%s: tensor %s has shape [%llu,%llu], [%u,%u] expected",
                       modelfile_path(m->file), f->name, (unsigned long long)f->shape[0],
                       (unsigned long long)(f->n_dims > 1 ? f->shape[1] : 1),
                       vector ? t->cols : t->rows, vector ? 1 : t->cols);
    float *w = m->groups[t->group] + t->offset;
    if (!modelfile_read_f32(m->file, f, w, e)) return false;
    t->stored = f->type == DTYPE_F16 || f->type == DTYPE_BF16 ? f->type : DTYPE_F32;
    bool paired = modelfile_gguf(m->file) && family->gguf_qk_rows == ROWS_ROTARY_PAIRS;
    if (paired && (t->role == ROLE_Q || t->role == ROLE_K))
        return unpair_rows(w, t->role == ROLE_Q ? m->arch.n_heads : m->arch.n_kv_heads,
                           m->arch.d_head, t->cols, e);
    return true;
}

/* 1/theta^(2i/e) in float32, the way the reference rounds it: positions times this, in float32,
 * are the angles a checkpoint was trained with. */
static bool rotary_table(struct model *m, struct err *e)
{
    uint32_t half = m->arch.d_head / 2;
    m->rope_inv_freq = mem_floats(half, e);
    if (!m->rope_inv_freq) return false;
    for (uint32_t i = 0; i < half; i++)
        m->rope_inv_freq[i] =
            1.0f / powf(m->arch.rope_theta, (float)(2 * i) / (float)m->arch.d_head);
    return true;
}

static bool load(struct counted *c, const char *path,
                 void (*progress)(void *, size_t, size_t), void *ctx, struct err *e)
{
    struct model *m = &c->m;
    const struct family *family;
    m->file = modelfile_open(path, e);
    if (!m->file || !arch_read(m->file, &m->arch, &family, e)) return false;
    if (modelfile_gguf(m->file)) m->arch.tied_head = !modelfile_find(m->file, roles[ROLE_HEAD].gguf);
    m->tokenizer = tokenizer_new(m->file, e);
    if (!m->tokenizer || !lay_out(c, e) || !rotary_table(m, e)) return false;
    if (tokenizer_size(m->tokenizer) > m->arch.d_vocab)
        return err_set(e, ERR_CORRUPT, "%s: the tokenizer has %u tokens, the model %u", path,
                       tokenizer_size(m->tokenizer), m->arch.d_vocab);
    size_t done = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (!load_tensor(m, &c->tensors[i], family, e)) return false;
        done += c->tensors[i].n_elements;
        if (progress) progress(ctx, done, m->n_parameters);
    }
    /* One decoded token reads every weight but the embedding's rows (unless it is the head too). */
    size_t embed = (size_t)m->arch.d_vocab * m->arch.d_model;
    m->weight_bytes = (m->n_parameters - (m->arch.tied_head ? 0 : embed)) * sizeof(float);
    return true;
}

static char *default_name(const char *path)
{
    size_t n = strlen(path);
    while (n && path[n - 1] == '/') n--;
    size_t from = n;
    while (from && path[from - 1] != '/') from--;
    char *name = mem_text(path + from);
    name[n - from] = '\0';
    char *dot = strrchr(name, '.');
    if (dot && strcmp(dot, ".gguf") == 0) *dot = '\0';
    for (char *p = name; *p; p++)
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p - 'A' + 'a');
    return name;
}

struct model *model_open(const char *path, const char *name,
                         void (*progress)(void *, size_t, size_t), void *ctx, struct err *e)
{
    struct counted *c = mem_new(sizeof *c);
    atomic_init(&c->references, 1);
    c->m.path = mem_text(path);
    c->m.name = name ? mem_text(name) : default_name(path);
    if (load(c, path, progress, ctx, e)) return &c->m;
    model_drop(&c->m);
    return NULL;
}

struct model *model_retain(struct model *m)
{
    atomic_fetch_add(&counted(m)->references, 1);
    return m;
}

void model_drop(struct model *m)
{
    if (!m || atomic_fetch_sub(&counted(m)->references, 1) != 1) return;
    struct counted *c = counted(m);
    for (size_t g = 0; c->groups && g < m->n_groups; g++) mem_drop(c->groups[g]);
    mem_drop(c->groups);
    mem_drop(c->group_floats);
    mem_drop(c->tensors);
    mem_drop(m->rope_inv_freq);
    tokenizer_free(m->tokenizer);
    modelfile_close(m->file);
    mem_drop(m->path);
    mem_drop(m->name);
    arena_release(&c->names);
    mem_drop(c);
}

bool model_find(const struct model *m, const char *name, size_t *index)
{
    struct tensor key = {.name = name};
    const struct tensor *t = bsearch(&key, m->tensors, m->n_tensors, sizeof key, by_name);
    if (t) *index = (size_t)(t - m->tensors);
    return t != NULL;
}

bool model_role(const struct model *m, enum role role, uint32_t layer, size_t *index)
{
    for (size_t i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].role == role && m->tensors[i].layer == layer) {
            *index = i;
            return true;
        }
    return false;
}

uint32_t model_group(const struct model *m, enum role role, uint32_t layer)
{
    assert(layer < m->arch.n_layers && has_role(&m->arch, role));
    return group_index(role, layer);
}
