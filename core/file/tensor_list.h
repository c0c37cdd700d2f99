/* The tensors a model file declares, and the checks every format shares.
 *
 * A reader adds rows, then calls tensor_list_layout for each file's rows and tensor_list_seal
 * once. After that: names are unique, printable UTF-8 of at most 255 bytes; weights' shapes have 1..4
 * dimensions, none zero, and n_elements and n_bytes are their exact consequences (no overflow, a
 * whole number of blocks per row); the bytes of each tensor lie inside its file and belong to no
 * other tensor. Of a tensor that is no weight (`other`) the reader says n_bytes.
 *
 * Ownership: the list owns its rows; the names belong to the reader's arena. Pointers to rows are
 * stable after the seal. Then immutable: any thread may look up.
 */
#ifndef ENGRAM_TENSOR_LIST_H
#define ENGRAM_TENSOR_LIST_H

#include "modelfile.h"

enum { TENSOR_NAME_MAX_BYTES = 255, TENSOR_LIST_MAX = 1 << 18 };

struct tensor_list {
    struct buf rows;                   /* struct file_tensor[n] */
    size_t n;
    const struct file_tensor **sorted; /* by name, after the seal */
};

void tensor_list_release(struct tensor_list *l);

/* Add a row: name, type, n_dims, shape, file, offset are the caller's, the rest is computed; or, of no
 * weight, name, other, file, offset and n_bytes. */
bool tensor_list_add(struct tensor_list *l, struct file_tensor t, struct err *e) MUST_CHECK;
struct file_tensor *tensor_list_row(const struct tensor_list *l, size_t i); /* before the seal */

/* Rows from `first` on lie in [begin, end) of their file without overlap and, where `packed`,
 * without a gap. */
bool tensor_list_layout(const struct tensor_list *l, size_t first, uint64_t begin, uint64_t end,
                        bool packed, struct err *e) MUST_CHECK;
bool tensor_list_seal(struct tensor_list *l, struct err *e) MUST_CHECK;

const struct file_tensor *tensor_list_at(const struct tensor_list *l, size_t i);
const struct file_tensor *tensor_list_find(const struct tensor_list *l, const char *name);

/* Fit to stand in an error sentence: not empty, UTF-8, no control characters, not too long. */
bool tensor_name_check(const char *name, size_t len, struct err *e) MUST_CHECK;

#endif
