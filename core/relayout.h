/* From a GGUF's order of rows and columns to the state dict's, in place, for any element type whose
 * rows can be moved (all of them) or whose elements can (float32 and 16-bit, for transposing).
 *
 * Pure; scratch memory for one matrix (transposing, weaving) or one head (pairs).
 */
#ifndef ENGRAM_RELAYOUT_H
#define ENGRAM_RELAYOUT_H

#include "model.h"

/* Can this layout be undone without widening the elements? */
bool relayout_keeps(enum relayout how, enum dtype type);
/* w: the tensor as read, of its state-dict shape but the file's order; rewritten in place. */
bool relayout(const struct arch *a, const struct tensor *t, enum relayout how, void *w, struct err *e) MUST_CHECK;

#endif
