#include "writes.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static const struct arch *arch_of(const struct look *l) { return &look_model(l)->arch; }

static bool find_input(const struct tapping *t, const struct json *name, const char *field, size_t *out,
                       struct err *e)
{
    for (size_t i = 0; i < t->n_named; i++)
        if (strcmp(t->input[i].id, name->text) == 0) {
            *out = i;
            return true;
        }
    return err_field(e, ERR_INVALID, field, "there is no input \"%.64s\"", name->text);
}

/* site, pos and head of a member, for one input. */
static bool parse_place(struct look *l, const struct tapping *t, const struct json *v, size_t input,
                        const char *field, struct trace_place *out, struct err *e)
{
    char name[128];
    struct places pos, head;
    *out = (struct trace_place){.input = (uint32_t)input};
    if (!place_site(json_get(v, "site"), arch_of(l), place_field(name, field, "site"), &out->site, e) ||
        !place_pos(json_get(v, "pos"), (uint32_t)t->input[input].in.n, place_field(name, field, "pos"),
                   &l->arena, &pos, e) ||
        !place_head(json_get(v, "head"), arch_of(l), out->site.hook, place_field(name, field, "head"),
                    &l->arena, &head, e))
        return false;
    out->pos = pos.at;
    out->n_pos = pos.n;
    out->head = head.at;
    out->n_head = head.n;
    return true;
}

static size_t place_heads(const struct look *l, const struct trace_place *p)
{
    return p->head ? p->n_head : hook_heads(arch_of(l), p->site.hook);
}

static size_t place_width(const struct look *l, const struct tapping *t, const struct trace_place *p)
{
    uint32_t width = hook_width(arch_of(l), p->site.hook);
    return width ? width : t->input[p->input].in.n;
}

/* Refused as soon as it is too much: the lists of places alone could fill the memory. */
static bool count(struct tapping *t, const struct look *l, const struct trace_place *p, const char *field,
                  struct err *e)
{
    t->n_values += p->n_pos * place_heads(l, p) * place_width(l, t, p);
    return t->n_values <= MOST_VALUES ||
           err_field(e, ERR_TOO_LARGE, field, "%d values are served at once, at most; narrow pos or head",
                     MOST_VALUES);
}

/* The inputs a member speaks of: [*from, *to). */
static bool inputs_of(const struct tapping *t, const struct json *v, const char *field, size_t *from,
                      size_t *to, struct err *e)
{
    char name[128];
    const struct json *input = json_get(v, "input");
    *from = 0;
    *to = t->n_named;
    if (!input) return true;
    if (!find_input(t, input, place_field(name, field, "input"), from, e)) return false;
    *to = *from + 1;
    return true;
}

/* How many places a list names: a member without an input names one in each. Known before any is
 * laid out, so that few bytes cannot ask for much memory. */
static bool count_places(const struct tapping *t, const struct json *list, const char *field, size_t *n, struct err *e)
{
    *n = 0;
    for (const struct json *v = list->child; v; v = v->next) *n += json_get(v, "input") ? 1 : t->n_named;
    return *n <= MOST_PLACES ||
           err_field(e, ERR_TOO_LARGE, field, "%zu members over %zu inputs name %zu places, at most %d are taken",
                     list->len, t->n_named, *n, MOST_PLACES);
}

bool tapping_reads(struct tapping *t, struct look *l, const struct json *reads, struct err *e)
{
    size_t from, to, k = 0, places;
    if (!count_places(t, reads, "reads", &places, e)) return false;
    t->read = arena_take(&l->arena, places, sizeof *t->read, e);
    if (!t->read) return false;
    for (const struct json *v = reads->child; v; v = v->next, k++) {
        char field[64];
        (void)snprintf(field, sizeof field, "reads[%zu]", k);
        if (!inputs_of(t, v, field, &from, &to, e)) return false;
        for (size_t i = from; i < to; i++) {
            struct trace_place *p = &t->read[t->n_reads++];
            if (!parse_place(l, t, v, i, field, p, e) || !count(t, l, p, "reads", e)) return false;
        }
    }
    return true;
}

