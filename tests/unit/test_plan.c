/* Plans beside what really happens: this program counts every byte its heap holds, runs each work to its
 * end, and compares the height it came to with the plan made before it. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/decode.h"
#include "core/kernel/blas.h"
#include "core/train.h"
#include "edits/editor.h"
#include "probes/attribution.h"
#include "probes/dla.h"
#include "probes/edge.h"
#include "probes/fit.h"
#include "probes/gradient.h"
#include "probes/heads.h"
#include "probes/integral.h"
#include "probes/lens.h"
#include "probes/circuit.h"
#include "probes/localize.h"
#include "probes/measure.h"
#include "probes/trace.h"
#include "probes/tuco.h"
#include "support/golden.h"

/* ---- a counted heap -------------------------------------------------------------------------- */

/* Sanitizers bring a heap of their own: there the works run, but nothing is compared. */
#if defined(__GLIBC__) && !defined(ENGRAM_SANITIZED)
enum { COUNTED = 1 };

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);
void __libc_free(void *p);

static _Atomic size_t now, most;
static size_t of_blas; /* a block the BLAS takes and gives back in each product: the program's, in no plan */

static size_t size_of(void *p)
{
    size_t n = p ? malloc_usable_size(p) : 0;
    return of_blas && n >= of_blas && n < of_blas + 4096 ? 0 : n;
}
static void *came(void *p)
{
    size_t held = atomic_fetch_add(&now, size_of(p)) + size_of(p), top = atomic_load(&most);
    while (held > top && !atomic_compare_exchange_weak(&most, &top, held)) {}
    return p;
}
static void goes(void *p) { atomic_fetch_sub(&now, size_of(p)); }

void *malloc(size_t n) { return came(__libc_malloc(n)); }
void *calloc(size_t n, size_t size) { return came(__libc_calloc(n, size)); }
void *aligned_alloc(size_t align, size_t n) { return came(__libc_memalign(align, n)); }
void *realloc(void *p, size_t n)
{
    goes(p);
    return came(__libc_realloc(p, n));
}
void free(void *p)
{
    goes(p);
    __libc_free(p);
}
#else
enum { COUNTED = 0 };
static _Atomic size_t now, most;
static size_t of_blas;
#endif

static size_t height_from;

static void begin_counting(struct golden *g)
{
    session_trim(g->session);
    height_from = atomic_load(&now);
    atomic_store(&most, height_from);
}

/* Small things (lists, structs, names) are not planned for: a little more is allowed, and as plans are
 * upper bounds, some less. */
static void compare(const char *what, const struct plan *p)
{
    size_t height = atomic_load(&most) - height_from, plan = plan_total(p);
    enum { SMALL = 48 * 1024 };
    if (!COUNTED) return;
    if (height > plan + SMALL) fail_msg("%s: %zu bytes planned, %zu held", what, plan, height);
    if (plan > 3 * height + SMALL) fail_msg("%s: %zu bytes planned, only %zu held", what, plan, height);
}

#define to_the_end(go, e)                                                                          \
    do {                                                                                           \
        enum step s_;                                                                              \
        while ((s_ = (go)) == STEP_MORE)   {}                                                      \
        must(s_ == STEP_DONE, e);                                                                  \
    } while (0)

/* Long enough that rows outweigh structs. */
enum { LONG = 200 };

static void long_prompt(const struct golden *g, uint32_t salt, uint32_t out[LONG])
{
    for (uint32_t i = 0; i < LONG; i++) out[i] = (i * 7 + salt) % g->model->arch.d_vocab;
}

static const struct arch *arch_of(const struct golden *g) { return &g->model->arch; }

/* ---- works ------------------------------------------------------------------------------------ */

static void decode_all(struct golden *g, const char *name, const struct decode_request *q, size_t n)
{
    struct plan p = {0};
    struct err e = {0};
    decoder_plan(arch_of(g), q, n, 1, &p);
    begin_counting(g);
    struct decoder *d = decoder_new(g->view, q, n, NULL, &e);
    must(d, e);
    to_the_end(decoder_step(d, g->session, &e), e);
    compare(name, &p);
    decoder_free(d);
}

static void decoding(struct golden *g)
{
    uint32_t ids[LONG];
    struct decode_request q[3];
    long_prompt(g, 1, ids);
    for (int i = 0; i < 3; i++)
        q[i] = (struct decode_request){.prompt = ids, .n_prompt = LONG - 60 * (uint32_t)i, .max_tokens = 40,
                                       .sampling = {.temperature = 1, .top_p = 0.9}, .seed = 3};
    decode_all(g, "decoding", q, 3);
}

