#include "measure.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/head.h"
#include "match.h"
#include "metric.h"

enum phase { PHASE_GENERATE, PHASE_FORCE, PHASE_KL_REFERENCE, PHASE_KL_VIEW, PHASE_DONE };
enum { ROWS = 64 }; /* logits rows in hand at a time */

static const char *const stops[] = {"\n", "."};

/* One text to generate from: which fact, and which of its prompts. */
enum part { PART_PROMPT, PART_TRUE, PART_PARAPHRASE, PART_LOCALITY };
struct item {
    size_t fact, index;
    enum part part;
    const struct prompt *prompt;
};

/* Prompt plus forced tokens, and the positions that predict them. */
struct forced {
    struct item item;
    uint32_t *ids, *want;
    uint32_t n, n_forced;
};

struct measure {
    struct view *view;
    const struct fact *fact;
    size_t n;
    const struct measure *reference;
    enum phase phase;
    struct score *score;
    struct item *item;       /* generated: prompts, paraphrases, locality */
    size_t n_items;
    struct decode_request *request;
    struct decoder *decoder; /* kept: locality of later measures compares with it */
    struct forced *forced;
    size_t n_forced;
    struct run_input *input;
    struct run *run;
    bool ran;                /* the phase's decoder or run has ended; */
    size_t next, read_rows;  /* its rows are read: the next prompt, and rows of `final` behind it */
    float *final;            /* KL: the reference's final residual rows, [rows][d] */
};

static const struct model *model_of(const struct measure *m) { return view_model(m->view); }

bool measure_can_match(const struct fact *f, bool *can, struct err *e)
{
    bool ok = true, holds = false;
    for (size_t i = 0; ok && !holds && i < sizeof stops / sizeof *stops; i++)
        ok = target_holds(f->target_text, f->target_len, stops[i], &holds, e);
    *can = !holds;
    return ok;
}

/* ---- generation -------------------------------------------------------------------------------- */

static bool list_items(struct measure *m, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) n += 1 + m->fact[i].n_paraphrase + m->fact[i].n_locality;
    m->item = mem_take(n, sizeof *m->item, e);
    m->request = mem_take(n, sizeof *m->request, e);
    if (!m->item || !m->request) return false;
    for (size_t i = 0; i < m->n; i++) {
        const struct fact *f = &m->fact[i];
        m->item[m->n_items++] = (struct item){i, 0, PART_PROMPT, &f->prompt};
        for (size_t k = 0; k < f->n_paraphrase; k++)
            m->item[m->n_items++] = (struct item){i, k, PART_PARAPHRASE, &f->paraphrase[k]};
        for (size_t k = 0; k < f->n_locality; k++)
            m->item[m->n_items++] = (struct item){i, k, PART_LOCALITY, &f->locality[k]};
    }
    for (size_t i = 0; i < m->n_items; i++)
        m->request[i] = (struct decode_request){.prompt = m->item[i].prompt->ids, .n_prompt = m->item[i].prompt->n,
                                                .max_tokens = MEASURE_TOKENS, .stop = stops,
                                                .n_stop = sizeof stops / sizeof *stops};
    m->decoder = decoder_new(m->view, m->request, m->n_items, NULL, e);
    return m->decoder != NULL;
}

/* Sums until the end, so that all of n is exactly 1 (the shares divide). */
static void add(double *total, double value) { *total = (isnan(*total) ? 0 : *total) + value; }

static void share_paraphrases(struct measure *m)
{
    for (size_t i = 0; i < m->n; i++) {
        m->score[i].paraphrase_match /= (double)m->fact[i].n_paraphrase;
        m->score[i].paraphrase_tf_exact /= (double)m->fact[i].n_paraphrase;
    }
}

static void share_locality(struct measure *m)
{
    for (size_t i = 0; i < m->n; i++) {
        m->score[i].locality_unchanged /= (double)m->fact[i].n_locality;
        m->score[i].locality_kl /= (double)m->fact[i].n_locality;
    }
}

