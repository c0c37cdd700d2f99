#include "delta.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "model.h"
#include "core/file/safetensors_write.h"

#define DELTA_FORMAT "engramd.delta.1"

static const char *const words[] = {
#define DELTA(name, word) word,
#include "delta.def"
#undef DELTA
};
static_assert(sizeof words / sizeof *words == DELTA_COUNT, "one word per kind");

const char *delta_kind_word(enum delta_kind k) { return words[k]; }

static size_t count_a(const struct delta_part *p, const struct tensor *t)
{
    return p->kind == DELTA_DENSE ? t->n_elements : (size_t)t->rows * p->rank;
}
static size_t count_b(const struct delta_part *p, const struct tensor *t)
{
    return p->kind == DELTA_DENSE ? 0 : (size_t)t->cols * p->rank;
}

static bool all_finite(const float *v, size_t n, const char *name, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return err_set(e, ERR_NONFINITE, "delta of %s: element %zu is not finite", name, i);
    return true;
}

static size_t delta_floats(const struct delta *d, const struct model *m)
{
    size_t n = 0;
    for (size_t i = 0; i < d->n_parts; i++)
        n += count_a(&d->parts[i], &m->tensors[d->parts[i].tensor]) + count_b(&d->parts[i], &m->tensors[d->parts[i].tensor]);
    return n;
}

static bool copy_finite(float **to, const float *from, size_t n, const char *name, struct err *e)
{
    if (!all_finite(from, n, name, e) || !(*to = mem_floats(n ? n : 1, e))) return false;
    memcpy(*to, from, n * sizeof *from);
    return true;
}

static bool fill(struct delta_part *p, const struct model *m, const float *a, const float *b,
                 struct err *e)
{
    const struct tensor *t = &m->tensors[p->tensor];
    return copy_finite(&p->a, a, count_a(p, t), t->name, e) &&
           (!b || copy_finite(&p->b, b, count_b(p, t), t->name, e));
}

static struct delta *one_part(const struct model *m, struct delta_part part, const float *a,
                              const float *b, struct err *e)
{
    struct delta *d = mem_new(sizeof *d);
    d->parts = mem_new(sizeof *d->parts);
    d->parts[0] = part;
    d->n_parts = 1;
    if (fill(d->parts, m, a, b, e)) return d;
    delta_free(d);
    return NULL;
}

struct delta *delta_new_dense(const struct model *m, size_t tensor, const float *change, struct err *e)
{
    return one_part(m, (struct delta_part){.tensor = tensor, .kind = DELTA_DENSE}, change, NULL, e);
}

struct delta *delta_new_lowrank(const struct model *m, size_t tensor, uint32_t rank, const float *a,
                                const float *b, struct err *e)
{
    return one_part(m, (struct delta_part){.tensor = tensor, .kind = DELTA_LOWRANK, .rank = rank}, a,
                    b, e);
}

void delta_free(struct delta *d)
{
    if (!d) return;
    for (size_t i = 0; i < d->n_parts; i++) {
        mem_drop(d->parts[i].a);
        mem_drop(d->parts[i].b);
    }
    mem_drop(d->parts);
    mem_drop(d);
}

static double sum_squares(const float *v, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += (double)v[i] * (double)v[i];
    return s;
}

/* ‖AB‖² = Σ_rs (AᵀA)_rs (BBᵀ)_rs: no product matrix needed. */
static double lowrank_squares(const struct delta_part *p, uint32_t rows, uint32_t cols)
{
    double total = 0;
    for (size_t r = 0; r < p->rank; r++)
        for (size_t s = 0; s < p->rank; s++) {
            double aa = 0, bb = 0;
            for (size_t i = 0; i < rows; i++)
                aa += (double)p->a[i * p->rank + r] * (double)p->a[i * p->rank + s];
            for (size_t j = 0; j < cols; j++)
                bb += (double)p->b[r * cols + j] * (double)p->b[s * cols + j];
            total += aa * bb;
        }
    return total;
}

