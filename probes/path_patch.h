/* Path patching (Wang et al., arXiv 2211.00593, section 3.1): the effect of one component on others along the
 * direct paths between them. Of each sender s, by four runs:
 *
 *     A   the prompt values come from (source)           B   the prompt they go into (base)
 *     C   B with s's output from A and all q, k, v of all heads frozen to B; its receivers' inputs are noted
 *     D   B with the receivers' inputs from C, nothing frozen:   value(s) = M(D)
 *
 * Senders: a head (z, at all positions), an MLP (mlp_out), the embedding. Receivers: the logits (then D's final
 * stream is C's), or queries, keys and values of heads, all of them set together. In C, MLPs between sender and
 * receiver recompute, or are frozen to B as well.
 *
 * C needs no attention: frozen q, k, v mean frozen z, so that every row goes its way alone (path_carry.h), of the
 * logits only the metric's. D are cells of one sweep (sweep.h) that enter before attention in the lowest layer of a
 * receiver behind their sender. Senders behind all receivers have B's value and are not run.
 *
 * The norm that receivers read through (ln1, of the logits ln_final) divides by its own scale, or (freeze_norm) by B's.
 *
 * Check: of the first pair a few senders once more by runs C and D as they are defined.
 *
 * Borrowed: view, ids, lists. One thread; pairs one after the other, senders in turns that fit the memory budget;
 * a step is a tile of rows in one layer.
 */
#ifndef ENGRAM_PATH_PATCH_H
#define ENGRAM_PATH_PATCH_H

#include "patch.h"

enum path_from { PATH_EMBED, PATH_HEAD, PATH_MLP };
enum path_input { PATH_Q, PATH_K, PATH_V, PATH_INPUTS };

struct path_sender {
    enum path_from from;
    uint32_t layer, head; /* of a head; of an MLP the layer */
};

struct path_receiver {
    uint32_t layer;
    enum path_input input;
    uint32_t head; /* of k and v a key/value head */
};

struct path_request {
    struct view *view;
    const struct patch_pair *pair;
    size_t n_pairs, n_metrics;
    bool denoise;
    const struct path_sender *sender;     /* [n_senders] as path_before orders them, none twice */
    size_t n_senders;
    const struct path_receiver *receiver; /* ascending by layer, input, head, none twice; none: the logits */
    size_t n_receivers;
    bool freeze_mlps, freeze_norm;
    size_t memory_bytes; /* for rows of a turn; 0: 512 MiB */
    uint32_t n_naive;    /* senders to recompute, at most 16 */
    uint64_t seed;       /* which ones */
};

struct path_cost {
    size_t senders, senders_run, rows; /* of all pairs; rows: token rows times layers */
    double flops;                      /* with the runs and the check */
};

/* In the order a pass makes them: the embedding, then by layer heads and the MLP. */
int path_before(const struct path_sender *a, const struct path_sender *b);
/* Why ln1's scale cannot be frozen in this model; NULL where it can. */
const char *path_norm_absent(const struct path_request *q);

void path_plan(const struct path_request *q, int threads, struct plan *p);
struct path_cost path_forecast(const struct path_request *q);

struct path_patch;
struct path_patch *path_new(const struct path_request *q, struct err *e) MUST_CHECK;
enum step path_step(struct path_patch *p, struct session *s, struct err *e);
void path_free(struct path_patch *p);
void path_progress(const struct path_patch *p, size_t *done, size_t *total); /* senders of all pairs */
bool path_checking(const struct path_patch *p); /* is the next step part of the check? */
/* After STEP_DONE: a grid of one layer and head whose cells (n_pos) are the senders. check_naive: largest difference,
 * NaN where there is no check: n_naive 0, or where attention and MLP share the norm that is frozen. */
const struct patch_grid *path_result(const struct path_patch *p);

#endif
