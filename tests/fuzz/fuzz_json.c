/* The JSON reader on any bytes: what it accepts must be a tree as json.h promises, what it refuses
 * must be one clean sentence.
 */
#include <math.h>

#include "core/base/json.h"
#include "fuzz.h"

static void check(const struct json *v, unsigned depth)
{
    size_t n = 0, bad;
    must(depth <= JSON_MAX_DEPTH + 1);
    if (v->key) must(strlen(v->key) == v->key_len && utf8_valid(v->key, v->key_len, &bad));
    if (v->type == JSON_STRING)
        must(strlen(v->text) == v->len && utf8_valid(v->text, v->len, &bad));
    if (v->type == JSON_NUMBER) must(isfinite(v->number));
    if (v->type == JSON_NUMBER && v->is_int) must(v->number == (double)v->integer);
    if (v->type != JSON_OBJECT && v->type != JSON_ARRAY) return;
    for (const struct json *c = v->child; c; c = c->next, n++) {
        must((c->key != NULL) == (v->type == JSON_OBJECT));
        if (c->key) must(json_get(v, c->key) == c); /* so no key is there twice */
        check(c, depth + 1);
    }
    must(n == v->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena a;
    struct err e = {0};
    size_t bad;
    arena_init(&a, (size_t)64 << 20);
    const struct json *v = json_parse((const char *)data, size, &a, &e);
    must((v == NULL) == (e.code != ERR_NONE));
    if (v) check(v, 1);
    if (!v) must(e.text[0] && utf8_valid(e.text, strlen(e.text), &bad));
    arena_release(&a);
    return 0;
}
