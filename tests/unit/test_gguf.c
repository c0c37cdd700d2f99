/* GGUF files, honest, cut, damaged and lying. Every file lives in a memfd and is opened by path, as
 * a model is. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file/gguf.h"
#include "core/file/modelfile.h"

/* ---- writing files -------------------------------------------------------------------------- */

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void put(struct buf *b, uint64_t v, size_t bytes) { buf_put(b, &v, bytes); }

static void put_string(struct buf *b, const char *s)
{
    put(b, strlen(s), 8);
    buf_text(b, s);
}

static void put_key(struct buf *b, const char *key, uint32_t type)
{
    put_string(b, key);
    put(b, type, 4);
}

static void put_header(struct buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_values)
{
    buf_text(b, "GGUF");
    put(b, version, 4);
    put(b, n_tensors, 8);
    put(b, n_values, 8);
}

static void put_tensor(struct buf *b, const char *name, uint64_t inner, uint64_t outer,
                       uint32_t type, uint64_t offset)
{
    put_string(b, name);
    put(b, outer ? 2 : 1, 4);
    put(b, inner, 8);
    if (outer) put(b, outer, 8);
    put(b, type, 4);
    put(b, offset, 8);
}

static void pad(struct buf *b, size_t alignment)
{
    while (b->len % alignment) buf_put(b, "", 1);
}

static void put_values(struct buf *b)
{
    put_key(b, "general.alignment", U32), put(b, 64, 4);
    put_key(b, "a.u8", U8), put(b, 200, 1);
    put_key(b, "a.i8", I8), put(b, (uint64_t)-100, 1);
    put_key(b, "a.i16", I16), put(b, (uint64_t)-30000, 2);
    put_key(b, "a.i64", I64), put(b, (uint64_t)INT64_MIN, 8);
    put_key(b, "a.u64", U64), put(b, INT64_MAX, 8);
    put_key(b, "a.too_big", U64), put(b, UINT64_MAX, 8);
    put_key(b, "a.f32", F32), put(b, 0x3F400000, 4);         /* 0.75 */
    put_key(b, "a.f64", F64), put(b, 0x3FD5555555555555, 8); /* 1/3 */
    put_key(b, "a.yes", BOOL), put(b, 1, 1);
    put_key(b, "a.text", STRING), put_string(b, "h\xC3\xA9llo");
    put_key(b, "a.strings", ARRAY), put(b, STRING, 4), put(b, 3, 8);
    put_string(b, "one"), put_string(b, ""), put_string(b, "\xE2\x82\xAC");
    put_key(b, "a.ints", ARRAY), put(b, I16, 4), put(b, 2, 8), put(b, (uint64_t)-2, 2),
        put(b, 3, 2);
    put_key(b, "a.scores", ARRAY), put(b, F32, 4), put(b, 1, 8), put(b, 0, 4);
    put_key(b, "a.none", ARRAY), put(b, U32, 4), put(b, 0, 8);
}

/* An honest file with three tensors; every one of its bytes matters to some reader. */
static struct buf honest(uint32_t version)
{
    struct buf b = {0};
    put_header(&b, version, 3, 15);
    put_values(&b);
    put_tensor(&b, "half", 4, 0, 1, 64);
    put_tensor(&b, "block", 32, 2, 3, 128);
    put_tensor(&b, "matrix", 3, 2, 0, 0);
    pad(&b, 64);
    for (int i = 0; i < 6; i++) { /* matrix: 0 .. 5 */
        float x = (float)i;
        buf_put(&b, &x, sizeof x);
    }
    pad(&b, 64);
    put(&b, 0x4000BC003C000000, 8); /* half: 0, 1, -1, 2 */
    pad(&b, 64);
    for (int i = 0; i < 2; i++) { /* block: scale 1, offset 2, low nibbles 0x3, high 0x1 */
        put(&b, 0x40003C00, 4);
        for (int j = 0; j < 16; j++) put(&b, 0x13, 1);
    }
    return b;
}

/* ---- opening them --------------------------------------------------------------------------- */

struct file {
    int fd;
    char path[64];
};

static int begin(void **state)
{
    struct file *f = mem_new(sizeof *f);
    f->fd = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(f->fd >= 0);
    (void)snprintf(f->path, sizeof f->path, "/proc/self/fd/%d", f->fd);
    *state = f;
    return 0;
}

