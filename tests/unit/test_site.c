/* Names of sites: every way to spell each, what is meant by a pattern, and what is said of a wrong one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/site.h"
#include "support/golden.h"

static const struct arch llama = {.n_layers = 12, .n_heads = 6, .n_kv_heads = 2, .d_head = 8, .d_model = 40, .d_mlp = 100,
                                  .d_vocab = 300, .pre_norm = true, .gated = true};
static const struct arch gpt2 = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 4, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                 .d_vocab = 90, .pre_norm = true, .norm = NORM_LAYER, .positions = POSITIONS_LEARNED};
static const struct arch gemma3 = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 2, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                   .d_vocab = 90, .pre_norm = true, .post_norm = true, .qk_norm = QK_NORM_HEAD, .gated = true};

/* ---- right ones -------------------------------------------------------------------------------- */

/* As TransformerLens' get_act_name reads them, and as its pattern should have (names with an underscore). */
static const struct { const char *typed, *full; } shorts[] = {
    {"z5", "blocks.5.attn.hook_z"}, {"k6", "blocks.6.attn.hook_k"}, {"q0", "blocks.0.attn.hook_q"}, {"v11", "blocks.11.attn.hook_v"},
    {"pattern3", "blocks.3.attn.hook_pattern"}, {"pre5", "blocks.5.mlp.hook_pre"}, {"post5", "blocks.5.mlp.hook_post"},
    {"pre_linear2", "blocks.2.mlp.hook_pre_linear"}, {"scale4ln1", "blocks.4.ln1.hook_scale"}, {"normalized10ln2", "blocks.10.ln2.hook_normalized"},
    {"resid_pre5", "blocks.5.hook_resid_pre"}, {"resid_mid0", "blocks.0.hook_resid_mid"}, {"resid_post10", "blocks.10.hook_resid_post"},
    {"mlp_out0", "blocks.0.hook_mlp_out"}, {"attn_out7", "blocks.7.hook_attn_out"}, {"attn_scores3", "blocks.3.attn.hook_attn_scores"},
    {"rot_q2", "blocks.2.attn.hook_rot_q"}, {"rot_k2", "blocks.2.attn.hook_rot_k"}, {"result1", "blocks.1.attn.hook_result"},
    {"q_input4", "blocks.4.hook_q_input"}, {"mlp_in4", "blocks.4.hook_mlp_in"},
    {"hook_resid_pre5", "blocks.5.hook_resid_pre"}, {"embed", "hook_embed"}, {"tokens", "hook_tokens"}, {"scale", "ln_final.hook_scale"}, {"normalized", "ln_final.hook_normalized"},
    /* its other words, and modules that need not be said */
    {"attn3", "blocks.3.attn.hook_pattern"}, {"attn_logits3", "blocks.3.attn.hook_attn_scores"}, {"key2", "blocks.2.attn.hook_k"},
    {"query2", "blocks.2.attn.hook_q"}, {"value2", "blocks.2.attn.hook_v"}, {"mlp_pre1", "blocks.1.mlp.hook_pre"}, {"mlp_post1", "blocks.1.mlp.hook_post"},
    {"k6a", "blocks.6.attn.hook_k"}, {"k6attn", "blocks.6.attn.hook_k"}, {"pre2m", "blocks.2.mlp.hook_pre"}, {"resid_pre2b", "blocks.2.hook_resid_pre"},
};

static void names(const struct arch *a, const char *typed, const char *full)
{
    struct err e = {0};
    struct site s;
    char text[64];
    must(site_parse(a, typed, &s, &e), e);
    site_text(s, text);
    if (strcmp(text, full) != 0) fail_msg("\"%s\" is read as %s, not %s", typed, text, full);
}

static void test_short_names(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shorts / sizeof *shorts; i++) names(&llama, shorts[i].typed, shorts[i].full);
    names(&gpt2, "pos_embed", "hook_pos_embed");
    names(&gemma3, "scale2ln2_post", "blocks.2.ln2_post.hook_scale");
    names(&gemma3, "k_normed0", "blocks.0.attn.hook_k_normed");
}

