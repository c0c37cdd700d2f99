/* The scores of an edit on a model that follows a script, where every probability is known: each
 * score is worked out by hand from the logits of the script. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "probes/measure.h"
#include "support/scripted.h"

#define WEIGHT 8.0 /* of a token that follows in the script; all other logits are 0 */

static void near(const char *what, double got, double want)
{
    if (!(fabs(got - want) < 1e-5)) fail_msg("%s is %.9g, %.9g expected", what, got, want);
}

static struct measure *measure(struct golden *g, struct view *v, const struct fact *f, size_t n, const struct measure *reference)
{
    struct err e = {0};
    struct measure *m = measure_new(v, f, n, reference, &e);
    must(m && STEP_ALL(measure_step(m, g->session, &e)), e);
    return m;
}

/* Prompts are single tokens that are no bytes. */
enum { P = 300, Q = 301, R = 302, S = 303 };
static const uint32_t p_ids[] = {P}, q_ids[] = {Q}, r_ids[] = {R}, s_ids[] = {S};

static void test_generation_and_targets(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t s = byte_token(&g, 's'), t = byte_token(&g, 't'), x = byte_token(&g, 'x'), y = byte_token(&g, 'y'),
             dot = byte_token(&g, '.'), nl = byte_token(&g, '\n'), space = byte_token(&g, ' ');
    struct view *v = scripted_view(&g, (const struct line[]){{P, s, WEIGHT}, {s, t, WEIGHT}, {t, dot, WEIGHT},
        {Q, x, WEIGHT}, {x, nl, WEIGHT}, {R, y, WEIGHT}, {y, space, WEIGHT}, {space, y, WEIGHT}, {S, nl, WEIGHT}}, 9);
    const uint32_t st[] = {s, t}, sx[] = {s, x}, xs[] = {x, s}, yy[] = {y}, only_t[] = {t};
    const struct fact facts[] = {
        {.prompt = {p_ids, 1, st, 2}, .target_text = " ST", .target_len = 3, .true_ids = xs, .n_true = 2},
        {.prompt = {p_ids, 1, sx, 2}, .target_text = "s", .target_len = 1},
        {.prompt = {q_ids, 1, xs, 2}, .target_text = "x", .target_len = 1},
        {.prompt = {r_ids, 1, yy, 1}, .target_text = "y", .target_len = 1}, /* y y y … for ever */
        {.prompt = {s_ids, 1, only_t, 1}, .target_text = "t", .target_len = 1},
    };
    struct measure *m = measure(&g, v, facts, 5, NULL);
    double right = scripted_nll(&g, WEIGHT, true), wrong = scripted_nll(&g, WEIGHT, false);
    static const struct {
        const char *text; enum finish finish; size_t stop; bool match, prefix, exact; double acc; int right, wrong;
    } want[] = {
        {"st", FINISH_STOP_STRING, 1, true, true, true, 1, 2, 0},
        {"st", FINISH_STOP_STRING, 1, false, false, false, 0.5, 1, 1},
        {"x", FINISH_STOP_STRING, 0, true, true, false, 0.5, 1, 1},
        {"y y y y y y y y y y y y y y y y ", FINISH_LENGTH, 0, false, true, true, 1, 1, 0},
        {"", FINISH_STOP_STRING, 0, false, false, false, 0, 0, 1},
    };
    for (size_t i = 0; i < 5; i++) {
        const struct score *c = measure_score(m, i);
        assert_int_equal(c->text_len, strlen(want[i].text));
        assert_memory_equal(c->text, want[i].text, c->text_len);
        assert_int_equal(c->finish, want[i].finish);
        if (c->finish == FINISH_STOP_STRING) assert_int_equal(c->stop, want[i].stop);
        assert_int_equal(c->match, want[i].match);
        assert_int_equal(c->prefix_match, want[i].prefix);
        assert_int_equal(c->tf_exact, want[i].exact);
        near("tf_token_acc", c->tf_token_acc, want[i].acc);
        near("nll_new", c->nll_new, (want[i].right * right + want[i].wrong * wrong) / (want[i].right + want[i].wrong));
        assert_true(isnan(c->paraphrase_match) && isnan(c->paraphrase_tf_exact));
        assert_true(isnan(c->locality_unchanged) && isnan(c->locality_kl));
    }
    /* x then s behind P: neither is likely; s after x, which goes on with a new line, is not either */
    near("nll_true", measure_score(m, 0)->nll_true, wrong);
    assert_true(isnan(measure_score(m, 1)->nll_true));
    measure_free(m);
    view_drop(v);
    golden_close(&g);
}

