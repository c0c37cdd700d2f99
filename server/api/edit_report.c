#include "edit_report.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/text/codepoint.h"
#include "place.h"

static const struct summary_row {
    const char *word;
    double initial;
    bool higher;
} rows[] = {
#define SUMMARY(name, word, initial, better) {word, initial, better},
#include "summary.def"
#undef SUMMARY
};
static_assert(sizeof rows / sizeof *rows == SUMMARY_COUNT, "one row per summary");

const char *summary_word(enum summary_kind k) { return rows[k].word; }

/* How many prompts the value of one fact stands for; 0: not measured. */
static size_t weight_of(const struct fact *f, enum summary_kind k)
{
    switch (k) {
    case SUMMARY_PARAPHRASE: return f->n_paraphrase;
    case SUMMARY_LOCALITY:
    case SUMMARY_KL: return f->n_locality;
    case SUMMARY_EFFICACY:
    case SUMMARY_TF_EXACT:
    case SUMMARY_COUNT: break;
    }
    return 1;
}

static double value_of(const struct score *s, enum summary_kind k)
{
    switch (k) {
    case SUMMARY_EFFICACY: return s->match;
    case SUMMARY_TF_EXACT: return s->tf_exact;
    case SUMMARY_PARAPHRASE: return s->paraphrase_match;
    case SUMMARY_LOCALITY: return s->locality_unchanged;
    case SUMMARY_KL: return s->locality_kl;
    case SUMMARY_COUNT: break;
    }
    return NAN;
}

struct summary summary_of(const struct facts *f, const struct measure *m, enum summary_kind k)
{
    struct summary out = {0};
    double sum = 0;
    for (size_t i = 0; i < f->n; i++) {
        size_t weight = weight_of(&f->fact[i], k);
        if (!weight) continue;
        sum += value_of(measure_score(m, i), k) * (double)weight;
        out.n += weight;
    }
    out.mean = out.n ? sum / (double)out.n : (double)NAN;
    return out;
}

/* ---- facts ------------------------------------------------------------------------------------- */

static const char *stopped_by(const struct score *s)
{
    switch (s->finish) {
    case FINISH_END_TOKEN: return "end-of-generation";
    case FINISH_STOP_STRING: return s->stop == 0 ? "newline" : "full-stop";
    case FINISH_LENGTH:
    case FINISH_NOT_YET: break;
    }
    return "length";
}

void report_scores(jout *o, const struct fact *f, const struct score *s)
{
    struct buf text = {0};
    jout *g = jout_put_object(o, "generation");
    if (s->text_len) utf8_repair(s->text, s->text_len, &text);
    jout_text(g, "text", text.data ? text.data : "");
    buf_release(&text);
    jout_int(g, "match", s->match);
    jout_int(g, "prefix_match", s->prefix_match);
    jout_text(g, "stopped_by", stopped_by(s));
    jout_int(o, "tf_exact", s->tf_exact);
    jout_f64(o, "tf_token_acc", s->tf_token_acc);
    jout_f64(o, "nll_new", s->nll_new);
    if (f->true_ids) jout_f64(o, "nll_true", s->nll_true);
    if (f->n_paraphrase) {
        jout *p = jout_put_object(o, "paraphrase");
        jout_f64(p, "match", s->paraphrase_match);
        jout_f64(p, "tf_exact", s->paraphrase_tf_exact);
    }
    if (f->n_locality) {
        jout *l = jout_put_object(o, "locality");
        jout_f64(l, "unchanged", s->locality_unchanged);
        jout_f64(l, "kl", s->locality_kl);
    }
}

void report_facts(jout *o, const struct facts *f, const struct measure *before,
                  const struct measure *after, const bool *null_edit)
{
    jout *list = jout_put_array(o, "facts");
    for (size_t i = 0; i < f->n; i++) {
        jout *one = jout_put_object(list, NULL);
        jout_text(one, "id", f->id[i]);
        input_rendered(one, f->prompt[i]);
        jout_u32s(one, "target_ids", f->fact[i].prompt.target, f->fact[i].prompt.n_target);
        if (null_edit[i]) jout_bool(one, "null_edit", true);
        report_scores(jout_put_object(one, "before"), &f->fact[i], measure_score(before, i));
        report_scores(jout_put_object(one, "after"), &f->fact[i], measure_score(after, i));
    }
}

/* ---- summaries --------------------------------------------------------------------------------- */

/* Wilson's score interval of a share: honest at 0 and 1 and for few trials. */
static void wilson(double share, size_t n, double *low, double *high)
{
    const double z = 1.959963984540054, z2 = z * z;
    double k = (double)n, centre = (share + z2 / (2 * k)) / (1 + z2 / k);
    double half = z * sqrt(share * (1 - share) / k + z2 / (4 * k * k)) / (1 + z2 / k);
    *low = fmax(0, centre - half);
    *high = fmin(1, centre + half);
}

