/* A metric in a request: its kind, and the tokens it compares.
 *
 * `answer` and `foil` are a text as it stands behind the prompt (scored by its first token, with a
 * warning where it has more), an id, or a list of these. Token lists live in the look's arena. Errors name the field below `field`, where
 * the metric stands in the request.
 *
 * No state; HTTP threads.
 */
#ifndef ENGRAM_METRICS_JSON_H
#define ENGRAM_METRICS_JSON_H

#include "look.h"
#include "probes/metric.h"

/* kind, and answer and foil as far as the kind needs them, which stand in `tokens` (v itself, or a pair); `pos`
 * is the caller's. */
bool metric_read(struct look *l, const struct json *v, const char *field, const struct json *tokens,
                 const char *tokens_field, struct metric *out, struct err *e) MUST_CHECK;
/* One token: an id, or a text as it stands behind a prompt, of which the first counts. */
bool metric_token(struct look *l, const struct json *v, const char *field, uint32_t *id, struct err *e) MUST_CHECK;
/* "answer" and "foil" into o: an object, or a list of several. */
void metric_echo(const struct metric *m, const struct model *model, jout *o);

#endif
