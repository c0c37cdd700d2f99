/* What an edit says of itself: scores per fact, summaries with intervals, gates. Pure functions
 * over finished measures. */
#ifndef ENGRAM_EDIT_REPORT_H
#define ENGRAM_EDIT_REPORT_H

#include "facts.h"
#include "server/json.h"

enum summary_kind {
#define SUMMARY(name, word, initial, better) SUMMARY_##name,
#include "summary.def"
#undef SUMMARY
    SUMMARY_COUNT
};

struct summary { /* a mean over what it was measured on; n 0: not measured */
    double mean;
    size_t n;
};

const char *summary_word(enum summary_kind k); /* its name in requests and answers */
/* Mean over facts (or over their paraphrases and locality prompts). */
struct summary summary_of(const struct facts *f, const struct measure *m, enum summary_kind k);

/* SCORES of one fact */
void report_scores(jout *o, const struct fact *f, const struct score *s);
/* "facts": [{"id","target_ids","before","after"}] */
void report_facts(jout *o, const struct facts *f, const struct measure *before,
                  const struct measure *after, const bool *null_edit);
/* "n" and per kind {"before","after","ci"}: 95 % Wilson interval of `after` for shares, of the
 * mean ± 1.96 standard errors for kl (null under two). */
void report_summary(jout *all, const struct facts *f, const struct measure *before,
                    const struct measure *after);

/* Gates: thresholds by name; NaN where none is set. */
struct gates {
    double at[SUMMARY_COUNT];
    bool any, given; /* given: by name, not "default" */
};
/* "default", an object of thresholds, or NULL for none. */
bool gates_read(const struct json *v, struct gates *out, struct err *e) MUST_CHECK;
/* The first set gate on what these facts have no prompts for, or SUMMARY_COUNT. One that was given by
 * name is an error: what nobody measures must not pass. */
bool gates_measured(const struct gates *g, const struct facts *f, enum summary_kind *unmeasured, struct err *e) MUST_CHECK;
/* True when all set gates hold; what is not measured is not judged (null). Writes "gates" into o. */
bool gates_report(const struct gates *g, const struct facts *f, const struct measure *after, jout *o);

#endif
