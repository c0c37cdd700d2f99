/* Exported directories: read back, they are the view they came from. Outside references: the digests
 * and token ids that tests/golden/make_tiny.py took from PyTorch, transformers and hashlib, and the
 * configurations that transformers wrote. tests/api/test_export.py and tests/parity/export_parity.py
 * have transformers and docs/digest.py read exports themselves. */
#include "core/export/hub_write.h"

#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/export/hub_tokenizer.h"
#include "core/file/infile.h"
#include "core/base/json_write.h"
#include "core/text/tokenizer_int.h"
#include "ledger/digest.h"
#include "tests/unit/support/gguf_bytes.h"
#include "tests/unit/support/golden.h"

#define TINY "tests/golden/tiny/"

static const struct source {
    const char *path, *golden;
    const char *twin; /* key of expected.json's digest_gguf, or NULL */
} sources[] = {
    {TINY "gqa_tied", "gqa_tied", NULL},
    {TINY "gqa_untied_odd", "gqa_untied_odd", NULL},
    {TINY "mha_bf16", "mha_bf16", NULL}, /* sharded, 16-bit */
    {TINY "wide_head", "wide_head", NULL},
    {TINY "gqa_tied/gqa_tied.f32.gguf", "gqa_tied", "gqa_tied.f32.gguf"},
    {TINY "gqa_tied/gqa_tied.f16.gguf", "gqa_tied", "gqa_tied.f16.gguf"}, /* mixed types */
    {TINY "gguf_q/gguf_q.gguf", "gguf_q", NULL},
};
enum { N_SOURCES = sizeof sources / sizeof *sources };

/* ---- scratch -------------------------------------------------------------------------------- */

struct scratch_dir {
    char dir[64], out[80];
    struct arena arena;
};

