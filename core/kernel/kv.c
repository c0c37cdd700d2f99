#include "kv.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

struct block {
    _Atomic size_t references;
    float *data; /* [layer][2][KV_BLOCK][width] */
};

struct kv {
    uint32_t layers, width; /* width: G·e */
    uint32_t len;
    size_t n_blocks, cap;
    struct block **block;
};

static void block_drop(struct block *b)
{
    if (atomic_fetch_sub(&b->references, 1) != 1) return;
    mem_drop(b->data);
    mem_drop(b);
}

static size_t floats_of(size_t layers, size_t width) { return layers * 2 * KV_BLOCK * width; }
static size_t block_floats(const struct kv *kv) { return floats_of(kv->layers, kv->width); }

size_t kv_bytes(const struct arch *a, size_t positions)
{
    size_t blocks = positions / KV_BLOCK + (positions % KV_BLOCK != 0), bytes;
    size_t each = mem_floats_bytes(floats_of(a->n_layers, (size_t)a->n_kv_heads * a->d_head));
    return size_mul(blocks, each, &bytes) ? bytes : SIZE_MAX;
}

struct kv *kv_new(const struct arch *a)
{
    struct kv *kv = mem_new(sizeof *kv);
    kv->layers = a->n_layers;
    kv->width = a->n_kv_heads * a->d_head;
    return kv;
}

void kv_free(struct kv *kv)
{
    if (!kv) return;
    for (size_t i = 0; i < kv->n_blocks; i++) block_drop(kv->block[i]);
    mem_drop(kv->block);
    mem_drop(kv);
}

uint32_t kv_len(const struct kv *kv) { return kv->len; }

static bool push(struct kv *kv, struct block *b, struct err *e)
{
    if (kv->n_blocks == kv->cap) {
        size_t cap = kv->cap ? 2 * kv->cap : 8;
        struct block **more = mem_take(cap, sizeof(struct block *), e);
        if (!more) return false;
        if (kv->n_blocks) memcpy(more, kv->block, kv->n_blocks * sizeof(struct block *));
        mem_drop(kv->block);
        kv->block = more;
        kv->cap = cap;
    }
    kv->block[kv->n_blocks++] = b;
    return true;
}

static bool add_block(struct kv *kv, struct err *e)
{
    struct block *b = mem_new(sizeof *b);
    atomic_init(&b->references, 1);
    b->data = mem_floats(block_floats(kv), e);
    if (b->data && push(kv, b, e)) return true;
    block_drop(b);
    return false;
}

bool kv_reserve(struct kv *kv, uint32_t len, struct err *e)
{
    while (kv->n_blocks * KV_BLOCK < len)
        if (!add_block(kv, e)) return false;
    return true;
}

void kv_commit(struct kv *kv, uint32_t len)
{
    assert(len <= kv->n_blocks * KV_BLOCK);
    kv->len = len;
}

static float *row(const struct kv *kv, uint32_t layer, uint32_t pos, uint32_t which)
{
    assert(layer < kv->layers && pos / KV_BLOCK < kv->n_blocks);
    return kv->block[pos / KV_BLOCK]->data +
           (((size_t)layer * 2 + which) * KV_BLOCK + pos % KV_BLOCK) * kv->width;
}

float *kv_key(const struct kv *kv, uint32_t layer, uint32_t pos) { return row(kv, layer, pos, 0); }
float *kv_value(const struct kv *kv, uint32_t layer, uint32_t pos) { return row(kv, layer, pos, 1); }

struct kv *kv_fork(const struct kv *kv, uint32_t len, struct err *e)
{
    assert(len <= kv->len);
    struct kv *out = mem_new(sizeof *out);
    out->layers = kv->layers;
    out->width = kv->width;
    for (uint32_t i = 0; i < len / KV_BLOCK; i++) {
        if (!push(out, kv->block[i], e)) {
            kv_free(out);
            return NULL;
        }
        atomic_fetch_add(&kv->block[i]->references, 1);
    }
    if (len % KV_BLOCK) {
        if (!add_block(out, e)) {
            kv_free(out);
            return NULL;
        }
        memcpy(out->block[len / KV_BLOCK]->data, kv->block[len / KV_BLOCK]->data,
               block_floats(kv) * sizeof(float));
    }
    out->len = len;
    return out;
}
