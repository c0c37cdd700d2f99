/* Every family's tokenizer, and every knob of the file formats, against ids and texts made by the
 * reference implementations (tests/golden/make_tokenizers.py). A family of core/arch.def without a
 * golden here is a failure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/file/infile.h"
#include "core/text/tokenizer_int.h"
#include "support/golden.h"

#define FOLDER "tests/golden/tokenizer/families/"

/* A model_type of config.json, and a golden of a tokenizer that its models come with. */
static const struct pipeline {
    const char *model_type, *golden;
} families[] = {
    {"gpt2", "gpt2"},         {"gpt_neox", "gpt_neox"},   {"gptj", "gptj"},
    {"llama", "llama1"},      {"llama", "llama2"},        {"llama", "llama3"},
    {"llama", "smollm2"},     {"llama", "tinyllama"},     {"llama", "yi"},
    {"mistral", "mistral"},   {"mistral", "mistral_v3"},  {"mistral", "mistral_nemo"},
    {"qwen2", "qwen2"},       {"qwen3", "qwen3"},         {"gemma2", "gemma2"},
    {"gemma3", "gemma3"},     {"gemma3_text", "gemma3"},  {"olmo2", "olmo2"},
    {"phi3", "phi3"},
};
static const char *const variants[] = {
    "always", "never", "first", "nfkc_lower", "nfd_strip", "nfkd_regex", "unknown", "unknown_apart",
    "dropped", "whole_words", "prefix", "digit_runs",
    "text_removed", "text_isolated", "text_merged_with_previous", "text_merged_with_next",
    "text_contiguous", "inverted_removed", "inverted_isolated", "inverted_merged_with_previous",
    "inverted_merged_with_next", "inverted_contiguous", "pattern_removed", "pattern_isolated",
    "pattern_merged_with_previous", "pattern_merged_with_next", "pattern_contiguous",
};
static const char *const spms[] = {"spm_llama", "spm_gemma", "spm_sparse"};


static const struct json *golden(const char *prefix, const char *name)
{
    char path[160];
    (void)snprintf(path, sizeof path, FOLDER "%s%s.json", prefix, name);
    return golden_json(path, &golden_arena);
}

static struct tokenizer *from_json(const struct json *json)
{
    struct err e;
    struct token_spec s;
    struct token_files files = {.tokenizer = json};
    bool ok = token_spec_from_json(&s, &files, &e);
    struct tokenizer *t = ok ? tokenizer_build(&s, &e) : NULL;
    token_spec_release(&s);
    if (!t) fail_msg("%s", e.text);
    return t;
}

static struct tokenizer *from_gguf(const char *name)
{
    struct err e;
    char path[160];
    (void)snprintf(path, sizeof path, FOLDER "%s.gguf", name);
    struct modelfile *f = modelfile_open(path, &e);
    if (!f) fail_msg("%s", e.text);
    struct tokenizer *t = tokenizer_new(f, &e);
    if (!t) fail_msg("%s", e.text);
    modelfile_close(f);
    return t;
}

static const struct json *item(const struct json *list, size_t i)
{
    const struct json *v = list->child;
    while (v && i--) v = v->next;
    return v;
}

struct where { /* of a failure */
    const char *name, *text, *what;
};

static void expect_ids(const struct ids *got, const struct json *want, const struct where *w)
{
    size_t i = 0;
    for (const struct json *v = want->child; v; v = v->next, i++)
        if (i >= got->n || got->id[i] != (uint32_t)v->integer)
            fail_msg("%s, %s: id %zu of %zu is %u, not %lld, in: %.80s", w->name, w->what, i, got->n,
                     i < got->n ? got->id[i] : 0, (long long)v->integer, w->text);
    if (i != got->n) fail_msg("%s, %s: %zu ids, not %zu, in: %.80s", w->name, w->what, got->n, i, w->text);
}

