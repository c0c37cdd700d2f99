#include "panel.h"

#include <string.h>

#include "core/head.h"

static bool needs_vocabulary(const struct metric *m, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (metric_needs_vocab(m[i].kind)) return true;
    return false;
}

static size_t listed(const struct metric *m, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++) total += m[i].n_answer + m[i].n_foil;
    return total;
}

void panel_plan(const struct arch *a, const struct metric *metric, size_t n_metrics, struct plan *p)
{
    size_t ids = listed(metric, n_metrics), wide = needs_vocabulary(metric, n_metrics) ? a->d_vocab : ids;
    plan_add(p, NEED_LOGITS, mem_floats_bytes(PANEL_ROWS * wide));
    plan_add(p, NEED_SCRATCH, mem_floats_bytes(plan_times(ids, a->d_model)));
}

double panel_flops(const struct arch *a, const struct metric *metric, size_t n_metrics)
{
    return 2.0 * a->d_model * (double)(needs_vocabulary(metric, n_metrics) ? a->d_vocab : listed(metric, n_metrics));
}

static void put_ids(const struct panel *p, uint32_t *out)
{
    for (size_t i = 0; i < p->n_metrics; i++) {
        const struct metric *m = &p->metric[i];
        for (size_t k = 0; k < m->n_answer; k++) *out++ = m->answer[k];
        for (size_t k = 0; k < m->n_foil; k++) *out++ = m->foil[k];
    }
}

/* Of one row x: its logits of all the vocabulary, or of the listed ids only. */
static void row_values(const struct panel *p, const float *x, const float *logits, bool whole, double *out)
{
    const uint32_t V = view_model(p->view)->arch.d_vocab;
    for (size_t i = 0; i < p->n_metrics; i++) {
        const struct metric *m = &p->metric[i];
        if (whole || m->kind == METRIC_PROJECTION)
            out[i] = metric_of_row(m, x, view_model(p->view)->arch.d_model, logits, V, p->reference);
        else
            out[i] = logit_diff(logits, m->n_answer, metric_needs_foil(m->kind) ? m->n_foil : 0);
        if (!whole) logits += m->n_answer + m->n_foil;
    }
}

bool panel_read(const struct panel *p, struct session *s, const float *x, size_t n, double *out, struct err *e)
{
    const struct arch *a = &view_model(p->view)->arch;
    const size_t ids = listed(p->metric, p->n_metrics);
    const bool whole = needs_vocabulary(p->metric, p->n_metrics);
    const size_t width = whole ? a->d_vocab : ids, d = a->d_model;
    uint32_t *id = mem_take(ids + 1, sizeof *id, e);
    float *logits = id ? mem_floats((n < PANEL_ROWS ? n : PANEL_ROWS) * width + 1, e) : NULL;
    bool ok = logits != NULL;
    if (ok) put_ids(p, id);
    for (size_t at = 0; ok && at < n; at += PANEL_ROWS) {
        size_t k = n - at < PANEL_ROWS ? n - at : PANEL_ROWS;
        ok = whole ? unembed(s, p->view, x + at * d, k, NULL, logits, e)
                   : width == 0 || unembed_ids(s, p->view, x + at * d, k, id, width, logits, e);
        for (size_t i = 0; ok && i < k; i++)
            row_values(p, x + (at + i) * d, logits + i * width, whole, out + (at + i) * p->n_metrics);
    }
    mem_drop(id);
    mem_drop(logits);
    return ok;
}

bool panel_reference(struct view *v, struct session *s, const float *x, double *out, struct err *e)
{
    const uint32_t V = view_model(v)->arch.d_vocab;
    float *logits = mem_floats(V, e);
    bool ok = logits && unembed(s, v, x, 1, NULL, logits, e);
    if (ok) log_softmax(logits, V, out);
    mem_drop(logits);
    return ok;
}
