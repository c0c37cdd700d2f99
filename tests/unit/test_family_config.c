/* What families make of config.json and of a GGUF's metadata: values that change the computation are
 * honoured or refused in a sentence that names them. Expectations are transformers' (its configuration
 * classes and their defaults) and llama.cpp's. Each case changes one thing of a committed model. */
#include <ftw.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/arch.h"
#include "core/base/json_write.h"
#include "core/file/gguf.h"
#include "core/file/infile.h"
#include "support/gguf_bytes.h"
#include "support/golden.h"

#define GOLDEN "tests/golden/families/"

/* ---- a directory with another config.json ------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
    (void)st, (void)flag, (void)f;
    return remove(path);
}

static void write_file(const char *dir, const char *name, const char *bytes, size_t n)
{
    char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* All else that a model is read from. */
static void link_files(const char *folder, const char *dir)
{
    static const char *const names[] = {
        "tokenizer.json", "model.safetensors", "model.safetensors.index.json", "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"};
    char from[512], to[256], here[256];
    assert_non_null(getcwd(here, sizeof here));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        (void)snprintf(from, sizeof from, "%s/" GOLDEN "%s/%s", here, folder, names[i]);
        (void)snprintf(to, sizeof to, "%s/%s", dir, names[i]);
        if (access(from, R_OK) == 0) assert_int_equal(symlink(from, to), 0);
    }
}

static const struct json *parse(struct arena *a, const char *text, size_t n)
{
    struct err e = {0};
    const struct json *v = json_parse(text, n, a, &e);
    must(v, e);
    return v;
}

/* The members of `changes` take the place of those of the same name; "-" removes one. */
static void merge(const struct json *config, const struct json *changes, struct buf *out)
{
    const struct json *lists[] = {config, changes};
    bool first = true;
    buf_text(out, "{");
    for (int i = 0; i < 2; i++)
        for (const struct json *c = lists[i]->child; c; c = c->next) {
            if (i == 0 ? json_get(changes, c->key) != NULL : c->type == JSON_STRING && strcmp(c->text, "-") == 0) continue;
            if (!first) buf_text(out, ",");
            first = false;
            json_write_text(out, c->key, c->key_len);
            buf_text(out, ":");
            json_write_typed(c, out);
        }
    buf_text(out, "}");
}

/* The description of a committed model whose config.json is changed so. */
static bool described(const char *folder, const char *changes, struct arch *out, struct err *e)
{
    char dir[64] = "/tmp/engramd-test-XXXXXX", path[256];
    struct arena arena;
    struct buf config = {0};
    size_t n;
    arena_init(&arena, 0);
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, GOLDEN "%s/config.json", folder);
    char *text = infile_whole(path, 1 << 16, &n, e);
    must(text, *e);
    merge(parse(&arena, text, n), parse(&arena, changes, strlen(changes)), &config);
    write_file(dir, "config.json", config.data, config.len);
    link_files(folder, dir);
    const struct family *family;
    struct modelfile *f = modelfile_open(dir, e);
    must(f, *e);
    bool ok = arch_read(f, out, &family, e);
    modelfile_close(f);
    mem_drop(text);
    buf_release(&config);
    arena_release(&arena);
    (void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return ok;
}

/* ---- refused -------------------------------------------------------------------------------------- */

