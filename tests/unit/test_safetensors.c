/* Hub-style directories: one file or shards, honest, cut, damaged and lying. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/file/modelfile.h"

struct dir {
    char path[64];
};

static int begin(void **state)
{
    struct dir *d = mem_new(sizeof *d);
    (void)snprintf(d->path, sizeof d->path, P_tmpdir "/engram-XXXXXX");
    assert_non_null(mkdtemp(d->path));
    *state = d;
    return 0;
}

static int end(void **state)
{
    struct dir *d = *state;
    DIR *entries = opendir(d->path);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));)
        (void)unlinkat(dirfd(entries), entry->d_name, 0); /* "." and ".." refuse, as they should */
    (void)closedir(entries);
    assert_int_equal(rmdir(d->path), 0);
    mem_drop(d);
    return 0;
}

static void put_file(const struct dir *d, const char *name, const void *bytes, size_t len)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", d->path, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static void gguf_put_text(const struct dir *d, const char *name, const char *text)
{
    put_file(d, name, text, strlen(text));
}

static void drop_file(const struct dir *d, const char *name)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", d->path, name);
    assert_int_equal(unlink(path), 0);
}

static struct buf container(const char *header, const void *data, size_t n)
{
    struct buf b = {0};
    uint64_t len = strlen(header);
    buf_put(&b, &len, sizeof len);
    buf_text(&b, header);
    buf_put(&b, data, n);
    return b;
}

static void put_container(const struct dir *d, const char *name, const char *header,
                          const void *data, size_t n)
{
    struct buf b = container(header, data, n);
    put_file(d, name, b.data, b.len);
    buf_release(&b);
}

/* Open and read everything: success, or one clean sentence that names the directory. */
static bool use(const struct dir *d, struct err *e)
{
    *e = (struct err){0};
    struct modelfile *m = modelfile_open(d->path, e);
    bool ok = m != NULL;
    for (size_t i = 0; ok && i < modelfile_count(m); i++) {
        const struct file_tensor *t = modelfile_tensor(m, i);
        if (t->other) continue;
        float *dst = mem_floats((size_t)t->n_elements, e);
        ok = dst && modelfile_read(m, t, DTYPE_F32, dst, e);
        mem_drop(dst);
    }
    modelfile_close(m);
    size_t bad;
    assert_int_equal(ok, e->code == ERR_NONE);
    if (ok) return true;
    assert_true(e->code == ERR_CORRUPT || e->code == ERR_UNSUPPORTED || e->code == ERR_NOT_FOUND ||
                e->code == ERR_TOO_LARGE);
    assert_true(utf8_valid(e->text, strlen(e->text), &bad));
    if (!strstr(e->text, d->path)) fail_msg("nothing is named: %s", e->text);
    return false;
}

static void must_refuse(const struct dir *d, enum err_code code, const char *why)
{
    struct err e;
    if (use(d, &e)) fail_msg("read, although: %s", why);
    if (e.code != code || !strstr(e.text, why))
        fail_msg("%s: %s (not: %s)", err_word(e.code), e.text, why);
}

/* ---- one file ------------------------------------------------------------------------------- */

static const char honest_header[] =
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"b\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[24,28]},"
    "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
    "\"c\":{\"shape\":[1,1,1,2],\"data_offsets\":[28,32],\"dtype\":\"BF16\"}}   ";
static const unsigned char honest_data[32] = {
    0,    0,    0,    0,    0,    0,    0x80, 0x3F, 0,    0,    0, 0x40, 0, 0,
    0x40, 0x40, 0,    0,    0x80, 0x40, 0,    0,    0xA0, 0x40, 0, 0x3C, 0, 0xC0, /* 1, -2 */
    0x80, 0x3F, 0x00, 0xC0,                                                       /* 1, -2 */
};

static void put_honest(const struct dir *d)
{
    gguf_put_text(d, "config.json", "{\"model_type\":\"llama\",\"hidden_size\":3}");
    put_container(d, "model.safetensors", honest_header, honest_data, sizeof honest_data);
}