double delta_norm(const struct delta_part *p, uint32_t rows, uint32_t cols)
{
    double squares = p->kind == DELTA_DENSE ? sum_squares(p->a, (size_t)rows * cols)
                                            : lowrank_squares(p, rows, cols);
    return sqrt(squares > 0 ? squares : 0);
}

/* ---- safetensors form ------------------------------------------------------------------------ */

static void part_name(char out[192], const struct tensor *t, const char *suffix)
{
    (void)snprintf(out, 192, "%s.%s", t->name, suffix);
}

bool delta_write(const struct delta *d, const struct model *m, struct buf *out, struct err *e)
{
    struct st_writer w = {0};
    char name[192];
    for (size_t i = 0; i < d->n_parts; i++) {
        const struct delta_part *p = &d->parts[i];
        const struct tensor *t = &m->tensors[p->tensor];
        bool dense = p->kind == DELTA_DENSE;
        part_name(name, t, dense ? "dense" : "lowrank_a");
        st_add(&w, name, DTYPE_F32, 2, (uint64_t[]){t->rows, dense ? t->cols : p->rank});
        if (dense) continue;
        part_name(name, t, "lowrank_b");
        st_add(&w, name, DTYPE_F32, 2, (uint64_t[]){p->rank, t->cols});
    }
    bool ok = st_header(&w, DELTA_FORMAT, out, e);
    st_release(&w);
    buf_reserve(out, delta_floats(d, m) * sizeof(float));
    for (size_t i = 0; ok && i < d->n_parts; i++) {
        const struct delta_part *p = &d->parts[i];
        const struct tensor *t = &m->tensors[p->tensor];
        buf_put(out, p->a, count_a(p, t) * sizeof(float));
        buf_put(out, p->b, count_b(p, t) * sizeof(float));
    }
    return ok && buf_ok(out, e);
}

/* One entry of the header: where its floats are and how many, proven to lie inside the data. */
struct entry {
    const char *data;
    uint64_t rows, cols;
};

static bool bad(struct err *e, const char *what) { return err_set(e, ERR_CORRUPT, "delta: %s", what); }

static bool read_entry(const struct json *v, const char *data, size_t n_data, struct entry *out,
                       struct err *e)
{
    const struct json *type = json_get(v, "dtype"), *shape = json_get(v, "shape"),
                      *span = json_get(v, "data_offsets");
    if (!type || type->type != JSON_STRING || strcmp(type->text, "F32") != 0 || !shape ||
        shape->type != JSON_ARRAY || shape->len != 2 || !span || span->type != JSON_ARRAY ||
        span->len != 2)
        return bad(e, "a tensor entry is not a 2-D F32 array");
    const struct json *n[4] = {shape->child, shape->child->next, span->child, span->child->next};
    for (size_t i = 0; i < 4; i++)
        if (n[i]->type != JSON_NUMBER || !n[i]->is_int || n[i]->integer < 0)
            return bad(e, "a shape or offset is no non-negative integer");
    uint64_t from = (uint64_t)n[2]->integer, to = (uint64_t)n[3]->integer;
    size_t floats, bytes;
    out->rows = (uint64_t)n[0]->integer;
    out->cols = (uint64_t)n[1]->integer;
    if (!size_mul(out->rows, out->cols, &floats) || !size_mul(floats, sizeof(float), &bytes) ||
        to > n_data || from > to || to - from != bytes)
        return bad(e, "an entry's offsets do not fit its shape or the data");
    out->data = data + from;
    return true;
}

/* The floats may lie unaligned in the buffer. */
static float *floats_of(const struct entry *x, struct err *e)
{
    size_t n = x->rows * x->cols;
    float *v = mem_floats(n ? n : 1, e);
    if (v && n) memcpy(v, x->data, n * sizeof *v);
    return v;
}

static bool ends_with(const char *name, const char *suffix, char tensor[192])
{
    size_t n = strlen(name), s = strlen(suffix);
    if (n <= s || n >= 192 || strcmp(name + n - s, suffix) != 0) return false;
    memcpy(tensor, name, n - s);
    tensor[n - s] = '\0';
    return true;
}