static int end(void **state)
{
    struct file *f = *state;
    (void)close(f->fd);
    mem_drop(f);
    return 0;
}

static void fill(const struct file *f, const void *bytes, size_t len)
{
    assert_int_equal(ftruncate(f->fd, 0), 0);
    assert_int_equal(pwrite(f->fd, bytes, len, 0), (ssize_t)len);
}

static bool read_all(const struct modelfile *m, struct err *e)
{
    for (size_t i = 0; i < modelfile_count(m); i++) {
        const struct file_tensor *t = modelfile_tensor(m, i);
        float *dst = mem_floats((size_t)t->n_elements, e);
        bool ok = dst && modelfile_read(m, t, DTYPE_F32, dst, e);
        mem_drop(dst);
        if (!ok) return false;
    }
    return true;
}

/* Open and read everything: success, or one clean sentence that names the file. */
static bool use(const struct file *f, struct err *e)
{
    *e = (struct err){0};
    struct modelfile *m = modelfile_open(f->path, e);
    bool ok = m && read_all(m, e);
    modelfile_close(m);
    size_t bad;
    assert_int_equal(ok, e->code == ERR_NONE);
    if (ok) return true;
    assert_true(e->code == ERR_CORRUPT || e->code == ERR_UNSUPPORTED || e->code == ERR_INVALID ||
                e->code == ERR_TOO_LARGE);
    assert_true(utf8_valid(e->text, strlen(e->text), &bad));
    if (!strstr(e->text, f->path)) fail_msg("no file is named: %s", e->text);
    return false;
}

/* ---- honest files --------------------------------------------------------------------------- */

static void check_values(const struct gguf *g)
{
    int64_t n = 0;
    double x = 0;
    bool yes = false;
    const char *text = NULL;
    assert_true(gguf_int(g, "general.alignment", &n) && n == 64);
    assert_true(gguf_int(g, "a.u8", &n) && n == 200);
    assert_true(gguf_int(g, "a.i8", &n) && n == -100);
    assert_true(gguf_int(g, "a.i16", &n) && n == -30000);
    assert_true(gguf_int(g, "a.i64", &n) && n == INT64_MIN);
    assert_true(gguf_int(g, "a.u64", &n) && n == INT64_MAX);
    assert_true(gguf_float(g, "a.f32", &x) && x == 0.75);
    assert_true(gguf_float(g, "a.f64", &x) && x == 1.0 / 3.0);
    assert_true(gguf_bool(g, "a.yes", &yes) && yes);
    assert_true(gguf_text(g, "a.text", &text));
    assert_string_equal(text, "h\xC3\xA9llo");
    assert_false(gguf_int(g, "a.too_big", &n)); /* does not fit */
    assert_false(gguf_int(g, "absent", &n));
    assert_false(gguf_int(g, "a.f32", &n)); /* of another type */
    assert_false(gguf_int(g, "a.yes", &n));
    assert_false(gguf_int(g, "a.ints", &n));
    assert_false(gguf_float(g, "a.u8", &x));
    assert_false(gguf_bool(g, "a.u8", &yes));
    assert_false(gguf_text(g, "a.strings", &text));
}

static void check_arrays(const struct gguf *g)
{
    struct gguf_strings s;
    struct gguf_ints v;
    assert_true(gguf_string_array(g, "a.strings", &s) && s.n == 3);
    assert_string_equal(s.text[0], "one");
    assert_string_equal(s.text[1], "");
    assert_string_equal(s.text[2], "\xE2\x82\xAC");
    assert_true(s.len[0] == 3 && s.len[1] == 0 && s.len[2] == 3);
    assert_true(gguf_int_array(g, "a.ints", &v) && v.n == 2);
    assert_true(v.value[0] == -2 && v.value[1] == 3);
    assert_true(gguf_int_array(g, "a.none", &v) && v.n == 0);
    assert_false(gguf_int_array(g, "a.scores", &v));
    assert_false(gguf_int_array(g, "a.strings", &v));
    assert_false(gguf_string_array(g, "a.text", &s));
}

