/* GET and POST /v1/audit/verify: check the whole ledger, rebuilding every revision of
 * the models that are loaded, or of the one that is named. */
#include "handlers.h"
#include "server/daemon.h"
#include "server/json.h"

struct verify_work {
    struct work work;                   /* work.served: the one model asked about, or NULL for all */
    struct served *served[MODELS_MOST]; /* to be replayed */
    size_t n;
    struct verifier *verifier;
};

static struct verify_work *of(struct work *w) { return (struct verify_work *)w; }

static void verify_free(struct work *w)
{
    struct verify_work *v = of(w);
    if (v->verifier) verifier_close(v->verifier);
    lease_give(&w->lease);
    for (size_t i = 0; i < v->n; i++) served_drop(v->served[i]);
    served_drop(w->served);
    mem_drop(w);
}

static struct verifier *open_verifier(struct verify_work *v, struct err *e)
{
    struct verify_base bases[MODELS_MOST];
    for (size_t i = 0; i < v->n; i++) bases[i] = (struct verify_base){v->served[i]->model, &v->served[i]->digests};
    return verifier_open(daemon_data(v->work.daemon), bases, v->n, e);
}

static enum step verify_step(struct work *w, struct session *s, struct err *e)
{
    struct verify_work *v = of(w);
    bool more = false;
    (void)s;
    if (!v->verifier) v->verifier = open_verifier(v, e);
    if (!v->verifier || !verifier_step(v->verifier, &more, e)) return STEP_FAIL;
    int64_t done, total;
    verifier_progress(v->verifier, &done, &total);
    w->done = done;
    w->total = total;
    return more ? STEP_MORE : STEP_DONE;
}

static bool verify_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct verify_report r;
    verifier_report(of(w)->verifier, &r);
    jout *root = jout_object();
    jout_bool(root, "ok", r.ok);
    jout_int(root, "seq", r.seq);
    jout_int(root, "rows", r.rows);
    jout_text(root, "head", r.head);
    jout *checked = jout_put_object(root, "checked");
    jout_int(checked, "chain", r.chain);
    jout_int(checked, "objects", r.objects);
    jout_int(checked, "digests", r.digests);
    jout_int(root, "pruned", r.pruned);
    jout *replayed = jout_put_array(root, "replayed");
    for (size_t i = 0; i < of(w)->n; i++) jout_text(replayed, NULL, of(w)->served[i]->name);
    if (!r.ok) jout_text(root, "problem", r.problem);
    o->status = 200;
    o->record = RECORD_NOTHING;
    bool ok = jout_print(root, &o->body, e);
    jout_free(root);
    return ok;
}

static const struct work_ops ops = {
    .kind = "verify", .unit = "entries", .common = true,
    .step = verify_step, .finish = verify_finish, .free = verify_free,
};

/* Of the model that needs most: every tensor ever changed, beside a delta as read, as parsed and as applied. */
static bool lease(struct verify_work *v, struct ledger_reader *reader, struct err *e)
{
    struct plan plan = {0};
    for (size_t i = 0; i < v->n; i++) {
        struct plan one = {0};
        size_t changed, largest;
        if (!ledger_touched(reader, v->served[i]->row.id, v->served[i]->model, &changed, &largest, e)) return false;
        plan_add(&one, NEED_DELTAS, plan_sum(changed, plan_times(3, largest)));
        plan_peak(&plan, &one);
    }
    return daemon_lease(v->work.daemon, &plan, &v->work.lease, e);
}

struct work *api_verify(struct call *c, struct err *e)
{
    const struct json *request = c->body ? c->body : c->query;
    bool one = json_get(request, "model") != NULL;
    if (one && !call_served(c, request, e)) return NULL;
    struct verify_work *v = mem_new(sizeof *v);
    v->work.ops = &ops;
    v->work.daemon = c->daemon;
    if (one) {
        v->work.served = served_retain(c->served);
        v->served[v->n++] = served_retain(c->served);
    } else {
        v->n = models_list(daemon_models(c->daemon), v->served);
    }
    if (lease(v, c->reader, e)) return &v->work;
    verify_free(&v->work);
    return NULL;
}