static const struct {
    const char *folder, *changes;
    enum err_code code;
    const char *says;
} refused[] = {
    /* families and their kin */
    {"llama", "{\"model_type\": \"mixtral\"}", ERR_UNSUPPORTED, "unknown model family \"mixtral\""},
    {"llama", "{\"model_type\": \"gemma3\"}", ERR_CORRUPT, "no model_type in a text_config"},
    {"gemma3_held", "{\"text_config\": {\"model_type\": \"llama\"}}", ERR_UNSUPPORTED, "\"gemma3\" with the text model \"llama\""},
    {"gemma3_held", "{\"quantization_config\": {\"quant_method\": \"awq\"}}", ERR_UNSUPPORTED, "quantization_config"},
    {"gemma3_held", "{\"tie_word_embeddings\": false}", ERR_UNSUPPORTED, "\"tie_word_embeddings\" contradicts"},
    {"llama", "{\"quantization_config\": {\"quant_method\": \"gptq\"}}", ERR_UNSUPPORTED, "quantization_config"},
    /* sizes */
    {"llama", "{\"hidden_size\": \"-\"}", ERR_CORRUPT, "\"hidden_size\" is absent"},
    {"llama", "{\"num_hidden_layers\": 2.5}", ERR_CORRUPT, "\"num_hidden_layers\" is no non-negative integer"},
    {"llama", "{\"num_hidden_layers\": 1025}", ERR_CORRUPT, "layers is 1025"},
    {"llama", "{\"num_attention_heads\": 0}", ERR_CORRUPT, "heads is 0"},
    {"llama", "{\"num_key_value_heads\": 3}", ERR_CORRUPT, "4 query heads are no multiple of 3"},
    {"llama", "{\"rms_norm_eps\": 0}", ERR_CORRUPT, "norm eps is 0"},
    {"llama", "{\"rms_norm_eps\": \"small\"}", ERR_CORRUPT, "\"rms_norm_eps\" is no number"},
    {"llama", "{\"rms_norm_eps\": 1e300}", ERR_CORRUPT, "\"rms_norm_eps\" is beyond float32"},
    {"llama", "{\"tie_word_embeddings\": 1}", ERR_CORRUPT, "\"tie_word_embeddings\" is neither"},
    /* the MLP and biases */
    {"llama", "{\"hidden_act\": \"relu\"}", ERR_UNSUPPORTED, "hidden_act \"relu\""},
    {"llama", "{\"hidden_act\": 3}", ERR_CORRUPT, "\"hidden_act\" is no text"},
    {"gpt2", "{\"activation_function\": \"quick_gelu\"}", ERR_UNSUPPORTED, "activation_function \"quick_gelu\""},
    {"gemma2", "{\"hidden_activation\": \"relu\"}", ERR_UNSUPPORTED, "hidden_activation \"relu\""},
    {"llama", "{\"mlp_bias\": true}", ERR_UNSUPPORTED, "\"mlp_bias\" is true"},
    /* rotary */
    {"llama", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0}}", ERR_UNSUPPORTED, "rotary scaling \"yarn\""},
    {"llama", "{\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4.0}}", ERR_UNSUPPORTED, "rotary scaling \"dynamic\""},
    {"llama", "{\"rope_parameters\": {\"rope_type\": \"proportional\"}}", ERR_UNSUPPORTED, "\"proportional\""},
    {"llama", "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 5}}}", ERR_UNSUPPORTED, "\"full_attention\""},
    {"llama", "{\"rope_parameters\": [1]}", ERR_CORRUPT, "rotary parameters are no object"},
    {"llama", "{\"rope_scaling\": {\"rope_type\": \"linear\"}}", ERR_CORRUPT, "rotary \"factor\" is absent"},
    {"llama", "{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0.0}}", ERR_CORRUPT, "rotary \"factor\" is 0"},
    {"llama", "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 4.0, \"high_freq_factor\": 1.0}}",
     ERR_CORRUPT, "rotary scaling of factor 8 between 4 and 1"},
    {"llama", "{\"partial_rotary_factor\": 0.5}", ERR_UNSUPPORTED, "\"partial_rotary_factor\": rotating 4 of 8"},
    {"llama", "{\"rope_parameters\": {\"rope_theta\": 0.5}}", ERR_CORRUPT, "rotary base 0.5"},
    {"llama", "{\"head_dim\": 7}", ERR_CORRUPT, "rotary width 7 is odd"},
    {"gpt_neox", "{\"rope_parameters\": {\"partial_rotary_factor\": 1.5}}", ERR_CORRUPT, "1.5, outside 0..1"},
    {"gptj", "{\"rotary_dim\": 10}", ERR_CORRUPT, "rotary width 10"},
    {"phi3", "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [1.0]}, \"partial_rotary_factor\": 0.5}", ERR_CORRUPT,
     "1 rotary divisors for 2 pairs"},
    {"phi3", "{\"rope_parameters\": {\"rope_type\": \"longrope\"}}", ERR_CORRUPT, "\"short_factor\" is no list"},
    {"phi3", "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [1.0, 0.0, 1.0, 1.0]}}", ERR_CORRUPT,
     "rotary divisor 1 is 0"},
    {"phi3", "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [true]}}", ERR_CORRUPT, "\"short_factor\" has no numbers"},
    /* windows */
    {"mistral", "{\"layer_types\": [\"full_attention\", \"sliding_attention\"]}", ERR_UNSUPPORTED, "\"layer_types\""},
    {"mistral", "{\"sliding_window\": 0}", ERR_CORRUPT, "\"sliding_window\" is 0"},
    {"qwen2", "{\"layer_types\": [\"full_attention\", \"chunked_attention\"]}", ERR_UNSUPPORTED, "layer type \"chunked_attention\""},
    {"qwen2", "{\"layer_types\": [\"full_attention\"]}", ERR_CORRUPT, "\"layer_types\" is no list of 2 words"},
    {"qwen2", "{\"layer_types\": [1, 2]}", ERR_CORRUPT, "layer_types[0] is no text"},
    {"qwen2", "{\"layer_types\": [\"full_attention\", \"sliding_attention\"], \"use_sliding_window\": false}", ERR_CORRUPT,
     "windowed layers, but no sliding_window"},
    {"gemma2", "{\"sliding_window\": null}", ERR_CORRUPT, "windowed layers, but no sliding_window"},
    /* attention */
    {"gpt2", "{\"scale_attn_by_inverse_layer_idx\": true}", ERR_UNSUPPORTED, "\"scale_attn_by_inverse_layer_idx\""},
    {"gpt2", "{\"add_cross_attention\": true}", ERR_UNSUPPORTED, "\"add_cross_attention\""},
    {"gemma2", "{\"use_bidirectional_attention\": true}", ERR_UNSUPPORTED, "\"use_bidirectional_attention\""},
    {"gemma2", "{\"query_pre_attn_scalar\": 0}", ERR_CORRUPT, "\"query_pre_attn_scalar\" is 0"},
    {"gemma2", "{\"attn_logit_softcapping\": -1.0}", ERR_CORRUPT, "\"attn_logit_softcapping\" is -1"},
    {"gemma3", "{\"attn_logit_softcapping\": 50.0}", ERR_UNSUPPORTED, "\"attn_logit_softcapping\""},
    {"gemma3", "{\"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"linear\", \"factor\": 2.0}}}", ERR_UNSUPPORTED,
     "scaled rotary of windowed layers"},
};

