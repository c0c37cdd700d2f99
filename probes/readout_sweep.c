#include "readout_sweep.h"

#include <math.h>
#include <string.h>

struct readout_sweep {
    struct readout_sweep_request q;
    float **x;                   /* [sites][row][cells · width] */
    struct readout_scores *score; /* [cells] */
    size_t *order;               /* [cells] the best first, when all are known */
    struct readout_kept *kept;
    /* rows in hand */
    struct trace *trace;
    struct trace_input *in;
    struct trace_place *read;
    size_t from, to;
    /* cells in hand */
    size_t cell, refitted;
    struct readout_cv *cv;
    struct readout_fit *fit;
    uint32_t *all;               /* [n] 0, 1, … */
};

size_t readout_cells(const struct readout_sweep_request *q)
{
    size_t n = 0;
    for (size_t i = 0; i < q->n_sites; i++) n += q->site[i].cells;
    return n;
}

void readout_cell(const struct readout_sweep_request *q, size_t cell, size_t *site, uint32_t *part)
{
    for (*site = 0; cell >= q->site[*site].cells; ++*site) cell -= q->site[*site].cells;
    *part = (uint32_t)cell;
}

static size_t width(const struct readout_site *s) { return (size_t)s->cells * s->width; }

/* Rows run together: about one chunk of tokens. */
static size_t batch(const struct readout_sweep_request *q, size_t from)
{
    size_t to = from, tokens = 0;
    while (to < q->split->n && (to == from || tokens + q->row[to].n <= RUN_ROWS)) tokens += q->row[to++].n;
    return to;
}

static void fill(const struct readout_sweep_request *q, size_t from, size_t to, struct trace_input *in, struct trace_place *read)
{
    for (size_t i = from; i < to; i++) {
        const struct readout_row *r = &q->row[i];
        in[i - from] = (struct trace_input){.ids = r->ids, .n = r->n};
        for (size_t k = 0; k < q->n_sites; k++)
            read[(i - from) * q->n_sites + k] =
                (struct trace_place){.input = (uint32_t)(i - from), .site = q->site[k].site, .pos = r->pos, .n_pos = r->n_pos};
    }
}

void readout_sweep_plan(const struct readout_sweep_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view)->arch;
    size_t n = q->split->n, cells = readout_cells(q), largest = 0;
    struct plan fits = {0}, runs = {0}, one;
    for (size_t from = 0, to; from < n; from = to) {
        to = batch(q, from);
        struct trace_input *in = mem_new((to - from) * sizeof *in);
        struct trace_place *read = mem_new((to - from) * q->n_sites * sizeof *read);
        one = (struct plan){0};
        fill(q, from, to, in, read);
        trace_plan(a, in, to - from, read, (to - from) * q->n_sites, NULL, 0, threads, &one);
        plan_add(&one, NEED_REQUEST, plan_times(to - from, sizeof *in + q->n_sites * (sizeof *read + 2 * sizeof(struct tap))));
        plan_peak(&runs, &one);
        mem_drop(in);
        mem_drop(read);
    }
    for (size_t i = 0; i < q->n_sites; i++) {
        plan_add(p, NEED_CAPTURES, mem_floats_bytes(plan_times(n, width(&q->site[i])) + 1));
        if (q->site[i].width > largest) largest = q->site[i].width;
    }
    readout_cv_plan(q->spec, n, largest, q->split->classes, &fits);
    plan_peak(&runs, &fits);
    plan_with(p, &runs);
    size_t inner = q->spec->kind == READOUT_MLP ? q->spec->hidden : 0, outputs = q->split->classes;
    plan_add(p, NEED_TRAINING, plan_times(q->n_kept, plan_times(largest + 2, (inner + outputs + 3) * sizeof(double))));
    plan_add(p, NEED_TRAINING, plan_times(cells, sizeof(struct readout_scores) + sizeof(size_t)));
    plan_add(p, NEED_TRAINING, plan_times(n, 3 * sizeof(uint32_t)));
}

