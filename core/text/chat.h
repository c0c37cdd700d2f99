/* A conversation as the model's own chat template writes it.
 *
 * The template is a Jinja2 program (core/jinja/jinja.h) and sees what transformers would show it:
 *
 *   messages                the list, each with `role` and `content`
 *   add_generation_prompt   as asked
 *   bos_token, eos_token    the spellings, where the file names them; else not defined
 *   tools, documents        none
 *   strftime_now            only with a date; without one it is not defined, and a template falls
 *                           back to the date it was written with, the same on every day
 *
 * Which parts of the text are the template's own words is known byte by byte: those are parsed for
 * special tokens; role and content are not. A role that every template knows (the table in chat.c)
 * counts as the template's own, because some build a token around it: '<|' + role + '|>'. Another
 * role is literal text.
 *
 * A template we cannot read is kept with the sentence that says why, and using it gives that
 * sentence. A struct chat owns its memory and is immutable after chat_init: any thread may use it.
 */
#ifndef ENGRAM_CHAT_H
#define ENGRAM_CHAT_H

#include "special.h"
#include "tokenizer.h"

struct jinja;
struct chat {
    char *text; /* the template, or NULL */
    struct jinja *template; /* NULL: there is none, or why_not */
    struct err why_not;
};
bool chat_init(struct chat *c, const char *template_text, struct err *e) MUST_CHECK;
void chat_release(struct chat *c);

struct chat_tokens {
    const char *bos, *eos; /* spellings, or NULL */
};
/* Append the conversation's text, and where its parts end. *sections is fresh memory (mem_drop). */
bool chat_render(const struct chat *c, const struct conversation *q, const struct chat_tokens *tokens,
                 struct buf *text, struct section **sections, struct err *e) MUST_CHECK;

#endif
