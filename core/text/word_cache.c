#include "word_cache.h"

#include <assert.h>
#include <string.h>

struct word_slot {
    uint64_t part[WORD_CACHE_BYTES / 8];
    uint32_t at;
    unsigned char len, n; /* len 0: free */
};
static_assert(sizeof(struct word_slot) == 32, "two to a cache line");

enum { LEAST_TEXT = 512, MOST_SLOTS = 1 << 15 };

bool word_cache_init(struct word_cache *c, size_t text_bytes, struct err *e)
{
    *c = (struct word_cache){0};
    if (text_bytes < LEAST_TEXT) return true;
    size_t n = 64;
    while (n < MOST_SLOTS && n < text_bytes / 8) n *= 2;
    c->slot = mem_take(n, sizeof *c->slot, e);
    c->mask = n - 1;
    return c->slot != NULL;
}

void word_cache_release(struct word_cache *c)
{
    mem_drop(c->slot);
    *c = (struct word_cache){0};
}

bool word_cache_key(const struct word_cache *c, const char *bytes, size_t len, struct word_key *key)
{
    if (!c->slot || len > WORD_CACHE_BYTES || len == 0) return false;
    memset(key->part, 0, sizeof key->part);
    memcpy(key->part, bytes, len);
    uint64_t h = (key->part[0] ^ len) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32 ^ key->part[1]) * 0xC2B2AE3D27D4EB4Fu;
    h = (h ^ h >> 29 ^ key->part[2]) * 0x9E3779B97F4A7C15u;
    key->slot = (size_t)(h >> 40) & c->mask;
    key->len = (unsigned char)len;
    return true;
}

bool word_cache_find(const struct word_cache *c, const struct word_key *key, size_t *at, size_t *n)
{
    const struct word_slot *s = &c->slot[key->slot];
    if (s->len != key->len || s->part[0] != key->part[0] || s->part[1] != key->part[1] ||
        s->part[2] != key->part[2])
        return false;
    *at = s->at;
    *n = s->n;
    return true;
}

void word_cache_put(struct word_cache *c, const struct word_key *key, size_t at, size_t n)
{
    if (at > UINT32_MAX || n > UINT8_MAX) return;
    struct word_slot *s = &c->slot[key->slot];
    memcpy(s->part, key->part, sizeof s->part);
    s->at = (uint32_t)at;
    s->len = key->len;
    s->n = (unsigned char)n;
}
