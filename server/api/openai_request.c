/* What completions and chats ask for in the same words. */
#include <string.h>

#include "openai.h"
#include "server/clock.h"

/* ---- model@view -------------------------------------------------------------------------------- */

static bool blame_model(const char *model, struct err *e)
{
    struct err why = *e;
    if (why.code != ERR_NOT_FOUND && why.code != ERR_INVALID) return false;
    return err_field(e, ERR_NOT_FOUND, "model", "\"%.100s\" is not served: %s", model, why.text);
}

/* No name holds an @. */
static bool find_model(struct call *c, const char *model, const char **view, struct err *e)
{
    const char *at = model ? strchr(model, '@') : NULL;
    const char *name = at ? arena_text(c->arena, model, (size_t)(at - model), e) : model;
    *view = at ? at + 1 : NULL;
    return (name || !at) && call_model(c, name, e);
}

bool openai_view(struct call *c, const char *model, struct resolved *out, struct err *e)
{
    const char *view;
    if (find_model(c, model, &view, e) && served_view(c->served, c->reader, view, out, e)) return true;
    return blame_model(model ? model : "", e);
}

/* ---- what is not offered ----------------------------------------------------------------------- */

static bool is_empty(const struct json *v) { return v->len == 0; }
static bool is_zero(const struct json *v) { return v->number == 0; }
static bool is_never(const struct json *v) { return (void)v, false; }

static bool is_plain_text(const struct json *v)
{
    const struct json *type = json_get(v, "type");
    return json_is(type, "text");
}

static bool is_no_call(const struct json *v)
{
    return v->type == JSON_STRING && (strcmp(v->text, "none") == 0 || strcmp(v->text, "auto") == 0);
}

static bool is_text_only(const struct json *v)
{
    return v->len == 0 || (v->len == 1 && strcmp(v->child->text, "text") == 0);
}

static const struct {
    const char *field;
    bool (*means_nothing)(const struct json *v);
    const char *what;
} not_offered[] = {
    {"suffix", is_empty, "inserting before a suffix"},
    {"logit_bias", is_empty, "a bias of logits"},
    {"presence_penalty", is_zero, "a penalty other than 0"},
    {"frequency_penalty", is_zero, "a penalty other than 0"},
    {"tools", is_empty, "calling tools"},
    {"tool_choice", is_no_call, "calling tools"},
    {"functions", is_empty, "calling functions"},
    {"function_call", is_no_call, "calling functions"},
    {"response_format", is_plain_text, "a response format other than text"},
    {"modalities", is_text_only, "output other than text"},
    {"audio", is_never, "audio"},
    {"prediction", is_never, "a predicted output"},
    {"web_search_options", is_never, "searching the web"},
};

static bool check_best_of(const struct json *request, struct err *e)
{
    const struct json *best_of = json_get(request, "best_of"), *n = json_get(request, "n");
    if (!best_of || best_of->integer == n->integer) return true;
    if (best_of->integer < n->integer)
        return err_field(e, ERR_INVALID, "best_of", "must be at least n, %lld", (long long)n->integer);
    return err_field(e, ERR_UNSUPPORTED, "best_of", "choosing the best of more than n is not offered");
}

bool openai_offered(const struct json *request, struct err *e)
{
    for (size_t i = 0; i < sizeof not_offered / sizeof *not_offered; i++) {
        const struct json *v = json_get(request, not_offered[i].field);
        if (v && !not_offered[i].means_nothing(v))
            return err_field(e, ERR_UNSUPPORTED, not_offered[i].field, "%s is not offered", not_offered[i].what);
    }
    const struct json *stream = json_get(request, "stream"), *options = json_get(request, "stream_options");
    if (options && !stream->boolean)
        return err_field(e, ERR_INVALID, "stream_options", "only with stream");
    return check_best_of(request, e);
}

/* ---- the work ---------------------------------------------------------------------------------- */

const struct model *openai_model(const struct openai *o) { return view_model(o->view.view); }

void openai_free(struct work *w)
{
    struct openai *o = (struct openai *)w;
    generation_release(&o->generation);
    for (size_t i = 0; i < o->n_prompts; i++) input_release(&o->prompt[i]);
    mem_drop(o->choice);
    resolved_release(&o->view);
    served_drop(w->served);
    lease_give(&w->lease);
    arena_release(&o->arena);
    mem_drop(o);
}

