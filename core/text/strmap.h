/* A hash table from byte strings to 32-bit numbers, sized once.
 *
 * Keys are borrowed: they must outlive the table. A later put of the same key replaces the value.
 * Capacity is fixed by strmap_init (at least twice the expected count), so a look-up ends after a
 * few probes and nothing is allocated afterwards. Immutable once filled: any thread may read.
 *
 *     struct strmap m;
 *     if (!strmap_init(&m, n, e)) return false;
 *     strmap_put(&m, "Gr", 2, 17);
 */
#ifndef ENGRAM_STRMAP_H
#define ENGRAM_STRMAP_H

#include "core/base/mem.h"

struct strmap {
    struct strmap_slot *slot;
    size_t mask, n;
};
bool strmap_init(struct strmap *m, size_t expected, struct err *e) MUST_CHECK;
void strmap_release(struct strmap *m);
void strmap_put(struct strmap *m, const char *key, size_t len, uint32_t value);
bool strmap_get(const struct strmap *m, const char *key, size_t len, uint32_t *value);

#endif
