#include "path.h"

#include <string.h>

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One segment, or one name or value of a query. NULL on failure. */
static const char *decode(const char *raw, size_t len, bool plus_is_space, struct arena *a,
                          struct err *e)
{
    char *out = arena_take(a, len + 1, 1, e);
    if (!out) return NULL;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        int c = (unsigned char)raw[i];
        if (c == '%') {
            int hi = i + 2 < len ? hex(raw[i + 1]) : -1, lo = hi >= 0 ? hex(raw[i + 2]) : -1;
            if (lo < 0) {
                (void)err_set(e, ERR_INVALID, "bad %%-escape in the request target");
                return NULL;
            }
            c = hi * 16 + lo;
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        if (c < 0x20 || c == 0x7f) {
            (void)err_set(e, ERR_INVALID, "control byte 0x%02x in the request target", (unsigned)c);
            return NULL;
        }
        out[n++] = (char)c;
    }
    size_t bad;
    if (!utf8_valid(out, n, &bad)) {
        (void)err_set(e, ERR_INVALID, "the request target is not UTF-8");
        return NULL;
    }
    return out;
}

bool path_parse(const char *raw, size_t len, struct arena *a, struct path *out, struct err *e)
{
    *out = (struct path){0};
    if (len == 0 || raw[0] != '/')
        return err_set(e, ERR_INVALID, "the request target must begin with a slash");
    const char *p = raw + 1, *end = raw + len;
    if (p == end) return true;
    for (;;) {
        const char *slash = memchr(p, '/', (size_t)(end - p));
        size_t n = (size_t)((slash ? slash : end) - p);
        if (out->n == PATH_SEGMENTS)
            return err_set(e, ERR_NOT_FOUND, "more than %d path segments", PATH_SEGMENTS);
        out->segment[out->n] = decode(p, n, false, a, e);
        if (!out->segment[out->n++]) return false;
        if (!slash) return true;
        p = slash + 1;
    }
}

static struct json *member(const char *raw, size_t len, struct arena *a, struct err *e)
{
    const char *equals = memchr(raw, '=', len);
    size_t key_len = equals ? (size_t)(equals - raw) : len;
    const char *value = equals ? equals + 1 : raw + len;
    struct json *m = arena_take(a, 1, sizeof *m, e);
    if (!m) return NULL;
    m->type = JSON_STRING;
    m->key = decode(raw, key_len, true, a, e);
    if (m->key) m->text = decode(value, (size_t)(raw + len - value), true, a, e);
    if (!m->key || !m->text) return NULL;
    m->key_len = strlen(m->key);
    m->len = strlen(m->text);
    return m;
}

const struct json *query_parse(const char *raw, size_t len, struct arena *a, struct err *e)
{
    struct json *object = arena_take(a, 1, sizeof *object, e);
    if (!object) return NULL;
    object->type = JSON_OBJECT;
    struct json **tail = &object->child;
    for (const char *p = raw, *end = raw + len; p < end;) {
        const char *amp = memchr(p, '&', (size_t)(end - p));
        size_t n = (size_t)((amp ? amp : end) - p);
        if (n) {
            struct json *m = member(p, n, a, e);
            if (!m) return NULL;
            if (json_get(object, m->key)) {
                (void)err_field(e, ERR_INVALID, m->key, "given twice in the query");
                return NULL;
            }
            *tail = m;
            tail = &m->next;
            object->len++;
        }
        p += n + 1;
    }
    return object;
}
