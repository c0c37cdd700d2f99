#include "sae.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/file/infile.h"
#include "core/file/safetensors.h"

static const char *const kind_words[] = {
#define SAE_KIND(name, word, activation) word,
#include "sae.def"
};
static const char *const norm_words[] = {
#define SAE_NORM(name, word) word,
#include "sae.def"
};

const char *sae_kind_word(enum sae_kind k) { return kind_words[k]; }
const char *sae_norm_word(enum sae_norm n) { return norm_words[n]; }

enum { MOST_FEATURES = 1 << 24, MOST_WIDTH = 1 << 20 };

/* ---- cfg.json ------------------------------------------------------------------------------------ */

static const struct json *get(const struct json *c, const char *key)
{
    const struct json *v = json_get(c, key);
    return v && v->type != JSON_NULL ? v : NULL;
}

/* At the top, or in metadata, where newer files have what says where it belongs. */
static const struct json *either(const struct json *c, const char *key)
{
    const struct json *v = get(c, key);
    return v ? v : get(get(c, "metadata"), key);
}

static bool read_size(const struct json *v, const char *key, uint32_t most, uint32_t *out, struct err *e)
{
    if (!v) return err_set(e, ERR_CORRUPT, "\"%s\" is absent", key);
    if (v->type != JSON_NUMBER || !v->is_int || v->integer < 1 || v->integer > most)
        return err_set(e, ERR_CORRUPT, "\"%s\" is no integer of 1 to %u", key, most);
    *out = (uint32_t)v->integer;
    return true;
}

static bool read_flag(const struct json *c, const char *key, bool otherwise, bool *out, struct err *e)
{
    const struct json *v = get(c, key);
    if (v && v->type != JSON_BOOL) return err_set(e, ERR_CORRUPT, "\"%s\" is neither true nor false", key);
    *out = v ? v->boolean : otherwise;
    return true;
}

static bool refuse_flag(const struct json *c, const char *key, struct err *e)
{
    bool on = false;
    return read_flag(c, key, false, &on, e) && (!on || err_set(e, ERR_UNSUPPORTED, "\"%s\" is asked for, which is not implemented", key));
}

/* Which of the words; *out is its number. */
static bool read_word(const struct json *v, const char *key, const char *(*word)(unsigned), unsigned n, unsigned *out, struct err *e)
{
    struct buf known = {0};
    if (v && v->type != JSON_STRING) return err_set(e, ERR_CORRUPT, "\"%s\" is no text", key);
    for (unsigned i = 0; i < n; i++) {
        if (json_is(v, word(i))) {
            buf_release(&known);
            *out = i;
            return true;
        }
        buf_printf(&known, "%s%s", i ? ", " : "", word(i));
    }
    (void)err_set(e, ERR_UNSUPPORTED, "\"%s\" is \"%.40s\", which is not implemented: it may be %s", key, v ? v->text : "",
                  known.data ? known.data : "");
    buf_release(&known);
    return false;
}

static const char *kind_word(unsigned i) { return sae_kind_word((enum sae_kind)i); }
static const char *norm_word(unsigned i) { return sae_norm_word((enum sae_norm)i); }

/* Older files say the activation beside the architecture: a standard one with topk is what is now called topk. */
static bool read_kind(const struct json *c, struct sae_cfg *out, struct err *e)
{
    const struct json *v = get(c, "architecture"), *act = get(c, "activation_fn");
    unsigned kind = SAE_STANDARD;
    if (!act) act = get(c, "activation_fn_str");
    if (v && !read_word(v, "architecture", kind_word, SAE_KINDS, &kind, e)) return false;
    if (act && json_is(act, "topk") && kind == SAE_STANDARD) kind = SAE_TOPK;
    else if (act && !json_is(act, "relu") && !(kind == SAE_TOPK && json_is(act, "topk")))
        return err_set(e, ERR_UNSUPPORTED, "\"activation_fn\" is neither \"relu\" nor \"topk\"");
    out->kind = (enum sae_kind)kind;
    if (kind != SAE_TOPK) return true;
    const struct json *k = get(c, "k");
    return read_size(k ? k : get(get(c, "activation_fn_kwargs"), "k"), "k", out->features, &out->top, e);
}

static bool read_norm(const struct json *c, struct sae_cfg *out, struct err *e)
{
    const struct json *v = get(c, "normalize_activations");
    unsigned norm = SAE_NORM_NONE;
    if (json_is(v, "expected_average_only_in"))
        return err_set(e, ERR_UNSUPPORTED, "\"normalize_activations\" is \"expected_average_only_in\": the factor is not in the files; "
                                           "fold it into the weights, as SAELens' fold_activation_norm_scaling_factor does");
    if (v && !read_word(v, "normalize_activations", norm_word, SAE_NORMS, &norm, e)) return false;
    out->norm = (enum sae_norm)norm;
    return true;
}

