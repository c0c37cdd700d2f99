/* POST /v1/recipes: a plan's steps, one after the other, each a part (server/part.h) of this work.
 *
 * The view is pinned when the request comes. A step's answer is kept, as a tree, when somebody refers to it, and
 * counted; all others are in the log alone. */
#include <stdio.h>
#include <string.h>

#include "core/session.h"
#include "handlers.h"
#include "look.h"
#include "recipe_plan.h"
#include "server/clock.h"
#include "server/part.h"

struct ran { /* of one step */
    struct arena arena;
    struct lease kept;    /* of the answer… */
    struct buf answers;   /* …as text while it comes: one, or with for_each those so far, with commas between */
    struct json tree;     /* …and parsed */
    jout *runs, *warnings; /* arrays */
    size_t cached;
    int64_t us;
    bool done, skipped;
};

struct recipe_work {
    struct look look;
    struct recipe_source source;
    struct recipe_plan plan;
    struct principal who;
    bool no_cache, dry;
    const char *save;      /* or NULL */
    char view[NAME_TEXT];  /* as steps name it: pinned */
    struct artefact made;
    struct buf content, summary;
    struct ledger_reader *reader; /* the compute thread's, from the first step on */
    struct ran *ran;       /* [plan.n] */
    size_t at;             /* the step that runs */
    struct arena scratch;  /* of the step's request */
    struct json list;      /* of its for_each… */
    const struct json *each; /* …and the element */
    bool begun, listed;    /* the step's `when` and list are known; it has a list */
    struct part part;
    int64_t part_us;       /* when it began */
};

static struct recipe_work *of(struct work *w) { return (struct recipe_work *)w; }

static void ran_release(struct ran *n)
{
    jout_free(n->runs);
    jout_free(n->warnings);
    buf_release(&n->answers);
    arena_release(&n->arena);
    lease_give(&n->kept);
}

static void recipe_work_free(struct work *w)
{
    struct recipe_work *r = of(w);
    part_release(&r->part);
    for (size_t i = 0; r->ran && i < r->plan.n; i++) ran_release(&r->ran[i]);
    if (r->reader) ledger_reader_close(r->reader);
    recipe_close(&r->source);
    buf_release(&r->content);
    buf_release(&r->summary);
    arena_release(&r->scratch);
    look_release(&r->look);
    mem_drop(r);
}

/* ---- one step -------------------------------------------------------------------------------------------- */

static struct refs refs_of(struct recipe_work *r)
{
    struct refs refs = recipe_refs(&r->plan, r->at, true, &r->scratch);
    refs.each = r->each;
    return refs;
}

/* Is it to run, and for what? */
static bool begin_step(struct recipe_work *r, struct err *e)
{
    bool run, known;
    struct ran *n = &r->ran[r->at];
    arena_release(&r->scratch);
    arena_init(&r->scratch, 0);
    struct refs refs = refs_of(r);
    r->begun = true;
    r->listed = refs.in_each;
    r->each = NULL;
    n->runs = jout_array();
    n->warnings = jout_array();
    if (!recipe_when(&r->plan, r->at, &refs, &run, e)) return recipe_blame(&r->plan, r->at, e);
    n->skipped = !run;
    if (!run || !r->listed) return true;
    if (!recipe_each(&r->plan, r->at, &refs, &r->list, &known, e)) return recipe_blame(&r->plan, r->at, e);
    r->each = r->list.child;
    return true;
}

static bool begin_part(struct recipe_work *r, struct err *e)
{
    struct arena a;
    struct json body;
    struct refs refs = refs_of(r);
    const struct part_ask ask = {.daemon = r->look.work.daemon, .who = r->who, .served = r->look.work.served, .reader = r->reader,
                                 .job_id = r->look.work.job_id, .no_cache = r->no_cache};
    arena_init(&a, 0);
    refs.arena = &a;
    r->part_us = monotonic_us();
    bool ok = recipe_request(&r->plan, r->at, &refs, r->view, &body, e) &&
              part_begin(&r->part, r->plan.step[r->at].route, &ask, &body, &a, e);
    arena_release(&a);
    return ok || recipe_blame(&r->plan, r->at, e);
}

static void note_run(struct ran *n, const struct json *answer)
{
    static const char *const names[] = {"run", "edit"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const struct json *v = json_get(answer, names[i]);
        if (!v || v->type != JSON_STRING) continue;
        jout_text(n->runs, NULL, v->text);
        break;
    }
    n->cached += json_flag(answer, "cached", false);
    const struct json *list = json_get(answer, "warnings");
    for (const struct json *v = list ? list->child : NULL; v; v = v->next) {
        struct buf b = {0};
        json_write(v, &b);
        if (b.data && !b.failed) jout_raw(n->warnings, NULL, b.data);
        buf_release(&b);
    }
}

