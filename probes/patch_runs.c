#include "patch_runs.h"

#include <assert.h>
#include <string.h>

struct patch_runs {
    struct patch_runs_request q;
    struct run *run;
    enum patch_role next;      /* the role the next run begins with; PATCH_ROLES: none is left */
    struct taps taps;
    struct run_input *input;
    struct kv **kv;            /* [n_pairs] the bases' */
    float **values;            /* [n_pairs][n_keep][L], into memory */
    float *memory;
    float *final;              /* [n_pairs][PATCH_ROLES][d] */
    uint32_t *want;            /* [n_pairs] the last position */
};

static const struct arch *arch_of(const struct patch_runs *r) { return &view_model(r->q.view[PATCH_BASE])->arch; }

struct patch_texts patch_texts_of(const struct patch_pair *pair, bool denoise)
{
    return (struct patch_texts){.ids = {[PATCH_BASE] = denoise ? pair->corrupt : pair->clean,
                                        [PATCH_SOURCE] = denoise ? pair->clean : pair->corrupt},
                                .n = patch_used(pair)};
}

uint32_t patch_check_layers(const struct arch *a, uint32_t out[CHECK_LAYERS])
{
    const uint32_t all[CHECK_LAYERS] = {0, a->n_layers / 2, a->n_layers - 1};
    uint32_t n = 0;
    for (int i = 0; i < CHECK_LAYERS; i++)
        if (n == 0 || out[n - 1] != all[i]) out[n++] = all[i];
    return n;
}

static bool kept(const struct arch *a, const struct patch_keep *k, uint32_t layer)
{
    uint32_t checks[CHECK_LAYERS], n = patch_check_layers(a, checks);
    for (uint32_t i = 0; i < n; i++)
        if (checks[i] == layer) return true;
    return k->every_layer;
}

/* Has that pair a run of its own in that role? */
static bool owns(const struct patch_runs_request *q, size_t pair, enum patch_role role)
{
    return role == PATCH_BASE || !q->pair[pair].shares;
}

/* The pair whose run stands for it in that role. */
static size_t owner(const struct patch_runs_request *q, size_t pair, enum patch_role role)
{
    while (!owns(q, pair, role)) pair--;
    return pair;
}

/* Floats of one layer at that hook. */
static size_t layer_floats(const struct arch *a, enum hook h, uint32_t n)
{
    size_t width = hook_info(h)->axis == AXIS_SOURCE ? n : hook_width(a, h);
    return plan_times(plan_times(n, hook_heads(a, h)), width);
}

/* All values that are kept. */
static size_t kept_floats(const struct patch_runs_request *q, const struct arch *a)
{
    size_t total = 0;
    for (size_t i = 0; i < q->n_pairs; i++)
        for (size_t k = 0; k < q->n_keep; k++)
            for (uint32_t l = 0; l < a->n_layers; l++)
                if (owns(q, i, q->keep[k].role) && kept(a, &q->keep[k], l)) total = plan_sum(total, layer_floats(a, q->keep[k].hook, q->pair[i].n));
    return total;
}

static bool one_view(const struct patch_runs_request *q) { return q->view[PATCH_SOURCE] == q->view[PATCH_BASE]; }

void patch_runs_plan(const struct patch_runs_request *q, int threads, struct plan *p)
{
    const struct arch *a = &view_model(q->view[PATCH_BASE])->arch;
    struct run_size size = {0};
    for (size_t i = 0; i < q->n_pairs; i++) {
        uint32_t n = q->pair[i].n;
        plan_add(p, NEED_CACHES, kv_bytes(a, n));
        plan_add(p, NEED_CAPTURES, plan_times(q->pair[i].n_write, sizeof(struct tap)));
        run_size_add(&size, 0, n, 1, true);
        if (owns(q, i, PATCH_SOURCE)) run_size_add(&size, 0, n, 1, false);
    }
    size_t lists = plan_times(q->n_keep * a->n_layers, sizeof(float *) + sizeof(struct tap)) + 2 * sizeof(struct run_input);
    plan_add(p, NEED_CAPTURES, mem_floats_bytes(plan_sum(kept_floats(q, a), 1)));
    plan_add(p, NEED_CAPTURES, plan_times(q->n_pairs, lists + 2 * a->d_model * sizeof(float) + 16));
    run_plan(&size, a, threads, p);
}

static float **values_of(const struct patch_runs *r, size_t pair, size_t keep)
{
    return r->values + (pair * r->q.n_keep + keep) * arch_of(r)->n_layers;
}

static void lay_values(struct patch_runs *r)
{
    const struct arch *a = arch_of(r);
    float *at = r->memory;
    for (size_t i = 0; i < r->q.n_pairs; i++)
        for (size_t k = 0; k < r->q.n_keep; k++)
            for (uint32_t l = 0; l < a->n_layers; l++) {
                if (!owns(&r->q, i, r->q.keep[k].role) || !kept(a, &r->q.keep[k], l)) continue;
                values_of(r, i, k)[l] = at;
                at += layer_floats(a, r->q.keep[k].hook, r->q.pair[i].n);
            }
}

static void add_taps(struct patch_runs *r, size_t pair, enum patch_role role, uint32_t seq)
{
    const struct patch_texts *text = &r->q.pair[pair];
    for (size_t i = 0; role == PATCH_BASE && i < text->n_write; i++) {
        r->taps.tap[r->taps.n] = text->write[i];
        r->taps.tap[r->taps.n++].seq = seq;
    }
    for (size_t k = 0; k < r->q.n_keep; k++)
        for (uint32_t l = 0; r->q.keep[k].role == role && l < arch_of(r)->n_layers; l++) {
            float *dst = values_of(r, pair, k)[l];
            if (dst)
                r->taps.tap[r->taps.n++] = (struct tap){.site = {r->q.keep[k].hook, l}, .seq = seq, .every_pos = true,
                                                        .n_source = r->q.pair[pair].n, .dst = dst};
        }
}

