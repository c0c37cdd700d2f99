/* Patterns of attention heads, and what kind of head each pattern speaks of. A[i,j]: the share of destination i
 * that goes to source j; t: the ids.
 *
 *     previous_token    mean over i ≥ 1 of A[i,i−1]
 *     first_token       mean over i ≥ 1 of A[i,0]
 *     duplicate_token   Σ of A[i,j] over j < i with t[j] = t[i]                    mean over the i that have such a j
 *     induction         Σ of A[i,j] over j ≤ i with t[j−1] = t[i], j − 1 < i       the same
 *     entropy           mean over i ≥ 1 of −Σ A log A, nats
 *
 * Of T different tokens twice over (behind a beginning of sequence or not) these are the classic A[i,i−T] and
 * A[i,i−T+1] over the second half (Olsson et al., arXiv 2209.11895). NaN where no destination counts.
 *
 * Value-weighted: A[i,j]·‖W_O[h] v_j‖, how much of j's value arrives rather than how much is looked at it
 * (Kobayashi et al., arXiv 2004.10102; v with its bias, before any norm behind the branch). Scores are of A itself.
 *
 * One input after the other; patterns stay only where they are to be kept. Borrowed: ids and lists. One thread.
 */
#ifndef ENGRAM_HEADS_H
#define ENGRAM_HEADS_H

#include "core/run.h"

enum detector {
#define DETECTOR(name, word) DETECT_##name,
#include "heads.def"
#undef DETECTOR
    DETECTORS
};
const char *detector_word(enum detector d);

struct heads_input {
    const uint32_t *ids;
    uint32_t n;
};

struct heads_request {
    struct view *view;
    const struct heads_input *in;
    size_t n_in;
    const uint32_t *layer, *head; /* ascending */
    size_t n_layers, n_heads;
    bool keep, value_weighted;
};

void heads_plan(const struct heads_request *q, int threads, struct plan *p);

struct heads;
struct heads *heads_new(const struct heads_request *q, struct err *e) MUST_CHECK;
enum step heads_step(struct heads *h, struct session *s, struct err *e);
void heads_free(struct heads *h);
void heads_progress(const struct heads *h, size_t *done, size_t *total);
/* After STEP_DONE: [n_layers][n_heads]; the pattern [n_heads][n][n] of one of the request's layers, where kept. */
const double *heads_scores(const struct heads *h, size_t input, enum detector d);
const float *heads_pattern(const struct heads *h, size_t input, size_t layer);

#endif
