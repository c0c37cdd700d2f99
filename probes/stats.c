#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

/* ---- bootstrap ----------------------------------------------------------------------------------- */

bool draws_make(struct draws *d, const uint32_t *cluster, size_t n, size_t n_clusters, uint64_t seed, struct err *e)
{
    struct random r;
    size_t all;
    *d = (struct draws){.cluster = cluster, .n = n, .n_clusters = n_clusters};
    if (!size_mul(n_clusters, STATS_DRAWS, &all)) return err_set(e, ERR_NO_MEMORY, "too many clusters");
    d->count = mem_take(all, sizeof *d->count, e);
    if (!d->count) return false;
    random_init(&r, seed);
    for (size_t k = 0; k < STATS_DRAWS; k++)
        for (size_t i = 0; i < n_clusters; i++) d->count[k * n_clusters + random_below(&r, n_clusters)]++;
    return true;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of sorted values, by linear interpolation between order statistics. */
static double quantile(const double *sorted, size_t n, double q)
{
    double at = q * (double)(n - 1);
    size_t low = (size_t)at;
    return low + 1 < n ? sorted[low] + (at - (double)low) * (sorted[low + 1] - sorted[low]) : sorted[n - 1];
}

static void interval(double *draw, size_t n, double level, struct estimate *out)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(draw[i])) draw[kept++] = draw[i];
    out->low = out->high = NAN;
    if (kept == 0) return;
    qsort(draw, kept, sizeof *draw, by_value);
    out->low = quantile(draw, kept, (1 - level) / 2);
    out->high = quantile(draw, kept, (1 + level) / 2);
}

struct sums { /* of one cluster's members */
    double x, y, n;
};

static double statistic(const struct sums *s, bool ratio) { return ratio ? s->x / s->y : s->x / s->n; }

static bool estimate(const struct draws *d, const double *x, const double *y, size_t stride, double level,
                     struct estimate *out, struct err *e)
{
    struct sums *of = mem_take(d->n_clusters, sizeof *of, e), all = {0};
    double *draw = of ? mem_take(STATS_DRAWS, sizeof *draw, e) : NULL;
    size_t present = 0;
    for (size_t i = 0; draw && i < d->n; i++) {
        double u = x[i * stride], v = y ? y[i * stride] : 0;
        struct sums *s = &of[d->cluster[i]];
        if (isnan(u) || isnan(v)) continue;
        present += s->n == 0;
        s->x += u, s->y += v, s->n++;
        all.x += u, all.y += v, all.n++;
    }
    for (size_t k = 0; draw && k < STATS_DRAWS; k++) {
        struct sums s = {0};
        for (size_t c = 0; c < d->n_clusters; c++) {
            double times = d->count[k * d->n_clusters + c];
            s.x += times * of[c].x, s.y += times * of[c].y, s.n += times * of[c].n;
        }
        draw[k] = present < 2 ? (double)NAN : statistic(&s, y != NULL);
    }
    bool ok = draw != NULL;
    if (ok) {
        *out = (struct estimate){.value = statistic(&all, y != NULL), .n = (size_t)all.n};
        interval(draw, STATS_DRAWS, level, out);
    }
    mem_drop(draw);
    mem_drop(of);
    return ok;
}

bool stats_mean(const struct draws *d, const double *x, size_t stride, double level, struct estimate *out, struct err *e)
{
    return estimate(d, x, NULL, stride, level, out, e);
}

bool stats_ratio(const struct draws *d, const double *x, const double *y, size_t stride, double level,
                 struct estimate *out, struct err *e)
{
    return estimate(d, x, y, stride, level, out, e);
}

/* ---- controls ------------------------------------------------------------------------------------ */

struct control stats_control(double *x, size_t n, double value)
{
    struct control c = {NAN, NAN, NAN, NAN, NAN};
    double sum = 0, squares = 0, below = 0;
    if (!n) return c;
    for (size_t i = 0; i < n; i++) {
        sum += x[i];
        below += x[i] < value;
    }
    c.mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) squares += pow(x[i] - c.mean, 2);
    c.sd = n > 1 ? sqrt(squares / (double)(n - 1)) : 0;
    c.percentile = 100 * below / (double)n;
    qsort(x, n, sizeof *x, by_value);
    c.low = x[(size_t)(0.025 * (double)(n - 1))];
    c.high = x[(size_t)ceil(0.975 * (double)(n - 1))];
    return c;
}

