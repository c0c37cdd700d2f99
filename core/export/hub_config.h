/* config.json and generation_config.json of an exported view.
 *
 * A hub directory's config.json is written back member by member as it was read; only its element
 * type is corrected, where deltas have made 16-bit tensors float32: a reader that trusted the old
 * word would narrow the edit away. Of a model that held a text model, that part alone is written. A GGUF has no config.json, so one is written from the model's
 * description, in its family's words (core/family/) and the spelling most hub files have (rope_theta and
 * torch_dtype at the top).
 *
 * The text is appended to `out`. Pure functions over immutable data; any thread.
 */
#ifndef ENGRAM_HUB_CONFIG_H
#define ENGRAM_HUB_CONFIG_H

#include "core/view.h"

bool hub_config(const struct view *v, struct buf *out, struct err *e) MUST_CHECK;
/* Of a GGUF: which tokens begin, pad and end. (A directory's own file is copied instead.) */
bool hub_generation_config(const struct model *m, struct buf *out, struct err *e) MUST_CHECK;

#endif
