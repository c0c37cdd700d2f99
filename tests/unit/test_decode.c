/* Decoding: against the committed continuations of every reference model, and with a model that
 * follows a script, so that the text is known byte by byte. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/decode.h"
#include "core/head.h"
#include "support/golden.h"
#include "support/numbers.h"
#include "support/reference.h"
#include "support/scripted.h"

static struct decoder *decode(struct view *v, struct session *s, const struct decode_request *q, size_t n, struct taps *taps)
{
    struct err e = {0};
    struct decoder *d = decoder_new(v, q, n, taps, &e);
    must(d && STEP_ALL(decoder_step(d, s, &e)), e);
    return d;
}

static struct decode_request greedy(const uint32_t *prompt, uint32_t n, uint32_t max_tokens)
{
    return (struct decode_request){.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens, .sampling = {0, 1, 0}};
}

static void same_ids(const struct decode_result *r, const uint32_t *ids, size_t n)
{
    assert_int_equal(r->ids.n, n);
    assert_memory_equal(r->ids.id, ids, n * sizeof *ids);
}

/* ---- reference continuations ------------------------------------------------------------------- */

static size_t id_list(const struct json *v, uint32_t *out)
{
    size_t n = 0;
    for (const struct json *id = v->child; id; id = id->next) out[n++] = (uint32_t)id->integer;
    return n;
}

static void check_greedy(const char *name, const char *weights)
{
    struct golden g;
    golden_open(&g, name, weights);
    const struct json *expected = json_get(g.expected, "greedy");
    uint32_t prompt[32], ids[32], n = (uint32_t)id_list(json_get(expected, "prompt"), prompt);
    size_t n_ids = id_list(json_get(expected, "ids"), ids);
    struct decode_request q = greedy(prompt, n, (uint32_t)n_ids);
    struct decoder *d = decode(g.view, g.session, &q, 1, NULL);
    const struct decode_result *r = decoder_result(d, 0);
    same_ids(r, ids, n_ids);
    assert_int_equal(r->finish, FINISH_LENGTH);
    assert_int_equal(decoder_tokens(d), n_ids);

    uint32_t whole[64]; /* the newest token's logarithm, from the whole sequence at once */
    double *logits = zero_doubles(g.model->arch.d_vocab);
    struct reference *ref = reference_new(g.view);
    memcpy(whole, prompt, n * sizeof *whole);
    memcpy(whole + n, ids, n_ids * sizeof *ids);
    reference_last(ref, whole, n + (uint32_t)n_ids - 1, logits);
    assert_true(fabs(r->last_logprob + reference_nll(logits, g.model->arch.d_vocab, ids[n_ids - 1])) < 1e-4);
    reference_free(ref);
    free(logits);
    decoder_free(d);
    golden_close(&g);
}

static void test_greedy_continuations(void **state)
{
    (void)state;
    check_greedy("gqa_tied", NULL);
    check_greedy("gqa_tied", "gqa_tied.f32.gguf");
    check_greedy("gqa_tied", "gqa_tied.f16.gguf");
    check_greedy("gqa_untied_odd", NULL);
    check_greedy("mha_bf16", NULL);
    check_greedy("wide_head", NULL);
    check_greedy("gguf_q", "gguf_q.gguf");
}

/* ---- batches, seeds ---------------------------------------------------------------------------- */

enum { BATCH = 7 };
static void make_batch(const struct golden *g, struct decode_request *q, uint32_t (*prompt)[80])
{
    static const uint32_t lengths[BATCH] = {1, 9, 33, 2, 64, 5, 5}, limits[BATCH] = {30, 1, 12, 40, 5, 20, 20};
    uint64_t seed = 50;
    for (size_t i = 0; i < BATCH; i++) {
        for (uint32_t k = 0; k < lengths[i]; k++) prompt[i][k] = 3 + below(&seed, g->model->arch.d_vocab - 3);
        q[i] = greedy(prompt[i], lengths[i], limits[i]);
        q[i].seed = i;
        if (i % 2) q[i].sampling = (struct sampling){0.8 + 0.1 * (double)i, 0.95, i == 3 ? 20 : 0};
    }
}

