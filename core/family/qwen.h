/* What Qwen 2 and Qwen 3 share: windows that must be switched on, and then hold for the upper layers. */
#ifndef ENGRAM_QWEN_H
#define ENGRAM_QWEN_H

#include "read_config.h"

bool qwen_windows(const struct json *c, struct arch *a, struct err *e) MUST_CHECK;
void qwen_windows_to_config(const struct arch *a, struct buf *out);

#endif
