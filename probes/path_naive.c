#include "path_naive.h"

struct path_naive {
    const struct path_request *q;
    const struct path_groups *g;
    const struct patch_runs *runs;
    size_t sender[PATH_NAIVE_MOST], n;
    struct run_input input[PATH_NAIVE_MOST];
    uint32_t want, n_ids;
    struct taps taps;
    float *noted; /* [n] of each the groups' [n_ids][heads][e] one behind the other */
    struct run *run;
    bool frozen;  /* runs C are done */
};

static const struct arch *arch_of(const struct path_request *q) { return &view_model(q->view)->arch; }

/* Is there such a check? One norm for attention and MLP, frozen, would reach a live MLP too. */
static bool possible(const struct path_request *q)
{
    return !(q->freeze_norm && q->n_receivers && arch_of(q)->one_norm && !q->freeze_mlps);
}

size_t path_naive_senders(const struct path_request *q)
{
    const size_t most = q->n_naive < PATH_NAIVE_MOST ? q->n_naive : PATH_NAIVE_MOST;
    if (!possible(q)) return 0;
    return most < q->n_senders ? most : q->n_senders;
}

/* Writes and reads of one run C. */
static size_t taps_of(const struct path_request *q) { return plan_sum(plan_times(arch_of(q)->n_layers, 5), plan_sum(2 * q->n_receivers, 1)); }

void path_naive_plan(const struct path_request *q, uint32_t n, int threads, struct plan *p)
{
    const size_t k = path_naive_senders(q);
    struct run_size size = {0};
    for (size_t i = 0; i < k; i++) run_size_add(&size, 0, n, 1, false);
    if (!k) return;
    run_plan(&size, arch_of(q), threads, p);
    plan_add(p, NEED_CAPTURES, plan_times(plan_times(k, taps_of(q)), sizeof(struct tap)));
    plan_add(p, NEED_CAPTURES, mem_floats_bytes(plan_times(plan_times(k, n), plan_times(q->n_receivers, arch_of(q)->d_head)) + 1));
}

static struct tap *add(struct path_naive *v, size_t i, enum tap_op op, enum hook h, uint32_t layer)
{
    struct tap *t = &v->taps.tap[v->taps.n++];
    *t = (struct tap){.site = {h, layer}, .op = op, .seq = (uint32_t)i, .every_pos = true, .weight = 1};
    return t;
}

/* At all positions (and heads) what that run had there. */
static struct tap *set(struct path_naive *v, size_t i, enum patch_role role, enum hook h, uint32_t layer)
{
    struct tap *t = add(v, i, TAP_SET, h, layer);
    t->src = patch_runs_values(v->runs, 0, role, t->site);
    t->src_whole = true, t->n_src_pos = v->n_ids;
    return t;
}

static float *noted(const struct path_naive *v, size_t i, size_t group)
{
    return v->noted + (size_t)v->n_ids * (i * v->g->width + v->g->group[group].at);
}

static void note(struct path_naive *v, size_t i)
{
    for (size_t k = 0; k < v->g->n; k++) {
        const struct path_group *g = &v->g->group[k];
        struct tap *t = add(v, i, TAP_READ, g->hook, g->layer);
        t->head = g->head, t->n_head = g->n, t->dst = noted(v, i, k);
        if (v->q->freeze_norm && (k == 0 || g[-1].layer != g->layer)) (void)set(v, i, PATCH_BASE, HOOK_LN1_SCALE, g->layer);
    }
}

/* Run C: taps at one hook fire in their order, so notes come before what freezes. */
static void freeze(struct path_naive *v, size_t i)
{
    static const enum hook frozen[] = {HOOK_Q, HOOK_K, HOOK_V};
    const struct path_sender *s = &v->q->sender[v->sender[i]];
    note(v, i);
    for (uint32_t l = 0; l < arch_of(v->q)->n_layers; l++) {
        for (size_t k = 0; k < sizeof frozen / sizeof *frozen; k++) (void)set(v, i, PATCH_BASE, frozen[k], l);
        if (v->q->freeze_mlps) (void)set(v, i, PATCH_BASE, HOOK_MLP_OUT, l);
    }
    if (s->from == PATH_EMBED) (void)set(v, i, PATCH_SOURCE, HOOK_RESID_PRE, 0);
    if (s->from == PATH_MLP) (void)set(v, i, PATCH_SOURCE, HOOK_MLP_OUT, s->layer);
    if (s->from != PATH_HEAD) return;
    struct tap *t = set(v, i, PATCH_SOURCE, HOOK_Z, s->layer);
    t->head = &s->head, t->n_head = 1;
}

/* Run D. */
static void receive(struct path_naive *v, size_t i)
{
    for (size_t k = 0; k < v->g->n; k++) {
        const struct path_group *g = &v->g->group[k];
        struct tap *t = add(v, i, TAP_SET, g->hook, g->layer);
        t->head = g->head, t->n_head = g->n, t->src = noted(v, i, k), t->n_src_pos = v->n_ids;
    }
}

static bool begin(struct path_naive *v, void (*writes)(struct path_naive *v, size_t i), struct err *e)
{
    v->taps.n = 0;
    for (size_t i = 0; i < v->n; i++) writes(v, i);
    run_free(v->run);
    v->run = run_new(v->q->view, v->input, v->n, &v->taps, e);
    return v->run != NULL;
}

struct path_naive *path_naive_new(const struct path_request *q, const struct path_groups *g, const struct patch_runs *runs,
                                  const size_t *sender, size_t n, const uint32_t *ids, uint32_t n_ids, struct err *e)
{
    struct path_naive *v = mem_new(sizeof *v);
    *v = (struct path_naive){.q = q, .g = g, .runs = runs, .n = n, .n_ids = n_ids, .want = n_ids - 1};
    for (size_t i = 0; i < n; i++) {
        v->sender[i] = sender[i];
        v->input[i] = (struct run_input){.ids = ids, .n = n_ids, .seq = (uint32_t)i, .want = &v->want, .n_want = 1};
    }
    v->taps.tap = mem_take(n * taps_of(q), sizeof(struct tap), e);
    v->noted = v->taps.tap ? mem_floats(n * n_ids * g->width + 1, e) : NULL;
    if (v->noted && begin(v, freeze, e)) return v;
    path_naive_free(v);
    return NULL;
}

enum step path_naive_step(struct path_naive *v, struct session *s, struct err *e)
{
    enum step step = run_step(v->run, s, e);
    if (step != STEP_DONE || v->frozen || !v->g->n) return step;
    v->frozen = true;
    return begin(v, receive, e) ? STEP_MORE : STEP_FAIL;
}

void path_naive_free(struct path_naive *v)
{
    if (!v) return;
    run_free(v->run);
    mem_drop(v->taps.tap);
    mem_drop(v->noted);
    mem_drop(v);
}

const float *path_naive_final(const struct path_naive *v, size_t i) { return run_final(v->run, i); }
