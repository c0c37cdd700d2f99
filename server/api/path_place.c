#include "path_place.h"

#include <stdio.h>
#include <string.h>

#include "place.h"

/* A member's number below n, which must be there. */
static bool below(const struct json *v, const char *member, uint32_t n, const char *field, uint32_t *out, struct err *e)
{
    char name[128];
    const struct json *x = json_get(v, member);
    place_field(name, field, member);
    if (!x) return err_field(e, ERR_INVALID, name, "is missing");
    if (x->integer >= n) return err_field(e, ERR_INVALID, name, "%lld is not below %u", (long long)x->integer, n);
    *out = (uint32_t)x->integer;
    return true;
}

static bool is_true(const struct json *v, const char *member)
{
    const struct json *x = json_get(v, member);
    return x && x->boolean;
}

/* ---- senders ------------------------------------------------------------------------------------- */

static bool every_sender(struct look *l, struct path_request *q, struct err *e)
{
    const struct arch *a = &look_model(l)->arch;
    struct path_sender *s = arena_take(&l->arena, 1 + (size_t)a->n_layers * (a->n_heads + 1), sizeof *s, e);
    q->sender = s;
    if (!s) return false;
    *s++ = (struct path_sender){.from = PATH_EMBED};
    for (uint32_t layer = 0; layer < a->n_layers; layer++) {
        for (uint32_t h = 0; h < a->n_heads; h++) *s++ = (struct path_sender){PATH_HEAD, layer, h};
        *s++ = (struct path_sender){PATH_MLP, layer, 0};
    }
    q->n_senders = (size_t)(s - q->sender);
    return true;
}

static bool one_sender(const struct json *v, const struct arch *a, const char *field, struct path_sender *out, struct err *e)
{
    const bool embed = is_true(v, "embed"), mlp = is_true(v, "mlp"), head = json_get(v, "head"), layer = json_get(v, "layer");
    if (embed + mlp + head != 1 || (embed && layer))
        return err_field(e, ERR_INVALID, field, "a sender is {\"layer\",\"head\"}, {\"layer\",\"mlp\": true} or {\"embed\": true}");
    out->from = embed ? PATH_EMBED : mlp ? PATH_MLP : PATH_HEAD;
    return embed || (below(v, "layer", a->n_layers, field, &out->layer, e) && (mlp || below(v, "head", a->n_heads, field, &out->head, e)));
}

static int by_pass(const void *a, const void *b) { return path_before(a, b); }

bool path_senders_read(struct look *l, struct path_request *q, struct err *e)
{
    const struct json *list = json_get(l->request, "senders");
    char field[64];
    size_t n = 0;
    if (list->type == JSON_STRING) return every_sender(l, q, e);
    struct path_sender *s = arena_take(&l->arena, list->len, sizeof *s, e);
    if (!s) return false;
    for (const struct json *v = list->child; v; v = v->next, n++) {
        (void)snprintf(field, sizeof field, "senders[%zu]", n);
        if (!one_sender(v, &look_model(l)->arch, field, &s[n], e)) return false;
    }
    qsort(s, n, sizeof *s, by_pass);
    for (size_t i = 1; i < n; i++)
        if (path_before(&s[i - 1], &s[i]) == 0) return err_field(e, ERR_INVALID, "senders", "a sender of layer %u is named twice", s[i].layer);
    q->sender = s;
    q->n_senders = n;
    return true;
}

/* ---- receivers ----------------------------------------------------------------------------------- */

static bool one_receiver(const struct json *v, const struct arch *a, const char *field, struct path_receiver *out, struct err *e)
{
    static const char *const words[PATH_INPUTS] = {"q", "k", "v"};
    const char *word = json_get(v, "input")->text;
    while (strcmp(words[out->input], word) != 0) out->input++;
    return below(v, "layer", a->n_layers, field, &out->layer, e) &&
           below(v, "head", out->input == PATH_Q ? a->n_heads : a->n_kv_heads, field, &out->head, e);
}

static int by_place(const void *x, const void *y)
{
    const struct path_receiver *a = x, *b = y;
    if (a->layer != b->layer) return a->layer < b->layer ? -1 : 1;
    if (a->input != b->input) return a->input < b->input ? -1 : 1;
    return (a->head > b->head) - (a->head < b->head);
}

bool path_receivers_read(struct look *l, struct path_request *q, struct err *e)
{
    const struct json *list = json_get(l->request, "receivers");
    char field[64];
    size_t n = 0;
    if (list->type == JSON_STRING) return true;
    struct path_receiver *r = arena_take(&l->arena, list->len, sizeof *r, e);
    if (!r) return false;
    for (const struct json *v = list->child; v; v = v->next, n++) {
        (void)snprintf(field, sizeof field, "receivers[%zu]", n);
        if (!one_receiver(v, &look_model(l)->arch, field, &r[n], e)) return false;
    }
    qsort(r, n, sizeof *r, by_place);
    for (size_t i = 1; i < n; i++)
        if (by_place(&r[i - 1], &r[i]) == 0)
            return err_field(e, ERR_INVALID, "receivers", "head %u of layer %u is named twice", r[i].head, r[i].layer);
    q->receiver = r;
    q->n_receivers = n;
    return true;
}