static void scoring_prompts(struct golden *g)
{
    uint32_t ids[LONG];
    struct decode_request q[6];
    long_prompt(g, 8, ids);
    for (int i = 0; i < 6; i++)
        q[i] = (struct decode_request){.prompt = ids, .n_prompt = LONG, .score_prompt = true, .n_top = 5,
                                       .max_tokens = i < 3 ? 0 : 30, .score_tokens = i >= 3};
    decode_all(g, "scoring prompts", q, 6);
}

static void running_in_chunks(struct golden *g)
{
    uint32_t ids[LONG], want = LONG - 1;
    struct run_input in[5];
    struct run_size size = {0};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 2, ids);
    for (size_t i = 0; i < 5; i++) { /* the third is cut by a chunk's end */
        in[i] = (struct run_input){.ids = ids, .n = LONG, .seq = (uint32_t)i, .want = &want, .n_want = 1};
        run_size_add(&size, 0, LONG, 1, false);
    }
    run_plan(&size, arch_of(g), 1, &p);
    begin_counting(g);
    struct run *r = run_new(g->view, in, 5, NULL, &e);
    must(r, e);
    to_the_end(run_step(r, g->session, &e), e);
    compare("a run in chunks", &p);
    run_free(r);
}

static void patching(struct golden *g, bool heads, enum patch_from from)
{
    uint32_t clean[LONG], corrupt[LONG], answer = 5, foil = 9, n = heads ? LONG : 60; /* long ones: the naive cells do not fit one chunk */
    const struct metric metric = {.kind = METRIC_LOGIT_DIFF, .answer = &answer, .n_answer = 1, .foil = &foil,
                                  .n_foil = 1, .pos = n - 1};
    const struct patch_pair pair = {clean, corrupt, n, &metric};
    const struct means_text texts[] = {{clean, 50}, {corrupt, LONG}};
    struct patch_request q = {.view = g->view, .pair = &pair, .n_pairs = 1, .n_metrics = 1,
                              .site = heads ? HOOK_Z : HOOK_RESID_PRE, .axis = heads ? PATCH_LAYER_HEAD : PATCH_LAYER_POS,
                              .from = from, .noise = 1, .mean = texts, .n_mean = 2, .n_naive = 3};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 3, clean);
    memcpy(corrupt, clean, sizeof clean);
    corrupt[2] = 11;
    patch_plan(&q, 1, &p);
    begin_counting(g);
    struct patch *w = patch_new(&q, &e);
    must(w, e);
    to_the_end(patch_step(w, g->session, &e), e);
    compare(heads ? "a grid of heads" : "a grid of positions", &p);
    patch_free(w);
}

/* Six pairs, or rows of data, split; or one pair. */
static void localizing(struct golden *g, enum localizer_kind method, bool many)
{
    enum { ROWS = 6 };
    uint32_t clean[LONG], corrupt[LONG], answer = 5, foil = 9, n = 40, scored[] = {30, 38};
    const struct metric metric = {.kind = METRIC_LOGIT_DIFF, .answer = &answer, .n_answer = 1, .foil = &foil,
                                  .n_foil = 1, .pos = n - 1};
    struct patch_pair pair[ROWS];
    struct fit_example data[ROWS];
    long_prompt(g, 4, clean);
    memcpy(corrupt, clean, sizeof clean);
    corrupt[2] = 11;
    for (size_t i = 0; i < ROWS; i++) {
        pair[i] = (struct patch_pair){clean, corrupt, n, &metric};
        data[i] = (struct fit_example){.ids = clean, .n = n, .scored = scored, .target = clean, .n_scored = 2};
    }
    struct localize_request q = {.patch = {.view = g->view, .pair = pair, .n_pairs = many ? ROWS : 1, .n_metrics = 1, .site = HOOK_Z,
                                           .axis = PATCH_LAYER_HEAD},
                                 .method = method, .split = many, .k = 2, .n_control = 20, .seed = 1};
    struct plan p = {0};
    struct err e = {0};
    localizer_defaults(q.param);
    q.param[LOCALIZER_DCM_steps] = 3;
    if (localizer_info(method)->rows == LOCALIZER_DATA) q.example = data, q.n_data = ROWS;
    localize_plan(&q, 1, &p);
    begin_counting(g);
    struct localize *w = localize_new(&q, &e);
    must(w, e);
    to_the_end(localize_step(w, g->session, &e), e);
    compare(localizer_info(method)->word, &p);
    localize_free(w);
}

