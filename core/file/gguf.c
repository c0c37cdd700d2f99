#include "gguf.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "infile.h"
#include "tensor_list.h"

/* The file: magic, version, two counts; `n_values` times key, type, value; `n_tensors` times name,
 * dimensions (innermost first), type, offset; padding to the alignment; tensor data. Strings are
 * a 64-bit length and bytes. All little-endian. */

/* Ends of reason, far above any real file, so that a sparse file of a petabyte cannot ask for
 * memory its lengths seem to justify. */
enum {
    MAX_VALUES = 1 << 16,
    MAX_ITEMS = 1 << 24, /* of an array */
    MAX_TEXT_BYTES = 1 << 26,
    MAX_DIMS = 4,
    MAX_ALIGNMENT = 1 << 20,
    DEFAULT_ALIGNMENT = 32,
};
static const size_t budget_bytes = (size_t)1 << 30;

enum kind { SIGNED, UNSIGNED, FLOATING, BOOLEAN, TEXT, ARRAY };

/* Row i is GGUF's value type i. */
static const struct {
    enum kind kind;
    size_t bytes; /* the least an item takes in the file */
} types[] = {
    {UNSIGNED, 1}, {SIGNED, 1},   {UNSIGNED, 2}, {SIGNED, 2}, {UNSIGNED, 4},
    {SIGNED, 4},   {FLOATING, 4}, {BOOLEAN, 1},  {TEXT, 8},   {ARRAY, 12},
    {UNSIGNED, 8}, {SIGNED, 8},   {FLOATING, 8},
};
enum { TYPE_COUNT = sizeof types / sizeof *types };
static_assert(TYPE_COUNT == 13, "GGUF has 13 value types");

struct value {
    const char *key;
    enum kind kind; /* of the items, where it is an array */
    bool is_array;
    bool served; /* false: present, but not to be had through the getters */
    union {
        int64_t integer;
        double number;
        const char *text;
        struct gguf_strings strings;
        struct gguf_ints ints;
        struct gguf_floats floats;
    };
};

struct gguf {
    struct infile file;
    struct arena arena;
    struct value *values; /* sorted by key */
    size_t n_values;
    struct tensor_list tensors;
};

struct reader {
    struct cursor c;
    struct gguf *g;
    uint64_t n_tensors, n_values;
    struct err *e;
};

/* ---- scalars and strings -------------------------------------------------------------------- */

static bool read_text(struct reader *r, size_t max_bytes, const char **text, size_t *len)
{
    uint64_t n, at = r->c.at;
    if (!cursor_u64(&r->c, &n, r->e)) return false;
    if (!cursor_holds(&r->c, n, 1, r->e))
        return err_while(r->e, "reading a string at byte %" PRIu64, at);
    if (n > max_bytes)
        return err_set(r->e, ERR_TOO_LARGE,
                       "a string of %" PRIu64 " bytes at byte %" PRIu64 ", at most %zu are read", n,
                       at, max_bytes);
    char *p = arena_take(&r->g->arena, (size_t)n + 1, 1, r->e);
    if (!p || !cursor_bytes(&r->c, p, (size_t)n, r->e)) return false;
    size_t bad;
    if (!utf8_valid(p, (size_t)n, &bad))
        return err_set(r->e, ERR_CORRUPT,
                       "the string at byte %" PRIu64 " is not UTF-8 from its byte %zu on", at, bad);
    *text = p;
    *len = (size_t)n;
    return true;
}

/* A string that names something, so that it can stand in an error sentence. */
static bool read_name(struct reader *r, const char **name)
{
    uint64_t at = r->c.at;
    size_t len;
    if (!read_text(r, MAX_TEXT_BYTES, name, &len)) return false;
    return tensor_name_check(*name, len, r->e) ||
           err_while(r->e, "reading a name at byte %" PRIu64, at);
}