/* Many at once, of different lengths, limits and manners, each as if alone. */
static void test_batch_is_each_alone(void **state)
{
    (void)state;
    static const char *const models[] = {"gqa_tied", "gqa_untied_odd", "wide_head"};
    for (size_t m = 0; m < 3; m++) {
        struct golden g;
        struct decode_request q[BATCH];
        uint32_t prompt[BATCH][80];
        size_t tokens = 0;
        golden_open(&g, models[m], NULL);
        make_batch(&g, q, prompt);
        struct decoder *all = decode(g.view, g.session, q, BATCH, NULL);
        for (size_t i = 0; i < BATCH; i++) {
            struct decoder *one = decode(g.view, g.session, &q[i], 1, NULL);
            const struct decode_result *a = decoder_result(all, i), *b = decoder_result(one, 0);
            same_ids(a, b->ids.id, b->ids.n);
            assert_int_equal(a->finish, b->finish);
            assert_int_equal(a->text.len, b->text.len);
            if (a->text.len) assert_memory_equal(a->text.data, b->text.data, a->text.len);
            assert_true(fabs(a->last_logprob - b->last_logprob) < 1e-4);
            tokens += a->ids.n;
            decoder_free(one);
        }
        assert_int_equal(decoder_tokens(all), tokens);
        decoder_free(all);
        golden_close(&g);
    }
}

/* More than go at a time: who begins late says the same. */
static void test_more_than_fit(void **state)
{
    (void)state;
    enum { MANY = 2 * DECODE_ROWS + 3 };
    struct golden g;
    struct decode_request q[MANY], few[BATCH];
    uint32_t prompt[BATCH][80];
    size_t tokens = 0;
    golden_open(&g, "gqa_tied", NULL);
    make_batch(&g, few, prompt);
    for (size_t i = 0; i < MANY; i++) q[i] = few[i % BATCH];
    struct decoder *all = decode(g.view, g.session, q, MANY, NULL), *one = decode(g.view, g.session, few, BATCH, NULL);
    for (size_t i = 0; i < MANY; i++) {
        const struct decode_result *a = decoder_result(all, i), *b = decoder_result(one, i % BATCH);
        same_ids(a, b->ids.id, b->ids.n);
        assert_int_equal(a->finish, b->finish);
        tokens += a->ids.n;
    }
    assert_int_equal(decoder_tokens(all), tokens);
    decoder_free(all), decoder_free(one);
    golden_close(&g);
}

static void test_seeds(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    struct decode_request q[3];
    for (int i = 0; i < 3; i++) {
        q[i] = greedy(g.ids[1], g.n[1], 40);
        q[i].sampling = (struct sampling){1, 1, 0};
        q[i].seed = i < 2 ? 123 : 124;
    }
    struct decoder *d = decode(g.view, g.session, q, 3, NULL), *again = decode(g.view, g.session, q, 3, NULL);
    const struct decode_result *a = decoder_result(d, 0), *b = decoder_result(d, 1), *c = decoder_result(d, 2);
    same_ids(a, b->ids.id, b->ids.n);
    same_ids(a, decoder_result(again, 0)->ids.id, decoder_result(again, 0)->ids.n);
    assert_true(a->ids.n != c->ids.n || memcmp(a->ids.id, c->ids.id, a->ids.n * sizeof *a->ids.id) != 0);
    decoder_free(d);
    decoder_free(again);
    golden_close(&g);
}

/* ---- log-probabilities ------------------------------------------------------------------------- */

/* Each place of l against plain float64: places begin behind ids[0]; the alternatives are the
 * largest, in order. */
