/* A recipe's plan, read and checked: docs/recipes.md has the form.
 *
 * recipe_open finds a plan's text by name: built into the binary (server/recipes.h), else stored in the ledger as an
 * artefact of kind "recipe". recipe_read takes a plan that is well formed by its shape (Recipe of schema/types.json)
 * and the parameters given, and checks everything that can be without running: names, parameters and their ranges,
 * verbs and the right to them, references (to earlier steps only, so there is no cycle), and each request against its
 * verb's own shape, with what is still open let pass. recipe_request makes the body of one run of a step.
 *
 * Fields are named as in a request that holds the plan: recipe.steps[2].request.metric.
 *
 * Memory: all in the caller's arena, which the plan's tree must outlive. Any thread.
 */
#ifndef ENGRAM_RECIPE_PLAN_H
#define ENGRAM_RECIPE_PLAN_H

#include "ledger/ledger.h"
#include "recipe_refs.h"
#include "server/call.h"

enum { RECIPE_EACH_MOST = 1024 };

struct recipe_source {
    const char *text; /* built in, or of `stored` */
    size_t len;
    bool built_in;
    struct artefact_row row; /* where it is not built in */
    struct buf stored;
};
bool recipe_is_built_in(const char *name);
/* By name, or by id of a stored one. */
bool recipe_open(struct recipe_source *s, struct ledger_reader *r, const char *name, const char *field, struct err *e) MUST_CHECK;
void recipe_close(struct recipe_source *s);
/* Its text as a validated tree. */
const struct json *recipe_parse(const char *text, size_t len, struct arena *a, struct err *e) MUST_CHECK;

struct recipe_step {
    const char *id;
    const struct route *route;
    const struct json *json; /* RecipeStep */
};

struct recipe_plan {
    const struct json *json;
    const char *name;
    struct recipe_step *step; /* [n] */
    size_t n;
    struct json params;       /* every parameter's value */
    struct ref_step *known;   /* [n] for struct refs; used says whose answers are needed */
    uint8_t hash[SHA256_BYTES];
};

struct recipe_ask {
    const struct json *params; /* given by the caller */
    const char *view;          /* of steps that name none */
    enum level level;          /* of who asks */
};
bool recipe_read(struct recipe_plan *p, const struct json *plan, const struct recipe_ask *ask, struct arena *a, struct err *e) MUST_CHECK;

/* References as step i may use them; after the last (i = n) as `answer` may. */
struct refs recipe_refs(const struct recipe_plan *p, size_t i, bool live, struct arena *a);
/* The body of step i for one element (r->each), with the view. */
bool recipe_request(const struct recipe_plan *p, size_t i, const struct refs *r, const char *view, struct json *out, struct err *e) MUST_CHECK;
/* What for_each of step i lists, checked; *known false before it can be told. */
bool recipe_each(const struct recipe_plan *p, size_t i, const struct refs *r, struct json *out, bool *known, struct err *e) MUST_CHECK;
/* Is step i to run? */
bool recipe_when(const struct recipe_plan *p, size_t i, const struct refs *r, bool *run, struct err *e) MUST_CHECK;
/* Put "recipe.steps[i].request." before the error's field, and say which step. Always false. */
bool recipe_blame(const struct recipe_plan *p, size_t i, struct err *e);

#endif
