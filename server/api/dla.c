/* POST /v1/dla: what each part of the stream adds to a logit, or to the difference of two. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "groups.h"
#include "handlers.h"
#include "input.h"
#include "look.h"
#include "metrics.h"
#include "place.h"
#include "probes/dla.h"
#include "probes/stats.h"
#include "server/clock.h"

struct dla_work {
    struct look look;
    struct dla_request request;
    struct input *input;      /* [n] */
    const char **id;
    uint32_t *group;
    size_t n_inputs, n_groups; /* n_inputs: resolved so far */
    bool listed;              /* "prompts": so in the answer */
    size_t top_k;             /* SIZE_MAX: all */
    struct dla *dla;
    struct estimate *estimate; /* [row], listed */
    size_t next_row;
    struct draws draws;
};

static struct dla_work *of(struct work *w) { return (struct dla_work *)w; }

static void dla_work_free(struct work *w)
{
    struct dla_work *p = of(w);
    dla_free(p->dla);
    mem_drop(p->estimate);
    mem_drop(p->draws.count);
    for (size_t i = 0; i < p->n_inputs; i++) input_release(&p->input[i]);
    look_release(&p->look);
    mem_drop(w);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static bool begin_means(struct dla_work *p, struct err *e)
{
    p->estimate = mem_take(dla_result(p->dla).n_rows, sizeof *p->estimate, e);
    return p->estimate && draws_make(&p->draws, p->group, p->n_inputs, p->n_groups, (uint64_t)p->look.seed, e);
}

/* Some rows' means and intervals. */
static enum step step_means(struct dla_work *p, struct err *e)
{
    enum { WORK = 1 << 22 }; /* numbers drawn in a step */
    const struct dla_result r = dla_result(p->dla);
    size_t rows = WORK / (STATS_DRAWS * (p->n_groups + 8)) + 1;
    for (; rows-- > 0 && p->next_row < r.n_rows; p->next_row++)
        if (!stats_mean(&p->draws, r.value + p->next_row * p->n_inputs, 1, 0.95, &p->estimate[p->next_row], e)) return STEP_FAIL;
    return p->next_row < r.n_rows ? STEP_MORE : STEP_DONE;
}

static enum step dla_work_step(struct work *w, struct session *s, struct err *e)
{
    struct dla_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    if (p->estimate) return step_means(p, e);
    enum step step = dla_step(p->dla, s, e);
    dla_progress(p->dla, &done, &total);
    work_progress(w, done, total);
    if (step != STEP_DONE || !p->listed) return step;
    return begin_means(p, e) ? STEP_MORE : STEP_FAIL;
}

/* ---- the answer -------------------------------------------------------------------------------- */

static double mean_of(const struct dla_work *p, size_t row)
{
    double sum = 0;
    for (size_t i = 0; i < p->n_inputs; i++) sum += dla_result(p->dla).value[row * p->n_inputs + i];
    return sum / (double)p->n_inputs;
}

struct ranked {
    double size; /* of the mean */
    size_t row;
};

static int by_size(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return x->size != y->size ? (x->size < y->size) - (x->size > y->size) : (x->row > y->row) - (x->row < y->row);
}

static void put_row(const struct dla_work *p, size_t row, jout *list)
{
    const struct dla_result r = dla_result(p->dla);
    const struct dla_row *of_row = &r.row[row];
    enum dla_kind k = of_row->kind;
    bool layered = k != DLA_EMBED && k != DLA_POS_EMBED && k != DLA_NORM_BIAS && k != DLA_UNEMBED_BIAS;
    jout *o = jout_put_object(list, NULL);
    jout_text(o, "kind", dla_word(k));
    if (layered) jout_int(o, "layer", of_row->layer);
    if (k == DLA_HEAD) jout_int(o, "head", of_row->unit);
    if (k == DLA_NEURON) jout_int(o, "neuron", of_row->unit);
    jout_f64(o, "value", mean_of(p, row));
    if (!p->listed) return;
    jout_f64(o, "low", p->estimate[row].low);
    jout_f64(o, "high", p->estimate[row].high);
    jout_f64s(o, "values", r.value + row * p->n_inputs, p->n_inputs);
}

/* All rows as they come; or the largest, and what the others are together. */
static bool put_rows(const struct dla_work *p, jout *root, struct err *e)
{
    size_t n = dla_result(p->dla).n_rows, shown = n < p->top_k ? n : p->top_k;
    struct ranked *r = mem_take(n, sizeof *r, e);
    double rest = 0;
    if (!r) return false;
    for (size_t i = 0; i < n; i++) r[i] = (struct ranked){fabs(mean_of(p, i)), i};
    if (p->top_k != SIZE_MAX) qsort(r, n, sizeof *r, by_size);
    jout *list = jout_put_array(root, "rows");
    for (size_t i = 0; i < shown; i++) put_row(p, r[i].row, list);
    for (size_t i = shown; i < n; i++) rest += mean_of(p, r[i].row);
    jout *o = jout_put_object(root, "rest");
    jout_int(o, "n", (int64_t)(n - shown));
    jout_f64(o, "value", rest);
    mem_drop(r);
    return true;
}

static void put_prompt(const struct dla_work *p, size_t i, jout *list)
{
    const struct dla_result r = dla_result(p->dla);
    const struct dla_prompt *q = &p->request.prompt[i];
    uint32_t foil = (uint32_t)q->foil;
    const struct metric m = {.answer = &q->answer, .n_answer = 1, .foil = &foil, .n_foil = q->foil != DLA_NO_FOIL};
    jout *o = jout_put_object(list, NULL);
    jout_text(o, "id", p->id[i]);
    input_echo(o, look_model(&p->look), &p->input[i]);
    jout_int(o, "pos", q->pos);
    metric_echo(&m, look_model(&p->look), o);
    jout_f64(o, "total", r.total[i]);
    jout_f64(o, "sum", r.sum[i]);
    jout_f64(o, "scale", r.scale[i]);
}

static void say_caveats(struct dla_work *p)
{
    const struct arch *a = &look_model(&p->look)->arch;
    bool heads = p->request.by == DLA_BY_HEAD, split = heads || p->request.by == DLA_BY_NEURON;
    if (split && a->post_norm)
        look_warn(&p->look, "post-norm", "%s norms what a branch adds: its %s are split with that norm frozen at its own scale",
                  a->family, heads ? "heads" : "neurons");
    if (heads && a->qkv_bias)
        look_warn(&p->look, "value-bias", "values have biases, which are inside their heads' rows; folded into the output bias "
                  "they would be inside attn_bias, and heads rank differently");
    if (a->final_softcap > 0)
        look_warn(&p->look, "soft-cap", "rows sum to logits before the final soft-cap of %g", (double)a->final_softcap);
}

static void put_checks(struct dla_work *p, jout *root)
{
    const struct dla_result r = dla_result(p->dla);
    double most = 0;
    for (size_t i = 0; i < p->n_inputs; i++) most = fmax(most, fabs(r.sum[i] - r.total[i]));
    jout_f64(jout_put_object(root, "checks"), "sum", most);
    for (size_t i = 0; i < p->n_inputs; i++)
        if (!isfinite(r.total[i])) {
            look_warn(&p->look, "nonfinite", "prompt %.100s has a logit that is not finite", p->id[i]);
            break;
        }
}

static bool dla_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct dla_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    jout *root = look_open(&p->look);
    jout_text(root, "by", json_get(p->look.request, "by")->text);
    jout *list = jout_put_array(root, "prompts");
    for (size_t i = 0; i < p->n_inputs; i++) put_prompt(p, i, list);
    if (!put_rows(p, root, e)) {
        jout_free(root);
        return false;
    }
    if (p->listed) {
        jout *i = jout_put_object(root, "intervals");
        jout_f64(i, "level", 0.95);
        jout_int(i, "draws", STATS_DRAWS);
        jout_int(i, "groups", (int64_t)p->n_groups);
        jout_int(i, "seed", p->look.seed);
    }
    put_checks(p, root);
    say_caveats(p);
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "forward", w->total);
    jout_f64(cost, "seconds", (double)(monotonic_us() - w->started_us) / 1e6);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "dla", .unit = "rows", .brief = true,
    .step = dla_work_step, .finish = dla_work_finish, .free = dla_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

