/* What a patch puts in where that is not the source's value as it is: values by layer that are made of both
 * runs' once those are known. They take the place of the source's. Private to the patch grid; one thread.
 */
#ifndef ENGRAM_PATCH_FILL_H
#define ENGRAM_PATCH_FILL_H

#include "patch.h"
#include "patch_runs.h"

/* Are both runs' values wanted in every layer? Then call it behind the runs, for each pair. */
bool patch_fills(const struct patch_request *q);
bool patch_fill(const struct patch_request *q, struct patch_runs *runs, size_t pair, struct err *e) MUST_CHECK;

/* Make rows [n][w] orthonormal (Gram and Schmidt, float64, twice); false where they are not independent. */
bool patch_orthonormal(float *rows, size_t n, size_t w);

#endif
