/* Deltas: the exact arithmetic of applying one, the same bytes under any compiler flags, and a
 * serialised form that is canonical and survives hostile bytes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "core/delta.h"
#include "support/delta_apply_variants.h"
#include "support/golden.h"
#include "support/numbers.h"

/* ---- arithmetic -------------------------------------------------------------------------------- */

/* Every product and every sum rounded to float32 in the written order; volatile forbids anything
 * cleverer. */
static void apply_by_definition(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            volatile float sum = 0;
            if (p->kind == DELTA_DENSE) sum = p->a[i * cols + j];
            for (size_t r = 0; p->kind == DELTA_LOWRANK && r < p->rank; r++) {
                volatile float product = p->a[i * p->rank + r] * p->b[r * cols + j];
                sum = sum + product;
            }
            w[i * cols + j] = w[i * cols + j] + sum;
        }
}

/* Values of very different sizes, denormals among them. */
static float *wild_floats(uint64_t *seed, size_t n)
{
    float *v = random_floats(seed, n, 1);
    for (size_t i = 0; i < n; i++) v[i] = ldexpf(v[i], (int)below(seed, 30) - 20);
    if (n > 3) v[n / 2] = 1e-41f, v[n / 3] = -0.0f;
    return v;
}

static const struct shape { uint32_t rows, cols, rank; } shapes[] = {
    {1, 1, 0}, {3, 5, 0}, {17, 300, 0}, {1, 1, 1}, {4, 7, 2}, {2, 255, 3}, {3, 256, 1}, {3, 257, 5}, {30, 37, 16}, {2, 600, 64}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

struct trial {
    struct delta_part part;
    float *before, *want;
    size_t n;
};

static struct trial trial_of(const struct shape *s, uint64_t *seed)
{
    struct trial t = {.n = (size_t)s->rows * s->cols};
    t.part = (struct delta_part){.kind = s->rank ? DELTA_LOWRANK : DELTA_DENSE, .rank = s->rank,
                                 .a = wild_floats(seed, s->rank ? (size_t)s->rows * s->rank : t.n),
                                 .b = s->rank ? wild_floats(seed, (size_t)s->rank * s->cols) : NULL};
    t.before = wild_floats(seed, t.n);
    t.want = memcpy(malloc(t.n * sizeof(float)), t.before, t.n * sizeof(float));
    apply_by_definition(&t.part, s->rows, s->cols, t.want);
    return t;
}

static void trial_free(struct trial *t) { free(t->part.a), free(t->part.b), free(t->before), free(t->want); }

static bool same_bytes(const struct trial *t, const struct shape *s,
                       void (*apply)(const struct delta_part *, uint32_t, uint32_t, float *))
{
    float *w = memcpy(malloc(t->n * sizeof *w), t->before, t->n * sizeof *w);
    apply(&t->part, s->rows, s->cols, w);
    bool same = memcmp(w, t->want, t->n * sizeof *w) == 0;
    free(w);
    return same;
}

/* -O0, -O3 for another processor and the product's own flags: one digest. */
static void test_same_bytes_for_all_flags(void **state)
{
    (void)state;
    uint64_t seed = 1;
    bool fused_shows = false;
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < N_SHAPES; i++) {
            struct trial t = trial_of(&shapes[i], &seed);
            if (!same_bytes(&t, &shapes[i], delta_apply)) fail_msg("delta_apply, rank %u", shapes[i].rank);
            if (!same_bytes(&t, &shapes[i], delta_apply_plain)) fail_msg("-O0, rank %u", shapes[i].rank);
            if (delta_apply_fast_runs()) {
                if (!same_bytes(&t, &shapes[i], delta_apply_fast)) fail_msg("-O3, rank %u", shapes[i].rank);
                fused_shows |= !same_bytes(&t, &shapes[i], delta_apply_fused);
            }
            trial_free(&t);
        }
#if defined(__x86_64__)
    if (delta_apply_fast_runs()) assert_true(fused_shows); /* else the above could not fail */
#endif
}

