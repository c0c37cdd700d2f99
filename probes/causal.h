/* Causal tracing (Meng et al., arXiv 2202.05262): where does the clean run's value, put back, bring the
 * answer back that noise at the subject took away?
 *
 *     high             p(answer) of the clean run
 *     low              mean over N noised runs: e ← e + s·ε at the subject's embeddings, ε ~ N(0, 1)
 *     score(l, t)      the same mean where layer l's value at token t is the clean run's
 *     total effect     high − low              indirect effect      score − low
 *
 * A `state` cell puts hook_resid_post of layer l back; `mlp` and `attn` cells the branch's addend
 * (hook_mlp_out, hook_attn_out) in a window of w layers, [max(0, l − ⌊w/2⌋), min(L, l + ⌈w/2⌉)). All cells of a
 * fact see the same noise (common random numbers), drawn from the seed alone and so the same wherever the fact
 * stands in the list. The answer is read behind the prompt's last token.
 *
 * The N noised runs are the bases of one sweep (probes/sweep.h), run once and kept; the clean run is the
 * source they share. A cell carries only rows from its token on. Tokens before the subject are the clean
 * run's in every layer: their cells are `low` and are not run.
 *
 * Checks, on every fact and sample in the same sweep: embeddings put back at all of the subject's tokens must
 * give high (`restored`); values of the noised run itself, put back at the first subject token in the middle
 * layer, must give that run's own answer (`identity`).
 *
 * Borrowed: view, facts. One thread; facts one after the other, a step is one tile of rows in one layer.
 */
#ifndef ENGRAM_CAUSAL_H
#define ENGRAM_CAUSAL_H

#include "core/base/step.h"
#include "core/plan.h"
#include "core/view.h"

enum causal_kind { CAUSAL_STATE, CAUSAL_MLP, CAUSAL_ATTN, CAUSAL_KINDS };
extern const char *const causal_words[CAUSAL_KINDS];

struct causal_fact {
    const uint32_t *ids;
    uint32_t n;
    uint32_t first, end;     /* the subject's tokens, [first, end) */
    bool given;              /* there is an `answer`; else the clean run's most probable token is it */
    uint32_t answer;
};

struct causal_request {
    struct view *view;
    const struct causal_fact *fact;
    size_t n_facts;
    enum causal_kind kind[CAUSAL_KINDS]; /* no kind twice */
    size_t n_kinds;
    uint32_t window, samples; /* at least 1 each */
    double sd;                /* of the noise */
    uint64_t seed;
    bool expect;              /* a fact whose clean run says something else than its answer is dropped */
    size_t memory_bytes;      /* for the sweep's rows; 0: 512 MiB */
};

struct causal_scores {        /* of one fact */
    bool dropped;
    uint32_t answer, said;    /* said: the clean run's most probable token */
    double high, low;         /* low and scores are NaN and NULL of a dropped fact */
    double *score[CAUSAL_KINDS]; /* by place in `kind`: [L][n] */
};

struct causal_cost {
    size_t cells, cells_run, rows; /* of all samples */
    double flops;
};

/* Standard deviation (n − 1) of all entries of the embeddings of all subjects' tokens. */
bool causal_embedding_sd(struct view *v, const struct causal_fact *fact, size_t n, double *out, struct err *e) MUST_CHECK;
/* The noise of one fact: n numbers N(0, sd²), in the order [sample][subject token][d]. */
void causal_noise(uint64_t seed, double sd, size_t n, float *out);
/* Layers [from, to) a cell of that kind at layer l restores. */
void causal_window(enum causal_kind k, uint32_t window, uint32_t n_layers, uint32_t l, uint32_t *from, uint32_t *to);

void causal_plan(const struct causal_request *q, int threads, struct plan *p);

struct causal;
struct causal *causal_new(const struct causal_request *q, struct err *e) MUST_CHECK;
enum step causal_step(struct causal *c, struct session *s, struct err *e);
void causal_free(struct causal *c);
void causal_progress(const struct causal *c, size_t *done, size_t *total); /* facts */

/* After STEP_DONE. */
const struct causal_scores *causal_result(const struct causal *c, size_t fact);
struct causal_cost causal_cost(const struct causal *c);
void causal_checks(const struct causal *c, double *restored, double *identity); /* largest; NaN: every fact dropped */

#endif
