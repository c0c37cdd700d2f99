/* Chat templates: recognised, not executed.
 *
 * A template is read into a short list of steps (literal text, a value, a tag) with Jinja's rules
 * for string escapes, white-space control and the trimming that model hubs use (trim_blocks,
 * lstrip_blocks). Two templates with the same list render the same, so a list equal to one of the
 * ChatML forms below can be rendered exactly; any other template is unknown, and using it is an
 * error.
 *
 *   for each message: [first and not a system turn: DEFAULT] <|im_start|>ROLE\nCONTENT<|im_end|>\n
 *   at the end, if asked for: <|im_start|>assistant\n
 *
 * DEFAULT is whatever literal the template itself carries; a form without it exists too.
 * A struct chat owns its texts and is immutable after chat_init.
 */
#ifndef ENGRAM_CHAT_H
#define ENGRAM_CHAT_H

#include "special.h"
#include "tokenizer.h"

struct chat {
    bool known;
    char *default_turn; /* or NULL */
};
/* A NULL or unknown template leaves `known` false. */
bool chat_init(struct chat *c, const char *template_text, struct err *e) MUST_CHECK;
void chat_release(struct chat *c);

/* Append the conversation's text, and where its parts end: the template's own words are parsed for
 * special tokens, role and content are not. *sections is fresh memory (mem_drop). */
bool chat_render(const struct chat *c, const struct message *m, size_t n, bool generation_prompt,
                 struct buf *text, struct section **sections, struct err *e) MUST_CHECK;

#endif