static void circling(struct golden *g, bool zero)
{
    uint32_t clean[LONG], corrupt[LONG], answer = 5, foil = 9, n = 40;
    const uint32_t member[] = {0, 2}, group[] = {0, 1};
    const struct metric metric = {.kind = METRIC_LOGIT_DIFF, .answer = &answer, .n_answer = 1, .foil = &foil,
                                  .n_foil = 1, .pos = n - 1};
    long_prompt(g, 4, clean);
    memcpy(corrupt, clean, sizeof clean);
    corrupt[2] = 11;
    const struct patch_pair pair[] = {{clean, corrupt, n, &metric}, {clean, corrupt, n, &metric}};
    const struct circuit_request q = {.patch = {.view = g->view, .pair = pair, .n_pairs = 2, .n_metrics = 1, .site = HOOK_Z,
                                                .axis = PATCH_LAYER_HEAD},
                                      .zero = zero, .mlps = true, .member = member, .n = 2, .samples = 20, .n_control = 50,
                                      .group = group, .n_groups = 2};
    struct plan p = {0};
    struct err e = {0};
    circuit_plan(&q, 1, &p);
    begin_counting(g);
    struct circuit *w = circuit_new(&q, &e);
    must(w, e);
    to_the_end(circuit_step(w, g->session, &e), e);
    compare("circuit", &p);
    circuit_free(w);
}

/* Without the answer's text, which the server makes. */
static void tracing(struct golden *g, enum hook hook)
{
    uint32_t ids[LONG], pos[LONG];
    struct trace_input in = {.ids = ids, .n = LONG, .top_pos = pos, .n_top = LONG};
    struct trace_place read = {.site = {hook, 1}, .pos = pos, .n_pos = LONG};
    struct trace_write write = {.at = {.site = {HOOK_RESID_POST, 0}, .pos = pos, .n_pos = LONG}, .op = TAP_ADD,
                                .weight = 1, .from = FROM_RUN,
                                .source = {.site = {HOOK_RESID_POST, 0}, .pos = pos, .n_pos = LONG}};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 5, ids);
    for (uint32_t i = 0; i < LONG; i++) pos[i] = i;
    trace_plan(arch_of(g), &in, 1, &read, 1, &write, 1, 1, &p);
    p.bytes[NEED_ANSWER] = 0;
    begin_counting(g);
    struct trace *t = trace_new(g->view, &in, 1, &read, 1, &write, 1, &e);
    must(t, e);
    to_the_end(trace_step(t, g->session, &e), e);
    compare(hook == HOOK_RESULT ? "a trace by head" : "a trace", &p);
    trace_free(t);
}

/* kl needs a run more, loss has as many rows as positions, and some hooks are made for who listens. */
static void gradients(struct golden *g, enum metric_kind kind, enum hook hook)
{
    static const uint32_t answer[] = {9};
    uint32_t ids[LONG], pos[LONG];
    const struct trace_input in = {.ids = ids, .n = LONG};
    const struct trace_place at[] = {{.site = {hook, 0}, .pos = pos, .n_pos = LONG}, {.site = {HOOK_PATTERN, 1}, .pos = pos, .n_pos = LONG}};
    const struct gradient_request q = {.view = g->view, .in = &in, .at = at, .n_at = 2, .metric = {.kind = kind, .answer = answer, .n_answer = 1},
                                       .pos = pos, .n_pos = kind == METRIC_LOSS ? LONG - 1 : 1, .reference = {.pos = pos}};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 6, ids);
    for (uint32_t i = 0; i < LONG; i++) pos[i] = i;
    gradient_plan(&q, 1, &p, &p);
    begin_counting(g);
    struct gradient *w = gradient_new(&q, &e);
    must(w, e);
    to_the_end(gradient_step(w, g->session, &e), e);
    compare(metric_word(kind), &p);
    gradient_free(w);
}