static bool read_place(const struct json *c, struct sae_cfg *out, struct err *e)
{
    const struct json *hook = either(c, "hook_name"), *head = either(c, "hook_head_index");
    if (!hook) hook = get(c, "hook_point");
    if (hook && (hook->type != JSON_STRING || hook->len >= sizeof out->hook))
        return err_set(e, ERR_CORRUPT, "\"hook_name\" is no text of at most %zu bytes", sizeof out->hook - 1);
    if (hook) memcpy(out->hook, hook->text, hook->len + 1);
    if (head && (head->type != JSON_NUMBER || !head->is_int || head->integer < 0 || head->integer > UINT16_MAX))
        return err_set(e, ERR_CORRUPT, "\"hook_head_index\" is no head's number");
    out->head = head ? (int32_t)head->integer : SAE_ALL_HEADS;
    return true;
}

bool sae_cfg_read(const char *text, size_t len, struct sae_cfg *out, struct err *e)
{
    struct arena tree;
    arena_init(&tree, (size_t)64 << 20);
    *out = (struct sae_cfg){0};
    const struct json *c = json_parse(text, len, &tree, e);
    bool ok = c && (c->type == JSON_OBJECT || err_set(e, ERR_CORRUPT, "it is no JSON object")) &&
              read_size(get(c, "d_in"), "d_in", MOST_WIDTH, &out->width, e) &&
              read_size(get(c, "d_sae"), "d_sae", MOST_FEATURES, &out->features, e) && read_kind(c, out, e) &&
              read_norm(c, out, e) && read_place(c, out, e) &&
              read_flag(c, "apply_b_dec_to_input", true, &out->centred, e) &&
              refuse_flag(c, "finetuning_scaling_factor", e) && refuse_flag(c, "rescale_acts_by_decoder_norm", e);
    arena_release(&tree);
    if (!ok && e->code == ERR_INVALID) e->code = ERR_CORRUPT; /* the file's fault, not a caller's */
    return ok || err_while(e, "reading cfg.json");
}

/* ---- weights ------------------------------------------------------------------------------------- */

struct slot { /* a row of the table, for one description */
    const char *name;
    float **at;
    uint64_t rows, cols;
    bool wanted;
};
enum {
#define SAE_TENSOR(field, name, rows, cols, kinds) SLOT_##field,
#include "sae.def"
    SLOTS
};

static void list_slots(struct sae *s, struct slot out[SLOTS])
{
    const uint64_t width = s->cfg.width, features = s->cfg.features;
    size_t n = 0;
#define SAE_TENSOR(field, word, r, c, kinds) \
    out[n++] = (struct slot){word, &s->field, r, c, ((kinds) >> s->cfg.kind & 1) != 0};
#include "sae.def"
    (void)width, (void)features;
}

size_t sae_bytes(const struct sae_cfg *c)
{
    struct sae like = {.cfg = *c};
    struct slot slot[SLOTS];
    size_t all = 0, n, sum;
    list_slots(&like, slot);
    for (size_t i = 0; i < SLOTS; i++) {
        if (!slot[i].wanted) continue;
        if (!size_mul(slot[i].rows, slot[i].cols, &n) || !size_add(all, mem_floats_bytes(n), &sum)) return SIZE_MAX;
        all = sum;
    }
    return all;
}

static bool has_shape(const struct file_tensor *t, uint64_t rows, uint64_t cols, struct err *e)
{
    struct buf is = {0};
    bool vector = cols == 1, ok = !t->other && t->n_dims == (vector ? 1u : 2u) && t->shape[0] == rows && (vector || t->shape[1] == cols);
    if (ok) return true;
    if (t->other) return err_set(e, ERR_CORRUPT, "tensor '%s' at byte %" PRIu64 " %s", t->name, t->offset, t->other);
    for (uint32_t i = 0; i < t->n_dims; i++) buf_printf(&is, "%s%" PRIu64, i ? "×" : "", t->shape[i]);
    if (vector) (void)err_set(e, ERR_CORRUPT, "tensor '%s' at byte %" PRIu64 " is %s, %" PRIu64 " by cfg.json", t->name, t->offset,
                              is.data ? is.data : "", rows);
    else (void)err_set(e, ERR_CORRUPT, "tensor '%s' at byte %" PRIu64 " is %s, %" PRIu64 "×%" PRIu64 " by cfg.json", t->name, t->offset,
                       is.data ? is.data : "", rows, cols);
    buf_release(&is);
    return false;
}

