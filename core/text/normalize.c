#include "normalize.h"

#include <assert.h>
#include <string.h>

#include "codepoint.h"
#include "nfc.h"
#include "pcre.h"

static_assert((int)NORMAL_NFKD == (int)FORM_NFKD, "the forms lead the steps, in their order");

bool normalizer_init(struct normalizer *n, const struct normal_plan *plan, struct err *e)
{
    *n = (struct normalizer){.plan = *plan};
    for (size_t i = 0; i < plan->n; i++)
        if (plan->step[i].op == NORMAL_PATTERN &&
            !(n->pattern[i] = pattern_new(normal_regex(plan->step[i].pattern), e))) {
            normalizer_release(n);
            return false;
        }
    return true;
}

void normalizer_release(struct normalizer *n)
{
    for (size_t i = 0; i < NORMAL_STEPS; i++) pattern_free(n->pattern[i]);
    *n = (struct normalizer){0};
}

static void replace(const struct normal_step *s, const char *text, size_t len, struct buf *out)
{
    const char *end = text + len;
    for (const char *at = text;;) {
        const char *found = s->find_len == 1 ? memchr(at, s->find[0], (size_t)(end - at))
                                             : memmem(at, (size_t)(end - at), s->find, s->find_len);
        buf_put(out, at, (size_t)((found ? found : end) - at));
        if (!found) return;
        buf_put(out, s->put, s->put_len);
        at = found + s->find_len;
    }
}

static bool replace_matches(const struct normal_step *s, const struct pattern *p, const char *text,
                            size_t len, struct buf *out, struct err *e)
{
    char *seen;
    if (!cp_stand_in_text(text, len, &seen, e)) return false;
    struct pattern_scan *scan = pattern_scan_new(p, e);
    bool ok = scan != NULL;
    for (size_t at = 0, start, end; ok && at < len; at = end) {
        ok = pattern_next(scan, seen ? seen : text, len, at, &start, &end, e);
        if (!ok) break;
        buf_put(out, text + at, start - at);
        if (end > start) buf_put(out, s->put, s->put_len);
    }
    pattern_scan_free(scan);
    mem_drop(seen);
    return ok;
}

static void strip(const struct normal_step *s, const char *text, size_t len, bool joined, struct buf *out)
{
    size_t from = 0;
    uint32_t cp;
    for (size_t n; s->left && !joined && from < len; from += n) {
        n = cp_next(text + from, len - from, &cp);
        if (!cp_space(cp)) break;
    }
    while (s->right && len > from) {
        size_t n = cp_before(text, len, &cp);
        if (!cp_space(cp)) break;
        len -= n;
    }
    buf_put(out, text + from, len - from);
}

static bool run_step(const struct normalizer *n, size_t i, const char *text, size_t len, bool joined,
                     struct buf *out, struct err *e)
{
    const struct normal_step *s = &n->plan.step[i];
    switch ((enum normal_op)s->op) {
    case NORMAL_NFC:
    case NORMAL_NFD:
    case NORMAL_NFKC:
    case NORMAL_NFKD: return unicode_normal((enum unicode_form)s->op, text, len, out, e);
    case NORMAL_LOWER: unicode_lower(text, len, out); break;
    case NORMAL_PREPEND:
        if (len && !joined) buf_put(out, s->put, s->put_len);
        buf_put(out, text, len);
        break;
    case NORMAL_REPLACE: replace(s, text, len, out); break;
    case NORMAL_PATTERN: return replace_matches(s, n->pattern[i], text, len, out, e);
    case NORMAL_STRIP: strip(s, text, len, joined, out); break;
    }
    return true;
}

bool normalize(const struct normalizer *n, const char *text, size_t len, bool joined, struct buf *out,
               struct err *e)
{
    struct buf made = {0};
    bool ok = true;
    if (n->plan.n == 0) buf_put(out, text, len);
    for (size_t i = 0; ok && i < n->plan.n; i++) {
        struct buf next = {0}, *to = i + 1 < n->plan.n ? &next : out;
        ok = run_step(n, i, i ? (made.data ? made.data : "") : text, i ? made.len : len, joined, to, e) &&
             buf_ok(to, e);
        buf_release(&made);
        made = next;
    }
    buf_release(&made);
    return ok && buf_ok(out, e);
}