/* Two texts an item, several passes a batch; from layer `lowest` up. */
static void fitting(struct golden *g, uint32_t lowest)
{
    enum { TEXTS = 8 };
    uint32_t ids[LONG], scored[LONG];
    struct fit_example example[TEXTS];
    struct plan p = {0};
    struct err e = {0};
    const struct stream_unit unit[] = {{lowest, 0}, {arch_of(g)->n_layers - 1, 1}};
    struct stream_params *params = stream_params_new(arch_of(g), HOOK_Z, STREAM_SCALE, STREAM_CHANNEL, unit, 2, &e);
    must(params, e);
    long_prompt(g, 8, ids);
    for (uint32_t i = 0; i < LONG; i++) scored[i] = 150 + i;
    for (size_t i = 0; i < TEXTS; i++)
        example[i] = (struct fit_example){.ids = ids, .n = LONG, .scored = scored, .target = ids + 151, .n_scored = 20};
    const struct fit_request q = {.view = g->view, .params = params, .example = example, .n = TEXTS, .loss = FIT_DPO,
                                  .task = 1, .lr = 1e-3, .beta = 0.5, .epochs = 1, .batch = 3};
    fit_plan(&q, 1, &p);
    begin_counting(g);
    struct fit *f = fit_new(&q, &e);
    must(f, e);
    to_the_end(fit_step(f, g->session, &e), e);
    compare(lowest ? "fitting upper layers" : "fitting", &p);
    fit_free(f);
    stream_params_free(params);
}

/* Two views that share nothing but the ends; asked for all positions, or for the last. */
static void contributions(struct golden *g, bool all)
{
    enum { MORE = RUN_ROWS + 40 };
    uint32_t *ids = calloc(MORE, sizeof *ids);
    struct golden again;
    struct tuco_input in[2] = {{.ids = ids, .n = 20}, {.ids = ids, .n = MORE, .all_positions = all, .output_co = true}};
    struct plan p = {0};
    struct err e = {0};
    assert_non_null(ids);
    golden_open(&again, g->name, NULL);
    for (uint32_t i = 0; i < MORE; i++) ids[i] = i % arch_of(g)->d_vocab;
    tuco_plan(g->view, again.view, in, 2, 1, &p);
    p.bytes[NEED_ANSWER] = 0;
    begin_counting(g);
    struct tuco *t = tuco_new(g->view, again.view, in, 2, &e);
    must(t, e);
    to_the_end(tuco_step(t, g->session, &e), e);
    compare("tuco", &p);
    tuco_free(t);
    golden_close(&again);
    free(ids);
}

/* More positions than one panel. */
static void unembedding_every_layer(struct golden *g)
{
    uint32_t ids[LONG], pos[LONG], layers[2] = {0, 1}, token = 3;
    const struct lens_input in = {ids, LONG, pos, LONG};
    const struct lens_request q = {.view = g->view, .in = &in, .n_in = 1, .at = HOOK_RESID_PRE, .layer = layers, .n_layers = 2,
                                   .top_k = 64, .token = &token, .n_tokens = 1};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 3, ids);
    for (uint32_t i = 0; i < LONG; i++) pos[i] = i;
    lens_plan(&q, 1, &p);
    begin_counting(g);
    struct lens *l = lens_new(&q, &e);
    must(l, e);
    to_the_end(lens_step(l, g->session, &e), e);
    compare("lens", &p);
    lens_free(l);
}

static void splitting_logits(struct golden *g, enum dla_by by)
{
    enum { MORE = 64 };
    uint32_t ids[LONG];
    struct dla_prompt prompts[MORE];
    const struct dla_request q = {.view = g->view, .prompt = prompts, .n = MORE, .by = by};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 3, ids);
    for (uint32_t i = 0; i < MORE; i++) prompts[i] = (struct dla_prompt){ids, 10, 9, i, DLA_NO_FOIL};
    dla_plan(&q, 1, &p);
    begin_counting(g);
    struct dla *d = dla_new(&q, &e);
    must(d, e);
    to_the_end(dla_step(d, g->session, &e), e);
    compare("dla", &p);
    dla_free(d);
}

static void watching_heads(struct golden *g, bool keep)
{
    uint32_t ids[LONG], layers[2] = {0, 1}, head = 1;
    const struct heads_input in[2] = {{ids, LONG}, {ids, LONG - 1}};
    const struct heads_request q = {.view = g->view, .in = in, .n_in = 2, .layer = layers, .n_layers = 2, .head = &head,
                                    .n_heads = 1, .keep = keep, .value_weighted = keep};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 3, ids);
    heads_plan(&q, 1, &p);
    begin_counting(g);
    struct heads *h = heads_new(&q, &e);
    must(h, e);
    to_the_end(heads_step(h, g->session, &e), e);
    compare("attention", &p);
    heads_free(h);
}

