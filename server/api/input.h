/* INPUT: wherever text goes in, resolved to the token ids that positions will index.
 *
 *     "text" · {"text"} · {"ids"} · {"messages", "add_generation_prompt", "date"}      with optional "bos"
 *
 * Beginning-of-sequence is added to text exactly when the model file says so, never to ids, and
 * not where a rendered template already begins with it; "bos" overrules all of that. Spellings of
 * special tokens are parsed in text and literal inside message content. What the model's chat template
 * makes of messages is echoed, with the template's hash: a system prompt that it puts in by itself,
 * or a message that it shortens, shows there.
 *
 * Refused, naming the field: an id outside the vocabulary, an input without tokens or longer than
 * the model's context, "bos" where there is no such token, messages where the model file has no
 * template that can be rendered, or one that refuses them.
 *
 * The json has passed validate(). Ownership: a struct input owns its ids and text. Any thread.
 */
#ifndef ENGRAM_INPUT_H
#define ENGRAM_INPUT_H

#include "core/model.h"
#include "ledger/digest.h"
#include "server/json.h"

struct input {
    uint32_t *ids;
    size_t n; /* 1 … context */
    bool bos_added;
    char *text; /* as given, or the rendered conversation; NULL for ids */
    char template[DIGEST_TEXT]; /* of messages: "sha256:…" of the chat template; else "" */
};

/* in: a string, or any object with one of the members above (other members are ignored). field:
 * the dotted path of `in`, "" for the body itself. */
bool input_resolve(const struct model *m, const struct json *in, const char *field,
                   struct input *out, struct err *e) MUST_CHECK;
void input_release(struct input *in);

/* "ids", "tokens", "bos_added" into o, and what input_rendered adds. */
void input_echo(jout *o, const struct model *m, const struct input *in);
/* Of messages: "rendered" and "template". Of other inputs nothing. */
void input_rendered(jout *o, const struct input *in);
/* "key": the display text of each id. */
void input_tokens(jout *o, const char *key, const struct model *m, const uint32_t *ids, size_t n);

#endif