/* What the answer takes while it is kept: its text, its tree, and its text in our answer. */
static bool take_room(struct recipe_work *r, struct ran *n, const struct buf *answer, struct err *e)
{
    struct plan plan = {0};
    lease_give(&n->kept);
    plan_add(&plan, NEED_ANSWER, plan_times(plan_sum(n->answers.cap, answer->len), 4));
    plan_add(&plan, NEED_ANSWER, plan_times(plan_sum(json_bytes(n->answers.data ? n->answers.data : "", n->answers.len),
                                                     json_bytes(answer->data, answer->len)), 2));
    return daemon_lease(r->look.work.daemon, &plan, &n->kept, e);
}

static bool keep_answer(struct recipe_work *r, struct buf *answer, struct err *e)
{
    struct ran *n = &r->ran[r->at];
    struct arena a;
    arena_init(&a, 0);
    const struct json *v = json_parse(answer->data, answer->len, &a, e);
    bool ok = v != NULL;
    if (ok) note_run(n, v);
    arena_release(&a);
    if (!ok || !r->plan.known[r->at].used) return ok;
    if (!take_room(r, n, answer, e)) return false;
    if (n->answers.len) buf_text(&n->answers, ",");
    buf_put(&n->answers, answer->data, answer->len);
    return buf_ok(&n->answers, e);
}

/* The whole answer as what later references find. */
static bool end_step(struct recipe_work *r, struct err *e)
{
    struct ran *n = &r->ran[r->at];
    struct ref_step *known = &r->plan.known[r->at];
    n->done = true;
    known->skipped = n->skipped;
    if (!n->skipped && known->used) {
        struct buf text = {0};
        buf_printf(&text, "%s%s%s", r->listed ? "[" : "", n->answers.data ? n->answers.data : "", r->listed ? "]" : "");
        const struct json *v = buf_ok(&text, e) ? json_parse(text.data, text.len, &n->arena, e) : NULL;
        buf_release(&text);
        buf_release(&n->answers);
        if (!v) return false;
        known->answer = v;
    }
    r->begun = false;
    r->at++;
    r->look.work.done = (int64_t)r->at;
    return true;
}

static bool end_part(struct recipe_work *r, struct err *e)
{
    struct buf answer = {0};
    bool ok = part_end(&r->part, r->look.work.daemon, &answer, e) && keep_answer(r, &answer, e);
    buf_release(&answer);
    r->ran[r->at].us += monotonic_us() - r->part_us;
    if (!ok) return recipe_blame(&r->plan, r->at, e);
    if (r->listed) r->each = r->each->next;
    return (r->listed && r->each) || end_step(r, e);
}

/* A turn: a step begins, or a part of it does, or goes on, or ends. */
static bool turn(struct recipe_work *r, struct session *s, struct err *e)
{
    if (!r->begun) {
        if (!begin_step(r, e)) return false;
        if (r->ran[r->at].skipped || (r->listed && !r->each)) return end_step(r, e);
    }
    if (!r->part.work) {
        session_trim(s); /* plans count the scratch of one work at a time */
        return begin_part(r, e);
    }
    switch (part_step(&r->part, s, e)) {
    case STEP_MORE: return true;
    case STEP_DONE: return end_part(r, e);
    default: return recipe_blame(&r->plan, r->at, e);
    }
}

static enum step recipe_work_step(struct work *w, struct session *s, struct err *e)
{
    struct recipe_work *r = of(w);
    if (r->dry) return STEP_DONE;
    if (!r->reader) r->reader = ledger_reader_open(daemon_data(w->daemon), e);
    if (!r->reader || !turn(r, s, e)) return STEP_FAIL;
    return r->at == r->plan.n ? STEP_DONE : STEP_MORE;
}

/* ---- the answer ------------------------------------------------------------------------------------------ */

static void put_text(jout *o, const char *key, const struct json *v)
{
    if (v) jout_text(o, key, v->text);
}

static void put_used(const struct recipe_work *r, jout *root)
{
    char digest[DIGEST_TEXT];
    jout *o = jout_put_object(root, "recipe");
    jout_text(o, "name", r->plan.name);
    put_text(o, "title", json_get(r->plan.json, "title"));
    put_text(o, "paper", json_get(r->plan.json, "paper"));
    digest_text(r->plan.hash, digest);
    jout_text(o, "hash", digest);
}