/* And they are the right ones: within rounding of float64, as is the norm. */
static void test_close_to_float64(void **state)
{
    (void)state;
    uint64_t seed = 2;
    for (size_t i = 0; i < N_SHAPES; i++) {
        const struct shape *s = &shapes[i];
        struct trial t = trial_of(s, &seed);
        double squares = 0;
        float *w = memcpy(malloc(t.n * sizeof *w), t.before, t.n * sizeof *w);
        delta_apply(&t.part, s->rows, s->cols, w);
        for (size_t k = 0; k < t.n; k++) {
            double change = t.part.kind == DELTA_DENSE ? (double)t.part.a[k] : 0, size = fabs(change) + fabs((double)w[k]);
            for (size_t r = 0; r < s->rank; r++) {
                double term = (double)t.part.a[k / s->cols * s->rank + r] * (double)t.part.b[r * s->cols + k % s->cols];
                change += term;
                size += fabs(term);
            }
            squares += change * change;
            assert_true(fabs((double)w[k] - ((double)t.before[k] + change)) <= (s->rank + 2) * 6e-8 * size + 1e-44 * (s->rank + 1));
        }
        double norm = delta_norm(&t.part, s->rows, s->cols);
        if (!(fabs(norm - sqrt(squares)) <= 1e-9 * sqrt(squares))) fail_msg("norm %.12g, %.12g expected", norm, sqrt(squares));
        free(w);
        trial_free(&t);
    }
}

/* Adding and taking away again is not nothing: why rollback rebuilds. */
static void test_subtraction_would_not_do(void **state)
{
    (void)state;
    enum { N = 10000 };
    uint64_t seed = 3;
    float *w = random_floats(&seed, N, 1), *d = random_floats(&seed, N, 0.1), *now = malloc(N * sizeof *now);
    struct delta_part there = {.kind = DELTA_DENSE, .a = d};
    memcpy(now, w, N * sizeof *now);
    delta_apply(&there, 1, N, now);
    for (int i = 0; i < N; i++) d[i] = -d[i];
    delta_apply(&there, 1, N, now);
    int differ = 0;
    for (int i = 0; i < N; i++) differ += now[i] != w[i];
    assert_in_range(differ, N / 100, N / 2);
    free(w), free(d), free(now);
}

/* ---- making ------------------------------------------------------------------------------------ */

static size_t tensor_of(const struct golden *g, enum role role, uint32_t layer)
{
    size_t t;
    assert_true(model_role(g->model, role, layer, &t));
    return t;
}

static void test_nonfinite_is_refused(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    size_t t = tensor_of(&g, ROLE_DOWN, 0), n = g.model->tensors[t].n_elements;
    uint64_t seed = 4;
    float *v = random_floats(&seed, n, 1), *b = random_floats(&seed, n, 1);
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++)
        for (int at = 0; at < 2; at++) {
            struct err e = {0};
            size_t k = at ? n - 1 : 0, kb = at ? 2 * g.model->tensors[t].cols - 1 : 0;
            float was = v[k], was_b = b[kb];
            v[k] = bad[i];
            assert_null(delta_new_dense(g.model, t, v, &e));
            assert_int_equal(e.code, ERR_NONFINITE);
            assert_non_null(strstr(e.text, g.model->tensors[t].name));
            e = (struct err){0};
            v[k] = was;
            b[kb] = bad[i];
            assert_null(delta_new_lowrank(g.model, t, 2, v, b, &e));
            assert_int_equal(e.code, ERR_NONFINITE);
            b[kb] = was_b;
        }
    free(v), free(b);
    golden_close(&g);
}

static struct delta *some_delta(const struct golden *g, int which, uint64_t seed)
{
    struct err e = {0};
    static const struct { enum role role; uint32_t layer, rank; } rows[] = {{ROLE_DOWN, 1, 0}, {ROLE_Q, 0, 2}, {ROLE_FINAL_NORM, 0, 0}, {ROLE_MLP_NORM, 1, 1}};
    size_t t = tensor_of(g, rows[which].role, rows[which].layer);
    const struct tensor *info = &g->model->tensors[t];
    float *a = wild_floats(&seed, info->n_elements), *b = wild_floats(&seed, (size_t)info->cols * 2);
    struct delta *d = rows[which].rank ? delta_new_lowrank(g->model, t, rows[which].rank, a, b, &e) : delta_new_dense(g->model, t, a, &e);
    must(d, e);
    free(a), free(b);
    return d;
}
enum { N_DELTAS = 4 };

static void write_out(const struct golden *g, const struct delta *d, struct buf *out)
{
    struct err e = {0};
    *out = (struct buf){0};
    must(delta_write(d, g->model, out, &e), e);
}

/* From a copy of just these bytes, so that reading past them shows under ASan. */
static struct delta *read_back(const struct golden *g, const char *bytes, size_t n, struct err *e)
{
    char *exact = malloc(n ? n : 1);
    memcpy(exact, bytes, n);
    struct delta *d = delta_read(exact, n, g->model, e);
    free(exact);
    return d;
}