static void test_words(void **state)
{
    (void)state;
    static const struct { struct site_words w; const char *full; } rows[] = {
        {{"resid_pre", true, 5, NULL}, "blocks.5.hook_resid_pre"}, {{"scale", true, 4, "ln1"}, "blocks.4.ln1.hook_scale"},
        {{"k", true, 6, "a"}, "blocks.6.attn.hook_k"}, {{"k", true, 6, "attention"}, "blocks.6.attn.hook_k"}, {{"pre", true, 2, "m"}, "blocks.2.mlp.hook_pre"},
        {{"resid_pre", true, 0, "b"}, "blocks.0.hook_resid_pre"}, {{"mlp_out", true, 1, "block"}, "blocks.1.hook_mlp_out"},
        {{"attn_out", true, 1, "blocks"}, "blocks.1.hook_attn_out"}, {{"hook_z", true, 3, NULL}, "blocks.3.attn.hook_z"},
        {{"attn.hook_z", true, 3, NULL}, "blocks.3.attn.hook_z"}, {{"key", true, 3, "attn"}, "blocks.3.attn.hook_k"},
        {{"embed", false, 0, NULL}, "hook_embed"}, {{"scale", false, 0, "ln_final"}, "ln_final.hook_scale"}, {{"out", false, 0, "unembed"}, "unembed.hook_out"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct site s;
        char text[64];
        must(site_of_words(&llama, &rows[i].w, &s, &e), e);
        site_text(s, text);
        assert_string_equal(text, rows[i].full);
    }
}

/* Of every site of a model: the full name and the short one are read back, and no other site is meant. */
static void test_every_name_is_its_own(void **state)
{
    (void)state;
    static const struct arch *const models[] = {&llama, &gpt2, &gemma3};
    for (size_t m = 0; m < 3; m++) {
        const struct arch *a = models[m];
        size_t n = site_count(a), layers = 0;
        for (size_t i = 0; i < n; i++) {
            struct site s = site_at(a, i), got;
            struct err e = {0};
            char name[64];
            layers += s.hook == HOOK_Z;
            site_short(s, name);
            if (hook_absent(a, s.hook)) {
                assert_false(site_parse(a, name, &got, &e));
                if (!strstr(e.text, hook_absent(a, s.hook))) fail_msg("%s", e.text);
                continue;
            }
            must(site_parse(a, name, &got, &e), e);
            assert_true(got.hook == s.hook && got.layer == s.layer);
            site_text(s, name);
            must(site_parse(a, name, &got, &e), e);
            assert_true(got.hook == s.hook && got.layer == s.layer);
        }
        assert_int_equal(layers, a->n_layers);
    }
    assert_true(site_at(&llama, 0).hook == HOOK_TOKENS && site_at(&llama, site_count(&llama) - 1).hook == HOOK_UNEMBED_OUT);
}

/* ---- patterns ---------------------------------------------------------------------------------- */

static size_t matches(const char *pattern, bool written, char first[64], char last[64])
{
    struct site s[2000];
    size_t n = site_glob(&llama, pattern, written, s, 2000);
    assert_int_equal(site_glob(&llama, pattern, written, NULL, 0), n);
    if (n) site_text(s[0], first), site_text(s[n - 1], last);
    return n;
}

static void test_patterns(void **state)
{
    (void)state;
    static const struct { const char *pattern; size_t n; const char *first, *last; } rows[] = {
        {"blocks.*.hook_resid_post", 12, "blocks.0.hook_resid_post", "blocks.11.hook_resid_post"},
        {"blocks.[0-3].attn.hook_z", 4, "blocks.0.attn.hook_z", "blocks.3.attn.hook_z"},
        {"blocks.1?.attn.hook_[kv]", 4, "blocks.10.attn.hook_k", "blocks.11.attn.hook_v"},
        {"hook_*", 2, "hook_tokens", "hook_embed"}, /* no learned positions here */
        {"*hook_scale", 25, "blocks.0.ln1.hook_scale", "ln_final.hook_scale"},
        {"blocks.3.ln?_post.*", 0, "", ""}, {"blocks.12.*", 0, "", ""}, {"z*", 0, "", ""}, {"[", 0, "", ""}};
    char first[64], last[64];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(site_is_glob(rows[i].pattern));
        size_t n = matches(rows[i].pattern, false, first, last);
        if (n != rows[i].n) fail_msg("\"%s\" matches %zu sites", rows[i].pattern, n);
        if (!n) continue;
        assert_string_equal(first, rows[i].first);
        assert_string_equal(last, rows[i].last);
    }
    assert_int_equal(matches("hook_*", true, first, last), 1); /* tokens are read-only */
    size_t all = matches("*", false, first, last);
    assert_int_equal(matches("*", true, first, last), all - 1);
    struct site two[2];
    assert_int_equal(site_glob(&llama, "*", false, two, 2), all); /* counts on where there is no room */
    assert_false(site_is_glob("blocks.0.hook_resid_pre") || site_is_glob("z5"));
}

