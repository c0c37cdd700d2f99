/* Asking a tokenizer, and encoding. */
#include "tokenizer.h"

#include <assert.h>
#include <string.h>

#include "bytelevel.h"
#include "codepoint.h"
#include "tokenizer_int.h"
#include "word_cache.h"

void ids_release(struct ids *v)
{
    mem_drop(v->id);
    *v = (struct ids){0};
}

/* Room for n more. */
static bool ids_reserve(struct ids *v, size_t n, struct err *e)
{
    if (v->cap - v->n >= n) return true;
    size_t cap = v->cap ? v->cap : 32;
    while (cap - v->n < n) cap *= 2;
    uint32_t *grown = mem_take(cap, sizeof *grown, e);
    if (!grown) return false;
    if (v->n) memcpy(grown, v->id, v->n * sizeof *grown);
    mem_drop(v->id);
    v->id = grown;
    v->cap = cap;
    return true;
}

bool ids_push(struct ids *v, uint32_t id, struct err *e)
{
    if (v->n == v->cap && !ids_reserve(v, 1, e)) return false;
    v->id[v->n++] = id;
    return true;
}

/* Again the n ids that begin at `at`. */
static bool ids_repeat(struct ids *v, size_t at, size_t n, struct err *e)
{
    if (!ids_reserve(v, n, e)) return false;
    for (size_t i = 0; i < n; i++) v->id[v->n + i] = v->id[at + i];
    v->n += n;
    return true;
}

/* ---- asking ------------------------------------------------------------------------------ */

uint32_t tokenizer_size(const struct tokenizer *t) { return (uint32_t)t->n; }
bool tokenizer_adds_bos(const struct tokenizer *t) { return t->adds_bos && t->bos != NO_TOKEN; }
bool tokenizer_has_chat(const struct tokenizer *t) { return t->chat.template != NULL; }
const char *tokenizer_chat_template(const struct tokenizer *t) { return t->chat.text; }

bool tokenizer_bos(const struct tokenizer *t, uint32_t *id)
{
    if (t->bos == NO_TOKEN) return false;
    *id = t->bos;
    return true;
}

bool tokenizer_eos(const struct tokenizer *t, uint32_t *id)
{
    if (t->eos == NO_TOKEN) return false;
    *id = t->eos;
    return true;
}

bool tokenizer_ends_generation(const struct tokenizer *t, uint32_t id)
{
    return id < t->n && (t->flag[id] & FLAG_ENDS);
}

bool tokenizer_is_special(const struct tokenizer *t, uint32_t id)
{
    return id < t->n && (t->flag[id] & FLAG_SPECIAL);
}

/* ---- encoding ---------------------------------------------------------------------------- */

struct encoder {
    const struct tokenizer *t;
    struct bpe_work work;
    struct word_cache cache;
    struct pretokenize_run *run;
    const struct section *sections;
    enum text_place begins; /* the whole text */
    enum text_place place;  /* what is being cut */
    struct buf spelling;
    struct ids *out;
};

/* Is the whole word a token? */
static bool whole_word(struct encoder *c, const char *bytes, size_t len, uint32_t *id, bool *is,
                       struct err *e)
{
    const struct tokenizer *t = c->t;
    if (!t->pre.plan.byte_level) {
        *is = strmap_get(&t->vocabulary, bytes, len, id);
        return true;
    }
    c->spelling.len = 0;
    bytelevel_encode(bytes, len, &c->spelling);
    if (!buf_ok(&c->spelling, e)) return false;
    *is = strmap_get(&t->vocabulary, c->spelling.data, c->spelling.len, id);
    return true;
}

/* The ids of a word, or of a part of one that merges cannot leave. */
static bool merge_word(struct encoder *c, const char *bytes, size_t len, bool look_up, struct err *e)
{
    struct word_key key;
    size_t at, n;
    bool kept = word_cache_key(&c->cache, bytes, len, &key), whole = false;
    if (kept && word_cache_find(&c->cache, &key, &at, &n)) return ids_repeat(c->out, at, n, e);
    at = c->out->n;
    uint32_t id = 0;
    if (len > BPE_WORD_MAX) return err_set(e, ERR_TOO_LARGE, "a word of %zu bytes", len);
    if (look_up && !whole_word(c, bytes, len, &id, &whole, e)) return false;
    if (whole ? !ids_push(c->out, id, e) : !bpe_word(&c->t->bpe, &c->work, bytes, len, c->out, e))
        return false;
    if (kept) word_cache_put(&c->cache, &key, at, c->out->n - at);
    return true;
}

