/* Readouts against scikit-learn (tests/golden/readouts.json, by make_readouts.py) and what must hold of any. */
#include "probes/readout.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/random.h"
#include "core/kernel/blas.h"
#include "probes/readout_cv.h"
#include "support/golden.h"

enum { MOST_ROWS = 240, MOST_WIDTH = 48 };

static struct session *session;
static float x[MOST_ROWS * MOST_WIDTH];
static uint32_t label[MOST_ROWS], row[MOST_ROWS];

static struct readout *fit(const struct readout_spec *s, size_t n, size_t d, uint32_t classes)
{
    struct err e = {0};
    for (uint32_t i = 0; i < n; i++) row[i] = i;
    const struct readout_data data = {.x = x, .ld = d, .d = d, .label = label, .classes = classes, .row = row, .n = n};
    struct readout_fit *f = readout_fit_new(s, &data, &e);
    must(f, e);
    must(STEP_ALL(readout_fit_step(f, session, &e)), e);
    struct readout *r = readout_take(f);
    readout_fit_free(f);
    return r;
}

static struct readout_spec spec(enum readout_kind kind, double lambda)
{
    return (struct readout_spec){.kind = kind, .lambda = lambda, .k = 1, .hidden = 16, .epochs = 300, .lr = 0.01, .seed = 1};
}

/* ---- scikit-learn -------------------------------------------------------------------------------- */

static void load(const struct json *c)
{
    size_t k = 0;
    for (const struct json *v = json_get(c, "x")->child; v; v = v->next) x[k++] = (float)v->number;
    k = 0;
    for (const struct json *v = json_get(c, "y")->child; v; v = v->next) label[k++] = (uint32_t)v->integer;
}

/* The largest difference, relative to the largest number (a bias may be zero). */
static double off(const struct json *list, const double *got, size_t n)
{
    double most = 0, size = 1e-3;
    const struct json *v = list->child;
    assert_int_equal(list->len, n);
    for (size_t i = 0; i < n; i++, v = v->next) {
        most = fmax(most, fabs(got[i] - v->number));
        size = fmax(size, fabs(v->number));
    }
    return most / size;
}

static void compare(const struct json *c, const char *name, struct readout_spec s, double within)
{
    const struct json *want = json_get(c, name);
    size_t n = (size_t)json_get(c, "n")->integer, d = (size_t)json_get(c, "d")->integer;
    if (!want) return;
    s.raw = json_get(c, "raw")->boolean;
    struct readout *r = fit(&s, n, d, (uint32_t)json_get(c, "classes")->integer);
    double w = off(json_get(want, "w"), r->w, r->outputs * d), b = off(json_get(want, "b"), r->b, r->outputs);
    print_message("%s %zu x %zu: weights %.1e, bias %.1e\n", name, n, d, w, b);
    assert_true(r->converged);
    assert_true(w <= within && b <= 10 * within);
    readout_free(r);
}

static void fits_are_scikit_learns(void **state)
{
    (void)state;
    const struct json *all = golden_json("tests/golden/readouts.json", &golden_arena);
    for (const struct json *c = json_get(all, "cases")->child; c; c = c->next) {
        double lambda = json_get(c, "lambda")->number;
        struct readout_spec lda = spec(READOUT_MASS_MEAN, 0);
        lda.whiten = true;
        load(c);
        compare(c, "logistic", spec(READOUT_LOGISTIC, lambda), 1e-4);
        compare(c, "ridge", spec(READOUT_RIDGE, lambda), 1e-6);
        compare(c, "lda", lda, 1e-5);
    }
}

/* ---- what must hold --------------------------------------------------------------------------------- */

/* Class c is apart along feature 2 + c, all else is noise. */
static void separable(size_t n, size_t d, uint32_t classes, double gap, uint64_t seed)
{
    struct random rng;
    random_init(&rng, seed);
    for (size_t i = 0; i < n; i++) {
        label[i] = (uint32_t)(i % classes);
        for (size_t k = 0; k < d; k++) x[i * d + k] = (float)(2 * random_unit(&rng) - 1);
        if (label[i]) x[i * d + 2 + label[i]] += (float)gap;
    }
}

static struct readout_scores validate(const struct readout_spec *s, const struct readout_split *split, size_t d)
{
    struct err e = {0};
    struct readout_cv *c = readout_cv_new(s, split, x, d, d, &e);
    must(c, e);
    must(STEP_ALL(readout_cv_step(c, session, &e)), e);
    struct readout_scores out = *readout_cv_scores(c);
    readout_cv_free(c);
    return out;
}

