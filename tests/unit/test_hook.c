/* Hooks and taps: which a model has and why not, their names and what is suggested for a wrong one, and
 * what a tap reads and writes, against the layout of core/hook.h spelled out in loops. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/site.h"
#include "support/golden.h"
#include "support/numbers.h"

static const struct arch llama = {.n_layers = 12, .n_heads = 6, .n_kv_heads = 2, .d_head = 8, .d_model = 40, .d_mlp = 100,
                                  .d_vocab = 300, .pre_norm = true, .gated = true};
static const struct arch gpt2 = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 4, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                 .d_vocab = 90, .pre_norm = true, .norm = NORM_LAYER, .positions = POSITIONS_LEARNED};
static const struct arch neox = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 4, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                 .d_vocab = 90, .pre_norm = true, .norm = NORM_LAYER, .parallel = true};
static const struct arch gptj = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 4, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                 .d_vocab = 90, .pre_norm = true, .norm = NORM_LAYER, .parallel = true, .one_norm = true};
static const struct arch olmo2 = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 2, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                  .d_vocab = 90, .post_norm = true, .qk_norm = QK_NORM_ALL, .gated = true};
static const struct arch gemma3 = {.n_layers = 3, .n_heads = 4, .n_kv_heads = 2, .d_head = 8, .d_model = 32, .d_mlp = 128,
                                   .d_vocab = 90, .pre_norm = true, .post_norm = true, .qk_norm = QK_NORM_HEAD, .gated = true};

/* ---- which hooks there are --------------------------------------------------------------------- */

/* By the specification's table of hooks: a family and what it lacks, by name. */
static const struct {
    const struct arch *a;
    const char *absent[16];
} lacks[] = {
    {&llama, {"hook_pos_embed", "hook_attn_in", "attn.hook_q_normed", "attn.hook_k_normed", "ln1_post.hook_scale", "ln1_post.hook_normalized",
              "ln2_post.hook_scale", "ln2_post.hook_normalized"}},
    {&gpt2, {"attn.hook_q_normed", "attn.hook_k_normed", "attn.hook_rot_q", "attn.hook_rot_k", "mlp.hook_pre_linear", "ln1_post.hook_scale",
             "ln1_post.hook_normalized", "ln2_post.hook_scale", "ln2_post.hook_normalized"}},
    {&neox, {"hook_pos_embed", "attn.hook_q_normed", "attn.hook_k_normed", "mlp.hook_pre_linear", "ln1_post.hook_scale", "ln1_post.hook_normalized",
             "ln2_post.hook_scale", "ln2_post.hook_normalized", "hook_resid_mid"}},
    {&gptj, {"hook_pos_embed", "attn.hook_q_normed", "attn.hook_k_normed", "mlp.hook_pre_linear", "ln1_post.hook_scale", "ln1_post.hook_normalized",
             "ln2_post.hook_scale", "ln2_post.hook_normalized", "hook_resid_mid", "ln2.hook_scale", "ln2.hook_normalized"}},
    {&olmo2, {"hook_pos_embed", "hook_attn_in", "ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln2.hook_normalized"}},
    {&gemma3, {"hook_pos_embed", "hook_attn_in"}},
};