static int make_scratch(void **state)
{
    struct scratch_dir *s = mem_new(sizeof *s);
    (void)snprintf(s->dir, sizeof s->dir, "/tmp/engramd-test-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    (void)snprintf(s->out, sizeof s->out, "%s/out", s->dir);
    arena_init(&s->arena, 0);
    *state = s;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static void remove_tree(const char *path) { (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

static int drop_scratch(void **state)
{
    struct scratch_dir *s = *state;
    remove_tree(s->dir);
    arena_release(&s->arena);
    mem_drop(s);
    return 0;
}

static struct model *open_model(const char *path)
{
    struct err e = {0};
    struct model *m = model_open(path, NULL, NULL, NULL, &e);
    must(m, e);
    return m;
}

static char *whole(const char *dir, const char *name, size_t *len)
{
    struct err e = {0};
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    char *text = infile_whole(path, 10 << 20, len, &e);
    if (!text) fail_msg("%s: %s", path, e.text);
    return text;
}

static const struct json *document(struct scratch_dir *s, const char *dir, const char *name)
{
    struct err e = {0};
    size_t len;
    char *text = whole(dir, name, &len);
    const struct json *j = json_parse(text, len, &s->arena, &e);
    must(j, e);
    mem_drop(text);
    return j;
}

static const struct json *expected(struct scratch_dir *s, const struct source *from)
{
    char dir[128];
    (void)snprintf(dir, sizeof dir, TINY "%s", from->golden);
    return document(s, dir, "expected.json");
}

static void view_digest(const struct view *v, char out[DIGEST_TEXT])
{
    struct err e = {0};
    struct base_digests d;
    must(base_digests_init(&d, view_model(v), NULL, &e), e);
    digest_view(v, &d, out);
    base_digests_release(&d);
}

static void append(void *ctx, const void *bytes, size_t n) { buf_put(ctx, bytes, n); }

static void assert_same_tensor(const struct view *a, size_t i, const struct view *b, size_t k)
{
    struct buf x = {0}, y = {0};
    view_tensor_bytes(a, i, append, &x);
    view_tensor_bytes(b, k, append, &y);
    assert_int_equal(view_tensor_type(a, i), view_tensor_type(b, k));
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_release(&x);
    buf_release(&y);
}

static void assert_same_tokenizer(const struct tokenizer *a, const struct tokenizer *b)
{
    uint32_t x = 0, y = 0;
    assert_int_equal(tokenizer_size(a), tokenizer_size(b));
    assert_int_equal(tokenizer_adds_bos(a), tokenizer_adds_bos(b));
    assert_int_equal(tokenizer_has_chat(a), tokenizer_has_chat(b));
    assert_int_equal(tokenizer_bos(a, &x), tokenizer_bos(b, &y));
    assert_int_equal(x, y);
    assert_int_equal(tokenizer_eos(a, &x), tokenizer_eos(b, &y));
    assert_int_equal(x, y);
    for (uint32_t id = 0; id < tokenizer_size(a); id++) {
        size_t n, k;
        const char *p = tokenizer_piece(a, id, &n), *q = tokenizer_piece(b, id, &k);
        assert_int_equal(n, k);
        assert_memory_equal(p, q, n);
        assert_int_equal(tokenizer_is_special(a, id), tokenizer_is_special(b, id));
        assert_int_equal(tokenizer_ends_generation(a, id), tokenizer_ends_generation(b, id));
    }
}

/* The ids transformers gave, beginning-of-sequence included where the file asks for it. */
static void assert_expected_ids(const struct tokenizer *t, const struct json *texts)
{
    struct err e = {0};
    assert_true(texts && texts->len > 0);
    for (const struct json *c = texts->child; c; c = c->next) {
        const struct json *text = json_get(c, "text"), *id = json_get(c, "ids")->child;
        struct ids got = {0};
        uint32_t bos = 0;
        if (tokenizer_adds_bos(t) && tokenizer_bos(t, &bos)) must(ids_push(&got, bos, &e), e);
        must(tokenizer_encode(t, text->text, text->len, true, &got, &e), e);
        assert_int_equal(got.n, json_get(c, "ids")->len);
        for (size_t i = 0; i < got.n; i++, id = id->next) assert_int_equal(got.id[i], id->integer);
        ids_release(&got);
    }
}

/* ---- the whole way -------------------------------------------------------------------------- */

static void exported_base_reads_back(struct scratch_dir *s, const struct source *from)
{
    struct err e = {0};
    char digest[DIGEST_TEXT];
    const struct json *want = expected(s, from);
    const struct json *stated = from->twin ? json_get(json_get(want, "digest_gguf"), from->twin)
                                           : json_get(want, "digest");
    struct model *m = open_model(from->path);
    struct view *v = view_base(m);
    must(hub_write(v, s->out, &e), e);
    struct model *again = open_model(s->out);
    struct view *w = view_base(again);
    assert_null(arch_differs(&m->arch, &again->arch));
    assert_int_equal(again->n_tensors, m->n_tensors);
    for (size_t i = 0; i < m->n_tensors; i++) {
        assert_string_equal(again->tensors[i].name, m->tensors[i].name);
        assert_same_tensor(v, i, w, i);
    }
    view_digest(w, digest);
    assert_string_equal(digest, stated->text);
    assert_same_tokenizer(m->tokenizer, again->tokenizer);
    assert_expected_ids(again->tokenizer, json_get(json_get(want, "tokenizer"), "texts"));
    view_drop(w);
    view_drop(v);
    model_drop(again);
    model_drop(m);
    remove_tree(s->out);
}

static void every_source_reads_back_with_its_digest_and_ids(void **state)
{
    for (size_t i = 0; i < N_SOURCES; i++) exported_base_reads_back(*state, &sources[i]);
}

/* ---- configuration -------------------------------------------------------------------------- */

static void assert_same_json(const struct json *a, const struct json *b, const char *key)
{
    struct buf x = {0}, y = {0};
    if (!a || !b) fail_msg("%s is missing", key);
    json_write_typed(a, &x);
    json_write_typed(b, &y);
    if (strcmp(x.data, y.data) != 0) fail_msg("%s is %s, not %s", key, x.data, y.data);
    buf_release(&x);
    buf_release(&y);
}

static void export_base(const char *from, const char *to)
{
    struct err e = {0};
    struct model *m = open_model(from);
    struct view *v = view_base(m);
    must(hub_write(v, to, &e), e);
    view_drop(v);
    model_drop(m);
}

/* gqa_tied's GGUF twin against the config.json that transformers wrote for the same model. */
static void a_gguf_gets_the_configuration_of_its_twin(void **state)
{
    struct scratch_dir *s = *state;
    export_base(TINY "gqa_tied/gqa_tied.f32.gguf", s->out);
    const struct json *got = document(s, s->out, "config.json");
    const struct json *want = document(s, TINY "gqa_tied", "config.json");
    for (const struct json *c = got->child; c; c = c->next)
        if (strcmp(c->key, "head_dim") != 0) assert_same_json(c, json_get(want, c->key), c->key);
    assert_int_equal(json_get(got, "head_dim")->integer, 8);
    assert_true(got->len >= 18);
    got = document(s, s->out, "generation_config.json");
    want = document(s, TINY "gqa_tied", "generation_config.json");
    for (const struct json *c = got->child; c; c = c->next)
        assert_same_json(c, json_get(want, c->key), c->key);
    assert_int_equal(got->len, 3);
    got = document(s, s->out, "tokenizer_config.json");
    want = document(s, TINY "gqa_tied", "tokenizer_config.json");
    for (const struct json *c = got->child; c; c = c->next)
        assert_same_json(c, json_get(want, c->key), c->key);
    assert_int_equal(got->len, 10);
}

static void a_directory_keeps_its_own_files(void **state)
{
    struct scratch_dir *s = *state;
    static const char *const copied[] = {"tokenizer.json", "tokenizer_config.json",
                                         "generation_config.json"};
    export_base(TINY "gqa_untied_odd", s->out);
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++) {
        size_t n, k;
        char *a = whole(s->out, copied[i], &n), *b = whole(TINY "gqa_untied_odd", copied[i], &k);
        assert_int_equal(n, k);
        assert_memory_equal(a, b, n);
        mem_drop(a);
        mem_drop(b);
    }
    const struct json *got = document(s, s->out, "config.json");
    const struct json *want = document(s, TINY "gqa_untied_odd", "config.json");
    assert_int_equal(got->len, want->len);
    for (const struct json *c = want->child; c; c = c->next)
        assert_same_json(json_get(got, c->key), c, c->key);
}

static void equal_views_give_equal_files(void **state)
{
    struct scratch_dir *s = *state;
    static const char *const names[] = {"model.safetensors", "tokenizer.json", "config.json",
                                        "tokenizer_config.json", "generation_config.json"};
    char other[80];
    (void)snprintf(other, sizeof other, "%s/other", s->dir);
    export_base(TINY "gguf_q/gguf_q.gguf", s->out);
    export_base(TINY "gguf_q/gguf_q.gguf", other);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n, k;
        char *a = whole(s->out, names[i], &n), *b = whole(other, names[i], &k);
        assert_int_equal(n, k);
        assert_memory_equal(a, b, n);
        mem_drop(a);
        mem_drop(b);
    }
}

/* ---- changed views -------------------------------------------------------------------------- */

/* One tensor of a 16-bit model replaced by numbers that 16 bits do not hold. */
static struct view *changed_view(struct model *m, const char *name, size_t *tensor)
{
    struct err e = {0};
    struct view *base = view_base(m);
    assert_true(model_find(m, name, tensor));
    size_t n = m->tensors[*tensor].n_elements;
    float *data = mem_new(n * sizeof *data);
    for (size_t i = 0; i < n; i++) data[i] = 1.0f / (float)(i + 3);
    const float *list[] = {data};
    struct view *v = view_with_tensors(base, tensor, list, 1, &e);
    must(v, e);
    mem_drop(data);
    view_drop(base);
    return v;
}

static void assert_aligned(const struct modelfile *f, const char *wide)
{
    const struct file_tensor *first = modelfile_find(f, wide);
    assert_non_null(first);
    assert_int_equal(first->offset % 64, 0);
    for (size_t i = 0; i < modelfile_count(f); i++) {
        const struct file_tensor *t = modelfile_tensor(f, i);
        assert_int_equal(t->offset % dtype_info(t->type)->bytes, 0);
        assert_true(t == first || t->offset > first->offset);
    }
}

static void changed_tensor_reads_back(struct scratch_dir *s, const char *path, const char *key)
{
    static const char name[] = "model.layers.1.mlp.down_proj.weight"; /* in the middle, by name */
    struct err e = {0};
    char before[DIGEST_TEXT], after[DIGEST_TEXT];
    size_t changed;
    struct model *m = open_model(path);
    struct view *v = changed_view(m, name, &changed);
    must(hub_write(v, s->out, &e), e);
    struct model *again = open_model(s->out);
    struct view *w = view_base(again);
    for (size_t i = 0; i < m->n_tensors; i++) {
        assert_same_tensor(v, i, w, i);
        assert_int_equal(view_tensor_type(w, i) == DTYPE_F32, i == changed);
    }
    for (size_t i = 0; i < m->tensors[changed].n_elements; i++)
        assert_true(held_floats(w, changed)[i] == 1.0f / (float)(i + 3));
    assert_aligned(again->file, name);
    view_digest(v, before);
    view_digest(w, after);
    assert_string_equal(before, after);
    assert_string_equal(json_get(document(s, s->out, "config.json"), key)->text, "float32");
    view_drop(w);
    view_drop(v);
    model_drop(again);
    model_drop(m);
    remove_tree(s->out);
}

static void a_changed_tensor_is_float32_and_the_others_as_they_were(void **state)
{
    changed_tensor_reads_back(*state, TINY "mha_bf16", "dtype");
    changed_tensor_reads_back(*state, TINY "wide_head", "torch_dtype");
}

static void sixteen_bits_are_named_while_all_tensors_have_them(void **state)
{
    struct scratch_dir *s = *state;
    export_base(TINY "mha_bf16", s->out);
    assert_string_equal(json_get(document(s, s->out, "config.json"), "dtype")->text, "bfloat16");
    remove_tree(s->out);
    export_base(TINY "gqa_tied/gqa_tied.f16.gguf", s->out); /* its norms are float32 */
    assert_string_equal(json_get(document(s, s->out, "config.json"), "torch_dtype")->text, "float32");
}

static void the_header_is_what_transformers_asks_for(void **state)
{
    struct scratch_dir *s = *state;
    size_t len;
    uint64_t n;
    struct err e = {0};
    export_base(TINY "gqa_tied", s->out);
    char *bytes = whole(s->out, "model.safetensors", &len);
    memcpy(&n, bytes, sizeof n);
    assert_true(n < len - 8);
    assert_int_equal((8 + n) % 64, 0);
    const struct json *head = json_parse(bytes + 8, n, &s->arena, &e);
    must(head, e);
    assert_string_equal(json_get(json_get(head, "__metadata__"), "format")->text, "pt");
    mem_drop(bytes);
}

/* ---- refusals ------------------------------------------------------------------------------- */

static enum err_code refusal(const char *out, struct err *e)
{
    struct model *m = open_model(TINY "gqa_tied");
    struct view *v = view_base(m);
    *e = (struct err){0};
    assert_false(hub_write(v, out, e));
    assert_non_null(strstr(e->text, out));
    view_drop(v);
    model_drop(m);
    return e->code;
}

static size_t entries(const char *dir)
{
    size_t n = 0;
    char command[128];
    (void)snprintf(command, sizeof command, "ls -A '%s' | wc -l", dir);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%zu", &n), 1);
    (void)pclose(f);
    return n;
}

static void a_directory_that_holds_anything_is_refused_and_left_alone(void **state)
{
    struct scratch_dir *s = *state;
    struct err e;
    char file[96];
    assert_int_equal(mkdir(s->out, 0700), 0);
    (void)snprintf(file, sizeof file, "%s/.mine", s->out);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    (void)fclose(f);
    assert_int_equal(refusal(s->out, &e), ERR_CONFLICT);
    assert_non_null(strstr(e.text, "not empty"));
    assert_int_equal(entries(s->out), 1);
    assert_int_equal(refusal(file, &e), ERR_IO); /* a file in the way */
    assert_int_equal(access(file, F_OK), 0);
}

static void an_empty_directory_is_taken(void **state)
{
    struct scratch_dir *s = *state;
    assert_int_equal(mkdir(s->out, 0700), 0);
    export_base(TINY "gqa_tied", s->out);
    assert_int_equal(entries(s->out), 5);
}

static void a_missing_parent_is_a_sentence(void **state)
{
    struct scratch_dir *s = *state;
    struct err e;
    char deep[96];
    (void)snprintf(deep, sizeof deep, "%s/deep", s->out);
    assert_int_equal(refusal(deep, &e), ERR_IO);
    assert_int_not_equal(access(s->out, F_OK), 0);
}

/* A file-size limit stands in for a full disk. */
static void a_full_disk_leaves_nothing_behind(void **state)
{
    struct scratch_dir *s = *state;
    struct err e;
    struct rlimit was, small = {.rlim_cur = 20000, .rlim_max = RLIM_INFINITY};
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small.rlim_max = was.rlim_max;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    for (int given = 0; given < 2; given++) {
        if (given) assert_int_equal(mkdir(s->out, 0700), 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        enum err_code code = refusal(s->out, &e);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
        assert_int_equal(code, ERR_NO_SPACE);
        assert_non_null(strstr(e.text, "model.safetensors"));
        if (given) assert_int_equal(entries(s->out), 0);
        else assert_int_not_equal(access(s->out, F_OK), 0);
    }
    (void)signal(SIGXFSZ, handler);
}

/* ---- tokenizers made from GGUF metadata ------------------------------------------------------ */

struct words { /* a vocabulary, lists written as "a|b|c" */
    const char *pre, *tokens, *types, *merges;
    bool adds_bos;
};

static struct modelfile *gguf_of(struct scratch_dir *s, const struct words *w)
{
    struct err e = {0};
    struct buf b = {0};
    char path[96];
    buf_text(&b, "GGUF");
    put(&b, 3, 4);
    put(&b, 0, 8); /* tensors */
    put(&b, 8, 8); /* keys */
    gguf_put_text(&b, "general.architecture", "llama");
    gguf_put_text(&b, "tokenizer.ggml.model", "gpt2");
    gguf_put_text(&b, "tokenizer.ggml.pre", w->pre);
    put_list(&b, "tokenizer.ggml.tokens", GGUF_STRING, w->tokens);
    put_list(&b, "tokenizer.ggml.token_type", GGUF_INT32, w->types);
    put_list(&b, "tokenizer.ggml.merges", GGUF_STRING, w->merges);
    put_key(&b, "tokenizer.ggml.bos_token_id", GGUF_INT32);
    put(&b, 0, 4);
    put_key(&b, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
    put(&b, w->adds_bos, 1);
    while (b.len % 32) put(&b, 0, 1);
    (void)snprintf(path, sizeof path, "%s/words.gguf", s->dir);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
    assert_int_equal(fclose(f), 0);
    buf_release(&b);
    struct modelfile *m = modelfile_open(path, &e);
    must(m, e);
    return m;
}

static const struct json *parsed(struct scratch_dir *s, const struct buf *b)
{
    struct err e = {0};
    const struct json *j = json_parse(b->data, b->len, &s->arena, &e);
    must(j, e);
    return j;
}

/* The tokenizer of the two exported files. */
static struct tokenizer *through_json(struct scratch_dir *s, const struct gguf *g,
                                      struct pretokenize_plan *plan)
{
    struct err e = {0};
    struct buf json = {0}, config = {0};
    struct token_spec spec;
    must(hub_tokenizer(g, &json, &e), e);
    must(hub_tokenizer_config(g, 128, &config, &e), e);
    struct token_files files = {.tokenizer = parsed(s, &json), .tokenizer_config = parsed(s, &config)};
    must(token_spec_from_json(&spec, &files, &e), e);
    struct tokenizer *t = tokenizer_build(&spec, &e);
    must(t, e);
    *plan = spec.plan;
    token_spec_release(&spec);
    buf_release(&json);
    buf_release(&config);
    return t;
}

static void every_named_pre_tokenizer_is_spelled_out(void **state)
{
    struct scratch_dir *s = *state;
    static const char *const names[] = {
#define SPLIT(id, covers, regex)
#define PRE(name, ...) name,
#include "core/text/pretokenize.def"
#undef SPLIT
#undef PRE
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct words w = {.pre = names[i], .tokens = "<s>|a|b|ab", .types = "3|1|1|1", .merges = "a b"};
        struct err e = {0};
        struct pretokenize_plan want, got;
        struct modelfile *f = gguf_of(s, &w);
        tokenizer_free(through_json(s, modelfile_gguf(f), &got));
        must(pretokenize_named(names[i], &want, &e), e);
        assert_int_equal(got.n, want.n);
        assert_memory_equal(got.split, want.split, want.n);
        assert_int_equal(got.nfc, want.nfc);
        assert_int_equal(got.ignore_merges, want.ignore_merges);
        assert_false(got.prefix_space);
        modelfile_close(f);
    }
}

static void unusual_vocabularies_mean_the_same(void **state)
{
    struct scratch_dir *s = *state;
    static const struct words rows[] = {
        {"gpt-2", "<s>|a|b|ab", "3|1|1|1", "a b", true},
        {"gpt-2", "<s>|a|b|ab|ba", "3|1|4|1|1", "a b|b a", false},    /* b is user-defined */
        {"gpt-2", "<s>|a||ab|b", "3|1|1|1|1", "a b", false},          /* an empty one */
        {"gpt-2", "<s>|\"|\\|\"\\|\xC4\x8A", "3|1|1|1|1", "\" \\", false}, /* to be escaped */
        {"gpt-2", "<\"\\>|a|b|ab", "3|1|1|1", "a b", true},
    };
    static const char *const texts[] = {"abab<s>b", "ba?ab b", "\"\\\\\"\n", "<\"\\>a<s>"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct pretokenize_plan plan;
        struct modelfile *f = gguf_of(s, &rows[i]);
        struct tokenizer *a = tokenizer_new(f, &e);
        must(a, e);
        struct tokenizer *b = through_json(s, modelfile_gguf(f), &plan);
        assert_same_tokenizer(a, b);
        for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
            struct ids x = {0}, y = {0};
            must(tokenizer_encode(a, texts[k], strlen(texts[k]), true, &x, &e), e);
            must(tokenizer_encode(b, texts[k], strlen(texts[k]), true, &y, &e), e);
            assert_int_equal(x.n, y.n);
            if (x.n) assert_memory_equal(x.id, y.id, x.n * sizeof *x.id);
            ids_release(&x);
            ids_release(&y);
        }
        tokenizer_free(a);
        tokenizer_free(b);
        modelfile_close(f);
    }
}

static void one_spelling_of_two_tokens(void **state)
{
    struct scratch_dir *s = *state;
    struct err e = {0};
    struct buf b = {0};
    struct words plain = {"gpt-2", "<s>|a|b|ab|a", "3|1|1|1|1", "a b", false};
    struct modelfile *f = gguf_of(s, &plain);
    must(hub_tokenizer(modelfile_gguf(f), &b, &e), e); /* the later is meant */
    const struct json *vocab = json_get(json_get(parsed(s, &b), "model"), "vocab");
    assert_int_equal(json_get(vocab, "a")->integer, 4);
    assert_int_equal(vocab->len, 4);
    modelfile_close(f);
    buf_release(&b);
    struct words special = {"gpt-2", "<s>|a|b|ab|<s>", "3|1|1|1|1", "a b", false};
    f = gguf_of(s, &special);
    assert_false(hub_tokenizer(modelfile_gguf(f), &b, &e));
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "tokens 0 and 4"));
    modelfile_close(f);
    buf_release(&b);
}

/* A GGUF may hold what its family's config.json has no word for. */
static void what_a_config_cannot_say_is_not_exported(void **state)
{
    struct scratch_dir *s = *state;
    struct err e = {0};
    struct model *m = open_model(sources[N_SOURCES - 1].path);
    m->arch.attn_scale *= 0.9f;
    struct view *v = view_base(m);
    assert_false(hub_write(v, s->out, &e));
    assert_int_equal(e.code, ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "llama cannot say this model's attn_scale"));
    view_drop(v);
    model_drop(m);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, make_scratch, drop_scratch)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(every_source_reads_back_with_its_digest_and_ids),
        CASE(a_gguf_gets_the_configuration_of_its_twin),
        CASE(a_directory_keeps_its_own_files),
        CASE(equal_views_give_equal_files),
        CASE(a_changed_tensor_is_float32_and_the_others_as_they_were),
        CASE(sixteen_bits_are_named_while_all_tensors_have_them),
        CASE(the_header_is_what_transformers_asks_for),
        CASE(a_directory_that_holds_anything_is_refused_and_left_alone),
        CASE(an_empty_directory_is_taken),
        CASE(a_missing_parent_is_a_sentence),
        CASE(what_a_config_cannot_say_is_not_exported),
        CASE(a_full_disk_leaves_nothing_behind),
        CASE(every_named_pre_tokenizer_is_spelled_out),
        CASE(unusual_vocabularies_mean_the_same),
        CASE(one_spelling_of_two_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
