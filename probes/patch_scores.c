#include "patch_scores.h"

#include <math.h>

static bool is_ratio(const struct metric *m) { return m->kind == METRIC_NORM_LOGIT_DIFF; }

double patch_normalised(const struct metric *m, const struct patch_scores *s, double value)
{
    return is_ratio(m) ? (value - s->ld_corrupt) / (s->ld_clean - s->ld_corrupt) : value;
}

bool patch_normalises(const struct metric *m, double clean, double corrupt, struct err *e)
{
    return !is_ratio(m) || fabs(clean - corrupt) >= 1e-3 ||
           err_field(e, ERR_UNPROCESSABLE, "metric.kind",
                     "the logit differences of clean (%g) and corrupt (%g) are closer than 0.001: "
                     "nothing to normalise by", clean, corrupt);
}

bool patch_scores_open(const struct metric *m, double base, double source, bool denoise, struct patch_scores *s, struct err *e)
{
    s->clean = denoise ? source : base;
    s->corrupt = denoise ? base : source;
    return patch_normalises(m, s->clean, s->corrupt, e);
}

void patch_scores_settle(const struct metric *m, struct patch_scores *s, size_t n)
{
    const bool logits = is_ratio(m) || m->kind == METRIC_LOGIT_DIFF;
    s->ld_clean = logits ? s->clean : (double)NAN;
    s->ld_corrupt = logits ? s->corrupt : (double)NAN;
    for (size_t i = 0; i < n; i++) s->values[i] = patch_normalised(m, s, s->values[i]);
    s->clean = patch_normalised(m, s, s->clean);
    s->corrupt = patch_normalised(m, s, s->corrupt);
}

double patch_scores_unit(const struct metric *m, const struct patch_scores *s)
{
    return is_ratio(m) ? fabs(s->clean - s->corrupt) : 1;
}
