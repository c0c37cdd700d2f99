#include "codepoint.h"

#include <assert.h>
#include <string.h>

struct range {
    uint32_t first, last;
};
struct stand_in {
    uint32_t first, last, stand_in;
};

static const struct range word[] = {
#define WORD(first, last) {first, last},
#include "unicode_rust.def"
#undef WORD
};
static const struct stand_in stand_ins[] = {
#define ROW(first, last, stand_in) {first, last, stand_in},
#include "unicode_new.def"
#undef ROW
};
/* White_Space has not changed since Unicode 6.3. */
static const struct range space[] = {
    {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000},
};

size_t cp_next(const char *s, size_t left, uint32_t *cp)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    assert(left >= n);
    if (left < n) n = left;
    uint32_t v = n == 1 ? u[0] : u[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) v = v << 6 | (u[i] & 0x3F);
    *cp = v;
    return n;
}

size_t cp_before(const char *s, size_t end, uint32_t *cp)
{
    size_t at = end - 1;
    while (at > 0 && ((unsigned char)s[at] & 0xC0) == 0x80) at--;
    return cp_next(s + at, end - at, cp);
}

size_t cp_put(char out[4], uint32_t cp)
{
    assert(cp <= 0x10FFFF);
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)((0xF00u >> n & 0xFFu) | cp);
    return n;
}

/* The ranges are in order and apart. */
static bool within(const struct range *r, size_t n, uint32_t cp)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (cp > r[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    return low < n && cp >= r[low].first;
}
#define WITHIN(table, cp) within(table, sizeof(table) / sizeof *(table), cp)

bool cp_word(uint32_t cp) { return WITHIN(word, cp); }
bool cp_space(uint32_t cp) { return WITHIN(space, cp); }

uint32_t cp_stand_in(uint32_t cp)
{
    size_t low = 0, high = sizeof stand_ins / sizeof *stand_ins;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (cp > stand_ins[mid].last)
            low = mid + 1;
        else
            high = mid;
    }
    bool found = low < sizeof stand_ins / sizeof *stand_ins && cp >= stand_ins[low].first;
    return found ? stand_ins[low].stand_in : cp;
}

bool cp_stand_in_text(const char *text, size_t len, char **out, struct err *e)
{
    *out = NULL;
    for (size_t at = 0, n; at < len; at += n) {
        uint32_t cp;
        n = cp_next(text + at, len - at, &cp);
        uint32_t other = cp < 0x80 ? cp : cp_stand_in(cp);
        if (other == cp) continue;
        if (!*out) {
            *out = mem_take(len, 1, e);
            if (!*out) return false;
            memcpy(*out, text, len);
        }
        char c[4];
        size_t m = cp_put(c, other);
        assert(m == n);
        memcpy(*out + at, c, m);
    }
    return true;
}

/* Which second bytes may follow a lead byte: the place where overlong forms, surrogates and values
 * over U+10FFFF are refused. */
static bool second_ok(unsigned char lead, unsigned char second)
{
    unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    return second >= low && second <= high;
}

/* Bytes of the character at u, or of the broken part that one U+FFFD stands for. */
static size_t part(const unsigned char *u, size_t left, bool *good)
{
    size_t want = u[0] < 0x80 ? 1 : u[0] < 0xC2 ? 0 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : 4;
    *good = false;
    if (want == 0 || u[0] > 0xF4) return 1;
    for (size_t i = 1; i < want; i++)
        if (i >= left || (i == 1 ? !second_ok(u[0], u[1]) : (u[i] & 0xC0) != 0x80)) return i;
    *good = true;
    return want;
}

void utf8_repair(const char *bytes, size_t len, struct buf *out)
{
    size_t from = 0;
    for (size_t at = 0; at < len;) {
        bool good;
        size_t n = part((const unsigned char *)bytes + at, len - at, &good);
        if (!good) {
            buf_put(out, bytes + from, at - from);
            buf_put(out, "\xEF\xBF\xBD", 3);
            from = at + n;
        }
        at += n;
    }
    buf_put(out, bytes + from, len - from);
}
