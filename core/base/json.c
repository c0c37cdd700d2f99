#include "json.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Objects up to this size are searched from the front; larger ones get an index. */
enum { SMALL_OBJECT = 16 };

/* Members sorted by hash, then by key. Sorted rather than bucketed: whoever writes a text with a
 * million colliding keys still pays for one sort, never for a quadratic search. */
struct slot {
    uint64_t hash;
    const struct json *member;
};
struct json_index {
    size_t n;
    struct slot slot[];
};

struct parser {
    const char *text;
    size_t len, at;
    unsigned depth;
    struct arena *arena;
    struct err *e;
};

static bool parse_value(struct parser *p, struct json *out);

static bool refuse(const struct parser *p, size_t at, const char *why)
{
    return err_set(p->e, ERR_INVALID, "JSON, byte %zu: %s", at, why);
}

static void skip_space(struct parser *p)
{
    while (p->at < p->len) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') break;
        p->at++;
    }
}

static bool eat(struct parser *p, char c)
{
    if (p->at == p->len || p->text[p->at] != c) return false;
    p->at++;
    return true;
}

/* ---- members -------------------------------------------------------------------------------- */

static uint64_t hash_key(const char *key, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)key[i]) * 0x100000001b3u;
    return h;
}

static bool same_key(const struct json *a, const struct json *b)
{
    return a->key_len == b->key_len && memcmp(a->key, b->key, a->key_len) == 0;
}

static int compare_slots(const void *pa, const void *pb)
{
    const struct slot *a = pa, *b = pb;
    if (a->hash != b->hash) return a->hash < b->hash ? -1 : 1;
    if (a->member->key_len != b->member->key_len)
        return a->member->key_len < b->member->key_len ? -1 : 1;
    return memcmp(a->member->key, b->member->key, a->member->key_len);
}

static bool twice(const struct parser *p, const struct json *m, size_t open_at)
{
    size_t n = m->key_len < 64 ? m->key_len : 64;
    while (n < m->key_len && ((unsigned char)m->key[n] & 0xC0) == 0x80) n--; /* whole characters */
    return err_field(p->e, ERR_INVALID, m->key, "JSON, object at byte %zu: the key \"%.*s\" appears twice",
                   open_at, (int)n, m->key);
}

static bool small_object(const struct parser *p, const struct json *o, size_t open_at)
{
    for (const struct json *a = o->child; a; a = a->next)
        for (const struct json *b = a->next; b; b = b->next)
            if (same_key(a, b)) return twice(p, b, open_at);
    return true;
}

static bool large_object(const struct parser *p, struct json *o, size_t open_at)
{
    size_t bytes;
    if (!size_mul(o->len, sizeof(struct slot), &bytes) ||
        !size_add(bytes, sizeof(struct json_index), &bytes))
        return err_set(p->e, ERR_NO_MEMORY, "no memory for %zu members", o->len);
    struct json_index *index = arena_take(p->arena, bytes, 1, p->e);
    if (!index) return false;
    for (const struct json *m = o->child; m; m = m->next)
        index->slot[index->n++] = (struct slot){hash_key(m->key, m->key_len), m};
    assert(index->n == o->len);
    qsort(index->slot, index->n, sizeof *index->slot, compare_slots);
    for (size_t i = 1; i < index->n; i++)
        if (compare_slots(&index->slot[i - 1], &index->slot[i]) == 0)
            return twice(p, index->slot[i].member, open_at);
    o->index = index;
    return true;
}

const struct json *json_get(const struct json *object, const char *key)
{
    if (!object || object->type != JSON_OBJECT) return NULL;
    struct json wanted = {.key = key, .key_len = strlen(key)};
    if (object->index) {
        struct slot probe = {hash_key(key, wanted.key_len), &wanted};
        const struct slot *s =
            bsearch(&probe, object->index->slot, object->index->n, sizeof probe, compare_slots);
        return s ? s->member : NULL;
    }
    for (const struct json *m = object->child; m; m = m->next)
        if (same_key(m, &wanted)) return m;
    return NULL;
}

bool json_is(const struct json *v, const char *text)
{
    return v && v->type == JSON_STRING && strcmp(v->text, text) == 0;
}

bool json_flag(const struct json *object, const char *key, bool otherwise)
{
    const struct json *v = json_get(object, key);
    return v && v->type == JSON_BOOL ? v->boolean : otherwise;
}

/* ---- strings -------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The value of \uXXXX at s, or -1. */
static int32_t unit(const char *s, size_t left)
{
    if (left < 6 || s[0] != '\\' || s[1] != 'u') return -1;
    int32_t v = 0;
    for (int i = 2; i < 6; i++) {
        int d = hex_digit(s[i]);
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t put_utf8(char *out, int32_t c)
{
    if (c < 0x80) return out[0] = (char)c, 1;
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; --i > 0; c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00 >> n) | c);
    return n;
}

