#include "model.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "core/file/gguf.h"
#include "relayout.h"

struct role_row {
    bool per_layer;
    enum group group;
};
static const struct role_row roles[] = {
#define ROLE(name, per_layer, dims, rows, cols, group, present) {per_layer, GROUP_##group},
#include "tensor.def"
#undef ROLE
};
static_assert(sizeof roles / sizeof *roles == ROLE_COUNT, "one row per role");

enum { BLOCK_ALIGN = 64, ABSENT = UINT32_MAX };

struct counted { /* a model and what only this file writes */
    struct model m;
    _Atomic size_t references;
    struct arena names;
    struct tensor *tensors;
    uint32_t *index;                    /* [(layers + 1) · ROLE_COUNT] tensor, or ABSENT */
    void **block;                       /* [(layers + 1) · GROUP_COUNT] memory */
};

static struct counted *counted(struct model *m) { return (struct counted *)m; }

/* ---- the table of tensors ---------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct tensor *)a)->name, ((const struct tensor *)b)->name);
}

bool role_of_layers(enum role r) { return roles[r].per_layer; }

static size_t slot(enum role r, uint32_t layer) { return roles[r].per_layer ? layer + 1 : 0; }

static const struct tensor_name *name_of(const struct model *m, enum role r)
{
    for (const struct tensor_name *n = m->family->names; n->hub; n++)
        if (n->role == r) return n;
    return NULL;
}

static bool add_tensor(struct counted *c, const struct tensor_name *n, uint32_t layer, struct err *e)
{
    struct model *m = &c->m;
    struct tensor *t = &c->tensors[m->n_tensors++];
    char name[TENSOR_NAME_BYTES];
    *t = (struct tensor){.role = n->role, .group = roles[n->role].group, .layer = layer, .stored = DTYPE_F32};
    (void)tensor_spelled(n->hub, layer, name);
    t->name = arena_text(&c->names, name, strlen(name), e);
    if (!t->name) return false;
    arch_role_shape(&m->arch, n->role, &t->n_dims, &t->rows, &t->cols);
    if (!size_mul(t->rows, t->cols, &t->n_elements))
        return err_set(e, ERR_CORRUPT, "tensor %s is too large", name);
    m->n_parameters += t->n_elements;
    return true;
}

static bool list_tensors(struct counted *c, struct err *e)
{
    struct model *m = &c->m;
    const uint32_t L = m->arch.n_layers;
    c->tensors = mem_take((size_t)(L + 1) * ROLE_COUNT, sizeof *c->tensors, e);
    c->index = mem_take((size_t)(L + 1) * ROLE_COUNT, sizeof *c->index, e);
    c->block = mem_take((size_t)(L + 1) * GROUP_COUNT, sizeof *c->block, e);
    if (!c->tensors || !c->index || !c->block) return false;
    m->tensors = c->tensors;
    for (const struct tensor_name *n = m->family->names; n->hub; n++)
        for (uint32_t l = 0; arch_has(&m->arch, n->role) && l < (roles[n->role].per_layer ? L : 1); l++)
            if (!add_tensor(c, n, l, e)) return false;
    qsort(c->tensors, m->n_tensors, sizeof *c->tensors, by_name);
    memset(c->index, 0xff, (size_t)(L + 1) * ROLE_COUNT * sizeof *c->index);
    for (size_t i = 0; i < m->n_tensors; i++)
        c->index[slot(c->tensors[i].role, c->tensors[i].layer) * ROLE_COUNT + c->tensors[i].role] = (uint32_t)i;
    return true;
}

/* ---- finding them in the file, and what they will be in memory --------------------------------- */

/* Some checkpoints have another prefix, or none. */
static const struct file_tensor *locate(const struct model *m, const struct tensor *t)
{
    char name[TENSOR_NAME_BYTES], other[TENSOR_NAME_BYTES + 32];
    const char *prefix = m->family->prefix;
    if (modelfile_gguf(m->file))
        return modelfile_find(m->file, tensor_spelled(name_of(m, t->role)->gguf, t->layer, name));
    const struct file_tensor *f = modelfile_find(m->file, t->name);
    size_t n = strlen(prefix);
    if (f || strncmp(t->name, prefix, n) != 0) return f;
    (void)snprintf(other, sizeof other, "%s%s", m->family->other_prefix, t->name + n);
    return modelfile_find(m->file, other);
}

/* Each tensor of a GGUF is one that the block computes with, or a list of rotary divisors: else the file
 * asks for more. (A directory may hold anything beside its model, as in transformers.) */