/* The number at `raw` by its type. False: it has no place in *integer or *number. */
static bool decode(uint32_t type, const unsigned char *raw, int64_t *integer, double *number)
{
    size_t bytes = types[type].bytes;
    uint64_t bits = 0;
    memcpy(&bits, raw, bytes);
    if (types[type].kind == FLOATING) {
        float single;
        memcpy(&single, raw, sizeof single);
        if (bytes == sizeof single)
            *number = (double)single;
        else
            memcpy(number, raw, sizeof *number);
        return true;
    }
    unsigned unused = 64 - 8 * (unsigned)bytes;
    *integer = (int64_t)(bits << unused);
    *integer = types[type].kind == SIGNED ? *integer >> unused : (int64_t)bits;
    return types[type].kind == SIGNED || bits <= INT64_MAX;
}

static bool read_scalar(struct reader *r, uint32_t type, struct value *v)
{
    unsigned char raw[8] = {0};
    uint64_t at = r->c.at;
    if (!cursor_bytes(&r->c, raw, types[type].bytes, r->e)) return false;
    int64_t integer = 0;
    double number = 0;
    v->served = decode(type, raw, &integer, &number);
    if (v->kind == BOOLEAN && integer > 1)
        return err_set(r->e, ERR_CORRUPT, "a truth value of %" PRId64 " at byte %" PRIu64, integer,
                       at);
    if (v->kind == FLOATING)
        v->number = number;
    else
        v->integer = integer;
    return true;
}

/* ---- arrays --------------------------------------------------------------------------------- */

static bool read_strings(struct reader *r, size_t n, struct value *v)
{
    const char **text = arena_take(&r->g->arena, n, sizeof *text, r->e);
    uint32_t *len = text ? arena_take(&r->g->arena, n, sizeof *len, r->e) : NULL;
    if (!len) return false;
    for (size_t i = 0, bytes; i < n; i++) {
        if (!read_text(r, MAX_TEXT_BYTES, &text[i], &bytes))
            return err_while(r->e, "reading item %zu", i);
        len[i] = (uint32_t)bytes;
    }
    v->strings = (struct gguf_strings){n, text, len};
    v->served = true;
    return true;
}

/* Integers, truth values (as 0 and 1) and floats of single precision (token scores, say) are kept;
 * others have no getter and are only walked over. */
static bool read_numbers(struct reader *r, uint32_t type, size_t n, struct value *v)
{
    bool keep = types[type].kind != FLOATING;
    bool floats = types[type].kind == FLOATING && types[type].bytes == sizeof(float);
    int64_t *values = keep ? arena_take(&r->g->arena, n, sizeof *values, r->e) : NULL;
    float *numbers = floats ? arena_take(&r->g->arena, n, sizeof *numbers, r->e) : NULL;
    if ((keep && !values) || (floats && !numbers)) return false;
    struct value item = {.kind = types[type].kind};
    v->served = keep || floats;
    for (size_t i = 0; i < n; i++) {
        if (!read_scalar(r, type, &item)) return err_while(r->e, "reading item %zu", i);
        v->served = v->served && item.served;
        if (keep) values[i] = item.integer;
        if (floats) numbers[i] = (float)item.number;
    }
    if (keep) v->ints = (struct gguf_ints){n, values};
    if (floats) v->floats = (struct gguf_floats){n, numbers};
    return true;
}

static bool read_array(struct reader *r, struct value *v)
{
    uint32_t type;
    uint64_t n;
    if (!cursor_u32(&r->c, &type, r->e) || !cursor_u64(&r->c, &n, r->e)) return false;
    if (type >= TYPE_COUNT)
        return err_set(r->e, ERR_CORRUPT, "an array of the unknown type %" PRIu32, type);
    if (types[type].kind == ARRAY) return err_set(r->e, ERR_UNSUPPORTED, "an array of arrays");
    if (!cursor_holds(&r->c, n, types[type].bytes, r->e)) return false;
    if (n > MAX_ITEMS)
        return err_set(r->e, ERR_TOO_LARGE, "an array of %" PRIu64 " items, at most %d are read", n,
                       MAX_ITEMS);
    v->is_array = true;
    v->kind = types[type].kind;
    return v->kind == TEXT ? read_strings(r, (size_t)n, v) : read_numbers(r, type, (size_t)n, v);
}

