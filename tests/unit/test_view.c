/* Views: what they share, what they copy, and that history rebuilt is history to the last bit. */
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/file/safetensors.h"
#include "core/view.h"
#include "support/golden.h"
#include "support/numbers.h"

static size_t tensor_of(const struct golden *g, enum role role, uint32_t layer)
{
    size_t t;
    assert_true(model_role(g->model, role, layer, &t));
    return t;
}

static struct delta *random_delta(const struct golden *g, size_t tensor, uint32_t rank, uint64_t *seed)
{
    struct err e = {0};
    const struct tensor *t = &g->model->tensors[tensor];
    float *a = random_floats(seed, t->n_elements, 0.1), *b = random_floats(seed, (size_t)(rank + 1) * t->cols, 0.1);
    struct delta *d = rank && t->rows >= rank ? delta_new_lowrank(g->model, tensor, rank, a, b, &e) : delta_new_dense(g->model, tensor, a, &e);
    must(d, e);
    free(a), free(b);
    return d;
}

static struct view *with_delta(struct view *parent, const struct delta *d)
{
    struct err e = {0};
    struct view *v = view_with_delta(parent, d, &e);
    must(v, e);
    return v;
}

static void append(void *ctx, const void *bytes, size_t n) { buf_put(ctx, bytes, n); }

/* Every tensor's digest bytes, one after the other. */
static struct buf all_bytes(const struct view *v)
{
    struct buf b = {0};
    for (size_t t = 0; t < view_model(v)->n_tensors; t++) view_tensor_bytes(v, t, append, &b);
    assert_false(b.failed);
    return b;
}

static bool same(const struct buf *a, const struct view *v)
{
    struct buf b = all_bytes(v);
    bool equal = a->len == b.len && memcmp(a->data, b.data, b.len) == 0;
    buf_release(&b);
    return equal;
}

/* ---- sharing ----------------------------------------------------------------------------------- */

static void test_base_is_the_model(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    assert_true(view_model(g.view) == g.model);
    assert_int_equal(view_overlay_bytes(g.view), 0);
    for (size_t t = 0; t < g.model->n_tensors; t++) {
        assert_false(view_changes(g.view, t));
        assert_true(view_matrix(g.view, t).data == g.model->tensors[t].memory.data);
    }
    for (uint32_t l = 0; l < g.model->arch.n_layers; l++) assert_true(view_same_layer(g.view, g.view, l));
    assert_true(view_head(g.view).part[0].w.data == view_embed(g.view).data); /* tied */
    golden_close(&g);
}

/* Matrices that follow each other in memory are one product; a changed one goes to memory of its own
 * and its neighbours stay where they are. */
static void test_one_tensor_copied(void **state)
{
    (void)state;
    static const struct { enum role changed; unsigned qkv, gate_up; } rows[] = {
        {ROLE_GATE, 1, 2}, {ROLE_UP, 1, 2}, {ROLE_Q, 2, 1}, {ROLE_K, 3, 1}, {ROLE_V, 2, 1}, {ROLE_DOWN, 1, 1},
        {ROLE_O, 1, 1}, {ROLE_MLP_NORM, 1, 1}};
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t t = tensor_of(&g, rows[i].changed, 1);
        const struct tensor *info = &g.model->tensors[t];
        struct delta *d = random_delta(&g, t, 0, &seed);
        struct view *v = with_delta(g.view, d);
        struct layer_weights now = view_layer(v, 1);
        assert_int_equal(view_overlay_bytes(v), info->n_elements * sizeof(float));
        for (size_t k = 0; k < g.model->n_tensors; k++) {
            assert_int_equal(view_changes(v, k), k == t);
            assert_int_equal(held_floats(v, k) == held_floats(g.view, k), k != t);
        }
        for (size_t k = 0; k < info->n_elements; k++)
            assert_true(held_floats(v, t)[k] == held_floats(g.view, t)[k] + d->parts[0].a[k]);
        assert_int_equal(now.qkv.n_parts, rows[i].qkv);
        assert_int_equal(now.gate_up.n_parts, rows[i].gate_up);
        const struct arch *a = &g.model->arch;
        assert_int_equal(now.qkv.out, (a->n_heads + 2 * a->n_kv_heads) * a->d_head);
        assert_int_equal(now.gate_up.out, 2 * a->d_mlp);
        assert_true(view_same_layer(v, g.view, 0) && !view_same_layer(v, g.view, 1));
        view_drop(v);
        delta_free(d);
    }
    golden_close(&g);
}

