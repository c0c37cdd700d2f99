/* POST /v1/lens: every layer's stream through the model's own unembedding. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "inputs.h"
#include "metrics.h"
#include "probes/lens.h"
#include "server/clock.h"

struct lens_work {
    struct look look;
    struct inputs inputs;
    struct lens_request request;
    struct places layers;
    struct lens *lens;
};

static struct lens_work *of(struct work *w) { return (struct lens_work *)w; }

static void lens_work_free(struct work *w)
{
    lens_free(of(w)->lens);
    inputs_release(&of(w)->inputs);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step lens_work_step(struct work *w, struct session *s, struct err *e)
{
    struct lens_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = lens_step(p->lens, s, e);
    size_t done, total;
    lens_progress(p->lens, &done, &total);
    work_progress(w, done, total);
    return step;
}

/* ---- the answer -------------------------------------------------------------------------------- */

static void put_rows(jout *o, const char *key, const double *v, size_t rows, size_t n)
{
    jout *list = jout_put_array(o, key);
    for (size_t i = 0; i < rows; i++) jout_f64s(list, NULL, v + i * n, n);
}

static void write_top(const struct model *m, const struct lens_cells *c, size_t cell, uint32_t k, struct buf *out)
{
    for (uint32_t i = 0; i < k; i++) {
        struct buf token = {0};
        char number[32];
        size_t at = cell * k + i;
        tokenizer_show(m->tokenizer, c->top_id[at], &token);
        buf_printf(out, "%s{\"id\":%u,\"token\":", i ? "," : "", c->top_id[at]);
        json_write_text(out, token.data ? token.data : "", token.len);
        f64_text(c->top_prob[at], number);
        buf_printf(out, ",\"prob\":%s", number);
        f32_text(c->top_logit[at], number);
        buf_printf(out, ",\"logit\":%s}", number);
        buf_release(&token);
    }
}

/* "top", as text: as nodes it would weigh ten times as much. */
static bool put_top(struct lens_work *p, size_t input, jout *o, struct err *e)
{
    const struct lens_request *q = &p->request;
    const struct lens_cells *c = lens_result(p->lens, input);
    size_t n_pos = q->in[input].n_pos, broken = 0;
    struct buf text = {0};
    for (size_t l = 0; l < q->n_layers; l++)
        for (size_t i = 0; i < n_pos; i++) {
            size_t cell = l * n_pos + i;
            bool finite = isfinite(c->entropy[cell]);
            broken += !finite;
            buf_text(&text, i ? ",[" : l ? "],[[" : "[[[");
            if (finite) write_top(look_model(&p->look), c, cell, q->top_k, &text);
            buf_text(&text, "]");
        }
    buf_text(&text, "]]");
    bool ok = buf_ok(&text, e);
    if (ok) jout_raw(o, "top", text.data);
    buf_release(&text);
    if (broken)
        look_warn(&p->look, "nonfinite", "input %.100s has logits that are not finite at %zu layers and positions: there "
                  "the top is empty", p->inputs.at[input].id, broken);
    return ok;
}

static void put_followed(const struct lens_work *p, size_t input, jout *o)
{
    const struct lens_request *q = &p->request;
    const struct lens_cells *c = lens_result(p->lens, input);
    size_t n_pos = q->in[input].n_pos, cells = q->n_layers * n_pos;
    jout *list = jout_put_array(o, "followed");
    for (size_t t = 0; t < q->n_tokens; t++) {
        struct buf token = {0};
        jout *one = jout_put_object(list, NULL), *logit, *rank;
        tokenizer_show(look_model(&p->look)->tokenizer, q->token[t], &token);
        jout_int(one, "id", q->token[t]);
        jout_text(one, "token", token.data ? token.data : "");
        buf_release(&token);
        logit = jout_put_array(one, "logit");
        for (size_t l = 0; l < q->n_layers; l++) jout_f32s(logit, NULL, c->logit + t * cells + l * n_pos, n_pos);
        put_rows(one, "logprob", c->logprob + t * cells, q->n_layers, n_pos);
        rank = jout_put_array(one, "rank");
        for (size_t l = 0; l < q->n_layers; l++) jout_u32s(rank, NULL, c->rank + t * cells + l * n_pos, n_pos);
    }
}

static bool put_input(struct lens_work *p, size_t i, jout *o, struct err *e)
{
    const struct named_input *in = &p->inputs.at[i];
    const struct lens_cells *c = lens_result(p->lens, i);
    jout_text(o, "id", in->id);
    input_echo(o, look_model(&p->look), &in->in);
    jout_u32s(o, "pos", in->top.at, in->top.n);
    put_rows(o, "entropy", c->entropy, p->request.n_layers, in->top.n);
    put_rows(o, "kl", c->kl, p->request.n_layers, in->top.n);
    put_followed(p, i, o);
    return put_top(p, i, o, e);
}

/* The last layer's resid_post is what the model unembeds: how far from it the lens is there. */
static double check_last(const struct lens_work *p)
{
    const struct lens_request *q = &p->request;
    double most = 0;
    if (q->at != HOOK_RESID_POST || q->layer[q->n_layers - 1] != look_model(&p->look)->arch.n_layers - 1) return (double)NAN;
    for (size_t i = 0; i < q->n_in; i++)
        for (size_t k = 0; k < q->in[i].n_pos; k++)
            most = fmax(most, fabs(lens_result(p->lens, i)->kl[(q->n_layers - 1) * q->in[i].n_pos + k]));
    return most;
}

