/* Log-probabilities in the two shapes of OpenAI's protocol. */
#include <string.h>

#include "core/base/json_write.h"
#include "core/text/codepoint.h"
#include "openai.h"
#include "server/quote.h"

struct place { /* a token and what is known of it */
    uint32_t id;
    const double *value;       /* NULL: nothing, it is the first */
    const struct logprob *top;
    uint32_t n_top;
};

static struct place place_of(uint32_t id, const struct logprobs *l, size_t i)
{
    return (struct place){id, &l->value[i], logprobs_top(l, i), l->n_top};
}

static void put_number(struct buf *out, double v)
{
    char text[32];
    f64_text(v, text);
    buf_text(out, text);
}

static void comma(struct buf *out, bool first)
{
    if (!first) buf_text(out, ",");
}

/* ---- completions: four lists ------------------------------------------------------------------- */

struct lists {
    const struct model *model;
    struct buf token, value, top, offset;
    size_t n;
};

/* A token that is part of a character has its bytes for a name: names must tell tokens apart. */
static void put_name(struct buf *out, const struct model *m, uint32_t id)
{
    size_t len, bad;
    const char *piece = tokenizer_piece(m->tokenizer, id, &len);
    if (utf8_valid(piece, len, &bad)) {
        json_write_text(out, piece, len);
        return;
    }
    buf_text(out, "\"bytes:");
    for (size_t i = 0; i < len; i++) buf_printf(out, "\\\\x%02x", (unsigned char)piece[i]);
    buf_text(out, "\"");
}

static bool same_name(const struct model *m, uint32_t a, uint32_t b)
{
    size_t n, k;
    const char *x = tokenizer_piece(m->tokenizer, a, &n), *y = tokenizer_piece(m->tokenizer, b, &k);
    return a == b || (n == k && memcmp(x, y, n) == 0);
}

static void put_alternative(struct lists *l, uint32_t id, double value, bool first)
{
    comma(&l->top, first);
    put_name(&l->top, l->model, id);
    buf_text(&l->top, ":");
    put_number(&l->top, value);
}

/* The likeliest, then the token itself where it is not among them. Of tokens with one name, the
 * likeliest stands for all, except that the token itself always stands. */
static void put_alternatives(struct lists *l, const struct place *p)
{
    bool first = true, seen = false;
    buf_text(&l->top, "{");
    for (uint32_t k = 0; k < p->n_top; k++) {
        uint32_t id = p->top[k].id;
        bool twin = id != p->id && same_name(l->model, id, p->id);
        for (uint32_t j = 0; j < k && !twin; j++) twin = same_name(l->model, id, p->top[j].id);
        if (twin) continue;
        put_alternative(l, id, p->top[k].value, first);
        first = false;
        seen = seen || id == p->id;
    }
    if (!seen) put_alternative(l, p->id, *p->value, first);
    buf_text(&l->top, "}");
}

static void add(struct lists *l, const struct place *p, size_t offset)
{
    struct buf *const all[] = {&l->token, &l->value, &l->top, &l->offset};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) comma(all[i], l->n == 0);
    l->n++;
    put_name(&l->token, l->model, p->id);
    buf_printf(&l->offset, "%zu", offset);
    if (p->value) {
        put_number(&l->value, *p->value);
        put_alternatives(l, p);
    } else {
        buf_text(&l->value, "null");
        buf_text(&l->top, "null");
    }
}

/* Characters that the bytes show as, broken ones repaired. */
static size_t count(const char *text, size_t len)
{
    size_t n = 0;
    struct buf whole = {0};
    if (len) utf8_repair(text, len, &whole);
    for (size_t i = 0; i < whole.len; i++) n += ((unsigned char)whole.data[i] & 0xC0) != 0x80;
    buf_release(&whole);
    return n;
}

/* Characters before byte `to` of text; one that is cut there counts. *c moves on behind the last
 * whole one, so that a text is counted once. */
