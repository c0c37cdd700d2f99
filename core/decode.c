#include "decode.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/kernel/kv.h"
#include "core/kernel/softmax.h"
#include "core/text/codepoint.h"
#include "head.h"

struct place { /* a row of the run's results */
    size_t input;     /* of the run… */
    uint32_t row;     /* …and which of the rows it was asked for */
    uint32_t pos;     /* its position in the sequence */
};

struct decoder {
    struct view *view;
    const struct view_pair *pair; /* or NULL */
    struct taps *taps;
    const struct decode_request *q;
    struct decode_result *result;
    size_t n, tokens, next;  /* next: first that has not begun */
    struct run *run;         /* of every live sequence: its prompt, or its newest token */
    struct run_input *input;
    size_t n_inputs, *of;    /* of: which sequence each input is */
    size_t *live, n_live;
    size_t *leader;          /* of each sequence: whose prompt it goes on from, perhaps itself */
    size_t *input_of;        /* of each live sequence's newest row; followers share their leader's */
    uint32_t *last;          /* newest token of each */
    uint32_t *position;      /* 0, 1, 2, … to the longest prompt */
    size_t scored;           /* first input whose prompt is not wholly scored */
    float *rows, *logits;    /* of one batch of places */
};

static uint32_t *count_up(const struct decode_request *q, size_t n, struct err *e)
{
    size_t most = 1;
    for (size_t i = 0; i < n; i++) most = q[i].n_prompt > most ? q[i].n_prompt : most;
    uint32_t *p = mem_take(most, sizeof *p, e);
    for (size_t i = 0; p && i < most; i++) p[i] = (uint32_t)i;
    return p;
}

/* Log-probabilities of so many places, while their lists grow. */
static size_t scores_bytes(const struct decode_request *q, size_t places)
{
    return plan_times(3 * places, sizeof(double) + q->n_top * sizeof(struct logprob));
}

uint32_t decode_most(const struct arch *a, const struct decode_request *q)
{
    uint32_t room = q->n_prompt < a->context ? a->context - q->n_prompt : 1;
    return q->max_tokens < room ? q->max_tokens : room;
}

/* Caches of all, unless DECODE_ROWS and DECODE_POSITIONS let only some of them live at a time. */
static size_t caches_bytes(const struct arch *a, const struct decode_request *q, size_t n)
{
    size_t live = n < DECODE_ROWS ? n : DECODE_ROWS, sum = 0, longest = 0, tokens = 0;
    for (size_t i = 0; i < n; i++) {
        size_t length = (size_t)q[i].n_prompt + q[i].max_tokens;
        if (q[i].max_tokens <= 1) continue; /* nobody attends to the one token that ends a sequence */
        if (length > a->context) length = a->context;
        if (length > longest) longest = length;
        if (q[i].max_tokens > tokens) tokens = q[i].max_tokens;
        sum = plan_sum(sum, kv_bytes(a, length));
    }
    size_t each = plan_times(live, kv_bytes(a, longest)), most = DECODE_POSITIONS + live * (tokens + KV_BLOCK),
           together = kv_bytes(a, most > longest ? most : longest);
    if (sum > each) sum = each;
    return sum < together ? sum : together;
}

void decoder_plan(const struct arch *a, const struct decode_request *q, size_t n, int threads, struct plan *p)
{
    enum { CANDIDATE_BYTES = 20 }; /* of a sorted vocabulary, core/sample.c */
    size_t rows = n < DECODE_ROWS ? n : DECODE_ROWS, at_once = DECODE_POSITIONS;
    struct run_size prompts = {0};
    for (size_t i = 0; i < n; i++) {
        size_t want = q[i].score_prompt ? q[i].n_prompt : 1, later = q[i].max_tokens;
        if (q[i].n_prompt > at_once) at_once = q[i].n_prompt;
        if (q[i].score_prompt) rows = DECODE_ROWS;
        if (q[i].score_prompt) plan_add(p, NEED_LOGITS, scores_bytes(&q[i], q[i].n_prompt));
        if (q[i].score_tokens) plan_add(p, NEED_LOGITS, scores_bytes(&q[i], later < a->context ? later : a->context));
        if (later > a->context - q[i].n_prompt) later = a->context - q[i].n_prompt;
        run_size_add(&prompts, later, q[i].n_prompt, want, later > 1);
    }
    if (prompts.wanted > at_once) prompts.wanted = at_once;
    plan_add(p, NEED_CACHES, caches_bytes(a, q, n));
    plan_add(p, NEED_LOGITS, mem_floats_bytes(rows * ((size_t)a->d_model + a->d_vocab)));
    plan_add(p, NEED_LOGITS, (size_t)a->d_vocab * CANDIDATE_BYTES);
    run_plan(&prompts, a, threads, p);
}