static bool listed(const char *const *list, const char *name)
{
    for (; *list; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

static void test_absent(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof lacks / sizeof *lacks; f++)
        for (unsigned h = 0; h < HOOK_COUNT; h++) {
            const char *why = hook_absent(lacks[f].a, (enum hook)h), *name = hook_info((enum hook)h)->spelling;
            if (!!why != listed(lacks[f].absent, name)) fail_msg("family %zu: %s is %s", f, name, why ? why : "present");
            if (why) assert_true(strlen(why) > 20);
        }
}

static void test_shapes(void **state)
{
    (void)state;
    static const struct { const char *name; uint32_t heads, width; } want[] = {
        {"hook_tokens", 1, 1}, {"hook_embed", 1, 40}, {"hook_resid_pre", 1, 40}, {"hook_q_input", 6, 40}, {"hook_k_input", 2, 40},
        {"hook_v_input", 2, 40}, {"ln1.hook_scale", 1, 1}, {"ln1.hook_normalized", 1, 40}, {"attn.hook_q", 6, 8}, {"attn.hook_k", 2, 8},
        {"attn.hook_v", 2, 8}, {"attn.hook_rot_q", 6, 8}, {"attn.hook_rot_k", 2, 8}, {"attn.hook_attn_scores", 6, 0},
        {"attn.hook_pattern", 6, 0}, {"attn.hook_z", 6, 8}, {"attn.hook_result", 6, 40}, {"hook_attn_out", 1, 40}, {"mlp.hook_pre", 1, 100},
        {"mlp.hook_pre_linear", 1, 100}, {"mlp.hook_post", 1, 100}, {"hook_mlp_out", 1, 40}, {"hook_resid_post", 1, 40},
        {"ln_final.hook_scale", 1, 1}, {"ln_final.hook_normalized", 1, 40}, {"unembed.hook_in", 1, 40}, {"unembed.hook_out", 1, 300}};
    struct err e = {0};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        enum hook h;
        must(hook_parse(want[i].name, &h, &e), e);
        assert_string_equal(hook_info(h)->spelling, want[i].name);
        assert_int_equal(hook_heads(&llama, h), want[i].heads);
        assert_int_equal(hook_width(&llama, h), want[i].width);
        assert_int_equal(hook_info(h)->writable, strcmp(want[i].name, "hook_tokens") != 0);
    }
}

/* ---- names ------------------------------------------------------------------------------------- */

static void test_names(void **state)
{
    (void)state;
    struct err e = {0};
    for (size_t f = 0; f < sizeof lacks / sizeof *lacks; f++)
        for (uint32_t l = 0; l < lacks[f].a->n_layers; l++)
            for (unsigned h = 0; h < HOOK_COUNT; h++) {
                char text[64];
                struct site s = {HOOK_COUNT, 77}, want = {(enum hook)h, hook_info((enum hook)h)->scope == SCOPE_MODEL ? 0 : l};
                site_text(want, text);
                const char *why = hook_absent(lacks[f].a, (enum hook)h);
                if (!why) {
                    must(site_parse(lacks[f].a, text, &s, &e), e);
                    assert_true(s.hook == want.hook && s.layer == want.layer);
                } else {
                    e = (struct err){0};
                    assert_false(site_parse(lacks[f].a, text, &s, &e));
                    assert_int_equal(e.code, ERR_INVALID);
                    if (!strstr(e.text, why) || !strstr(e.text, text)) fail_msg("%s", e.text);
                }
            }
    struct site s;
    must(site_parse(&llama, "blocks.5.attn.hook_z", &s, &e) && s.hook == HOOK_Z && s.layer == 5, e);
    must(site_parse(&llama, "hook_embed", &s, &e) && s.hook == HOOK_EMBED && s.layer == 0, e);
    must(site_parse(&llama, "ln_final.hook_scale", &s, &e) && s.hook == HOOK_FINAL_SCALE, e);
}

