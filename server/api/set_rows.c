#include "set_rows.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json_write.h"
#include "shapes.h"
#include "spans.h"

/* ---- checking ---------------------------------------------------------------------------------------- */

/* An error of this line: the row's field, and where to look for it. */
static bool blame(const struct set_reader *r, struct err *e)
{
    char field[sizeof e->field], text[sizeof e->text];
    const char *member = e->field;
    (void)snprintf(field, sizeof field, "rows[%zu]%s%.100s", r->rows, *member ? "." : "", member);
    (void)snprintf(text, sizeof text, "line %zu: %.400s", r->line, e->text);
    memcpy(e->field, field, sizeof field);
    memcpy(e->text, text, sizeof text);
    return false;
}

static bool both_or_none(const struct json *row, const char *a, const char *b, struct err *e)
{
    bool has = json_get(row, a) != NULL;
    return has == (json_get(row, b) != NULL) ||
           err_field(e, ERR_INVALID, has ? b : a, "\"%s\" and \"%s\" come together", a, b);
}

/* Is it new? Then it is kept. */
static bool keep_name(struct set_reader *r, struct strmap *m, const struct json *text, const char **out, struct err *e)
{
    char *kept = arena_text(&r->names, text->text, text->len, e);
    if (kept) strmap_put(m, kept, text->len, (uint32_t)r->rows);
    *out = kept;
    return kept != NULL;
}

static bool check_id(struct set_reader *r, const struct json *id, struct err *e)
{
    uint32_t before;
    const char *kept;
    if (!id) return true;
    if (strmap_get(&r->ids, id->text, id->len, &before))
        return err_field(e, ERR_INVALID, "id", "\"%.64s\" is the id of rows[%u] already", id->text, before);
    return keep_name(r, &r->ids, id, &kept, e);
}

static bool note_span(struct set_reader *r, const char *name, struct err *e)
{
    uint32_t before;
    size_t len = strlen(name);
    const char *kept;
    if (strmap_get(&r->spans, name, len, &before)) return true;
    if (r->n_spans == SET_SPANS_MOST) return err_field(e, ERR_INVALID, "spans", "a set has at most %d names of spans", SET_SPANS_MOST);
    if (!keep_name(r, &r->spans, &(struct json){.text = name, .len = len}, &kept, e)) return false;
    r->span[r->n_spans++] = kept;
    return true;
}

static bool check_spans(struct set_reader *r, const struct json *row, struct err *e)
{
    const struct json *spans = json_get(row, "spans"), *subject = json_get(row, "subject");
    if (!spans_check(spans, "spans", e)) return false;
    for (const struct json *v = spans ? spans->child : NULL; v; v = v->next)
        if (!note_span(r, v->key, e)) return false;
    if (!subject) return true;
    const struct json *text = json_get(row, "prompt");
    if (!text) text = json_get(row, "text");
    if (!text) text = json_get(row, "clean");
    if (text && text->type == JSON_STRING && !strstr(text->text, subject->text)) r->n_strayed++;
    return note_span(r, "subject", e);
}

static void count_fields(struct set_reader *r, const struct json *row)
{
    static_assert(SET_FIELDS_MOST >= 20, "room for the fields of a row");
    assert(shape_SetRow.n_fields <= SET_FIELDS_MOST);
    for (size_t i = 0; i < shape_SetRow.n_fields; i++) r->count[i] += json_get(row, shape_SetRow.fields[i].name) != NULL;
}

static bool read_row(struct set_reader *r, const char *text, size_t len, struct arena *a, struct err *e)
{
    if (len > SET_LINE_MOST) return err_set(e, ERR_TOO_LARGE, "a row has at most %d bytes, not %zu", SET_LINE_MOST, len);
    const struct json *in = json_parse(text, len, a, e), *row;
    if (!in) return false;
    if (in->type != JSON_OBJECT) return err_set(e, ERR_INVALID, "a row is a JSON object");
    if (r->rows == SET_ROWS_MOST) return err_set(e, ERR_TOO_LARGE, "a set has at most %d rows", SET_ROWS_MOST);
    if (!validate(&shape_SetRow, in, a, &row, e) || !both_or_none(row, "clean", "corrupt", e) ||
        !both_or_none(row, "chosen", "rejected", e) || !check_id(r, json_get(row, "id"), e) || !check_spans(r, row, e))
        return false;
    count_fields(r, row);
    json_write(row, &r->out);
    buf_put(&r->out, "\n", 1);
    return buf_ok(&r->out, e);
}

