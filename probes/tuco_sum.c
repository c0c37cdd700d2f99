#include "tuco_sum.h"

#include <math.h>

static double share(double ptc, double ftc) { return ptc + ftc > 0 ? ftc / (ptc + ftc) : 0; }

static void count(struct tuco_norms *n, double tuned, double before)
{
    n->ptc += fabs(before);
    n->ftc += fabs(tuned - before);
}

void tuco_add(const struct tuco_addends *in, size_t d, double *ptc, double *ftc, struct tuco_layer *out)
{
    struct tuco_layer n = {0};
    struct tuco_norms whole = {0};
    for (size_t i = 0; i < d; i++) {
        double attn[2] = {(double)in->attn[0][i], (double)in->attn[1][i]},
               mlp[2] = {(double)in->mlp[0][i], (double)in->mlp[1][i]};
        double tuned = attn[0] + mlp[0], before = attn[1] + mlp[1];
        ptc[i] += before;
        ftc[i] += tuned - before;
        count(&whole, tuned, before);
        count(&n.attn, attn[0], attn[1]);
        count(&n.mlp, mlp[0], mlp[1]);
    }
    if (!out) return;
    n.ptc = whole.ptc;
    n.ftc = whole.ftc;
    n.beta = tuco_ratio(ptc, ftc, d, &n.sum.ptc, &n.sum.ftc);
    *out = n;
}

double tuco_ratio(const double *ptc, const double *ftc, size_t d, double *ptc_l1, double *ftc_l1)
{
    double p = 0, f = 0;
    for (size_t i = 0; i < d; i++) {
        p += fabs(ptc[i]);
        f += fabs(ftc[i]);
    }
    if (ptc_l1) *ptc_l1 = p;
    if (ftc_l1) *ftc_l1 = f;
    return share(p, f);
}

double tuco_output_co(const float *view, const float *against, size_t d)
{
    struct tuco_norms n = {0};
    for (size_t i = 0; i < d; i++) count(&n, (double)view[i], (double)against[i]);
    return share(n.ptc, n.ftc);
}