static void check_tensor(const struct modelfile *m, const char *name, uint32_t n_dims,
                         uint64_t outer, uint64_t inner, enum dtype type, const float *want)
{
    const struct file_tensor *t = modelfile_find(m, name);
    struct err e;
    float got[64];
    assert_non_null(t);
    assert_string_equal(t->name, name);
    assert_int_equal(t->n_dims, n_dims);
    assert_true(t->shape[0] == outer && t->shape[n_dims - 1] == inner);
    assert_int_equal(t->type, type);
    assert_int_equal(t->n_elements, n_dims == 2 ? outer * inner : inner);
    assert_true(modelfile_read(m, t, DTYPE_F32, got, &e));
    assert_memory_equal(got, want, t->n_elements * sizeof *got);
}

static void versions_2_and_3_serve_their_values_and_tensors(void **state)
{
    struct file *f = *state;
    float block[64];
    for (int i = 0; i < 64; i++) block[i] = i % 32 < 16 ? 5 : 3; /* 1 * nibble + 2 */
    for (uint32_t version = 2; version <= 3; version++) {
        struct buf b = honest(version);
        struct err e = {0};
        fill(f, b.data, b.len);
        struct modelfile *m = modelfile_open(f->path, &e);
        if (!m) fail_msg("%s", e.text);
        assert_null(modelfile_config(m));
        assert_null(modelfile_chat_template(m));
        assert_int_equal(modelfile_file_count(m), 1);
        assert_string_equal(modelfile_file_path(m, 0), f->path);
        assert_string_equal(gguf_path(modelfile_gguf(m)), f->path);
        check_values(modelfile_gguf(m));
        check_arrays(modelfile_gguf(m));
        assert_int_equal(modelfile_count(m), 3);
        assert_null(modelfile_find(m, "absent"));
        check_tensor(m, "matrix", 2, 2, 3, DTYPE_F32, (const float[]){0, 1, 2, 3, 4, 5});
        check_tensor(m, "half", 1, 4, 4, DTYPE_F16, (const float[]){0, 1, -1, 2});
        check_tensor(m, "block", 2, 2, 32, DTYPE_Q4_1, block);
        modelfile_close(m);
        buf_release(&b);
    }
}

/* ---- cut and damaged files ------------------------------------------------------------------ */

static void every_cut_is_a_sentence(void **state)
{
    struct buf b = honest(3);
    struct err e;
    for (size_t n = 0; n < b.len; n++) {
        fill(*state, b.data, n);
        if (use(*state, &e)) fail_msg("a file cut at %zu of %zu bytes was read", n, b.len);
        if (!strstr(e.text, n < 4 ? "neither a GGUF file" : "truncated"))
            fail_msg("%zu: %s", n, e.text);
    }
    buf_release(&b);
}

