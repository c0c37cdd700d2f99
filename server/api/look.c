#include "look.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "server/clock.h"

const struct model *look_model(const struct look *l) { return view_model(l->view.view); }

static const char *text_of(const struct json *request, const char *name)
{
    const struct json *v = json_get(request, name);
    return v && v->type == JSON_STRING ? v->text : NULL;
}

bool look_begin(struct look *l, struct call *c, const struct work_ops *ops, struct err *e)
{
    l->work.ops = ops;
    l->work.daemon = c->daemon;
    l->seed = -1;
    arena_init(&l->arena, LOOK_ARENA_BYTES);
    json_write(c->body, &l->text);
    if (!buf_ok(&l->text, e)) return false;
    l->request = json_parse(l->text.data, l->text.len, &l->arena, e);
    struct served *s = call_served(c, c->body, e);
    if (!s) return false;
    l->work.served = served_retain(s);
    ledger_new_id("run", l->run);
    if (c->if_match) (void)snprintf(l->if_match, sizeof l->if_match, "%s", c->if_match);
    return l->request && look_view(l, c, text_of(l->request, "view"), &l->view, e);
}

bool look_view(struct look *l, struct call *c, const char *name, struct resolved *out, struct err *e)
{
    return served_view(l->work.served, c->reader, name, out, e);
}

bool look_lease(struct look *l, const struct plan *p, struct err *e)
{
    struct plan all = *p;
    plan_add(&all, NEED_REQUEST, plan_sum(l->arena.used_bytes, l->text.cap));
    return daemon_lease(l->work.daemon, &all, &l->work.lease, e);
}

bool look_head_expected(const struct look *l, const struct resolved *head, struct err *e)
{
    if (!l->if_match[0] || strcmp(l->if_match, head->revision) == 0) return true;
    return err_field(e, ERR_CONFLICT, "If-Match", "the head of %s is %s now, not %s", head->name, head->revision,
                     l->if_match);
}

void look_author(struct look *l, const struct call *c)
{
    const char *author = text_of(l->request, "author");
    if (!c->who.verified && author)
        (void)snprintf(l->work.author.name, sizeof l->work.author.name, "%s", author);
}

void look_release(struct look *l)
{
    resolved_release(&l->view);
    run_row_release(&l->cached);
    buf_release(&l->text);
    buf_release(&l->beside);
    arena_release(&l->arena);
    jout_free(l->warnings);
    lease_give(&l->work.lease);
    served_drop(l->work.served);
}

void look_also(struct look *l, const struct resolved *against) { l->against = against; }

void look_set(struct look *l, const struct artefact_row *set)
{
    memcpy(l->set.id, set->id, sizeof l->set.id);
    memcpy(l->set.hash, set->hash, sizeof l->set.hash);
}

void look_uses(struct look *l, const struct artefact_row *row) { look_beside(l, "%s %s", row->kind, row->hash); }

void look_beside(struct look *l, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    buf_printf(&l->beside, "%s\n", line);
}

static void put_set(const struct look *l, jout *root)
{
    jout *o = jout_put_object(root, "set");
    jout_text(o, "id", l->set.id);
    jout_text(o, "hash", l->set.hash);
}

/* Members that say where to look rather than what for; the digests and the set's hash stand in for them. */
static bool names_a_view(const char *key)
{
    static const char *const names[] = {"view", "against", "model", "set"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], key) == 0) return true;
    return false;
}

/* What makes two looks the same: everything but how the view was called and who asks. */
static void make_key(struct look *l, const struct provenance *by)
{
    struct buf b = {0};
    buf_put(&b, l->work.served->described, SHA256_BYTES); /* what text becomes, and numbers that are no weights */
    if (l->other) buf_put(&b, l->other->described, SHA256_BYTES);
    buf_printf(&b, "%s\n%s\n%s\n%s\n%s\n%d\n%lld\n", l->work.ops->kind, l->view.digest,
               l->against ? l->against->digest : "", by->engine, by->kernel, by->threads, (long long)l->seed);
    if (l->set.id[0]) buf_printf(&b, "set %s\n", l->set.hash);
    if (l->beside.len) buf_put(&b, l->beside.data, l->beside.len);
    for (const struct json *v = l->request->child; v; v = v->next) {
        if (names_a_view(v->key)) continue;
        buf_printf(&b, "%s:", v->key);
        json_write(v, &b);
    }
    sha256(b.data, b.len, l->key);
    buf_release(&b);
}