static const uint32_t plan_answer = 5, plan_foil = 7;
static const struct metric plan_metric = {METRIC_LOGIT_DIFF, &plan_answer, &plan_foil, 1, 1, LONG - 1, NULL};

/* Two prompts that differ in their third token. */
static struct patch_pair two_prompts(const struct golden *g, uint32_t clean[LONG], uint32_t corrupt[LONG])
{
    long_prompt(g, 12, clean);
    memcpy(corrupt, clean, LONG * sizeof *clean);
    corrupt[2] = (clean[2] + 1) % g->model->arch.d_vocab;
    return (struct patch_pair){clean, corrupt, LONG, &plan_metric};
}

/* Sites of every kind. */
static void attributing(struct golden *g, bool grad_drop)
{
    static const enum hook sites[] = {HOOK_Z, HOOK_K, HOOK_PATTERN, HOOK_RESULT};
    uint32_t clean[LONG], corrupt[LONG];
    const struct patch_pair pair = two_prompts(g, clean, corrupt);
    const struct attribution_request q = {.view = g->view, .pair = &pair, .n_pairs = 1, .n_metrics = 1, .denoise = true, .site = sites,
                                          .n_sites = 4, .axis = PATCH_LAYER_HEAD_POS, .qk_fix = true, .grad_drop = grad_drop};
    struct plan p = {0};
    struct err e = {0};
    attribution_plan(&q, 1, &p);
    begin_counting(g);
    struct attribution *a = attribution_new(&q, &e);
    must(a, e);
    to_the_end(attribution_step(a, g->session, &e), e);
    compare(grad_drop ? "attribution with drops" : "attribution", &p);
    attribution_free(a);
}

static void integrating(struct golden *g, uint32_t steps)
{
    uint32_t clean[LONG], corrupt[LONG];
    const struct patch_pair pair = two_prompts(g, clean, corrupt);
    const struct integral_request q = {g->view, pair.clean, pair.corrupt, LONG, &plan_metric, RULE_MIDPOINT, steps, steps};
    struct plan p = {0};
    struct err e = {0};
    integral_plan(&q, 1, &p);
    begin_counting(g);
    struct integral *k = integral_new(&q, &e);
    must(k, e);
    to_the_end(integral_step(k, g->session, &e), e);
    compare("integral", &p);
    integral_free(k);
}

static void scoring_edges(struct golden *g, uint32_t steps)
{
    uint32_t clean[LONG], corrupt[LONG];
    const struct patch_pair pair = two_prompts(g, clean, corrupt), pairs[] = {pair, pair};
    const struct edge_request q = {.view = g->view, .pair = pairs, .n_pairs = 2, .denoise = true, .steps = steps, .rule = RULE_GAUSS};
    struct plan p = {0};
    struct err e = {0};
    edges_plan(&q, 1, &p);
    begin_counting(g);
    struct edges *k = edges_new(&q, &e);
    must(k, e);
    to_the_end(edges_step(k, g->session, &e), e);
    compare("edges", &p);
    edges_free(k);
}

static void measuring(struct golden *g)
{
    uint32_t ids[LONG];
    struct prompt other = {ids, 100, ids, 3};
    struct fact f = {.prompt = {ids, 120, ids, 4}, .target_text = "x", .target_len = 1, .paraphrase = &other,
                     .n_paraphrase = 1, .locality = &other, .n_locality = 1};
    struct plan p = {0};
    struct err e = {0};
    long_prompt(g, 6, ids);
    measure_plan(arch_of(g), &f, 1, 1, &p);
    begin_counting(g);
    struct measure *m = measure_new(g->view, &f, 1, NULL, &e);
    must(m, e);
    to_the_end(measure_step(m, g->session, &e), e);
    compare("measuring", &p);
    begin_counting(g);
    struct measure *again = measure_new(g->view, &f, 1, m, &e);
    must(again, e);
    to_the_end(measure_step(again, g->session, &e), e);
    compare("measuring against a reference", &p);
    measure_free(again);
    measure_free(m);
}

