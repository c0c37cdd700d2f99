#include "tokenizer.h"

#include <assert.h>
#include <string.h>

#include "bpe.h"
#include "bytelevel.h"
#include "chat.h"
#include "codepoint.h"
#include "nfc.h"
#include "special.h"
#include "strmap.h"
#include "tokenizer_int.h"

enum { FLAG_SPECIAL = 1, FLAG_ENDS = 2 };

struct tokenizer {
    struct arena arena;
    size_t n;
    const char **piece; /* raw bytes; "" for a hole */
    uint32_t *piece_len;
    unsigned char *flag;
    struct strmap vocabulary; /* spelling -> id; kept for whole-word look-up */
    struct bpe bpe;
    struct pretokenizer pre;
    struct special_set raw, normalized; /* matched before, and after, normalisation */
    struct chat chat;
    bool adds_bos;
    uint32_t bos, eos;
};

void ids_release(struct ids *v)
{
    mem_drop(v->id);
    *v = (struct ids){0};
}

bool ids_push(struct ids *v, uint32_t id, struct err *e)
{
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 64;
        uint32_t *grown = mem_take(cap, sizeof *grown, e);
        if (!grown) return false;
        if (v->n) memcpy(grown, v->id, v->n * sizeof *grown);
        mem_drop(v->id);
        v->id = grown;
        v->cap = cap;
    }
    v->id[v->n++] = id;
    return true;
}

/* ---- building ---------------------------------------------------------------------------- */

static bool take_rows(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    t->n = s->n;
    t->piece = arena_take(&t->arena, s->n, sizeof *t->piece, e);
    t->piece_len = t->piece ? arena_take(&t->arena, s->n, sizeof *t->piece_len, e) : NULL;
    t->flag = t->piece_len ? arena_take(&t->arena, s->n, 1, e) : NULL;
    return t->flag != NULL && strmap_init(&t->vocabulary, s->n, e);
}

/* Spellings (the alphabet's, NUL terminated) and raw bytes of every token, in the arena. */
static bool take_texts(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct token_row *row = &s->token[i];
        size_t bad;
        t->piece[i] = "";
        if (row->kind == TOKEN_HOLE) continue;
        if (!utf8_valid(row->text, row->len, &bad))
            return err_set(e, ERR_CORRUPT, "token %zu is not UTF-8", i);
        char *text = arena_text(&t->arena, row->text, row->len, e);
        if (!text) return false;
        if (row->in_vocabulary) strmap_put(&t->vocabulary, text, row->len, (uint32_t)i);
        t->piece[i] = text;
        t->piece_len[i] = row->len;
        if (row->kind == TOKEN_SPECIAL) t->flag[i] |= FLAG_SPECIAL;
        if (row->kind == TOKEN_SPECIAL && special_ends_generation(text, row->len))
            t->flag[i] |= FLAG_ENDS;
        if (row->kind != TOKEN_PLAIN) continue;
        char *raw = arena_take(&t->arena, (size_t)row->len + 1, 1, e);
        if (!raw) return false;
        t->piece_len[i] = (uint32_t)bytelevel_decode(text, row->len, raw);
        t->piece[i] = raw;
    }
    return true;
}

static bool take_special_rows(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    size_t most = 0;
    for (size_t i = 0; i < s->n; i++) most += s->token[i].kind >= TOKEN_ADDED;
    if (!special_set_init(&t->raw, most, e) || !special_set_init(&t->normalized, most, e))
        return false;
    for (size_t i = 0; i < s->n; i++) {
        const struct token_row *row = &s->token[i];
        if (row->kind < TOKEN_ADDED) continue;
        struct special special = {t->piece[i],      t->piece_len[i], (uint32_t)i,
                                  row->kind == TOKEN_SPECIAL, row->single_word, row->lstrip,
                                  row->rstrip};
        if (row->normalized && s->plan.nfc) {
            struct buf b = {0};
            bool ok = nfc(special.text, special.len, &b, e);
            special.len = (uint32_t)b.len;
            special.text = ok ? arena_text(&t->arena, b.data ? b.data : "", b.len, e) : NULL;
            buf_release(&b);
            if (!special.text) return false;
        }
        special_set_add(row->normalized ? &t->normalized : &t->raw, &special);
    }
    special_set_finish(&t->raw);
    special_set_finish(&t->normalized);
    return true;
}

