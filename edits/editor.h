/* An editor turns facts into a delta. Every method is one row of edits/method.def and one file;
 * all are driven through this interface.
 *
 * An editor works on private memory: it reads the parent view and produces a delta; nothing a
 * reader can see changes. It sees prompts and targets to train on, never paraphrases or locality
 * prompts (those are evaluation only), so its delta cannot depend on them.
 *
 * Parameters are a table per method (name, kind, default, range, help) that validates requests,
 * prints /v1/methods and fills struct edit_params. NaN stands for "auto": the method resolves it
 * and reports the resolved value.
 *
 * One thread. Same parent, facts, parameters, seed and thread count: the same bytes.
 */
#ifndef ENGRAM_EDITOR_H
#define ENGRAM_EDITOR_H

#include "core/delta.h"
#include "core/plan.h"
#include "core/session.h"
#include "core/base/step.h"
#include "core/view.h"

struct example { /* one text to train: prompt, then target; every target token is scored */
    const uint32_t *ids;
    uint32_t n, n_prompt;
};

enum param_kind { PARAM_INT, PARAM_REAL, PARAM_BOOL };

struct param {
    const char *name;
    enum param_kind kind;
    double initial; /* NaN: auto */
    double least, most;
    const char *help;
};

enum { MAX_PARAMS = 16 };
struct edit_params {
    double value[MAX_PARAMS]; /* in the method's table order */
};

struct edit_request {
    struct view *parent;
    const struct example *example; /* the facts to learn, null edits left out */
    size_t n;
    struct edit_params params;
    uint64_t seed;
};

struct edit_outcome {
    struct delta *delta;         /* owned by the editor until taken */
    struct edit_params resolved;
    uint32_t epochs;
    size_t updates;
    double final_loss;
};

struct editor;
struct method {
    const char *name, *summary, *source; /* source: the paper */
    const struct param *params;
    size_t n_params;
    /* From the request's first step to its delta; and what that delta changes, bytes of float32. */
    bool (*plan)(const struct edit_request *q, int threads, struct plan *p, size_t *changed, struct err *e);
    struct editor *(*new)(const struct edit_request *q, struct err *e);
    enum step (*step)(struct editor *ed, struct session *s, struct err *e);
    void (*progress)(const struct editor *ed, size_t *done, size_t *total);
    const struct edit_outcome *(*outcome)(const struct editor *ed);
    void (*free)(struct editor *ed);
};

/* Every method takes a seed besides its own parameters. */
extern const struct param method_seed;
const struct method *method_at(size_t i); /* NULL past the end */
const struct method *method_find(const char *name);
size_t method_param(const struct method *m, const char *name); /* n_params when unknown */
/* Defaults, all of them. */
struct edit_params method_defaults(const struct method *m);

#endif
