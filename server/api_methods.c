/* What may be named as a method, metric or site: read off the very shapes that requests are checked
 * against, so that the list cannot disagree with what is accepted. */
#include "answer.h"
#include "api.h"
#include "shapes.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *verb;
    const struct shape *shape;
    const char *field;
} lists[] = {
    {"edit", &shape_Edit, "method"},
    {"localize", &shape_Localize, "method"},
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

bool api_methods(struct call *c, struct reply *r, struct err *e)
{
    (void)c;
    jout *o = jout_object(), *list = jout_put_array(o, "methods");
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const struct shape *choice = member(lists[i].shape, lists[i].field);
        for (size_t k = 0; k < choice->n_choices_shown; k++) {
            jout *m = jout_put_object(list, NULL);
            jout_text(m, "verb", lists[i].verb);
            jout_text(m, "method", choice->choices[k]);
        }
    }
    return answer_reply(r, o, e);
}