static void test_paraphrases(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t s = byte_token(&g, 's'), t = byte_token(&g, 't'), u = byte_token(&g, 'u');
    /* P, Q say "s"; R says "su"; S says "t" */
    struct view *v = scripted_view(&g, (const struct line[]){{P, s, WEIGHT}, {Q, s, WEIGHT}, {R, s, WEIGHT}, {S, t, WEIGHT}}, 4);
    const uint32_t target[] = {s}, two[] = {s, u};
    const struct prompt three[] = {{q_ids, 1, target, 1}, {r_ids, 1, two, 2}, {s_ids, 1, target, 1}};
    const struct fact facts[] = {{.prompt = {p_ids, 1, target, 1}, .target_text = "s", .target_len = 1, .paraphrase = three, .n_paraphrase = 3},
                                 {.prompt = {s_ids, 1, target, 1}, .target_text = "s", .target_len = 1, .paraphrase = three, .n_paraphrase = 1}};
    struct measure *m = measure(&g, v, facts, 2, NULL);
    assert_true(measure_score(m, 0)->match && measure_score(m, 0)->tf_exact);
    near("match", measure_score(m, 0)->paraphrase_match, 2.0 / 3);       /* Q and R say s, S does not */
    near("tf_exact", measure_score(m, 0)->paraphrase_tf_exact, 1.0 / 3); /* after s, u is no argmax */
    assert_false(measure_score(m, 1)->match);
    near("match", measure_score(m, 1)->paraphrase_match, 1);
    near("tf_exact", measure_score(m, 1)->paraphrase_tf_exact, 1);
    measure_free(m);
    view_drop(v);
    golden_close(&g);
}

static void test_locality(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t a = byte_token(&g, 'a'), b = byte_token(&g, 'b'), c = byte_token(&g, 'c'), s = byte_token(&g, 's');
    /* before: Q says "ab", R says "c"; after: Q says "ac", R as before */
    struct view *before = scripted_view(&g, (const struct line[]){{Q, a, WEIGHT}, {a, b, WEIGHT}, {R, c, WEIGHT}}, 3);
    struct view *after = scripted_view(&g, (const struct line[]){{Q, a, WEIGHT}, {a, c, WEIGHT}, {R, c, WEIGHT}, {P, s, WEIGHT}}, 4);
    const uint32_t target[] = {s};
    const struct prompt local[] = {{q_ids, 1, NULL, 0}, {r_ids, 1, NULL, 0}};
    const struct fact fact = {.prompt = {p_ids, 1, target, 1}, .target_text = "s", .target_len = 1, .locality = local, .n_locality = 2};
    struct measure *parent = measure(&g, before, &fact, 1, NULL), *edited = measure(&g, after, &fact, 1, parent),
                   *same = measure(&g, before, &fact, 1, parent);
    near("unchanged without a reference", measure_score(parent, 0)->locality_unchanged, 1);
    near("kl without a reference", measure_score(parent, 0)->locality_kl, 0);
    assert_false(measure_score(parent, 0)->match);
    assert_true(measure_score(edited, 0)->match);
    near("unchanged", measure_score(edited, 0)->locality_unchanged, 0.5);
    /* Q's continuation at the parent is a, b, end. Only the second differs: b was likely, now c is:
     * Σ p (log p − log q) = (p_b − p_c) · WEIGHT. R's is c, end. */
    double sum = exp(WEIGHT) + g.model->arch.d_vocab - 1, kl = (exp(WEIGHT) - 1) / sum * WEIGHT;
    near("kl", measure_score(edited, 0)->locality_kl, (kl / 3 + 0) / 2);
    /* a measure of its own, held against the parent afterwards, and against itself */
    struct err e = {0};
    struct measure *alone = measure(&g, after, &fact, 1, NULL), *later = measure_against(alone, parent, &e),
                   *itself = measure_against(alone, alone, &e);
    must(later && itself && STEP_ALL(measure_step(later, g.session, &e)) && STEP_ALL(measure_step(itself, g.session, &e)), e);
    assert_true(measure_score(later, 0)->match);
    near("unchanged, later", measure_score(later, 0)->locality_unchanged, 0.5);
    near("kl, later", measure_score(later, 0)->locality_kl, (kl / 3 + 0) / 2);
    near("unchanged by itself", measure_score(itself, 0)->locality_unchanged, 1);
    near("kl from itself", measure_score(itself, 0)->locality_kl, 0);
    measure_free(later);
    measure_free(itself);
    measure_free(alone);
    near("unchanged at the parent", measure_score(same, 0)->locality_unchanged, 1);
    near("kl at the parent", measure_score(same, 0)->locality_kl, 0);
    measure_free(edited);
    measure_free(same);
    measure_free(parent);
    view_drop(before);
    view_drop(after);
    golden_close(&g);
}

