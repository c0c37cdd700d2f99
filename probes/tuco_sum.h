/* The sums of TuCo (arXiv 2506.23423, definitions 4.1): fed with what two blocks add, layer by layer.
 *
 *     PTC_l = f_against(x_l)     FTC_l = f_view(x_l) − f_against(x_l)     P = Σ PTC_l     F = Σ FTC_l
 *     TuCo = ‖F‖₁ / (‖P‖₁ + ‖F‖₁)        β_l: the same of the sums up to layer l        (0 when both are 0)
 *
 * Vectors are summed over layers before norms are taken, in float64 over the addends themselves. By parts, the
 * same of attention and MLP alone: the MLP of against is fed x + Attn_against(x), as the definition says
 * (in a parallel block, x), so the parts' FTC add up to the block's.
 *
 * Plain memory; pure functions.
 */
#ifndef ENGRAM_TUCO_SUM_H
#define ENGRAM_TUCO_SUM_H

#include <stddef.h>

struct tuco_norms {
    double ptc, ftc; /* L1 */
};

struct tuco_layer { /* of one layer at one position */
    double ptc, ftc;             /* its own terms' norms */
    struct tuco_norms attn, mlp; /* of its parts */
    struct tuco_norms sum;       /* of the sums of all layers up to this one */
    double beta;
};

/* [d] each: what view's block adds and what against's does. */
struct tuco_addends {
    const float *attn[2], *mlp[2];
};

/* ptc, ftc [d] += the layer's terms. out, if any, ← its norms. */
void tuco_add(const struct tuco_addends *in, size_t d, double *ptc, double *ftc, struct tuco_layer *out);

/* ‖ftc‖₁ / (‖ptc‖₁ + ‖ftc‖₁) of two vectors; 0 when both vanish. */
double tuco_ratio(const double *ptc, const double *ftc, size_t d, double *ptc_l1, double *ftc_l1);

/* OutputCo, the contrast: ‖x_view − x_against‖₁ / (‖x_against‖₁ + ‖x_view − x_against‖₁) of two separate runs'
 * final streams [d]. Work that cancels inside shows in TuCo and not here. */
double tuco_output_co(const float *view, const float *against, size_t d);

#endif