static bool spelled(const struct tokenizer *t, const char *text, size_t len, size_t merge,
                    uint32_t *id, struct err *e)
{
    return strmap_get(&t->vocabulary, text, len, id) ||
           err_set(e, ERR_CORRUPT, "merge %zu names \"%.*s\", which is not a token", merge,
                   (int)(len < 64 ? len : 64), text);
}

static bool resolve_merge(const struct tokenizer *t, const struct merge_row *m, size_t rank,
                          struct bpe_merge *out, struct buf *joined, struct err *e)
{
    joined->len = 0;
    buf_put(joined, m->left, m->left_len);
    buf_put(joined, m->right, m->right_len);
    return buf_ok(joined, e) && spelled(t, m->left, m->left_len, rank, &out->left, e) &&
           spelled(t, m->right, m->right_len, rank, &out->right, e) &&
           spelled(t, joined->data, joined->len, rank, &out->result, e);
}

static bool take_merges(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    struct bpe_merge *merge = mem_take(s->n_merge, sizeof *merge, e);
    struct buf joined = {0};
    bool ok = merge != NULL;
    for (size_t i = 0; ok && i < s->n_merge; i++)
        ok = resolve_merge(t, &s->merge[i], i, &merge[i], &joined, e);
    ok = ok && bpe_init(&t->bpe, merge, s->n_merge, e);
    buf_release(&joined);
    mem_drop(merge);
    return ok;
}

static bool take_bytes(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    for (unsigned b = 0; b < 256; b++) {
        char c[4];
        size_t n = cp_put(c, bytelevel_char((unsigned char)b));
        if (!strmap_get(&t->vocabulary, c, n, &t->bpe.byte_id[b])) t->bpe.byte_id[b] = BPE_NONE;
    }
    t->bpe.unknown = BPE_NONE;
    t->bpe.fuse_unknown = s->fuse_unknown;
    return !s->unknown ||
           strmap_get(&t->vocabulary, s->unknown, strlen(s->unknown), &t->bpe.unknown) ||
           err_set(e, ERR_CORRUPT, "unk_token \"%.64s\" is not a token", s->unknown);
}

static void take_ids(struct tokenizer *t, const struct token_spec *s)
{
    t->adds_bos = s->adds_bos;
    t->bos = s->bos;
    t->eos = s->eos;
    if (t->eos != NO_TOKEN) t->flag[t->eos] |= FLAG_ENDS;
    for (size_t i = 0; i < s->n_ender; i++) t->flag[s->ender[i]] |= FLAG_ENDS;
}

struct tokenizer *tokenizer_build(const struct token_spec *s, struct err *e)
{
    struct tokenizer *t = mem_new(sizeof *t);
    arena_init(&t->arena, 0);
    if (!take_rows(t, s, e) || !take_texts(t, s, e) || !take_special_rows(t, s, e) ||
        !take_bytes(t, s, e) || !take_merges(t, s, e) ||
        !pretokenizer_init(&t->pre, &s->plan, e) || !chat_init(&t->chat, s->chat_template, e)) {
        tokenizer_free(t);
        return NULL;
    }
    take_ids(t, s);
    return t;
}

void token_spec_release(struct token_spec *s) { arena_release(&s->arena); }

struct tokenizer *tokenizer_new(const struct modelfile *f, struct err *e)
{
    struct token_spec s;
    const struct gguf *g = modelfile_gguf(f);
    struct token_files files = {modelfile_tokenizer(f), modelfile_tokenizer_config(f),
                                modelfile_generation_config(f), modelfile_config(f),
                                modelfile_chat_template(f)};
    if (!g && !files.tokenizer) {
        (void)err_set(e, ERR_NOT_FOUND, "%s has no tokenizer.json", modelfile_path(f));
        return NULL;
    }
    bool ok = g ? token_spec_from_gguf(&s, g, e) : token_spec_from_json(&s, &files, e);
    struct tokenizer *t = ok ? tokenizer_build(&s, e) : NULL;
    token_spec_release(&s);
    if (!t) (void)err_while(e, "reading the tokenizer of %s", modelfile_path(f));
    return t;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t) return;
    strmap_release(&t->vocabulary);
    bpe_release(&t->bpe);
    pretokenizer_release(&t->pre);
    special_set_release(&t->raw);
    special_set_release(&t->normalized);
    chat_release(&t->chat);
    arena_release(&t->arena);
    mem_drop(t);
}

/* ---- asking ------------------------------------------------------------------------------ */

