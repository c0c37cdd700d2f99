#include "patch_source.h"

#include <stdio.h>
#include <string.h>

#include "place.h"
#include "probes/patch_fill.h"
#include "set_list.h"

/* ---- a mean --------------------------------------------------------------------------------------- */

static bool add_prompt(struct patch_source *s, struct look *l, const struct json *v, const char *field, struct err *e)
{
    if (!input_resolve(look_model(l), v, field, &s->mean[s->n_mean], e)) return false;
    s->n_mean++;
    return true;
}

static bool listed(struct patch_source *s, struct look *l, const struct json *list, struct err *e)
{
    char field[64];
    s->mean = arena_take(&l->arena, list->len, sizeof *s->mean, e);
    for (const struct json *v = s->mean ? list->child : NULL; v; v = v->next) {
        (void)snprintf(field, sizeof field, "from.mean_of[%zu]", s->n_mean);
        if (!add_prompt(s, l, v, field, e)) return false;
    }
    return s->mean != NULL;
}

/* Of each row its text, its prompt, or its clean one. */
static const struct json *text_of_row(const struct json *row)
{
    static const char *const names[] = {"text", "prompt", "clean"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (json_get(row, names[i])) return json_get(row, names[i]);
    return NULL;
}

static bool has_text(const struct json *row) { return text_of_row(row) != NULL; }

static bool from_set(struct patch_source *s, struct look *l, struct call *c, const struct json *ref, struct err *e)
{
    static const struct set_need need = {.fits = has_text, .missing = "no text, prompt or clean", .most = 1024};
    const struct json *list;
    if (!set_list_of(l, c, ref, "from.mean_of", &need, &list, e)) return false;
    s->mean = arena_take(&l->arena, list->len, sizeof *s->mean, e);
    for (const struct json *row = s->mean ? list->child : NULL; row; row = row->next)
        if (!add_prompt(s, l, text_of_row(row), "from.mean_of.set", e)) return false;
    return s->mean != NULL;
}

static bool read_mean(struct patch_source *s, struct look *l, struct call *c, const struct json *mean, struct patch_request *out,
                      struct err *e)
{
    out->from = PATCH_FROM_MEAN;
    if (!(mean->type == JSON_ARRAY ? listed(s, l, mean, e) : from_set(s, l, c, mean, e))) return false;
    struct means_text *text = arena_take(&l->arena, s->n_mean, sizeof *text, e);
    for (size_t i = 0; text && i < s->n_mean; i++) text[i] = (struct means_text){s->mean[i].ids, (uint32_t)s->mean[i].n};
    out->mean = text;
    out->n_mean = s->n_mean;
    return text != NULL;
}

/* ---- noise, a subspace ---------------------------------------------------------------------------- */

static bool one_layer(const struct patch_request *q, const char *what, struct err *e)
{
    return (!q->before && !q->after) ||
           err_field(e, ERR_INVALID, "window", "%s is made of one layer's values; it takes no window", what);
}

static bool read_noise(const struct json *noise, struct patch_request *out, struct err *e)
{
    out->from = PATCH_FROM_NOISE;
    out->noise = json_get(noise, "sd")->number;
    return one_layer(out, "noise", e);
}

static bool read_subspace(struct look *l, const struct json *rows, struct patch_request *out, struct err *e)
{
    const uint32_t w = hook_width(&look_model(l)->arch, out->site);
    float *basis = arena_take(&l->arena, rows->len * w, sizeof *basis, e), *at = basis;
    if (!basis) return false;
    for (const struct json *row = rows->child; row; row = row->next) {
        if (row->len != w)
            return err_field(e, ERR_INVALID, "from.subspace", "a row has %zu numbers; %s has %u", (size_t)row->len,
                             hook_info(out->site)->spelling, w);
        for (const struct json *v = row->child; v; v = v->next) *at++ = (float)v->number;
    }
    if (rows->len > w || !patch_orthonormal(basis, rows->len, w))
        return err_field(e, ERR_INVALID, "from.subspace", "its rows are not linearly independent");
    out->from = PATCH_FROM_SUBSPACE;
    out->basis = basis;
    out->n_basis = rows->len;
    return one_layer(out, "a subspace", e);
}

/* ---- all of them ---------------------------------------------------------------------------------- */

static bool read_object(struct patch_source *s, struct look *l, struct call *c, const struct json *from,
                        struct patch_request *out, struct err *e)
{
    const struct json *view = json_get(from, "view"), *mean = json_get(from, "mean_of"), *noise = json_get(from, "noise");
    if (view) {
        if (!look_view(l, c, view->text, &s->view, e)) return place_blame(e, "from.view");
        look_also(l, &s->view);
        out->source = s->view.view;
        return true;
    }
    if (hook_info(out->site)->axis == AXIS_SOURCE)
        return err_field(e, ERR_INVALID, "from", "%s is as wide as the prompt is long: it has no mean, noise or subspace",
                         hook_info(out->site)->spelling);
    if (mean) return read_mean(s, l, c, mean, out, e);
    return noise ? read_noise(noise, out, e) : read_subspace(l, json_get(from, "subspace"), out, e);
}

bool patch_source_read(struct patch_source *s, struct look *l, struct call *c, struct patch_request *out, struct err *e)
{
    const struct json *from = json_get(l->request, "from"), *window = json_get(l->request, "window");
    if (window) {
        out->before = (uint32_t)json_get(window, "before")->integer;
        out->after = (uint32_t)json_get(window, "after")->integer;
    }
    if (from->type != JSON_STRING) return read_object(s, l, c, from, out, e);
    out->from = strcmp(from->text, "zero") == 0 ? PATCH_FROM_ZERO : PATCH_FROM_OTHER;
    return true;
}

void patch_source_release(struct patch_source *s)
{
    for (size_t i = 0; i < s->n_mean; i++) input_release(&s->mean[i]);
    resolved_release(&s->view);
}