static void put_cost(const struct lens_work *p, jout *root)
{
    size_t rows = 0, tokens = 0;
    for (size_t i = 0; i < p->request.n_in; i++) {
        rows += p->request.in[i].n_pos * (p->request.n_layers + 1);
        tokens += p->request.in[i].n;
    }
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "forward", (int64_t)(tokens * look_model(&p->look)->arch.n_layers));
    jout_int(o, "unembedded", (int64_t)rows);
    jout_f64(o, "seconds", (double)(monotonic_us() - p->look.work.started_us) / 1e6);
}

static bool lens_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct lens_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    jout *root = look_open(&p->look);
    jout_text(root, "at", json_get(p->look.request, "at")->text);
    jout_u32s(root, "layers", p->layers.at, p->layers.n);
    jout *list = jout_put_array(root, "inputs");
    for (size_t i = 0; i < p->inputs.n; i++)
        if (!put_input(p, i, jout_put_object(list, NULL), e)) {
            jout_free(root);
            return false;
        }
    jout_f64(jout_put_object(root, "checks"), "last", check_last(p));
    put_cost(p, root);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "lens", .unit = "rows", .brief = true,
    .step = lens_work_step, .finish = lens_work_finish, .free = lens_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static const struct {
    const char *word;
    enum hook hook;
} streams[] = {{"resid_post", HOOK_RESID_POST}, {"resid_mid", HOOK_RESID_MID}, {"resid_pre", HOOK_RESID_PRE},
               {"attn_out", HOOK_ATTN_OUT}, {"mlp_out", HOOK_MLP_OUT}};

static bool choose_stream(struct lens_work *p, struct err *e)
{
    const struct arch *a = &look_model(&p->look)->arch;
    const char *word = json_get(p->look.request, "at")->text;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        if (strcmp(word, streams[i].word) == 0) p->request.at = streams[i].hook;
    const char *why = hook_absent(a, p->request.at);
    return !why || err_field(e, ERR_INVALID, "at", "%s has no %s: %s", a->family, word, why);
}

static bool choose_tokens(struct lens_work *p, const struct json *list, struct err *e)
{
    uint32_t *ids = arena_take(&p->look.arena, list->len + 1, sizeof *ids, e);
    char field[64];
    p->request.token = ids;
    for (const struct json *v = ids ? list->child : NULL; v; v = v->next) {
        (void)snprintf(field, sizeof field, "tokens[%zu]", p->request.n_tokens);
        if (!metric_token(&p->look, v, field, &ids[p->request.n_tokens++], e)) return false;
    }
    return ids != NULL;
}

static bool read_inputs(struct lens_work *p, const struct json *q, struct err *e)
{
    if (!inputs_read(&p->inputs, &p->look, json_get(q, "pos"), "pos", e)) return false;
    struct lens_input *in = arena_take(&p->look.arena, p->inputs.n, sizeof *in, e);
    for (size_t i = 0; in && i < p->inputs.n; i++) {
        const struct named_input *n = &p->inputs.at[i];
        in[i] = (struct lens_input){n->in.ids, (uint32_t)n->in.n, n->top.at, n->top.n};
    }
    p->request.in = in;
    p->request.n_in = p->inputs.n;
    return in != NULL;
}

/* Numbers of the answer. */
static size_t values(const struct lens_request *q)
{
    size_t cells = 0;
    for (size_t i = 0; i < q->n_in; i++) cells += q->in[i].n_pos * q->n_layers;
    return plan_times(cells, 2 * (size_t)q->top_k + 3 * q->n_tokens + 2);
}

static bool bounded(const struct lens_work *p, struct err *e)
{
    enum { MOST = 1 << 21 };
    size_t n = values(&p->request);
    return n <= MOST || err_field(e, ERR_TOO_LARGE, "pos", "%zu numbers would be answered, %d at most; narrow pos, layers, top_k "
                                  "or tokens", n, MOST);
}

static bool prepare(struct lens_work *p, struct call *c, struct err *e)
{
    enum { TEXT_BYTES = 64 }; /* of a number in the answer: twice in text that grows by doubling */
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request;
    const uint32_t V = look_model(l)->arch.d_vocab;
    uint32_t k = (uint32_t)json_get(q, "top_k")->integer;
    if (!choose_stream(p, e) || !inputs_layers(l, json_get(q, "layers"), &p->layers, e) || !read_inputs(p, q, e) ||
        !choose_tokens(p, json_get(q, "tokens"), e))
        return false;
    p->request.view = l->view.view;
    p->request.layer = p->layers.at;
    p->request.n_layers = p->layers.n;
    p->request.top_k = k < V ? k : V;
    if (!bounded(p, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    lens_plan(&p->request, daemon_threads(c->daemon), &plan);
    plan_add(&plan, NEED_ANSWER, plan_times(values(&p->request), TEXT_BYTES));
    p->lens = look_lease(l, &plan, e) ? lens_new(&p->request, e) : NULL;
    return p->lens != NULL;
}

struct work *api_lens(struct call *c, struct err *e)
{
    struct lens_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    lens_work_free(&p->look.work);
    return NULL;
}
