#include "decode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "head.h"

struct decoder {
    struct view *view;
    struct taps *taps;
    const struct decode_request *q;
    struct decode_result *result;
    size_t n, tokens, next;  /* next: first that has not begun */
    struct run *run;         /* of every live sequence: its prompt, or its newest token */
    struct run_input *input;
    size_t *live, n_live;    /* which sequence each input of the run is */
    uint32_t *last;          /* newest token of each */
    uint32_t *final_pos;     /* of a prompt: its last position */
};

void decoder_plan(const struct arch *a, const struct decode_request *q, size_t n, int threads, struct plan *p)
{
    enum { CANDIDATE_BYTES = 20 }; /* of a sorted vocabulary, core/sample.c */
    size_t live = n < DECODE_ROWS ? n : DECODE_ROWS, most = 0, sum = 0;
    struct run_size prompts = {0};
    for (size_t i = 0; i < n; i++) {
        size_t length = (size_t)q[i].n_prompt + q[i].max_tokens;
        if (length > a->context) length = a->context;
        size_t bytes = kv_bytes(a, length);
        if (bytes > most) most = bytes;
        sum = plan_sum(sum, bytes);
        run_size_add(&prompts, a, length - q[i].n_prompt, q[i].n_prompt, 1, true);
    }
    plan_add(p, NEED_CACHES, n <= DECODE_ROWS ? sum : plan_times(live, most));
    plan_add(p, NEED_LOGITS, mem_floats_bytes(live * ((size_t)a->d_model + a->d_vocab)));
    plan_add(p, NEED_LOGITS, (size_t)a->d_vocab * CANDIDATE_BYTES);
    run_plan(&prompts, a, threads, p);
}

struct decoder *decoder_new(struct view *v, const struct decode_request *q, size_t n,
                            struct taps *taps, struct err *e)
{
    struct decoder *d = mem_new(sizeof *d);
    d->view = view_retain(v);
    d->taps = taps;
    d->q = q;
    d->n = n;
    d->result = mem_take(n, sizeof *d->result, e);
    d->input = mem_take(n, sizeof *d->input, e);
    d->live = mem_take(n, sizeof *d->live, e);
    d->last = mem_take(n, sizeof *d->last, e);
    d->final_pos = mem_take(n, sizeof *d->final_pos, e);
    if (d->result && d->input && d->live && d->last && d->final_pos) return d;
    decoder_free(d);
    return NULL;
}

void decoder_free(struct decoder *d)
{
    if (!d) return;
    run_free(d->run);
    for (size_t i = 0; d->result && i < d->n; i++) {
        ids_release(&d->result[i].ids);
        buf_release(&d->result[i].text);
        kv_free(d->result[i].kv);
    }
    mem_drop(d->result);
    mem_drop(d->input);
    mem_drop(d->live);
    mem_drop(d->last);
    mem_drop(d->final_pos);
    view_drop(d->view);
    mem_drop(d);
}

/* New sequences take the places of those that have ended. */
static void admit(struct decoder *d)
{
    while (d->next < d->n && d->n_live < DECODE_ROWS) {
        struct decode_result *r = &d->result[d->next];
        r->kv = kv_new(&view_model(d->view)->arch);
        random_init(&r->random, d->q[d->next].seed);
        d->live[d->n_live++] = d->next++;
    }
}

static bool begin(struct decoder *d, struct err *e)
{
    admit(d);
    for (size_t k = 0; k < d->n_live; k++) {
        size_t i = d->live[k];
        const struct decode_request *q = &d->q[i];
        bool prefill = d->result[i].ids.n == 0;
        d->final_pos[i] = prefill ? q->n_prompt - 1 : 0;
        d->input[k] = (struct run_input){.ids = prefill ? q->prompt : &d->last[i],
                                         .n = prefill ? q->n_prompt : 1,
                                         .kv = d->result[i].kv, .seq = (uint32_t)i,
                                         .want = &d->final_pos[i], .n_want = 1};
    }
    d->run = run_new(d->view, d->input, d->n_live, d->taps, e);
    return d->run != NULL;
}

/* The earliest stop string in text[from…]; from starts a little before the newest piece. */
static bool find_stop(const struct decode_request *q, struct decode_result *r, size_t old_len)
{
    const char *best = NULL;
    for (size_t i = 0; i < q->n_stop; i++) {
        size_t n = strlen(q->stop[i]), from = old_len >= n ? old_len - n + 1 : 0;
        if (!n || !r->text.data || r->text.len < n) continue;
        const char *at = memmem(r->text.data + from, r->text.len - from, q->stop[i], n);
        if (at && (!best || at < best)) {
            best = at;
            r->stop = i;
        }
    }
    if (!best) return false;
    r->text.len = (size_t)(best - r->text.data);
    r->text.data[r->text.len] = '\0';
    return true;
}