static void every_flipped_bit_is_a_sentence_or_a_model(void **state)
{
    struct buf b = honest(3);
    struct err e;
    size_t refused = 0;
    for (size_t bit = 0; bit < 8 * b.len; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        fill(*state, b.data, b.len);
        refused += !use(*state, &e);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(refused > b.len); /* damage is noticed, mostly */
    buf_release(&b);
}

static void random_damage_is_a_sentence_or_a_model(void **state)
{
    struct buf b = honest(3);
    struct err e;
    uint64_t x = 88172645463325252; /* xorshift64 */
    for (int round = 0; round < 500; round++) {
        struct buf copy = {0};
        buf_put(&copy, b.data, b.len);
        for (int k = 0; k < 1 + round % 8; k++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            copy.data[x % copy.len] = (char)(x >> 40);
        }
        fill(*state, copy.data, copy.len);
        (void)use(*state, &e);
        buf_release(&copy);
    }
    buf_release(&b);
}

/* ---- liars ---------------------------------------------------------------------------------- */

#define L64(b)     b "\0\0\0\0\0\0\0"
#define L32(b)     b "\0\0\0"
#define HUGE_64    "\0\0\0\0\0\0\0\x10" /* 2^60 */
#define STR(n, s)  L64(n) s
#define K          STR("\1", "k")
#define T          STR("\1", "t")
#define ONE_F32    L32("\1") L64("\4") L32("\0") L64("\0") /* four floats at offset 0 */
#define BODY(text) text, sizeof(text) - 1

/* Header, this body, padding to 32 bytes, then `data` zero bytes. */
static const struct liar {
    uint64_t n_tensors, n_values;
    const char *body;
    size_t len, data;
    enum err_code code;
    const char *why;
} liars[] = {
    /* counts and lengths */
    {1ull << 60, 0, BODY(""), 64, ERR_CORRUPT, "truncated: 1152921504606846976 items"},
    {0, 1ull << 60, BODY(""), 64, ERR_CORRUPT, "truncated: 1152921504606846976 items"},
    {UINT64_MAX, UINT64_MAX, BODY(""), 64, ERR_CORRUPT, "truncated"},
    {0, 1, BODY(HUGE_64 "k"), 64, ERR_CORRUPT,
     "truncated: 1152921504606846976 items of at least 1"},
    {0, 1, BODY("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFz"), 64, ERR_CORRUPT, "truncated"},
    {0, 1, BODY(K L32("\x8") HUGE_64), 64, ERR_CORRUPT, "reading key 'k'"},
    {0, 1, BODY(K L32("\x9") L32("\4") HUGE_64), 64, ERR_CORRUPT, "truncated"},
    {0, 1, BODY(K L32("\x9") L32("\x8") L64("\x30")), 64, ERR_CORRUPT, "truncated: 48 items"},
    {0, 1, BODY(K L32("\x9") L32("\x8") L64("\2") STR("\1", "a") HUGE_64), 64, ERR_CORRUPT,
     "item 1"},
    {1, 0, BODY(HUGE_64), 64, ERR_CORRUPT, "reading tensor 0"},
    /* values */
    {0, 1, BODY(K L32("\x0d")), 64, ERR_CORRUPT, "unknown type 13"},
    {0, 1, BODY(K "\xFF\xFF\xFF\xFF"), 64, ERR_CORRUPT, "unknown type 4294967295"},
    {0, 1, BODY(K L32("\x9") L32("\x0d") L64("\0")), 64, ERR_CORRUPT,
     "array of the unknown type 13"},
    {0, 1, BODY(K L32("\x9") L32("\x9") L64("\1")), 64, ERR_UNSUPPORTED, "array of arrays"},
    {0, 1, BODY(K L32("\7") "\2"), 64, ERR_CORRUPT, "truth value of 2"},
    {0, 1, BODY(K L32("\x9") L32("\7") L64("\2") "\1\3"), 64, ERR_CORRUPT, "truth value of 3"},
    {0, 1, BODY(K L32("\x8") STR("\2", "a\xFF")), 64, ERR_CORRUPT, "not UTF-8 from its byte 1"},
    {0, 1, BODY(K L32("\x8") STR("\2", "a\0")), 64, ERR_CORRUPT, "not UTF-8 from its byte 1"},
    {0, 1, BODY(STR("\0", "") L32("\7") "\1"), 64, ERR_CORRUPT, "an empty name"},
    {0, 1, BODY(STR("\2", "k\n") L32("\7") "\1"), 64, ERR_CORRUPT, "control characters"},
    {0, 2, BODY(K L32("\7") "\1" K L32("\7") "\1"), 64, ERR_CORRUPT, "the key 'k' appears twice"},
    /* the alignment */
    {0, 1, BODY(STR("\x11", "general.alignment") L32("\4") L32("\0")), 64, ERR_CORRUPT,
     "power of two"},
    {0, 1, BODY(STR("\x11", "general.alignment") L32("\4") L32("\x30")), 64, ERR_CORRUPT,
     "power of two"},
    {0, 1, BODY(STR("\x11", "general.alignment") L32("\4") "\0\0\0\x80"), 64, ERR_CORRUPT,
     "power of two"},
    {0, 1, BODY(STR("\x11", "general.alignment") L32("\x8") STR("\2", "32")), 64, ERR_CORRUPT,
     "power of two"},
    /* tensors */
    {1, 0, BODY(T L32("\0")), 64, ERR_CORRUPT, "0 dimensions"},
    {1, 0, BODY(T L32("\5")), 64, ERR_CORRUPT, "5 dimensions"},
    {1, 0, BODY(T "\xFF\xFF\xFF\xFF"), 64, ERR_CORRUPT, "4294967295 dimensions"},
    {1, 0, BODY(T L32("\1") L64("\0") L32("\0") L64("\0")), 64, ERR_CORRUPT, "'t' has no elements"},
    {1, 0, BODY(T L32("\3") HUGE_64 L64("\4") L64("\4") L32("\0") L64("\0")), 64, ERR_CORRUPT,
     "more than 2^64 elements"},
    {1, 0, BODY(T L32("\2") HUGE_64 L64("\4") L32("\0") L64("\0")), 64, ERR_CORRUPT,
     "more than 2^64 bytes"},
    {1, 0, BODY(T L32("\1") HUGE_64 L32("\0") L64("\0")), 64, ERR_CORRUPT,
     "'t' needs 4611686018427387904 bytes"},
    {1, 0, BODY(T L32("\1") L64("\x21") L32("\3") L64("\0")), 64, ERR_CORRUPT,
     "not a whole number of Q4_1 blocks"},
    {1, 0, BODY(T L32("\2") L64("\x10") L64("\2") L32("\3") L64("\0")), 64, ERR_CORRUPT,
     "rows of 16 elements"},
    {1, 0, BODY(T L32("\2") L64("\x20") L64("\x08") L32("\x0c") L64("\0")), 1024, ERR_CORRUPT,
     "rows of 32 elements, not a whole number of Q4_K blocks of 256"},
    {1, 0, BODY(T L32("\1") "\0\1\0\0\0\0\0\0" L32("\x0e") L64("\0")), 209, ERR_CORRUPT,
     "'t' needs 210 bytes"},
    {1, 0, BODY(T L32("\1") L64("\4") L32("\x10") L64("\0")), 64, ERR_UNSUPPORTED,
     "tensor 't' has ggml type 16"},
    {1, 0, BODY(T L32("\1") L64("\4") "\xFF\xFF\xFF\xFF" L64("\0")), 64, ERR_UNSUPPORTED,
     "ggml type 4294967295"},
    {1, 0, BODY(T L32("\1") L64("\4") L32("\0") L64("\4")), 64, ERR_CORRUPT, "not aligned to 32"},
    {1, 0, BODY(T L32("\1") L64("\4") L32("\0") L64("\x40")), 64, ERR_CORRUPT,
     "truncated: tensor 't'"},
    {1, 0, BODY(T L32("\1") L64("\4") L32("\0") "\xE0\xFF\xFF\xFF\xFF\xFF\xFF\xFF"), 64,
     ERR_CORRUPT, "truncated"},
    {1, 0, BODY(T ONE_F32), 15, ERR_CORRUPT, "truncated: tensor 't' needs 16 bytes at byte 64"},
    {2, 0, BODY(T ONE_F32 T L32("\1") L64("\4") L32("\0") L64("\x20")), 64, ERR_CORRUPT,
     "'t' appears twice"},
    {2, 0, BODY(T ONE_F32 STR("\1", "u") ONE_F32), 64, ERR_CORRUPT, "overlap at byte 96"},
    {2, 0,
     BODY(T L32("\1") L64("\x9") L32("\0") L64("\0") STR("\1", "u") L32("\1") L64("\4") L32("\0")
              L64("\x20")),
     64, ERR_CORRUPT, "tensors 't' and 'u' overlap"},
    {1, 0, BODY(STR("\0", "") ONE_F32), 64, ERR_CORRUPT, "an empty name"},
    {1, 0, BODY(STR("\2", "\x1B[") ONE_F32), 64, ERR_CORRUPT, "control characters"},
    /* and two that tell the truth, so that the rest is refused for its lie alone */
    {1, 1, BODY(K L32("\7") "\1" T ONE_F32), 64, ERR_NONE, NULL},
    {2, 0, BODY(T ONE_F32 STR("\1", "u") L32("\1") L64("\4") L32("\0") L64("\x20")), 64, ERR_NONE,
     NULL},
};

static void every_lie_is_named(void **state)
{
    for (size_t i = 0; i < sizeof liars / sizeof *liars; i++) {
        const struct liar *l = &liars[i];
        struct buf b = {0};
        struct err e;
        put_header(&b, 3, l->n_tensors, l->n_values);
        buf_put(&b, l->body, l->len);
        pad(&b, 32);
        for (size_t k = 0; k < l->data; k++) buf_put(&b, "", 1);
        fill(*state, b.data, b.len);
        (void)use(*state, &e);
        if (e.code != l->code || (l->why && !strstr(e.text, l->why)))
            fail_msg("liar %zu: %s: %s", i, err_word(e.code), e.text);
        buf_release(&b);
    }
}

/* One block of each type: zeros are numbers, and with all bits set its scale is a NaN. */
static void a_scale_that_is_no_number_is_named(void **state)
{
    for (unsigned t = 0; t < DTYPE_COUNT; t++) {
        const struct dtype_info *d = dtype_info(t);
        float values[256];
        assert_true(d->gguf_id >= 0 && d->block <= sizeof values / sizeof *values);
        for (int nan = 0; nan < 2; nan++) {
            struct buf b = {0};
            struct err e = {0};
            put_header(&b, 3, 1, 0);
            put_tensor(&b, "t", d->block, 0, (uint32_t)d->gguf_id, 0);
            pad(&b, 32);
            for (uint32_t i = 0; i < d->bytes; i++) put(&b, nan ? 0xFF : 0, 1);
            fill(*state, b.data, b.len);
            struct modelfile *m = modelfile_open(((struct file *)*state)->path, &e);
            if (!m) fail_msg("%s: %s", d->word, e.text);
            bool read = modelfile_read(m, modelfile_find(m, "t"), DTYPE_F32, values, &e);
            assert_int_equal(read, !nan);
            if (nan && (e.code != ERR_CORRUPT || !strstr(e.text, "'t' has a NaN or an infinity at element 0")))
                fail_msg("%s: %s", d->word, e.text);
            modelfile_close(m);
            buf_release(&b);
        }
    }
}

/* A sparse file is as long as it likes for nothing: lengths need ends of their own. */
static void a_vast_sparse_file_does_not_justify_vast_lengths(void **state)
{
    static const struct {
        uint64_t n_values;
        const char *body;
        size_t len;
    } vast[] = {
        {1 << 30, BODY("")},
        {1, BODY("\0\0\0\0\0\1\0\0")},                         /* a key of 2^40 bytes */
        {1, BODY(K L32("\x8") "\0\0\0\0\0\1\0\0")},            /* a string */
        {1, BODY(K L32("\x9") L32("\4") "\0\0\0\0\0\1\0\0")},  /* an array of integers */
        {1, BODY(K L32("\x9") L32("\x8") "\0\0\0\0\0\1\0\0")}, /* of strings */
    };
    struct file *f = *state;
    for (size_t i = 0; i < sizeof vast / sizeof *vast; i++) {
        struct buf b = {0};
        struct err e;
        put_header(&b, 3, 0, vast[i].n_values);
        buf_put(&b, vast[i].body, vast[i].len);
        fill(f, b.data, b.len);
        assert_int_equal(ftruncate(f->fd, (off_t)1 << 44), 0);
        assert_false(use(f, &e));
        if (e.code != ERR_TOO_LARGE) fail_msg("row %zu: %s", i, e.text);
        buf_release(&b);
    }
}

static void other_versions_and_byte_orders_are_named(void **state)
{
    static const struct {
        const char *bytes;
        const char *why;
    } heads[] = {
        {"GGUF\0\0\0\3", "big-endian"}, {"GGUF\0\0\0\2", "big-endian"},
        {"GGUF\1\0\0\0", "version 1;"}, {"GGUF\4\0\0\0", "version 4;"},
        {"GGUF\0\0\0\0", "version 0;"}, {"GGML\3\0\0\0", "neither a GGUF"},
        {"Hello, t", "neither a GGUF"}, {"fuggGGUF", "neither a GGUF"},
    };
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        struct err e;
        char bytes[64] = {0};
        memcpy(bytes, heads[i].bytes, 8);
        fill(*state, bytes, sizeof bytes);
        assert_false(use(*state, &e));
        if (!strstr(e.text, heads[i].why)) fail_msg("head %zu: %s", i, e.text);
    }
}