static bool begin(struct openai *o, struct call *c, struct err *e)
{
    const struct json *model = json_get(c->body, "model"), *options = json_get(c->body, "stream_options");
    const char *asked = model ? model->text : NULL;
    if (!openai_offered(c->body, e) || !openai_view(c, asked, &o->view, e)) return false;
    o->work.served = served_retain(c->served);
    if (!asked) asked = c->served->name;
    o->model = arena_text(&o->arena, asked, strlen(asked), e);
    o->n = (uint32_t)json_get(c->body, "n")->integer;
    o->work.stream = json_get(c->body, "stream")->boolean;
    o->usage = options && json_get(options, "include_usage")->boolean;
    return o->model != NULL;
}

struct openai *openai_new(struct call *c, const struct work_ops *ops, const struct openai_form *form, struct err *e)
{
    struct openai *o = mem_new(sizeof *o);
    o->work.ops = ops;
    o->work.daemon = c->daemon;
    o->form = form;
    arena_init(&o->arena, 0);
    ledger_new_id(form->id, o->id);
    o->created_s = wall_us() / US_PER_S;
    if (begin(o, c, e)) return o;
    openai_free(&o->work);
    return NULL;
}

/* What a request may make the answer hold before anything is generated. */
static bool check_size(const struct openai *o, uint32_t n_top, struct err *e)
{
    size_t total = o->n_prompts * o->n, scored = 0;
    if (total > OPENAI_CHOICES)
        return err_field(e, ERR_INVALID, "n", "%zu prompts with %u continuations each are over the limit of %d choices",
                         o->n_prompts, o->n, OPENAI_CHOICES);
    for (size_t i = 0; o->echo && o->logprobs && i < o->n_prompts; i++) scored += o->prompt[i].n * o->n;
    return scored <= OPENAI_VALUES / (n_top + 1) ||
           err_field(e, ERR_INVALID, "logprobs", "%zu prompt tokens with %u alternatives each are over the limit of %d values",
                     scored, n_top, OPENAI_VALUES);
}

/* The continuations, and the text of what is said about each token. */
static bool lease(struct openai *o, struct err *e)
{
    enum { TEXT_BYTES = 192 }; /* of one token in a list: grown by doubling, and printed once more */
    const struct arch *a = &openai_model(o)->arch;
    struct plan plan = {0};
    decoder_plan(a, o->q, o->generation.n, daemon_threads(o->work.daemon), &plan);
    for (size_t i = 0; i < o->generation.n; i++) {
        const struct decode_request *q = &o->q[i];
        size_t places = (o->echo && o->logprobs ? q->n_prompt : 0) + (q->score_tokens ? (size_t)q->max_tokens : 0);
        plan_add(&plan, NEED_ANSWER, plan_times(places, (q->n_top + (size_t)1) * TEXT_BYTES));
    }
    return daemon_lease(o->work.daemon, &plan, &o->work.lease, e);
}

bool openai_requests(struct openai *o, const struct json *request, uint32_t max_tokens, uint32_t n_top, struct err *e)
{
    const struct arch *a = &openai_model(o)->arch;
    size_t total = o->n_prompts * o->n;
    if (!check_size(o, n_top, e)) return false;
    struct decode_request common = {.sampling = generation_sampling(request),
                                    .max_tokens = max_tokens < a->context ? max_tokens : a->context,
                                    .score_tokens = o->logprobs,
                                    .n_top = n_top < a->d_vocab ? n_top : a->d_vocab};
    int64_t seed = generation_seed(request, &common.sampling);
    o->q = arena_take(&o->arena, total, sizeof *o->q, e);
    o->choice = o->q ? mem_take(total, sizeof *o->choice, e) : NULL;
    if (!o->choice || !generation_stops(request, &o->arena, &common.stop, &common.n_stop, e)) return false;
    for (size_t i = 0; i < total; i++) {
        struct decode_request *q = &o->q[i];
        *q = common;
        q->prompt = o->prompt[i / o->n].ids;
        q->n_prompt = (uint32_t)o->prompt[i / o->n].n;
        q->seed = (uint64_t)seed + i;
        q->again = i % o->n != 0;
        q->score_prompt = o->echo && o->logprobs && !q->again;
    }
    o->generation = (struct generation){.q = o->q, .n = total};
    return lease(o, e);
}