static bool take_token(struct decoder *d, size_t i, const float *logits, struct err *e)
{
    const struct model *m = view_model(d->view);
    const struct decode_request *q = &d->q[i];
    struct decode_result *r = &d->result[i];
    uint32_t id;
    if (!sample(logits, m->arch.d_vocab, &q->sampling, &r->random, &id, e) ||
        !ids_push(&r->ids, id, e))
        return false;
    r->last_logprob = log_prob(logits, m->arch.d_vocab, id);
    if (!isfinite(r->last_logprob))
        return err_set(e, ERR_NONFINITE, "the logits after token %zu are not finite", q->n_prompt + r->ids.n - 1);
    d->last[i] = id;
    d->tokens++;
    size_t len, old = r->text.len;
    const char *piece = tokenizer_piece(m->tokenizer, id, &len);
    if (!tokenizer_is_special(m->tokenizer, id)) buf_put(&r->text, piece, len);
    if (!buf_ok(&r->text, e)) return false;
    if (tokenizer_ends_generation(m->tokenizer, id)) r->finish = FINISH_END_TOKEN;
    else if (find_stop(q, r, old)) r->finish = FINISH_STOP_STRING;
    else if (r->ids.n >= q->max_tokens || q->n_prompt + r->ids.n >= m->arch.context)
        r->finish = FINISH_LENGTH;
    return true;
}

/* Logits of every live sequence's newest position; where somebody listens, one by one. */
static bool newest_logits(struct decoder *d, struct session *s, const float *rows, float *logits, struct err *e)
{
    const struct arch *a = &view_model(d->view)->arch;
    if (!head_listens(d->taps)) return unembed(s, d->view, rows, d->n_live, NULL, logits, e);
    for (size_t k = 0; k < d->n_live; k++) {
        size_t i = d->live[k];
        uint32_t pos = d->q[i].n_prompt + (uint32_t)d->result[i].ids.n - 1;
        const struct head_rows at = {d->taps, (uint32_t)i, &pos};
        if (!unembed(s, d->view, rows + k * a->d_model, 1, &at, logits + k * a->d_vocab, e)) return false;
    }
    return true;
}

static bool end(struct decoder *d, struct session *s, struct err *e)
{
    size_t n_live = 0, width = view_model(d->view)->arch.d_model, V = view_model(d->view)->arch.d_vocab;
    float *rows = mem_floats(d->n_live * (width + V), e), *logits = rows ? rows + d->n_live * width : NULL;
    if (!rows) return false;
    for (size_t k = 0; k < d->n_live; k++)
        memcpy(rows + k * width, run_final(d->run, k), width * sizeof *rows);
    bool ok = newest_logits(d, s, rows, logits, e);
    for (size_t k = 0; ok && k < d->n_live; k++) {
        size_t i = d->live[k];
        ok = take_token(d, i, logits + k * V, e);
        if (d->result[i].finish == FINISH_NOT_YET) {
            d->live[n_live++] = i;
        } else {
            kv_free(d->result[i].kv);
            d->result[i].kv = NULL;
        }
    }
    d->n_live = n_live;
    mem_drop(rows);
    run_free(d->run);
    d->run = NULL;
    return ok;
}

enum step decoder_step(struct decoder *d, struct session *s, struct err *e)
{
    if (d->n_live == 0 && d->next == d->n) return STEP_DONE;
    if (!d->run && !begin(d, e)) return STEP_FAIL;
    enum step step = run_step(d->run, s, e);
    if (step != STEP_DONE) return step;
    if (!end(d, s, e)) return STEP_FAIL;
    return d->n_live || d->next < d->n ? STEP_MORE : STEP_DONE;
}

const struct decode_result *decoder_result(const struct decoder *d, size_t i) { return &d->result[i]; }
size_t decoder_tokens(const struct decoder *d) { return d->tokens; }

/* Bytes at the end that start a character without finishing it. */
static size_t open_character(const char *text, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)text[n - back];
        if ((c & 0xc0) == 0x80) continue;
        size_t need = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

size_t decode_safe(const struct decoder *d, size_t i)
{
    const struct decode_result *r = &d->result[i];
    size_t n = r->text.len;
    if (r->finish != FINISH_NOT_YET || !n) return n;
    n -= open_character(r->text.data, n);
    for (size_t s = 0; s < d->q[i].n_stop; s++) { /* the longest tail that may become a stop */
        size_t len = strlen(d->q[i].stop[s]);
        for (size_t k = len ? len - 1 : 0; k; k--)
            if (k <= r->text.len && memcmp(r->text.data + r->text.len - k, d->q[i].stop[s], k) == 0) {
                if (r->text.len - k < n) n = r->text.len - k;
                break;
            }
    }
    return n;
}
