/* What a localization answers: a region with its joint effect, a ranking, a control; of several pairs also which half
 * served what. Members go into the object given. */
#ifndef ENGRAM_LOCALIZE_ANSWER_H
#define ENGRAM_LOCALIZE_ANSWER_H

#include "look.h"
#include "probes/localize.h"

struct localize_told {
    const struct localize_request *q;
    const struct localize_result *r;
    bool listed; /* of several pairs */
};

void localize_put(const struct localize_told *t, jout *o);
/* Of each two methods: Spearman's correlation of their scores, and how much of one region is in the other. */
bool localize_put_agreement(const struct localize_told *t, size_t n, jout *root, struct err *e) MUST_CHECK;

#endif
