/* The reference models of tests/golden/families, one after the other: every folder there, and its GGUF
 * twin where it has one. A row of core/arch.def without a folder of its name fails the test, so a new
 * family is in every such test or in none. */
#ifndef ENGRAM_TEST_FAMILIES_H
#define ENGRAM_TEST_FAMILIES_H

#include "golden.h"

/* whole: leave out those of which only logits are kept. */
void families_each(bool whole, void (*check)(struct golden *g));
bool golden_only_logits(const struct golden *g);

#endif