struct readout_sweep *readout_sweep_new(const struct readout_sweep_request *q, struct err *e)
{
    struct readout_sweep *w = mem_new(sizeof *w);
    size_t n = q->split->n, cells = readout_cells(q), most = 0;
    w->q = *q;
    for (size_t from = 0, to; from < n; from = to) {
        to = batch(q, from);
        if (to - from > most) most = to - from;
    }
    w->x = mem_take(q->n_sites, sizeof *w->x, e);
    w->score = w->x ? mem_take(cells, sizeof *w->score, e) : NULL;
    w->order = w->score ? mem_take(cells, sizeof *w->order, e) : NULL;
    w->kept = w->order ? mem_take(q->n_kept, sizeof *w->kept, e) : NULL;
    w->in = w->kept ? mem_take(most, sizeof *w->in, e) : NULL;
    w->read = w->in ? mem_take(most * q->n_sites, sizeof *w->read, e) : NULL;
    w->all = w->read ? mem_take(n, sizeof *w->all, e) : NULL;
    bool ok = w->all != NULL;
    for (size_t i = 0; ok && i < q->n_sites; i++) ok = (w->x[i] = mem_floats(n * width(&q->site[i]) + 1, e)) != NULL;
    for (uint32_t i = 0; ok && i < n; i++) w->all[i] = i;
    if (ok) return w;
    readout_sweep_free(w);
    return NULL;
}

void readout_sweep_free(struct readout_sweep *w)
{
    if (!w) return;
    trace_free(w->trace);
    readout_cv_free(w->cv);
    readout_fit_free(w->fit);
    for (size_t i = 0; w->x && i < w->q.n_sites; i++) mem_drop(w->x[i]);
    for (size_t i = 0; w->kept && i < w->q.n_kept; i++) {
        readout_free(w->kept[i].readout);
        mem_drop(w->kept[i].sigma);
    }
    void *const all[] = {w->x, w->score, w->order, w->kept, w->in, w->read, w->all};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_drop(all[i]);
    mem_drop(w);
}

/* ---- features ------------------------------------------------------------------------------------ */

static void take_features(struct readout_sweep *w)
{
    const struct readout_sweep_request *q = &w->q;
    for (size_t i = w->from; i < w->to; i++)
        for (size_t k = 0; k < q->n_sites; k++) {
            size_t n, d = width(&q->site[k]), rows = q->row[i].n_pos;
            const float *v = trace_values(w->trace, (i - w->from) * q->n_sites + k, &n);
            float *x = w->x[k] + i * d;
            for (size_t j = 0; j < d; j++) {
                double sum = 0;
                for (size_t r = 0; r < rows; r++) sum += (double)v[r * d + j];
                x[j] = (float)(sum / (double)rows);
            }
        }
}

static bool all_finite(const struct readout_sweep *w, struct err *e)
{
    for (size_t k = 0; k < w->q.n_sites; k++)
        for (size_t i = w->from * width(&w->q.site[k]); i < w->to * width(&w->q.site[k]); i++)
            if (!isfinite(w->x[k][i])) {
                char name[64];
                site_text(w->q.site[k].site, name);
                return err_set(e, ERR_NONFINITE, "%s of row %zu has values that are not finite", name, i / width(&w->q.site[k]));
            }
    return true;
}

static enum step collect(struct readout_sweep *w, struct session *s, struct err *e)
{
    const struct readout_sweep_request *q = &w->q;
    if (!w->trace) {
        w->to = batch(q, w->from);
        fill(q, w->from, w->to, w->in, w->read);
        w->trace = trace_new(q->view, w->in, w->to - w->from, w->read, (w->to - w->from) * q->n_sites, NULL, 0, e);
        if (!w->trace) return STEP_FAIL;
    }
    enum step step = trace_step(w->trace, s, e);
    if (step != STEP_DONE) return step;
    take_features(w);
    trace_free(w->trace);
    w->trace = NULL;
    if (!all_finite(w, e)) return STEP_FAIL;
    w->from = w->to;
    return STEP_MORE;
}

/* ---- cells ---------------------------------------------------------------------------------------- */

static bool better(const struct readout_scores *a, const struct readout_scores *b)
{
    return a->accuracy > b->accuracy || (a->accuracy == b->accuracy && a->auroc > b->auroc);
}