static void check_tensor(const struct modelfile *m, const char *name, uint32_t n_dims,
                         enum dtype type, size_t n, const float *want)
{
    const struct file_tensor *t = modelfile_find(m, name);
    struct err e;
    float got[8];
    assert_non_null(t);
    assert_int_equal(t->n_dims, n_dims);
    assert_int_equal(t->type, type);
    assert_int_equal(t->n_elements, n);
    assert_true(modelfile_read(m, t, DTYPE_F32, got, &e));
    assert_memory_equal(got, want, n * sizeof *got);
}

static void a_single_file_serves_tensors_and_documents(void **state)
{
    const struct dir *d = *state;
    struct err e;
    put_honest(d);
    gguf_put_text(d, "tokenizer.json", "{\"version\":\"1.0\"}");
    gguf_put_text(d, "generation_config.json", "{\"eos_token_id\":2}");
    gguf_put_text(d, "chat_template.jinja", "{{ messages }}\n");
    struct modelfile *m = modelfile_open(d->path, &e);
    if (!m) fail_msg("%s", e.text);
    assert_null(modelfile_gguf(m));
    assert_string_equal(modelfile_path(m), d->path);
    assert_int_equal(json_get(modelfile_config(m), "hidden_size")->integer, 3);
    assert_string_equal(json_get(modelfile_tokenizer(m), "version")->text, "1.0");
    assert_null(modelfile_tokenizer_config(m));
    assert_int_equal(json_get(modelfile_generation_config(m), "eos_token_id")->integer, 2);
    assert_string_equal(modelfile_chat_template(m), "{{ messages }}\n");
    assert_int_equal(modelfile_count(m), 3);
    check_tensor(m, "a", 2, DTYPE_F32, 6, (const float[]){0, 1, 2, 3, 4, 5});
    check_tensor(m, "b", 1, DTYPE_F16, 2, (const float[]){1, -2});
    check_tensor(m, "c", 4, DTYPE_BF16, 2, (const float[]){1, -2});
    assert_true(modelfile_find(m, "a")->shape[0] == 2 && modelfile_find(m, "a")->shape[1] == 3);
    assert_null(modelfile_find(m, "__metadata__"));
    modelfile_close(m);
}

static void every_cut_is_a_sentence(void **state)
{
    const struct dir *d = *state;
    struct buf b = container(honest_header, honest_data, sizeof honest_data);
    struct err e;
    put_honest(d);
    for (size_t n = 0; n < b.len; n++) {
        put_file(d, "model.safetensors", b.data, n);
        if (use(d, &e)) fail_msg("a file cut at %zu of %zu bytes was read", n, b.len);
        if (!strstr(e.text, "truncated")) fail_msg("%zu: %s", n, e.text);
    }
    put_file(d, "model.safetensors", b.data, b.len);
    assert_true(use(d, &e));
    buf_release(&b);
}