/* What is typed, what the error must name, and what it must not. */
static void test_wrong_sites(void **state)
{
    (void)state;
    static const struct { const char *typed, *hint, *not; } wrong[] = {
        {"", "blocks.6.attn.hook_z", ""}, {"blocks", "blocks.6.attn.hook_z", ""}, {"blocks.5", "hook_embed", ""}, {"blocks.5.", "/hooks", ""},
        {"blocks.12.hook_resid_pre", "0..11", ""}, {"blocks.-1.hook_resid_pre", "negative", ""},
        {"blocks.05.hook_resid_pre", "\"blocks.5.hook_resid_pre\"", ""}, {"blocks.+5.hook_resid_pre", "\"blocks.5.hook_resid_pre\"", ""},
        {"blocks. 5.hook_resid_pre", "\"blocks.5.hook_resid_pre\"", ""}, {"Blocks.5.attn.hook_z", "\"blocks.5.attn.hook_z\"", ""},
        {"blocks.99999999999.hook_resid_pre", "blocks.6.", ""}, {"blocks.999999999.hook_resid_pre", "0..11", ""}, {"blocks.*.hook_resid_pre", "hook_resid_pre", ""},
        /* the module forgotten, the prefix forgotten, a letter wrong, the wrong module */
        {"blocks.5.hook_z", "did you mean \"blocks.5.attn.hook_z\"?", " or "}, {"blocks.5.z", "\"blocks.5.attn.hook_z\"", " or "},
        {"blocks.5.mlp.hook_z", "\"blocks.5.attn.hook_z\"", " or "}, {"blocks.5.attn.hook_z ", "unknown site", ""},
        {"blocks.0.hook_resid_pro", "\"blocks.0.hook_resid_pre\"", ""}, {"blocks.0.hook_residpost", "\"blocks.0.hook_resid_post\"", " or "},
        {"blocks.0.hook_resid_mdi", "mean \"blocks.0.hook_resid_mid\"", " or "},
        {"blocks.0.attn.hook_reslut", "\"blocks.0.attn.hook_result\"", " or "}, {"blocks.0.attn.hook_paterm", "attn.hook_pattern", " or "},
        /* several that are as near; none that this model lacks */
        {"blocks.3.hook_scale", "\"blocks.3.ln1.hook_scale\" or \"blocks.3.ln2.hook_scale\"", "ln1_post"},
        {"blocks.3.ln1.hook_scal", "\"blocks.3.ln1.hook_scale\"", "ln2"}, {"blocks.3.attn.hook_q_norme", "attn", "q_normed\""},
        /* of a layer, or of the model */
        {"hook_resid_pre", "write \"blocks.6.hook_resid_pre\"", ""}, {"blocks.3.hook_embed", "write \"hook_embed\"", ""},
        {"hook_embd", "\"hook_embed\"", ""}, {"hook_unembed_out", "unknown site", ""}, {"ln_final.hook_scal", "\"ln_final.hook_scale\"", " or "},
        {"attn.hook_z", "\"blocks.6.attn.hook_z\"", ""}, {"hook_pos_embed", "rotary", ""}, {"blocks.3.hook_attn_in", "hook_q_input", ""},
        {"a.site.that.is.far.too.long.to.be.any.hook.of.any.model.and.goes.on.and.on", "unknown site", "did you"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct err e = {0};
        struct site s;
        if (site_parse(&llama, wrong[i].typed, &s, &e)) fail_msg("\"%s\" is taken for a site", wrong[i].typed);
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.text, wrong[i].hint) || (wrong[i].not[0] && strstr(e.text, wrong[i].not)))
            fail_msg("\"%s\": %s", wrong[i].typed, e.text);
    }
}

static void test_wrong_hooks(void **state)
{
    (void)state;
    static const struct { const char *typed, *hint; } wrong[] = {
        {"hook_z", "\"attn.hook_z\"?"}, {"hook_resid_prw", "\"hook_resid_pre\"?"}, {"hook_normalized", "\"ln2_post.hook_normalized\" or \"ln_final.hook_normalized\"?"}, {"", "/v1/models/{name}/hooks"},
        {"mlp.hook_mid", "/v1/models/{name}/hooks"}, {"attn_scores", "\"attn.hook_attn_scores\""}};
    enum hook h;
    struct err e = {0};
    must(hook_parse("hook_resid_pre", &h, &e), e);
    assert_int_equal(h, HOOK_RESID_PRE);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(hook_parse(wrong[i].typed, &h, &e));
        assert_int_equal(e.code, ERR_INVALID);
        if (!strstr(e.text, wrong[i].hint)) fail_msg("\"%s\": %s", wrong[i].typed, e.text);
    }
    char text[5000]; /* whatever is typed: one sentence that ends */
    for (size_t n = 0; n < sizeof text - 1; n = 2 * n + 1) {
        memset(text, 'h', n);
        text[n] = 0;
        assert_false(hook_parse(text, &h, &e));
        assert_true(strlen(e.text) < 300);
    }
}

