#include "pretokenize.h"

#include <assert.h>
#include <string.h>

#include "codepoint.h"

bool pretokenizer_init(struct pretokenizer *p, const struct pretokenize_plan *plan, struct err *e)
{
    *p = (struct pretokenizer){.plan = *plan};
    for (size_t i = 0; i < plan->n; i++) {
        const char *regex = split_regex(plan->split[i]);
        if (regex && !(p->pattern[i] = pattern_new(regex, e))) {
            pretokenizer_release(p);
            return false;
        }
    }
    return true;
}

void pretokenizer_release(struct pretokenizer *p)
{
    for (size_t i = 0; i < PRETOKENIZE_SPLITS; i++) pattern_free(p->pattern[i]);
    *p = (struct pretokenizer){0};
}

struct pretokenize_run {
    const struct pretokenizer *p;
    struct pattern_scan *scan[PRETOKENIZE_SPLITS];
    word_fn *word;
    void *context;
};

struct pretokenize_run *pretokenize_run_new(const struct pretokenizer *p, struct err *e)
{
    struct pretokenize_run *r = mem_new(sizeof *r);
    r->p = p;
    for (size_t i = 0; i < p->plan.n; i++)
        if (p->pattern[i] && !(r->scan[i] = pattern_scan_new(p->pattern[i], e))) {
            pretokenize_run_free(r);
            return NULL;
        }
    return r;
}

void pretokenize_run_free(struct pretokenize_run *r)
{
    if (!r) return;
    for (size_t i = 0; i < PRETOKENIZE_SPLITS; i++) pattern_scan_free(r->scan[i]);
    mem_drop(r);
}

/* A piece, twice: as it is, and as the patterns see it. The same length. */
struct piece {
    const char *own, *seen;
    size_t len;
};

static struct piece part(struct piece p, size_t start, size_t end)
{
    return (struct piece){p.own + start, p.seen + start, end - start};
}

static bool next_digits(struct piece p, size_t from, bool runs, size_t *start, size_t *end)
{
    *start = *end = p.len;
    for (size_t at = from, n; at < p.len; at += n) {
        uint32_t cp;
        n = cp_next(p.own + at, p.len - at, &cp);
        bool digit = cp_numeric(cp);
        if (*start == p.len && digit) *start = at;
        if (*start < p.len && (!runs || !digit)) {
            *end = runs ? at : at + n;
            return true;
        }
    }
    return true;
}

static bool next_match(struct pretokenize_run *r, size_t step, struct piece p, size_t from,
                       size_t *start, size_t *end, struct err *e)
{
    if (r->scan[step]) return pattern_next(r->scan[step], p.seen, p.len, from, start, end, e);
    return next_digits(p, from, r->p->plan.split[step] == SPLIT_DIGIT_RUN, start, end);
}

static bool split_from(struct pretokenize_run *r, size_t step, struct piece p, struct err *e);

static bool split_prefixed(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    struct buf own = {0}, seen = {0};
    buf_text(&own, " ");
    buf_put(&own, p.own, p.len);
    buf_text(&seen, " ");
    buf_put(&seen, p.seen, p.len);
    bool ok = buf_ok(&own, e) && buf_ok(&seen, e) &&
              split_from(r, step, (struct piece){own.data, seen.data, own.len}, e);
    buf_release(&own);
    buf_release(&seen);
    return ok;
}

static bool split_from(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    const struct pretokenize_plan *plan = &r->p->plan;
    if (p.len == 0) return true;
    if (plan->prefix_space && step == plan->prefix_from && p.own[0] != ' ')
        return split_prefixed(r, step, p, e);
    if (step == plan->n) return r->word(r->context, p.own, p.len, e);
    for (size_t at = 0, start, end; at < p.len; at = end) {
        if (!next_match(r, step, p, at, &start, &end, e)) return false;
        if (!split_from(r, step + 1, part(p, at, start), e)) return false;
        if (!split_from(r, step + 1, part(p, start, end), e)) return false;
    }
    return true;
}

/* The text with every young code point replaced by its stand-in, or left NULL when it has none. */
static bool stand_in_text(const char *text, size_t len, char **out, struct err *e)
{
    *out = NULL;
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t cp;
        n = cp_next(text + at, len - at, &cp);
        uint32_t other = cp < 0x80 ? cp : cp_stand_in(cp);
        if (other == cp) continue;
        if (!*out) {
            *out = mem_take(len, 1, e);
            if (!*out) return false;
            memcpy(*out, text, len);
        }
        char c[4];
        size_t m = cp_put(c, other);
        assert(m == n);
        memcpy(*out + at, c, m);
    }
    return true;
}

bool pretokenize(struct pretokenize_run *r, const char *text, size_t len, word_fn *word,
                 void *context, struct err *e)
{
    char *seen;
    r->word = word;
    r->context = context;
    if (!stand_in_text(text, len, &seen, e)) return false;
    bool ok = split_from(r, 0, (struct piece){text, seen ? seen : text, len}, e);
    mem_drop(seen);
    return ok;
}