static size_t chars_before(struct openai_chars *c, const char *text, size_t to)
{
    size_t open = to > c->bytes ? utf8_open(text + c->bytes, to - c->bytes) : 0;
    c->chars += count(text + c->bytes, to - open - c->bytes);
    c->bytes = to - open;
    return c->chars + (open ? 1 : 0);
}

/* A token added in front has no place in the text. */
static void add_prompt(const struct openai *o, const struct openai_part *p, struct lists *l)
{
    size_t number = p->choice / o->n;
    const struct input *in = &o->prompt[number];
    const struct logprobs *known = &openai_result(o, number * o->n)->prompt;
    struct openai_chars counted = {0};
    struct buf text = {0};
    buf_text(&text, "");
    for (size_t i = 0; i < in->n; i++) {
        struct place place = i ? place_of(in->ids[i], known, i - 1) : (struct place){.id = in->ids[0]};
        size_t len;
        const char *piece = tokenizer_piece(l->model->tokenizer, in->ids[i], &len);
        add(l, &place, text.failed ? 0 : chars_before(&counted, text.data, text.len));
        if (i || !in->bos_added) buf_put(&text, piece, len);
    }
    l->token.failed |= text.failed;
    buf_release(&text);
}

static void add_tokens(struct openai *o, const struct openai_part *p, size_t prompt_chars, struct lists *l)
{
    const struct decode_result *r = openai_result(o, p->choice);
    for (size_t i = p->from; i < p->to; i++) {
        struct place place = place_of(r->ids.id[i], &r->tokens, i);
        const char *text = r->text.data ? r->text.data : "";
        add(l, &place, prompt_chars + chars_before(&o->choice[p->choice].counted, text, i ? r->ends.id[i - 1] : 0));
    }
}

void openai_put_completion_logprobs(struct openai *o, const struct openai_part *p, struct buf *out)
{
    struct lists l = {.model = openai_model(o)};
    const struct input *prompt = &o->prompt[p->choice / o->n];
    if (p->first && o->echo) add_prompt(o, p, &l);
    add_tokens(o, p, o->echo ? count(prompt->text, prompt->text_len) : 0, &l);
    struct { const char *name; struct buf *list; } all[] = {
        {"{\"tokens\":[", &l.token}, {"],\"token_logprobs\":[", &l.value},
        {"],\"top_logprobs\":[", &l.top}, {"],\"text_offset\":[", &l.offset}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        buf_text(out, all[i].name);
        if (all[i].list->len) buf_put(out, all[i].list->data, all[i].list->len);
        out->failed |= all[i].list->failed;
        buf_release(all[i].list);
    }
    buf_text(out, "]}");
}

/* ---- chats: a list of objects ------------------------------------------------------------------ */

static void put_token(struct buf *out, const struct model *m, uint32_t id, double value)
{
    size_t len;
    const char *piece = tokenizer_piece(m->tokenizer, id, &len);
    buf_text(out, "{\"token\":");
    openai_put_text(out, piece, len);
    buf_text(out, ",\"logprob\":");
    put_number(out, value);
    buf_text(out, ",\"bytes\":[");
    for (size_t i = 0; i < len; i++) buf_printf(out, i ? ",%u" : "%u", (unsigned char)piece[i]);
    buf_text(out, "]");
}

void openai_put_chat_logprobs(const struct openai *o, const struct openai_part *p, struct buf *out)
{
    const struct decode_result *r = openai_result(o, p->choice);
    const struct model *m = openai_model(o);
    buf_text(out, "{\"content\":[");
    for (size_t i = p->from; i < p->to; i++) {
        const struct logprob *top = logprobs_top(&r->tokens, i);
        comma(out, i == p->from);
        put_token(out, m, r->ids.id[i], r->tokens.value[i]);
        buf_text(out, ",\"top_logprobs\":[");
        for (uint32_t k = 0; k < r->tokens.n_top; k++) {
            comma(out, k == 0);
            put_token(out, m, top[k].id, top[k].value);
            buf_text(out, "}");
        }
        buf_text(out, "]}");
    }
    buf_text(out, "],\"refusal\":null}");
}
