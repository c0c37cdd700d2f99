/* Attribution patching of the nodes of one site in one layer: what putting the source's values in would change
 * the base's metric by, estimated from one gradient (Nanda 2023; Syed, Rager & Conmy, arXiv 2310.10348):
 *
 *     AtP(n) = Σ over the node's elements of (a_src − a_base) · dM/da at the base
 *
 * Queries and keys reach the metric through a softmax, whose slope is nothing where it is saturated, however
 * far a swap would move it. The QK fix (AtP*, arXiv 2403.00745) goes through the softmax as it is and is linear
 * behind it. With scores s, pattern p and g = dM/dp, of rows i and columns j:
 *
 *     query at i    Σ_j (p'[i,j] − p[i,j]) g[i,j]                       p' = softmax of q_src[i] on the base's keys
 *     key at t      Σ_{i≥t} r/(1+r) (g[i,t] − Σ_j p[i,j] g[i,j])        r = exp(log p[i,t] + D) − p[i,t]
 *                                                                       D = s'[i,t] − s[i,t], k_src[t] on the base's queries
 *
 * log p is s − LSE(s): where p has underflowed D is what counts. A key/value head's keys are read by H/G query
 * heads, over which it is summed. Where a head's keys are one node at all positions its columns move together,
 * and p' is that softmax. g = dM/dz · vᵀ.
 *
 * Rows are those of positions [first, n): before, nothing differs. Pure; one thread (it calls BLAS).
 */
#ifndef ENGRAM_NODE_H
#define ENGRAM_NODE_H

#include "core/hook.h"
#include "patch.h"

enum node_kind { NODE_LINEAR, NODE_QUERY, NODE_KEY };
enum node_kind node_kind(enum hook site, bool qk_fix);
/* The hooks to read for it: the source's values (and, of NODE_LINEAR, the base's), and the gradients. */
enum hook node_value(enum node_kind kind, enum hook site);
enum hook node_gradient(enum node_kind kind, enum hook site);

struct node {
    const struct arch *arch;
    enum hook site;
    enum node_kind kind;
    enum patch_axis axis;
    uint32_t layer, first, n;
    uint32_t n_pos;       /* of the grid: the pair's length where it has an axis of positions */
    const float *value;   /* linear: source less base; else the source's, turned by position */
    const float *slope;   /* at node_gradient */
    const float *qkv;     /* [n][(H+2G)e] the base's, turned by position; not for linear ones */
};

size_t node_scratch(uint32_t n); /* floats */
/* out [heads][n_pos] ← the estimates of that layer. */
void node_estimate(const struct node *k, float *scratch, double *out);

#endif
