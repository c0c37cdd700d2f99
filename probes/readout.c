#include "readout_int.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *word;
    bool likely;
} kinds[] = {
#define READOUT(name, word, likely) {word, likely},
#include "readout.def"
#undef READOUT
};

const char *readout_word(enum readout_kind k) { return kinds[k].word; }

bool readout_parse(const char *word, enum readout_kind *out)
{
    for (int k = 0; k < READOUT_KINDS; k++)
        if (strcmp(word, kinds[k].word) == 0) {
            *out = (enum readout_kind)k;
            return true;
        }
    return false;
}

bool readout_likely(const struct readout_spec *s)
{
    return kinds[s->kind].likely || (s->kind == READOUT_MASS_MEAN && s->whiten);
}

size_t readout_passes(size_t n, size_t d, size_t outputs)
{
    size_t each = 2 * n * d * outputs + 1, k = READOUT_STEP / each;
    return k ? k : 1;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The training rows, the readout, and the most that any kind holds besides. */
void readout_plan(const struct readout_spec *s, size_t n, size_t d, uint32_t classes, struct plan *p)
{
    enum { HISTORY = 26 }; /* vectors of L-BFGS */
    size_t outputs = classes == 2 ? 1 : classes, f64 = sizeof(double);
    size_t wide = plan_times(outputs + 2, d + 1);
    plan_add(p, NEED_TRAINING, plan_times(plan_times(n, d + outputs + classes + 2), f64));
    plan_add(p, NEED_TRAINING, plan_times(wide, f64));
    if (s->kind == READOUT_LOGISTIC || s->kind == READOUT_SPARSE) plan_add(p, NEED_TRAINING, plan_times(wide, HISTORY * f64));
    if (s->kind == READOUT_SPARSE) plan_add(p, NEED_TRAINING, plan_times(plan_times(n, s->k), f64));
    if (s->kind == READOUT_RIDGE || s->kind == READOUT_MASS_MEAN) {
        size_t side = s->lambda > 0 ? smaller(n, d) : d;
        plan_add(p, NEED_TRAINING, plan_times(plan_times(side, side), f64));
        plan_add(p, NEED_TRAINING, plan_times(plan_times(classes + 1, n + 2 * d), f64));
        plan_add(p, NEED_TRAINING, plan_times(plan_times(n, d), f64));
    }
    if (s->kind == READOUT_MLP) {
        plan_add(p, NEED_TRAINING, plan_times(plan_times(s->hidden, d + outputs + 2) + outputs + 2, 6 * f64));
        plan_add(p, NEED_TRAINING, plan_times(n, (d + 2 * s->hidden + 2 * outputs) * sizeof(float)));
    }
}

/* ---- the readout --------------------------------------------------------------------------------- */

void readout_free(struct readout *r)
{
    if (!r) return;
    void *const all[] = {r->mean, r->scale, r->w, r->b, r->w1, r->b1, r->feature};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mem_drop(all[i]);
    mem_drop(r);
}

struct readout *readout_new(const struct readout_spec *s, size_t d, uint32_t classes, struct err *e)
{
    struct readout *r = mem_new(sizeof *r);
    r->kind = s->kind;
    r->classes = classes;
    r->outputs = classes == 2 ? 1 : classes;
    r->d = d;
    r->hidden = s->kind == READOUT_MLP ? s->hidden : 0;
    r->converged = true;
    r->gradient = (double)NAN;
    size_t in = r->hidden ? r->hidden : d;
    r->mean = mem_take(d, sizeof *r->mean, e);
    r->scale = r->mean ? mem_take(d, sizeof *r->scale, e) : NULL;
    r->w = r->scale ? mem_take(r->outputs * in, sizeof *r->w, e) : NULL;
    r->b = r->w ? mem_take(r->outputs, sizeof *r->b, e) : NULL;
    bool ok = r->b != NULL;
    if (ok && r->hidden) {
        r->w1 = mem_take(r->hidden * d, sizeof *r->w1, e);
        r->b1 = r->w1 ? mem_take(r->hidden, sizeof *r->b1, e) : NULL;
        ok = r->b1 != NULL;
    }
    if (ok && s->kind == READOUT_SPARSE) {
        r->n_features = (uint32_t)smaller(s->k, d);
        r->feature = mem_take(r->n_features, sizeof *r->feature, e);
        ok = r->feature != NULL;
    }
    if (ok) return r;
    readout_free(r);
    return NULL;
}

static double dot(const double *w, const struct readout *r, const float *x)
{
    double s = 0;
    for (size_t i = 0; i < r->d; i++) s += w[i] * (((double)x[i] - r->mean[i]) / r->scale[i]);
    return s;
}

void readout_score(const struct readout *r, const float *x, double *score)
{
    memcpy(score, r->b, r->outputs * sizeof *score);
    if (!r->hidden) {
        for (uint32_t c = 0; c < r->outputs; c++) score[c] += dot(r->w + c * r->d, r, x);
        return;
    }
    for (uint32_t h = 0; h < r->hidden; h++) {
        double a = r->b1[h] + dot(r->w1 + h * r->d, r, x);
        for (uint32_t c = 0; a > 0 && c < r->outputs; c++) score[c] += r->w[c * r->hidden + h] * a;
    }
}

uint32_t readout_label(const struct readout *r, const double *score)
{
    uint32_t best = 0;
    if (r->outputs == 1) return score[0] > 0;
    for (uint32_t c = 1; c < r->outputs; c++)
        if (score[c] > score[best]) best = c;
    return best;
}

void readout_prob(const struct readout *r, const double *score, double *p)
{
    double most = score[0], sum = 0;
    if (r->outputs == 1) {
        p[1] = 1 / (1 + exp(-score[0]));
        p[0] = 1 / (1 + exp(score[0]));
        return;
    }
    for (uint32_t c = 1; c < r->outputs; c++) most = fmax(most, score[c]);
    for (uint32_t c = 0; c < r->outputs; c++) sum += p[c] = exp(score[c] - most);
    for (uint32_t c = 0; c < r->outputs; c++) p[c] /= sum;
}

bool readout_direction(const struct readout *r, uint32_t class, double *out)
{
    double square = 0;
    if (r->hidden) return false;
    for (size_t i = 0; i < r->d; i++) {
        double w = r->outputs == 1 ? (class ? r->w[i] : -r->w[i]) : r->w[class * r->d + i], mean = 0;
        for (uint32_t c = 0; r->outputs > 1 && c < r->outputs; c++) mean += r->w[c * r->d + i] / r->outputs;
        out[i] = (w - mean) / r->scale[i];
        square += out[i] * out[i];
    }
    for (size_t i = 0; i < r->d && square > 0; i++) out[i] /= sqrt(square);
    return square > 0;
}

/* ---- a fit --------------------------------------------------------------------------------------- */

static void standardise(struct readout_fit *f, const struct readout_data *q)
{
    struct readout *r = f->out;
    const double n = (double)q->n;
    for (size_t k = 0; k < q->n; k++)
        for (size_t i = 0; i < q->d; i++) r->mean[i] += (double)q->x[q->row[k] * q->ld + i] / n;
    for (size_t k = 0; k < q->n; k++)
        for (size_t i = 0; i < q->d; i++) {
            double c = (double)q->x[q->row[k] * q->ld + i] - r->mean[i];
            r->scale[i] += c * c / n;
        }
    for (size_t i = 0; i < q->d; i++) {
        double sd = sqrt(r->scale[i]);
        r->scale[i] = f->spec.raw || !(sd > 1e-12 * (1 + fabs(r->mean[i]))) ? 1 : sd;
        if (f->spec.raw) r->mean[i] = 0;
    }
    for (size_t k = 0; k < q->n; k++)
        for (size_t i = 0; i < q->d; i++)
            f->z[k * q->d + i] = ((double)q->x[q->row[k] * q->ld + i] - r->mean[i]) / r->scale[i];
}

static bool two_classes(struct readout_fit *f, struct err *e)
{
    uint32_t seen = 0;
    for (size_t k = 0; k < f->n; k++) f->count[f->y[k]]++;
    for (uint32_t c = 0; c < f->out->classes; c++) seen += f->count[c] > 0;
    return seen == f->out->classes ||
           err_set(e, ERR_UNPROCESSABLE, "%u of %u labels occur among %zu training rows; more rows or groups of each are needed, "
                   "or fewer folds", seen, f->out->classes, f->n);
}

struct readout_fit *readout_fit_new(const struct readout_spec *s, const struct readout_data *q, struct err *e)
{
    struct readout_fit *f = mem_new(sizeof *f);
    f->spec = *s;
    f->n = q->n;
    f->d = q->d;
    f->out = readout_new(s, q->d, q->classes, e);
    size_t values = 0;
    bool ok = f->out && (size_mul(q->n, q->d, &values) || err_set(e, ERR_NO_MEMORY, "too many features"));
    f->z = ok ? mem_take(values + 1, sizeof *f->z, e) : NULL;
    f->y = f->z ? mem_take(q->n + 1, sizeof *f->y, e) : NULL;
    f->count = f->y ? mem_take(q->classes, sizeof *f->count, e) : NULL;
    if (f->count) {
        for (size_t k = 0; k < q->n; k++) f->y[k] = q->label[q->row[k]];
        standardise(f, q);
    }
    if (f->count && two_classes(f, e)) return f;
    readout_fit_free(f);
    return NULL;
}

void readout_fit_free(struct readout_fit *f)
{
    if (!f) return;
    logistic_free(f->lbfgs);
    mlp_free(f->mlp);
    readout_free(f->out);
    mem_drop(f->z);
    mem_drop(f->y);
    mem_drop(f->count);
    mem_drop(f->packed);
    mem_drop(f);
}

struct readout *readout_take(struct readout_fit *f)
{
    struct readout *r = f->out;
    f->out = NULL;
    return r;
}

/* ---- sparse -------------------------------------------------------------------------------------- */

/* How far a class's mean is from the others', the most of any class. */
static double difference(const struct readout_fit *f, size_t i)
{
    double sum[READOUT_CLASSES] = {0}, all = 0, most = 0;
    for (size_t k = 0; k < f->n; k++) sum[f->y[k]] += f->z[k * f->d + i];
    for (uint32_t c = 0; c < f->out->classes; c++) all += sum[c];
    for (uint32_t c = 0; c < f->out->classes; c++)
        most = fmax(most, fabs(sum[c] / f->count[c] - (all - sum[c]) / (double)(f->n - f->count[c])));
    return most;
}

static bool choose_features(struct readout_fit *f, struct err *e)
{
    struct readout *r = f->out;
    double *far = mem_take(f->d, sizeof *far, e);
    f->packed = far ? mem_take(f->n * r->n_features + 1, sizeof *f->packed, e) : NULL;
    for (size_t i = 0; f->packed && i < f->d; i++) far[i] = difference(f, i);
    for (uint32_t j = 0; f->packed && j < r->n_features; j++) {
        size_t best = 0;
        for (size_t i = 1; i < f->d; i++)
            if (far[i] > far[best]) best = i;
        far[best] = -1;
        r->feature[j] = (uint32_t)best;
        for (size_t k = 0; k < f->n; k++) f->packed[k * r->n_features + j] = f->z[k * f->d + best];
    }
    mem_drop(far);
    return f->packed != NULL;
}

static enum step sparse_step(struct readout_fit *f, struct err *e)
{
    struct readout *r = f->out;
    if (!f->packed && !choose_features(f, e)) return STEP_FAIL;
    double *w = mem_take(r->outputs * r->n_features, sizeof *w, e);
    enum step step = w ? logistic_step(f, f->packed, r->n_features, w, r->b, e) : STEP_FAIL;
    for (uint32_t c = 0; step == STEP_DONE && c < r->outputs; c++)
        for (uint32_t j = 0; j < r->n_features; j++) r->w[c * f->d + r->feature[j]] = w[c * r->n_features + j];
    mem_drop(w);
    return step;
}

enum step readout_fit_step(struct readout_fit *f, struct session *s, struct err *e)
{
    switch (f->spec.kind) {
    case READOUT_RIDGE: return ridge_fit(f, e) ? STEP_DONE : STEP_FAIL;
    case READOUT_MASS_MEAN: return mass_mean_fit(f, e) ? STEP_DONE : STEP_FAIL;
    case READOUT_MLP: return mlp_step(f, s, e);
    case READOUT_SPARSE: return sparse_step(f, e);
    default: return logistic_step(f, f->z, f->d, f->out->w, f->out->b, e);
    }
}