/* ---- the file ---------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    for (int i = 0; i < N_DELTAS; i++) {
        struct err e = {0};
        struct delta *d = some_delta(&g, i, 5), *again = some_delta(&g, i, 5);
        struct buf first, second, third;
        write_out(&g, d, &first);
        write_out(&g, again, &second);
        assert_int_equal(first.len, second.len);
        assert_memory_equal(first.data, second.data, first.len); /* equal deltas, equal bytes */
        struct delta *back = read_back(&g, first.data, first.len, &e);
        must(back, e);
        write_out(&g, back, &third);
        assert_int_equal(first.len, third.len);
        assert_memory_equal(first.data, third.data, first.len);
        const struct tensor *t = &g.model->tensors[d->parts[0].tensor];
        assert_true(back->n_parts == 1 && back->parts[0].tensor == d->parts[0].tensor && back->parts[0].kind == d->parts[0].kind &&
                    back->parts[0].rank == d->parts[0].rank);
        assert_true(delta_norm(&back->parts[0], t->rows, t->cols) == delta_norm(&d->parts[0], t->rows, t->cols));
        buf_release(&first), buf_release(&second), buf_release(&third);
        delta_free(d), delta_free(again), delta_free(back);
    }
    golden_close(&g);
}

/* The header is safetensors: eight bytes of length, JSON, data from an aligned offset. */
static void test_layout(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    struct delta *d = some_delta(&g, 1, 6); /* a low-rank change of a query projection [30][30] */
    struct buf bytes;
    struct err e = {0};
    uint64_t head;
    write_out(&g, d, &bytes);
    memcpy(&head, bytes.data, sizeof head);
    assert_int_equal(head % 8, 0);
    assert_int_equal(bytes.len, 8 + head + (30 * 2 + 2 * 30) * sizeof(float));
    const struct json *h = json_parse(bytes.data + 8, head, &g.arena, &e);
    must(h, e);
    assert_int_equal(h->len, 3);
    assert_string_equal(json_get(json_get(h, "__metadata__"), "format")->text, "engramd.delta.1");
    const struct json *a = json_get(h, "model.layers.0.self_attn.q_proj.weight.lowrank_a"),
                      *b = json_get(h, "model.layers.0.self_attn.q_proj.weight.lowrank_b");
    assert_true(a && b);
    assert_string_equal(json_get(a, "dtype")->text, "F32");
    assert_true(json_get(a, "shape")->child->integer == 30 && json_get(a, "shape")->child->next->integer == 2);
    assert_true(json_get(b, "shape")->child->integer == 2 && json_get(b, "shape")->child->next->integer == 30);
    assert_true(json_get(b, "data_offsets")->child->integer == 240 && json_get(b, "data_offsets")->child->next->integer == 480);
    assert_memory_equal(bytes.data + 8 + head, d->parts[0].a, 240);
    assert_memory_equal(bytes.data + 8 + head + 240, d->parts[0].b, 240);
    buf_release(&bytes);
    delta_free(d);
    golden_close(&g);
}

/* A file with this header and this many bytes of zeros behind it. */
static struct delta *read_header(const struct golden *g, const char *header, size_t data, struct err *e)
{
    uint64_t head = strlen(header);
    char *bytes = calloc(1, 8 + head + data);
    memcpy(bytes, &head, 8);
    memcpy(bytes + 8, header, head);
    struct delta *d = delta_read(bytes, 8 + head + data, g->model, e);
    free(bytes);
    return d;
}

#define META "{\"__metadata__\":{\"format\":\"engramd.delta.1\"}"
#define NORM "\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0,120]}"
#define NORM2 "\"model.layers.1.input_layernorm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[120,240]}"

