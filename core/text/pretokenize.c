#include "pretokenize.h"

#include <assert.h>
#include <string.h>

#include "scan.h"

/* Patterns that match everywhere and are scanned by hand. */
static scan_fn *const scanners[SPLIT_COUNT] = {
    [SPLIT_GPT2] = scan_gpt2,   [SPLIT_LLAMA3] = scan_llama3, [SPLIT_QWEN2] = scan_qwen2,
    [SPLIT_GPT4O] = scan_gpt4o, [SPLIT_TEKKEN] = scan_tekken,
};

static scan_fn *scanner(const struct pretokenizer *p, size_t step)
{
    unsigned split = p->plan.split[step];
    return split < SPLIT_COUNT && !p->pattern[step] ? scanners[split] : NULL;
}

bool pretokenizer_init(struct pretokenizer *p, const struct pretokenize_plan *plan, bool by_pattern,
                       struct err *e)
{
    *p = (struct pretokenizer){.plan = *plan, .class_of = char_class_new(e)};
    bool ok = p->class_of != NULL;
    for (size_t i = 0; ok && i < plan->n; i++) {
        enum split_id split = (enum split_id)plan->split[i];
        const char *regex = split < SPLIT_COUNT ? split_regex(split) : NULL;
        if (!regex || (scanners[split] && !by_pattern)) continue;
        p->pattern[i] = pattern_new(regex, e);
        p->patterned = true;
        ok = p->pattern[i] != NULL;
    }
    if (!ok) pretokenizer_release(p);
    return ok;
}