/* Does `said` go on behind item i as the reference does? */
static void add_unchanged(struct measure *m, const struct decoder *said, size_t i)
{
    const struct decode_result *a = decoder_result(said, i), *b = a;
    if (m->reference) b = decoder_result(m->reference->decoder, i);
    bool same = a->ids.n == b->ids.n && memcmp(a->ids.id, b->ids.id, a->ids.n * sizeof *a->ids.id) == 0;
    add(&m->score[m->item[i].fact].locality_unchanged, same);
}

static bool read_generations(struct measure *m, struct err *e)
{
    for (size_t i = 0; i < m->n_items; i++) {
        const struct item *it = &m->item[i];
        const struct fact *f = &m->fact[it->fact];
        const struct decode_result *r = decoder_result(m->decoder, i);
        struct score *s = &m->score[it->fact];
        struct match match;
        const char *text = r->text.data ? r->text.data : "";
        if (!answer_match(text, r->text.len, f->target_text, f->target_len, &match, e)) return false;
        if (it->part == PART_PROMPT) {
            s->text = text;
            s->text_len = r->text.len;
            s->finish = r->finish;
            s->stop = r->stop;
            s->match = match.match;
            s->prefix_match = match.prefix_match;
        } else if (it->part == PART_PARAPHRASE) {
            add(&s->paraphrase_match, match.match);
        } else {
            add_unchanged(m, m->decoder, i);
        }
    }
    return true;
}

/* ---- teacher forcing --------------------------------------------------------------------------- */

static bool add_forced(struct measure *m, struct item item, const uint32_t *target, uint32_t n_target,
                       struct err *e)
{
    struct forced *f = &m->forced[m->n_forced++];
    const struct prompt *p = item.prompt;
    *f = (struct forced){.item = item, .n = p->n + n_target, .n_forced = n_target};
    f->ids = mem_take(f->n, sizeof *f->ids, e);
    f->want = mem_take(n_target, sizeof *f->want, e);
    if (!f->ids || !f->want) return false;
    memcpy(f->ids, p->ids, p->n * sizeof *f->ids);
    if (n_target) memcpy(f->ids + p->n, target, n_target * sizeof *f->ids);
    for (uint32_t i = 0; i < n_target; i++) f->want[i] = p->n - 1 + i;
    return true;
}

static void drop_forced(struct measure *m)
{
    for (size_t i = 0; i < m->n_forced; i++) {
        mem_drop(m->forced[i].ids);
        mem_drop(m->forced[i].want);
    }
    mem_drop(m->forced);
    mem_drop(m->input);
    run_free(m->run);
    m->forced = NULL;
    m->input = NULL;
    m->run = NULL;
    m->n_forced = 0;
}

static bool begin_run(struct measure *m, struct view *v, struct err *e)
{
    run_free(m->run);
    m->run = NULL;
    if (!m->input) m->input = mem_take(m->n_forced, sizeof *m->input, e);
    if (!m->input) return false;
    for (size_t i = 0; i < m->n_forced; i++)
        m->input[i] = (struct run_input){.ids = m->forced[i].ids, .n = m->forced[i].n, .seq = (uint32_t)i,
                                         .want = m->forced[i].want, .n_want = m->forced[i].n_forced};
    m->run = run_new(v, m->input, m->n_forced, NULL, e);
    return m->run != NULL;
}

static bool force_targets(struct measure *m, struct err *e)
{
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) n += 2 + m->fact[i].n_paraphrase;
    m->forced = mem_take(n, sizeof *m->forced, e);
    if (!m->forced) return false;
    for (size_t i = 0; i < m->n; i++) {
        const struct fact *f = &m->fact[i];
        struct item item = {i, 0, PART_PROMPT, &f->prompt};
        if (!add_forced(m, item, f->prompt.target, f->prompt.n_target, e)) return false;
        item.part = PART_TRUE;
        if (f->true_ids && !add_forced(m, item, f->true_ids, f->n_true, e)) return false;
        for (size_t k = 0; k < f->n_paraphrase; k++) {
            const struct prompt *p = &f->paraphrase[k];
            if (!add_forced(m, (struct item){i, k, PART_PARAPHRASE, p}, p->target, p->n_target, e)) return false;
        }
    }
    return begin_run(m, m->view, e);
}

