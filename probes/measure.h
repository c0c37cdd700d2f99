/* The scores of an edit, on one view: does it say the target, does it generalise, what else moved.
 *
 *   generation   greedy, at most MEASURE_TOKENS tokens, ending at an end-of-generation token, a new
 *                line or the first full stop; match and prefix_match as in match.h
 *   tf_exact     every target token is the teacher-forced argmax; tf_token_acc their share
 *   nll_new      mean −log p of the target's tokens (nats); nll_true the same for the old target
 *   paraphrase   shares of match and tf_exact over the paraphrases
 *   locality     unchanged: share of prompts whose whole greedy continuation is the reference's;
 *                kl: mean KL(reference ‖ this view) over the first MEASURE_KL_TOKENS teacher-forced
 *                tokens of the reference's continuation
 *
 * The reference is another measure of the same facts (the parent's); without one, locality is
 * trivially unchanged. What a view says is said once: measure_against holds a finished measure against
 * one more reference. Borrowed: facts, the reference and the finished measure until measure_free. One thread. Steps
 * are those of the runs beneath.
 */
#ifndef ENGRAM_MEASURE_H
#define ENGRAM_MEASURE_H

#include "core/decode.h"

enum { MEASURE_TOKENS = 32, MEASURE_KL_TOKENS = 16 };

struct prompt { /* ids of a prompt, and of the target in its place behind it */
    const uint32_t *ids;
    uint32_t n;
    const uint32_t *target;
    uint32_t n_target;
};

struct fact {
    struct prompt prompt;
    const char *target_text; /* what a generation is compared with */
    size_t target_len;
    const uint32_t *true_ids; /* target_true behind the prompt; NULL when not given */
    uint32_t n_true;
    const struct prompt *paraphrase;
    size_t n_paraphrase;
    const struct prompt *locality; /* no targets */
    size_t n_locality;
};

struct score {
    const char *text; /* generation, raw bytes, owned by the measure */
    size_t text_len;
    enum finish finish;
    size_t stop;      /* FINISH_STOP_STRING: 0 new line, 1 full stop */
    bool match, prefix_match, tf_exact;
    double tf_token_acc, nll_new;
    double nll_true;         /* NaN when there is no target_true */
    double paraphrase_match, paraphrase_tf_exact; /* NaN when there are none */
    double locality_unchanged, locality_kl;       /* NaN when there are none */
};

/* Of one measure: its generations, its forced texts, and the comparison with a reference. */
void measure_plan(const struct arch *a, const struct fact *facts, size_t n, int threads, struct plan *p);

/* Can a generation say the target? None goes on behind a new line or a full stop. */
bool measure_can_match(const struct fact *f, bool *can, struct err *e) MUST_CHECK;

struct measure;
struct measure *measure_new(struct view *v, const struct fact *facts, size_t n,
                            const struct measure *reference, struct err *e) MUST_CHECK;
/* `done` again, its locality against another finished measure of the same facts. */
struct measure *measure_against(const struct measure *done, const struct measure *reference, struct err *e) MUST_CHECK;
enum step measure_step(struct measure *m, struct session *s, struct err *e);
void measure_free(struct measure *m);
const struct score *measure_score(const struct measure *m, size_t fact);

#endif