static void every_flipped_bit_is_a_sentence_or_a_model(void **state)
{
    const struct dir *d = *state;
    struct buf b = container(honest_header, honest_data, sizeof honest_data);
    struct err e;
    size_t refused = 0;
    put_honest(d);
    for (size_t bit = 0; bit < 8 * b.len; bit++) {
        b.data[bit / 8] ^= (char)(1 << bit % 8);
        put_file(d, "model.safetensors", b.data, b.len);
        refused += !use(d, &e);
        b.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    assert_true(refused > 4 * b.len);
    buf_release(&b);
}

/* ---- liars ---------------------------------------------------------------------------------- */

#define TENSOR(name, dtype, shape, offsets)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct liar {
    const char *header;
    size_t data;
    enum err_code code;
    const char *why;
} liars[] = {
    {"[]", 0, ERR_CORRUPT, "not a JSON object"},
    {"{\"a\":}", 0, ERR_CORRUPT, "JSON, byte 5: expected a value (while reading the header)"},
    {"{\"a\":1}", 0, ERR_CORRUPT, "'a' is not described by"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, ERR_CORRUPT, "'a' is not described by"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"offsets\":[0,4]}}", 4, ERR_CORRUPT,
     "no pair of data_offsets"},
    {"{\"a\":{\"dtype\":\"F32\",\"form\":[1],\"data_offsets\":[0,4]}}", 4, ERR_CORRUPT,
     "'a' has no shape"},
    {"{\"a\":{\"type\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, ERR_CORRUPT,
     "'a' has no dtype"},
    {"{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, ERR_CORRUPT,
     "'a' has no dtype"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("a", "F32", "[1]", "[4,8]") "}", 8,
     ERR_CORRUPT, "the key \"a\" appears twice"},
    {"{" TENSOR("", "F32", "[1]", "[0,4]") "}", 4, ERR_CORRUPT, "an empty name"},
    {"{" TENSOR("a\\u001b", "F32", "[1]", "[0,4]") "}", 4, ERR_CORRUPT, "control characters"},
    {"{" TENSOR("a", "F32", "[-1]", "[0,4]") "}", 4, ERR_CORRUPT, "malformed shape"},
    {"{" TENSOR("a", "F32", "[1.0]", "[0,4]") "}", 4, ERR_CORRUPT, "malformed shape"},
    {"{" TENSOR("a", "F32", "[\"1\"]", "[0,4]") "}", 4, ERR_CORRUPT, "malformed shape"},
    {"{" TENSOR("a", "F32", "4", "[0,4]") "}", 4, ERR_CORRUPT, "'a' has no shape"},
    {"{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,4]") "}", 4, ERR_CORRUPT,
     "2^64 elements"},
    {"{" TENSOR("a", "F32", "[4611686018427387904]", "[0,4]") "}", 4, ERR_CORRUPT, "2^64 bytes"},
    {"{" TENSOR("a", "F32", "[2]", "[0,4]") "}", 4, ERR_CORRUPT,
     "'a' takes 4 bytes, its type and shape make 8"},
    {"{" TENSOR("a", "F32", "[1]", "[0,8]") "}", 8, ERR_CORRUPT,
     "'a' takes 8 bytes, its type and shape make 4"},
    {"{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, ERR_CORRUPT, "no pair of data_offsets"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4,8]") "}", 4, ERR_CORRUPT, "no pair of data_offsets"},
    {"{" TENSOR("a", "F32", "[1]", "[-4,0]") "}", 4, ERR_CORRUPT, "no pair of data_offsets"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4.0]") "}", 4, ERR_CORRUPT, "no pair of data_offsets"},
    {"{" TENSOR("a", "F32", "[1]", "[4,0]") "}", 4, ERR_CORRUPT,
     "ends at 0, before it begins at 4"},
    {"{" TENSOR("a", "F32", "[1]", "[9223372036854775803,9223372036854775807]") "}", 4, ERR_CORRUPT,
     "truncated: tensor 'a'"},
    {"{" TENSOR("a", "F32", "[1]", "[18446744073709551612,18446744073709551616]") "}", 4,
     ERR_CORRUPT, "no pair of data_offsets"},
    {"{" TENSOR("a", "I64", "[-1]", "[0,8]") "}", 8, ERR_CORRUPT, "malformed shape"},
    {"{" TENSOR("a", "U8", "[1,1,1,1,-1]", "[0,4]") "}", 4, ERR_CORRUPT, "malformed shape"},
    {"{" TENSOR("a", "BOOL", "[8]", "[0,8]") "}", 7, ERR_CORRUPT, "truncated: tensor 'a' needs 8 bytes"},
    {"{" TENSOR("a", "F16", "[]", "[0,2]") "," TENSOR("b", "F32", "[1]", "[1,5]") "}", 5, ERR_CORRUPT,
     "tensors 'a' and 'b' overlap"},
    {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[0]", "[4,4]") "}", 8, ERR_CORRUPT,
     "tensors 'a' and 'b' overlap"},
    {"{" TENSOR("a", "F32", "[2]", "[0,8]") "}", 7, ERR_CORRUPT,
     "truncated: tensor 'a' needs 8 bytes"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[2,6]") "}", 6,
     ERR_CORRUPT, "tensors 'a' and 'b' overlap"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[0,4]") "}", 4,
     ERR_CORRUPT, "overlap"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[8,12]") "}", 12,
     ERR_CORRUPT, "before tensor 'b', belong to no tensor"},
    {"{" TENSOR("a", "F32", "[1]", "[4,8]") "}", 8, ERR_CORRUPT, "belong to no tensor"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 5, ERR_CORRUPT, "belong to no tensor"},
    {"{}", 1, ERR_CORRUPT, "belong to no tensor"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "} x", 4, ERR_CORRUPT, "text after the end"},
    {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 4, ERR_NONE, ""}, /* the truth, for comparison */
};