/* ---- taps on plain, query and kv hooks --------------------------------------------------------- */

enum { H = 4, W = 3, P = 9, SEQ = 2 };

static bool has(const uint32_t *list, size_t n, uint32_t value, size_t *at)
{
    for (*at = 0; *at < n; ++*at)
        if (list[*at] == value) return true;
    return false;
}

/* One tap on values [P][H][W] of its sequence, by the formulas of core/hook.h. */
static void tap_reference(const struct tap *t, float *x, float *dst, size_t *elements)
{
    size_t heads = t->head ? t->n_head : H, at, slot;
    for (uint32_t p = 0; p < P; p++)
        for (uint32_t h = 0; h < H; h++)
            for (uint32_t c = 0; c < W; c++) {
                at = p, slot = h;
                if (!t->every_pos && !has(t->pos, t->n_pos, p, &at)) continue;
                if (t->head && !has(t->head, t->n_head, h, &slot)) continue;
                float *v = &x[(p * H + h) * W + c];
                size_t from = t->n_src_pos > 1 ? at : 0;
                float src = t->src ? t->src[(from * heads + slot) * W + c] : 0;
                if (t->op == TAP_READ) {
                    dst[(at * heads + slot) * W + c] = *v;
                    continue;
                }
                *v = t->op == TAP_SCALE ? t->weight * *v : t->op == TAP_ADD ? *v + t->weight * src
                   : t->weight == 1 ? src : (1 - t->weight) * *v + t->weight * src;
                ++*elements;
            }
}

/* Rows arrive in pieces, at a stride, all heads together or one by one in any order. */
static void fire_pieces(const struct taps *taps, struct site s, float *x, bool by_head)
{
    static const uint32_t piece[] = {1, 4, 4}, order[H] = {2, 0, 3, 1};
    enum { STRIDE = H * W + 5 };
    for (uint32_t first = 0, i = 0; i < 3; first += piece[i++]) {
        float rows[P][STRIDE], one[P][W + 2];
        for (uint32_t r = 0; r < piece[i]; r++) memcpy(rows[r], x + (first + r) * H * W, H * W * sizeof *x);
        if (!by_head) taps_fire(taps, s, SEQ, first, piece[i], rows[0], STRIDE, H, W);
        for (uint32_t h = 0; by_head && h < H; h++) {
            for (uint32_t r = 0; r < piece[i]; r++) memcpy(one[r], rows[r] + order[h] * W, W * sizeof *x);
            taps_fire_head(taps, s, SEQ, first, piece[i], order[h], one[0], W + 2, H, W);
            for (uint32_t r = 0; r < piece[i]; r++) memcpy(rows[r] + order[h] * W, one[r], W * sizeof *x);
        }
        for (uint32_t r = 0; r < piece[i]; r++) memcpy(x + (first + r) * H * W, rows[r], H * W * sizeof *x);
    }
}

static void check_tap(struct tap tap, bool by_head, uint64_t *seed)
{
    float *x = random_floats(seed, P * H * W, 1), want[P * H * W], got[P * H * W], dst[P * H * W], want_dst[P * H * W];
    size_t elements = 0;
    struct tap others[] = {tap, tap, tap, tap};
    memcpy(want, x, sizeof want), memcpy(got, x, sizeof got);
    memset(dst, 0, sizeof dst), memset(want_dst, 0, sizeof want_dst);
    tap.dst = dst;
    others[0].seq = SEQ + 1, others[1].site.layer++, others[2].site.hook = HOOK_Q, others[3] = tap;
    for (int i = 0; i < 3; i++) others[i].dst = NULL; /* never touched */
    tap_reference(&tap, want, want_dst, &elements);
    fire_pieces(&(struct taps){others, 4}, tap.site, got, by_head);
    assert_memory_equal(got, want, sizeof want);
    assert_memory_equal(dst, want_dst, sizeof dst);
    assert_int_equal(others[3].elements, elements);
    assert_true(others[0].elements + others[1].elements + others[2].elements == 0);
    double top = 0;
    for (size_t i = 0; i < P * H * W; i++) top = fmax(top, fabs((double)got[i] - (double)x[i]));
    assert_true(fabs((double)others[3].max_change - top) < 1e-6);
    free(x);
}