static void test_children_share(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint64_t seed = 2;
    size_t down = tensor_of(&g, ROLE_DOWN, 0), gate = tensor_of(&g, ROLE_GATE, 1);
    struct delta *first = random_delta(&g, down, 0, &seed), *second = random_delta(&g, gate, 2, &seed);
    struct view *a = with_delta(g.view, first), *b = with_delta(a, second);
    assert_true(held_floats(b, down) == held_floats(a, down));
    assert_true(held_floats(b, gate) != held_floats(a, gate));
    assert_true(view_changes(b, down) && view_changes(b, gate) && !view_changes(a, gate));
    assert_int_equal(view_overlay_bytes(b), view_overlay_bytes(a) + 37u * 30 * sizeof(float));
    assert_true(view_same_layer(a, b, 0) && !view_same_layer(a, b, 1));
    const float *data = held_floats(a, down);
    float kept = data[5];
    view_drop(view_retain(a));
    view_drop(a); /* the child keeps what it shares */
    assert_true(held_floats(b, down) == data && data[5] == kept);
    view_drop(b);
    delta_free(first), delta_free(second);
    golden_close(&g);
}

/* The last to go may be a view: it holds the model. */
static void test_views_hold_the_model(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    uint64_t seed = 3;
    struct delta *d = random_delta(&g, tensor_of(&g, ROLE_DOWN, 0), 0, &seed);
    struct view *v = with_delta(g.view, d);
    float first = held_floats(v, 0)[0];
    golden_close(&g);
    assert_true(held_floats(v, 0)[0] == first && view_model(v)->arch.n_layers == 3);
    view_drop(v);
    delta_free(d);
}

/* ---- history ----------------------------------------------------------------------------------- */

/* Two hundred edits and rollbacks at random: wherever a rollback lands, the bytes are those of the
 * first time; rebuilt in one go from the base they are the same again. */
static void test_two_hundred_edits_and_rollbacks(void **state)
{
    (void)state;
    enum { STEPS = 200, MOST = 24 };
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    uint64_t seed = 4;
    struct view *at[MOST + 1] = {view_retain(g.view)};
    struct delta *by[MOST + 1] = {NULL};
    struct buf bytes[MOST + 1] = {all_bytes(g.view)};
    size_t n = 0, rollbacks = 0;
    for (int step = 0; step < STEPS; step++) {
        if (n == MOST || (n && below(&seed, 3) == 0)) {
            size_t to = below(&seed, (uint32_t)n);
            struct view *rebuilt = view_retain(g.view);
            for (size_t i = 1; i <= to; i++) {
                struct view *next = with_delta(rebuilt, by[i]);
                view_drop(rebuilt);
                rebuilt = next;
            }
            assert_true(same(&bytes[to], rebuilt) && same(&bytes[to], at[to]));
            for (size_t i = to + 1; i <= n; i++) view_drop(at[i]), delta_free(by[i]), buf_release(&bytes[i]);
            view_drop(at[to]);
            at[to] = rebuilt;
            n = to;
            rollbacks++;
            continue;
        }
        n++;
        by[n] = random_delta(&g, below(&seed, (uint32_t)g.model->n_tensors), below(&seed, 3), &seed);
        at[n] = with_delta(at[n - 1], by[n]);
        bytes[n] = all_bytes(at[n]);
        assert_false(same(&bytes[n - 1], at[n]));
    }
    assert_true(rollbacks > 30);
    assert_true(same(&bytes[0], g.view)); /* and the base never moved */
    for (size_t i = 0; i <= n; i++) {
        view_drop(at[i]), buf_release(&bytes[i]);
        if (i) delta_free(by[i]);
    }
    golden_close(&g);
}

/* Restoring stored tensors instead of replaying: the same bytes. */
static void test_restored_from_objects(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_untied_odd", NULL);
    struct err e = {0};
    uint64_t seed = 5;
    size_t t[2] = {tensor_of(&g, ROLE_UP, 0), tensor_of(&g, ROLE_K, 1)};
    struct delta *a = random_delta(&g, t[0], 0, &seed), *b = random_delta(&g, t[1], 1, &seed);
    struct view *one = with_delta(g.view, a), *two = with_delta(one, b);
    const float *data[2] = {held_floats(two, t[0]), held_floats(two, t[1])};
    struct view *restored = view_with_tensors(g.view, t, data, 2, &e);
    must(restored, e);
    assert_true(held_floats(restored, t[0]) != data[0]); /* copied */
    struct buf want = all_bytes(two);
    assert_true(same(&want, restored));
    for (size_t k = 0; k < g.model->n_tensors; k++) assert_int_equal(view_changes(restored, k), view_changes(two, k));
    buf_release(&want);
    view_drop(restored), view_drop(two), view_drop(one);
    delta_free(a), delta_free(b);
    golden_close(&g);
}