/* A piece at a time, so that narrow types need no second copy. */
static bool read_values(const struct infile *f, const struct file_tensor *t, float *dst, struct err *e)
{
    enum { PIECE = 1 << 14 };
    const size_t bytes = dtype_info(t->type)->bytes;
    char *raw = mem_take(PIECE, bytes, e);
    bool ok = raw != NULL;
    for (uint64_t at = 0; ok && at < t->n_elements; at += PIECE) {
        size_t n = t->n_elements - at < PIECE ? (size_t)(t->n_elements - at) : PIECE;
        ok = infile_read(f, t->offset + at * bytes, raw, n * bytes, e);
        if (ok) dtype_widen(t->type, raw, dst + at, n);
        for (size_t i = 0; ok && i < n; i++)
            if (!isfinite(dst[at + i]))
                ok = err_set(e, ERR_CORRUPT, "tensor '%s' is not finite at element %" PRIu64 ", byte %" PRIu64, t->name, at + i,
                             t->offset + (at + i) * bytes);
    }
    mem_drop(raw);
    return ok;
}

/* jumprelu's thresholds may be kept as their logarithms. */
static bool read_slot(const struct infile *f, const struct tensor_list *l, const struct slot *s, struct err *e)
{
    const struct file_tensor *t = tensor_list_find(l, s->name);
    bool log = !t && strcmp(s->name, "threshold") == 0;
    if (log) t = tensor_list_find(l, "log_threshold");
    if (!t) return err_set(e, ERR_CORRUPT, "there is no tensor '%s'", s->name);
    if (!has_shape(t, s->rows, s->cols, e)) return false;
    *s->at = mem_floats((size_t)t->n_elements, e);
    if (!*s->at || !read_values(f, t, *s->at, e)) return false;
    for (uint64_t i = 0; log && i < t->n_elements; i++) (*s->at)[i] = expf((*s->at)[i]);
    return true;
}

/* What would be left out would be missed. scaling_factor, which older files carry, must be all ones. */
static bool only_known(const struct infile *f, const struct tensor_list *l, const struct sae *s, const struct slot slot[SLOTS], struct err *e)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct file_tensor *t = tensor_list_at(l, i);
        bool known = s->cfg.kind == SAE_JUMPRELU && strcmp(t->name, "log_threshold") == 0 && !tensor_list_find(l, "threshold");
        for (size_t k = 0; k < SLOTS && !known; k++) known = slot[k].wanted && strcmp(slot[k].name, t->name) == 0;
        if (known) continue;
        if (strcmp(t->name, "scaling_factor") != 0)
            return err_set(e, ERR_UNSUPPORTED, "tensor '%.80s' at byte %" PRIu64 " is none that a %s autoencoder has", t->name, t->offset,
                           sae_kind_word(s->cfg.kind));
        if (!has_shape(t, s->cfg.features, 1, e)) return false;
        float *ones = mem_floats(s->cfg.features, e);
        bool ok = ones && read_values(f, t, ones, e);
        for (uint32_t k = 0; ok && k < s->cfg.features; k++)
            ok = ones[k] == 1 || err_set(e, ERR_UNSUPPORTED, "tensor 'scaling_factor' is not 1 at element %u", k);
        mem_drop(ones);
        if (!ok) return false;
    }
    return true;
}

static bool read_all(struct sae *s, const struct infile *f, struct err *e)
{
    struct arena names;
    struct tensor_list list = {0};
    struct slot slot[SLOTS];
    arena_init(&names, (size_t)64 << 20);
    list_slots(s, slot);
    bool ok = safetensors_read(f, 0, &list, &names, e) && tensor_list_seal(&list, e) && only_known(f, &list, s, slot, e);
    for (size_t i = 0; ok && i < SLOTS; i++)
        if (slot[i].wanted) ok = read_slot(f, &list, &slot[i], e);
    tensor_list_release(&list);
    arena_release(&names);
    return ok;
}

struct sae *sae_read(const struct sae_cfg *c, const char *path, struct err *e)
{
    struct infile f;
    if (!infile_open(&f, path, e)) return NULL;
    struct sae *s = mem_new(sizeof *s);
    s->cfg = *c;
    bool ok = read_all(s, &f, e);
    if (!ok) (void)err_while(e, "reading %s", path);
    infile_close(&f);
    if (ok) return s;
    sae_free(s);
    return NULL;
}

void sae_free(struct sae *s)
{
    if (!s) return;
#define SAE_TENSOR(field, name, rows, cols, kinds) mem_drop(s->field);
#include "sae.def"
    mem_drop(s);
}