/* Sequence numbers are those of the inputs. */
static bool begin(struct patch_runs *r, struct err *e)
{
    enum patch_role first = r->next, end = one_view(&r->q) ? PATCH_ROLES : first + 1;
    size_t n = 0;
    r->taps.n = 0;
    for (size_t i = 0; i < r->q.n_pairs; i++)
        for (enum patch_role role = first; role < end; role++) {
            if (!owns(&r->q, i, role)) continue;
            r->input[n] = (struct run_input){.ids = r->q.pair[i].ids[role], .n = r->q.pair[i].n, .seq = (uint32_t)n,
                                             .kv = role == PATCH_BASE ? r->kv[i] : NULL, .want = &r->want[i], .n_want = 1};
            add_taps(r, i, role, (uint32_t)n++);
        }
    r->run = run_new(r->q.view[first], r->input, n, &r->taps, e);
    return r->run != NULL;
}

static void end(struct patch_runs *r)
{
    enum patch_role first = r->next, past = one_view(&r->q) ? PATCH_ROLES : first + 1;
    size_t d = arch_of(r)->d_model, n = 0;
    for (size_t i = 0; i < r->q.n_pairs; i++)
        for (enum patch_role role = first; role < past; role++)
            if (owns(&r->q, i, role))
                memcpy(r->final + (i * PATCH_ROLES + role) * d, run_final(r->run, n++), d * sizeof *r->final);
    run_free(r->run);
    r->run = NULL;
    r->next = past;
}

static bool take(struct patch_runs *r, struct err *e)
{
    const struct arch *a = arch_of(r);
    const size_t pairs = r->q.n_pairs, lists = plan_times(pairs * r->q.n_keep, a->n_layers);
    size_t writes = 0;
    for (size_t i = 0; i < pairs; i++) writes += r->q.pair[i].n_write;
    r->input = mem_take(pairs * PATCH_ROLES, sizeof *r->input, e);
    r->want = r->input ? mem_take(pairs, sizeof *r->want, e) : NULL;
    r->kv = r->want ? mem_take(pairs, sizeof(struct kv *), e) : NULL;
    r->values = r->kv ? mem_take(lists, sizeof(float *), e) : NULL;
    r->taps.tap = r->values ? mem_take(lists + writes, sizeof(struct tap), e) : NULL;
    r->final = r->taps.tap ? mem_floats(pairs * PATCH_ROLES * a->d_model, e) : NULL;
    r->memory = r->final ? mem_floats(plan_sum(kept_floats(&r->q, a), 1), e) : NULL;
    return r->memory != NULL;
}

struct patch_runs *patch_runs_new(const struct patch_runs_request *q, struct err *e)
{
    struct patch_runs *r = mem_new(sizeof *r);
    r->q = *q;
    for (int role = 0; role < PATCH_ROLES; role++) view_retain(q->view[role]);
    if (!take(r, e)) {
        patch_runs_free(r);
        return NULL;
    }
    for (size_t i = 0; i < q->n_pairs; i++) {
        assert(q->pair[i].n > 0 && (i > 0 || !q->pair[i].shares));
        r->want[i] = q->pair[i].n - 1;
        r->kv[i] = kv_new(arch_of(r));
    }
    lay_values(r);
    return r;
}

void patch_runs_free(struct patch_runs *r)
{
    if (!r) return;
    run_free(r->run);
    for (size_t i = 0; r->kv && i < r->q.n_pairs; i++) kv_free(r->kv[i]);
    mem_drop(r->kv);
    mem_drop(r->taps.tap);
    mem_drop(r->input);
    mem_drop(r->want);
    mem_drop(r->values);
    mem_drop(r->memory);
    mem_drop(r->final);
    for (int role = 0; role < PATCH_ROLES; role++) view_drop(r->q.view[role]);
    mem_drop(r);
}

enum step patch_runs_step(struct patch_runs *r, struct session *s, struct err *e)
{
    if (!r->run && !begin(r, e)) return STEP_FAIL;
    enum step step = run_step(r->run, s, e);
    if (step != STEP_DONE) return step;
    end(r);
    return r->next == PATCH_ROLES ? STEP_DONE : STEP_MORE;
}

static float *kept_of(const struct patch_runs *r, size_t pair, enum patch_role role, struct site s)
{
    for (size_t k = 0; k < r->q.n_keep; k++)
        if (r->q.keep[k].role == role && r->q.keep[k].hook == s.hook) return values_of(r, owner(&r->q, pair, role), k)[s.layer];
    return NULL;
}

const float *patch_runs_values(const struct patch_runs *r, size_t pair, enum patch_role role, struct site s)
{
    return kept_of(r, pair, role, s);
}

float *patch_runs_edit(struct patch_runs *r, size_t pair, enum patch_role role, struct site s) { return kept_of(r, pair, role, s); }

const float *patch_runs_final(const struct patch_runs *r, size_t pair, enum patch_role role)
{
    return r->final + (owner(&r->q, pair, role) * PATCH_ROLES + role) * arch_of(r)->d_model;
}

const struct kv *patch_runs_kv(const struct patch_runs *r, size_t pair) { return r->kv[pair]; }
