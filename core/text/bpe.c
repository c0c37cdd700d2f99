#include "bpe.h"

#include <assert.h>

struct bpe_pair {
    uint32_t left, right, rank, result; /* left BPE_NONE: free */
};
struct bpe_symbol {
    uint32_t id; /* BPE_NONE: joined into the symbol before it */
    int32_t before, after; /* -1: none */
};
struct bpe_candidate {
    uint32_t rank, at, result;
};

static size_t hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 29 ^ h >> 47);
}

bool bpe_init(struct bpe *b, const struct bpe_merge *merge, size_t n, struct err *e)
{
    size_t cap = 16;
    while (cap / 2 <= n) cap *= 2;
    b->pair = mem_take(cap, sizeof *b->pair, e);
    if (!b->pair) return false;
    b->mask = cap - 1;
    for (size_t i = 0; i < cap; i++) b->pair[i].left = BPE_NONE;
    for (size_t i = 0; i < n; i++) {
        const struct bpe_merge *m = &merge[i];
        size_t at = hash(m->left, m->right) & b->mask;
        while (b->pair[at].left != BPE_NONE &&
               (b->pair[at].left != m->left || b->pair[at].right != m->right))
            at = (at + 1) & b->mask;
        b->pair[at] = (struct bpe_pair){m->left, m->right, (uint32_t)i, m->result};
    }
    return true;
}

void bpe_release(struct bpe *b)
{
    mem_drop(b->pair);
    b->pair = NULL;
}

static const struct bpe_pair *find_pair(const struct bpe *b, uint32_t left, uint32_t right)
{
    for (size_t i = hash(left, right) & b->mask;; i = (i + 1) & b->mask) {
        const struct bpe_pair *p = &b->pair[i];
        if (p->left == left && p->right == right) return p;
        if (p->left == BPE_NONE) return NULL;
    }
}

void bpe_work_release(struct bpe_work *w)
{
    mem_drop(w->symbol);
    mem_drop(w->heap);
    *w = (struct bpe_work){0};
}

/* n symbols join at most n-1 times, each join offers two pairs, and n-1 are there at the start. */
static bool reserve(struct bpe_work *w, size_t n, struct err *e)
{
    if (n <= w->cap) return true;
    size_t cap = n < 32 ? 64 : 2 * n;
    bpe_work_release(w);
    w->symbol = mem_take(cap, sizeof *w->symbol, e);
    w->heap = w->symbol ? mem_take(cap * 3, sizeof *w->heap, e) : NULL;
    if (!w->heap) {
        bpe_work_release(w);
        return false;
    }
    w->cap = cap;
    return true;
}

static bool sooner(const struct bpe_candidate *a, const struct bpe_candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

static void heap_push(struct bpe_work *w, struct bpe_candidate c)
{
    assert(w->n_heap < w->cap * 3);
    size_t i = w->n_heap++;
    for (size_t up; i > 0 && sooner(&c, &w->heap[up = (i - 1) / 2]); i = up) w->heap[i] = w->heap[up];
    w->heap[i] = c;
}

static struct bpe_candidate heap_pop(struct bpe_work *w)
{
    struct bpe_candidate top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;
    for (size_t down; (down = 2 * i + 1) < w->n_heap; i = down) {
        if (down + 1 < w->n_heap && sooner(&w->heap[down + 1], &w->heap[down])) down++;
        if (!sooner(&w->heap[down], &last)) break;
        w->heap[i] = w->heap[down];
    }
    w->heap[i] = last;
    return top;
}

static void offer(const struct bpe *b, struct bpe_work *w, int32_t at)
{
    if (at < 0 || w->symbol[at].after < 0) return;
    const struct bpe_pair *p = find_pair(b, w->symbol[at].id, w->symbol[w->symbol[at].after].id);
    if (p) heap_push(w, (struct bpe_candidate){p->rank, (uint32_t)at, p->result});
}

/* The symbols a word starts as; returns how many. */
static size_t lay_out(const struct bpe *b, struct bpe_work *w, const char *bytes, size_t len)
{
    size_t n = 0;
    bool in_unknown = false;
    for (size_t i = 0; i < len; i++) {
        uint32_t id = b->byte_id[(unsigned char)bytes[i]];
        bool known = id != BPE_NONE;
        if (!known && (b->unknown == BPE_NONE || (in_unknown && b->fuse_unknown))) continue;
        in_unknown = !known;
        w->symbol[n] = (struct bpe_symbol){known ? id : b->unknown, (int32_t)n - 1, (int32_t)n + 1};
        n++;
    }
    if (n) w->symbol[n - 1].after = -1;
    return n;
}

static void join(const struct bpe *b, struct bpe_work *w)
{
    while (w->n_heap) {
        struct bpe_candidate c = heap_pop(w);
        struct bpe_symbol *s = &w->symbol[c.at];
        if (s->id == BPE_NONE || s->after < 0) continue;
        struct bpe_symbol *right = &w->symbol[s->after];
        const struct bpe_pair *now = find_pair(b, s->id, right->id);
        if (!now || now->result != c.result) continue;
        s->id = c.result;
        s->after = right->after;
        right->id = BPE_NONE;
        if (s->after >= 0) w->symbol[s->after].before = (int32_t)c.at;
        offer(b, w, s->before);
        offer(b, w, (int32_t)c.at);
    }
}

bool bpe_word(const struct bpe *b, struct bpe_work *w, const char *bytes, size_t len,
              struct ids *out, struct err *e)
{
    assert(len <= BPE_WORD_MAX);
    if (!reserve(w, len, e)) return false;
    size_t n = lay_out(b, w, bytes, len);
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++) offer(b, w, (int32_t)i);
    join(b, w);
    for (int32_t i = n ? 0 : -1; i >= 0; i = w->symbol[i].after)
        if (!ids_push(out, w->symbol[i].id, e)) return false;
    return true;
}