static void check_places(const struct golden *g, const struct logprobs *l, const uint32_t *ids, uint32_t first, uint32_t n)
{
    uint32_t V = g->model->arch.d_vocab;
    struct reference *ref = reference_new(g->view);
    double *logits = zero_doubles(V);
    assert_int_equal(l->n, n);
    for (uint32_t i = 0; i < n; i++) {
        reference_last(ref, ids, first + i, logits);
        assert_true(fabs(l->value[i] + reference_nll(logits, V, ids[first + i])) < 1e-4);
        const struct logprob *top = logprobs_top(l, i);
        uint32_t above = 0;
        for (uint32_t k = 0; k < l->n_top; k++) {
            assert_true(fabs(top[k].value + reference_nll(logits, V, top[k].id)) < 1e-4);
            if (k) assert_true(top[k].value <= top[k - 1].value);
        }
        for (uint32_t id = 0; l->n_top && id < V; id++) above += -reference_nll(logits, V, id) > top[l->n_top - 1].value + 1e-4;
        assert_true(above < l->n_top || !l->n_top);
    }
    reference_free(ref);
    free(logits);
}

/* The prompt's in batches that cut it and hold several, the generated tokens' as they come. */
static void test_logprobs(void **state)
{
    (void)state;
    static const uint32_t lengths[] = {1, 2, 70, 5, 80, 64}, limits[] = {0, 1, 1, 6, 0, 3};
    enum { N = sizeof lengths / sizeof *lengths };
    struct golden g;
    struct decode_request q[N];
    uint32_t prompt[N][96];
    uint64_t seed = 9;
    golden_open(&g, "gqa_untied_odd", NULL);
    for (size_t i = 0; i < N; i++) {
        for (uint32_t k = 0; k < lengths[i]; k++) prompt[i][k] = 3 + below(&seed, g.model->arch.d_vocab - 3);
        q[i] = greedy(prompt[i], lengths[i], limits[i]);
        q[i].score_prompt = i != 3;
        q[i].score_tokens = i != 5;
        q[i].n_top = (uint32_t)i % 4;
    }
    struct decoder *d = decode(g.view, g.session, q, N, NULL);
    for (size_t i = 0; i < N; i++) {
        const struct decode_result *r = decoder_result(d, i);
        check_places(&g, &r->prompt, prompt[i], 1, q[i].score_prompt ? lengths[i] - 1 : 0);
        if (r->ids.n) memcpy(prompt[i] + lengths[i], r->ids.id, r->ids.n * sizeof *r->ids.id);
        check_places(&g, &r->tokens, prompt[i], lengths[i], q[i].score_tokens ? (uint32_t)r->ids.n : 0);
        assert_true(r->ids.n <= limits[i] && (r->ids.n || !limits[i]));
        assert_true(r->finish == FINISH_LENGTH || r->finish == FINISH_END_TOKEN);
    }
    decoder_free(d);
    golden_close(&g);
}

/* Continuations that share a prompt are each what they would be alone, also where they do not all
 * go at once; and the prompt is read once. */
static void test_again(void **state)
{
    (void)state;
    enum { N = DECODE_ROWS + 10, PROMPTS = 3 };
    struct golden g;
    struct decode_request q[N];
    golden_open(&g, "gqa_tied", NULL);
    for (uint32_t i = 0; i < N; i++) {
        q[i] = greedy(g.ids[1], g.n[1] - i * PROMPTS / N, 2 + i * PROMPTS / N);
        if (i % 5) q[i].sampling = (struct sampling){1.3, 1, 0};
        q[i].seed = i;
        q[i].again = i && q[i].n_prompt == q[i - 1].n_prompt;
    }
    struct decoder *all = decode(g.view, g.session, q, N, NULL);
    for (size_t i = 0; i < N; i++) {
        struct decode_request alone = q[i];
        alone.again = false;
        struct decoder *one = decode(g.view, g.session, &alone, 1, NULL);
        same_ids(decoder_result(all, i), decoder_result(one, 0)->ids.id, decoder_result(one, 0)->ids.n);
        decoder_free(one);
    }
    decoder_free(all);
    golden_close(&g);
}