static void expect_text(const struct tokenizer *t, const struct ids *ids, bool keep,
                        const struct json *want, const struct where *w)
{
    struct buf got = {0};
    if (want->type != JSON_STRING) return;
    tokenizer_decode(t, ids->id, ids->n, keep, &got);
    if (got.len != want->len || memcmp(got.data ? got.data : "", want->text, want->len) != 0)
        fail_msg("%s, %s: \"%.200s\", not \"%.200s\"", w->name, w->what, got.data ? got.data : "", want->text);
    buf_release(&got);
}

static void encode(const struct tokenizer *t, const struct json *text, bool special, struct ids *ids)
{
    struct err e;
    ids->n = 0;
    if (!tokenizer_encode(t, text->text, text->len, special, ids, &e)) fail_msg("%s", e.text);
}

/* A row is [ids, ids with special spellings parsed, their text, their text without special tokens];
 * null is "the same", false "nothing is said". */
static void check_row(const struct tokenizer *t, const char *name, const struct json *text,
                      const struct json *row)
{
    struct ids ids = {0};
    const struct json *plain = item(row, 0), *special = item(row, 1);
    const struct json *back = item(row, 2), *less = item(row, 3);
    struct where w = {name, text->text, "plain"};
    encode(t, text, false, &ids);
    expect_ids(&ids, plain, &w);
    w.what = "special";
    if (special->type != JSON_BOOL) {
        encode(t, text, true, &ids);
        expect_ids(&ids, special->type == JSON_NULL ? plain : special, &w);
    }
    w.what = "decoded";
    expect_text(t, &ids, true, back, &w);
    w.what = "decoded without special tokens";
    expect_text(t, &ids, false, less->type == JSON_NULL ? back : less, &w);
    ids_release(&ids);
}

static void check_rows(const struct tokenizer *t, const char *name, const char *texts,
                       const struct json *rows, size_t at_least)
{
    size_t n = 0;
    const struct json *text = json_get(golden("", "texts"), texts)->child;
    for (const struct json *row = rows->child; row; row = row->next, text = text->next, n++) {
        if (!text) fail_msg("%s has more rows than there are texts", name);
        check_row(t, name, text, row);
    }
    if (text || n < at_least) fail_msg("%s has %zu rows, fewer than there are texts", name, n);
}

static void check_golden(const char *prefix, const char *name, const char *texts)
{
    const struct json *g = golden(prefix, name), *bos = json_get(g, "bos");
    struct tokenizer *t = from_json(json_get(g, "tokenizer"));
    uint32_t id;
    bool adds = tokenizer_adds_bos(t);
    if (adds != (bos->type == JSON_NUMBER)) fail_msg("%s %s BOS", name, adds ? "adds a" : "adds no");
    if (adds) assert_true(tokenizer_bos(t, &id) && id == bos->integer);
    check_rows(t, name, texts, json_get(g, "rows"), 100);
    tokenizer_free(t);
}

static void each_family_gives_the_reference_ids_and_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        check_golden("", families[i].golden, "families");
}

static void each_knob_gives_the_reference_ids_and_texts(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        check_golden("variant_", variants[i], "variants");
}

static void sentencepiece_vocabularies_give_its_ids(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof spms / sizeof *spms; i++) {
        struct tokenizer *t = from_gguf(spms[i]);
        check_rows(t, spms[i], "families", json_get(golden("", spms[i]), "rows"), 100);
        tokenizer_free(t);
    }
}

