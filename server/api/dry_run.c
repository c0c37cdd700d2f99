#include "dry_run.h"

#include "server/daemon.h"

bool dry_run_asked(const struct look *l)
{
    const struct json *v = json_get(l->request, "dry_run");
    return v && v->boolean;
}

static enum step nothing(struct work *w, struct session *s, struct err *e)
{
    (void)w, (void)s, (void)e;
    return STEP_DONE;
}

static bool tell(struct work *w, struct outcome *o, struct err *e)
{
    struct look *l = (struct look *)w;
    const struct forecast *f = &l->forecast;
    double rate;
    if (!rate_now(daemon_rate(w->daemon), &look_model(l)->arch, &rate, e)) return false;
    jout *root = jout_object(), *cost;
    jout_bool(root, "dry_run", true);
    answer_view(root, "view", &l->view);
    cost = jout_put_object(root, "cost");
    if (f->cells) jout_int(cost, "cells", (int64_t)f->cells);
    if (f->cells) jout_int(cost, "cells_run", (int64_t)f->cells_run);
    jout_int(cost, "rows", (int64_t)f->rows);
    jout_f64(cost, "flops", f->flops);
    jout_f64(cost, "seconds", f->flops / rate);
    jout_int(cost, "bytes", (int64_t)f->bytes);
    jout_add(root, "warnings", l->warnings ? l->warnings : jout_array());
    l->warnings = NULL;
    o->status = 200;
    o->record = RECORD_NOTHING;
    bool ok = jout_print(root, &o->body, e);
    jout_free(root);
    return ok;
}

static void free_real(struct work *w) { ((struct look *)w)->real->free(w); }

static const struct work_ops ops = {
    .kind = "dry_run", .unit = "steps", .brief = true, .step = nothing, .finish = tell, .free = free_real,
};

void dry_run(struct look *l, const struct forecast *f, const struct plan *plan)
{
    l->forecast = *f;
    l->forecast.bytes = plan_total(plan);
    l->real = l->work.ops;
    l->work.ops = &ops;
}
