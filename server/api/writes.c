/* "writes": places, and where what is written there comes from. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "members.h"
#include "probe.h"
#include "sae_write.h"
#include "steering.h"

static const struct arch *arch_of(const struct look *l) { return &look_model(l)->arch; }

/* ---- sources ----------------------------------------------------------------------------------- */

static bool source_values(struct look *l, const struct tapping *t, const struct json *values,
                          const char *field, struct trace_write *w, struct err *e)
{
    size_t one = member_heads(l, &w->at) * member_width(l, t, &w->at), all = one * w->at.n_pos, k = 0;
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
static bool source_text(struct look *l, struct tapping *t, struct member *m, const struct json *input, const char *field,
                        size_t *out, struct err *e)
{
    if (m->text == SIZE_MAX) {
        if (!input_resolve(look_model(l), input, field, &t->input[t->n_inputs].in, e)) return false;
        m->text = t->n_inputs++;
    }
    *out = m->text;
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
    if (member_heads(l, p) != member_heads(l, &w->at) || member_width(l, t, p) != member_width(l, t, &w->at))
        return err_field(e, ERR_INVALID, field, "the source has %zu × %zu values a position, %zu × %zu are written",
                         member_heads(l, p), member_width(l, t, p), member_heads(l, &w->at), member_width(l, t, &w->at));
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

static bool source_view(struct look *l, struct tapping *t, struct call *c, struct member *m, const struct json *name,
                        const char *field, struct trace_write *w, struct err *e)
{
    char where[128];
    if (!name) return true;
    if (!m->source_view) {
        struct resolved *v = &t->view[t->n_views];
        if (!look_view(l, c, name->text, v, e)) return place_blame(e, place_field(where, field, "view"));
        t->n_views++;
        m->source_view = v;
    }
    w->source_view = m->source_view->view;
    return true;
}

static bool parse_source(struct look *l, struct tapping *t, struct call *c, struct member *m, bool texts,
                         struct trace_write *w, struct err *e)
{
    char field[128], name[128];
    const struct json *src = json_get(m->v, "from");
    place_field(field, m->field, "from");
    if (w->op == TAP_SCALE)
        return !src || err_field(e, ERR_INVALID, field, "scale takes no source");
    if (!src) return err_field(e, ERR_INVALID, field, "set and add need a source");
    if (src->type == JSON_STRING) {
        w->from = FROM_ZERO;
        return true;
    }
    if (json_get(src, "probe")) return probe_source(l, t, c, src, field, place_is_pattern(json_get(m->v, "site")), w, e);
    if (json_get(src, "mean_of") || json_get(src, "difference"))
        return source_view(l, t, c, m, json_get(src, "view"), field, w, e) && steering_source(l, t, src, field, w, e);
    if (!paired_in_order(t, m->v, w->at.input, m->field, e)) return false;
    const struct json *values = json_get(src, "values"), *input = json_get(src, "input");
    if (values) return source_values(l, t, values, place_field(name, field, "values"), w, e);
    size_t at = 0;
    place_field(name, field, "input");
    if (!(texts ? source_text(l, t, m, input, name, &at, e) : place_input(t->input, t->n_named, input, name, &at, e)))
        return false;
    w->from = FROM_RUN;
    return paired_in_order(t, src, at, field, e) && source_view(l, t, c, m, json_get(src, "view"), field, w, e) &&
           source_place(l, t, src, at, field, w, e);
}

static enum tap_op op_of(const char *word)
{
    return strcmp(word, "set") == 0 ? TAP_SET : strcmp(word, "add") == 0 ? TAP_ADD : TAP_SCALE;
}

static bool add_write(struct tapping *t, struct look *l, struct call *c, struct member *m, struct site site, size_t input,
                      bool texts, struct err *e)
{
    char name[128];
    struct trace_write *w = &t->write[t->n_writes++];
    w->op = op_of(json_get(m->v, "op")->text);
    w->weight = (float)json_get(m->v, "weight")->number;
    if (!__builtin_isfinite(w->weight)) return err_field(e, ERR_INVALID, place_field(name, m->field, "weight"), "outside float32");
    if (m->sae) return member_place(l, t, m, site, input, &w->at, e) && sae_member_write(l, m, w, e) && member_count(t, l, &w->at, "writes", e);
    return member_place(l, t, m, site, input, &w->at, e) && parse_source(l, t, c, m, texts, w, e) &&
           member_count(t, l, w->from == FROM_RUN ? &w->source : &w->at, "writes", e);
}

/* A head's own copy goes through a norm of its own, which a write at ln1 would not reach. */
static bool one_norm(const struct tapping *t, struct look *l, struct err *e)
{
    size_t layers = arch_of(l)->n_layers;
    const struct trace_write **at_norm = arena_take(&l->arena, layers * t->n_inputs, sizeof(void *), e);
    if (!at_norm) return false;
    for (int pass = 0; pass < 2; pass++)
        for (const struct trace_write *w = t->write; w < t->write + t->n_writes; w++) {
            const struct trace_write **norm = &at_norm[w->at.input * layers + w->at.site.layer];
            char a[64], b[64];
            if (pass == 0 && hook_of_ln1(w->at.site.hook)) *norm = w;
            if (pass == 0 || !*norm || !hook_of_head_input(w->at.site.hook)) continue;
            site_text((*norm)->at.site, a);
            site_text(w->at.site, b);
            return err_field(e, ERR_INVALID, "writes", "%s and %s of one pass cannot both be written: heads that read a "
                             "copy of their own do not read the stream's norm", a, b);
        }
    return true;
}

bool tapping_writes(struct tapping *t, struct look *l, struct call *c, const struct json *writes,
                    bool texts, struct err *e)
{
    struct member *m;
    size_t places;
    if (!members_read(t, l, writes, "writes", &m, &places, e)) return false;
    t->write = arena_take(&l->arena, places, sizeof *t->write, e);
    t->write_of = arena_take(&l->arena, places, sizeof *t->write_of, e);
    t->view = arena_take(&l->arena, writes->len, sizeof *t->view, e);
    t->steering = arena_take(&l->arena, places, sizeof *t->steering, e);
    if (!t->write || !t->write_of || !t->view || !t->steering) return false;
    for (size_t k = 0; k < writes->len; k++)
        for (size_t i = m[k].from; i < m[k].to; i++)
            for (size_t s = 0; s < m[k].sites.n; s++) {
                t->write_of[t->n_writes] = k;
                if (!add_write(t, l, c, &m[k], m[k].sites.at[s], i, texts, e)) return false;
            }
    return one_norm(t, l, e);
}

void tapping_release(struct tapping *t)
{
    for (size_t i = 0; i < t->n_inputs; i++) input_release(&t->input[i].in);
    for (size_t i = 0; i < t->n_views; i++) resolved_release(&t->view[i]);
    steering_release(t);
    sae_members_release(t);
    if (t->gradients) gradient_release(t->gradients);
}

/* ---- effects ----------------------------------------------------------------------------------- */

/* Sites of a member's writes [from, to), each once: they come again for every input. */
static void put_sites(const struct tapping *t, size_t from, size_t to, jout *o)
{
    jout *sites = jout_put_array(o, "sites");
    for (size_t i = from; i < to && t->write[i].at.input == t->write[from].at.input; i++) {
        char name[64];
        site_text(t->write[i].at.site, name);
        jout_text(sites, NULL, name);
    }
}

/* Of sources made before the run, the length of each site's vector. */
static void put_norms(const struct tapping *t, size_t from, size_t to, jout *o)
{
    jout *norms = NULL;
    for (size_t i = from; i < to && t->write[i].at.input == t->write[from].at.input; i++) {
        const struct steering *s = NULL;
        for (size_t k = 0; k < t->n_steering; k++)
            if (t->steering[k].q.out == t->write[i].values) s = &t->steering[k];
        if (!s || t->write[i].from != FROM_VALUES) return;
        if (!norms) norms = jout_put_array(o, "norms");
        jout_f64(norms, NULL, s->norm);
    }
}

bool tapping_effects(const struct tapping *t, const struct effect *effect, bool generates, jout *root, struct err *e)
{
    jout *list = jout_put_array(root, "writes");
    for (size_t i = 0, from = 0; i < t->n_writes; from = i) {
        struct effect all = {.goes_on = true};
        for (; i < t->n_writes && t->write_of[i] == t->write_of[from]; i++) {
            all.elements += effect[i].elements;
            all.goes_on = all.goes_on && effect[i].goes_on;
            if (effect[i].max_change > all.max_change || isnan(effect[i].max_change)) all.max_change = effect[i].max_change;
        }
        if (!all.elements) {
            char field[64];
            (void)snprintf(field, sizeof field, "writes[%zu]", t->write_of[from]);
            return err_field(e, ERR_INVALID, field, "it touched nothing");
        }
        jout *o = jout_put_object(list, NULL);
        put_sites(t, from, i, o);
        put_norms(t, from, i, o);
        sae_member_put(t, t->write_of[from], o);
        jout_int(o, "elements", (int64_t)all.elements);
        jout_f32(o, "max_change", all.max_change);
        if (generates) jout_bool(o, "generated", all.goes_on);
    }
    return true;
}
