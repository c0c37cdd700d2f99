/* JSON at the door. Reading: the engine's strict reader (core/base/json.h) gives the request tree, with
 * exact integers. Writing: a tree of cJSON nodes behind these few calls, with the engine's number
 * writer (core/base/json_write.h), because cJSON's loses digits. Only server/json.c (and the schema
 * generator) includes cJSON.h.
 *
 * Numbers: float32 and float64 are written with the fewest digits that read back as exactly the
 * same value; NaN and infinities become null. Long arrays are one raw node, so a grid of 10⁵
 * values costs a string, not a list of nodes.
 *
 * `key` is the member's name, or NULL to append to an array. Ownership: a child belongs to the
 * parent it was added to; free only the root. A failed allocation makes jout_print fail.
 */
#ifndef ENGRAM_SERVER_JSON_H
#define ENGRAM_SERVER_JSON_H

#include "core/base/json_write.h"

typedef struct cJSON jout;

jout *jout_object(void);
jout *jout_array(void);
void jout_free(jout *root);
jout *jout_put_object(jout *parent, const char *key); /* new child, returned */
jout *jout_put_array(jout *parent, const char *key);
void jout_add(jout *parent, const char *key, jout *child); /* child is taken */
void jout_text(jout *parent, const char *key, const char *text); /* NULL: null. Must be UTF-8 */
void jout_string(jout *parent, const char *key, const char *text, size_t len); /* UTF-8 that may hold NUL */
void jout_int(jout *parent, const char *key, int64_t v);
void jout_f32(jout *parent, const char *key, float v);
void jout_f64(jout *parent, const char *key, double v);
void jout_bool(jout *parent, const char *key, bool v);
void jout_null(jout *parent, const char *key);
void jout_raw(jout *parent, const char *key, const char *json); /* trusted JSON text */
void jout_f32s(jout *parent, const char *key, const float *v, size_t n);
void jout_f64s(jout *parent, const char *key, const double *v, size_t n);
void jout_u32s(jout *parent, const char *key, const uint32_t *v, size_t n);
bool jout_print(const jout *root, struct buf *out, struct err *e) MUST_CHECK;

#endif