struct forced_stats {
    double nll;
    uint32_t right;
};

static bool forced_stats(struct measure *m, struct session *s, size_t i, struct forced_stats *out, struct err *e)
{
    const struct forced *f = &m->forced[i];
    const struct arch *a = &model_of(m)->arch;
    size_t V = a->d_vocab;
    const uint32_t *target = f->ids + f->n - f->n_forced;
    *out = (struct forced_stats){0};
    float *logits = mem_floats(ROWS * V, e);
    if (!logits) return false;
    bool ok = true;
    for (uint32_t at = 0; ok && at < f->n_forced; at += ROWS) {
        uint32_t k = f->n_forced - at < ROWS ? f->n_forced - at : ROWS;
        ok = unembed(s, m->view, run_final(m->run, i) + (size_t)at * a->d_model, k, NULL, logits, e);
        for (uint32_t r = 0; ok && r < k; r++) {
            out->nll -= log_prob(logits + r * V, a->d_vocab, target[at + r]) / f->n_forced;
            out->right += arg_max(logits + r * V, a->d_vocab) == target[at + r];
        }
    }
    mem_drop(logits);
    return ok;
}

static bool read_forced(struct measure *m, struct session *s, size_t i, struct err *e)
{
    const struct forced *f = &m->forced[i];
    struct score *score = &m->score[f->item.fact];
    struct forced_stats st;
    if (!forced_stats(m, s, i, &st, e)) return false;
    bool exact = st.right == f->n_forced;
    if (f->item.part == PART_TRUE) {
        score->nll_true = st.nll;
    } else if (f->item.part == PART_PARAPHRASE) {
        add(&score->paraphrase_tf_exact, exact);
    } else {
        score->nll_new = st.nll;
        score->tf_exact = exact;
        score->tf_token_acc = (double)st.right / f->n_forced;
    }
    return true;
}

/* ---- how far unrelated prompts moved ------------------------------------------------------------ */

static bool force_continuations(struct measure *m, struct err *e)
{
    drop_forced(m);
    m->forced = mem_take(m->n_items, sizeof *m->forced, e);
    if (!m->forced) return false;
    for (size_t i = 0; i < m->n_items; i++) {
        if (m->item[i].part != PART_LOCALITY) continue;
        const struct ids *ids = &decoder_result(m->reference->decoder, i)->ids;
        uint32_t n = ids->n < MEASURE_KL_TOKENS ? (uint32_t)ids->n : MEASURE_KL_TOKENS;
        if (!add_forced(m, m->item[i], ids->id, n, e)) return false;
    }
    return begin_run(m, m->reference->view, e);
}

static bool keep_reference_rows(struct measure *m, struct err *e)
{
    size_t rows = 0, d = model_of(m)->arch.d_model;
    for (size_t i = 0; i < m->n_forced; i++) rows += m->forced[i].n_forced;
    m->final = mem_floats(rows * d + 1, e);
    if (!m->final) return false;
    for (size_t i = 0, at = 0; i < m->n_forced; at += m->forced[i++].n_forced)
        memcpy(m->final + at * d, run_final(m->run, i), m->forced[i].n_forced * d * sizeof *m->final);
    return begin_run(m, m->view, e);
}

static bool kl_of(struct measure *m, struct session *s, const float *was, const float *is, uint32_t n,
                  double *kl, struct err *e)
{
    const struct arch *a = &model_of(m)->arch;
    size_t V = a->d_vocab;
    float *before = mem_floats(2 * n * V + 1, e), *after = before ? before + n * V : NULL;
    double *ref = before ? mem_take(V, sizeof *ref, e) : NULL;
    bool ok = ref && unembed(s, m->reference->view, was, n, NULL, before, e) &&
              unembed(s, m->view, is, n, NULL, after, e);
    struct metric metric = {.kind = METRIC_KL};
    *kl = 0;
    for (uint32_t r = 0; ok && r < n; r++) {
        log_softmax(before + r * V, a->d_vocab, ref);
        *kl += metric_of_logits(&metric, after + r * V, a->d_vocab, ref) / n;
    }
    mem_drop(before);
    mem_drop(ref);
    return ok;
}

