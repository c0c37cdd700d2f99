/* What a metric says of a pair's two runs and of what lies between them: baselines, and numbers beside them.
 *
 * norm_logit_diff is (LD − LD_corrupt) / (LD_clean − LD_corrupt), so it needs both runs before it is one. Scores are
 * opened with both runs' metrics as they are read, filled in the same terms (raw), and settled once, which makes
 * ratios of the differences; of other metrics they are already what they are.
 *
 * Grids, paths, estimates, edges and joint sets all keep their scores so. Pure functions.
 */
#ifndef ENGRAM_PATCH_SCORES_H
#define ENGRAM_PATCH_SCORES_H

#include "metric.h"

struct patch_scores { /* of one pair by one metric */
    double *values;         /* [n_layers][n_heads][n_pos], an axis that is absent being 1; of pairs and metrics
                             * one after the other */
    double clean, corrupt;  /* the metric of both runs */
    double ld_clean, ld_corrupt; /* metrics of answer and foil in logits: the differences themselves; else NaN */
};

/* Raw. False where clean and corrupt are too close to normalise by. `values` is the caller's. */
bool patch_scores_open(const struct metric *m, double base, double source, bool denoise, struct patch_scores *s,
                       struct err *e) MUST_CHECK;
/* From raw numbers to what is asked for: both baselines and n values. */
void patch_scores_settle(const struct metric *m, struct patch_scores *s, size_t n);
/* A difference of raw numbers over this is one of settled numbers. Before they are settled. */
double patch_scores_unit(const struct metric *m, const struct patch_scores *s);

/* A raw number beside settled scores. */
double patch_normalised(const struct metric *m, const struct patch_scores *s, double value);
bool patch_normalises(const struct metric *m, double clean, double corrupt, struct err *e) MUST_CHECK;

#endif
