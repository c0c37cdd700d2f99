/* POST /v1/generate: continue a prompt, with writes into the stream if asked, whole or streamed. */
#include <stdio.h>
#include <string.h>

#include "against.h"
#include "handlers.h"
#include "core/text/codepoint.h"
#include "core/decode.h"
#include "core/head.h"
#include "generation.h"
#include "steering.h"
#include "writes.h"

struct generate_work {
    struct look look;        /* pinned view and own copy of the request; generation is not a look */
    struct tapping taps;     /* input 0 is the prompt, further ones are texts that writes read from */
    struct trace **source;   /* one per write whose values come from a run */
    size_t next_source;
    struct trace_input *source_in;
    struct taps writes;
    struct decode_request q;
    struct generation generation; /* of q alone */
    struct against against;  /* the other view, where what was tuned is scaled */
    struct view_pair pair;
    size_t told_tokens, told_text; /* streamed so far */
};

static struct generate_work *of(struct work *w) { return (struct generate_work *)w; }

static void generate_free(struct work *w)
{
    struct generate_work *g = of(w);
    generation_release(&g->generation);
    for (size_t i = 0; g->source && i < g->taps.n_writes; i++) trace_free(g->source[i]);
    mem_drop(g->source);
    mem_drop(g->writes.tap);
    tapping_release(&g->taps);
    against_release(&g->against);
    look_release(&g->look);
    mem_drop(w);
}

/* ---- steps ------------------------------------------------------------------------------------- */

/* Run the sources first; their values become the taps' sources. */
static enum step run_sources(struct generate_work *g, struct session *s, struct err *e)
{
    struct trace *t = g->source[g->next_source];
    enum step step = t ? trace_step(t, s, e) : STEP_DONE;
    if (step != STEP_DONE) return step;
    size_t n;
    if (t) g->writes.tap[g->next_source].src = trace_values(t, 0, &n);
    g->next_source++;
    return STEP_MORE;
}

static void tell_token(struct generate_work *g)
{
    const struct decode_result *r = generation_result(&g->generation, 0);
    if (!g->look.work.stream || r->ids.n == g->told_tokens) return;
    size_t safe = decode_safe(g->generation.decoder, 0);
    jout *o = jout_object();
    struct buf text = {0}, data = {0};
    struct err e = {0};
    if (safe > g->told_text) utf8_repair(r->text.data + g->told_text, safe - g->told_text, &text);
    jout_int(o, "id", r->ids.id[r->ids.n - 1]);
    jout_string(o, "text", text.data ? text.data : "", text.len);
    jout_f64(o, "logprob", r->last_logprob);
    if (jout_print(o, &data, &e)) work_emit(&g->look.work, "token", data.data);
    jout_free(o);
    buf_release(&text);
    buf_release(&data);
    g->told_tokens = r->ids.n;
    if (safe > g->told_text) g->told_text = safe;
}

static enum step generate_step(struct work *w, struct session *s, struct err *e)
{
    struct generate_work *g = of(w);
    enum step made = steering_step(&g->taps, s, e);
    if (made != STEP_DONE) return made;
    if (g->next_source < g->taps.n_writes) return run_sources(g, s, e);
    enum step step = generation_step(&g->generation, w, g->look.view.view, &g->writes, s, e);
    if (step != STEP_FAIL) tell_token(g);
    return step;
}

static bool write_effects(const struct generate_work *g, jout *root, struct err *e)
{
    struct effect *effect = mem_take(g->taps.n_writes, sizeof *effect, e);
    for (size_t i = 0; effect && i < g->taps.n_writes; i++)
        effect[i] = (struct effect){g->writes.tap[i].elements, g->writes.tap[i].max_change, g->writes.tap[i].every_pos};
    bool ok = effect && tapping_effects(&g->taps, effect, true, root, e);
    mem_drop(effect);
    return ok;
}

static void put_scaling(struct generate_work *g, jout *root)
{
    answer_view(root, "against", &g->against.at);
    jout_f64(root, "ftc_alpha", (double)g->pair.alpha);
    jout_add(root, "warnings", g->look.warnings ? g->look.warnings : jout_array());
    g->look.warnings = NULL;
}

