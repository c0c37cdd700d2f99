/* POST /v1/attention: patterns of heads, and what kind of heads they are. */
#include <stdio.h>
#include <string.h>

#include "captures.h"
#include "core/base/random.h"
#include "handlers.h"
#include "inputs.h"
#include "probes/heads.h"
#include "server/clock.h"

struct attention_work {
    struct look look;
    struct inputs inputs;   /* or, with "repeat", made here */
    uint32_t *repeated;     /* the ids of "repeat" */
    struct heads_request request;
    struct places layers, heads;
    struct heads *probe;
    struct captured *captured; /* [input][layer] */
    size_t n_captured;
    enum media media;
};

static struct attention_work *of(struct work *w) { return (struct attention_work *)w; }

static void attention_work_free(struct work *w)
{
    heads_free(of(w)->probe);
    mem_drop(of(w)->captured);
    inputs_release(&of(w)->inputs);
    look_release(&of(w)->look);
    mem_drop(w);
}

static enum step attention_work_step(struct work *w, struct session *s, struct err *e)
{
    struct attention_work *p = of(w);
    if (look_cached(&p->look)) return STEP_DONE;
    enum step step = heads_step(p->probe, s, e);
    size_t done, total;
    heads_progress(p->probe, &done, &total);
    work_progress(w, done, total);
    return step;
}

/* ---- the answer -------------------------------------------------------------------------------- */

static void put_scores(const struct attention_work *p, size_t input, jout *o)
{
    const struct heads_request *q = &p->request;
    jout *scores = jout_put_object(o, "scores");
    for (int d = 0; d < DETECTORS; d++) {
        const double *v = heads_scores(p->probe, input, (enum detector)d);
        jout *rows = jout_put_array(scores, detector_word((enum detector)d));
        for (size_t l = 0; l < q->n_layers; l++) jout_f64s(rows, NULL, v + l * q->n_heads, q->n_heads);
    }
}

static void put_inputs(const struct attention_work *p, jout *root)
{
    jout *list = jout_put_array(root, "inputs");
    for (size_t i = 0; i < p->request.n_in; i++) {
        jout *o = jout_put_object(list, NULL);
        if (p->repeated) {
            jout_text(o, "id", "repeat");
            jout_u32s(o, "ids", p->request.in[0].ids, p->request.in[0].n);
            input_tokens(o, "tokens", look_model(&p->look), p->request.in[0].ids, p->request.in[0].n);
        } else {
            jout_text(o, "id", p->inputs.at[i].id);
            input_echo(o, look_model(&p->look), &p->inputs.at[i].in);
        }
        put_scores(p, i, o);
    }
}

/* What an array is called after its input: its id, and its number where ids that differ are spelled alike. */
static void name_input(const struct attention_work *p, size_t input, char out[96])
{
    char other[80];
    captures_safe_id(p->inputs.at[input].id, out);
    for (size_t i = 0; i < input; i++) {
        captures_safe_id(p->inputs.at[i].id, other);
        if (strcmp(out, other) != 0) continue;
        (void)snprintf(out + strlen(out), 16, ".%u", (unsigned)input);
        return;
    }
}

static bool collect(struct attention_work *p, struct err *e)
{
    const struct heads_request *q = &p->request;
    p->captured = mem_take(q->n_in * q->n_layers + 1, sizeof *p->captured, e);
    for (size_t i = 0; p->captured && q->keep && i < q->n_in; i++)
        for (size_t l = 0; l < q->n_layers; l++) {
            struct captured *c = &p->captured[p->n_captured++];
            const uint64_t n = q->in[i].n;
            char id[96];
            name_input(p, i, id);
            (void)snprintf(c->name, sizeof c->name, "%s/blocks.%u.attn.hook_pattern", id, q->layer[l]);
            c->values = heads_pattern(p->probe, i, l);
            c->n = q->n_heads * n * n;
            c->n_dims = 3;
            c->shape[0] = q->n_heads, c->shape[1] = c->shape[2] = n;
        }
    return p->captured != NULL;
}

