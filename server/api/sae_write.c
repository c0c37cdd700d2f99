#include "sae_write.h"

#include <stdio.h>
#include <string.h>

#include "sae_name.h"

static bool refuse_others(const struct json *v, const char *field, struct err *e)
{
    static const char *const others[] = {"site", "head", "from"};
    char name[128];
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (json_get(v, others[i]))
            return err_field(e, ERR_INVALID, place_field(name, field, others[i]), "a feature is written at its autoencoder's site, with what "
                                                                                  "`weight` says");
    return json_get(v, "feature") || err_field(e, ERR_INVALID, place_field(name, field, "feature"), "required: which feature is written");
}

/* Room to encode a row, shared: a request's writes follow one another. */
static float *take_work(struct look *l, struct tapping *t, const struct sae_cfg *c, struct err *e)
{
    size_t n = feature_work(c);
    if (n > t->work_floats) {
        t->work = arena_take(&l->arena, n, sizeof *t->work, e);
        t->work_floats = t->work ? n : 0;
    }
    return t->work;
}

bool sae_member(struct look *l, struct tapping *t, const struct json *v, const char *field, struct member *out, struct err *e)
{
    char name[128];
    if (!refuse_others(v, field, e)) return false;
    struct loaded_sae *s = sae_named(l, json_get(v, "sae"), place_field(name, field, "sae"), e);
    if (!s) return false;
    const struct sae_cfg *c = &s->sae->cfg;
    struct sae_member *m = &t->sae[out->number];
    const struct json *feature = json_get(v, "feature");
    m->sae = s;
    if (feature->integer < 0 || feature->integer >= c->features)
        return err_field(e, ERR_INVALID, place_field(name, field, "feature"), "feature %lld is outside 0..%u", (long long)feature->integer,
                         c->features - 1);
    m->feature = (uint32_t)feature->integer;
    m->head = c->head == SAE_ALL_HEADS ? 0 : (uint32_t)c->head;
    m->work = take_work(l, t, c, e);
    out->sites = (struct sites){&s->site, 1};
    out->sae = m;
    return m->work != NULL;
}

void sae_member_head(const struct member *m, struct trace_place *p)
{
    if (m->sae->sae->sae->cfg.head == SAE_ALL_HEADS) return;
    p->head = &m->sae->head;
    p->n_head = 1;
}

static enum feature_op op_of(enum tap_op op)
{
    return op == TAP_ADD ? FEATURE_ADD : op == TAP_SCALE ? FEATURE_SCALE : FEATURE_SET;
}

bool sae_member_write(struct look *l, const struct member *m, struct trace_write *w, struct err *e)
{
    char name[128];
    const struct sae *sae = m->sae->sae->sae;
    const char *why = feature_write_refused(&sae->cfg, w->at.site.hook, op_of(w->op));
    if (why) return err_field(e, ERR_INVALID, place_field(name, m->field, "op"), "%s", why);
    struct feature_write *f = arena_take(&l->arena, 1, sizeof *f, e);
    if (!f) return false;
    *f = (struct feature_write){.sae = sae, .feature = m->sae->feature, .op = op_of(w->op), .weight = w->weight, .work = m->sae->work};
    w->op = TAP_MAP;
    w->from = FROM_ZERO;
    w->map = feature_write_map(f);
    return true;
}

void sae_members_release(struct tapping *t)
{
    for (size_t i = 0; i < t->n_saes; i++) loaded_sae_drop(t->sae[i].sae);
}

void sae_member_put(const struct tapping *t, size_t member, jout *o)
{
    if (member >= t->n_saes || !t->sae[member].sae) return;
    const struct sae_member *m = &t->sae[member];
    jout *s = jout_put_object(o, "sae");
    jout_text(s, "name", m->sae->name);
    jout_text(s, "digest", m->sae->digest);
    jout_int(s, "feature", m->feature);
}