/* Several parts, in any order in the file: read in the model's order, and written so. */
static void test_many_parts(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    struct err e = {0};
    struct delta *d = read_header(&g, META "," NORM "," NORM2 "}", 240, &e), *turned = read_header(&g, META "," NORM2 "," NORM "}", 240, &e);
    must(d && turned, e);
    assert_int_equal(d->n_parts, 2);
    assert_true(d->parts[0].tensor < d->parts[1].tensor);
    struct buf a, b;
    write_out(&g, d, &a);
    write_out(&g, turned, &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    buf_release(&a), buf_release(&b);
    delta_free(d), delta_free(turned);
    golden_close(&g);
}

static void test_bad_headers(void **state)
{
    (void)state;
#define Q "\"model.layers.0.self_attn.q_proj.weight"
    static const char *const rows[] = {
        "", "[]", "null", "{", "{}", META "}", META ",\"x\":1}",
        "{\"__metadata__\":{\"format\":\"engramd.delta.2\"}," NORM "}",
        "{" NORM "}",
        "{\"__metadata__\":{\"format\":7}," NORM "}",
        META ",\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0,120]}}",
        META ",\"no.such.tensor.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0,120]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F16\",\"shape\":[1,30],\"data_offsets\":[0,60]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[30],\"data_offsets\":[0,120]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[30,1],\"data_offsets\":[0,120]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0,116]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[120,0]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[-120,0]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0.0,120]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[1000,1120]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[9223372036854775687,9223372036854775807]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905,4],\"data_offsets\":[0,16]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0,120,240]}}",
        META ",\"model.norm.weight.dense\":{\"dtype\":\"F32\",\"shape\":\"[1,30]\",\"data_offsets\":[0,120]}}",
        META ",\"model.norm.weight.dense\":[1,30]}",
        META "," NORM "," NORM "}",
        META ",\"model.norm.weight.lowrank_a\":{\"dtype\":\"F32\",\"shape\":[1,1],\"data_offsets\":[0,4]},"
             "\"model.norm.weight.lowrank_b\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[4,124]}," NORM "}", /* two parts of one tensor */
        META "," Q ".lowrank_a\":{\"dtype\":\"F32\",\"shape\":[30,2],\"data_offsets\":[0,240]}}",                        /* no b */
        META "," NORM "," Q ".lowrank_b\":{\"dtype\":\"F32\",\"shape\":[2,30],\"data_offsets\":[0,240]}}",               /* no a */
        META "," Q ".lowrank_a\":{\"dtype\":\"F32\",\"shape\":[30,2],\"data_offsets\":[0,240]}," Q ".lowrank_b\":{\"dtype\":\"F32\",\"shape\":[1,30],\"data_offsets\":[0,120]}}",
        META "," Q ".lowrank_a\":{\"dtype\":\"F32\",\"shape\":[29,2],\"data_offsets\":[0,232]}," Q ".lowrank_b\":{\"dtype\":\"F32\",\"shape\":[2,30],\"data_offsets\":[0,240]}}",
        META "," Q ".lowrank_a\":{\"dtype\":\"F32\",\"shape\":[30,4294967297],\"data_offsets\":[0,240]}," Q ".lowrank_b\":{\"dtype\":\"F32\",\"shape\":[4294967297,30],\"data_offsets\":[0,240]}}",
    };
#undef Q
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct delta *d = read_header(&g, rows[i], 480, &e);
        if (d) fail_msg("taken for a delta: %s", rows[i]);
        assert_true(e.code != ERR_NONE && e.text[0]);
    }
    struct err e = {0};
    struct delta *good = read_header(&g, META "," NORM "}", 120, &e);
    must(good, e);
    delta_free(good);
    golden_close(&g);
}

/* Cut anywhere: refused, with a sentence. */
static void test_every_truncation(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    for (int i = 0; i < N_DELTAS; i++) {
        struct delta *d = some_delta(&g, i, 7);
        struct buf bytes;
        write_out(&g, d, &bytes);
        for (size_t n = 0; n < bytes.len; n++) {
            struct err e = {0};
            assert_null(read_back(&g, bytes.data, n, &e));
            assert_true(e.code == ERR_CORRUPT || e.code == ERR_INVALID);
        }
        buf_release(&bytes);
        delta_free(d);
    }
    golden_close(&g);
}

/* Any byte changed: refused, or another sound delta. */
static void test_flipped_bytes(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    size_t refused = 0, nonfinite = 0, taken = 0;
    for (int i = 1; i < N_DELTAS; i++) {
        struct delta *d = some_delta(&g, i, 8);
        struct buf bytes;
        write_out(&g, d, &bytes);
        for (size_t at = 0; at < bytes.len; at++)
            for (unsigned k = 0; k < 6; k++) {
                static const unsigned char flips[] = {0x01, 0x80, 0xff, 0x20, 0x40, 0x10};
                struct err e = {0};
                bytes.data[at] = (char)(bytes.data[at] ^ flips[k]);
                struct delta *other = read_back(&g, bytes.data, bytes.len, &e);
                bytes.data[at] = (char)(bytes.data[at] ^ flips[k]);
                refused += !other;
                nonfinite += !other && e.code == ERR_NONFINITE;
                if (!other) continue;
                taken++;
                assert_int_equal(other->n_parts, 1);
                const struct tensor *t = &g.model->tensors[other->parts[0].tensor];
                assert_true(isfinite(delta_norm(&other->parts[0], t->rows, t->cols)));
                delta_free(other);
            }
        buf_release(&bytes);
        delta_free(d);
    }
    assert_true(refused > 500 && nonfinite > 0 && taken > 500);
    golden_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes_for_all_flags),
        cmocka_unit_test(test_close_to_float64),
        cmocka_unit_test(test_subtraction_would_not_do),
        cmocka_unit_test(test_nonfinite_is_refused),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_layout),
        cmocka_unit_test(test_many_parts),
        cmocka_unit_test(test_bad_headers),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_flipped_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