static void every_lie_is_named(void **state)
{
    const struct dir *d = *state;
    static const char zeros[64];
    put_honest(d);
    for (size_t i = 0; i < sizeof liars / sizeof *liars; i++) {
        struct err e;
        put_container(d, "model.safetensors", liars[i].header, zeros, liars[i].data);
        (void)use(d, &e);
        if (e.code != liars[i].code || !strstr(e.text, liars[i].why))
            fail_msg("liar %zu: %s: %s", i, err_word(e.code), e.text);
    }
}

/* Masks of bytes, counters, single numbers: checkpoints on the hub have them beside their weights. */
static void what_is_no_weight_is_listed_and_not_read(void **state)
{
    static const struct {
        const char *name, *other;
    } cases[] = {
        {"mask", "is of type U8"},     {"causal", "is of type BOOL"},  {"steps", "is of type I64"},
        {"number", "has 0 dimensions"}, {"deep", "has 5 dimensions"}, {"none", "has no elements"},
        {"bytes", "is of type Q4_1"},  {"long", "is of type (a long text)"},
    };
    const struct dir *d = *state;
    static const float one[11] = {[10] = 1};
    struct err e;
    put_honest(d);
    put_container(d, "model.safetensors",
                  "{" TENSOR("weight", "F32", "[1]", "[40,44]") "," TENSOR("none", "F32", "[2,0]", "[40,40]") ","
                  TENSOR("mask", "U8", "[1,1,2,2]", "[0,4]") "," TENSOR("causal", "BOOL", "[2]", "[4,6]") ","
                  TENSOR("number", "F16", "[]", "[6,8]") "," TENSOR("steps", "I64", "[1]", "[8,16]") ","
                  TENSOR("deep", "F32", "[1,1,1,1,2]", "[16,24]") "," TENSOR("bytes", "Q4_1", "[1]", "[24,32]") ","
                  TENSOR("long", "A_TYPE_OF_THE_FUTURE", "[1]", "[32,40]") "}", one, sizeof one);
    struct modelfile *m = modelfile_open(d->path, &e);
    if (!m) fail_msg("%s", e.text);
    assert_int_equal(modelfile_count(m), 1 + sizeof cases / sizeof *cases);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct file_tensor *t = modelfile_find(m, cases[i].name);
        assert_non_null(t);
        assert_non_null(t->other);
        assert_string_equal(t->other, cases[i].other);
    }
    assert_null(modelfile_find(m, "weight")->other);
    check_tensor(m, "weight", 1, DTYPE_F32, 1, (const float[]){1});
    modelfile_close(m);
}

static void a_header_length_is_proven_before_it_is_believed(void **state)
{
    const struct dir *d = *state;
    static const struct {
        uint64_t len;
        off_t size; /* of the sparse file */
        enum err_code code;
        const char *why;
    } cases[] = {
        {1ull << 60, 64, ERR_CORRUPT, "a header of 1152921504606846976 bytes is due"},
        {UINT64_MAX, 64, ERR_CORRUPT, "a header of 18446744073709551615 bytes is due"},
        {57, 64, ERR_CORRUPT, "a header of 57 bytes is due"},
        {0, 64, ERR_CORRUPT, "the text ends where a value must be"},
        {100000001, (off_t)1 << 40, ERR_TOO_LARGE, "at most 100000000 are read"},
        {1ull << 39, (off_t)1 << 40, ERR_TOO_LARGE, "a header of 549755813888 bytes"},
    };
    put_honest(d);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[256];
        put_file(d, "model.safetensors", &cases[i].len, sizeof cases[i].len);
        (void)snprintf(path, sizeof path, "%s/model.safetensors", d->path);
        assert_int_equal(truncate(path, cases[i].size), 0);
        must_refuse(d, cases[i].code, cases[i].why);
    }
}