void decoder_plan_beside(const struct arch *a, const struct decode_request *q, size_t n, bool terms, struct plan *p)
{
    struct run_size prompts = {0};
    for (size_t i = 0; i < n; i++) run_size_add(&prompts, 0, q[i].n_prompt, 1, q[i].max_tokens > 1);
    plan_add(p, NEED_CACHES, caches_bytes(a, q, n));
    run_plan_beside(&prompts, a, terms, true, p);
}

void decoder_beside(struct decoder *d, const struct view_pair *p) { d->pair = p; }

struct decoder *decoder_new(struct view *v, const struct decode_request *q, size_t n,
                            struct taps *taps, struct err *e)
{
    struct decoder *d = mem_new(sizeof *d);
    const struct arch *a = &view_model(v)->arch;
    size_t rows = n < DECODE_ROWS ? n : DECODE_ROWS;
    bool scores = false;
    for (size_t i = 0; i < n; i++) scores = scores || q[i].score_prompt;
    if (scores) rows = DECODE_ROWS;
    d->view = view_retain(v);
    d->taps = taps;
    d->q = q;
    d->n = n;
    d->result = mem_take(n, sizeof *d->result, e);
    d->input = mem_take(n, sizeof *d->input, e);
    d->of = mem_take(n, sizeof *d->of, e);
    d->live = mem_take(n, sizeof *d->live, e);
    d->leader = mem_take(n, sizeof *d->leader, e);
    d->input_of = mem_take(n, sizeof *d->input_of, e);
    d->last = mem_take(n, sizeof *d->last, e);
    d->position = count_up(q, n, e);
    d->rows = mem_floats(rows * ((size_t)a->d_model + a->d_vocab), e);
    d->logits = d->rows ? d->rows + rows * a->d_model : NULL;
    if (d->result && d->input && d->of && d->live && d->leader && d->input_of && d->last && d->position && d->rows)
        return d;
    decoder_free(d);
    return NULL;
}

void decoder_free(struct decoder *d)
{
    if (!d) return;
    run_free(d->run);
    for (size_t i = 0; d->result && i < d->n; i++) {
        struct decode_result *r = &d->result[i];
        ids_release(&r->ids);
        ids_release(&r->ends);
        buf_release(&r->text);
        logprobs_release(&r->prompt);
        logprobs_release(&r->tokens);
        kv_free(r->kv);
        kv_free(r->kv_against);
    }
    void *const parts[] = {d->result, d->input, d->of, d->live, d->leader, d->input_of, d->last, d->position, d->rows};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) mem_drop(parts[i]);
    view_drop(d->view);
    mem_drop(d);
}

/* ---- a run ------------------------------------------------------------------------------------- */

static bool reads_prompt(const struct decoder *d, size_t i) { return d->result[i].ids.n == 0; }

/* Ids of a prompt that a pass has any use for: nothing follows the last one when nothing is
 * generated, and nothing at all is asked of a prompt that is not scored then. */
static uint32_t fed(const struct decode_request *q)
{
    return q->max_tokens ? q->n_prompt : q->score_prompt ? q->n_prompt - 1 : 0;
}

static size_t positions_held(const struct decoder *d)
{
    size_t held = 0;
    for (size_t k = 0; k < d->n_live; k++) held += d->q[d->live[k]].n_prompt + d->result[d->live[k]].ids.n;
    return held;
}

static void begin_one(struct decoder *d, size_t i, bool follows)
{
    struct decode_result *r = &d->result[i];
    const struct decode_request *q = &d->q[i];
    r->prompt.n_top = r->tokens.n_top = q->n_top;
    random_init(&r->random, q->seed);
    d->leader[i] = follows ? d->leader[i - 1] : i;
    if (fed(q) == 0) {
        r->finish = FINISH_LENGTH;
        return;
    }
    /* Nobody attends to the one token of a sequence that ends with it. */
    if (!follows && q->max_tokens > 1) {
        r->kv = kv_new(&view_model(d->view)->arch);
        r->kv_against = d->pair ? kv_new(&view_model(d->view)->arch) : NULL;
    }
    d->live[d->n_live++] = i;
}

/* New sequences take the places of those that have ended. */
static void admit(struct decoder *d)
{
    size_t first = d->next, held = positions_held(d);
    while (d->next < d->n && d->n_live < DECODE_ROWS) {
        size_t i = d->next;
        bool follows = d->q[i].again && i > first;
        if (!follows) held += d->q[i].n_prompt;
        if (d->n_live && held > DECODE_POSITIONS) return;
        begin_one(d, d->next++, follows);
    }
}

