/* Expressions of regions in requests, and a region's canonical form.
 *
 *     {"unit": "head", "members": [{"layer": 3, "head": 1}, …]}
 *     {"region": id or name} · {"all": unit} · {"complement": e}
 *     {"union": [e, …]} · {"intersect": [e, …]} · {"minus": [a, b]}
 *
 * All parts of one expression have one unit. Canonical form: {"unit","members"}, no space between tokens, members
 * ascending and each once (layer then head or neuron; sites in pass order, without "head" where all of them are in;
 * tensors and spans by name, a tensor's elements as the fewest bands of rows, without rows and cols where whole).
 * Its SHA-256 is the region's hash.
 *
 * Errors name the field in the expression. The reader is only asked for regions that are named. Memory: what
 * region_expr gives is released by region_told_release. One thread at a time.
 */
#ifndef ENGRAM_REGION_EXPR_H
#define ENGRAM_REGION_EXPR_H

#include "core/base/json.h"
#include "ledger/ledger.h"
#include "probes/region.h"

enum { REGION_NAMES_MOST = 1024, REGION_MEMBERS_MOST = 1000000 };

struct region_told {
    enum region_unit unit;
    struct region set;
    const char *name[REGION_NAMES_MOST]; /* of positions: number i is name[i]; in the arena */
    size_t n_names;
};
/* model_id: the row's. expr is any object. Texts live in the arena and in expr. */
bool region_expr(const struct json *expr, const char *field, const struct model *m, const char *model_id, struct ledger_reader *r,
                 struct arena *a, struct region_told *out, struct err *e) MUST_CHECK;
void region_told_release(struct region_told *t);
/* The canonical form, appended. */
bool region_write(const struct region_told *t, const struct model *m, struct buf *out, struct err *e) MUST_CHECK;
/* {"unit","size"}, for lists. size: its parts (of tensors: elements). */
void region_summary(const struct region_told *t, struct buf *out);

#endif
