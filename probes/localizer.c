#include "localizer.h"

#include <string.h>

static const struct localizer_info table[] = {
#define LOCALIZER(NAME, word, rows, writes, source, summary)                                                            \
    [LOCALIZER_##NAME] = {#word, source, summary, LOCALIZER_##rows, LOCALIZER_##writes, &localizer_##word},
#include "localize.def"
#undef LOCALIZER
};

const struct localizer_info *localizer_info(enum localizer_kind k) { return &table[k]; }

bool localizer_parse(const char *word, enum localizer_kind *out)
{
    for (int k = 0; k < LOCALIZER_COUNT; k++)
        if (strcmp(table[k].word, word) == 0) {
            *out = (enum localizer_kind)k;
            return true;
        }
    return false;
}

double localizer_towards(const struct patch_scores *s, bool denoise, double change)
{
    return (denoise ? s->clean >= s->corrupt : s->corrupt >= s->clean) ? change : -change;
}

uint32_t localizer_heads(const struct localizer_ask *q)
{
    return q->patch.axis == PATCH_LAYER ? 1 : view_model(q->patch.view)->arch.n_heads;
}

size_t localizer_units(const struct localizer_ask *q)
{
    return (size_t)view_model(q->patch.view)->arch.n_layers * localizer_heads(q);
}

static const struct localizer_param_info params[] = {
#define WHOLE_INT true
#define WHOLE_REAL false
#define LOCALIZER_PARAM(METHOD, name, kind, initial, least, most, help)                                                 \
    {LOCALIZER_##METHOD, #name, help, WHOLE_##kind, initial, least, most},
#include "localize_param.def"
#undef LOCALIZER_PARAM
};

const struct localizer_param_info *localizer_param_info(enum localizer_param p) { return &params[p]; }

void localizer_defaults(double param[LOCALIZER_PARAMS])
{
    for (int i = 0; i < LOCALIZER_PARAMS; i++) param[i] = params[i].initial;
}