static void each_value_we_do_not_compute_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err e = {0};
        struct arch a;
        if (described(refused[i].folder, refused[i].changes, &a, &e))
            fail_msg("%s with %s is read", refused[i].folder, refused[i].changes);
        if (e.code != refused[i].code || !strstr(e.text, refused[i].says))
            fail_msg("%s with %s: %s \"%s\"", refused[i].folder, refused[i].changes, err_word(e.code), e.text);
    }
}

/* ---- honoured ------------------------------------------------------------------------------------- */

#define AT(member) offsetof(struct arch, member), sizeof ((struct arch *)0)->member
static const struct {
    const char *folder, *changes;
    size_t at, size;
    double value;
} honoured[] = {
    /* defaults of transformers' classes, where the file is silent */
    {"llama", "{\"num_key_value_heads\": \"-\"}", AT(n_kv_heads), 4},
    {"llama", "{\"head_dim\": \"-\"}", AT(d_head), 6},
    {"llama", "{\"head_dim\": null}", AT(d_head), 6},
    {"llama", "{\"rms_norm_eps\": \"-\"}", AT(norm_eps), 1e-6},
    {"olmo2", "{\"rms_norm_eps\": \"-\"}", AT(norm_eps), 1e-5},
    {"llama", "{\"rope_parameters\": \"-\"}", AT(rotary.theta), 10000},
    {"llama", "{\"attention_bias\": \"-\"}", AT(qkv_bias), 0},
    {"gpt_neox", "{\"attention_bias\": \"-\"}", AT(o_bias), 1},
    {"gpt_neox", "{\"rope_parameters\": \"-\"}", AT(rotary.dim), 2},
    {"gpt_neox", "{\"use_parallel_residual\": \"-\"}", AT(parallel), 1},
    {"gpt2", "{\"n_inner\": \"-\"}", AT(d_mlp), 96},
    {"gpt2", "{\"tie_word_embeddings\": \"-\"}", AT(tied_head), 1},
    {"gpt2", "{\"activation_function\": \"-\"}", AT(act), ACT_GELU_TANH},
    {"gptj", "{\"tie_word_embeddings\": \"-\"}", AT(tied_head), 0},
    {"mistral", "{\"sliding_window\": \"-\"}", AT(window), 4096},
    {"mistral", "{\"sliding_window\": null}", AT(window), 0},
    {"qwen2", "{\"use_sliding_window\": \"-\"}", AT(window), 0},
    {"qwen2", "{\"max_window_layers\": 0}", AT(windowed[0]), 3},
    {"qwen2", "{\"layer_types\": [\"sliding_attention\", \"full_attention\"]}", AT(windowed[0]), 1},
    {"gemma2", "{\"layer_types\": \"-\"}", AT(windowed[0]), 1},
    {"gemma2", "{\"final_logit_softcapping\": \"-\"}", AT(final_softcap), 30},
    {"gemma2", "{\"attn_logit_softcapping\": \"-\"}", AT(attn_softcap), 50},
    {"gemma2", "{\"attn_logit_softcapping\": null}", AT(attn_softcap), 0},
    {"gemma2", "{\"query_pre_attn_scalar\": \"-\"}", AT(attn_scale), 0.0625},
    {"gemma2", "{}", AT(embed_scale), 4.898979485566356},
    {"gemma3", "{\"final_logit_softcapping\": 5.0}", AT(final_softcap), 5},
    {"gemma3_classic", "{}", AT(windowed[0]), 0x5f},
    {"gemma3_classic", "{\"sliding_window_pattern\": 3}", AT(windowed[0]), 0x5b},
    {"gemma3_classic", "{}", AT(rotary.theta_local), 10000},
    {"gemma3_classic", "{\"rope_theta\": \"-\"}", AT(rotary.theta), 1000000},
    {"gemma3_classic", "{\"rope_local_base_freq\": 77.0}", AT(rotary.theta_local), 77},
    {"gemma3", "{\"num_attention_heads\": \"-\"}", AT(n_heads), 8},
    {"gemma3", "{\"num_attention_heads\": \"-\", \"num_key_value_heads\": \"-\"}", AT(n_kv_heads), 4},
    {"gemma3", "{\"vocab_size\": \"-\"}", AT(d_vocab), 262208},
    {"gemma3", "{\"max_position_embeddings\": \"-\"}", AT(context), 131072},
    {"gemma3_held", "{\"vocab_size\": 7}", AT(d_vocab), 264},
    {"phi3", "{\"sliding_window\": null}", AT(window), 0},
    {"phi3", "{\"tie_word_embeddings\": true}", AT(tied_head), 1},
    /* spellings, old and new */
    {"llama", "{\"rope_parameters\": \"-\", \"rope_theta\": 500.0}", AT(rotary.theta), 500},
    {"llama", "{\"rope_theta\": 500.0}", AT(rotary.theta), 50},
    {"llama", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}, \"rope_theta\": 300.0}", AT(rotary.linear), 4},
    {"llama", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}, \"rope_theta\": 300.0}", AT(rotary.theta), 300},
    {"llama", "{\"rope_scaling\": {}}", AT(rotary.llama3.factor), 8},
    {"llama", "{\"rope_scaling\": {\"type\": \"yarn\", \"rope_type\": \"default\"}}", AT(rotary.llama3.factor), 0},
    {"llama", "{\"original_max_position_embeddings\": 48}", AT(rotary.llama3.context), 48},
    {"gpt_neox", "{\"rope_parameters\": \"-\", \"rotary_pct\": 1.0, \"rotary_emb_base\": 50}", AT(rotary.theta), 50},
    {"gpt_neox", "{\"rope_parameters\": \"-\", \"rotary_pct\": 1.0, \"rotary_emb_base\": 50}", AT(rotary.dim), 8},
    {"llama", "{\"hidden_act\": \"gelu\"}", AT(act), ACT_GELU_ERF},
    {"llama", "{\"hidden_act\": \"gelu_pytorch_tanh\"}", AT(act), ACT_GELU_TANH},
    {"gpt2", "{\"scale_attn_weights\": false}", AT(attn_scale), 1},
    {"gpt2", "{\"reorder_and_upcast_attn\": true}", AT(attn_scale), 0.4082482904638630},
    {"qwen3", "{\"attention_bias\": true}", AT(o_bias), 1},
    /* long-rope: the first set of divisors, its context, and the factor of both */
    {"phi3", "{}", AT(context), 32},
    {"phi3", "{}", AT(rotary.divisor[1]), 1.25},
    {"phi3", "{}", AT(rotary.attention), 1.0954451150103321},
    {"phi3", "{\"rope_parameters\": {\"rope_type\": \"su\", \"short_factor\": [1, 1, 1, 2], \"attention_factor\": 1.5}}",
     AT(rotary.attention), 1.5},
    {"phi3", "{\"rope_parameters\": {\"rope_type\": \"longrope\", \"short_factor\": [1, 1, 1, 2], \"factor\": 0.5}}",
     AT(rotary.attention), 1},
};

