#include "mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, CHUNK_BYTES = 64 * 1024, HUGE_PAGE = 2 * 1024 * 1024 };

bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

void *mem_new(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    assert(p != NULL && "out of memory for a small object");
    if (!p) __builtin_trap();
    return p;
}

char *mem_text(const char *text)
{
    size_t n = strlen(text) + 1;
    return memcpy(mem_new(n), text, n);
}

static bool no_memory(struct err *e, size_t count, size_t size)
{
    return err_set(e, ERR_NO_MEMORY, "no memory for %zu items of %zu bytes", count, size);
}

void *mem_take(size_t count, size_t size, struct err *e)
{
    size_t bytes;
    void *p = size_mul(count, size, &bytes) ? calloc(1, bytes ? bytes : 1) : NULL;
    if (!p) (void)no_memory(e, count, size);
    return p;
}

static size_t align_of(size_t count) { return count >= HUGE_PAGE / sizeof(float) ? HUGE_PAGE : ALIGN; }

size_t mem_floats_bytes(size_t count)
{
    size_t bytes, padded, align = align_of(count);
    bool fits = size_mul(count, sizeof(float), &bytes) && size_add(bytes, align - 1, &padded);
    return fits ? padded / align * align : SIZE_MAX;
}

float *mem_floats(size_t count, struct err *e)
{
    size_t bytes, padded, align = align_of(count);
    void *p = NULL;
    bool huge = align == HUGE_PAGE;
    if (size_mul(count, sizeof(float), &bytes) && size_add(bytes, align, &padded))
        p = aligned_alloc(align, padded / align * align);
    if (!p) (void)no_memory(e, count, sizeof(float));
    if (p && huge) (void)madvise(p, bytes, MADV_HUGEPAGE); /* advice only: failure costs speed */
    return p;
}

void mem_drop(void *p) { free(p); }

bool scratch_grow(struct scratch *s, size_t floats, struct err *e)
{
    if (floats <= s->floats) return true;
    scratch_release(s);
    s->data = mem_floats(floats, e);
    if (s->data) s->floats = floats;
    return s->data != NULL;
}

void scratch_release(struct scratch *s)
{
    mem_drop(s->data);
    *s = (struct scratch){0};
}

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    _Alignas(16) unsigned char bytes[];
};

void arena_init(struct arena *a, size_t budget_bytes)
{
    *a = (struct arena){.budget_bytes = budget_bytes};
}

void arena_release(struct arena *a)
{
    for (struct arena_chunk *c = a->chunks, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    *a = (struct arena){.budget_bytes = a->budget_bytes};
}

static struct arena_chunk *add_chunk(struct arena *a, size_t need)
{
    size_t cap = need > CHUNK_BYTES ? need : CHUNK_BYTES, bytes;
    if (!size_add(sizeof(struct arena_chunk), cap, &bytes)) return NULL;
    struct arena_chunk *c = malloc(bytes);
    if (!c) return NULL;
    *c = (struct arena_chunk){.next = a->chunks, .cap = cap};
    return a->chunks = c;
}

void *arena_take(struct arena *a, size_t count, size_t size, struct err *e)
{
    size_t bytes, total;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, 15, &bytes) ||
        !size_add(a->used_bytes, bytes &= ~(size_t)15, &total) ||
        (a->budget_bytes && total > a->budget_bytes)) {
        (void)no_memory(e, count, size);
        return NULL;
    }
    struct arena_chunk *c = a->chunks;
    if (!c || c->cap - c->used < bytes) c = add_chunk(a, bytes);
    if (!c) {
        (void)no_memory(e, count, size);
        return NULL;
    }
    void *p = memset(c->bytes + c->used, 0, bytes);
    c->used += bytes;
    a->used_bytes = total;
    return p;
}

char *arena_text(struct arena *a, const char *text, size_t len, struct err *e)
{
    size_t n;
    char *p = size_add(len, 1, &n) ? arena_take(a, n, 1, e) : NULL;
    if (p && len) memcpy(p, text, len);
    return p;
}

void buf_release(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

static bool grow(struct buf *b, size_t extra, bool exactly)
{
    size_t need;
    if (b->failed || !size_add(b->len, extra, &need) || !size_add(need, 1, &need)) {
        b->failed = true;
        return false;
    }
    if (need <= b->cap) return true;
    size_t cap = exactly ? need : b->cap ? b->cap : 256;
    while (cap < need) cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    char *p = realloc(b->data, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->data = p;
    b->cap = cap;
    return true;
}

void buf_reserve(struct buf *b, size_t len) { (void)grow(b, len, true); }

void buf_put(struct buf *b, const void *bytes, size_t len)
{
    if (!grow(b, len, false)) return;
    if (len) memcpy(b->data + b->len, bytes, len);
    b->len += len;
    b->data[b->len] = '\0';
}

void buf_text(struct buf *b, const char *text) { buf_put(b, text, strlen(text)); }

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) b->failed = true;
    if (n >= 0 && grow(b, (size_t)n, false)) {
        (void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

bool buf_ok(const struct buf *b, struct err *e)
{
    return !b->failed || err_set(e, ERR_NO_MEMORY, "no memory for a text of %zu bytes", b->len);
}

char *buf_detach(struct buf *b)
{
    if (!b->data) buf_put(b, "", 0);
    char *p = b->data;
    *b = (struct buf){0};
    return p;
}
