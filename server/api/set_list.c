#include "set_list.h"

#include "place.h"
#include "set_rows.h"

/* What is being read: whose rows, and what errors call it. */
struct reading {
    struct set_rows rows;
    const struct set_need *need;
    const struct json *limit;
    const char *field; /* of the set */
};

static bool take_row(struct reading *r, const struct json *row, size_t n, struct buf *out, struct err *e)
{
    if (!r->need->fits(row)) return err_field(e, ERR_INVALID, r->field, "row %zu has %s", r->rows.n - 1, r->need->missing);
    if (n == r->need->most)
        return err_field(e, ERR_TOO_LARGE, r->field, "more than %zu rows; pick some by limit or split", r->need->most);
    buf_text(out, n ? "," : "");
    json_write(row, out);
    return true;
}

static bool join_rows(struct reading *r, struct buf *out, size_t *n, struct err *e)
{
    const struct json *row = NULL;
    struct arena a;
    bool ok = true;
    buf_text(out, "[");
    for (*n = 0; ok && (!r->limit || *n < (size_t)r->limit->integer); ++*n) {
        arena_init(&a, 0);
        ok = set_rows_next(&r->rows, &a, &row, e) && (!row || take_row(r, row, *n, out, e));
        arena_release(&a);
        if (!row) break;
    }
    buf_text(out, "]");
    return ok && buf_ok(out, e);
}

static bool list_of(struct look *l, struct call *c, const struct json *ref, const char *field, const struct set_need *need,
                    void (*named)(struct look *l, const struct artefact_row *row), const struct json **list, struct err *e)
{
    char at[128], of_split[128];
    struct buf text = {0};
    const struct json *split = json_get(ref, "split");
    struct reading r = {.need = need, .limit = json_get(ref, "limit"), .field = place_field(at, field, "set")};
    if (!set_rows_open(&r.rows, c->reader, json_get(ref, "set")->text, e)) return place_blame(e, r.field);
    r.rows.split = split ? split->text : NULL;
    named(l, &r.rows.head);
    size_t n = 0;
    bool ok = join_rows(&r, &text, &n, e);
    if (ok && !n)
        ok = err_field(e, ERR_INVALID, split ? place_field(of_split, field, "split") : r.field, "no row of %s is in it", r.rows.head.id);
    if (ok) ok = (*list = json_parse(text.data, text.len, &l->arena, e)) != NULL;
    buf_release(&text);
    set_rows_close(&r.rows);
    return ok;
}

bool set_list_of(struct look *l, struct call *c, const struct json *ref, const char *field, const struct set_need *need,
                 const struct json **list, struct err *e)
{
    return list_of(l, c, ref, field, need, look_uses, list, e);
}

bool set_list_read(struct look *l, struct call *c, const struct set_need *need, const struct json **list, struct err *e)
{
    const struct json *split = json_get(l->request, "split"), *limit = json_get(l->request, "limit");
    *list = NULL;
    if (json_get(l->request, "set")) return list_of(l, c, l->request, "", need, look_set, list, e);
    return (!split && !limit) || err_field(e, ERR_INVALID, split ? "split" : "limit", "picks rows of a set, and none is named");
}
