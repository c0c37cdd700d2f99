#include "json.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <cjson/cJSON.h>

/* A node whose child could not be allocated is marked here, so that printing can refuse: half an
 * answer must never look like a whole one. cJSON leaves valueint of containers alone. */
enum { BROKEN = -1 };

jout *jout_object(void) { return cJSON_CreateObject(); }
jout *jout_array(void) { return cJSON_CreateArray(); }
void jout_free(jout *root) { cJSON_Delete(root); }

void jout_add(jout *parent, const char *key, jout *child)
{
    if (!parent) {
        cJSON_Delete(child);
        return;
    }
    assert(key ? cJSON_IsObject(parent) : cJSON_IsArray(parent));
    bool added = child && (key ? cJSON_AddItemToObject(parent, key, child)
                               : cJSON_AddItemToArray(parent, child));
    if (added) return;
    cJSON_Delete(child);
    parent->valueint = BROKEN;
}

static jout *put(jout *parent, const char *key, jout *child)
{
    jout_add(parent, key, child);
    return parent && parent->valueint != BROKEN ? child : NULL;
}

jout *jout_put_object(jout *parent, const char *key) { return put(parent, key, jout_object()); }
jout *jout_put_array(jout *parent, const char *key) { return put(parent, key, jout_array()); }

void jout_text(jout *parent, const char *key, const char *text)
{
    jout_add(parent, key, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

void jout_raw(jout *parent, const char *key, const char *json)
{
    jout_add(parent, key, cJSON_CreateRaw(json));
}

void jout_string(jout *parent, const char *key, const char *text, size_t len)
{
    struct buf b = {0};
    json_write_text(&b, text, len);
    jout_add(parent, key, b.failed ? NULL : cJSON_CreateRaw(b.data));
    buf_release(&b);
}

void jout_int(jout *parent, const char *key, int64_t v)
{
    char text[24];
    (void)snprintf(text, sizeof text, "%" PRId64, v);
    jout_raw(parent, key, text);
}

void jout_f32(jout *parent, const char *key, float v)
{
    char text[32];
    f32_text(v, text);
    jout_raw(parent, key, text);
}

void jout_f64(jout *parent, const char *key, double v)
{
    char text[32];
    f64_text(v, text);
    jout_raw(parent, key, text);
}

void jout_bool(jout *parent, const char *key, bool v) { jout_add(parent, key, cJSON_CreateBool(v)); }
void jout_null(jout *parent, const char *key) { jout_add(parent, key, cJSON_CreateNull()); }

/* ---- long arrays: one raw node ----------------------------------------------------------------- */

static void add_list(jout *parent, const char *key, struct buf *b)
{
    buf_text(b, "]");
    jout_add(parent, key, b->failed ? NULL : cJSON_CreateRaw(b->data));
    buf_release(b);
}

void jout_f32s(jout *parent, const char *key, const float *v, size_t n)
{
    struct buf b = {0};
    char text[32];
    buf_text(&b, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_put(&b, ",", 1);
        f32_text(v[i], text);
        buf_text(&b, text);
    }
    add_list(parent, key, &b);
}

void jout_f64s(jout *parent, const char *key, const double *v, size_t n)
{
    struct buf b = {0};
    char text[32];
    buf_text(&b, "[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_put(&b, ",", 1);
        f64_text(v[i], text);
        buf_text(&b, text);
    }
    add_list(parent, key, &b);
}

void jout_u32s(jout *parent, const char *key, const uint32_t *v, size_t n)
{
    struct buf b = {0};
    buf_text(&b, "[");
    for (size_t i = 0; i < n; i++) buf_printf(&b, i ? ",%" PRIu32 : "%" PRIu32, v[i]);
    add_list(parent, key, &b);
}

/* ---- printing ---------------------------------------------------------------------------------- */

/* Texts are UTF-8 by contract; an error sentence cut in the middle of a character is not, and an
 * answer must still be JSON. */
static void write_text(struct buf *out, const char *text)
{
    size_t len = strlen(text), bad;
    if (utf8_valid(text, len, &bad)) {
        json_write_text(out, text, len);
        return;
    }
    struct buf whole = {0};
    while (!utf8_valid(text, len, &bad)) {
        buf_put(&whole, text, bad);
        buf_text(&whole, "\xEF\xBF\xBD"); /* U+FFFD */
        text += bad + 1;
        len -= bad + 1;
    }
    buf_put(&whole, text, len);
    out->failed |= whole.failed;
    if (!whole.failed) json_write_text(out, whole.data, whole.len);
    buf_release(&whole);
}

/* False where a node is broken. */
static bool print(const jout *v, struct buf *out)
{
    if (cJSON_IsString(v)) {
        write_text(out, v->valuestring);
    } else if (cJSON_IsRaw(v)) {
        buf_text(out, v->valuestring);
    } else if (cJSON_IsBool(v)) {
        buf_text(out, cJSON_IsTrue(v) ? "true" : "false");
    } else if (cJSON_IsNull(v)) {
        buf_text(out, "null");
    } else {
        bool object = cJSON_IsObject(v);
        assert(object || cJSON_IsArray(v));
        if (v->valueint == BROKEN) return false;
        buf_text(out, object ? "{" : "[");
        for (const jout *c = v->child; c; c = c->next) {
            if (c != v->child) buf_put(out, ",", 1);
            if (object) write_text(out, c->string);
            if (object) buf_put(out, ":", 1);
            if (!print(c, out)) return false;
        }
        buf_text(out, object ? "}" : "]");
    }
    return true;
}

bool jout_print(const jout *root, struct buf *out, struct err *e)
{
    if (!root || !print(root, out)) return err_set(e, ERR_NO_MEMORY, "no memory for the answer");
    return buf_ok(out, e);
}
