#include "means.h"

#include <assert.h>

struct means {
    struct view *view;
    enum hook site;
    const struct means_text *text;
    size_t n, next;       /* the prompt that runs */
    size_t width, rows;   /* rows seen in all */
    uint32_t longest;
    float *values;        /* [L][longest][width] of one prompt */
    double *sum;          /* [L][width] */
    float *mean;
    struct tap *tap;      /* [L] */
    struct taps taps;
    struct run_input input;
    struct run *run;
};

static const struct arch *arch_of(const struct means *m) { return &view_model(m->view)->arch; }

static uint32_t longest_of(const struct means_text *text, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++)
        if (text[i].n > most) most = text[i].n;
    return most;
}

static size_t width_of(const struct arch *a, enum hook site) { return (size_t)hook_heads(a, site) * hook_width(a, site); }

void means_plan(const struct arch *a, enum hook site, const struct means_text *text, size_t n, int threads, struct plan *p)
{
    const size_t layers = plan_times(a->n_layers, width_of(a, site));
    const uint32_t longest = longest_of(text, n);
    struct run_size size = {0};
    run_size_add(&size, 0, longest, 0, false);
    run_plan(&size, a, threads, p);
    plan_add(p, NEED_CAPTURES, mem_floats_bytes(plan_times(layers, longest)));
    plan_add(p, NEED_CAPTURES, plan_sum(plan_times(layers, sizeof(double)), mem_floats_bytes(layers)));
    plan_add(p, NEED_CAPTURES, plan_times(a->n_layers, sizeof(struct tap)));
}

struct means *means_new(struct view *view, enum hook site, const struct means_text *text, size_t n, struct err *e)
{
    struct means *m = mem_new(sizeof *m);
    assert(n && hook_info(site)->axis != AXIS_SOURCE && hook_info(site)->scope == SCOPE_LAYER);
    *m = (struct means){.view = view_retain(view), .site = site, .text = text, .n = n, .longest = longest_of(text, n)};
    const uint32_t L = arch_of(m)->n_layers;
    m->width = width_of(arch_of(m), site);
    m->values = mem_floats(plan_times(L * m->width, m->longest), e);
    m->sum = m->values ? mem_take(L * m->width, sizeof *m->sum, e) : NULL;
    m->mean = m->sum ? mem_floats(L * m->width, e) : NULL;
    m->tap = m->mean ? mem_take(L, sizeof *m->tap, e) : NULL;
    if (m->tap) return m;
    means_free(m);
    return NULL;
}

static bool begin(struct means *m, struct err *e)
{
    const struct means_text *text = &m->text[m->next];
    for (uint32_t l = 0; l < arch_of(m)->n_layers; l++)
        m->tap[l] = (struct tap){.site = {m->site, l}, .every_pos = true, .dst = m->values + (size_t)l * text->n * m->width};
    m->taps = (struct taps){m->tap, arch_of(m)->n_layers};
    m->input = (struct run_input){.ids = text->ids, .n = text->n};
    m->run = run_new(m->view, &m->input, 1, &m->taps, e);
    return m->run != NULL;
}

static void add_up(struct means *m)
{
    const uint32_t n = m->text[m->next].n;
    for (uint32_t l = 0; l < arch_of(m)->n_layers; l++)
        for (uint32_t r = 0; r < n; r++)
            for (size_t i = 0; i < m->width; i++)
                m->sum[l * m->width + i] += (double)m->values[((size_t)l * n + r) * m->width + i];
    m->rows += n;
    run_free(m->run);
    m->run = NULL;
    m->next++;
}

enum step means_step(struct means *m, struct session *s, struct err *e)
{
    if (m->next == m->n) return STEP_DONE;
    if (!m->run && !begin(m, e)) return STEP_FAIL;
    enum step step = run_step(m->run, s, e);
    if (step != STEP_DONE) return step;
    add_up(m);
    if (m->next < m->n) return STEP_MORE;
    for (size_t i = 0; i < arch_of(m)->n_layers * m->width; i++) m->mean[i] = (float)(m->sum[i] / (double)m->rows);
    return STEP_DONE;
}

void means_free(struct means *m)
{
    if (!m) return;
    run_free(m->run);
    mem_drop(m->values);
    mem_drop(m->sum);
    mem_drop(m->mean);
    mem_drop(m->tap);
    view_drop(m->view);
    mem_drop(m);
}

const float *means_of(const struct means *m, uint32_t layer) { return m->mean + layer * m->width; }
