/* "reads": places of the run, and of passes back for gradients. */
#include "members.h"

struct graded { /* places of gradients, until they are packed */
    struct trace_place *place;
    size_t *group, *index, n;
};

/* A place goes to the run's reads or to a request for gradients. */
static bool add_read(struct tapping *t, struct look *l, struct call *c, const struct member *m, size_t input,
                     const struct trace_place *p, struct graded *g, struct err *e)
{
    struct capture *out = &t->capture[t->n_captures++];
    const struct json *grad_of = json_get(m->v, "grad_of");
    *out = (struct capture){.gradient = grad_of != NULL, .of = t->n_reads};
    if (!member_count(t, l, p, "reads", e)) return false;
    if (!grad_of) {
        t->read[t->n_reads++] = *p;
        return true;
    }
    char name[128];
    const char *why = gradient_absent(p->site.hook);
    if (why) return err_field(e, ERR_INVALID, place_field(name, m->field, "grad_of"), "no gradient here: %s", why);
    g->place[g->n] = *p;
    if (!gradient_group(t->gradients, l, c, t->input, t->n_named, input, grad_of, m->field, &g->group[g->n], e)) return false;
    out->of = g->group[g->n++];
    return true;
}

static bool pack(struct tapping *t, struct look *l, struct graded *g, struct err *e)
{
    struct trace_input *in = arena_take(&l->arena, t->n_named, sizeof *in, e);
    if (!in) return false;
    for (size_t i = 0; i < t->n_named; i++)
        in[i] = (struct trace_input){.ids = t->input[i].in.ids, .n = (uint32_t)t->input[i].in.n};
    if (!gradient_pack(t->gradients, l, in, g->place, g->group, g->n, g->index, e)) return false;
    for (size_t i = 0, k = 0; i < t->n_captures; i++)
        if (t->capture[i].gradient) t->capture[i].index = g->index[k++];
    return true;
}

static bool room_for(struct tapping *t, struct look *l, size_t places, bool graded, struct graded *g, struct err *e)
{
    t->read = arena_take(&l->arena, places, sizeof *t->read, e);
    t->capture = arena_take(&l->arena, places, sizeof *t->capture, e);
    if (!t->read || !t->capture) return false;
    if (!graded) return true;
    t->gradients = arena_take(&l->arena, 1, sizeof *t->gradients, e);
    g->place = arena_take(&l->arena, places, sizeof *g->place, e);
    g->group = arena_take(&l->arena, places, sizeof *g->group, e);
    g->index = arena_take(&l->arena, places, sizeof *g->index, e);
    return t->gradients && g->place && g->group && g->index;
}

bool tapping_reads(struct tapping *t, struct look *l, struct call *c, const struct json *reads, struct err *e)
{
    struct member *m;
    struct graded g = {.n = 0};
    size_t places;
    bool graded = false;
    for (const struct json *v = reads->child; v; v = v->next) graded |= json_get(v, "grad_of") != NULL;
    if (!members_read(t, l, reads, "reads", &m, &places, e) || !room_for(t, l, places, graded, &g, e)) return false;
    for (size_t k = 0; k < reads->len; k++)
        for (size_t i = m[k].from; i < m[k].to; i++)
            for (size_t s = 0; s < m[k].sites.n; s++) {
                struct trace_place p;
                if (!member_place(l, t, &m[k], m[k].sites.at[s], i, &p, e) || !add_read(t, l, c, &m[k], i, &p, &g, e))
                    return false;
            }
    return !graded || pack(t, l, &g, e);
}

const struct trace_place *tapping_place(const struct tapping *t, size_t i)
{
    const struct capture *c = &t->capture[i];
    return c->gradient ? &t->gradients->request[c->of].at[c->index] : &t->read[c->of];
}