/* ---- lines ------------------------------------------------------------------------------------------- */

static bool is_blank(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (text[i] != ' ' && text[i] != '\t' && text[i] != '\r') return false;
    return true;
}

static bool next_line(const struct buf *b, size_t *at, const char **line, size_t *len)
{
    if (*at >= b->len) return false;
    const char *start = b->data + *at, *end = memchr(start, '\n', b->len - *at);
    *line = start;
    *len = end ? (size_t)(end - start) : b->len - *at;
    *at += *len + (end != NULL);
    return true;
}

bool set_reader_init(struct set_reader *r, struct buf *in, struct err *e)
{
    size_t lines = 1;
    *r = (struct set_reader){.in = *in};
    *in = (struct buf){0};
    arena_init(&r->names, 0);
    for (size_t i = 0; i < r->in.len; i++) lines += r->in.data[i] == '\n';
    return strmap_init(&r->ids, lines < SET_ROWS_MOST ? lines : SET_ROWS_MOST, e) && strmap_init(&r->spans, SET_SPANS_MOST, e);
}

void set_reader_release(struct set_reader *r)
{
    buf_release(&r->in);
    buf_release(&r->out);
    strmap_release(&r->ids);
    strmap_release(&r->spans);
    arena_release(&r->names);
}

bool set_reader_step(struct set_reader *r, size_t bytes, bool *more, struct err *e)
{
    const char *line;
    size_t len, end = r->at + bytes;
    *more = true;
    while (*more && r->at < end) {
        *more = next_line(&r->in, &r->at, &line, &len);
        r->line++;
        if (!*more || is_blank(line, len)) continue;
        struct arena a;
        arena_init(&a, 0);
        bool ok = read_row(r, line, len, &a, e);
        arena_release(&a);
        if (!ok) return blame(r, e);
        r->rows++;
    }
    if (!*more && !r->rows) return err_field(e, ERR_INVALID, "rows", "a set has 1 to %d rows", SET_ROWS_MOST);
    return true;
}

void set_reader_summary(const struct set_reader *r, struct buf *out)
{
    bool first = true;
    buf_printf(out, "{\"rows\":%zu,\"fields\":{", r->rows);
    for (size_t i = 0; i < shape_SetRow.n_fields; i++) {
        if (!r->count[i]) continue;
        buf_printf(out, "%s\"%s\":%zu", first ? "" : ",", shape_SetRow.fields[i].name, r->count[i]);
        first = false;
    }
    buf_text(out, "},\"spans\":[");
    for (size_t i = 0; i < r->n_spans; i++) {
        if (i) buf_text(out, ",");
        json_write_text(out, r->span[i], strlen(r->span[i]));
    }
    buf_text(out, "]}");
}

/* ---- what was stored --------------------------------------------------------------------------------- */

bool set_rows_open(struct set_rows *s, struct ledger_reader *r, const char *id_or_name, struct err *e)
{
    *s = (struct set_rows){0};
    if (ledger_artefact(r, "set", NULL, id_or_name, &s->head, e) && ledger_artefact_content(r, &s->head, &s->bytes, e)) return true;
    set_rows_close(s);
    return false;
}

void set_rows_close(struct set_rows *s)
{
    artefact_row_release(&s->head);
    buf_release(&s->bytes);
}

bool set_rows_line(struct set_rows *s, const char **line, size_t *len)
{
    bool more = next_line(&s->bytes, &s->at, line, len);
    s->n += more;
    return more;
}

/* Looked at and let go: the rows of other splits may be many. */
static bool in_split(const struct set_rows *s, const char *line, size_t len, bool *wanted, struct err *e)
{
    struct arena a;
    arena_init(&a, 0);
    const struct json *v = json_parse(line, len, &a, e), *split = v ? json_get(v, "split") : NULL;
    *wanted = split && strcmp(split->text, s->split) == 0;
    arena_release(&a);
    return v || err_while(e, "reading row %zu of %s", s->n - 1, s->head.id);
}

bool set_rows_next(struct set_rows *s, struct arena *a, const struct json **row, struct err *e)
{
    const char *line;
    size_t len;
    *row = NULL;
    while (set_rows_line(s, &line, &len)) {
        bool wanted = true;
        if (s->split && !in_split(s, line, len, &wanted, e)) return false;
        if (!wanted) continue;
        *row = json_parse(line, len, a, e);
        return *row || err_while(e, "reading row %zu of %s", s->n - 1, s->head.id);
    }
    return true;
}
