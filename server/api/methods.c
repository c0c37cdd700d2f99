/* What may be named as a method, metric or site: read off the very shapes that requests are checked
 * against, so that the list cannot disagree with what is accepted. An edit method also shows its
 * parameter table (edits/editor.h), the one its requests are checked against. */
#include "answer.h"
#include "handlers.h"
#include "edits/editor.h"
#include "probes/localizer.h"
#include "shapes.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static const struct {
    const char *verb;
    const struct shape *shape;
    const char *field; /* NULL: the shape itself */
} lists[] = {
    {"edit", &shape_Edit, "method"},
    {"localize", &shape_Localizer, NULL},
    {"patch", &shape_Patch, "site"},
    {"metric", &shape_Metric, "kind"},
};

static const struct shape *member(const struct shape *s, const char *name)
{
    size_t i = 0;
    while (i < s->n_fields && strcmp(s->fields[i].name, name) != 0) i++;
    assert(i < s->n_fields);
    return s->fields[i].shape;
}

static void put_param(jout *list, const struct param *p)
{
    static const char *const types[] = {[PARAM_INT] = "int", [PARAM_REAL] = "number", [PARAM_BOOL] = "bool"};
    jout *o = jout_put_object(list, NULL);
    jout_text(o, "name", p->name);
    jout_text(o, "type", types[p->kind]);
    if (isnan(p->initial)) jout_text(o, "default", "auto");
    else if (p->kind == PARAM_BOOL) jout_bool(o, "default", p->initial != 0);
    else jout_f64(o, "default", p->initial);
    if (p->kind != PARAM_BOOL) {
        jout_f64(o, "min", p->least);
        jout_f64(o, "max", p->most);
    }
    jout_text(o, "description", p->help);
}

static void put_editor(jout *o, const char *name)
{
    const struct method *method = method_find(name);
    assert(method);
    jout_text(o, "summary", method->summary);
    jout_text(o, "source", method->source);
    jout *list = jout_put_array(o, "params");
    for (size_t i = 0; i < method->n_params; i++) put_param(list, &method->params[i]);
    put_param(list, &method_seed);
}

static void put_localizer(jout *o, const char *word)
{
    enum localizer_kind kind;
    if (!localizer_parse(word, &kind)) return;
    jout_text(o, "summary", localizer_info(kind)->summary);
    jout_text(o, "source", localizer_info(kind)->source);
    jout *list = jout_put_array(o, "params");
    for (int i = 0; i < LOCALIZER_PARAMS; i++) {
        const struct localizer_param_info *p = localizer_param_info((enum localizer_param)i);
        const struct param row = {p->name, p->whole ? PARAM_INT : PARAM_REAL, p->initial, p->least, p->most, p->help};
        if (p->method == kind) put_param(list, &row);
    }
}

bool api_methods(struct call *c, struct reply *r, struct err *e)
{
    (void)c;
    jout *o = jout_object(), *list = jout_put_array(o, "methods");
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const struct shape *choice = lists[i].field ? member(lists[i].shape, lists[i].field) : lists[i].shape;
        for (size_t k = 0; k < choice->n_choices_shown; k++) {
            jout *m = jout_put_object(list, NULL);
            jout_text(m, "verb", lists[i].verb);
            jout_text(m, "method", choice->choices[k]);
            if (i == 0) put_editor(m, choice->choices[k]);
            if (i == 1) put_localizer(m, choice->choices[k]);
        }
    }
    return answer_reply(r, o, e);
}
