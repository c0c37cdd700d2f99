/* A tokenizer from its description. */
#include <assert.h>
#include <string.h>

#include "bytelevel.h"
#include "codepoint.h"
#include "tokenizer_int.h"

enum { MARK = 0x2581 };

static bool take_rows(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    t->n = s->n;
    t->spelling = arena_take(&t->arena, s->n, sizeof *t->spelling, e);
    t->spelling_len = t->spelling ? arena_take(&t->arena, s->n, sizeof *t->spelling_len, e) : NULL;
    t->piece = t->spelling_len ? arena_take(&t->arena, s->n, sizeof *t->piece, e) : NULL;
    t->piece_len = t->piece ? arena_take(&t->arena, s->n, sizeof *t->piece_len, e) : NULL;
    t->flag = t->piece_len ? arena_take(&t->arena, s->n, 1, e) : NULL;
    return t->flag != NULL && strmap_init(&t->vocabulary, s->n, e);
}

/* What token i stands for. In byte-level vocabularies an added token stands for its own spelling. */
static bool take_piece(struct tokenizer *t, const struct token_spec *s, size_t i, struct err *e)
{
    const char *text = t->spelling[i];
    size_t len = t->spelling_len[i];
    unsigned char byte;
    t->piece[i] = text;
    t->piece_len[i] = (uint32_t)len;
    if (s->detokenize.byte_level && s->token[i].kind == TOKEN_PLAIN) {
        char *raw = arena_take(&t->arena, len + 1, 1, e);
        if (!raw) return false;
        t->piece_len[i] = (uint32_t)bytelevel_decode(text, len, raw);
        t->piece[i] = raw;
    }
    if (s->detokenize.byte_level) return true;
    if (s->detokenize.byte_fallback && detokenize_byte(text, len, &byte)) t->flag[i] |= FLAG_BYTE;
    struct buf b = {0};
    detokenize_piece(&s->detokenize, text, len, false, &b);
    bool same = b.len == len && (!len || memcmp(b.data, text, len) == 0);
    bool ok = buf_ok(&b, e);
    if (ok && !same) {
        t->piece[i] = arena_text(&t->arena, b.data ? b.data : "", b.len, e);
        t->piece_len[i] = (uint32_t)b.len;
        ok = t->piece[i] != NULL;
    }
    buf_release(&b);
    return ok;
}

static bool take_texts(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct token_row *row = &s->token[i];
        size_t bad;
        t->spelling[i] = t->piece[i] = "";
        if (row->kind == TOKEN_HOLE) continue;
        if (!utf8_valid(row->text, row->len, &bad))
            return err_set(e, ERR_CORRUPT, "token %zu is not UTF-8", i);
        char *text = arena_text(&t->arena, row->text, row->len, e);
        if (!text) return false;
        if (row->in_vocabulary) strmap_put(&t->vocabulary, text, row->len, (uint32_t)i);
        t->spelling[i] = text;
        t->spelling_len[i] = row->len;
        if (row->kind == TOKEN_SPECIAL) t->flag[i] |= FLAG_SPECIAL;
        if (row->kind == TOKEN_SPECIAL && special_ends_generation(text, row->len))
            t->flag[i] |= FLAG_ENDS;
        if (!take_piece(t, s, i, e)) return false;
    }
    return true;
}

/* The spelling of an added token as normalised text has it. */
static bool normalise_special(struct tokenizer *t, struct special *special, struct err *e)
{
    struct buf b = {0};
    bool ok = normalize(&t->normal, special->text, special->len, false, &b, e);
    special->len = (uint32_t)b.len;
    special->text = ok ? arena_text(&t->arena, b.data ? b.data : "", b.len, e) : NULL;
    buf_release(&b);
    return special->text != NULL;
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
        struct special special = {t->spelling[i],   t->spelling_len[i], (uint32_t)i,
                                  row->kind == TOKEN_SPECIAL, row->single_word, row->lstrip,
                                  row->rstrip};
        if (row->normalized && !normalise_special(t, &special, e)) return false;
        special_set_add(row->normalized ? &t->normalized : &t->raw, &special);
    }
    special_set_finish(&t->raw);
    special_set_finish(&t->normalized);
    return true;
}

/* ---- symbols and merges ---------------------------------------------------------------------- */

/* The one character a text is. */
static bool one_character(const char *text, size_t len, uint32_t *cp)
{
    return len > 0 && cp_next(text, len, cp) == len;
}

static bool take_characters(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        uint32_t cp;
        unsigned char byte;
        const struct token_row *row = &s->token[i];
        if (row->kind == TOKEN_HOLE) continue;
        if (row->in_vocabulary && one_character(row->text, row->len, &cp) &&
            !bpe_character(&t->bpe, cp, (uint32_t)i, e))
            return false;
        if (s->byte_fallback && detokenize_byte(row->text, row->len, &byte) &&
            !(row->text[3] >= 'a' || row->text[4] >= 'a'))
            t->bpe.byte_id[byte] = (uint32_t)i;
    }
    return true;
}

static bool take_symbols(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    t->bpe.by_character = !s->plan.byte_level;
    t->bpe.n_tokens = (uint32_t)s->n;
    t->bpe.unknown = s->unknown == NO_TOKEN ? BPE_NONE : s->unknown;
    t->bpe.fuse_unknown = s->fuse_unknown;
    for (unsigned b = 0; b < 256; b++) t->bpe.byte_id[b] = BPE_NONE;
    if (t->bpe.by_character) return take_characters(t, s, e);
    for (unsigned b = 0; b < 256; b++) {
        char c[4];
        (void)strmap_get(&t->vocabulary, c, cp_put(c, bytelevel_char((unsigned char)b)),
                         &t->bpe.byte_id[b]);
    }
    return true;
}