static void put_patterns(const struct attention_work *p, jout *root)
{
    jout *list = jout_put_array(root, "patterns");
    for (size_t i = 0; i < p->n_captured; i++) {
        const struct captured *c = &p->captured[i];
        jout *o = jout_put_object(list, NULL), *shape;
        jout_text(o, "input", p->inputs.at[i / p->request.n_layers].id);
        jout_int(o, "layer", p->request.layer[i % p->request.n_layers]);
        shape = jout_put_array(o, "shape");
        for (int k = 0; k < 3; k++) jout_int(shape, NULL, (int64_t)c->shape[k]);
        if (p->media == MEDIA_JSON) jout_f32s(o, "values", c->values, c->n);
        else jout_text(o, "name", c->name);
    }
}

static bool pack(struct work *w, const struct buf *answer, struct buf *out, struct err *e)
{
    return captures_pack(of(w)->media, of(w)->captured, of(w)->n_captured, answer, out, e);
}

static bool attention_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct attention_work *p = of(w);
    if (look_cached(&p->look)) return look_answer_cached(&p->look, o, e);
    if (!collect(p, e)) return false;
    jout *root = look_open(&p->look);
    jout_u32s(root, "layers", p->layers.at, p->layers.n);
    jout_u32s(root, "heads", p->heads.at, p->heads.n);
    jout_bool(root, "value_weighted", p->request.value_weighted);
    put_inputs(p, root);
    put_patterns(p, root);
    if (p->look.seed >= 0) jout_int(root, "seed", p->look.seed);
    jout *cost = jout_put_object(root, "cost");
    jout_int(cost, "forward", w->total);
    jout_f64(cost, "seconds", (double)(monotonic_us() - w->started_us) / 1e6);
    if (p->media != MEDIA_JSON) {
        o->media = media_name(p->media);
        o->pack = pack;
    }
    return look_close(&p->look, root, o, e);
}

static const struct work_ops ops = {
    .kind = "attention", .unit = "token-layers", .brief = true,
    .step = attention_work_step, .finish = attention_work_finish, .free = attention_work_free,
};

/* ---- the request --------------------------------------------------------------------------------- */

static bool choose_heads(struct attention_work *p, const struct json *heads, struct err *e)
{
    const struct arch *a = &look_model(&p->look)->arch;
    if (!place_head(heads, a, HOOK_PATTERN, "heads", &p->look.arena, &p->heads, e)) return false;
    if (p->heads.at) return true;
    uint32_t *all = arena_take(&p->look.arena, a->n_heads, sizeof *all, e);
    for (uint32_t i = 0; all && i < a->n_heads; i++) all[i] = i;
    p->heads = (struct places){all, a->n_heads};
    return all != NULL;
}

/* T different ordinary tokens, twice over, behind a beginning of sequence where the model has texts begin with one. */
static bool draw(struct attention_work *p, const struct json *repeat, struct err *e)
{
    const struct model *m = look_model(&p->look);
    const uint32_t V = m->arch.d_vocab;
    uint32_t T = (uint32_t)json_get(repeat, "length")->integer, bos, n = 0, left = 0, *pool = mem_take(V, sizeof *pool, e);
    struct random random;
    for (uint32_t i = 0; pool && i < V; i++)
        if (!tokenizer_is_special(m->tokenizer, i)) pool[left++] = i;
    p->repeated = pool ? arena_take(&p->look.arena, 2 * (size_t)T + 1, sizeof *p->repeated, e) : NULL;
    bool ok = p->repeated && (T <= left || err_field(e, ERR_INVALID, "repeat.length", "the model has %u ordinary tokens", left));
    if (ok && tokenizer_adds_bos(m->tokenizer) && tokenizer_bos(m->tokenizer, &bos)) p->repeated[n++] = bos;
    if (ok && n + 2 * T > m->arch.context)
        ok = err_field(e, ERR_INVALID, "repeat.length", "twice %u tokens are more than the model's context of %u", T, m->arch.context);
    p->look.seed = json_get(repeat, "seed")->integer;
    random_init(&random, (uint64_t)p->look.seed);
    for (uint32_t i = 0; ok && i < T; i++, left--) {
        size_t k = random_below(&random, left);
        p->repeated[n + i] = p->repeated[n + T + i] = pool[k];
        pool[k] = pool[left - 1];
    }
    mem_drop(pool);
    if (!ok) return false;
    struct heads_input *in = arena_take(&p->look.arena, 1, sizeof *in, e);
    if (in) *in = (struct heads_input){p->repeated, n + 2 * T};
    p->request.in = in;
    p->request.n_in = 1;
    return in != NULL;
}

