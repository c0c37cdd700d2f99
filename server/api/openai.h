/* OpenAI's protocol: completions and chat completions over the same decoder as /v1/generate.
 *
 *     prompts [P]  ×  n continuations each  ──►  requests [P·n] of one decoder  ──►  choices [P·n]
 *
 * Completions and chats differ in how prompts are read and how a choice is written (struct
 * openai_form); everything else is here. A choice is told in parts: whole at the end, or, streamed,
 * whenever text is certain (decode_safe), so that no part ends inside a character.
 *
 *     openai_request.c      model@view, sampling, what is refused
 *     openai_completions.c  prompts in, text_completion out
 *     openai_chat.c         messages in, chat.completion out
 *     openai_logprobs.c     log-probabilities in both shapes
 *     openai_answer.c       steps, parts, envelopes
 *     openai_model.c        what a model is called
 *
 * Ownership: a struct openai is the work of its job and owns prompts, view and requests. Prepared
 * by an HTTP thread, then the compute thread's. What goes wrong is an ordinary error; the route's
 * dialect puts it into that protocol's words (server/problem_openai.h).
 */
#ifndef ENGRAM_OPENAI_H
#define ENGRAM_OPENAI_H

#include "generation.h"
#include "input.h"
#include "server/daemon.h"

enum { OPENAI_PROMPTS = 2048, OPENAI_CHOICES = 4096, OPENAI_VALUES = 1 << 21 /* log-probabilities of prompts */ };

struct openai;

struct openai_part { /* of a choice: what has not been told yet */
    size_t choice;
    bool first, last;
    const char *text;         /* new bytes of the continuation */
    size_t len;
    size_t from, to;          /* new tokens of the continuation */
    const char *finish;       /* of the last part: why */
};

struct openai_form {
    const char *id, *object, *chunk_object; /* id: its prefix */
    /* A choice's members behind its index. All of the parts of a whole answer are one. */
    void (*put_whole)(struct openai *o, const struct openai_part *p, struct buf *out);
    /* A part as one or more chunks, each given to openai_chunk. */
    void (*tell)(struct openai *o, const struct openai_part *p);
};

struct openai_choice { /* told so far */
    size_t text, tokens;
    struct openai_chars { size_t bytes, chars; } counted; /* a place in the continuation, between characters */
    bool begun, ended;
};

struct openai {
    struct work work;
    const struct openai_form *form;
    struct arena arena;       /* as long as the work */
    struct resolved view;
    const char *model;        /* as asked */
    char id[ID_TEXT];
    int64_t created_s;
    struct input *prompt;     /* [n_prompts] */
    size_t n_prompts;
    uint32_t n;               /* continuations of each */
    struct decode_request *q; /* [n_prompts · n] */
    struct generation generation;
    struct openai_choice *choice; /* [n_prompts · n] */
    bool echo, logprobs, usage;   /* usage: a stream ends with it */
};

/* ---- openai_request.c */

/* The work of a request; `parameters` beyond what every form has are set by its caller. */
struct openai *openai_new(struct call *c, const struct work_ops *ops, const struct openai_form *form, struct err *e) MUST_CHECK;
void openai_free(struct work *w);
/* After prompts are read: the requests of the decoder. max_tokens as asked; n_top: alternatives. */
bool openai_requests(struct openai *o, const struct json *request, uint32_t max_tokens, uint32_t n_top,
                     struct err *e) MUST_CHECK;
/* "name" or "name@view": sets c->served. `field` is blamed as "model". */
bool openai_view(struct call *c, const char *model, struct resolved *out, struct err *e) MUST_CHECK;
/* False where a request asks for what is not offered here. */
bool openai_offered(const struct json *request, struct err *e) MUST_CHECK;
const struct model *openai_model(const struct openai *o);

/* ---- openai_model.c */

/* A model object's members; rev is what it stands at. */
void openai_put_model(jout *o, const char *id, const struct revision *rev);

/* ---- openai_answer.c */

enum step openai_step(struct work *w, struct session *s, struct err *e);
bool openai_finish(struct work *w, struct outcome *out, struct err *e);
/* One event of a stream. choice: a JSON object; ends: it is that choice's last, and says the view. */
void openai_chunk(struct openai *o, const char *choice, bool ends);
static inline const struct decode_result *openai_result(const struct openai *o, size_t choice)
{
    return generation_result(&o->generation, choice);
}
/* "text" of bytes, repaired to UTF-8. */
void openai_put_text(struct buf *out, const char *bytes, size_t len);

/* ---- openai_logprobs.c */

/* {"tokens","token_logprobs","top_logprobs","text_offset"} of a part; the prompt's where it is told. */
void openai_put_completion_logprobs(struct openai *o, const struct openai_part *p, struct buf *out);
/* {"content":[{"token","logprob","bytes","top_logprobs"}],"refusal":null} of a part. */
void openai_put_chat_logprobs(const struct openai *o, const struct openai_part *p, struct buf *out);

#endif