/* Nothing to generate and nothing to score needs no pass. */
static void test_nothing_to_do(void **state)
{
    (void)state;
    struct golden g;
    struct err e = {0};
    golden_open(&g, "gqa_tied", NULL);
    struct decode_request q[2] = {greedy(g.ids[0], g.n[0], 0), greedy(g.ids[0], 1, 0)};
    q[1].score_prompt = true;
    struct decoder *d = decoder_new(g.view, q, 2, NULL, &e);
    assert_int_equal(decoder_step(d, g.session, &e), STEP_DONE);
    for (size_t i = 0; i < 2; i++) {
        const struct decode_result *r = decoder_result(d, i);
        assert_true(r->finish == FINISH_LENGTH && r->ids.n == 0 && r->prompt.n == 0 && r->text.len == 0);
    }
    decoder_free(d);
    golden_close(&g);
}

/* ---- a script ---------------------------------------------------------------------------------- */

enum { PROMPT = 300 }; /* a token that is no byte: where scripts begin */

/* A model that spells `text` after PROMPT, one token a byte, then ends. No byte may come twice. */
static struct view *spelling(const struct golden *g, const char *text)
{
    struct line line[32];
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        line[i] = (struct line){i ? byte_token(g, text[i - 1]) : PROMPT, byte_token(g, text[i]), 20};
    return scripted_view(g, line, n);
}

struct expectation {
    const char *said, *stop[3], *text;
    size_t n_ids; /* the end token counts */
    enum finish finish;
    size_t which;
};

static void check_spelling(const struct golden *g, const struct expectation *x)
{
    static const uint32_t prompt[] = {PROMPT};
    struct view *v = spelling(g, x->said);
    struct decode_request q = greedy(prompt, 1, 30);
    q.stop = x->stop;
    while (q.n_stop < 3 && x->stop[q.n_stop]) q.n_stop++;
    struct decoder *d = decode(v, g->session, &q, 1, NULL);
    const struct decode_result *r = decoder_result(d, 0);
    const char *text = r->text.data ? r->text.data : "";
    if (strcmp(text, x->text) != 0 || r->text.len != strlen(x->text) || r->finish != x->finish || r->ids.n != x->n_ids ||
        (r->finish == FINISH_STOP_STRING && r->stop != x->which))
        fail_msg("\"%s\": \"%s\", finish %d by stop %zu after %zu ids", x->said, text, (int)r->finish, r->stop, r->ids.n);
    assert_int_equal(decode_safe(d, 0), r->text.len);
    decoder_free(d);
    view_drop(v);
}

static void test_stop_strings(void **state)
{
    (void)state;
    static const struct expectation rows[] = {
        {"stop", {NULL}, "stop", 5, FINISH_END_TOKEN, 0},
        {"stop", {"o"}, "st", 3, FINISH_STOP_STRING, 0},
        {"stop", {"op"}, "st", 4, FINISH_STOP_STRING, 0},             /* across two tokens */
        {"stop", {"stop"}, "", 4, FINISH_STOP_STRING, 0},             /* across all of them */
        {"stop", {"stops"}, "stop", 5, FINISH_END_TOKEN, 0},
        {"stop", {"op", "top"}, "s", 4, FINISH_STOP_STRING, 1},       /* of those complete, the earliest */
        {"stop", {"stop", "to"}, "s", 3, FINISH_STOP_STRING, 1},      /* the first complete */
        {"stop", {"x", "", "p"}, "sto", 4, FINISH_STOP_STRING, 2},    /* nothing is no stop */
        {"a\nb.", {"\n", "."}, "a", 2, FINISH_STOP_STRING, 0},
        {"caf\xc3\xa9!", {"\xc3\xa9"}, "caf", 5, FINISH_STOP_STRING, 0},
        {"caf\xc3\xa9!", {"\xa9!"}, "caf\xc3", 6, FINISH_STOP_STRING, 0}, /* bytes are bytes */
        {"p", {"p"}, "", 1, FINISH_STOP_STRING, 0},
    };
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) check_spelling(&g, &rows[i]);
    golden_close(&g);
}

