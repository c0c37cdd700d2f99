#include "generation.h"

#include <sys/random.h>

enum step generation_step(struct generation *g, struct work *w, struct view *v, struct taps *taps, struct session *s,
                          struct err *e)
{
    if (!g->decoder) {
        g->decoder = decoder_new(v, g->q, g->n, taps, e);
        if (!g->decoder) return STEP_FAIL;
        if (g->pair) decoder_beside(g->decoder, g->pair);
        for (size_t i = 0; i < g->n; i++) w->total += decode_most(&view_model(v)->arch, &g->q[i]);
    }
    enum step step = decoder_step(g->decoder, s, e);
    w->done = (int64_t)decoder_tokens(g->decoder);
    return step;
}

void generation_release(struct generation *g)
{
    decoder_free(g->decoder);
    g->decoder = NULL;
}

static double number_or(const struct json *q, const char *name, double otherwise)
{
    const struct json *v = json_get(q, name);
    return v ? v->number : otherwise;
}

struct sampling generation_sampling(const struct json *request)
{
    return (struct sampling){.temperature = number_or(request, "temperature", 0),
                             .top_p = number_or(request, "top_p", 1),
                             .top_k = (uint32_t)number_or(request, "top_k", 0)};
}

static int64_t drawn_seed(void)
{
    uint64_t seed = 0;
    ssize_t n = getrandom(&seed, sizeof seed, 0);
    (void)n;
    return (int64_t)(seed >> 11); /* 53 bits: exact in any JSON reader */
}

int64_t generation_seed(const struct json *request, const struct sampling *how)
{
    const struct json *seed = json_get(request, "seed");
    return seed ? seed->integer : how->temperature > 0 ? drawn_seed() : -1;
}

bool generation_stops(const struct json *request, struct arena *a, const char *const **stop, size_t *n, struct err *e)
{
    const struct json *given = json_get(request, "stop");
    size_t most = given ? given->type == JSON_ARRAY ? given->len : 1 : 0;
    const char **list = arena_take(a, most, sizeof *list, e);
    *n = 0;
    if (!list) return false;
    const struct json *v = given && given->type == JSON_ARRAY ? given->child : given;
    for (; *n < most; v = v->next) {
        list[*n] = arena_text(a, v->text, v->len, e);
        if (!list[(*n)++]) return false;
    }
    *stop = list;
    return true;
}
