/* Edge attribution patching: what would each edge of the model's graph do, were its writer's value the source's for this
 * one reader (Syed, Rager & Conmy, arXiv 2310.10348)?
 *
 *     EAP(u → v) = Σ over positions of ⟨ a_src(u) − a_base(u), dM/dx_v at the base ⟩
 *
 * Writers u are what is added to the stream: the embedding, each head's result, each MLP's output. Readers v are the
 * copies x_v of the stream, before any norm, that are read: by each head's query, key and value, by each MLP, and
 * behind the last layer by the final norm. Only edges from a writer to what comes after it: a layer's heads come
 * before its MLP, but not in a parallel model. Learned positions are the same in both runs: an edge of theirs is 0.
 *
 *     Σ_v EAP(u → v) = AtP(u)              Σ_u EAP(u → v) = ⟨ change of x_v, dM/dx_v ⟩
 *
 * Where a family norms a branch's output its writers are what is added, behind that norm; a head's part of it is its
 * result over its own run's scale. The right sum holds there too; the left one is then the slope in that addend.
 *
 * steps > 1: gradients are the weighed mean over points of the path of embeddings from base to source
 * (EAP-IG, arXiv 2403.17806; probes/integral.h has the rules), changes still those of its ends.
 *
 *     runs      source and base side by side: z and MLPs' outputs of positions from the first difference on
 *     points    on tapes, and back: a layer's readers' gradients [readers][m][d], averaged
 *     edges     for each layer below: Δz · W_Oᵀ per head [H][m][d], made again each time rather than kept of all
 *               layers; then one product with the gradients
 *
 * Writers are numbered embed, then by layer its heads and its MLP; readers by layer queries, keys, values, MLP, then
 * the final one. Values are estimates of M(patched) − M(base), of norm_logit_diff over LD_clean − LD_corrupt.
 * Borrowed: ids, metrics. One thread. A step is a layer of a tape, or the edges between two layers.
 */
#ifndef ENGRAM_EDGE_H
#define ENGRAM_EDGE_H

#include "integral.h"
#include "patch.h"

struct edge_request {
    struct view *view;
    const struct patch_pair *pair; /* [n_pairs], each of one metric */
    size_t n_pairs;
    bool denoise;
    uint32_t steps;                /* 1: the gradient at the base, whatever the rule */
    enum integral_rule rule;
};

enum edge_part { EDGE_EMBED, EDGE_HEAD, EDGE_Q, EDGE_K, EDGE_V, EDGE_MLP, EDGE_FINAL };
struct edge_node {
    enum edge_part part;
    uint32_t layer, head;
};

size_t edge_writers(const struct arch *a);
size_t edge_readers(const struct arch *a);
struct edge_node edge_writer(const struct arch *a, size_t u);
struct edge_node edge_reader(const struct arch *a, size_t v);
bool edge_is(const struct arch *a, size_t u, size_t v); /* does u come before v? */
enum { EDGE_TEXT = 32 };
/* "embed", "L0H3", "L0.mlp"; "L1H0.k", "logits". */
const char *edge_text(struct edge_node n, char out[EDGE_TEXT]);

void edges_plan(const struct edge_request *q, int threads, struct plan *p);
double edges_flops(const struct edge_request *q, size_t *rows); /* rows times layers, forward and back */

struct edges;
struct edges *edges_new(const struct edge_request *q, struct err *e) MUST_CHECK;
enum step edges_step(struct edges *g, struct session *s, struct err *e);
void edges_free(struct edges *g);
void edges_progress(const struct edges *g, size_t *done, size_t *total); /* passes and products */

/* After STEP_DONE; owned by it. */
const float *edges_mean(const struct edges *g);              /* [writers][readers] over pairs; 0 where there is none */
const float *edges_of(const struct edges *g, size_t pair);
void edges_baseline(const struct edges *g, size_t pair, struct patch_scores *out);
uint32_t edges_difference(const struct edges *g, size_t pair); /* n where the prompts are the same */
/* The `most` edges of largest |mean|, largest first: u·readers + v into out; returns how many. Zeros are none. */
size_t edges_top(const struct edges *g, size_t *out, size_t most);

#endif