/* Only the first 16 tokens of the reference's continuation are compared in kl, all 32 in unchanged. */
static void test_locality_reaches(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t id[24];
    struct line line[24];
    for (uint32_t i = 0; i < 24; i++) id[i] = byte_token(&g, (char)('a' + i));
    for (uint32_t i = 0; i < 20; i++) line[i] = (struct line){i ? id[i - 1] : Q, id[i], WEIGHT};
    struct view *before = scripted_view(&g, line, 20);
    line[19].to = id[22]; /* another twentieth token */
    struct view *after = scripted_view(&g, line, 20);
    line[19].to = id[19];
    line[15].to = id[22]; /* another sixteenth */
    struct view *sooner = scripted_view(&g, line, 20);
    const struct prompt local = {q_ids, 1, NULL, 0};
    const struct fact fact = {.prompt = {p_ids, 1, id, 1}, .target_text = "a", .target_len = 1, .locality = &local, .n_locality = 1};
    struct measure *parent = measure(&g, before, &fact, 1, NULL), *edited = measure(&g, after, &fact, 1, parent),
                   *earlier = measure(&g, sooner, &fact, 1, parent);
    double sum = exp(WEIGHT) + g.model->arch.d_vocab - 1, kl = (exp(WEIGHT) - 1) / sum * WEIGHT;
    near("unchanged", measure_score(edited, 0)->locality_unchanged, 0);
    near("kl", measure_score(edited, 0)->locality_kl, 0);
    near("unchanged", measure_score(earlier, 0)->locality_unchanged, 0);
    near("kl", measure_score(earlier, 0)->locality_kl, kl / 16);
    measure_free(edited);
    measure_free(earlier);
    measure_free(parent);
    view_drop(before);
    view_drop(after);
    view_drop(sooner);
    golden_close(&g);
}

/* Bytes that are no characters, as a raw model says them, are scored, not refused. */
static void test_broken_text(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint32_t bad = byte_token(&g, '\xe2'), s = byte_token(&g, 's');
    struct view *v = scripted_view(&g, (const struct line[]){{P, s, WEIGHT}, {s, bad, WEIGHT}}, 2);
    const uint32_t target[] = {s};
    const struct fact fact = {.prompt = {p_ids, 1, target, 1}, .target_text = "s", .target_len = 1};
    struct measure *m = measure(&g, v, &fact, 1, NULL);
    assert_int_equal(measure_score(m, 0)->text_len, 2);
    assert_false(measure_score(m, 0)->match);
    assert_int_equal(measure_score(m, 0)->finish, FINISH_END_TOKEN);
    measure_free(m);
    view_drop(v);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_generation_and_targets),
        cmocka_unit_test(test_paraphrases),
        cmocka_unit_test(test_locality),
        cmocka_unit_test(test_locality_reaches),
        cmocka_unit_test(test_broken_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