/* What a prompt and its continuation are joined, they are apart. */
static void check_joined(const struct tokenizer *t, const char *name)
{
    static const char *const pairs[][2] = {
        {"the river and", " the bridge"}, {"the river and", " x"}, {"It is", " 1234, or so."},
        {"the bridge", "\nthe river"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct err e;
        struct ids whole = {0}, parts = {0};
        struct buf text = {0};
        const char *first = pairs[i][0], *second = pairs[i][1];
        buf_printf(&text, "%s%s", first, second);
        if (!tokenizer_encode(t, text.data, text.len, true, &whole, &e) ||
            !tokenizer_encode(t, first, strlen(first), true, &parts, &e) ||
            !tokenizer_encode_behind(t, second, strlen(second), true, &parts, &e))
            fail_msg("%s", e.text);
        if (whole.n != parts.n || memcmp(whole.id, parts.id, whole.n * sizeof *whole.id) != 0)
            fail_msg("%s: \"%s\" behind \"%s\" is not what it is in one text", name, second, first);
        ids_release(&whole);
        ids_release(&parts);
        buf_release(&text);
    }
}

static void a_text_behind_another_gets_no_space_of_its_own(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        struct tokenizer *t = from_json(json_get(golden("", families[i].golden), "tokenizer"));
        check_joined(t, families[i].golden);
        tokenizer_free(t);
    }
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        struct tokenizer *t = from_json(json_get(golden("variant_", variants[i]), "tokenizer"));
        check_joined(t, variants[i]);
        tokenizer_free(t);
    }
    for (size_t i = 0; i < sizeof spms / sizeof *spms; i++) {
        struct tokenizer *t = from_gguf(spms[i]);
        check_joined(t, spms[i]);
        tokenizer_free(t);
    }
}

static void no_family_is_without_a_golden(void **state)
{
    (void)state;
    static const char *const types[] = {
#define FAMILY(name, gguf, reader, model_type, ...) model_type,
#include "core/arch.def"
#undef FAMILY
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        size_t k = 0, n = sizeof families / sizeof *families;
        while (k < n && strcmp(families[k].model_type, types[i]) != 0) k++;
        if (k == n) fail_msg("the family %s has no tokenizer golden", types[i]);
    }
}

/* ---- scanners -------------------------------------------------------------------------------- */

enum { MOST_CUTS = 4096 };
struct cuts {
    size_t len[MOST_CUTS], n;
};

static bool on_cut(void *context, const char *bytes, size_t len, struct err *e)
{
    struct cuts *c = context;
    (void)bytes, (void)e;
    assert_true(c->n < MOST_CUTS);
    c->len[c->n++] = len;
    return true;
}

static const enum split_id scanned[] = {SPLIT_GPT2, SPLIT_LLAMA3, SPLIT_QWEN2, SPLIT_GPT4O, SPLIT_TEKKEN};
struct both {
    enum split_id split;
    struct pretokenizer hand, library;
    struct pretokenize_run *by_hand, *by_library;
};

static void both_open(struct both *b, enum split_id split)
{
    struct err e;
    struct pretokenize_plan plan = {.split = {split}, .n = 1, .byte_level = true};
    b->split = split;
    assert_true(pretokenizer_init(&b->hand, &plan, false, &e));
    assert_true(pretokenizer_init(&b->library, &plan, true, &e));
    assert_false(b->hand.patterned);
    assert_true(b->library.patterned);
    b->by_hand = pretokenize_run_new(&b->hand, &e);
    b->by_library = pretokenize_run_new(&b->library, &e);
    assert_true(b->by_hand && b->by_library);
}

static void both_close(struct both *b)
{
    pretokenize_run_free(b->by_hand);
    pretokenize_run_free(b->by_library);
    pretokenizer_release(&b->hand);
    pretokenizer_release(&b->library);
}

static void expect_same_cuts(struct both *b, const char *text, size_t len)
{
    struct err e;
    static struct cuts hand, library;
    hand.n = library.n = 0;
    if (!pretokenize(b->by_hand, text, len, TEXT_FIRST, on_cut, &hand, &e)) fail_msg("%s", e.text);
    if (!pretokenize(b->by_library, text, len, TEXT_FIRST, on_cut, &library, &e)) fail_msg("%s", e.text);
    bool same = hand.n == library.n && memcmp(hand.len, library.len, hand.n * sizeof *hand.len) == 0;
    if (!same) fail_msg("pattern %d cuts this differently: %.*s", b->split, (int)len, text);
}

