/* Plans of normalisation, as a tokenizer.json spells them out. */
#include <string.h>

#include "normalize.h"

static const char *const regexes[] = {
#define REGEX(regex) regex,
#include "normalize.def"
#undef REGEX
};

const char *normal_regex(unsigned char pattern) { return regexes[pattern]; }

bool normal_plan_add(struct normal_plan *p, enum normal_op op, const char *find, const char *put,
                     struct err *e)
{
    size_t find_len = strlen(find), put_len = strlen(put);
    if (p->n == NORMAL_STEPS)
        return err_set(e, ERR_UNSUPPORTED, "normalizer of more than %d steps", NORMAL_STEPS);
    if (find_len >= NORMAL_TEXT || put_len >= NORMAL_TEXT)
        return err_set(e, ERR_UNSUPPORTED, "normalizer with a text of %d bytes or more", NORMAL_TEXT);
    struct normal_step *s = &p->step[p->n++];
    *s = (struct normal_step){.op = (unsigned char)op, .find_len = (unsigned char)find_len,
                              .put_len = (unsigned char)put_len};
    memcpy(s->find, find, find_len);
    memcpy(s->put, put, put_len);
    return true;
}

bool normal_plan_has(const struct normal_plan *p, enum normal_op op)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->step[i].op == op) return true;
    return false;
}

static bool read_prepend(const struct json *o, struct normal_plan *p, struct err *e)
{
    const struct json *put = json_get(o, "prepend");
    if (!put || put->type != JSON_STRING)
        return err_set(e, ERR_CORRUPT, "normalizer Prepend without a text");
    return normal_plan_add(p, NORMAL_PREPEND, "", put->text, e);
}

static bool read_replace(const struct json *o, struct normal_plan *p, struct err *e)
{
    const struct json *put = json_get(o, "content"), *pattern = json_get(o, "pattern");
    const struct json *find = json_get(pattern, "String"), *regex = json_get(pattern, "Regex");
    if (!find) find = regex;
    if (!put || put->type != JSON_STRING || !find || find->type != JSON_STRING || find->len == 0)
        return err_set(e, ERR_CORRUPT, "normalizer Replace without a pattern or content");
    if (find != regex || !strpbrk(regex->text, "\\[](){}.*+?^$|"))
        return normal_plan_add(p, NORMAL_REPLACE, find->text, put->text, e);
    size_t i = 0, n = sizeof regexes / sizeof *regexes;
    while (i < n && strcmp(regexes[i], regex->text) != 0) i++;
    if (i == n)
        return err_set(e, ERR_UNSUPPORTED, "normalizer pattern is not one we have: %.200s", regex->text);
    if (!normal_plan_add(p, NORMAL_PATTERN, "", put->text, e)) return false;
    p->step[p->n - 1].pattern = (unsigned char)i;
    return true;
}

static bool read_strip(const struct json *o, struct normal_plan *p, struct err *e)
{
    if (!normal_plan_add(p, NORMAL_STRIP, "", "", e)) return false;
    p->step[p->n - 1].left = json_flag(o, "strip_left", true);
    p->step[p->n - 1].right = json_flag(o, "strip_right", true);
    return true;
}

/* Normalizers that need nothing but their name. */
static const struct plain {
    const char *type;
    enum normal_op op;
} plain[] = {
    {"NFC", NORMAL_NFC},   {"NFD", NORMAL_NFD},         {"NFKC", NORMAL_NFKC},
    {"NFKD", NORMAL_NFKD}, {"Lowercase", NORMAL_LOWER},
};

static bool read_normalizer(const struct json *o, struct normal_plan *p, struct err *e)
{
    const struct json *type = json_get(o, "type"), *list = json_get(o, "normalizers");
    if (!type || type->type != JSON_STRING)
        return err_set(e, ERR_CORRUPT, "a normalizer without a type");
    if (json_is(type, "Sequence")) {
        if (!list || list->type != JSON_ARRAY)
            return err_set(e, ERR_CORRUPT, "normalizer Sequence without normalizers");
        for (const struct json *c = list->child; c; c = c->next)
            if (!read_normalizer(c, p, e)) return false;
        return true;
    }
    if (json_is(type, "Prepend")) return read_prepend(o, p, e);
    if (json_is(type, "Replace")) return read_replace(o, p, e);
    if (json_is(type, "Strip")) return read_strip(o, p, e);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (json_is(type, plain[i].type)) return normal_plan_add(p, plain[i].op, "", "", e);
    return err_set(e, ERR_UNSUPPORTED, "tokenizer.json's normalizer %.64s is not one we have", type->text);
}

bool normal_plan_json(const struct json *normalizer, struct normal_plan *p, struct err *e)
{
    *p = (struct normal_plan){.n = 0};
    if (!normalizer || normalizer->type == JSON_NULL) return true;
    return read_normalizer(normalizer, p, e);
}
