#include "golden.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/head.h"
#include "core/run.h"

#include "core/kernel/blas.h"
#include "core/file/safetensors.h"

static void read_sequences(struct golden *g)
{
    size_t s = 0;
    for (const struct json *v = json_get(g->expected, "sequences")->child; v && s < 2; v = v->next, s++) {
        g->ids[s] = mem_new(v->len * sizeof(uint32_t));
        for (const struct json *id = v->child; id; id = id->next) g->ids[s][g->n[s]++] = (uint32_t)id->integer;
    }
}

static void open_below(struct golden *g, const char *folder, const char *name, const char *weights)
{
    struct err e = {0};
    char path[512];
    *g = (struct golden){.name = name};
    arena_init(&g->arena, 0);
    must(blas_start(2, &e), e);
    (void)snprintf(path, sizeof path, "%s/%s%s%s", folder, name, weights ? "/" : "", weights ? weights : "");
    g->model = model_open(path, NULL, NULL, NULL, &e);
    must(g->model, e);
    g->view = view_base(g->model);
    g->session = session_new(1, &e);
    must(g->session, e);
    (void)snprintf(path, sizeof path, "%s/%s/expected.json", folder, name);
    g->expected = golden_json(path, &g->arena);
    (void)snprintf(path, sizeof path, "%s/%s/expected.safetensors", folder, name);
    must(infile_open(&g->file, path, &e), e);
    must(safetensors_read(&g->file, 0, &g->list, &g->arena, &e), e);
    must(tensor_list_seal(&g->list, &e), e);
    read_sequences(g);
}

void golden_open(struct golden *g, const char *name, const char *weights)
{
    open_below(g, "tests/golden/tiny", name, weights);
}

void golden_open_family(struct golden *g, const char *name, const char *weights)
{
    open_below(g, "tests/golden/families", name, weights);
}

void golden_close(struct golden *g)
{
    mem_drop(g->ids[0]);
    mem_drop(g->ids[1]);
    infile_close(&g->file);
    tensor_list_release(&g->list);
    arena_release(&g->arena);
    session_free(g->session);
    view_drop(g->view);
    model_drop(g->model);
}

float *golden_tensor(const struct golden *g, const char *name, size_t *n)
{
    struct err e = {0};
    const struct file_tensor *t = tensor_list_find(&g->list, name);
    if (!t) return NULL;
    float *v = mem_floats(t->n_elements, &e);
    must(v && infile_read(&g->file, t->offset, v, t->n_bytes, &e), e);
    *n = t->n_elements;
    return v;
}

double relative_error(const float *got, const float *want, size_t n)
{
    double worst = 0, top = 0, off_squares = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - (double)want[i]);
        if (!(off <= worst)) worst = off; /* a NaN is the worst */
        if (fabs((double)want[i]) > top) top = fabs((double)want[i]);
        off_squares += off * off;
        squares += (double)want[i] * (double)want[i];
    }
    if (!(top > 0)) return worst;
    double of_norm = sqrt(off_squares / squares);
    return worst / top > of_norm ? worst / top : of_norm;
}

const float *held_floats(const struct view *v, size_t tensor)
{
    const struct matrix w = view_matrix(v, tensor);
    assert_int_equal(w.type, DTYPE_F32);
    return w.data;
}

size_t group_offset(const struct model *m, size_t tensor)
{
    const struct tensor *t = &m->tensors[tensor];
    size_t at = 0;
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct tensor *o = &m->tensors[i];
        if (o->layer == t->layer && o->group == t->group && o->role < t->role) at += o->n_elements;
    }
    return at;
}

size_t golden_loss(const struct golden *g, uint32_t *rows, uint32_t *targets, double *value)
{
    const struct json *loss = json_get(g->expected, "loss");
    size_t n = 0;
    const struct json *t = json_get(loss, "targets")->child;
    for (const struct json *r = json_get(loss, "rows")->child; r; r = r->next, t = t->next, n++) {
        rows[n] = (uint32_t)r->integer;
        targets[n] = (uint32_t)t->integer;
    }
    *value = json_get(loss, "value")->number;
    return n;
}

struct view *view_plus(const struct golden *g, struct view *parent, size_t tensor, const float *change)
{
    struct err e = {0};
    struct delta *d = delta_new_dense(g->model, tensor, change, &e);
    must(d, e);
    struct view *v = view_with_delta(parent, d, &e);
    must(v, e);
    delta_free(d);
    return v;
}

const struct json *golden_json(const char *path, struct arena *a)
{
    struct err e = {0};
    size_t len;
    char *text = infile_whole(path, 1 << 24, &len, &e);
    must(text, e);
    const struct json *j = json_parse(text, len, a, &e);
    if (!j) fail_msg("%s: %s", path, e.text);
    mem_drop(text);
    return j;
}

float *floats(size_t n)
{
    struct err e = {0};
    float *x = mem_take(n + 1, sizeof *x, &e);
    must(x, e);
    return x;
}

float *logits_at(const struct golden *g, struct view *v, const uint32_t *ids, uint32_t n, uint32_t pos, struct taps *taps)
{
    struct err e = {0};
    struct run_input in = {.ids = ids, .n = n, .want = &pos, .n_want = 1};
    struct run *r = run_new(v, &in, 1, taps, &e);
    must(r && STEP_ALL(run_step(r, g->session, &e)), e);
    float *logits = floats(g->model->arch.d_vocab);
    must(unembed(g->session, v, run_final(r, 0), 1, NULL, logits, &e), e);
    run_free(r);
    return logits;
}

struct arena golden_arena;

int golden_arena_init(void **state)
{
    (void)state;
    arena_init(&golden_arena, 0);
    return 0;
}

int golden_arena_release(void **state)
{
    (void)state;
    arena_release(&golden_arena);
    return 0;
}