static bool put_tree(jout *o, const char *key, const struct json *v, struct err *e)
{
    struct buf b = {0};
    json_write(v, &b);
    bool ok = buf_ok(&b, e);
    if (ok) jout_raw(o, key, b.data);
    buf_release(&b);
    return ok;
}

/* Its arrays are given away. */
static void put_ran(const struct recipe_work *r, size_t i, jout *list)
{
    struct ran *n = &r->ran[i];
    jout *o = jout_put_object(list, NULL);
    jout_text(o, "id", r->plan.step[i].id);
    put_text(o, "verb", json_get(r->plan.step[i].json, "verb"));
    if (n->skipped) {
        jout_bool(o, "skipped", true);
        return;
    }
    jout_add(o, "runs", n->runs);
    jout_f64(o, "seconds", (double)n->us / 1e6);
    if (n->cached) jout_int(o, "cached", (int64_t)n->cached);
    jout_add(o, "warnings", n->warnings);
    n->runs = n->warnings = NULL;
}

/* What a step's answer turned out not to have (members may depend on its request) is null, with a warning: the steps
 * are done, and in the log. */
static bool put_answer(struct recipe_work *r, jout *root, struct err *e)
{
    jout *o = jout_put_object(root, "answer");
    struct refs refs = recipe_refs(&r->plan, r->plan.n, true, &r->look.arena);
    for (const struct json *m = json_get(r->plan.json, "answer")->child; m; m = m->next) {
        struct json v;
        struct err why = {0};
        if (refs_resolve(&refs, m, m->key, &v, &why)) {
            if (!put_tree(o, m->key, &v, e)) return false;
        } else if (why.code == ERR_UNPROCESSABLE) {
            look_warn(&r->look, "absent", "answer.%.64s: %s", m->key, why.text);
            jout_null(o, m->key);
        } else {
            *e = why;
            return false;
        }
    }
    return true;
}

static void put_checks(const struct recipe_work *r, jout *root)
{
    size_t skipped = 0, cached = 0;
    for (size_t i = 0; i < r->plan.n; i++) skipped += r->ran[i].skipped, cached += r->ran[i].cached;
    jout *checks = jout_put_object(root, "checks");
    jout_int(checks, "steps", (int64_t)r->plan.n);
    jout_int(checks, "skipped", (int64_t)skipped);
    jout_int(checks, "cached", (int64_t)cached);
    jout_f64(jout_put_object(root, "cost"), "seconds", (double)(monotonic_us() - r->look.work.started_us) / 1e6);
}

/* Given up half way: what is done stays in the log, under these runs. */
static bool recipe_work_partial(struct work *w, struct buf *out)
{
    struct recipe_work *r = of(w);
    struct err e = {0};
    jout *root = jout_object(), *list = jout_put_array(root, "steps");
    for (size_t i = 0; i < r->plan.n && r->ran[i].done; i++) put_ran(r, i, list);
    bool ok = jout_print(root, out, &e);
    jout_free(root);
    return ok;
}

static bool make_artefact(struct recipe_work *r, struct err *e)
{
    static const char *const told[] = {"title", "paper", "what"};
    jout *o = jout_object();
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) put_text(o, told[i], json_get(r->plan.json, told[i]));
    bool ok = jout_print(o, &r->summary, e);
    jout_free(o);
    json_write(r->plan.json, &r->content);
    r->made = (struct artefact){.kind = "recipe", .name = r->save, .summary = r->summary.data, .content = r->content.data, .len = r->content.len};
    ledger_new_id("recipe", r->made.id);
    return ok && buf_ok(&r->content, e);
}

/* The bodies as far as they are known. */
static bool put_requests(struct recipe_work *r, size_t i, jout *o, struct err *e)
{
    struct refs refs = recipe_refs(&r->plan, i, false, &r->look.arena);
    struct json list = {0}, body;
    bool known = false, ok;
    jout *bodies = jout_put_array(o, "requests");
    if (refs.in_each && !recipe_each(&r->plan, i, &refs, &list, &known, e)) return false;
    refs.each = known ? list.child : NULL;
    if (known && !refs.each) return true;
    do {
        ok = recipe_request(&r->plan, i, &refs, r->view, &body, e) && put_tree(bodies, NULL, &body, e);
        if (refs.each) refs.each = refs.each->next;
    } while (ok && refs.each);
    return ok;
}