/* Decode the escape at s into out; what it takes and makes. NULL when fine, else the reason. */
static const char *unescape_one(const char *s, size_t left, char *out, size_t *took, size_t *made)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *simple = left > 1 ? memchr(from, s[1], sizeof from - 1) : NULL;
    if (simple) {
        *out = to[simple - from];
        *took = 2;
        *made = 1;
        return NULL;
    }
    int32_t c = unit(s, left);
    *took = 6;
    if (c < 0) return "unknown escape in a string";
    if (c == 0) return "an escaped NUL in a string";
    if (c >= 0xDC00 && c <= 0xDFFF) return "half of a surrogate pair";
    if (c >= 0xD800 && c <= 0xDBFF) {
        int32_t low = unit(s + 6, left - 6);
        if (low < 0xDC00 || low > 0xDFFF) return "half of a surrogate pair";
        c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
        *took = 12;
    }
    *made = put_utf8(out, c);
    return NULL;
}

/* In place: an escape is never shorter than what it stands for. */
static bool unescape(const struct parser *p, char *s, size_t n, size_t text_at, size_t *len)
{
    size_t in = 0, out = 0, took, made;
    while (in < n) {
        if (s[in] != '\\') {
            s[out++] = s[in++];
            continue;
        }
        const char *why = unescape_one(s + in, n - in, s + out, &took, &made);
        if (why) return refuse(p, text_at + in, why);
        assert(made <= took && in + took <= n);
        in += took;
        out += made;
    }
    s[out] = '\0';
    *len = out;
    return true;
}

/* At the opening quote. */
static bool parse_string(struct parser *p, const char **text, size_t *len)
{
    size_t open_at = p->at++, from = p->at, end = from;
    bool escaped = false;
    for (; end < p->len && p->text[end] != '"'; end++) {
        if ((unsigned char)p->text[end] < 0x20)
            return refuse(p, end, "a raw control character in a string");
        if (p->text[end] != '\\') continue;
        escaped = true;
        end++; /* what follows cannot close the string */
    }
    if (end >= p->len) return refuse(p, open_at, "a string without its closing quote");
    char *copy = arena_text(p->arena, p->text + from, end - from, p->e);
    if (!copy) return false;
    *text = copy;
    *len = end - from;
    p->at = end + 1;
    return !escaped || unescape(p, copy, end - from, from, len);
}

/* ---- numbers -------------------------------------------------------------------------------- */

static const char *skip_digits(const char *s, const char *end)
{
    while (s < end && *s >= '0' && *s <= '9') s++;
    return s;
}

/* End of the number at s by the grammar, or NULL. *whole: it is written as an integer. */
static const char *number_end(const char *s, const char *end, bool *whole)
{
    if (s < end && *s == '-') s++;
    const char *q = skip_digits(s, end);
    if (q == s || (*s == '0' && q - s > 1)) return NULL;
    *whole = true;
    if (q < end && *q == '.') {
        *whole = false;
        s = q + 1;
        if ((q = skip_digits(s, end)) == s) return NULL;
    }
    if (q < end && (*q == 'e' || *q == 'E')) {
        *whole = false;
        s = q + 1;
        if (s < end && (*s == '+' || *s == '-')) s++;
        if ((q = skip_digits(s, end)) == s) return NULL;
    }
    return q;
}

static bool exact_integer(const char *s, const char *end, int64_t *out)
{
    bool negative = *s == '-';
    int64_t v = 0;
    for (s += negative; s < end; s++) {
        int64_t digit = negative ? -(*s - '0') : *s - '0';
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v)) return false;
    }
    *out = v;
    return true;
}

/* strtod wants a NUL behind the number. */
static bool nearest_double(struct parser *p, const char *s, size_t n, double *out)
{
    char small[64], *copy = small, *stop;
    if (n < sizeof small) {
        memcpy(small, s, n);
        small[n] = '\0';
    } else if (!(copy = arena_text(p->arena, s, n, p->e))) {
        return false;
    }
    *out = strtod(copy, &stop);
    assert(stop == copy + n && "numbers are read in the C locale");
    return isfinite(*out) || refuse(p, p->at, "a number outside the range of a double");
}

static bool parse_number(struct parser *p, struct json *out)
{
    const char *s = p->text + p->at;
    const char *end = number_end(s, p->text + p->len, &out->is_int);
    if (!end) return refuse(p, p->at, "a malformed number");
    out->type = JSON_NUMBER;
    out->is_int = out->is_int && exact_integer(s, end, &out->integer);
    if (out->is_int && out->integer != 0) /* a zero may be "-0" */
        out->number = (double)out->integer;
    else if (!nearest_double(p, s, (size_t)(end - s), &out->number))
        return false;
    p->at += (size_t)(end - s);
    return true;
}

