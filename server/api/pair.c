#include "pair.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "metrics.h"
#include "place.h"

static bool refuse_later(const struct json *q, struct err *e)
{
    static const char *const later[] = {"pairs", "metrics", "multi"};
    for (size_t i = 0; i < sizeof later / sizeof *later; i++)
        if (json_get(q, later[i]))
            return err_field(e, ERR_UNSUPPORTED, later[i], "\"%s\" is not served yet", later[i]);
    return true;
}

static bool read_metric(struct pair *p, struct look *l, const struct json *v, struct err *e)
{
    struct metric *m = &p->metric;
    struct places pos;
    if (!metric_read(l, v, "metric", m, e) ||
        !place_pos(json_get(v, "pos"), (uint32_t)p->clean.n, "metric.pos", &l->arena, &pos, e))
        return false;
    if (pos.n != 1) return err_field(e, ERR_INVALID, "metric.pos", "the metric is read at one position, not %zu", pos.n);
    m->pos = pos.at[0];
    return true;
}

bool pair_read(struct pair *p, struct look *l, struct err *e)
{
    const struct json *q = l->request;
    if (!refuse_later(q, e) || !input_resolve(look_model(l), json_get(q, "clean"), "clean", &p->clean, e) ||
        !input_resolve(look_model(l), json_get(q, "corrupt"), "corrupt", &p->corrupt, e))
        return false;
    if (p->clean.n != p->corrupt.n)
        return err_field(e, ERR_INVALID, "corrupt", "clean has %zu tokens and corrupt %zu; they must be equal",
                         p->clean.n, p->corrupt.n);
    p->denoise = strcmp(json_get(q, "direction")->text, "denoise") == 0;
    p->one = (struct patch_pair){p->clean.ids, p->corrupt.ids, (uint32_t)p->clean.n, &p->metric};
    return read_metric(p, l, json_get(q, "metric"), e);
}

void pair_release(struct pair *p)
{
    input_release(&p->clean);
    input_release(&p->corrupt);
}

struct patch_request pair_request(const struct pair *p, const struct look *l)
{
    return (struct patch_request){.view = l->view.view, .pair = &p->one, .n_pairs = 1, .n_metrics = 1, .denoise = p->denoise};
}

/* Of prompts that are messages: what the chat template made of them, and which template. */
static void echo_rendered(const struct pair *p, jout *o)
{
    const struct input *in[] = {&p->clean, &p->corrupt};
    static const char *const keys[] = {"clean", "corrupt"};
    jout *texts = NULL;
    for (int i = 0; i < 2; i++) {
        if (!in[i]->template[0]) continue;
        if (!texts) {
            jout_text(o, "template", in[i]->template);
            texts = jout_put_object(o, "rendered");
        }
        jout_text(texts, keys[i], in[i]->text);
    }
}

void pair_echo(const struct pair *p, const struct look *l, const struct patch_grid *g, jout *o)
{
    const struct model *m = look_model(l);
    jout *baseline = jout_put_object(o, "baseline"), *tokens = jout_put_object(o, "tokens");
    jout_f64(baseline, "clean", g->scores->clean);
    jout_f64(baseline, "corrupt", g->scores->corrupt);
    input_tokens(tokens, "clean", m, p->clean.ids, p->clean.n);
    input_tokens(tokens, "corrupt", m, p->corrupt.ids, p->corrupt.n);
    echo_rendered(p, o);
    metric_echo(&p->metric, m, o);
}
