/* GET /v1/recipes and GET /v1/recipes/{name}: plans, built in and stored. */
#include <string.h>

#include "handlers.h"
#include "page.h"
#include "recipe_plan.h"
#include "server/recipes.h"

static void put_members(jout *o, const struct json *from)
{
    static const char *const told[] = {"title", "paper", "what"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        const struct json *v = json_get(from, told[i]);
        if (v && v->type == JSON_STRING) jout_text(o, told[i], v->text);
    }
}

static bool put_plan(jout *o, const struct json *plan, bool whole, struct err *e)
{
    struct buf b = {0};
    uint8_t hash[SHA256_BYTES];
    char digest[DIGEST_TEXT];
    put_members(o, plan);
    json_write(plan, &b);
    bool ok = buf_ok(&b, e);
    if (ok) {
        sha256(b.data, b.len, hash);
        digest_text(hash, digest);
        jout_text(o, "hash", digest);
        if (whole) jout_raw(o, "plan", b.data);
    }
    buf_release(&b);
    return ok;
}

static void put_row(jout *o, const struct artefact_row *row)
{
    jout_text(o, "id", row->id);
    answer_stored(o, row);
}

static bool put_built_ins(struct call *c, jout *list, struct err *e)
{
    bool ok = true;
    for (size_t i = 0; ok && i < n_built_ins; i++) {
        const struct built_in *b = &built_ins[i];
        const struct json *plan = recipe_parse(b->text, (size_t)(b->end - b->text), c->arena, e);
        jout *o = jout_put_object(list, NULL);
        jout_text(o, "name", b->name);
        jout_bool(o, "built_in", true);
        ok = plan && put_plan(o, plan, false, e);
    }
    return ok;
}

static void one_stored(void *ctx, const struct artefact_row *row)
{
    struct page *p = ctx;
    struct arena a;
    struct err ignored;
    if (page_full(p, row->chain_seq)) return;
    jout *o = jout_put_object(p->list, NULL);
    jout_text(o, "name", row->name);
    jout_bool(o, "built_in", false);
    arena_init(&a, 0);
    put_members(o, json_parse(row->summary, strlen(row->summary), &a, &ignored));
    arena_release(&a);
    jout_text(o, "hash", row->hash);
    put_row(o, row);
}

bool api_recipes(struct call *c, struct reply *r, struct err *e)
{
    jout *o = jout_object();
    struct page p = {.list = jout_put_array(o, "recipes"), .limit = query_number(c, "limit", 50)};
    int64_t before = query_number(c, "before", 0);
    if ((before || put_built_ins(c, p.list, e)) &&
        ledger_artefacts(c->reader, "recipe", NULL, (int)p.limit + 1, before, one_stored, &p, e)) {
        page_next(o, &p);
        return answer_reply(r, o, e);
    }
    jout_free(o);
    return false;
}

bool api_recipe_get(struct call *c, struct reply *r, struct err *e)
{
    struct recipe_source s;
    if (!recipe_open(&s, c->reader, c->param[0], "name", e)) return false;
    const struct json *plan = recipe_parse(s.text, s.len, c->arena, e);
    jout *o = jout_object();
    jout_text(o, "name", s.built_in ? c->param[0] : s.row.name);
    jout_bool(o, "built_in", s.built_in);
    bool ok = plan && put_plan(o, plan, true, e);
    if (ok && !s.built_in) put_row(o, &s.row);
    recipe_close(&s);
    if (ok) return answer_reply(r, o, e);
    jout_free(o);
    return false;
}
