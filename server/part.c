#include "part.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "core/session.h"
#include "daemon_int.h"
#include "record.h"
#include "validate.h"

/* ---- which routes are verbs ------------------------------------------------------------------------------ */

static const char *verb_of(const struct route *r)
{
    static const char root[] = "/v1/";
    const char *word = r->path + sizeof root - 1;
    if (strncmp(r->path, root, sizeof root - 1) != 0 || strcmp(r->method, "POST") != 0) return NULL;
    if (r->serves != SERVES_WORK || r->dialect != DIALECT_OWN || r->level >= LEVEL_ADMIN || !r->body) return NULL;
    return strchr(word, '/') || strcmp(word, "recipes") == 0 ? NULL : word;
}

const struct route *part_verb(const char *verb, const char *field, struct err *e)
{
    enum { MOST = 64 };
    const char *known[MOST];
    struct buf all = {0};
    size_t n = 0;
    for (size_t i = 0; i < n_routes; i++) {
        const char *word = verb_of(&routes[i]);
        if (!word) continue;
        if (strcmp(word, verb) == 0) {
            buf_release(&all);
            return &routes[i];
        }
        buf_printf(&all, "%s%s", n ? ", " : "", word);
        if (n < MOST) known[n++] = word;
    }
    const char *near = nearest_name(verb, known, n);
    if (near) (void)err_field(e, ERR_INVALID, field, "\"%.64s\" is no verb; did you mean \"%s\"?", verb, near);
    else (void)err_field(e, ERR_INVALID, field, "\"%.64s\" is no verb; they are %s", verb, all.failed ? "others" : all.data);
    buf_release(&all);
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static bool refuse_form(const struct work *w, struct err *e)
{
    if (w->stream) return err_field(e, ERR_INVALID, "stream", "a step's answer is no stream");
    if (w->ops->ahead) return err_set(e, ERR_UNSUPPORTED, "%s cannot be a step", w->ops->kind);
    return true;
}

bool part_begin(struct part *p, const struct route *route, const struct part_ask *ask, const struct json *body,
                struct arena *a, struct err *e)
{
    static const struct json nothing = {.type = JSON_OBJECT};
    struct call c = {.daemon = ask->daemon, .route = route, .who = ask->who, .query = &nothing, .accept = "",
                     .no_cache = ask->no_cache, .reader = ask->reader, .arena = a, .served = ask->served};
    assert(!p->work);
    if (ask->who.level < route->level) return err_set(e, ERR_FORBIDDEN, "this token's role may not ask for %s", route->path);
    if (!validate(route->body, body, a, &c.body, e)) return false;
    if (route->query && !validate(route->query, NULL, a, &c.query, e)) return false;
    struct work *w = route->prepare(&c, e);
    if (!w) return false;
    p->work = w;
    w->daemon = ask->daemon;
    (void)snprintf(w->job_id, sizeof w->job_id, "%s", ask->job_id);
    if (!w->author.name[0]) {
        memcpy(w->author.name, ask->who.name, sizeof w->author.name);
        w->author.verified = ask->who.verified;
    }
    w->started_us = monotonic_us();
    if (refuse_form(w, e)) return true;
    part_release(p);
    return false;
}

enum step part_step(struct part *p, struct session *s, struct err *e) { return p->work->ops->step(p->work, s, e); }

bool part_end(struct part *p, struct daemon *d, struct buf *answer, struct err *e)
{
    struct outcome o = {0};
    const struct recorded_as as = {0};
    bool recorded;
    bool ok = p->work->ops->finish(p->work, &o, e) && record_work(d, p->work, &as, &o, &recorded, e);
    part_release(p);
    *answer = o.body;
    if (!ok) buf_release(answer);
    return ok;
}

void part_release(struct part *p)
{
    if (p->work) p->work->ops->free(p->work);
    p->work = NULL;
}
