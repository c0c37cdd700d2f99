#include "strmap.h"

#include <assert.h>
#include <string.h>

struct strmap_slot {
    const char *key; /* NULL: free */
    uint32_t len, value;
};

static uint64_t hash(const char *key, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u ^ len;
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

bool strmap_init(struct strmap *m, size_t expected, struct err *e)
{
    size_t cap = 16;
    while (cap / 2 <= expected) cap *= 2;
    *m = (struct strmap){.slot = mem_take(cap, sizeof *m->slot, e), .mask = cap - 1};
    return m->slot != NULL;
}

void strmap_release(struct strmap *m)
{
    mem_drop(m->slot);
    *m = (struct strmap){0};
}

static struct strmap_slot *find(const struct strmap *m, const char *key, size_t len)
{
    for (size_t i = hash(key, len) & m->mask;; i = (i + 1) & m->mask) {
        struct strmap_slot *s = &m->slot[i];
        if (!s->key || (s->len == len && memcmp(s->key, key, len) == 0)) return s;
    }
}

void strmap_put(struct strmap *m, const char *key, size_t len, uint32_t value)
{
    assert(key != NULL && len <= UINT32_MAX);
    struct strmap_slot *s = find(m, key, len);
    m->n += s->key == NULL;
    assert(m->n <= m->mask && "the table was sized for fewer keys");
    *s = (struct strmap_slot){key, (uint32_t)len, value};
}

bool strmap_get(const struct strmap *m, const char *key, size_t len, uint32_t *value)
{
    if (!m->slot) return false;
    const struct strmap_slot *s = find(m, key, len);
    if (!s->key) return false;
    *value = s->value;
    return true;
}
