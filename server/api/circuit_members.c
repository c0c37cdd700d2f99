#include "circuit_members.h"

#include <stdio.h>
#include <string.h>

#include "region_expr.h"

struct reading {
    const struct arch *arch;
    uint32_t heads; /* of the model */
    bool *in;       /* [heads + layers] */
};

/* A whole number below n. */
static bool below(const struct json *v, uint32_t n, const char *field, uint32_t *out, struct err *e)
{
    if (!v) return err_field(e, ERR_INVALID, field, "is missing");
    if (v->type != JSON_NUMBER || !v->is_int || v->integer < 0 || v->integer >= n)
        return err_field(e, ERR_INVALID, field, "a whole number from 0 to %u", n - 1);
    *out = (uint32_t)v->integer;
    return true;
}

static bool enter(struct reading *r, uint32_t unit, const char *field, struct err *e)
{
    if (r->in[unit]) return err_field(e, ERR_INVALID, field, "is named twice");
    return r->in[unit] = true;
}

static bool read_head(struct reading *r, const struct json *v, const char *field, struct err *e)
{
    char name[80];
    uint32_t layer = 0, head = 0;
    if (v->type != JSON_OBJECT || v->len != 2 || !json_get(v, "layer") || !json_get(v, "head"))
        return err_field(e, ERR_INVALID, field, "a head is {\"layer\",\"head\"}");
    (void)snprintf(name, sizeof name, "%s.layer", field);
    if (!below(json_get(v, "layer"), r->arch->n_layers, name, &layer, e)) return false;
    (void)snprintf(name, sizeof name, "%s.head", field);
    return below(json_get(v, "head"), r->arch->n_heads, name, &head, e) && enter(r, layer * r->arch->n_heads + head, field, e);
}

static bool read_mlp(struct reading *r, const struct json *v, const char *field, struct err *e)
{
    uint32_t layer = 0;
    return below(v, r->arch->n_layers, field, &layer, e) && enter(r, r->heads + layer, field, e);
}

static bool read_list(struct reading *r, const struct json *list, const char *name,
                      bool (*one)(struct reading *, const struct json *, const char *, struct err *), struct err *e)
{
    char field[64];
    size_t i = 0;
    if (list->type != JSON_ARRAY) return err_field(e, ERR_INVALID, name, "must be a list");
    for (const struct json *v = list->child; v; v = v->next, i++) {
        (void)snprintf(field, sizeof field, "%s[%zu]", name, i);
        if (!one(r, v, field, e)) return false;
    }
    return true;
}

static bool read_listed(struct reading *r, const struct json *v, struct circuit_request *q, struct err *e)
{
    const struct json *heads = json_get(v, "heads"), *mlps = json_get(v, "mlps");
    if (v->len != (size_t)(heads != NULL) + (mlps != NULL))
        return err_field(e, ERR_INVALID, "circuit", "beside \"heads\" and \"mlps\" there is nothing to say");
    q->mlps = mlps != NULL;
    return (!heads || read_list(r, heads, "circuit.heads", read_head, e)) && (!mlps || read_list(r, mlps, "circuit.mlps", read_mlp, e));
}

static bool read_region(struct reading *r, struct look *l, struct call *c, const struct json *v, struct err *e)
{
    struct region_told told;
    struct json name = *v, by_name = {.type = JSON_OBJECT, .child = &name, .len = 1};
    name.key = "region";
    name.key_len = strlen(name.key);
    name.next = NULL;
    if (!region_expr(v->type == JSON_STRING ? &by_name : v, "circuit", look_model(l), l->view.model_id, c->reader, &l->arena, &told, e)) return false;
    const bool ok = told.unit == REGION_HEAD ||
                    err_field(e, ERR_INVALID, "circuit", "a region of %ss; a circuit is of heads", region_unit_word(told.unit));
    for (uint32_t u = 0; ok && u < r->heads; u++) r->in[u] = region_has(&told.set, u);
    region_told_release(&told);
    return ok;
}

bool circuit_members_read(struct look *l, struct call *c, struct circuit_request *q, struct err *e)
{
    const struct json *v = json_get(l->request, "circuit");
    const struct arch *a = &look_model(l)->arch;
    struct reading r = {a, a->n_layers * a->n_heads, NULL};
    const uint32_t units = r.heads + a->n_layers;
    uint32_t *member = arena_take(&l->arena, units, sizeof *member, e);
    if (!member || !(r.in = arena_take(&l->arena, units, sizeof *r.in, e))) return false;
    const bool listed = v->type == JSON_OBJECT && (json_get(v, "heads") || json_get(v, "mlps"));
    if (listed ? !read_listed(&r, v, q, e) : !read_region(&r, l, c, v, e)) return false;
    for (uint32_t u = 0; u < units; u++) {
        if (!r.in[u]) continue;
        member[q->n++] = u;
        look_beside(l, "circuit %u\n", u);
    }
    q->member = member;
    return q->n || err_field(e, ERR_INVALID, "circuit", "has no member");
}
