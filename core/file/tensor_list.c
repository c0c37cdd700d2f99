#include "tensor_list.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

void tensor_list_release(struct tensor_list *l)
{
    buf_release(&l->rows);
    mem_drop(l->sorted);
    *l = (struct tensor_list){0};
}

struct file_tensor *tensor_list_row(const struct tensor_list *l, size_t i)
{
    assert(i < l->n);
    return (struct file_tensor *)(void *)l->rows.data + i; /* realloc'd: aligned for anything */
}

const struct file_tensor *tensor_list_at(const struct tensor_list *l, size_t i)
{
    return tensor_list_row(l, i);
}

bool tensor_name_check(const char *name, size_t len, struct err *e)
{
    size_t bad;
    if (len == 0) return err_set(e, ERR_CORRUPT, "an empty name");
    if (len > TENSOR_NAME_MAX_BYTES)
        return err_set(e, ERR_TOO_LARGE, "a name of %zu bytes, at most %d are read", len,
                       TENSOR_NAME_MAX_BYTES);
    if (!utf8_valid(name, len, &bad))
        return err_set(e, ERR_CORRUPT, "a name that is not UTF-8 from its byte %zu on", bad);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F)
            return err_set(e, ERR_CORRUPT, "a name with control characters");
    return true;
}

/* n_elements and n_bytes from type and shape. */
static bool measure(struct file_tensor *t, struct err *e)
{
    const struct dtype_info *d = dtype_info(t->type);
    if (t->n_dims < 1 || t->n_dims > 4)
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor '%s' has %" PRIu32 " dimensions, 1 to 4 are read", t->name,
                       t->n_dims);
    uint64_t n = 1, row = t->shape[t->n_dims - 1], bytes;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 0)
            return err_set(e, ERR_CORRUPT, "tensor '%s' has no elements", t->name);
        if (__builtin_mul_overflow(n, t->shape[i], &n))
            return err_set(e, ERR_CORRUPT, "tensor '%s' has more than 2^64 elements", t->name);
    }
    if (row % d->block != 0)
        return err_set(e, ERR_CORRUPT,
                       "tensor '%s' has rows of %" PRIu64 " elements, not a whole number of %s "
                       "blocks of %" PRIu32,
                       t->name, row, d->word, d->block);
    if (__builtin_mul_overflow(n / d->block, (uint64_t)d->bytes, &bytes))
        return err_set(e, ERR_CORRUPT, "tensor '%s' has more than 2^64 bytes", t->name);
    for (uint32_t i = t->n_dims; i < 4; i++) t->shape[i] = 1;
    t->n_elements = n;
    t->n_bytes = bytes;
    return true;
}

bool tensor_list_add(struct tensor_list *l, struct file_tensor t, struct err *e)
{
    assert(l->sorted == NULL);
    if (!t.other && !measure(&t, e)) return false;
    if (l->n == TENSOR_LIST_MAX)
        return err_set(e, ERR_TOO_LARGE, "more than %d tensors", TENSOR_LIST_MAX);
    buf_put(&l->rows, &t, sizeof t);
    if (!buf_ok(&l->rows, e)) return false;
    l->n++;
    return true;
}

/* Empty ones before what begins at the same byte. */
static int by_offset(const void *pa, const void *pb)
{
    const struct file_tensor *a = *(const struct file_tensor *const *)pa;
    const struct file_tensor *b = *(const struct file_tensor *const *)pb;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return a->n_bytes < b->n_bytes ? -1 : a->n_bytes > b->n_bytes;
}

static int by_name(const void *pa, const void *pb)
{
    const struct file_tensor *a = *(const struct file_tensor *const *)pa;
    const struct file_tensor *b = *(const struct file_tensor *const *)pb;
    return strcmp(a->name, b->name);
}

/* Pointers to the rows from `first` on, sorted; mem_drop them. */
static const struct file_tensor **sort_rows(const struct tensor_list *l, size_t first,
                                            int (*compare)(const void *, const void *),
                                            struct err *e)
{
    assert(first <= l->n);
    const struct file_tensor **p = mem_take(l->n - first, sizeof(struct file_tensor *), e);
    if (!p) return NULL;
    for (size_t i = first; i < l->n; i++) p[i - first] = tensor_list_row(l, i);
    qsort(p, l->n - first, sizeof *p, compare);
    return p;
}

static bool inside(const struct file_tensor *t, uint64_t begin, uint64_t end, struct err *e)
{
    if (t->offset >= begin && t->offset <= end && t->n_bytes <= end - t->offset) return true;
    return err_set(e, ERR_CORRUPT,
                   "truncated: tensor '%s' needs %" PRIu64 " bytes at byte %" PRIu64
                   ", but the tensor data is bytes %" PRIu64 " to %" PRIu64,
                   t->name, t->n_bytes, t->offset, begin, end);
}

bool tensor_list_layout(const struct tensor_list *l, size_t first, uint64_t begin, uint64_t end,
                        bool packed, struct err *e)
{
    const struct file_tensor **p = sort_rows(l, first, by_offset, e);
    if (!p) return false;
    uint64_t next = begin;
    bool ok = true;
    for (size_t i = 0; ok && i < l->n - first; i++) {
        const struct file_tensor *t = p[i];
        if (!inside(t, begin, end, e))
            ok = false;
        else if (t->offset < next)
            ok = err_set(e, ERR_CORRUPT, "tensors '%s' and '%s' overlap at byte %" PRIu64,
                         p[i - 1]->name, t->name, t->offset);
        else if (packed && t->offset > next)
            ok =
                err_set(e, ERR_CORRUPT,
                        "bytes %" PRIu64 " to %" PRIu64 ", before tensor '%s', belong to no tensor",
                        next, t->offset, t->name);
        next = t->offset + t->n_bytes;
    }
    if (ok && packed && next != end)
        ok = err_set(e, ERR_CORRUPT, "bytes %" PRIu64 " to %" PRIu64 " belong to no tensor", next,
                     end);
    mem_drop(p);
    return ok;
}

bool tensor_list_seal(struct tensor_list *l, struct err *e)
{
    assert(l->sorted == NULL);
    l->sorted = sort_rows(l, 0, by_name, e);
    if (!l->sorted) return false;
    for (size_t i = 1; i < l->n; i++)
        if (by_name(&l->sorted[i - 1], &l->sorted[i]) == 0)
            return err_set(e, ERR_CORRUPT, "tensor '%s' appears twice", l->sorted[i]->name);
    return true;
}

const struct file_tensor *tensor_list_find(const struct tensor_list *l, const char *name)
{
    struct file_tensor wanted = {.name = name};
    const struct file_tensor *key = &wanted;
    const struct file_tensor **hit = bsearch(&key, l->sorted, l->n, sizeof key, by_name);
    return hit ? *hit : NULL;
}