static void what_is_there_is_read_and_the_control_is_not(void **state)
{
    (void)state;
    for (uint32_t classes = 2; classes <= 3; classes++)
        for (int k = 0; k < READOUT_KINDS; k++) {
            struct readout_spec s = spec((enum readout_kind)k, 0.01);
            struct readout_split split;
            struct err e = {0};
            separable(240, 8, classes, 6, 5);
            must(readout_split(&split, label, classes, NULL, 240, 5, 3, &e), e);
            s.k = 2;
            struct readout_scores got = validate(&s, &split, 8);
            print_message("%s %u: accuracy %.3f ± %.3f, auroc %.3f, log-loss %.3f, control %.3f\n", readout_word(s.kind), classes,
                          got.accuracy, got.accuracy_se, got.auroc, got.log_loss, got.control);
            assert_true(got.accuracy >= 0.99 && got.auroc >= 0.99);
            assert_true(fabs(got.control - 1.0 / classes) < 0.13 && got.selectivity == got.accuracy - got.control);
            assert_true(isnan(got.log_loss) == !readout_likely(&s));
            assert_true(fabs(split.majority - 1.0 / classes) < 1e-12);
            readout_split_release(&split);
        }
}

static void groups_are_never_parted(void **state)
{
    (void)state;
    enum { N = 60 };
    uint32_t group[N], of[12];
    struct readout_split s;
    struct err e = {0};
    for (uint32_t i = 0; i < N; i++) {
        group[i] = i % 12;
        label[i] = group[i] % 2;
    }
    must(readout_split(&s, label, 2, group, N, 4, 9, &e), e);
    size_t changed = 0, rows[4] = {0};
    for (uint32_t i = 0; i < N; i++) {
        if (i < 12) of[i] = s.fold[i];
        assert_int_equal(s.fold[i], of[group[i]]);
        assert_int_equal(s.control[i], s.control[group[i]]); /* one label a group, still */
        changed += s.control[i] != label[i];
        rows[s.fold[i]]++;
    }
    for (int k = 0; k < 4; k++) assert_int_equal(rows[k], 15);
    assert_true(changed > 0);
    readout_split_release(&s);
    assert_false(readout_split(&s, label, 2, group, N, 13, 9, &e));
    assert_string_equal(e.field, "folds");
}

/* A group's rows share a code that says nothing of the label: read by row it would look like knowledge. */
static void a_code_of_the_group_is_no_knowledge(void **state)
{
    (void)state;
    enum { N = 200, G = 20, D = 24 };
    uint32_t group[N];
    struct random rng;
    struct err e = {0};
    struct readout_split by_group, by_row;
    struct readout_spec s = spec(READOUT_LOGISTIC, 0.001);
    random_init(&rng, 4);
    memset(x, 0, sizeof x);
    for (uint32_t i = 0; i < N; i++) {
        group[i] = i / 10;
        label[i] = (group[i] * 7 % 10) < 5;
        x[i * D + group[i]] = 1;
    }
    must(readout_split(&by_group, label, 2, group, N, 5, 3, &e), e);
    must(readout_split(&by_row, label, 2, NULL, N, 5, 3, &e), e);
    assert_true(validate(&s, &by_row, D).accuracy > 0.99);
    assert_true(validate(&s, &by_group, D).accuracy < 0.8);
    readout_split_release(&by_group);
    readout_split_release(&by_row);
}

/* Without scaling of each feature, an L2 readout does not see a rotation. */
static void a_rotation_changes_nothing(void **state)
{
    (void)state;
    enum { N = 50, D = 8 };
    double before[N], after;
    const enum readout_kind some[] = {READOUT_LOGISTIC, READOUT_RIDGE, READOUT_MASS_MEAN};
    for (size_t k = 0; k < 3; k++) {
        struct readout_spec s = spec(some[k], 0.1);
        s.raw = s.whiten = true;
        separable(N, D, 2, 1, 8);
        struct readout *r = fit(&s, N, D, 2);
        for (size_t i = 0; i < N; i++) readout_score(r, x + i * D, &before[i]);
        readout_free(r);
        for (size_t i = 0; i < N; i++)
            for (size_t p = 0; p + 1 < D; p++) { /* plane by plane */
                float a = x[i * D + p], b = x[i * D + p + 1];
                x[i * D + p] = 0.8f * a - 0.6f * b;
                x[i * D + p + 1] = 0.6f * a + 0.8f * b;
            }
        r = fit(&s, N, D, 2);
        for (size_t i = 0; i < N; i++) {
            readout_score(r, x + i * D, &after);
            assert_true(fabs(after - before[i]) < 1e-4);
        }
        readout_free(r);
    }
}