/* ---- sources ----------------------------------------------------------------------------------- */

static bool source_values(struct look *l, const struct tapping *t, const struct json *values,
                          const char *field, struct trace_write *w, struct err *e)
{
    size_t one = place_heads(l, &w->at) * place_width(l, t, &w->at), all = one * w->at.n_pos, k = 0;
    if (values->len != one && values->len != all)
        return err_field(e, ERR_INVALID, field, "%zu values given, %zu (one position) or %zu wanted",
                         values->len, one, all);
    float *v = arena_take(&l->arena, values->len, sizeof *v, e);
    if (!v) return false;
    for (const struct json *x = values->child; x; x = x->next) {
        v[k] = (float)x->number;
        if (!__builtin_isfinite(v[k]))
            return err_field(e, ERR_INVALID, field, "value %zu is outside float32", k);
        k++;
    }
    w->from = FROM_VALUES;
    w->values = v;
    w->n_value_pos = values->len == all ? w->at.n_pos : 1;
    return true;
}

/* generate: a source text is one more input, run only for its activations. */
static bool source_text(struct look *l, struct tapping *t, const struct json *input, const char *field,
                        size_t *out, struct err *e)
{
    struct named_input *n = &t->input[t->n_inputs];
    *out = t->n_inputs;
    if (!input_resolve(look_model(l), input, field, &n->in, e)) return false;
    t->n_inputs++;
    return true;
}

/* Members of the source that are absent are those of the write. */
static bool source_place(struct look *l, const struct tapping *t, const struct json *src, size_t input,
                         const char *field, struct trace_write *w, struct err *e)
{
    char name[128];
    struct trace_place *p = &w->source;
    struct places list;
    *p = w->at;
    p->input = (uint32_t)input;
    const struct json *site = json_get(src, "site"), *pos = json_get(src, "pos"), *head = json_get(src, "head");
    uint32_t n = (uint32_t)t->input[input].in.n;
    if (site && !place_site(site, arch_of(l), place_field(name, field, "site"), &p->site, e)) return false;
    if (pos) {
        if (!place_pos(pos, n, place_field(name, field, "pos"), &l->arena, &list, e)) return false;
        p->pos = list.at;
        p->n_pos = list.n;
    }
    if (p->n_pos && p->pos[p->n_pos - 1] >= n)
        return err_field(e, ERR_INVALID, place_field(name, field, "pos"),
                         "position %u is outside the source's %u tokens", p->pos[p->n_pos - 1], n);
    if (head) {
        if (!place_head(head, arch_of(l), p->site.hook, place_field(name, field, "head"), &l->arena, &list, e))
            return false;
        p->head = list.at;
        p->n_head = list.n;
    }
    if (place_heads(l, p) != place_heads(l, &w->at) || place_width(l, t, p) != place_width(l, t, &w->at))
        return err_field(e, ERR_INVALID, field, "the source has %zu × %zu values a position, %zu × %zu are written",
                         place_heads(l, p), place_width(l, t, p), place_heads(l, &w->at), place_width(l, t, &w->at));
    if (p->n_pos != 1 && p->n_pos != w->at.n_pos)
        return err_field(e, ERR_INVALID, place_field(name, field, "pos"),
                         "the source has %zu positions, %zu are written", p->n_pos, w->at.n_pos);
    return true;
}

/* A list that is paired with source values must say its order: ascending, each once. */
static bool in_order(const struct json *v, const char *list, uint32_t n, const char *field, struct err *e)
{
    char name[128];
    int64_t last = -1;
    const struct json *member = json_get(v, list);
    if (!member || member->type != JSON_ARRAY) return true;
    for (const struct json *x = member->child; x; x = x->next) {
        int64_t at = x->integer < 0 ? x->integer + n : x->integer;
        if (at <= last)
            return err_field(e, ERR_INVALID, place_field(name, field, list),
                             "values are taken in order, so the list must be ascending without repeats");
        last = at;
    }
    return true;
}