uint32_t tokenizer_size(const struct tokenizer *t) { return (uint32_t)t->n; }
bool tokenizer_adds_bos(const struct tokenizer *t) { return t->adds_bos && t->bos != NO_TOKEN; }
bool tokenizer_has_chat(const struct tokenizer *t) { return t->chat.known; }

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
    struct pretokenize_run *run;
    const struct section *sections;
    struct buf spelling;
    struct ids *out;
};

static bool on_word(void *context, const char *bytes, size_t len, struct err *e)
{
    struct encoder *c = context;
    uint32_t id;
    if (c->t->pre.plan.ignore_merges) {
        c->spelling.len = 0;
        bytelevel_encode(bytes, len, &c->spelling);
        if (!buf_ok(&c->spelling, e)) return false;
        if (strmap_get(&c->t->vocabulary, c->spelling.data, c->spelling.len, &id))
            return ids_push(c->out, id, e);
    }
    return bpe_word(&c->t->bpe, &c->work, bytes, len, c->out, e);
}

static bool on_token(void *context, uint32_t id, struct err *e)
{
    struct encoder *c = context;
    return ids_push(c->out, id, e);
}

static bool on_plain(void *context, const char *text, size_t len, size_t at, struct err *e)
{
    (void)at;
    struct encoder *c = context;
    return pretokenize(c->run, text, len, on_word, c, e);
}

/* Text that holds no raw tokens: normalise it, then look for the tokens that come after that. */
static bool on_text(void *context, const char *text, size_t len, size_t at, struct err *e)
{
    struct encoder *c = context;
    const struct special_sink sink = {on_plain, on_token, c};
    if (!c->t->pre.plan.nfc)
        return special_cut(&c->t->normalized, text, len, c->sections, at, &sink, e);
    struct buf normal = {0};
    bool ok = nfc(text, len, &normal, e);
    if (ok) { /* special tokens are never among these, so sections have nothing to say */
        const struct section whole = {normal.len, false};
        ok = special_cut(&c->t->normalized, normal.data ? normal.data : "", normal.len, &whole, 0,
                         &sink, e);
    }
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
                            const struct section *sections, struct ids *out, struct err *e)
{
    if (!check_text(text, len, e)) return false;
    if (len == 0) return true;
    struct encoder c = {.t = t, .sections = sections, .out = out};
    const struct special_sink sink = {on_text, on_token, &c};
    size_t had = out->n;
    c.run = pretokenize_run_new(&t->pre, e);
    bool ok = c.run && special_cut(&t->raw, text, len, sections, 0, &sink, e);
    pretokenize_run_free(c.run);
    bpe_work_release(&c.work);
    buf_release(&c.spelling);
    if (!ok) out->n = had;
    return ok;
}

bool tokenizer_encode(const struct tokenizer *t, const char *text, size_t len, bool parse_special,
                      struct ids *out, struct err *e)
{
    const struct section whole = {len, parse_special};
    return encode_sections(t, text, len, &whole, out, e);
}

bool tokenizer_chat(const struct tokenizer *t, const struct message *m, size_t n,
                    bool add_generation_prompt, struct ids *out, struct buf *rendered,
                    struct err *e)
{
    struct buf text = {0};
    struct section *sections = NULL;
    bool ok = chat_render(&t->chat, m, n, add_generation_prompt, &text, &sections, e) &&
              encode_sections(t, text.data ? text.data : "", text.len, sections, out, e);
    if (ok && rendered) buf_put(rendered, text.data ? text.data : "", text.len);
    buf_release(&text);
    mem_drop(sections);
    return ok;
}

/* ---- decoding ---------------------------------------------------------------------------- */

const char *tokenizer_piece(const struct tokenizer *t, uint32_t id, size_t *len)
{
    *len = id < t->n ? t->piece_len[id] : 0;
    return id < t->n ? t->piece[id] : "";
}

void tokenizer_decode(const struct tokenizer *t, const uint32_t *id, size_t n, bool keep_special,
                      struct buf *out)
{
    struct buf raw = {0};
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *piece = tokenizer_piece(t, id[i], &len);
        if (keep_special || !tokenizer_is_special(t, id[i])) buf_put(&raw, piece, len);
    }
    utf8_repair(raw.data ? raw.data : "", raw.len, out);
    out->failed = out->failed || raw.failed;
    buf_release(&raw);
}

void tokenizer_show(const struct tokenizer *t, uint32_t id, struct buf *out)
{
    size_t len;
    const char *piece = tokenizer_piece(t, id, &len);
    utf8_repair(piece, len, out);
}
