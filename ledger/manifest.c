#include "manifest.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "core/base/json.h"

/* ---- from a model ---------------------------------------------------------------------------- */

void manifest_init(struct manifest *m, const struct model *model, const struct base_digests *d)
{
    assert(d->n == model->n_tensors);
    m->n = model->n_tensors;
    m->tensor = mem_new(m->n * sizeof *m->tensor);
    for (size_t i = 0; i < m->n; i++) {
        const struct tensor *t = &model->tensors[i];
        struct manifest_tensor *out = &m->tensor[i];
        assert(i == 0 || strcmp(m->tensor[i - 1].name, t->name) < 0);
        out->name = mem_text(t->name);
        out->type = t->stored;
        out->n_dims = t->n_dims;
        out->shape[0] = t->n_dims == 1 ? t->cols : t->rows;
        out->shape[1] = t->cols;
        memcpy(out->hash, d->tensor[i], SHA256_BYTES);
    }
}

void manifest_release(struct manifest *m)
{
    for (size_t i = 0; i < m->n; i++) mem_drop(m->tensor[i].name);
    mem_drop(m->tensor);
    *m = (struct manifest){0};
}

bool manifest_find(const struct manifest *m, const char *name, size_t *index)
{
    size_t lo = 0, hi = m->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(name, m->tensor[mid].name);
        if (c == 0) {
            *index = mid;
            return true;
        }
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return false;
}

uint64_t manifest_elements(const struct manifest *m, size_t i)
{
    const struct manifest_tensor *t = &m->tensor[i];
    return t->n_dims == 1 ? t->shape[0] : t->shape[0] * t->shape[1];
}

/* ---- JSON ------------------------------------------------------------------------------------ */

void json_quote(struct buf *out, const char *text)
{
    buf_text(out, "\"");
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            buf_printf(out, "\\%c", *p);
        else if ((unsigned char)*p < 0x20)
            buf_printf(out, "\\u%04x", (unsigned)*p);
        else
            buf_put(out, p, 1);
    }
    buf_text(out, "\"");
}

void manifest_write(const struct manifest *m, struct buf *json)
{
    char hex[65];
    buf_text(json, "{\"format\":\"engramd.manifest.1\",\"tensors\":[");
    for (size_t i = 0; i < m->n; i++) {
        const struct manifest_tensor *t = &m->tensor[i];
        buf_text(json, i ? ",{\"name\":" : "{\"name\":");
        json_quote(json, t->name);
        buf_printf(json, ",\"type\":\"%s\",\"shape\":[%" PRIu64, dtype_info(t->type)->word,
                   t->shape[0]);
        if (t->n_dims == 2) buf_printf(json, ",%" PRIu64, t->shape[1]);
        digest_hex(t->hash, hex);
        buf_printf(json, "],\"sha256\":\"%s\"}", hex);
    }
    buf_text(json, "]}");
}

static bool parse_hash(const struct json *j, uint8_t out[SHA256_BYTES])
{
    char text[DIGEST_TEXT] = "sha256:";
    if (!j || j->type != JSON_STRING || j->len != 2 * SHA256_BYTES) return false;
    memcpy(text + 7, j->text, 2 * SHA256_BYTES + 1);
    return digest_parse(text, out);
}

static bool parse_shape(const struct json *j, struct manifest_tensor *t)
{
    if (!j || j->type != JSON_ARRAY || j->len < 1 || j->len > 2) return false;
    uint32_t i = 0;
    for (const struct json *c = j->child; c; c = c->next, i++) {
        if (c->type != JSON_NUMBER || !c->is_int || c->integer < 1 || c->integer > UINT32_MAX)
            return false;
        t->shape[i] = (uint64_t)c->integer;
    }
    t->n_dims = i;
    return true;
}

static bool parse_tensor(const struct json *j, struct manifest_tensor *t)
{
    const struct json *name = json_get(j, "name"), *type = json_get(j, "type");
    if (!name || name->type != JSON_STRING || !type || type->type != JSON_STRING) return false;
    t->name = mem_text(name->text);
    return dtype_from_safetensors(type->text, &t->type) && parse_shape(json_get(j, "shape"), t) &&
           parse_hash(json_get(j, "sha256"), t->hash);
}

bool manifest_parse(struct manifest *m, const char *json, size_t len, struct err *e)
{
    struct arena a;
    arena_init(&a, 0);
    *m = (struct manifest){0};
    const struct json *j = json_parse(json, len, &a, e);
    const struct json *list = json_get(j, "tensors"), *format = json_get(j, "format");
    bool ok = j != NULL;
    if (ok && (!format || format->type != JSON_STRING || !list || list->type != JSON_ARRAY ||
               strcmp(format->text, "engramd.manifest.1") != 0))
        ok = err_set(e, ERR_CORRUPT, "not a manifest");
    if (ok) ok = (m->tensor = mem_take(list->len, sizeof *m->tensor, e)) != NULL;
    for (const struct json *c = ok ? list->child : NULL; ok && c; c = c->next) {
        struct manifest_tensor *t = &m->tensor[m->n++];
        ok = parse_tensor(c, t) || err_set(e, ERR_CORRUPT, "tensor %zu of the manifest", m->n - 1);
        if (ok && m->n > 1 && strcmp(t[-1].name, t->name) >= 0)
            ok = err_set(e, ERR_CORRUPT, "the manifest is not in name order at %s", t->name);
    }
    arena_release(&a);
    if (!ok) manifest_release(m);
    return ok;
}

/* ---- changed tensors ------------------------------------------------------------------------- */

void tensor_state_init(struct tensor_state *s, size_t n)
{
    s->n = n;
    s->changed = mem_new(n * sizeof *s->changed);
    s->hash = mem_new(n * sizeof *s->hash);
}

void tensor_state_release(struct tensor_state *s)
{
    mem_drop(s->changed);
    mem_drop(s->hash);
    *s = (struct tensor_state){0};
}

void tensor_state_clear(struct tensor_state *s)
{
    memset(s->changed, 0, s->n * sizeof *s->changed);
}
