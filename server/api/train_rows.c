#include "train_rows.h"

#include <stdio.h>
#include <string.h>

#include "facts.h"
#include "groups.h"
#include "place.h"
#include "set_list.h"

enum { MOST_ROWS = 1024 };

/* ---- rows, of the request or of a set ------------------------------------------------------------------ */

static bool is_example(const struct json *row)
{
    return json_get(row, "prompt") && (json_get(row, "answer") || json_get(row, "chosen"));
}

static bool rows_of(struct look *l, struct call *c, const struct json **list, struct err *e)
{
    static const struct set_need need = {.fits = is_example, .missing = "no prompt with an answer, or chosen and rejected",
                                         .most = MOST_ROWS};
    if (!set_list_read(l, c, &need, list, e)) return false;
    if (!*list) *list = json_get(l->request, "data");
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

bool train_rows_read(struct train_rows *t, struct look *l, struct call *c, const char *loss, struct err *e)
{
    const struct json *list;
    if (!rows_of(l, c, &list, e)) return false;
    const size_t n = list->len;
    t->couples = loss ? strcmp(loss, "dpo") == 0 : json_get(list->child, "chosen") != NULL;
    t->example = arena_take(&l->arena, 2 * n, sizeof *t->example, e);
    t->group = arena_take(&l->arena, n, sizeof *t->group, e);
    t->prompt = arena_take(&l->arena, n, sizeof *t->prompt, e);
    if (!t->example || !t->group || !t->prompt) return false;
    for (const struct json *row = list->child; row; row = row->next)
        if (!read_row(t, l, row, t->n++, e)) return false;
    return groups_read(list->child, n, l->set.id[0], t->group, &t->n_groups, e);
}

void train_rows_release(struct train_rows *t)
{
    for (size_t i = 0; i < t->n_prompts; i++) input_release(&t->prompt[i]);
}
