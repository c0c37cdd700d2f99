#include "etag.h"

#include <string.h>

static const char *spaces(const char *p) { return p + strspn(p, " \t"); }

/* Bytes of the tag that p begins with, quotes included; 0: there is none. */
static size_t tag_bytes(const char *p)
{
    size_t n = *p == '"' ? strcspn(p + 1, "\"") : 0;
    return *p == '"' && p[n + 1] == '"' ? n + 2 : 0;
}

bool etag_matches(const char *list, const char *etag)
{
    if (!list || !*etag) return false;
    const char *p = spaces(list);
    if (*p == '*') return *spaces(p + 1) == '\0';
    for (;;) {
        p = spaces(p);
        if (strncmp(p, "W/", 2) == 0) p += 2;
        size_t n = tag_bytes(p);
        if (n && n == strlen(etag) && memcmp(p, etag, n) == 0) return true;
        p = spaces(p + n);
        if (*p != ',') return false;
        p++;
    }
}

const char *etag_alone(const char *text, size_t *len)
{
    const char *p = spaces(text);
    size_t n = tag_bytes(p);
    if (n < 3 || *spaces(p + n)) return NULL;
    *len = n - 2;
    return p + 1;
}
