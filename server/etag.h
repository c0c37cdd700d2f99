/* Entity tags as If-Match and If-None-Match carry them: `*`, or tags in double quotes with commas between,
 * weak ones with W/ before them (RFC 9110, 8.8.3 and 13.1). A comma may stand inside a tag. What is no such
 * list names nothing from there on.
 *
 * Pure; any thread.
 */
#ifndef ENGRAM_ETAG_H
#define ENGRAM_ETAG_H

#include <stdbool.h>
#include <stddef.h>

/* Does If-None-Match name that tag (with quotes)? The weak form of a tag is the tag. list may be NULL. */
bool etag_matches(const char *list, const char *etag);
/* What stands in the quotes where the text is one strong tag; else NULL. */
const char *etag_alone(const char *text, size_t *len);

#endif