static bool tell_plan(struct recipe_work *r, struct outcome *o, struct err *e)
{
    jout *root = jout_object();
    bool ok = true;
    jout_bool(root, "dry_run", true);
    answer_view(root, "view", &r->look.view);
    put_used(r, root);
    ok = put_tree(root, "params", &r->plan.params, e);
    jout *steps = jout_put_array(root, "steps");
    for (size_t i = 0; ok && i < r->plan.n; i++) {
        jout *one = jout_put_object(steps, NULL);
        jout_text(one, "id", r->plan.step[i].id);
        put_text(one, "verb", json_get(r->plan.step[i].json, "verb"));
        ok = put_requests(r, i, one, e);
    }
    put_checks(r, root);
    (void)jout_put_array(root, "warnings");
    o->status = 200;
    o->record = RECORD_NOTHING;
    ok = ok && jout_print(root, &o->body, e);
    jout_free(root);
    return ok;
}

static bool recipe_work_finish(struct work *w, struct outcome *o, struct err *e)
{
    struct recipe_work *r = of(w);
    if (r->dry) return tell_plan(r, o, e);
    jout *root = look_open(&r->look);
    put_used(r, root);
    bool ok = put_tree(root, "params", &r->plan.params, e) && put_answer(r, root, e) && (!r->save || make_artefact(r, e));
    if (!ok) return jout_free(root), false;
    jout *steps = jout_put_array(root, "steps");
    for (size_t i = 0; i < r->plan.n; i++) put_ran(r, i, steps);
    if (r->save) jout_text(root, "saved", r->made.id);
    put_checks(r, root);
    if (!look_close(&r->look, root, o, e)) return false;
    if (r->save) o->run.artefact = &r->made;
    return true;
}

static const struct work_ops ops = {
    .kind = "recipe", .unit = "steps",
    .step = recipe_work_step, .finish = recipe_work_finish, .partial = recipe_work_partial, .free = recipe_work_free,
};

/* ---- the request ----------------------------------------------------------------------------------------- */

static const struct json *find_plan(struct recipe_work *r, struct call *c, struct err *e)
{
    const struct json *asked = json_get(r->look.request, "recipe");
    if (asked->type == JSON_OBJECT) return asked;
    if (!recipe_open(&r->source, c->reader, asked->text, "recipe", e)) return NULL;
    return recipe_parse(r->source.text, r->source.len, &r->look.arena, e);
}

static bool read_save(struct recipe_work *r, struct err *e)
{
    const struct json *save = json_get(r->look.request, "save");
    if (!save) return true;
    r->save = save->text;
    if (r->dry) return err_field(e, ERR_INVALID, "save", "a dry run stores nothing");
    if (recipe_is_built_in(r->save)) return err_field(e, ERR_INVALID, "save", "\"%.64s\" is a built-in recipe", r->save);
    return ledger_artefact_name("recipe", r->save, "save", e);
}

/* Steps name what `view` means now, whatever its branch comes to meanwhile. */
static void pin_view(struct recipe_work *r)
{
    const struct resolved *v = &r->look.view;
    (void)snprintf(r->view, sizeof r->view, "%s", strcmp(v->name, "base") == 0 || !v->revision[0] ? v->name : v->revision);
}

static bool lease_plan(struct recipe_work *r, struct err *e)
{
    struct plan plan = {0};
    /* Bodies that are checked or told, and the answer without what steps say, which is counted as it comes. */
    plan_add(&plan, NEED_REQUEST, plan_times(plan_sum(r->look.arena.used_bytes, r->source.len), 4));
    return look_lease(&r->look, &plan, e);
}

static bool prepare(struct recipe_work *r, struct call *c, struct err *e)
{
    arena_init(&r->scratch, 0);
    if (!look_begin(&r->look, c, &ops, e)) return false;
    r->dry = json_flag(r->look.request, "dry_run", false);
    r->who = c->who;
    r->no_cache = c->no_cache;
    pin_view(r);
    const struct json *plan = find_plan(r, c, e);
    struct recipe_ask ask = {.params = json_get(r->look.request, "params"), .view = r->view, .level = c->who.level};
    if (!plan || !read_save(r, e) || !recipe_read(&r->plan, plan, &ask, &r->look.arena, e) || !lease_plan(r, e)) return false;
    r->ran = arena_take(&r->look.arena, r->plan.n, sizeof *r->ran, e);
    for (size_t i = 0; r->ran && i < r->plan.n; i++) arena_init(&r->ran[i].arena, 0);
    r->look.work.total = (int64_t)r->plan.n;
    return r->ran != NULL;
}

struct work *api_recipe_run(struct call *c, struct err *e)
{
    struct recipe_work *r = mem_new(sizeof *r);
    if (prepare(r, c, e)) return &r->look.work;
    recipe_work_free(&r->look.work);
    return NULL;
}
