#include "set_list.h"

#include "place.h"
#include "set_rows.h"

static bool has_one(const struct json *row, const struct set_need *need)
{
    for (size_t i = 0; i < 3 && need->one_of[i]; i++)
        if (json_get(row, need->one_of[i])) return true;
    return false;
}

static bool join_rows(struct set_rows *s, const struct json *limit, const struct set_need *need, struct buf *out, size_t *n, struct err *e)
{
    const struct json *row;
    struct arena a;
    bool ok = true;
    buf_text(out, "[");
    for (*n = 0; ok && (!limit || *n < (size_t)limit->integer); ++*n) {
        arena_init(&a, 0);
        ok = set_rows_next(s, &a, &row, e);
        if (ok && row && !has_one(row, need)) ok = err_field(e, ERR_INVALID, "set", "row %zu has %s", s->n - 1, need->missing);
        if (ok && row && *n == need->most)
            ok = err_field(e, ERR_TOO_LARGE, "set", "more than %zu rows; pick some by limit or split", need->most);
        if (ok && row) {
            buf_text(out, *n ? "," : "");
            json_write(row, out);
        }
        arena_release(&a);
        if (!row) break;
    }
    buf_text(out, "]");
    return ok && buf_ok(out, e);
}

bool set_list_read(struct look *l, struct call *c, const struct set_need *need, const struct json **list, struct err *e)
{
    struct set_rows s;
    struct buf text = {0};
    const struct json *q = l->request, *name = json_get(q, "set"), *split = json_get(q, "split"), *limit = json_get(q, "limit");
    *list = NULL;
    if (!name) {
        if (!split && !limit) return true;
        return err_field(e, ERR_INVALID, split ? "split" : "limit", "picks rows of a set, and none is named");
    }
    if (!set_rows_open(&s, c->reader, name->text, e)) return place_blame(e, "set");
    s.split = split ? split->text : NULL;
    look_set(l, &s.head);
    size_t n = 0;
    bool ok = join_rows(&s, limit, need, &text, &n, e);
    if (ok && !n) ok = err_field(e, ERR_INVALID, split ? "split" : "set", "no row of %s is in it", s.head.id);
    if (ok) ok = (*list = json_parse(text.data, text.len, &l->arena, e)) != NULL;
    buf_release(&text);
    set_rows_close(&s);
    return ok;
}
