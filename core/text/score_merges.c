/* The merges that a SentencePiece vocabulary implies. It joins any two neighbours whose joined text is
 * a token, best score first; so every cut of a token into two parts that can come to stand there is
 * a merge, ranked by the token's score. Equal scores are one rank, and the leftmost goes first. */
#include <string.h>

#include "codepoint.h"
#include "tokenizer_int.h"

struct row {
    float score;
    uint32_t result, left_len; /* the cut: bytes of the token's text */
    uint32_t left, right;      /* ids, or NO_TOKEN for a character that is none */
};
struct rows {
    struct row *row;
    size_t n, cap;
};

static bool push(struct rows *r, const struct row *row, struct err *e)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 1024;
        struct row *grown = mem_take(cap, sizeof *grown, e);
        if (!grown) return false;
        if (r->n) memcpy(grown, r->row, r->n * sizeof *grown);
        mem_drop(r->row);
        r->row = grown;
        r->cap = cap;
    }
    r->row[r->n++] = *row;
    return true;
}

/* Can the text come to stand as one symbol? Every single character does, token or not. */
static bool stands(const struct strmap *map, const char *text, size_t len, uint32_t *id)
{
    uint32_t cp;
    *id = NO_TOKEN;
    return strmap_get(map, text, len, id) || cp_next(text, len, &cp) == len;
}

static bool cut_token(const struct token_spec *s, const struct strmap *map, uint32_t id, float score,
                      struct rows *r, struct err *e)
{
    const struct token_row *t = &s->token[id];
    for (size_t at = 0; at < t->len;) {
        uint32_t cp;
        struct row row = {score, id, 0, 0, 0};
        at += cp_next(t->text + at, t->len - at, &cp);
        row.left_len = (uint32_t)at;
        if (at == t->len || !stands(map, t->text, at, &row.left) ||
            !stands(map, t->text + at, t->len - at, &row.right))
            continue;
        if (!push(r, &row, e)) return false;
    }
    return true;
}

/* Best score first; what follows only makes the order one of its own, the one that transformers
 * writes merges in. */
static int by_score(const void *pa, const void *pb)
{
    const struct row *a = pa, *b = pb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    if (a->result != b->result) return a->result < b->result ? -1 : 1;
    if (a->left != b->left) return a->left < b->left ? -1 : 1;
    return a->right < b->right ? -1 : a->right > b->right;
}

static bool keep(struct token_spec *s, const struct rows *r, struct err *e)
{
    uint32_t rank = 0;
    s->merge = arena_take(&s->arena, r->n, sizeof *s->merge, e);
    if (!s->merge) return false;
    s->n_merge = r->n;
    for (size_t i = 0; i < r->n; i++) {
        const struct row *row = &r->row[i];
        const struct token_row *t = &s->token[row->result];
        rank += i > 0 && row->score != r->row[i - 1].score;
        s->merge[i] = (struct merge_row){t->text, t->text + row->left_len, row->left_len,
                                         t->len - row->left_len, rank};
    }
    return true;
}

bool token_spec_score_merges(struct token_spec *s, const float *score, struct err *e)
{
    struct strmap map = {0};
    struct rows rows = {0};
    size_t bad;
    if (!strmap_init(&map, s->n, e)) return false;
    bool ok = true;
    for (size_t i = 0; ok && i < s->n; i++) {
        const struct token_row *t = &s->token[i];
        if (!t->in_vocabulary) continue;
        ok = utf8_valid(t->text, t->len, &bad) || err_set(e, ERR_CORRUPT, "token %zu is not UTF-8", i);
        if (ok) strmap_put(&map, t->text, t->len, (uint32_t)i);
    }
    for (size_t i = 0; ok && i < s->n; i++) {
        uint32_t meant;
        const struct token_row *t = &s->token[i];
        if (t->in_vocabulary && strmap_get(&map, t->text, t->len, &meant) && meant == i)
            ok = cut_token(s, &map, (uint32_t)i, score[i], &rows, e);
    }
    if (ok && rows.n) qsort(rows.row, rows.n, sizeof *rows.row, by_score);
    ok = ok && keep(s, &rows, e);
    mem_drop(rows.row);
    strmap_release(&map);
    return ok;
}
