#include "inputs.h"

#include <stdio.h>
#include <string.h>

#include "spans.h"

static bool read_one(struct inputs *in, struct look *l, const struct json *v, const char *field, const struct json *pos,
                     const char *pos_field, struct err *e)
{
    char number[16];
    struct named_input *one = &in->at[in->n];
    const struct json *id = json_get(v, "id");
    (void)snprintf(number, sizeof number, "%zu", in->n);
    one->id = id ? id->text : arena_text(&l->arena, number, strlen(number), e);
    if (!one->id) return false;
    for (size_t k = 0; k < in->n; k++)
        if (strcmp(in->at[k].id, one->id) == 0)
            return err_field(e, ERR_INVALID, field, "two inputs have the id \"%.64s\"", one->id);
    if (!spans_check(json_get(v, "spans"), place_field((char[128]){0}, field, "spans"), e) ||
        !input_resolve(look_model(l), v, field, &one->in, e))
        return false;
    one->of = v;
    in->n++;
    return place_pos(pos, (uint32_t)one->in.n, pos_field, &l->arena, &one->top, e);
}

bool inputs_read(struct inputs *in, struct look *l, const struct json *pos, const char *field, struct err *e)
{
    char name[64];
    const struct json *one = json_get(l->request, "input"), *list = json_get(l->request, "inputs");
    in->at = arena_take(&l->arena, one ? 1 : list->len, sizeof *in->at, e);
    if (!in->at) return false;
    if (one) return read_one(in, l, one, "input", pos, field, e);
    for (const struct json *v = list->child; v; v = v->next) {
        (void)snprintf(name, sizeof name, "inputs[%zu]", in->n);
        if (!read_one(in, l, v, name, pos, field, e)) return false;
    }
    return true;
}

void inputs_release(struct inputs *in)
{
    for (size_t i = 0; i < in->n; i++) input_release(&in->at[i].in);
}

bool inputs_layers(struct look *l, const struct json *layers, struct places *out, struct err *e)
{
    const uint32_t L = look_model(l)->arch.n_layers;
    uint32_t *at = arena_take(&l->arena, L, sizeof *at, e);
    bool *chosen = at ? arena_take(&l->arena, L, sizeof *chosen, e) : NULL;
    if (!chosen) return false;
    for (const struct json *v = layers ? layers->child : NULL; v; v = v->next) {
        int64_t i = v->integer < 0 ? v->integer + L : v->integer;
        if (i < 0 || i >= L)
            return err_field(e, ERR_INVALID, "layers", "layer %lld is outside 0..%u", (long long)v->integer, L - 1);
        chosen[i] = true;
    }
    out->n = 0;
    out->at = at;
    for (uint32_t i = 0; i < L; i++)
        if (!layers || chosen[i]) at[out->n++] = i;
    return true;
}