bool look_find(struct look *l, struct call *c, struct err *e)
{
    struct provenance by = {0};
    bool found = false;
    daemon_provenance(c->daemon, &by);
    make_key(l, &by);
    if (c->no_cache) return true;
    if (!ledger_cached(c->reader, l->key, &l->cached, &found, e)) return false;
    if (!found || !l->cached.result) run_row_release(&l->cached);
    return true;
}

void look_warn(struct look *l, const char *word, const char *fmt, ...)
{
    char text[512];
    int n = snprintf(text, sizeof text, "%s: ", word);
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    if (!l->warnings) l->warnings = jout_array();
    jout_text(l->warnings, NULL, text);
}

jout *look_open(struct look *l)
{
    jout *root = jout_object();
    jout_text(root, "run", l->run);
    answer_view(root, "view", &l->view);
    if (l->set.id[0]) put_set(l, root);
    return root;
}

void look_provenance(const struct look *l, struct provenance *by)
{
    daemon_provenance(l->work.daemon, by);
    by->author = l->work.author.name;
    by->author_verified = l->work.author.verified;
    by->seed = l->seed;
}

void look_record(const struct look *l, struct outcome *o)
{
    o->status = 200;
    o->record = RECORD_RUN;
    o->run = (struct run){.kind = l->work.ops->kind, .model = l->view.model_id, .revision = l->view.revision,
                          .view_digest = l->view.digest, .request = l->text.data, .result = o->body.data,
                          .result_len = o->body.len};
    memcpy(o->run.id, l->run, sizeof o->run.id);
    memcpy(o->run.cache_key, l->key, sizeof o->run.cache_key);
    look_provenance(l, &o->run.by);
}

bool look_close(struct look *l, jout *root, struct outcome *o, struct err *e)
{
    jout_add(root, "warnings", l->warnings ? l->warnings : jout_array());
    l->warnings = NULL;
    bool ok = jout_print(root, &o->body, e);
    jout_free(root);
    if (!ok) return false;
    look_record(l, o);
    o->unrecorded = look_unrecorded;
    return true;
}

/* A kept answer again, some of its members said anew. */
struct rewrite {
    const struct resolved *view, *against; /* or NULL: as it was */
    const struct look *set;                /* likewise: whose set */
    bool cached, unrecorded;
};

/* Members that say under which id something was written. */
static bool names_a_row(const char *key)
{
    static const char *const names[] = {"run", "region_id", "probe_id", "saved"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i], key) == 0) return true;
    return false;
}

static bool rewrite(const char *text, size_t len, const struct rewrite *how, struct buf *out, struct err *e)
{
    struct arena a;
    arena_init(&a, 0);
    const struct json *old = json_parse(text, len, &a, e);
    jout *root = jout_object();
    bool ok = old != NULL;
    for (const struct json *v = old ? old->child : NULL; v; v = v->next) {
        struct buf b = {0};
        if (how->view && strcmp(v->key, "view") == 0) {
            answer_view(root, "view", how->view);
        } else if (how->against && strcmp(v->key, "against") == 0) {
            answer_view(root, "against", how->against);
        } else if (how->set && how->set->set.id[0] && strcmp(v->key, "set") == 0) {
            put_set(how->set, root);
        } else if (how->unrecorded && names_a_row(v->key)) {
            jout_null(root, v->key);
        } else if (how->unrecorded && strcmp(v->key, "warnings") == 0) {
            jout *list = jout_put_array(root, "warnings");
            jout_text(list, NULL, "not-recorded");
            for (const struct json *w = v->child; w; w = w->next) jout_text(list, NULL, w->text);
        } else {
            json_write(v, &b);
            ok = ok && buf_ok(&b, e);
            if (ok) jout_raw(root, v->key, b.data);
        }
        buf_release(&b);
    }
    if (how->cached) jout_bool(root, "cached", true);
    ok = ok && jout_print(root, out, e);
    jout_free(root);
    arena_release(&a);
    return ok;
}

bool look_answer_cached(struct look *l, struct outcome *o, struct err *e)
{
    o->status = 200;
    o->record = RECORD_NOTHING;
    return rewrite(l->cached.result, strlen(l->cached.result),
                   &(struct rewrite){.view = &l->view, .against = l->against, .set = l, .cached = true}, &o->body, e);
}

void look_unrecorded(struct work *w, struct buf *body)
{
    struct buf out = {0};
    struct err e = {0};
    (void)w;
    if (!rewrite(body->data, body->len, &(struct rewrite){.unrecorded = true}, &out, &e)) {
        buf_release(&out);
        return;
    }
    buf_release(body);
    *body = out;
}
