#include "special.h"

#include <assert.h>
#include <string.h>

#include "codepoint.h"

bool special_set_init(struct special_set *s, size_t max, struct err *e)
{
    *s = (struct special_set){.token = mem_take(max, sizeof *s->token, e)};
    return s->token != NULL;
}

void special_set_release(struct special_set *s)
{
    mem_drop(s->token);
    *s = (struct special_set){0};
}

void special_set_add(struct special_set *s, const struct special *token)
{
    if (token->len) s->token[s->n++] = *token;
}

static int by_spelling(const void *a, const void *b)
{
    const struct special *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);
    if (order) return order;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

void special_set_finish(struct special_set *s)
{
    if (s->n) qsort(s->token, s->n, sizeof *s->token, by_spelling);
    for (size_t i = 0; i < s->n; i++) {
        const struct special *t = &s->token[i];
        unsigned first = (unsigned char)t->text[0], second = t->len > 1 ? (unsigned char)t->text[1] : 0;
        s->starts[first] = true;
        s->any_special = s->any_special || t->special;
        for (unsigned b = t->len > 1 ? second : 0; b <= (t->len > 1 ? second : 255); b++)
            s->follows[(first << 8 | b) / 64] |= (uint64_t)1 << (b % 64);
    }
}

/* Can a token begin here? The text goes on for at least one byte. */
static inline bool may_begin(const struct special_set *s, const char *text, size_t left)
{
    unsigned first = (unsigned char)text[0];
    if (!s->starts[first]) return false;
    unsigned both = first << 8 | (left > 1 ? (unsigned char)text[1] : 0);
    return left == 1 || (s->follows[both / 64] >> (both % 64) & 1);
}

/* The part of [low, high) whose byte at `depth` is `byte`; all agree on the bytes before it. */
static void narrow(const struct special_set *s, size_t depth, unsigned char byte, size_t *low,
                   size_t *high)
{
    size_t ends[2];
    for (int k = 0; k < 2; k++) { /* the first token past `byte - 1`, then the first past `byte` */
        size_t a = *low, b = *high;
        while (a < b) {
            size_t mid = a + (b - a) / 2;
            const struct special *t = &s->token[mid];
            int c = depth < t->len ? (unsigned char)t->text[depth] : -1;
            if (c < byte + k)
                a = mid + 1;
            else
                b = mid;
        }
        ends[k] = a;
    }
    *low = ends[0];
    *high = ends[1];
}

/* The longest token at the start of text, or NULL. Of equal spellings the highest id. */
static const struct special *longest(const struct special_set *s, const char *text, size_t len)
{
    const struct special *best = NULL;
    size_t low = 0, high = s->n;
    for (size_t depth = 0; depth < len && low < high; depth++) {
        narrow(s, depth, (unsigned char)text[depth], &low, &high);
        while (low < high && s->token[low].len == depth + 1) best = &s->token[low++];
    }
    return best;
}

static bool alone(const char *text, size_t len, size_t start, size_t end)
{
    uint32_t cp;
    if (start > 0 && (cp_before(text, start, &cp), cp_word(cp))) return false;
    return end == len || (cp_next(text + end, len - end, &cp), !cp_word(cp));
}

static size_t strip_left(const char *text, size_t start)
{
    uint32_t cp;
    while (start > 0) {
        size_t n = cp_before(text, start, &cp);
        if (!cp_space(cp)) break;
        start -= n;
    }
    return start;
}

static size_t strip_right(const char *text, size_t len, size_t end)
{
    uint32_t cp;
    while (end < len) {
        size_t n = cp_next(text + end, len - end, &cp);
        if (!cp_space(cp)) break;
        end += n;
    }
    return end;
}

struct cut {
    const char *text;
    size_t len, at, done; /* what follows `done` is not handed out yet */
    const struct special_sink *sink;
};

static bool take(struct cut *c, const struct special *t, size_t start, struct err *e)
{
    size_t end = start + t->len;
    if (t->single_word && !alone(c->text, c->len, start, end)) return true;
    if (t->lstrip) start = strip_left(c->text, start);
    if (t->rstrip) end = strip_right(c->text, c->len, end);
    if (start > c->done && !c->sink->text(c->sink->context, c->text + c->done, start - c->done,
                                          c->at + c->done, e))
        return false;
    c->done = end; /* as the reference: a token inside swallowed white space steps back */
    return c->sink->token(c->sink->context, t->id, e);
}

bool special_cut(const struct special_set *s, const char *text, size_t len,
                 const struct section *sections, size_t at, const struct special_sink *sink,
                 struct err *e)
{
    struct cut c = {text, len, at, 0, sink};
    for (size_t i = 0; s->n && i < len;) {
        while (sections->end <= at + i) sections++;
        size_t limit = sections->end - at < len ? sections->end - at : len;
        const struct special *t =
            may_begin(s, text + i, limit - i) ? longest(s, text + i, limit - i) : NULL;
        if (!t) {
            i++;
            continue;
        }
        if ((!t->special || sections->parse_special) && !take(&c, t, i, e)) return false;
        i += t->len;
    }
    return c.done == len || sink->text(sink->context, text + c.done, len - c.done, at + c.done, e);
}

bool special_ends_generation(const char *text, size_t len)
{
    static const char *const enders[] = {
        "<|endoftext|>", "<|im_end|>",  "<|eot_id|>",          "<|eom_id|>", "<|end_of_text|>",
        "<|end|>",       "</s>",        "<end_of_turn>",       "<eos>",      "<EOT>",
        "[EOS]",         "[EOT]",       "<end_of_utterance>",  "<|return|>", "<|call|>",
        "<\uFF5Cend\u2581of\u2581sentence\uFF5C>",
    };
    for (size_t i = 0; i < sizeof enders / sizeof *enders; i++)
        if (strlen(enders[i]) == len && memcmp(enders[i], text, len) == 0) return true;
    return false;
}
