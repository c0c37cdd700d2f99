/* The few bytes of JSON the transport writes itself: quoted strings in problems, jobs, events and
 * log lines. Answers of handlers are built with server/json.h.
 *
 * quote appends "text" with quotes, escaping what RFC 8259 asks for; text must be UTF-8 (request
 * text has been checked at the door; anything else that may not be is passed through
 * quote_bytes, which shows other bytes as U+FFFD).
 *
 * Threads: pure functions.
 */
#ifndef ENGRAM_QUOTE_H
#define ENGRAM_QUOTE_H

#include "core/base/mem.h"

void quote(struct buf *out, const char *text);
void quote_bytes(struct buf *out, const char *text, size_t len);

#endif
