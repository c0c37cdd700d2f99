#include "groups.h"

#include "core/text/strmap.h"

bool groups_read(const struct json *first, size_t n, bool by_subject, uint32_t *group, size_t *n_groups, struct err *e)
{
    struct strmap seen;
    const struct json *v = first;
    *n_groups = 0;
    if (!strmap_init(&seen, n + 1, e)) return false;
    for (size_t i = 0; i < n; i++, v = v->next) {
        const struct json *name = json_get(v, "group");
        uint32_t at = (uint32_t)*n_groups;
        if (!name && by_subject) name = json_get(v, "subject");
        if (!name || !strmap_get(&seen, name->text, name->len, &at)) ++*n_groups;
        if (name) strmap_put(&seen, name->text, name->len, at);
        group[i] = at;
    }
    strmap_release(&seen);
    return true;
}