/* ---- the value table ------------------------------------------------------------------------ */

static bool read_value(struct reader *r, struct value *v)
{
    uint32_t type;
    size_t len;
    if (!cursor_u32(&r->c, &type, r->e)) return false;
    if (type >= TYPE_COUNT)
        return err_set(r->e, ERR_CORRUPT, "a value of the unknown type %" PRIu32, type);
    v->kind = types[type].kind;
    if (v->kind == ARRAY) return read_array(r, v);
    if (v->kind != TEXT) return read_scalar(r, type, v);
    v->served = true;
    return read_text(r, MAX_TEXT_BYTES, &v->text, &len);
}

static int by_key(const void *pa, const void *pb)
{
    const struct value *a = pa, *b = pb;
    return strcmp(a->key, b->key);
}

static bool read_values(struct reader *r)
{
    struct gguf *g = r->g;
    if (!cursor_holds(&r->c, r->n_values, 8 + 1 + 4 + 1, r->e)) return false; /* key, type, value */
    if (r->n_values > MAX_VALUES)
        return err_set(r->e, ERR_TOO_LARGE, "%" PRIu64 " values, at most %d are read", r->n_values,
                       MAX_VALUES);
    g->n_values = (size_t)r->n_values;
    g->values = arena_take(&g->arena, g->n_values, sizeof *g->values, r->e);
    if (!g->values) return false;
    for (size_t i = 0; i < g->n_values; i++) {
        struct value *v = &g->values[i];
        uint64_t at = r->c.at;
        if (!read_name(r, &v->key)) return err_while(r->e, "reading key %zu", i);
        if (!read_value(r, v))
            return err_while(r->e, "reading key '%s' at byte %" PRIu64, v->key, at);
    }
    if (g->n_values) qsort(g->values, g->n_values, sizeof *g->values, by_key);
    for (size_t i = 1; i < g->n_values; i++)
        if (by_key(&g->values[i - 1], &g->values[i]) == 0)
            return err_set(r->e, ERR_CORRUPT, "the key '%s' appears twice", g->values[i].key);
    return true;
}

/* ---- the tensor table ----------------------------------------------------------------------- */

static bool read_dims(struct reader *r, struct file_tensor *t)
{
    if (!cursor_u32(&r->c, &t->n_dims, r->e)) return false;
    if (t->n_dims < 1 || t->n_dims > MAX_DIMS)
        return err_set(r->e, ERR_CORRUPT, "%" PRIu32 " dimensions, 1 to %d are possible", t->n_dims,
                       MAX_DIMS);
    for (uint32_t i = t->n_dims; i-- > 0;) /* innermost first in the file */
        if (!cursor_u64(&r->c, &t->shape[i], r->e)) return false;
    return true;
}

static bool read_tensor(struct reader *r, struct file_tensor *t)
{
    uint32_t type;
    if (!read_dims(r, t) || !cursor_u32(&r->c, &type, r->e) || !cursor_u64(&r->c, &t->offset, r->e))
        return false;
    if (!dtype_from_gguf(type, &t->type))
        return err_set(r->e, ERR_UNSUPPORTED,
                       "tensor '%s' has ggml type %" PRIu32 ", which is not supported", t->name,
                       type);
    return tensor_list_add(&r->g->tensors, *t, r->e);
}