/* Where the next run of marks begins, past the one at the start. */
static size_t next_mark(const char *text, size_t len)
{
    static const char mark[] = "\u2581";
    enum { MARK = sizeof mark - 1 };
    size_t at = 0;
    while (at + MARK <= len && memcmp(text + at, mark, MARK) == 0) at += MARK;
    while (at < len) {
        const char *found = memchr(text + at, mark[0], len - at);
        if (!found) return len;
        at = (size_t)(found - text);
        if (at + MARK <= len && memcmp(found, mark, MARK) == 0) return at;
        at++;
    }
    return len;
}

static bool on_word(void *context, const char *bytes, size_t len, struct err *e)
{
    struct encoder *c = context;
    const struct tokenizer *t = c->t;
    bool whole = false;
    uint32_t id = 0;
    if (!t->cuts_at_marks) return merge_word(c, bytes, len, t->pre.plan.ignore_merges, e);
    if (t->pre.plan.ignore_merges && !whole_word(c, bytes, len, &id, &whole, e)) return false;
    if (whole) return ids_push(c->out, id, e);
    for (size_t at = 0, n; at < len; at += n) {
        n = next_mark(bytes + at, len - at);
        if (!merge_word(c, bytes + at, n, false, e)) return false;
    }
    return true;
}

static bool on_token(void *context, uint32_t id, struct err *e)
{
    struct encoder *c = context;
    return ids_push(c->out, id, e);
}

static bool on_plain(void *context, const char *text, size_t len, size_t at, struct err *e)
{
    struct encoder *c = context;
    return pretokenize(c->run, text, len, at == 0 ? c->place : TEXT_LATER, on_word, c, e);
}

/* Bytes that normalisation puts before every text. */
static size_t prepended(const struct normal_plan *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->step[i].op == NORMAL_PREPEND) n += p->step[i].put_len;
    return n;
}

/* The sections of text [at, at + len) as they lie in its normal form, of `whole` bytes: each part is
 * normalised by itself. Where the parts do not add up to the whole, special tokens that are looked
 * for in normal text cannot be told from what people wrote. */
static bool move_sections(const struct encoder *c, const char *text, size_t len, size_t at,
                          size_t whole, struct section **moved, struct err *e)
{
    const struct section *from = c->sections;
    size_t n = 1, done = 0, sum = 0;
    while (from->end <= at) from++;
    while (from[n - 1].end < at + len) n++;
    *moved = mem_take(n, sizeof **moved, e);
    bool ok = *moved != NULL;
    for (size_t i = 0; ok && n > 1 && i < n; i++) {
        size_t end = i + 1 < n ? from[i].end - at : len;
        struct buf b = {0};
        ok = normalize(&c->t->normal, text + done, end - done, i == 0 && c->place == TEXT_JOINED, &b, e);
        sum += b.len - (i && b.len ? prepended(&c->t->normal.plan) : 0);
        (*moved)[i] = (struct section){sum, from[i].parse_special};
        buf_release(&b);
        done = end;
    }
    if (ok && n > 1 && sum != whole)
        ok = err_set(e, ERR_UNSUPPORTED, "special tokens are matched after normalisation, which joins "
                                         "what was written to what the template says");
    if (!ok) mem_drop(*moved), *moved = NULL;
    if (ok) (*moved)[n - 1] = (struct section){whole, from[n - 1].parse_special};
    return ok;
}

