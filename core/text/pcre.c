#include "pcre.h"

#include <assert.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/mem.h"

enum { MATCH_LIMIT = 50 * 1000 * 1000, HEAP_LIMIT_KIB = 512 * 1024 };

struct pattern {
    pcre2_code *code;
};
struct pattern_scan {
    const struct pattern *pattern;
    pcre2_match_data *data;
    pcre2_match_context *limits;
};

struct pattern *pattern_new(const char *regex, struct err *e)
{
    int number;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)regex, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &number,
                                     &offset, NULL);
    if (!code) {
        PCRE2_UCHAR why[128];
        (void)pcre2_get_error_message(number, why, sizeof why);
        (void)err_set(e, ERR_INTERNAL, "pattern does not compile at %zu: %s", (size_t)offset,
                      (const char *)why);
        return NULL;
    }
    struct pattern *p = mem_new(sizeof *p);
    p->code = code;
    return p;
}

void pattern_free(struct pattern *p)
{
    if (!p) return;
    pcre2_code_free(p->code);
    mem_drop(p);
}

struct pattern_scan *pattern_scan_new(const struct pattern *p, struct err *e)
{
    struct pattern_scan *s = mem_new(sizeof *s);
    *s = (struct pattern_scan){p, pcre2_match_data_create(1, NULL), pcre2_match_context_create(NULL)};
    if (!s->data || !s->limits) {
        pattern_scan_free(s);
        (void)err_set(e, ERR_NO_MEMORY, "no memory for a pattern search");
        return NULL;
    }
    (void)pcre2_set_match_limit(s->limits, MATCH_LIMIT);
    (void)pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
    return s;
}

void pattern_scan_free(struct pattern_scan *s)
{
    if (!s) return;
    pcre2_match_data_free(s->data);
    pcre2_match_context_free(s->limits);
    mem_drop(s);
}

bool pattern_next(struct pattern_scan *s, const char *text, size_t len, size_t from, size_t *start,
                  size_t *end, struct err *e)
{
    assert(from <= len);
    int n = pcre2_match(s->pattern->code, (PCRE2_SPTR)text, len, from,
                        PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, s->data, s->limits);
    *start = *end = len;
    if (n == PCRE2_ERROR_NOMATCH) return true;
    if (n == PCRE2_ERROR_NOMEMORY) return err_set(e, ERR_NO_MEMORY, "no memory for a pattern search");
    if (n < 0) return err_set(e, ERR_TOO_LARGE, "splitting the text takes too much work (%d)", n);
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(s->data);
    *start = ends[0];
    *end = ends[1];
    return true;
}