static double number_at(const struct arch *a, size_t at, size_t size)
{
    const unsigned char *p = (const unsigned char *)a + at;
    uint64_t wide;
    uint32_t word;
    float real;
    if (size == 1) return *p;
    if (size == sizeof wide) return memcpy(&wide, p, sizeof wide), (double)wide;
    memcpy(&word, p, sizeof word);
    memcpy(&real, p, sizeof real);
    /* small integers and enums are denormal floats, and no float here is one */
    return word < 0x00800000 ? (double)word : (double)real;
}

static void each_other_value_is_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof honoured / sizeof *honoured; i++) {
        struct err e = {0};
        struct arch a;
        if (!described(honoured[i].folder, honoured[i].changes, &a, &e))
            fail_msg("%s with %s: %s", honoured[i].folder, honoured[i].changes, e.text);
        double got = number_at(&a, honoured[i].at, honoured[i].size);
        if (!(fabs(got - honoured[i].value) <= 1e-6 * fabs(honoured[i].value)))
            fail_msg("%s with %s: %.9g, %.9g expected", honoured[i].folder, honoured[i].changes, got, honoured[i].value);
    }
}

/* ---- GGUF metadata -------------------------------------------------------------------------------- */

static uint32_t keys; /* of the file being written */

static void number(struct buf *b, const char *family, const char *key, uint32_t v)
{
    char name[96];
    (void)snprintf(name, sizeof name, "%s.%s", family, key);
    put_key(b, name, GGUF_UINT32);
    put(b, v, 4);
    keys++;
}

