/* A delta: an immutable weight change, bound to one base by shape and name.
 *
 * It is a list of parts, each for one tensor and of one kind (core/delta.def):
 *   dense    W ← W + Δ                 Δ [rows][cols]
 *   lowrank  W ← W + A·B               A [rows][r], B [r][cols]; each entry's r products are
 *                                      summed in order of r, then added to W
 * All arithmetic is float32, element by element, without contraction: applying the same delta to
 * the same bytes gives the same bytes everywhere. (w + d) − d is not w, so nothing here subtracts;
 * taking a delta back means rebuilding without it.
 *
 * Serialised as safetensors: per part "<tensor>.dense", or "<tensor>.lowrank_a"/"_b"; metadata
 * "format": "engramd.delta.1". Serialisation is canonical: equal deltas, equal bytes.
 *
 * Ownership: heap, owned by the holder of the pointer. Immutable: any thread.
 */
#ifndef ENGRAM_DELTA_H
#define ENGRAM_DELTA_H

#include "core/base/mem.h"

struct model;
struct tensor;

enum delta_kind {
#define DELTA(name, word) DELTA_##name,
#include "delta.def"
#undef DELTA
    DELTA_COUNT
};

struct delta_part {
    size_t tensor;         /* index into the model's table */
    enum delta_kind kind;
    uint32_t rank;         /* lowrank */
    float *a;              /* dense: [rows][cols]; lowrank: [rows][rank] */
    float *b;              /* lowrank: [rank][cols] */
};

struct delta {
    size_t n_parts;
    struct delta_part *parts; /* ascending tensor index */
};

const char *delta_kind_word(enum delta_kind k);

/* One-part deltas; data is copied. Non-finite data is ERR_NONFINITE. */
struct delta *delta_new_dense(const struct model *m, size_t tensor, const float *change,
                              struct err *e) MUST_CHECK;
struct delta *delta_new_lowrank(const struct model *m, size_t tensor, uint32_t rank,
                                const float *a, const float *b, struct err *e) MUST_CHECK;
void delta_free(struct delta *d);

/* w [rows][cols] ← w + part. In delta_apply.c, built with -ffp-contract=off. */
void delta_apply(const struct delta_part *p, uint32_t rows, uint32_t cols, float *w);
/* Frobenius norm of a part, in float64. */
double delta_norm(const struct delta_part *p, uint32_t rows, uint32_t cols);

bool delta_write(const struct delta *d, const struct model *m, struct buf *out,
                 struct err *e) MUST_CHECK;
struct delta *delta_read(const void *bytes, size_t n, const struct model *m,
                         struct err *e) MUST_CHECK;

#endif