static bool none_is_left(const struct model *m, struct err *e)
{
    size_t n = modelfile_count(m->file);
    const struct file_tensor *first = modelfile_tensor(m->file, 0);
    bool *taken = mem_take(n, sizeof *taken, e);
    if (!taken) return false;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct file_tensor *f = locate(m, &m->tensors[i]);
        if (f) taken[f - first] = true;
    }
    for (size_t i = 0; i < n; i++) taken[i] = taken[i] || strncmp(first[i].name, "rope_", 5) == 0;
    size_t left = 0;
    while (left < n && taken[left]) left++;
    mem_drop(taken);
    return left == n || err_set(e, ERR_UNSUPPORTED, "%s: tensor %s has no place in this family", modelfile_path(m->file),
                                first[left].name);
}

/* A directory may hold anything beside its model, as in transformers, but no weights of the model that its
 * config.json leaves out: further layers, biases. An unembedding beside a tied one is left alone. */
static bool none_is_left_out(const struct model *m, struct err *e)
{
    const uint32_t L = m->arch.n_layers;
    char name[TENSOR_NAME_BYTES];
    for (const struct tensor_name *n = m->family->names; n->hub; n++)
        for (uint32_t l = 0; n->role != ROLE_HEAD && l <= (roles[n->role].per_layer ? L : 0); l++) {
            struct tensor t = {.name = tensor_spelled(n->hub, l, name), .role = n->role, .layer = l};
            bool listed = arch_has(&m->arch, n->role) && (l < L || !roles[n->role].per_layer);
            const struct file_tensor *f = listed ? NULL : locate(m, &t);
            if (f && !f->other)
                return err_set(e, ERR_UNSUPPORTED, "%s: config.json leaves out tensor %s", modelfile_path(m->file), f->name);
        }
    return true;
}

static enum relayout layout_of(const struct model *m, const struct tensor *t)
{
    return modelfile_gguf(m->file) ? name_of(m, t->role)->gguf_layout : AS_IS;
}

static bool check_shape(const struct model *m, const struct tensor *t, const struct file_tensor *f, struct err *e)
{
    bool vector = t->n_dims == 1, turned = layout_of(m, t) == TRANSPOSED;
    uint64_t rows = vector || turned ? t->cols : t->rows, cols = vector ? 1 : turned ? t->rows : t->cols;
    if (f->n_dims == t->n_dims && f->shape[0] == rows && (vector || f->shape[1] == cols)) return true;
    return err_set(e, ERR_CORRUPT, "%s: tensor %s has shape [%llu,%llu], [%llu,%llu] expected",
                   modelfile_path(m->file), f->name, (unsigned long long)f->shape[0],
                   (unsigned long long)(f->n_dims > 1 ? f->shape[1] : 1), (unsigned long long)rows,
                   (unsigned long long)cols);
}

/* Matrices stay as the file has them where their order allows; vectors are float32. */
static bool plan_tensor(const struct model *m, struct tensor *t, struct err *e)
{
    const struct file_tensor *f = locate(m, t);
    if (!f)
        return err_set(e, ERR_CORRUPT, "%s: tensor %s is missing", modelfile_path(m->file), t->name);
    if (f->other)
        return err_set(e, ERR_UNSUPPORTED, "%s: tensor %s %s, which is not supported", modelfile_path(m->file),
                       f->name, f->other);
    if (!check_shape(m, t, f, e)) return false;
    enum relayout how = layout_of(m, t);
    bool kept = t->n_dims == 2 && relayout_keeps(how, f->type);
    bool narrow = f->type == DTYPE_F16 || f->type == DTYPE_BF16;
    t->stored = narrow && how != PLUS_ONE ? f->type : DTYPE_F32;
    t->memory = matrix_of(kept ? f->type : DTYPE_F32, NULL, t->rows, t->cols);
    return true;
}

static size_t held_bytes(const struct tensor *t) { return t->rows * t->memory.row_bytes; }

/* One block per layer and group; members follow each other in the order of core/tensor.def, without
 * a gap where their types agree. taken grows by what the block takes; without `allocate` that is all. */
