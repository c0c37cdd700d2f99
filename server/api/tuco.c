/* POST /v1/tuco: how much of what the model adds to its stream comes from what was changed. */
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "input.h"
#include "look.h"
#include "place.h"
#include "probes/tuco.h"

struct tuco_work {
    struct look look;
    struct resolved against;
    struct input *prompt;
    struct tuco_input *in;
    size_t n;
    struct tuco *tuco;
};

static struct tuco_work *of(struct work *w) { return (struct tuco_work *)w; }

static void tuco_work_free(struct work *w)
{
    struct tuco_work *t = of(w);
    tuco_free(t->tuco);
    for (size_t i = 0; i < t->n; i++) input_release(&t->prompt[i]);
    resolved_release(&t->against);
    look_release(&t->look);
    mem_drop(w);
}

static enum step tuco_work_step(struct work *w, struct session *s, struct err *e)
{
    struct tuco_work *t = of(w);
    if (look_cached(&t->look)) return STEP_DONE;
    enum step step = tuco_step(t->tuco, s, e);
    size_t done, total;
    tuco_progress(t->tuco, &done, &total);
    w->done = (int64_t)done;
    w->total = (int64_t)total;
    return step;
}

static void put_score(const struct tuco_work *t, jout *o, size_t i)
{
    const struct tuco_score *s = tuco_result(t->tuco, i);
    const struct model *m = look_model(&t->look);
    input_tokens(o, "tokens", m, t->prompt[i].ids, t->prompt[i].n);
    input_rendered(o, &t->prompt[i]);
    jout_f64(o, "tuco", s->tuco);
    jout_f64(o, "ptc", s->ptc);
    jout_f64(o, "ftc", s->ftc);
    jout *layers = jout_put_array(o, "by_layer");
    for (uint32_t l = 0; l < m->arch.n_layers; l++) {
        jout *one = jout_put_object(layers, NULL);
        jout_int(one, "layer", l);
        jout_f64(one, "ptc", s->layer[l].ptc);
        jout_f64(one, "ftc", s->layer[l].ftc);
    }
    if (s->position) jout_f64s(o, "by_position", s->position, t->prompt[i].n);
}

static bool tuco_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct tuco_work *t = of(w);
    if (look_cached(&t->look)) return look_answer_cached(&t->look, o, e);
    jout *root = look_open(&t->look);
    answer_view(root, "against", &t->against);
    jout *scores = jout_put_array(root, "scores");
    for (size_t i = 0; i < t->n; i++) put_score(t, jout_put_object(scores, NULL), i);
    return look_close(&t->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "tuco", .unit = "rows", .brief = true,
    .step = tuco_work_step, .finish = tuco_work_finish, .free = tuco_work_free,
};

static bool prepare(struct tuco_work *t, struct call *c, struct err *e)
{
    struct look *l = &t->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *prompts = json_get(l->request, "prompts");
    bool all = strcmp(json_get(l->request, "positions")->text, "all") == 0;
    if (!look_view(l, c, json_get(l->request, "against")->text, &t->against, e)) return place_blame(e, "against");
    t->prompt = arena_take(&l->arena, prompts->len, sizeof *t->prompt, e);
    t->in = arena_take(&l->arena, prompts->len, sizeof *t->in, e);
    if (!t->prompt || !t->in) return false;
    for (const struct json *v = prompts->child; v; v = v->next) {
        char field[64];
        (void)snprintf(field, sizeof field, "prompts[%zu]", t->n);
        if (!input_resolve(look_model(l), v, field, &t->prompt[t->n], e)) return false;
        t->in[t->n] = (struct tuco_input){.ids = t->prompt[t->n].ids, .n = (uint32_t)t->prompt[t->n].n, .all_positions = all};
        t->n++;
    }
    look_also(l, &t->against);
    if (!look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    tuco_plan(l->view.view, t->against.view, t->in, t->n, daemon_threads(c->daemon), &plan);
    if (!look_lease(l, &plan, e)) return false;
    t->tuco = tuco_new(l->view.view, t->against.view, t->in, t->n, e);
    return t->tuco != NULL;
}

struct work *api_tuco(struct call *c, struct err *e)
{
    struct tuco_work *t = mem_new(sizeof *t);
    if (prepare(t, c, e)) return &t->look.work;
    tuco_work_free(&t->look.work);
    return NULL;
}
