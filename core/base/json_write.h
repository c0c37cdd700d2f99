/* Writing JSON text: strings, numbers and whole trees, appended to a buf.
 *
 *     buf_text(&b, "{\"name\":");
 *     json_write_text(&b, name, strlen(name));
 *     buf_text(&b, "}");
 *
 * What is written is what core/base/json.h reads back to the same value: float32 and float64 with the
 * fewest digits that give exactly that number, integers exactly, members in their order. Texts must
 * be UTF-8. NaN and infinities, which JSON cannot say, become null.
 *
 * A failed growth is the buf's own sticky failure. Pure functions; any thread.
 */
#ifndef ENGRAM_JSON_WRITE_H
#define ENGRAM_JSON_WRITE_H

#include "json.h"

/* "text", with the quotes. */
void json_write_text(struct buf *out, const char *text, size_t len);
/* A tree that json_parse made. */
void json_write(const struct json *v, struct buf *out);
/* The same for readers that tell a float from an integer by its spelling: 30.0 stays 30.0. */
void json_write_typed(const struct json *v, struct buf *out);

/* Shortest text that reads back as the same value; "null" when not finite. */
void f32_text(float v, char out[32]);
void f64_text(double v, char out[32]);

#endif