/* A change that leaves the range of float32 is refused; the parent is as it was. */
static void test_overflow_is_refused(void **state)
{
    (void)state;
    struct golden g;
    golden_open(&g, "gqa_tied", NULL);
    struct err e = {0};
    size_t t = tensor_of(&g, ROLE_DOWN, 0), n = g.model->tensors[t].n_elements;
    float *huge = calloc(n, sizeof *huge);
    huge[7] = FLT_MAX;
    struct delta *d = delta_new_dense(g.model, t, huge, &e);
    must(d, e);
    struct buf before = all_bytes(g.view);
    struct view *once = with_delta(g.view, d); /* a weight of 0.1 is below half an ulp of this */
    assert_null(view_with_delta(once, d, &e));
    assert_int_equal(e.code, ERR_NONFINITE);
    assert_non_null(strstr(e.text, g.model->tensors[t].name));
    assert_true(same(&before, g.view));
    view_drop(once);
    buf_release(&before);
    delta_free(d);
    free(huge);
    golden_close(&g);
}

/* ---- what a digest counts ---------------------------------------------------------------------- */

/* Against the raw bytes of the file: 16-bit tensors keep their type until a delta touches them. */
static void check_stored_bytes(const char *model, const char *file, enum dtype type)
{
    struct golden g;
    struct err e = {0};
    struct infile f;
    struct tensor_list list = {0};
    struct arena arena;
    char path[256];
    uint64_t seed = 6;
    size_t compared = 0;
    golden_open(&g, model, NULL);
    arena_init(&arena, 0);
    (void)snprintf(path, sizeof path, "tests/golden/tiny/%s/%s", model, file);
    must(infile_open(&f, path, &e) && safetensors_read(&f, 0, &list, &arena, &e) && tensor_list_seal(&list, &e), e);
    for (size_t t = 0; t < g.model->n_tensors; t++) {
        const struct file_tensor *stored = tensor_list_find(&list, g.model->tensors[t].name);
        if (!stored) continue; /* in another shard */
        struct buf b = {0};
        char *raw = malloc(stored->n_bytes);
        must(infile_read(&f, stored->offset, raw, stored->n_bytes, &e), e);
        assert_int_equal(view_tensor_type(g.view, t), type);
        view_tensor_bytes(g.view, t, append, &b);
        assert_int_equal(b.len, stored->n_bytes);
        assert_memory_equal(b.data, raw, b.len);
        buf_release(&b);
        struct delta *d = random_delta(&g, t, 0, &seed);
        struct view *v = with_delta(g.view, d);
        assert_int_equal(view_tensor_type(v, t), DTYPE_F32);
        view_tensor_bytes(v, t, append, &b);
        assert_int_equal(b.len, g.model->tensors[t].n_elements * sizeof(float));
        assert_memory_equal(b.data, held_floats(v, t), b.len);
        buf_release(&b);
        view_drop(v);
        delta_free(d);
        free(raw);
        compared++;
    }
    assert_true(compared > 3);
    infile_close(&f);
    tensor_list_release(&list);
    arena_release(&arena);
    golden_close(&g);
}

static void test_stored_types(void **state)
{
    (void)state;
    check_stored_bytes("wide_head", "model.safetensors", DTYPE_F16);
    check_stored_bytes("mha_bf16", "model-00002-of-00003.safetensors", DTYPE_BF16);
    check_stored_bytes("gqa_untied_odd", "model.safetensors", DTYPE_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_is_the_model),
        cmocka_unit_test(test_one_tensor_copied),
        cmocka_unit_test(test_children_share),
        cmocka_unit_test(test_views_hold_the_model),
        cmocka_unit_test(test_two_hundred_edits_and_rollbacks),
        cmocka_unit_test(test_restored_from_objects),
        cmocka_unit_test(test_overflow_is_refused),
        cmocka_unit_test(test_stored_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