static void add_input(struct decoder *d, size_t i)
{
    const struct decode_request *q = &d->q[i];
    struct run_input *in = &d->input[d->n_inputs];
    *in = (struct run_input){.kv = d->result[i].kv, .kv_against = d->result[i].kv_against, .seq = (uint32_t)i, .ids = &d->last[i], .n = 1};
    if (reads_prompt(d, i)) {
        in->ids = q->prompt;
        in->n = fed(q);
    }
    in->n_want = reads_prompt(d, i) && q->score_prompt ? in->n : 1;
    in->want = d->position + in->n - in->n_want;
    d->of[d->n_inputs++] = i;
}

static bool begin(struct decoder *d, struct err *e)
{
    admit(d);
    d->n_inputs = d->scored = 0;
    for (size_t k = 0; k < d->n_live; k++) {
        size_t i = d->live[k];
        bool shares = reads_prompt(d, i) && d->leader[i] != i;
        if (!shares) add_input(d, i);
        d->input_of[i] = shares ? d->input_of[d->leader[i]] : d->n_inputs - 1;
    }
    if (!d->n_inputs) return true;
    d->run = run_new(d->view, d->input, d->n_inputs, d->taps, e);
    return d->run && (!d->pair || run_beside(d->run, d->pair, e));
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

static bool score_token(struct decoder *d, struct session *s, size_t i, const float *logits, struct err *e)
{
    struct decode_result *r = &d->result[i];
    uint32_t V = view_model(d->view)->arch.d_vocab, id = d->last[i];
    if (d->q[i].score_tokens) {
        if (!logprobs_add(&r->tokens, s->par, logits, 1, V, &id, e)) return false;
        r->last_logprob = r->tokens.value[r->tokens.n - 1];
    } else {
        r->last_logprob = (double)logits[id] - log_sum_exp_row(logits, V);
    }
    return isfinite(r->last_logprob) ||
           err_set(e, ERR_NONFINITE, "the logits after token %zu are not finite", d->q[i].n_prompt + r->ids.n - 1);
}

static bool take_token(struct decoder *d, struct session *s, size_t i, const float *logits, struct err *e)
{
    const struct model *m = view_model(d->view);
    const struct decode_request *q = &d->q[i];
    struct decode_result *r = &d->result[i];
    uint32_t id;
    if (!sample(logits, m->arch.d_vocab, &q->sampling, &r->random, &id, e) ||
        !ids_push(&r->ids, id, e))
        return false;
    d->last[i] = id;
    if (!score_token(d, s, i, logits, e)) return false;
    d->tokens++;
    size_t len, old = r->text.len;
    const char *piece = tokenizer_piece(m->tokenizer, id, &len);
    if (!tokenizer_is_special(m->tokenizer, id)) buf_put(&r->text, piece, len);
    if (!buf_ok(&r->text, e) || !ids_push(&r->ends, (uint32_t)r->text.len, e)) return false;
    if (tokenizer_ends_generation(m->tokenizer, id)) r->finish = FINISH_END_TOKEN;
    else if (find_stop(q, r, old)) r->finish = FINISH_STOP_STRING;
    else if (r->ids.n >= decode_most(&m->arch, q)) r->finish = FINISH_LENGTH;
    return true;
}

/* ---- its logits -------------------------------------------------------------------------------- */

/* Logits of n ≤ DECODE_ROWS places into d->logits; where somebody listens, one by one. */
static bool unembed_places(struct decoder *d, struct session *s, const struct place *p, size_t n, struct err *e)
{
    const struct arch *a = &view_model(d->view)->arch;
    for (size_t k = 0; k < n; k++)
        memcpy(d->rows + k * a->d_model, run_final(d->run, p[k].input) + (size_t)p[k].row * a->d_model,
               a->d_model * sizeof *d->rows);
    if (!head_listens(d->taps)) return unembed(s, d->view, d->rows, n, NULL, d->logits, e);
    for (size_t k = 0; k < n; k++) {
        const struct head_rows at = {d->taps, (uint32_t)d->of[p[k].input], &p[k].pos};
        if (!unembed(s, d->view, d->rows + k * a->d_model, 1, &at, d->logits + k * a->d_vocab, e)) return false;
    }
    return true;
}

/* Prompt tokens of an input that are still without their log-probabilities. */
static uint32_t unscored(const struct decoder *d, size_t input)
{
    size_t i = d->of[input];
    if (!d->q[i].score_prompt || !reads_prompt(d, i)) return 0;
    return d->q[i].n_prompt - 1 - (uint32_t)d->result[i].prompt.n;
}

/* The next places to score: a batch of rows, perhaps of several prompts. */
static size_t next_places(const struct decoder *d, struct place *p)
{
    size_t n = 0;
    for (size_t input = d->scored; input < d->n_inputs && n < DECODE_ROWS; input++)
        for (uint32_t left = unscored(d, input); left && n < DECODE_ROWS; left--) {
            uint32_t pos = d->q[d->of[input]].n_prompt - 1 - left;
            p[n++] = (struct place){input, pos, pos};
        }
    return n;
}

static bool score_places(struct decoder *d, struct session *s, const struct place *p, size_t n, struct err *e)
{
    uint32_t V = view_model(d->view)->arch.d_vocab;
    if (!unembed_places(d, s, p, n, e)) return false;
    for (size_t k = 0, to; k < n; k = to) {
        for (to = k + 1; to < n && p[to].input == p[k].input; to++) continue;
        size_t i = d->of[p[k].input];
        if (!logprobs_add(&d->result[i].prompt, s->par, d->logits + k * V, to - k, V, d->q[i].prompt + p[k].pos + 1, e))
            return err_while(e, "scoring prompt %zu", i);
        d->scored = p[k].input;
    }
    return true;
}

/* Everybody who goes on from a prompt that has just been read. */
static bool follow(struct decoder *d, struct err *e)
{
    for (size_t k = 0; k < d->n_live; k++) {
        size_t i = d->live[k], leader = d->leader[i];
        if (!reads_prompt(d, i) || leader == i || !d->result[leader].kv) continue;
        d->result[i].kv = kv_fork(d->result[leader].kv, d->q[i].n_prompt, e);
        if (!d->result[i].kv) return false;
        if (!d->pair) continue;
        d->result[i].kv_against = kv_fork(d->result[leader].kv_against, d->q[i].n_prompt, e);
        if (!d->result[i].kv_against) return false;
    }
    return true;
}

static bool take_tokens(struct decoder *d, struct session *s, struct err *e)
{
    struct place p[DECODE_ROWS];
    size_t row[DECODE_ROWS], n = 0; /* row: of each input */
    uint32_t V = view_model(d->view)->arch.d_vocab;
    for (size_t k = 0; k < d->n_inputs; k++) {
        size_t i = d->of[k];
        row[k] = n;
        if (d->q[i].max_tokens)
            p[n++] = (struct place){k, (uint32_t)d->input[k].n_want - 1, d->q[i].n_prompt + (uint32_t)d->result[i].ids.n - 1};
    }
    if (n && !unembed_places(d, s, p, n, e)) return false;
    for (size_t k = 0; k < d->n_live; k++) {
        size_t i = d->live[k];
        if (d->q[i].max_tokens && !take_token(d, s, i, d->logits + row[d->input_of[i]] * V, e)) return false;
    }
    return true;
}

/* A limit of 0 ends where its prompt does. */
static void retire(struct decoder *d)
{
    size_t n_live = 0;
    for (size_t k = 0; k < d->n_live; k++) {
        struct decode_result *r = &d->result[d->live[k]];
        if (d->q[d->live[k]].max_tokens == 0) r->finish = FINISH_LENGTH;
        if (r->finish == FINISH_NOT_YET) {
            d->live[n_live++] = d->live[k];
        } else {
            kv_free(r->kv);
            kv_free(r->kv_against);
            r->kv = r->kv_against = NULL;
        }
    }
    d->n_live = n_live;
}

static bool end(struct decoder *d, struct session *s, struct err *e)
{
    bool ok = follow(d, e) && take_tokens(d, s, e);
    retire(d);
    run_free(d->run);
    d->run = NULL;
    if (d->n_live || d->next < d->n) return ok;
    mem_drop(d->rows); /* the results may be read for long after the last step */
    d->rows = d->logits = NULL;
    return ok;
}

enum step decoder_step(struct decoder *d, struct session *s, struct err *e)
{
    if (d->n_live == 0 && d->next == d->n) return STEP_DONE;
    if (!d->run && !begin(d, e)) return STEP_FAIL;
    if (!d->run) return STEP_DONE; /* none of them needed a pass */
    enum step step = run_step(d->run, s, e);
    if (step != STEP_DONE) return step;
    struct place p[DECODE_ROWS];
    size_t n = next_places(d, p);
    if (n) return score_places(d, s, p, n, e) ? STEP_MORE : STEP_FAIL;
    if (!end(d, s, e)) return STEP_FAIL;
    return d->n_live || d->next < d->n ? STEP_MORE : STEP_DONE;
}

const struct decode_result *decoder_result(const struct decoder *d, size_t i) { return &d->result[i]; }
size_t decoder_tokens(const struct decoder *d) { return d->tokens; }

size_t decode_safe(const struct decoder *d, size_t i)
{
    const struct decode_result *r = &d->result[i];
    size_t n = r->text.len;
    if (r->finish != FINISH_NOT_YET || !n) return n;
    n -= utf8_open(r->text.data, n);
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