static void a_nan_names_tensor_and_element(void **state)
{
    const struct dir *d = *state;
    unsigned char data[sizeof honest_data];
    put_honest(d);
    memcpy(data, honest_data, sizeof data);
    data[26] = 0x01, data[27] = 0x7C; /* the second half of b */
    put_container(d, "model.safetensors", honest_header, data, sizeof data);
    must_refuse(d, ERR_CORRUPT, "tensor 'b' has a NaN or an infinity at element 1");
}

/* ---- directories ---------------------------------------------------------------------------- */

static void a_directory_without_its_parts_says_which(void **state)
{
    const struct dir *d = *state;
    must_refuse(d, ERR_NOT_FOUND, "the directory has no config.json");
    gguf_put_text(d, "config.json", "{}");
    must_refuse(d, ERR_NOT_FOUND, "neither model.safetensors nor model.safetensors.index.json");
    put_container(d, "model.safetensors", honest_header, honest_data, sizeof honest_data);
    gguf_put_text(d, "config.json", "{\"a\":1,}");
    must_refuse(d, ERR_CORRUPT, "JSON, byte 7: expected a key");
    gguf_put_text(d, "config.json", "[1]");
    must_refuse(d, ERR_CORRUPT, "not a JSON object");
    gguf_put_text(d, "config.json", "");
    must_refuse(d, ERR_CORRUPT, "config.json");
    gguf_put_text(d, "config.json", "{}");
    gguf_put_text(d, "tokenizer.json", "{\"a\":\"\\ud800\"}");
    must_refuse(d, ERR_CORRUPT, "tokenizer.json");
    gguf_put_text(d, "tokenizer.json", "{}");
    gguf_put_text(d, "chat_template.jinja", "ab\xFF");
    must_refuse(d, ERR_CORRUPT, "not UTF-8 from byte 2 on");
    drop_file(d, "chat_template.jinja");
    drop_file(d, "model.safetensors");
    char path[256];
    (void)snprintf(path, sizeof path, "%s/model.safetensors", d->path);
    assert_int_equal(mkdir(path, 0700), 0);
    struct err e;
    assert_null(modelfile_open(d->path, &e));
    assert_int_equal(e.code, ERR_INVALID);
    assert_non_null(strstr(e.text, "not a regular file"));
    assert_int_equal(rmdir(path), 0);
}

/* ---- shards --------------------------------------------------------------------------------- */

static void put_shards(const struct dir *d)
{
    gguf_put_text(d, "config.json", "{}");
    put_container(d, "w-2.safetensors", "{" TENSOR("a", "F32", "[2,3]", "[0,24]") "}", honest_data,
                  24);
    put_container(
        d, "w-1.safetensors",
        "{" TENSOR("b", "F16", "[2]", "[0,4]") "," TENSOR("c", "BF16", "[2]", "[4,8]") "}",
        honest_data + 24, 8);
    gguf_put_text(d, "model.safetensors.index.json",
             "{\"metadata\":{\"total_size\":32},\"weight_map\":{\"a\":\"w-2.safetensors\","
             "\"b\":\"w-1.safetensors\",\"c\":\"w-1.safetensors\"}}");
}

static void shards_are_one_model_with_its_files_in_order(void **state)
{
    const struct dir *d = *state;
    struct err e;
    put_shards(d);
    struct modelfile *m = modelfile_open(d->path, &e);
    if (!m) fail_msg("%s", e.text);
    assert_int_equal(modelfile_file_count(m), 2);
    assert_non_null(strstr(modelfile_file_path(m, 0), "/w-1.safetensors"));
    assert_non_null(strstr(modelfile_file_path(m, 1), "/w-2.safetensors"));
    assert_int_equal(modelfile_count(m), 3);
    check_tensor(m, "a", 2, DTYPE_F32, 6, (const float[]){0, 1, 2, 3, 4, 5});
    check_tensor(m, "b", 1, DTYPE_F16, 2, (const float[]){1, -2});
    check_tensor(m, "c", 1, DTYPE_BF16, 2, (const float[]){1, -2});
    modelfile_close(m);
}

