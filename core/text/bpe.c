#include "bpe.h"

#include <assert.h>
#include <string.h>

#include "codepoint.h"

struct bpe_pair {
    uint32_t left, right, rank, result; /* left BPE_NONE: free */
};
struct bpe_symbol {
    uint32_t id; /* BPE_NONE: joined into the symbol before it */
    int32_t before, after; /* -1: none */
};
struct bpe_candidate {
    uint32_t rank, at, result;
    uint32_t left, right; /* what stood there; it is stale when something else does */
};

enum { PAGE = 256, PAGES = 0x110000 / PAGE, SHORT = 40 };

static size_t hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 29 ^ h >> 47);
}

/* ---- which symbols meet ---------------------------------------------------------------------- */

enum { MEET_BITS = 18 };

static size_t meet_bit(uint32_t last, uint32_t first)
{
    return (size_t)((((uint64_t)last << 32 | first) * 0x9E3779B97F4A7C15u) >> (64 - MEET_BITS));
}

static bool may_meet(const struct bpe *b, uint32_t last, uint32_t first)
{
    size_t bit = meet_bit(last, first);
    return !b->meets || (b->meets[bit / 64] >> (bit % 64) & 1);
}

static bool note_meetings(struct bpe *b, const struct bpe_merge *merge, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (merge[i].last == BPE_NONE || merge[i].first == BPE_NONE) return true;
    b->meets = mem_take(((size_t)1 << MEET_BITS) / 64, sizeof *b->meets, e);
    for (size_t i = 0; b->meets && i < n; i++) {
        size_t bit = meet_bit(merge[i].last, merge[i].first);
        b->meets[bit / 64] |= (uint64_t)1 << (bit % 64);
    }
    return b->meets != NULL;
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
        b->pair[at] = (struct bpe_pair){m->left, m->right, m->rank, m->result};
    }
    return note_meetings(b, merge, n, e);
}

void bpe_release(struct bpe *b)
{
    for (size_t i = 0; b->page && i < PAGES; i++) mem_drop(b->page[i]);
    mem_drop(b->page);
    mem_drop(b->spare);
    mem_drop(b->meets);
    mem_drop(b->pair);
    *b = (struct bpe){.n_tokens = 0};
}

/* ---- characters ------------------------------------------------------------------------------ */

uint32_t bpe_symbol_of(const struct bpe *b, uint32_t cp)
{
    const uint32_t *page = b->page ? b->page[cp / PAGE] : NULL;
    return page ? page[cp % PAGE] : BPE_NONE;
}

bool bpe_character(struct bpe *b, uint32_t cp, uint32_t symbol, struct err *e)
{
    if (!b->page && !(b->page = mem_take(PAGES, sizeof *b->page, e))) return false;
    uint32_t **page = &b->page[cp / PAGE];
    if (!*page) {
        if (!(*page = mem_take(PAGE, sizeof **page, e))) return false;
        for (size_t i = 0; i < PAGE; i++) (*page)[i] = BPE_NONE;
    }
    (*page)[cp % PAGE] = symbol;
    return true;
}

bool bpe_spare(struct bpe *b, uint32_t cp, uint32_t *symbol, struct err *e)
{
    *symbol = bpe_symbol_of(b, cp);
    if (*symbol != BPE_NONE) return true;
    if (b->n_spare == b->spare_cap) {
        size_t cap = b->spare_cap ? 2 * b->spare_cap : 64;
        uint32_t *grown = mem_take(cap, sizeof *grown, e);
        if (!grown) return false;
        if (b->n_spare) memcpy(grown, b->spare, b->n_spare * sizeof *grown);
        mem_drop(b->spare);
        b->spare = grown;
        b->spare_cap = cap;
    }
    *symbol = b->n_tokens + (uint32_t)b->n_spare;
    b->spare[b->n_spare++] = cp;
    return bpe_character(b, cp, *symbol, e);
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
    mem_drop(w->first);
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
    w->first = w->heap ? mem_take(cap, sizeof *w->first, e) : NULL;
    if (!w->first) {
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
    uint32_t left = w->symbol[at].id, right = w->symbol[w->symbol[at].after].id;
    const struct bpe_pair *p = find_pair(b, left, right);
    if (p) heap_push(w, (struct bpe_candidate){p->rank, (uint32_t)at, p->result, left, right});
}

/* ---- the symbols a word starts as ------------------------------------------------------------ */

/* Where they go: an array of a caller that knows there is room. */
struct layout {
    uint32_t *id;
    size_t n;
    bool waiting; /* an unknown one is still to be put */
};

static void put_known(const struct bpe *b, struct layout *l, uint32_t id)
{
    if (l->waiting) l->id[l->n++] = b->unknown;
    l->waiting = false;
    l->id[l->n++] = id;
}

static void put_unknown(const struct bpe *b, struct layout *l)
{
    if (b->unknown == BPE_NONE) return;
    if (l->waiting && !b->fuse_unknown) l->id[l->n++] = b->unknown;
    l->waiting = true;
}

/* The tokens of the bytes, if all have one. */
static bool put_bytes(const struct bpe *b, struct layout *l, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b->byte_id[(unsigned char)bytes[i]] == BPE_NONE) return false;
    for (size_t i = 0; i < n; i++) l->id[l->n++] = b->byte_id[(unsigned char)bytes[i]];
    return true;
}

