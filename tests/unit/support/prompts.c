#include "prompts.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "numbers.h"

void make_pair(const struct golden *g, const struct metric *metrics, struct prompts *p)
{
    uint64_t seed = 19;
    for (int k = 0; k < N; k++) p->clean[k] = p->corrupt[k] = below(&seed, g->model->arch.d_vocab);
    p->corrupt[FIRST] = below(&seed, g->model->arch.d_vocab);
    p->corrupt[5] = below(&seed, g->model->arch.d_vocab);
    p->pair = (struct patch_pair){p->clean, p->corrupt, N, metrics};
}

struct site_values read_site(const struct golden *g, struct view *v, enum hook h, const uint32_t *ids)
{
    const struct arch *a = &g->model->arch;
    struct site_values s = {.hook = h, .heads = hook_heads(a, h),
                            .width = hook_info(h)->axis == AXIS_SOURCE ? N : hook_width(a, h)};
    struct tap tap[MOST_LAYERS];
    assert_true(a->n_layers <= MOST_LAYERS);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        s.layer[l] = floats((size_t)N * s.heads * s.width);
        tap[l] = (struct tap){.site = {h, l}, .every_pos = true, .n_source = N, .dst = s.layer[l]};
    }
    mem_drop(logits_at(g, v, ids, N, READ, &(struct taps){tap, a->n_layers}));
    return s;
}

void drop_site(struct site_values *s)
{
    for (int l = 0; l < MOST_LAYERS; l++) mem_drop(s->layer[l]);
}