/* ---- data ----------------------------------------------------------------------------------- */

static void a_nan_or_infinity_names_tensor_and_element(void **state)
{
    static const struct {
        const char *tensor;
        size_t at; /* from the end of the file */
        uint32_t bits;
        size_t bytes;
        const char *why;
    } cases[] = {
        {"matrix", 168 - 20, 0x7FC00000, 4,
         "tensor 'matrix' has a NaN or an infinity at element 5"},
        {"matrix", 168, 0xFF800000, 4, "'matrix' has a NaN or an infinity at element 0"},
        {"half", 104 - 6, 0x7C00, 2, "'half' has a NaN or an infinity at element 3"},
        {"block", 20, 0x7C00, 2, "'block' has a NaN or an infinity at element 32"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf b = honest(3);
        struct err e;
        memcpy(b.data + b.len - cases[i].at, &cases[i].bits, cases[i].bytes);
        fill(*state, b.data, b.len);
        assert_false(use(*state, &e));
        assert_int_equal(e.code, ERR_CORRUPT);
        if (!strstr(e.text, cases[i].why)) fail_msg("case %zu: %s", i, e.text);
        buf_release(&b);
    }
}

/* Longer than the reader's own buffer, so that the pieces must join. */
static void a_long_tensor_is_read_in_pieces(void **state)
{
    enum { N = 100003 };
    struct buf b = {0};
    struct err e;
    put_header(&b, 3, 1, 0);
    put_tensor(&b, "long", N, 0, 0, 0);
    pad(&b, 32);
    for (int i = 0; i < N; i++) {
        float x = (float)i;
        buf_put(&b, &x, sizeof x);
    }
    fill(*state, b.data, b.len);
    struct modelfile *m = modelfile_open(((struct file *)*state)->path, &e);
    assert_non_null(m);
    float *got = mem_floats(N, &e);
    assert_true(modelfile_read(m, modelfile_tensor(m, 0), DTYPE_F32, got, &e));
    for (int i = 0; i < N; i++) assert_true(got[i] == (float)i);
    mem_drop(got);
    modelfile_close(m);
    buf_release(&b);
}

static void a_file_that_shrinks_after_opening_is_an_error(void **state)
{
    struct file *f = *state;
    struct buf b = honest(3);
    struct err e;
    float dst[64];
    fill(f, b.data, b.len);
    struct modelfile *m = modelfile_open(f->path, &e);
    assert_non_null(m);
    assert_int_equal(ftruncate(f->fd, (off_t)b.len - 1), 0);
    assert_false(modelfile_read(m, modelfile_find(m, "block"), DTYPE_F32, dst, &e));
    assert_int_equal(e.code, ERR_CORRUPT);
    assert_non_null(strstr(e.text, "shrank"));
    assert_non_null(strstr(e.text, "tensor 'block'"));
    modelfile_close(m);
    buf_release(&b);
}

static void what_is_no_file_is_refused_without_waiting(void **state)
{
    (void)state;
    struct err e;
    char dir[] = P_tmpdir "/engram-XXXXXX", fifo[sizeof dir + sizeof "/fifo"];
    assert_null(modelfile_open("/nonexistent/model.gguf", &e));
    assert_int_equal(e.code, ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "no such file (while reading /nonexistent/model.gguf)"));
    assert_null(modelfile_open("/dev/zero", &e));
    assert_non_null(strstr(e.text, "not a regular file"));
    assert_non_null(mkdtemp(dir));
    (void)snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_null(modelfile_open(fifo, &e)); /* nobody writes: a plain open would wait for ever */
    assert_non_null(strstr(e.text, "not a regular file"));
    (void)unlink(fifo);
    (void)rmdir(dir);
}

int main(void)
{
#define IN_FILE(t) cmocka_unit_test_setup_teardown(t, begin, end)
    const struct CMUnitTest tests[] = {
        IN_FILE(versions_2_and_3_serve_their_values_and_tensors),
        IN_FILE(every_cut_is_a_sentence),
        IN_FILE(every_flipped_bit_is_a_sentence_or_a_model),
        IN_FILE(random_damage_is_a_sentence_or_a_model),
        IN_FILE(every_lie_is_named),
        IN_FILE(a_scale_that_is_no_number_is_named),
        IN_FILE(a_vast_sparse_file_does_not_justify_vast_lengths),
        IN_FILE(other_versions_and_byte_orders_are_named),
        IN_FILE(a_nan_or_infinity_names_tensor_and_element),
        IN_FILE(a_long_tensor_is_read_in_pieces),
        IN_FILE(a_file_that_shrinks_after_opening_is_an_error),
        cmocka_unit_test(what_is_no_file_is_refused_without_waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