static void training(struct golden *g)
{
    uint32_t ids[LONG];
    struct example examples[6];
    const struct method *m = method_find("locft");
    struct edit_request q = {.parent = g->view, .example = examples, .n = 6, .params = method_defaults(m), .seed = 1};
    struct plan p = {0};
    struct err e = {0};
    size_t changed = 0;
    long_prompt(g, 7, ids);
    for (uint32_t i = 0; i < 6; i++) examples[i] = (struct example){ids, 100 - 5 * i, 90 - 5 * i};
    q.params.value[method_param(m, "epochs")] = 2;
    q.params.value[method_param(m, "layer")] = 0;
    must(m->plan(&q, 1, &p, &changed, &e), e);
    begin_counting(g);
    struct editor *ed = m->new(&q, &e);
    must(ed, e);
    to_the_end(m->step(ed, g->session, &e), e);
    compare("training", &p);
    session_trim(g->session);
    size_t left = atomic_load(&now) - height_from;
    if (COUNTED && left > changed + 48 * 1024)
        fail_msg("%zu bytes are left after training for a delta of %zu", left, changed);
    m->free(ed);
}

static size_t held(void) { return atomic_load(&now) - height_from; }

/* What a phase leaves for the next: scores, generations and lists, no rows. */
static void nothing_is_left(const char *what, size_t before)
{
    if (COUNTED && held() > before + 48 * 1024) fail_msg("%s: %zu bytes are left", what, held() - before);
}

/* A measure to its end; what it held on the way is given back there, long before it is freed. */
static struct measure *measured(struct golden *g, const char *what, struct view *v, const struct fact *f, size_t n,
                                const struct measure *reference)
{
    struct err e = {0};
    size_t before = held();
    struct measure *m = measure_new(v, f, n, reference, &e);
    must(m, e);
    to_the_end(measure_step(m, g->session, &e), e);
    session_trim(g->session);
    nothing_is_left(what, before);
    return m;
}

/* An edit as server/api/edits.c makes it, phase after phase, with facts that chunks cut. */
static void editing(struct golden *g)
{
    enum { N = 4, MORE = RUN_ROWS + 8 };
    const struct method *method = method_find("locft");
    struct plan train = {0}, whole = {0};
    struct err e = {0};
    size_t changed = 0;
    uint32_t *ids = calloc(MORE + 4, sizeof *ids);
    assert_non_null(ids);
    for (uint32_t i = 0; i < MORE + 4; i++) ids[i] = (i * 7 + 3) % arch_of(g)->d_vocab;
    uint32_t n = arch_of(g)->context < MORE + 32 + 4 ? arch_of(g)->context - 32 - 4 : MORE;
    struct prompt near = {ids, n - 1, ids, 3}, far = {ids + 1, n - 2, NULL, 0};
    struct fact facts[N];
    struct example examples[N];
    for (uint32_t i = 0; i < N; i++) {
        facts[i] = (struct fact){.prompt = {ids, n - i, ids, 4}, .target_text = "x", .target_len = 1, .paraphrase = &near,
                                 .n_paraphrase = 1, .locality = &far, .n_locality = 1};
        examples[i] = (struct example){ids, 40 - i, 36 - i};
    }
    struct edit_request q = {.parent = g->view, .example = examples, .n = N, .params = method_defaults(method), .seed = 1};
    q.params.value[method_param(method, "epochs")] = 1;
    measure_plan(arch_of(g), facts, N, 1, &whole);
    must(method->plan(&q, 1, &train, &changed, &e), e);
    plan_add(&whole, NEED_DELTAS, plan_times(3, changed));
    plan_peak(&whole, &train);
    begin_counting(g);
    struct measure *before = measured(g, "the scores before", g->view, facts, N, NULL);
    struct editor *ed = method->new(&q, &e);
    must(ed, e);
    to_the_end(method->step(ed, g->session, &e), e);
    session_trim(g->session);
    const struct delta *delta = method->outcome(ed)->delta;
    struct view *candidate = view_with_delta(g->view, delta, &e);
    struct buf bytes = {0};
    must(candidate && delta_write(delta, g->model, &bytes, &e), e);
    struct measure *after = measured(g, "the scores after", candidate, facts, N, before);
    struct measure *base = measured(g, "the scores of the base", g->view, facts, N, NULL);
    compare("an edit", &whole);
    measure_free(base);
    measure_free(after);
    measure_free(before);
    buf_release(&bytes);
    view_drop(candidate);
    method->free(ed);
    free(ids);
}

