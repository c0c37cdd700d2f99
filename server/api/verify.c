/* GET and POST /v1/audit/verify: check the whole ledger, rebuilding every revision. */
#include "handlers.h"
#include "server/daemon.h"
#include "server/json.h"

struct verify_work {
    struct work work;
    struct verifier *verifier;
};

static struct verify_work *of(struct work *w) { return (struct verify_work *)w; }

static void verify_free(struct work *w)
{
    if (of(w)->verifier) verifier_close(of(w)->verifier);
    lease_give(&w->lease);
    served_drop(w->served);
    mem_drop(w);
}

static enum step verify_step(struct work *w, struct session *s, struct err *e)
{
    struct verify_work *v = of(w);
    bool more = false;
    (void)s;
    if (!v->verifier)
        v->verifier = verifier_open(daemon_data(w->daemon), w->served->model, &w->served->digests, e);
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
    if (!r.ok) jout_text(root, "problem", r.problem);
    o->status = 200;
    o->record = RECORD_NOTHING;
    bool ok = jout_print(root, &o->body, e);
    jout_free(root);
    return ok;
}

static const struct work_ops ops = {
    .kind = "verify", .unit = "entries",
    .step = verify_step, .finish = verify_finish, .free = verify_free,
};

struct work *api_verify(struct call *c, struct err *e)
{
    struct served *s = call_served(c, c->body ? c->body : c->query, e);
    if (!s) return NULL;
    size_t changed, largest;
    if (!ledger_touched(c->reader, s->row.id, s->model, &changed, &largest, e)) return NULL;
    struct plan plan = {0}; /* every tensor ever changed, beside a delta as read, as parsed and as applied */
    plan_add(&plan, NEED_DELTAS, plan_sum(changed, plan_times(3, largest)));
    struct verify_work *v = mem_new(sizeof *v);
    v->work.ops = &ops;
    v->work.daemon = c->daemon;
    v->work.served = served_retain(s);
    if (daemon_lease(c->daemon, &plan, &v->work.lease, e)) return &v->work;
    verify_free(&v->work);
    return NULL;
}
