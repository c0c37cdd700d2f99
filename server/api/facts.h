/* The facts of an edit request, resolved to ids: what to train on, and what to measure.
 *
 * A target continues its prompt: a space goes in front of it unless the prompt already ends in
 * white space (a rendered conversation does) or the target begins with some. Prompt and target are
 * tokenised apart and joined (tokenizer_encode_behind), so that the prompt's ids are the same in training,
 * scoring and generation. The end token is appended for training where asked.
 *
 * The two halves are kept apart on purpose: `example` is all an editor sees; paraphrases and
 * locality exist only in `fact`.
 */
#ifndef ENGRAM_FACTS_H
#define ENGRAM_FACTS_H

#include "edits/editor.h"
#include "input.h"
#include "probes/measure.h"

struct facts {
    struct fact *fact;
    const char **id;
    size_t n;
    struct example *example;   /* those of fact k: [first_example[k], first_example[k+1]) */
    size_t *first_example;
    const struct input **prompt; /* of each fact, among the inputs */
    size_t n_examples;
    struct input *inputs;      /* everything resolved, for release */
    size_t n_inputs;
};

/* From the validated "facts" array; memory in the arena. append_eos: examples end with the
 * model's end token. */
bool facts_read(struct facts *f, const struct model *m, const struct json *list, bool append_eos,
                struct arena *a, struct err *e) MUST_CHECK;
void facts_release(struct facts *f);

/* Ids of a target behind a prompt, in the arena. */
bool target_ids(const struct model *m, struct arena *a, const struct input *prompt, const struct json *text, const char *field,
                const uint32_t **out, uint32_t *n, struct err *e) MUST_CHECK;

#endif