static void real(struct buf *b, const char *family, const char *key, float v)
{
    char name[96];
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    (void)snprintf(name, sizeof name, "%s.%s", family, key);
    put_key(b, name, GGUF_FLOAT32);
    put(b, bits, 4);
    keys++;
}

/* "key=3", "key=1.5", "key=true", "key=[1|2]" or "key=word", of the family; separated by spaces. */
static void extra(struct buf *b, const char *family, const char *list)
{
    char word[128], name[192];
    while (*list) {
        size_t n = strcspn(list, " "), eq = strcspn(list, "=");
        (void)snprintf(word, sizeof word, "%.*s", (int)(n - eq - 1), list + eq + 1);
        (void)snprintf(name, sizeof name, "%s.%.*s", family, (int)eq, list);
        char *end;
        unsigned long integer = strtoul(word, &end, 10);
        if (*word == '[') {
            word[strlen(word) - 1] = '\0';
            put_list(b, name, GGUF_UINT32, word + 1);
            keys++;
        } else if (!*end) {
            number(b, family, name + strlen(family) + 1, (uint32_t)integer);
        } else if (strchr(word, '.')) {
            real(b, family, name + strlen(family) + 1, strtof(word, NULL));
        } else if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0) {
            put_key(b, name, GGUF_BOOL);
            put(b, *word == 't', 1);
            keys++;
        } else {
            gguf_put_text(b, name, word);
            keys++;
        }
        list += n + (list[n] == ' ');
    }
}