/* The prompt is no part of the text, even where a stop string would begin in it. */
static void test_prompt_is_not_searched(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    struct view *v = spelling(&g, "xyz");
    const uint32_t prompt[] = {byte_token(&g, 'a'), byte_token(&g, 'x')};
    static const char *const stop[] = {"ax", "axy"};
    struct decode_request q = greedy(prompt, 2, 30);
    q.stop = stop, q.n_stop = 2;
    struct decoder *d = decode(v, g.session, &q, 1, NULL);
    assert_string_equal(decoder_result(d, 0)->text.data, "yz");
    decoder_free(d);
    view_drop(v);
    golden_close(&g);
}

/* Special tokens are among the ids, not in the text; any end-of-generation token of the file ends. */
static void test_special_tokens(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t a = byte_token(&g, 'a'), b = byte_token(&g, 'b'), start = 1, end = 2;
    static const uint32_t prompt[] = {PROMPT};
    struct view *v = scripted_view(&g, (const struct line[]){{PROMPT, a, 9}, {a, start, 9}, {start, b, 9}, {b, end, 9}, {end, a, 9}}, 5);
    static const char *const stop[] = {"ab"};
    for (size_t n_stop = 0; n_stop < 2; n_stop++) {
        struct decode_request q = greedy(prompt, 1, 30);
        q.stop = stop, q.n_stop = n_stop;
        struct decoder *d = decode(v, g.session, &q, 1, NULL);
        const struct decode_result *r = decoder_result(d, 0);
        same_ids(r, (const uint32_t[]){a, start, b, end}, n_stop ? 3 : 4);
        assert_int_equal(r->finish, n_stop ? FINISH_STOP_STRING : FINISH_END_TOKEN);
        assert_string_equal(r->text.data, n_stop ? "" : "ab");
        decoder_free(d);
    }
    view_drop(v);
    golden_close(&g);
}

static void test_length(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t a = byte_token(&g, 'a'), b = byte_token(&g, 'b'), prompt[256];
    struct view *v = scripted_view(&g, (const struct line[]){{a, b, 9}, {b, a, 9}}, 2); /* never ends */
    for (int i = 0; i < 256; i++) prompt[i] = a;
    static const struct { uint32_t n, max, want; } rows[] = {{1, 1, 1}, {1, 2, 2}, {3, 100, 100}, {250, 100, 6}, {255, 100, 1}, {200, 56, 56}};
    assert_int_equal(g.model->arch.context, 256);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct decode_request q = greedy(prompt, rows[i].n, rows[i].max);
        struct decoder *d = decode(v, g.session, &q, 1, NULL);
        assert_int_equal(decoder_result(d, 0)->ids.n, rows[i].want);
        assert_int_equal(decoder_result(d, 0)->text.len, rows[i].want);
        assert_int_equal(decoder_result(d, 0)->finish, FINISH_LENGTH);
        decoder_free(d);
    }
    view_drop(v);
    golden_close(&g);
}

/* ---- streaming --------------------------------------------------------------------------------- */

