/* Which rows are not independent of each other: "group" of each, a template, a question, a subject. Intervals are
 * taken over groups, folds and halves keep them whole. Groups are numbered as they come; a row without is its own.
 */
#ifndef ENGRAM_GROUPS_H
#define ENGRAM_GROUPS_H

#include "core/base/json.h"

/* Of n objects from `first` on, into group [n]. by_subject: where a row has no group its subject is one. */
bool groups_read(const struct json *first, size_t n, bool by_subject, uint32_t *group, size_t *n_groups, struct err *e) MUST_CHECK;

#endif
