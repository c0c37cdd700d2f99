/* Sparse autoencoders against what sae-lens computes with the same files (tests/golden/saes); one feature at a time
 * against all of them; and folders that are not what they say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file/safetensors.h"
#include "core/kernel/blas.h"
#include "core/sae.h"
#include "support/golden.h"
#include "support/numbers.h"

#define SAES "tests/golden/saes/"
enum { D = 16, K = 24, ROWS = 6 };

static const char *const folders[] = {"standard", "standard_centred", "jumprelu", "jumprelu_rescaled", "topk", "topk_bf16", "gated"};

static void cfg_of(const char *folder, struct sae_cfg *c)
{
    char path[128];
    size_t len;
    struct err e = {0};
    (void)snprintf(path, sizeof path, SAES "%s/cfg.json", folder);
    char *text = infile_whole(path, 1 << 16, &len, &e);
    must(text && sae_cfg_read(text, len, c, &e), e);
    mem_drop(text);
}

static struct sae *open_sae(const char *folder)
{
    char path[128];
    struct sae_cfg c;
    struct err e = {0};
    cfg_of(folder, &c);
    (void)snprintf(path, sizeof path, SAES "%s/sae_weights.safetensors", folder);
    struct sae *s = sae_read(&c, path, &e);
    must(s, e);
    return s;
}

static float *expected(const char *folder, const char *name, size_t n)
{
    struct golden g = {0};
    struct err e = {0};
    char path[128];
    size_t got;
    (void)snprintf(path, sizeof path, SAES "%s/expected.safetensors", folder);
    arena_init(&g.arena, 0);
    must(infile_open(&g.file, path, &e) && safetensors_read(&g.file, 0, &g.list, &g.arena, &e) && tensor_list_seal(&g.list, &e), e);
    float *out = golden_tensor(&g, name, &got);
    assert_non_null(out);
    assert_int_equal(got, n);
    tensor_list_release(&g.list);
    infile_close(&g.file);
    arena_release(&g.arena);
    return out;
}

static void each(void (*check)(const char *folder, struct sae *s, const float *x, const float *a, const float *y))
{
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        struct sae *s = open_sae(folders[i]);
        float *x = expected(folders[i], "x", ROWS * D), *a = expected(folders[i], "a", ROWS * K), *y = expected(folders[i], "y", ROWS * D);
        check(folders[i], s, x, a, y);
        mem_drop(x);
        mem_drop(a);
        mem_drop(y);
        sae_free(s);
    }
}

static void near(const char *what, const float *got, const float *want, size_t n)
{
    double off = farthest(got, want, n);
    if (!(off <= 1e-5)) fail_msg("%s is off by %g", what, off);
}

static void check_rows(const char *folder, struct sae *s, const float *x, const float *a, const float *y)
{
    float *work = floats(sae_work(&s->cfg, ROWS)), *got = floats(ROWS * K), *back = floats(ROWS * D);
    size_t bytes = 0;
    sae_encode(s, ROWS, x, D, work, got);
    near(folder, got, a, ROWS * K);
    sae_decode(s, ROWS, x, D, got, back);
    near(folder, back, y, ROWS * D);
#define SAE_TENSOR(field, name, r, c, kinds) if (s->field) bytes += 64;
#include "core/sae.def"
    assert_true(sae_bytes(&s->cfg) >= bytes);
    mem_drop(work);
    mem_drop(got);
    mem_drop(back);
}

static void test_sae_lens(void **state)
{
    (void)state;
    each(check_rows);
}

/* By itself a feature is what it is among the others, and its own growth is what x̂ changes by. */
static void check_one(const char *folder, struct sae *s, const float *x, const float *a, const float *y)
{
    float *work = floats(sae_work(&s->cfg, 1) + K), grown[K], row[D], back[D];
    for (uint32_t i = 0; i < K; i++)
        for (size_t r = 0; r < ROWS; r++) {
            float one = sae_activation(s, i, x + r * D, work);
            near(folder, &one, a + r * K + i, 1);
            memcpy(grown, a + r * K, sizeof grown);
            grown[i] += 0.5F;
            sae_decode(s, 1, x + r * D, D, grown, back);
            memcpy(row, x + r * D, sizeof row);
            float most = sae_add(s, i, 0.5F, row), largest = 0;
            for (size_t j = 0; j < D; j++) {
                back[j] += x[r * D + j] - y[r * D + j];
                largest = fmaxf(largest, fabsf(row[j] - x[r * D + j]));
            }
            near(folder, row, back, D);
            assert_true(most == largest && most > 0);
        }
    mem_drop(work);
}