static bool spelled(struct tokenizer *t, const char *text, size_t len, size_t merge, bool spare,
                    uint32_t *id, struct err *e)
{
    uint32_t cp;
    if (strmap_get(&t->vocabulary, text, len, id)) return true;
    if (spare && one_character(text, len, &cp)) return bpe_spare(&t->bpe, cp, id, e);
    return err_set(e, ERR_CORRUPT, "merge %zu names \"%.*s\", which is not a token", merge,
                   (int)(len < 64 ? len : 64), text);
}

/* Does a mark follow anything but a mark in the text? */
static bool mark_inside(const char *text, size_t len)
{
    uint32_t cp, before = MARK;
    for (size_t at = 0; at < len; before = cp) {
        at += cp_next(text + at, len - at, &cp);
        if (cp == MARK && before != MARK) return true;
    }
    return false;
}

/* The symbol that the character stands as in a new word. A merge of what unknown characters or
 * bytes become has no spelling to tell it from. */
static bool border(struct tokenizer *t, uint32_t cp, uint32_t part, uint32_t *symbol)
{
    int byte = bytelevel_byte(cp);
    *symbol = t->bpe.by_character ? bpe_symbol_of(&t->bpe, cp) : byte >= 0 ? t->bpe.byte_id[byte] : BPE_NONE;
    bool fallback = part < t->n && t->bpe.by_character && (t->flag[part] & FLAG_BYTE);
    return *symbol != BPE_NONE && part != t->bpe.unknown && !fallback;
}

static void note_border(struct tokenizer *t, const struct merge_row *m, struct bpe_merge *out)
{
    uint32_t last, first;
    (void)cp_before(m->left, m->left_len, &last);
    (void)cp_next(m->right, m->right_len, &first);
    if (!border(t, last, out->left, &out->last)) out->last = BPE_NONE;
    if (!border(t, first, out->right, &out->first)) out->first = BPE_NONE;
}

static bool resolve_merge(struct tokenizer *t, const struct token_spec *s, size_t i,
                          struct bpe_merge *out, struct buf *joined, struct err *e)
{
    const struct merge_row *m = &s->merge[i];
    joined->len = 0;
    buf_put(joined, m->left, m->left_len);
    buf_put(joined, m->right, m->right_len);
    out->rank = m->rank;
    if (!buf_ok(joined, e) || !spelled(t, m->left, m->left_len, i, s->spare, &out->left, e) ||
        !spelled(t, m->right, m->right_len, i, s->spare, &out->right, e) ||
        !spelled(t, joined->data, joined->len, i, false, &out->result, e))
        return false;
    note_border(t, m, out);
    t->cuts_at_marks = t->cuts_at_marks && !mark_inside(joined->data, joined->len);
    return true;
}

/* Else what is left and right of a dropped character would touch. */
static bool drops_nothing(const struct bpe *b)
{
    bool all = true;
    for (size_t i = 0; i < 256; i++) all = all && b->byte_id[i] != BPE_NONE;
    return all || b->unknown != BPE_NONE;
}

static bool take_merges(struct tokenizer *t, const struct token_spec *s, struct err *e)
{
    struct bpe_merge *merge = mem_take(s->n_merge, sizeof *merge, e);
    struct buf joined = {0};
    bool ok = merge != NULL;
    t->cuts_at_marks = t->bpe.by_character && bpe_symbol_of(&t->bpe, MARK) != BPE_NONE && drops_nothing(&t->bpe);
    for (size_t i = 0; ok && i < s->n_merge; i++) ok = resolve_merge(t, s, i, &merge[i], &joined, e);
    ok = ok && bpe_init(&t->bpe, merge, s->n_merge, e);
    buf_release(&joined);
    mem_drop(merge);
    return ok;
}

static void take_ids(struct tokenizer *t, const struct token_spec *s)
{
    t->adds_bos = s->adds_bos;
    t->bos = s->bos;
    t->eos = s->eos;
    t->named_bos = s->named_bos;
    t->named_eos = s->named_eos;
    if (t->eos != NO_TOKEN) t->flag[t->eos] |= FLAG_ENDS;
    for (size_t i = 0; i < s->n_ender; i++) t->flag[s->ender[i]] |= FLAG_ENDS;
}

struct tokenizer *tokenizer_build(const struct token_spec *s, struct err *e)
{
    struct tokenizer *t = mem_new(sizeof *t);
    arena_init(&t->arena, 0);
    t->detokenize = s->detokenize;
    if (!take_rows(t, s, e) || !take_texts(t, s, e) || !normalizer_init(&t->normal, &s->normal, e) ||
        !take_special_rows(t, s, e) || !take_symbols(t, s, e) || !take_merges(t, s, e) ||
        !pretokenizer_init(&t->pre, &s->plan, false, e) || !chat_init(&t->chat, s->chat_template, e)) {
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
    normalizer_release(&t->normal);
    special_set_release(&t->raw);
    special_set_release(&t->normalized);
    chat_release(&t->chat);
    arena_release(&t->arena);
    mem_drop(t);
}