static void put_character(struct buf *b, uint32_t cp)
{
    char c[4];
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; cp >>= 6) c[i] = (char)(0x80 | (cp & 0x3F));
    c[0] = (char)(n == 1 ? cp : (0xF00u >> n & 0xFF) | cp);
    buf_put(b, c, n);
}

/* Every code point among every kind of neighbour that the patterns tell apart. */
static void scanners_cut_all_of_unicode_as_their_patterns_do(void **state)
{
    (void)state;
    static const char *const around[] = {"", " a", "b 1", "2 ", "\n!", "?'", " 's", "\t", "\r\n", "  ", "A'", "S",
                                         "Ab", "'ll", "/", "\xC2\xA0", "\xCC\x81", "\xCA\xB0", "a\n \n"};
    for (size_t p = 0; p < sizeof scanned / sizeof *scanned; p++) {
        struct both b;
        both_open(&b, scanned[p]);
        for (uint32_t cp = 1; cp < 0x110000; cp++) {
            if (cp >= 0xD800 && cp < 0xE000) continue;
            if (cp >= 0x20000 && cp % 61 && !(cp >= 0xE0000 && cp < 0xE0200)) continue; /* of one class for miles */
            struct buf text = {0};
            for (size_t i = 0; i < sizeof around / sizeof *around; i++) {
                buf_text(&text, around[i]);
                put_character(&text, cp);
                if (i % 3 == 0) put_character(&text, cp);
            }
            expect_same_cuts(&b, text.data, text.len);
            buf_release(&text);
        }
        both_close(&b);
    }
}

/* Short texts of characters that matter, many of them: a fixed sequence, so a failure comes again. */
static void scanners_cut_any_mixture_as_their_patterns_do(void **state)
{
    (void)state;
    static const uint32_t alphabet[] = {
        ' ', ' ', '\n', '\r', '\t', 'a', 'b', 'A', 'B', '1', '2', '\'', 's', 't', 'r', 'e', 'v', 'l', 'L', 'd', 'S',
        '!', '/', '.', 0xA0, 0x3000, 0x301, 0x2B0, 0x1C5, 0x4E00, 0x660, 0xBD, 0x17F, 0x1F600, 0x180E, 0x85, 0x200D,
        0x16FF4, 0x1DF25, 0x1C89, 0x345, 0x903,
    };
    uint64_t random = 12345;
    for (size_t p = 0; p < sizeof scanned / sizeof *scanned; p++) {
        struct both b;
        both_open(&b, scanned[p]);
        for (size_t i = 0; i < 60000; i++) {
            struct buf text = {0};
            random = random * 6364136223846793005u + 1442695040888963407u;
            for (size_t n = 1 + (size_t)(random >> 60); n-- > 0;) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                put_character(&text, alphabet[(random >> 33) % (sizeof alphabet / sizeof *alphabet)]);
            }
            expect_same_cuts(&b, text.data, text.len);
            buf_release(&text);
        }
        both_close(&b);
    }
}

/* ---- what people wrote ------------------------------------------------------------------------ */

/* Llama 1's special tokens are matched after normalisation; those in what people wrote are not. */
static void normalised_special_tokens_respect_sections(void **state)
{
    (void)state;
    struct err e;
    struct ids ids = {0};
    const struct json *g = golden("", "llama1");
    struct tokenizer *t = from_json(json_get(g, "tokenizer"));
    static const char text[] = "<s>";
    assert_true(tokenizer_encode(t, text, 3, true, &ids, &e));
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.id[0], 1);
    ids.n = 0;
    assert_true(tokenizer_encode(t, text, 3, false, &ids, &e));
    assert_true(ids.n > 1);
    ids_release(&ids);
    tokenizer_free(t);
}