static bool generate_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct generate_work *g = of(w);
    const struct decode_result *r = generation_result(&g->generation, 0);
    const struct model *m = look_model(&g->look);
    const struct input *prompt = &g->taps.input[0].in;
    struct buf text = {0};
    jout *root = jout_object();
    if (r->text.len) utf8_repair(r->text.data, r->text.len, &text);
    jout_string(root, "text", text.data ? text.data : "", text.len);
    jout_u32s(root, "ids", r->ids.id, r->ids.n);
    input_tokens(root, "tokens", m, r->ids.id, r->ids.n);
    jout_u32s(root, "prompt_ids", prompt->ids, prompt->n);
    jout_bool(root, "bos_added", prompt->bos_added);
    input_rendered(root, prompt);
    jout_text(root, "finish_reason", r->finish == FINISH_LENGTH ? "length" : "stop");
    if (g->look.seed >= 0) jout_int(root, "seed", g->look.seed);
    else jout_null(root, "seed");
    jout *usage = jout_put_object(root, "usage");
    jout_int(usage, "prompt_tokens", (int64_t)prompt->n);
    jout_int(usage, "completion_tokens", (int64_t)r->ids.n);
    answer_view(root, "view", &g->look.view);
    if (g->pair.against) put_scaling(g, root);
    o->status = 200;
    o->record = RECORD_NOTHING;
    bool ok = write_effects(g, root, e) && jout_print(root, &o->body, e);
    jout_free(root);
    buf_release(&text);
    return ok;
}

static const struct work_ops ops = {
    .kind = "generate", .unit = "tokens", .brief = true,
    .step = generate_step, .finish = generate_finish, .free = generate_free,
};

/* ---- checks ------------------------------------------------------------------------------------ */

static bool read_sampling(struct generate_work *g, const struct json *q, struct err *e)
{
    g->q.max_tokens = (uint32_t)json_get(q, "max_tokens")->integer;
    g->q.sampling = generation_sampling(q);
    g->look.seed = generation_seed(q, &g->q.sampling);
    g->q.seed = (uint64_t)g->look.seed;
    g->generation = (struct generation){.q = &g->q, .n = 1};
    return generation_stops(q, &g->look.arena, &g->q.stop, &g->q.n_stop, e);
}

/* Of writes beside it would not be clear whose blocks they reach. */
static bool read_scaling(struct generate_work *g, struct call *c, const struct json *q, struct err *e)
{
    const struct json *alpha = json_get(q, "ftc_alpha"), *against = json_get(q, "against");
    if (!against)
        return alpha->number == 1.0 || err_field(e, ERR_INVALID, "against", "ftc_alpha scales what view adds over another view: "
                                                                            "`against` says which");
    if (json_get(q, "writes")->len) return err_field(e, ERR_INVALID, "writes", "nothing is written where `against` is given");
    if (!against_read(&g->against, &g->look, c, against, e)) return false;
    g->pair = (struct view_pair){.against = g->against.at.view, .alpha = (float)alpha->number};
    g->generation.pair = &g->pair;
    return true;
}

static bool read_prompt(struct generate_work *g, const struct json *q, struct err *e)
{
    struct look *l = &g->look;
    const struct json *prompt = json_get(q, "prompt"), *writes = json_get(q, "writes");
    struct named_input *in = arena_take(&l->arena, 1 + writes->len, sizeof *in, e);
    if (!in) return false;
    g->taps.input = in;
    in->id = "prompt";
    /* {"messages"} beside no prompt is an INPUT itself: the body has the same members. */
    if (!input_resolve(look_model(l), prompt ? prompt : q, prompt ? "prompt" : "", &in->in, e)) return false;
    g->taps.n_inputs = g->taps.n_named = 1;
    g->q.prompt = in->in.ids;
    g->q.n_prompt = (uint32_t)in->in.n;
    return true;
}

/* "all" is written to generated positions too. */
static bool wants_every_pos(const struct json *pos)
{
    return !pos || json_is(pos, "all");
}

/* Is there something to write at positions that the prompt does not have? Not where each position has its
 * own source, nor where what is written is as long as the prompt. */
static bool goes_on(const struct trace_write *w, const struct json *from)
{
    bool rows = hook_info(w->at.site.hook)->axis != AXIS_SOURCE;
    switch (w->from) {
    case FROM_ZERO: break; /* and scaled, which takes no source */
    case FROM_VALUES: return rows && w->n_value_pos == 1;
    case FROM_RUN: return rows && w->source.n_pos == 1 && json_get(from, "pos");
    }
    return true;
}