/* At most as many as the word has bytes; returns how many. */
static size_t lay_out(const struct bpe *b, const char *bytes, size_t len, uint32_t *id)
{
    struct layout l = {id, 0, false};
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t symbol, cp;
        n = b->by_character ? cp_next(bytes + at, len - at, &cp) : 1;
        symbol = b->by_character ? bpe_symbol_of(b, cp) : b->byte_id[(unsigned char)bytes[at]];
        if (symbol != BPE_NONE)
            put_known(b, &l, symbol);
        else if (!b->by_character || !put_bytes(b, &l, bytes + at, n))
            put_unknown(b, &l);
    }
    if (l.waiting) l.id[l.n++] = b->unknown;
    return l.n;
}

/* ---- and the tokens it ends as --------------------------------------------------------------- */

static bool put_spare(const struct bpe *b, uint32_t symbol, struct ids *out, struct err *e)
{
    char c[4];
    struct layout l = {(uint32_t[4]){0}, 0, false};
    size_t len = cp_put(c, b->spare[symbol - b->n_tokens]);
    if (!put_bytes(b, &l, c, len) && b->unknown != BPE_NONE) l.id[l.n++] = b->unknown;
    for (size_t i = 0; i < l.n; i++)
        if (!ids_push(out, l.id[i], e)) return false;
    return true;
}

static inline bool put_id(const struct bpe *b, uint32_t symbol, struct ids *out, struct err *e)
{
    return symbol < b->n_tokens ? ids_push(out, symbol, e) : put_spare(b, symbol, out, e);
}

/* ---- a short word ---------------------------------------------------------------------------- */

struct short_pair {
    uint32_t rank, result;
};

static struct short_pair pair_of(const struct bpe *b, uint32_t left, uint32_t right)
{
    const struct bpe_pair *p = find_pair(b, left, right);
    return p ? (struct short_pair){p->rank, p->result} : (struct short_pair){BPE_NONE, 0};
}

/* Join n symbols in place, n <= SHORT; returns how many are left. */
static size_t join_short(const struct bpe *b, uint32_t *id, size_t n)
{
    struct short_pair pair[SHORT];
    for (size_t i = 0; i + 1 < n; i++) pair[i] = pair_of(b, id[i], id[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (pair[i].rank < pair[best].rank) best = i;
        if (pair[best].rank == BPE_NONE) break;
        id[best] = pair[best].result;
        n--;
        for (size_t i = best + 1; i < n; i++) id[i] = id[i + 1];
        for (size_t i = best + 1; i + 1 < n; i++) pair[i] = pair[i + 1];
        if (best + 1 < n) pair[best] = pair_of(b, id[best], id[best + 1]);
        if (best > 0) pair[best - 1] = pair_of(b, id[best - 1], id[best]);
    }
    return n;
}

static bool put_ids(const struct bpe *b, const uint32_t *id, size_t n, struct ids *out, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!put_id(b, id[i], out, e)) return false;
    return true;
}

/* ---- a long word ----------------------------------------------------------------------------- */

static void link_up(struct bpe_work *w, const uint32_t *id, size_t n)
{
    for (size_t i = 0; i < n; i++)
        w->symbol[i] = (struct bpe_symbol){id[i], (int32_t)i - 1, (int32_t)i + 1};
    w->symbol[n - 1].after = -1;
}

static void join(const struct bpe *b, struct bpe_work *w)
{
    while (w->n_heap) {
        struct bpe_candidate c = heap_pop(w);
        struct bpe_symbol *s = &w->symbol[c.at];
        if (s->id != c.left || s->after < 0) continue;
        struct bpe_symbol *right = &w->symbol[s->after];
        if (right->id != c.right) continue;
        s->id = c.result;
        s->after = right->after;
        right->id = BPE_NONE;
        if (s->after >= 0) w->symbol[s->after].before = (int32_t)c.at;
        offer(b, w, s->before);
        offer(b, w, (int32_t)c.at);
    }
}

static bool join_long(const struct bpe *b, struct bpe_work *w, const uint32_t *id, size_t n,
                      struct ids *out, struct err *e)
{
    link_up(w, id, n);
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < n; i++) offer(b, w, (int32_t)i);
    join(b, w);
    for (int32_t i = 0; i >= 0; i = w->symbol[i].after)
        if (!put_id(b, w->symbol[i].id, out, e)) return false;
    return true;
}

bool bpe_word(const struct bpe *b, struct bpe_work *w, const char *bytes, size_t len,
              struct ids *out, struct err *e)
{
    uint32_t few[SHORT];
    assert(len <= BPE_WORD_MAX);
    if (len <= SHORT) {
        size_t n = join_short(b, few, lay_out(b, bytes, len, few));
        return put_ids(b, few, n, out, e);
    }
    if (!reserve(w, len, e)) return false;
    uint32_t *id = w->first;
    size_t n = lay_out(b, bytes, len, id);
    for (size_t from = 0, to; from < n; from = to) {
        to = from + 1;
        while (to < n && may_meet(b, id[to - 1], id[to])) to++;
        bool ok = to - from <= SHORT ? put_ids(b, id + from, join_short(b, id + from, to - from), out, e)
                                     : join_long(b, w, id + from, to - from, out, e);
        if (!ok) return false;
    }
    return true;
}