/* Metadata only: 2 layers, width 24, 4 heads of 6, 2 key/value heads. */
static bool described_gguf(const char *family, const char *more, struct arch *a, struct err *e)
{
    char dir[64] = "/tmp/engramd-test-XXXXXX", path[80];
    struct buf head = {0}, b = {0};
    keys = 2;
    gguf_put_text(&b, "general.architecture", family);
    put_list(&b, "tokenizer.ggml.tokens", GGUF_STRING, "a|b|c");
    static const struct { const char *key; uint32_t v; } sizes[] = {
        {"block_count", 2}, {"context_length", 64}, {"embedding_length", 24}, {"feed_forward_length", 32},
        {"attention.head_count", 4}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) number(&b, family, sizes[i].key, sizes[i].v);
    if (!strstr(more, "attention.head_count_kv")) number(&b, family, "attention.head_count_kv", 2);
    real(&b, family, "attention.layer_norm_rms_epsilon", 1e-5f);
    extra(&b, family, more);
    put(&head, 0x46554747, 4); /* "GGUF" */
    put(&head, 3, 4);
    put(&head, 0, 8);
    put(&head, keys, 8);
    buf_put(&head, b.data, b.len);
    assert_non_null(mkdtemp(dir));
    write_file(dir, "m.gguf", head.data, head.len);
    (void)snprintf(path, sizeof path, "%s/m.gguf", dir);
    const struct family *found;
    struct modelfile *f = modelfile_open(path, e);
    must(f, *e);
    bool ok = arch_read(f, a, &found, e);
    modelfile_close(f);
    buf_release(&head);
    buf_release(&b);
    (void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return ok;
}

static const struct {
    const char *family, *more;
    enum err_code code;
    const char *says;
} gguf_refused[] = {
    {"mamba", "", ERR_UNSUPPORTED, "unknown model family \"mamba\""},
    {"mistral", "", ERR_UNSUPPORTED, "unknown model family \"mistral\""}, /* such files say llama */
    {"llama", "expert_count=8", ERR_UNSUPPORTED, "a mixture of 8 experts"},
    {"llama", "attention.causal=false", ERR_UNSUPPORTED, "not causal"},
    {"llama", "attention.clamp_kqv=8.0", ERR_UNSUPPORTED, "llama.attention.clamp_kqv is 8"},
    {"llama", "attention.max_alibi_bias=8.0", ERR_UNSUPPORTED, "llama.attention.max_alibi_bias is 8"},
    {"llama", "logit_scale=0.5", ERR_UNSUPPORTED, "llama.logit_scale is 0.5"},
    {"llama", "rope.scaling.type=yarn", ERR_UNSUPPORTED, "rotary scaling \"yarn\""},
    {"llama", "rope.dimension_count=4", ERR_UNSUPPORTED, "rotating 4 of 6 dimensions"},
    {"llama", "attention.value_length=8", ERR_UNSUPPORTED, "values 8 wide beside keys 6 wide"},
    {"llama", "attention.sliding_window=4", ERR_UNSUPPORTED, "a window of 4 positions"},
    {"llama", "attention.head_count_kv=[2|1]", ERR_UNSUPPORTED, "llama.attention.head_count_kv is not one integer"},
    {"llama", "attention.head_count_kv=two", ERR_UNSUPPORTED, "llama.attention.head_count_kv is not one integer"},
    {"llama", "rope.freq_base=word", ERR_CORRUPT, "llama.rope.freq_base is no number"},
    {"gemma3", "attention.sliding_window=4 attention.sliding_window_pattern=[1|1|0]", ERR_CORRUPT,
     "gemma3.attention.sliding_window_pattern has 3 entries for 2 layers"},
    {"gemma2", "attn_logit_softcapping=word", ERR_CORRUPT, "gemma2.attn_logit_softcapping is no number"},
    {"gemma3", "attn_logit_softcapping=50.0", ERR_UNSUPPORTED, "gemma3.attn_logit_softcapping is 50"},
    {"llama", "attn_logit_softcapping=50.0", ERR_UNSUPPORTED, "llama.attn_logit_softcapping is 50"},
    {"qwen2", "final_logit_softcapping=30.0", ERR_UNSUPPORTED, "qwen2.final_logit_softcapping is 30"},
    {"gptneox", "", ERR_CORRUPT, "gptneox.attention.layer_norm_epsilon is absent"},
};

static const struct {
    const char *family, *more;
    size_t at, size;
    double value;
} gguf_honoured[] = {
    {"llama", "", AT(rotary.theta), 10000},
    {"llama", "", AT(qkv_bias), 0},
    {"llama", "attention.head_count_kv=[1|1]", AT(n_kv_heads), 1},
    {"llama", "attention.key_length=8", AT(d_head), 8},
    {"llama", "rope.scaling.type=linear rope.scaling.factor=4.0", AT(rotary.linear), 4},
    {"llama", "rope.scale_linear=3.0", AT(rotary.linear), 3},
    {"llama", "rope.scaling.type=none rope.scaling.factor=4.0", AT(rotary.linear), 1},
    {"qwen3", "attention.key_length=16", AT(qk_norm), QK_NORM_HEAD},
    {"gemma2", "", AT(window), 4096},
    {"gemma2", "attention.sliding_window=5", AT(windowed[0]), 1},
    {"gemma2", "", AT(attn_softcap), 50}, /* llama.cpp's, where a file is silent */
    {"gemma2", "", AT(final_softcap), 30},
    {"gemma2", "attn_logit_softcapping=20.0", AT(attn_softcap), 20},
    {"gemma2", "attn_logit_softcapping=0.0", AT(attn_softcap), 0},
    {"gemma2", "final_logit_softcapping=10.0", AT(final_softcap), 10},
    {"gemma3", "", AT(attn_softcap), 0},
    {"gemma3", "", AT(final_softcap), 0},
    {"gemma3", "final_logit_softcapping=10.0", AT(final_softcap), 10},
    {"llama", "attn_logit_softcapping=0.0", AT(attn_softcap), 0},
    {"gemma2", "", AT(embed_scale), 4.898979485566356},
    {"gemma3", "attention.sliding_window=5", AT(windowed[0]), 3},
    {"gemma3", "attention.sliding_window=5 attention.sliding_window_pattern=2", AT(windowed[0]), 1},
    {"gemma3", "attention.sliding_window=5 attention.sliding_window_pattern=[0|1]", AT(windowed[0]), 2},
    {"gemma3", "attention.sliding_window=5", AT(rotary.theta_local), 10000},
    {"phi3", "attention.sliding_window=7", AT(windowed[0]), 3},
    {"phi3", "attention.sliding_window=0", AT(window), 0},
    {"phi3", "rope.dimension_count=4", AT(rotary.dim), 4},
    {"gptneox", "attention.layer_norm_epsilon=0.001 attention.head_count_kv=4 use_parallel_residual=false", AT(parallel), 0},
    {"gptneox", "attention.layer_norm_epsilon=0.001 attention.head_count_kv=4", AT(parallel), 1},
};

static void each_key_we_do_not_compute_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_refused / sizeof *gguf_refused; i++) {
        struct err e = {0};
        struct arch a;
        if (described_gguf(gguf_refused[i].family, gguf_refused[i].more, &a, &e))
            fail_msg("%s with %s is read", gguf_refused[i].family, gguf_refused[i].more);
        if (e.code != gguf_refused[i].code || !strstr(e.text, gguf_refused[i].says))
            fail_msg("%s with %s: %s \"%s\"", gguf_refused[i].family, gguf_refused[i].more, err_word(e.code), e.text);
    }
}

