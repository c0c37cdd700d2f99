/* Rows to train on: a prompt and what continues it, or a prompt with a chosen and a rejected continuation.
 *
 *     "data": [{"id","group","prompt","answer"} | {…,"prompt","chosen","rejected"}]
 *     "set": "id or name", "split", "limit"           rows of a set (set_rows.h), whose subject is their group where
 *                                                     they have none
 *
 * All rows of one kind. A target continues its prompt as an edit's does (facts.h); its tokens are scored. Lists live in
 * the look's arena.
 */
#ifndef ENGRAM_TRAIN_ROWS_H
#define ENGRAM_TRAIN_ROWS_H

#include "input.h"
#include "look.h"
#include "probes/fit.h"

struct train_rows {
    size_t n, n_groups;
    bool couples;                /* example 2i is chosen, 2i + 1 rejected */
    struct fit_example *example; /* [n], of couples [2n] */
    uint32_t *group;             /* [n] */
    struct input *prompt;        /* [n] */
    size_t n_prompts;
};

/* loss: "sft", "dpo" or NULL: as the rows are. */
bool train_rows_read(struct train_rows *t, struct look *l, struct call *c, const char *loss, struct err *e) MUST_CHECK;
void train_rows_release(struct train_rows *t);

#endif