static bool read_inputs(struct attention_work *p, struct err *e)
{
    if (!inputs_read(&p->inputs, &p->look, NULL, "", e)) return false;
    struct heads_input *in = arena_take(&p->look.arena, p->inputs.n, sizeof *in, e);
    for (size_t i = 0; in && i < p->inputs.n; i++)
        in[i] = (struct heads_input){p->inputs.at[i].in.ids, (uint32_t)p->inputs.at[i].in.n};
    p->request.in = in;
    p->request.n_in = p->inputs.n;
    return in != NULL;
}

static size_t pattern_values(const struct heads_request *q)
{
    size_t n = 0;
    for (size_t i = 0; q->keep && i < q->n_in; i++)
        n += plan_times(q->n_layers * q->n_heads, (size_t)q->in[i].n * q->in[i].n);
    return n;
}

static bool bounded(const struct attention_work *p, struct err *e)
{
    size_t n = pattern_values(&p->request), most = p->media == MEDIA_JSON ? MOST_VALUES : MOST_BYTES_VALUES;
    size_t scores = plan_times(p->request.n_in * DETECTORS, p->request.n_layers * p->request.n_heads);
    if (scores > MOST_VALUES)
        return err_field(e, ERR_TOO_LARGE, "inputs", "%zu scores would be answered, at most %d", scores, MOST_VALUES);
    return n <= most || err_field(e, ERR_TOO_LARGE, "patterns", "%zu values are asked for, %zu at most; narrow layers or heads, set "
                                  "patterns to false%s", n, most, p->media == MEDIA_JSON ? ", or ask for bytes" : "");
}

/* What the chosen kind of bytes can hold. */
static bool fits_media(const struct attention_work *p, const struct call *c, struct err *e)
{
    size_t n = p->request.keep ? p->request.n_in * p->request.n_layers : 0;
    if (p->media == MEDIA_JSON) return true;
    if (c->key.key[0])
        return err_field(e, ERR_INVALID, "Idempotency-Key", "bytes are not kept to be answered again: ask without a key, or for JSON");
    if (n == 0) return err_field(e, ERR_INVALID, "Accept", "no patterns are asked for; scores come as JSON");
    return p->media != MEDIA_NPY || n == 1 ||
           err_field(e, ERR_INVALID, "Accept", "%s holds one array and %zu are read; ask for %s", media_name(p->media), n,
                     media_name(MEDIA_NPZ));
}

static bool read_request(struct attention_work *p, const struct call *c, struct err *e)
{
    struct look *l = &p->look;
    const struct json *q = l->request, *repeat = json_get(q, "repeat");
    if (!inputs_layers(l, json_get(q, "layers"), &p->layers, e) || !choose_heads(p, json_get(q, "heads"), e)) return false;
    p->media = media_of(c->accept);
    p->request.view = l->view.view;
    p->request.layer = p->layers.at, p->request.n_layers = p->layers.n;
    p->request.head = p->heads.at, p->request.n_heads = p->heads.n;
    p->request.keep = !repeat && json_get(q, "patterns")->boolean;
    p->request.value_weighted = p->request.keep && json_get(q, "value_weighted")->boolean;
    return (repeat ? draw(p, repeat, e) : read_inputs(p, e)) && bounded(p, e) && fits_media(p, c, e);
}

static bool prepare(struct attention_work *p, struct call *c, struct err *e)
{
    enum { TEXT_BYTES = 64 };
    struct look *l = &p->look;
    if (!look_begin(l, c, &ops, e) || !read_request(p, c, e)) return false;
    if (p->media == MEDIA_JSON && !look_find(l, c, e)) return false;
    if (look_cached(l)) return true;
    struct plan plan = {0};
    heads_plan(&p->request, daemon_threads(c->daemon), &plan);
    plan_add(&plan, NEED_ANSWER, plan_times(pattern_values(&p->request), p->media == MEDIA_JSON ? TEXT_BYTES : sizeof(float)));
    plan_add(&plan, NEED_ANSWER, plan_times(p->request.n_in * DETECTORS * p->layers.n, p->heads.n * TEXT_BYTES));
    p->probe = look_lease(l, &plan, e) ? heads_new(&p->request, e) : NULL;
    return p->probe != NULL;
}

struct work *api_attention(struct call *c, struct err *e)
{
    struct attention_work *p = mem_new(sizeof *p);
    if (prepare(p, c, e)) return &p->look.work;
    attention_work_free(&p->look.work);
    return NULL;
}