/* A product of the usual size, and what it alone takes. */
static void learn_of_blas(void)
{
    enum { N = 512 };
    float *x = calloc(3 * N * N, sizeof *x);
    of_blas = 0;
    size_t before = atomic_load(&now);
    atomic_store(&most, before);
    gemm_nt(N, N, N, x, N, x + N * N, N, x + 2 * N * N, N, 1.0f, false);
    of_blas = (atomic_load(&most) - before) / 4096 * 4096;
    free(x);
}

static void plans_hold(void **state)
{
    static const char *const models[] = {"gqa_tied", "gqa_untied_odd", "mha_bf16", "wide_head"};
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct golden g;
        golden_open(&g, models[i], NULL);
        learn_of_blas();
        decoding(&g);
        scoring_prompts(&g);
        running_in_chunks(&g);
        for (int from = PATCH_FROM_OTHER; from <= PATCH_FROM_NOISE; from++) {
            patching(&g, false, (enum patch_from)from);
            patching(&g, true, (enum patch_from)from);
        }
        circling(&g, false);
        circling(&g, true);
        localizing(&g, LOCALIZER_PATCH, false);
        for (int m = 0; m < LOCALIZER_COUNT; m++) localizing(&g, (enum localizer_kind)m, true);
        tracing(&g, HOOK_PATTERN);
        tracing(&g, HOOK_RESULT);
        gradients(&g, METRIC_LOGPROB, HOOK_RESID_PRE);
        gradients(&g, METRIC_LOSS, HOOK_RESULT);
        gradients(&g, METRIC_KL, HOOK_Q_INPUT);
        gradients(&g, METRIC_LOSS, HOOK_UNEMBED_OUT);
        contributions(&g, true);
        contributions(&g, false);
        fitting(&g, 0);
        fitting(&g, 1);
        unembedding_every_layer(&g);
        watching_heads(&g, true);
        watching_heads(&g, false);
        for (int by = 0; by < DLA_BYS; by++) splitting_logits(&g, (enum dla_by)by);
        attributing(&g, false);
        attributing(&g, true);
        integrating(&g, 1);
        integrating(&g, 5);
        scoring_edges(&g, 1);
        scoring_edges(&g, 3);
        measuring(&g);
        training(&g);
        editing(&g);
        golden_close(&g);
    }
}

/* ---- weights ---------------------------------------------------------------------------------- */

static bool afford(void *ctx, size_t bytes, struct err *e)
{
    size_t *asked = ctx, may = *asked;
    *asked = bytes;
    return bytes <= may || err_set(e, ERR_TOO_LARGE, "too large");
}

static void weights_are_asked_for(void **state)
{
    (void)state;
    static _Atomic size_t overlays;
    size_t asked = SIZE_MAX;
    struct err e = {0};
    struct model_loading how = {.afford = afford, .ctx = &asked, .overlay_bytes = &overlays};
    struct model *m = model_open_as("tests/golden/tiny/mha_bf16", NULL, &how, &e);
    must(m, e);
    assert_true(asked >= m->memory_bytes && asked < m->memory_bytes + m->n_tensors * 64);
    /* A view's own memory is counted from its making to its end. */
    struct view *base = view_base(m);
    const float *zero = calloc(m->tensors[0].n_elements, sizeof *zero);
    struct delta *d = delta_new_dense(m, 0, zero, &e);
    must(d, e);
    struct view *changed = view_with_delta(base, d, &e), *again = view_with_delta(changed, d, &e);
    must(changed && again, e);
    assert_int_equal(atomic_load(&overlays), 2 * mem_floats_bytes(m->tensors[0].n_elements));
    view_drop(changed);
    assert_int_equal(atomic_load(&overlays), mem_floats_bytes(m->tensors[0].n_elements));
    view_drop(again);
    assert_int_equal(atomic_load(&overlays), 0);
    delta_free(d);
    view_drop(base);
    model_drop(m);
    free((void *)(uintptr_t)zero);
    asked--;
    size_t before = atomic_load(&now);
    assert_null(model_open_as("tests/golden/tiny/mha_bf16", NULL, &how, &e));
    assert_int_equal(e.code, ERR_TOO_LARGE);
    assert_true(!COUNTED || atomic_load(&now) <= before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(plans_hold), cmocka_unit_test(weights_are_asked_for)};
    struct err e = {0};
    if (!blas_start(1, &e)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
