/* Decoding: continue many sequences at once, token by token, with one weight read for all.
 *
 * Each sequence has its own sampling, seed, length limit and stop strings, and ends at any
 * end-of-generation token of the file, at a stop string (which is not part of the text), at its
 * limit, or when the context is full. Steps are those of the underlying runs, one layer, and of
 * scoring prompts, DECODE_ROWS rows. At most DECODE_ROWS sequences, and prompts of no more than
 * DECODE_POSITIONS in all where several go at once, hold caches and logits at a time: the next
 * begins where one has ended.
 *
 * Log-probabilities are kept where asked for: of every generated token, and of the prompt's own
 * from its second on, which the same pass gives. A limit of 0 generates nothing: only the prompt is
 * scored. Several continuations of one prompt (`again`) read it once and go on from forks of its
 * cache.
 *
 * Text is the bytes of the generated tokens without special ones. It may end inside a character
 * while running; decode_safe says how much of it will not change any more, for streaming.
 *
 * Ownership: borrows requests, prompts, stops and taps until decoder_free. One thread.
 */
#ifndef ENGRAM_DECODE_H
#define ENGRAM_DECODE_H

#include "logprobs.h"
#include "run.h"
#include "sample.h"

enum { DECODE_ROWS = 64, DECODE_POSITIONS = 16384 };

struct decode_request {
    const uint32_t *prompt;
    uint32_t n_prompt, max_tokens;
    struct sampling sampling;
    uint64_t seed;
    const char *const *stop;
    size_t n_stop;
    bool again;              /* prompt and max_tokens are those of the request before this one */
    bool score_prompt, score_tokens; /* keep log-probabilities… */
    uint32_t n_top;          /* …and of the likeliest alternatives, ≤ LOGPROBS_TOP */
};

enum finish { FINISH_NOT_YET, FINISH_END_TOKEN, FINISH_STOP_STRING, FINISH_LENGTH };

struct decode_result {
    enum finish finish;
    struct ids ids;          /* generated, the end token included */
    struct buf text;         /* raw bytes, cut before a stop string */
    struct ids ends;         /* bytes of text after each of ids, before any cut */
    size_t stop;             /* FINISH_STOP_STRING: which */
    double last_logprob;     /* of the newest token, at temperature 1 */
    struct logprobs prompt;  /* score_prompt: places 1 … n_prompt − 1 of the prompt */
    struct logprobs tokens;  /* score_tokens: as many as ids */
    struct random random;
    struct kv *kv, *kv_against; /* while it goes on; the second over a pair of views */
};

/* Tokens it may generate at most: max_tokens, or what the context has room for; of a prompt that fills it, one. */
uint32_t decode_most(const struct arch *a, const struct decode_request *q);

/* Caches and logits of the sequences that live at a time, and their runs. */
void decoder_plan(const struct arch *a, const struct decode_request *q, size_t n, int threads, struct plan *p);

/* What decoding over a pair takes besides; terms: they are told. */
void decoder_plan_beside(const struct arch *a, const struct decode_request *q, size_t n, bool terms, struct plan *p);

struct decoder;
struct decoder *decoder_new(struct view *v, const struct decode_request *q, size_t n,
                            struct taps *taps, struct err *e) MUST_CHECK;
/* Before the first step: over a pair of views (core/pair.h), borrowed. Its rows are named by `seq`, the request's
 * number; wanted are those that say the next token, and of a prompt that is scored all. */
void decoder_beside(struct decoder *d, const struct view_pair *p);
enum step decoder_step(struct decoder *d, struct session *s, struct err *e);
void decoder_free(struct decoder *d);
const struct decode_result *decoder_result(const struct decoder *d, size_t i);
size_t decoder_tokens(const struct decoder *d); /* generated so far, all sequences */
size_t decode_safe(const struct decoder *d, size_t i);

#endif
