#include "train_rows.h"

#include <stdio.h>
#include <string.h>

#include "facts.h"
#include "place.h"
#include "set_rows.h"

enum { MOST_ROWS = 1024 };

/* ---- rows, of the request or of a set ------------------------------------------------------------------ */

static bool rows_of_set(struct look *l, struct call *c, const struct json **row, size_t *n, struct err *e)
{
    const struct json *q = l->request, *split = json_get(q, "split"), *limit = json_get(q, "limit"), *v;
    const size_t most = limit ? (size_t)limit->integer : MOST_ROWS;
    struct set_rows s;
    if (!set_rows_open(&s, c->reader, json_get(q, "set")->text, e)) return place_blame(e, "set");
    s.split = split ? split->text : NULL;
    look_set(l, &s.head);
    bool ok = true;
    for (*n = 0; ok && (!limit || *n < most);) {
        ok = set_rows_next(&s, &l->arena, &v, e);
        if (!ok || !v) break;
        if (*n == most) ok = err_field(e, ERR_TOO_LARGE, "set", "more than %d rows; pick some by limit or split", MOST_ROWS);
        else if (!json_get(v, "prompt") || !(json_get(v, "answer") || json_get(v, "chosen")))
            ok = err_field(e, ERR_INVALID, "set", "row %zu has no prompt with an answer, or chosen and rejected", s.n - 1);
        else row[(*n)++] = v;
    }
    if (ok && !*n) ok = err_field(e, ERR_INVALID, split ? "split" : "set", "no row of %s is in it", s.head.id);
    set_rows_close(&s);
    return ok;
}

static bool rows_of(struct look *l, struct call *c, const struct json **row, size_t *n, struct err *e)
{
    const struct json *q = l->request, *data = json_get(q, "data"), *split = json_get(q, "split"), *limit = json_get(q, "limit");
    if (!data) return rows_of_set(l, c, row, n, e);
    if (split || limit) return err_field(e, ERR_INVALID, split ? "split" : "limit", "picks rows of a set, and none is named");
    for (const struct json *v = data->child; v; v = v->next) row[(*n)++] = v;
    return true;
}

/* ---- reading --------------------------------------------------------------------------------------------- */

static bool add_example(struct train_rows *t, struct look *l, const struct input *prompt, const struct json *row, const char *field,
                        const char *member, size_t at, struct err *e)
{
    const struct json *text = json_get(row, member);
    const uint32_t *target;
    char name[128];
    uint32_t n;
    place_field(name, field, member);
    if (text->type != JSON_STRING) return err_field(e, ERR_INVALID, name, "a text to train on");
    if (!target_ids(look_model(l), &l->arena, prompt, text, name, &target, &n, e)) return false;
    uint32_t *ids = arena_take(&l->arena, prompt->n + n, sizeof *ids, e);
    uint32_t *scored = ids ? arena_take(&l->arena, n, sizeof *scored, e) : NULL;
    if (!scored) return false;
    memcpy(ids, prompt->ids, prompt->n * sizeof *ids);
    memcpy(ids + prompt->n, target, n * sizeof *ids);
    for (uint32_t i = 0; i < n; i++) scored[i] = (uint32_t)prompt->n - 1 + i;
    t->example[at] = (struct fit_example){.ids = ids, .n = (uint32_t)prompt->n + n, .scored = scored, .target = target, .n_scored = n};
    return true;
}

static bool read_row(struct train_rows *t, struct look *l, const struct json *row, size_t i, struct err *e)
{
    char field[64], name[128];
    struct input *prompt = &t->prompt[t->n_prompts];
    (void)snprintf(field, sizeof field, json_get(l->request, "data") ? "data[%zu]" : "set[%zu]", i);
    if (!input_resolve(look_model(l), json_get(row, "prompt"), place_field(name, field, "prompt"), prompt, e)) return false;
    t->n_prompts++;
    if ((json_get(row, "chosen") != NULL) != t->couples)
        return err_field(e, ERR_INVALID, field, "%s, as the loss or the first row says", t->couples ? "chosen and rejected" : "an answer");
    if (!t->couples) return add_example(t, l, prompt, row, field, "answer", i, e);
    return add_example(t, l, prompt, row, field, "chosen", 2 * i, e) && add_example(t, l, prompt, row, field, "rejected", 2 * i + 1, e);
}

/* Groups are numbered as they come; a row without is its own. */
static void set_group(struct train_rows *t, const struct json *const *row, size_t i, bool of_set)
{
    const struct json *group = json_get(row[i], "group");
    if (!group && of_set) group = json_get(row[i], "subject");
    for (size_t k = 0; group && k < i; k++) {
        const struct json *other = json_get(row[k], "group");
        if (!other && of_set) other = json_get(row[k], "subject");
        if (other && strcmp(other->text, group->text) == 0) {
            t->group[i] = t->group[k];
            return;
        }
    }
    t->group[i] = (uint32_t)t->n_groups++;
}

bool train_rows_read(struct train_rows *t, struct look *l, struct call *c, const char *loss, struct err *e)
{
    const struct json **row = arena_take(&l->arena, MOST_ROWS, sizeof *row, e);
    size_t n = 0;
    if (!row || !rows_of(l, c, row, &n, e)) return false;
    t->couples = loss ? strcmp(loss, "dpo") == 0 : json_get(row[0], "chosen") != NULL;
    t->example = arena_take(&l->arena, 2 * n, sizeof *t->example, e);
    t->group = arena_take(&l->arena, n, sizeof *t->group, e);
    t->prompt = arena_take(&l->arena, n, sizeof *t->prompt, e);
    if (!t->example || !t->group || !t->prompt) return false;
    for (size_t i = 0; i < n; i++) {
        if (!read_row(t, l, row[i], i, e)) return false;
        set_group(t, row, i, l->set.id[0]);
    }
    t->n = n;
    return true;
}

void train_rows_release(struct train_rows *t)
{
    for (size_t i = 0; i < t->n_prompts; i++) input_release(&t->prompt[i]);
}
