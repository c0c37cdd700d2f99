/* Lines of a config.json, for descriptions that came from a GGUF. Each line is indented by two and
 * ends in a comma and a newline. Spellings are those most hub files have: rope_theta at the top and
 * rope_scaling beside it, which transformers 5 reads as its own rope_parameters.
 *
 * The text is appended to `out`, whose failure is sticky. Pure functions; any thread.
 */
#ifndef ENGRAM_WRITE_CONFIG_H
#define ENGRAM_WRITE_CONFIG_H

#include "core/arch.h"

void config_put_integer(struct buf *out, const char *key, uint32_t v);
/* Always with a fraction or an exponent: strict readers tell a float from an integer by it. */
void config_put_number(struct buf *out, const char *key, float v);
void config_put_flag(struct buf *out, const char *key, bool v);
void config_put_text(struct buf *out, const char *key, const char *text);
/* null where the value is 0, which in a description means "not". */
void config_put_integer_or_null(struct buf *out, const char *key, uint32_t v);
void config_put_number_or_null(struct buf *out, const char *key, float v);

void config_put_rotary(struct buf *out, const struct arch *a);
void config_put_rotary_scaling(struct buf *out, const struct arch *a); /* without the base */
void config_put_layer_types(struct buf *out, const struct arch *a);

#endif
