/* A fit in hand. Only probes/readout*.c include this. */
#ifndef ENGRAM_READOUT_INT_H
#define ENGRAM_READOUT_INT_H

#include "readout.h"

struct readout_fit {
    struct readout_spec spec;
    size_t n, d;
    double *z;        /* [n][d] standardised */
    uint32_t *y;      /* [n] */
    uint32_t *count;  /* [classes] */
    struct readout *out;
    struct lbfgs *lbfgs;
    struct mlp *mlp;
    double *packed;   /* sparse: the chosen columns, [n][k] */
};

/* Made at the first step of a kind; each leaves its result in out. */
enum step logistic_step(struct readout_fit *f, const double *z, size_t d, double *w, double *b, struct err *e);
void logistic_free(struct lbfgs *l);
enum step mlp_step(struct readout_fit *f, struct session *s, struct err *e);
void mlp_free(struct mlp *m);
bool ridge_fit(struct readout_fit *f, struct err *e) MUST_CHECK;
bool mass_mean_fit(struct readout_fit *f, struct err *e) MUST_CHECK;

/* Multiplications a step may spend. */
enum { READOUT_STEP = 60000000 };
size_t readout_passes(size_t n, size_t d, size_t outputs);

/* Mean log-loss of scores [n][outputs]; residual p − y over them in their place, divided by n. */
double readout_loss(double *score, size_t n, uint32_t outputs, const uint32_t *y, double *l);

#endif