/* Text that holds no raw tokens: normalise it, then look for the tokens that come after that. */
static bool on_text(void *context, const char *text, size_t len, size_t at, struct err *e)
{
    struct encoder *c = context;
    const struct special_sink sink = {on_plain, on_token, c};
    c->place = at == 0 ? c->begins : TEXT_LATER;
    if (c->t->normal.plan.n == 0) return special_cut(&c->t->normalized, text, len, c->sections, at, &sink, e);
    struct buf normal = {0};
    struct section *moved = NULL;
    bool ok = normalize(&c->t->normal, text, len, c->place == TEXT_JOINED, &normal, e);
    const struct section one = {normal.len, false};
    if (ok && normal.len && c->t->normalized.any_special)
        ok = move_sections(c, text, len, at, normal.len, &moved, e);
    if (ok && normal.len)
        ok = special_cut(&c->t->normalized, normal.data, normal.len, moved ? moved : &one, 0, &sink, e);
    mem_drop(moved);
    buf_release(&normal);
    return ok;
}

static bool check_text(const char *text, size_t len, struct err *e)
{
    size_t bad;
    if (len > BPE_WORD_MAX / 2)
        return err_set(e, ERR_TOO_LARGE, "a text of %zu bytes", len);
    if (utf8_valid(text, len, &bad)) return true;
    return err_set(e, ERR_INVALID, "text has %s at byte %zu",
                   text[bad] ? "invalid UTF-8" : "a NUL character", bad);
}

static bool encode_sections(const struct tokenizer *t, const char *text, size_t len,
                            const struct section *sections, enum text_place begins, struct ids *out, struct err *e)
{
    if (!check_text(text, len, e)) return false;
    if (len == 0) return true;
    struct encoder c = {.t = t, .sections = sections, .begins = begins, .out = out};
    const struct special_sink sink = {on_text, on_token, &c};
    size_t had = out->n;
    c.run = pretokenize_run_new(&t->pre, e);
    bool ok = c.run && word_cache_init(&c.cache, len, e) && ids_reserve(out, len / 4 + 1, e) &&
              special_cut(&t->raw, text, len, sections, 0, &sink, e);
    pretokenize_run_free(c.run);
    bpe_work_release(&c.work);
    word_cache_release(&c.cache);
    buf_release(&c.spelling);
    if (!ok) out->n = had;
    return ok;
}

void tokenizer_bind(struct tokenizer *t, uint32_t n_model) { t->n_model = n_model; }

/* Encoding for the model: every id has an embedding. */
static bool encode_bound(const struct tokenizer *t, const char *text, size_t len, const struct section *sections,
                         enum text_place begins, struct ids *out, struct err *e)
{
    size_t from = out->n;
    if (!encode_sections(t, text, len, sections, begins, out, e)) return false;
    for (size_t i = from; t->n_model && i < out->n; i++)
        if (out->id[i] >= t->n_model) {
            uint32_t id = out->id[i];
            out->n = from;
            return err_set(e, ERR_UNPROCESSABLE, "the text contains the token \"%.64s\" (%u), but the model has only %u embeddings",
                           t->spelling[id], id, t->n_model);
        }
    return true;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                      struct ids *out, struct err *e)
{
    const struct section whole = {len, parse_special};
    return encode_bound(t, text, len, &whole, TEXT_FIRST, out, e);
}

bool tokenizer_encode_behind(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                             struct ids *out, struct err *e)
{
    const struct section whole = {len, parse_special};
    return encode_bound(t, text, len, &whole, TEXT_JOINED, out, e);
}

bool tokenizer_chat(const struct tokenizer *t, const struct conversation *c, struct ids *out,
                    struct buf *rendered, struct err *e)
{
    const struct chat_tokens tokens = {t->named_bos == NO_TOKEN ? NULL : t->piece[t->named_bos],
                                       t->named_eos == NO_TOKEN ? NULL : t->piece[t->named_eos]};
    struct buf text = {0};
    struct section *sections = NULL;
    bool ok = chat_render(&t->chat, c, &tokens, &text, &sections, e) &&
              encode_bound(t, text.data ? text.data : "", text.len, sections, TEXT_FIRST, out, e);
    if (ok && rendered) buf_put(rendered, text.data ? text.data : "", text.len);
    buf_release(&text);
    mem_drop(sections);
    return ok;
}