static void test_taps(void **state)
{
    (void)state;
    uint64_t seed = 3;
    static const uint32_t some_pos[] = {0, 3, 4, 8}, one_pos[] = {7}, some_head[] = {3, 1}, one_head[] = {2};
    const struct { const uint32_t *list; size_t n; } positions[] = {{NULL, 0}, {some_pos, 4}, {one_pos, 1}, {some_pos, 0}},
                                                     heads[] = {{NULL, 0}, {some_head, 2}, {one_head, 1}};
    float *src = random_floats(&seed, P * H * W, 1);
    for (int op = TAP_READ; op <= TAP_SCALE; op++)
        for (size_t p = 0; p < 4; p++)
            for (size_t h = 0; h < 3; h++)
                for (int how = 0; how < 12; how++) {
                    size_t n = p == 0 ? P : positions[p].n;
                    struct tap t = {.site = {HOOK_Z, 5}, .op = (enum tap_op)op, .seq = SEQ, .every_pos = p == 0,
                                    .pos = positions[p].list, .n_pos = positions[p].n, .head = heads[h].list, .n_head = heads[h].n,
                                    .weight = how & 1 ? 1 : 0.3f, .src = how % 3 == 0 ? NULL : src, .n_src_pos = how % 3 == 1 ? 1 : n};
                    check_tap(t, how >= 6, &seed);
                }
    free(src);
}

/* A write at every position has no more values than it was given: generated positions past them stay. */
static void test_short_source(void **state)
{
    (void)state;
    const float src[2 * H * W] = {9, 9, 9};
    float x[P * H * W] = {0};
    struct tap t = {.site = {HOOK_Z, 5}, .op = TAP_SET, .seq = SEQ, .every_pos = true, .weight = 1, .src = src, .n_src_pos = 2};
    fire_pieces(&(struct taps){&t, 1}, t.site, x, false);
    assert_int_equal(t.elements, 2 * H * W);
}

static void test_which_taps(void **state)
{
    (void)state;
    static const uint32_t heads[] = {1, 3};
    struct tap t[] = {{.site = {HOOK_RESULT, 2}, .op = TAP_READ, .head = heads, .n_head = 2}, {.site = {HOOK_RESULT, 4}, .op = TAP_SCALE},
                      {.site = {HOOK_Z, 2}, .op = TAP_SET}};
    struct taps taps = {t, 3};
    assert_true(taps_any(&taps, HOOK_RESULT, 2) && taps_any(&taps, HOOK_RESULT, 4) && taps_any(&taps, HOOK_Z, 2));
    assert_false(taps_any(&taps, HOOK_RESULT, 3) || taps_any(&taps, HOOK_Z, 4) || taps_any(NULL, HOOK_Z, 2));
    assert_true(taps_write(&taps, HOOK_RESULT, 4) && taps_write(&taps, HOOK_Z, 2));
    assert_false(taps_write(&taps, HOOK_RESULT, 2) || taps_write(&taps, HOOK_RESULT, 3) || taps_write(NULL, HOOK_Z, 2));
    for (uint32_t h = 0; h < 5; h++) {
        assert_int_equal(taps_head(&taps, HOOK_RESULT, 2, h), h == 1 || h == 3);
        assert_true(taps_head(&taps, HOOK_RESULT, 4, h)); /* no list: all */
        assert_false(taps_head(&taps, HOOK_RESULT, 3, h) || taps_head(NULL, HOOK_RESULT, 2, h));
    }
}

/* ---- taps on source hooks ---------------------------------------------------------------------- */

enum { N = 6, WINDOW = 3 };

static uint32_t first_of(uint32_t pos) { return pos + 1 > WINDOW ? pos + 1 - WINDOW : 0; }
static float value(uint32_t h, uint32_t i, uint32_t j) { return (float)(100 * h + 10 * i + j + 1); }