/* After every token: what may be sent. */
static void check_safe(const struct golden *g, const char *said, const char *const *stop, size_t n_stop, const size_t *want)
{
    struct err e = {0};
    static const uint32_t prompt[] = {PROMPT};
    struct view *v = spelling(g, said);
    struct decode_request q = greedy(prompt, 1, 30);
    q.stop = stop, q.n_stop = n_stop;
    struct decoder *d = decoder_new(v, &q, 1, NULL, &e);
    must(d, e);
    size_t tokens = 0;
    for (enum step step = STEP_MORE; step == STEP_MORE;) {
        step = decoder_step(d, g->session, &e);
        assert_int_not_equal(step, STEP_FAIL);
        if (decoder_tokens(d) == tokens) continue;
        if (decode_safe(d, 0) != want[tokens])
            fail_msg("\"%s\": %zu of %zu bytes are safe after token %zu, %zu expected", said, decode_safe(d, 0),
                     decoder_result(d, 0)->text.len, tokens + 1, want[tokens]);
        tokens++;
    }
    decoder_free(d);
    view_drop(v);
}

static void test_streaming(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    static const char *const stop[] = {"top", "ox"};
    /* each byte, then the end token */
    check_safe(&g, "abc", NULL, 0, (const size_t[]){1, 2, 3, 3});
    check_safe(&g, "a\xc3\xa9z", NULL, 0, (const size_t[]){1, 1, 3, 4, 4});                      /* é */
    check_safe(&g, "\xe2\x82\xac!", NULL, 0, (const size_t[]){0, 0, 3, 4, 4});                   /* € */
    check_safe(&g, "\xf0\x9f\x98\x80", NULL, 0, (const size_t[]){0, 0, 0, 4, 4});                /* 😀 */
    check_safe(&g, "a\xf0\x9f", NULL, 0, (const size_t[]){1, 1, 1, 3});                          /* never finished */
    check_safe(&g, "\xa9z", NULL, 0, (const size_t[]){1, 2, 2});                                 /* never begun */
    check_safe(&g, "stxo", stop, 2, (const size_t[]){1, 1, 3, 3, 4});                            /* t, o might stop it */
    check_safe(&g, "stop", stop, 2, (const size_t[]){1, 1, 1, 1});                               /* and do */
    check_safe(&g, "stox", stop, 2, (const size_t[]){1, 1, 1, 2});                               /* the other does */
    golden_close(&g);
}

/* Of several tails that may begin a stop string the longest is held back: "p q p" before "pqp!" is
 * not just its last p. */
static void test_longest_tail_is_held(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t pair = 0;
    char text[5] = {0};
    for (uint32_t id = 3; id < tokenizer_size(g.model->tokenizer) && !text[0]; id++) {
        size_t len;
        const char *piece = tokenizer_piece(g.model->tokenizer, id, &len);
        if (len != 2 || piece[0] == piece[1] || (piece[0] & 0x80)) continue;
        pair = id;
        text[0] = text[2] = piece[0], text[1] = piece[1], text[3] = '!';
    }
    assert_int_equal(strlen(text), 4);
    uint32_t p = byte_token(&g, text[0]), end = byte_token(&g, '!');
    struct view *v = scripted_view(&g, (const struct line[]){{PROMPT, pair, 9}, {pair, p, 9}, {p, end, 9}}, 3);
    static const uint32_t prompt[] = {PROMPT};
    const char *const stop[] = {text};
    struct decode_request q = greedy(prompt, 1, 30);
    q.stop = stop, q.n_stop = 1;
    struct decoder *d = decoder_new(v, &q, 1, NULL, &e);
    must(d, e);
    for (enum step step = STEP_MORE; step == STEP_MORE;) {
        step = decoder_step(d, g.session, &e);
        assert_int_not_equal(step, STEP_FAIL);
        assert_int_equal(decode_safe(d, 0), 0);
    }
    assert_int_equal(decoder_result(d, 0)->finish, FINISH_STOP_STRING);
    decoder_free(d);
    view_drop(v);
    golden_close(&g);
}

/* Whatever is sampled, bytes once safe stay, and only a broken character or the beginning of a stop
 * string is held back. */
