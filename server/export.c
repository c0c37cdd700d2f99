#include "export.h"

#include <stdio.h>
#include <string.h>

#include "core/export/hub_write.h"
#include "ledger/ledger.h"

/* A branch, a revision's id, or base. */
static bool find_revision(struct ledger_reader *r, const struct model_row *model, const char *view,
                          struct revision *out, struct err *e)
{
    if (strcmp(view, "base") == 0) return ledger_revision(r, model->base_revision, out, e);
    if (ledger_head(r, model->id, view, out, e)) return true;
    if (e->code != ERR_NOT_FOUND) return false;
    if (ledger_revision(r, view, out, e)) {
        if (strcmp(out->model, model->id) == 0) return true;
        revision_release(out);
        return err_set(e, ERR_NOT_FOUND, "revision %s is of another model", view);
    }
    return e->code == ERR_NOT_FOUND ? err_set(e, ERR_NOT_FOUND, "no branch or revision %s", view)
                                    : false;
}

static bool find_model(struct ledger_reader *r, const struct config *c, const char *base,
                       struct model_row *out, struct err *e)
{
    if (ledger_find_model(r, base, out, e)) return true;
    if (e->code != ERR_NOT_FOUND) return false;
    return err_set(e, ERR_NOT_FOUND, "the ledger in %s does not know the base %s of %s", c->data,
                   base, c->models.value[0]);
}

static bool export_view(const struct config *c, struct ledger_reader *r, struct model *m,
                        struct err *e)
{
    struct base_digests d = {0};
    struct model_row row;
    struct revision rev = {0};
    bool ok = base_digests_init(&d, m, c->data, e) && find_model(r, c, d.base, &row, e) &&
              find_revision(r, &row, c->view, &rev, e);
    struct view *v = ok ? ledger_restore(r, m, &d, rev.id, e) : NULL;
    ok = v && hub_write(v, c->out, e);
    if (ok)
        printf("engramd: exported %s (revision %s, digest %s) to %s\n", c->view, rev.id, rev.digest,
               c->out);
    view_drop(v);
    revision_release(&rev);
    base_digests_release(&d);
    return ok;
}

int export_main(const struct config *c)
{
    struct err e = {0};
    struct ledger_reader *r = ledger_reader_open(c->data, &e); /* first: it costs nothing to fail */
    char name[CONFIG_NAME];
    const char *path = r ? config_model(c->models.value[0], name, &e) : NULL;
    struct model *m = path ? model_open(path, NULL, NULL, NULL, &e) : NULL;
    bool ok = m && export_view(c, r, m, &e);
    model_drop(m);
    if (r) ledger_reader_close(r);
    if (ok && fflush(stdout) != 0) ok = err_set(&e, ERR_IO, "stdout cannot be written");
    if (!ok) (void)fprintf(stderr, "engramd: %s\n", e.text);
    return ok ? 0 : 1;
}