static void mean_interval(const struct facts *f, const struct measure *m, enum summary_kind k, double mean,
                          double *low, double *high)
{
    double squares = 0;
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        if (!weight_of(&f->fact[i], k)) continue;
        double v = value_of(measure_score(m, i), k);
        squares += (v - mean) * (v - mean);
        n++;
    }
    double half = n > 1 ? 1.959963984540054 * sqrt(squares / (double)(n - 1) / (double)n) : (double)NAN;
    *low = mean - half;
    *high = mean + half;
}

void report_summary(jout *all, const struct facts *f, const struct measure *before,
                    const struct measure *after)
{
    jout_int(all, "n", (int64_t)f->n);
    for (unsigned k = 0; k < SUMMARY_COUNT; k++) {
        struct summary b = summary_of(f, before, (enum summary_kind)k), a = summary_of(f, after, (enum summary_kind)k);
        if (!a.n) continue;
        double low, high;
        if (k == SUMMARY_KL) mean_interval(f, after, SUMMARY_KL, a.mean, &low, &high);
        else wilson(a.mean, a.n, &low, &high);
        jout *one = jout_put_object(all, rows[k].word);
        jout_f64(one, "before", b.mean);
        jout_f64(one, "after", a.mean);
        jout_f64s(one, "ci", (const double[]){low, high}, 2);
        jout_int(one, "n", (int64_t)a.n);
    }
}

/* ---- gates ------------------------------------------------------------------------------------- */

static bool gate_named(const char *word, size_t *out)
{
    for (*out = 0; *out < SUMMARY_COUNT; (*out)++)
        if (strcmp(rows[*out].word, word) == 0) return true;
    return false;
}

bool gates_read(const struct json *v, struct gates *out, struct err *e)
{
    for (size_t i = 0; i < SUMMARY_COUNT; i++) out->at[i] = v && v->type == JSON_STRING ? rows[i].initial : (double)NAN;
    out->any = v != NULL;
    out->given = v && v->type != JSON_STRING;
    if (!v || v->type == JSON_STRING) return true;
    for (const struct json *g = v->child; g; g = g->next) {
        char field[128];
        size_t k;
        place_field(field, "gates", g->key);
        if (!gate_named(g->key, &k))
            return err_field(e, ERR_INVALID, field,
                             "there is no such gate; gates are efficacy, tf_exact, paraphrase, locality, locality_kl");
        if (g->type == JSON_NULL) continue;
        if (g->type != JSON_NUMBER || g->number < 0 || (rows[k].higher && g->number > 1))
            return err_field(e, ERR_INVALID, field, "a threshold is a number %s", rows[k].higher ? "from 0 to 1" : "of at least 0");
        out->at[k] = g->number;
    }
    return true;
}

static bool measurable(const struct facts *f, enum summary_kind k)
{
    for (size_t i = 0; i < f->n; i++)
        if (weight_of(&f->fact[i], k)) return true;
    return false;
}

bool gates_measured(const struct gates *g, const struct facts *f, enum summary_kind *unmeasured, struct err *e)
{
    char field[128];
    unsigned k = 0;
    while (k < SUMMARY_COUNT && (isnan(g->at[k]) || measurable(f, (enum summary_kind)k))) k++;
    *unmeasured = (enum summary_kind)k;
    if (k == SUMMARY_COUNT || !g->given) return true;
    return err_field(e, ERR_INVALID, place_field(field, "gates", rows[k].word), "no fact has %s to measure it on",
                     k == SUMMARY_PARAPHRASE ? "paraphrases" : "locality prompts");
}

bool gates_report(const struct gates *g, const struct facts *f, const struct measure *after, jout *o)
{
    if (!g->any) return true;
    bool all = true;
    jout *gates = jout_put_object(o, "gates"), *list = jout_array();
    for (unsigned k = 0; k < SUMMARY_COUNT; k++) {
        if (isnan(g->at[k])) continue;
        struct summary s = summary_of(f, after, (enum summary_kind)k);
        bool holds = rows[k].higher ? s.mean >= g->at[k] : s.mean <= g->at[k];
        jout *one = jout_put_object(list, NULL);
        jout_text(one, "gate", rows[k].word);
        jout_f64(one, "threshold", g->at[k]);
        jout_f64(one, "value", s.mean);
        if (s.n) jout_bool(one, "passed", holds);
        else jout_null(one, "passed");
        all = all && (holds || !s.n);
    }
    jout_bool(gates, "passed", all);
    jout_add(gates, "results", list);
    return all;
}