static void test_safe_bytes_stay(void **state)
{
    (void)state;
    static const char *const stop[] = {"\xe2\x82", "the", "a\xc3", "\n"};
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    size_t stopped = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct err e = {0};
        struct decode_request q = greedy(g.ids[0], g.n[0], 30);
        char sent[1024];
        size_t n = 0;
        q.sampling = (struct sampling){4, 1, 0};
        q.seed = seed;
        q.stop = stop, q.n_stop = seed % 5;
        struct decoder *d = decoder_new(g.view, &q, 1, NULL, &e);
        must(d, e);
        for (enum step step = STEP_MORE; step == STEP_MORE;) {
            step = decoder_step(d, g.session, &e);
            size_t safe = decode_safe(d, 0);
            const struct decode_result *r = decoder_result(d, 0);
            assert_true(safe >= n && safe <= r->text.len && safe < sizeof sent);
            if (n) assert_memory_equal(sent, r->text.data, n);
            if (q.n_stop == 0) assert_true(r->text.len - safe <= 3);
            if (safe) memcpy(sent, r->text.data, safe);
            n = safe;
        }
        const struct decode_result *r = decoder_result(d, 0);
        assert_int_equal(n, r->text.len);
        for (size_t i = 0; i < q.n_stop && n; i++) assert_null(memmem(sent, n, stop[i], strlen(stop[i])));
        stopped += r->finish == FINISH_STOP_STRING;
        decoder_free(d);
    }
    assert_in_range(stopped, 3, 47); /* or the above shows nothing */
    golden_close(&g);
}

/* ---- interventions ----------------------------------------------------------------------------- */

/* A write at all positions goes on while generating: the cached loop gives what runs of the whole
 * sequence with the same write give. */
static void test_writes_go_on(void **state)
{
    (void)state;
    struct err e = {0};
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    enum { TOKENS = 12 };
    uint32_t V = g.model->arch.d_vocab, whole[64], n = g.n[1];
    uint64_t seed = 8;
    float *src = random_floats(&seed, g.model->arch.d_model, 2), *logits = random_floats(&seed, V, 1);
    struct tap tap = {.site = {HOOK_RESID_MID, 1}, .op = TAP_ADD, .weight = 1, .every_pos = true, .src = src, .n_src_pos = 1};
    struct taps taps = {&tap, 1};
    struct decode_request q = greedy(g.ids[1], n, TOKENS);
    struct decoder *d = decode(g.view, g.session, &q, 1, &taps), *plain = decode(g.view, g.session, &q, 1, NULL);
    const struct decode_result *r = decoder_result(d, 0);
    memcpy(whole, g.ids[1], n * sizeof *whole);
    for (size_t t = 0; t < r->ids.n; t++) {
        uint32_t last = n + (uint32_t)t - 1;
        struct run_input in = {.ids = whole, .n = last + 1, .want = &last, .n_want = 1};
        struct run *run = run_new(g.view, &in, 1, &taps, &e);
        must(run && STEP_ALL(run_step(run, g.session, &e)) && unembed(g.session, g.view, run_final(run, 0), 1, NULL, logits, &e), e);
        assert_int_equal(r->ids.id[t], arg_max(logits, V));
        whole[last + 1] = r->ids.id[t];
        run_free(run);
    }
    const struct decode_result *p = decoder_result(plain, 0);
    assert_true(r->ids.n != p->ids.n || memcmp(r->ids.id, p->ids.id, p->ids.n * sizeof *p->ids.id) != 0);
    decoder_free(d);
    decoder_free(plain);
    free(src), free(logits);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_continuations),
        cmocka_unit_test(test_batch_is_each_alone),
        cmocka_unit_test(test_more_than_fit),
        cmocka_unit_test(test_seeds), cmocka_unit_test(test_logprobs), cmocka_unit_test(test_again),
        cmocka_unit_test(test_nothing_to_do),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_prompt_is_not_searched),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_longest_tail_is_held),
        cmocka_unit_test(test_safe_bytes_stay),
        cmocka_unit_test(test_writes_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