/* A megabyte without a border in it must not blow up. */
static void long_texts_stay_cheap(void **state)
{
    (void)state;
    static const char *const units[] = {" ", "a", "ab", "\xE2\x96\x81", "\xE4\xBD\xA0", "\xE4\xB8\x96", "\n", "<s>", "a "};
    static const char *const names[] = {"llama2", "gemma2", "mistral_v3", "qwen2", "variant_nfkd_regex", "variant_text_contiguous"};
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct tokenizer *t = from_json(json_get(golden("", names[k]), "tokenizer"));
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            struct err e;
            struct ids ids = {0};
            struct buf text = {0}, back = {0};
            while (text.len < 1u << 19) buf_text(&text, units[i]);
            if (!tokenizer_encode(t, text.data, text.len, true, &ids, &e)) fail_msg("%s", e.text);
            tokenizer_decode(t, ids.id, ids.n, true, &back);
            assert_true(ids.n > 0 || strcmp(units[i], " ") == 0 || strcmp(units[i], "\n") == 0);
            buf_release(&text);
            buf_release(&back);
            ids_release(&ids);
        }
        tokenizer_free(t);
    }
}

/* Spans of texts as the reference's offset mapping has them (tests/golden/make_offsets.py). A character in
 * several tokens is whole in each of the reference's; the tokens of a span are the same. */
static void test_tokens_lie_where_the_reference_has_them(void **state)
{
    const struct json *cases = golden_json("tests/golden/tokenizer/offsets.json", &golden_arena);
    size_t n = 0, placed = 0;
    (void)state;
    for (const struct json *c = cases->child; c; c = c->next) {
        struct err e;
        struct ids ids = {0};
        struct tokenizer *t = from_json(json_get(golden("", json_get(c, "family")->text), "tokenizer"));
        const struct json *text = json_get(c, "text");
        assert_true(tokenizer_encode(t, text->text, text->len, true, &ids, &e));
        assert_int_equal(ids.n, json_get(c, "ids")->len);
        struct offset *at = mem_new((ids.n + 1) * sizeof *at);
        bool ok = tokenizer_offsets(t, text->text, text->len, ids.id, ids.n, at, &e);
        if (!ok) assert_int_equal(e.code, ERR_UNPROCESSABLE);
        for (const struct json *s = json_get(c, "spans")->child; s; s = s->next, n++) {
            const struct json *from = s->child, *to = from->next, *first = to->next, *end = first->next;
            int64_t a = -1, b = -1;
            for (size_t i = 0; ok && i < ids.n; i++) {
                if (at[i].from >= (size_t)to->integer || at[i].to <= (size_t)from->integer) continue;
                if (a < 0) a = (int64_t)i;
                b = (int64_t)i + 1;
            }
            if (!ok) continue;
            placed++;
            if (a != first->integer || b != end->integer)
                fail_msg("%s: \"%.*s\" of \"%s\" is [%lld, %lld), not [%lld, %lld)", json_get(c, "family")->text,
                         (int)(to->integer - from->integer), text->text + from->integer, text->text, (long long)a, (long long)b,
                         (long long)first->integer, (long long)end->integer);
        }
        mem_drop(at);
        ids_release(&ids);
        tokenizer_free(t);
    }
    assert_int_equal(n, 18 * 18);
    assert_int_equal(placed, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_family_is_without_a_golden),
        cmocka_unit_test(each_family_gives_the_reference_ids_and_texts),
        cmocka_unit_test(each_knob_gives_the_reference_ids_and_texts),
        cmocka_unit_test(sentencepiece_vocabularies_give_its_ids),
        cmocka_unit_test(a_text_behind_another_gets_no_space_of_its_own),
        cmocka_unit_test(scanners_cut_all_of_unicode_as_their_patterns_do),
        cmocka_unit_test(scanners_cut_any_mixture_as_their_patterns_do),
        cmocka_unit_test(normalised_special_tokens_respect_sections),
        cmocka_unit_test(long_texts_stay_cheap),
        cmocka_unit_test(test_tokens_lie_where_the_reference_has_them),
    };
    return cmocka_run_group_tests(tests, golden_arena_init, golden_arena_release);
}
