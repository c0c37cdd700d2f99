#include "linear.h"

#include <assert.h>

#include "core/kernel/blas.h"

/* In input-major layout a part's forward product is the other layout's backward one. */
static bool times(struct session *s, bool transposed, size_t rows, const float *a, size_t lda,
                  const struct matrix *w, float *out, size_t ldo, bool accumulate, struct err *e)
{
    return transposed ? matrix_nt(s->par, &s->matrix, rows, a, lda, w, out, ldo, accumulate, e)
                      : matrix_nn(s->par, &s->matrix, rows, a, lda, w, out, ldo, accumulate, e);
}

struct bias_job {
    const float *bias;
    float *y;
    size_t n, ldy;
};

static void bias_range(void *ctx, size_t from, size_t to, int thread)
{
    const struct bias_job *j = ctx;
    (void)thread;
    for (size_t r = from; r < to; r++)
        for (size_t i = 0; i < j->n; i++) j->y[r * j->ldy + i] += j->bias[i];
}

bool linear_forward(struct session *s, const struct linear *l, const float *x, size_t ldx, size_t rows,
                    float *y, size_t ldy, struct err *e)
{
    for (unsigned k = 0; k < l->n_parts; k++) {
        const struct linear_part *p = &l->part[k];
        if (!times(s, !l->input_major, rows, x, ldx, &p->w, y + p->first, ldy, false, e)) return false;
        struct bias_job j = {p->bias, y + p->first, p->n, ldy};
        if (p->bias) par_for(s->par, rows, bias_range, &j);
    }
    return true;
}

bool linear_backward(struct session *s, const struct linear *l, const float *dy, size_t lddy, size_t rows,
                     float *dx, size_t lddx, struct err *e)
{
    for (unsigned k = 0; k < l->n_parts; k++) {
        const struct linear_part *p = &l->part[k];
        if (!times(s, l->input_major, rows, dy + p->first, lddy, &p->w, dx, lddx, k > 0, e)) return false;
    }
    return true;
}

void linear_weight_grad(const struct linear *l, const float *dy, size_t lddy, const float *x, size_t ldx,
                        size_t rows, float *dw)
{
    if (l->input_major) gemm_tn(l->in, l->out, rows, x, ldx, dy, lddy, dw, l->out, 1.0f, true);
    else gemm_tn(l->out, l->in, rows, dy, lddy, x, ldx, dw, l->in, 1.0f, true);
}

void linear_bias_grad(const struct linear *l, const float *dy, size_t lddy, size_t rows, float *db)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < l->out; i++) db[i] += dy[r * lddy + i];
}

/* ---- some outputs, or some inputs, only --------------------------------------------------------- */

static const struct linear_part *part_with(const struct linear *l, uint32_t first, uint32_t n)
{
    unsigned k = 0;
    while (k + 1 < l->n_parts && first >= l->part[k].first + l->part[k].n) k++;
    assert(first + n <= l->part[k].first + l->part[k].n);
    return &l->part[k];
}

void linear_outputs(const struct linear *l, uint32_t first, uint32_t n, float *w)
{
    const struct linear_part *p = part_with(l, first, n);
    if (!l->input_major) {
        matrix_rows_widen(&p->w, first - p->first, n, w, l->in);
        return;
    }
    float *row = mem_new(p->w.cols * sizeof *row);
    for (uint32_t i = 0; i < l->in; i++) {
        matrix_rows_widen(&p->w, i, 1, row, p->w.cols);
        for (uint32_t k = 0; k < n; k++) w[k * l->in + i] = row[first - p->first + k];
    }
    mem_drop(row);
}

const float *linear_bias(const struct linear *l, uint32_t first, uint32_t n)
{
    const struct linear_part *p = part_with(l, first, n);
    return p->bias ? p->bias + (first - p->first) : NULL;
}

void linear_inputs(const struct linear *l, uint32_t first, uint32_t n, float *w)
{
    const struct matrix *m = &l->part[0].w;
    float *row = mem_new(m->cols * sizeof *row);
    assert(l->n_parts == 1);
    for (uint32_t i = 0; i < (l->input_major ? n : l->out); i++) {
        matrix_rows_widen(m, l->input_major ? first + i : i, 1, row, m->cols);
        if (l->input_major)
            for (uint32_t k = 0; k < l->out; k++) w[k * n + i] = row[k];
        else
            for (uint32_t k = 0; k < n; k++) w[i * n + k] = row[first + k];
    }
    mem_drop(row);
}