/* ---- wrong ones -------------------------------------------------------------------------------- */

static void refused(const struct arch *a, const char *typed, const char *hint)
{
    struct err e = {0};
    struct site s;
    if (site_parse(a, typed, &s, &e)) fail_msg("\"%s\" is taken for a site", typed);
    assert_int_equal(e.code, ERR_INVALID);
    if (!strstr(e.text, hint)) fail_msg("\"%s\": %s", typed, e.text);
}

static void test_wrong_names(void **state)
{
    (void)state;
    static const struct { const char *typed, *hint; } wrong[] = {
        {"z12", "outside 0..11"}, {"z-1", "counted from 0"}, {"z-0", "counted from 0"}, {"resid_pre-12", "counted from 0"}, {"blocks.-1.hook_resid_pre", "0 to 11"},
        {"z", "write \"z6\""}, {"resid_post", "write \"resid_post6\""}, {"scale4", "\"scale4ln1\" or \"scale4ln2\""}, {"normalized0", "\"normalized0ln1\" or"},
        {"scale4ln3", "\"blocks.4.ln1.hook_scale\""}, {"z5mlp", "\"blocks.5.attn.hook_z\""}, {"resid_prew5", "\"blocks.5.hook_resid_pre\""}, {"patern3", "\"blocks.3.attn.hook_pattern\""},
        {"pos_embed", "rotary"}, {"k_normed3", "does not normalise queries and keys"}, {"attn_in3", "hook_q_input"}, {"scale4ln1_post", "does not normalise"},
        {"mlp_mid3", "unknown site"}, {"in", "unknown site"}, {"out", "unknown site"}, {"embed3", "/hooks"}, {"z05", "unknown site"}, {"z5 ", "unknown site"},
        {"5z", "unknown site"}, {"zz5", "unknown site"}, {"z999999999999", "unknown site"}, {"_5", "unknown site"}, {"Z5", "unknown site"},
        {"zaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa5", "unknown site"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) refused(&llama, wrong[i].typed, wrong[i].hint);
    refused(&gpt2, "rot_q1", "rotated");
    refused(&gemma3, "scale1", "\"scale1ln1\" or \"scale1ln1_post\" or \"scale1ln2\" or \"scale1ln2_post\"");
}

static void test_wrong_words(void **state)
{
    (void)state;
    static const struct { struct site_words w; const char *hint; } wrong[] = {
        {{"resid_pre", true, -1, NULL}, "counted from 0"}, {{"resid_pre", true, 12, NULL}, "outside 0..11"}, {{"resid_pre", true, INT64_MAX, NULL}, "outside 0..11"},
        {{"resid_pre", true, INT64_MIN, "b"}, "counted from 0"}, {{"scale", true, 4, NULL}, "scale4ln1"}, {{"scale", true, 4, "ln9"}, "unknown site"},
        {{"z", true, 4, "mlp"}, "\"blocks.4.attn.hook_z\""}, {{"z", true, 4, "b"}, "unknown site"}, {{"", true, 4, ""}, "unknown site"}, {{"ln_final.hook_scale", true, 4, NULL}, "unknown site"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err e = {0};
        struct site s;
        assert_false(site_of_words(&llama, &wrong[i].w, &s, &e));
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.text, wrong[i].hint)) fail_msg("%zu: %s", i, e.text);
    }
}

/* Whatever is typed: an answer, and a sentence that ends. */
static void test_any_bytes(void **state)
{
    (void)state;
    static const char letters[] = "zk5-.019_ablnps*[?hook";
    uint64_t seed = 7;
    for (int round = 0; round < 20000; round++) {
        char text[140];
        size_t n = 0;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        for (uint64_t x = seed; n < (seed >> 57) && n < sizeof text - 1; x = x * 6364136223846793005u + 1) text[n++] = letters[(x >> 33) % (sizeof letters - 1)];
        text[n] = '\0';
        struct err e = {0};
        struct site s;
        if (site_parse(&llama, text, &s, &e)) assert_true(s.layer < 12);
        else assert_true(e.code == ERR_INVALID && strlen(e.text) > 10 && strlen(e.text) < 600);
        (void)site_glob(&llama, text, false, &s, 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_names),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_every_name_is_its_own),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_wrong_names),
        cmocka_unit_test(test_wrong_words),
        cmocka_unit_test(test_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