static bool read_tensors(struct reader *r)
{
    enum { LEAST_BYTES = 8 + 1 + 4 + 8 + 4 + 8 }; /* name, dimensions, type, offset */
    if (!cursor_holds(&r->c, r->n_tensors, LEAST_BYTES, r->e)) return false;
    for (uint64_t i = 0; i < r->n_tensors; i++) {
        struct file_tensor t = {0};
        uint64_t at = r->c.at;
        if (!read_name(r, &t.name)) return err_while(r->e, "reading tensor %" PRIu64, i);
        if (!read_tensor(r, &t))
            return err_while(r->e, "reading tensor '%s', listed at byte %" PRIu64, t.name, at);
    }
    return true;
}

static bool find_alignment(const struct gguf *g, uint64_t *alignment, struct err *e)
{
    static const char key[] = "general.alignment";
    struct value wanted = {.key = key};
    int64_t n = DEFAULT_ALIGNMENT;
    bool present = g->n_values && bsearch(&wanted, g->values, g->n_values, sizeof wanted, by_key);
    if ((present && !gguf_int(g, key, &n)) || n < 1 || n > MAX_ALIGNMENT || (n & (n - 1)) != 0)
        return err_set(e, ERR_CORRUPT, "%s is not a power of two up to %d", key, MAX_ALIGNMENT);
    *alignment = (uint64_t)n;
    return true;
}

/* From offsets within the data to offsets within the file. */
static bool place_tensors(struct reader *r)
{
    struct tensor_list *list = &r->g->tensors;
    uint64_t alignment = DEFAULT_ALIGNMENT, size = r->g->file.size_bytes;
    if (!find_alignment(r->g, &alignment, r->e)) return false;
    uint64_t begin = (r->c.at + alignment - 1) & ~(alignment - 1);
    for (size_t i = 0; i < list->n; i++) {
        struct file_tensor *t = tensor_list_row(list, i);
        if (t->offset % alignment != 0)
            return err_set(r->e, ERR_CORRUPT,
                           "tensor '%s' at offset %" PRIu64 " of the data is not aligned to "
                           "%" PRIu64 " bytes",
                           t->name, t->offset, alignment);
        if (__builtin_add_overflow(t->offset, begin, &t->offset)) t->offset = UINT64_MAX;
    }
    return tensor_list_layout(list, 0, begin, size, false, r->e) && tensor_list_seal(list, r->e);
}

/* ---- opening and closing -------------------------------------------------------------------- */

static bool read_header(struct reader *r)
{
    unsigned char magic[4];
    uint32_t version;
    if (r->g->file.size_bytes < sizeof magic || !cursor_bytes(&r->c, magic, sizeof magic, r->e) ||
        memcmp(magic, "GGUF", sizeof magic) != 0)
        return err_set(r->e, ERR_INVALID,
                       "neither a GGUF file nor a directory with config.json and "
                       "safetensors files");
    if (!cursor_u32(&r->c, &version, r->e)) return false;
    if (version != 0 && (version & 0xFFFF) == 0)
        return err_set(r->e, ERR_UNSUPPORTED,
                       "a big-endian GGUF file; only little-endian ones are read");
    if (version != 2 && version != 3)
        return err_set(r->e, ERR_UNSUPPORTED, "GGUF version %" PRIu32 "; versions 2 and 3 are read",
                       version);
    return cursor_u64(&r->c, &r->n_tensors, r->e) && cursor_u64(&r->c, &r->n_values, r->e);
}

struct gguf *gguf_open(const char *path, struct err *e)
{
    struct gguf *g = mem_new(sizeof *g);
    arena_init(&g->arena, budget_bytes);
    struct reader r = {.g = g, .e = e};
    bool ok = infile_open(&g->file, path, e);
    if (ok) {
        cursor_init(&r.c, &g->file);
        ok = read_header(&r) && read_values(&r) && read_tensors(&r) && place_tensors(&r);
    }
    if (ok) return g;
    gguf_close(g);
    (void)err_while(e, "reading %s", path);
    return NULL;
}

void gguf_close(struct gguf *g)
{
    if (!g) return;
    tensor_list_release(&g->tensors);
    arena_release(&g->arena);
    infile_close(&g->file);
    mem_drop(g);
}

