/* What a table of per-pair values says, and how surely: intervals by bootstrap over clusters, rank
 * correlation, the area under a ROC curve.
 *
 * Bootstrap (Efron & Tibshirani 1993, ch. 13; clusters: Cameron, Gelbach & Miller 2008): clusters are
 * drawn with replacement, as many as there are, and the statistic taken of all their members; the interval
 * is between percentiles of so many draws. Values of one cluster are not independent: one prompt template,
 * one subject. With fewer than two clusters there is no interval (NaN).
 *
 * NaN members are left out. Pure functions but for the random numbers. float64.
 */
#ifndef ENGRAM_STATS_H
#define ENGRAM_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/random.h"

enum { STATS_DRAWS = 2000 };

struct estimate {
    double value, low, high;
    size_t n; /* members that were there */
};

/* Which draws of clusters: so that many statistics of one table are of the same draws. */
struct draws {
    const uint32_t *cluster; /* [n] of each member, below n_clusters */
    size_t n, n_clusters;
    uint32_t *count;         /* [STATS_DRAWS][n_clusters] how often each was drawn */
};
/* cluster is borrowed. Release count with mem_drop. */
bool draws_make(struct draws *d, const uint32_t *cluster, size_t n, size_t n_clusters, uint64_t seed, struct err *e) MUST_CHECK;

/* Mean of x [n] (stride apart), with its interval of that level (0.95). */
bool stats_mean(const struct draws *d, const double *x, size_t stride, double level, struct estimate *out, struct err *e) MUST_CHECK;
/* Mean of x over mean of y. */
bool stats_ratio(const struct draws *d, const double *x, const double *y, size_t stride, double level, struct estimate *out,
                 struct err *e) MUST_CHECK;

/* A value beside those of a random control. With an empty control all are NaN. */
struct control {
    double mean, sd;
    double low, high;  /* between which 95 of 100 of them lie */
    double percentile; /* 0..100: how many of them are below the value */
};
/* Sorts x [n]. */
struct control stats_control(double *x, size_t n, double value);

/* Spearman's rho with average ranks among ties; NaN with fewer than two members or where one side is constant. */
bool stats_spearman(const double *x, const double *y, size_t n, double *rho, struct err *e) MUST_CHECK;
/* Probability that a member counts above a non-member, ties by half; NaN where one kind is absent. */
bool stats_auc(const double *score, const bool *member, size_t n, double *auc, struct err *e) MUST_CHECK;
/* The same with its interval over the draws; those without one kind are left out. */
bool stats_auc_over(const struct draws *d, const double *score, const bool *member, double level, struct estimate *out,
                    struct err *e) MUST_CHECK;

#endif
