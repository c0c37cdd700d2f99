/* Run C of path patching (path_patch.h) for many senders of one pair at once, without attention.
 *
 * Every head's z but the sender's is the base's, so attention adds constants and each row of the stream goes through
 * the layers by itself:
 *
 *     a head joins in its layer      x = resid_pre_B,  z = z_B with the head's from A,  then projection (and post-norm)
 *     an MLP joins behind its layer  x = resid_pre_B of the next + (mlp_out_A − mlp_out_B)
 *     the embedding joins first      x = resid_pre_A of layer 0
 *     layer by layer                 x ← x + attn_out_B, then the block's MLP
 *
 * With the MLPs frozen too a sender's change D of the stream stays what it is: x = resid_pre_B + D, and no layer is run.
 * At a layer of receivers their q, k, v are made of x, as the block makes them.
 *
 * Rows are those of positions [first, n). Private to path patching. Borrowed: all. One thread.
 */
#ifndef ENGRAM_PATH_CARRY_H
#define ENGRAM_PATH_CARRY_H

#include "patch_runs.h"
#include "path_patch.h"

struct path_group { /* receivers of one layer and input */
    uint32_t layer;
    enum hook hook;
    const uint32_t *head;
    size_t n;   /* heads */
    size_t at;  /* floats of a row before its own */
};
struct path_groups {
    struct path_group *group;
    size_t n, width; /* width: floats of a row, of all of them */
    uint32_t *head;
};
bool path_groups_make(const struct path_request *q, struct path_groups *out, struct err *e) MUST_CHECK;
void path_groups_release(struct path_groups *g);

/* The lowest layer of a receiver behind that sender; of the logits n_layers; UINT32_MAX where there is none. */
uint32_t path_reaches(const struct path_request *q, const struct path_sender *s);

struct path_carry;
/* Of senders that reach one. runs: one pair's, kept as path_patch.c says. */
struct path_carry *path_carry_new(const struct path_request *q, const struct path_groups *g, const struct patch_runs *runs,
                                  const struct path_sender *sender, size_t n_senders, uint32_t first, uint32_t n,
                                  struct err *e) MUST_CHECK;
enum step path_carry_step(struct path_carry *c, struct session *s, struct err *e);
void path_carry_free(struct path_carry *c);

/* After STEP_DONE. Of the logits: the final stream [n_senders][rows][d]. Of a sender and group: [rows][heads][e]. */
const float *path_carry_final(const struct path_carry *c);
const float *path_carry_input(const struct path_carry *c, size_t sender, size_t group);

#endif
