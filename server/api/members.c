#include "members.h"
#include "sae_write.h"

#include <stdio.h>
#include <string.h>

static const struct arch *arch_of(const struct look *l) { return &look_model(l)->arch; }

static bool read_member(struct tapping *t, struct look *l, const struct json *v, const char *list, size_t k,
                        struct member *out, struct err *e)
{
    char name[128];
    const struct json *input = json_get(v, "input");
    *out = (struct member){.v = v, .number = k, .to = t->n_named, .text = SIZE_MAX};
    (void)snprintf(out->field, sizeof out->field, "%s[%zu]", list, k);
    if (input) {
        if (!place_input(t->input, t->n_named, input, place_field(name, out->field, "input"), &out->from, e)) return false;
        out->to = out->from + 1;
    }
    if (json_get(v, "sae")) return sae_member(l, t, v, out->field, out, e);
    if (json_get(v, "feature"))
        return err_field(e, ERR_INVALID, place_field(name, out->field, "sae"), "required: whose feature it is");
    if (!json_get(v, "site")) return err_field(e, ERR_INVALID, place_field(name, out->field, "site"), "required");
    return place_sites(json_get(v, "site"), arch_of(l), list[0] == 'w', place_field(name, out->field, "site"), &l->arena,
                       &out->sites, e);
}

bool members_read(struct tapping *t, struct look *l, const struct json *members, const char *list,
                  struct member **out, size_t *places, struct err *e)
{
    size_t k = 0, patterns = 0;
    struct member *m = arena_take(&l->arena, members->len, sizeof *m, e);
    if (!m) return false;
    *out = m;
    if (list[0] == 'w') {
        t->sae = arena_take(&l->arena, members->len, sizeof *t->sae, e);
        if (!t->sae) return false;
        t->n_saes = members->len;
    }
    *places = 0;
    for (const struct json *v = members->child; v; v = v->next, k++) {
        patterns += json_get(v, "site") && place_is_pattern(json_get(v, "site"));
        if (patterns > MOST_PATTERNS)
            return err_field(e, ERR_TOO_LARGE, list, "more than %d sites are patterns", MOST_PATTERNS);
        if (!read_member(t, l, v, list, k, &m[k], e)) return false;
        *places += m[k].sites.n * (m[k].to - m[k].from);
    }
    return *places <= MOST_PLACES ||
           err_field(e, ERR_TOO_LARGE, list, "%zu members over %zu inputs name %zu places, at most %d are taken",
                     members->len, t->n_named, *places, MOST_PLACES);
}

bool member_place(struct look *l, const struct tapping *t, const struct member *m, struct site site, size_t input,
                  struct trace_place *out, struct err *e)
{
    char name[128];
    struct places pos, head;
    *out = (struct trace_place){.input = (uint32_t)input, .site = site};
    if (!place_pos_in(json_get(m->v, "pos"), look_model(l), &t->input[input], place_field(name, m->field, "pos"),
                      &l->arena, &pos, e) ||
        !place_head(json_get(m->v, "head"), arch_of(l), site.hook, place_field(name, m->field, "head"),
                    &l->arena, &head, e))
        return false;
    out->pos = pos.at;
    out->n_pos = pos.n;
    out->head = head.at;
    out->n_head = head.n;
    if (m->sae) sae_member_head(m, out);
    return true;
}

size_t member_heads(const struct look *l, const struct trace_place *p)
{
    return p->head ? p->n_head : hook_heads(arch_of(l), p->site.hook);
}

size_t member_width(const struct look *l, const struct tapping *t, const struct trace_place *p)
{
    uint32_t width = hook_width(arch_of(l), p->site.hook);
    return width ? width : t->input[p->input].in.n;
}

bool member_count(struct tapping *t, const struct look *l, const struct trace_place *p, const char *field,
                  struct err *e)
{
    t->n_values += p->n_pos * member_heads(l, p) * member_width(l, t, p);
    if (t->n_values <= t->most_values) return true;
    return err_field(e, ERR_TOO_LARGE, field,
                     t->most_values == MOST_VALUES && strcmp(field, "reads") == 0
                         ? "%zu values are served at once, at most; narrow pos or head, or ask for bytes: "
                           "Accept: application/x-npz (also application/x-npy, application/safetensors)"
                         : "%zu values are served at once, at most; narrow pos or head",
                     t->most_values);
}