static void rank(struct readout_sweep *w)
{
    size_t cells = readout_cells(&w->q);
    for (size_t i = 0; i < cells; i++) {
        size_t at = i;
        for (; at > 0 && better(&w->score[i], &w->score[w->order[at - 1]]); at--) w->order[at] = w->order[at - 1];
        w->order[at] = i;
    }
}

static enum step validate(struct readout_sweep *w, struct session *s, struct err *e)
{
    const struct readout_sweep_request *q = &w->q;
    size_t site;
    uint32_t part;
    readout_cell(q, w->cell, &site, &part);
    const struct readout_site *at = &q->site[site];
    if (!w->cv) w->cv = readout_cv_new(q->spec, q->split, w->x[site] + (size_t)part * at->width, width(at), at->width, e);
    enum step step = w->cv ? readout_cv_step(w->cv, s, e) : STEP_FAIL;
    if (step != STEP_DONE) return step;
    w->score[w->cell++] = *readout_cv_scores(w->cv);
    readout_cv_free(w->cv);
    w->cv = NULL;
    if (w->cell == readout_cells(q)) rank(w);
    return STEP_MORE;
}

/* Of the rows' projections on each class's direction. */
static bool spread(const struct readout *r, const float *x, size_t ld, size_t n, double *sigma, struct err *e)
{
    double *u = mem_take(r->d, sizeof *u, e);
    for (uint32_t c = 0; u && c < r->outputs; c++) {
        double sum = 0, square = 0, first = 0;
        sigma[c] = (double)NAN;
        if (!readout_direction(r, r->outputs == 1 ? 1 : c, u)) continue;
        for (size_t i = 0; i < n; i++) {
            double p = 0;
            for (size_t k = 0; k < r->d; k++) p += u[k] * (double)x[i * ld + k];
            if (i == 0) first = p; /* sums of what is left are exact enough */
            sum += p - first;
            square += (p - first) * (p - first);
        }
        double mean = sum / (double)n;
        sigma[c] = sqrt(fmax(0, square / (double)n - mean * mean));
    }
    mem_drop(u);
    return u != NULL;
}

static enum step refit(struct readout_sweep *w, struct session *s, struct err *e)
{
    const struct readout_sweep_request *q = &w->q;
    struct readout_kept *k = &w->kept[w->refitted];
    size_t site;
    uint32_t part;
    k->cell = q->kept ? q->kept[w->refitted] : w->order[w->refitted];
    readout_cell(q, k->cell, &site, &part);
    const struct readout_site *at = &q->site[site];
    const float *x = w->x[site] + (size_t)part * at->width;
    const struct readout_data data = {.x = x, .ld = width(at), .d = at->width, .label = q->split->label, .classes = q->split->classes,
                                      .row = w->all, .n = q->split->n};
    if (!w->fit) w->fit = readout_fit_new(q->spec, &data, e);
    enum step step = w->fit ? readout_fit_step(w->fit, s, e) : STEP_FAIL;
    if (step != STEP_DONE) return step;
    k->readout = readout_take(w->fit);
    readout_fit_free(w->fit);
    w->fit = NULL;
    k->sigma = mem_take(k->readout->outputs, sizeof *k->sigma, e);
    if (!k->sigma || !spread(k->readout, x, width(at), q->split->n, k->sigma, e)) return STEP_FAIL;
    w->refitted++;
    return w->refitted < q->n_kept ? STEP_MORE : STEP_DONE;
}

enum step readout_sweep_step(struct readout_sweep *w, struct session *s, struct err *e)
{
    if (w->from < w->q.split->n) return collect(w, s, e);
    if (w->cell < readout_cells(&w->q)) return validate(w, s, e);
    return refit(w, s, e);
}

void readout_sweep_progress(const struct readout_sweep *w, size_t *done, size_t *total)
{
    *done = w->from + w->cell + w->refitted;
    *total = w->q.split->n + readout_cells(&w->q) + w->q.n_kept;
}

const struct readout_scores *readout_sweep_scores(const struct readout_sweep *w) { return w->score; }
const struct readout_kept *readout_sweep_kept(const struct readout_sweep *w) { return w->kept; }
size_t readout_sweep_best(const struct readout_sweep *w) { return w->order[0]; }
