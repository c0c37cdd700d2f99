/* Lists by pages: numbers of a query, and one row more than `limit` asked for, to know whether there is
 * a next page. Pure; any thread. */
#ifndef ENGRAM_PAGE_H
#define ENGRAM_PAGE_H

#include "answer.h"

struct page {
    const struct served *model; /* or NULL */
    jout *list;
    int64_t limit, n, last; /* last: what the next page comes before */
};

static inline int64_t query_number(const struct call *c, const char *key, int64_t otherwise)
{
    const struct json *v = json_get(c->query, key);
    return v ? v->integer : otherwise;
}

/* A row arrives: true when it is the one more. */
static inline bool page_full(struct page *p, int64_t at)
{
    if (p->n++ >= p->limit) return true;
    p->last = at;
    return false;
}

static inline void page_next(jout *o, const struct page *p)
{
    if (p->n > p->limit) jout_int(o, "next", p->last);
    else jout_null(o, "next");
}

/* GET of all that is stored of a kind, newest first: of the model asked for, or of none; put adds one row's members. */
bool page_stored(struct call *c, struct reply *r, const char *kind, bool of_model, const char *key,
                 bool (*put)(jout *o, const struct artefact_row *row, const char *model, struct err *e), struct err *e) MUST_CHECK;

#endif
