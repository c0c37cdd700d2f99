/* From a decoder's results to answers and streams of OpenAI's protocol. */
#include <string.h>

#include "answer.h"
#include "core/text/codepoint.h"
#include "openai.h"

void openai_put_text(struct buf *out, const char *bytes, size_t len)
{
    struct buf whole = {0};
    utf8_repair(bytes, len, &whole);
    out->failed |= whole.failed;
    json_write_text(out, whole.data ? whole.data : "", whole.len);
    buf_release(&whole);
}

/* ---- parts ------------------------------------------------------------------------------------- */

static size_t begin_of(const struct decode_result *r, size_t token) { return token ? r->ends.id[token - 1] : 0; }

/* Tokens that are told with the first `safe` bytes of the text: wholly in them or, once a text is
 * over, beginning in them. Those of a stop string that was cut off are not told. */
static size_t tokens_within(const struct decode_result *r, size_t safe, size_t told)
{
    bool over = r->finish != FINISH_NOT_YET;
    size_t n = told;
    while (n < r->ids.n && (r->ends.id[n] <= safe || (over && begin_of(r, n) < safe))) n++;
    return n;
}

static const char *why(enum finish f) { return f == FINISH_LENGTH ? "length" : "stop"; }

/* What is new of a choice; false for nothing that would be worth telling. */
static bool next_part(const struct openai *o, size_t i, struct openai_part *p)
{
    const struct decode_result *r = openai_result(o, i);
    const struct openai_choice *c = &o->choice[i];
    bool last = r->finish != FINISH_NOT_YET;
    if (c->ended || (!last && r->ids.n == c->tokens)) return false;
    size_t safe = decode_safe(o->generation.decoder, i);
    if (safe < c->text) safe = c->text;
    *p = (struct openai_part){.choice = i, .first = !c->begun, .last = last, .text = r->text.data ? r->text.data + c->text : "",
                              .len = safe - c->text, .from = c->tokens, .to = tokens_within(r, safe, c->tokens),
                              .finish = last ? why(r->finish) : NULL};
    return last || p->len;
}

static void told(struct openai *o, const struct openai_part *p)
{
    struct openai_choice *c = &o->choice[p->choice];
    c->begun = true;
    c->ended = p->last;
    c->text += p->len;
    c->tokens = p->to;
}

/* ---- envelopes --------------------------------------------------------------------------------- */

static void put_usage(const struct openai *o, jout *root)
{
    int64_t prompt = 0, generated = (int64_t)decoder_tokens(o->generation.decoder);
    for (size_t i = 0; i < o->n_prompts; i++) prompt += (int64_t)o->prompt[i].n;
    jout *usage = jout_put_object(root, "usage");
    jout_int(usage, "prompt_tokens", prompt);
    jout_int(usage, "completion_tokens", generated);
    jout_int(usage, "total_tokens", prompt + generated);
}

static jout *envelope(const struct openai *o, const char *object, const char *choices)
{
    jout *root = jout_object();
    jout_text(root, "id", o->id);
    jout_text(root, "object", object);
    jout_int(root, "created", o->created_s);
    jout_text(root, "model", o->model);
    jout_text(root, "system_fingerprint", o->view.digest);
    jout_raw(root, "choices", choices);
    return root;
}

/* Takes root. */
static void emit(struct openai *o, jout *root)
{
    struct buf data = {0};
    struct err e = {0};
    if (jout_print(root, &data, &e)) work_emit(&o->work, "chunk", data.data);
    jout_free(root);
    buf_release(&data);
}

void openai_chunk(struct openai *o, const char *choice, bool ends)
{
    struct buf list = {0};
    buf_printf(&list, "[%s]", choice);
    jout *root = envelope(o, o->form->chunk_object, list.failed ? "[]" : list.data);
    if (o->usage) jout_null(root, "usage");
    if (ends) answer_view(root, "view", &o->view);
    emit(o, root);
    buf_release(&list);
}

/* ---- the work's functions ---------------------------------------------------------------------- */

enum step openai_step(struct work *w, struct session *s, struct err *e)
{
    struct openai *o = (struct openai *)w;
    enum step step = generation_step(&o->generation, w, o->view.view, NULL, s, e);
    if (step == STEP_FAIL || !w->stream) return step;
    struct openai_part p;
    for (size_t i = 0; i < o->generation.n; i++)
        if (next_part(o, i, &p)) {
            o->form->tell(o, &p);
            told(o, &p);
        }
    return step;
}

/* Every choice in one part, as if nothing had been told. */
static void put_choices(struct openai *o, struct buf *out)
{
    memset(o->choice, 0, o->generation.n * sizeof *o->choice);
    buf_text(out, "[");
    for (size_t i = 0; i < o->generation.n; i++) {
        struct openai_part p;
        if (!next_part(o, i, &p)) continue;
        buf_printf(out, "%s{\"index\":%zu,", i ? "," : "", i);
        o->form->put_whole(o, &p, out);
        buf_text(out, "}");
    }
    buf_text(out, "]");
}

bool openai_finish(struct work *w, struct outcome *out, struct err *e)
{
    struct openai *o = (struct openai *)w;
    struct buf choices = {0};
    if (w->stream && o->usage) {
        jout *last = envelope(o, o->form->chunk_object, "[]");
        put_usage(o, last);
        emit(o, last);
    }
    put_choices(o, &choices);
    bool ok = buf_ok(&choices, e);
    jout *root = envelope(o, o->form->object, ok ? choices.data : "[]");
    put_usage(o, root);
    answer_view(root, "view", &o->view);
    out->status = 200;
    out->record = RECORD_NOTHING;
    ok = ok && jout_print(root, &out->body, e);
    jout_free(root);
    buf_release(&choices);
    return ok;
}