static bool place_group(struct counted *c, uint32_t first_slot, enum group g, bool allocate, size_t *taken, struct err *e)
{
    size_t at[ROLE_COUNT], bytes = 0;
    const struct tensor *last = NULL;
    for (unsigned r = 0; r < ROLE_COUNT; r++) {
        uint32_t i = c->index[(size_t)first_slot * ROLE_COUNT + r];
        if (roles[r].group != g || i == ABSENT) continue;
        const struct tensor *t = &c->tensors[i];
        if (last && last->memory.type != t->memory.type) bytes = (bytes + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
        at[r] = bytes;
        bytes += held_bytes(t);
        last = t;
    }
    size_t floats = (bytes + 3) / sizeof(float);
    *taken += last ? mem_floats_bytes(floats) : 0;
    if (!last || !allocate) return true;
    unsigned char *block = (unsigned char *)mem_floats(floats, e);
    if (!block) return false;
    c->block[(size_t)first_slot * GROUP_COUNT + g] = block;
    for (unsigned r = 0; r < ROLE_COUNT; r++) {
        uint32_t i = c->index[(size_t)first_slot * ROLE_COUNT + r];
        if (roles[r].group == g && i != ABSENT) c->tensors[i].memory.data = block + at[r];
    }
    c->m.memory_bytes += bytes;
    return true;
}

static bool place_all(struct counted *c, bool allocate, size_t *taken, struct err *e)
{
    *taken = 0;
    for (uint32_t s = 0; s <= c->m.arch.n_layers; s++)
        for (unsigned g = 0; g < GROUP_COUNT; g++)
            if (!place_group(c, s, (enum group)g, allocate, taken, e)) return false;
    return true;
}

static bool lay_out(struct counted *c, const struct model_loading *how, struct err *e)
{
    size_t bytes;
    for (size_t i = 0; i < c->m.n_tensors; i++)
        if (!plan_tensor(&c->m, &c->tensors[i], e)) return false;
    if (!(modelfile_gguf(c->m.file) ? none_is_left(&c->m, e) : none_is_left_out(&c->m, e))) return false;
    return place_all(c, false, &bytes, e) && (!how->afford || how->afford(how->ctx, bytes, e)) &&
           place_all(c, true, &bytes, e);
}

static bool load_tensor(const struct counted *c, const struct tensor *t, struct err *e)
{
    const struct model *m = &c->m;
    /* This file allocated the block and is the only writer. */
    unsigned char *block = c->block[slot(t->role, t->layer) * GROUP_COUNT + t->group];
    void *data = block + ((const unsigned char *)t->memory.data - block);
    return modelfile_read(m->file, locate(m, t), t->memory.type, data, e) &&
           relayout(&m->arch, t, layout_of(m, t), data, e);
}

/* ---- loading ----------------------------------------------------------------------------------- */

static bool rotary_tables(struct model *m, struct err *e)
{
    for (int w = 0; w < 2 && m->arch.positions == POSITIONS_ROTARY; w++) {
        m->frequencies[w] = mem_floats(m->arch.rotary.dim / 2, e);
        if (!m->frequencies[w]) return false;
        arch_frequencies(&m->arch, w == 1, m->frequencies[w]);
    }
    return true;
}

/* One decoded token reads every weight but rows of embeddings (unless they are the head too). */
static size_t token_bytes(const struct model *m)
{
    size_t bytes = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        enum role r = m->tensors[i].role;
        bool looked_up = r == ROLE_POS_EMBED || (r == ROLE_EMBED && !m->arch.tied_head);
        bytes += looked_up ? 0 : held_bytes(&m->tensors[i]);
    }
    return bytes;
}

static bool load(struct counted *c, const char *path, const struct model_loading *how, struct err *e)
{
    struct model *m = &c->m;
    m->file = modelfile_open(path, e);
    if (!m->file || !arch_read(m->file, &m->arch, &m->family, e)) return false;
    m->tokenizer = tokenizer_new(m->file, e);
    if (!m->tokenizer || !list_tensors(c, e) || !lay_out(c, how, e) || !rotary_tables(m, e)) return false;
    tokenizer_bind(m->tokenizer, m->arch.d_vocab);
    size_t done = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        if (!load_tensor(c, &c->tensors[i], e)) return false;
        done += c->tensors[i].n_elements;
        if (how->progress) how->progress(how->ctx, done, m->n_parameters);
    }
    m->token_bytes = token_bytes(m);
    return true;
}

char *model_default_name(const char *path)
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
    return model_open_as(path, name, &(struct model_loading){.progress = progress, .ctx = ctx}, e);
}

struct model *model_open_as(const char *path, const char *name, const struct model_loading *how, struct err *e)
{
    struct counted *c = mem_new(sizeof *c);
    atomic_init(&c->references, 1);
    c->m.path = mem_text(path);
    c->m.name = name ? mem_text(name) : model_default_name(path);
    c->m.overlay_bytes = how->overlay_bytes;
    if (load(c, path, how, e)) return &c->m;
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
    for (size_t i = 0; c->block && i < (size_t)(m->arch.n_layers + 1) * GROUP_COUNT; i++) mem_drop(c->block[i]);
    mem_drop(c->block);
    mem_drop(c->index);
    mem_drop(c->tensors);
    mem_drop(m->frequencies[0]);
    mem_drop(m->frequencies[1]);
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
    const struct counted *c = (const struct counted *)m;
    assert(layer < m->arch.n_layers);
    uint32_t i = c->index[slot(role, layer) * ROLE_COUNT + role];
    if (i != ABSENT) *index = i;
    return i != ABSENT;
}