static bool read_part(const struct json *header, const struct json *v, const char *data,
                      size_t n_data, const struct model *m, struct delta *d, struct err *e)
{
    char tensor[192], partner[224];
    struct entry a, b = {0};
    struct delta_part p = {0};
    bool dense = ends_with(v->key, ".dense", tensor);
    if (!dense && !ends_with(v->key, ".lowrank_a", tensor)) return bad(e, "unknown entry kind");
    if (!model_find(m, tensor, &p.tensor)) return bad(e, "it names a tensor this model lacks");
    const struct tensor *t = &m->tensors[p.tensor];
    if (!read_entry(v, data, n_data, &a, e)) return false;
    p.kind = dense ? DELTA_DENSE : DELTA_LOWRANK;
    if (!dense) {
        (void)snprintf(partner, sizeof partner, "%s.lowrank_b", tensor);
        const struct json *other = json_get(header, partner);
        if (!other) return bad(e, "a lowrank_a has no lowrank_b");
        if (!read_entry(other, data, n_data, &b, e)) return false;
        p.rank = (uint32_t)a.cols;
        if (b.rows != a.cols || b.cols != t->cols || a.cols > UINT32_MAX)
            return bad(e, "the factors' shapes do not fit");
    }
    if (a.rows != t->rows || (dense && a.cols != t->cols))
        return bad(e, "its shape is not the tensor's");
    p.a = floats_of(&a, e);
    p.b = dense ? NULL : floats_of(&b, e);
    d->parts[d->n_parts++] = p; /* on failure too: delta_free drops them */
    return p.a && (dense || p.b) && all_finite(p.a, count_a(&p, t), t->name, e) &&
           (dense || all_finite(p.b, count_b(&p, t), t->name, e));
}

static int by_tensor(const void *x, const void *y)
{
    size_t a = ((const struct delta_part *)x)->tensor, b = ((const struct delta_part *)y)->tensor;
    return (a > b) - (a < b);
}

static bool read_parts(const struct json *header, const char *data, size_t n_data,
                       const struct model *m, struct delta *d, struct err *e)
{
    const struct json *format = json_get(json_get(header, "__metadata__"), "format");
    if (!format || format->type != JSON_STRING || strcmp(format->text, DELTA_FORMAT) != 0)
        return bad(e, "not in the format " DELTA_FORMAT);
    d->parts = mem_take(header->len, sizeof *d->parts, e);
    if (!d->parts) return false;
    char tensor[192];
    size_t used = 1; /* the metadata */
    for (const struct json *v = header->child; v; v = v->next) {
        if (strcmp(v->key, "__metadata__") == 0 || ends_with(v->key, ".lowrank_b", tensor)) continue;
        if (!read_part(header, v, data, n_data, m, d, e)) return false;
        used += d->parts[d->n_parts - 1].kind == DELTA_DENSE ? 1 : 2;
    }
    if (used != header->len) return bad(e, "a lowrank_b has no lowrank_a");
    qsort(d->parts, d->n_parts, sizeof *d->parts, by_tensor);
    for (size_t i = 1; i < d->n_parts; i++)
        if (d->parts[i].tensor == d->parts[i - 1].tensor) return bad(e, "two parts for one tensor");
    return d->n_parts > 0 || bad(e, "no parts");
}

struct delta *delta_read(const void *bytes, size_t n, const struct model *m, struct err *e)
{
    uint64_t head;
    const char *text = bytes;
    if (n < sizeof head) return (void)bad(e, "shorter than its header"), NULL;
    memcpy(&head, text, sizeof head);
    if (head > n - sizeof head) return (void)bad(e, "its header is longer than it"), NULL;
    struct arena arena;
    arena_init(&arena, 0);
    struct delta *d = mem_new(sizeof *d);
    const struct json *header = json_parse(text + sizeof head, head, &arena, e);
    bool ok = header && header->type == JSON_OBJECT
                  ? read_parts(header, text + sizeof head + head, n - sizeof head - head, m, d, e)
                  : bad(e, "its header is no JSON object");
    arena_release(&arena);
    if (ok) return d;
    delta_free(d);
    return NULL;
}
