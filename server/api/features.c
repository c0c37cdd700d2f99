/* POST /v1/features: what a sparse autoencoder sees at its site, and what its reconstruction leaves of the model. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "handlers.h"
#include "inputs.h"
#include "probes/features.h"
#include "sae_name.h"
#include "server/clock.h"

struct features_work {
    struct look look;
    struct inputs inputs;
    struct loaded_sae *sae;
    struct features_request request;
    struct features *features;
};

static struct features_work *of(struct work *w) { return (struct features_work *)w; }

static void features_work_free(struct work *w)
{
    features_free(of(w)->features);
    loaded_sae_drop(of(w)->sae);
    inputs_release(&of(w)->inputs);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step features_work_step(struct work *w, struct session *s, struct err *e)
{
    struct features_work *p = of(w);
    size_t done, total;
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = features_step(p->features, s, e);
    features_progress(p->features, &done, &total);
    work_progress(w, done, total);
    return step;
}

/* ---- the answer -------------------------------------------------------------------------------- */

/* "top", as text: as nodes it would weigh ten times as much. */
static bool put_top(const struct features_work *p, const struct features_rows *r, size_t n_pos, jout *o, struct err *e)
{
    const uint32_t k = p->request.top_k;
    struct buf text = {0};
    buf_text(&text, "[");
    for (size_t row = 0; row < n_pos; row++) {
        buf_text(&text, row ? ",[" : "[");
        for (uint32_t i = 0; i < r->n_top[row]; i++) {
            char number[32];
            f32_text(r->top[row * k + i], number);
            buf_printf(&text, "%s{\"feature\":%u,\"activation\":%s}", i ? "," : "", r->top_id[row * k + i], number);
        }
        buf_text(&text, "]");
    }
    buf_text(&text, "]");
    bool ok = buf_ok(&text, e);
    if (ok) jout_raw(o, "top", text.data);
    buf_release(&text);
    return ok;
}

static void put_loss(const double loss[FEATURES_PASSES], jout *o)
{
    jout_f64(o, "clean", loss[PASS_CLEAN]);
    jout_f64(o, "sae", loss[PASS_SAE]);
    jout_f64(o, "zero", loss[PASS_ZERO]);
    jout_f64(o, "recovered", features_recovered(loss));
}

static bool put_input(const struct features_work *p, size_t i, jout *o, struct err *e)
{
    const struct named_input *in = &p->inputs.at[i];
    const struct features_rows *r = features_result(p->features, i);
    size_t n = in->top.n;
    jout_text(o, "id", in->id);
    input_echo(o, look_model(&p->look), &in->in);
    jout_u32s(o, "pos", in->top.at, n);
    jout_u32s(o, "l0", r->l0, n);
    jout_f64s(o, "error", r->error, n);
    jout_f64s(o, "explained", r->explained, n);
    jout *list = jout_put_array(o, "followed");
    for (size_t k = 0; k < p->request.n_features; k++) {
        jout *one = jout_put_object(list, NULL);
        jout_int(one, "feature", p->request.feature[k]);
        jout_f32s(one, "activation", r->followed + k * n, n);
    }
    if (p->request.splice) put_loss(r->loss, jout_put_object(o, "loss"));
    return put_top(p, r, n, o, e);
}

static void put_sums(struct features_work *p, jout *root)
{
    struct features_sums s = features_sums(p->features);
    jout_f64(root, "l0", s.l0);
    jout_f64(root, "error", s.error);
    jout_f64(root, "explained", s.explained);
    if (p->request.splice) {
        jout *o = jout_put_object(root, "loss");
        put_loss(s.loss, o);
        jout_int(o, "tokens", (int64_t)s.tokens);
    }
    bool finite = isfinite(s.error) && (!p->request.splice || isfinite(s.loss[PASS_CLEAN] + s.loss[PASS_SAE] + s.loss[PASS_ZERO]));
    jout_bool(jout_put_object(root, "checks"), "finite", finite);
    if (s.error >= 1)
        look_warn(&p->look, "reconstruction", "it is no nearer to the values than zero is (error %.3g): was the autoencoder made for "
                  "this model, at this site, of values scaled like these?", s.error);
    if (!finite) look_warn(&p->look, "nonfinite", "some values or losses are not finite");
}