/* ---- ranks --------------------------------------------------------------------------------------- */

struct ranked {
    double value;
    size_t at;
};

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return (x->value > y->value) - (x->value < y->value);
}

/* Ranks from 1, the average among equals. */
static bool ranks(const double *x, size_t n, double *out, struct err *e)
{
    struct ranked *r = mem_take(n + 1, sizeof *r, e);
    if (!r) return false;
    for (size_t i = 0; i < n; i++) r[i] = (struct ranked){x[i], i};
    qsort(r, n, sizeof *r, by_rank);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && r[end].value == r[i].value;) end++;
        for (size_t k = i; k < end; k++) out[r[k].at] = 0.5 * (double)(i + end + 1);
    }
    mem_drop(r);
    return true;
}

static double pearson(const double *x, const double *y, size_t n)
{
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < n; i++) mx += x[i] / (double)n, my += y[i] / (double)n;
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    return n > 1 && xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : (double)NAN;
}

bool stats_spearman(const double *x, const double *y, size_t n, double *rho, struct err *e)
{
    double *memory = mem_take(4 * n + 1, sizeof *memory, e), *u = memory, *v = memory + n, *ru = v + n, *rv = ru + n;
    size_t m = 0;
    if (!memory) return false;
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i]) && !isnan(y[i])) u[m] = x[i], v[m++] = y[i];
    bool ok = ranks(u, m, ru, e) && ranks(v, m, rv, e);
    if (ok) *rho = pearson(ru, rv, m);
    mem_drop(memory);
    return ok;
}

bool stats_auc(const double *score, const bool *member, size_t n, double *auc, struct err *e)
{
    double *memory = mem_take(2 * n + 1, sizeof *memory, e), *s = memory, *rank = memory + n, sum = 0, in = 0;
    bool *of = memory ? mem_take(n + 1, sizeof *of, e) : NULL;
    size_t m = 0;
    for (size_t i = 0; of && i < n; i++)
        if (!isnan(score[i])) s[m] = score[i], of[m++] = member[i];
    bool ok = of && ranks(s, m, rank, e);
    for (size_t i = 0; ok && i < m; i++)
        if (of[i]) sum += rank[i], in++;
    double out = (double)m - in;
    if (ok) *auc = in > 0 && out > 0 ? (sum - in * (in + 1) / 2) / (in * out) : (double)NAN;
    mem_drop(of);
    mem_drop(memory);
    return ok;
}

/* Of members sorted by value, each counted as often as its cluster was drawn: pairs won, ties by half. */
static double auc_of_draw(const struct draws *d, const uint32_t *count, const struct ranked *by, size_t n, const bool *member)
{
    double in = 0, out = 0, won = 0;
    for (size_t i = 0, to; i < n; i = to) {
        double tied[2] = {0};
        for (to = i; to < n && by[to].value == by[i].value; to++) tied[member[by[to].at]] += count[d->cluster[by[to].at]];
        won += tied[1] * (out + tied[0] / 2);
        in += tied[1];
        out += tied[0];
    }
    return in > 0 && out > 0 ? won / (in * out) : (double)NAN;
}

bool stats_auc_over(const struct draws *d, const double *score, const bool *member, double level, struct estimate *out,
                    struct err *e)
{
    struct ranked *by = mem_take(d->n + 1, sizeof *by, e);
    double *draw = by ? mem_take(STATS_DRAWS, sizeof *draw, e) : NULL;
    size_t n = 0;
    bool ok = draw && stats_auc(score, member, d->n, &out->value, e);
    for (size_t i = 0; ok && i < d->n; i++)
        if (!isnan(score[i])) by[n++] = (struct ranked){score[i], i};
    if (ok) {
        out->n = n;
        qsort(by, n, sizeof *by, by_rank);
        for (size_t k = 0; k < STATS_DRAWS; k++) draw[k] = auc_of_draw(d, d->count + k * d->n_clusters, by, n, member);
        interval(draw, STATS_DRAWS, level, out);
    }
    mem_drop(draw);
    mem_drop(by);
    return ok;
}