static bool read_kl(struct measure *m, struct session *s, size_t i, struct err *e)
{
    const struct forced *f = &m->forced[i];
    double kl;
    if (!kl_of(m, s, m->final + m->read_rows * model_of(m)->arch.d_model, run_final(m->run, i), f->n_forced, &kl, e))
        return false;
    add(&m->score[f->item.fact].locality_kl, kl);
    m->read_rows += f->n_forced;
    return true;
}

/* ---- what it takes ------------------------------------------------------------------------------ */

static void force_size(struct run_size *s, const struct prompt *p, uint32_t n_target)
{
    run_size_add(s, 0, (size_t)p->n + n_target, n_target, false);
}

/* One prompt's generation; all of them live as DECODE_ROWS allows. */
static void generation_plan(const struct arch *a, const struct prompt *longest, size_t n, int threads, struct plan *p)
{
    struct decode_request q[DECODE_ROWS];
    size_t live = n < DECODE_ROWS ? n : DECODE_ROWS;
    for (size_t i = 0; i < live; i++)
        q[i] = (struct decode_request){.n_prompt = longest->n, .max_tokens = MEASURE_TOKENS};
    decoder_plan(a, q, live, threads, p);
}

void measure_plan(const struct arch *a, const struct fact *facts, size_t n, int threads, struct plan *p)
{
    struct plan generate = {0}, force = {0}, compare = {0};
    struct run_size forced = {0}, continued = {0};
    struct prompt longest = {0};
    size_t texts = 0;
    for (size_t i = 0; i < n; i++) {
        const struct fact *f = &facts[i];
        if (f->prompt.n > longest.n) longest = f->prompt;
        force_size(&forced, &f->prompt, f->prompt.n_target);
        if (f->true_ids) force_size(&forced, &f->prompt, f->n_true);
        for (size_t k = 0; k < f->n_paraphrase; k++) {
            if (f->paraphrase[k].n > longest.n) longest = f->paraphrase[k];
            force_size(&forced, &f->paraphrase[k], f->paraphrase[k].n_target);
        }
        for (size_t k = 0; k < f->n_locality; k++) {
            if (f->locality[k].n > longest.n) longest = f->locality[k];
            force_size(&continued, &f->locality[k], MEASURE_KL_TOKENS);
        }
        texts += 1 + f->n_paraphrase + f->n_locality;
    }
    generation_plan(a, &longest, texts, threads, &generate);
    run_plan(&forced, a, threads, &force);
    plan_add(&force, NEED_LOGITS, mem_floats_bytes((size_t)ROWS * a->d_vocab));
    run_plan(&continued, a, threads, &compare);
    plan_add(&compare, NEED_STREAM, mem_floats_bytes(continued.wanted * a->d_model + 1));
    plan_add(&compare, NEED_LOGITS, mem_floats_bytes((size_t)2 * MEASURE_KL_TOKENS * a->d_vocab + 1));
    plan_add(&compare, NEED_LOGITS, (size_t)a->d_vocab * sizeof(double));
    plan_peak(&generate, &force);
    plan_peak(&generate, &compare);
    plan_with(p, &generate);
}

/* ---- the job ----------------------------------------------------------------------------------- */
/* ---- the job ----------------------------------------------------------------------------------- */

struct measure *measure_new(struct view *v, const struct fact *facts, size_t n,
                            const struct measure *reference, struct err *e)
{
    struct measure *m = mem_new(sizeof *m);
    m->view = view_retain(v);
    m->fact = facts;
    m->n = n;
    m->reference = reference;
    m->score = mem_take(n, sizeof *m->score, e);
    for (size_t i = 0; m->score && i < n; i++) {
        struct score *s = &m->score[i];
        s->nll_true = s->paraphrase_match = s->paraphrase_tf_exact = NAN;
        s->locality_unchanged = s->locality_kl = NAN;
        if (facts[i].n_locality && !reference) s->locality_kl = 0;
    }
    if (m->score && list_items(m, e)) return m;
    measure_free(m);
    return NULL;
}