static void put_cost(const struct features_work *p, jout *root)
{
    size_t tokens = 0, layers = look_model(&p->look)->arch.n_layers;
    for (size_t i = 0; i < p->inputs.n; i++) tokens += p->inputs.at[i].in.n;
    jout *o = jout_put_object(root, "cost");
    jout_int(o, "forward", (int64_t)(tokens * (p->request.splice ? layers * FEATURES_PASSES : p->request.site.layer + 1)));
    jout_int(o, "encoded", (int64_t)features_sums(p->features).rows);
    jout_f64(o, "seconds", (double)(monotonic_us() - p->look.work.started_us) / 1e6);
}

static bool features_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct features_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    jout *root = look_open(&p->look);
    sae_put(jout_put_object(root, "sae"), p->sae);
    jout *list = jout_put_array(root, "inputs");
    for (size_t i = 0; i < p->inputs.n; i++)
        if (!put_input(p, i, jout_put_object(list, NULL), e)) {
            jout_free(root);
            return false;
        }
    put_sums(p, root);
    put_cost(p, root);
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "features", .unit = "rows", .brief = true,
    .step = features_work_step, .finish = features_work_finish, .free = features_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static bool read_inputs(struct features_work *p, const struct json *q, struct err *e)
{
    size_t next = 0;
    if (!inputs_read(&p->inputs, &p->look, json_get(q, "pos"), "pos", e)) return false;
    struct features_input *in = arena_take(&p->look.arena, p->inputs.n, sizeof *in, e);
    for (size_t i = 0; in && i < p->inputs.n; i++) {
        const struct named_input *n = &p->inputs.at[i];
        in[i] = (struct features_input){n->in.ids, (uint32_t)n->in.n, n->top.at, n->top.n};
        next += n->in.n - 1;
    }
    p->request.in = in;
    p->request.n_in = p->inputs.n;
    return in && (!p->request.splice || next ||
                  err_field(e, ERR_INVALID, "splice", "the loss is of next tokens: an input of two tokens at least is needed"));
}

static bool choose_features(struct features_work *p, const struct json *list, struct err *e)
{
    const uint32_t k = p->sae->sae->cfg.features;
    uint32_t *ids = arena_take(&p->look.arena, list->len + 1, sizeof *ids, e);
    char field[64];
    p->request.feature = ids;
    for (const struct json *v = ids ? list->child : NULL; v; v = v->next) {
        (void)snprintf(field, sizeof field, "features[%zu]", p->request.n_features);
        if (v->integer < 0 || v->integer >= k)
            return err_field(e, ERR_INVALID, field, "feature %lld is outside 0..%u", (long long)v->integer, k - 1);
        ids[p->request.n_features++] = (uint32_t)v->integer;
    }
    return ids != NULL;
}

/* Numbers of the answer. */
static size_t values(const struct features_request *q)
{
    size_t rows = 0;
    for (size_t i = 0; i < q->n_in; i++) rows += q->in[i].n_pos;
    return plan_times(rows, 2 * (size_t)q->top_k + q->n_features + 3);
}

static bool bounded(const struct features_work *p, struct err *e)
{
    enum { MOST = 1 << 21 };
    size_t n = values(&p->request);
    return n <= MOST || err_field(e, ERR_TOO_LARGE, "pos", "%zu numbers would be answered, %d at most; narrow pos, top_k or features", n,
                                  MOST);
}

static bool prepare(struct features_work *p, struct call *c, struct err *e)
{
    enum { TEXT_BYTES = 64 }; /* of a number in the answer: twice in text that grows by doubling */
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request;
    p->sae = sae_named(l, json_get(q, "sae"), "sae", e);
    if (!p->sae) return false;
    uint32_t k = (uint32_t)json_get(q, "top_k")->integer, features = p->sae->sae->cfg.features;
    p->request = (struct features_request){.view = l->view.view, .sae = p->sae->sae, .site = p->sae->site,
                                           .top_k = k < features ? k : features, .splice = json_get(q, "splice")->boolean};
    if (!read_inputs(p, q, e) || !choose_features(p, json_get(q, "features"), e) || !bounded(p, e) || !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    features_plan(&p->request, daemon_threads(c->daemon), &plan);
    plan_add(&plan, NEED_ANSWER, plan_times(values(&p->request), TEXT_BYTES));
    p->features = look_lease(l, &plan, e) ? features_new(&p->request, e) : NULL;
    return p->features != NULL;
}

struct work *api_features(struct call *c, struct err *e)
{
    struct features_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    features_work_free(&p->look.work);
    return NULL;
}
