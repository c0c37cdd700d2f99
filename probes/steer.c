#include "steer.h"

#include <math.h>

struct steer {
    struct steer_request q;
    struct trace *trace;
    double norm;
};

void steer_plan(const struct steer_request *q, int threads, struct plan *p)
{
    trace_plan(&view_model(q->view)->arch, q->in, q->n, q->read, q->n, NULL, 0, threads, p);
    plan_add(p, NEED_CAPTURES, plan_times(q->width, sizeof(double)));
}

struct steer *steer_new(const struct steer_request *q, struct err *e)
{
    struct steer *v = mem_new(sizeof *v);
    v->q = *q;
    v->trace = trace_new(q->view, q->in, q->n, q->read, q->n, NULL, 0, e);
    if (v->trace) return v;
    steer_free(v);
    return NULL;
}

void steer_free(struct steer *v)
{
    if (!v) return;
    trace_free(v->trace);
    mem_drop(v);
}

static bool combine(struct steer *v, struct err *e)
{
    const struct steer_request *q = &v->q;
    double *sum = mem_take(q->width, sizeof *sum, e), square = 0;
    if (!sum) return false;
    for (size_t k = 0; k < q->n; k++) {
        size_t n, rows = q->read[k].n_pos;
        const float *x = trace_values(v->trace, k, &n);
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < q->width; i++) sum[i] += q->share[k] / (double)rows * (double)x[r * q->width + i];
    }
    for (size_t i = 0; i < q->width; i++) {
        q->out[i] = (float)sum[i];
        square += sum[i] * sum[i];
    }
    v->norm = sqrt(square);
    mem_drop(sum);
    return true;
}

enum step steer_step(struct steer *v, struct session *s, struct err *e)
{
    enum step step = trace_step(v->trace, s, e);
    return step != STEP_DONE ? step : combine(v, e) ? STEP_DONE : STEP_FAIL;
}

double steer_norm(const struct steer *v) { return v->norm; }
