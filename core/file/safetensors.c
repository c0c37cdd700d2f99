#include "safetensors.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { PREFIX_BYTES = 8, MAX_HEADER_BYTES = 100 * 1000 * 1000 };
static const size_t budget_bytes = (size_t)1 << 30; /* for the header's JSON tree */

/* A number that counts something. */
static bool is_count(const struct json *v)
{
    return v->type == JSON_NUMBER && v->is_int && v->integer >= 0;
}

/* That no weight is like this, in words after "tensor 'x'"; said once. */
static bool is_other(struct file_tensor *t, struct arena *names, struct err *e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static bool is_other(struct file_tensor *t, struct arena *names, struct err *e, const char *format, ...)
{
    char text[64];
    va_list list;
    if (t->other) return true;
    va_start(list, format);
    (void)vsnprintf(text, sizeof text, format, list);
    va_end(list);
    t->other = arena_text(names, text, strlen(text), e);
    return t->other != NULL;
}

static bool read_shape(const struct json *shape, struct file_tensor *t, struct arena *names, struct err *e)
{
    enum { WEIGHT_DIMS = sizeof t->shape / sizeof *t->shape };
    bool empty = false;
    if (!shape || shape->type != JSON_ARRAY)
        return err_set(e, ERR_CORRUPT, "tensor '%s' has no shape", t->name);
    for (const struct json *n = shape->child; n; n = n->next) {
        if (!is_count(n))
            return err_set(e, ERR_CORRUPT, "tensor '%s' has a malformed shape", t->name);
        if (t->n_dims < WEIGHT_DIMS) t->shape[t->n_dims++] = (uint64_t)n->integer;
        empty = empty || n->integer == 0;
    }
    if (shape->len < 1 || shape->len > WEIGHT_DIMS)
        return is_other(t, names, e, "has %zu dimensions", shape->len);
    return !empty || is_other(t, names, e, "has no elements");
}

static bool read_dtype(const struct json *dtype, struct file_tensor *t, struct arena *names, struct err *e)
{
    if (!dtype || dtype->type != JSON_STRING)
        return err_set(e, ERR_CORRUPT, "tensor '%s' has no dtype", t->name);
    return dtype_from_safetensors(dtype->text, &t->type) ||
           is_other(t, names, e, "is of type %s", dtype->len <= 16 ? dtype->text : "(a long text)");
}

/* The offsets as the header has them: relative to the data. */
static bool read_offsets(const struct json *offsets, const char *name, uint64_t *begin,
                         uint64_t *end, struct err *e)
{
    if (!offsets || offsets->type != JSON_ARRAY || offsets->len != 2 || !is_count(offsets->child) ||
        !is_count(offsets->child->next))
        return err_set(e, ERR_CORRUPT, "tensor '%s' has no pair of data_offsets", name);
    *begin = (uint64_t)offsets->child->integer;
    *end = (uint64_t)offsets->child->next->integer;
    if (*begin > *end)
        return err_set(e, ERR_CORRUPT,
                       "tensor '%s' ends at %" PRIu64 ", before it begins at %" PRIu64, name, *end,
                       *begin);
    return true;
}

static bool read_entry(const struct json *m, uint64_t data_at, struct file_tensor t,
                       struct tensor_list *out, struct arena *names, struct err *e)
{
    uint64_t begin = 0, end = 0;
    if (m->type != JSON_OBJECT || m->len != 3)
        return err_set(e, ERR_CORRUPT,
                       "tensor '%s' is not described by dtype, shape and data_offsets", t.name);
    if (!read_dtype(json_get(m, "dtype"), &t, names, e) || !read_shape(json_get(m, "shape"), &t, names, e) ||
        !read_offsets(json_get(m, "data_offsets"), t.name, &begin, &end, e))
        return false;
    t.offset = data_at + begin; /* at most 2^63 + 10^8: no overflow */
    t.n_bytes = end - begin;
    if (!tensor_list_add(out, t, e)) return false;
    uint64_t wanted = tensor_list_row(out, out->n - 1)->n_bytes;
    if (end - begin == wanted) return true;
    return err_set(e, ERR_CORRUPT,
                   "tensor '%s' takes %" PRIu64 " bytes, its type and shape make %" PRIu64, t.name,
                   end - begin, wanted);
}

static bool read_entries(const struct json *header, const struct infile *f, uint64_t data_at,
                         uint32_t file, struct tensor_list *out, struct arena *names, struct err *e)
{
    size_t first = out->n;
    if (header->type != JSON_OBJECT)
        return err_set(e, ERR_CORRUPT, "the header is not a JSON object");
    for (const struct json *m = header->child; m; m = m->next) {
        if (strcmp(m->key, "__metadata__") == 0) continue;
        if (!tensor_name_check(m->key, m->key_len, e)) return false;
        struct file_tensor t = {.name = arena_text(names, m->key, m->key_len, e), .file = file};
        if (!t.name || !read_entry(m, data_at, t, out, names, e)) return false;
    }
    return tensor_list_layout(out, first, data_at, f->size_bytes, true, e);
}

static bool read_header(const struct infile *f, uint64_t *len, struct err *e)
{
    if (!infile_read(f, 0, len, PREFIX_BYTES, e))
        return err_while(e, "reading the header's length");
    if (*len > f->size_bytes - PREFIX_BYTES)
        return err_set(e, ERR_CORRUPT,
                       "truncated, or not a safetensors file: a header of %" PRIu64
                       " bytes is due at byte %d, but the file ends at byte %" PRIu64,
                       *len, PREFIX_BYTES, f->size_bytes);
    if (*len > MAX_HEADER_BYTES)
        return err_set(e, ERR_TOO_LARGE, "a header of %" PRIu64 " bytes, at most %d are read", *len,
                       MAX_HEADER_BYTES);
    return true;
}

bool safetensors_read(const struct infile *f, uint32_t file, struct tensor_list *out,
                      struct arena *names, struct err *e)
{
    uint64_t len;
    if (!read_header(f, &len, e)) return false;
    char *text = mem_take((size_t)len, 1, e);
    if (!text) return false;
    struct arena tree;
    arena_init(&tree, budget_bytes);
    bool ok = infile_read(f, PREFIX_BYTES, text, (size_t)len, e);
    const struct json *header = ok ? json_parse(text, (size_t)len, &tree, e) : NULL;
    if (ok && !header) {
        if (e->code == ERR_INVALID) e->code = ERR_CORRUPT; /* the file's fault, not a caller's */
        (void)err_while(e, "reading the header");
    }
    ok = header && read_entries(header, f, PREFIX_BYTES + len, file, out, names, e);
    arena_release(&tree);
    mem_drop(text);
    return ok;
}
