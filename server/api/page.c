#include "page.h"

#include "server/served.h"

struct stored {
    struct page page;
    bool (*put)(jout *o, const struct artefact_row *row, const char *model, struct err *e);
};

static void one(void *ctx, const struct artefact_row *row)
{
    struct stored *s = ctx;
    struct err ignored; /* a row whose summary is none is listed without */
    if (!page_full(&s->page, row->chain_seq))
        (void)s->put(jout_put_object(s->page.list, NULL), row, s->page.model ? s->page.model->name : NULL, &ignored);
}

bool page_stored(struct call *c, struct reply *r, const char *kind, bool of_model, const char *key,
                 bool (*put)(jout *o, const struct artefact_row *row, const char *model, struct err *e), struct err *e)
{
    const struct served *m = of_model ? call_served(c, c->query, e) : NULL;
    if (of_model && !m) return false;
    jout *o = jout_object();
    struct stored s = {.page = {.model = m, .list = jout_put_array(o, key), .limit = query_number(c, "limit", 50)}, .put = put};
    if (ledger_artefacts(c->reader, kind, m ? m->row.id : NULL, (int)s.page.limit + 1, query_number(c, "before", 0), one, &s, e)) {
        page_next(o, &s.page);
        return answer_reply(r, o, e);
    }
    jout_free(o);
    return false;
}
