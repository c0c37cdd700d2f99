/* How well a readout reads: cross-validation by group, beside a control.
 *
 * Folds: a group (question, template) lies in one fold whole, never in parts. Groups are shuffled by the seed, ordered
 * by the label most of their rows have, and dealt in turn, so that folds are alike in their labels. Each fold is read by a
 * readout of all the others; accuracy, area under the ROC curve (of more than two classes the mean of one against the
 * rest) and log-loss (nats) are means over folds with the standard error sd/√folds. NaN areas are left out.
 *
 * Control (control tasks, Hewitt & Liang, arXiv 1909.03368): the labels of groups are permuted among groups, and the
 * same fits are made. What they reach is what the readout can remember rather than what the activation says:
 *
 *     selectivity = accuracy − accuracy of the control
 *
 * A group whose rows all have one label keeps having one; within a group of several the order is drawn too.
 *
 * linear_probe: this at every head of a per-head site, for a ranking of heads (arXiv 2306.03341). With n rows in all an
 * accuracy has a standard error of about √(p(1−p)/n): the best of many is best by luck as well.
 *
 * Borrowed: x, labels, groups. One thread (BLAS).
 */
#ifndef ENGRAM_READOUT_CV_H
#define ENGRAM_READOUT_CV_H

#include "readout.h"

enum { READOUT_FOLDS = 20 };

struct readout_scores {
    double accuracy, accuracy_se, auroc, auroc_se, log_loss, log_loss_se; /* log_loss: NaN where scores have none */
    double control, control_se, selectivity;
    double fold[READOUT_FOLDS]; /* accuracy of each */
    uint32_t unconverged;       /* fits that stopped above the gradient's norm asked for */
};

/* Which rows are tested when, and the control's labels: the same for all sites of one sweep. */
struct readout_split {
    size_t n;
    uint32_t classes, folds;
    const uint32_t *label;
    uint32_t *fold, *control; /* [n] */
    double majority;          /* share of the commonest label */
};
/* group NULL: each row its own. Refused (ERR_UNPROCESSABLE) with fewer groups than folds. */
bool readout_split(struct readout_split *s, const uint32_t *label, uint32_t classes, const uint32_t *group, size_t n, uint32_t folds,
                   uint64_t seed, struct err *e) MUST_CHECK;
void readout_split_release(struct readout_split *s);

struct readout_cv;
void readout_cv_plan(const struct readout_spec *spec, size_t n, size_t d, uint32_t classes, struct plan *p);
/* Features x [n][ld], of which the first d count. spec, split and x are borrowed. */
struct readout_cv *readout_cv_new(const struct readout_spec *spec, const struct readout_split *split, const float *x, size_t ld,
                                  size_t d, struct err *e) MUST_CHECK;
enum step readout_cv_step(struct readout_cv *c, struct session *s, struct err *e);
void readout_cv_free(struct readout_cv *c);
const struct readout_scores *readout_cv_scores(const struct readout_cv *c); /* after STEP_DONE */

/* Head by head: x [n][heads][width], one readout each. score [heads] is the caller's. For localization. */
struct linear_probe {
    const struct readout_spec *spec;
    const struct readout_split *split;
    const float *x;
    uint32_t heads, width;
    struct readout_scores *score;
    struct readout_cv *cv; /* of `next`, in hand */
    uint32_t next;
};
enum step linear_probe_step(struct linear_probe *p, struct session *s, struct err *e);
void linear_probe_release(struct linear_probe *p);

#endif