static void each_other_key_is_taken(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_honoured / sizeof *gguf_honoured; i++) {
        struct err e = {0};
        struct arch a;
        if (!described_gguf(gguf_honoured[i].family, gguf_honoured[i].more, &a, &e))
            fail_msg("%s with %s: %s", gguf_honoured[i].family, gguf_honoured[i].more, e.text);
        double got = number_at(&a, gguf_honoured[i].at, gguf_honoured[i].size);
        if (!(fabs(got - gguf_honoured[i].value) <= 1e-6 * fabs(gguf_honoured[i].value)))
            fail_msg("%s with %s: %.9g, %.9g expected", gguf_honoured[i].family, gguf_honoured[i].more, got, gguf_honoured[i].value);
    }
}

/* ---- tables --------------------------------------------------------------------------------------- */

/* A family's list names each weight of its block once, in words of its own. */
static void names_are_whole(void **state)
{
    (void)state;
    const struct family *f;
    for (size_t i = 0; (f = family_at(i)); i++) {
        struct err e = {0};
        struct arch a;
        must(described(f->name, "{}", &a, &e), e);
        bool seen[ROLE_COUNT] = {false};
        for (const struct tensor_name *n = f->names; n->hub; n++) {
            assert_false(seen[n->role]);
            seen[n->role] = true;
        }
        bool fused = seen[ROLE_QKV], split = seen[ROLE_Q] && seen[ROLE_K] && seen[ROLE_V];
        assert_true(fused != split);
        for (unsigned r = 0; r < ROLE_COUNT; r++) {
            bool part = r == ROLE_QKV || r == ROLE_Q || r == ROLE_K || r == ROLE_V || r == ROLE_QKV_B || r == ROLE_Q_B ||
                        r == ROLE_K_B || r == ROLE_V_B || r == ROLE_GATE_UP || r == ROLE_GATE || r == ROLE_UP;
            if (arch_has(&a, (enum role)r) && !part && !seen[r]) fail_msg("%s has no name for role %u", f->name, r);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_value_we_do_not_compute_is_named),
        cmocka_unit_test(each_other_value_is_taken),
        cmocka_unit_test(each_key_we_do_not_compute_is_named),
        cmocka_unit_test(each_other_key_is_taken),
        cmocka_unit_test(names_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