static bool has_locality(const struct measure *m)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->fact[i].n_locality) return true;
    return false;
}

struct measure *measure_against(const struct measure *done, const struct measure *reference, struct err *e)
{
    struct measure *m = mem_new(sizeof *m);
    m->view = view_retain(done->view);
    m->fact = done->fact;
    m->n = done->n;
    m->reference = reference;
    m->phase = PHASE_DONE;
    m->score = mem_take(m->n, sizeof *m->score, e);
    m->item = m->score ? mem_take(done->n_items, sizeof *m->item, e) : NULL;
    bool ok = m->item != NULL;
    for (size_t i = 0; ok && i < m->n; i++) {
        m->score[i] = done->score[i];
        m->score[i].locality_unchanged = m->score[i].locality_kl = NAN;
    }
    for (; ok && m->n_items < done->n_items; m->n_items++) {
        m->item[m->n_items] = done->item[m->n_items];
        if (m->item[m->n_items].part == PART_LOCALITY) add_unchanged(m, done->decoder, m->n_items);
    }
    if (ok && has_locality(m)) {
        m->phase = PHASE_KL_REFERENCE;
        ok = force_continuations(m, e);
    }
    if (ok) return m;
    measure_free(m);
    return NULL;
}

void measure_free(struct measure *m)
{
    if (!m) return;
    drop_forced(m);
    decoder_free(m->decoder);
    mem_drop(m->score);
    mem_drop(m->item);
    mem_drop(m->request);
    mem_drop(m->final);
    view_drop(m->view);
    mem_drop(m);
}

/* At the end: scores and generations stay, rows and runs do not, for other measures and training follow. */
static void finish(struct measure *m)
{
    drop_forced(m);
    mem_drop(m->final);
    m->final = NULL;
    share_locality(m);
}

/* What follows a finished phase. */
static bool advance(struct measure *m, struct err *e)
{
    switch (m->phase) {
    case PHASE_GENERATE:
        m->phase = PHASE_FORCE;
        return read_generations(m, e) && force_targets(m, e);
    case PHASE_FORCE:
        share_paraphrases(m);
        m->phase = m->reference && has_locality(m) ? PHASE_KL_REFERENCE : PHASE_DONE;
        return m->phase == PHASE_DONE || force_continuations(m, e);
    case PHASE_KL_REFERENCE: m->phase = PHASE_KL_VIEW; return keep_reference_rows(m, e);
    case PHASE_KL_VIEW: m->phase = PHASE_DONE; break;
    case PHASE_DONE: break;
    }
    return true;
}

/* The head over the forced tokens of one prompt, once their run has ended. */
static bool read_one(struct measure *m, struct session *s, struct err *e)
{
    size_t i = m->next++;
    return m->phase == PHASE_FORCE ? read_forced(m, s, i, e) : read_kl(m, s, i, e);
}

static bool reads_rows(const struct measure *m) { return m->phase == PHASE_FORCE || m->phase == PHASE_KL_VIEW; }

enum step measure_step(struct measure *m, struct session *s, struct err *e)
{
    if (m->phase == PHASE_DONE) return STEP_DONE;
    if (!m->ran) {
        enum step step = m->phase == PHASE_GENERATE ? decoder_step(m->decoder, s, e) : run_step(m->run, s, e);
        if (step != STEP_DONE) return step;
        m->ran = true;
        m->next = 0;
        return STEP_MORE;
    }
    if (reads_rows(m) && m->next < m->n_forced) return read_one(m, s, e) ? STEP_MORE : STEP_FAIL;
    m->ran = false;
    if (!advance(m, e)) return STEP_FAIL;
    if (m->phase == PHASE_DONE) finish(m);
    return m->phase == PHASE_DONE ? STEP_DONE : STEP_MORE;
}

const struct score *measure_score(const struct measure *m, size_t fact) { return &m->score[fact]; }