static const struct json *member(const struct json *list, size_t k)
{
    const struct json *v = list->child;
    while (k--) v = v->next;
    return v;
}

/* Of a prompt only the last position is unembedded. */
static bool is_reached(const struct generate_work *g, const struct tap *tap, size_t k, struct err *e)
{
    char field[64];
    if (tap->every_pos || !head_hook(tap->site.hook) || tap->pos[tap->n_pos - 1] == g->q.n_prompt - 1) return true;
    (void)snprintf(field, sizeof field, "writes[%zu].pos", k);
    return err_field(e, ERR_INVALID, field, "of the prompt only the last position, %u, comes to the final norm and the unembedding",
                     g->q.n_prompt - 1);
}

static bool place_write(struct generate_work *g, const struct json *writes, size_t i, struct err *e)
{
    const struct trace_write *w = &g->taps.write[i];
    struct tap *tap = &g->writes.tap[g->writes.n++];
    *tap = trace_write_tap(g->source_in, w);
    const struct json *v = member(writes, g->taps.write_of[i]);
    tap->every_pos = wants_every_pos(json_get(v, "pos")) && goes_on(w, json_get(v, "from"));
    if (tap->every_pos && w->from == FROM_ZERO) tap->n_source = UINT32_MAX; /* rows of the pattern grow with the text */
    if (!is_reached(g, tap, g->taps.write_of[i], e)) return false;
    if (w->from != FROM_RUN) return true;
    g->source[i] = trace_new(w->source_view ? w->source_view : g->look.view.view, g->source_in, g->taps.n_inputs,
                             &w->source, 1, NULL, 0, e);
    return g->source[i] != NULL;
}

static bool list_sources(struct generate_work *g, struct err *e)
{
    struct tapping *t = &g->taps;
    g->source_in = arena_take(&g->look.arena, t->n_inputs, sizeof *g->source_in, e);
    for (size_t i = 0; g->source_in && i < t->n_inputs; i++)
        g->source_in[i] = (struct trace_input){.ids = t->input[i].in.ids, .n = (uint32_t)t->input[i].in.n};
    return g->source_in != NULL;
}

/* The continuation, beside what was read from sources before it. */
static bool lease(struct generate_work *g, struct err *e)
{
    const struct arch *a = &look_model(&g->look)->arch;
    int threads = daemon_threads(g->look.work.daemon);
    struct plan plan = {0}, sources = {0};
    decoder_plan(a, &g->q, 1, threads, &plan);
    if (g->pair.against) decoder_plan_beside(a, &g->q, 1, false, &plan);
    if (g->taps.n_writes)
        trace_plan(a, g->source_in, g->taps.n_inputs, NULL, 0, g->taps.write, g->taps.n_writes, threads, &sources);
    plan_with(&plan, &sources);
    steering_plan(&g->taps, threads, &plan);
    return look_lease(&g->look, &plan, e);
}

static bool place_writes(struct generate_work *g, const struct json *writes, struct err *e)
{
    struct tapping *t = &g->taps;
    g->writes.tap = mem_take(t->n_writes, sizeof(struct tap), e);
    g->source = mem_take(t->n_writes, sizeof *g->source, e);
    if (!g->writes.tap || !g->source) return false;
    for (size_t i = 0; i < t->n_writes; i++)
        if (!place_write(g, writes, i, e)) return false;
    return true;
}

static bool prepare(struct generate_work *g, struct call *c, struct err *e)
{
    struct look *l = &g->look;
    if (!look_begin(l, c, &ops, e)) return false;
    const struct json *q = l->request, *writes = json_get(q, "writes");
    l->work.stream = json_get(q, "stream")->boolean;
    g->taps.most_values = MOST_VALUES;
    return read_prompt(g, q, e) && read_sampling(g, q, e) && read_scaling(g, c, q, e) &&
           tapping_writes(&g->taps, l, c, writes, true, e) && list_sources(g, e) && lease(g, e) &&
           place_writes(g, writes, e);
}

struct work *api_generate(struct call *c, struct err *e)
{
    struct generate_work *g = mem_new(sizeof *g);
    if (prepare(g, c, e)) return &g->look.work;
    generate_free(&g->look.work);
    return NULL;
}