/* ---- look-up -------------------------------------------------------------------------------- */

static const struct value *find(const struct gguf *g, const char *key, enum kind kind,
                                bool is_array)
{
    struct value wanted = {.key = key};
    if (g->n_values == 0) return NULL;
    const struct value *v = bsearch(&wanted, g->values, g->n_values, sizeof wanted, by_key);
    bool fits = v && v->served && v->kind == kind && v->is_array == is_array;
    return fits ? v : NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
    struct value wanted = {.key = key};
    return g->n_values && bsearch(&wanted, g->values, g->n_values, sizeof wanted, by_key);
}

static const struct value *find_integer(const struct gguf *g, const char *key, bool is_array)
{
    const struct value *v = find(g, key, SIGNED, is_array);
    return v ? v : find(g, key, UNSIGNED, is_array);
}

bool gguf_int(const struct gguf *g, const char *key, int64_t *out)
{
    const struct value *v = find_integer(g, key, false);
    if (v) *out = v->integer;
    return v != NULL;
}

bool gguf_float(const struct gguf *g, const char *key, double *out)
{
    const struct value *v = find(g, key, FLOATING, false);
    if (v) *out = v->number;
    return v != NULL;
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
    const struct value *v = find(g, key, BOOLEAN, false);
    if (v) *out = v->integer != 0;
    return v != NULL;
}

bool gguf_text(const struct gguf *g, const char *key, const char **out)
{
    const struct value *v = find(g, key, TEXT, false);
    if (v) *out = v->text;
    return v != NULL;
}

bool gguf_string_array(const struct gguf *g, const char *key, struct gguf_strings *out)
{
    const struct value *v = find(g, key, TEXT, true);
    if (v) *out = v->strings;
    return v != NULL;
}

bool gguf_int_array(const struct gguf *g, const char *key, struct gguf_ints *out)
{
    const struct value *v = find_integer(g, key, true);
    if (!v) v = find(g, key, BOOLEAN, true);
    if (v) *out = v->ints;
    return v != NULL;
}

bool gguf_float_array(const struct gguf *g, const char *key, struct gguf_floats *out)
{
    const struct value *v = find(g, key, FLOATING, true);
    if (v) *out = v->floats;
    return v != NULL;
}

static void describe(const struct value *v, struct buf *out)
{
    if (!v->is_array && v->kind == TEXT) {
        buf_put(out, v->text, strlen(v->text) + 1);
    } else if (!v->is_array && v->kind == FLOATING) {
        buf_put(out, &v->number, sizeof v->number);
    } else if (!v->is_array) {
        buf_put(out, &v->integer, sizeof v->integer);
    } else if (v->kind == TEXT) {
        buf_put(out, v->strings.len, v->strings.n * sizeof *v->strings.len);
        for (size_t i = 0; i < v->strings.n; i++) buf_put(out, v->strings.text[i], v->strings.len[i]);
    } else if (v->kind == FLOATING) {
        buf_put(out, v->floats.value, v->floats.n * sizeof *v->floats.value);
    } else {
        buf_put(out, v->ints.value, v->ints.n * sizeof *v->ints.value);
    }
}

void gguf_describe(const struct gguf *g, struct buf *out)
{
    for (size_t i = 0; i < g->n_values; i++) {
        const struct value *v = &g->values[i];
        if (!v->served) continue;
        size_t n = !v->is_array ? 1 : v->kind == TEXT ? v->strings.n : v->kind == FLOATING ? v->floats.n : v->ints.n;
        buf_printf(out, "%s %d %d %zu:", v->key, v->kind, v->is_array, n);
        describe(v, out);
    }
}

const char *gguf_path(const struct gguf *g) { return g->file.path; }
const struct tensor_list *gguf_tensors(const struct gguf *g) { return &g->tensors; }
const struct infile *gguf_file(const struct gguf *g) { return &g->file; }
