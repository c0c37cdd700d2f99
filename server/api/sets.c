/* Sets of rows: POST /v1/sets, GET /v1/sets, GET /v1/sets/{set}. See set_rows.h for what a row is. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "answer.h"
#include "handlers.h"
#include "page.h"
#include "set_rows.h"

struct set_work {
    struct work work;
    struct set_reader reader;
    struct buf summary;
    char name[NAME_TEXT];
};

static struct set_work *of(struct work *w) { return (struct set_work *)w; }

static void set_work_free(struct work *w)
{
    set_reader_release(&of(w)->reader);
    buf_release(&of(w)->summary);
    lease_give(&w->lease);
    mem_drop(w);
}

static enum step set_work_step(struct work *w, struct session *s, struct err *e)
{
    enum { PIECE = 512 << 10 };
    struct set_reader *r = &of(w)->reader;
    bool more;
    (void)s;
    if (!set_reader_step(r, PIECE, &more, e)) return STEP_FAIL;
    w->done = (int64_t)r->at;
    w->total = (int64_t)r->in.len;
    return more ? STEP_MORE : STEP_DONE;
}

static void put_name(jout *o, const char *name) { jout_text(o, "name", *name ? name : NULL); }

static bool named(struct work *w, const char *id, bool known, struct buf *body, struct err *e)
{
    const struct set_reader *r = &of(w)->reader;
    uint8_t hash[SHA256_BYTES];
    char digest[DIGEST_TEXT], text[160];
    (void)known;
    sha256(r->out.data, r->out.len, hash);
    digest_text(hash, digest);
    jout *o = jout_object();
    jout_text(o, "set", id);
    put_name(o, of(w)->name);
    jout_text(o, "hash", digest);
    jout_int(o, "bytes", (int64_t)r->out.len);
    bool ok = answer_text(o, of(w)->summary.data, of(w)->summary.len, e);
    jout *warnings = jout_put_array(o, "warnings");
    if (r->n_strayed) {
        (void)snprintf(text, sizeof text, "subject-absent: in %zu of %zu rows the subject does not occur in the text", r->n_strayed,
                       r->rows);
        jout_text(warnings, NULL, text);
    }
    ok = ok && jout_print(o, body, e);
    jout_free(o);
    return ok;
}

static bool set_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct set_work *s = of(w);
    set_reader_summary(&s->reader, &s->summary);
    if (!buf_ok(&s->summary, e)) return false;
    o->record = RECORD_ARTEFACT;
    o->artefact = (struct artefact){.kind = "set", .name = s->name, .summary = s->summary.data,
                                    .content = s->reader.out.data, .len = s->reader.out.len};
    o->named = named;
    return true;
}

static const struct work_ops ops = {
    .kind = "set", .unit = "bytes", .brief = true,
    .step = set_work_step, .finish = set_work_finish, .free = set_work_free,
};

/* Rows in a JSON body go the way of lines, so that there is one form. */
static bool take_lines(struct call *c, struct buf *in, struct err *e)
{
    if (c->lines) {
        *in = *c->lines;
        *c->lines = (struct buf){0};
        return true;
    }
    for (const struct json *v = json_get(c->body, "rows")->child; v; v = v->next) {
        json_write(v, in);
        buf_put(in, "\n", 1);
    }
    return buf_ok(in, e);
}

static bool take_name(const struct call *c, char out[NAME_TEXT], struct err *e)
{
    const struct json *asked = json_get(c->query, "name"), *said = json_get(c->body, "name");
    if (asked && said && strcmp(asked->text, said->text) != 0)
        return err_field(e, ERR_INVALID, "name", "the query says \"%.64s\" and the body \"%.64s\"", asked->text, said->text);
    if (asked || said) (void)snprintf(out, NAME_TEXT, "%s", (asked ? asked : said)->text);
    return !*out || ledger_artefact_name("set", out, "name", e);
}

static bool prepare(struct set_work *s, struct call *c, struct err *e)
{
    struct plan plan = {0};
    struct buf in = {0};
    s->work.ops = &ops;
    s->work.daemon = c->daemon;
    if (!take_name(c, s->name, e)) return false;
    if (!take_lines(c, &in, e)) {
        buf_release(&in);
        return false;
    }
    /* What came, what is kept (grown by doubling), ids and their table, one line's tree. */
    plan_add(&plan, NEED_REQUEST, plan_times(in.len + 4096, 8));
    bool ok = daemon_lease(c->daemon, &plan, &s->work.lease, e) && set_reader_init(&s->reader, &in, e);
    buf_release(&in);
    return ok;
}

struct work *api_set_add(struct call *c, struct err *e)
{
    struct set_work *s = mem_new(sizeof *s);
    if (prepare(s, c, e)) return &s->work;
    set_work_free(&s->work);
    return NULL;
}

/* ---- reading ------------------------------------------------------------------------------------------ */

static bool put_head(jout *o, const struct artefact_row *row, const char *model, struct err *e)
{
    (void)model; /* sets are of none */
    jout_text(o, "set", row->id);
    put_name(o, row->name);
    jout_text(o, "hash", row->hash);
    jout_int(o, "bytes", row->size);
    answer_stored(o, row);
    return answer_text(o, row->summary, strlen(row->summary), e);
}

bool api_sets(struct call *c, struct reply *r, struct err *e) { return page_stored(c, r, "set", false, "sets", put_head, e); }

static void put_rows(const struct call *c, struct set_rows *s, jout *o)
{
    size_t from = (size_t)query_number(c, "from", 0), limit = (size_t)query_number(c, "limit", 50), len;
    const char *line;
    struct buf one = {0};
    jout *list = jout_put_array(o, "items");
    while (s->n < from + limit && set_rows_line(s, &line, &len)) {
        if (s->n <= from) continue;
        one.len = 0;
        buf_put(&one, line, len);
        if (!one.failed) jout_raw(list, NULL, one.data);
    }
    buf_release(&one);
    if (s->n == from + limit && s->at < s->bytes.len) jout_int(o, "next", (int64_t)s->n);
    else jout_null(o, "next");
}

bool api_set_get(struct call *c, struct reply *r, struct err *e)
{
    struct set_rows s;
    if (!set_rows_open(&s, c->reader, c->param[0], e)) return false;
    if (strcasestr(c->accept, "application/x-ndjson")) {
        r->content_type = "application/x-ndjson";
        r->body = s.bytes;
        s.bytes = (struct buf){0};
        set_rows_close(&s);
        return true;
    }
    jout *o = jout_object();
    bool ok = put_head(o, &s.head, NULL, e);
    if (ok && query_number(c, "rows", 0)) put_rows(c, &s, o);
    set_rows_close(&s);
    if (ok) return answer_reply(r, o, e);
    jout_free(o);
    return false;
}
