#include "captures.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file/npy_write.h"
#include "core/file/safetensors_write.h"
#include "core/text/strmap.h"
#include "server/zip.h"

static size_t heads_of(const struct arch *a, const struct trace_place *p)
{
    return p->head ? p->n_head : hook_heads(a, p->site.hook);
}

/* ---- shapes and names -------------------------------------------------------------------------- */

static void find_shape(const struct tapping *t, const struct arch *a, const struct trace_place *p, struct captured *c)
{
    const uint64_t pos = p->n_pos, heads = heads_of(a, p), width = hook_width(a, p->site.hook),
                   source = t->input[p->input].in.n;
    const uint64_t shapes[][3] = {
        [AXIS_PLAIN] = {pos, width}, [AXIS_QUERY] = {pos, heads, width}, [AXIS_KV] = {pos, heads, width},
        [AXIS_SOURCE] = {heads, pos, source}, /* as the field writes patterns */
    };
    enum hook_axis axis = hook_info(p->site.hook)->axis;
    c->n_dims = axis == AXIS_PLAIN ? 2 : 3;
    memcpy(c->shape, shapes[axis], sizeof c->shape);
}

void captures_safe_id(const char *id, char out[80])
{
    size_t n = 0;
    for (; id[n] && n < 79; n++) {
        char c = id[n];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
        out[n] = plain || (c == '.' && n) ? c : '_';
    }
    out[n] = '\0';
}

bool captures_name(const struct tapping *t, const struct arch *a, struct captured *c, struct err *e)
{
    struct strmap taken;
    if (!strmap_init(&taken, t->n_captures + 1, e)) return false;
    for (size_t i = 0; i < t->n_captures; i++) {
        const struct trace_place *p = tapping_place(t, i);
        char site[64], id[80];
        site_text(p->site, site);
        captures_safe_id(t->input[p->input].id, id);
        find_shape(t, a, p, &c[i]);
        int n = snprintf(c[i].name, sizeof c[i].name, "%s/%s%s", id, site, t->capture[i].gradient ? ".grad" : "");
        uint32_t earlier = 0;
        if (strmap_get(&taken, c[i].name, (size_t)n, &earlier))
            (void)snprintf(c[i].name + n, sizeof c[i].name - (size_t)n, ".%u", earlier + 1);
        strmap_put(&taken, c[i].name, (size_t)n, earlier + 1);
    }
    strmap_release(&taken);
    return true;
}

/* ---- JSON -------------------------------------------------------------------------------------- */

static void write_capture(const struct tapping *t, const struct look *l, const struct captured *c, size_t i, bool values,
                          jout *list)
{
    const struct trace_place *p = tapping_place(t, i);
    const struct arch *a = &look_model(l)->arch;
    char site[64];
    jout *o = jout_put_object(list, NULL);
    site_text(p->site, site);
    jout_text(o, "input", t->input[p->input].id);
    jout_text(o, "site", site);
    jout_u32s(o, "pos", p->pos, p->n_pos);
    if (hook_info(p->site.hook)->axis == AXIS_PLAIN) {
        jout_null(o, "head");
    } else {
        jout *h = jout_put_array(o, "head");
        for (size_t k = 0; k < heads_of(a, p); k++) jout_int(h, NULL, p->head ? p->head[k] : (int64_t)k);
    }
    jout *shape = jout_put_array(o, "shape");
    for (uint32_t k = 0; k < c->n_dims; k++) jout_int(shape, NULL, (int64_t)c->shape[k]);
    if (t->capture[i].gradient) gradient_echo(t->gradients, l, t->input, t->capture[i].of, c->metric, o);
    if (values) jout_f32s(o, "values", c->values, c->n);
    else jout_text(o, "name", c->name);
}

void captures_write(const struct tapping *t, const struct look *l, const struct captured *c, bool values, jout *root)
{
    jout *list = jout_put_array(root, "captures");
    for (size_t i = 0; i < t->n_captures; i++) write_capture(t, l, &c[i], i, values, list);
}

/* Masked scores are −∞ by definition. */
static bool is_finite(const struct captured *c, enum hook hook)
{
    for (size_t i = 0; i < c->n; i++)
        if (!isfinite(c->values[i]) && !(hook == HOOK_ATTN_SCORES && c->values[i] == -INFINITY)) return false;
    return true;
}

void captures_warn(const struct tapping *t, struct look *l, const struct captured *c)
{
    size_t broken = 0, first = 0;
    for (size_t i = 0; i < t->n_captures; i++)
        if (!is_finite(&c[i], tapping_place(t, i)->site.hook) && broken++ == 0) first = i;
    if (broken)
        look_warn(l, "nonfinite", "%s (the first of %zu captures) has values that are not finite", c[first].name, broken);
}

/* ---- bytes ------------------------------------------------------------------------------------- */

enum { BESIDE = 256 }; /* a header and a name */

/* Room for all values at once: they may be most of what this process holds. */
static void reserve(struct buf *out, const struct captured *c, size_t n, size_t each, size_t answer)
{
    size_t bytes = answer;
    for (size_t i = 0; i < n; i++) bytes += c[i].n * sizeof(float) + each;
    buf_reserve(out, bytes);
}

static bool pack_npy(const struct captured *c, size_t n, const struct buf *answer, struct buf *out, struct err *e)
{
    assert(n == 1);
    (void)answer;
    reserve(out, c, 1, BESIDE, 0);
    npy_header(out, c->n_dims, c->shape);
    buf_put(out, c->values, c->n * sizeof(float));
    return buf_ok(out, e);
}

static bool pack_npz(const struct captured *c, size_t n, const struct buf *answer, struct buf *out, struct err *e)
{
    struct zip z = {.out = out};
    reserve(out, c, n, 4 * BESIDE, answer->len);
    for (size_t i = 0; i < n; i++) {
        char name[200];
        struct buf head = {0};
        npy_header(&head, c[i].n_dims, c[i].shape);
        (void)snprintf(name, sizeof name, "%s.npy", c[i].name);
        zip_add(&z, name, head.data, head.len, c[i].values, c[i].n * sizeof(float));
        out->failed |= head.failed;
        buf_release(&head);
    }
    zip_add(&z, "answer.json", NULL, 0, answer->data, answer->len);
    return zip_end(&z, e);
}

static bool pack_safetensors(const struct captured *c, size_t n, const struct buf *answer, struct buf *out, struct err *e)
{
    struct st_writer w = {0};
    for (size_t i = 0; i < n; i++) st_add(&w, c[i].name, DTYPE_F32, c[i].n_dims, c[i].shape);
    st_meta(&w, "answer", answer->data, answer->len);
    bool ok = st_header(&w, "engramd.trace.1", out, e);
    st_release(&w);
    if (ok) reserve(out, c, n, 0, 0);
    for (size_t i = 0; ok && i < n; i++) buf_put(out, c[i].values, c[i].n * sizeof(float));
    return ok && buf_ok(out, e);
}

bool captures_pack(enum media m, const struct captured *c, size_t n, const struct buf *answer, struct buf *out,
                   struct err *e)
{
    static bool (*const packers[])(const struct captured *, size_t, const struct buf *, struct buf *, struct err *) = {
        [MEDIA_NPY] = pack_npy, [MEDIA_NPZ] = pack_npz, [MEDIA_SAFETENSORS] = pack_safetensors};
    assert(m != MEDIA_JSON);
    return packers[m](c, n, answer, out, e);
}
