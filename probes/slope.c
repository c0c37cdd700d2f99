#include "slope.h"

#include <string.h>

void slope_row(void *ctx, size_t seq, size_t k, float *logits)
{
    const struct slope *s = ctx;
    struct metric m = *s->metric;
    (void)k;
    if (m.kind == METRIC_NORM_LOGIT_DIFF) m.kind = METRIC_LOGIT_DIFF;
    double value = metric_gradient(&m, logits, s->V, s->reference, s->work);
    if (s->value) s->value[seq] = value;
    memcpy(logits, s->work, s->V * sizeof *logits);
}
