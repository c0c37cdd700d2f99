#include "steering.h"

#include <stdio.h>
#include <string.h>

const struct steering *steering_of(const struct tapping *t, const struct json *from, struct site site)
{
    for (size_t i = 0; i < t->n_steering; i++)
        if (t->steering[i].from == from && t->steering[i].site.hook == site.hook && t->steering[i].site.layer == site.layer)
            return &t->steering[i];
    return NULL;
}

struct prompts { /* one list of a source */
    const struct json *list, *pos; /* pos NULL: the last */
    double share;
    char field[128];
};

/* One prompt: its ids, and where it is read. */
static bool add_prompt(struct look *l, struct tapping *t, struct steering *s, const struct json *v, const char *field,
                       const struct prompts *of, const char *pos_field, const struct trace_place *at, struct err *e)
{
    size_t k = s->n_inputs;
    struct trace_input *in = s->in + k;
    struct trace_place *read = s->read + k;
    struct input *text = &s->input[k];
    struct places pos = {0};
    if (!input_resolve(look_model(l), v, field, text, e)) return false;
    s->n_inputs++;
    uint32_t *last = arena_take(&l->arena, 1, sizeof *last, e);
    if (!last) return false;
    *last = (uint32_t)text->n - 1;
    pos = (struct places){last, 1};
    if (of->pos && !place_pos(of->pos, (uint32_t)text->n, pos_field, &l->arena, &pos, e)) return false;
    *in = (struct trace_input){.ids = text->ids, .n = (uint32_t)text->n};
    *read = *at;
    read->input = (uint32_t)k;
    read->pos = pos.at;
    read->n_pos = pos.n;
    s->share[k] = of->share;
    return member_count(t, l, read, "writes", e);
}

static bool add_prompts(struct look *l, struct tapping *t, struct steering *s, const struct prompts *of,
                        const char *pos_field, const struct trace_place *at, struct err *e)
{
    char field[128];
    size_t i = 0;
    for (const struct json *v = of->list->child; v; v = v->next, i++) {
        (void)snprintf(field, sizeof field, "%.100s[%zu]", of->field, i);
        if (!add_prompt(l, t, s, v, field, of, pos_field, at, e)) return false;
    }
    return true;
}

static bool make(struct look *l, struct tapping *t, struct steering *s, const struct json *from, const char *field,
                 const struct trace_write *w, struct err *e)
{
    static const struct json all = {.type = JSON_STRING, .text = "all", .len = 3};
    char base[128], pos_field[128];
    const struct json *two = json_get(from, "difference"), *pos = json_get(two ? two : from, "pos");
    struct prompts plus = {.list = two ? json_get(two, "plus") : json_get(from, "mean_of"), .pos = pos}, minus = {0};
    place_field(base, field, "difference");
    place_field(pos_field, two ? base : field, "pos");
    place_field(plus.field, two ? base : field, two ? "plus" : "mean_of");
    plus.share = 1 / (double)plus.list->len;
    if (two) {
        plus.pos = strcmp(pos->text, "mean") == 0 ? &all : NULL;
        minus = (struct prompts){.list = json_get(two, "minus"), .pos = plus.pos, .share = -1 / (double)json_get(two, "minus")->len};
        place_field(minus.field, base, "minus");
    }
    size_t n = plus.list->len + (two ? minus.list->len : 0), width = member_heads(l, &w->at) * member_width(l, t, &w->at);
    s->in = arena_take(&l->arena, n, sizeof *s->in, e);
    s->read = arena_take(&l->arena, n, sizeof *s->read, e);
    s->share = arena_take(&l->arena, n, sizeof *s->share, e);
    s->input = arena_take(&l->arena, n, sizeof *s->input, e);
    float *out = arena_take(&l->arena, width, sizeof *out, e);
    s->q = (struct steer_request){.view = w->source_view ? w->source_view : l->view.view, .in = s->in, .read = s->read,
                                  .share = s->share, .n = n, .width = width, .out = out};
    return s->in && s->read && s->share && s->input && out && add_prompts(l, t, s, &plus, pos_field, &w->at, e) &&
           (!two || add_prompts(l, t, s, &minus, pos_field, &w->at, e));
}

bool steering_source(struct look *l, struct tapping *t, const struct json *from, const char *field,
                     struct trace_write *w, struct err *e)
{
    static const char *const others[] = {"site", "head"};
    char name[128];
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (json_get(from, others[i]))
            return err_field(e, ERR_INVALID, place_field(name, field, others[i]), "a mean is taken where it is written");
    if (hook_info(w->at.site.hook)->axis == AXIS_SOURCE)
        return err_field(e, ERR_INVALID, field, "rows of %s are as long as their text and have no mean", hook_info(w->at.site.hook)->spelling);
    if (json_get(from, "difference") && json_get(from, "pos"))
        return err_field(e, ERR_INVALID, place_field(name, field, "pos"), "the difference has its own, difference.pos");
    const struct steering *s = steering_of(t, from, w->at.site);
    if (!s) {
        struct steering *made = &t->steering[t->n_steering++];
        *made = (struct steering){.from = from, .site = w->at.site};
        if (!make(l, t, made, from, field, w, e)) return false;
        s = made;
    }
    w->from = FROM_VALUES;
    w->values = s->q.out;
    w->n_value_pos = 1;
    return true;
}

void steering_plan(const struct tapping *t, int threads, struct plan *p)
{
    struct plan most = {0};
    for (size_t i = 0; i < t->n_steering; i++) {
        struct plan one = {0};
        steer_plan(&t->steering[i].q, threads, &one);
        plan_peak(&most, &one);
    }
    plan_with(p, &most);
}

enum step steering_step(struct tapping *t, struct session *s, struct err *e)
{
    if (t->next_steering == t->n_steering) return STEP_DONE;
    struct steering *v = &t->steering[t->next_steering];
    if (!v->steer) v->steer = steer_new(&v->q, e);
    enum step step = v->steer ? steer_step(v->steer, s, e) : STEP_FAIL;
    if (step != STEP_DONE) return step;
    v->norm = steer_norm(v->steer);
    steer_free(v->steer);
    v->steer = NULL;
    t->next_steering++;
    return STEP_MORE;
}

void steering_release(struct tapping *t)
{
    for (size_t i = 0; i < t->n_steering; i++) {
        steer_free(t->steering[i].steer);
        for (size_t k = 0; k < t->steering[i].n_inputs; k++) input_release(&t->steering[i].input[k]);
    }
}