static bool paired_in_order(const struct tapping *t, const struct json *v, size_t input, const char *field,
                            struct err *e)
{
    return in_order(v, "pos", (uint32_t)t->input[input].in.n, field, e) && in_order(v, "head", 0, field, e);
}

static bool source_view(struct look *l, struct tapping *t, struct call *c, const struct json *name,
                        const char *field, struct trace_write *w, struct err *e)
{
    char member[128];
    if (!name) return true;
    struct resolved *v = &t->view[t->n_views];
    if (!look_view(l, c, name->text, v, e)) return place_blame(e, place_field(member, field, "view"));
    t->n_views++;
    w->source_view = v->view;
    return true;
}

static bool parse_source(struct look *l, struct tapping *t, struct call *c, const struct json *v,
                         const char *write_field, bool texts, struct trace_write *w, struct err *e)
{
    char field[128], member[128];
    const struct json *src = json_get(v, "from");
    place_field(field, write_field, "from");
    if (w->op == TAP_SCALE)
        return !src || err_field(e, ERR_INVALID, field, "scale takes no source");
    if (!src) return err_field(e, ERR_INVALID, field, "set and add need a source");
    if (src->type == JSON_STRING) {
        w->from = FROM_ZERO;
        return true;
    }
    if (json_get(src, "mean_of"))
        return err_field(e, ERR_UNSUPPORTED, place_field(member, field, "mean_of"), "mean_of is not served yet");
    if (!paired_in_order(t, v, w->at.input, write_field, e)) return false;
    const struct json *values = json_get(src, "values"), *input = json_get(src, "input");
    if (values) return source_values(l, t, values, place_field(member, field, "values"), w, e);
    size_t at = 0;
    place_field(member, field, "input");
    if (!(texts ? source_text(l, t, input, member, &at, e) : find_input(t, input, member, &at, e))) return false;
    w->from = FROM_RUN;
    return paired_in_order(t, src, at, field, e) && source_view(l, t, c, json_get(src, "view"), field, w, e) &&
           source_place(l, t, src, at, field, w, e);
}

static enum tap_op op_of(const char *word)
{
    return strcmp(word, "set") == 0 ? TAP_SET : strcmp(word, "add") == 0 ? TAP_ADD : TAP_SCALE;
}

bool tapping_writes(struct tapping *t, struct look *l, struct call *c, const struct json *writes,
                    bool texts, struct err *e)
{
    size_t from, to, k = 0, most;
    if (!count_places(t, writes, "writes", &most, e)) return false;
    t->write = arena_take(&l->arena, most, sizeof *t->write, e);
    t->write_of = arena_take(&l->arena, most, sizeof *t->write_of, e);
    t->view = arena_take(&l->arena, most, sizeof *t->view, e);
    if (!t->write || !t->write_of || !t->view) return false;
    for (const struct json *v = writes->child; v; v = v->next, k++) {
        char field[64];
        (void)snprintf(field, sizeof field, "writes[%zu]", k);
        if (!inputs_of(t, v, field, &from, &to, e)) return false;
        for (size_t i = from; i < to; i++) {
            struct trace_write *w = &t->write[t->n_writes];
            w->op = op_of(json_get(v, "op")->text);
            w->weight = (float)json_get(v, "weight")->number;
            if (!__builtin_isfinite(w->weight)) {
                char name[128];
                return err_field(e, ERR_INVALID, place_field(name, field, "weight"), "outside float32");
            }
            t->write_of[t->n_writes++] = k;
            if (!parse_place(l, t, v, i, field, &w->at, e) || !parse_source(l, t, c, v, field, texts, w, e) ||
                !count(t, l, w->from == FROM_RUN ? &w->source : &w->at, "writes", e))
                return false;
        }
    }
    return true;
}

void tapping_release(struct tapping *t)
{
    for (size_t i = 0; i < t->n_inputs; i++) input_release(&t->input[i].in);
    for (size_t i = 0; i < t->n_views; i++) resolved_release(&t->view[i]);
}