static void an_index_that_lies_is_named(void **state)
{
#define MAP(entries) "{\"weight_map\":{" entries "}}"
#define REST         "\"b\":\"w-1.safetensors\",\"c\":\"w-1.safetensors\""
    static const struct {
        const char *index;
        enum err_code code;
        const char *why;
    } cases[] = {
        {"[]", ERR_CORRUPT, "not a JSON object"},
        {"{}", ERR_CORRUPT, "no weight_map"},
        {"{\"weight_map\":[]}", ERR_CORRUPT, "no weight_map"},
        {MAP(""), ERR_CORRUPT, "no weight_map"},
        {MAP("\"a\":1"), ERR_CORRUPT, "the shard of tensor 'a' is not the plain name"},
        {MAP("\"a\":\"../w-2.safetensors\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\":\"/etc/w-2.safetensors\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\":\"sub/w-2.safetensors\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\":\"..safetensors\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\":\".safetensors\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\":\"config.json\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\":\"\""), ERR_CORRUPT, "not the plain name"},
        {MAP("\"a\\u0007\":\"w-2.safetensors\""), ERR_CORRUPT, "control characters"},
        {MAP("\"a\":\"w-3.safetensors\""), ERR_NOT_FOUND, "no shard w-3.safetensors"},
        {MAP("\"a\":\"w-2.safetensors\",\"a\":\"w-2.safetensors\""), ERR_CORRUPT, "appears twice"},
        {MAP("\"a\":\"w-2.safetensors\",\"d\":\"w-1.safetensors\"," REST), ERR_CORRUPT,
         "tensor 'd' is not in w-1.safetensors"},
        {MAP("\"a\":\"w-1.safetensors\",\"b\":\"w-2.safetensors\""), ERR_CORRUPT,
         "tensor 'a' is not in w-1.safetensors"},
    };
    const struct dir *d = *state;
    put_shards(d);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gguf_put_text(d, "model.safetensors.index.json", cases[i].index);
        must_refuse(d, cases[i].code, cases[i].why);
    }
}

static void a_name_in_two_shards_is_refused(void **state)
{
    const struct dir *d = *state;
    put_shards(d);
    put_container(d, "w-2.safetensors", "{" TENSOR("b", "F32", "[1]", "[0,4]") "}", honest_data, 4);
    gguf_put_text(d, "model.safetensors.index.json", MAP("\"a\":\"w-2.safetensors\"," REST));
    must_refuse(d, ERR_CORRUPT, "tensor 'b' appears twice");
}

static void a_damaged_shard_is_named(void **state)
{
    const struct dir *d = *state;
    put_shards(d);
    put_container(d, "w-1.safetensors", "{" TENSOR("b", "F16", "[2]", "[0,4]") "}", honest_data, 3);
    must_refuse(d, ERR_CORRUPT, "w-1.safetensors");
}

int main(void)
{
#define IN_DIR(t) cmocka_unit_test_setup_teardown(t, begin, end)
    const struct CMUnitTest tests[] = {
        IN_DIR(a_single_file_serves_tensors_and_documents),
        IN_DIR(every_cut_is_a_sentence),
        IN_DIR(every_flipped_bit_is_a_sentence_or_a_model),
        IN_DIR(every_lie_is_named),
        IN_DIR(what_is_no_weight_is_listed_and_not_read),
        IN_DIR(a_header_length_is_proven_before_it_is_believed),
        IN_DIR(a_nan_names_tensor_and_element),
        IN_DIR(a_directory_without_its_parts_says_which),
        IN_DIR(shards_are_one_model_with_its_files_in_order),
        IN_DIR(an_index_that_lies_is_named),
        IN_DIR(a_name_in_two_shards_is_refused),
        IN_DIR(a_damaged_shard_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
