/* GGUF v2/v3 containers: typed metadata and the tensor table. Values are looked up by key; a
 * getter answers false when the key is absent or of another type. Integers of any width are
 * served as int64 when they fit. Everything is copied out of the file at open and immutable.
 */
#ifndef ENGRAM_GGUF_H
#define ENGRAM_GGUF_H

#include "modelfile.h"

struct gguf_strings { /* an array of strings; pieces may hold any bytes but are UTF-8 checked */
    size_t n;
    const char *const *text; /* NUL terminated */
    const uint32_t *len;
};
struct gguf_ints { /* truth values count as 0 and 1 */
    size_t n;
    const int64_t *value;
};
struct gguf_floats {
    size_t n;
    const float *value;
};

const char *gguf_path(const struct gguf *g);
bool gguf_has(const struct gguf *g, const char *key); /* of any type */
bool gguf_int(const struct gguf *g, const char *key, int64_t *out);
bool gguf_float(const struct gguf *g, const char *key, double *out);
bool gguf_bool(const struct gguf *g, const char *key, bool *out);
bool gguf_text(const struct gguf *g, const char *key, const char **out);
bool gguf_string_array(const struct gguf *g, const char *key, struct gguf_strings *out);
bool gguf_float_array(const struct gguf *g, const char *key, struct gguf_floats *out);
bool gguf_int_array(const struct gguf *g, const char *key, struct gguf_ints *out);

/* Append all values that a getter serves, in one form (modelfile_describe). */
void gguf_describe(const struct gguf *g, struct buf *out);

/* Used by modelfile.c only. */
struct infile;      /* core/file/infile.h */
struct tensor_list; /* core/file/tensor_list.h */
struct gguf *gguf_open(const char *path, struct err *e) MUST_CHECK;
void gguf_close(struct gguf *g);
const struct tensor_list *gguf_tensors(const struct gguf *g);
const struct infile *gguf_file(const struct gguf *g);

#endif
