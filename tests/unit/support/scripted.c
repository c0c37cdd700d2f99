#include "scripted.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static float *blank(const struct golden *g, enum role role, uint32_t layer, size_t *tensor)
{
    assert_true(model_role(g->model, role, layer, tensor));
    float *w = calloc(g->model->tensors[*tensor].n_elements, sizeof *w);
    assert_non_null(w);
    return w;
}

static size_t dimension_of(const struct line *line, size_t i)
{
    size_t d = 0;
    for (size_t k = 0; k <= i; k++) {
        bool seen = false;
        for (size_t j = 0; j < k; j++) seen = seen || line[j].from == line[k].from;
        if (line[k].from == line[i].from) return d;
        d += !seen;
    }
    return d;
}

struct view *scripted_view(const struct golden *g, const struct line *line, size_t n)
{
    struct err e = {0};
    const struct arch *a = &g->model->arch;
    size_t tensor[64], k = 0, d = a->d_model;
    float *w[64];
    assert_false(a->tied_head);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        w[k] = blank(g, ROLE_O, l, &tensor[k]), k++;
        w[k] = blank(g, ROLE_DOWN, l, &tensor[k]), k++;
    }
    float *gain = w[k] = blank(g, ROLE_FINAL_NORM, 0, &tensor[k]);
    k++;
    float *embed = w[k] = blank(g, ROLE_EMBED, 0, &tensor[k]);
    k++;
    float *head = w[k] = blank(g, ROLE_HEAD, 0, &tensor[k]);
    k++;
    for (size_t i = 0; i < d; i++) gain[i] = 1;
    /* a unit vector leaves the last norm as 1 / sqrt(1/d + eps) */
    double unit = 1 / sqrt(1 / (double)d + (double)a->norm_eps);
    for (size_t i = 0; i < n; i++) {
        size_t at = dimension_of(line, i);
        assert_true(at < d);
        embed[line[i].from * d + at] = 1;
        head[line[i].to * d + at] = (float)(line[i].weight / unit);
    }
    struct view *v = view_with_tensors(g->view, tensor, (const float *const *)w, k, &e);
    must(v, e);
    while (k) free(w[--k]);
    return v;
}

uint32_t byte_token(const struct golden *g, char byte)
{
    for (uint32_t id = 0; id < tokenizer_size(g->model->tokenizer); id++) {
        size_t len;
        const char *piece = tokenizer_piece(g->model->tokenizer, id, &len);
        if (len == 1 && piece[0] == byte) return id;
    }
    fail_msg("no token for byte %d", byte);
    return 0;
}

double scripted_nll(const struct golden *g, double weight, bool right)
{
    return log(exp(weight) + (double)g->model->arch.d_vocab - 1) - (right ? weight : 0);
}
