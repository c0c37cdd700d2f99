#include "relayout.h"

#include <string.h>

bool relayout_keeps(enum relayout how, enum dtype type)
{
    if (how == PLUS_ONE) return type == DTYPE_F32;
    return how != TRANSPOSED || dtype_info(type)->block == 1;
}

/* Row i of the state dict is row from(i) of the file. */
struct order {
    uint32_t (*from)(const struct order *o, uint32_t row);
    uint32_t e, heads;
};

/* Rows of one head are (0, e/2, 1, e/2+1, …) in the file and (0, 1, … e−1) here. */
static uint32_t unpaired(const struct order *o, uint32_t row)
{
    uint32_t head = row / o->e, i = row % o->e;
    return head * o->e + (i < o->e / 2 ? 2 * i : 2 * (i - o->e / 2) + 1);
}

/* [q of all heads | k | v] in the file, [head][q e | k e | v e] here. */
static uint32_t woven(const struct order *o, uint32_t row)
{
    uint32_t head = row / (3 * o->e), part = row / o->e % 3;
    return part * o->heads * o->e + head * o->e + row % o->e;
}

static bool reorder(const struct order *o, uint32_t rows, size_t row_bytes, void *w, struct err *e)
{
    unsigned char *copy = mem_take(rows, row_bytes, e), *out = w;
    if (!copy) return false;
    memcpy(copy, w, rows * row_bytes);
    for (uint32_t i = 0; i < rows; i++)
        memcpy(out + i * row_bytes, copy + o->from(o, i) * row_bytes, row_bytes);
    mem_drop(copy);
    return true;
}

/* The file has [cols][rows]. */
static bool transpose(uint32_t rows, uint32_t cols, size_t size, void *w, struct err *e)
{
    enum { BLOCK = 32 };
    unsigned char *copy = mem_take((size_t)rows * cols, size, e), *out = w;
    if (!copy) return false;
    memcpy(copy, w, (size_t)rows * cols * size);
    for (size_t r0 = 0; r0 < rows; r0 += BLOCK)
        for (size_t c0 = 0; c0 < cols; c0 += BLOCK)
            for (size_t r = r0; r < rows && r < r0 + BLOCK; r++)
                for (size_t c = c0; c < cols && c < c0 + BLOCK; c++)
                    memcpy(out + (r * cols + c) * size, copy + (c * rows + r) * size, size);
    mem_drop(copy);
    return true;
}

bool relayout(const struct arch *a, const struct tensor *t, enum relayout how, void *w, struct err *e)
{
    /* A bias is a column of one-element rows in the same order as its matrix' rows. */
    uint32_t rows = t->n_dims == 1 ? t->cols : t->rows;
    size_t row_bytes = t->n_dims == 1 ? sizeof(float) : t->memory.row_bytes;
    float *values = w;
    switch (how) {
    case AS_IS: return true;
    case ROTARY_PAIRS: return reorder(&(struct order){unpaired, a->d_head, a->n_heads}, rows, row_bytes, w, e);
    case UNWOVEN: return reorder(&(struct order){woven, a->d_head, a->n_heads}, rows, row_bytes, w, e);
    case TRANSPOSED: return transpose(t->rows, t->cols, dtype_info(t->memory.type)->bytes, w, e);
    case PLUS_ONE:
        for (size_t i = 0; i < t->n_elements; i++) values[i] -= 1.0f;
        return true;
    }
    return true;
}
