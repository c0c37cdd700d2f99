/* Regions: sets of parts of a model, and their algebra.
 *
 *     union  A ∪ B      intersect  A ∩ B      minus  A ∖ B      complement  U ∖ A
 *
 * A space lays all parts of one unit of one model end to end, so that a part is a number below N: lane
 * by lane (a layer's heads, a tensor's elements), parts of a lane side by side. A region is then a list of
 * half-open intervals of such numbers, ascending, disjoint and not touching: equal sets are equal lists,
 * and every operation is one merge of two lists. What is in a list twice is in the set once.
 *
 *     unit      lane                      parts of it
 *     layer     the model                 layers
 *     head      a layer                   its query heads
 *     neuron    a layer                   the MLP's m hidden units
 *     tensor    a tensor, in name order   its elements, row by row
 *     site      a site, in pass order     its heads; 1 for a site without
 *     position  a name of a span          1. The names are the caller's, so this space has no complement
 *
 * Ownership: a region owns its list, a space its lanes; both start zeroed. Operations write into a fresh region.
 * Pure functions, any thread.
 */
#ifndef ENGRAM_REGION_H
#define ENGRAM_REGION_H

#include "core/model.h"

enum region_unit { REGION_LAYER, REGION_HEAD, REGION_NEURON, REGION_TENSOR, REGION_SITE, REGION_POSITION, REGION_UNITS };
const char *region_unit_word(enum region_unit u);
bool region_unit_parse(const char *word, enum region_unit *out);

struct region_space {
    enum region_unit unit;
    size_t n_lanes;
    uint64_t *first; /* [n_lanes + 1]: the number of a lane's first part; at the end N */
};
/* n_names: of a space of positions. */
bool region_space_init(struct region_space *s, const struct model *m, enum region_unit unit, size_t n_names, struct err *e) MUST_CHECK;
void region_space_release(struct region_space *s);
/* The lane of a part. */
size_t region_lane(const struct region_space *s, uint64_t part);

enum { REGION_INTERVALS_MOST = 1 << 22 }; /* while it is made; half of them when it is */
struct interval { /* [from, to) */
    uint64_t from, to;
};
struct region {
    struct interval *at;
    size_t n, cap;
};
void region_release(struct region *r);
/* In any order, overlapping or not; then region_settle once. */
bool region_add(struct region *r, uint64_t from, uint64_t to, struct err *e) MUST_CHECK;
void region_settle(struct region *r);

uint64_t region_size(const struct region *r);
bool region_has(const struct region *r, uint64_t part);
bool region_equal(const struct region *a, const struct region *b);
bool region_union(const struct region *a, const struct region *b, struct region *out, struct err *e) MUST_CHECK;
bool region_intersect(const struct region *a, const struct region *b, struct region *out, struct err *e) MUST_CHECK;
bool region_minus(const struct region *a, const struct region *b, struct region *out, struct err *e) MUST_CHECK;
bool region_complement(const struct region_space *s, const struct region *a, struct region *out, struct err *e) MUST_CHECK;

#endif