static void test_one_feature(void **state)
{
    (void)state;
    each(check_one);
}

/* By torch.topk's rule any of equals will do; here the lower number is first. */
static void test_ties(void **state)
{
    (void)state;
    struct sae *s = open_sae("topk");
    float x[D] = {0}, *work = floats(sae_work(&s->cfg, 1)), a[K];
    memset(s->w_enc, 0, D * K * sizeof(float));
    for (uint32_t i = 0; i < K; i++) s->b_enc[i] = i == 20 ? 2.0F : i % 2 ? 1.0F : -1.0F;
    sae_encode(s, 1, x, D, work, a);
    for (uint32_t i = 0; i < K; i++) assert_true(a[i] == (i == 20 ? 2.0F : i % 2 && i < 8 ? 1.0F : 0));
    for (uint32_t i = 0; i < K; i++) s->b_enc[i] = -1;
    sae_encode(s, 1, x, D, work, a);
    for (uint32_t i = 0; i < K; i++) assert_true(a[i] == 0);
    mem_drop(work);
    sae_free(s);
}

/* ---- what is not as it should be ----------------------------------------------------------------- */

static void test_cfg_refusals(void **state)
{
    static const struct {
        const char *text, *said;
    } bad[] = {
        {"", "cfg.json"}, {"[]", "no JSON object"}, {"{}", "d_in"}, {"{\"d_in\":0,\"d_sae\":4}", "d_in"},
        {"{\"d_in\":4,\"d_sae\":99999999999}", "d_sae"},
        {"{\"d_in\":4,\"d_sae\":4,\"architecture\":\"batchtopk\"}", "batchtopk"},
        {"{\"d_in\":4,\"d_sae\":4,\"architecture\":7}", "architecture"},
        {"{\"d_in\":4,\"d_sae\":4,\"architecture\":\"topk\"}", "\"k\""},
        {"{\"d_in\":4,\"d_sae\":4,\"architecture\":\"topk\",\"k\":5}", "1 to 4"},
        {"{\"d_in\":4,\"d_sae\":4,\"activation_fn\":\"tanh-relu\"}", "activation_fn"},
        {"{\"d_in\":4,\"d_sae\":4,\"normalize_activations\":\"expected_average_only_in\"}", "factor"},
        {"{\"d_in\":4,\"d_sae\":4,\"normalize_activations\":\"covariance_whitening\"}", "covariance_whitening"},
        {"{\"d_in\":4,\"d_sae\":4,\"finetuning_scaling_factor\":true}", "finetuning_scaling_factor"},
        {"{\"d_in\":4,\"d_sae\":4,\"rescale_acts_by_decoder_norm\":true}", "rescale_acts"},
        {"{\"d_in\":4,\"d_sae\":4,\"apply_b_dec_to_input\":1}", "apply_b_dec"},
        {"{\"d_in\":4,\"d_sae\":4,\"metadata\":{\"hook_name\":5}}", "hook_name"},
        {"{\"d_in\":4,\"d_sae\":4,\"hook_head_index\":-1}", "hook_head_index"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sae_cfg c;
        struct err e = {0};
        if (sae_cfg_read(bad[i].text, strlen(bad[i].text), &c, &e)) fail_msg("taken: %s", bad[i].text);
        if (!strstr(e.text, bad[i].said) || !strstr(e.text, "cfg.json")) fail_msg("%s: %s", bad[i].text, e.text);
    }
}

static void test_older_words(void **state)
{
    (void)state;
    static const char text[] = "{\"d_in\":4,\"d_sae\":8,\"activation_fn_str\":\"topk\",\"activation_fn_kwargs\":{\"k\":3},"
                               "\"hook_point\":\"blocks.0.hook_mlp_out\",\"hook_head_index\":null}";
    struct sae_cfg c;
    struct err e = {0};
    must(sae_cfg_read(text, sizeof text - 1, &c, &e), e);
    assert_true(c.kind == SAE_TOPK && c.top == 3 && c.centred && c.head == SAE_ALL_HEADS && c.norm == SAE_NORM_NONE);
    assert_string_equal(c.hook, "blocks.0.hook_mlp_out");
}

/* The weights of one folder under the description of another, changed a little. */
static void refused(const char *folder, void (*change)(struct sae_cfg *c), const char *said)
{
    char path[128];
    struct sae_cfg c;
    struct err e = {0};
    cfg_of(folder, &c);
    change(&c);
    (void)snprintf(path, sizeof path, SAES "%s/sae_weights.safetensors", folder);
    struct sae *s = sae_read(&c, path, &e);
    if (s || !strstr(e.text, said) || !strstr(e.text, path)) fail_msg("%s: %s", folder, s ? "taken" : e.text);
}

static void wider(struct sae_cfg *c) { c->width++; }
static void more(struct sae_cfg *c) { c->features--; }
static void jumps(struct sae_cfg *c) { c->kind = SAE_JUMPRELU; }
static void plain(struct sae_cfg *c) { c->kind = SAE_STANDARD; }

static void test_weight_refusals(void **state)
{
    (void)state;
    refused("standard", wider, "17");
    refused("standard", more, "at byte");
    refused("standard", jumps, "no tensor 'threshold'");
    refused("jumprelu", plain, "tensor 'threshold'");
    refused("gated", plain, "tensor 'b_gate'");
}

/* Bytes of a file changed: nothing is believed. */
static void test_broken_weights(void **state)
{
    (void)state;
    size_t len;
    struct err e = {0};
    struct sae_cfg c;
    cfg_of("jumprelu", &c);
    char *all = infile_whole(SAES "jumprelu/sae_weights.safetensors", 1 << 20, &len, &e);
    must(all, e);
    for (int how = 0; how < 3; how++) {
        char name[] = "/tmp/engram-sae-XXXXXX";
        int fd = mkstemp(name);
        size_t n = how == 0 ? len - 4 : len;
        char *bytes = mem_take(n, 1, &e);
        memcpy(bytes, all, n);
        if (how == 1) memset(bytes + len - 4, 0xff, 4);
        if (how == 2) bytes[3] = 0x7f;
        assert_true(fd >= 0 && write(fd, bytes, n) == (ssize_t)n);
        e = (struct err){0};
        assert_null(sae_read(&c, name, &e));
        assert_true(strstr(e.text, name) != NULL);
        if (how == 1 && !strstr(e.text, "not finite at element")) fail_msg("%s", e.text);
        (void)close(fd);
        (void)unlink(name);
        mem_drop(bytes);
    }
    mem_drop(all);
}

/* ---- where it belongs ---------------------------------------------------------------------------- */

static void test_sites(void **state)
{
    (void)state;
    static const struct {
        uint32_t width;
        int32_t head;
        const char *name, *said;
    } row[] = {
        {32, -1, "blocks.1.hook_resid_post", NULL}, {32, -1, "hook_embed", NULL}, {48, -1, "blocks.2.mlp.hook_post", NULL},
        {32, -1, "blocks.0.attn.hook_z", NULL}, {8, 3, "blocks.0.attn.hook_z", NULL}, {16, -1, "blocks.0.attn.hook_k", NULL},
        {8, -1, "blocks.0.attn.hook_z", "d_in"}, {8, 4, "blocks.0.attn.hook_z", "4 heads"}, {32, 0, "blocks.0.hook_mlp_out", "0 heads"},
        {31, -1, "blocks.1.hook_resid_post", "d_in"}, {32, -1, "blocks.3.hook_resid_post", "0"}, {32, -1, "blocks.0.attn.hook_pattern", "pattern"},
        {32, -1, "unembed.hook_in", "norm"}, {32, -1, "model.layers.1", ""}, {1, -1, "hook_tokens", "written"}, {32, -1, "", "hook_name"},
    };
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (int given = 0; given < 2; given++) {
            struct sae_cfg c = {.width = row[i].width, .features = 8, .head = row[i].head};
            struct site site;
            struct err e = {0};
            if (given && !row[i].name[0]) continue;
            (void)snprintf(c.hook, sizeof c.hook, "%s", given ? "blocks.0.hook_resid_pre" : row[i].name);
            bool ok = sae_site(&c, &g.model->arch, given ? row[i].name : NULL, &site, &e);
            if (ok != !row[i].said || (row[i].said && !strstr(e.text, row[i].said))) fail_msg("%s: %s", row[i].name, e.text);
        }
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sae_lens), cmocka_unit_test(test_one_feature), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_cfg_refusals), cmocka_unit_test(test_older_words), cmocka_unit_test(test_weight_refusals),
        cmocka_unit_test(test_broken_weights), cmocka_unit_test(test_sites),
    };
    struct err e = {0};
    if (!blas_start(1, &e)) return 1;
    return cmocka_run_group_tests(tests, golden_arena_init, golden_arena_release);
}