void pretokenizer_release(struct pretokenizer *p)
{
    for (size_t i = 0; i < PRETOKENIZE_SPLITS; i++) pattern_free(p->pattern[i]);
    mem_drop(p->class_of);
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

/* A piece, twice: as it is, and as the patterns see it (NULL: nobody looks). The same length. */
struct piece {
    const char *own, *seen;
    size_t len;
    enum text_place place;
};

static struct piece part(struct piece p, size_t start, size_t end)
{
    return (struct piece){p.own + start, p.seen ? p.seen + start : NULL, end - start,
                          start == 0 ? p.place : TEXT_LATER};
}

/* ---- finding matches ------------------------------------------------------------------------- */

static void next_digits(const unsigned char *class_of, struct piece p, size_t from, bool runs,
                        size_t *start, size_t *end)
{
    *start = *end = p.len;
    for (size_t at = from, n; at < p.len; at += n) {
        uint32_t cp;
        n = cp_next(p.own + at, p.len - at, &cp);
        bool digit = class_of[cp] & CLASS_DIGIT;
        if (*start == p.len && digit) *start = at;
        if (*start < p.len && (!runs || !digit)) {
            *end = runs ? at : at + n;
            return;
        }
    }
}

static void next_text(const char *text, struct piece p, size_t from, size_t *start, size_t *end)
{
    size_t len = strlen(text);
    const char *found = memmem(p.own + from, p.len - from, text, len);
    *start = found ? (size_t)(found - p.own) : p.len;
    *end = found ? *start + len : p.len;
}

/* The first match at or after `from`; none: both ends are the piece's. */
static bool next_match(struct pretokenize_run *r, size_t step, struct piece p, size_t from,
                       size_t *start, size_t *end, struct err *e)
{
    const struct pretokenize_plan *plan = &r->p->plan;
    if (r->scan[step])
        return pattern_next(r->scan[step], p.seen, p.len, from, start, end, e);
    scan_fn *scan = scanner(r->p, step);
    if (scan) {
        const struct scan s = {r->p->class_of, p.own, p.len};
        *start = from;
        *end = from < p.len ? scan(&s, from) : from;
    } else if (plan->split[step] == SPLIT_TEXT) {
        next_text(plan->text[step], p, from, start, end);
    } else {
        next_digits(r->p->class_of, p, from, plan->split[step] == SPLIT_DIGIT_RUN, start, end);
    }
    return true;
}

/* ---- what becomes of them -------------------------------------------------------------------- */

static bool split_from(struct pretokenize_run *r, size_t step, struct piece p, struct err *e);

/* Matches and gaps arrive in order; one that may yet grow is held back. */
struct cutter {
    struct pretokenize_run *r;
    size_t step;
    struct piece p;
    size_t start, end; /* held; none where they are equal */
    bool matched;      /* the last one was a match */
};

static bool release(struct cutter *c, struct err *e)
{
    struct piece held = part(c->p, c->start, c->end);
    c->start = c->end;
    return held.len == 0 || split_from(c->r, c->step + 1, held, e);
}

/* Does the piece after the held one join it? */
static bool joins(const struct cutter *c, enum split_behavior behavior, bool match)
{
    switch (behavior) {
    case SPLIT_CONTIGUOUS: return match == c->matched;
    case SPLIT_WITH_PREVIOUS: return match && !c->matched;
    case SPLIT_WITH_NEXT: return !match && c->matched;
    default: return false;
    }
}

static bool cut(struct cutter *c, size_t start, size_t end, bool match, struct err *e)
{
    const struct pretokenize_plan *plan = &c->r->p->plan;
    enum split_behavior behavior = (enum split_behavior)plan->behavior[c->step];
    if (start == end) return true;
    match = match != plan->invert[c->step];
    if (c->end > c->start && joins(c, behavior, match)) {
        c->end = end;
    } else {
        if (!release(c, e)) return false;
        c->start = match && behavior == SPLIT_REMOVED ? end : start;
        c->end = end;
    }
    c->matched = match;
    return true;
}

static bool split_general(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    struct cutter c = {.r = r, .step = step, .p = p};
    for (size_t at = 0, start, end; at < p.len; at = end)
        if (!next_match(r, step, p, at, &start, &end, e) || !cut(&c, at, start, false, e) ||
            !cut(&c, start, end, true, e))
            return false;
    return release(&c, e);
}

/* Every piece stands alone: nothing need be held, and a scanner's matches have no gaps. */
static bool split_isolated(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    scan_fn *scan = scanner(r->p, step);
    const struct scan s = {r->p->class_of, p.own, p.len};
    bool last = step + 1 == r->p->plan.n && r->p->plan.prefix_from <= step;
    for (size_t at = 0, start, end; at < p.len; at = end) {
        if (scan)
            end = scan(&s, start = at);
        else if (!next_match(r, step, p, at, &start, &end, e) ||
                 !split_from(r, step + 1, part(p, at, start), e))
            return false;
        if (last ? end > start && !r->word(r->context, p.own + start, end - start, e)
                 : !split_from(r, step + 1, part(p, start, end), e))
            return false;
    }
    return true;
}

/* ---- prefixes -------------------------------------------------------------------------------- */

/* The piece with every space a mark, and a mark before it where one is wanted and none is. */
static void put_marked(const struct pretokenize_plan *plan, const char *text, size_t len, bool wanted,
                       struct buf *out)
{
    size_t from = out->len, mark = strlen(plan->mark);
    bool marked = len && (text[0] == ' ' || (len >= mark && memcmp(text, plan->mark, mark) == 0));
    if (wanted && !marked) buf_put(out, plan->mark, mark);
    for (const char *end = text + len; text < end;) {
        const char *space = memchr(text, ' ', (size_t)(end - text));
        buf_put(out, text, (size_t)((space ? space : end) - text));
        if (!space) break;
        buf_put(out, plan->mark, mark);
        text = space + 1;
    }
    assert(out->failed || out->len >= from);
}

static void put_prefixed(const struct pretokenize_plan *plan, const char *text, struct piece p,
                         struct buf *out)
{
    if (plan->mark_prefix != MARK_NONE) {
        bool wanted = (plan->mark_prefix == MARK_ALWAYS && p.place != TEXT_JOINED) ||
                      (plan->mark_prefix == MARK_FIRST && p.place == TEXT_FIRST);
        put_marked(plan, text, p.len, wanted, out);
        return;
    }
    if (p.own[0] != ' ') buf_text(out, " ");
    buf_put(out, text, p.len);
}

static bool split_at(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    const struct pretokenize_plan *plan = &r->p->plan;
    if (step == plan->n) return r->word(r->context, p.own, p.len, e);
    bool isolated = plan->behavior[step] == SPLIT_ISOLATED;
    return isolated ? split_isolated(r, step, p, e) : split_general(r, step, p, e);
}

static bool split_prefixed(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    struct buf own = {0}, seen = {0};
    put_prefixed(&r->p->plan, p.own, p, &own);
    if (p.seen) put_prefixed(&r->p->plan, p.seen, p, &seen);
    bool ok = buf_ok(&own, e) && buf_ok(&seen, e) &&
              split_at(r, step, (struct piece){own.data, p.seen ? seen.data : NULL, own.len, p.place}, e);
    buf_release(&own);
    buf_release(&seen);
    return ok;
}

static bool split_from(struct pretokenize_run *r, size_t step, struct piece p, struct err *e)
{
    const struct pretokenize_plan *plan = &r->p->plan;
    if (p.len == 0) return true;
    bool prefixed = plan->mark_prefix != MARK_NONE ||
                    (plan->prefix_space && p.own[0] != ' ' && p.place != TEXT_JOINED);
    if (prefixed && step == plan->prefix_from) return split_prefixed(r, step, p, e);
    return split_at(r, step, p, e);
}

bool pretokenize(struct pretokenize_run *r, const char *text, size_t len, enum text_place place,
                 word_fn *word, void *context, struct err *e)
{
    char *seen = NULL;
    r->word = word;
    r->context = context;
    if (r->p->patterned && !cp_stand_in_text(text, len, &seen, e)) return false;
    const char *shown = seen ? seen : r->p->patterned ? text : NULL;
    if (place == TEXT_JOINED && r->p->plan.prefix_from > 0) place = TEXT_LATER; /* a cut's, wherever that falls */
    bool ok = split_from(r, 0, (struct piece){text, shown, len, place}, e);
    mem_drop(seen);
    return ok;
}