static void sparse_finds_the_feature_and_directions_point_there(void **state)
{
    (void)state;
    struct readout_spec s = spec(READOUT_SPARSE, 0.01), ridge = spec(READOUT_RIDGE, 0.001), mlp = spec(READOUT_MLP, 0);
    double out[8];
    ridge.raw = true;
    separable(120, 8, 2, 6, 2);
    struct readout *r = fit(&s, 120, 8, 2);
    assert_int_equal(r->n_features, 1);
    assert_int_equal(r->feature[0], 3);
    assert_true(readout_direction(r, 1, out) && fabs(out[3] - 1) < 1e-12 && out[0] == 0);
    assert_true(readout_direction(r, 0, out) && fabs(out[3] + 1) < 1e-12);
    readout_free(r);
    r = fit(&ridge, 120, 8, 2);
    assert_true(readout_direction(r, 1, out) && out[3] > 0.9);
    readout_free(r);
    r = fit(&mlp, 120, 8, 2);
    assert_false(readout_direction(r, 1, out));
    readout_free(r);
}

/* Inside or outside a ring. The same seed gives the same weights. */
static void an_mlp_reads_what_no_line_does(void **state)
{
    (void)state;
    struct readout_spec mlp = spec(READOUT_MLP, 0), line = spec(READOUT_LOGISTIC, 0.01);
    size_t right[2] = {0};
    separable(200, 4, 2, 0, 6);
    for (size_t i = 0; i < 200; i++) label[i] = x[i * 4] * x[i * 4] + x[i * 4 + 1] * x[i * 4 + 1] < 0.6f;
    for (int k = 0; k < 2; k++) {
        struct readout *r = fit(k ? &mlp : &line, 200, 4, 2), *again = fit(k ? &mlp : &line, 200, 4, 2);
        double score[2], same;
        for (size_t i = 0; i < 200; i++) {
            readout_score(r, x + i * 4, score);
            readout_score(again, x + i * 4, &same);
            assert_true(score[0] == same);
            right[k] += readout_label(r, score) == label[i];
        }
        readout_free(r);
        readout_free(again);
    }
    print_message("ring: line %zu, mlp %zu of 200\n", right[0], right[1]);
    assert_true(right[0] < 150 && right[1] > 190);
}

static void heads_one_by_one(void **state)
{
    (void)state;
    enum { N = 80, H = 3, E = 4 };
    struct readout_spec s = spec(READOUT_LOGISTIC, 0.01);
    struct readout_scores score[H];
    struct readout_split split;
    struct err e = {0};
    separable(N, H * E, 2, 0, 3);
    for (size_t i = 0; i < N; i++) x[i * H * E + E + 2] += 6.0f * (float)label[i]; /* head 1 */
    must(readout_split(&split, label, 2, NULL, N, 4, 1, &e), e);
    struct linear_probe p = {.spec = &s, .split = &split, .x = x, .heads = H, .width = E, .score = score};
    must(STEP_ALL(linear_probe_step(&p, session, &e)), e);
    assert_true(score[1].accuracy == 1 && score[0].accuracy < 0.75 && score[2].accuracy < 0.75);
    readout_split_release(&split);
}

static void what_cannot_be_fitted_is_refused(void **state)
{
    (void)state;
    struct err e = {0};
    struct readout_spec s = spec(READOUT_RIDGE, 0);
    separable(20, 8, 2, 1, 3);
    for (size_t i = 0; i < 20; i++) x[i * 8 + 1] = x[i * 8];
    for (uint32_t i = 0; i < 20; i++) row[i] = i;
    struct readout_data data = {.x = x, .ld = 8, .d = 8, .label = label, .classes = 2, .row = row, .n = 20};
    struct readout_fit *f = readout_fit_new(&s, &data, &e);
    must(f, e);
    assert_false(STEP_ALL(readout_fit_step(f, session, &e)));
    assert_string_equal(e.field, "params.lambda");
    readout_fit_free(f);
    memset(label, 0, sizeof label);
    assert_null(readout_fit_new(&s, &data, &e));
    assert_int_equal(e.code, ERR_UNPROCESSABLE);
}

static int start(void **state)
{
    struct err e = {0};
    if (!blas_start(1, &e) || !(session = session_new(1, &e))) return -1;
    return golden_arena_init(state);
}

static int stop(void **state)
{
    session_free(session);
    return golden_arena_release(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fits_are_scikit_learns),
        cmocka_unit_test(what_is_there_is_read_and_the_control_is_not),
        cmocka_unit_test(groups_are_never_parted),
        cmocka_unit_test(a_code_of_the_group_is_no_knowledge),
        cmocka_unit_test(a_rotation_changes_nothing),
        cmocka_unit_test(sparse_finds_the_feature_and_directions_point_there),
        cmocka_unit_test(an_mlp_reads_what_no_line_does),
        cmocka_unit_test(heads_one_by_one),
        cmocka_unit_test(what_cannot_be_fitted_is_refused),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