/* ---- values --------------------------------------------------------------------------------- */

static bool parse_key(struct parser *p, struct json *member)
{
    if (p->at == p->len || p->text[p->at] != '"')
        return refuse(p, p->at, "expected a key in double quotes");
    if (!parse_string(p, &member->key, &member->key_len)) return false;
    skip_space(p);
    if (!eat(p, ':')) return refuse(p, p->at, "expected ':' after a key");
    skip_space(p);
    return true;
}

/* Everything after the opening bracket, up to and with the closing one. */
static bool parse_children(struct parser *p, struct json *out, char close)
{
    struct json **tail = &out->child;
    skip_space(p);
    if (eat(p, close)) return true;
    for (;;) {
        struct json *child = arena_take(p->arena, 1, sizeof *child, p->e);
        if (!child) return false;
        if (out->type == JSON_OBJECT && !parse_key(p, child)) return false;
        if (!parse_value(p, child)) return false;
        *tail = child;
        tail = &child->next;
        out->len++;
        skip_space(p);
        if (eat(p, close)) return true;
        if (!eat(p, ','))
            return refuse(p, p->at, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        skip_space(p);
    }
}

static bool parse_container(struct parser *p, struct json *out)
{
    size_t open_at = p->at;
    bool object = p->text[p->at++] == '{';
    if (p->depth == JSON_MAX_DEPTH) return refuse(p, open_at, "nested deeper than 64 levels");
    p->depth++;
    out->type = object ? JSON_OBJECT : JSON_ARRAY;
    if (!parse_children(p, out, object ? '}' : ']')) return false;
    p->depth--;
    if (!object) return true;
    return out->len > SMALL_OBJECT ? large_object(p, out, open_at) : small_object(p, out, open_at);
}

static bool parse_literal(struct parser *p, struct json *out)
{
    static const struct {
        const char *word;
        size_t len;
        enum json_type type;
        bool boolean;
    } literals[] = {{"null", 4, JSON_NULL, false},
                    {"true", 4, JSON_BOOL, true},
                    {"false", 5, JSON_BOOL, false}};
    for (size_t i = 0; i < sizeof literals / sizeof *literals; i++) {
        size_t n = literals[i].len;
        if (p->len - p->at < n || memcmp(p->text + p->at, literals[i].word, n) != 0) continue;
        out->type = literals[i].type;
        out->boolean = literals[i].boolean;
        p->at += n;
        return true;
    }
    return refuse(p, p->at, "expected a value");
}

static bool parse_value(struct parser *p, struct json *out)
{
    if (p->at == p->len) return refuse(p, p->at, "the text ends where a value must be");
    char c = p->text[p->at];
    if (c == '{' || c == '[') return parse_container(p, out);
    if (c == '"') {
        out->type = JSON_STRING;
        return parse_string(p, &out->text, &out->len);
    }
    if (c == '-' || (c >= '0' && c <= '9')) return parse_number(p, out);
    return parse_literal(p, out);
}

/* Every value but the first follows a bracket or a comma, every member has a colon, every text two quotes;
 * what stands inside strings is counted too. A number longer than its buffer is copied like a text. */
size_t json_bytes(const char *text, size_t len)
{
    enum { ROUND = 16 }; /* of an arena */
    size_t values = 1, objects = 0, members = 0, quotes = 0;
    for (size_t i = 0; i < len; i++) {
        values += text[i] == ',' || text[i] == '[' || text[i] == '{';
        objects += text[i] == '{';
        members += text[i] == ':';
        quotes += text[i] == '"';
    }
    return values * ((sizeof(struct json) + ROUND - 1) / ROUND * ROUND) + members * sizeof(struct slot) +
           objects * (sizeof(struct json_index) + ROUND) + quotes / 2 * ROUND + len + len / 4;
}

const struct json *json_parse(const char *text, size_t len, struct arena *a, struct err *e)
{
    struct parser p = {.text = text, .len = len, .arena = a, .e = e};
    size_t bad;
    if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        (void)refuse(&p, 0, "a byte-order mark");
        return NULL;
    }
    if (!utf8_valid(text, len, &bad)) {
        (void)refuse(&p, bad, text[bad] ? "not valid UTF-8" : "a NUL byte");
        return NULL;
    }
    struct json *root = arena_take(a, 1, sizeof *root, e);
    if (!root) return NULL;
    skip_space(&p);
    if (!parse_value(&p, root)) return NULL;
    skip_space(&p);
    if (p.at != p.len) {
        (void)refuse(&p, p.at, "text after the end of the value");
        return NULL;
    }
    assert(p.depth == 0);
    return root;
}