/* Its own tokens, or those of the request. */
static bool read_tokens(struct dla_work *p, const struct json *v, const char *field, struct dla_prompt *out, struct err *e)
{
    char name[128];
    uint32_t foil;
    const struct json *q = p->look.request, *answer = json_get(v, "answer"), *other = json_get(v, "foil");
    if (!answer && !json_get(q, "answer"))
        return err_field(e, ERR_INVALID, place_field(name, field, "answer"), "it is required: the token whose logit is split");
    bool own = answer != NULL, own_foil = other != NULL;
    if (!own) answer = json_get(q, "answer");
    if (!own_foil) other = json_get(q, "foil");
    if (!metric_token(&p->look, answer, place_field(name, own ? field : "", "answer"), &out->answer, e)) return false;
    out->foil = DLA_NO_FOIL;
    if (!other) return true;
    if (!metric_token(&p->look, other, place_field(name, own_foil ? field : "", "foil"), &foil, e)) return false;
    out->foil = foil;
    return foil != out->answer || err_field(e, ERR_INVALID, name, "answer and foil are the same token, id %u", foil);
}

static bool read_prompt(struct dla_work *p, const struct json *v, const struct json *text, const char *field,
                        struct dla_prompt *out, struct err *e)
{
    char name[128], number[16];
    const struct json *id = json_get(v, "id");
    struct input *in = &p->input[p->n_inputs];
    struct places pos;
    (void)snprintf(number, sizeof number, "%zu", p->n_inputs);
    p->id[p->n_inputs] = id ? id->text : arena_text(&p->look.arena, number, strlen(number), e);
    if (!p->id[p->n_inputs] || !input_resolve(look_model(&p->look), text, place_field(name, field, "input"), in, e)) return false;
    p->n_inputs++;
    if (!place_pos(json_get(p->look.request, "pos"), (uint32_t)in->n, "pos", &p->look.arena, &pos, e)) return false;
    if (pos.n != 1) return err_field(e, ERR_INVALID, "pos", "the logit is split at one position, not %zu", pos.n);
    *out = (struct dla_prompt){.ids = in->ids, .n = (uint32_t)in->n, .pos = pos.at[0]};
    return read_tokens(p, v, field, out, e);
}