/* All rows of all heads: what is masked holds −7 on the way in, and must on the way out. */
static void fire_source(struct tap *t, float out[H][N][N])
{
    for (uint32_t h = 0; h < H; h++)
        for (uint32_t i = 0; i < N; i++) {
            for (uint32_t j = 0; j < N; j++) out[h][i][j] = j >= first_of(i) && j <= i ? value(h, i, j) : -7;
            taps_fire_source(&(struct taps){t, 1}, t->site, SEQ, i, h, out[h][i], first_of(i), i + 1, -INFINITY);
        }
}

static void test_source_reads(void **state)
{
    (void)state;
    static const uint32_t pos[] = {1, 4}, head[] = {3, 0};
    for (uint32_t n_source = 3; n_source <= N; n_source++)
        for (int how = 0; how < 4; how++) {
            bool every = how & 1;
            float dst[H * N * N], x[H][N][N];
            uint32_t heads = how & 2 ? 2 : H, n_pos = every ? n_source : 2;
            struct tap t = {.site = {HOOK_ATTN_SCORES, 1}, .op = TAP_READ, .seq = SEQ, .every_pos = every, .pos = pos, .n_pos = 2,
                            .head = how & 2 ? head : NULL, .n_head = 2, .n_source = n_source, .dst = dst};
            for (size_t i = 0; i < H * N * N; i++) dst[i] = 55;
            fire_source(&t, x);
            for (uint32_t s = 0; s < heads; s++)
                for (uint32_t p = 0; p < n_pos; p++)
                    for (uint32_t j = 0; j < n_source; j++) {
                        uint32_t h = how & 2 ? head[s] : s, i = every ? p : pos[p];
                        float want = j >= first_of(i) && j <= i ? value(h, i, j) : -INFINITY;
                        if (dst[(s * n_pos + p) * n_source + j] != want) fail_msg("head %u, %u to %u", h, i, j);
                    }
            for (size_t i = (size_t)heads * n_pos * n_source; i < H * N * N; i++) assert_true(dst[i] == 55.0f);
        }
}

static void test_source_writes(void **state)
{
    (void)state;
    static const uint32_t pos[] = {1, 4}, head[] = {3, 0};
    uint64_t seed = 12;
    float *src = random_floats(&seed, H * N * N, 1);
    for (int how = 0; how < 8; how++) {
        bool every = how & 1, some = how & 2, one = how & 4;
        float x[H][N][N];
        size_t written = 0, n_pos = every ? N : 2, slot, at;
        struct tap t = {.site = {HOOK_PATTERN, 1}, .op = TAP_ADD, .seq = SEQ, .every_pos = every, .pos = pos, .n_pos = 2,
                        .head = some ? head : NULL, .n_head = 2, .n_source = N, .weight = 2, .src = src, .n_src_pos = one ? 1 : n_pos};
        fire_source(&t, x);
        for (uint32_t h = 0; h < H; h++)
            for (uint32_t i = 0; i < N; i++)
                for (uint32_t j = 0; j < N; j++) {
                    bool seen = j >= first_of(i) && j <= i;
                    float want = seen ? value(h, i, j) : -7;
                    slot = h, at = i;
                    if (seen && (!some || has(head, 2, h, &slot)) && (every || has(pos, 2, i, &at))) {
                        want += 2 * src[((slot * (one ? 1 : n_pos)) + (one ? 0 : at)) * N + j];
                        written++;
                    }
                    if (!(fabsf(x[h][i][j] - want) < 1e-4f)) fail_msg("way %d: head %u, %u to %u", how, h, i, j);
                }
        assert_int_equal(t.elements, written);
    }
    free(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_wrong_sites),
        cmocka_unit_test(test_wrong_hooks),
        cmocka_unit_test(test_taps),
        cmocka_unit_test(test_short_source),
        cmocka_unit_test(test_which_taps),
        cmocka_unit_test(test_source_reads),
        cmocka_unit_test(test_source_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