static bool read_prompts(struct dla_work *p, struct err *e)
{
    const struct json *q = p->look.request, *list = json_get(q, "prompts");
    size_t n = list ? list->len : 1, i = 0;
    struct arena *a = &p->look.arena;
    struct dla_prompt *out = arena_take(a, n, sizeof *out, e);
    p->input = arena_take(a, n, sizeof *p->input, e);
    p->id = arena_take(a, n, sizeof *p->id, e);
    p->group = arena_take(a, n, sizeof *p->group, e);
    if (!out || !p->input || !p->id || !p->group) return false;
    p->request.prompt = out;
    p->request.n = n;
    p->listed = list != NULL;
    if (!list) return read_prompt(p, q, json_get(q, "input"), "", out, e);
    for (const struct json *v = list->child; v; v = v->next, i++) {
        char field[64];
        (void)snprintf(field, sizeof field, "prompts[%zu]", i);
        if (!read_prompt(p, v, json_get(v, "input"), field, &out[i], e)) return false;
    }
    return groups_read(list->child, n, false, p->group, &p->n_groups, e);
}

/* Rows of the answer, and values in each. */
static bool bounded(const struct dla_work *p, struct err *e)
{
    enum { MOST = 1 << 20 };
    size_t rows = dla_rows(&look_model(&p->look)->arch, p->request.by), shown = rows < p->top_k ? rows : p->top_k;
    size_t n = plan_times(shown, p->n_inputs + 6);
    return n <= MOST || err_field(e, ERR_TOO_LARGE, "top_k", "%zu numbers would be answered, %d at most; ask for fewer rows or prompts",
                                  n, MOST);
}

static bool lease(struct dla_work *p, const struct call *c, struct err *e)
{
    enum { ROW_BYTES = 640, TEXT_BYTES = 64 };
    struct plan plan = {0};
    size_t rows = dla_rows(&look_model(&p->look)->arch, p->request.by), shown = rows < p->top_k ? rows : p->top_k;
    dla_plan(&p->request, daemon_threads(c->daemon), &plan);
    plan_add(&plan, NEED_ANSWER, plan_times(shown, ROW_BYTES + p->n_inputs * TEXT_BYTES));
    plan_add(&plan, NEED_ANSWER, plan_times(rows, sizeof(struct ranked) + sizeof(struct estimate)));
    if (p->listed) plan_add(&plan, NEED_SCRATCH, plan_times(plan_sum(STATS_DRAWS, p->n_groups), (p->n_groups + 1) * sizeof(uint32_t)));
    return look_lease(&p->look, &plan, e);
}

static bool prepare(struct dla_work *p, struct call *c, struct err *e)
{
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request, *top_k = json_get(q, "top_k");
    bool known = dla_by_parse(json_get(q, "by")->text, &p->request.by);
    if (!known) return err_field(e, ERR_INVALID, "by", "\"%s\" is no way to split", json_get(q, "by")->text);
    p->top_k = top_k ? (size_t)top_k->integer : p->request.by == DLA_BY_NEURON ? 20 : SIZE_MAX;
    p->request.view = l->view.view;
    if (!read_prompts(p, e)) return false;
    if (p->listed) l->seed = json_get(q, "seed")->integer;
    if (!bounded(p, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    p->dla = lease(p, c, e) ? dla_new(&p->request, e) : NULL;
    return p->dla != NULL;
}

struct work *api_dla(struct call *c, struct err *e)
{
    struct dla_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    dla_work_free(&p->look.work);
    return NULL;
}
